//! Formats numbers, times and wait reasons for people.

use std::{borrow::Cow, time::Duration};

use indicatif::HumanCount;
use jiff::{SignedDuration, Unit};

use crate::{
    api_types::{HoldView, LineView, PauseView, Statistics, WaitReason, Waiting},
    domain::{FailureReason, Lifter, SuppressionScope, UnixMs},
};

/// Which messages a suppressed person does not get.
pub fn suppressed_messages(scope: SuppressionScope) -> &'static str {
    match scope {
        SuppressionScope::Marketing => "marketing messages",
        SuppressionScope::All => "messages",
    }
}

/// Lines that a sentence lists by id.
const LINES_NAMED_MAX: usize = 4;
/// Causes of the same reason that get a sentence each.
const CAUSES_NAMED_MAX: usize = 3;
/// Failure codes that a progress line lists.
const CODES_NAMED_MAX: usize = 3;

/// The number with separators: `45,210`.
pub fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

/// The number with its noun: `1 row`, `45,210 rows`.
pub fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// `45.2 %` of `whole`; empty if `whole` is 0.
pub fn share(part: u64, whole: u64) -> String {
    match whole {
        0 => String::new(),
        _ => format!("{:.1} %", hundredths(part, whole)),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn hundredths(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole as f64
}

/// `1h 12m`, `12m 5s`: the two largest units; at least a second.
pub fn duration(duration: Duration) -> String {
    let unit = if duration < Duration::from_secs(3600) { Unit::Second } else { Unit::Minute };
    let rounded = SignedDuration::try_from(duration).and_then(|exact| exact.round(unit)).unwrap_or(SignedDuration::MAX);
    format!("{:#}", rounded.max(SignedDuration::from_secs(1)))
}

/// The time left from `now`, `12m 5s left`. `None` without an ETA, after the ETA, or when no recipient is open.
pub fn left(statistics: &Statistics, now: UnixMs) -> Option<String> {
    let eta = statistics.eta.filter(|eta| *eta > now && statistics.open() > 0)?;
    Some(format!("{} left", duration(eta.since(now))))
}

/// The time without fractions of a second: `2026-11-22T18:00:00Z`.
pub fn time(at: UnixMs) -> String {
    UnixMs(at.seconds() * 1000).to_string()
}

/// The text with control characters escaped, because they would act on the terminal.
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { printable.extend(c.escape_default()) } else { printable.push(c) }
    }
    printable
}

/// The funnel in one line.
pub fn funnel(statistics: &Statistics) -> String {
    let steps = statistics.funnel.each().map(|(step, n)| format!("{step} {}", count(n)));
    steps.join(" · ")
}

/// What the funnel leaves out, in one line: messages that Meta holds, recipients that are still open, and those that
/// got no message. Lists only counts above 0.
pub fn rest(statistics: &Statistics) -> String {
    let by_state = statistics.by_state.each();
    let states =
        ["pending", "in flight", "retrying", "in doubt", "failed", "unknown", "skipped", "expired", "cancelled"];
    let held = (statistics.held > 0).then(|| format!("held by Meta {}", count(statistics.held)));
    let listed = by_state.iter().filter(|(state, n)| *n > 0 && states.contains(state)).map(|(state, n)| {
        let codes = if *state == "failed" { codes(statistics) } else { String::new() };
        format!("{state} {}{codes}", count(*n))
    });
    held.into_iter().chain(listed).collect::<Vec<_>>().join(" · ")
}

/// The messages that Meta holds, as a sentence; `None` if there are none.
pub fn held(statistics: &Statistics) -> Option<String> {
    (statistics.held > 0).then(|| {
        let n = count(statistics.held);
        format!(
            "Meta keeps {n} of the accepted messages back until it has assessed how people react to the first ones."
        )
    })
}

