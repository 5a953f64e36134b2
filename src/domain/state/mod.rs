//! A state: a named, shared, flat map of keys, and how batches become part of it.

mod delta;

pub use delta::{
    Fence, KeyOp, Mention, Op, Part, RejectedOp, Settings, SnapshotEntry, StateDelta,
    StateSnapshot, Tombstone, Writer, WriterPosition,
};
