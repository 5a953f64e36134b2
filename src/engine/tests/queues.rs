//! Queues that are paused and limited, tasks that take turns: as workers meet them.

use std::{collections::BTreeMap, ops::Bound, time::Duration};

use futures_util::future::join_all;

use crate::{
    domain::{
        QueueId, Reason, Uid,
        entry::QueueSettings,
        limits::MAX_QUEUES_WITH_SETTINGS,
        task::{Status, WriterMark},
    },
    journal::memory::Fault,
};

use super::{super::command::QueueChange, Sandbox, succeeded, task, token};

const QUEUE: &str = "default";

fn pause(paused: bool) -> QueueChange {
    QueueChange {
        paused: Some(paused),
        ..QueueChange::default()
    }
}

fn limit(max_running: u32) -> QueueChange {
    QueueChange {
        max_running: Some(max_running),
        ..QueueChange::default()
    }
}

fn limit_keys(max_running_per_key: u32) -> QueueChange {
    QueueChange {
        max_running_per_key: Some(max_running_per_key),
        ..QueueChange::default()
    }
}

impl Sandbox {
    async fn limited(change: QueueChange) -> Self {
        let sandbox = Self::new().await;
        sandbox.set_queue(QUEUE, change).await.unwrap();
        sandbox
    }

    async fn fill(&self, tasks: std::ops::Range<u32>) {
        for number in tasks {
            self.create(&format!("t{number}")).await;
        }
    }

    async fn keyed(&self, id: &str, fairness_key: &str, concurrency_key: &str) {
        let task = crate::domain::task::Task {
            fairness_key: fairness_key.into(),
            concurrency_key: concurrency_key.into(),
            ..task(id)
        };
        self.create_task(task).await.unwrap();
    }

    /// The ids of what a worker gets at once.
    async fn leased(&self, most: usize) -> Vec<String> {
        let granted = self.lease_within(Duration::ZERO, 1, most).await;
        let ids = granted.iter().map(|granted| granted.row.task.id.clone());
        ids.collect()
    }

    fn settings(&self, queue: &str) -> QueueSettings {
        self.namespace
            .read(|mirror| mirror.queues.get(queue).cloned().unwrap_or_default())
            .settings
    }
}

