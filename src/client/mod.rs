//! The client library: submit and follow tasks, read and write shared state, watch both live.
//!
//! It talks gRPC and nothing else; no module of the server is used here. Start at [`Client`].
//! [`StateQueue`] is how a program reports state without ever waiting for the network;
//! [`StateWatch`] and [`TaskWatch`] keep a view of the server's side that survives every
//! reconnect. [`KeyWatch`] follows a few keys of a state, by which people steer a program.

mod backoff;
mod call;
mod connection;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod key_changes;
mod key_watch;
mod lanes;
mod names;
mod propagate;
mod push_core;
mod push_fold;
mod queue;
mod queue_builder;
mod queue_driver;
mod queue_report;
mod report;
mod report_sender;
#[cfg(test)]
pub(crate) mod simulated;
mod state;
mod system;
mod task;
mod task_queue;
mod update;
mod value;
mod waiting;
mod watch;
mod watch_core;
mod watch_state;
mod watch_task;

pub use backoff::Backoff;
pub use connection::{Client, ClientBuilder, DEFAULT_ADDRESS};
pub use error::Error;
pub use key_changes::Changes;
pub(crate) use key_watch::KeyFollower;
pub use key_watch::KeyWatch;
pub use names::{queue_name, short_name, state_name, task_name};
pub use queue::StateQueue;
pub use queue_builder::StateQueueBuilder;
pub use queue_report::{QueueStats, Rejection, Unacknowledged};
pub(crate) use report::create_task_of;
pub use report::{create_task, decorate_task, flush_reports, report_failures_to};
pub use state::UpdateState;
pub use task::{NewTask, RetryPage, TaskPage};
pub(crate) use task::{std_duration, wire_duration};
pub use task_queue::QueuePage;
pub use update::Update;
pub use value::{blob, decode_value, encode_value, from_value, to_value};
pub use watch::{Watch, WatchEvent, WatchKind, WatchStart};
pub use watch_core::View;
pub use watch_state::{StateChange, StateView, StateWatch, StateWatchBuilder, States, ViewEntry};
pub use watch_task::{TaskChange, TaskWatch, TaskWatchBuilder, Tasks};

pub use crate::proto::v1::Value;
