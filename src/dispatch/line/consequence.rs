//! What an outcome means for the line. Pure.

use std::time::Duration;

use crate::domain::{Cause, ErrorScope, Outcome, policy};

/// What follows from an outcome for the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// Nothing.
    None,
    /// The pacer cuts the rate of the line.
    SlowDown,
    /// Meta cannot be reached: the line pauses.
    Unreachable,
    /// The WABA sends marketing through the Marketing Messages API from now on.
    Reroute,
    /// A scope is held.
    Hold {
        /// The held scope. A scope of one message or pair concerns only the lane of the message.
        scope: ErrorScope,
        /// How long the scope is held; `None`: until the hold is lifted.
        wait: Option<Duration>,
    },
}

/// A throttle with a longer wait holds its scope. A shorter one only slows the line down.
const THROTTLE_WAIT_MAX: Duration = Duration::from_secs(10);

/// What follows from `outcome`.
pub fn consequence(outcome: &Outcome) -> Consequence {
    match outcome {
        Outcome::Throttled { scope: ErrorScope::Pair, .. } => Consequence::None,
        Outcome::Throttled { scope, wait, .. } if *wait > THROTTLE_WAIT_MAX => {
            Consequence::Hold { scope: *scope, wait: Some(*wait) }
        }
        Outcome::Throttled { .. } => Consequence::SlowDown,
        Outcome::Retry { cause: Cause::Unreachable(_), .. } => Consequence::Unreachable,
        Outcome::Rerouted(_) => Consequence::Reroute,
        Outcome::Blocked { scope, wait, .. } => Consequence::Hold { scope: *scope, wait: *wait },
        Outcome::Failed { cause, .. } => match cause.code().and_then(policy::also_holds) {
            Some((scope, wait)) => Consequence::Hold { scope, wait },
            None => Consequence::None,
        },
        Outcome::Accepted { .. } | Outcome::Retry { .. } | Outcome::Withheld(_) | Outcome::InDoubt(_) => {
            Consequence::None
        }
    }
}
