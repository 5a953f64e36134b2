use std::collections::BTreeMap;

use crate::domain::{Reason, Revision, StateId, state::Op};

use super::{
    super::{
        TaskFilter,
        watch::{
            Frame, KeyFilter, ResetReason, Start, StateItem, StateWatch, TaskItem, WatchOptions,
            WatchStates, WatchTasks,
        },
    },
    Sandbox, op, put, succeeded, token,
};

/// What a client holds, kept by the rules of the protocol.
#[derive(Default)]
struct View {
    keys: BTreeMap<String, Revision>,
    position: Revision,
    pending: Vec<StateItem>,
    synced: bool,
}

impl View {
    fn take(&mut self, frame: Frame<StateItem>) {
        match frame {
            Frame::Opened {
                start, position, ..
            } => {
                if start != Start::Resumed {
                    self.keys.clear();
                }
                assert!(position >= self.position || start == Start::Snapshot);
                self.position = position;
            }
            Frame::Reset { .. } => self.keys.clear(),
            Frame::Snapshot(items) => self.apply(items),
            Frame::Synced(position) => {
                assert!(position >= self.position);
                self.position = position;
                self.synced = true;
            }
            Frame::Delta {
                base,
                position,
                items,
                more,
                folded,
            } => {
                assert_eq!(base, self.position, "the chain is broken");
                self.pending.extend(items);
                assert_eq!(more, position.is_none());
                if let Some(position) = position {
                    assert!(folded >= 1);
                    self.position = position;
                    let items = std::mem::take(&mut self.pending);
                    self.apply(items);
                }
            }
            Frame::Bookmark { position, .. } => self.position = position,
            Frame::Closing { .. } => {}
            Frame::Encoded(_) => panic!("nothing is shared here"),
        }
    }

    fn apply(&mut self, items: Vec<StateItem>) {
        for item in items {
            match item.value {
                Some(_) => drop(self.keys.insert(item.key.to_string(), item.revision)),
                None => drop(self.keys.remove(item.key.as_ref() as &str)),
            }
        }
    }

    async fn follow(&mut self, watch: &mut StateWatch, until: Revision) {
        while !self.synced || self.position < until {
            self.take(watch.next().await.unwrap().unwrap());
        }
    }
}

fn request(options: WatchOptions) -> WatchStates {
    WatchStates {
        states: vec![StateId::trusted("s")],
        options,
        ..WatchStates::default()
    }
}

fn truth(sandbox: &Sandbox) -> BTreeMap<String, Revision> {
    let read = |slot: &super::super::mirror::StateSlot, _| {
        slot.state
            .table()
            .iter()
            .map(|(key, revision, _)| (key.to_string(), revision))
            .collect()
    };
    sandbox
        .namespace
        .read_state(&StateId::trusted("s"), read)
        .unwrap_or_default()
}

#[tokio::test]
async fn a_watch_shows_a_snapshot_then_what_changes_and_resumes_from_its_token() {
    let sandbox = Sandbox::new().await;
    sandbox
        .update("s", vec![put("a", 1), put("b", 1)])
        .await
        .unwrap();
    let mut watch = sandbox
        .namespace
        .watch_states(request(WatchOptions::default()))
        .await
        .unwrap();
    let mut view = View::default();
    view.follow(&mut watch, Revision::ZERO).await;
    assert_eq!(view.keys, truth(&sandbox));
    let at = sandbox
        .update("s", vec![put("c", 1), op(1, "a", Op::Delete(true))])
        .await
        .unwrap()
        .revision;
    view.follow(&mut watch, at).await;
    assert_eq!(view.keys, truth(&sandbox));

    let options = WatchOptions {
        resume_token: watch.token(view.position),
        ..WatchOptions::default()
    };
    drop(watch);
    let at = sandbox
        .update("s", vec![op(1, "b", Op::Delete(true))])
        .await
        .unwrap()
        .revision;
    let mut watch = sandbox
        .namespace
        .watch_states(request(options))
        .await
        .unwrap();
    let first = watch.next().await.unwrap().unwrap();
    assert!(matches!(
        first,
        Frame::Opened {
            start: Start::Resumed,
            ..
        }
    ));
    view.take(first);
    view.synced = false;
    view.follow(&mut watch, at).await;
    assert_eq!(view.keys, truth(&sandbox));
    assert_eq!(view.keys.len(), 1);
}

