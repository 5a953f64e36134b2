//! What the server must hold once a client has carried out the scenario, read by another client.

use std::collections::BTreeMap;

use duite::{
    client::Client,
    proto::v1::{
        self as pb, Value, task::Status, task_service_client::TaskServiceClient, value::Kind,
    },
};
use prost::Message;

use crate::{NAMESPACE, support::Server};

/// How the scenario's tasks must have ended. `once` and another like it wait for ever.
const ENDED: [(&str, Status, i32); 7] = [
    ("hello", Status::Succeeded, 1),
    ("heavy", Status::Succeeded, 1),
    ("run", Status::Succeeded, 1),
    ("moved", Status::Succeeded, 1),
    ("waiting", Status::Cancelled, 0),
    ("endless", Status::Cancelled, 1),
    ("fragile", Status::Failed, 2),
];
const WAITING: usize = 2;

pub(crate) async fn check(server: &Server) {
    let tasks = tasks(server).await;
    for (id, status, attempts) in ENDED {
        let task = &tasks[&format!("namespaces/{NAMESPACE}/tasks/{id}")];
        assert_eq!(task.status(), status, "{task:?}");
        assert_eq!(task.attempt, attempts, "{task:?}");
        assert!(!task.flush_incomplete, "{task:?}");
    }
    assert_eq!(tasks.len(), ENDED.len() + WAITING, "{:?}", tasks.keys());
    let waiting = |task: &&pb::Task| task.status() == Status::Queued;
    assert_eq!(tasks.values().filter(waiting).count(), WAITING);

    let client = Client::builder()
        .address(server.addr())
        .namespace(NAMESPACE)
        .build()
        .expect("the address is one");
    // Each of 250 batches counted once, whatever was cut off, repeated or rejected.
    let (progress, _) = client.get_state("progress", &[]).await.expect("it stands");
    let entries = progress.entries;
    let value = |key: &str| {
        let entry = entries.iter().find(|entry| entry.key == key);
        let bytes = entry?.value.clone();
        Value::decode(bytes).expect("a value").kind
    };
    assert_eq!(value("n"), Some(Kind::Integer(250)));
    assert_eq!(value("last"), Some(Kind::Integer(251)));
    assert_eq!(value("done"), Some(Kind::Boolean(true)));
    let monitor = client.get_monitor("progress").await.expect("it stands");
    let monitor = monitor.monitor.expect("a monitor");
    assert_eq!(monitor.writers, 0, "a stream was left open: {monitor:?}");
    assert_eq!(monitor.queued_batches, 0, "{monitor:?}");
}

async fn tasks(server: &Server) -> BTreeMap<String, pb::Task> {
    let mut service = TaskServiceClient::connect(server.addr())
        .await
        .expect("the server is there");
    let request = pb::ListTasksRequest {
        parent: format!("namespaces/{NAMESPACE}"),
        page_size: 1000,
        ..pb::ListTasksRequest::default()
    };
    let page = service.list_tasks(request).await.expect("a page");
    let tasks = page.into_inner().tasks.into_iter();
    tasks.map(|task| (task.name.clone(), task)).collect()
}
