//! Metrics pushed by OTLP, for those who collect so: off unless the usual variables ask for it.
//!
//! The SDK's thread collects and sends; the connection lives in a runtime with a thread of its own,
//! so that a receiver that is slow, or not there, keeps nothing else waiting.

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use opentelemetry_otlp::{ExporterBuildError, MetricExporter};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    metrics::{PeriodicReader, Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
};
use tokio::runtime::{Builder, Handle, Runtime};

use super::export::Pushes;

/// What makes the reader, and how it goes.
pub(super) type Reader = PeriodicReader<InRuntime>;

/// Why metrics are not pushed although they should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum PushError {
    #[error("the thread that sends them cannot be started: {0}")]
    Thread(#[from] io::Error),
    #[error("{0}; look at the OTEL_EXPORTER_OTLP_ variables")]
    Exporter(#[from] ExporterBuildError),
}

/// Whether metrics are to be pushed, by the variables that `get` gives.
pub(super) fn is_wanted(get: impl Fn(&str) -> Option<String>) -> bool {
    let get = |name| get(name).filter(|value| !value.trim().is_empty());
    if get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return false;
    }
    match get("OTEL_METRICS_EXPORTER") {
        Some(exporters) => exporters
            .split(',')
            .any(|exporter| exporter.trim() == "otlp"),
        None => [
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        ]
        .into_iter()
        .any(|name| get(name).is_some()),
    }
}

/// A reader that sends, and the runtime it sends in.
pub(super) fn reader(counts: Arc<Pushes>) -> Result<(Reader, Running), PushError> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("duite-metrics")
        .enable_all()
        .build()?;
    let exporter = {
        let _in_it = runtime.enter();
        MetricExporter::builder().with_tonic().build()?
    };
    let exporter = InRuntime {
        exporter,
        counts,
        handle: runtime.handle().clone(),
    };
    let reader = PeriodicReader::builder(exporter).build();
    Ok((reader, Running(Some(runtime))))
}

/// The runtime; what is on its way is given up when this is dropped.
#[derive(Debug)]
pub(super) struct Running(Option<Runtime>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// An exporter whose timers are those of a runtime, whoever polls it.
#[derive(Debug)]
pub(super) struct InRuntime {
    exporter: MetricExporter,
    counts: Arc<Pushes>,
    handle: Handle,
}

impl PushMetricExporter for InRuntime {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let mut export = pin!(self.exporter.export(metrics));
        let exported = poll_fn(|context| {
            let _in_it = self.handle.enter();
            export.as_mut().poll(context)
        })
        .await;
        let count = match exported {
            Ok(()) => &self.counts.exported,
            Err(_) => &self.counts.failed,
        };
        count.fetch_add(1, Relaxed);
        exported
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted<const N: usize>(variables: [(&str, &str); N]) -> bool {
        is_wanted(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn metrics_are_pushed_only_where_a_variable_asks_for_it() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317");
        assert!(!wanted([]));
        assert!(wanted([endpoint]));
        assert!(wanted([(
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            "http://x:1"
        )]));
        assert!(wanted([("OTEL_METRICS_EXPORTER", "prometheus, otlp")]));
        assert!(!wanted([("OTEL_METRICS_EXPORTER", "none"), endpoint]));
        assert!(!wanted([("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]));
        assert!(!wanted([("OTEL_SDK_DISABLED", "TRUE"), endpoint]));
    }
}
