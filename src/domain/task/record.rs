//! The whole of a task, as the journal stores it: each transition replaces the record.
//!
//! The structs derive `prost::Message`, so the record is its own storage format: a field keeps its
//! tag for ever, a new one gets a new tag. Times are microseconds since the Unix epoch, for people;
//! no decision about a lease is made from them.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use crate::domain::{
    id::{Digest, Revision, Uid},
    limits::DEFAULT_CANCEL_GRACE,
};

/// An input of more bytes is not kept in memory, but read back for the worker that wants it.
pub const MAX_INPUT_AT_HAND: usize = 64;
/// An output of more bytes is not kept in memory. Lists and watches show what is.
pub const MAX_OUTPUT_AT_HAND: usize = 1 << 10;

/// Where a task stands, as clients see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Status {
    /// Waits for a time: a delay or a retry.
    Scheduled = 1,
    /// Ready to be leased.
    Queued = 2,
    /// Leased; a finishing task is still running to clients.
    Running = 3,
    /// Ended well.
    Succeeded = 4,
    /// Ended by its last failure.
    Failed = 5,
    /// Ended on request.
    Cancelled = 6,
}

impl std::fmt::Display for Status {
    /// As the API has it, without its prefix.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Scheduled => "SCHEDULED",
            Self::Queued => "QUEUED",
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        })
    }
}

impl Status {
    /// A terminal status never changes.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// Opaque data with its type: an input, an output, details of a failure.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Payload {
    /// A media type such as `application/json`.
    #[prost(string, tag = "1")]
    pub content_type: String,
    /// The data.
    #[prost(bytes = "bytes", tag = "2")]
    pub data: Bytes,
    /// What the sender added.
    #[prost(btree_map = "string, string", tag = "3")]
    pub metadata: BTreeMap<String, String>,
}

/// W3C trace context stored with the work.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TraceContext {
    /// `traceparent`.
    #[prost(string, tag = "1")]
    pub traceparent: String,
    /// `tracestate`.
    #[prost(string, tag = "2")]
    pub tracestate: String,
}

/// Limits and retry rules; every field is resolved when the task is created.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Policy {
    /// Attempts in all, at least 1.
    #[prost(uint32, tag = "1")]
    pub max_attempts: u32,
    /// Longest attempt in microseconds; 0: no limit.
    #[prost(uint64, tag = "2")]
    pub attempt_timeout_us: u64,
    /// Longest life from creation to end in microseconds; 0: no limit.
    #[prost(uint64, tag = "3")]
    pub total_timeout_us: u64,
    /// How long an accepted lease holds without a renewal, microseconds.
    #[prost(uint64, tag = "4")]
    pub lease_us: u64,
    /// Delay before the first retry, microseconds; doubles with each.
    #[prost(uint64, tag = "5")]
    pub retry_initial_us: u64,
    /// Longest delay before a retry, microseconds.
    #[prost(uint64, tag = "6")]
    pub retry_max_us: u64,
    /// How long the task is kept after its end, microseconds.
    #[prost(uint64, tag = "7")]
    pub retention_us: u64,
    /// How long a running task that was asked to stop may go on being renewed, microseconds; 0,
    /// as in records of before there was this field: [`DEFAULT_CANCEL_GRACE`].
    #[prost(uint64, tag = "8")]
    pub cancel_grace_us: u64,
    /// How long the task is kept after its end however many others are, microseconds.
    #[prost(uint64, tag = "9")]
    pub least_retention_us: u64,
}

impl Policy {
    /// How long a running task that was asked to stop may go on being renewed.
    #[must_use]
    pub fn cancel_grace(&self) -> Duration {
        match self.cancel_grace_us {
            0 => DEFAULT_CANCEL_GRACE,
            micros => Duration::from_micros(micros),
        }
    }
}

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum FailureCategory {
    /// Raised by the task's own code.
    Application = 1,
    /// Took longer than its policy allows.
    Timeout = 2,
    /// Stopped on request.
    Cancelled = 3,
    /// The worker vanished or was fenced.
    LeaseLost = 4,
    /// Out of memory, disk or quota.
    Resource = 5,
    /// Ours, not the task's.
    Infrastructure = 6,
}

