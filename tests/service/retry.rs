//! RetryTasks: failed and cancelled tasks repeated.

use std::collections::BTreeSet;

use duite::{
    domain::{Revision, TaskId, task::Event},
    engine::command::{TaskOp, TaskOpKind},
    proto::v1::{
        self as pb, create_task_result::Result as Created, task::Status,
        task_outcome::Outcome as Ended,
    },
};

use crate::sandbox::{PARENT, STATE, Sandbox, echo, item_reason, name, output, refusal};

impl Sandbox {
    async fn failed(&mut self, task: pb::Task, id: &str) -> pb::Task {
        let request = pb::CreateTaskRequest {
            parent: PARENT.into(),
            task_id: id.into(),
            task: Some(task),
            ..Default::default()
        };
        self.tasks.create_task(request).await.unwrap();
        let lease = self.lease().await.remove(0);
        let failure = pb::TaskOutcome {
            outcome: Some(Ended::Failure(pb::Failure::default())),
            ..output(&lease, b"")
        };
        self.finish(failure).await;
        self.get(id).await.unwrap()
    }

    async fn cancel(&mut self, id: &str) {
        let request = pb::CancelTaskRequest {
            name: name(id),
            ..Default::default()
        };
        self.tasks.cancel_task(request).await.unwrap();
    }

    async fn retry(&mut self, request: pb::RetryTasksRequest) -> pb::RetryTasksResponse {
        let response = self.tasks.retry_tasks(request).await.unwrap();
        response.into_inner()
    }
}

fn by(filter: pb::TaskFilter) -> pb::RetryTasksRequest {
    pb::RetryTasksRequest {
        parent: PARENT.into(),
        filter: Some(filter),
        ..Default::default()
    }
}

fn named<const N: usize>(ids: [&str; N]) -> pb::RetryTasksRequest {
    by(pb::TaskFilter {
        names: ids.map(name).into(),
        ..Default::default()
    })
}

fn tasks(response: &pb::RetryTasksResponse) -> Vec<pb::Task> {
    let results = response.results.iter();
    let task = |result: &pb::CreateTaskResult| match result.result.clone() {
        Some(Created::Task(task)) => task,
        other => panic!("{other:?}"),
    };
    results.map(task).collect()
}

fn reasons(response: &pb::RetryTasksResponse) -> Vec<String> {
    let results = response.results.iter();
    let reason = |result: &pb::CreateTaskResult| match &result.result {
        Some(Created::Error(error)) => item_reason(error),
        _ => String::new(),
    };
    results.map(reason).collect()
}

#[tokio::test]
async fn a_failed_task_is_repeated_with_all_that_was_asked_and_stays_as_it_is() {
    let mut server = Sandbox::new().await;
    let asked = pb::Task {
        labels: [("batch".to_owned(), "7".to_owned())].into(),
        state_name: STATE.into(),
        priority: 4,
        policy: Some(pb::TaskPolicy {
            max_attempts: 2,
            ..Default::default()
        }),
        input: Some(pb::Payload {
            content_type: "text/plain".into(),
            data: "work on this".into(),
            ..Default::default()
        }),
        ..echo()
    };
    let first = server.failed(asked, "first").await;
    assert_eq!(first.status(), Status::Failed);
    let answer = server.retry(named(["first"])).await;
    let new = tasks(&answer).remove(0);
    assert_eq!(new.retry_of, first.name);
    assert_eq!((new.status(), new.attempt), (Status::Queued, 0));
    assert_ne!(new.name, first.name);
    let same = |task: &pb::Task| {
        (
            task.r#type.clone(),
            task.queue.clone(),
            task.input.clone(),
            task.labels.clone(),
            task.policy,
            task.state_name.clone(),
            task.priority,
        )
    };
    assert_eq!(same(&new), same(&first));
    assert_eq!(server.get("first").await.unwrap(), first);
    assert!(answer.position.is_some() && answer.next_page_token.is_empty());
    // It runs like any other.
    let lease = server.lease().await.remove(0);
    assert_eq!(lease.task.as_ref().unwrap().name, new.name);
    server.finish(output(&lease, b"done")).await;
}

