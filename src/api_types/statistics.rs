//! The statistics of a campaign, the same object everywhere.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{BusinessId, LineId, MetaCode, UnixMs, failure::code_or_zero};

/// The results of a campaign so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Statistics {
    /// The number of recipients.
    #[schema(required)]
    pub recipients: u64,
    /// Recipients by state. Each recipient is in one state, so the counts add up to `recipients`.
    #[schema(required)]
    pub by_state: ByState,
    /// How many of the messages in `by_state.accepted` Meta keeps back until it has assessed how people react to the
    /// first ones. The campaign is not completed before Meta has released or returned them, for up to a day.
    #[schema(required)]
    pub held: u64,
    /// How far the recipients got. Cumulative.
    #[schema(required)]
    pub funnel: Funnel,
    /// Recipients by failure, the most frequent first. Adds up to `by_state.failed` and `by_state.unknown` together.
    #[schema(required)]
    pub failures: Vec<FailureCount>,
    /// Recipients that were skipped, by reason. Adds up to `by_state.skipped`.
    #[schema(required)]
    pub skips: Vec<SkipCount>,
    /// Messages per second that Meta accepted, over the last few seconds.
    #[schema(required)]
    pub rate_per_second: f64,
    /// The estimated time at which the last message will have been sent; null if it is unknown, or nothing is left to
    /// send.
    #[schema(required)]
    pub eta: Option<UnixMs>,
    /// Why sending is not faster, or has stopped.
    #[schema(required)]
    pub waiting_for: Vec<Waiting>,
    /// What became of the chats in which people answered. Missing without a database, and while it does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub chats: Option<CampaignChatsView>,
}

/// What became of the chats in which people answered a campaign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = CampaignChats)]
#[serde(default)]
pub struct CampaignChatsView {
    /// Chats with an answer.
    #[schema(required)]
    pub answered: u64,
    /// Those that the answer opened.
    #[schema(required)]
    pub opened: u64,
    /// Those that an agent has got since the answer.
    #[schema(required)]
    pub assigned: u64,
    /// Those in which somebody has answered since.
    #[schema(required)]
    pub attended: u64,
}

impl Statistics {
    /// Recipients that are not in a final state. The campaign is completed when there are none, and Meta keeps no
    /// message back.
    pub fn open(&self) -> u64 {
        let ByState { pending, in_flight, retrying, in_doubt, .. } = self.by_state;
        pending + in_flight + retrying + in_doubt
    }

    /// Recipients in a final state.
    pub fn done(&self) -> u64 {
        self.recipients.saturating_sub(self.open())
    }
}

/// Recipients by public state. Each recipient is in one state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[expect(missing_docs, reason = "the states, as `domain::State` describes them")]
pub struct ByState {
    #[schema(required)]
    pub pending: u64,
    #[schema(required)]
    pub in_flight: u64,
    #[schema(required)]
    pub retrying: u64,
    #[schema(required)]
    pub in_doubt: u64,
    #[schema(required)]
    pub accepted: u64,
    #[schema(required)]
    pub sent: u64,
    #[schema(required)]
    pub delivered: u64,
    #[schema(required)]
    pub read: u64,
    #[schema(required)]
    pub failed: u64,
    #[schema(required)]
    pub skipped: u64,
    #[schema(required)]
    pub expired: u64,
    #[schema(required)]
    pub cancelled: u64,
    #[schema(required)]
    pub unknown: u64,
}

impl ByState {
    /// Every state with its count, in the order in which a recipient passes them.
    pub fn each(&self) -> [(&'static str, u64); 13] {
        [
            ("pending", self.pending),
            ("in flight", self.in_flight),
            ("retrying", self.retrying),
            ("in doubt", self.in_doubt),
            ("accepted", self.accepted),
            ("sent", self.sent),
            ("delivered", self.delivered),
            ("read", self.read),
            ("failed", self.failed),
            ("skipped", self.skipped),
            ("expired", self.expired),
            ("cancelled", self.cancelled),
            ("unknown", self.unknown),
        ]
    }
}

/// How far recipients got. Each step includes the later ones: a read message counts as delivered, even if Meta never
/// reported the delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Funnel {
    /// Sending was attempted: all recipients except those that are pending, skipped, expired or cancelled.
    #[schema(required)]
    pub attempted: u64,
    /// Meta accepted the message, even if it failed later.
    #[schema(required)]
    pub accepted: u64,
    /// Sent, delivered or read. A message that failed after it was sent is not counted.
    #[schema(required)]
    pub sent: u64,
    /// Delivered or read.
    #[schema(required)]
    pub delivered: u64,
    /// Read. Recipients who have turned read receipts off are not counted.
    #[schema(required)]
    pub read: u64,
    /// The recipient replied.
    #[schema(required)]
    pub replied: u64,
}