/// The structured account of what went wrong in one attempt.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Failure {
    /// See [`FailureCategory`].
    #[prost(enumeration = "FailureCategory", tag = "1")]
    pub category: i32,
    /// Low cardinality; becomes `error.type`.
    #[prost(string, tag = "2")]
    pub r#type: String,
    /// For people.
    #[prost(string, tag = "3")]
    pub message: String,
    /// Where it was raised.
    #[prost(string, tag = "4")]
    pub stack_trace: String,
    /// Such as `rust/1.95`.
    #[prost(string, tag = "5")]
    pub runtime: String,
    /// Whether another attempt may help.
    #[prost(bool, tag = "6")]
    pub retryable: bool,
    /// The worker's wish for the next attempt's delay, microseconds.
    #[prost(uint64, optional, tag = "7")]
    pub retry_delay_us: Option<u64>,
    /// What the worker added.
    #[prost(btree_map = "string, string", tag = "8")]
    pub metadata: BTreeMap<String, String>,
    /// Data for programs or people: the tail of the output, say.
    #[prost(message, optional, tag = "9")]
    pub details: Option<Payload>,
    /// The span in which it failed.
    #[prost(message, optional, tag = "10")]
    pub trace_context: Option<TraceContext>,
    /// The attempt it ended.
    #[prost(uint32, tag = "11")]
    pub attempt: u32,
    /// When.
    #[prost(int64, tag = "12")]
    pub time_us: i64,
    /// What caused it.
    #[prost(message, optional, boxed, tag = "13")]
    pub cause: Option<Box<Failure>>,
    /// The innermost frame of the task's own code, `file:function`; empty: not known.
    #[prost(string, tag = "14")]
    pub location: String,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum AttemptEnd {
    /// It has not.
    Open = 0,
    /// Its worker reported an outcome.
    Finished = 1,
    /// Its lease was lost or its time was over.
    Lost = 2,
}

/// One run of the task on one worker.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Attempt {
    /// From 1; an attempt that was released or never accepted gives its number back.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// Counts the leases ever given for the task: strictly rising, so it fences.
    #[prost(uint64, tag = "2")]
    pub fence: u64,
    /// Random part of the lease token, so that it cannot be guessed.
    #[prost(fixed64, tag = "3")]
    pub secret: u64,
    /// The worker's stable name.
    #[prost(string, tag = "4")]
    pub worker_id: String,
    /// The worker process.
    #[prost(message, required, tag = "5")]
    pub instance_uid: Uid,
    /// When the lease was given.
    #[prost(int64, tag = "6")]
    pub start_us: i64,
    /// When it ended; 0: it has not.
    #[prost(int64, tag = "7")]
    pub end_us: i64,
    /// Why it failed. Boxed, like the task's: few have one, and millions are kept.
    #[prost(message, optional, boxed, tag = "8")]
    pub failure: Option<Box<Failure>>,
    /// The attempt's span.
    #[prost(message, optional, tag = "9")]
    pub trace_context: Option<TraceContext>,
    /// See [`AttemptEnd`].
    #[prost(enumeration = "AttemptEnd", tag = "10")]
    pub end: i32,
}

impl Attempt {
    /// The worker process.
    #[must_use]
    pub fn instance(&self) -> Uid {
        self.instance_uid
    }
}

/// One label. A list of these is stored as a map is, and takes a tenth of the memory where there is
/// one; a task has few, and millions of tasks are kept.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Label {
    /// What it is about.
    #[prost(string, tag = "1")]
    pub key: String,
    /// What it says.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// A wish to stop.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CancelRequest {
    /// Why, in the asker's words.
    #[prost(string, tag = "1")]
    pub reason: String,
    /// When.
    #[prost(int64, tag = "2")]
    pub time_us: i64,
}

/// Batches the end of the task waits for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WriterMark {
    /// The state written to.
    #[prost(string, tag = "1")]
    pub state: String,
    /// The writer.
    #[prost(bytes = "bytes", tag = "2")]
    pub writer_id: Bytes,
    /// Its last sequence that counts.
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
}

/// State operations that take effect exactly once per task.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Contribution {
    /// The state contributed to.
    #[prost(string, tag = "1")]
    pub state: String,
    /// What to do there.
    #[prost(message, repeated, tag = "2")]
    pub ops: Vec<crate::domain::state::KeyOp>,
}

