//! Restrictions, bans and violations of WABAs and businesses, with the webhooks about them (`account_update`).
//! Source: developers.facebook.com/docs/whatsapp, account_update, read in a copy of 11 Sep 2026.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    announce::announce,
    blocks::{Block, Level, Restriction, Sanction},
    notice::NoticeId,
    pacing::Pacer,
    template_change::set_category,
    world::{SharedWorld, World},
};
use crate::domain::UnixMs;

/// A WABA or a business, by its index.
#[derive(Clone, Copy)]
pub(super) enum Target {
    Waba(usize),
    Business(usize),
}

/// What happens to a ban, in Meta's words.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum BanState {
    /// It begins.
    Disable,
    /// It and all restrictions end.
    Reinstate,
    /// It is announced.
    ScheduleForDisable,
}

const FIELD: &str = "account_update";

impl Target {
    fn level(self) -> Level {
        match self {
            Target::Waba(_) => Level::Waba,
            Target::Business(_) => Level::Business,
        }
    }

    fn wabas(self, world: &World) -> Vec<usize> {
        match self {
            Target::Waba(waba) => vec![waba],
            Target::Business(business) => world.wabas_of(business).collect(),
        }
    }
}

/// Imposes restrictions, for a time or until they are lifted. `violation`: the type of the violation that led to them.
pub(super) fn restrict(
    world: &SharedWorld,
    target: Target,
    restrictions: &[Restriction],
    lasts: Option<Duration>,
    violation: Option<&str>,
) {
    let until = lasts.map(|lasts| whole_second(world, world.clock.now() + lasts));
    let info = |restriction: &Restriction| {
        let mut info = json!({"restriction_type": restriction});
        if let Some(until) = until {
            info["expiration"] = json!(world.clock.unix(until).seconds());
        }
        info
    };
    let infos: Vec<Value> = restrictions.iter().map(info).collect();
    let mut value = json!({"event": "ACCOUNT_RESTRICTION", "restriction_info": infos});
    if let Some(violation) = violation {
        value["violation_info"] = json!({"violation_type": violation});
    }
    for waba in target.wabas(world) {
        let notice = announce(world, waba, FIELD, value.clone());
        for restriction in restrictions {
            block(world, waba, target.level(), Sanction::Restriction(*restriction), until, notice);
            if *restriction == Restriction::RestrictedUtilityTemplates {
                turn_utility_into_marketing(world, waba);
            }
        }
    }
}

/// Blocks all sends of a business because pacing has dropped its messages. Only a reinstatement ends it.
pub(super) fn bar_after_pacing(world: &SharedWorld, business: usize) {
    let all = [Restriction::RestrictedBizInitiatedMessaging, Restriction::RestrictedCustomerInitiatedMessaging];
    restrict(world, Target::Business(business), &all, None, None);
    world.businesses[business].pacer.iter().for_each(Pacer::settle);
}

/// Applies a ban: imposes it, announces it, or ends it together with all restrictions.
pub(super) fn ban(world: &SharedWorld, target: Target, state: BanState) {
    let value = json!({
        "event": "DISABLED_UPDATE",
        "ban_info": {"waba_ban_state": state, "waba_ban_date": date(world.clock.unix(world.clock.now()))},
    });
    for waba in target.wabas(world) {
        let notice = announce(world, waba, FIELD, value.clone());
        match state {
            BanState::Disable => block(world, waba, target.level(), Sanction::Ban, None, notice),
            BanState::Reinstate => world.wabas[waba].blocks.lift(target.level(), |_| true),
            BanState::ScheduleForDisable => {}
        }
    }
}

/// Reports a violation. Two types of them end a restriction.
pub(super) fn report_violation(world: &SharedWorld, target: Target, violation: &str) {
    let ended = match violation {
        "UTILITY_TEMPLATE_ABUSE_RATE_LIMIT_RECOVERY" => Some(Restriction::RateLimitedUtilityTemplateMessaging),
        "UTILITY_TEMPLATE_ABUSE_UNBAN" => Some(Restriction::RestrictedUtilityTemplates),
        _ => None,
    };
    for waba in target.wabas(world) {
        let blocks = &world.wabas[waba].blocks;
        blocks.lift(target.level(), |sanction| ended.is_some_and(|ended| sanction == Sanction::Restriction(ended)));
        let value = json!({"event": "ACCOUNT_VIOLATION", "violation_info": {"violation_type": violation}});
        announce(world, waba, FIELD, value);
    }
}

fn block(
    world: &World,
    waba: usize,
    level: Level,
    sanction: Sanction,
    until: Option<Duration>,
    notice: Option<NoticeId>,
) {
    world.wabas[waba].blocks.add(Block { level, sanction, until, notice });
}

fn turn_utility_into_marketing(world: &SharedWorld, waba: usize) {
    for (index, template) in world.templates.iter().enumerate() {
        if template.waba == waba && template.state().is_utility() {
            set_category(world, index, "MARKETING".into(), None);
        }
    }
}

/// A date as Meta writes it, such as `January 2, 2026`.
fn date(at: UnixMs) -> String {
    let at = i64::try_from(at.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.unwrap_or(jiff::Timestamp::MAX).strftime("%B %-d, %Y").to_string()
}

/// The last whole second of Unix time before `at`. Meta reports the end of a restriction in seconds, and a sender that
/// continues at that second must not be too early.
fn whole_second(world: &World, at: Duration) -> Duration {
    at.saturating_sub(Duration::from_millis(world.clock.unix(at).0 % 1000))
}