#[tokio::test]
async fn a_repeated_call_makes_no_more_and_another_is_told_that_it_was_done() {
    let mut server = Sandbox::new().await;
    server.failed(echo(), "t").await;
    let request = pb::RetryTasksRequest {
        request_id: "33333333-3333-4333-8333-333333333333".into(),
        ..named(["t"])
    };
    let first = tasks(&server.retry(request.clone()).await);
    assert_eq!(tasks(&server.retry(request.clone()).await), first);
    assert_eq!(reasons(&server.retry(named(["t"])).await), ["TASK_EXISTS"]);
    // By filter those are left out, so that it can be used again and again.
    let again = server.retry(by(pb::TaskFilter::default())).await;
    assert!(again.results.is_empty() && again.next_page_token.is_empty());
    // If the repetition fails too, that one is repeated.
    let lease = server.lease().await.remove(0);
    let failure = pb::TaskOutcome {
        outcome: Some(Ended::Failure(pb::Failure::default())),
        ..output(&lease, b"")
    };
    server.finish(failure).await;
    let again = tasks(&server.retry(by(pb::TaskFilter::default())).await);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].retry_of, first[0].name);
}

#[tokio::test]
async fn a_call_by_filter_sent_again_does_not_repeat_what_it_made() {
    let mut server = Sandbox::new().await;
    server.failed(echo(), "t").await;
    let request = pb::RetryTasksRequest {
        request_id: "55555555-5555-4555-8555-555555555555".into(),
        ..by(pb::TaskFilter::default())
    };
    let made = tasks(&server.retry(request.clone()).await).remove(0);
    // Its answer was lost, and what it made fails before it is sent again.
    let lease = server.lease().await.remove(0);
    let failure = pb::TaskOutcome {
        outcome: Some(Ended::Failure(pb::Failure::default())),
        ..output(&lease, b"")
    };
    server.finish(failure).await;
    let again = tasks(&server.retry(request.clone()).await);
    assert_eq!(again.len(), 1);
    assert_eq!(
        (&again[0].name, again[0].status()),
        (&made.name, Status::Failed)
    );
    assert!(server.lease().await.is_empty());
    // Another call repeats it.
    let other = server.retry(by(pb::TaskFilter::default())).await;
    assert_eq!(tasks(&other)[0].retry_of, made.name);
}

#[tokio::test]
async fn what_is_named_and_cannot_be_repeated_says_why() {
    let mut server = Sandbox::new().await;
    server.failed(echo(), "failed").await;
    server.create("done").await;
    let lease = server.lease().await.remove(0);
    server.finish(output(&lease, b"")).await;
    server.create("cancelled").await;
    server.cancel("cancelled").await;
    server.create("open").await;
    let request = named(["failed", "done", "open", "none", "cancelled"]);
    let answer = server.retry(request).await;
    let not = "TASK_NOT_RETRYABLE";
    assert_eq!(reasons(&answer), ["", not, not, "TASK_NOT_FOUND", ""]);
    let mut elsewhere = named(["failed"]);
    elsewhere.filter.as_mut().unwrap().queues = vec!["elsewhere".into()];
    assert_eq!(reasons(&server.retry(elsewhere).await), [not]);
    let negative = pb::RetryTasksRequest {
        page_size: -1,
        ..by(pb::TaskFilter::default())
    };
    let refused = refusal(server.tasks.retry_tasks(negative).await);
    assert_eq!(refused, "FIELD_INVALID");
}

