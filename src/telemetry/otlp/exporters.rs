//! The exporters with what is counted of them, polled within the runtime that is theirs.

use std::{
    fmt::Display,
    future::poll_fn,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    logs::{LogBatch, LogExporter},
    trace::{SpanData, SpanExporter},
};
use tokio::runtime::Handle;

use super::gate::Gate;

/// An exporter whose results are counted.
#[derive(Debug)]
pub(super) struct Counted<E> {
    inner: E,
    gate: Gate,
    runtime: Handle,
    signal: &'static str,
    /// The last export failed, and that was told.
    failing: AtomicBool,
}

impl<E> Counted<E> {
    pub(super) fn new(inner: E, gate: Gate, runtime: Handle, signal: &'static str) -> Self {
        Self {
            inner,
            gate,
            runtime,
            signal,
            failing: AtomicBool::new(false),
        }
    }

    /// The SDK polls exporters on a thread of its own, which knows no reactor.
    async fn counted(
        &self,
        items: usize,
        export: impl Future<Output = OTelSdkResult>,
    ) -> OTelSdkResult {
        let mut export = pin!(export);
        let result = poll_fn(|context| {
            let _within = self.runtime.enter();
            export.as_mut().poll(context)
        })
        .await;
        self.gate.leave(items, result.is_ok());
        self.tell(&result);
        result
    }

    /// Once when it begins to fail and once when it works again: a collector may be away for days.
    fn tell(&self, result: &Result<(), impl Display>) {
        let failed = result.is_err();
        if self.failing.swap(failed, Relaxed) == failed {
            return;
        }
        match result {
            Ok(()) => tracing::info!(signal = self.signal, "telemetry is exported again"),
            Err(error) => tracing::warn!(
                signal = self.signal,
                error.message = %error,
                "telemetry cannot be exported: what cannot be sent is dropped and counted"
            ),
        }
    }
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let items = batch.len();
        self.counted(items, self.inner.export(batch)).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E: LogExporter> LogExporter for Counted<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let items = batch.iter().count();
        self.counted(items, self.inner.export(batch)).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
