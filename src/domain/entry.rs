//! What the journal stores: each entry touches exactly one entity.

use bytes::Bytes;

use super::{
    failure::{self, Fingerprint},
    id::{QueueId, StateId, TaskId, Uid},
    state::{LargeValue, StateDelta, StateSnapshot},
    task::{NewTask, Status, Task},
};

/// The one thing an entry changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntityId {
    /// A task.
    Task(TaskId),
    /// A state.
    State(StateId),
    /// A worker instance.
    Instance(Uid),
    /// A queue: its settings.
    Queue(QueueId),
    /// The namespace itself: its horizon.
    Namespace,
    /// An error group.
    ErrorGroup(Fingerprint),
}

/// A task is gone; kept as a tombstone until the horizon passes it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TaskRemoved {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Its uid.
    #[prost(bytes = "bytes", tag = "2")]
    pub uid: Bytes,
    /// The status it had.
    #[prost(enumeration = "Status", tag = "3")]
    pub last_status: i32,
}

/// A worker process: what it holds and that it lives.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Instance {
    /// The process.
    #[prost(bytes = "bytes", tag = "1")]
    pub uid: Bytes,
    /// The worker's stable name.
    #[prost(string, tag = "2")]
    pub worker_id: String,
    /// Accepted leases, named in its last renewal.
    #[prost(message, repeated, tag = "3")]
    pub leases: Vec<LeaseRef>,
    /// Set once: its leases are over and every renewal is answered LOST.
    #[prost(bool, tag = "4")]
    pub expired: bool,
    /// Queues it asked for.
    #[prost(string, repeated, tag = "5")]
    pub queues: Vec<String>,
    /// Task types it asked for.
    #[prost(string, repeated, tag = "6")]
    pub task_types: Vec<String>,
    /// When this was written.
    #[prost(int64, tag = "7")]
    pub time_us: i64,
}

/// A lease as its instance names it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LeaseRef {
    /// The task.
    #[prost(string, tag = "1")]
    pub task: String,
    /// Which lease of the task.
    #[prost(uint64, tag = "2")]
    pub fence: u64,
}

/// How a queue hands out its tasks. The zero value of each field is its default.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct QueueSettings {
    /// Hands out nothing.
    #[prost(bool, tag = "1")]
    pub paused: bool,
    /// Most tasks running at once; 0: no limit.
    #[prost(uint32, tag = "2")]
    pub max_running: u32,
    /// Most tasks running at once of each concurrency key; 0: no limit.
    #[prost(uint32, tag = "3")]
    pub max_running_per_key: u32,
}

/// A queue's settings; back at their defaults the queue is forgotten once the horizon passes it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Queue {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// All of them.
    #[prost(message, required, tag = "2")]
    pub settings: QueueSettings,
}

/// Forgets what was removed at or before a revision: tombstones of tasks, dead states, expired
/// instances, queues without settings. A watch cannot resume from before it.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Horizon {
    /// The revision.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
}

/// One entry of the journal.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// The whole task after a transition; replaces the earlier record.
    Task(Box<Task>),
    /// The first record of a task, its bytes made in advance; read back it is a [`Entry::Task`].
    NewTask(Box<NewTask>),
    /// The task is gone.
    TaskRemoved(TaskRemoved),
    /// Operations on a state.
    StateDelta(StateDelta),
    /// A large value of a state, for the delta behind it: changes nothing by itself.
    StateValue(LargeValue),
    /// A whole state; replaces all its earlier entries but the values it refers to. A deleted
    /// state is one that is not alive.
    StateSnapshot(StateSnapshot),
    /// A worker instance; replaces the earlier one.
    Instance(Instance),
    /// Forgets old removals; replaces the earlier one.
    Horizon(Horizon),
    /// A queue's settings; replaces the earlier ones.
    Queue(Queue),
    /// Failures taken for the same one; replaces the earlier one.
    ErrorGroup(Box<failure::Group>),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, boxed, tag = "1")]
    Task(Box<Task>),
    #[prost(message, tag = "2")]
    TaskRemoved(TaskRemoved),
    #[prost(message, tag = "3")]
    StateDelta(StateDelta),
    #[prost(message, tag = "4")]
    StateSnapshot(StateSnapshot),
    #[prost(message, tag = "5")]
    Instance(Instance),
    #[prost(message, tag = "6")]
    Horizon(Horizon),
    #[prost(message, tag = "7")]
    StateValue(LargeValue),
    #[prost(message, tag = "8")]
    Queue(Queue),
    #[prost(message, boxed, tag = "9")]
    ErrorGroup(Box<failure::Group>),
}

/// The bytes are not an entry this version can read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are damaged.
    #[error("damaged entry: {0}")]
    Damaged(#[from] prost::DecodeError),
    /// The kind of entry is unknown: a later version wrote it.
    #[error("an entry of a kind this version does not know")]
    UnknownKind,
}

