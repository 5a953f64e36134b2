//! The kinds of background job and what each kind's failure and stop mean.

use std::time::SystemTime;

use super::{failure::TaskError, restart::Backoff};

/// What a background job is for. The kind decides what its failure does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JobKind {
    /// A task of [`create_task`](super::create_task) or [`decorate_task`](super::decorate_task).
    Task,
    /// Merges queued batches into states; the one owner of a namespace's mirror.
    Monitor,
    /// Writes or reads the journal.
    Journal,
    /// Fires lease, retry, retention and schedule times.
    Timer,
    /// Serves the public gRPC address.
    Server,
    /// Serves health, reflection and metrics.
    Admin,
    /// Serves one long-lived stream.
    Stream,
    /// Answers a call. Calls are not listed; of those that panic the failures are counted.
    Call,
    /// Compaction, snapshots, pruning: late is better than never.
    Maintenance,
    /// Sends telemetry.
    Telemetry,
}

/// What follows from a job's failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// It is logged and counted; everything else goes on.
    Log,
    /// The same, and it is started again after a pause; where that is given up, as for
    /// [`OnFailure::ShutDown`]. Of a job that was not started by
    /// [`Registry::spawn_restarting`](super::Registry::spawn_restarting) it is given up at once.
    Restart(Backoff),
    /// The process cannot do its work without it: the registry's token is cancelled.
    ShutDown,
}

/// What [`Registry::stop`](super::Registry::stop) does with a job that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStop {
    /// It is waited for: it has something to finish.
    Wait,
    /// It is aborted: nothing is lost with it.
    Abort,
}

impl OnFailure {
    /// The word for it in ListBackgroundJobs.
    pub fn as_str(self) -> &'static str {
        match self {
            OnFailure::Log => "log",
            OnFailure::Restart(_) => "restart",
            OnFailure::ShutDown => "shut_down",
        }
    }
}

impl JobKind {
    /// What a failure of such a job means.
    pub fn on_failure(self) -> OnFailure {
        match self {
            // A panic is a fault of the code at one place: the journal has everything, so the mirror
            // is made anew and all else goes on. An error is the journal's word that nobody can tell
            // what it holds; only opening it again helps.
            JobKind::Monitor => OnFailure::Restart(Backoff {
                panics_only: true,
                give_up: Some(5),
                ..Backoff::FOR_EVER
            }),
            // Nothing is lost by trying again; but without its timers the server would look alive.
            JobKind::Timer => OnFailure::Restart(Backoff {
                give_up: Some(10),
                ..Backoff::FOR_EVER
            }),
            // What was handed to the disk and not answered is known to nobody in this process.
            JobKind::Journal => OnFailure::ShutDown,
            // The listener is gone with it, and another process may have the port by now; whoever
            // looks after the server starts it again.
            JobKind::Server | JobKind::Admin => OnFailure::ShutDown,
            // Late is better than never, and never is better than no server.
            JobKind::Maintenance | JobKind::Telemetry => OnFailure::Restart(Backoff::FOR_EVER),
            // Somebody waits for each and is told; trying again is theirs.
            JobKind::Task | JobKind::Stream | JobKind::Call => OnFailure::Log,
        }
    }

    /// Whether the server stops where the job has failed for good.
    pub(super) fn is_needed(self) -> bool {
        match self.on_failure() {
            OnFailure::Log => false,
            OnFailure::Restart(backoff) => backoff.give_up.is_some(),
            OnFailure::ShutDown => true,
        }
    }

    /// What stopping means for such a job.
    pub fn on_stop(self) -> OnStop {
        match self {
            JobKind::Monitor
            | JobKind::Journal
            | JobKind::Server
            | JobKind::Telemetry
            | JobKind::Task => OnStop::Wait,
            JobKind::Timer
            | JobKind::Admin
            | JobKind::Stream
            | JobKind::Call
            | JobKind::Maintenance => OnStop::Abort,
        }
    }

    /// The word for it in logs and in ListBackgroundJobs.
    pub fn as_str(self) -> &'static str {
        match self {
            JobKind::Task => "task",
            JobKind::Monitor => "monitor",
            JobKind::Journal => "journal",
            JobKind::Timer => "timer",
            JobKind::Server => "server",
            JobKind::Admin => "admin",
            JobKind::Stream => "stream",
            JobKind::Call => "call",
            JobKind::Maintenance => "maintenance",
            JobKind::Telemetry => "telemetry",
        }
    }
}

/// One line of ListBackgroundJobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobReport {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub kind: JobKind,
    /// How often it was started again under this name.
    pub restarts: u64,
    /// How often it failed or panicked.
    pub failures: u64,
    /// What it last failed with; empty where it never did.
    pub last_failure: String,
    /// Whether it runs now.
    pub running: bool,
}

/// How the jobs of one kind have fared since the registry was made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct KindCounts {
    /// Run now.
    pub running: u64,
    /// Were started, those started again included.
    pub started: u64,
    /// Returned an error.
    pub failed: u64,
    /// Panicked.
    pub panicked: u64,
    /// Were aborted, or dropped with their runtime.
    pub cancelled: u64,
    /// Were started again after a failure.
    pub restarts: u64,
}

impl KindCounts {
    /// Adds those of another registry.
    pub(crate) fn add(&mut self, other: Self) {
        let Self {
            running,
            started,
            failed,
            panicked,
            cancelled,
            restarts,
        } = other;
        self.running += running;
        self.started += started;
        self.failed += failed;
        self.panicked += panicked;
        self.cancelled += cancelled;
        self.restarts += restarts;
    }
}

/// A failure as it is handed on: see [`Registry::on_failure`](super::Registry::on_failure).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFailure {
    /// The job's name.
    pub name: String,
    /// What it is for.
    pub kind: JobKind,
    /// An error or a panic, never that it was cancelled.
    pub error: TaskError,
    /// When.
    pub time: SystemTime,
}
