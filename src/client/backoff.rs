//! Exponential backoff with full jitter: each wait is uniform between nothing and a limit that
//! doubles, so that a thousand clients of a restarted server do not come back in one instant.

use std::time::Duration;

/// Gives the next wait of a row of retries.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    limit: Duration,
}

impl Backoff {
    /// Waits of at most `first`, then twice that, up to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            limit: first,
        }
    }

    /// For unary calls: 0.1 s to 2 s.
    pub fn for_calls() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(2))
    }

    /// For streams that resume for ever: 0.2 s to 10 s.
    pub fn for_streams() -> Self {
        Self::new(Duration::from_millis(200), Duration::from_secs(10))
    }

    /// How long to wait before the next attempt.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.limit.mul_f64(fastrand::f64());
        self.limit = (self.limit * 2).min(self.most);
        wait
    }

    /// To be called after progress: the next row of retries starts small again.
    pub fn reset(&mut self) {
        self.limit = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
