//! Watches: how many are open, what they are sent, and how much each delta folds.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
};

use opentelemetry::{KeyValue, metrics::Meter};

use super::{Inner, Metrics, counts::add};

const KINDS: [&str; 4] = ["state", "tasks", "leases", "errors"];
const REASONS: [&str; 3] = ["compacted", "epoch_changed", "filter_changed"];
/// Of how many deltas of a watch one is measured.
const MEASURED: u32 = 16;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchKind {
    /// States.
    State,
    /// Tasks.
    Tasks,
    /// The leases of one worker.
    Leases,
    /// Error groups.
    Errors,
}

/// Why a watch was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchReset {
    /// Deletions since were forgotten.
    Compacted,
    /// The store began another life.
    EpochChanged,
    /// The token was of another request.
    FilterChanged,
}

/// Counts of all watches.
#[derive(Debug, Default)]
pub(super) struct Watches {
    open: [AtomicI64; KINDS.len()],
    resets: [AtomicU64; REASONS.len()],
}

/// One open watch; it is closed when this is dropped.
#[derive(Debug, Default)]
pub struct WatchMeter {
    inner: Option<Arc<Inner>>,
    kind: usize,
    deltas: u32,
}

impl Metrics {
    /// A watch is opened.
    #[must_use]
    pub fn watch_opened(&self, kind: WatchKind) -> WatchMeter {
        let kind = kind as usize;
        let inner = self.inner().cloned();
        if let Some(inner) = &inner {
            inner.shared.watches.open[kind].fetch_add(1, Relaxed);
        }
        WatchMeter {
            inner,
            kind,
            deltas: 0,
        }
    }
}

impl WatchMeter {
    /// A frame is handed over.
    pub fn frame(&self) {
        if let Some(inner) = &self.inner {
            add(&inner.shared.counts.frames, 1);
        }
    }

    /// A delta was made that stands for so many commits.
    pub fn delta(&mut self, commits: u64) {
        let Some(inner) = &self.inner else { return };
        add(&inner.shared.counts.folded, commits);
        if self.deltas.is_multiple_of(MEASURED) {
            inner.instruments.watch_lag.record(commits, &[]);
        }
        self.deltas = self.deltas.wrapping_add(1);
    }

    /// The watch begins anew.
    pub fn reset(&self, reason: WatchReset) {
        if let Some(inner) = &self.inner {
            add(&inner.shared.watches.resets[reason as usize], 1);
        }
    }
}

impl Drop for WatchMeter {
    fn drop(&mut self) {
        if let Some(inner) = &self.inner {
            inner.shared.watches.open[self.kind].fetch_sub(1, Relaxed);
        }
    }
}

pub(super) fn register(watches: &Arc<Watches>, meter: &Meter) {
    let known = watches.clone();
    meter
        .i64_observable_up_down_counter("duite.watches.open")
        .with_unit("{watch}")
        .with_description("Open watches")
        .with_callback(move |seen| {
            for (kind, count) in KINDS.into_iter().zip(&known.open) {
                seen.observe(count.load(Relaxed), &[KeyValue::new("kind", kind)]);
            }
        })
        .build();
    let known = watches.clone();
    meter
        .u64_observable_counter("duite.watch.resets")
        .with_unit("{reset}")
        .with_description("Watches that could not go on where they were and were sent everything")
        .with_callback(move |seen| {
            for (reason, count) in REASONS.into_iter().zip(&known.resets) {
                seen.observe(count.load(Relaxed), &[KeyValue::new("reason", reason)]);
            }
        })
        .build();
}
