//! A task: the record the journal keeps, and how it changes.

mod record;
mod repeat;
mod retry;
mod transition;

pub use record::{
    Attempt, AttemptEnd, CancelRequest, Contribution, Failure, FailureCategory, Finishing, Label,
    Payload, Phase, Policy, Queued, Running, Scheduled, Status, Task, Terminal, TraceContext,
    WriterMark,
};
pub use repeat::Repetition;
pub use retry::backoff;
pub use transition::{Changed, Event, Outcome, next};

#[cfg(test)]
mod transition_tests;
