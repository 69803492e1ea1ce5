//! Meta's error codes, and what each makes of an attempt.
//!
//! Owns: the table of [`Rule`]s and the one way from a code to an [`Outcome`]. The code decides; the HTTP status only
//! where the code is unknown, because Meta documents codes and no longer statuses.
//! If the process dies: nothing is lost, there is no state here.
//! Never: logs, counts or waits; a caller matches the outcome in full.

use std::{ops::RangeInclusive, time::Duration};

use super::{Cause, ErrorScope, Outcome};

mod table;

/// What is done about an error. One for each action in `tests/fixtures/error_codes.csv`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorAction {
    /// The same send again, with growing, jittered, capped waits; it uses up attempts.
    RetryBackoff,
    /// The same send again a day later: Meta protects this person from too much marketing and punishes haste.
    Defer24h,
    /// This line waits with this recipient; everybody else goes on.
    RetryPair,
    /// The line sends slower; the message keeps its attempts.
    ThrottleLine,
    /// All lines of the WABA send slower; the message keeps its attempts.
    ThrottleWaba,
    /// All lines of the app send slower; the message keeps its attempts.
    ThrottleApp,
    /// Everything that sends with this token stops until a person gives it its rights back.
    PauseToken,
    /// Everything that sends with this token stops until there is a new one.
    RefreshToken,
    /// The line stops until its wait is over, a probe succeeds, or a person clears it.
    PauseLine,
    /// All lines of the WABA stop until the wait is over, a probe succeeds, or a person clears it.
    PauseWaba,
    /// The template rests until Meta approves it again.
    PauseTemplate,
    /// This send is dead. The values of one row may be at fault, or the template for everybody: a few in a row pause the
    /// campaign for a person to look at.
    StopCampaign,
    /// This send is dead and the recipient is not to blame; many in a row pause the campaign.
    FailMessage,
    /// This send is dead because of the recipient.
    FailRecipient,
    /// The recipient wants no more marketing from this business.
    SuppressMarketing,
    /// This WABA may not write to the recipient's country.
    BlockCountry,
    /// Outside sending, for a person to look at; should a send meet it, that send is dead.
    Alert,
    /// Outside sending, of no interest; should a send meet it, that send is dead.
    Ignore,
}

/// What is known of one code, or of one range of codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The code; the range holds more than one only for Meta's 200 to 299.
    pub codes: RangeInclusive<u32>,
    /// What the error is about.
    pub scope: ErrorScope,
    /// What is done.
    pub action: ErrorAction,
    /// How long, at least; `None`: no automatic end, or the action needs none.
    pub wait: Option<Duration>,
    /// A few words for statistics and reports.
    pub title: &'static str,
}

/// The code of a recipient whose message got no answer: see [`Cause::code`]. Callers see it as 0, with its title.
pub const NO_ANSWER: u32 = 0;

/// The code of a recipient whose failure Meta reported without a code. No code of Meta's is nearly as large. Callers see it as
/// 0, with its title.
pub const NO_REASON: u32 = u32::MAX;

/// The code, and the subcode of 100, for a line that does not exist or that the token may not see.
pub const NO_SUCH_OBJECT: u32 = 33;

/// Recipients in a row who fail with one code of [`ErrorAction::StopCampaign`] before the campaign pauses. One row with a bad
/// value is no reason to pause, and these few are all that a template costs which works for nobody.
const PAUSE_AFTER_FEW: u32 = 5;

/// The same for [`ErrorAction::FailMessage`], whose codes are more often about the values of a row: a stretch of bad rows in a
/// list is no reason to pause either.
const PAUSE_AFTER_MANY: u32 = 20;

/// How long a throttled scope waits at least, where the table gives no time.
const THROTTLE_WAIT: Duration = Duration::from_secs(1);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The rule for `code`; `None` if it is not in the table.
pub fn rule(code: u32) -> Option<&'static Rule> {
    let next = table::TABLE.partition_point(|rule| *rule.codes.end() < code);
    table::TABLE.get(next).filter(|rule| rule.codes.contains(&code))
}

