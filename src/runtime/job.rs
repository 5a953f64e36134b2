//! The kinds of background job and what each kind's failure and stop mean.

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

impl JobKind {
    /// What a failure of such a job means.
    pub fn on_failure(self) -> OnFailure {
        match self {
            JobKind::Monitor
            | JobKind::Journal
            | JobKind::Timer
            | JobKind::Server
            | JobKind::Admin => OnFailure::ShutDown,
            JobKind::Task | JobKind::Stream | JobKind::Maintenance | JobKind::Telemetry => {
                OnFailure::Log
            }
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
            JobKind::Timer | JobKind::Admin | JobKind::Stream | JobKind::Maintenance => {
                OnStop::Abort
            }
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
    /// What it last failed with; empty where it never did.
    pub last_failure: String,
    /// Whether it runs now.
    pub running: bool,
}