#[tokio::test]
async fn a_watch_that_does_not_read_folds_and_says_so() {
    let sandbox = Sandbox::new().await;
    sandbox.update("s", vec![put("a", 0)]).await.unwrap();
    let mut watch = sandbox
        .namespace
        .watch_states(request(WatchOptions::default()))
        .await
        .unwrap();
    let mut view = View::default();
    view.follow(&mut watch, Revision::ZERO).await;
    for number in 1..=50 {
        sandbox.update("s", vec![put("a", number)]).await.unwrap();
    }
    let Frame::Delta {
        items,
        folded,
        position,
        ..
    } = watch.next().await.unwrap().unwrap()
    else {
        panic!()
    };
    assert_eq!(
        (items.len(), folded, position),
        (1, 50, Some(sandbox.namespace.head()))
    );
}

#[tokio::test]
async fn a_snapshot_of_many_parts_ends_with_the_view_of_its_position() {
    let sandbox = Sandbox::new().await;
    let big = super::v1::Value {
        kind: Some(super::v1::value::Kind::Text("x".repeat(60_000))),
    };
    let big: bytes::Bytes = prost::Message::encode_to_vec(&big).into();
    for number in 0..40 {
        sandbox
            .update(
                "s",
                vec![op(1, &format!("k{number}"), Op::Put(big.clone()))],
            )
            .await
            .unwrap();
    }
    let mut watch = sandbox
        .namespace
        .watch_states(request(WatchOptions::default()))
        .await
        .unwrap();
    let mut view = View::default();
    let mut parts = 0;
    let mut number = 0;
    while !view.synced {
        let frame = watch.next().await.unwrap().unwrap();
        if let Frame::Snapshot(items) = &frame {
            parts += 1;
            assert!(
                items
                    .iter()
                    .map(|item| item.inline().map_or(0, bytes::Bytes::len))
                    .sum::<usize>()
                    <= 1 << 20
            );
            // Changes between the parts: some keys are met again, some go.
            sandbox
                .update(
                    "s",
                    vec![
                        put(&format!("k{number}"), 1),
                        op(1, &format!("k{}", number + 1), Op::Delete(true)),
                    ],
                )
                .await
                .unwrap();
            number += 2;
        }
        view.take(frame);
    }
    assert!(parts >= 3, "{parts}");
    // What changed after the last part comes as a delta.
    let head = sandbox.namespace.head();
    view.follow(&mut watch, head).await;
    assert_eq!(view.keys, truth(&sandbox));
}

#[tokio::test]
async fn only_watched_keys_are_sent() {
    let sandbox = Sandbox::new().await;
    let keys = KeyFilter {
        exact: vec!["a".into()],
        prefixes: vec!["p.".into()],
    };
    let mut watch = sandbox
        .namespace
        .watch_states(WatchStates {
            keys,
            ..request(WatchOptions::default())
        })
        .await
        .unwrap();
    let mut view = View::default();
    view.follow(&mut watch, Revision::ZERO).await;
    sandbox.update("s", vec![put("b", 1)]).await.unwrap();
    let at = sandbox
        .update("s", vec![put("a", 1), put("p.x", 1), put("q", 1)])
        .await
        .unwrap()
        .revision;
    view.follow(&mut watch, at).await;
    assert_eq!(view.keys.keys().collect::<Vec<_>>(), ["a", "p.x"]);
}

