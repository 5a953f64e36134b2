//! What the journal stores of a state: deltas and snapshots. They are their own storage format
//! (see [`crate::domain::task`]); uids are 16 bytes.

use bytes::Bytes;

use super::large::{LargePut, LargeRef};

/// One operation on one key. Values and operands are encoded `duite.v1.Value`s, kept as they came.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyOp {
    /// 1..256 bytes.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The batch it came in, for the rejection that may follow.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// What to do; every stored operation has one.
    #[prost(oneof = "Op", tags = "3, 4, 5, 6, 7, 8")]
    pub op: Option<Op>,
}

/// What to do with a key.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Op {
    /// Sets the value.
    #[prost(bytes = "bytes", tag = "3")]
    Put(Bytes),
    /// Removes the key.
    #[prost(bool, tag = "4")]
    Delete(bool),
    /// Adds to the number, which is 0 where the key is missing.
    #[prost(bytes = "bytes", tag = "5")]
    Add(Bytes),
    /// Keeps the greater; the operand where the key is missing.
    #[prost(bytes = "bytes", tag = "6")]
    Max(Bytes),
    /// Keeps the smaller; the operand where the key is missing.
    #[prost(bytes = "bytes", tag = "7")]
    Min(Bytes),
    /// Sets a value that stands in an entry of its own, just before.
    #[prost(message, boxed, tag = "8")]
    PutLarge(Box<LargePut>),
}

/// Who wrote a part, for telling duplicates.
#[derive(Clone, PartialEq, Eq, Hash, prost::Oneof)]
pub enum Writer {
    /// A StateQueue, or a unary update with a request id: numbered batches.
    #[prost(bytes = "bytes", tag = "1")]
    Stream(Bytes),
    /// The contribution of a finished task, named by the task's uid: batch number 1, once.
    #[prost(bytes = "bytes", tag = "2")]
    Contribution(Bytes),
}

/// The lease under which a part was written.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Fence {
    /// Uid of the task.
    #[prost(bytes = "bytes", tag = "1")]
    pub task_uid: Bytes,
    /// Which of its leases; a state takes no part with a lower one than it has seen.
    #[prost(uint64, tag = "2")]
    pub fence: u64,
}

/// A key that was refused when its batch arrived, before the fold: decided once, so stored.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RejectedOp {
    /// The batch.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// The key.
    #[prost(string, tag = "2")]
    pub key: String,
    /// A [`crate::domain::Reason`], as text.
    #[prost(string, tag = "3")]
    pub reason: String,
}

/// What one writer adds to a delta: consecutive batches, folded within the writer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Part {
    /// Absent: a unary update without a request id, which cannot be told from its repeat.
    #[prost(oneof = "Writer", tags = "1, 2")]
    pub writer: Option<Writer>,
    /// Rises when the writer moves to another server.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// First batch; must follow the writer's position, or the part is skipped whole.
    #[prost(uint64, tag = "4")]
    pub first_sequence: u64,
    /// Last batch. A part without batches (last = first - 1) only raises the fence.
    #[prost(uint64, tag = "5")]
    pub last_sequence: u64,
    /// The lease it was written under.
    #[prost(message, optional, tag = "6")]
    pub fence: Option<Fence>,
    /// What to do, in order.
    #[prost(message, repeated, tag = "7")]
    pub ops: Vec<KeyOp>,
    /// Task name or caller, shown with the keys it wrote.
    #[prost(string, tag = "8")]
    pub source: String,
    /// Refused on arrival.
    #[prost(message, repeated, tag = "9")]
    pub rejected: Vec<RejectedOp>,
    /// Its writer is done: nothing follows its last batch.
    #[prost(bool, tag = "10")]
    pub last: bool,
}

/// One commit to a state: all its parts become visible in one revision.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StateDelta {
    /// Last segment of the state's name.
    #[prost(string, tag = "1")]
    pub state: String,
    /// Uid for the incarnation this delta begins where the state does not stand.
    #[prost(bytes = "bytes", tag = "2")]
    pub create_uid: Bytes,
    /// When it was planned.
    #[prost(int64, tag = "3")]
    pub time_us: i64,
    /// In order.
    #[prost(message, repeated, tag = "4")]
    pub parts: Vec<Part>,
    /// New settings as a whole. They begin an incarnation where none stands.
    #[prost(message, optional, tag = "5")]
    pub settings: Option<Settings>,
}

