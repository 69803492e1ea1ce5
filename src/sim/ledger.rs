//! The ledger: counts of everything the simulator received and did, to compare with a sender's statistics.

use std::collections::BTreeMap;

use serde::Serialize;

use super::scenario::Fault;
use crate::domain::{State, UnixMs};

/// A snapshot of all counts: the response of `GET /sim/ledger`.
#[derive(Clone, Debug, Serialize)]
pub struct Ledger {
    /// The seed of the scenario.
    pub seed: u64,
    /// When counting began, in Unix ms: the start or the last reset.
    pub since: UnixMs,
    /// The sum of all lines, without `rates`.
    pub total: Tally,
    /// The counts of each line, by line id.
    pub lines: BTreeMap<String, Tally>,
    /// Sends to ids that are not a line. Not part of any tally.
    pub requests_elsewhere: u64,
    /// How often the templates of each WABA were read, by WABA id. A sender whose reads show up here sends here too.
    pub template_reads: BTreeMap<String, u64>,
    /// Updates (statuses, inbound messages, template changes) that are scheduled, in flight or waiting for a retry.
    pub webhooks_pending: u64,
    /// Updates in POSTs that were answered 200.
    pub webhooks_delivered: u64,
    /// Deliberate duplicates among the delivered updates.
    pub webhooks_duplicated: u64,
    /// Updates that were given up after `webhooks.retry_for`.
    pub webhooks_given_up: u64,
    /// Webhook POSTs made, including retries.
    pub webhook_posts: u64,
    /// Webhook POSTs that were not answered 200.
    pub webhook_posts_failed: u64,
}

/// The counts of one line, or of all lines.
///
/// A *recipient* is identified by the callback data. In a token of Pregón's form, everything before the last two fields
/// identifies the recipient, for all lines and sends: `p1.<campaign>.<part>.<row>.<send>.<check>` of a campaign,
/// `c1.<chat>.<message>.<send>.<check>` of a chat, in which each message is a recipient of its own. With any other
/// callback data, the recipient is the pair of number and template, and each message without a template is a recipient
/// of its own. Recipients are distinguished by a 64-bit hash. A recipient counts as unique on the line of its first
/// message, and as duplicated on the line of its second.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    /// Sends received, with any outcome.
    pub requests: u64,
    /// Messages accepted, with or without a response.
    pub accepted: u64,
    /// Those of the accepted messages that have no template.
    pub free_messages: u64,
    /// Recipients with at least one accepted message.
    pub unique_recipients: u64,
    /// Recipients with more than one accepted message.
    pub duplicated_recipients: u64,
    /// Accepted messages beyond the first of their recipient.
    pub duplicate_messages: u64,
    /// Recipients with more than one message that did not fail, so that the person sees it twice. A resend after a
    /// failed message does not count.
    pub recipients_reached_twice: u64,
    /// Inbound messages.
    pub inbound: u64,
    /// Sends by response: `accepted`, `receipt` (a read receipt, which is no message), a code such as `130429`, or the
    /// name of a fault.
    pub answers: BTreeMap<String, u64>,
    /// Sends that broke a rule of Meta, by rule. Counted when they arrive, whatever the response was.
    ///
    /// * `rate`: more messages in a second than the line admits, inbound and outbound together.
    /// * `pair`: less than 6 s after the previous send of the line to the person, even if Meta tolerates it.
    /// * `portfolio_limit`: a message to a new person outside a service window when the business has no place left.
    /// * `template_not_approved`: a message with a template that cannot be sent.
    /// * `restricted`: a message that a restriction or a ban of the WABA or its business forbids.
    /// * `resend_131049`: marketing to a person within 24 hours after a 131049 of the WABA, in a status or as a
    ///   response.
    /// * `after_stop`: marketing to a person who has stopped it for the business.
    /// * `us_marketing`: marketing to a number of the USA.
    /// * `contact_hours`: marketing to a number outside its hours, if the scenario has `referee.contact_hours` for it.
    /// * `frequency_cap`: marketing to a person beyond the frequency cap of the business.
    /// * `window`: a message without a template to a person who has not written to the line within 24 hours, unless
    ///   `referee.window` is off.
    ///
    /// A rule that depends on a webhook is broken only if the sender answered that webhook with 200 at least
    /// `referee.grace` before.
    pub violations: BTreeMap<String, u64>,
    /// Accepted messages by final state, as drawn when they were accepted.
    pub planned: States,
    /// Accepted messages by the highest status in a webhook POST that was answered 200.
    pub told: States,
    /// Rates of one line; absent in the total.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rates: Option<Rates>,
}

