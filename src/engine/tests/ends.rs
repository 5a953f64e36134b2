//! How attempts and tasks end: workers that vanish, and how many ended tasks are kept.

use std::{sync::Arc, time::Duration};

use crate::domain::{Revision, Uid, task::Status};

use super::{
    super::{Engine, EngineOptions, command::RenewRequest, mirror::Mirror},
    CancellationToken, MemoryStore, NamespaceId, Registry, Sandbox, succeeded, task, token,
};

impl Sandbox {
    async fn keeping(keep_ended: usize, store: MemoryStore) -> Self {
        let jobs = Registry::new(CancellationToken::new());
        let options = EngineOptions {
            keep_ended,
            ..EngineOptions::default()
        };
        let engine = Engine::start_with(options, Arc::new(store.clone()), jobs);
        let engine = engine.await.unwrap();
        let namespace = engine.existing(&NamespaceId::trusted("default")).unwrap();
        Self {
            store,
            engine,
            namespace,
        }
    }

    async fn end(&self, id: &str, least_retention_us: u64) {
        let mut task = task(id);
        task.policy.least_retention_us = least_retention_us;
        self.create_task(task).await.unwrap();
        let held = token(&self.lease(1, 1).await[0]);
        let outcome = succeeded(Vec::new());
        self.finish(&held, outcome, Vec::new()).await.unwrap();
    }

    fn ids(&self) -> Vec<String> {
        self.namespace.read(|mirror| {
            let mut ids: Vec<_> = mirror.tasks.newest(Revision(u64::MAX)).collect();
            ids.reverse();
            ids.iter().map(|(_, id, ..)| id.to_string()).collect()
        })
    }
}

fn suspects(mirror: &Mirror) -> usize {
    let rows = mirror.tasks.rows();
    rows.filter(|row| row.task.suspect_us != 0).count()
}

#[tokio::test(start_paused = true)]
async fn a_broken_stream_marks_all_that_its_worker_holds_and_nothing_else() {
    let sandbox = Sandbox::new().await;
    for number in 0..30 {
        sandbox.create(&format!("t{number}")).await;
    }
    let theirs = sandbox.lease(1, 20).await;
    let others = sandbox.lease(2, 10).await;
    assert_eq!((theirs.len(), others.len()), (20, 10));
    let [first, second] = [(); 2].map(|()| sandbox.namespace.watch_leases(Uid(1)));
    let other = sandbox.namespace.watch_leases(Uid(2));
    drop(first);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(sandbox.namespace.read(suspects), 0);
    drop(second);
    sandbox.until(|mirror| suspects(mirror) == 20).await;
    let renewal = RenewRequest {
        tokens: theirs.iter().map(token).collect(),
        worker_id: "worker-1".into(),
        instance: Uid(1),
    };
    sandbox.namespace.renew(renewal).await.unwrap();
    sandbox.until(|mirror| suspects(mirror) == 0).await;
    drop(other);
    sandbox.until(|mirror| suspects(mirror) == 10).await;
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test(start_paused = true)]
async fn a_mark_outlives_a_restart_and_goes_with_the_next_renewal() {
    let sandbox = Sandbox::new().await;
    sandbox.create("t").await;
    let held = token(&sandbox.lease(1, 1).await[0]);
    drop(sandbox.namespace.watch_leases(Uid(1)));
    sandbox.until(|mirror| suspects(mirror) == 1).await;
    let sandbox = sandbox.kill_and_restart().await;
    assert_eq!(sandbox.namespace.read(suspects), 1);
    let renewal = RenewRequest {
        tokens: vec![held],
        worker_id: "worker-1".into(),
        instance: Uid(1),
    };
    sandbox.namespace.renew(renewal).await.unwrap();
    sandbox.until(|mirror| suspects(mirror) == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_the_server_ends_marks_nothing() {
    let sandbox = Sandbox::new().await;
    sandbox.create("t").await;
    sandbox.lease(1, 1).await;
    let mut news = sandbox.namespace.watch_leases(Uid(1));
    sandbox.engine.drain();
    // The word, then the end.
    while news.next().await.is_some() {}
    drop(news);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(sandbox.namespace.read(suspects), 0);
}

#[tokio::test]
async fn of_ended_tasks_as_many_are_kept_as_asked_for_and_protected_ones_beside_them() {
    let sandbox = Sandbox::keeping(3, MemoryStore::new(Uid(1))).await;
    sandbox.create("runs").await;
    let runs = token(&sandbox.lease(1, 1).await[0]);
    // It is older than all, and must be found by a repeated request.
    sandbox.end("protected", 86_400_000_000).await;
    for number in 0..6 {
        sandbox.end(&format!("t{number}"), 0).await;
    }
    sandbox.until(|mirror| mirror.tasks.live_len() <= 5).await;
    assert_eq!(sandbox.ids(), ["runs", "protected", "t3", "t4", "t5"]);
    // Fewer after a restart; what runs does not count.
    sandbox.engine.stop().await.unwrap();
    let sandbox = Sandbox::keeping(1, sandbox.store).await;
    sandbox.until(|mirror| mirror.tasks.live_len() <= 3).await;
    assert_eq!(sandbox.ids(), ["runs", "protected", "t5"]);
    let outcome = succeeded(Vec::new());
    sandbox.finish(&runs, outcome, Vec::new()).await.unwrap();
    sandbox.until(|mirror| mirror.tasks.live_len() <= 2).await;
    assert_eq!(sandbox.ids(), ["runs", "protected"]);
    assert_eq!(sandbox.get("protected").task.status(), Status::Succeeded);
}

#[tokio::test]
async fn protected_tasks_push_out_no_other_however_many_there_are() {
    let sandbox = Sandbox::keeping(2, MemoryStore::new(Uid(1))).await;
    for number in 0..6 {
        sandbox.end(&format!("p{number}"), 86_400_000_000).await;
    }
    for id in ["a", "b", "c"] {
        sandbox.end(id, 0).await;
        // A round in which it could leave.
        sandbox.create(&format!("after-{id}")).await;
        sandbox.cancel(&format!("after-{id}")).await.unwrap();
        assert_eq!(sandbox.get(id).task.status(), Status::Succeeded);
    }
}

#[tokio::test]
async fn thousands_that_are_too_many_leave_a_few_at_a_time_and_zero_keeps_all() {
    const MANY: usize = 3_000;
    let sandbox = Sandbox::keeping(0, MemoryStore::new(Uid(1))).await;
    let ids: Vec<_> = (0..MANY).map(|number| format!("t{number}")).collect();
    futures_util::future::join_all(ids.iter().map(|id| sandbox.create(id))).await;
    futures_util::future::join_all(ids.iter().map(|id| sandbox.cancel(id))).await;
    assert_eq!(sandbox.ids().len(), MANY);
    sandbox.engine.stop().await.unwrap();
    let sandbox = Sandbox::keeping(10, sandbox.store).await;
    sandbox.until(|mirror| mirror.tasks.live_len() == 10).await;
}
