//! What a watch can be asked for, one by one.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::domain::{
    Error, Reason, Revision, StateId,
    limits::HISTORY_WINDOW,
    state::Op,
    task::{Event, Status, Task},
};

use super::{
    super::{
        TaskFilter,
        token::ResumeToken,
        watch::{
            Frame, KeyFilter, ResetReason, Start, StateItem, StateWatch, TaskItem, TaskWatch,
            WatchOptions, WatchStates, WatchTasks,
        },
    },
    Sandbox, Uid, op, put, succeeded, task, token,
};

fn states(names: &[&str], options: WatchOptions) -> WatchStates {
    WatchStates {
        states: names.iter().map(|name| StateId::trusted(name)).collect(),
        options,
        ..WatchStates::default()
    }
}

fn tasks(filter: TaskFilter) -> WatchTasks {
    WatchTasks {
        filter,
        ..WatchTasks::default()
    }
}

/// Frames up to the first complete view; the snapshot's items.
async fn synced(watch: &mut StateWatch) -> Vec<StateItem> {
    let mut held = Vec::new();
    loop {
        match watch.next().await.unwrap().unwrap() {
            Frame::Snapshot(items) => held.extend(items),
            Frame::Synced(_) => return held,
            Frame::Opened { .. } | Frame::Reset { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn delta(watch: &mut StateWatch) -> (Vec<StateItem>, Option<Revision>, u64) {
    match watch.next().await.unwrap().unwrap() {
        Frame::Delta {
            items,
            position,
            folded,
            ..
        } => (items, position, folded),
        other => panic!("{other:?}"),
    }
}

/// What was told of tasks up to the first complete view, by id.
async fn seen(watch: &mut TaskWatch) -> Vec<String> {
    let mut ids = Vec::new();
    loop {
        match watch.next().await.unwrap().unwrap() {
            Frame::Snapshot(items) => ids.extend(items.iter().map(id)),
            Frame::Synced(_) => {
                ids.sort();
                return ids;
            }
            _ => {}
        }
    }
}

fn id(item: &TaskItem) -> String {
    match item {
        TaskItem::Changed(id, ..) | TaskItem::NoLongerMatches(id, _) | TaskItem::Deleted(id, _) => {
            id.to_string()
        }
    }
}

#[tokio::test]
async fn sixty_four_states_share_one_stream_and_sixty_five_do_not() {
    let sandbox = Sandbox::new().await;
    let names: Vec<_> = (0..65).map(|n| format!("s{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    sandbox.update("s7", vec![put("k", 1)]).await.unwrap();
    let request = states(&names[..64], WatchOptions::default());
    let mut watch = sandbox.namespace.watch_states(request).await.unwrap();
    let held = synced(&mut watch).await;
    assert_eq!((held.len(), held[0].target), (1, 7));
    for (target, name) in (0..).zip(&names[..64]) {
        sandbox.update(name, vec![put("k", 2)]).await.unwrap();
        let (items, position, folded) = delta(&mut watch).await;
        assert_eq!((items.len(), items[0].target, folded), (1, target, 1));
        assert_eq!(position, Some(sandbox.namespace.head()));
    }
    let request = states(&names, WatchOptions::default());
    let error = sandbox.namespace.watch_states(request).await.unwrap_err();
    assert_eq!(error.reason, Reason::FieldInvalid);
}

#[tokio::test(start_paused = true)]
async fn deltas_keep_the_pace_that_was_asked_for_and_lose_no_last_value() {
    let sandbox = Sandbox::new().await;
    let interval = Duration::from_secs(1);
    let options = WatchOptions {
        min_delta_interval: interval,
        ..WatchOptions::default()
    };
    let request = states(&["s"], options);
    let mut watch = sandbox.namespace.watch_states(request).await.unwrap();
    synced(&mut watch).await;
    let namespace = sandbox.namespace.clone();
    let writer = tokio::spawn(async move {
        for number in 0..=50 {
            sandbox.update("s", vec![put("n", number)]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        sandbox
    });
    let (mut times, mut commits, mut last) = (Vec::new(), 0, Revision::ZERO);
    while commits < 51 {
        let (items, position, folded) = delta(&mut watch).await;
        assert_eq!(items.len(), 1);
        times.push(Instant::now());
        commits += folded;
        last = position.unwrap();
    }
    assert_eq!((commits, last), (51, namespace.head()));
    let mut waits = times.windows(2).map(|pair| pair[1] - pair[0]);
    assert!(waits.all(|wait| wait >= interval), "{times:?}");
    assert!((5..=7).contains(&times.len()), "{}", times.len());
    drop(writer.await);
}

#[tokio::test]
async fn updates_only_begins_with_what_changes_from_now_on() {
    let sandbox = Sandbox::new().await;
    sandbox.update("s", vec![put("old", 1)]).await.unwrap();
    let options = WatchOptions {
        updates_only: true,
        ..WatchOptions::default()
    };
    let request = states(&["s"], options);
    let mut watch = sandbox.namespace.watch_states(request).await.unwrap();
    let head = sandbox.namespace.head();
    assert!(matches!(
        watch.next().await,
        Some(Ok(Frame::Opened { start: Start::Live, position, .. })) if position == head
    ));
    assert_eq!(watch.next().await, Some(Ok(Frame::Synced(head))));
    sandbox.update("s", vec![put("new", 1)]).await.unwrap();
    let (items, ..) = delta(&mut watch).await;
    assert_eq!((items.len(), &*items[0].key), (1, "new"));
}

/// Read-your-writes: the token of a write that this server has not folded yet.
#[tokio::test(start_paused = true)]
async fn a_watch_waits_for_the_position_it_is_to_begin_from() {
    let sandbox = Sandbox::new().await;
    let min_position = sandbox.namespace.token(sandbox.namespace.head().next());
    let options = WatchOptions {
        min_position,
        ..WatchOptions::default()
    };
    let opening = {
        let namespace = sandbox.namespace.clone();
        let request = states(&["s"], options.clone());
        tokio::spawn(async move { namespace.watch_states(request).await })
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!opening.is_finished());
    sandbox.update("s", vec![put("mine", 1)]).await.unwrap();
    let mut watch = opening.await.unwrap().unwrap();
    assert_eq!(&*synced(&mut watch).await[0].key, "mine");

    // One that never comes is not waited for for ever, and one of another life not at all.
    let never = sandbox.namespace.token(Revision(1_000_000));
    let foreign = ResumeToken {
        epoch: Uid(99),
        revision: Revision(1),
        filter: None,
    };
    for (min_position, expected) in [
        (never, Reason::NotReady),
        (foreign.encode(), Reason::EpochChanged),
    ] {
        let options = WatchOptions {
            min_position,
            ..WatchOptions::default()
        };
        let request = states(&["s"], options);
        let error: Error = sandbox.namespace.watch_states(request).await.unwrap_err();
        assert_eq!(error.reason, expected);
    }
}

#[tokio::test]
async fn values_above_the_inline_limit_come_as_stubs_and_small_ones_do_not() {
    let sandbox = Sandbox::new().await;
    let text = |length| {
        let kind = super::v1::value::Kind::Text("x".repeat(length));
        let value = super::v1::Value { kind: Some(kind) };
        Op::Put(prost::Message::encode_to_vec(&value).into())
    };
    let ops = vec![
        op(1, "small", text(10)),
        op(1, "medium", text(1_000)),
        op(1, "large", text(70 << 10)),
    ];
    sandbox.update("s", ops).await.unwrap();
    // More than 64 KiB comes along only where it is asked for.
    for (limit, expected) in [
        (Some(100), [true, true, false]),
        (None, [true, false, false]),
        (Some(1 << 20), [false, false, false]),
    ] {
        let request = WatchStates {
            inline_limit: limit,
            ..states(&["s"], WatchOptions::default())
        };
        let mut watch = sandbox.namespace.watch_states(request).await.unwrap();
        let held = synced(&mut watch).await;
        let stubs: BTreeMap<_, _> = held.iter().map(|item| (&*item.key, item.stub)).collect();
        let stubs = ["large", "medium", "small"].map(|key| stubs[key]);
        assert_eq!(stubs, expected, "{limit:?}");
    }
}

#[tokio::test]
async fn prefixes_and_exact_keys_also_hold_for_what_is_resumed_and_deleted() {
    let sandbox = Sandbox::new().await;
    let all = ["a", "ab", "p.1", "p.2", "q"];
    let ops = all.iter().map(|key| put(key, 1)).collect();
    sandbox.update("s", ops).await.unwrap();
    let keys = KeyFilter {
        exact: vec!["a".into()],
        prefixes: vec!["p.".into()],
    };
    let request = |options| WatchStates {
        keys: keys.clone(),
        ..states(&["s"], options)
    };
    let mut watch = sandbox
        .namespace
        .watch_states(request(WatchOptions::default()))
        .await
        .unwrap();
    let keys_of = |items: &[StateItem]| -> Vec<_> {
        let mut keys: Vec<_> = items.iter().map(|item| item.key.to_string()).collect();
        keys.sort();
        keys
    };
    assert_eq!(keys_of(&synced(&mut watch).await), ["a", "p.1", "p.2"]);
    let options = WatchOptions {
        resume_token: watch.token(sandbox.namespace.head()),
        ..WatchOptions::default()
    };
    sandbox
        .namespace
        .delete_state(StateId::trusted("s"), None)
        .await
        .unwrap();
    let mut resumed = sandbox
        .namespace
        .watch_states(request(options))
        .await
        .unwrap();
    assert!(matches!(
        resumed.next().await,
        Some(Ok(Frame::Opened {
            start: Start::Resumed,
            ..
        }))
    ));
    let (items, ..) = delta(&mut resumed).await;
    assert_eq!(keys_of(&items), ["a", "p.1", "p.2"]);
    assert!(items.iter().all(|item| item.value.is_none()));
}

#[tokio::test]
async fn a_delta_of_many_parts_has_one_base_and_its_position_on_the_last() {
    let sandbox = Sandbox::new().await;
    let request = states(&["s"], WatchOptions::default());
    let mut watch = sandbox.namespace.watch_states(request).await.unwrap();
    synced(&mut watch).await;
    let base = sandbox.namespace.head();
    let kind = super::v1::value::Kind::Text("x".repeat(60_000));
    let value = super::v1::Value { kind: Some(kind) };
    let value: bytes::Bytes = prost::Message::encode_to_vec(&value).into();
    for number in 0..40 {
        let ops = vec![op(1, &format!("k{number}"), Op::Put(value.clone()))];
        sandbox.update("s", ops).await.unwrap();
    }
    let mut parts = 0;
    let mut keys = 0;
    loop {
        let frame = watch.next().await.unwrap().unwrap();
        let Frame::Delta {
            base: found,
            position,
            items,
            more,
            folded,
        } = frame
        else {
            panic!("{frame:?}")
        };
        assert_eq!((found, more), (base, position.is_none()));
        parts += 1;
        keys += items.len();
        if !more {
            assert_eq!((position, folded), (Some(sandbox.namespace.head()), 40));
            break;
        }
    }
    assert!(parts >= 3, "{parts}");
    assert_eq!(keys, 40);
}

#[tokio::test(start_paused = true)]
async fn a_token_from_before_forgotten_deletions_is_answered_with_a_reset() {
    let sandbox = Sandbox::new().await;
    sandbox.update("s", vec![put("a", 1)]).await.unwrap();
    sandbox.update("gone", vec![put("a", 1)]).await.unwrap();
    let request = states(&["s"], WatchOptions::default());
    let watch = sandbox.namespace.watch_states(request).await.unwrap();
    let resume_token = watch.token(sandbox.namespace.head());
    drop(watch);
    let gone = StateId::trusted("gone");
    sandbox.namespace.delete_state(gone, None).await.unwrap();
    let forgotten = sandbox.namespace.head();
    tokio::time::sleep(HISTORY_WINDOW + Duration::from_secs(30)).await;
    sandbox.until(|mirror| mirror.horizon >= forgotten).await;
    let options = WatchOptions {
        resume_token,
        ..WatchOptions::default()
    };
    let strict = WatchOptions {
        fail_if_compacted: true,
        ..options.clone()
    };
    let request = states(&["s"], strict);
    let error = sandbox.namespace.watch_states(request).await.unwrap_err();
    assert_eq!(error.reason, Reason::RevisionCompacted);
    let request = states(&["s"], options);
    let mut watch = sandbox.namespace.watch_states(request).await.unwrap();
    assert!(matches!(
        watch.next().await,
        Some(Ok(Frame::Opened {
            start: Start::Snapshot,
            ..
        }))
    ));
    assert!(matches!(
        watch.next().await,
        Some(Ok(Frame::Reset { reason: ResetReason::Compacted, horizon })) if horizon >= forgotten
    ));
    assert_eq!(synced(&mut watch).await.len(), 1);
}

fn labelled(id: &str, queue: &str, group: &str) -> Task {
    Task {
        queue: queue.into(),
        labels: vec![crate::domain::task::Label {
            key: "group".into(),
            value: group.into(),
        }],
        ..task(id)
    }
}

#[tokio::test]
async fn tasks_are_watched_by_label_queue_and_status() {
    let sandbox = Sandbox::new().await;
    for (id, queue, group) in [
        ("a", "default", "x"),
        ("b", "default", "y"),
        ("c", "gpu", "x"),
    ] {
        sandbox
            .create_task(labelled(id, queue, group))
            .await
            .unwrap();
    }
    sandbox.cancel("b").await.unwrap();
    let label = |group: &str| BTreeMap::from([("group".to_owned(), group.to_owned())]);
    let filters = [
        (TaskFilter::default(), vec!["a", "b", "c"]),
        (
            TaskFilter {
                labels: label("x"),
                ..TaskFilter::default()
            },
            vec!["a", "c"],
        ),
        (
            TaskFilter {
                labels: label("x"),
                queues: vec!["gpu".into()],
                ..TaskFilter::default()
            },
            vec!["c"],
        ),
        (
            TaskFilter {
                statuses: vec![Status::Cancelled, Status::Failed],
                ..TaskFilter::default()
            },
            vec!["b"],
        ),
        (
            TaskFilter {
                queues: vec!["none".into()],
                ..TaskFilter::default()
            },
            vec![],
        ),
    ];
    for (filter, expected) in filters {
        let request = tasks(filter.clone());
        let mut watch = sandbox.namespace.watch_tasks(request).await.unwrap();
        assert_eq!(seen(&mut watch).await, expected, "{filter:?}");
    }
}

#[tokio::test]
async fn tasks_are_listed_and_watched_by_their_trace_whether_they_wait_or_run() {
    let sandbox = Sandbox::new().await;
    let traced = |id: &str, trace: &str| Task {
        trace_context: Some(crate::domain::task::TraceContext {
            traceparent: format!("00-{trace}-00f067aa0ba902b7-01"),
            tracestate: String::new(),
        }),
        ..task(id)
    };
    let (one, other) = (
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "00000000000000000000000000000001",
    );
    for task in [
        traced("a", one),
        traced("b", other),
        task("untraced"),
        traced("c", one),
    ] {
        sandbox.create_task(task).await.unwrap();
    }
    // One is kept whole, the others are packed.
    let held = sandbox.lease(1, 1).await;
    assert_eq!(held.len(), 1);
    for (trace, expected) in [(one, vec!["a", "c"]), (other, vec!["b"]), ("2", vec![])] {
        let filter = TaskFilter {
            trace_id: Some(u128::from_str_radix(trace, 16).unwrap()),
            ..TaskFilter::default()
        };
        let listed = sandbox.namespace.list_tasks(&filter, 0, "").unwrap();
        let mut ids: Vec<_> = listed.items.iter().map(|row| &row.task.id).collect();
        ids.reverse();
        assert_eq!(ids, expected);
        let request = tasks(filter);
        let mut watch = sandbox.namespace.watch_tasks(request).await.unwrap();
        let mut seen = seen(&mut watch).await;
        seen.sort();
        assert_eq!(seen, expected);
    }
}

/// Also where some had ended before, and where the watch is resumed after they had.
#[tokio::test]
async fn a_watch_ends_when_as_many_matching_tasks_have_ended_as_it_waits_for() {
    let sandbox = Sandbox::new().await;
    for id in ["a", "b", "c", "other"] {
        let group = if id == "other" { "y" } else { "x" };
        sandbox
            .create_task(labelled(id, "default", group))
            .await
            .unwrap();
    }
    sandbox.cancel("a").await.unwrap();
    sandbox.cancel("other").await.unwrap();
    let request = |options| WatchTasks {
        filter: TaskFilter {
            labels: BTreeMap::from([("group".to_owned(), "x".to_owned())]),
            ..TaskFilter::default()
        },
        options,
        until_terminal: true,
        expected: 3,
    };
    let mut watch = sandbox
        .namespace
        .watch_tasks(request(WatchOptions::default()))
        .await
        .unwrap();
    assert_eq!(seen(&mut watch).await, ["a", "b", "c"]);
    for held in sandbox.lease(1, 2).await {
        let outcome = succeeded(Vec::new());
        sandbox
            .finish(&token(&held), outcome, Vec::new())
            .await
            .unwrap();
    }
    let resume_token = watch.token(sandbox.namespace.head());
    let mut ended = Vec::new();
    while let Some(frame) = watch.next().await {
        if let Frame::Delta { items, .. } = frame.unwrap() {
            ended.extend(items.iter().filter_map(|item| match item {
                TaskItem::Changed(_, _, kept) if kept.glance().status.is_terminal() => {
                    Some(id(item))
                }
                _ => None,
            }));
        }
    }
    ended.sort();
    assert_eq!(ended, ["b", "c"]);

    let options = WatchOptions {
        resume_token,
        ..WatchOptions::default()
    };
    let mut resumed = sandbox
        .namespace
        .watch_tasks(request(options))
        .await
        .unwrap();
    while let Some(frame) = resumed.next().await {
        assert!(!matches!(frame.unwrap(), Frame::Delta { .. }));
    }
}

#[tokio::test]
async fn a_watch_of_tasks_keeps_its_pace_too() {
    let sandbox = Sandbox::new().await;
    sandbox.create("t").await;
    let request = WatchTasks {
        options: WatchOptions {
            updates_only: true,
            min_delta_interval: Duration::from_millis(300),
            ..WatchOptions::default()
        },
        ..WatchTasks::default()
    };
    let mut watch = sandbox.namespace.watch_tasks(request).await.unwrap();
    assert!(matches!(
        watch.next().await,
        Some(Ok(Frame::Opened {
            start: Start::Live,
            ..
        }))
    ));
    assert!(matches!(watch.next().await, Some(Ok(Frame::Synced(_)))));
    let cancel = || Event::Cancel {
        reason: String::new(),
    };
    sandbox.create("u").await;
    let first = watch.next().await;
    assert!(matches!(first, Some(Ok(Frame::Delta { .. }))), "{first:?}");
    let begun = Instant::now();
    sandbox.event("t", cancel()).await.unwrap();
    sandbox.event("u", cancel()).await.unwrap();
    let Some(Ok(Frame::Delta { items, folded, .. })) = watch.next().await else {
        panic!("no delta")
    };
    assert_eq!((items.len(), folded), (2, 2));
    assert!(begun.elapsed() >= Duration::from_millis(280));
}
