//! What the stand-in has seen and done, as numbers: the truth to compare a sender's books with.

use std::collections::BTreeMap;

use serde::Serialize;

use super::scenario::Fault;
use crate::domain::{State, UnixMs};

/// A snapshot of everything counted, `GET /sim/ledger`.
#[derive(Clone, Debug, Serialize)]
pub struct Ledger {
    /// The seed of the scenario.
    pub seed: u64,
    /// When counting began: the start or the last reset.
    pub since: UnixMs,
    /// All lines together, and `rates` is absent.
    pub total: Tally,
    /// By line id.
    pub lines: BTreeMap<String, Tally>,
    /// Sends to ids that are no line; in no tally.
    pub requests_elsewhere: u64,
    /// Updates (statuses and inbound messages) that wait for their time, are under way, or wait for a retry.
    pub webhooks_pending: u64,
    /// Updates that were answered 200.
    pub webhooks_delivered: u64,
    /// Those of them that were sent a second time on purpose.
    pub webhooks_duplicated: u64,
    /// Updates given up after `webhooks.retry_for`.
    pub webhooks_given_up: u64,
    /// Webhook requests made, retries included.
    pub webhook_posts: u64,
    /// Those that were not answered 200.
    pub webhook_posts_failed: u64,
}

/// The counts of a line, or of all.
///
/// A *recipient* is what the callback data says: a token of Pregón's form, `p1.<campaign>.<part>.<row>.<send>.<check>`,
/// names the recipient with everything before its last two fields, whatever the line and the send. Other callback
/// data is not looked at: then the recipient is the pair of number and template. Recipients are told apart by a 64-bit
/// hash. A recipient counts on the line of its first message, and as duplicated on the line of its second.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    /// Sends received, whatever the answer.
    pub requests: u64,
    /// Messages taken, whether or not the answer came through.
    pub accepted: u64,
    /// Recipients with at least one accepted message.
    pub unique_recipients: u64,
    /// Recipients with more than one accepted message.
    pub duplicated_recipients: u64,
    /// Accepted messages beyond the first of their recipient.
    pub duplicate_messages: u64,
    /// Recipients with more than one message that did not fail: those who see it twice. A recipient whose first
    /// message failed, and who was sent to again for that, is not among them.
    pub recipients_reached_twice: u64,
    /// Inbound messages.
    pub inbound: u64,
    /// Answers to sends: `accepted`, `receipt`, a code such as `130429`, or the fault that took the place of an answer.
    pub answers: BTreeMap<String, u64>,
    /// Accepted messages by where they end, as drawn when they were accepted.
    pub planned: States,
    /// Accepted messages by the highest status that a webhook told and that was answered 200.
    pub told: States,
    /// Of one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rates: Option<Rates>,
}

/// How fast a line was used, to the microsecond: of a request when its head has arrived, of a message when it was accepted.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rates {
    /// What the line may be used for, in messages a second.
    pub messages_per_second: u32,
    /// The largest number of sends received in any second, refused ones included.
    pub requests_in_1s_max: usize,
    /// The largest number of messages accepted in any second.
    pub accepted_in_1s_max: usize,
    /// Sends received per second, from the first to the last; none for fewer than two.
    pub requests_per_second_mean: Option<f64>,
    /// From the first send received to the last, in seconds.
    pub seconds: f64,
}

/// Messages by state; each is in exactly one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct States {
    /// Nothing but the answer.
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
    /// The count of a state. `code` matters for failed ones alone.
    pub(super) fn of(&mut self, state: State, code: u32) -> &mut u64 {
        match state {
            State::Sent => &mut self.sent,
            State::Delivered => &mut self.delivered,
            State::Read => &mut self.read,
            State::Failed => self.failed.entry(code).or_default(),
            State::Accepted => &mut self.accepted,
            other => unreachable!("a message of the stand-in is never {other:?}"),
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

    /// All failed ones.
    pub fn failed_count(&self) -> u64 {
        self.failed.values().sum()
    }
}

impl Tally {
    /// Adds what another line counted; rates stay apart, a rate is a promise per line.
    pub(super) fn add(&mut self, other: &Tally) {
        self.requests += other.requests;
        self.accepted += other.accepted;
        self.unique_recipients += other.unique_recipients;
        self.duplicated_recipients += other.duplicated_recipients;
        self.duplicate_messages += other.duplicate_messages;
        self.recipients_reached_twice += other.recipients_reached_twice;
        self.inbound += other.inbound;
        for (answer, count) in &other.answers {
            *self.answers.entry(answer.clone()).or_default() += count;
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