impl Funnel {
    /// Every step with its count, in order.
    pub fn each(&self) -> [(&'static str, u64); 6] {
        [
            ("attempted", self.attempted),
            ("accepted", self.accepted),
            ("sent", self.sent),
            ("delivered", self.delivered),
            ("read", self.read),
            ("replied", self.replied),
        ]
    }
}

/// The recipients that failed for one reason, or whose result stayed unknown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailureCount {
    /// Meta's error code; 0 if there is none. The title then says whether Meta gave no reason or did not respond at
    /// all.
    #[serde(with = "code_or_zero")]
    #[schema(value_type = MetaCode)]
    pub code: Option<MetaCode>,
    /// The title of the reason.
    #[serde(default)]
    #[schema(required)]
    pub title: String,
    /// The number of recipients.
    pub count: u64,
    /// The most recent error text for this reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub details: Option<String>,
}

/// The recipients that were skipped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SkipCount {
    /// The reason.
    pub reason: String,
    /// The number of recipients.
    pub count: u64,
}

/// A reason why sending is not faster, or has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// The campaign's `start_at` is in the future.
    Schedule,
    /// An operator, or the worker itself, paused the campaign or the line.
    Paused,
    /// An operator paused all sending, or all sending of the business.
    AllPaused,
    /// The send window of the campaign is closed.
    SendWindow,
    /// The campaign is marketing, and the contact hours of its recipients' numbers are closed.
    ContactHours,
    /// The line sends as fast as it may.
    LineRate,
    /// Meta throttles the line, which sends as fast as Meta allows now.
    Throttled,
    /// The campaign sends as fast as its own `rate` allows.
    CampaignRate,
    /// The line is warming up, and the messages of this day are sent.
    WarmUp,
    /// Meta requires more time between messages to the same person.
    PairSpacing,
    /// Messages that could not be sent wait for their next attempt, or Meta can't be reached.
    BackingOff,
    /// Requests get responses that are not Meta's, or none. Nothing is sent until Meta answers again.
    PathBroken,
    /// Meta paused the template.
    TemplatePaused,
    /// Meta blocked the line or its whole WABA.
    LineBlocked,
    /// Meta blocked the business, or Pregón held it because Meta restricts much that belongs to it.
    BusinessBlocked,
    /// The business may open conversations with no more people for now: its messaging limit is reached, or Meta was not
    /// asked for it yet.
    PortfolioLimit,
    /// Meta as a whole does not work.
    Platform,
    /// Meta does not accept the access token.
    Token,
    /// No worker serves the line.
    NoWorker,
    /// No worker will serve the line, because no process lists it.
    LineUnlisted,
    /// The worker of the line lacks a feature that the campaign requires: its release is too old.
    NewerRelease,
    /// Redis does not answer: the counts are the last ones that were read.
    Redis,
    /// Redis restarted within the last `dispatch.lease`: other processes may not have repeated what it forgot.
    RedisRestarted,
    /// Redis is full: nothing can be claimed or stored, so nothing is sent.
    RedisFull,
    /// A reason of a newer server. No server of this version sends it.
    #[serde(other)]
    Other,
}

impl WaitReason {
    /// Every reason that a server of this version sends.
    pub const ALL: [WaitReason; 24] = [
        WaitReason::Schedule,
        WaitReason::Paused,
        WaitReason::AllPaused,
        WaitReason::SendWindow,
        WaitReason::ContactHours,
        WaitReason::LineRate,
        WaitReason::Throttled,
        WaitReason::CampaignRate,
        WaitReason::WarmUp,
        WaitReason::PairSpacing,
        WaitReason::BackingOff,
        WaitReason::PathBroken,
        WaitReason::TemplatePaused,
        WaitReason::LineBlocked,
        WaitReason::BusinessBlocked,
        WaitReason::PortfolioLimit,
        WaitReason::Platform,
        WaitReason::Token,
        WaitReason::NoWorker,
        WaitReason::LineUnlisted,
        WaitReason::NewerRelease,
        WaitReason::Redis,
        WaitReason::RedisRestarted,
        WaitReason::RedisFull,
    ];
}

/// One reason, with its details.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Waiting {
    /// The reason.
    pub reason: WaitReason,
    /// The line that the reason is about; absent if it is about the whole campaign.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub line: Option<LineId>,
    /// Since when the reason holds; absent if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub since: Option<UnixMs>,
    /// When the reason ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub until: Option<UnixMs>,
    /// Meta's error code, if an error is the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub code: Option<MetaCode>,
    /// The business whose sending is paused; absent for any other reason, and if all sending is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub business: Option<BusinessId>,
    /// How many other running campaigns have messages left on the line and share its rate, at most a second old; absent
    /// for a reason other than `line_rate` and `throttled`, and if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub other_campaigns: Option<usize>,
    /// A sentence for people.
    #[serde(default)]
    #[schema(required)]
    pub text: String,
}

impl Waiting {
    /// A reason about the whole campaign, without a beginning, an end or a code.
    pub fn new(reason: WaitReason, text: impl Into<String>) -> Self {
        Self {
            reason,
            line: None,
            since: None,
            until: None,
            code: None,
            business: None,
            other_campaigns: None,
            text: text.into(),
        }
    }
}
