//! The breaker for Meta as a whole: when messages of all lines fail because the platform is down, none is sent for a
//! while.
//!
//! Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/support/error-codes>, codes 2,
//! 131016 and 133004, read 2026-11-28.

use std::time::Duration;

use crate::domain::{Cause, ErrorScope, Outcome, UnixMs, policy};

/// How many messages in a row have to fail. Fewer could be chance.
const FAILURES: u32 = 20;

/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// Counts consecutive failures of the platform, over several lines.
#[derive(Clone, Debug)]
pub struct Breaker {
    failures: u32,
    /// How often the breaker has opened since Meta last accepted a message.
    opened: u32,
    /// Until when the breaker is open. Failures until then are ignored, because these messages were in flight when it
    /// opened.
    open_until: UnixMs,
}

impl Default for Breaker {
    /// Closed.
    fn default() -> Self {
        Self { failures: 0, opened: 0, open_until: UnixMs(0) }
    }
}

impl Breaker {
    /// Records an outcome at `now`. If this outcome opens the breaker, returns how long nothing may be sent: the wait
    /// of Meta's code, doubled each time that the breaker opens again without a success, up to five minutes.
    pub fn record(&mut self, outcome: &Outcome, now: UnixMs) -> Option<Duration> {
        if let Outcome::Accepted { .. } = outcome {
            (self.failures, self.opened) = (0, 0);
            return None;
        }
        let wait = platform_wait(outcome.cause()?)?;
        if now < self.open_until {
            return None;
        }
        self.failures += 1;
        if self.failures < FAILURES {
            return None;
        }
        self.failures = 0;
        self.opened = self.opened.saturating_add(1);
        let wait = wait.saturating_mul(2_u32.saturating_pow(self.opened - 1)).min(WAIT_MAX);
        self.open_until = now.after(wait);
        Some(wait)
    }
}

/// The wait after an error that says that the platform is down.
fn platform_wait(cause: &Cause) -> Option<Duration> {
    let rule = policy::rule(cause.code()?)?;
    rule.wait.filter(|_| rule.scope == ErrorScope::Platform)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::MetaCode;

    fn failed(code: u32) -> Outcome {
        policy::outcome(500, MetaCode(code), String::new())
    }

    fn accepted() -> Outcome {
        Outcome::Accepted { wamid: "wamid.1".into(), held: false }
    }

    #[test]
    fn failures_of_the_platform_in_a_row_stop_everything_for_longer_and_longer() {
        let (mut breaker, mut now) = (Breaker::default(), UnixMs(0));
        let mut waits = Vec::new();
        for _ in 0..FAILURES * 8 {
            if let Some(wait) = breaker.record(&failed(131_016), now) {
                waits.push(wait.as_secs());
                // Messages that were in flight fail too, and change nothing.
                assert!((0..FAILURES * 2).all(|_| breaker.record(&failed(131_016), now).is_none()));
                now = now.after(wait);
            }
        }
        assert_eq!(waits, [15, 30, 60, 120, 240, 300, 300, 300]);
        assert_eq!(breaker.record(&accepted(), now), None);
        let again = (0..FAILURES).filter_map(|_| breaker.record(&failed(2), now)).collect::<Vec<_>>();
        assert_eq!(again, [Duration::from_secs(10)]);
    }

    proptest! {
        #[test]
        fn fewer_failures_than_the_limit_between_successes_stop_nothing(
            runs in prop::collection::vec((0..FAILURES, prop::sample::select(vec![2, 131_016, 133_004])), 1..50),
        ) {
            let mut breaker = Breaker::default();
            for (failures, code) in runs {
                for _ in 0..failures {
                    prop_assert_eq!(breaker.record(&failed(code), UnixMs(0)), None);
                }
                breaker.record(&accepted(), UnixMs(0));
            }
        }

        #[test]
        fn errors_of_other_scopes_count_for_nothing(codes in prop::collection::vec(any::<u32>(), 0..500)) {
            let mut breaker = Breaker::default();
            for code in codes.into_iter().chain([131_026; 100]).filter(|code| ![2, 131_016, 133_004].contains(code)) {
                prop_assert_eq!(breaker.record(&failed(code), UnixMs(0)), None);
            }
        }
    }
}
