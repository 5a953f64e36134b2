//! What the service asks of a namespace's monitor, and what it answers.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Shared, intake::Session, mirror::TaskRow, token::LeaseToken};
use crate::domain::{
    Error, QueueId, Revision, StateId, TaskId, Uid,
    entry::QueueSettings,
    failure::Report,
    state::{KeyOp, RejectedOp, Settings},
    task::{Event, NewTask},
};

pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// One thing to do to one task.
#[derive(Debug)]
pub struct TaskOp {
    /// Which task.
    pub id: TaskId,
    /// What to do.
    pub kind: TaskOpKind,
}

/// See [`TaskOp`].
#[derive(Debug)]
pub enum TaskOpKind {
    /// Make it; where it stands already with the same request digest, answer with it.
    Create(Box<NewTask>),
    /// An event from a client or worker.
    Event(Event),
}

/// A worker asks for work.
#[derive(Clone, Debug)]
pub struct LeaseRequest {
    /// Where to look.
    pub queues: Vec<String>,
    /// What it can run; empty: anything.
    pub task_types: Vec<String>,
    /// How many at most.
    pub max_tasks: usize,
    /// How long to wait for the first.
    pub wait: Duration,
    /// The worker's name.
    pub worker_id: String,
    /// The worker process.
    pub instance: Uid,
}

/// A worker says that it lives and what it runs.
#[derive(Debug)]
pub struct RenewRequest {
    /// Leases it holds.
    pub tokens: Vec<LeaseToken>,
    /// The worker's name.
    pub worker_id: String,
    /// The worker process.
    pub instance: Uid,
}

/// How a lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseStatus {
    /// It holds for so long from when the request was sent.
    Held(Duration),
    /// It holds, and the task was asked to stop.
    CancelRequested(Duration),
    /// It is over.
    Lost,
}

/// A unary update of a state.
#[derive(Debug)]
pub struct UpdateRequest {
    /// Which state.
    pub state: StateId,
    /// Admitted operations, sequence 1.
    pub ops: Vec<KeyOp>,
    /// What admission refused.
    pub rejected: Vec<RejectedOp>,
    /// Makes a repeat harmless.
    pub request_id: Option<Uid>,
    /// Only at this revision of the state.
    pub expected: Option<Revision>,
    /// Under this lease.
    pub lease: Option<LeaseToken>,
    /// Shown with the keys.
    pub source: String,
}

/// What an update did.
#[derive(Debug)]
pub struct Updated {
    /// The revision it is visible in.
    pub revision: Revision,
    /// Keys that were refused.
    pub rejected: Vec<RejectedOp>,
}

/// What to change of a queue's settings; none: it stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueChange {
    /// See [`QueueSettings::paused`].
    pub paused: Option<bool>,
    /// See [`QueueSettings::max_running`].
    pub max_running: Option<u32>,
    /// See [`QueueSettings::max_running_per_key`].
    pub max_running_per_key: Option<u32>,
}

impl QueueChange {
    /// The settings with the change.
    #[must_use]
    pub fn of(self, settings: QueueSettings) -> QueueSettings {
        QueueSettings {
            paused: self.paused.unwrap_or(settings.paused),
            max_running: self.max_running.unwrap_or(settings.max_running),
            max_running_per_key: self
                .max_running_per_key
                .unwrap_or(settings.max_running_per_key),
        }
    }
}

/// A push stream opens.
#[derive(Debug)]
pub struct OpenRequest {
    /// The state.
    pub state: StateId,
    /// The writer.
    pub writer: Uid,
    /// Under this lease.
    pub lease: Option<LeaseToken>,
    /// Shown with the keys.
    pub source: String,
}

/// What a push stream begins with. Dropped unclaimed (its caller is gone), it closes the session.
#[derive(Debug)]
pub struct Opened {
    /// Durable already.
    pub last_sequence: u64,
    session: Option<Arc<Session>>,
    shared: Arc<Shared>,
}

impl Opened {
    pub(super) fn new(session: Arc<Session>, last_sequence: u64, shared: Arc<Shared>) -> Self {
        Self {
            last_sequence,
            session: Some(session),
            shared,
        }
    }

    /// Where the stream's batches go. Whoever claims it calls [`super::Namespace::leave`].
    #[must_use]
    pub fn claim(mut self) -> Arc<Session> {
        self.session
            .take()
            .expect("a session is taken only here, by value")
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.shared.intake.leave(&session);
        }
    }
}

/// Leases that were given.
#[derive(Debug)]
pub struct Granted {
    /// The task, running.
    pub row: Arc<TaskRow>,
    /// How long the lease holds until it must be accepted.
    pub valid_for: Duration,
    /// The data of its input, where the row does not hold it.
    pub input: Option<Bytes>,
}

#[derive(Debug)]
pub(crate) enum Command {
    Tasks {
        ops: Vec<Result<TaskOp, Error>>,
        reply: Reply<Vec<Result<Arc<TaskRow>, Error>>>,
    },
    Lease(LeaseRequest, Reply<Vec<Granted>>),
    Renew(RenewRequest, Reply<Vec<LeaseStatus>>),
    Update(UpdateRequest, Reply<Updated>),
    DeleteState {
        state: StateId,
        uid: Option<Uid>,
        reply: Reply<Revision>,
    },
    StateSettings {
        state: StateId,
        settings: Settings,
        reply: Reply<Revision>,
    },
    SetQueue {
        queue: QueueId,
        change: QueueChange,
        reply: Reply<Revision>,
    },
    /// At most [`crate::domain::limits::MAX_REPORTS_PER_CALL`].
    Report(Vec<Report>, Reply<Revision>),
    OpenWriter(OpenRequest, Reply<Opened>),
    /// A push stream under this lease is alive.
    KeepAlive(LeaseToken),
}
