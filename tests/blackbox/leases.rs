//! A task never runs under two valid leases: whoever gets it next gets it when the lease before is
//! over by the holder's own clock, and what the holder says afterwards is refused.

use std::{
    io::{BufRead, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use duite::proto::v1::{self as pb, outcome_result, task_outcome::Outcome};
use rustix::process::Signal;
use tonic::{Code, transport::Channel};

use crate::{
    support::{self, Running, Server},
    wire::{self, PARENT, Tasks, Workers},
};

/// Where the child finds its server; without it, the child's test is nobody's.
const CHILD: &str = "LEASES_TEST_ADDR";
const LEASE: Duration = Duration::from_millis(1_000);
/// How often each side takes the task from the other.
const HANDOVERS: usize = 4;

async fn submit(channel: &Channel, task_id: &str) {
    let policy = pb::TaskPolicy {
        max_attempts: 100,
        lease_duration: wire::millis(LEASE.as_millis() as u64),
        retry_initial_delay: wire::millis(1),
        retry_max_delay: wire::millis(1),
        ..pb::TaskPolicy::default()
    };
    let request = pb::CreateTaskRequest {
        parent: PARENT.to_owned(),
        task_id: task_id.to_owned(),
        task: Some(pb::Task {
            r#type: "work".to_owned(),
            policy: Some(policy),
            ..pb::Task::default()
        }),
        ..pb::CreateTaskRequest::default()
    };
    Tasks::new(channel.clone())
        .create_task(request)
        .await
        .unwrap();
}

/// One worker process as the server sees it.
struct Worker {
    workers: Workers,
    id: String,
    instance: String,
}

/// A lease, and how long it holds by the clock of whoever holds it.
struct Held {
    lease: pb::Lease,
    until: Instant,
}

impl Worker {
    fn new(channel: &Channel, id: &str) -> Self {
        Self {
            workers: Workers::new(channel.clone()),
            id: id.to_owned(),
            instance: uuid::Uuid::new_v4().to_string(),
        }
    }

    /// Waits for a task.
    async fn lease(&mut self) -> Held {
        let request = pb::LeaseTasksRequest {
            parent: PARENT.to_owned(),
            task_types: vec!["work".to_owned()],
            wait: wire::millis(30_000),
            worker_id: self.id.clone(),
            instance_uid: self.instance.clone(),
            ..pb::LeaseTasksRequest::default()
        };
        let response = self.workers.lease_tasks(request).await.unwrap();
        let received = Instant::now();
        let mut leases = response.into_inner().leases;
        let lease = leases.pop().expect("there is a task to wait for");
        // A worker counts from when it sent; a long poll that waited has no better moment than the
        // answer's, which only makes the lease seem longer.
        let until = received + duration(lease.valid_for);
        Held { lease, until }
    }

    /// How a renewal is answered; a lease that holds is counted from when the renewal was sent.
    async fn renew(&mut self, held: &mut Held) -> pb::lease_status::Disposition {
        let request = pb::RenewLeasesRequest {
            lease_tokens: vec![held.lease.lease_token.clone()],
            worker_id: self.id.clone(),
            instance_uid: self.instance.clone(),
        };
        let sent = Instant::now();
        let response = self.workers.renew_leases(request).await.unwrap();
        let status = response.into_inner().statuses.remove(0);
        let disposition = status.disposition();
        if disposition == pb::lease_status::Disposition::Held {
            held.until = sent + duration(status.valid_for);
        }
        disposition
    }

    /// The code and the text that a result is answered with.
    async fn finish(&mut self, held: &Held, output: &'static str) -> (Code, String) {
        let payload = pb::Payload {
            data: output.into(),
            ..pb::Payload::default()
        };
        let outcome = pb::TaskOutcome {
            lease_token: held.lease.lease_token.clone(),
            outcome: Some(Outcome::Output(payload)),
            ..pb::TaskOutcome::default()
        };
        let request = pb::FinishTasksRequest {
            outcomes: vec![outcome],
            ..pb::FinishTasksRequest::default()
        };
        let response = self.workers.finish_tasks(request).await.unwrap();
        match response.into_inner().results.remove(0).result.unwrap() {
            outcome_result::Result::Task(_) => (Code::Ok, String::new()),
            outcome_result::Result::Error(error) => {
                let details = prost::Message::encode_to_vec(&error);
                let code = Code::from(error.code);
                let status = tonic::Status::with_details(code, error.message, details.into());
                (code, wire::reason(&status))
            }
        }
    }
}

fn duration(duration: Option<prost_types::Duration>) -> Duration {
    let duration = duration.expect("a lease that holds says how long");
    duration.try_into().expect("a short time")
}

#[tokio::test]
async fn a_task_is_given_on_only_when_the_lease_before_is_over() {
    let server = Server::start();
    let channel = wire::connect(&server.addr()).await.unwrap();
    submit(&channel, "contested").await;
    let mut workers = [Worker::new(&channel, "a"), Worker::new(&channel, "b")];
    let mut held = workers[0].lease().await;
    for handover in 0..HANDOVERS {
        let [first, second] = &mut workers;
        // Every other time the lease is accepted, and so holds for its full length.
        if handover % 2 == 0 {
            let disposition = first.renew(&mut held).await;
            assert_eq!(disposition, pb::lease_status::Disposition::Held);
        }
        let mut next = second.lease().await;
        let given = next.until - duration(next.lease.valid_for);
        // The holder's clock began before the server's, by as long as the call took to arrive; the
        // first lease is counted from its answer and so began later by as much.
        let slack = Duration::from_millis(100);
        assert!(
            given + slack >= held.until,
            "given {:?} too early",
            held.until - given
        );
        let lost = pb::lease_status::Disposition::Lost;
        assert_eq!(first.renew(&mut held).await, lost);
        let refused = first.finish(&held, "too late").await;
        assert_eq!(refused, (Code::Aborted, "LEASE_LOST".to_owned()));
        if handover + 1 == HANDOVERS {
            second.renew(&mut next).await;
            assert_eq!(second.finish(&next, "mine").await.0, Code::Ok);
        }
        held = next;
        workers.swap(0, 1);
    }
    assert_eq!(output(&channel, "contested").await, "mine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_worker_process_loses_its_lease_and_its_result_is_refused_when_it_goes_on() {
    let server = Server::start();
    let channel = wire::connect(&server.addr()).await.unwrap();
    submit(&channel, "t").await;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("leases::child_works_until_told_to_finish")
        .env(CHILD, server.addr())
        .stdin(Stdio::piped());
    let mut child = Running::start(&mut command);
    child.stdout_until("child: renewed");
    child.signal(Signal::STOP);

    let mut other = Worker::new(&channel, "other");
    let mut held = other.lease().await;
    let disposition = other.renew(&mut held).await;
    assert_eq!(disposition, pb::lease_status::Disposition::Held);

    child.signal(Signal::CONT);
    child.say("finish");
    let told = child.stdout_until("child: finish was answered");
    assert!(told.ends_with("Aborted LEASE_LOST"), "{told}");
    assert!(child.wait().success());
    assert_eq!(other.finish(&held, "other").await.0, Code::Ok);
    assert_eq!(output(&channel, "t").await, "other");
}

/// What the process does that is stopped: it leases, renews all the time, and finishes when told.
#[test]
#[ignore = "a child process of the test above"]
fn child_works_until_told_to_finish() {
    let Ok(address) = std::env::var(CHILD) else {
        return;
    };
    let (told, mut finish) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = std::io::stdin().lock().read_line(&mut line);
        let _ = told.send(line);
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let channel = wire::connect(&address).await.unwrap();
        let mut worker = Worker::new(&channel, "stopped");
        let mut held = worker.lease().await;
        let mut renewal = tokio::time::interval(LEASE / 10);
        loop {
            tokio::select! {
                _ = &mut finish => break,
                _ = renewal.tick() => {
                    worker.renew(&mut held).await;
                    say("renewed");
                }
            }
        }
        let (code, reason) = worker.finish(&held, "stopped").await;
        say(&format!("finish was answered with {code:?} {reason}"));
    });
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "child: {line}").unwrap();
    out.flush().unwrap();
}

/// What the task gave, once it has ended.
async fn output(channel: &Channel, task: &str) -> String {
    let mut tasks = Tasks::new(channel.clone());
    let request = pb::WatchTasksRequest {
        parent: PARENT.to_owned(),
        filter: Some(pb::TaskFilter {
            names: vec![wire::task_name(task)],
            ..pb::TaskFilter::default()
        }),
        until_terminal: true,
        ..pb::WatchTasksRequest::default()
    };
    let mut frames = tasks.watch_tasks(request).await.unwrap().into_inner();
    let drain = async { while frames.message().await.unwrap().is_some() {} };
    let drained = tokio::time::timeout(support::PATIENCE, drain).await;
    drained.expect("the task ends");
    let request = pb::GetTaskRequest {
        name: wire::task_name(task),
        ..pb::GetTaskRequest::default()
    };
    let task = tasks.get_task(request).await.unwrap().into_inner().task;
    let output = task.unwrap().output.expect("it has succeeded");
    String::from_utf8(output.data.into()).unwrap()
}
