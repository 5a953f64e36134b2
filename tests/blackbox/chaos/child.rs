//! The worker process: the worker library with a handler that writes down each run as it goes.

use std::{
    io::BufRead,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use duite::{
    client::{Client, Update, short_name},
    worker::{TaskContext, TaskFailure, Worker},
};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::{
    COUNTS, DONE, LIVE_STATES,
    clock::Base,
    queues,
    records::{Log, file_name},
};

pub(super) const ADDRESS: &str = "CHAOS_TEST_ADDRESS";
pub(super) const WORKER: &str = "CHAOS_TEST_WORKER";
pub(super) const FOLDER: &str = "CHAOS_TEST_FOLDER";

/// Tasks that one process runs at once.
const CONCURRENCY: usize = 4;
/// How often a handler looks at its lease.
const LOOK: Duration = Duration::from_millis(10);
/// A handler that is asked to stop does so at once.
const CANCEL_GRACE: Duration = Duration::from_secs(10);

/// How long an attempt may take of a task that limits it.
pub(super) const LIMIT_MS: u64 = 400;

/// What a task is to do: its input.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Job {
    /// How long it takes.
    pub(super) millis: u64,
    /// The first attempt takes so long that it runs into the task's limit for one.
    pub(super) too_long: bool,
    /// Attempts that fail before one succeeds.
    pub(super) failures: i32,
    /// The first failure is for good.
    pub(super) fails_for_good: bool,
    /// It adds one to the shared count when it succeeds.
    pub(super) contributes: bool,
    /// It writes its progress; the number of the state.
    pub(super) live: Option<usize>,
}

/// What the attempt of a task writes last to its key.
pub(super) fn last_progress(attempt: i32) -> i64 {
    i64::from(attempt) * 1_000 + 999
}

#[test]
#[ignore = "a child process of the test of this module"]
fn works_until_it_is_told_to_stop() {
    let setting = |name| std::env::var(name).ok();
    let (Some(address), Some(worker), Some(folder)) =
        (setting(ADDRESS), setting(WORKER), setting(FOLDER))
    else {
        return;
    };
    // The thread that starts it lives as long as the test.
    set_parent_process_death_signal(Some(Signal::KILL)).expect("the system knows this");
    let log = Log::at(PathBuf::from(folder).join(file_name(&worker)));
    let log = Arc::new(log);
    let (told, stop) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = std::io::stdin().lock().read_line(&mut line);
        match line.trim().parse() {
            Ok(grace) => drop(told.send(Duration::from_millis(grace))),
            // The test is gone.
            Err(_) => std::process::exit(1),
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built");
    runtime.block_on(work(address, worker, log, stop));
}

async fn work(
    address: String,
    worker: String,
    log: Arc<Log>,
    stop: tokio::sync::oneshot::Receiver<Duration>,
) {
    let client = Client::connect(address).expect("an address");
    let base = Base::new();
    let runs = log.clone();
    let worker = Worker::builder(client)
        .worker_id(worker)
        .concurrency(CONCURRENCY)
        .cancel_grace(CANCEL_GRACE)
        .queues(queues::ALL)
        .handler("work", move |task: TaskContext| {
            let log = runs.clone();
            async move { Record::new(task, log, base).run().await }
        })
        .start()
        .expect("a worker starts");
    let grace = stop.await.unwrap_or_default();
    log.line(format_args!("stopping"));
    worker.shutdown(grace).await;
    log.line(format_args!("stopped"));
}

/// One run, written down as it goes; dropped in the middle it says so.
struct Record {
    task: TaskContext,
    log: Arc<Log>,
    base: Base,
    lease: String,
    until: Instant,
    ended: bool,
}

impl Record {
    fn new(task: TaskContext, log: Arc<Log>, base: Base) -> Self {
        let lease: String = task
            .lease_token()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let until = task.lease_until();
        let name = &task.task().name;
        let (attempt, ends) = (task.attempt(), base.nanos(until));
        let given = task.task().attempts.last().and_then(|last| last.start_time);
        let given = given.expect("a lease says since when it is");
        let given = given.seconds * 1_000_000 + i64::from(given.nanos) / 1_000;
        log.line(format_args!(
            "start {lease} {name} {attempt} {ends} {given}"
        ));
        Self {
            task,
            log,
            base,
            lease,
            until,
            ended: false,
        }
    }

    fn look(&mut self) {
        let until = self.task.lease_until();
        if until != self.until {
            self.until = until;
            let ends = self.base.nanos(until);
            self.log.line(format_args!("renewed {} {ends}", self.lease));
        }
    }

    fn end(&mut self, how: &str) {
        self.look();
        self.ended = true;
        let ends = self.base.nanos(self.until);
        self.log
            .line(format_args!("end {} {ends} {how}", self.lease));
    }

    async fn run(mut self) -> Result<serde_json::Value, TaskFailure> {
        let job: Job = self.task.json()?;
        let attempt = self.task.attempt();
        let cancelled = self.task.cancelled();
        let key = short_name(&self.task.task().name).to_owned();
        let live = job.live.map(|state| LIVE_STATES[state]);
        let millis = if job.too_long && attempt == 1 {
            LIMIT_MS * 4
        } else {
            job.millis
        };
        let ends = Instant::now() + Duration::from_millis(millis);
        let mut step = 0;
        while Instant::now() < ends {
            tokio::select! {
                () = sleep(LOOK.min(ends.saturating_duration_since(Instant::now()))) => {}
                () = cancelled.cancelled() => {
                    self.log.line(format_args!("told {}", self.lease));
                    self.end("cancelled");
                    return Err(TaskFailure::cancelled());
                }
            }
            self.look();
            if self.until <= Instant::now() {
                self.end("lapsed");
                return Err(TaskFailure::new(
                    "chaos.lapsed",
                    "the lease is over by its clock",
                ));
            }
            if let Some(live) = live {
                step = (step + 1).min(998);
                let progress = i64::from(attempt) * 1_000 + step;
                self.task.state_named(live).set(key.as_str(), progress);
            }
        }
        if job.fails_for_good {
            self.end("failed");
            return Err(TaskFailure::new("chaos.wanted", "as it was asked to").permanent());
        }
        if attempt <= job.failures {
            self.end("failed");
            let failure = TaskFailure::new("chaos.wanted", "as often as it was asked to");
            return Err(failure.retry_delay(Duration::from_millis(20)));
        }
        if let Some(live) = live {
            let last = last_progress(attempt);
            self.task.state_named(live).set(key.as_str(), last);
        }
        if job.contributes {
            self.task.contribute(COUNTS, [Update::add(DONE, 1)]);
        }
        self.end("succeeded");
        Ok(serde_json::json!({ "lease": self.lease.as_str() }))
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.ended {
            self.end("dropped");
        }
    }
}
