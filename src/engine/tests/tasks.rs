use crate::domain::{
    Reason,
    task::{Failure, Outcome, Status},
};

use super::{Sandbox, succeeded, task, token};

#[tokio::test]
async fn a_task_is_leased_finished_and_kept_over_a_restart() {
    let sandbox = Sandbox::new().await;
    sandbox.create("t").await;
    let granted = sandbox.lease(7, 10).await;
    assert_eq!(granted.len(), 1);
    let row = sandbox
        .finish(&token(&granted[0]), succeeded(Vec::new()), Vec::new())
        .await
        .unwrap();
    assert_eq!(row.task.status(), Status::Succeeded);
    let sandbox = sandbox.kill_and_restart().await;
    assert_eq!(*sandbox.get("t"), *row);
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test]
async fn the_same_request_again_finds_the_task_and_another_is_told_that_it_stands() {
    let sandbox = Sandbox::new().await;
    let mut first = task("t");
    first.request_digest = super::Uid(1);
    let row = sandbox.create_task(first.clone()).await.unwrap();
    assert_eq!(
        sandbox.create_task(first.clone()).await.unwrap().task.uid,
        row.task.uid
    );
    first.request_digest = super::Uid(2);
    assert_eq!(
        sandbox.create_task(first).await.unwrap_err().reason,
        Reason::TaskExists
    );
}

#[tokio::test]
async fn a_failure_is_retried_until_the_attempts_are_spent() {
    let sandbox = Sandbox::new().await;
    sandbox.create("t").await;
    for attempt in 1..=3 {
        let granted = sandbox.lease(7, 1).await;
        assert_eq!(granted.len(), 1, "attempt {attempt}");
        let failure = Failure {
            message: format!("no {attempt}"),
            retryable: true,
            ..Failure::default()
        };
        let row = sandbox
            .finish(
                &token(&granted[0]),
                Outcome::Failed(Box::new(failure)),
                Vec::new(),
            )
            .await
            .unwrap();
        assert_eq!(row.task.status() == Status::Failed, attempt == 3);
    }
    let row = sandbox.get("t");
    let messages: Vec<_> = row
        .task
        .attempts
        .iter()
        .map(|a| a.failure.clone().unwrap().message)
        .collect();
    assert_eq!(messages, ["no 1", "no 2", "no 3"]);
    assert_eq!(row.task.last_failure().unwrap().attempt, 3);
}

#[tokio::test]
async fn a_waiting_task_is_cancelled_at_once_and_a_running_one_is_asked() {
    let sandbox = Sandbox::new().await;
    sandbox.create("running").await;
    let granted = sandbox.lease(7, 1).await;
    sandbox.create("waiting").await;
    assert_eq!(
        sandbox.cancel("waiting").await.unwrap().task.status(),
        Status::Cancelled
    );
    assert_eq!(
        sandbox.cancel("running").await.unwrap().task.status(),
        Status::Running
    );
    let row = sandbox
        .finish(&token(&granted[0]), Outcome::Cancelled, Vec::new())
        .await
        .unwrap();
    assert_eq!(row.task.status(), Status::Cancelled);
    assert_eq!(
        sandbox.cancel("gone").await.unwrap_err().reason,
        Reason::TaskNotFound
    );
}

#[tokio::test]
async fn lists_are_paged_newest_first_and_refuse_a_foreign_token() {
    let sandbox = Sandbox::new().await;
    for number in 0..5 {
        sandbox.create(&format!("t{number}")).await;
    }
    let mut seen = Vec::new();
    let mut page_token = String::new();
    let mut positions = std::collections::BTreeSet::new();
    loop {
        let page = sandbox
            .namespace
            .list_tasks(&super::super::TaskFilter::default(), 2, &page_token)
            .unwrap();
        seen.extend(page.items.iter().map(|row| row.task.id.clone()));
        positions.insert(page.position);
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
        sandbox.create(&format!("later-{}", seen.len())).await;
    }
    assert_eq!(seen, ["t4", "t3", "t2", "t1", "t0"]);
    assert_eq!(positions.len(), 1);
    let error = sandbox
        .namespace
        .list_states(2, &page_token, |_, _| ())
        .unwrap_err();
    assert_eq!(error.reason, Reason::PageTokenMismatch);
}
