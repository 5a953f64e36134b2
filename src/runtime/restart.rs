//! When a job that failed is started again, and when that is given up.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::time::Instant;

/// How a job of a kind is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the first failure; it doubles with each that follows.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// A life that was at work for so long forgives the failures before it.
    pub quiet: Duration,
    /// An error that the job returns is its last word: only panics are tried again.
    pub panics_only: bool,
    /// After so many failures in a row it is tried no more and the server stops; none: it is tried for
    /// ever. Lives are counted and not time, of which a long replay takes any amount.
    pub give_up: Option<u32>,
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
    began: Instant,
    at_work: Arc<OnceLock<Instant>>,
}

impl Life {
    pub(super) fn new(number: u64) -> Self {
        Self {
            number,
            began: Instant::now(),
            at_work: Arc::default(),
        }
    }

    /// The job has made good what the failure before left and is at work. One that is given up at
    /// some time has to say so: what comes before counts for nothing.
    pub fn at_work(&self) {
        self.at_work.get_or_init(Instant::now);
    }

    /// How long it has been at work.
    pub(super) fn worked(&self, backoff: Backoff) -> Duration {
        match self.at_work.get() {
            Some(since) => since.elapsed(),
            None if backoff.give_up.is_some() => Duration::ZERO,
            None => self.began.elapsed(),
        }
    }
}

/// The failures of one job, as far as they are in a row.
#[derive(Debug)]
pub(super) struct Failures {
    backoff: Backoff,
    in_a_row: u32,
}

impl Failures {
    pub(super) fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            in_a_row: 0,
        }
    }

    /// A failure of a life that was at work for so long: the pause before the next one; none: it is
    /// given up.
    pub(super) fn note(&mut self, worked: Duration) -> Option<Duration> {
        let Backoff { first, longest, .. } = self.backoff;
        if worked >= self.backoff.quiet {
            self.in_a_row = 0;
        }
        let pause = first.saturating_mul(1_u32.checked_shl(self.in_a_row).unwrap_or(u32::MAX));
        self.in_a_row = self.in_a_row.saturating_add(1);
        let is_last = self
            .backoff
            .give_up
            .is_some_and(|most| self.in_a_row >= most);
        (!is_last).then(|| pause.min(longest))
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
        give_up: Some(5),
        ..Backoff::FOR_EVER
    };
    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_double_to_the_longest_and_a_quiet_minute_begins_anew() {
        let mut failures = Failures::new(Backoff::FOR_EVER);
        let pauses: Vec<_> = (0..9)
            .map(|_| failures.note(MOMENT).unwrap().as_millis())
            .collect();
        assert_eq!(
            pauses,
            [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
        );
        assert_eq!(failures.note(BOUNDED.quiet), Some(BOUNDED.first));
        assert_eq!(failures.note(MOMENT), Some(BOUNDED.first * 2));
    }

    #[test]
    fn it_is_given_up_after_so_many_failures_in_a_row_however_long_they_take() {
        let mut failures = Failures::new(BOUNDED);
        for _ in 0..4 {
            assert!(failures.note(BOUNDED.quiet - MOMENT).is_some());
        }
        assert_eq!(failures.note(BOUNDED.quiet - MOMENT), None);
        // A minute of work between any two forgives what was before it.
        let mut failures = Failures::new(BOUNDED);
        for at in 0..20 {
            let worked = if at % 4 == 3 { BOUNDED.quiet } else { MOMENT };
            assert!(failures.note(worked).is_some());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_before_work_counts_for_nothing_where_a_job_can_be_given_up() {
        let life = Life::new(1);
        tokio::time::advance(BOUNDED.quiet * 2).await;
        assert_eq!(life.worked(BOUNDED), Duration::ZERO);
        assert_eq!(life.worked(Backoff::FOR_EVER), BOUNDED.quiet * 2);
        life.at_work();
        tokio::time::advance(MOMENT).await;
        life.at_work();
        assert_eq!(life.worked(BOUNDED), MOMENT);
    }

    #[test]
    fn jitter_only_shortens() {
        for _ in 0..100 {
            let pause = jittered(Duration::from_secs(1));
            assert!(pause >= Duration::from_millis(799) && pause <= Duration::from_secs(1));
        }
    }
}
