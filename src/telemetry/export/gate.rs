//! The processors of the SDK behind a gate that counts.

use std::{sync::Arc, time::Duration};

use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_otlp::{LogExporter, SpanExporter};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    logs::{BatchLogProcessor, LogBatch, LogProcessor, SdkLogRecord},
    trace::{BatchSpanProcessor, Span, SpanData, SpanProcessor},
};

use super::counts::ExportCounts;

/// Spans on their way out. A clone is the same.
#[derive(Clone, Debug)]
pub(crate) struct Spans {
    processor: Arc<BatchSpanProcessor>,
    counts: Arc<ExportCounts>,
}

impl Spans {
    pub(super) fn new(exporter: SpanExporter, counts: Arc<ExportCounts>, of: &Resource) -> Self {
        let counted = Counted {
            exporter,
            counts: Arc::clone(&counts),
        };
        let mut processor = BatchSpanProcessor::builder(counted).build();
        processor.set_resource(of);
        Self {
            processor: Arc::new(processor),
            counts,
        }
    }

    /// Sends a span that has ended. It is not even made where there is no room for it.
    pub(crate) fn send(&self, make: impl FnOnce() -> SpanData) {
        if self.counts.admit() {
            self.processor.on_end(make());
        }
    }
}

impl SpanProcessor for Spans {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.processor.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        self.send(|| span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.processor.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.processor.shutdown_with_timeout(timeout)
    }
}

/// Log records on their way out. A clone is the same.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    processor: Arc<BatchLogProcessor>,
    counts: Arc<ExportCounts>,
}

impl Records {
    pub(super) fn new(exporter: LogExporter, counts: Arc<ExportCounts>, of: &Resource) -> Self {
        let counted = Counted {
            exporter,
            counts: Arc::clone(&counts),
        };
        let mut processor = BatchLogProcessor::builder(counted).build();
        processor.set_resource(of);
        Self {
            processor: Arc::new(processor),
            counts,
        }
    }
}

impl LogProcessor for Records {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        if self.counts.admit() {
            self.processor.emit(record, scope);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.processor.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.processor.shutdown_with_timeout(timeout)
    }
}

/// An exporter whose batches are counted when their fate is known.
#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    counts: Arc<ExportCounts>,
}

impl opentelemetry_sdk::trace::SpanExporter for Counted<SpanExporter> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let items = batch.len();
        let result = self.exporter.export(batch).await;
        self.counts.sent(items, result.is_ok());
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl opentelemetry_sdk::logs::LogExporter for Counted<LogExporter> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let items = batch.iter().count();
        let result = self.exporter.export(batch).await;
        self.counts.sent(items, result.is_ok());
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