/// What became of the chats in which people answered, as a sentence; `None` if nobody did, or it is not known.
pub fn chats(statistics: &Statistics) -> Option<String> {
    let chats = statistics.chats.filter(|chats| chats.answered > 0)?;
    let [answered, opened, assigned, attended] =
        [chats.answered, chats.opened, chats.assigned, chats.attended].map(count);
    Some(format!(
        "Answers are in {answered} chats: {opened} were opened by them, an agent has got {assigned}, and {attended} were \
         answered."
    ))
}

fn codes(statistics: &Statistics) -> String {
    // Leave out failures without an answer: they are the `unknown` recipients, which are shown by their state.
    let no_answer = FailureReason::NoAnswer.title();
    let failures: Vec<_> = statistics.failures.iter().filter(|f| f.code.is_some() || f.title != no_answer).collect();
    let named = failures.iter().take(CODES_NAMED_MAX).map(|f| {
        let code = f.code.map_or(String::new(), |code| format!("{code} "));
        format!("{code}{}: {}", f.title, count(f.count))
    });
    let mut named: Vec<_> = named.collect();
    if failures.len() > CODES_NAMED_MAX {
        named.push("…".into());
    }
    if named.is_empty() { String::new() } else { format!(" ({})", named.join(", ")) }
}

/// A pause of the installation or of a business.
pub fn pause(PauseView { business, since }: &PauseView) -> String {
    let of = business.as_ref().map(|business| format!(" of business {business}")).unwrap_or_default();
    format!("all sending{of} is paused since {}", time(*since))
}

/// Why work waits: a sentence for each reason, with its remedy. Lines with the same reason share a sentence. If the text
/// of a reason has a cause, those with the same cause do; of more than `CAUSES_NAMED_MAX`, the others share one.
pub fn waiting_for(waits: &[Waiting]) -> Vec<String> {
    let mut groups: Vec<Vec<&Waiting>> = Vec::new();
    for wait in waits {
        // A wait that ends by itself has another remedy than one that does not.
        let alike = |group: &Vec<&Waiting>| {
            group[0].reason == wait.reason
                && group[0].line.is_some()
                && wait.line.is_some()
                && group[0].until.is_some() == wait.until.is_some()
        };
        let n_alike = groups.iter().filter(|group| alike(group)).count();
        let is_full = !has_cause(wait.reason) || n_alike > CAUSES_NAMED_MAX;
        let same = groups.iter().position(|group| alike(group) && group[0].text == wait.text);
        match same.or_else(|| groups.iter().rposition(alike).filter(|_| is_full)) {
            Some(at) => groups[at].push(wait),
            None => groups.push(vec![wait]),
        }
    }
    groups.iter().map(|group| sentence(group)).collect()
}

/// Why a line does not get through to Meta, as a reason to wait; `None` if it does.
pub fn outage(line: &LineView) -> Option<Waiting> {
    let broken = line.path_broken.as_ref().map(|cause| (WaitReason::PathBroken, reason(WaitReason::PathBroken), cause));
    let unreachable = line.unreachable.as_ref().map(|cause| (WaitReason::BackingOff, "Meta can't be reached", cause));
    let (reason, what, cause) = broken.or(unreachable)?;
    let wait = Waiting::new(reason, format!("{what}: {cause}"));
    Some(Waiting { line: Some(line.id.clone()), since: line.since, ..wait })
}

/// Whether the server's text has a cause and does not name the line.
fn has_cause(reason: WaitReason) -> bool {
    matches!(reason, WaitReason::PathBroken | WaitReason::BackingOff)
}

fn sentence(group: &[&Waiting]) -> String {
    let first = group[0];
    // The server's text for one line is more specific than the text here. For several lines, the text here is shorter.
    let what = match group {
        [wait, others @ ..]
            if has_cause(wait.reason)
                && !wait.text.is_empty()
                && others.iter().all(|other| other.text == wait.text) =>
        {
            lines(group) + &wait.text
        }
        [wait] if !wait.text.is_empty() => wait.text.clone(),
        _ => lines(group) + reason(first.reason) + &shared(group),
    };
    let mut letters = what.chars();
    let capital = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    let times = times(first.reason, group);
    let remedy = remedy(group).map(|remedy| format!("; {remedy}")).unwrap_or_default();
    format!("{capital}{}{times}{remedy}.", letters.as_str())
}