/// The code to go by where Meta also gives a subcode.
///
/// Code 100 is a fault of the message, but with subcode 33 it says what code 33 says: the line does not exist, or the token
/// may not see it. No other subcode changes what a code means.
pub fn meaning(code: u32, subcode: Option<u32>) -> u32 {
    const INVALID_PARAMETER: u32 = 100;
    match (code, subcode) {
        (INVALID_PARAMETER, Some(NO_SUCH_OBJECT)) => NO_SUCH_OBJECT,
        (code, _) => code,
    }
}

/// The words beside a code in the statistics of failures.
///
/// Here 0 is [`NO_ANSWER`], never Meta's own code 0: that one is about the token and ends no recipient. A code that is
/// not in the table is `unknown error`.
pub fn title(code: u32) -> &'static str {
    match code {
        NO_ANSWER => "no answer",
        NO_REASON => "Meta reported the failure without a reason",
        _ => rule(code).map_or("unknown error", |rule| rule.title),
    }
}

/// The code that callers see: Meta's, or `None` where Meta gave none.
pub fn code_of_meta(code: u32) -> Option<u32> {
    (code != NO_ANSWER && code != NO_REASON).then_some(code)
}

/// What Meta's error makes of an attempt. Pure.
///
/// `code` decides if it is in the table, whatever `http_status` says. For any other code, 429 throttles the line and any
/// other 4xx fails the message. A 5xx leaves the attempt in doubt, because Meta may have taken the message before it
/// failed; so does a status that reports no error and so contradicts the answer. `details` is kept as the cause.
pub fn outcome(http_status: u16, code: u32, details: String) -> Outcome {
    let cause = Cause::Meta { code, details };
    match rule(code) {
        Some(rule) => known(rule, cause),
        None => unknown(http_status, cause),
    }
}

/// What a `failed` status says with a code: whom the fault is about, and so what is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByStatus {
    /// The account, the line, the token or the template: hold `scope` at once. The message was not delivered, and its
    /// recipient is not to blame.
    Hold {
        /// What is held: template, line, WABA, token or app.
        scope: ErrorScope,
        /// How long; without it a probe, a webhook or a person ends the hold.
        wait: Option<Duration>,
    },
    /// The message, or something that all messages share: stop `scope` once several different recipients in a row failed
    /// with the code.
    Suspect {
        /// What is stopped: the campaign is paused, a line or a WABA is held.
        scope: ErrorScope,
        /// How long, as with [`ByStatus::Hold`].
        wait: Option<Duration>,
    },
    /// The recipient, or nobody knows: the message failed, and nothing else follows.
    Failed,
}

/// Template pacing drops held messages with 132015; portfolio pacing drops those of every line of the portfolio with this
/// code, and bars it from sending until Meta has reviewed it. As an answer the same code blames the message.
const DROPPED_BY_PORTFOLIO_PACING: u32 = 135_000;

/// The phone was away for the whole lifetime of the message. In a row, that says nothing about the message.
const EXPIRED: u32 = 131_043;

