//! The two clocks of the engine, read in one place.
//!
//! What must not be fooled by a clock that jumps (leases, timeouts, pauses between attempts, pacing)
//! is measured on the monotonic one; what people read (create time, schedule time) on the wall. What
//! has begun before a start is judged once by the wall, and never lasts longer than it would have.

use std::{
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// Since the process began; never goes back.
    pub mono: Duration,
    /// Microseconds since the Unix epoch.
    pub wall_us: i64,
}

impl Now {
    /// Reads the clocks. The monotonic one is tokio's, so that tests can pause it.
    #[must_use]
    pub fn read() -> Self {
        let mono = origin().elapsed();
        #[cfg(test)]
        if let Some(now) = simulated::read(mono) {
            return now;
        }
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            mono,
            wall_us: i64::try_from(wall.as_micros()).unwrap_or(i64::MAX),
        }
    }

    /// The same for what lasts `most_us` at most: no more is left of it, however the wall clock was
    /// put since it began.
    #[must_use]
    pub fn mono_within(&self, wall_us: i64, most_us: u64) -> Duration {
        let latest = self.mono.saturating_add(Duration::from_micros(most_us));
        self.mono_at(wall_us).min(latest)
    }

    /// When the monotonic clock will stand at the time the wall clock now expects at `wall_us`.
    #[must_use]
    pub fn mono_at(&self, wall_us: i64) -> Duration {
        let ahead = wall_us.saturating_sub(self.wall_us);
        let ahead = Duration::from_micros(u64::try_from(ahead).unwrap_or(0));
        self.mono.saturating_add(ahead)
    }
}

/// The instant of tokio's clock for a monotonic reading.
#[must_use]
pub fn instant(mono: Duration) -> Instant {
    origin() + mono
}

fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

/// A wall clock that follows the monotonic one, for a thread in which time is paused.
#[cfg(test)]
pub(crate) mod simulated {
    use std::{cell::Cell, time::Duration};

    use super::{Now, origin};

    /// What the wall clock says where the simulation begins.
    const START_US: i64 = 1_800_000_000_000_000;

    thread_local! {
        static SINCE: Cell<Option<Duration>> = const { Cell::new(None) };
    }

    /// From here to the end of this thread, the wall clock follows the monotonic one.
    pub(crate) fn start() {
        SINCE.set(Some(origin().elapsed()));
    }

    pub(super) fn read(mono: Duration) -> Option<Now> {
        let passed = mono.saturating_sub(SINCE.get()?);
        let passed = i64::try_from(passed.as_micros()).unwrap_or(i64::MAX);
        let wall_us = START_US + passed;
        Some(Now { mono, wall_us })
    }
}