/// Since when waits with the same reason last, and when they end.
fn times(reason: WaitReason, group: &[&Waiting]) -> String {
    let until = group[0].until.filter(|end| group.iter().all(|wait| wait.until == Some(*end)));
    let since = group.iter().map(|wait| wait.since).min().flatten();
    match reason {
        // The sentence has the time.
        WaitReason::Schedule => String::new(),
        WaitReason::SendWindow | WaitReason::ContactHours => {
            until.map(|at| format!("; sending goes on at {}", time(at))).unwrap_or_default()
        }
        // Nothing is wrong since the campaign runs.
        WaitReason::LineRate | WaitReason::CampaignRate => String::new(),
        _ => {
            let since = since.map(|at| format!("since {}", time(at)));
            let times: Vec<String> = since.into_iter().chain(until.map(|at| format!("until {}", time(at)))).collect();
            if times.is_empty() { String::new() } else { format!(" ({})", times.join(", ")) }
        }
    }
}

/// When a hold ends, or what can end it.
pub fn end_of_hold(hold: &HoldView) -> String {
    let lifter = |lifter: &Lifter| match lifter {
        Lifter::Time => "its end",
        Lifter::Probe => "probe",
        Lifter::Webhook => "webhook",
        Lifter::Person => "person",
    };
    match hold.until {
        Some(until) => format!("{}, at {}", lifter(&Lifter::Time), time(until)),
        None if hold.lifted_by.is_empty() => lifter(&Lifter::Person).into(),
        None => hold.lifted_by.iter().map(lifter).collect::<Vec<_>>().join(", "),
    }
}

fn reason(reason: WaitReason) -> &'static str {
    match reason {
        WaitReason::Schedule => "the campaign waits for its start time",
        WaitReason::Paused => "sending is paused",
        WaitReason::AllPaused => "all sending is paused",
        WaitReason::SendWindow => "the send window is closed",
        WaitReason::ContactHours => "the contact hours of the recipients are closed",
        WaitReason::LineRate => "the campaign sends as fast as the rate allows",
        WaitReason::Throttled => "the campaign sends as fast as Meta allows now",
        WaitReason::CampaignRate => "the campaign sends as fast as its own rate allows",
        WaitReason::WarmUp => "the line is warming up, and has sent its messages of this day",
        WaitReason::PairSpacing => "recipients who just got a message have to wait for the next one",
        WaitReason::BackingOff => "messages that could not be sent wait for their next attempt",
        WaitReason::PathBroken => "the path to Meta is broken",
        WaitReason::TemplatePaused => "the template is paused",
        WaitReason::LineBlocked => "Meta blocks the line",
        WaitReason::BusinessBlocked => "the business is held",
        WaitReason::PortfolioLimit => "the messaging limit of the business is used up",
        WaitReason::Platform => "Meta has an outage",
        WaitReason::Token => "Meta refuses the access token",
        WaitReason::NoWorker => "no worker serves the line",
        WaitReason::LineUnlisted => "no process lists the line",
        WaitReason::NewerRelease => "the worker has to be of a newer release",
        WaitReason::Redis => "Redis does not answer",
        WaitReason::RedisRestarted => "Redis restarted, and what it may have forgotten is written again first",
        WaitReason::RedisFull => "Redis is full, and refuses every write",
        WaitReason::Other => "the campaign waits for a reason that this version of pregon does not know",
    }
}

