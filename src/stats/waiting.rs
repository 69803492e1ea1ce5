//! Why sending is not faster, or has stopped, in words for an operator.
//!
//! A reason that stops the whole campaign is listed alone: while a template is paused, the state of a line does not
//! matter. Otherwise each line with work left has one reason.

use std::collections::BTreeSet;

use super::line::{Closing, GracePeriod, LineWork, Silence, Stop, Stops, ceiling};
use crate::{
    api_types::{WaitReason, Waiting},
    domain::{
        BusinessId, Campaign, CampaignState, Hold, HoldScope, Line, Pause, PauseScope, UnixMs, listing::listed,
        template::Category,
    },
    redis::{
        campaigns::CampaignRecord,
        memory::{FULL_REMEDY, Memory},
        places::LimitedPlaces,
        registry::UNLISTED_REMEDY,
    },
    rules::windows::Closed,
};

/// Maximum number of missing contact hours that are named.
const HOURS_NAMED_MAX: usize = 10;

/// What a campaign waits for at `now`. `line` is one of its lines, if any is configured, and `lines` are those on which
/// it has work.
pub fn waiting_for(
    record: &CampaignRecord,
    line: Option<&Line>,
    stops: &Stops,
    lines: &[LineWork],
    now: UnixMs,
) -> Vec<Waiting> {
    match record.state {
        CampaignState::Draft | CampaignState::Completed | CampaignState::Cancelled => Vec::new(),
        CampaignState::Scheduled => vec![scheduled(record)],
        CampaignState::Paused => vec![paused(record)],
        CampaignState::Running => {
            let mut campaign_wide: Vec<Waiting> =
                stops.pauses.on(line.map(|line| &line.business)).iter().map(all_paused).collect();
            campaign_wide.extend(stops.full_redis.map(redis_full));
            campaign_wide.extend(line.into_iter().flat_map(|line| campaign_holds(&record.campaign, line, stops)));
            campaign_wide.extend(line.and_then(|line| limit_spent(&line.business, stops)));
            campaign_wide.extend(all_closed(record, lines, now));
            let grace_period = stops.grace_period.filter(|period| now < period.until);
            let business = line.map(|line| &line.business);
            campaign_wide
                .extend(grace_period.filter(|_| waits_in_grace_period(record, business, stops)).map(redis_restarted));
            if !campaign_wide.is_empty() {
                return campaign_wide;
            }
            lines
                .iter()
                .filter(|work| work.to_send() > 0)
                .map(|work| on_line(record, work, grace_period, now))
                .collect()
        }
    }
}

/// What a campaign would wait for if it were launched or resumed at `now`: first its start, if that is later, then
/// whatever it waits for at its start. Arguments as in [`waiting_for`].
pub fn would_wait_for(
    record: &CampaignRecord,
    line: Option<&Line>,
    stops: &Stops,
    lines: &[LineWork],
    now: UnixMs,
) -> Vec<Waiting> {
    let running = CampaignRecord { state: CampaignState::Running, ..record.clone() };
    let Some(start_at) = record.campaign.start_at.filter(|start_at| *start_at > now) else {
        return waiting_for(&running, line, stops, lines, now);
    };
    let since = Some(record.changed_at).filter(|_| record.state == CampaignState::Scheduled);
    let mut waiting = waiting_for(&running, line, stops, lines, start_at);
    // Before the start, no rate slows anything.
    let rates = [WaitReason::LineRate, WaitReason::Throttled, WaitReason::CampaignRate];
    waiting.retain(|waiting| !rates.contains(&waiting.reason));
    waiting.insert(0, Waiting { since, ..scheduled(record) });
    waiting
}

fn scheduled(record: &CampaignRecord) -> Waiting {
    let start_at = record.campaign.start_at;
    let text = start_at.map_or("the campaign starts now".to_owned(), |at| format!("the campaign starts at {at}"));
    Waiting { since: Some(record.changed_at), until: start_at, ..Waiting::new(WaitReason::Schedule, text) }
}

fn paused(record: &CampaignRecord) -> Waiting {
    let (code, text) = match &record.reason {
        Some(reason) => (reason.code, format!("an error paused the campaign: {}", reason.details)),
        None => (None, "the campaign is paused".to_owned()),
    };
    Waiting { since: Some(record.changed_at), code, ..Waiting::new(WaitReason::Paused, text) }
}

/// A pause of the installation or the business. All lines of a campaign belong to one business, so the pause stops the
/// whole campaign.
fn all_paused(pause: &Pause) -> Waiting {
    let (business, text) = match &pause.scope {
        PauseScope::Installation => (None, "an operator paused all sending".to_owned()),
        PauseScope::Business(business) => {
            (Some(business.clone()), format!("an operator paused all sending of business {business}"))
        }
    };
    Waiting { since: Some(pause.since), business, ..Waiting::new(WaitReason::AllPaused, text) }
}