/// Settings of a state.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Settings {
    /// Least time between merges, microseconds.
    #[prost(uint64, tag = "1")]
    pub merge_interval_us: u64,
    /// Deleted when untouched this long, microseconds; 0: never.
    #[prost(uint64, tag = "2")]
    pub retention_us: u64,
    /// When they were set: a state is not deleted for what was not asked of it before.
    #[prost(int64, tag = "3")]
    pub set_us: i64,
}

/// A key in a snapshot.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapshotEntry {
    /// The key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its encoded value; empty where `large` is set.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// Revision of its last change.
    #[prost(uint64, tag = "3")]
    pub mod_revision: u64,
    /// Who wrote it.
    #[prost(string, tag = "4")]
    pub source: String,
    /// Where its value is, if that is an entry of its own.
    #[prost(message, optional, tag = "5")]
    pub large: Option<LargeRef>,
}

/// A deleted key that watches may still have to be told of.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Tombstone {
    /// The key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Revision of the deletion; 0: the snapshot's own.
    #[prost(uint64, tag = "2")]
    pub mod_revision: u64,
}

/// How far a writer's batches are part of the state.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WriterPosition {
    /// The writer.
    #[prost(bytes = "bytes", tag = "1")]
    pub writer_id: Bytes,
    /// Its epoch.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Its last batch.
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
    /// Journal time of that batch.
    #[prost(int64, tag = "4")]
    pub time_us: i64,
    /// Uid of the task under whose lease it wrote; empty: none.
    #[prost(bytes = "bytes", tag = "5")]
    pub task_uid: Bytes,
    /// It is done.
    #[prost(bool, tag = "6")]
    pub done: bool,
}

/// A task whose contribution is part of the state, or whose fence is known.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Mention {
    /// The task's uid.
    #[prost(bytes = "bytes", tag = "1")]
    pub task_uid: Bytes,
    /// The highest lease seen; 0: only contributed.
    #[prost(uint64, tag = "2")]
    pub fence: u64,
    /// Its contribution is in.
    #[prost(bool, tag = "3")]
    pub contributed: bool,
}

/// A whole state. Folding it *replaces* what stood: what it leaves out (old tombstones, writers
/// long silent, fences of ended tasks) is forgotten by every replica at the same revision.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StateSnapshot {
    /// Last segment of the state's name.
    #[prost(string, tag = "1")]
    pub state: String,
    /// The incarnation.
    #[prost(bytes = "bytes", tag = "2")]
    pub uid: Bytes,
    /// False: the state was deleted, and only its tombstones remain.
    #[prost(bool, tag = "3")]
    pub alive: bool,
    /// When the incarnation began.
    #[prost(int64, tag = "4")]
    pub create_us: i64,
    /// When it last changed.
    #[prost(int64, tag = "5")]
    pub update_us: i64,
    /// Revision of its last change; 0: the snapshot's own.
    #[prost(uint64, tag = "6")]
    pub revision: u64,
    /// Settings.
    #[prost(message, optional, tag = "7")]
    pub settings: Option<Settings>,
    /// Keys, sorted.
    #[prost(message, repeated, tag = "8")]
    pub entries: Vec<SnapshotEntry>,
    /// Deleted keys, sorted.
    #[prost(message, repeated, tag = "9")]
    pub tombstones: Vec<Tombstone>,
    /// Deletions at or before it are forgotten: a watch cannot resume from before it.
    #[prost(uint64, tag = "10")]
    pub horizon: u64,
    /// Writers, sorted by id.
    #[prost(message, repeated, tag = "11")]
    pub writers: Vec<WriterPosition>,
    /// Tasks, sorted by uid.
    #[prost(message, repeated, tag = "12")]
    pub mentions: Vec<Mention>,
}