/// What ends the wait of a group, as far as its text does not say so.
fn remedy(group: &[&Waiting]) -> Option<Cow<'static, str>> {
    let Waiting { reason, line, until, business, .. } = group[0];
    let remedy = match reason {
        WaitReason::AllPaused => {
            let business = business.as_ref().map(|business| format!(" --business {business}"));
            return Some(format!("`pregon resume{}` resumes sending", business.unwrap_or_default()).into());
        }
        WaitReason::Paused if let Some(line) = line => {
            let id = if group.len() == 1 { line.as_str() } else { "ID" };
            return Some(format!("`pregon line resume {id}` resumes the line").into());
        }
        WaitReason::Paused => "`pregon campaign resume` resumes the campaign",
        WaitReason::BusinessBlocked => "see WhatsApp Manager for the reason; `pregon hold lift` lifts the hold",
        WaitReason::TemplatePaused | WaitReason::LineBlocked => "see WhatsApp Manager for the reason",
        WaitReason::Token => "put a valid token into the configuration",
        WaitReason::PortfolioLimit => "`pregon business list` shows the limit",
        WaitReason::NoWorker if until.is_some() => "if no other worker runs, start one with `pregon serve`",
        WaitReason::NoWorker => "start a worker with `pregon serve`",
        // The text for a single line has the remedy.
        WaitReason::LineUnlisted if group.len() > 1 => "list the lines again ([[line]]), or cancel the campaign",
        WaitReason::Redis => "nothing is sent until Redis is back",
        WaitReason::PathBroken => "check the network, the proxy and https://metastatus.com",
        WaitReason::Throttled => "if that lasts, lower the rate of the line with `pregon line rate`",
        WaitReason::Schedule
        | WaitReason::SendWindow
        | WaitReason::ContactHours
        | WaitReason::LineRate
        | WaitReason::CampaignRate
        | WaitReason::WarmUp
        | WaitReason::PairSpacing
        | WaitReason::BackingOff
        | WaitReason::Platform
        | WaitReason::LineUnlisted
        | WaitReason::NewerRelease
        | WaitReason::RedisRestarted
        // The text has the remedy.
        | WaitReason::RedisFull
        | WaitReason::Other => return None,
    };
    Some(remedy.into())
}

/// `on lines 3001, 3002 and 5 more: `
fn lines(group: &[&Waiting]) -> String {
    let lines: Vec<_> = group.iter().filter_map(|wait| wait.line.as_ref()).map(|line| line.as_str()).collect();
    let named = lines[..lines.len().min(LINES_NAMED_MAX)].join(", ");
    match lines.len() {
        0 => String::new(),
        1 => format!("on line {named}: "),
        n if n <= LINES_NAMED_MAX => format!("on lines {named}: "),
        n => format!("on lines {named} and {} more: ", n - LINES_NAMED_MAX),
    }
}

