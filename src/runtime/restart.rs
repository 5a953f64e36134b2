//! When a job that failed is started again, and when that is given up. Pure: whoever asks brings the
//! time.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How a job of a kind is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the first failure; it doubles with each that follows.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// After so long without a failure the next counts as the first again.
    pub quiet: Duration,
    /// An error that the job returns is its last word: only panics are tried again.
    pub panics_only: bool,
    /// When it is tried no more and the server stops; none: it is tried for ever.
    pub give_up: Option<GiveUp>,
}

/// Too many failures in a row, without any progress between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GiveUp {
    /// So many.
    pub failures: usize,
    /// Within such a time.
    pub within: Duration,
}

impl Backoff {
    /// 100 ms to 10 s, for ever; a minute without a failure forgives those before.
    pub const FOR_EVER: Self = Self {
        first: Duration::from_millis(100),
        longest: Duration::from_secs(10),
        quiet: Duration::from_secs(60),
        panics_only: false,
        give_up: None,
    };
}

/// One run of a job that is started again when it fails.
#[derive(Clone, Debug)]
pub struct Life {
    /// Which: 0 is the first.
    pub number: u64,
    progress: Arc<AtomicBool>,
}

impl Life {
    pub(super) fn new(number: u64) -> Self {
        Self {
            number,
            progress: Arc::default(),
        }
    }

    /// The job did what it is there for: failures before this one are forgiven.
    pub fn progress(&self) {
        self.progress.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_progressed(&self) -> bool {
        self.progress.load(Ordering::Relaxed)
    }
}

/// The failures of one job.
#[derive(Debug)]
pub(super) struct Failures {
    backoff: Backoff,
    /// When those in a row were, as far as they count for giving up; at most so many as that takes.
    times: VecDeque<Duration>,
    in_a_row: u32,
    last: Option<Duration>,
}

impl Failures {
    pub(super) fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            times: VecDeque::new(),
            in_a_row: 0,
            last: None,
        }
    }

    /// A failure at `now`: the pause before the next start; none: it is given up.
    pub(super) fn note(&mut self, now: Duration, progressed: bool) -> Option<Duration> {
        let Backoff {
            first,
            longest,
            quiet,
            ..
        } = self.backoff;
        let was_quiet = self
            .last
            .is_some_and(|last| now.saturating_sub(last) >= quiet);
        if progressed || was_quiet {
            self.times.clear();
            self.in_a_row = 0;
        }
        self.last = Some(now);
        if let Some(GiveUp { failures, within }) = self.backoff.give_up {
            self.times
                .retain(|time| now.saturating_sub(*time) <= within);
            self.times.push_back(now);
            if self.times.len() >= failures {
                return None;
            }
        }
        let pause = first.saturating_mul(1_u32.checked_shl(self.in_a_row).unwrap_or(u32::MAX));
        self.in_a_row = self.in_a_row.saturating_add(1);
        Some(pause.min(longest))
    }
}

/// The pause, up to a fifth shorter, so that jobs that failed together do not start together.
pub(super) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.8 + 0.2 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDED: Backoff = Backoff {
        give_up: Some(GiveUp {
            failures: 5,
            within: Duration::from_secs(60),
        }),
        ..Backoff::FOR_EVER
    };

    #[test]
    fn pauses_double_to_the_longest_and_a_quiet_minute_or_progress_begins_anew() {
        let mut failures = Failures::new(Backoff::FOR_EVER);
        let mut now = Duration::ZERO;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let pause = failures.note(now, false).unwrap();
            pauses.push(pause.as_millis());
            now += pause;
        }
        assert_eq!(
            pauses,
            [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
        );
        now += Duration::from_secs(60);
        assert_eq!(failures.note(now, false), Some(BOUNDED.first));
        assert_eq!(failures.note(now, false), Some(BOUNDED.first * 2));
        assert_eq!(failures.note(now, true), Some(BOUNDED.first));
        assert!(failures.times.is_empty());
    }

    #[test]
    fn it_is_given_up_after_so_many_failures_within_the_time_unless_there_was_progress() {
        let mut failures = Failures::new(BOUNDED);
        let second = |second| Duration::from_secs(second);
        for at in 0..4 {
            assert!(failures.note(second(at), false).is_some());
        }
        assert_eq!(failures.note(second(4), false), None);
        // Progress between any two forgives what was before it.
        let mut failures = Failures::new(BOUNDED);
        for at in 0..20 {
            assert!(failures.note(second(at), at % 4 == 3).is_some());
        }
        // So does time.
        let mut failures = Failures::new(BOUNDED);
        for at in 0..20 {
            assert!(failures.note(second(at * 20), false).is_some());
        }
        assert!(failures.times.len() < 5);
    }

    #[test]
    fn jitter_only_shortens() {
        for _ in 0..100 {
            let pause = jittered(Duration::from_secs(1));
            assert!(pause >= Duration::from_millis(799) && pause <= Duration::from_secs(1));
        }
    }
}
