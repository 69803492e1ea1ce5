//! When a message that was certainly not sent is tried again.
//!
//! Owns: the backoff schedule, with full jitter. This is the only module that uses the `backoff` crate, and it uses
//! only the intervals: the crate's own loops sleep in memory, so a crash would lose the wait.
//! If the process dies: nothing is lost; the caller stores the due time in Redis.
//! Never: sleeps, depends on a clock, or draws random numbers.

use std::time::Duration;

use backoff::{ExponentialBackoff, backoff::Backoff as _};

/// The maximum number of attempts of a message, and the waits between them.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    initial: Duration,
    multiplier: f64,
    max: Duration,
    attempts_max: u8,
}

impl RetryPolicy {
    /// The largest number of attempts of a policy.
    pub const ATTEMPTS_MAX: u8 = 15;

    /// A policy of `attempts_max` attempts, the first included. The upper limit of the wait after attempt *n* is
    /// `initial` × `multiplier`^(*n* − 1), capped at `max`.
    ///
    /// Shape: `initial` above zero and at most `max`; `multiplier` at least 1; `attempts_max` 1..=15.
    ///
    /// # Errors
    /// [`BadRetryPolicy`] names the value that is out of range.
    pub fn new(initial: Duration, multiplier: f64, max: Duration, attempts_max: u8) -> Result<Self, BadRetryPolicy> {
        if initial.is_zero() || initial > max {
            return Err(BadRetryPolicy::Initial { initial, max });
        }
        if !(multiplier.is_finite() && multiplier >= 1.0) {
            return Err(BadRetryPolicy::Multiplier(multiplier));
        }
        if !(1..=Self::ATTEMPTS_MAX).contains(&attempts_max) {
            return Err(BadRetryPolicy::AttemptsMax(attempts_max));
        }
        Ok(Self { initial, multiplier, max, attempts_max })
    }

    /// The maximum number of attempts, the first included.
    pub fn attempts_max(&self) -> u8 {
        self.attempts_max
    }

    /// The wait after attempt `attempt` (counted from 1) failed; `None` if no attempt is left.
    ///
    /// Full jitter: the wait is `jitter` times the upper limit, where `jitter` is a random number from 0 to 1 that
    /// the caller draws. This spreads messages that failed together. The caller also applies the minimum wait from
    /// the table of Meta's codes.
    pub fn delay(&self, attempt: u8, jitter: f64) -> Option<Duration> {
        let jitter = if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) };
        (attempt < self.attempts_max).then(|| self.wait_max(attempt).mul_f64(jitter))
    }

    fn wait_max(&self, attempt: u8) -> Duration {
        let mut schedule = ExponentialBackoff {
            initial_interval: self.initial,
            current_interval: self.initial,
            multiplier: self.multiplier,
            max_interval: self.max,
            // Without a limit on the total time, the clock of `ExponentialBackoff` has no effect.
            max_elapsed_time: None,
            randomization_factor: 0.0,
            ..ExponentialBackoff::default()
        };
        for _ in 1..attempt {
            schedule.next_backoff();
        }
        // Not the return value of `next_backoff`, which is off by up to a nanosecond even if the randomization factor
        // is 0.
        schedule.current_interval
    }
}

/// A value of a retry policy is out of range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BadRetryPolicy {
    /// `initial` is zero or above `max`.
    #[error("the initial wait of a retry is {initial:?}: it must be above zero and at most the longest wait, {max:?}")]
    Initial {
        /// The initial wait.
        initial: Duration,
        /// The maximum wait.
        max: Duration,
    },
    /// `multiplier` is below 1 or not finite.
    #[error("the multiplier of a retry is {0}: it must be a number of 1 or more")]
    Multiplier(f64),
    /// `attempts_max` is not 1 to 15.
    #[error("the attempts of a message are {0}: they must be 1 to 15")]
    AttemptsMax(u8),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The upper limits of the waits after attempts 1 to 5 are 5 s, 15 s, 45 s, 135 s and 405 s.
    fn six_attempts() -> RetryPolicy {
        RetryPolicy { initial: seconds(5), multiplier: 3.0, max: seconds(600), attempts_max: 6 }
    }

    fn schedule(policy: &RetryPolicy, jitter: f64) -> Vec<Option<Duration>> {
        (1..=policy.attempts_max).map(|attempt| policy.delay(attempt, jitter)).collect()
    }

    #[test]
    fn waits_grow_to_the_cap_and_end_with_the_attempts() {
        let [s5, s15, s45, s135, s405, s600] = [5, 15, 45, 135, 405, 600].map(|s| Some(seconds(s)));
        let default = six_attempts();
        assert_eq!(schedule(&default, 1.0), [s5, s15, s45, s135, s405, None]);
        let patient = RetryPolicy { attempts_max: 9, ..default.clone() };
        assert_eq!(schedule(&patient, 1.0), [s5, s15, s45, s135, s405, s600, s600, s600, None]);
        let once = RetryPolicy { attempts_max: 1, ..default.clone() };
        assert_eq!(schedule(&once, 1.0), [None]);
        let steady = RetryPolicy::new(seconds(5), 1.0, seconds(5), 4).expect("in range");
        assert_eq!(schedule(&steady, 1.0), [s5, s5, s5, None]);
        assert_eq!(default.delay(200, 1.0), None);
    }

    #[test]
    fn jitter_is_full_and_comes_from_the_caller() {
        let policy = six_attempts();
        assert_eq!(policy.delay(2, 0.0), Some(Duration::ZERO));
        assert_eq!(policy.delay(2, 0.5), Some(Duration::from_millis(7500)));
        assert_eq!(policy.delay(2, 1.0), Some(seconds(15)));
        for (outside, inside) in [(-1.0, 0.0), (f64::NAN, 0.0), (2.0, 1.0), (f64::INFINITY, 1.0)] {
            assert_eq!(policy.delay(2, outside), policy.delay(2, inside), "{outside}");
        }
    }

    #[test]
    fn a_policy_out_of_range_is_refused_with_the_reason() {
        let new =
            |initial, multiplier, max, attempts| RetryPolicy::new(seconds(initial), multiplier, seconds(max), attempts);
        assert!(matches!(new(0, 3.0, 600, 6), Err(BadRetryPolicy::Initial { .. })));
        assert!(matches!(new(601, 3.0, 600, 6), Err(BadRetryPolicy::Initial { .. })));
        for multiplier in [0.9, -3.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(new(5, multiplier, 600, 6), Err(BadRetryPolicy::Multiplier(_))), "{multiplier}");
        }
        assert_eq!(new(5, 3.0, 600, 0), Err(BadRetryPolicy::AttemptsMax(0)));
        assert_eq!(new(5, 3.0, 600, 16), Err(BadRetryPolicy::AttemptsMax(16)));
        assert_eq!(new(5, 3.0, 600, 6), Ok(six_attempts()));
    }

    proptest! {
        #[test]
        fn delays_are_capped_and_deterministic(
            initial in 1u64..=60_000,
            above in 0u64..=3_600_000,
            multiplier in 1.0f64..=20.0,
            attempts_max in 1u8..=15,
            attempt in 1u8..=15,
            jitter in 0.0f64..=1.0,
        ) {
            let max = Duration::from_millis(initial + above);
            let policy = RetryPolicy::new(Duration::from_millis(initial), multiplier, max, attempts_max).expect("in range");
            let delay = policy.delay(attempt, jitter);
            prop_assert_eq!(delay.is_some(), attempt < attempts_max);
            prop_assert!(delay.is_none_or(|delay| delay <= max));
            prop_assert_eq!(delay, policy.delay(attempt, jitter));
        }
    }
}
