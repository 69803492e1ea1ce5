//! Meta's error codes, and the outcome that each causes.
//!
//! Owns: the table of [`Rule`]s and the only mapping from a code to an [`Outcome`]. The code decides. The HTTP status
//! decides only for an unknown code, because Meta documents the codes and no longer the statuses.
//! If the process dies: nothing is lost; there is no state.
//! Never: logs, counts or waits.

use std::{ops::RangeInclusive, time::Duration};

use super::{Cause, ErrorScope, FailureReason, MetaCode, Outcome};

mod table;

/// The action for an error: one variant for each action in `tests/fixtures/error_codes.csv`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorAction {
    /// Retry the send with growing, jittered, capped waits. Counts as an attempt.
    RetryBackoff,
    /// Send once more, [`WITHHELD_FOR`] later, if the campaign asks for that. Meta limits the marketing that this
    /// person receives, and penalizes early retries.
    Defer24h,
    /// Delay this recipient on this line; other recipients are not affected.
    RetryPair,
    /// Slow the line down. Does not count as an attempt.
    ThrottleLine,
    /// Slow all lines of the WABA down. Does not count as an attempt.
    ThrottleWaba,
    /// Slow all lines of the app down. Does not count as an attempt.
    ThrottleApp,
    /// Stop every line that uses this token until a person restores its permissions.
    PauseToken,
    /// Stop every line that uses this token until there is a new token.
    RefreshToken,
    /// Stop the line until the wait is over, a probe succeeds, or a person ends the hold.
    PauseLine,
    /// Stop all lines of the WABA until the wait is over, a probe succeeds, or a person ends the hold.
    PauseWaba,
    /// Hold the template until Meta approves it again.
    PauseTemplate,
    /// Fail the message. The cause may be the values of one row, or the template and so every recipient: a few
    /// failures in a row pause the campaign, so that a person can look at it.
    StopCampaign,
    /// Fail the message; the recipient is not at fault. Many failures in a row pause the campaign.
    FailMessage,
    /// Fail the message; the recipient is the reason.
    FailRecipient,
    /// Fail the message: the recipient stopped marketing messages from this business.
    SuppressMarketing,
    /// Fail the message, and hold the recipient's country: this WABA may not send to it.
    BlockCountry,
    /// Not an error of sending; a person should look at it. If a send returns it anyway, the message fails.
    Alert,
    /// Not an error of sending; no action is needed. If a send returns it anyway, the message fails.
    Ignore,
}

/// The classification of one code, or of one range of codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The codes. More than one only for Meta's range 200 to 299.
    pub codes: RangeInclusive<u32>,
    /// The scope of the error.
    pub scope: ErrorScope,
    /// The action.
    pub action: ErrorAction,
    /// The minimum wait. `None`: the error does not end by itself, or the action needs no wait.
    pub wait: Option<Duration>,
    /// A short title for statistics and reports.
    pub title: &'static str,
}

/// The code (and subcode of code 100) for a line that does not exist or that the token may not access.
pub const NO_SUCH_OBJECT: u32 = 33;

/// Pause the campaign after this many recipients in a row fail with the same code of [`ErrorAction::StopCampaign`].
/// One row with a bad value must not pause it, and a template that fails for everyone must cost only a few
/// recipients.
const PAUSE_AFTER_FEW: u32 = 5;

/// The same limit for [`ErrorAction::FailMessage`]. These codes are more often about the values of a row, so a run of
/// bad rows in a list must not pause the campaign either.
const PAUSE_AFTER_MANY: u32 = 20;

/// The minimum wait of a throttled scope if the table has none.
const THROTTLE_WAIT: Duration = Duration::from_secs(1);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The minimum wait before a message that Meta withheld is sent again.
pub const WITHHELD_FOR: Duration = DAY;

/// What the error of a failed message holds in addition, and for how long: the recipient's country.
pub fn also_holds(code: MetaCode) -> Option<(ErrorScope, Option<Duration>)> {
    let rule = rule(code)?;
    match rule.action {
        ErrorAction::BlockCountry => Some((ErrorScope::Country, Some(COUNTRY_WAIT))),
        _ => None,
    }
}

/// The rule for `code`; `None` if it is not in the table.
pub fn rule(MetaCode(code): MetaCode) -> Option<&'static Rule> {
    let next = table::TABLE.partition_point(|rule| *rule.codes.end() < code);
    table::TABLE.get(next).filter(|rule| rule.codes.contains(&code))
}

