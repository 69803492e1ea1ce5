//! Contacts, chats and messages in a response.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{Listed, Page};
use crate::domain::{BusinessId, GroupId, LineId, MediaId, Phone, UnixMs, chat::content::ReplyContent};

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
    /// The agent in charge: the id of an agent, or the name of an API key. Null unless `owner` is `agent`.
    #[schema(required)]
    pub agent: Option<String>,
    /// Since when the owner is in charge.
    pub owner_since: UnixMs,
    /// The id of the group whose agents see the chat. Null: all agents of the business see it.
    #[schema(required, value_type = Option<String>, example = "sales")]
    pub group: Option<GroupId>,
    /// Since when the contact waits for an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub waiting_since: Option<UnixMs>,
    /// The tags, the derived ones last.
    #[schema(example = json!(["renewal", "unanswered"]))]
    pub tags: Vec<String>,
    /// Until when the chat is put aside.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub snoozed_until: Option<UnixMs>,
    /// When the chat began.
    pub created_at: UnixMs,
    /// Until when free text may be sent: 24 hours after the contact's last message. Null if the contact never wrote.
    #[schema(required)]
    pub window_until: Option<UnixMs>,
    /// Messages of the contact that nobody has read.
    pub unread: u32,
    /// The time of the newest message.
    pub updated_at: UnixMs,
    /// Rises with each change. `ETag` has it too, for `If-Match`.
    #[schema(example = 7)]
    pub revision: i64,
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
    /// `inbound` (from the contact), `outbound` (to the contact), `note`, or `activity` (what happened to the chat).
    #[schema(example = "inbound")]
    pub kind: String,
    /// Meta's time of a message from the contact, otherwise when it was written.
    pub at: UnixMs,
    /// The state of a message to the contact, as of a recipient of a campaign.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = super::schemas::recipient_state)]
    pub state: Option<String>,
    /// Who wrote it, if not the contact: the id of an agent, or the name of an API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub author: Option<String>,
    /// Meta's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub wamid: Option<String>,
    /// What it says: docs/chats.md.
    #[schema(value_type = Object)]
    pub body: Value,
    /// What became of it later: `edited` (its new content), `revoked`, `reaction`; of a message to the contact the times of
    /// its states (`sent_at`, …), and `error` with Meta's `code` and `details`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, nullable = false)]
    pub marks: Option<Value>,
    /// Its file, if Pregón knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub media: Option<MediaView>,
}

/// A file of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = MediaInfo)]
pub struct MediaView {
    /// Its id, for `GET /v1/media/{media}`.
    pub id: MediaId,
    /// `pending` (not fetched from Meta yet), `stored` or `gone`.
    #[schema(example = "stored")]
    pub state: String,
    /// Its type.
    #[schema(example = "image/jpeg")]
    pub mime_type: String,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub filename: Option<String>,
    /// Its size in bytes, if it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub size: Option<u64>,
    /// Why it is gone: `expired`, `missing`, `too_large` or `corrupt`. Absent if it was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<String>,
}

impl Listed for ChatMessageView {
    const NAME: &str = "messages";
}

/// A message of a stream of the chats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatMessageEvent {
    /// The id of its chat.
    #[schema(example = "204")]
    pub chat: String,
    /// The message.
    #[serde(flatten)]
    pub message: ChatMessageView,
}

/// A page of messages.
pub type ChatMessagePage = Page<ChatMessageView>;

/// A message to the contact of a chat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NewChatMessage {
    /// An id by which the call can be repeated, 1 to 64 characters, unique in the chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub client_id: Option<String>,
    /// The id of the message of the chat that it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub context: Option<String>,
    /// What it says.
    #[serde(flatten)]
    pub content: ReplyContent,
}

/// The end of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FinishChat {
    /// A last text to the contact.
    #[schema(nullable = false)]
    pub text: Option<String>,
}

/// A note.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewNote {
    /// The text, 1 to 4,096 characters.
    pub text: String,
}
