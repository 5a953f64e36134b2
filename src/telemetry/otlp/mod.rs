//! Export to an OpenTelemetry collector over gRPC.
//!
//! - `settings`: what the `OTEL_` variables ask for
//! - [`Exports`]: what runs: a queue, a thread and an exporter for each signal
//! - `gate`: how many items wait, counted before they are made
//! - `exporters`: what is counted of what was sent
//!
//! Connections live on a runtime of one thread that is nobody else's, and the SDK's processors have
//! threads of their own: a slow collector touches no thread of the service.

mod exporters;
mod gate;
mod settings;

use std::{
    io,
    sync::{Arc, LazyLock, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use opentelemetry::KeyValue;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    logs::{self, BatchLogProcessor, LogProcessor, SdkLogRecord, SdkLogger, SdkLoggerProvider},
    resource::{EnvResourceDetector, TelemetryResourceDetector},
    trace::{self, BatchSpanProcessor, SdkTracerProvider, Span, SpanData, SpanProcessor},
};
use tokio::{runtime::Handle, sync::oneshot};

use self::{exporters::Counted, gate::Gate};
pub use gate::{ExportCounted, ExportCounts};
pub use settings::Role;
pub(super) use settings::{Batching, Settings};

/// How long the end of a process waits for what is still to be sent.
pub(super) const FLUSH_WITHIN: Duration = Duration::from_secs(2);
/// What made the spans and records.
pub(super) const SCOPE: &str = "duite";

/// What is exported. Dropped, its connections are closed.
#[derive(Debug, Default)]
pub(super) struct Exports {
    pub(super) spans: Option<Spans>,
    pub(super) logs: Option<Logs>,
    /// Ends the runtime's thread when it is dropped.
    _runtime: Option<oneshot::Sender<()>>,
}

impl Exports {
    /// Starts what `settings` ask for; what cannot be started is added to the problems.
    pub(super) fn start(role: Role, settings: &mut Settings) -> Self {
        if settings.spans.is_none() && settings.logs.is_none() {
            return Self::default();
        }
        let (runtime, stop) = match runtime() {
            Ok(started) => started,
            Err(error) => {
                let problem = format!("no thread for the export of telemetry: {error}");
                settings.problems.push(problem);
                return Self::default();
            }
        };
        // tonic's channels belong to the runtime that they are made in.
        let _within = runtime.enter();
        let resource = resource(role);
        let mut problem = |signal, error: opentelemetry_otlp::ExporterBuildError| {
            let problem = format!("{signal} are not exported: {error}");
            settings.problems.push(problem);
        };
        let spans = settings.spans.and_then(|batching| {
            Spans::start(batching, &resource, &runtime)
                .map_err(|error| problem("traces", error))
                .ok()
        });
        let logs = settings.logs.and_then(|batching| {
            Logs::start(batching, &resource, &runtime)
                .map_err(|error| problem("logs", error))
                .ok()
        });
        Self {
            spans,
            logs,
            _runtime: Some(stop),
        }
    }

    /// What was not exported of spans and of log records.
    pub(super) fn lost(&self) -> [Option<Lost>; 2] {
        let spans = self
            .spans
            .as_ref()
            .and_then(|spans| Lost::of(spans.counts()));
        let logs = self.logs.as_ref().and_then(|logs| Lost::of(logs.counts()));
        [spans, logs]
    }

    /// Sends what waits, within [`FLUSH_WITHIN`]. Blocks: not for a thread of a runtime.
    pub(super) fn flush(&self) {
        thread::scope(|scope| {
            if let Some(spans) = &self.spans {
                scope.spawn(|| spans.processor.shutdown_with_timeout(FLUSH_WITHIN));
            }
            if let Some(logs) = &self.logs {
                scope.spawn(|| logs.provider.shutdown_with_timeout(FLUSH_WITHIN));
            }
        });
    }
}

/// What the collector never took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lost {
    pub(super) dropped: u64,
    pub(super) failed: u64,
    pub(super) pending: u64,
}

impl Lost {
    /// None where everything was taken.
    fn of(counts: &ExportCounts) -> Option<Self> {
        let lost = Self {
            dropped: counts.dropped.load(Relaxed),
            failed: counts.failed.load(Relaxed),
            pending: counts.pending.load(Relaxed),
        };
        (lost.dropped + lost.failed + lost.pending > 0).then_some(lost)
    }
}

fn runtime() -> io::Result<(Handle, oneshot::Sender<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel();
    thread::Builder::new()
        .name("duite-otlp".to_owned())
        .spawn(move || {
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
    Ok((handle, stop))
}

/// What the collector learns of this process. `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME`
/// go before what is known here.
pub(super) fn resource(role: Role) -> Resource {
    /// One for all signals of the process: by it they are known to be of one.
    static INSTANCE: LazyLock<String> = LazyLock::new(|| uuid::Uuid::new_v4().to_string());
    let builder = Resource::builder_empty()
        .with_service_name(role.service_name())
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", INSTANCE.as_str()),
        ])
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()));
    match std::env::var("OTEL_SERVICE_NAME") {
        Ok(name) if !name.is_empty() => builder.with_service_name(name),
        _ => builder,
    }
    .build()
}