/// The holds that stop the whole campaign: on its template, then on the scopes that its lines share, the widest first.
/// `line` is one of its lines.
fn campaign_holds(campaign: &Campaign, line: &Line, stops: &Stops) -> Vec<Waiting> {
    let of_campaign = HoldScope::of_campaign(&line.waba, &campaign.template);
    let scopes = of_campaign.into_iter().chain(HoldScope::of_line(line).into_iter().rev());
    let held = scopes.filter_map(|scope| {
        let hold = stops.holds.get(&scope)?;
        let (reason, what) = stopped_by(&scope)?;
        Some(held(reason, &what, hold))
    });
    held.collect()
}

/// The messaging limit of the business, if no place is left.
fn limit_spent(business: &BusinessId, stops: &Stops) -> Option<Waiting> {
    let LimitedPlaces { limit, places } = stops.limited.get(business).filter(|limited| limited.places.left == 0)?;
    let text = format!("business {business} has reached its limit of {limit} people in 24 hours");
    Some(Waiting {
        since: places.spent_since,
        until: places.frees_at,
        ..Waiting::new(WaitReason::PortfolioLimit, text)
    })
}

/// The send window or contact hours, if they are closed for all messages that are left.
fn all_closed(record: &CampaignRecord, lines: &[LineWork], now: UnixMs) -> Option<Waiting> {
    let work = lines.iter().filter(|work| work.to_send() > 0);
    let closings: Option<Vec<Vec<Closing<'_>>>> = work.map(|work| work.closings(now)).collect();
    closed(record, &closings?.concat())
}