#[tokio::test(start_paused = true)]
async fn a_paused_queue_accepts_tasks_hands_out_none_and_wakes_who_waits_when_it_opens() {
    let sandbox = Sandbox::limited(pause(true)).await;
    sandbox.fill(0..3).await;
    assert_eq!(sandbox.lease(1, 10).await.len(), 0);
    let wait = Duration::from_secs(3_600);
    let (granted, _) = tokio::join!(
        sandbox.lease_within(wait, 1, 10),
        sandbox.set_queue(QUEUE, pause(false))
    );
    assert_eq!(granted.len(), 3);
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_run_than_max_running_however_many_workers_ask() {
    let sandbox = Sandbox::limited(limit(3)).await;
    sandbox.fill(0..20).await;
    let polls = (0..10).map(|instance| sandbox.lease_within(Duration::ZERO, instance, 2));
    let granted: Vec<_> = join_all(polls).await.into_iter().flatten().collect();
    assert_eq!(granted.len(), 3);
    // Who waits is served as soon as one has ended.
    let wait = Duration::from_secs(3_600);
    let held = token(&granted[0]);
    let (next, ended) = tokio::join!(
        sandbox.lease_within(wait, 11, 5),
        sandbox.finish(&held, succeeded(Vec::new()), Vec::new())
    );
    assert_eq!(ended.unwrap().task.status(), Status::Succeeded);
    assert_eq!(next.len(), 1);
    // Others go on where there is no limit.
    let other = crate::domain::task::Task {
        queue: "other".into(),
        ..task("o")
    };
    sandbox.create_task(other).await.unwrap();
    sandbox.assert_lines_follow_the_mirror().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_outcome_is_being_settled_still_counts() {
    let sandbox = Sandbox::limited(limit(1)).await;
    sandbox.fill(0..2).await;
    let granted = sandbox.lease(1, 5).await;
    let mark = WriterMark {
        state: "s".into(),
        writer_id: Uid(77).to_bytes(),
        sequence: 1,
    };
    let row = sandbox
        .finish(&token(&granted[0]), succeeded(Vec::new()), vec![mark])
        .await
        .unwrap();
    assert_eq!(row.task.status(), Status::Running);
    assert!(sandbox.leased(5).await.is_empty());
    // The batch never comes; after ten seconds the task ends without it.
    let next = sandbox.lease_within(Duration::from_secs(60), 1, 5).await;
    assert_eq!(next[0].row.task.id, "t1");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_lost_or_released_gives_its_place_back() {
    let sandbox = Sandbox::limited(limit(1)).await;
    sandbox.fill(0..2).await;
    assert_eq!(sandbox.leased(5).await, ["t0"]);
    // Never accepted, it goes back and to the end of the line.
    let granted = sandbox.lease_within(Duration::from_secs(60), 2, 5).await;
    assert_eq!(granted.len(), 1);
    let held = token(&granted[0]);
    let released = crate::domain::task::Event::Release {
        fence: held.fence,
        secret: held.secret,
    };
    sandbox.event(held.task.as_str(), released).await.unwrap();
    assert_eq!(sandbox.leased(5).await.len(), 1);
    sandbox.assert_lines_follow_the_mirror().await;
}

#[tokio::test(start_paused = true)]
async fn a_group_that_the_journal_refuses_gives_back_places_and_tasks() {
    let sandbox = Sandbox::limited(limit(2)).await;
    sandbox.set_queue(QUEUE, limit_keys(1)).await.unwrap();
    // So that the worker is known.
    assert!(sandbox.leased(5).await.is_empty());
    sandbox.keyed("a", "", "k").await;
    sandbox.keyed("b", "", "k").await;
    sandbox.keyed("c", "", "").await;
    sandbox.store.faults().next_append(Fault::Refuse);
    let granted = sandbox.lease_within(Duration::from_secs(60), 1, 5).await;
    let ids: Vec<_> = granted.iter().map(|granted| &granted.row.task.id).collect();
    assert_eq!(ids, ["a", "c"]);
    sandbox.assert_lines_follow_the_mirror().await;
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test(start_paused = true)]
async fn limits_and_what_runs_are_known_after_a_restart() {
    let sandbox = Sandbox::limited(limit(2)).await;
    sandbox.set_queue(QUEUE, limit_keys(1)).await.unwrap();
    sandbox.keyed("a", "", "k").await;
    sandbox.keyed("b", "", "k").await;
    sandbox.keyed("c", "", "l").await;
    sandbox.keyed("d", "", "m").await;
    let first = sandbox.lease(1, 5).await;
    assert_eq!(first.len(), 2);
    let sandbox = sandbox.kill_and_restart().await;
    assert!(sandbox.leased(5).await.is_empty());
    sandbox
        .finish(&token(&first[1]), succeeded(Vec::new()), Vec::new())
        .await
        .unwrap();
    // Its key runs still, so the one behind it goes.
    assert_eq!(sandbox.leased(5).await, ["d"]);
    sandbox
        .finish(&token(&first[0]), succeeded(Vec::new()), Vec::new())
        .await
        .unwrap();
    assert_eq!(sandbox.leased(5).await, ["b"]);
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test]
async fn a_key_at_its_limit_lets_others_pass_and_wakes_who_waits() {
    let sandbox = Sandbox::limited(limit_keys(1)).await;
    sandbox.keyed("a", "", "k").await;
    sandbox.keyed("b", "", "k").await;
    sandbox.keyed("c", "", "l").await;
    let granted = sandbox.lease(1, 5).await;
    let ids: Vec<_> = granted.iter().map(|granted| &granted.row.task.id).collect();
    assert_eq!(ids, ["a", "c"]);
    let held = token(&granted[0]);
    let (next, _) = tokio::join!(
        sandbox.lease_within(Duration::from_secs(20), 2, 5),
        sandbox.finish(&held, succeeded(Vec::new()), Vec::new())
    );
    assert_eq!(next[0].row.task.id, "b");
}

#[tokio::test]
async fn tenants_take_turns_and_keep_their_turn_over_a_restart() {
    let sandbox = Sandbox::new().await;
    for number in 0..4 {
        sandbox.keyed(&format!("a{number}"), "a", "").await;
    }
    assert_eq!(sandbox.leased(2).await, ["a0", "a1"]);
    sandbox.keyed("b0", "b", "").await;
    sandbox.keyed("b1", "b", "").await;
    let sandbox = sandbox.kill_and_restart().await;
    assert_eq!(sandbox.leased(4).await, ["a2", "b0", "a3", "b1"]);
}

#[tokio::test]
async fn a_change_names_what_it_changes_and_is_durable_and_nothing_is_written_twice() {
    let sandbox = Sandbox::limited(limit(4)).await;
    let paused = sandbox.set_queue(QUEUE, pause(true)).await.unwrap();
    let expected = QueueSettings {
        paused: true,
        max_running: 4,
        max_running_per_key: 0,
    };
    assert_eq!(sandbox.settings(QUEUE), expected);
    assert_eq!(
        sandbox.set_queue(QUEUE, pause(true)).await.unwrap(),
        paused,
        "no second entry"
    );
    let both = join_all([limit(7), limit_keys(2)].map(|change| sandbox.set_queue(QUEUE, change)));
    assert!(both.await.iter().all(Result::is_ok));
    let sandbox = sandbox.kill_and_restart().await;
    let expected = QueueSettings {
        paused: true,
        max_running: 7,
        max_running_per_key: 2,
    };
    assert_eq!(sandbox.settings(QUEUE), expected);
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_back_at_its_defaults_is_forgotten_in_the_end() {
    let sandbox = Sandbox::limited(limit(4)).await;
    sandbox.set_queue(QUEUE, limit(0)).await.unwrap();
    let known = |mirror: &super::Mirror| mirror.queues.after(Bound::Unbounded).count();
    assert_eq!(sandbox.namespace.read(known), 0);
    // The history window, in the steps of the upkeep.
    for _ in 0..130 {
        tokio::time::advance(Duration::from_secs(5)).await;
    }
    sandbox.until(|mirror| mirror.queues.entries() == 0).await;
    sandbox.set_queue(QUEUE, limit(1)).await.unwrap();
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test]
async fn only_so_many_queues_have_settings() {
    let sandbox = Sandbox::new().await;
    let names: Vec<_> = (0..MAX_QUEUES_WITH_SETTINGS)
        .map(|n| format!("q{n}"))
        .collect();
    let all = names.iter().map(|name| sandbox.set_queue(name, limit(1)));
    assert!(join_all(all).await.iter().all(Result::is_ok));
    let refused = sandbox.set_queue("more", limit(1)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::QuotaExceeded);
    assert!(refused.message.contains("10000"), "{refused}");
    // Those that have some may change, and all may stay as they are.
    sandbox.set_queue("q7", limit(2)).await.unwrap();
    sandbox.set_queue("more", limit(0)).await.unwrap();
}

#[tokio::test]
async fn queues_are_listed_with_their_depths_page_by_page() {
    let sandbox = Sandbox::limited(pause(true)).await;
    sandbox.set_queue("empty", limit(1)).await.unwrap();
    for queue in ["a", "b", QUEUE] {
        for number in 0..3 {
            let task = crate::domain::task::Task {
                queue: queue.into(),
                ..task(&format!("{queue}-{number}"))
            };
            sandbox.create_task(task).await.unwrap();
        }
    }
    sandbox.cancel("a-0").await.unwrap();
    let (mut views, mut token, mut pages) = (BTreeMap::new(), String::new(), 0);
    loop {
        let page = sandbox.namespace.list_queues(2, &token).unwrap();
        pages += 1;
        views.extend(page.items.into_iter().map(|v| (v.queue.to_string(), v)));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let names: Vec<_> = views.keys().map(String::as_str).collect();
    assert_eq!((names, pages), (vec!["a", "b", QUEUE, "empty"], 2));
    let counts = |queue: &str| {
        let row = &views[queue].row;
        [Status::Queued, Status::Cancelled].map(|status| row.count(status))
    };
    assert_eq!(counts("a"), [2, 1]);
    assert_eq!(counts(QUEUE), [3, 0]);
    assert!(views[QUEUE].row.settings.paused);
    assert_eq!(views["empty"].oldest_us, None);
    // The one before it was cancelled.
    let since = sandbox.get("a-1").task.create_us;
    assert_eq!(views["a"].oldest_us, Some(since));
    let (nobody, _) = sandbox.namespace.get_queue(QueueId::trusted("nobody"));
    assert!(!nobody.row.is_known());
    sandbox.assert_lines_follow_the_mirror().await;
}

#[tokio::test]
async fn a_waiting_task_tells_its_place() {
    let sandbox = Sandbox::new().await;
    sandbox.fill(0..5).await;
    let place = |id: &str| sandbox.namespace.place_of(&sandbox.get(id));
    assert_eq!([place("t0"), place("t4")], [Some(1), Some(5)]);
    sandbox.leased(2).await;
    assert_eq!([place("t0"), place("t4")], [None, Some(3)]);
    sandbox.cancel("t3").await.unwrap();
    assert_eq!([place("t3"), place("t4")], [None, Some(2)]);
}
