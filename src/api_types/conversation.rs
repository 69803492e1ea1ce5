//! Conversations in a response.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::page::{Listed, Page};
use crate::domain::{BusinessId, CampaignId, LineId, UnixMs};

/// An interaction of at most 24 hours between a contact and a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Conversation)]
pub struct ConversationView {
    /// The business.
    pub business: BusinessId,
    /// The line.
    pub line: LineId,
    /// The id of the contact.
    #[schema(example = "81")]
    pub contact: String,
    /// The id of the chat. Null: the contact has no chat on the line, because it never wrote.
    #[schema(required, example = "204")]
    pub chat: Option<String>,
    /// Who opened it: `client`, by writing, or `business`, by a template.
    #[schema(example = "client")]
    pub opened_by: String,
    /// When: the time of the first message from the contact, or when the template reached it.
    pub opened_at: UnixMs,
    /// The campaign that sent the template which opened it, or to which the first message is an answer.
    #[schema(required, value_type = Option<String>)]
    pub campaign: Option<CampaignId>,
    /// When it ended. Null: it is open.
    #[schema(required)]
    pub ended_at: Option<UnixMs>,
    /// How it ended: `closed` or `finished` by an agent, or `expired` after 24 hours. Null: it is open.
    #[schema(required, example = "expired")]
    pub ended_by: Option<String>,
}

impl Listed for ConversationView {
    const NAME: &str = "conversations";
}

/// A page of conversations.
pub type ConversationPage = Page<ConversationView>;

/// How many conversations there were on a line, or of a campaign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ConversationCount)]
pub struct ConversationCountView {
    /// The line, if they are counted by line.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub line: Option<LineId>,
    /// The campaign, if they are counted by campaign.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>)]
    pub campaign: Option<CampaignId>,
    /// Those that contacts opened.
    pub client: u64,
    /// Those that the business opened.
    pub business: u64,
}

impl Listed for ConversationCountView {
    const NAME: &str = "counts";
}

/// How many conversations there were, by line or campaign.
pub type ConversationCountPage = Page<ConversationCountView>;
