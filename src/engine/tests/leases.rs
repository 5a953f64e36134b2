use std::time::Duration;

use crate::domain::{
    Reason, Revision, Uid,
    task::{FailureCategory, Payload, Status, Task},
};

use super::{
    super::{
        command::{LeaseStatus, RenewRequest},
        watch::LeaseNews,
    },
    Sandbox, succeeded, task, token,
};

async fn renew(sandbox: &Sandbox, instance: u128, token: &super::LeaseToken) -> LeaseStatus {
    let request = RenewRequest {
        tokens: vec![token.clone()],
        worker_id: "worker".into(),
        instance: Uid(instance),
    };
    sandbox.namespace.renew(request).await.unwrap()[0]
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_requeues_the_task_and_fences_its_worker() {
    let sandbox = Sandbox::new().await;
    sandbox.create("t").await;
    let first = token(&sandbox.lease(1, 1).await[0]);
    assert_eq!(
        renew(&sandbox, 1, &first).await,
        LeaseStatus::Held(Duration::from_secs(8))
    );
    // The clock is paused: it runs on while nothing else does.
    sandbox
        .until(|mirror| {
            mirror
                .tasks
                .rows()
                .all(|row| row.task.status() == Status::Queued)
        })
        .await;
    assert_eq!(renew(&sandbox, 1, &first).await, LeaseStatus::Lost);
    let second = token(&sandbox.lease(2, 1).await[0]);
    assert!(second.fence > first.fence);
    assert_eq!(
        sandbox
            .finish(&first, succeeded(Vec::new()), Vec::new())
            .await
            .unwrap_err()
            .reason,
        Reason::LeaseLost
    );
    let row = sandbox
        .finish(&second, succeeded(Vec::new()), Vec::new())
        .await
        .unwrap();
    assert_eq!(row.task.attempts_spent, 2);
    assert_eq!(row.task.status(), Status::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_never_accepted_goes_back_without_costing_an_attempt() {
    let sandbox = Sandbox::new().await;
    sandbox.create("t").await;
    let first = sandbox.lease(1, 1).await;
    assert_eq!(first[0].valid_for, Duration::from_secs(4));
    sandbox
        .until(|mirror| {
            mirror
                .tasks
                .rows()
                .all(|row| row.task.status() == Status::Queued)
        })
        .await;
    assert_eq!(sandbox.get("t").task.attempts_spent, 0);
    let second = sandbox.lease(2, 1).await;
    assert_eq!(second[0].row.task.attempts[0].number, 1);
}

#[tokio::test(start_paused = true)]
async fn leases_that_were_renewed_one_by_one_are_all_known_as_accepted_after_a_start() {
    let sandbox = Sandbox::new().await;
    let tasks = ["t1", "t2"];
    for task in tasks {
        sandbox.create(task).await;
    }
    for granted in sandbox.lease(1, 2).await {
        let held = LeaseStatus::Held(Duration::from_secs(8));
        assert_eq!(renew(&sandbox, 1, &token(&granted)).await, held);
    }
    let sandbox = sandbox.kill_and_restart().await;
    // Their worker is gone too.
    sandbox
        .until(|mirror| {
            let mut tasks = mirror.tasks.rows();
            tasks.all(|row| row.task.status() == Status::Queued)
        })
        .await;
    for task in tasks {
        assert_eq!(sandbox.get(task).task.attempts_spent, 1, "{task}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_does_not_wait_gets_what_is_ready_and_otherwise_nothing() {
    let sandbox = Sandbox::new().await;
    assert_eq!(sandbox.lease_within(Duration::ZERO, 1, 1).await.len(), 0);
    sandbox.create("t").await;
    assert_eq!(sandbox.lease_within(Duration::ZERO, 1, 1).await.len(), 1);
    assert_eq!(sandbox.lease_within(Duration::ZERO, 1, 1).await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn renewals_keep_a_lease_for_as_long_as_they_come() {
    let sandbox = Sandbox::new().await;
    sandbox.create("t").await;
    let held = token(&sandbox.lease(1, 1).await[0]);
    for _ in 0..30 {
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(
            renew(&sandbox, 1, &held).await,
            LeaseStatus::Held(Duration::from_secs(8))
        );
    }
}

#[tokio::test]
async fn the_outcome_sent_again_is_answered_with_the_task_as_it_stands() {
    let sandbox = Sandbox::new().await;
    sandbox.create("t").await;
    let held = token(&sandbox.lease(1, 1).await[0]);
    let first = sandbox
        .finish(&held, succeeded(Vec::new()), Vec::new())
        .await
        .unwrap();
    let again = sandbox
        .finish(&held, succeeded(Vec::new()), Vec::new())
        .await
        .unwrap();
    assert_eq!(first, again);
}

#[tokio::test]
async fn a_long_poll_gets_the_task_that_comes_while_it_waits() {
    let sandbox = Sandbox::new().await;
    let (granted, _) = tokio::join!(sandbox.lease(1, 5), sandbox.create("t"));
    assert_eq!(granted.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_that_nothing_comes_for_answers_empty() {
    let sandbox = Sandbox::new().await;
    assert!(sandbox.lease(1, 5).await.is_empty());
}

#[tokio::test]
async fn no_task_is_given_to_two_workers() {
    let sandbox = Sandbox::new().await;
    for number in 0..20 {
        sandbox.create(&format!("t{number}")).await;
    }
    let polls = (0..10).map(|instance| sandbox.lease(instance, 4));
    let granted: Vec<_> = futures_util::future::join_all(polls)
        .await
        .into_iter()
        .flatten()
        .collect();
    let ids: std::collections::BTreeSet<_> =
        granted.iter().map(|g| g.row.task.id.clone()).collect();
    assert_eq!((granted.len(), ids.len()), (20, 20));
}

#[tokio::test]
async fn a_worker_hears_of_a_cancel_on_its_stream_and_on_its_renewal() {
    let sandbox = Sandbox::new().await;
    sandbox.create("t").await;
    let held = token(&sandbox.lease(1, 1).await[0]);
    let mut news = sandbox.namespace.watch_leases(Uid(1));
    let (heard, _) = tokio::join!(news.next(), sandbox.cancel("t"));
    assert_eq!(
        heard,
        Some(Ok(LeaseNews::CancelRequested {
            token: held.clone(),
            reason: "enough".into()
        }))
    );
    assert!(matches!(
        renew(&sandbox, 1, &held).await,
        LeaseStatus::CancelRequested(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_takes_too_long_is_taken_away() {
    let sandbox = Sandbox::new().await;
    let mut limited = task("t");
    limited.policy.max_attempts = 1;
    // Already over when the wall clock, which the paused one does not move, is looked at.
    limited.policy.attempt_timeout_us = 1;
    sandbox.create_task(limited).await.unwrap();
    sandbox.lease(1, 1).await;
    sandbox
        .until(|mirror| {
            mirror
                .tasks
                .rows()
                .all(|row| row.task.status() == Status::Failed)
        })
        .await;
    assert_eq!(
        sandbox.get("t").task.last_failure().unwrap().r#type,
        "timeout"
    );
}

#[tokio::test]
async fn a_damaged_input_ends_its_own_attempt_and_holds_up_no_other() {
    let sandbox = Sandbox::new().await;
    let heavy = |id: &str| Task {
        input: Some(Payload {
            data: vec![7; 1_000].into(),
            ..Payload::default()
        }),
        ..task(id)
    };
    for id in ["t1", "t2", "t3"] {
        sandbox.create_task(heavy(id)).await.unwrap();
    }
    // After a start no input is at hand.
    let sandbox = sandbox.kill_and_restart().await;
    sandbox.create("t4").await;
    let at = sandbox.get("t2").task.input_at;
    let faults = sandbox.store.faults();
    faults.damage(sandbox.namespace.id(), Revision(at));
    let granted = sandbox.lease(1, 4).await;
    let bytes = |input: &Option<bytes::Bytes>| input.as_ref().map_or(0, |input| input.len());
    let given = granted
        .iter()
        .map(|grant| (grant.row.task.id.as_str(), bytes(&grant.input)));
    let expected = [("t1", 1_000), ("t3", 1_000), ("t4", 0)];
    assert_eq!(given.collect::<Vec<_>>(), expected);
    let bad = sandbox.get("t2");
    assert_eq!(bad.task.status(), Status::Failed);
    let failure = bad.task.last_failure().unwrap();
    assert_eq!(failure.category(), FailureCategory::Infrastructure);
    assert_eq!(failure.r#type, "input_damaged");
    assert!(
        failure.message.contains("task t2") && !failure.retryable,
        "{failure:?}"
    );
    // It can still be looked at.
    assert_eq!(sandbox.namespace.aside(&bad).await.unwrap().input, None);
    assert_eq!(sandbox.lease_within(Duration::ZERO, 1, 1).await.len(), 0);
}

#[tokio::test]
async fn an_input_outlives_the_records_that_follow_and_a_restart() {
    let sandbox = Sandbox::new().await;
    let data = bytes::Bytes::from(vec![7; 1_000]);
    let mut asked = task("t");
    asked.input = Some(crate::domain::task::Payload {
        data: data.clone(),
        ..Default::default()
    });
    sandbox.create_task(asked).await.unwrap();
    assert_eq!(sandbox.lease(1, 1).await.len(), 1);
    let row = sandbox.cancel("t").await.unwrap();
    assert!(row.revision > row.created);
    let sandbox = sandbox.kill_and_restart().await;
    let (row, _) = sandbox
        .namespace
        .get_task(&crate::domain::TaskId::trusted("t"))
        .unwrap();
    let aside = sandbox.namespace.aside(&row).await.unwrap();
    assert_eq!(aside.input, Some(data));
}
