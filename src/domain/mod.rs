//! The pure core: what tasks and states are and how they change.
//!
//! No clock, no I/O, no async, no randomness: time and random numbers come in as arguments, so a
//! replay of the journal and a simulation run exactly the code that serves clients.
//! `tests/layering.rs` enforces it.
//!
//! - [`id`]: names, identifiers, revisions
//! - [`error`]: the one registry of error reasons
//! - [`limits`]: every size and count a client can meet
//! - [`task`]: the task record and its transitions
//! - [`state`]: values, operations, deltas, and the state folded from them
//! - [`failure`]: failures that are taken for the same one
//! - [`table`]: the revision-indexed map behind every watch
//! - [`trace`]: W3C trace context and the spans of a task
//! - [`entry`]: what the journal stores

pub mod entry;
pub mod error;
pub mod failure;
pub mod id;
pub mod limits;
pub mod state;
pub mod table;
pub mod task;
pub mod trace;

pub use entry::{EntityId, Entry};
pub use error::{Error, Reason};
pub use id::{Epoch, NamespaceId, QueueId, Revision, StateId, TaskId, Uid};
