//! `POST /sim/account`: restricts, bans and reinstates WABAs and businesses.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::optional as friendly;
use serde::Deserialize;

use super::{Changed, problem};
use crate::sim::{
    account_change::{BanState, Target, ban, report_violation, restrict},
    blocks::Restriction,
    world::SharedWorld,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccountChange {
    waba: Option<String>,
    business: Option<String>,
    event: Event,
    /// With `ACCOUNT_RESTRICTION`.
    #[serde(default)]
    restrictions: Vec<Restriction>,
    /// How long the restrictions last. Without it, they last until a reinstatement.
    #[serde(default, rename = "for", with = "friendly")]
    lasts: Option<Duration>,
    /// The type of the violation.
    violation: Option<String>,
    /// With `DISABLED_UPDATE`.
    state: Option<BanState>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Event {
    AccountRestriction,
    AccountViolation,
    DisabledUpdate,
}

/// The longest restriction: more than a month, as Meta's longest is 30 days.
const LASTS_MAX: Duration = Duration::from_secs(40 * 24 * 3600);

pub(super) fn change(world: &SharedWorld, change: &AccountChange) -> Changed {
    let target = match (&change.waba, &change.business) {
        (Some(id), None) => world.waba(id).map(Target::Waba).ok_or_else(|| problem(format!("there is no waba {id}"))),
        (None, Some(id)) => {
            world.business(id).map(Target::Business).ok_or_else(|| problem(format!("there is no business {id}")))
        }
        _ => Err(problem("there is not exactly one of waba and business")),
    }?;
    if change.lasts.is_some_and(|lasts| lasts > LASTS_MAX) {
        return Err(problem("for: is more than 40 days"));
    }
    match (change.event, &change.violation, change.state) {
        (Event::AccountRestriction, violation, None) if !change.restrictions.is_empty() => {
            restrict(world, target, &change.restrictions, change.lasts, violation.as_deref());
        }
        (Event::AccountViolation, Some(violation), None) => report_violation(world, target, violation),
        (Event::DisabledUpdate, None, Some(state)) => ban(world, target, state),
        _ => {
            return Err(problem(
                "ACCOUNT_RESTRICTION needs restrictions, ACCOUNT_VIOLATION violation, and DISABLED_UPDATE state",
            ));
        }
    }
    Ok(())
}
