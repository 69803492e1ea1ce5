//! What follows from an outcome: what is stored for the recipient, and what else has to happen. Pure.

use std::time::Duration;

use super::DispatchSettings;
use crate::{
    domain::{Cause, ErrorScope, Outcome, UnixMs},
    redis::parts::Settled,
};

/// What else follows from an outcome, besides what is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// Nothing.
    None,
    /// The line is too fast.
    Slower,
    /// Meta can not be reached: the line waits a little.
    Unreachable,
    /// A scope is held back, for a time or until someone ends it.
    Hold {
        /// Line, WABA, token, app or template.
        scope: ErrorScope,
        /// For how long.
        wait: Option<Duration>,
    },
    /// A failure that may be the message's fault: this many recipients in a row who fail with its code pause the campaign.
    CountFailure {
        /// How many.
        pause_after: u32,
    },
}

/// Of what was not sent and need not wait: due whatever the clock says, and also where it is set back.
pub const AT_ONCE: UnixMs = UnixMs(0);

/// A wait that is longer than this holds its scope back; a shorter one only slows it.
const SLOW_AT_MOST: Duration = Duration::from_secs(10);

/// What to store for a recipient whose `attempt` (from 1) ended in `outcome`, and what else follows.
///
/// `jitter` is random, 0 to 1.
pub fn settle(
    outcome: &Outcome,
    attempt: u8,
    now: UnixMs,
    jitter: f64,
    settings: &DispatchSettings,
) -> (Settled, Consequence) {
    // Those that come back together are spread over as long again.
    let spread = |wait: Duration| now.after(wait.mul_f64(1.0 + jitter));
    match outcome {
        Outcome::Accepted { wamid, .. } => (Settled::Accepted(wamid.clone()), Consequence::None),
        Outcome::Throttled { scope, wait, .. } => {
            let consequence = match scope {
                ErrorScope::Pair => Consequence::None,
                scope if *wait > SLOW_AT_MOST => Consequence::Hold { scope: *scope, wait: Some(*wait) },
                _ => Consequence::Slower,
            };
            (Settled::Back { at: spread(*wait) }, consequence)
        }
        Outcome::Retry { cause: Cause::Unreachable(_), .. } => {
            (Settled::Back { at: AT_ONCE }, Consequence::Unreachable)
        }
        Outcome::Retry { wait, cause } => {
            let settled = match settings.retry.delay(attempt, jitter) {
                Some(delay) => {
                    let at = now.after(delay).max(wait.map_or(now, spread));
                    Settled::Retry { at, code: cause.code() }
                }
                None => Settled::Refused { code: cause.code() },
            };
            (settled, Consequence::None)
        }
        Outcome::InDoubt(_) => (Settled::InDoubt { until: now.after(settings.doubt_deadline) }, Consequence::None),
        Outcome::Failed { pause_after, cause } => {
            let consequence =
                pause_after.map_or(Consequence::None, |pause_after| Consequence::CountFailure { pause_after });
            (Settled::Refused { code: cause.code() }, consequence)
        }
        Outcome::Blocked { scope, wait, .. } => {
            (Settled::Back { at: AT_ONCE }, Consequence::Hold { scope: *scope, wait: *wait })
        }
    }
}

/// The cause that an outcome names, if it does.
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