/// What a `failed` status with `code` is about. Pure.
///
/// It follows the same table as [`outcome`], with one difference: by now nobody can send the message again by the schedule
/// of its attempts, so that what an answer retries is failed here, and suspected if it repeats.
pub fn by_status(code: u32) -> ByStatus {
    let Some(rule) = rule(code) else { return ByStatus::Failed };
    let wait = rule.wait;
    let hold = |scope| ByStatus::Hold { scope, wait };
    match rule.action {
        _ if code == EXPIRED => ByStatus::Failed,
        _ if code == DROPPED_BY_PORTFOLIO_PACING => ByStatus::Suspect { scope: ErrorScope::Waba, wait: None },
        ErrorAction::PauseToken | ErrorAction::RefreshToken => hold(ErrorScope::Token),
        ErrorAction::PauseLine | ErrorAction::ThrottleLine => hold(ErrorScope::Line),
        ErrorAction::PauseWaba | ErrorAction::ThrottleWaba => hold(ErrorScope::Waba),
        ErrorAction::ThrottleApp => hold(ErrorScope::App),
        ErrorAction::PauseTemplate => hold(ErrorScope::Template),
        ErrorAction::RetryBackoff if rule.scope == ErrorScope::Platform => {
            ByStatus::Suspect { scope: ErrorScope::Line, wait }
        }
        // The identity of the recipient has changed (137000): an action against the message, about one person.
        ErrorAction::FailMessage if rule.scope == ErrorScope::Recipient => ByStatus::Failed,
        ErrorAction::RetryBackoff | ErrorAction::StopCampaign | ErrorAction::FailMessage => {
            ByStatus::Suspect { scope: ErrorScope::Campaign, wait: None }
        }
        ErrorAction::Defer24h
        | ErrorAction::RetryPair
        | ErrorAction::FailRecipient
        | ErrorAction::SuppressMarketing
        | ErrorAction::BlockCountry
        | ErrorAction::Alert
        | ErrorAction::Ignore => ByStatus::Failed,
    }
}

fn known(rule: &Rule, cause: Cause) -> Outcome {
    let wait = rule.wait;
    let throttled = |scope, cause| Outcome::Throttled { scope, wait: wait.unwrap_or(THROTTLE_WAIT), cause };
    let blocked = |scope, cause| Outcome::Blocked { scope, wait, cause };
    match rule.action {
        ErrorAction::RetryBackoff => Outcome::Retry { wait, cause },
        ErrorAction::Defer24h => Outcome::Retry { wait: Some(DAY), cause },
        ErrorAction::RetryPair => throttled(ErrorScope::Pair, cause),
        ErrorAction::ThrottleLine => throttled(ErrorScope::Line, cause),
        ErrorAction::ThrottleWaba => throttled(ErrorScope::Waba, cause),
        ErrorAction::ThrottleApp => throttled(ErrorScope::App, cause),
        ErrorAction::PauseToken | ErrorAction::RefreshToken => blocked(ErrorScope::Token, cause),
        ErrorAction::PauseLine => blocked(ErrorScope::Line, cause),
        ErrorAction::PauseWaba => blocked(ErrorScope::Waba, cause),
        ErrorAction::PauseTemplate => blocked(ErrorScope::Template, cause),
        ErrorAction::StopCampaign => Outcome::Failed { pause_after: Some(PAUSE_AFTER_FEW), cause },
        ErrorAction::FailMessage => Outcome::Failed { pause_after: Some(PAUSE_AFTER_MANY), cause },
        ErrorAction::FailRecipient
        | ErrorAction::SuppressMarketing
        | ErrorAction::BlockCountry
        | ErrorAction::Alert
        | ErrorAction::Ignore => Outcome::Failed { pause_after: None, cause },
    }
}

