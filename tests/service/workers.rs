//! WorkerService.

use bytes::Bytes;
use duite::proto::v1::{
    self as pb, lease_status::Disposition, outcome_result::Result as Outcome, task::Status,
    task_outcome::Outcome as Ended,
};

use crate::sandbox::{
    INSTANCE, PARENT, STATE, Sandbox, WRITER, add, echo, entries, expect, integer, item_reason,
    lease_request, output, put, refusal,
};

fn reason_of(outcome: Outcome) -> String {
    match outcome {
        Outcome::Error(error) => item_reason(&error),
        Outcome::Task(task) => panic!("{task:?}"),
    }
}

fn task_of(outcome: Outcome) -> pb::Task {
    match outcome {
        Outcome::Task(task) => task,
        Outcome::Error(error) => panic!("{error:?}"),
    }
}

fn failure(lease: &pb::Lease, retryable: bool) -> pb::TaskOutcome {
    pb::TaskOutcome {
        outcome: Some(Ended::Failure(pb::Failure {
            r#type: "ValueError".into(),
            retryable,
            ..Default::default()
        })),
        ..output(lease, b"")
    }
}

#[tokio::test]
async fn an_old_lease_is_lost_and_its_results_are_refused() {
    let mut server = Sandbox::new().await;
    let old = server.leased("t").await;
    let release = pb::ReleaseLeasesRequest {
        lease_tokens: vec![old.lease_token.clone()],
    };
    server
        .workers
        .release_leases(release.clone())
        .await
        .unwrap();
    // Repeating is safe.
    server.workers.release_leases(release).await.unwrap();
    let new = server.lease().await.remove(0);
    assert_eq!(new.task.as_ref().unwrap().attempt, 1);
    let status = server.renew(&old.lease_token).await;
    assert_eq!(status.disposition(), Disposition::Lost);
    assert_eq!(
        reason_of(server.finish(output(&old, b"")).await),
        "LEASE_LOST"
    );
    let first = task_of(server.finish(output(&new, b"1")).await);
    // The token that ended the attempt is answered with the task as it stands.
    assert_eq!(task_of(server.finish(output(&new, b"2")).await), first);
}

#[tokio::test]
async fn a_retryable_failure_is_followed_by_another_attempt() {
    let mut server = Sandbox::new().await;
    let lease = server.leased("t").await;
    let task = task_of(server.finish(failure(&lease, true)).await);
    assert_eq!(task.status(), Status::Scheduled);
    assert_eq!(task.failure.unwrap().attempt, 1);
    assert!(task.schedule_time.is_some());
    let lease = server.leased("u").await;
    let task = task_of(server.finish(failure(&lease, false)).await);
    assert_eq!(task.status(), Status::Failed);
}

#[tokio::test]
async fn a_running_task_hears_that_it_should_stop() {
    let mut server = Sandbox::new().await;
    let lease = server.leased("t").await;
    let watch = pb::WatchLeasesRequest {
        parent: PARENT.into(),
        worker_id: "worker".into(),
        instance_uid: INSTANCE.into(),
    };
    let mut news = server
        .workers
        .watch_leases(watch)
        .await
        .unwrap()
        .into_inner();
    let cancel = pb::CancelTaskRequest {
        name: lease.task.as_ref().unwrap().name.clone(),
        reason: "enough".into(),
        ..Default::default()
    };
    let task = server
        .tasks
        .cancel_task(cancel)
        .await
        .unwrap()
        .into_inner()
        .task
        .unwrap();
    assert!(task.cancel_requested && task.status() == Status::Running);
    let frame = news.message().await.unwrap().unwrap().frame;
    let Some(pb::watch_leases_response::Frame::Directive(directive)) = frame else {
        panic!("{frame:?}")
    };
    assert_eq!(directive.lease_token, lease.lease_token);
    assert_eq!(directive.disposition(), Disposition::CancelRequested);
    assert_eq!(directive.reason, "enough");
    let status = server.renew(&lease.lease_token).await;
    assert_eq!(status.disposition(), Disposition::CancelRequested);
    let cancelled = pb::TaskOutcome {
        outcome: Some(Ended::Cancelled(true)),
        ..output(&lease, b"")
    };
    assert_eq!(
        task_of(server.finish(cancelled).await).status(),
        Status::Cancelled
    );
}

fn contribution(updates: Vec<pb::KeyUpdate>) -> pb::Contribution {
    pb::Contribution {
        state_name: STATE.into(),
        updates,
    }
}

