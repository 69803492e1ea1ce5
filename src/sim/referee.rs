//! The referee: counts the sends that break a rule when they arrive, whatever their response is.
//!
//! A rule that depends on a webhook is broken only if that webhook was answered with 200 at least
//! [`super::scenario::Referee::grace`] before. A sender also learns of withheld marketing (131049) from a response, if
//! its connection stays open for the grace.

use std::time::Duration;

use super::{
    blocks::Block,
    line::{LineState, SimLine},
    live_template::Told,
    notice::NoticeId,
    portfolio::Places,
    rule::Rule,
    validate::Incoming,
    world::World,
};
use crate::domain::{Phone, us_numbers};

/// Counts the rules that a message breaks, except the rate, which [`LineState::arrived`] counts.
///
/// `places`: those of the line's business, if it has a limit.
pub(super) fn judge(
    world: &World,
    line: &SimLine,
    state: &mut LineState,
    places: Option<&mut Places>,
    incoming: &Incoming<'_>,
    now: Duration,
) {
    let Some(to) = incoming.person() else { return };
    if line.pairs_limited {
        let is_early = state.pairs.arrives_early(to, now, world.referee.jitter);
        state.violations.count_if(Rule::Pair, is_early);
    }
    let blocks = world.wabas[line.waba].blocks.at(now);
    if !blocks.is_empty() {
        let kind = incoming.kind(world, state, to, now);
        let forbids = |block: &Block| block.sanction.refuses(kind).is_some() && was_told(world, block.notice, now);
        state.violations.count_if(Rule::Restricted, blocks.iter().any(forbids));
    }
    let is_outside_window = incoming.is_free() && !state.in_service_window(to, now);
    state.violations.count_if(Rule::Window, world.referee.window && is_outside_window);
    let Some(template) = incoming.template() else { return };
    if places.is_some_and(|places| !state.in_service_window(to, now) && !places.admits(to, now)) {
        state.violations.count(Rule::PortfolioLimit);
    }
    let template = world.templates[template].state();
    if !template.status_at(now).is_sendable() {
        let is_known = match template.told {
            Told::FromStart => true,
            Told::By(notice) => was_told(world, notice, now),
        };
        if is_known {
            state.violations.count(Rule::TemplateNotApproved);
        }
    }
    if template.is_marketing() {
        judge_marketing(world, line, state, to, now);
    }
}

fn judge_marketing(world: &World, line: &SimLine, state: &mut LineState, to: Phone, now: Duration) {
    state.violations.count_if(Rule::UsMarketing, us_numbers::is_us(to));
    state.violations.count_if(Rule::ContactHours, world.referee.is_out_of_hours(to, world.clock.unix(now)));
    let account = &world.wabas[line.waba];
    if account.withheld.forbids(to, now, world.referee.grace) {
        state.violations.count(Rule::Resend131049);
    }
    let business = &world.businesses[account.business];
    let is_capped = business.capped.as_ref().is_some_and(|capped| capped.forbids(to, now));
    state.violations.count_if(Rule::FrequencyCap, is_capped);
    let stop = business.stops.of(to);
    if stop.is_some_and(|stop| was_told(world, stop.notice, now)) {
        state.violations.count(Rule::AfterStop);
    }
}

/// Whether the webhook with the notice was answered 200 at least the grace ago. False if the WABA has no webhook.
fn was_told(world: &World, notice: Option<NoticeId>, now: Duration) -> bool {
    let told_at = notice.and_then(|notice| world.notices.told_at(notice));
    told_at.is_some_and(|told_at| told_at + world.referee.grace <= now)
}
