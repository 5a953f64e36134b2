//! What exporters of telemetry say of themselves.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use opentelemetry::{KeyValue, metrics::Meter};
use parking_lot::RwLock;

use super::{super::ExportCounted, Metrics};

type Told = Arc<dyn Fn() -> ExportCounted + Send + Sync>;

/// Exporters by the name of what they send.
#[derive(Clone, Default)]
pub(super) struct Exports(Arc<RwLock<Vec<(&'static str, Told)>>>);

/// Whole pushes of metrics.
#[derive(Debug, Default)]
pub(super) struct Pushes {
    pub(super) exported: AtomicU64,
    pub(super) failed: AtomicU64,
}

impl Pushes {
    pub(super) fn counted(&self) -> ExportCounted {
        ExportCounted {
            exported: self.exported.load(Relaxed),
            failed: self.failed.load(Relaxed),
            ..ExportCounted::default()
        }
    }
}

impl Metrics {
    /// Shows what an exporter says of itself, under the name of what it sends: `spans`, `logs`;
    /// `metrics` is taken.
    pub fn register_export_counts(
        &self,
        name: &'static str,
        counts: impl Fn() -> ExportCounted + Send + Sync + 'static,
    ) {
        if let Some(inner) = self.inner() {
            inner.shared.exports.add(name, counts);
        }
    }
}

impl Exports {
    pub(super) fn add(
        &self,
        name: &'static str,
        counts: impl Fn() -> ExportCounted + Send + Sync + 'static,
    ) {
        let mut exports = self.0.write();
        exports.retain(|(known, _)| *known != name);
        exports.push((name, Arc::new(counts)));
    }

    fn each(&self, mut tell: impl FnMut(ExportCounted, &[KeyValue])) {
        for (signal, counts) in &*self.0.read() {
            tell(counts(), &[KeyValue::new("signal", *signal)]);
        }
    }

    /// Makes the instruments.
    pub(super) fn register(&self, meter: &Meter) {
        let counter = |name, about, read: fn(ExportCounted) -> u64| {
            let exports = self.clone();
            meter
                .u64_observable_counter(name)
                .with_unit("{item}")
                .with_description(about)
                .with_callback(move |seen| {
                    exports.each(|counts, labels| seen.observe(read(counts), labels));
                })
                .build();
        };
        counter(
            "duite.telemetry.exported",
            "Spans, log records and pushes of metrics that the receiver took",
            |counts| counts.exported,
        );
        counter(
            "duite.telemetry.failed",
            "Spans, log records and pushes of metrics that the receiver did not take",
            |counts| counts.failed,
        );
        counter(
            "duite.telemetry.dropped",
            "Spans and log records dropped because too many waited to be sent",
            |counts| counts.dropped,
        );
        let exports = self.clone();
        meter
            .u64_observable_gauge("duite.telemetry.pending")
            .with_unit("{item}")
            .with_description("Spans and log records that wait to be sent")
            .with_callback(move |seen| {
                exports.each(|counts, labels| seen.observe(counts.pending, labels));
            })
            .build();
    }
}

impl fmt::Debug for Exports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exports").finish_non_exhaustive()
    }
}
