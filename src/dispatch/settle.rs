//! Maps the outcome of an attempt to what is stored for its recipient and to its consequence for the line. Pure.

use std::time::Duration;

use super::DispatchSettings;
use crate::domain::{Cause, Due, ErrorScope, Outcome, Settled, UnixMs};

/// What follows from an outcome besides what is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// Nothing.
    None,
    /// The pacer cuts the rate of the line.
    SlowDown,
    /// Meta cannot be reached: the line pauses.
    Unreachable,
    /// A scope is held.
    Hold {
        /// Line, WABA, token, app or template.
        scope: ErrorScope,
        /// For how long; `None`: until the hold is lifted.
        wait: Option<Duration>,
    },
    /// A failure that may be the message's fault.
    CountFailure {
        /// The campaign is paused after this many recipients in a row that failed with the same code.
        pause_after: u32,
    },
}

/// A throttle with a longer wait holds its scope. A shorter one only slows the line down.
const THROTTLE_WAIT_MAX: Duration = Duration::from_secs(10);

/// What to store for a recipient whose `attempt` (from 1) ended in `outcome`, and the consequence.
///
/// `jitter` is random, 0 to 1.
pub fn settle(
    outcome: &Outcome,
    attempt: u8,
    now: UnixMs,
    jitter: f64,
    settings: &DispatchSettings,
) -> (Settled, Consequence) {
    // Messages that are given back together become due at random times, after one to two times the wait.
    let spread = |wait: Duration| now.after(wait.mul_f64(1.0 + jitter));
    match outcome {
        Outcome::Accepted { wamid, .. } => (Settled::Accepted(wamid.clone()), Consequence::None),
        Outcome::Throttled { scope, wait, .. } => {
            let consequence = match scope {
                ErrorScope::Pair => Consequence::None,
                scope if *wait > THROTTLE_WAIT_MAX => Consequence::Hold { scope: *scope, wait: Some(*wait) },
                _ => Consequence::SlowDown,
            };
            (Settled::Back { at: Due::At(spread(*wait)) }, consequence)
        }
        Outcome::Retry { cause: Cause::Unreachable(_), .. } => {
            (Settled::Back { at: Due::AtOnce }, Consequence::Unreachable)
        }
        Outcome::Retry { wait, cause } => {
            let settled = match settings.retry.delay(attempt, jitter) {
                Some(delay) => {
                    let at = now.after(delay).max(wait.map_or(now, spread));
                    Settled::Retry { at, reason: cause.reason() }
                }
                None => Settled::Refused { reason: cause.reason() },
            };
            (settled, Consequence::None)
        }
        Outcome::InDoubt(_) => (Settled::InDoubt { until: now.after(settings.doubt_deadline) }, Consequence::None),
        Outcome::Failed { pause_after, cause } => {
            let consequence =
                pause_after.map_or(Consequence::None, |pause_after| Consequence::CountFailure { pause_after });
            (Settled::Refused { reason: cause.reason() }, consequence)
        }
        Outcome::Blocked { scope, wait, .. } => {
            (Settled::Back { at: Due::AtOnce }, Consequence::Hold { scope: *scope, wait: *wait })
        }
    }
}

/// The cause of an outcome; `None` if the message was accepted.
pub fn cause(outcome: &Outcome) -> Option<&Cause> {
    match outcome {
        Outcome::Accepted { .. } => None,
        Outcome::Throttled { cause, .. }
        | Outcome::Retry { cause, .. }
        | Outcome::InDoubt(cause)
        | Outcome::Failed { cause, .. }
        | Outcome::Blocked { cause, .. } => Some(cause),
    }
}
