//! `duite bench cancel`: how soon a running handler hears that it should stop.
//!
//! A worker of the library in this process runs as many tasks as asked for, each waiting for its
//! token. They are cancelled one by one at a steady rate; each that ends is followed by another.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use clap::Args;
use tokio::{sync::mpsc, time::MissedTickBehavior};
use tonic::transport::Channel;
use uuid::Uuid;

use super::{
    Error,
    args::CommonArgs,
    measure::Latency,
    payload,
    session::{Session, connect},
    wait,
};
use crate::{
    client::Client,
    proto::v1::{CancelTaskRequest, task_service_client::TaskServiceClient},
    worker::{TaskContext, TaskFailure, Worker},
};

const CREATE: &str = "CreateTask";
const CANCEL: &str = "CancelTask";
/// How long any one task may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the worker may take to tell its last results.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Args, Debug)]
pub(super) struct CancelArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Tasks to cancel
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    cancels: u32,
    /// Tasks that run at once
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    running: u16,
    /// Cancels sent each second
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    per_second: u32,
}

pub(super) async fn run(args: CancelArgs) -> Result<(), Error> {
    let title = format!(
        "cancel: {} of {} running tasks, {} a second",
        args.cancels, args.running, args.per_second
    );
    let mut session = Session::start(&args.common, title).await?;
    session.require_calls().await?;
    measure(&args, &mut session).await?;
    session.finish().await
}

async fn measure(args: &CancelArgs, session: &mut Session) -> Result<(), Error> {
    let queue = format!("bench-{}", Uuid::new_v4().simple());
    let address = session.target.address();
    let channel = connect(address).await?;
    let (told, seen) = mpsc::channel(args.running.into());
    let worker = Worker::builder(Client::connect(address)?)
        .queues([queue.clone()])
        .concurrency(args.running.into())
        .handler("bench.noop", move |task| {
            wait_for_cancel(task, told.clone())
        })
        .start()?;
    session.progress.step("cancelling");
    let mut driver = Driver {
        client: TaskServiceClient::new(channel),
        queue,
        started: VecDeque::new(),
        sent: HashMap::new(),
        submitted: 0,
        latency: Latency::new(),
    };
    let result = driver.drive(args, seen).await;
    worker.shutdown(GRACE).await;
    result?;
    let report = &mut session.report;
    report.add("cancels", "cancels heard", driver.latency.count() as f64);
    let what = "CancelTask sent to the handler's token";
    report.add_latency("", what, &driver.latency);
    Ok(())
}

/// What a handler says of its task.
enum Seen {
    Started(String),
    /// Its token fired then.
    Heard(String, Instant),
}

async fn wait_for_cancel(task: TaskContext, told: mpsc::Sender<Seen>) -> Result<(), TaskFailure> {
    let name = task.task().name.clone();
    // Nobody listens any more: the run has failed.
    let _ = told.send(Seen::Started(name.clone())).await;
    task.cancelled().cancelled().await;
    let at = Instant::now();
    let _ = told.send(Seen::Heard(name, at)).await;
    Err(TaskFailure::cancelled())
}

struct Driver {
    client: TaskServiceClient<Channel>,
    queue: String,
    /// Tasks that run and were not cancelled.
    started: VecDeque<String>,
    /// When each was cancelled.
    sent: HashMap<String, Instant>,
    submitted: u32,
    latency: Latency,
}

impl Driver {
    async fn drive(
        &mut self,
        args: &CancelArgs,
        mut seen: mpsc::Receiver<Seen>,
    ) -> Result<(), Error> {
        let all = usize::from(args.running).min(args.cancels as usize);
        for _ in 0..all {
            self.submit().await?;
        }
        let mut pace = tokio::time::interval(Duration::from_secs(1) / args.per_second);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // All run before the first is cancelled.
        let mut begun = false;
        while self.latency.count() < u64::from(args.cancels) {
            begun |= self.started.len() == all;
            tokio::select! {
                seen = next(&mut seen) => match seen? {
                    Seen::Started(name) => self.started.push_back(name),
                    Seen::Heard(name, at) => {
                        if let Some(sent) = self.sent.remove(&name) {
                            self.latency.record(at.saturating_duration_since(sent));
                        }
                        if self.submitted < args.cancels {
                            self.submit().await?;
                        }
                    }
                },
                _ = pace.tick(), if begun && !self.started.is_empty() => self.cancel().await?,
            }
        }
        Ok(())
    }

    async fn submit(&mut self) -> Result<(), Error> {
        self.submitted += 1;
        let request = payload::create_task(&self.queue);
        let created = self.client.create_task(request).await;
        created.map(drop).map_err(Error::call(CREATE))
    }

    async fn cancel(&mut self) -> Result<(), Error> {
        let Some(name) = self.started.pop_front() else {
            return Ok(());
        };
        let request = CancelTaskRequest {
            name: name.clone(),
            ..CancelTaskRequest::default()
        };
        self.sent.insert(name, Instant::now());
        let cancelled = self.client.cancel_task(request).await;
        cancelled.map(drop).map_err(Error::call(CANCEL))
    }
}

async fn next(seen: &mut mpsc::Receiver<Seen>) -> Result<Seen, Error> {
    let what = "the start or the stop of a task";
    wait::at_most(PATIENCE, what, async {
        seen.recv().await.ok_or(Error::Panicked)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::fake;

    #[tokio::test]
    async fn every_cancel_is_heard_and_timed() {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            cancel: CancelArgs,
        }
        let address = fake::start().await;
        let line = "cancel --no-ceiling --cancels 30 --running 4 --per-second 1000";
        let line = line.split(' ').chain(["--addr", &address]);
        let args = <Cli as clap::Parser>::parse_from(line).cancel;
        let mut session = Session::start(&args.common, "cancel".to_owned())
            .await
            .unwrap();
        measure(&args, &mut session).await.unwrap();
        let value = |field| session.report.value(field).unwrap();
        assert_eq!(value("cancels"), 30.0);
        assert!(value("p99_us") >= value("p50_us") && value("p50_us") > 0.0);
    }
}
