//! Exponential backoff with full jitter: each wait is uniform between nothing and a limit that
//! doubles, so that a thousand clients of a restarted server do not come back in one instant.

use std::time::Duration;

/// Gives the next wait of a row of retries.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    limit: Duration,
    /// Until so much was waited in a row, waits are at most that long.
    eager: Option<(Duration, Duration)>,
    waited: Duration,
}

impl Backoff {
    /// Waits of at most `first`, then twice that, up to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            limit: first,
            eager: None,
            waited: Duration::ZERO,
        }
    }

    /// For unary calls: 0.1 s to 2 s.
    pub fn for_calls() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(2))
    }

    /// For streams that resume for ever: 0.2 s to 10 s, and at most 2 s within the first 30 s: a
    /// server that is started again should not be noticed late.
    pub fn for_streams() -> Self {
        Self {
            eager: Some((Duration::from_secs(30), Duration::from_secs(2))),
            ..Self::new(Duration::from_millis(200), Duration::from_secs(10))
        }
    }

    /// How long to wait before the next attempt.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.limit.mul_f64(fastrand::f64());
        self.waited += wait;
        let most = match self.eager {
            Some((until, most)) if self.waited < until => most.min(self.most),
            _ => self.most,
        };
        self.limit = (self.limit * 2).min(most);
        wait
    }

    /// To be called after progress: the next row of retries starts small again.
    pub fn reset(&mut self) {
        self.limit = self.first;
        self.waited = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_come_back_soon_for_a_while_and_then_less_often() {
        let mut backoff = Backoff::for_streams();
        let mut waited = Duration::ZERO;
        while waited < Duration::from_secs(30) {
            let wait = backoff.next_wait();
            assert!(wait <= Duration::from_secs(2));
            waited += wait;
        }
        let later = (0..100).map(|_| backoff.next_wait()).max();
        assert!(later > Some(Duration::from_secs(2)), "{later:?}");
    }

    #[test]
    fn waits_stay_under_a_limit_that_doubles_and_is_capped() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
        for limit in [100, 200, 300, 300] {
            assert!(backoff.next_wait() <= Duration::from_millis(limit));
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }
}
