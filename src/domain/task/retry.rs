//! How long to wait before the next attempt.

use super::Policy;

/// Exponential backoff with equal jitter: half of `initial * 2^(attempt - 1)`, capped, is certain,
/// the other half random. (The "equal jitter" of the AWS Architecture Blog, "Exponential Backoff
/// and Jitter", 2015: it spreads retries and never comes close to zero.)
///
/// `attempt` counts from 1, `random` is uniform over all of `u64`. The result is in microseconds.
#[must_use]
pub fn backoff(policy: &Policy, attempt: u32, random: u64) -> u64 {
    let doublings = attempt.saturating_sub(1).min(63);
    let full = policy
        .retry_initial_us
        .saturating_mul(1 << doublings)
        .min(policy.retry_max_us);
    let half = full / 2;
    // Scales `random` to 0..=half without a modulo bias worth speaking of.
    half + ((u128::from(random) * (u128::from(full - half) + 1)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_delay_lies_between_half_and_all_of_the_capped_exponential(
            initial in 0_u64..10_000_000_000, max in 0_u64..10_000_000_000, attempt in 1_u32..200, random: u64,
        ) {
            let policy = Policy { retry_initial_us: initial, retry_max_us: max, ..Policy::default() };
            let full = initial.saturating_mul(1 << (attempt - 1).min(63)).min(max);
            let delay = backoff(&policy, attempt, random);
            prop_assert!((full / 2..=full).contains(&delay));
        }
    }

    #[test]
    fn both_ends_are_reached() {
        let policy = Policy {
            retry_initial_us: 1_000,
            retry_max_us: 4_000,
            ..Policy::default()
        };
        assert_eq!(backoff(&policy, 1, 0), 500);
        assert_eq!(backoff(&policy, 1, u64::MAX), 1_000);
        assert_eq!(backoff(&policy, 9, u64::MAX), 4_000);
    }
}
