//! A task: the record the journal keeps, and how it changes.

mod glance;
mod packed;
mod record;
mod repeat;
mod retry;
mod transition;

pub use glance::Glance;
pub use packed::NewTask;
pub use record::{
    Attempt, AttemptEnd, CancelRequest, Contribution, Failure, FailureCategory, Finishing, Label,
    MAX_INPUT_AT_HAND, MAX_OUTPUT_AT_HAND, Payload, Phase, Policy, Queued, Running, Scheduled,
    Status, Task, Terminal, TraceContext, WriterMark,
};
pub use repeat::Repetition;
pub use retry::backoff;
pub use transition::{Changed, Event, Outcome, next};

#[cfg(test)]
mod transition_tests;
