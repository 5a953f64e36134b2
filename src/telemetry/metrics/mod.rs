//! Counts and durations, for whoever scrapes them as Prometheus or receives them by OTLP.
//!
//! - [`Metrics`]: start here
//! - `counts`, `tasks`, `calls`, `watch`, `server`, `export`, `process`: what is measured, each with
//!   its instruments; docs/OBSERVABILITY.md lists them all
//! - `bounded`: how many values a label may have
//! - [`Reading`]: what is asked of the rest of the server when somebody collects
//! - `push`: OTLP
//!
//! Where something happens often, it is counted in an atomic that is read when somebody collects;
//! the SDK's own instruments are used for histograms.

mod bounded;
mod calls;
mod counts;
mod export;
mod process;
mod push;
mod reading;
mod server;
mod tasks;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use opentelemetry::metrics::{Histogram, Meter, MeterProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Encoder, Registry, TextEncoder};

pub use bounded::OTHER;
pub use calls::{Call, Calls};
pub use reading::{JobReading, NamespaceReading, QueueReading, Reading};
pub use server::AppendFailure;
pub use tasks::status_name;
pub use watch::{WatchKind, WatchMeter, WatchReset};

use calls::Methods;
use counts::{Counts, add};
use export::{Exports, Pushes};
use reading::Readings;
use server::Server;
use tasks::Tasks;
use watch::Watches;

use super::otlp::{Role, resource};
use crate::domain::{NamespaceId, task::Task};

/// What a scrape is, as HTTP names it.
pub const TEXT_FORMAT: &str = prometheus::TEXT_FORMAT;

/// How long the last push may take.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// Seconds, from what a call takes that only reads to what a long poll waits.
const CALL_SECONDS: [f64; 15] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
];
/// Seconds, from a moment to a day.
const TASK_SECONDS: [f64; 15] = [
    0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0,
    86_400.0,
];
const APPEND_SECONDS: [f64; 12] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5,
];
const APPEND_ENTRIES: [f64; 8] = [1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0, 16_384.0];
const APPEND_BYTES: [f64; 8] = [
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    8_388_608.0,
];
const WATCH_COMMITS: [f64; 8] = [1.0, 2.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 16_384.0];

/// Counts what happens. A clone is the same; the default one counts nothing.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    shared: Shared,
    instruments: Instruments,
    registry: Registry,
    provider: SdkMeterProvider,
    /// Dropped after the provider, which sends in it.
    _push: Option<push::Running>,
}

/// What instruments read when somebody collects.
#[derive(Debug, Default)]
struct Shared {
    counts: Arc<Counts>,
    tasks: Arc<Tasks>,
    methods: Methods,
    watches: Arc<Watches>,
    server: Arc<Server>,
    exports: Exports,
    readings: Arc<Readings>,
}

/// Instruments that keep what they are told.
#[derive(Debug)]
struct Instruments {
    call_duration: Histogram<f64>,
    attempt_duration: Histogram<f64>,
    wait_duration: Histogram<f64>,
    append_duration: Histogram<f64>,
    append_entries: Histogram<u64>,
    append_bytes: Histogram<u64>,
    watch_lag: Histogram<u64>,
}

/// A committed group, added up.
#[derive(Clone, Copy, Debug, Default)]
pub struct GroupCounts {
    /// Deltas in it.
    pub deltas: u64,
    /// Parts of these.
    pub merges: u64,
    /// Batches of these.
    pub batches: u64,
    /// Operations of these.
    pub operations: u64,
}

/// What a frame of pushed batches came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct PushCounts {
    /// Batches taken in.
    pub batches: u64,
    /// Their operations.
    pub operations: u64,
    /// Batches that had come already.
    pub duplicates: u64,
    /// Gaps found.
    pub rewinds: u64,
}

