//! A campaign: what is to be sent, to whom, when, and under which policy.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{CampaignId, LineId, UnixMs, template::Template};

/// The priority of a campaign that names none.
pub const PRIORITY_DEFAULT: u8 = 5;

/// What was submitted, with the template as it was then. Never changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Campaign {
    /// Our id.
    pub id: CampaignId,
    /// The caller's id: the same one again finds this campaign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// For people.
    pub name: String,
    /// What is sent, pinned at submission. Launch, resume and a scheduled start compare it with what Meta lists then.
    pub template: Template,
    /// The lines it may go out on, at least one, all of one WABA.
    pub lines: Vec<LineId>,
    /// Not before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_at: Option<UnixMs>,
    /// What is not sent by then ends as expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<UnixMs>,
    /// Its share of a line that it has to share, 1 to 10.
    pub priority: u8,
    /// What to do with a message that stays in doubt.
    pub on_doubt: OnDoubt,
    /// When it was submitted.
    pub created_at: UnixMs,
}

/// What becomes of a recipient that is still in doubt at its deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDoubt {
    /// It ends as unknown: never two messages.
    #[default]
    Hold,
    /// It is sent again: rather two messages than none.
    Resend,
}

impl OnDoubt {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            OnDoubt::Hold => "hold",
            OnDoubt::Resend => "resend",
        }
    }
}

/// Where a campaign stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CampaignState {
    /// Takes recipients; nothing is sent.
    Draft,
    /// Launched, waits for its `start_at`; still takes recipients.
    Scheduled,
    /// Being sent.
    Running,
    /// Nothing is claimed until it is resumed.
    Paused,
    /// Nothing is pending, in flight, retrying or in doubt. Statuses still come and count.
    Completed,
    /// What was not sent never will be.
    Cancelled,
}

impl CampaignState {
    /// Every state.
    pub const ALL: [CampaignState; 6] = [
        CampaignState::Draft,
        CampaignState::Scheduled,
        CampaignState::Running,
        CampaignState::Paused,
        CampaignState::Completed,
        CampaignState::Cancelled,
    ];

    /// The name on the wire and in Redis.
    pub fn name(self) -> &'static str {
        match self {
            CampaignState::Draft => "draft",
            CampaignState::Scheduled => "scheduled",
            CampaignState::Running => "running",
            CampaignState::Paused => "paused",
            CampaignState::Completed => "completed",
            CampaignState::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for CampaignState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CampaignState {
    type Err = BadState;

    fn from_str(text: &str) -> Result<Self, BadState> {
        CampaignState::ALL.into_iter().find(|state| state.name() == text).ok_or(BadState)
    }
}

/// Not the name of a campaign's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a campaign's state is one of draft, scheduled, running, paused, completed, cancelled")]
pub struct BadState;

/// Why a campaign was paused by the worker itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseReason {
    /// Meta's code; 0 where the worker found the reason itself.
    pub code: u32,
    /// What Meta said, or what the worker found.
    pub details: String,
}
