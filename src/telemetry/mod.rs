//! What the process says about itself: log lines, traces, metrics.
//!
//! - [`install`]: log lines on standard error; start here
//! - [`Exports`]: traces and logs on their way to a collector
//! - [`Probe`]: what the engine tells of what happens
//! - [`Traces`]: the spans of tasks and the log records tied to them
//! - [`Metrics`]: counts and durations

mod export;
mod flat_json;
mod log;
pub mod metrics;
mod probe;
mod traces;

pub use export::{ExportCounted, ExportCounts, Exports, Role};
pub use log::{DEFAULT_FILTER, Error, Form, check, install};
pub use metrics::Metrics;
pub use probe::Probe;
pub use traces::{Merge, Traces};
