//! Tasks that repeat others.
//!
//! The id of a repetition follows from the uid of what it repeats, so that there is at most one; its
//! request digest from the call's request id, so that the call sent again finds what it made and
//! any other is told that it stands. Half of the digest is of the request id alone: by it the call
//! sent again tells the tasks that it made, which match its filter too, from those it is to repeat.

use sha2::{Digest as _, Sha256};
use tonic::metadata::MetadataMap;
use uuid::Uuid;

use super::{
    bounds::optional_uuid,
    task_in::{DAY_US, trace_of},
};
use crate::{
    domain::{
        Error, NamespaceId, Reason, TaskId, Uid,
        id::Digest,
        task::{Payload, Repetition, Task, TraceContext},
    },
    engine::{
        clock::Now,
        command::{TaskOp, TaskOpKind},
    },
    telemetry::Traces,
};

/// Ids of repetitions are UUIDv5 within this namespace of names. Changing it would let a task be
/// repeated a second time.
const REPETITIONS: Uuid = Uuid::from_u128(0x2d1c_06e5_93f8_4b0e_8a47_f0b1_6c3e_5d92);

/// What all repetitions of one call have in common.
#[derive(Debug)]
pub(crate) struct Repeater {
    namespace: NamespaceId,
    /// The call's, or one that no other call has.
    request: Uuid,
    /// What the digests of all that it makes begin with.
    mark: u64,
    least_retention_us: u64,
    trace_context: Option<TraceContext>,
}

impl Repeater {
    pub(crate) fn new(
        namespace: &NamespaceId,
        request_id: &str,
        headers: &MetadataMap,
    ) -> Result<Self, Error> {
        let given = optional_uuid("request_id", request_id)?;
        let request = given.map_or_else(Uuid::new_v4, |given| Uuid::from_u128(given.0));
        Ok(Self {
            namespace: namespace.clone(),
            request,
            mark: half(&format!("repeat/{request}")),
            least_retention_us: if given.is_some() { DAY_US } else { 0 },
            trace_context: trace_of(headers),
        })
    }

    /// The id of the task that repeats this one.
    pub(crate) fn id(&self, task: &Task) -> TaskId {
        let name = format!("{}/{}", self.namespace, task.uid);
        TaskId::trusted(&Uuid::new_v5(&REPETITIONS, name.as_bytes()).to_string())
    }

    /// The creation of the task that repeats this one, which was checked to be repeatable.
    pub(crate) fn create(&self, task: &Task, input: Option<Payload>, traces: &Traces) -> TaskOp {
        let id = self.id(task);
        let uid = Uid(Uuid::new_v4().as_u128());
        let new = task.repetition(Repetition {
            id: id.clone(),
            request_digest: self.digest(task),
            input,
            trace_context: traces.begin(self.trace_context.clone(), uid),
            least_retention_us: self.least_retention_us,
        });
        let new = new.begin(uid, Now::read().wall_us);
        TaskOp {
            id,
            kind: TaskOpKind::Create(Box::new(new.into())),
        }
    }

    fn digest(&self, task: &Task) -> Digest {
        let one = half(&format!("repeat/{}/{}", self.request, task.uid));
        Uid((u128::from(self.mark) << 64) | u128::from(one))
    }

    /// Whether a call of this request id made the task, whatever it repeats.
    pub(crate) fn is_ours(&self, task: &Task) -> bool {
        !task.retry_of.is_empty() && task.request_digest.0 >> 64 == u128::from(self.mark)
    }

    /// Whether this call made `repetition`, which repeats `task`.
    pub(crate) fn made(&self, repetition: &Task, task: &Task) -> bool {
        repetition.request_digest == self.digest(task)
    }

    /// A refused creation as its caller should read it.
    pub(crate) fn refused(&self, task: &Task, error: Error) -> Error {
        match error.reason {
            Reason::TaskExists => self.exists(task),
            _ => error,
        }
    }

    /// The error for a task that another call has repeated.
    pub(crate) fn exists(&self, task: &Task) -> Error {
        let repetition = self.id(task);
        Error::new(
            Reason::TaskExists,
            format!(
                "task {} was repeated already: repeat {repetition} if that one did not succeed",
                task.id
            ),
        )
        .with("task", &task.id)
        .with("repetition", repetition)
    }
}

/// Half of a digest.
fn half(text: &str) -> u64 {
    let digest = Sha256::digest(text);
    let first = digest.first_chunk().expect("a SHA-256 digest has 32 bytes");
    u64::from_be_bytes(*first)
}