impl Metrics {
    /// Begins to count, and to push where the environment asks for it.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(push::is_wanted(|name| std::env::var(name).ok()))
    }

    fn start_with(push: bool) -> Self {
        let registry = Registry::new();
        let mut provider = SdkMeterProvider::builder().with_resource(resource(Role::Server));
        // Scope labels would be the same on every line.
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .build();
        match exporter {
            Ok(exporter) => provider = provider.with_reader(exporter),
            Err(error) => tracing::error!(error.message = %error, "metrics cannot be scraped"),
        }
        let shared = Shared::default();
        let mut running = None;
        let reader = push.then(|| {
            let pushes = Arc::new(Pushes::default());
            let told = pushes.clone();
            shared.exports.add("metrics", move || told.counted());
            push::reader(pushes)
        });
        match reader.transpose() {
            Ok(Some((reader, runtime))) => {
                provider = provider.with_reader(reader);
                running = Some(runtime);
            }
            Ok(None) => {}
            Err(error) => tracing::error!(error.message = %error, "metrics cannot be pushed"),
        }
        let provider = provider.build();
        let meter = provider.meter("duite");
        shared.register(&meter);
        let inner = Inner {
            shared,
            instruments: Instruments::new(&meter),
            registry,
            provider,
            _push: running,
        };
        Self {
            inner: Some(Arc::new(inner)),
        }
    }

    fn inner(&self) -> Option<&Arc<Inner>> {
        self.inner.as_ref()
    }

    /// Asks `source` when somebody collects. It must not hold on to what counts here.
    pub fn read_from(&self, source: impl Fn(&mut Reading) + Send + Sync + 'static) {
        if let Some(inner) = &self.inner {
            inner.shared.readings.add(source);
        }
    }

    /// Everything, as Prometheus reads it. Takes some milliseconds: not for a thread of the runtime.
    pub fn scrape(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        if let Some(inner) = &self.inner {
            inner.shared.readings.renew();
            TextEncoder::new().encode(&inner.registry.gather(), &mut text)?;
        }
        Ok(text)
    }

    /// Pushes a last time, where anything is pushed, and asks nobody any more. Blocks.
    pub fn stop(&self) {
        let Some(inner) = &self.inner else { return };
        if let Err(error) = inner.provider.shutdown_with_timeout(STOP_WITHIN) {
            tracing::warn!(error.message = %error, "the last metrics were not pushed");
        }
        inner.shared.readings.clear();
    }

    /// The server takes calls, or not.
    pub fn set_ready(&self, ready: bool) {
        if let Some(inner) = &self.inner {
            inner.shared.server.ready.store(ready, Relaxed);
        }
    }

    /// See [`Probe::task_changed`](super::Probe::task_changed).
    pub(super) fn task_changed(
        &self,
        namespace: &NamespaceId,
        before: Option<&Task>,
        after: Option<&Task>,
    ) {
        if let Some(Inner {
            shared,
            instruments,
            ..
        }) = self.inner.as_deref()
        {
            let counts = &shared.counts;
            shared
                .tasks
                .changed(namespace, before, after, counts, instruments);
        }
    }

    /// A group was appended, of so many entries and bytes.
    pub fn appended(&self, took: Duration, entries: usize, bytes: usize) {
        if let Some(inner) = &self.inner {
            let instruments = &inner.instruments;
            instruments.append_duration.record(took.as_secs_f64(), &[]);
            instruments.append_entries.record(entries as u64, &[]);
            instruments.append_bytes.record(bytes as u64, &[]);
        }
    }

    /// A group was not appended.
    pub fn append_failed(&self, failure: AppendFailure) {
        if let Some(inner) = &self.inner {
            inner.shared.server.append_failed(failure);
        }
    }

    /// A committed group merged this.
    pub fn merged(&self, group: GroupCounts) {
        if let Some(inner) = &self.inner {
            let counts = &inner.shared.counts;
            add(&counts.deltas, group.deltas);
            add(&counts.merges, group.merges);
            add(&counts.batches_merged, group.batches);
            add(&counts.operations_merged, group.operations);
        }
    }

    /// A frame of batches came.
    pub fn pushed(&self, frame: PushCounts) {
        if let Some(inner) = &self.inner {
            let counts = &inner.shared.counts;
            add(&counts.batches_received, frame.batches);
            add(&counts.operations_received, frame.operations);
            add(&counts.duplicates, frame.duplicates);
            add(&counts.rewinds, frame.rewinds);
        }
    }

    /// Updates of so many keys were refused, and so many whole parts because of a later attempt.
    pub fn refused(&self, keys: usize, parts: usize) {
        if let Some(inner) = &self.inner {
            add(&inner.shared.counts.rejected, keys as u64);
            add(&inner.shared.counts.fenced, parts as u64);
        }
    }
}

impl Shared {
    fn register(&self, meter: &Meter) {
        self.counts.register(meter);
        self.tasks.register(&self.readings, meter);
        calls::register(&self.methods, meter);
        watch::register(&self.watches, meter);
        self.server.register(&self.readings, meter);
        self.exports.register(meter);
        process::register(meter, Instant::now());
    }
}

impl Instruments {
    fn new(meter: &Meter) -> Self {
        let seconds = |name, about, bounds: &[f64]| {
            let histogram = meter.f64_histogram(name).with_unit("s");
            let histogram = histogram.with_description(about);
            histogram.with_boundaries(bounds.to_vec()).build()
        };
        let sizes = |name, unit, about, bounds: &[f64]| {
            let histogram = meter.u64_histogram(name).with_unit(unit);
            let histogram = histogram.with_description(about);
            histogram.with_boundaries(bounds.to_vec()).build()
        };
        Self {
            call_duration: seconds(
                "rpc.server.call.duration",
                "What calls take that are answered once, until the answer is sent",
                &CALL_SECONDS,
            ),
            attempt_duration: seconds(
                "duite.task.attempt.duration",
                "What attempts took, from the lease to the end",
                &TASK_SECONDS,
            ),
            wait_duration: seconds(
                "duite.task.wait.duration",
                "How long tasks that were ready waited for a worker",
                &TASK_SECONDS,
            ),
            append_duration: seconds(
                "duite.journal.append.duration",
                "What appending a group to the journal takes, its sync included",
                &APPEND_SECONDS,
            ),
            append_entries: sizes(
                "duite.journal.append.entries",
                "{entry}",
                "Entries of the groups appended",
                &APPEND_ENTRIES,
            ),
            append_bytes: sizes(
                "duite.journal.append.size",
                "By",
                "Bytes of the groups appended",
                &APPEND_BYTES,
            ),
            watch_lag: sizes(
                "duite.watch.lag",
                "{commit}",
                "Commits that one delta stands for: how far the watch was behind; one delta in 16 of each watch",
                &WATCH_COMMITS,
            ),
        }
    }
}
