//! Maps the outcome of an attempt to what is stored for its recipient. Pure.

use std::time::Duration;

use crate::{
    dispatch::{
        DispatchSettings,
        line::consequence::{Consequence, consequence},
    },
    domain::{Cause, Due, OnWithheld, Outcome, Settled, UnixMs, policy},
};

/// Messages that are withheld at the same time are sent again at random times within this period.
const WITHHELD_SPREAD: Duration = Duration::from_secs(60 * 60);

/// The inputs of [`settled`] besides the outcome.
#[derive(Clone, Copy, Debug)]
pub(super) struct SettleContext {
    /// The number of the attempt, from 1.
    pub attempt: u8,
    /// The campaign's setting for messages that Meta withheld.
    pub on_withheld: OnWithheld,
    /// When the attempt ended.
    pub now: UnixMs,
    /// Random, 0 to 1.
    pub jitter: f64,
}

/// What to store for a recipient whose attempt ended in `outcome`.
pub(super) fn settled(outcome: &Outcome, context: SettleContext, settings: &DispatchSettings) -> Settled {
    let SettleContext { attempt, on_withheld, now, jitter } = context;
    // Messages that are given back together become due at random times, after one to two times the wait.
    let spread = |wait: Duration| now.after(wait.mul_f64(1.0 + jitter));
    match outcome {
        Outcome::Accepted { wamid, held: false } => Settled::Accepted(wamid.clone()),
        Outcome::Accepted { wamid, held: true } => Settled::Held(wamid.clone()),
        // The hold makes the message wait. It may be lifted early, so the message gets no due time of its own.
        Outcome::Throttled { .. } if matches!(consequence(outcome), Consequence::Hold { .. }) => {
            Settled::Back { at: Due::AtOnce }
        }
        Outcome::Throttled { wait, .. } => Settled::Back { at: Due::At(spread(*wait)) },
        Outcome::Retry { cause: Cause::Unreachable(_), .. } | Outcome::Blocked { .. } | Outcome::Rerouted(_) => {
            Settled::Back { at: Due::AtOnce }
        }
        Outcome::Retry { wait, cause } => match settings.retry.delay(attempt, jitter) {
            Some(delay) => {
                let at = now.after(delay).max(wait.map_or(now, spread));
                Settled::Retry { at, reason: cause.reason() }
            }
            None => Settled::Refused { reason: cause.reason() },
        },
        Outcome::Withheld(cause) => withheld(cause, on_withheld, now, jitter),
        Outcome::InDoubt(_) => Settled::InDoubt { until: now.after(settings.doubt_deadline) },
        Outcome::Failed { cause, .. } => Settled::Refused { reason: cause.reason() },
    }
}

fn withheld(cause: &Cause, on_withheld: OnWithheld, now: UnixMs, jitter: f64) -> Settled {
    let reason = cause.reason();
    match on_withheld {
        OnWithheld::Fail => Settled::Refused { reason },
        OnWithheld::Retry => {
            Settled::Withheld { at: now.after(policy::WITHHELD_FOR + WITHHELD_SPREAD.mul_f64(jitter)), reason }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::MetaCode;

    #[test]
    fn a_withheld_message_waits_for_a_day_if_its_campaign_asks_for_that() {
        let cause = Cause::Meta { code: MetaCode(131_049), details: String::new() };
        let (reason, now) = (cause.reason(), UnixMs(1_795_984_075_312));
        assert_eq!(withheld(&cause, OnWithheld::Fail, now, 0.0), Settled::Refused { reason });
        for (jitter, hours) in [(0.0, 24), (1.0, 25)] {
            let at = now.after(Duration::from_secs(hours * 3_600));
            assert_eq!(withheld(&cause, OnWithheld::Retry, now, jitter), Settled::Withheld { at, reason });
        }
    }
}
