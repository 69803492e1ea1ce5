//! Contacts, chats and messages in a response.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{Listed, Page};
use crate::domain::{BusinessId, LineId, Phone, UnixMs};

/// A person who wrote to a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Contact)]
pub struct ContactView {
    /// The id of the contact.
    #[schema(example = "81")]
    pub id: String,
    /// The business that it belongs to.
    pub business: BusinessId,
    /// The phone number as Meta writes it; null if Meta does not tell it.
    #[schema(required)]
    pub phone: Option<Phone>,
    /// Meta's id of the person in the business portfolio; null if Meta did not tell it yet.
    #[schema(required)]
    pub user_id: Option<String>,
    /// The name in the person's profile.
    #[schema(required)]
    pub name: Option<String>,
    /// The person's username.
    #[schema(required)]
    pub username: Option<String>,
    /// When the person first wrote.
    pub created_at: UnixMs,
}

/// The history between a contact and a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Chat)]
pub struct ChatView {
    /// The id of the chat.
    #[schema(example = "204")]
    pub id: String,
    /// The line.
    pub line: LineId,
    /// The contact.
    pub contact: ContactView,
    /// Who is in charge: `nobody` (the chat is closed), `queue` (it waits for an agent) or `agent`.
    #[schema(example = "queue")]
    pub owner: String,
    /// Since when.
    pub owner_since: UnixMs,
    /// When the chat began.
    pub created_at: UnixMs,
    /// Until when free text may be sent: 24 hours after the contact's last message. Null if the contact never wrote.
    #[schema(required)]
    pub window_until: Option<UnixMs>,
    /// Messages of the contact that nobody has read.
    pub unread: u32,
    /// The time of the newest message.
    pub updated_at: UnixMs,
}

impl Listed for ChatView {
    const NAME: &str = "chats";
}

/// A page of chats.
pub type ChatPage = Page<ChatView>;

/// A message of a chat, or something that happened to the chat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ChatMessage)]
pub struct ChatMessageView {
    /// The id of the message, unique in its chat. Later messages have larger ids.
    #[schema(example = "1795984075312000")]
    pub id: String,
    /// `inbound` (from the contact) or `activity` (what happened to the chat).
    #[schema(example = "inbound")]
    pub kind: String,
    /// Meta's time of a message.
    pub at: UnixMs,
    /// Meta's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub wamid: Option<String>,
    /// What it says: docs/chats.md.
    #[schema(value_type = Object)]
    pub body: Value,
    /// What became of it later: `edited` (its new content), `revoked`, `reaction`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, nullable = false)]
    pub marks: Option<Value>,
}

impl Listed for ChatMessageView {
    const NAME: &str = "messages";
}

/// A page of messages.
pub type ChatMessagePage = Page<ChatMessageView>;
