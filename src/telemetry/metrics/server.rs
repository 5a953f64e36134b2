//! The server as a whole: whether it serves, its journal, its background jobs.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use opentelemetry::{KeyValue, metrics::Meter};

use super::reading::{JobReading, Reading, Readings};

const APPEND_ERRORS: [&str; 3] = ["full", "refused", "unknown"];

/// Why a group was not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendFailure {
    /// The disk has no room.
    Full,
    /// The journal did not take it.
    Refused,
    /// Nobody knows whether it was written.
    Unknown,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Server {
    pub(super) ready: AtomicBool,
    append_errors: [AtomicU64; APPEND_ERRORS.len()],
}

impl Server {
    pub(super) fn append_failed(&self, failure: AppendFailure) {
        self.append_errors[failure as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn register(self: &Arc<Self>, readings: &Arc<Readings>, meter: &Meter) {
        let server = self.clone();
        meter
            .u64_observable_gauge("duite.server.ready")
            .with_description("1 while the server takes calls, else 0")
            .with_callback(move |seen| {
                seen.observe(u64::from(server.ready.load(Relaxed)), &[]);
            })
            .build();
        let server = self.clone();
        meter
            .u64_observable_counter("duite.journal.append.errors")
            .with_unit("{group}")
            .with_description("Groups that the journal did not take")
            .with_callback(move |seen| {
                for (error, count) in APPEND_ERRORS.into_iter().zip(&server.append_errors) {
                    seen.observe(count.load(Relaxed), &[KeyValue::new("error.type", error)]);
                }
            })
            .build();
        disk(readings, meter);
        values(readings, meter);
        jobs(readings, meter);
    }
}

fn disk(readings: &Arc<Readings>, meter: &Meter) {
    let bytes = |name, about, read: fn(&Reading) -> Option<u64>| {
        let asked = readings.clone();
        meter
            .u64_observable_gauge(name)
            .with_unit("By")
            .with_description(about)
            .with_callback(move |seen| {
                if let Some(bytes) = read(&asked.get()) {
                    seen.observe(bytes, &[]);
                }
            })
            .build();
    };
    bytes(
        "duite.disk.free",
        "Bytes free on the disk of the data folder",
        |reading| reading.disk_free,
    );
    bytes(
        "duite.journal.size",
        "Bytes of the journal on the disk",
        |reading| reading.journal_bytes,
    );
    let asked = readings.clone();
    meter
        .f64_observable_gauge("duite.journal.replay.duration")
        .with_unit("s")
        .with_description("What reading the journal of a namespace took when it was opened")
        .with_callback(move |seen| {
            for namespace in &asked.get().namespaces {
                let labels = [KeyValue::new("duite.namespace", namespace.name.clone())];
                seen.observe(namespace.replay.as_secs_f64(), &labels);
            }
        })
        .build();
}

fn values(readings: &Arc<Readings>, meter: &Meter) {
    let asked = readings.clone();
    meter
        .u64_observable_counter("duite.values.lookups")
        .with_unit("{lookup}")
        .with_description(
            "Large values looked for: found in memory, or to be read from the journal",
        )
        .with_callback(move |seen| {
            let reading = asked.get();
            seen.observe(reading.value_hits, &[KeyValue::new("outcome", "hit")]);
            seen.observe(reading.value_misses, &[KeyValue::new("outcome", "miss")]);
        })
        .build();
    let asked = readings.clone();
    meter
        .u64_observable_gauge("duite.values.cached")
        .with_unit("By")
        .with_description("Bytes of large values in memory")
        .with_callback(move |seen| seen.observe(asked.get().value_bytes, &[]))
        .build();
}

fn jobs(readings: &Arc<Readings>, meter: &Meter) {
    let asked = readings.clone();
    meter
        .u64_observable_gauge("duite.runtime.tasks.pending")
        .with_unit("{task}")
        .with_description("Decorated tasks and background jobs of the server that have not ended")
        .with_callback(move |seen| seen.observe(asked.get().pending, &[]))
        .build();
    let asked = readings.clone();
    meter
        .u64_observable_gauge("duite.jobs.running")
        .with_unit("{job}")
        .with_description("Background jobs that run")
        .with_callback(move |seen| {
            for job in &asked.get().jobs {
                seen.observe(job.running, &[KeyValue::new("kind", job.kind)]);
            }
        })
        .build();
    let counter = |name, unit, about, read: fn(&JobReading) -> u64| {
        let asked = readings.clone();
        meter
            .u64_observable_counter(name)
            .with_unit(unit)
            .with_description(about)
            .with_callback(move |seen| {
                for job in &asked.get().jobs {
                    seen.observe(read(job), &[KeyValue::new("kind", job.kind)]);
                }
            })
            .build();
    };
    counter(
        "duite.jobs.failures",
        "{failure}",
        "Background jobs that failed or panicked",
        |job| job.failures,
    );
    counter(
        "duite.jobs.restarts",
        "{restart}",
        "Background jobs that were started again",
        |job| job.restarts,
    );
}
