//! Traces and logs on their way to a collector, by OTLP over gRPC.
//!
//! The exporters have a thread of their own, so that a collector that is slow or silent holds up
//! nothing of the service. Their queues are bounded; what finds no room is counted and never made.
//! None of it is there unless the standard variables of OpenTelemetry ask for it.

mod counts;
mod gate;
mod settings;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use opentelemetry::{InstrumentationScope, KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{LogExporter, SpanExporter};
use opentelemetry_sdk::{
    Resource,
    logs::{LogProcessor as _, SdkLoggerProvider},
    trace::{Sampler, SdkTracer, SdkTracerProvider, SpanProcessor as _},
};
use tokio::runtime::Runtime;

pub use counts::{ExportCounted, ExportCounts};
pub(crate) use gate::{Records, Spans};
pub(crate) use settings::ExportSettings;

/// How long the end of the process waits for what is still to be sent, in all.
pub(crate) const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// Who the telemetry is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `duite server`.
    Server,
    /// `duite worker`.
    Worker,
    /// Any other command: nothing is exported.
    Command,
}

impl Role {
    fn service_name(self) -> &'static str {
        match self {
            Self::Server => "duite",
            Self::Worker => "duite-worker",
            Self::Command => "duite-command",
        }
    }
}

/// What goes out of the process. A clone is the same; the default exports nothing.
#[derive(Clone, Default)]
pub struct Exports {
    inner: Option<Arc<Inner>>,
}

struct Inner {
    sampler: Sampler,
    spans: Option<(Spans, SdkTracerProvider, Arc<ExportCounts>)>,
    logs: Option<(Records, SdkLoggerProvider, Arc<ExportCounts>)>,
    /// Kept for the exporters' connections; ended with the process.
    runtime: Option<Runtime>,
}

impl fmt::Debug for Exports {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Exports")
            .field("spans", &self.span_counts())
            .field("logs", &self.log_counts())
            .finish_non_exhaustive()
    }
}

impl Exports {
    /// Starts what the environment asks for; problems come back as text, one line each, and stop
    /// nothing.
    #[must_use]
    pub fn start(role: Role, env: impl Fn(&str) -> Option<String>) -> (Self, Vec<String>) {
        if role == Role::Command {
            return (Self::default(), Vec::new());
        }
        let settings = ExportSettings::read(&env);
        let mut problems = settings.problems.clone();
        if !settings.traces && !settings.logs {
            return (Self::default(), problems);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("telemetry")
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                problems.push(format!("nothing is exported: no thread for it: {error}"));
                return (Self::default(), problems);
            }
        };
        let resource = resource(role, env);
        // The exporters' connections live where they are made.
        let entered = runtime.enter();
        let mut failed = |signal: &str, error: &dyn fmt::Display| {
            problems.push(format!("{signal} are not exported: {error}"));
        };
        let spans = settings
            .traces
            .then(|| SpanExporter::builder().with_tonic().build());
        let spans = match spans.transpose() {
            Ok(exporter) => exporter.map(|exporter| {
                let counts = Arc::new(ExportCounts::new(settings.span_queue));
                let spans = Spans::new(exporter, Arc::clone(&counts), &resource);
                let provider = SdkTracerProvider::builder()
                    .with_sampler(settings.sampler.clone())
                    .with_resource(resource.clone())
                    .with_span_processor(spans.clone())
                    .build();
                (spans, provider, counts)
            }),
            Err(error) => {
                failed("traces", &error);
                None
            }
        };
        let logs = settings
            .logs
            .then(|| LogExporter::builder().with_tonic().build());
        let logs = match logs.transpose() {
            Ok(exporter) => exporter.map(|exporter| {
                let counts = Arc::new(ExportCounts::new(settings.log_queue));
                let records = Records::new(exporter, Arc::clone(&counts), &resource);
                let provider = SdkLoggerProvider::builder()
                    .with_resource(resource.clone())
                    .with_log_processor(records.clone())
                    .build();
                (records, provider, counts)
            }),
            Err(error) => {
                failed("logs", &error);
                None
            }
        };
        drop(entered);
        let inner = Inner {
            sampler: settings.sampler,
            spans,
            logs,
            runtime: Some(runtime),
        };
        let exports = Self {
            inner: Some(Arc::new(inner)),
        };
        (exports, problems)
    }

    pub(crate) fn spans(&self) -> Option<Spans> {
        Some(self.inner.as_ref()?.spans.as_ref()?.0.clone())
    }

    pub(crate) fn sampler(&self) -> Option<Sampler> {
        Some(self.inner.as_ref()?.sampler.clone())
    }

    /// For the layer that makes spans of those of `tracing`.
    pub(crate) fn tracer(&self) -> Option<SdkTracer> {
        let (_, provider, _) = self.inner.as_ref()?.spans.as_ref()?;
        Some(provider.tracer_with_scope(scope()))
    }

    pub(crate) fn logger_provider(&self) -> Option<SdkLoggerProvider> {
        Some(self.inner.as_ref()?.logs.as_ref()?.1.clone())
    }

    /// What became of the spans; none where they are not exported.
    #[must_use]
    pub fn span_counts(&self) -> Option<Arc<ExportCounts>> {
        Some(Arc::clone(&self.inner.as_ref()?.spans.as_ref()?.2))
    }

    /// What became of the log records; none where they are not exported.
    #[must_use]
    pub fn log_counts(&self) -> Option<Arc<ExportCounts>> {
        Some(Arc::clone(&self.inner.as_ref()?.logs.as_ref()?.2))
    }

    /// Sends what is left, within [`FLUSH_WITHIN`]. Blocks: not for a thread of a runtime.
    pub fn shutdown(self) {
        let Some(inner) = &self.inner else { return };
        let until = Instant::now() + FLUSH_WITHIN;
        let left = || until.saturating_duration_since(Instant::now());
        // Logs first: they are fewer, and say why.
        if let Some((records, ..)) = &inner.logs {
            let _ = records.shutdown_with_timeout(left() / 2);
        }
        if let Some((spans, ..)) = &inner.spans {
            let _ = spans.shutdown_with_timeout(left());
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A runtime must not be dropped within another, which is where the last clone may end.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Who says so.
pub(crate) fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("duite")
        .with_version(env!("CARGO_PKG_VERSION"))
        .build()
}

/// The service, its version and this process, unless the standard variables say otherwise.
fn resource(role: Role, env: impl Fn(&str) -> Option<String>) -> Resource {
    let attributes = env("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let names = attributes.split(',').filter_map(|one| one.split_once('='));
    let mut given: Vec<_> = names.map(|(name, _)| name.trim()).collect();
    if env("OTEL_SERVICE_NAME").is_some_and(|name| !name.trim().is_empty()) {
        given.push("service.name");
    }
    let ours = [
        ("service.name", role.service_name().to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", uuid::Uuid::new_v4().to_string()),
    ];
    let ours = ours.into_iter().filter(|(name, _)| !given.contains(name));
    Resource::builder()
        .with_attributes(ours.map(|(name, value)| KeyValue::new(name, value)))
        .build()
}
