//! Workers that vanish or hang: people are told soon, and the task runs again.

use std::time::{Duration, Instant};

use duite::proto::v1::{self as pb, failure::Category, task::Status, watch_tasks_response::Frame};
use rustix::process::Signal;
use tonic::Streaming;

use crate::{
    is_strict,
    support::{PATIENCE, Running, Server, Worker},
    wire::{self, PARENT, Tasks},
};

/// A task as a watch shows it.
struct Watched {
    frames: Streaming<pb::WatchTasksResponse>,
    task: pb::Task,
}

impl Watched {
    async fn new(server: &Server, id: &str) -> Self {
        let channel = wire::connect(&server.addr()).await.unwrap();
        let request = pb::WatchTasksRequest {
            parent: PARENT.to_owned(),
            filter: Some(pb::TaskFilter {
                names: vec![wire::task_name(id)],
                ..pb::TaskFilter::default()
            }),
            ..pb::WatchTasksRequest::default()
        };
        let frames = Tasks::new(channel).watch_tasks(request).await.unwrap();
        Self {
            frames: frames.into_inner(),
            task: pb::Task::default(),
        }
    }

    /// Follows the watch until the task is as wished; says when it was.
    async fn until(&mut self, wish: impl Fn(&pb::Task) -> bool) -> Instant {
        let follow = async {
            while !wish(&self.task) {
                let message = self.frames.message().await.unwrap().unwrap();
                let tasks = match message.frame {
                    Some(Frame::Snapshot(chunk)) => chunk.tasks,
                    Some(Frame::Delta(delta)) => delta.changed,
                    _ => Vec::new(),
                };
                if let Some(task) = tasks.into_iter().next_back() {
                    self.task = task;
                }
            }
        };
        let followed = tokio::time::timeout(PATIENCE, follow).await;
        assert!(followed.is_ok(), "it did not come about: {:?}", self.task);
        Instant::now()
    }
}

fn runs(task: &pb::Task) -> bool {
    task.status() == Status::Running
}

/// Submits a program that runs for a while, and waits until it does: what it has pushed shows that
/// its worker has accepted the lease, which would else go back without costing an attempt.
fn start(server: &Server, id: &str, lease: &str, seconds: &str) {
    let script = format!("echo ::duite up=true; sleep {seconds}");
    let run = ["run", "--detach", "--id", id, "--lease-duration", lease];
    server
        .run(run.into_iter().chain(["--", "sh", "-c", &script]))
        .expect(0);
    let mut watch = Running::start(&mut server.command(["state", "watch", id]));
    watch.stdout_until("up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_s_attempt_is_suspect_within_a_second_and_runs_again_within_ten() {
    let (told_within, again_within) = if is_strict() {
        (Duration::from_secs(1), Duration::from_secs(10))
    } else {
        (Duration::from_secs(3), Duration::from_secs(20))
    };
    let server = Server::start();
    let mut first = Worker::start_with(&server, ["--id", "first"]);
    start(&server, "job", "8s", "15");
    let mut watched = Watched::new(&server, "job").await;
    watched.until(runs).await;
    let _second = Worker::start_with(&server, ["--id", "second"]);
    let killed = Instant::now();
    first.kill9();
    let told = watched.until(|task| task.suspect_time.is_some()).await;
    assert!(runs(&watched.task) && watched.task.worker_id == "first");
    let list = server.run(["task", "list"]).expect(0).stdout;
    assert!(list.contains("running, suspect"), "{list}");
    let again = watched.until(|task| runs(task) && task.attempt == 2).await;
    let (told, again) = (told - killed, again - killed);
    eprintln!("suspect: told after {told:?}, running again after {again:?}");
    assert!(told < told_within, "told only after {told:?}");
    assert!(again < again_within, "running again only after {again:?}");
    let task = &watched.task;
    assert_eq!(
        (task.worker_id.as_str(), &task.suspect_time),
        ("second", &None)
    );
    let lost = task.attempts[0].failure.as_ref().unwrap();
    assert_eq!(lost.category(), Category::LeaseLost);
    assert!(task.attempts[0].end_time.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_pauses_for_less_than_its_lease_keeps_it_and_is_not_suspect_after() {
    let server = Server::start();
    let worker = Worker::start_with(&server, ["--id", "pauses"]);
    start(&server, "job", "8s", "8");
    let mut watched = Watched::new(&server, "job").await;
    watched.until(runs).await;
    // The pause is what is tested; the program that it runs goes on.
    worker.signal(Signal::STOP);
    tokio::time::sleep(Duration::from_secs(4)).await;
    worker.signal(Signal::CONT);
    watched
        .until(|task| {
            assert!(task.attempt == 1, "it has lost its lease: {task:?}");
            task.status() == Status::Succeeded
        })
        .await;
    assert_eq!(watched.task.suspect_time, None);
    assert_eq!(watched.task.attempts.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deaf_worker_is_found_and_is_trusted_again_when_it_renews() {
    let server = Server::start();
    let worker = Worker::start_with(&server, ["--id", "deaf"]);
    // Leases of 16 s are renewed every 4 s, and overdue after 10 s.
    start(&server, "job", "16s", "30");
    let mut watched = Watched::new(&server, "job").await;
    watched.until(runs).await;
    // Its connections stand: only the missing renewal tells.
    worker.signal(Signal::STOP);
    watched.until(|task| task.suspect_time.is_some()).await;
    worker.signal(Signal::CONT);
    watched.until(|task| task.suspect_time.is_none()).await;
    assert!(runs(&watched.task) && watched.task.attempt == 1);
    server.run(["task", "cancel", "job"]).expect(0);
    watched
        .until(|task| task.status() == Status::Cancelled)
        .await;
}
