//! Checks at the end of the week.

use std::collections::BTreeMap;

use pregon::{domain::State, sim::MessageRecord};
use serde_json::Value;

use crate::{
    plan::{CAPPED, STOPPING},
    play::Week,
};

/// Recipients by state, and failed ones by Meta's code.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    accepted: u64,
    sent: u64,
    delivered: u64,
    read: u64,
    failed: BTreeMap<u64, u64>,
}

/// Runs all checks. Prints every problem before it panics.
pub async fn all(week: &Week) {
    let mut wrong = Vec::new();
    no_rule_is_broken(week, &mut wrong);
    every_rule_was_needed(week, &mut wrong);
    nobody_got_two(week, &mut wrong);
    counts_are_exact(week, &mut wrong);
    who_stopped_marketing_is_skipped(week, &mut wrong);
    who_had_enough_is_skipped(week, &mut wrong);
    who_had_marketing_withheld_is_skipped(week, &mut wrong);
    assert!(wrong.is_empty(), "{} problems:\n{}", wrong.len(), wrong.join("\n"));
}

fn no_rule_is_broken(week: &Week, wrong: &mut Vec<String>) {
    let broken = week.stage.broken().into_iter();
    wrong.extend(broken.map(|(line, rule, sends)| format!("line {line} broke the rule {rule} with {sends} sends")));
}

/// Checks that each rule made some campaign wait: otherwise the week proves nothing about that rule.
fn every_rule_was_needed(week: &Week, wrong: &mut Vec<String>) {
    let hours = ["send_window", "contact_hours"];
    for reason in
        ["line_rate", "pair_spacing", "portfolio_limit", "template_paused", "line_blocked"].into_iter().chain(hours)
    {
        if !week.reasons.contains(reason) {
            wrong.push(format!("no campaign ever waited for {reason}"));
        }
    }
    let ledger = week.stage.ledger();
    let withheld = ledger.total.told.failed.get(&131_049).copied().unwrap_or(0);
    let refused = ledger.total.answers.get("131049").copied().unwrap_or(0);
    if withheld == 0 || refused == 0 {
        wrong.push(format!("marketing withheld by webhook: {withheld}, by a response: {refused}"));
    }
    if ledger.total.answers.get("130429").is_none_or(|throttled| *throttled == 0) {
        wrong.push("no line was throttled".to_owned());
    }
    if ledger.webhooks_given_up > 0 {
        wrong.push(format!("the simulator gave up {} updates", ledger.webhooks_given_up));
    }
}

/// Checks that nobody got a second message, except after one that failed.
fn nobody_got_two(week: &Week, wrong: &mut Vec<String>) {
    let twice = week.stage.ledger().total.recipients_reached_twice;
    if twice > 0 {
        wrong.push(format!("{twice} recipients got two messages"));
    }
}

/// The code of a message that Meta held and then dropped. Pregón sends it again, and that send may not reach the
/// simulator: then the recipient is unknown. Otherwise the recipient counts by the last message.
const DROPPED: u64 = 132_015;
/// The code of marketing that Meta withheld, in a status or in a response.
const WITHHELD: u64 = 131_049;

/// Compares the statistics of each campaign with the simulator's messages, as far as Pregón can know of them: by a
/// response, or by a status with its token. All other recipients must be unknown, or have failed with [`DROPPED`].
fn counts_are_exact(week: &Week, wrong: &mut Vec<String>) {
    let (mut by_campaign, mut refused) = (BTreeMap::<String, Counts>::new(), 0);
    for (recipient, messages) in week.stage.messages_by_recipient() {
        let campaign = recipient.split('.').nth(1).unwrap_or_default().to_owned();
        let is_dropped = |message: &MessageRecord| message.code.is_some_and(|code| u64::from(code) == DROPPED);
        let Some(last) = messages.last().filter(|last| last.named && !is_dropped(last)) else { continue };
        by_campaign.entry(campaign).or_default().count(last);
    }
    for campaign in &week.ended {
        let id = campaign["id"].as_str().expect("an id");
        let mut expected = by_campaign.remove(id).unwrap_or_default();
        refused += expected.add_refused(campaign);
        let shown = Counts::shown(campaign, &expected);
        if shown != expected {
            wrong.push(format!("campaign {id}: expected {expected:?}, shown {shown:?}: {}", campaign["statistics"]));
        }
        let statistics = &campaign["statistics"];
        let skipped = statistics["by_state"]["skipped"].as_u64().unwrap_or(0);
        let others = statistics["recipients"].as_u64().unwrap_or(0) - expected.total() - skipped;
        let failures = statistics["failures"].as_array().into_iter().flatten();
        let dropped =
            failures.filter(|failure| failure["code"] == DROPPED).filter_map(|failure| failure["count"].as_u64());
        if statistics["by_state"]["unknown"].as_u64().map(|unknown| unknown + dropped.sum::<u64>()) != Some(others) {
            wrong.push(format!("campaign {id}: {others} are unknown or were dropped: {statistics}"));
        }
    }
    let answered = week.stage.ledger().total.answers.get("131049").copied().unwrap_or(0);
    if refused > answered {
        wrong.push(format!("{refused} were refused with 131049, but the simulator refused {answered}"));
    }
    wrong.extend(by_campaign.keys().map(|id| format!("messages of {id}, which is no campaign that ended")));
}