/// The maximum number of other campaigns on a line of the group; empty if there are none.
fn shared(group: &[&Waiting]) -> String {
    match group.iter().filter_map(|wait| wait.other_campaigns).max() {
        None => String::new(),
        Some(n) => format!(", together with up to {}", counted(n as u64, "other campaign")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api_types::{ByState, FailureCount},
        domain::MetaCode,
    };

    #[test]
    fn a_duration_has_two_units() {
        let of = |seconds: u64| duration(Duration::from_millis(seconds * 1000 + 300));
        assert_eq!([0, 1, 59, 725, 3600 + 12 * 60 + 7].map(of), ["1s", "1s", "59s", "12m 5s", "1h 12m"]);
        assert_eq!(duration(Duration::from_secs(3 * 86_400)), "72h");
        duration(Duration::MAX);
    }

    #[test]
    fn a_noun_follows_its_number() {
        let rows = [0, 1, 45_210].map(|number| counted(number, "row"));
        assert_eq!(rows, ["0 rows", "1 row", "45,210 rows"]);
    }

    #[test]
    fn control_characters_are_shown_as_escapes() {
        assert_eq!(printable("año \u{1b}[31m\n"), "año \\u{1b}[31m\\n");
    }

    #[test]
    fn a_share_of_zero_is_empty() {
        assert_eq!(
            (share(1, 3), share(0, 9), share(9, 9), share(0, 0)),
            ("33.3 %".into(), "0.0 %".into(), "100.0 %".into(), String::new())
        );
    }

    #[test]
    fn the_time_left_needs_open_recipients_and_an_eta() {
        let by_state = ByState { pending: 1, ..ByState::default() };
        let mut statistics = Statistics { eta: Some(UnixMs(725_000)), by_state, ..Statistics::default() };
        assert_eq!(left(&statistics, UnixMs(0)).as_deref(), Some("12m 5s left"));
        assert_eq!(left(&statistics, UnixMs(725_000)), None);
        statistics.by_state.pending = 0;
        assert_eq!(left(&statistics, UnixMs(0)), None);
    }

    fn wait(reason: &str, line: Option<&str>, text: &str) -> Waiting {
        let reason = serde_json::from_value(reason.into()).expect("every text is a reason");
        Waiting { line: line.map(Into::into), ..Waiting::new(reason, text) }
    }

    #[test]
    fn lines_with_the_same_reason_share_a_sentence() {
        let until = Some(UnixMs(1_000));
        let waits = [
            wait("line_rate", Some("3001"), "line 3001 may send 72 a second"),
            Waiting {
                since: Some(UnixMs(0)),
                until,
                ..wait("line_blocked", Some("3009"), "line 3009 is held: restricted")
            },
            Waiting {
                other_campaigns: Some(2),
                ..wait("line_rate", Some("3002"), "line 3002 may send 72 a second, which this campaign shares with …")
            },
            wait("no_worker", Some("3003"), "no worker serves line 3003"),
            Waiting { until, ..wait("no_worker", Some("3005"), "the worker of line 3005 does not answer") },
            wait("line_unlisted", Some("3006"), "no process lists line 3006: list the line again ([[line]])"),
            Waiting { until, ..wait("schedule", None, "the campaign starts at 1970-01-01T00:00:01Z") },
            wait("paused", None, "an error paused the campaign: parameters do not match"),
            wait("paused", Some("3001"), "line 3001 is paused"),
            wait("full_moon", Some("3001"), ""),
            wait("throttled", Some("3004"), "Meta throttles line 3004 to 36 a second now"),
            Waiting { until, ..wait("send_window", None, "messages leave only from 09:00 to 20:00 (America/Bogota)") },
            wait("all_paused", None, "an operator paused all sending"),
            Waiting {
                business: Some("1001".into()),
                ..wait("all_paused", None, "an operator paused all sending of business 1001")
            },
        ];
        assert_eq!(
            waiting_for(&waits),
            [
                "On lines 3001, 3002: the campaign sends as fast as the rate allows, together with up to 2 other \
                 campaigns.",
                "Line 3009 is held: restricted (since 1970-01-01T00:00:00Z, until 1970-01-01T00:00:01Z); see WhatsApp \
                 Manager for the reason.",
                "No worker serves line 3003; start a worker with `pregon serve`.",
                "The worker of line 3005 does not answer (until 1970-01-01T00:00:01Z); if no other worker runs, start \
                 one with `pregon serve`.",
                "No process lists line 3006: list the line again ([[line]]).",
                "The campaign starts at 1970-01-01T00:00:01Z.",
                "An error paused the campaign: parameters do not match; `pregon campaign resume` resumes the campaign.",
                "Line 3001 is paused; `pregon line resume 3001` resumes the line.",
                "On line 3001: the campaign waits for a reason that this version of pregon does not know.",
                "Meta throttles line 3004 to 36 a second now; if that lasts, lower the rate of the line \
                 with `pregon line rate`.",
                "Messages leave only from 09:00 to 20:00 (America/Bogota); sending goes on at 1970-01-01T00:00:01Z.",
                "An operator paused all sending; `pregon resume` resumes sending.",
                "An operator paused all sending of business 1001; `pregon resume --business 1001` resumes sending.",
            ]
        );
        let many: Vec<_> = ["1", "2", "3", "4", "5", "6"].map(|line| wait("line_rate", Some(line), "x")).into();
        assert_eq!(
            waiting_for(&many),
            ["On lines 1, 2, 3, 4 and 2 more: the campaign sends as fast as the rate allows."]
        );
        let unlisted: Vec<_> = ["1", "2"].map(|line| wait("line_unlisted", Some(line), "x")).into();
        let text = "On lines 1, 2: no process lists the line; list the lines again ([[line]]), or cancel the campaign.";
        assert_eq!(waiting_for(&unlisted), [text]);
        assert!(waiting_for(&[]).is_empty());
    }

    #[test]
    fn lines_share_a_sentence_for_each_cause_of_an_outage() {
        let line = |at: usize| (3_000 + at).to_string();
        let broken = |at, cause: &str| {
            let text = format!("the path to Meta is broken: {cause}");
            Waiting { since: Some(UnixMs(1_000 * at as u64)), ..wait("path_broken", Some(&line(at)), &text) }
        };
        let waits = [broken(2, "HTTP 503"), broken(1, "HTTP 503"), broken(3, "timeout")];
        let remedy = "; check the network, the proxy and https://metastatus.com.";
        assert_eq!(
            waiting_for(&waits),
            [
                format!(
                    "On lines 3002, 3001: the path to Meta is broken: HTTP 503 (since 1970-01-01T00:00:01Z){remedy}"
                ),
                format!("On line 3003: the path to Meta is broken: timeout (since 1970-01-01T00:00:03Z){remedy}"),
            ]
        );
        let many: Vec<_> = (1..=9).map(|at| broken(at, &format!("HTTP 503 with {at} bytes"))).collect();
        let sentences = waiting_for(&many);
        let others = "On lines 3004, 3005, 3006, 3007 and 2 more: the path to Meta is broken (since";
        assert!(sentences.len() == 4 && sentences[3].starts_with(others), "{sentences:?}");
        let unreachable = wait("backing_off", Some("3001"), "Meta can't be reached: connection refused");
        assert_eq!(waiting_for(&[unreachable]), ["On line 3001: Meta can't be reached: connection refused."]);
    }

    #[test]
    fn the_rest_names_the_codes_of_failures() {
        let by_state = ByState { read: 9, retrying: 1200, failed: 7, unknown: 1, ..ByState::default() };
        let failure = |code, title: &str, count| FailureCount { code, title: title.into(), count, details: None };
        let mut statistics = Statistics {
            by_state,
            failures: vec![failure(Some(MetaCode(131_026)), "undeliverable", 7), failure(None, "no answer", 1)],
            ..Statistics::default()
        };
        assert_eq!(rest(&statistics), "retrying 1,200 · failed 7 (131026 undeliverable: 7) · unknown 1");
        statistics.failures[0] = failure(None, FailureReason::NotGiven.title(), 7);
        let expected = "retrying 1,200 · failed 7 (Meta reported the failure without a reason: 7) · unknown 1";
        assert_eq!(rest(&statistics), expected);
        statistics.failures = (1..=4).map(|code| failure(Some(MetaCode(code)), "x", 1)).collect();
        assert_eq!(rest(&statistics), "retrying 1,200 · failed 7 (1 x: 1, 2 x: 1, 3 x: 1, …) · unknown 1");
        assert_eq!(rest(&Statistics::default()), "");
        let paced = Statistics { held: 1_200, ..Statistics::default() };
        assert_eq!(rest(&paced), "held by Meta 1,200");
        assert!(held(&paced).is_some_and(|text| text.starts_with("Meta keeps 1,200 of the")));
        assert_eq!(held(&Statistics::default()), None);
    }
}
