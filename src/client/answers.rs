//! What the API answers, as this client reads it.
//!
//! These are the documented fields of the API and nothing else of the program: a client of another version, or of another
//! author, sees the same. Fields that a newer server adds are kept in `more`, so that `--json` prints them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::domain::{CampaignId, CampaignState, LineId, UnixMs};

/// A campaign.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CampaignView {
    /// The server's id of it.
    pub id: CampaignId,
    /// The caller's.
    pub external_id: Option<String>,
    /// For people.
    #[serde(default)]
    pub name: String,
    /// Where it stands.
    pub state: CampaignState,
    /// What is sent.
    pub template: Option<TemplateName>,
    /// The lines it may go out on.
    #[serde(default)]
    pub lines: Vec<LineId>,
    /// When it was submitted.
    pub created_at: Option<UnixMs>,
    /// Not before this time.
    pub start_at: Option<UnixMs>,
    /// What is not sent by then ends as expired.
    pub expires_at: Option<UnixMs>,
    /// Where its recipients stand; a list may leave it out.
    pub statistics: Option<Statistics>,
    /// Everything else.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// A template by name and language.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateName {
    /// Its name at Meta.
    pub name: String,
    /// Its language, `es_AR`.
    pub language: String,
}

/// Where the recipients of a campaign stand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Statistics {
    /// How many there are.
    pub recipients: u64,
    /// Each in exactly one state.
    pub by_state: ByState,
    /// How far they came; each step counts those of the later ones too.
    pub funnel: Funnel,
    /// Those that failed, by Meta's code.
    pub failures: Vec<Failures>,
    /// Messages accepted per second, of late.
    pub rate_per_second: f64,
    /// When it will be done, at this rate.
    pub eta: Option<UnixMs>,
    /// Why it does not go faster.
    pub waiting_for: Vec<Wait>,
    /// Everything else.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Statistics {
    /// Recipients that are not final yet: the campaign is completed when there are none.
    pub fn open(&self) -> u64 {
        let ByState { pending, in_flight, retrying, in_doubt, .. } = self.by_state;
        pending + in_flight + retrying + in_doubt
    }

    /// The others.
    pub fn done(&self) -> u64 {
        self.recipients.saturating_sub(self.open())
    }
}

/// Recipients by state; adds up to all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the states of the documentation, by their names")]
pub struct ByState {
    pub pending: u64,
    pub in_flight: u64,
    pub retrying: u64,
    pub in_doubt: u64,
    pub accepted: u64,
    pub sent: u64,
    pub delivered: u64,
    pub read: u64,
    pub failed: u64,
    pub skipped: u64,
    pub expired: u64,
    pub cancelled: u64,
    pub unknown: u64,
}

impl ByState {
    /// Every state with its count, from the first to the last of a recipient's life.
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

/// How far recipients came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the steps of the documentation, by their names")]
pub struct Funnel {
    pub attempted: u64,
    pub accepted: u64,
    pub sent: u64,
    pub delivered: u64,
    pub read: u64,
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

/// Recipients that failed with one code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// Meta's.
    pub code: u32,
    /// In words.
    #[serde(default)]
    pub title: String,
    /// How many.
    pub count: u64,
}

/// A reason why work does not move.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// `line_rate`, `schedule`, …
    pub reason: String,
    /// The line that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<LineId>,
    /// When it ends, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixMs>,
    /// In words.
    #[serde(default)]
    pub text: String,
    /// Everything else.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// What came of creating a campaign.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Created {
    /// The campaign.
    pub id: CampaignId,
    /// Where it stands: a draft, unless its external id was known.
    pub state: CampaignState,
    /// This call created it; otherwise its external id was known. That is in the status of the answer.
    #[serde(skip)]
    pub created: bool,
}

/// What came of an upload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uploaded {
    /// Recipients accepted.
    pub accepted: u64,
    /// Rows rejected in all.
    #[serde(default)]
    pub rejected_count: u64,
    /// The first of them.
    #[serde(default)]
    pub rejected: Vec<Rejection>,
}

/// A row that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Its number in the upload, from 1; a header is not counted.
    pub row: u64,
    /// The line of the file on which it begins, from 1; an older server does not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// For programs.
    #[serde(default)]
    pub code: String,
    /// For people.
    pub reason: String,
}

/// A page of campaigns.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct CampaignPage {
    /// Newest first.
    pub campaigns: Vec<CampaignView>,
    /// Where the next page begins.
    pub next: Option<String>,
}

/// A page of lines.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct LinePage {
    /// In the order of the configuration.
    pub lines: Vec<LineView>,
    /// Where the next page begins.
    pub next: Option<String>,
}

/// A line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LineView {
    /// Meta's `phone_number_id`.
    pub id: LineId,
    /// What the operator calls it.
    #[serde(default)]
    pub name: String,
    /// The number as people read it.
    #[serde(default)]
    pub display: String,
    /// In one word: `sending`, `idle`, `paused`, `held`, `no_worker`, …
    #[serde(default)]
    pub state: String,
    /// The rate that it has, set or configured.
    #[serde(default)]
    pub messages_per_second: f64,
    /// The configured one.
    pub configured: Option<f64>,
    /// What campaigns may send on it now; unknown while nothing may go.
    pub allowed_now: Option<f64>,
    /// The worker that sends on it.
    pub owner: Option<String>,
    /// Attempts that wait for Meta's answer.
    #[serde(default)]
    pub in_flight: u64,
    /// Of late.
    #[serde(default)]
    pub accepted_per_second: f64,
    /// Recipients that wait for it, of all campaigns.
    #[serde(default)]
    pub backlog: u64,
    /// What holds it.
    #[serde(default)]
    pub holds: Vec<HoldView>,
    /// Everything else.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// Why a line, its WABA or its token is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldView {
    /// What is held: `line:3001`, `waba:2001`, `token:2001`.
    pub scope: String,
    /// Meta's code; none where a person or Meta's list of templates said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u32>,
    /// For people.
    pub reason: String,
    /// Since when.
    pub since: UnixMs,
    /// It ends by itself then.
    pub until: Option<UnixMs>,
}
