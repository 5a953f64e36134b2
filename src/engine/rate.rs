//! How often something happens, as a moving average.
//!
//! Noted once for each merge, from counts that are kept anyway, so that a batch costs nothing; it
//! fades when it is read, so that what stands still costs nothing either.

use std::time::Duration;

/// An event counts 1/e of its first weight after this long, and a hundredth after 23 s.
const FADE: Duration = Duration::from_secs(5);

/// Merges and batches per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    at: Duration,
    merges: f64,
    batches: f64,
    /// Counts as they were at the last note.
    counted: (u64, u64),
}

impl Rate {
    /// Notes what was counted up to now, which is on any clock that does not go back.
    pub(super) fn note(&mut self, now: Duration, merges: u64, batches: u64) {
        let fade = self.fade(now);
        let add = |rate: f64, before: u64, count: u64| {
            rate * fade + count.saturating_sub(before) as f64 / FADE.as_secs_f64()
        };
        self.merges = add(self.merges, self.counted.0, merges);
        self.batches = add(self.batches, self.counted.1, batches);
        self.counted = (merges, batches);
        self.at = now;
    }

    /// Merges and batches per second, as they are now.
    #[must_use]
    pub fn per_second(&self, now: Duration) -> (f64, f64) {
        let fade = self.fade(now);
        (self.merges * fade, self.batches * fade)
    }

    fn fade(&self, now: Duration) -> f64 {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        (-passed / FADE.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) -> bool {
        (found - expected).abs() < expected / 50.0
    }

    #[test]
    fn a_steady_stream_is_told_as_it_is_and_fades_when_it_ends() {
        let mut rate = Rate::default();
        let mut now = Duration::from_secs(100);
        for count in 1..=3_000 {
            now += Duration::from_millis(10);
            rate.note(now, count, count * 40);
        }
        let (merges, batches) = rate.per_second(now);
        assert!(close(merges, 100.0) && close(batches, 4_000.0), "{rate:?}");
        let later = rate.per_second(now + FADE);
        assert!(close(later.1, 4_000.0 / 1_f64.exp()), "{later:?}");
        assert!(rate.per_second(now + Duration::from_secs(120)).0 < 1e-6);
    }

    #[test]
    fn nothing_has_no_rate() {
        assert_eq!(
            Rate::default().per_second(Duration::from_secs(9)),
            (0.0, 0.0)
        );
    }
}
