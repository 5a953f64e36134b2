//! What the process says about itself: log lines, traces, metrics.
//!
//! - [`start`]: log lines on standard error, and export where it is asked for; start here
//! - [`Probe`]: what the engine tells of what happens
//! - [`Traces`]: the spans of tasks and the log records tied to them
//! - [`Metrics`]: counts and durations
//! - `otlp`: the way to a collector

mod json;
mod log;
pub mod metrics;
mod otlp;
mod probe;
mod sampler;
mod traces;

pub use log::{DEFAULT_FILTER, Error, Form, check};
pub use metrics::Metrics;
pub use otlp::{ExportCounted, ExportCounts, Role};
pub use probe::{Merge, Probe};
pub use traces::Traces;

use otlp::{Exports, Settings};

/// A second subscriber, which does nothing, for tests that set one for their own thread. As long as a
/// process has just one, tracing asks the thread that first meets a span or event whether anybody wants
/// it; another test's thread says no, for all.
#[cfg(test)]
pub(crate) fn beside_another() -> tracing::Dispatch {
    tracing::Dispatch::new(tracing_subscriber::registry())
}

/// What runs of the telemetry of a process.
#[derive(Debug)]
pub struct Telemetry {
    probe: Probe,
    exports: Exports,
}

/// Sends the log to standard error, for the rest of the process, and starts the exports that the
/// `OTEL_` variables ask for. What of these cannot be used is logged.
pub fn start(filter: &str, form: Form, role: Role) -> Result<Telemetry, Error> {
    let filter = log::parse(filter)?;
    let mut settings = Settings::read(role, |name| std::env::var(name).ok());
    let exports = Exports::start(role, &mut settings);
    log::install(filter, form, log::export_layers(&exports, settings.sampler))?;
    for problem in &settings.problems {
        tracing::warn!("{problem}");
    }
    let traces = Traces::new(
        exports.spans.clone(),
        exports.logs.clone(),
        settings.sampler,
    );
    Ok(Telemetry {
        probe: Probe {
            traces,
            ..Probe::default()
        },
        exports,
    })
}

impl Telemetry {
    /// Who listens to the engine of this process.
    #[must_use]
    pub fn probe(&self) -> Probe {
        self.probe.clone()
    }

    /// Sends what waits to be exported, within two seconds. Blocks: not for a thread of a runtime.
    pub fn end(self) {
        self.exports.flush();
        let [spans, logs] = self.exports.lost();
        if spans.is_some() || logs.is_some() {
            let count = |lost: Option<otlp::Lost>| lost.unwrap_or_default();
            let (spans, logs) = (count(spans), count(logs));
            tracing::warn!(
                spans.dropped = spans.dropped,
                spans.failed = spans.failed,
                spans.pending = spans.pending,
                logs.dropped = logs.dropped,
                logs.failed = logs.failed,
                logs.pending = logs.pending,
                "not all telemetry was exported"
            );
        }
    }
}