/// Rates of a line, measured in microseconds: requests when their head has arrived, messages when they were accepted.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rates {
    /// The rate limit of the line, in messages per second.
    pub messages_per_second: u32,
    /// The largest number of sends received in any one-second window, including refused ones.
    pub requests_in_1s_max: usize,
    /// The largest number of messages accepted in any one-second window.
    pub accepted_in_1s_max: usize,
    /// Sends received per second, from the first to the last; `None` if they arrived at the same time or there are
    /// fewer than two.
    pub requests_per_second_mean: Option<f64>,
    /// Time from the first send received to the last, in seconds.
    pub seconds: f64,
}

/// Messages by state. Each message is in exactly one state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct States {
    /// Accepted, without any status.
    pub accepted: u64,
    /// Sent, not delivered.
    pub sent: u64,
    /// Delivered, not read.
    pub delivered: u64,
    /// Read.
    pub read: u64,
    /// Failed and never delivered, by code.
    pub failed: BTreeMap<u32, u64>,
}

impl States {
    /// The count of a state. `code` is used only for [`State::Failed`].
    pub(super) fn of(&mut self, state: State, code: u32) -> &mut u64 {
        match state {
            State::Sent => &mut self.sent,
            State::Delivered => &mut self.delivered,
            State::Read => &mut self.read,
            State::Failed => self.failed.entry(code).or_default(),
            State::Accepted => &mut self.accepted,
            other => unreachable!("a message of the simulator is never {other:?}"),
        }
    }

    fn add(&mut self, other: &States) {
        self.accepted += other.accepted;
        self.sent += other.sent;
        self.delivered += other.delivered;
        self.read += other.read;
        for (code, count) in &other.failed {
            *self.failed.entry(*code).or_default() += count;
        }
    }

    /// All failed messages.
    pub fn failed_count(&self) -> u64 {
        self.failed.values().sum()
    }
}

impl Tally {
    /// Adds the counts of another line. Rates are not added, because a rate limit applies to one line.
    pub(super) fn add(&mut self, other: &Tally) {
        self.requests += other.requests;
        self.accepted += other.accepted;
        self.free_messages += other.free_messages;
        self.unique_recipients += other.unique_recipients;
        self.duplicated_recipients += other.duplicated_recipients;
        self.duplicate_messages += other.duplicate_messages;
        self.recipients_reached_twice += other.recipients_reached_twice;
        self.inbound += other.inbound;
        for (answer, count) in &other.answers {
            *self.answers.entry(answer.clone()).or_default() += count;
        }
        for (rule, count) in &other.violations {
            *self.violations.entry(rule.clone()).or_default() += count;
        }
        self.planned.add(&other.planned);
        self.told.add(&other.told);
    }
}

/// How a send was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Answer {
    Accepted,
    Receipt,
    Refused(u32),
    Fault(Fault),
}

impl Answer {
    /// The key in [`Tally::answers`].
    pub(super) fn name(self) -> String {
        match self {
            Answer::Accepted => "accepted".into(),
            Answer::Receipt => "receipt".into(),
            Answer::Refused(code) => code.to_string(),
            Answer::Fault(fault) => fault.name().into(),
        }
    }
}