/// The code that decides, given Meta's code and subcode.
///
/// Code 100 is a fault of the message. With subcode 33 it means the same as code 33: the line does not exist, or the
/// token may not access it. No other subcode changes the meaning of a code.
pub fn effective_code(code: MetaCode, subcode: Option<u32>) -> MetaCode {
    const INVALID_PARAMETER: MetaCode = MetaCode(100);
    match (code, subcode) {
        (INVALID_PARAMETER, Some(NO_SUCH_OBJECT)) => MetaCode(NO_SUCH_OBJECT),
        (code, _) => code,
    }
}

/// The outcome of an attempt to which Meta returned an error. Pure.
///
/// A `code` in the table decides whatever `http_status` is. For any other code, 429 throttles the line and any other
/// 4xx fails the message. A 5xx leaves the attempt in doubt, because Meta may have accepted the message before the
/// error. So does a status below 400, because it contradicts the error. `details` becomes the details of the cause.
pub fn outcome(http_status: u16, code: MetaCode, details: String) -> Outcome {
    let cause = Cause::Meta { code, details };
    match rule(code) {
        Some(rule) => by_rule(rule, cause),
        None => by_http_status(http_status, cause),
    }
}

/// What a `failed` status implies beyond its own message, by its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByStatus {
    /// The fault is in the account, the line, the token or the template: hold `scope` at once. The message was not
    /// delivered, and the recipient is not at fault.
    Hold {
        /// What to hold: the template, the line, the WABA, the token or the app.
        scope: ErrorScope,
        /// How long the hold lasts. `None`: a probe, a webhook or a person ends it.
        wait: Option<Duration>,
    },
    /// The fault is in the message, or in something that all messages share: stop `scope` once several different
    /// recipients in a row failed with this code.
    Suspect {
        /// What to stop: the campaign is paused, or the line or the WABA is held.
        scope: ErrorScope,
        /// How long `scope` is stopped. `None`: a probe, a webhook or a person ends it.
        wait: Option<Duration>,
    },
    /// Meta withheld the message from a person who gets much marketing. The campaign decides whether it is sent once
    /// more.
    Withheld,
    /// The fault is in the recipient, or unknown: the message failed, and nothing else follows.
    Failed,
}

/// In a status: portfolio pacing dropped the held messages of every line of the portfolio, and Meta blocks the
/// portfolio until it has reviewed it. In the response to a send, the same code is about the message.
const DROPPED_BY_PORTFOLIO_PACING: MetaCode = MetaCode(135_000);

/// The template is paused; in a status about a held message: template pacing dropped it.
pub const TEMPLATE_PAUSED: MetaCode = MetaCode(132_015);

/// The code for the cap on utility messages of a WABA: only those messages are held.
pub const UTILITY_CAP: MetaCode = MetaCode(131_064);

/// The WABA sends no marketing through `/messages`.
const MARKETING_API_ONLY: MetaCode = MetaCode(131_063);

/// How long a WABA that refused marketing through `/messages` sends it through the Marketing Messages API. Then one
/// message tests whether `/messages` accepts marketing again.
pub const REROUTED_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How long a country is held. Then one message tests whether the WABA may send to it again.
const COUNTRY_WAIT: Duration = DAY;

/// The code of a message that expired because the phone was offline. Even several such failures in a row are no
/// evidence against the message.
const EXPIRED: MetaCode = MetaCode(131_043);

