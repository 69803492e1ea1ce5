//! Why sending is not faster, or has stopped, in words for an operator.
//!
//! A reason that stops the whole campaign is listed alone: while a template is paused, the state of a line does not
//! matter. Otherwise each line with work left has one reason.

use std::collections::HashMap;

use super::line::{LineWork, Stop};
use crate::{
    api_types::{WaitReason, Waiting},
    domain::{Campaign, CampaignState, Hold, HoldScope, UnixMs, WabaId},
    redis::{campaigns::CampaignRecord, registry::UNLISTED_REMEDY},
};

/// What a campaign waits for at `now`. `waba` is the WABA of its lines, and `lines` are the lines on which it has
/// work.
pub fn waiting_for(
    record: &CampaignRecord,
    waba: Option<&WabaId>,
    holds: &HashMap<HoldScope, Hold>,
    lines: &[LineWork],
    now: UnixMs,
) -> Vec<Waiting> {
    match record.state {
        CampaignState::Draft | CampaignState::Completed | CampaignState::Cancelled => Vec::new(),
        CampaignState::Scheduled => scheduled(&record.campaign),
        CampaignState::Paused => vec![paused(record)],
        CampaignState::Running => {
            let campaign_wide = waba.map_or(Vec::new(), |waba| campaign_holds(&record.campaign, waba, holds));
            if !campaign_wide.is_empty() {
                return campaign_wide;
            }
            lines.iter().filter(|work| work.to_send() > 0).map(|work| on_line(work, now)).collect()
        }
    }
}

fn scheduled(campaign: &Campaign) -> Vec<Waiting> {
    let start_at = campaign.start_at;
    let text = start_at.map_or("it starts now".to_owned(), |at| format!("it starts at {at}"));
    vec![Waiting { until: start_at, ..Waiting::new(WaitReason::Schedule, text) }]
}

fn paused(record: &CampaignRecord) -> Waiting {
    match &record.reason {
        Some(reason) => Waiting {
            code: Some(reason.code).filter(|&code| code != 0),
            ..Waiting::new(WaitReason::Paused, format!("it was stopped by an error: {}", reason.details))
        },
        None => Waiting::new(WaitReason::Paused, "the campaign is paused"),
    }
}

/// The holds that stop the whole campaign: on its template, its access token or its WABA.
fn campaign_holds(campaign: &Campaign, waba: &WabaId, holds: &HashMap<HoldScope, Hold>) -> Vec<Waiting> {
    let (name, language) = (&campaign.template.name, campaign.template.language.as_str());
    let template = HoldScope::Template { waba: waba.clone(), name: name.clone(), language: language.to_owned() };
    let scopes = [
        (template, WaitReason::TemplatePaused, format!("template {name} ({language}) is held")),
        (HoldScope::Token(waba.clone()), WaitReason::Token, format!("the access token of waba {waba} is held")),
        (HoldScope::Waba(waba.clone()), WaitReason::LineBlocked, format!("waba {waba} is held")),
    ];
    let held = scopes.iter().filter_map(|(scope, reason, what)| Some(held(*reason, what, holds.get(scope)?)));
    held.collect()
}

fn held(reason: WaitReason, what: &str, hold: &Hold) -> Waiting {
    let code = Some(hold.code).filter(|&code| code != 0);
    let text = format!("{what}: {}", hold.reason);
    Waiting { until: hold.until, code, ..Waiting::new(reason, text) }
}

/// The one reason of a line with work.
fn on_line(work: &LineWork, now: UnixMs) -> Waiting {
    let line = &work.line;
    let waiting = match work.now.stop() {
        Some(Stop::Paused) => Waiting::new(WaitReason::Paused, format!("line {line} is paused")),
        Some(Stop::Held(_, hold)) => held(WaitReason::LineBlocked, &format!("line {line} is held"), hold),
        Some(Stop::NoWorker) => Waiting::new(WaitReason::NoWorker, format!("no worker serves line {line}")),
        Some(Stop::Unlisted) => {
            let text = format!("no process lists line {line}: {UNLISTED_REMEDY}");
            Waiting::new(WaitReason::NoWorker, text)
        }
        Some(Stop::Unreachable) => {
            Waiting::new(WaitReason::BackingOff, format!("meta can't be reached from line {line}"))
        }
        Some(Stop::PathBroken(cause)) => {
            Waiting::new(WaitReason::PathBroken, format!("the path to meta is broken: {cause}"))
        }
        None if work.is_due(now) || is_throttled(work) => Waiting::new(WaitReason::LineRate, rate_text(work)),
        None => {
            let (reason, text) = match work.pending {
                0 => (WaitReason::BackingOff, "messages that could not be sent wait for their next attempt"),
                _ => (WaitReason::PairSpacing, "meta requires more time between messages to the same people"),
            };
            Waiting { until: work.schedule.next_due, ..Waiting::new(reason, text) }
        }
    };
    Waiting { line: Some(line.clone()), ..waiting }
}

fn is_throttled(work: &LineWork) -> bool {
    work.now.report.as_ref().is_some_and(|report| report.throttled)
}

fn rate_text(work: &LineWork) -> String {
    let line = &work.line;
    match work.now.rate() {
        Some(rate) if is_throttled(work) => {
            format!("meta throttles line {line}: it may send {} a second now", tenth(rate))
        }
        Some(rate) => format!("line {line} may send {} a second", tenth(rate)),
        None => format!("the worker of line {line} has not reported its rate yet"),
    }
}

fn tenth(rate: f64) -> f64 {
    (rate * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests;
