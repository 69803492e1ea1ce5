//! Response bodies of the API, as this client parses them.
//!
//! Uses only the documented fields of the API and shares no response types with the server, so that it works with
//! servers of other versions. Fields that this version does not know are kept in `more`, so that `--json` prints them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::domain::{CampaignId, CampaignState, LineId, MetaCode, UnixMs, failure::code_or_zero};

/// A campaign.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CampaignView {
    /// The server's id of the campaign.
    pub id: CampaignId,
    /// The caller's id of the campaign.
    pub external_id: Option<String>,
    /// A name for people.
    #[serde(default)]
    pub name: String,
    /// The state of the campaign.
    pub state: CampaignState,
    /// The template that is sent.
    pub template: Option<TemplateName>,
    /// The lines that may send it.
    #[serde(default)]
    pub lines: Vec<LineId>,
    /// When the campaign was created.
    pub created_at: Option<UnixMs>,
    /// Sending starts no earlier than this time.
    pub start_at: Option<UnixMs>,
    /// Recipients not sent by this time end as expired.
    pub expires_at: Option<UnixMs>,
    /// The statistics. A list may omit them.
    pub statistics: Option<Statistics>,
    /// Fields that this version of the client does not know.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// A template by name and language.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateName {
    /// The template's name at Meta.
    pub name: String,
    /// The template's language, such as `es_AR`.
    pub language: String,
}

/// The statistics of a campaign.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Statistics {
    /// The number of recipients.
    pub recipients: u64,
    /// Recipients by state; each is in exactly one state.
    pub by_state: ByState,
    /// Recipients by the steps they reached; each step includes the later ones.
    pub funnel: Funnel,
    /// Failed recipients by Meta's code.
    pub failures: Vec<Failures>,
    /// Messages accepted per second, recently.
    pub rate_per_second: f64,
    /// The estimated end at this rate.
    pub eta: Option<UnixMs>,
    /// Why sending is not faster.
    pub waiting_for: Vec<Wait>,
    /// Fields that this version of the client does not know.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Statistics {
    /// Recipients that are not in a final state. The campaign is completed when there are none.
    pub fn open(&self) -> u64 {
        let ByState { pending, in_flight, retrying, in_doubt, .. } = self.by_state;
        pending + in_flight + retrying + in_doubt
    }

    /// Recipients in a final state.
    pub fn done(&self) -> u64 {
        self.recipients.saturating_sub(self.open())
    }
}

/// Recipients by state. The states add up to all recipients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "docs/api.md documents the states")]
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

/// Recipients by the steps they reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "docs/api.md documents the steps")]
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
    /// Meta's error code, 0 in the answer if the failure has none.
    #[serde(with = "code_or_zero")]
    pub code: Option<MetaCode>,
    /// What the code means, for people.
    #[serde(default)]
    pub title: String,
    /// The number of recipients.
    pub count: u64,
}

/// A reason why sending waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// `line_rate`, `schedule`, …
    pub reason: String,
    /// The line that waits; absent if the reason applies to the whole campaign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<LineId>,
    /// When the reason ends, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixMs>,
    /// The reason as a sentence, for people.
    #[serde(default)]
    pub text: String,
    /// Fields that this version of the client does not know.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// The result of creating a campaign.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Created {
    /// The id of the campaign.
    pub id: CampaignId,
    /// The state of the campaign: always a draft if this call created it.
    pub state: CampaignState,
    /// True if this call created the campaign (status 201), false if one with the same external id existed (200).
    #[serde(skip)]
    pub created: bool,
}

/// The result of an upload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uploaded {
    /// Recipients accepted.
    pub accepted: u64,
    /// The number of rejected rows.
    #[serde(default)]
    pub rejected_count: u64,
    /// The first rejected rows, at most 1,000.
    #[serde(default)]
    pub rejected: Vec<Rejection>,
}

/// A rejected row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// The row's number in the upload, from 1. A header is not counted.
    pub row: u64,
    /// The line of the file on which the row begins, from 1. Older servers do not return it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The reason, for programs.
    #[serde(default)]
    pub code: String,
    /// The reason, for people.
    pub reason: String,
}

/// A page of campaigns.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct CampaignPage {
    /// The campaigns, newest first.
    pub campaigns: Vec<CampaignView>,
    /// The cursor of the next page.
    pub next: Option<String>,
}

/// A page of lines.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct LinePage {
    /// The lines, in the order of the configuration.
    pub lines: Vec<LineView>,
    /// The cursor of the next page.
    pub next: Option<String>,
}

/// A line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LineView {
    /// Meta's `phone_number_id`.
    pub id: LineId,
    /// The operator's name of the line.
    #[serde(default)]
    pub name: String,
    /// The phone number, formatted for people.
    #[serde(default)]
    pub display: String,
    /// `sending`, `idle`, `paused`, `held`, `no_worker`, …
    #[serde(default)]
    pub state: String,
    /// The rate, set through the API or configured.
    #[serde(default)]
    pub messages_per_second: f64,
    /// The configured rate.
    pub configured: Option<f64>,
    /// Messages per second that campaigns may send now; `None` if nothing may be sent, or if it is unknown.
    pub allowed_now: Option<f64>,
    /// The worker that has the line's lease.
    pub owner: Option<String>,
    /// Attempts that wait for Meta's answer.
    #[serde(default)]
    pub in_flight: u64,
    /// Messages accepted per second, recently.
    #[serde(default)]
    pub accepted_per_second: f64,
    /// Recipients of all campaigns that wait for the line.
    #[serde(default)]
    pub backlog: u64,
    /// The holds that apply to the line.
    #[serde(default)]
    pub holds: Vec<HoldView>,
    /// Fields that this version of the client does not know.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// A hold on a line, its WABA or its token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldView {
    /// What is held: `line:3001`, `waba:2001`, `token:2001`.
    pub scope: String,
    /// Meta's code; `None` if the hold comes from a person or from Meta's list of templates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<MetaCode>,
    /// The reason, for people.
    pub reason: String,
    /// When the hold began.
    pub since: UnixMs,
    /// When the hold ends by itself; `None` if a probe or a person has to end it.
    pub until: Option<UnixMs>,
}