/// What a `failed` status with this `reason` implies. Pure.
///
/// Uses the same table as [`outcome`], with one difference: the attempt is over and cannot be retried. Where a
/// response would be retried, the message fails, and the code is suspect if it repeats.
pub fn by_status(reason: FailureReason) -> ByStatus {
    let FailureReason::Meta(code) = reason else { return ByStatus::Failed };
    let Some(rule) = rule(code) else { return ByStatus::Failed };
    let wait = rule.wait;
    let hold = |scope| ByStatus::Hold { scope, wait };
    match rule.action {
        _ if code == EXPIRED => ByStatus::Failed,
        _ if code == DROPPED_BY_PORTFOLIO_PACING => ByStatus::Suspect { scope: ErrorScope::Business, wait: None },
        _ if code == UTILITY_CAP => hold(ErrorScope::Utility),
        ErrorAction::PauseToken | ErrorAction::RefreshToken => hold(ErrorScope::Token),
        ErrorAction::PauseLine | ErrorAction::ThrottleLine => hold(ErrorScope::Line),
        ErrorAction::PauseWaba => ByStatus::Hold { scope: ErrorScope::Waba, wait: None },
        ErrorAction::ThrottleWaba => hold(ErrorScope::Waba),
        ErrorAction::ThrottleApp => hold(ErrorScope::App),
        ErrorAction::PauseTemplate => hold(ErrorScope::Template),
        ErrorAction::RetryBackoff if rule.scope == ErrorScope::Platform => {
            ByStatus::Suspect { scope: ErrorScope::Platform, wait }
        }
        // 137000, the recipient's identity has changed: a `FailMessage` code that is about one person.
        ErrorAction::FailMessage if rule.scope == ErrorScope::Recipient => ByStatus::Failed,
        ErrorAction::RetryBackoff | ErrorAction::StopCampaign | ErrorAction::FailMessage => {
            ByStatus::Suspect { scope: ErrorScope::Campaign, wait: None }
        }
        ErrorAction::Defer24h => ByStatus::Withheld,
        ErrorAction::RetryPair
        | ErrorAction::FailRecipient
        | ErrorAction::SuppressMarketing
        | ErrorAction::BlockCountry
        | ErrorAction::Alert
        | ErrorAction::Ignore => ByStatus::Failed,
    }
}

/// What a `failed` status with this `reason` implies if Meta had kept the message back. Pure.
///
/// Such a message was dropped because of people's reactions to the first messages. Neither hold ends by itself: a pause
/// that pacing caused has to be lifted, and a portfolio is blocked until Meta has reviewed it.
pub fn by_status_of_held(reason: FailureReason) -> ByStatus {
    let hold = |scope| ByStatus::Hold { scope, wait: None };
    match reason {
        FailureReason::Meta(TEMPLATE_PAUSED) => hold(ErrorScope::Template),
        FailureReason::Meta(DROPPED_BY_PORTFOLIO_PACING) => hold(ErrorScope::Business),
        _ => by_status(reason),
    }
}

/// Whether a `failed` status with this `reason` implies something else if Meta had kept the message back.
pub fn may_be_a_drop(reason: FailureReason) -> bool {
    by_status(reason) != by_status_of_held(reason)
}

/// Whether a failure for this `reason` shows that the recipient stopped marketing of the business.
pub fn stops_marketing(reason: FailureReason) -> bool {
    let rule = reason.code().and_then(rule);
    rule.is_some_and(|rule| rule.action == ErrorAction::SuppressMarketing)
}

/// The outcome of a message that cannot be rerouted: it is not marketing, or it was already sent through the Marketing
/// Messages API.
pub fn not_rerouted(cause: Cause) -> Outcome {
    Outcome::Failed { pause_after: Some(PAUSE_AFTER_FEW), cause }
}

fn by_rule(rule: &Rule, cause: Cause) -> Outcome {
    let wait = rule.wait;
    let throttled = |scope, cause| Outcome::Throttled { scope, wait: wait.unwrap_or(THROTTLE_WAIT), cause };
    let blocked = |scope, cause| Outcome::Blocked { scope, wait, cause };
    match rule.action {
        ErrorAction::RetryBackoff => Outcome::Retry { wait, cause },
        ErrorAction::Defer24h => Outcome::Withheld(cause),
        ErrorAction::RetryPair => throttled(ErrorScope::Pair, cause),
        ErrorAction::ThrottleLine => throttled(ErrorScope::Line, cause),
        ErrorAction::ThrottleWaba => throttled(ErrorScope::Waba, cause),
        ErrorAction::ThrottleApp => throttled(ErrorScope::App, cause),
        ErrorAction::PauseToken | ErrorAction::RefreshToken => blocked(ErrorScope::Token, cause),
        ErrorAction::PauseLine => blocked(ErrorScope::Line, cause),
        ErrorAction::PauseWaba if *rule.codes.start() == UTILITY_CAP.0 => blocked(ErrorScope::Utility, cause),
        // The wait of the table is only a minimum. The hold ends by a webhook, or when the health of the WABA shows it.
        ErrorAction::PauseWaba => Outcome::Blocked { scope: ErrorScope::Waba, wait: None, cause },
        ErrorAction::PauseTemplate => blocked(ErrorScope::Template, cause),
        ErrorAction::StopCampaign if *rule.codes.start() == MARKETING_API_ONLY.0 => Outcome::Rerouted(cause),
        ErrorAction::StopCampaign => Outcome::Failed { pause_after: Some(PAUSE_AFTER_FEW), cause },
        ErrorAction::FailMessage => Outcome::Failed { pause_after: Some(PAUSE_AFTER_MANY), cause },
        ErrorAction::FailRecipient
        | ErrorAction::SuppressMarketing
        | ErrorAction::BlockCountry
        | ErrorAction::Alert
        | ErrorAction::Ignore => Outcome::Failed { pause_after: None, cause },
    }
}

