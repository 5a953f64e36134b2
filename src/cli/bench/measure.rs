//! Counting and timing: a meter that the load adds to, and latency percentiles.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// Latencies from 1 ns to [`LONGEST_NS`], to three digits.
#[derive(Debug, Clone)]
pub(super) struct Latency {
    histogram: Histogram<u64>,
}

/// Ten minutes: as long as the longest run. What takes longer counts as this.
const LONGEST_NS: u64 = 600_000_000_000;

impl Latency {
    pub(super) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_NS, 3)
            .expect("the bounds and the precision are constants that hdrhistogram accepts");
        Self { histogram }
    }

    pub(super) fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(nanos.clamp(1, LONGEST_NS));
    }

    /// The latency below which `percent` of all are, in microseconds; `None` when none was taken.
    pub(super) fn percentile_us(&self, percent: f64) -> Option<f64> {
        (!self.histogram.is_empty())
            .then(|| self.histogram.value_at_percentile(percent) as f64 / 1_000.0)
    }

    pub(super) fn p50_us(&self) -> Option<f64> {
        self.percentile_us(50.0)
    }

    /// How many were taken.
    pub(super) fn count(&self) -> u64 {
        self.histogram.len()
    }
}

/// What has been done so far, shared by all who do it.
#[derive(Debug, Clone)]
pub(super) struct Meter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Latencies count from here on: what came before was the warm-up.
    from: Instant,
    until: Instant,
    done: AtomicU64,
    latency: Mutex<Latency>,
}

/// How far a meter was at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub(super) at: Instant,
    pub(super) done: u64,
}

impl Meter {
    /// A meter that counts `duration` after `warm_up` from now.
    pub(super) fn start(warm_up: Duration, duration: Duration) -> Self {
        let from = Instant::now() + warm_up;
        Self(Arc::new(Shared {
            from,
            until: from + duration,
            done: AtomicU64::new(0),
            latency: Mutex::new(Latency::new()),
        }))
    }

    /// Whether load is still wanted.
    pub(super) fn running(&self) -> bool {
        Instant::now() < self.0.until
    }

    pub(super) fn add(&self, count: u64) {
        self.0.done.fetch_add(count, Ordering::Relaxed);
    }

    /// Takes the latency of something begun at `started` and done now.
    pub(super) fn took_since(&self, started: Instant) {
        let now = Instant::now();
        if now >= self.0.from {
            self.0
                .latency
                .lock()
                .record(now.saturating_duration_since(started));
        }
    }

    pub(super) fn reading(&self) -> Reading {
        Reading {
            at: Instant::now(),
            done: self.0.done.load(Ordering::Relaxed),
        }
    }

    pub(super) fn latency(&self) -> Latency {
        self.0.latency.lock().clone()
    }

    /// What was taken since the last call, or since the start: the latencies of one slice.
    pub(super) fn take_latency(&self) -> Latency {
        std::mem::replace(&mut self.0.latency.lock(), Latency::new())
    }

    /// A meter for as long as the longest run may take, without a warm-up: whoever measures in
    /// slices decides what counts.
    pub(super) fn open_ended() -> Self {
        Self::start(Duration::ZERO, Duration::from_nanos(LONGEST_NS))
    }

    /// Completes when counting begins.
    pub(super) async fn begins(&self) {
        tokio::time::sleep_until(self.0.from.into()).await;
    }

    /// Completes when counting ends.
    pub(super) async fn ends(&self) {
        tokio::time::sleep_until(self.0.until.into()).await;
    }

    /// The rate over the counted time, taken while the load runs.
    pub(super) async fn rate(&self) -> f64 {
        self.begins().await;
        let before = self.reading();
        self.ends().await;
        self.reading().per_second_since(before)
    }
}

impl Reading {
    pub(super) fn per_second_since(self, before: Self) -> f64 {
        let seconds = (self.at - before.at).as_secs_f64();
        if seconds > 0.0 {
            (self.done - before.done) as f64 / seconds
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_microseconds_and_within_three_digits() {
        let mut latency = Latency::new();
        assert_eq!(latency.p50_us(), None);
        (1..=1_000).for_each(|micros| latency.record(Duration::from_micros(micros)));
        let near = |percent: f64, expected: f64| {
            let got = latency.percentile_us(percent).unwrap();
            assert!(
                (got - expected).abs() <= expected / 500.0,
                "p{percent}: {got}"
            );
        };
        near(50.0, 500.0);
        near(99.0, 990.0);
    }

    #[test]
    fn a_latency_beyond_all_bounds_counts_as_the_longest() {
        let mut latency = Latency::new();
        latency.record(Duration::MAX);
        assert!(latency.p50_us().unwrap() >= 0.99 * LONGEST_NS as f64 / 1_000.0);
    }

    #[test]
    fn a_rate_is_what_was_done_between_two_readings() {
        let at = Instant::now();
        let before = Reading { at, done: 100 };
        let after = Reading {
            at: at + Duration::from_millis(500),
            done: 350,
        };
        assert_eq!(after.per_second_since(before), 500.0);
        assert_eq!(before.per_second_since(before), 0.0);
    }

    #[test]
    fn what_was_taken_is_not_taken_again() {
        let meter = Meter::open_ended();
        meter.took_since(Instant::now());
        assert_eq!(meter.take_latency().count(), 1);
        assert_eq!(meter.take_latency().count(), 0);
    }

    #[test]
    fn what_happens_in_the_warm_up_leaves_no_latency() {
        let warming = Meter::start(Duration::from_secs(60), Duration::from_secs(1));
        warming.took_since(Instant::now());
        assert_eq!(warming.latency().p50_us(), None);
        let counting = Meter::start(Duration::ZERO, Duration::from_secs(1));
        counting.took_since(Instant::now());
        assert!(counting.latency().p50_us().is_some());
    }
}
