//! The pattern of `examples/checkpoint.rs`: the attempt that follows a lost one goes on where that
//! one stopped.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use duite::{client::Client, proto::v1::task::Status as TaskStatus};
use rustix::process::Signal;

use crate::support::{Running, Server};

#[allow(dead_code, unreachable_pub, reason = "a program of its own")]
#[path = "../../examples/checkpoint.rs"]
mod example;

/// Where the child finds its server; without it, the child's test is nobody's.
const CHILD: &str = "CHECKPOINT_TEST_ADDR";
const STEPS: i64 = 60;

fn worker(server: &Server) -> Running {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("checkpoint::child_works_until_it_is_killed")
        .env(CHILD, server.addr())
        .stdin(Stdio::null());
    Running::start(&mut command)
}

/// The worker process.
#[tokio::test]
#[ignore = "a child process of the tests below"]
async fn child_works_until_it_is_killed() {
    let Ok(address) = std::env::var(CHILD) else {
        return;
    };
    let client = Client::connect(address).unwrap();
    let worker = example::worker(client).unwrap();
    let mut stop = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    stop.as_mut().unwrap().recv().await;
    worker.shutdown(Duration::ZERO).await;
}

/// The step of a line that the example prints.
fn step(line: &str) -> i64 {
    let step = line.rsplit(' ').next().and_then(|step| step.parse().ok());
    step.unwrap_or_else(|| panic!("no step: {line}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_attempt_after_a_lost_one_goes_on_from_its_checkpoint() {
    let server = Server::start();
    let client = Client::connect(server.addr()).unwrap();
    let mut first = worker(&server);
    let task = client.submit(example::task(STEPS).unwrap()).await.unwrap();
    first.stdout_until("attempt 1 does step 20");
    // The second step after it begins: what it saved by then is on its way for long.
    let killed_at = step(&first.stdout_until("attempt 1 does step 24"));
    first.signal(Signal::KILL);
    first.wait();

    let mut second = worker(&server);
    let resumed_at = step(&second.stdout_until("attempt 2 does step "));
    assert!(
        resumed_at > 10 && resumed_at <= killed_at + 2,
        "attempt 1 was killed at step {killed_at}, attempt 2 began with step {resumed_at}"
    );
    second.stdout_until(&format!("attempt 2 does step {STEPS}"));
    let ended = client.wait(&task.name).await.unwrap();
    assert_eq!((ended.status(), ended.attempt), (TaskStatus::Succeeded, 2));
    let output = ended.output.unwrap();
    let output: serde_json::Value = serde_json::from_slice(&output.data).unwrap();
    assert_eq!(output["begun_after"], resumed_at - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_was_given_back_costs_nothing_and_its_work_is_not_repeated() {
    let server = Server::start();
    let client = Client::connect(server.addr()).unwrap();
    let mut first = worker(&server);
    let task = client.submit(example::task(STEPS).unwrap()).await.unwrap();
    let stopped_at = step(&first.stdout_until("attempt 1 does step 24"));
    first.signal(Signal::TERM);
    first.wait();

    let mut second = worker(&server);
    let resumed_at = step(&second.stdout_until("attempt 1 does step "));
    assert!(
        resumed_at > 10 && resumed_at <= stopped_at + 2,
        "attempt 1 was given back at step {stopped_at}, and went on with step {resumed_at}"
    );
    let ended = client.wait(&task.name).await.unwrap();
    assert_eq!((ended.status(), ended.attempt), (TaskStatus::Succeeded, 1));
}