impl Entry {
    /// The entity it changes.
    #[must_use]
    pub fn entity(&self) -> EntityId {
        match self {
            Self::Task(task) => EntityId::Task(TaskId::trusted(&task.id)),
            Self::NewTask(new) => EntityId::Task(TaskId::trusted(&new.task.id)),
            Self::TaskRemoved(removed) => EntityId::Task(TaskId::trusted(&removed.id)),
            Self::StateDelta(delta) => EntityId::State(StateId::trusted(&delta.state)),
            Self::StateValue(value) => EntityId::State(StateId::trusted(&value.state)),
            Self::StateSnapshot(snapshot) => EntityId::State(StateId::trusted(&snapshot.state)),
            Self::Instance(instance) => {
                EntityId::Instance(Uid::from_bytes(&instance.uid).unwrap_or_default())
            }
            Self::Horizon(_) => EntityId::Namespace,
            Self::Queue(queue) => EntityId::Queue(QueueId::trusted(&queue.name)),
            Self::ErrorGroup(group) => EntityId::ErrorGroup(group.fingerprint()),
        }
    }

    /// As bytes for a journal. Field numbers are the storage format: a tag keeps its meaning.
    pub fn encode(&self, buffer: &mut Vec<u8>) {
        use prost::encoding::message;
        // Encoded field by field, as the oneof would be, without cloning into it.
        match self {
            Self::Task(entry) => message::encode(1, entry.as_ref(), buffer),
            Self::NewTask(entry) => prost::encoding::bytes::encode(1, &entry.record, buffer),
            Self::TaskRemoved(entry) => message::encode(2, entry, buffer),
            Self::StateDelta(entry) => message::encode(3, entry, buffer),
            Self::StateSnapshot(entry) => message::encode(4, entry, buffer),
            Self::Instance(entry) => message::encode(5, entry, buffer),
            Self::Horizon(entry) => message::encode(6, entry, buffer),
            Self::StateValue(entry) => message::encode(7, entry, buffer),
            Self::Queue(entry) => message::encode(8, entry, buffer),
            Self::ErrorGroup(entry) => message::encode(9, entry.as_ref(), buffer),
        }
    }

    /// From the bytes [`Entry::encode`] made. `Bytes` fields are slices of `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let stored = <Stored as prost::Message>::decode(bytes)?;
        Ok(match stored.kind.ok_or(DecodeError::UnknownKind)? {
            Kind::Task(entry) => Self::Task(entry),
            Kind::TaskRemoved(entry) => Self::TaskRemoved(entry),
            Kind::StateDelta(entry) => Self::StateDelta(entry),
            Kind::StateSnapshot(entry) => Self::StateSnapshot(entry),
            Kind::Instance(entry) => Self::Instance(entry),
            Kind::Horizon(entry) => Self::Horizon(entry),
            Kind::StateValue(entry) => Self::StateValue(entry),
            Kind::Queue(entry) => Self::Queue(entry),
            Kind::ErrorGroup(entry) => Self::ErrorGroup(entry),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_survives_its_bytes() {
        let task = Task {
            id: "t".into(),
            ..Task::default()
        };
        let entries = [
            Entry::Task(Box::new(task)),
            Entry::TaskRemoved(TaskRemoved {
                id: "t".into(),
                last_status: 4,
                ..Default::default()
            }),
            Entry::StateDelta(StateDelta {
                state: "s".into(),
                ..Default::default()
            }),
            Entry::StateSnapshot(StateSnapshot {
                state: "s".into(),
                ..Default::default()
            }),
            Entry::StateValue(LargeValue {
                state: "s".into(),
                value: vec![7; 100_000].into(),
                ..Default::default()
            }),
            Entry::Instance(Instance {
                worker_id: "w".into(),
                ..Default::default()
            }),
            Entry::Horizon(Horizon { revision: 7 }),
            Entry::Queue(Queue {
                name: "q".into(),
                settings: QueueSettings {
                    paused: true,
                    max_running: 3,
                    max_running_per_key: 1,
                },
            }),
            Entry::ErrorGroup(Box::new(failure::Group::new(failure::Kind::other()))),
        ];
        for entry in entries {
            let mut buffer = Vec::new();
            entry.encode(&mut buffer);
            assert_eq!(Entry::decode(buffer.into()).unwrap(), entry);
        }
    }

    #[test]
    fn a_new_task_is_read_back_as_its_record() {
        let task = Task {
            id: "t".into(),
            queue: "q".into(),
            ..Task::default()
        };
        let mut buffer = Vec::new();
        Entry::NewTask(Box::new(task.clone().into())).encode(&mut buffer);
        let read = Entry::decode(buffer.into()).unwrap();
        assert_eq!(read, Entry::Task(Box::new(task)));
    }

    #[test]
    fn foreign_bytes_are_refused() {
        assert!(matches!(
            Entry::decode(Bytes::new()),
            Err(DecodeError::UnknownKind)
        ));
        assert!(matches!(
            Entry::decode(Bytes::from_static(b"\xff\xff")),
            Err(DecodeError::Damaged(_))
        ));
    }
}