/// The closing that ends first; `None` if there is none. Contact hours that are missing in the configuration are all
/// named.
fn closed(record: &CampaignRecord, closings: &[Closing<'_>]) -> Option<Waiting> {
    let Closing { by, until } = Closing::first(closings.iter().copied())?;
    let (reason, text) = match by {
        Closed::SendWindow => {
            let window = record.campaign.send_window.as_ref().map(ToString::to_string).unwrap_or_default();
            (WaitReason::SendWindow, format!("messages leave only from {window}"))
        }
        Closed::ContactHours(name) => {
            (WaitReason::ContactHours, format!("marketing leaves only in the contact hours {name}"))
        }
        Closed::UnknownHours(_) => {
            let names = closings.iter().filter_map(|closing| match closing.by {
                Closed::UnknownHours(name) => Some(name),
                Closed::SendWindow | Closed::ContactHours(_) => None,
            });
            let names: BTreeSet<&str> = names.collect();
            let text = format!(
                "marketing leaves only in the contact hours {}, which are not in the configuration: add them",
                listed(names, HOURS_NAMED_MAX)
            );
            (WaitReason::ContactHours, text)
        }
    };
    Some(Waiting { until, ..Waiting::new(reason, text) })
}

/// How a hold that stops the whole campaign is shown. `None` for a hold on a line, which is shown with that line, and
/// for a hold on a country.
fn stopped_by(scope: &HoldScope) -> Option<(WaitReason, String)> {
    match scope {
        HoldScope::Template { name, language, .. } => {
            Some((WaitReason::TemplatePaused, format!("template {name} ({language}) is held")))
        }
        HoldScope::Utility(waba) => {
            Some((WaitReason::TemplatePaused, format!("utility templates of waba {waba} are held")))
        }
        HoldScope::Business(business) => Some((WaitReason::BusinessBlocked, format!("business {business} is held"))),
        HoldScope::Platform => Some((WaitReason::Platform, "Meta has an outage".to_owned())),
        HoldScope::Token(waba) => Some((WaitReason::Token, format!("the access token of waba {waba} is held"))),
        HoldScope::Waba(waba) => Some((WaitReason::LineBlocked, format!("waba {waba} is held"))),
        // Messages to a held country fail instead of waiting.
        HoldScope::Line(_) | HoldScope::Country { .. } => None,
    }
}

fn held(reason: WaitReason, what: &str, hold: &Hold) -> Waiting {
    let text = format!("{what}: {}", hold.reason);
    Waiting { since: Some(hold.since), until: hold.until, code: hold.code, ..Waiting::new(reason, text) }
}

/// Whether nothing of the campaign is sent in the grace period: other processes may still have to repeat who got
/// marketing, and whom the business has messaged.
fn waits_in_grace_period(record: &CampaignRecord, business: Option<&BusinessId>, stops: &Stops) -> bool {
    record.campaign.template.category == Category::Marketing
        || business.is_some_and(|business| stops.limited.contains_key(business))
}

fn redis_restarted(GracePeriod { since, until }: GracePeriod) -> Waiting {
    let text = "redis restarted, and what it may have forgotten is written again first";
    Waiting { since: Some(since), until: Some(until), ..Waiting::new(WaitReason::RedisRestarted, text) }
}

fn redis_full(memory: Memory) -> Waiting {
    let text = format!("redis uses {memory} (maxmemory) and refuses every write: {FULL_REMEDY}");
    Waiting::new(WaitReason::RedisFull, text)
}

/// The most important reason of a line with work.
fn on_line(record: &CampaignRecord, work: &LineWork, grace_period: Option<GracePeriod>, now: UnixMs) -> Waiting {
    let (line, at) = (&work.line, &work.now);
    let report = at.report.as_ref();
    let missing = report.map_or(Vec::new(), |report| record.campaign.missing_features(&report.features));
    let waiting = match at.stop() {
        Some(Stop::Paused) => Waiting {
            since: at.control.paused_since,
            ..Waiting::new(WaitReason::Paused, format!("line {line} is paused"))
        },
        Some(Stop::Held(_, hold)) => held(WaitReason::LineBlocked, &format!("line {line} is held"), hold),
        Some(Stop::NoWorker) => Waiting {
            since: at.served_at,
            ..Waiting::new(WaitReason::NoWorker, format!("no worker serves line {line}"))
        },
        Some(Stop::Silent(Silence { since, until })) => {
            let text = format!(
                "the worker of line {line} does not answer: another worker takes the line over when the lease has ended"
            );
            Waiting { since: Some(since), until: Some(until), ..Waiting::new(WaitReason::NoWorker, text) }
        }
        Some(Stop::Unlisted) => {
            let text = format!("no process lists line {line}: {UNLISTED_REMEDY}");
            Waiting { since: at.served_at, ..Waiting::new(WaitReason::LineUnlisted, text) }
        }
        Some(Stop::Unreachable(cause)) => {
            let cause = if cause.is_empty() { String::new() } else { format!(": {cause}") };
            Waiting {
                since: report.and_then(|report| report.since),
                ..Waiting::new(WaitReason::BackingOff, format!("Meta can't be reached{cause}"))
            }
        }
        Some(Stop::PathBroken(cause)) => Waiting {
            since: report.and_then(|report| report.since),
            ..Waiting::new(WaitReason::PathBroken, format!("the path to Meta is broken: {cause}"))
        },
        Some(Stop::LimitUnknown) => {
            let text = format!("Meta has not said yet how many people the business of line {line} may message");
            Waiting { since: Some(record.changed_at), ..Waiting::new(WaitReason::PortfolioLimit, text) }
        }
        Some(Stop::WarmUp(until)) => {
            let text = format!("line {line} is warming up, and has sent its messages of this day");
            let since = report.and_then(|report| report.since);
            Waiting { since, until: Some(until), ..Waiting::new(WaitReason::WarmUp, text) }
        }
        None if !missing.is_empty() => {
            let missing = missing.join(", ");
            let text = format!("the worker of line {line} lacks {missing}: upgrade it to a newer release");
            Waiting { since: Some(record.changed_at), ..Waiting::new(WaitReason::NewerRelease, text) }
        }
        None if let Some(closed) = work.closings(now).and_then(|closings| closed(record, &closings)) => closed,
        None if let Some(period) = grace_period.filter(|_| !work.sends_in_grace_period) => redis_restarted(period),
        None if is_throttled(work) => Waiting {
            since: report.and_then(|report| report.since),
            other_campaigns: work.other_campaigns(),
            ..Waiting::new(WaitReason::Throttled, rate_text(work))
        },
        None if work.is_due(now) => match own_rate(record, work) {
            Some(rate) => Waiting {
                since: Some(record.changed_at),
                ..Waiting::new(
                    WaitReason::CampaignRate,
                    format!("the campaign sends at most {rate} a second on line {line}"),
                )
            },
            None => Waiting {
                since: Some(record.changed_at),
                other_campaigns: work.other_campaigns(),
                ..Waiting::new(WaitReason::LineRate, rate_text(work))
            },
        },
        None => {
            let (reason, text) = match work.pending {
                0 => (WaitReason::BackingOff, "messages that could not be sent wait for their next attempt"),
                _ => (WaitReason::PairSpacing, "Meta requires more time between messages to the same people"),
            };
            Waiting { until: work.schedule.next_due, ..Waiting::new(reason, text) }
        }
    };
    Waiting { line: Some(line.clone()), ..waiting }
}

/// The campaign's own ceiling on the line, in messages per second, if it is below the rate of the line.
fn own_rate(record: &CampaignRecord, work: &LineWork) -> Option<f64> {
    let own = ceiling(&record.campaign)?;
    work.now.rate().filter(|rate| own < *rate).map(|_| tenth(own))
}

fn is_throttled(work: &LineWork) -> bool {
    work.now.report.as_ref().is_some_and(|report| report.throttled)
}

fn rate_text(work: &LineWork) -> String {
    let line = &work.line;
    let shared = match work.other_campaigns() {
        None => String::new(),
        Some(1) => ", which this campaign shares with another campaign".to_owned(),
        Some(n) => format!(", which this campaign shares with {n} other campaigns"),
    };
    match work.now.rate() {
        Some(rate) if is_throttled(work) => {
            format!("Meta throttles line {line} to {} a second now{shared}", tenth(rate))
        }
        Some(rate) => format!("line {line} may send {} a second{shared}", tenth(rate)),
        None => format!("the worker of line {line} has not reported its rate yet"),
    }
}

fn tenth(rate: f64) -> f64 {
    (rate * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests;