#[tokio::test]
async fn tokens_that_cannot_be_honoured_reset_the_watch_or_fail_it() {
    let sandbox = Sandbox::new().await;
    sandbox.update("s", vec![put("a", 1)]).await.unwrap();
    let other_filter = WatchStates {
        keys: KeyFilter {
            exact: vec!["z".into()],
            prefixes: Vec::new(),
        },
        ..request(WatchOptions::default())
    };
    let filtered = sandbox.namespace.watch_states(other_filter).await.unwrap();
    let head = sandbox.namespace.head();
    let foreign = super::super::token::ResumeToken {
        epoch: super::Uid(99),
        revision: head,
        filter: None,
    };
    for (resume_token, expected) in [
        (filtered.token(head), ResetReason::FilterChanged),
        (foreign.encode(), ResetReason::EpochChanged),
    ] {
        let options = WatchOptions {
            resume_token: resume_token.clone(),
            ..WatchOptions::default()
        };
        let mut watch = sandbox
            .namespace
            .watch_states(request(options))
            .await
            .unwrap();
        assert!(matches!(
            watch.next().await,
            Some(Ok(Frame::Opened {
                start: Start::Snapshot,
                ..
            }))
        ));
        assert!(
            matches!(watch.next().await, Some(Ok(Frame::Reset { reason, .. })) if reason == expected)
        );
        let options = WatchOptions {
            resume_token,
            fail_if_compacted: true,
            ..WatchOptions::default()
        };
        assert!(
            sandbox
                .namespace
                .watch_states(request(options))
                .await
                .is_err()
        );
    }
    let options = WatchOptions {
        resume_token: "nonsense".into(),
        ..WatchOptions::default()
    };
    let error = sandbox
        .namespace
        .watch_states(request(options))
        .await
        .unwrap_err();
    assert_eq!(error.reason, Reason::ResumeTokenMalformed);
}

#[tokio::test(start_paused = true)]
async fn silence_is_filled_with_bookmarks_and_age_ends_with_a_word() {
    let sandbox = Sandbox::new().await;
    let mut watch = sandbox
        .namespace
        .watch_states(request(WatchOptions::default()))
        .await
        .unwrap();
    let mut bookmarks = 0;
    loop {
        match watch.next().await.unwrap() {
            Ok(Frame::Bookmark { .. }) => bookmarks += 1,
            Ok(Frame::Closing { .. }) => break,
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!((35..=44).contains(&bookmarks), "{bookmarks}");
    assert_eq!(
        watch.next().await.unwrap().unwrap_err().reason,
        Reason::StreamDraining
    );
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_watch_of_tasks_ends_when_those_it_names_have() {
    let sandbox = Sandbox::new().await;
    sandbox.create("t").await;
    sandbox.create("other").await;
    let request = WatchTasks {
        filter: TaskFilter {
            ids: vec![super::TaskId::trusted("t")],
            ..TaskFilter::default()
        },
        until_terminal: true,
        ..WatchTasks::default()
    };
    let mut watch = sandbox.namespace.watch_tasks(request).await.unwrap();
    for held in sandbox.lease(1, 2).await {
        sandbox
            .finish(&token(&held), succeeded(Vec::new()), Vec::new())
            .await
            .unwrap();
    }
    let mut last = None;
    while let Some(frame) = watch.next().await {
        match frame.unwrap() {
            Frame::Snapshot(items) | Frame::Delta { items, .. } => {
                for item in items {
                    let TaskItem::Changed(id, revision, kept) = item else {
                        panic!("{item:?}")
                    };
                    assert_eq!(id.as_str(), "t");
                    last = Some(kept.unpack(&id, revision).task.status());
                }
            }
            _ => {}
        }
    }
    assert_eq!(last, Some(crate::domain::task::Status::Succeeded));
}

#[tokio::test]
async fn open_watches_are_told_when_the_server_drains() {
    let sandbox = Sandbox::new().await;
    let mut watch = sandbox
        .namespace
        .watch_states(request(WatchOptions::default()))
        .await
        .unwrap();
    sandbox.engine.drain();
    let mut closing = false;
    while let Some(frame) = watch.next().await {
        match frame {
            Ok(frame) => closing |= matches!(frame, Frame::Closing { .. }),
            Err(error) => assert_eq!(error.reason, Reason::StreamDraining),
        }
    }
    assert!(closing);
}
