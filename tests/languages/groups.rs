//! A thousand failures of seven causes in three languages are seven error groups with the right
//! counts, however they came: as the outcome of a task or as a report, with the place or without,
//! and each sent twice.

use std::{collections::BTreeMap, time::Duration};

use duite::{
    client::Client,
    proto::v1::{
        self as pb, error_service_client::ErrorServiceClient,
        task_service_client::TaskServiceClient,
    },
    worker::{TaskContext, TaskFailure, Worker},
};
use tonic::transport::Channel;

use crate::{
    language::{self, Language},
    support::Server,
};

const PARENT: &str = "namespaces/default";

/// A Rust error's type has its path.
const RUST_ERROR: &str = "languages::groups::OutOfRange";

/// A cause, and how often it occurs.
struct Cause {
    /// The queue of its language.
    queue: &'static str,
    /// Its function's name.
    function: &'static str,
    /// What its group must say.
    kind: &'static str,
    location: &'static str,
    /// As outcomes of tasks.
    tasks: usize,
    /// As reports.
    reports: usize,
}

const fn cause(
    queue: &'static str,
    function: &'static str,
    kind: &'static str,
    location: &'static str,
    tasks: usize,
    reports: usize,
) -> Cause {
    Cause {
        queue,
        function,
        kind,
        location,
        tasks,
        reports,
    }
}

const CAUSES: [Cause; 7] = [
    cause("rust", "measure", RUST_ERROR, "groups.rs:measure", 150, 0),
    cause("rust", "cut", RUST_ERROR, "groups.rs:cut", 130, 0),
    cause("python", "parse", "ValueError", "failures.py:parse", 90, 80),
    cause(
        "python",
        "solve",
        "ValueError",
        "failures.py:solve",
        110,
        50,
    ),
    cause("python", "mesh", "MeshError", "failures.py:mesh", 7, 103),
    cause("node", "check", "RangeError", "failures.js:check", 100, 50),
    cause(
        "node",
        "convert",
        "RangeError",
        "failures.js:convert",
        60,
        70,
    ),
];

#[derive(Debug, thiserror::Error)]
#[error("{0} is out of range")]
struct OutOfRange(u64);

fn measure(number: u64) -> Result<(), TaskFailure> {
    Err(OutOfRange(number))?
}

fn cut(number: u64) -> Result<(), TaskFailure> {
    Err(OutOfRange(number))?
}

/// Fails, in one of two functions, on one of two ways there.
async fn solve(task: TaskContext) -> Result<(), TaskFailure> {
    let input: serde_json::Value = task.json()?;
    let number = input["number"].as_u64().expect("a number");
    let function = if input["cause"] == "cut" {
        cut
    } else {
        measure
    };
    let failed = if number.is_multiple_of(2) {
        function(number)
    } else {
        [number].into_iter().try_for_each(function)
    };
    failed.map_err(TaskFailure::permanent)
}

async fn submit(channel: &Channel) {
    let tasks = CAUSES.iter().flat_map(|cause| {
        (0..cause.tasks).map(move |number| {
            let input = serde_json::json!({ "cause": cause.function, "number": number });
            pb::CreateTaskRequest {
                task: Some(pb::Task {
                    r#type: "solve".to_owned(),
                    queue: cause.queue.to_owned(),
                    input: Some(pb::Payload {
                        content_type: "application/json".to_owned(),
                        data: input.to_string().into(),
                        ..pb::Payload::default()
                    }),
                    // Others are of the first attempt, and would be tried again.
                    policy: Some(pb::TaskPolicy {
                        max_attempts: 1,
                        ..pb::TaskPolicy::default()
                    }),
                    ..pb::Task::default()
                }),
                ..pb::CreateTaskRequest::default()
            }
        })
    });
    let request = pb::BatchCreateTasksRequest {
        parent: PARENT.to_owned(),
        requests: tasks.collect(),
    };
    let mut client = TaskServiceClient::new(channel.clone());
    client
        .batch_create_tasks(request)
        .await
        .expect("they are created");
}

fn tasks_of(queue: &str) -> usize {
    let causes = CAUSES.iter().filter(|cause| cause.queue == queue);
    causes.map(|cause| cause.tasks).sum()
}

/// Runs a language's program, which fails as often as it should.
async fn fail(language: &Language, program: &str, server: &Server, queue: &str) {
    let mut command = language.program(program);
    command.arg(server.grpc());
    if queue == "node" {
        command.arg(language::proto_folder());
    }
    command.args([queue, &tasks_of(queue).to_string()]);
    let causes = CAUSES.iter().filter(|cause| cause.queue == queue);
    command.args(causes.map(|cause| format!("{}={}", cause.function, cause.reports)));
    language::run(command).await;
}

async fn groups(channel: &Channel) -> Vec<pb::ErrorGroup> {
    let request = pb::ListErrorGroupsRequest {
        parent: PARENT.to_owned(),
        page_size: 1000,
        ..pb::ListErrorGroupsRequest::default()
    };
    let mut client = ErrorServiceClient::new(channel.clone());
    let page = client.list_error_groups(request).await.expect("a page");
    page.into_inner().groups
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_failures_of_seven_causes_in_three_languages_are_seven_groups() {
    let (Some(python), Some(node)) = (Language::python(), Language::node()) else {
        return;
    };
    let total: usize = CAUSES.iter().map(|cause| cause.tasks + cause.reports).sum();
    assert_eq!(total, 1000);

    let server = Server::start();
    let endpoint = Channel::from_shared(server.addr()).expect("an address");
    let channel = endpoint.connect().await.expect("the server listens");
    submit(&channel).await;
    let client = Client::connect(server.addr()).expect("an address");
    let worker = Worker::builder(client)
        .queues(["rust"])
        .concurrency(100)
        .handler("solve", solve)
        .start()
        .expect("a worker");
    tokio::join!(
        fail(python, "languages/python/failures.py", &server, "python"),
        fail(&node, "languages/node/failures.js", &server, "node"),
        all_failed(&channel, tasks_of("rust")),
    );
    worker.shutdown(Duration::from_secs(10)).await;

    let found: BTreeMap<_, _> = groups(&channel)
        .await
        .into_iter()
        .map(|group| {
            let key = (group.location, group.failure_type);
            assert_eq!(group.task_type, "solve");
            assert_eq!(group.fingerprint.len(), 32);
            (key, group.count)
        })
        .collect();
    let wanted = CAUSES.iter().map(|cause| {
        let key = (cause.location.to_owned(), cause.kind.to_owned());
        (
            key,
            i64::try_from(cause.tasks + cause.reports).expect("few"),
        )
    });
    assert_eq!(found, wanted.collect());
}

/// Waits until the tasks of the queue `rust` have ended.
async fn all_failed(channel: &Channel, tasks: usize) {
    let request = pb::WatchTasksRequest {
        parent: PARENT.to_owned(),
        filter: Some(pb::TaskFilter {
            queues: vec!["rust".to_owned()],
            ..pb::TaskFilter::default()
        }),
        until_terminal: true,
        expected_tasks: i32::try_from(tasks).expect("few"),
        ..pb::WatchTasksRequest::default()
    };
    let mut client = TaskServiceClient::new(channel.clone());
    let watch = client.watch_tasks(request).await.expect("a watch");
    let mut watch = watch.into_inner();
    while watch.message().await.expect("it ends in order").is_some() {}
}