#[tokio::test]
async fn a_filter_repeats_page_by_page_what_ended_badly_and_matches() {
    let mut server = Sandbox::new().await;
    let labelled = |value: &str| pb::Task {
        labels: [("batch".to_owned(), value.to_owned())].into(),
        ..echo()
    };
    let mut expected = BTreeSet::new();
    for number in 0..25 {
        let id = format!("t{number}");
        let batch = if number % 5 == 0 { "other" } else { "mine" };
        let task = server.failed(labelled(batch), &id).await;
        if batch == "mine" {
            expected.insert(task.name);
        }
    }
    server.create("open").await;
    let mut request = pb::RetryTasksRequest {
        page_size: 7,
        request_id: "44444444-4444-4444-8444-444444444444".into(),
        ..by(pb::TaskFilter {
            labels: labelled("mine").labels,
            ..Default::default()
        })
    };
    let mut repeated = Vec::new();
    loop {
        let answer = server.retry(request.clone()).await;
        // The answer was lost: the same is told again.
        assert_eq!(tasks(&server.retry(request.clone()).await), tasks(&answer));
        assert!(answer.results.len() <= 7);
        repeated.extend(tasks(&answer).into_iter().map(|task| task.retry_of));
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(repeated.len(), 20);
    assert_eq!(repeated.into_iter().collect::<BTreeSet<_>>(), expected);
    // Statuses that nothing can be repeated of are no error: nothing matches.
    let none = by(pb::TaskFilter {
        statuses: vec![Status::Succeeded.into()],
        ..Default::default()
    });
    assert!(server.retry(none).await.results.is_empty());
}

fn heavy() -> pb::Task {
    pb::Task {
        input: Some(pb::Payload {
            content_type: "application/octet-stream".into(),
            data: vec![7; 1_000_000].into(),
            ..Default::default()
        }),
        ..echo()
    }
}

impl Sandbox {
    /// Tasks with heavy inputs that are cancelled before they begin.
    async fn cancelled(&mut self, count: usize) {
        for number in 0..count {
            let id = format!("t{number}");
            let request = pb::CreateTaskRequest {
                parent: PARENT.into(),
                task_id: id.clone(),
                task: Some(heavy()),
                ..Default::default()
            };
            self.tasks.create_task(request).await.unwrap();
            self.cancel(&id).await;
        }
    }
}

#[tokio::test]
async fn many_heavy_inputs_are_copied_and_the_answer_fits_a_message() {
    let mut server = Sandbox::new().await;
    server.cancelled(20).await;
    let answer = server.retry(by(pb::TaskFilter::default())).await;
    assert_eq!(answer.results.len(), 20);
    let new = &tasks(&answer)[0].name;
    let id = new.rsplit('/').next().unwrap();
    let whole = server.get(id).await.unwrap();
    assert_eq!(whole.input.unwrap().data.len(), 1_000_000);
}

#[tokio::test]
async fn a_damaged_input_is_the_error_of_its_own_task_alone() {
    let mut server = Sandbox::new().await;
    // More than is kept at hand.
    server.cancelled(10).await;
    let id = duite::domain::NamespaceId::trusted("default");
    let namespace = server.engine.existing(&id).unwrap();
    let (row, _) = namespace.get_task(&TaskId::trusted("t0")).unwrap();
    let faults = server.store.faults();
    faults.damage(&id, Revision(row.task.input_at));
    let answer = server.retry(named(["t1", "t0", "t2"])).await;
    assert_eq!(reasons(&answer), ["", "PAYLOAD_DAMAGED", ""]);
    let answer = server.retry(by(pb::TaskFilter::default())).await;
    let mut expected = vec![String::new(); 7];
    expected.push("PAYLOAD_DAMAGED".into());
    assert_eq!(reasons(&answer), expected);
}

#[tokio::test]
async fn a_call_comes_to_an_end_however_many_were_repeated_already() {
    const MANY: usize = 5_100;
    let mut server = Sandbox::new().await;
    for number in 0..5 {
        server.create(&format!("old{number}")).await;
    }
    let ids: Vec<_> = (0..MANY).map(|number| format!("t{number}")).collect();
    for ids in ids.chunks(1_000) {
        let request = |id: &String| pb::CreateTaskRequest {
            task_id: id.clone(),
            task: Some(echo()),
            ..Default::default()
        };
        let request = pb::BatchCreateTasksRequest {
            parent: PARENT.into(),
            requests: ids.iter().map(request).collect(),
        };
        server.tasks.batch_create_tasks(request).await.unwrap();
    }
    let id = duite::domain::NamespaceId::trusted("default");
    let namespace = server.engine.existing(&id).unwrap();
    let cancel = |id: &String| {
        let reason = String::new();
        Ok(TaskOp {
            id: TaskId::trusted(id),
            kind: TaskOpKind::Event(Event::Cancel { reason }),
        })
    };
    let cancelled = namespace.tasks(ids.iter().map(cancel).collect()).await;
    assert!(cancelled.unwrap().iter().all(Result::is_ok));
    let mut request = by(pb::TaskFilter::default());
    let mut repeated = 0;
    loop {
        let answer = server.retry(request.clone()).await;
        repeated += tasks(&answer).len();
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(repeated, MANY);
    for number in 0..5 {
        server.cancel(&format!("old{number}")).await;
    }
    // Behind all that were repeated already.
    request.page_token = String::new();
    let first = server.retry(request.clone()).await;
    assert!(first.results.is_empty() && !first.next_page_token.is_empty());
    request.page_token = first.next_page_token;
    let second = server.retry(request).await;
    assert_eq!(
        (tasks(&second).len(), second.next_page_token.as_str()),
        (5, "")
    );
}
