//! The machine's monotonic clock, which all processes share, in nanoseconds.

use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

pub(super) const SECOND: u64 = 1_000_000_000;
pub(super) const MILLISECOND: u64 = 1_000_000;

/// The time now.
pub(super) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).expect("the clock began at 0");
    let rest = u64::try_from(time.tv_nsec).expect("a part of a second");
    seconds * SECOND + rest
}

/// Tells what an [`Instant`] of this process is on the shared clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Base {
    instant: Instant,
    nanos: u64,
}

impl Base {
    pub(super) fn new() -> Self {
        loop {
            let nanos = now();
            let instant = Instant::now();
            // Nothing came between the two readings. The error makes times earlier.
            if now() - nanos < SECOND / 50_000 {
                return Self { instant, nanos };
            }
        }
    }

    pub(super) fn nanos(self, instant: Instant) -> u64 {
        let later = instant.saturating_duration_since(self.instant);
        let earlier = self.instant.saturating_duration_since(instant);
        let nanos = |duration: std::time::Duration| duration.as_nanos() as u64;
        self.nanos + nanos(later) - nanos(earlier)
    }
}
