//! What is wrong with a campaign before its launch, in sentences with their remedy.

use super::people::People;
use crate::{
    api_types::{PreflightCost, PreflightProblem, PreflightRejects, ProblemCode, WaitReason, Waiting},
    domain::{
        BusinessId, Campaign, FrequencyCap, LineId, PriceList, Template, UnixMs, listing::listed,
        template::TemplateError,
    },
    redis::{
        installation::StoredTemplate,
        memory::{Memory, ROOM_REMEDY},
        places::LimitedPlaces,
        registry::UNLISTED_REMEDY,
    },
    stats::Forecast,
};

/// How many countries without a price a sentence lists.
const COUNTRIES_NAMED_MAX: usize = 10;

/// The facts about a campaign from which its problems follow.
pub struct Facts<'a> {
    /// The campaign.
    pub campaign: &'a Campaign,
    /// The forecast of its sending.
    pub forecast: &'a Forecast,
    /// Its remaining recipients.
    pub people: &'a People,
    /// The rows that its uploads rejected.
    pub rejects: &'a PreflightRejects,
    /// Its template in Meta's list.
    pub listed: &'a StoredTemplate,
    /// Those of its lines that are not configured.
    pub unknown_lines: &'a [LineId],
    /// Its business and the places that are left, if the business has a messaging limit.
    pub limited: Option<(&'a BusinessId, LimitedPlaces)>,
    /// The frequency cap of its business.
    pub business_cap: Option<FrequencyCap>,
    /// The price list, the cost according to it, and the countries without a price.
    pub cost: Option<(&'a PriceList, &'a PreflightCost, &'a [String])>,
    /// The memory of Redis, if it is nearly full.
    pub full_redis: Option<Memory>,
    /// The time.
    pub now: UnixMs,
}

/// The problems, the blocking ones first.
pub fn of(facts: &Facts<'_>) -> Vec<PreflightProblem> {
    let mut problems: Vec<PreflightProblem> = recipients(facts).into_iter().collect();
    problems.extend(expiry(facts));
    let template = template(facts);
    let is_listed_as_held = template.iter().any(|problem| problem.code == ProblemCode::TemplateNotApproved);
    problems.extend(template);
    problems.extend(facts.unknown_lines.iter().map(line_not_configured));
    let is_unknown = |wait: &Waiting| facts.unknown_lines.iter().any(|line| wait.line.as_ref() == Some(line));
    let is_said = |wait: &Waiting| wait.reason == WaitReason::LineUnlisted && is_unknown(wait);
    let waits = facts.forecast.waiting_for.iter().filter(|wait| !is_said(wait)).filter_map(of_wait);
    problems.extend(waits.filter(|problem| !(is_listed_as_held && problem.code == ProblemCode::TemplateHeld)));
    problems.extend(limit(facts));
    problems.extend(idle_cap(facts));
    problems.extend(rejected(facts.rejects));
    problems.extend(facts.full_redis.map(redis_full));
    problems.extend(
        facts.cost.into_iter().flat_map(|(prices, cost, lacking)| prices_lack(prices, cost, lacking, facts.now)),
    );
    problems.sort_by_key(|problem| !problem.blocking);
    problems
}

fn blocking(code: ProblemCode, text: impl Into<String>) -> PreflightProblem {
    PreflightProblem { code, blocking: true, line: None, text: text.into() }
}

fn warning(code: ProblemCode, text: impl Into<String>) -> PreflightProblem {
    PreflightProblem { blocking: false, ..blocking(code, text) }
}

fn recipients(Facts { forecast, people, .. }: &Facts<'_>) -> Option<PreflightProblem> {
    if forecast.recipients == 0 {
        return Some(blocking(ProblemCode::NoRecipients, "the campaign has no recipients: upload some first"));
    }
    if forecast.left == 0 {
        return Some(blocking(ProblemCode::NoRecipients, "no recipient is left to send to"));
    }
    let text = "every recipient that is left would be skipped: nobody would get the message";
    (people.to_send == 0).then(|| blocking(ProblemCode::AllSkipped, text))
}

fn expiry(Facts { campaign, forecast, now, .. }: &Facts<'_>) -> Option<PreflightProblem> {
    let at = campaign.expires_at?;
    if at <= *now {
        let text = format!("the campaign expired at {at} (its expires_at), so nothing would be sent: set a later one");
        return Some(blocking(ProblemCode::Expired, text));
    }
    if let Some(start) = forecast.starts_at.filter(|start| *start >= at) {
        let text = format!(
            "the first message would be sent at {start}, and the campaign expires at {at} (its expires_at), so nobody would \
            get it: set a later one"
        );
        return Some(blocking(ProblemCode::EndsAfterExpiry, text));
    }
    let end = forecast.ends_at.filter(|end| *end > at)?;
    let text = format!(
        "the last message would be sent at {end}, and the campaign expires at {at} (its expires_at): recipients that \
        are left by then get no message"
    );
    Some(warning(ProblemCode::EndsAfterExpiry, text))
}

fn template(Facts { campaign, listed, .. }: &Facts<'_>) -> Vec<PreflightProblem> {
    let listed = match listed {
        StoredTemplate::NotSynced => {
            let text = "the templates of its WABA have not been read from Meta yet: read them (`pregon template sync`, \
                or POST /v1/templates/sync)";
            return vec![blocking(ProblemCode::TemplatesNotSynced, text)];
        }
        StoredTemplate::Missing => None,
        StoredTemplate::Found(template) => Some(&**template),
    };
    let fit = campaign.template.check_still_fits(listed).err();
    let fit = fit.map(|error| blocking(code_of(&error), error.to_string()));
    let status = listed.and_then(Template::status_problem);
    let status = status.map(|text| blocking(ProblemCode::TemplateNotApproved, text));
    let quality = listed.filter(|template| ["YELLOW", "RED"].contains(&template.quality_score.as_str()));
    let quality = quality.map(|template| {
        let text = format!(
            "people react badly to template {template}: its quality is {}, and Meta pauses templates of low quality",
            template.quality_score
        );
        warning(ProblemCode::TemplateQuality, text)
    });
    fit.into_iter().chain(status).chain(quality).collect()
}

fn code_of(error: &TemplateError) -> ProblemCode {
    match error {
        TemplateError::Changed { .. } => ProblemCode::TemplateChanged,
        TemplateError::Gone { .. } => ProblemCode::TemplateMissing,
        TemplateError::Unsupported { .. }
        | TemplateError::SubCategory { .. }
        | TemplateError::NotOnlyTheCode { .. }
        | TemplateError::Unreadable { .. }
        | TemplateError::NotANumber { .. } => ProblemCode::TemplateUnsupported,
    }
}

fn line_not_configured(line: &LineId) -> PreflightProblem {
    let text = format!("line {line} is not in the configuration: {UNLISTED_REMEDY}");
    PreflightProblem { line: Some(line.clone()), ..blocking(ProblemCode::LineNotConfigured, text) }
}

/// The problem behind a wait; `None` if the wait is a normal part of sending. A wait that ends by itself, at a known
/// time, is a warning.
fn of_wait(Waiting { reason, line, until, text, .. }: &Waiting) -> Option<PreflightProblem> {
    let code = match reason {
        // Waits that any campaign can have.
        WaitReason::Schedule
        | WaitReason::SendWindow
        | WaitReason::LineRate
        | WaitReason::Throttled
        | WaitReason::CampaignRate
        | WaitReason::PairSpacing => return None,
        // The hours open at a known time.
        WaitReason::ContactHours if until.is_some() => return None,
        WaitReason::ContactHours => ProblemCode::ContactHoursClosed,
        // The time of the next attempt is known.
        WaitReason::BackingOff if until.is_some() => return None,
        WaitReason::BackingOff => ProblemCode::Unreachable,
        WaitReason::Paused => ProblemCode::LinePaused,
        WaitReason::AllPaused => ProblemCode::AllPaused,
        WaitReason::WarmUp => ProblemCode::LineWarmUp,
        WaitReason::PathBroken => ProblemCode::PathBroken,
        WaitReason::TemplatePaused => ProblemCode::TemplateHeld,
        WaitReason::LineBlocked => ProblemCode::LineHeld,
        WaitReason::BusinessBlocked => ProblemCode::BusinessHeld,
        WaitReason::PortfolioLimit => ProblemCode::LimitReached,
        WaitReason::Platform => ProblemCode::PlatformHeld,
        WaitReason::Token => ProblemCode::TokenHeld,
        WaitReason::NoWorker => ProblemCode::NoWorker,
        WaitReason::LineUnlisted => ProblemCode::LineNotConfigured,
        WaitReason::NewerRelease => ProblemCode::NewerRelease,
        // That Redis is full, or nearly so, is a problem of its own.
        WaitReason::Redis | WaitReason::RedisRestarted | WaitReason::RedisFull | WaitReason::Other => return None,
    };
    let ends = until.is_some() || code == ProblemCode::LimitReached;
    Some(PreflightProblem { code, blocking: !ends, line: line.clone(), text: text.clone() })
}

fn limit(Facts { people, limited, .. }: &Facts<'_>) -> Option<PreflightProblem> {
    let (business, LimitedPlaces { limit, places }) = limited.as_ref()?;
    if places.left == 0 || people.to_send <= places.left {
        return None;
    }
    let text = format!(
        "business {business} may message {limit} people in 24 hours, and {} more now; the campaign sends to {}, so it takes \
        longer",
        places.left, people.to_send
    );
    Some(warning(ProblemCode::LimitTooSmall, text))
}

/// The problem that the campaign's cap has no effect, because the business's own cap is at least as strict.
fn idle_cap(Facts { campaign, business_cap, .. }: &Facts<'_>) -> Option<PreflightProblem> {
    let (own, of_business) = campaign.frequency_cap.zip(*business_cap)?;
    let text = || {
        format!(
            "frequency_cap is {own}, and the business allows {of_business} anyway (business.frequency_cap), so the campaign's \
            cap has no effect: name fewer messages, or leave it out"
        )
    };
    own.is_implied_by(of_business).then(|| warning(ProblemCode::FrequencyCapIdle, text()))
}

fn rejected(rejects: &PreflightRejects) -> Option<PreflightProblem> {
    let text = match rejects.count {
        0 => return None,
        1 => "1 row was rejected by an upload, and is no recipient".to_owned(),
        n => format!("{n} rows were rejected by uploads, and are no recipients"),
    };
    Some(warning(ProblemCode::RowsRejected, text))
}

fn redis_full(memory: Memory) -> PreflightProblem {
    let text = format!("redis uses {memory} (maxmemory), and sending stops when it is full: {ROOM_REMEDY}");
    warning(ProblemCode::RedisFull, text)
}

fn prices_lack(prices: &PriceList, cost: &PreflightCost, lacking: &[String], now: UnixMs) -> Vec<PreflightProblem> {
    let mut problems = Vec::new();
    if cost.without_price > 0 {
        let text = format!(
            "the price list has no price for {} of the messages, to {}: add prices (prices.file)",
            cost.without_price,
            listed(lacking, COUNTRIES_NAMED_MAX)
        );
        problems.push(warning(ProblemCode::PriceMissing, text));
    }
    if prices.is_old(now) {
        let text = format!(
            "the price list is that of {}, and Meta may change its prices every quarter: bring it up to date (prices.file)",
            cost.valid_from
        );
        problems.push(warning(ProblemCode::PricesOld, text));
    }
    problems
}
