//! What exporters of telemetry say of themselves.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use opentelemetry::{KeyValue, metrics::Meter};
use parking_lot::RwLock;

use super::Metrics;

/// Counts of one exporter's items: spans, log records; of metrics whole pushes.
#[derive(Debug, Default)]
pub struct ExportCounts {
    /// Taken by the receiver.
    pub exported: AtomicU64,
    /// Refused by the receiver, or not taken in time.
    pub failed: AtomicU64,
    /// Dropped because too many waited.
    pub dropped: AtomicU64,
    /// Waiting.
    pub pending: AtomicU64,
}

/// Exporters by the name of what they send.
pub(super) type Exports = Arc<RwLock<Vec<(&'static str, Arc<ExportCounts>)>>>;

impl Metrics {
    /// Shows what an exporter says of itself, under the name of what it sends: `spans`, `logs`;
    /// `metrics` is taken.
    pub fn register_export_counts(&self, name: &'static str, counts: Arc<ExportCounts>) {
        if let Some(inner) = self.inner() {
            let mut exports = inner.shared.exports.write();
            exports.retain(|(known, _)| *known != name);
            exports.push((name, counts));
        }
    }
}

pub(super) fn register(exports: &Exports, meter: &Meter) {
    let counter = |name, about, read: fn(&ExportCounts) -> &AtomicU64| {
        let exports = exports.clone();
        meter
            .u64_observable_counter(name)
            .with_unit("{item}")
            .with_description(about)
            .with_callback(move |seen| {
                for (signal, counts) in &*exports.read() {
                    let labels = [KeyValue::new("signal", *signal)];
                    seen.observe(read(counts).load(Relaxed), &labels);
                }
            })
            .build();
    };
    counter(
        "duite.telemetry.exported",
        "Spans, log records and pushes of metrics that the receiver took",
        |counts| &counts.exported,
    );
    counter(
        "duite.telemetry.failed",
        "Spans, log records and pushes of metrics that the receiver did not take",
        |counts| &counts.failed,
    );
    counter(
        "duite.telemetry.dropped",
        "Spans and log records dropped because too many waited to be sent",
        |counts| &counts.dropped,
    );
    let exports = exports.clone();
    meter
        .u64_observable_gauge("duite.telemetry.pending")
        .with_unit("{item}")
        .with_description("Spans and log records that wait to be sent")
        .with_callback(move |seen| {
            for (signal, counts) in &*exports.read() {
                let labels = [KeyValue::new("signal", *signal)];
                seen.observe(counts.pending.load(Relaxed), &labels);
            }
        })
        .build();
}
