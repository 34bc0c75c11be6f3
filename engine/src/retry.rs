//! The intervals between tries, in one place.
//!
//! The `backoff` crate is unmaintained (RUSTSEC-2025-0012); we use its interval policy, which is finished
//! code, and nothing of its runtime. To replace it, replace this file.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;

/// The interval policy of one kind of retry: exponential, capped, never ending.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Intervals {
    /// Before the second try.
    pub first: Duration,
    /// The longest interval.
    pub longest: Duration,
    /// How much of an interval chance may add or take, between 0 and 1. 0 makes the policy reproducible.
    pub jitter: f64,
}

impl Intervals {
    /// The interval before try `tries + 1`, after `tries` failed ones. `chance` is a number in `[0, 1)`.
    #[must_use]
    pub fn after(&self, tries: u32, chance: f64) -> Duration {
        let mut policy = ExponentialBackoff {
            current_interval: self.first,
            initial_interval: self.first,
            randomization_factor: 0.0,
            multiplier: 2.0,
            max_interval: self.longest,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        let mut interval = self.first;
        // 32 doublings of a millisecond are seven weeks: nothing grows after that.
        for _ in 0..tries.clamp(1, 32) {
            interval = policy.next_backoff().unwrap_or(self.longest);
        }
        interval.mul_f64(1.0 + self.jitter * (2.0 * chance - 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_double_up_to_the_longest() {
        let policy =
            Intervals { first: Duration::from_secs(1), longest: Duration::from_secs(10), jitter: 0.0 };
        let seconds: Vec<_> = (1..=6).map(|tries| policy.after(tries, 0.5).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn jitter_spreads_around_the_interval() {
        let policy =
            Intervals { first: Duration::from_secs(10), longest: Duration::from_secs(10), jitter: 0.5 };
        assert_eq!(policy.after(1, 0.0), Duration::from_secs(5));
        assert_eq!(policy.after(1, 0.5), Duration::from_secs(10));
    }
}