/// The way of spans.
#[derive(Clone, Debug)]
pub(super) struct Spans {
    gate: Gate,
    processor: Arc<BatchSpanProcessor>,
    resource: Resource,
}

impl Spans {
    fn start(
        batching: Batching,
        resource: &Resource,
        runtime: &Handle,
    ) -> Result<Self, opentelemetry_otlp::ExporterBuildError> {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .build()?;
        Ok(Self::to(exporter, batching, resource, runtime))
    }

    /// To any exporter.
    pub(super) fn to(
        exporter: impl trace::SpanExporter + 'static,
        batching: Batching,
        resource: &Resource,
        runtime: &Handle,
    ) -> Self {
        let gate = Gate::new(batching.queue);
        let exporter = Counted::new(exporter, gate.clone(), runtime.clone(), "traces");
        let config = trace::BatchConfigBuilder::default()
            .with_max_queue_size(batching.queue)
            .with_max_export_batch_size(batching.batch)
            .with_scheduled_delay(batching.delay)
            .build();
        let mut processor = BatchSpanProcessor::builder(exporter)
            .with_batch_config(config)
            .build();
        processor.set_resource(resource);
        Self {
            gate,
            processor: Arc::new(processor),
            resource: resource.clone(),
        }
    }

    /// Whether there is room for one more; if not, one is counted as dropped.
    pub(super) fn has_room(&self) -> bool {
        self.gate.has_room()
    }

    /// Hands over a span, which is only made where there is room for it.
    pub(super) fn push(&self, span: impl FnOnce() -> SpanData) {
        if self.gate.enter() {
            self.processor.on_end(span());
        }
    }

    pub(super) fn counts(&self) -> &Arc<ExportCounts> {
        &self.gate.counts
    }

    /// Makes spans by the SDK that go the same way.
    pub(super) fn provider(&self, sampler: super::sampler::Sampler) -> SdkTracerProvider {
        SdkTracerProvider::builder()
            .with_sampler(sampler.of_sdk())
            .with_resource(self.resource.clone())
            .with_span_processor(Gated(self.clone()))
            .build()
    }
}

/// Behind the gate, for spans and records that the SDK makes.
#[derive(Debug)]
struct Gated<T>(T);

impl SpanProcessor for Gated<Spans> {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.0.push(|| span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.processor.force_flush()
    }

    /// What ends the processor is [`Exports::flush`]: others hand spans to it.
    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The way of log records.
#[derive(Clone, Debug)]
pub(super) struct Logs {
    gate: Gate,
    pub(super) provider: SdkLoggerProvider,
    logger: SdkLogger,
}

impl Logs {
    fn start(
        batching: Batching,
        resource: &Resource,
        runtime: &Handle,
    ) -> Result<Self, opentelemetry_otlp::ExporterBuildError> {
        let exporter = opentelemetry_otlp::LogExporter::builder()
            .with_tonic()
            .build()?;
        Ok(Self::to(exporter, batching, resource, runtime))
    }

    /// To any exporter.
    pub(super) fn to(
        exporter: impl logs::LogExporter + 'static,
        batching: Batching,
        resource: &Resource,
        runtime: &Handle,
    ) -> Self {
        use opentelemetry::logs::LoggerProvider;
        let gate = Gate::new(batching.queue);
        let exporter = Counted::new(exporter, gate.clone(), runtime.clone(), "logs");
        let config = logs::BatchConfigBuilder::default()
            .with_max_queue_size(batching.queue)
            .with_max_export_batch_size(batching.batch)
            .with_scheduled_delay(batching.delay)
            .build();
        let processor = BatchLogProcessor::builder(exporter)
            .with_batch_config(config)
            .build();
        let provider = SdkLoggerProvider::builder()
            .with_resource(resource.clone())
            .with_log_processor(Gated((gate.clone(), processor)))
            .build();
        let logger = provider.logger(SCOPE);
        Self {
            gate,
            provider,
            logger,
        }
    }

    /// Hands over a record, which is only made where there is room for it.
    pub(super) fn push(&self, fill: impl FnOnce(&mut SdkLogRecord)) {
        use opentelemetry::logs::Logger;
        if self.gate.has_room() {
            let mut record = self.logger.create_log_record();
            fill(&mut record);
            self.logger.emit(record);
        }
    }

    pub(super) fn counts(&self) -> &Arc<ExportCounts> {
        &self.gate.counts
    }
}

impl LogProcessor for Gated<(Gate, BatchLogProcessor)> {
    fn emit(&self, record: &mut SdkLogRecord, scope: &opentelemetry::InstrumentationScope) {
        let (gate, processor) = &self.0;
        if gate.enter() {
            processor.emit(record, scope);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.1.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.1.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.1.set_resource(resource);
    }
}