/// Checks that the people who stopped marketing, in WhatsApp or by a stop word, were skipped by both later campaigns,
/// and that nobody else was.
fn who_stopped_marketing_is_skipped(week: &Week, wrong: &mut Vec<String>) {
    let all = skipped(week, "suppressed");
    if all != 2 * 2 * STOPPING {
        wrong.push(format!("{all} are skipped because they stopped marketing"));
    }
}

/// Three campaigns send marketing to the same people, and the cap allows two messages, so most people are skipped once.
/// The number is not exact: messages that fail do not count, and messages that a killed worker had claimed count
/// although nobody got them.
fn who_had_enough_is_skipped(week: &Week, wrong: &mut Vec<String>) {
    let all = skipped(week, "frequency_cap");
    if !(CAPPED / 2..=2 * CAPPED).contains(&all) {
        wrong.push(format!("{all} are skipped for the frequency cap"));
    }
}

/// Meta withholds a hundredth of all marketing, and four campaigns go to the people of a campaign of less than a day
/// before. In a small week, Meta may have withheld from none of these people.
fn who_had_marketing_withheld_is_skipped(week: &Week, wrong: &mut Vec<String>) {
    if skipped(week, "withheld") == 0 && week.stage.ledger().total.requests > 50_000 {
        wrong.push("nobody is skipped because Meta withheld marketing from them".to_owned());
    }
}

/// The number of recipients, in all campaigns, that were skipped for `reason`.
fn skipped(week: &Week, reason: &str) -> u64 {
    let skips = week.ended.iter().flat_map(|campaign| campaign["statistics"]["skips"].as_array().into_iter().flatten());
    skips.filter(|skip| skip["reason"] == reason).filter_map(|skip| skip["count"].as_u64()).sum()
}

impl Counts {
    fn count(&mut self, message: &MessageRecord) {
        match message.state {
            State::Sent => self.sent += 1,
            State::Delivered => self.delivered += 1,
            State::Read => self.read += 1,
            State::Failed => *self.failed.entry(message.code.unwrap_or(0).into()).or_default() += 1,
            _ => self.accepted += 1,
        }
    }

    /// The counts in the campaign's statistics. Of the failures, only codes that `expected` has, because recipients
    /// whose result is unknown have codes too.
    fn shown(campaign: &Value, expected: &Self) -> Self {
        let statistics = &campaign["statistics"];
        let count = |state: &str| statistics["by_state"][state].as_u64().unwrap_or(0);
        let failures = statistics["failures"].as_array().into_iter().flatten();
        let failures = failures.filter_map(|failure| Some((failure["code"].as_u64()?, failure["count"].as_u64()?)));
        Self {
            accepted: count("accepted"),
            sent: count("sent"),
            delivered: count("delivered"),
            read: count("read"),
            failed: failures.filter(|(code, _)| expected.failed.contains_key(code)).collect(),
        }
    }

    /// Adds the recipients for whom Meta withheld marketing in its response, which the simulator has no messages of.
    /// Returns their number.
    fn add_refused(&mut self, campaign: &Value) -> u64 {
        let failures = campaign["statistics"]["failures"].as_array().into_iter().flatten();
        let withheld: u64 = failures
            .filter(|failure| failure["code"] == WITHHELD)
            .filter_map(|failure| failure["count"].as_u64())
            .sum();
        let refused = withheld.saturating_sub(self.failed.get(&WITHHELD).copied().unwrap_or(0));
        if refused > 0 {
            *self.failed.entry(WITHHELD).or_default() += refused;
        }
        refused
    }

    fn total(&self) -> u64 {
        self.accepted + self.sent + self.delivered + self.read + self.failed.values().sum::<u64>()
    }
}