#[tokio::test]
async fn a_worker_that_does_not_stop_loses_its_lease_after_the_grace_of_the_cancel() {
    let mut server = Sandbox::new().await;
    let millis = |millis: i32| {
        Some(prost_types::Duration {
            seconds: 0,
            nanos: millis * 1_000_000,
        })
    };
    let task = pb::Task {
        policy: Some(pb::TaskPolicy {
            lease_duration: millis(400),
            cancel_grace: millis(600),
            ..Default::default()
        }),
        ..echo()
    };
    let request = pb::CreateTaskRequest {
        parent: PARENT.into(),
        task_id: "t".into(),
        task: Some(task),
        ..Default::default()
    };
    server.tasks.create_task(request).await.unwrap();
    let lease = server.lease().await.remove(0);
    server.renew(&lease.lease_token).await;
    let cancel = pb::CancelTaskRequest {
        name: lease.task.as_ref().unwrap().name.clone(),
        ..Default::default()
    };
    server.tasks.cancel_task(cancel).await.unwrap();
    // It renews all the time and goes on.
    loop {
        let status = server.renew(&lease.lease_token).await;
        match status.disposition() {
            Disposition::CancelRequested => assert!(status.valid_for.unwrap().seconds == 0),
            Disposition::Lost => break,
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let refused = reason_of(server.finish(output(&lease, b"late")).await);
    let task = loop {
        let task = server.get("t").await.unwrap();
        if task.status() != Status::Running {
            break task;
        }
    };
    assert_eq!(refused, "LEASE_LOST");
    assert_eq!(task.status(), Status::Cancelled);
    let message = task.failure.unwrap().message;
    assert!(message.contains("did not end it within 0.6 s"), "{message}");
}

#[tokio::test]
async fn the_attempt_after_a_timeout_begins_when_the_lease_of_the_one_before_is_over() {
    const LIMIT: std::time::Duration = std::time::Duration::from_millis(700);
    let mut server = Sandbox::new().await;
    let task = pb::Task {
        policy: Some(pb::TaskPolicy {
            attempt_timeout: Some(LIMIT.try_into().unwrap()),
            retry_initial_delay: Some(prost_types::Duration {
                seconds: 0,
                nanos: 1_000_000,
            }),
            ..Default::default()
        }),
        ..echo()
    };
    let request = pb::CreateTaskRequest {
        parent: PARENT.into(),
        task_id: "t".into(),
        task: Some(task),
        ..Default::default()
    };
    server.tasks.create_task(request).await.unwrap();
    let first = server.lease().await.remove(0);
    let valid_for = |valid_for: Option<prost_types::Duration>| -> std::time::Duration {
        valid_for.unwrap().try_into().unwrap()
    };
    assert!(valid_for(first.valid_for) <= LIMIT);
    let sent = std::time::Instant::now();
    let status = server.renew(&first.lease_token).await;
    assert_eq!(status.disposition(), Disposition::Held);
    assert!(valid_for(status.valid_for) <= LIMIT);
    let until = sent + valid_for(status.valid_for);
    let wait = pb::LeaseTasksRequest {
        wait: Some(prost_types::Duration {
            seconds: 20,
            nanos: 0,
        }),
        ..lease_request()
    };
    let second = server.workers.lease_tasks(wait).await.unwrap();
    assert!(std::time::Instant::now() >= until, "two leases are valid");
    assert_eq!(second.into_inner().leases.len(), 1);
    let status = server.renew(&first.lease_token).await;
    assert_eq!(status.disposition(), Disposition::Lost);
    let task = server.get("t").await.unwrap();
    let category = task.attempts[0].failure.as_ref().unwrap().category();
    assert_eq!(category, pb::failure::Category::Timeout);
}

#[tokio::test]
async fn contributions_count_once_for_the_task() {
    let mut server = Sandbox::new().await;
    let lease = server.leased("t").await;
    let watch = pb::WatchTasksRequest {
        parent: PARENT.into(),
        filter: Some(pb::TaskFilter {
            names: vec![lease.task.clone().unwrap().name],
            ..Default::default()
        }),
        until_terminal: true,
        ..Default::default()
    };
    let mut frames = server.tasks.watch_tasks(watch).await.unwrap().into_inner();
    let outcome = pb::TaskOutcome {
        contributions: vec![contribution(vec![add("n", 2)])],
        ..output(&lease, b"")
    };
    server.finish(outcome.clone()).await;
    server.finish(outcome).await;
    while frames.message().await.unwrap().is_some() {}
    assert_eq!(entries(&server.state().await.unwrap()), [("n", integer(2))]);
}

#[tokio::test]
async fn what_is_wrong_with_an_outcome_refuses_it_and_changes_nothing() {
    let mut server = Sandbox::new().await;
    let lease = server.leased("t").await;
    let good = || contribution(vec![add("n", 1)]);
    let bad_key = contribution(vec![add("n", 1), put(&"k".repeat(257), integer(1))]);
    let elsewhere = pb::Contribution {
        state_name: "namespaces/other/states/s".into(),
        ..good()
    };
    let outcome = |contributions| pb::TaskOutcome {
        contributions,
        ..output(&lease, b"")
    };
    let mark = pb::WriterMark {
        state_name: STATE.into(),
        writer_id: WRITER.into(),
        sequence: -1,
    };
    static LARGE: [u8; (1 << 20) + 1] = [0; (1 << 20) + 1];
    let wrong = [
        (outcome(vec![bad_key]), "FIELD_INVALID"),
        (outcome(vec![elsewhere]), "FIELD_INVALID"),
        (outcome(vec![good(), good()]), "FIELD_INVALID"),
        (outcome(vec![good(); 17]), "FIELD_INVALID"),
        (
            pb::TaskOutcome {
                contributions: vec![good()],
                ..failure(&lease, false)
            },
            "FIELD_INVALID",
        ),
        (
            pb::TaskOutcome {
                flushed: vec![mark.clone()],
                ..output(&lease, b"")
            },
            "FIELD_INVALID",
        ),
        (
            pb::TaskOutcome {
                outcome: None,
                ..output(&lease, b"")
            },
            "FIELD_INVALID",
        ),
        (
            pb::TaskOutcome {
                lease_token: Bytes::from_static(b"junk"),
                ..output(&lease, b"")
            },
            "LEASE_TOKEN_MALFORMED",
        ),
        (output(&lease, &LARGE), "VALUE_TOO_LARGE"),
    ];
    for (outcome, expected) in wrong {
        assert_eq!(reason_of(server.finish(outcome).await), expected);
    }
    let status = server.renew(&lease.lease_token).await;
    assert_eq!(status.disposition(), Disposition::Held);
    assert!(server.state().await.is_err());
    // A writer that never sent a batch is not waited for.
    let flushed = vec![pb::WriterMark {
        sequence: 0,
        ..mark
    }];
    let outcome = pb::TaskOutcome {
        flushed,
        ..output(&lease, b"")
    };
    assert_eq!(
        task_of(server.finish(outcome).await).status(),
        Status::Succeeded
    );
}

#[tokio::test]
async fn wrong_requests_name_their_reason() {
    let mut server = Sandbox::new().await;
    let lease = server.leased("t").await;
    let workers = &mut server.workers;
    let good = lease_request;
    let wrong = [
        pb::LeaseTasksRequest {
            parent: "default".into(),
            ..good()
        },
        pb::LeaseTasksRequest {
            task_types: Vec::new(),
            ..good()
        },
        pb::LeaseTasksRequest {
            task_types: vec!["a b".into()],
            ..good()
        },
        pb::LeaseTasksRequest {
            queues: vec![String::new()],
            ..good()
        },
        pb::LeaseTasksRequest {
            max_tasks: -1,
            ..good()
        },
        pb::LeaseTasksRequest {
            max_tasks: 1_001,
            ..good()
        },
        pb::LeaseTasksRequest {
            worker_id: String::new(),
            ..good()
        },
        pb::LeaseTasksRequest {
            instance_uid: "me".into(),
            ..good()
        },
        pb::LeaseTasksRequest {
            instance_uid: uuid::Uuid::nil().to_string(),
            ..good()
        },
    ];
    for request in wrong {
        let reason = refusal(workers.lease_tasks(request.clone()).await);
        expect(reason, "FIELD_INVALID", &request);
    }
    let junk = Bytes::from_static(b"junk");
    let renew = |lease_tokens| pb::RenewLeasesRequest {
        lease_tokens,
        worker_id: "worker".into(),
        instance_uid: INSTANCE.into(),
    };
    let malformed = renew(vec![junk.clone()]);
    assert_eq!(
        refusal(workers.renew_leases(malformed).await),
        "LEASE_TOKEN_MALFORMED"
    );
    let many = renew(vec![lease.lease_token; 1_001]);
    assert_eq!(refusal(workers.renew_leases(many).await), "FIELD_INVALID");
    let release = pb::ReleaseLeasesRequest {
        lease_tokens: vec![junk],
    };
    assert_eq!(
        refusal(workers.release_leases(release).await),
        "LEASE_TOKEN_MALFORMED"
    );
    let watch = pb::WatchLeasesRequest {
        parent: PARENT.into(),
        ..Default::default()
    };
    assert_eq!(refusal(workers.watch_leases(watch).await), "FIELD_INVALID");
    let none = pb::FinishTasksRequest::default();
    assert_eq!(refusal(workers.finish_tasks(none).await), "FIELD_INVALID");
}
