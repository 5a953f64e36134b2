//! A state: a named, shared, flat map of keys, and how batches become part of it.
//!
//! - `delta`: what the journal stores
//! - `large`: values that are entries of their own
//! - `batch`, `fields`: what is pushed, read in place
//! - `value`, `number`, `arithmetic`: encoded values, as far as the server looks into them
//! - `admit`, `fold`: from arriving batches to the operations of a delta
//! - `mirror`, `snapshot`: the state folded from its entries

mod admit;
mod arithmetic;
mod batch;
mod delta;
mod fields;
#[cfg(test)]
mod fixtures;
mod fold;
mod large;
#[cfg(test)]
mod laws;
mod mirror;
mod number;
mod snapshot;
mod value;

pub use admit::{Admitted, KeyBudget, admit, admit_update, rejection};
pub use arithmetic::{Reduced, reduce};
pub use batch::{BatchRef, OpRef, Unreadable, UpdateRef, batches};
pub use delta::{
    Fence, KeyOp, Mention, Op, Part, RejectedOp, Settings, SnapshotEntry, StateDelta,
    StateSnapshot, Tombstone, Writer, WriterPosition,
};
pub use fold::Folder;
pub use large::{LargePut, LargeRef, LargeValue, Stored};
pub use mirror::{
    DeltaResult, Key, KeyTable, PartResult, State, StateValue, TaskMention, WriterState,
};
pub use number::Number;
pub use snapshot::Prune;
pub use value::{BlobKind, ValueKind, check_value};
