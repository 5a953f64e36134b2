//! How soon a server is ready and what it holds: empty, and with many finished tasks on disk.
//!
//! With `DUITE_STRICT=1` the figures are those promised of a release build, which `DUITE_BIN` names;
//! run it alone (`--test-threads=1`). Otherwise the bounds are wide: they catch what is out of all
//! proportion.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use duite::{
    domain::{
        Entry, NamespaceId, Uid,
        task::{Attempt, AttemptEnd, Label, Phase, Policy, Status, Task, Terminal},
    },
    journal::{Draft, Durability, LocalStore, Store},
    proto::v1 as pb,
};

use crate::{
    is_strict,
    support::Server,
    wire::{self, PARENT, Tasks},
};

const MEGABYTE: f64 = 1_048_576.0;
/// Records that are appended in one group.
const GROUP: usize = 5_000;
/// Starts of which the best counts: the promise is about the server, not about what else runs.
const STARTS: usize = 5;

#[tokio::test]
async fn an_idle_server_is_small_and_ready_at_once() {
    let (most_megabytes, most_time) = if is_strict() {
        (25.0, Duration::from_millis(200))
    } else {
        (60.0, Duration::from_secs(2))
    };
    let starts: Vec<_> = (0..STARTS)
        .map(|_| {
            let server = Server::start();
            let megabytes = server.resident_bytes() as f64 / MEGABYTE;
            (server.ready_after(), megabytes)
        })
        .collect();
    let soonest = starts.iter().map(|start| start.0).min().unwrap();
    let largest = starts.iter().map(|start| start.1).fold(0.0, f64::max);
    eprintln!("idle: ready after {soonest:?} at best of {STARTS}, {largest:.1} MB at most");
    assert!(soonest < most_time, "ready only after {soonest:?}");
    assert!(largest < most_megabytes, "{largest:.1} MB idle");
}

/// What grpcurl does without files: asks the address it calls, in the version that it knows.
#[tokio::test]
async fn the_address_of_the_calls_tells_what_can_be_called_unless_told_not_to() {
    use tonic_reflection::pb::{v1, v1alpha};

    let server = Server::start();
    let channel = wire::connect(&server.addr()).await.unwrap();
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1::server_reflection_request::MessageRequest::FileContainingSymbol(
                "duite.v1.TaskService".to_owned(),
            ),
        ),
    };
    let mut newer = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let answers = newer
        .server_reflection_info(futures_util::stream::iter([request]))
        .await;
    let answer = answers
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap();
    let Some(v1::server_reflection_response::MessageResponse::FileDescriptorResponse(files)) =
        answer.message_response
    else {
        panic!("{answer:?}");
    };
    assert!(!files.file_descriptor_proto.is_empty());

    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
    };
    let mut older = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let answers = older
        .server_reflection_info(futures_util::stream::iter([request]))
        .await;
    assert!(
        answers
            .unwrap()
            .into_inner()
            .message()
            .await
            .unwrap()
            .is_some()
    );

    let silent = Server::start_with(["--reflection", "off"]);
    let channel = wire::connect(&silent.addr()).await.unwrap();
    let mut refused = v1::server_reflection_client::ServerReflectionClient::new(channel);
    let nothing = futures_util::stream::iter(Vec::<v1::ServerReflectionRequest>::new());
    let status = refused.server_reflection_info(nothing).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unimplemented);
}

#[tokio::test]
async fn a_server_with_many_finished_tasks_is_ready_soon() {
    let count = if is_strict() { 1_000_000 } else { 20_000 };
    let folder = tempfile::tempdir().unwrap();
    let filling = Instant::now();
    fill(&folder.path().join("data"), count).await;
    let filling = filling.elapsed();
    let server = Server::start_in::<&str>(folder, []);
    let ready_after = server.ready_after();
    eprintln!(
        "{count} finished tasks (written in {:.1} s): ready after {ready_after:?}, {:.1} MB",
        filling.as_secs_f64(),
        server.resident_bytes() as f64 / MEGABYTE
    );

    // Ready means that it knows them: the first, the last, and that they have ended.
    let mut tasks = Tasks::new(wire::connect(&server.addr()).await.unwrap());
    for number in [0, count - 1] {
        let request = pb::GetTaskRequest {
            name: wire::task_name(&id_of(number)),
            ..pb::GetTaskRequest::default()
        };
        let response = tasks.get_task(request).await.unwrap().into_inner();
        let task = response.task.unwrap();
        assert_eq!(task.status(), pb::task::Status::Succeeded);
    }
    let request = pb::ListTasksRequest {
        parent: PARENT.to_owned(),
        ..pb::ListTasksRequest::default()
    };
    let page = tasks.list_tasks(request).await.unwrap().into_inner();
    assert_eq!(page.tasks[0].name, wire::task_name(&id_of(count - 1)));
    assert!(
        ready_after < Duration::from_secs(5),
        "ready only after {ready_after:?} with {count} finished tasks"
    );
}

fn id_of(number: usize) -> String {
    format!("task-{number:07}")
}

/// Makes a data folder as a server leaves it that has run so many tasks.
async fn fill(data: &Path, count: usize) {
    let store = LocalStore::open(data, Durability::Sync).unwrap();
    let journal = Store::open(&store, &NamespaceId::parse("default").unwrap()).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now_us = i64::try_from(now.unwrap().as_micros()).unwrap();
    for first in (0..count).step_by(GROUP) {
        let group = (first..count.min(first + GROUP)).map(|number| Draft {
            entry: Entry::Task(Box::new(finished(number, now_us))),
            expect: None,
            supersedes: Vec::new(),
        });
        journal.append(group.collect()).await.unwrap();
    }
    drop(journal);
    store.close().unwrap();
}

/// A record like that of a small task which succeeded at its first attempt.
fn finished(number: usize, now_us: i64) -> Task {
    let uid = Uid(0x0190_0000_0000_7000_8000_0000_0000_0000 + number as u128);
    let attempt = Attempt {
        number: 1,
        fence: 1,
        secret: number as u64,
        worker_id: "worker-1".to_owned(),
        instance_uid: uid,
        start_us: now_us,
        end_us: now_us,
        end: AttemptEnd::Finished as i32,
        ..Attempt::default()
    };
    Task {
        id: id_of(number),
        uid,
        r#type: "resize".to_owned(),
        queue: "default".to_owned(),
        labels: vec![Label {
            key: "customer".to_owned(),
            value: format!("c{}", number % 100),
        }],
        policy: Policy {
            max_attempts: 3,
            lease_us: 8_000_000,
            retry_initial_us: 1_000_000,
            retry_max_us: 300_000_000,
            retention_us: 86_400_000_000,
            ..Policy::default()
        },
        request_digest: Uid(7),
        create_us: now_us,
        end_us: now_us,
        expire_us: now_us + 86_400_000_000,
        attempts_spent: 1,
        fence: 1,
        attempts: vec![attempt],
        phase: Some(Phase::Terminal(Terminal {
            status: Status::Succeeded as i32,
        })),
        ..Task::default()
    }
}