/// Waits for a time.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Scheduled {
    /// Becomes queued then.
    #[prost(int64, tag = "1")]
    pub due_us: i64,
}

/// Ready to be leased.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Queued {
    /// Since when.
    #[prost(int64, tag = "1")]
    pub since_us: i64,
}

/// Leased: the last attempt says to whom.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Running {}

/// The outcome is decided; what it waits for is on its way.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Finishing {
    /// The status it will have: succeeded, failed or cancelled.
    #[prost(enumeration = "Status", tag = "1")]
    pub status: i32,
    /// Batches that come first.
    #[prost(message, repeated, tag = "2")]
    pub marks: Vec<WriterMark>,
    /// Contributions that come first.
    #[prost(message, repeated, tag = "3")]
    pub contributions: Vec<Contribution>,
}

/// The end.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Terminal {
    /// Succeeded, failed or cancelled.
    #[prost(enumeration = "Status", tag = "1")]
    pub status: i32,
}

/// Where the task stands, with what belongs to standing there.
#[derive(Clone, PartialEq, prost::Oneof)]
#[allow(missing_docs)]
pub enum Phase {
    #[prost(message, tag = "30")]
    Scheduled(Scheduled),
    #[prost(message, tag = "31")]
    Queued(Queued),
    #[prost(message, tag = "32")]
    Running(Running),
    #[prost(message, tag = "33")]
    Finishing(Finishing),
    #[prost(message, tag = "34")]
    Terminal(Terminal),
}

/// A piece of work of some type, submitted once.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Task {
    /// Last segment of its name.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Differs when an id is used again.
    #[prost(message, required, tag = "2")]
    pub uid: Uid,
    /// What a worker must know how to run.
    #[prost(string, tag = "3")]
    pub r#type: String,
    /// The line it waits in.
    #[prost(string, tag = "4")]
    pub queue: String,
    /// What to work on.
    #[prost(message, optional, tag = "5")]
    pub input: Option<Payload>,
    /// For filters.
    #[prost(message, repeated, tag = "6")]
    pub labels: Vec<Label>,
    /// Limits and retries.
    #[prost(message, required, tag = "7")]
    pub policy: Policy,
    /// The state it writes to by default; empty: none.
    #[prost(string, tag = "8")]
    pub state: String,
    /// The creator's trace context.
    #[prost(message, optional, tag = "9")]
    pub trace_context: Option<TraceContext>,
    /// 0 to 9, higher first.
    #[prost(uint32, tag = "10")]
    pub priority: u32,
    /// The asked-for earliest start; 0: at once.
    #[prost(int64, tag = "11")]
    pub schedule_us: i64,
    /// Digest of the request that made it: the same request again finds it.
    #[prost(message, required, tag = "12")]
    pub request_digest: Digest,
    /// The task this one repeats; empty: none.
    #[prost(string, tag = "13")]
    pub retry_of: String,
    /// When it was created.
    #[prost(int64, tag = "14")]
    pub create_us: i64,
    /// Revision of its first record; 0 in that record itself.
    #[prost(uint64, tag = "15")]
    pub create_revision: u64,
    /// When it ended; 0: it has not.
    #[prost(int64, tag = "16")]
    pub end_us: i64,
    /// When it is removed; 0 until it ends.
    #[prost(int64, tag = "17")]
    pub expire_us: i64,
    /// Attempts that were spent: finished with a failure, lost, or succeeded.
    #[prost(uint32, tag = "18")]
    pub attempts_spent: u32,
    /// Leases ever given.
    #[prost(uint64, tag = "19")]
    pub fence: u64,
    /// Set once somebody asked it to stop.
    #[prost(message, optional, tag = "20")]
    pub cancel: Option<CancelRequest>,
    /// What it produced.
    #[prost(message, optional, tag = "21")]
    pub output: Option<Payload>,
    /// A failure of the task as a whole, beside those of its attempts.
    #[prost(message, optional, boxed, tag = "22")]
    pub failure: Option<Box<Failure>>,
    /// The last attempts, newest last.
    #[prost(message, repeated, tag = "23")]
    pub attempts: Vec<Attempt>,
    /// It ended before all batches it named were merged.
    #[prost(bool, tag = "24")]
    pub flush_incomplete: bool,
    /// Takes turns with others of its queue and priority; empty is a key as well.
    #[prost(string, tag = "25")]
    pub fairness_key: String,
    /// What its queue's limit per key counts; empty: none.
    #[prost(string, tag = "26")]
    pub concurrency_key: String,
    /// Revision of the entry that holds the input's data; 0: it is here, or in the entry itself.
    #[prost(uint64, tag = "27")]
    pub input_at: u64,
    /// The same for the output.
    #[prost(uint64, tag = "28")]
    pub output_at: u64,
    /// Bytes of the input's data where it is held elsewhere.
    #[prost(uint64, tag = "37")]
    pub input_bytes: u64,
    /// Bytes of the output's data where it is held elsewhere.
    #[prost(uint64, tag = "38")]
    pub output_bytes: u64,
    /// Since when nothing was heard of the running attempt's worker that should have been; 0:
    /// nothing is suspicious.
    #[prost(int64, tag = "29")]
    pub suspect_us: i64,
    /// Where it stands; every record has one.
    #[prost(oneof = "Phase", tags = "30, 31, 32, 33, 34")]
    pub phase: Option<Phase>,
}

