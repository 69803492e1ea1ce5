//! Maps the outcome of an attempt to what is stored for its recipient. Pure.

use std::time::Duration;

use crate::{
    dispatch::{
        DispatchSettings,
        line::consequence::{Consequence, consequence},
    },
    domain::{Cause, Due, Outcome, Settled, UnixMs},
};

/// What to store for a recipient whose `attempt` (from 1) ended in `outcome`.
///
/// `jitter` is random, 0 to 1.
pub fn settled(outcome: &Outcome, attempt: u8, now: UnixMs, jitter: f64, settings: &DispatchSettings) -> Settled {
    // Messages that are given back together become due at random times, after one to two times the wait.
    let spread = |wait: Duration| now.after(wait.mul_f64(1.0 + jitter));
    match outcome {
        Outcome::Accepted { wamid, held: false } => Settled::Accepted(wamid.clone()),
        Outcome::Accepted { wamid, held: true } => Settled::Held(wamid.clone()),
        // The hold makes it wait, and may be lifted early.
        Outcome::Throttled { .. } if matches!(consequence(outcome), Consequence::Hold { .. }) => {
            Settled::Back { at: Due::AtOnce }
        }
        Outcome::Throttled { wait, .. } => Settled::Back { at: Due::At(spread(*wait)) },
        Outcome::Retry { cause: Cause::Unreachable(_), .. } | Outcome::Blocked { .. } => {
            Settled::Back { at: Due::AtOnce }
        }
        Outcome::Retry { wait, cause } => match settings.retry.delay(attempt, jitter) {
            Some(delay) => {
                let at = now.after(delay).max(wait.map_or(now, spread));
                Settled::Retry { at, reason: cause.reason() }
            }
            None => Settled::Refused { reason: cause.reason() },
        },
        Outcome::InDoubt(_) => Settled::InDoubt { until: now.after(settings.doubt_deadline) },
        Outcome::Failed { cause, .. } => Settled::Refused { reason: cause.reason() },
    }
}
