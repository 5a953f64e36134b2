//! Task calls over a connection in memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::TryStreamExt;
use parking_lot::Mutex;

use super::*;
use crate::client::fake::Fake;

#[tokio::test(start_paused = true)]
async fn a_submit_that_is_tried_again_carries_the_same_request_id() {
    let seen = std::sync::Arc::new(Mutex::new(Vec::<CreateTaskRequest>::new()));
    let requests = std::sync::Arc::clone(&seen);
    let create_task = move |request: CreateTaskRequest| {
        let mut requests = requests.lock();
        requests.push(request.clone());
        if requests.len() < 3 {
            return Err(tonic::Status::unavailable("starting"));
        }
        Ok(CreateTaskResponse {
            task: request.task,
            position: None,
        })
    };
    let fake = Fake {
        create_task: Some(Box::new(create_task)),
        ..Fake::default()
    };
    let new = NewTask::new("mesh")
        .json(&serde_json::json!({ "size": 3 }))
        .unwrap()
        .state("run")
        .label("user", "ada")
        .not_before(SystemTime::UNIX_EPOCH)
        .delay(Duration::from_secs(90))
        .max_attempts(5);
    let task = fake.serve().submit(new).await.unwrap();
    assert_eq!(task.state_name, "namespaces/default/states/run");
    assert_eq!(task.input.unwrap().data, r#"{"size":3}"#);
    let seen = seen.lock();
    assert_eq!(seen.len(), 3);
    // The server adds it to its own clock.
    assert_eq!(seen[0].delay.unwrap().seconds, 90);
    assert_eq!(seen[0].task.as_ref().unwrap().schedule_time, None);
    assert!(!seen[0].request_id.is_empty());
    assert!(seen.iter().all(|request| *request == seen[0]));
}

#[tokio::test]
async fn all_pages_of_a_list_are_read_as_one_stream() {
    let calls = AtomicUsize::new(0);
    let list_tasks = move |request: ListTasksRequest| {
        let page = calls.fetch_add(1, Ordering::Relaxed);
        assert_eq!(request.page_token, ["", "1", "2"][page]);
        let named = |name: usize| Task {
            name: format!("{page}.{name}"),
            ..Task::default()
        };
        // A page in the middle may be empty.
        let tasks = if page == 1 {
            vec![]
        } else {
            vec![named(0), named(1)]
        };
        let next_page_token = if page < 2 {
            (page + 1).to_string()
        } else {
            String::new()
        };
        Ok(ListTasksResponse {
            tasks,
            next_page_token,
            position: None,
        })
    };
    let fake = Fake {
        list_tasks: Some(Box::new(list_tasks)),
        ..Fake::default()
    };
    let client = fake.serve();
    let tasks: Vec<Task> = client
        .all_tasks(TaskFilter::default())
        .try_collect()
        .await
        .unwrap();
    let names: Vec<_> = tasks.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(names, ["0.0", "0.1", "2.0", "2.1"]);
}

#[tokio::test]
async fn waiting_for_an_unknown_task_says_so() {
    let get_task = |_| Err(tonic::Status::not_found("no task t1"));
    let fake = Fake {
        get_task: Some(Box::new(get_task)),
        ..Fake::default()
    };
    assert_eq!(
        fake.serve().wait("t1").await.unwrap_err().code(),
        Code::NotFound
    );
}