impl Task {
    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        let label = self.labels.iter().find(|label| label.key == key)?;
        Some(&label.value)
    }

    /// Leaves the data of a large input or output where it is, in the entry of `revision`, and
    /// keeps only how large it is and where: millions of tasks wait in memory, and nobody but the
    /// worker that runs one wants to know its input. What a later record no longer holds it says
    /// the place of.
    pub fn set_aside(&mut self, revision: Revision) {
        let aside = |payload: &mut Option<Payload>, at: &mut u64, bytes: &mut u64, most: usize| {
            let Some(payload) = payload else { return };
            if payload.data.len() > most {
                *at = revision.0;
                *bytes = payload.data.len() as u64;
                payload.data = Bytes::new();
            } else {
                // Not a slice of a whole message, which would be kept for its sake.
                payload.data = Bytes::copy_from_slice(&payload.data);
            }
        };
        let (at, bytes) = (&mut self.input_at, &mut self.input_bytes);
        aside(&mut self.input, at, bytes, MAX_INPUT_AT_HAND);
        let (at, bytes) = (&mut self.output_at, &mut self.output_bytes);
        aside(&mut self.output, at, bytes, MAX_OUTPUT_AT_HAND);
    }

    /// Whether the entry of `revision` holds data that this record refers to.
    #[must_use]
    pub fn is_kept_in(&self, revision: Revision) -> bool {
        revision.0 != 0 && (self.input_at == revision.0 || self.output_at == revision.0)
    }

    /// The task's uid.
    #[must_use]
    pub fn uid(&self) -> Uid {
        self.uid
    }

    /// Where it stands, as clients see it.
    #[must_use]
    pub fn status(&self) -> Status {
        match &self.phase {
            Some(Phase::Scheduled(_)) => Status::Scheduled,
            Some(Phase::Queued(_)) | None => Status::Queued,
            Some(Phase::Running(_) | Phase::Finishing(_)) => Status::Running,
            Some(Phase::Terminal(terminal)) => terminal.status(),
        }
    }

    /// The attempt whose lease holds.
    #[must_use]
    pub fn running(&self) -> Option<&Attempt> {
        matches!(self.phase, Some(Phase::Running(_)))
            .then(|| self.attempts.last())
            .flatten()
    }

    /// When it may leave before its retention is over because others are to be kept, by the wall.
    #[must_use]
    pub fn leaves_us(&self) -> i64 {
        self.end_us
            .saturating_add_unsigned(self.policy.least_retention_us)
    }

    /// The attempt a lease token was given for, while it is kept.
    #[must_use]
    pub fn attempt_of(&self, fence: u64, secret: u64) -> Option<&Attempt> {
        self.attempts
            .iter()
            .rev()
            .find(|a| a.fence == fence && a.secret == secret)
    }

    /// Revision of the first record, for a record committed at `revision`.
    #[must_use]
    pub fn created_at(&self, revision: Revision) -> Revision {
        if self.create_revision == 0 {
            revision
        } else {
            Revision(self.create_revision)
        }
    }
}