fn by_http_status(http_status: u16, cause: Cause) -> Outcome {
    match http_status {
        429 => Outcome::Throttled { scope: ErrorScope::Line, wait: THROTTLE_WAIT, cause },
        400..=499 => Outcome::Failed { pause_after: Some(PAUSE_AFTER_MANY), cause },
        0..=399 | 500..=u16::MAX => Outcome::InDoubt(cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(code: u32) -> Cause {
        Cause::Meta { code: MetaCode(code), details: "why".to_owned() }
    }

    fn of(http_status: u16, code: u32) -> Outcome {
        outcome(http_status, MetaCode(code), "why".to_owned())
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn action_named(name: &str) -> ErrorAction {
        match name {
            "retry_backoff" => ErrorAction::RetryBackoff,
            "defer_24h" => ErrorAction::Defer24h,
            "retry_pair" => ErrorAction::RetryPair,
            "throttle_line" => ErrorAction::ThrottleLine,
            "throttle_waba" => ErrorAction::ThrottleWaba,
            "throttle_app" => ErrorAction::ThrottleApp,
            "pause_token" => ErrorAction::PauseToken,
            "refresh_token" => ErrorAction::RefreshToken,
            "pause_line" => ErrorAction::PauseLine,
            "pause_waba" => ErrorAction::PauseWaba,
            "pause_template" => ErrorAction::PauseTemplate,
            "stop_campaign" => ErrorAction::StopCampaign,
            "fail_message" => ErrorAction::FailMessage,
            "fail_recipient" => ErrorAction::FailRecipient,
            "suppress_marketing" => ErrorAction::SuppressMarketing,
            "block_country" => ErrorAction::BlockCountry,
            "alert" => ErrorAction::Alert,
            "ignore" => ErrorAction::Ignore,
            _ => panic!("no action is called {name}"),
        }
    }

    /// The rules in the fixture, each with its equivalent code and subcode, if any. Columns:
    /// `code,http_status,scope,action,retry_after_hint_s,also_code,title`; only the title may be quoted.
    fn fixture() -> Vec<(Rule, Option<(u32, u32)>)> {
        let row = |line: &'static str| {
            let fields: Vec<&str> = line.splitn(7, ',').collect();
            let &[codes, _http_status, scope, action, wait, also, title] = fields.as_slice() else { panic!("{line}") };
            let (first, last) = codes.split_once('-').unwrap_or((codes, codes));
            let number = |text: &str| text.parse::<u32>().unwrap_or_else(|_| panic!("{line}"));
            let also = also.split_once('/').map(|(code, subcode)| (number(code), number(subcode)));
            let rule = Rule {
                codes: number(first)..=number(last),
                scope: serde_json::from_value(scope.into()).expect("a scope"),
                action: action_named(action),
                wait: (!wait.is_empty()).then(|| seconds(number(wait).into())),
                title: title.trim_matches('"'),
            };
            (rule, also)
        };
        include_str!("../../tests/fixtures/error_codes.csv").lines().skip(1).map(row).collect()
    }

    #[test]
    fn the_table_and_the_fixture_agree() {
        let fixture = fixture();
        assert_eq!(fixture.len(), 90);
        for (row, also) in &fixture {
            for code in [*row.codes.start(), *row.codes.end()].map(MetaCode) {
                assert_eq!(rule(code), Some(row), "row {code} of the fixture");
                assert_eq!(effective_code(code, None), code);
            }
            if let Some((code, subcode)) = *also {
                assert_eq!(
                    rule(effective_code(MetaCode(code), Some(subcode))),
                    Some(row),
                    "{code} with subcode {subcode}"
                );
            }
        }
        for rule in table::TABLE {
            assert!(fixture.iter().any(|(row, _)| row == rule), "{rule:?} of the table");
        }
    }

    #[test]
    fn every_code_is_found_in_exactly_one_rule() {
        for pair in table::TABLE.windows(2) {
            assert!(pair[0].codes.end() < pair[1].codes.start(), "{:?} and {:?}", pair[0], pair[1]);
        }
        for rule_of_table in table::TABLE {
            for code in rule_of_table.codes.clone() {
                assert_eq!(rule(MetaCode(code)), Some(rule_of_table));
            }
        }
        assert_eq!(rule(MetaCode(250)).expect("in the range").title, "Permission missing or withdrawn");
        for unknown in [5, 199, 300, 131_999, 2_494_101, u32::MAX] {
            assert_eq!(rule(MetaCode(unknown)), None, "{unknown}");
        }
    }

    #[test]
    fn an_error_stops_only_what_it_is_about() {
        let throttled =
            |code, scope, wait| (code, Outcome::Throttled { scope, wait: seconds(wait), cause: cause(code) });
        let blocked = |code, scope, wait: Option<u64>| {
            (code, Outcome::Blocked { scope, wait: wait.map(seconds), cause: cause(code) })
        };
        let retry = |code, wait| (code, Outcome::Retry { wait: Some(seconds(wait)), cause: cause(code) });
        let failed = |code, pause_after| (code, Outcome::Failed { pause_after, cause: cause(code) });
        let cases = [
            retry(1, 5),
            retry(131_000, 10),
            (131_049, Outcome::Withheld(cause(131_049))),
            throttled(131_056, ErrorScope::Pair, 6),
            throttled(130_429, ErrorScope::Line, 1),
            throttled(80_007, ErrorScope::Waba, 300),
            throttled(4, ErrorScope::App, 300),
            throttled(613, ErrorScope::App, 60),
            blocked(0, ErrorScope::Token, None),
            blocked(190, ErrorScope::Token, None),
            blocked(200, ErrorScope::Token, None),
            blocked(299, ErrorScope::Token, None),
            blocked(131_057, ErrorScope::Line, Some(60)),
            blocked(133_010, ErrorScope::Line, None),
            blocked(368, ErrorScope::Waba, None),
            blocked(132_015, ErrorScope::Template, Some(10_800)),
            (131_063, Outcome::Rerouted(cause(131_063))),
            failed(132_000, Some(PAUSE_AFTER_FEW)),
            failed(131_008, Some(PAUSE_AFTER_FEW)),
            failed(100, Some(PAUSE_AFTER_MANY)),
            failed(137_000, Some(PAUSE_AFTER_MANY)),
            failed(131_026, None),
            failed(131_050, None),
            failed(130_497, None),
            failed(133_005, None),
            failed(131_052, None),
        ];
        for (code, expected) in cases {
            for http_status in [200, 400, 429, 500] {
                assert_eq!(of(http_status, code), expected, "code {code} beats HTTP {http_status}");
            }
        }
    }

    #[test]
    fn a_failed_status_stops_only_the_scope_of_its_code() {
        let hold = |scope, wait: Option<u64>| ByStatus::Hold { scope, wait: wait.map(seconds) };
        let suspect = |scope, wait: Option<u64>| ByStatus::Suspect { scope, wait: wait.map(seconds) };
        let cases = [
            (0, hold(ErrorScope::Token, None)),
            (190, hold(ErrorScope::Token, None)),
            (250, hold(ErrorScope::Token, None)),
            (4, hold(ErrorScope::App, Some(300))),
            (80_007, hold(ErrorScope::Waba, Some(300))),
            (130_429, hold(ErrorScope::Line, Some(1))),
            (131_031, hold(ErrorScope::Waba, None)),
            (131_042, hold(ErrorScope::Waba, None)),
            (368, hold(ErrorScope::Waba, None)),
            (131_048, hold(ErrorScope::Line, Some(3600))),
            (133_010, hold(ErrorScope::Line, None)),
            (131_057, hold(ErrorScope::Line, Some(60))),
            (132_015, hold(ErrorScope::Template, Some(10_800))),
            (132_016, hold(ErrorScope::Template, None)),
            (131_053, suspect(ErrorScope::Campaign, None)),
            (131_000, suspect(ErrorScope::Campaign, None)),
            (131_008, suspect(ErrorScope::Campaign, None)),
            (132_000, suspect(ErrorScope::Campaign, None)),
            (100, suspect(ErrorScope::Campaign, None)),
            (135_000, suspect(ErrorScope::Business, None)),
            (131_016, suspect(ErrorScope::Platform, Some(15))),
            (131_026, ByStatus::Failed),
            (131_043, ByStatus::Failed),
            (131_049, ByStatus::Withheld),
            (131_050, ByStatus::Failed),
            (131_056, ByStatus::Failed),
            (130_472, ByStatus::Failed),
            (130_497, ByStatus::Failed),
            (137_000, ByStatus::Failed),
            (999_999, ByStatus::Failed),
        ];
        for (code, expected) in cases {
            assert_eq!(by_status(MetaCode(code).into()), expected, "code {code}");
        }
        for reason in [FailureReason::NoAnswer, FailureReason::NotGiven] {
            assert_eq!(by_status(reason), ByStatus::Failed, "it sets no hold");
        }
    }

    #[test]
    fn a_dropped_message_holds_its_template_or_its_business_until_that_is_lifted() {
        let hold = |scope| ByStatus::Hold { scope, wait: None };
        for (code, expected) in [(132_015, ErrorScope::Template), (135_000, ErrorScope::Business)] {
            let reason = MetaCode(code).into();
            assert_eq!((by_status_of_held(reason), may_be_a_drop(reason)), (hold(expected), true), "{code}");
        }
        for reason in
            [MetaCode(131_026).into(), MetaCode(131_042).into(), MetaCode(132_016).into(), FailureReason::NotGiven]
        {
            assert_eq!((by_status_of_held(reason), may_be_a_drop(reason)), (by_status(reason), false), "{reason:?}");
        }
    }

    #[test]
    fn a_failed_status_and_a_response_hold_the_same_scope() {
        for rule in table::TABLE {
            let code = *rule.codes.start();
            let answer = of(400, code);
            match by_status(MetaCode(code).into()) {
                ByStatus::Hold { scope, wait } => match answer {
                    Outcome::Blocked { scope: held, wait: until, .. } => {
                        assert_eq!((scope, wait), (held, until), "{code}")
                    }
                    Outcome::Throttled { scope: held, wait: least, .. } => {
                        assert_eq!((scope, wait), (held, Some(least)), "{code}");
                    }
                    other => panic!("{code}: {other:?}"),
                },
                ByStatus::Suspect { .. } | ByStatus::Withheld | ByStatus::Failed => {
                    let held = matches!(&answer, Outcome::Blocked { scope, .. } if *scope != ErrorScope::Campaign);
                    assert!(!held, "{code}: {answer:?}");
                }
            }
        }
    }

    #[test]
    fn only_actions_that_can_expire_have_a_wait() {
        for rule in table::TABLE {
            match rule.action {
                ErrorAction::RetryBackoff
                | ErrorAction::Defer24h
                | ErrorAction::RetryPair
                | ErrorAction::ThrottleLine
                | ErrorAction::ThrottleWaba
                | ErrorAction::ThrottleApp => assert!(rule.wait.is_some(), "{rule:?}"),
                ErrorAction::PauseLine | ErrorAction::PauseWaba | ErrorAction::PauseTemplate | ErrorAction::Alert => {}
                ErrorAction::PauseToken
                | ErrorAction::RefreshToken
                | ErrorAction::StopCampaign
                | ErrorAction::FailMessage
                | ErrorAction::FailRecipient
                | ErrorAction::SuppressMarketing
                | ErrorAction::BlockCountry
                | ErrorAction::Ignore => assert_eq!(rule.wait, None, "{rule:?}"),
            }
        }
    }

    #[test]
    fn the_http_status_decides_on_an_unknown_code() {
        let code = 999_999;
        let line = Outcome::Throttled { scope: ErrorScope::Line, wait: seconds(1), cause: cause(code) };
        assert_eq!(of(429, code), line);
        for status in [400, 403, 428, 430, 499] {
            assert_eq!(
                of(status, code),
                Outcome::Failed { pause_after: Some(PAUSE_AFTER_MANY), cause: cause(code) },
                "{status}"
            );
        }
        for status in [0, 200, 302, 399, 500, 503, 599, 600, u16::MAX] {
            assert_eq!(of(status, code), Outcome::InDoubt(cause(code)), "{status}");
        }
    }
}