fn unknown(http_status: u16, cause: Cause) -> Outcome {
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
        Cause::Meta { code, details: "why".to_owned() }
    }

    fn of(http_status: u16, code: u32) -> Outcome {
        outcome(http_status, code, "why".to_owned())
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

    /// The fixture's rows as rules, each with the other code and subcode that mean the same, if there are such:
    /// `code,http_status,scope,action,retry_after_hint_s,also_code,title`, quotes only in the title.
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
    fn the_table_and_the_fixture_hold_the_same_facts() {
        let fixture = fixture();
        assert_eq!(fixture.len(), 90);
        for (row, also) in &fixture {
            for code in [*row.codes.start(), *row.codes.end()] {
                assert_eq!(rule(code), Some(row), "row {code} of the fixture");
                assert_eq!(meaning(code, None), code);
            }
            if let Some((code, subcode)) = *also {
                assert_eq!(rule(meaning(code, Some(subcode))), Some(row), "{code} with subcode {subcode}");
            }
        }
        for rule in table::TABLE {
            assert!(fixture.iter().any(|(row, _)| row == rule), "{rule:?} of the table");
        }
    }

    #[test]
    fn every_code_is_found_and_none_is_in_two_rules() {
        for pair in table::TABLE.windows(2) {
            assert!(pair[0].codes.end() < pair[1].codes.start(), "{:?} and {:?}", pair[0], pair[1]);
        }
        for rule_of_table in table::TABLE {
            for code in rule_of_table.codes.clone() {
                assert_eq!(rule(code), Some(rule_of_table));
            }
        }
        assert_eq!(rule(250).expect("in the range").title, "Permission missing or withdrawn");
        for unknown in [5, 199, 300, 131_999, 2_494_101, u32::MAX] {
            assert_eq!(rule(unknown), None, "{unknown}");
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
            retry(131_049, 86_400),
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
            blocked(368, ErrorScope::Waba, Some(3600)),
            blocked(132_015, ErrorScope::Template, Some(10_800)),
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
    fn a_failed_status_stops_only_what_its_code_is_about() {
        let hold = |scope, wait: Option<u64>| ByStatus::Hold { scope, wait: wait.map(seconds) };
        let suspect = |scope, wait: Option<u64>| ByStatus::Suspect { scope, wait: wait.map(seconds) };
        let cases = [
            (0, hold(ErrorScope::Token, None)),
            (190, hold(ErrorScope::Token, None)),
            (250, hold(ErrorScope::Token, None)),
            (4, hold(ErrorScope::App, Some(300))),
            (80_007, hold(ErrorScope::Waba, Some(300))),
            (130_429, hold(ErrorScope::Line, Some(1))),
            (131_031, hold(ErrorScope::Waba, Some(3600))),
            (131_042, hold(ErrorScope::Waba, Some(3600))),
            (368, hold(ErrorScope::Waba, Some(3600))),
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
            (135_000, suspect(ErrorScope::Waba, None)),
            (131_016, suspect(ErrorScope::Line, Some(15))),
            (131_026, ByStatus::Failed),
            (131_043, ByStatus::Failed),
            (131_049, ByStatus::Failed),
            (131_050, ByStatus::Failed),
            (131_056, ByStatus::Failed),
            (130_472, ByStatus::Failed),
            (130_497, ByStatus::Failed),
            (137_000, ByStatus::Failed),
            (999_999, ByStatus::Failed),
        ];
        for (code, expected) in cases {
            assert_eq!(by_status(code), expected, "code {code}");
        }
    }

    #[test]
    fn a_status_holds_whatever_the_same_code_as_an_answer_holds() {
        for rule in table::TABLE {
            let code = *rule.codes.start();
            let answer = of(400, code);
            match by_status(code) {
                ByStatus::Hold { scope, wait } => match answer {
                    Outcome::Blocked { scope: held, wait: until, .. } => {
                        assert_eq!((scope, wait), (held, until), "{code}")
                    }
                    Outcome::Throttled { scope: held, wait: least, .. } => {
                        assert_eq!((scope, wait), (held, Some(least)), "{code}");
                    }
                    other => panic!("{code}: {other:?}"),
                },
                ByStatus::Suspect { .. } | ByStatus::Failed => {
                    let held = matches!(&answer, Outcome::Blocked { scope, .. } if *scope != ErrorScope::Campaign);
                    assert!(!held, "{code}: {answer:?}");
                }
            }
        }
    }

    #[test]
    fn only_an_action_that_may_end_by_itself_has_a_wait() {
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

    #[test]
    fn no_answer_is_not_mistaken_for_metas_code_0() {
        assert_eq!(title(Cause::Unreachable(String::new()).code()), "no answer");
        assert_eq!(title(Cause::Unanswered(String::new()).code()), "no answer");
        assert_eq!(rule(0).expect("Meta has a code 0").title, "App user could not be authenticated");
        assert_eq!(title(131_026), "Message undeliverable");
        assert_eq!([NO_ANSWER, NO_REASON, 131_026].map(code_of_meta), [None, None, Some(131_026)]);
        assert_eq!(by_status(NO_REASON), ByStatus::Failed, "it holds nothing");
        assert_eq!(title(999_999), "unknown error");
    }
}
