//! Tags and canned replies.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::page::{Listed, Page};
use crate::{
    domain::{BusinessId, CannedReplyId, GroupId, UnixMs},
    rules::tagging::TagRule,
};

/// A tag of chats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Tag)]
pub struct TagView {
    /// The id, unique in the business.
    #[schema(example = "renewal")]
    pub id: String,
    /// The business. Null of a derived tag.
    #[schema(required)]
    pub business: Option<BusinessId>,
    /// The name.
    #[schema(example = "Renovación")]
    pub name: String,
    /// The colour. Null of a derived tag.
    #[schema(required, example = "#2e7d32")]
    pub colour: Option<String>,
    /// Whether the tag follows from the chat: `unanswered`, `attended` and `window_closing`. Nobody sets it.
    pub derived: bool,
    /// How many open chats that the caller sees have it.
    pub chats: u64,
    /// When it is set and removed by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<TagRule>,
    /// When it was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub created_at: Option<UnixMs>,
}

impl Listed for TagView {
    const NAME: &str = "tags";
}

/// Tags.
pub type TagPage = Page<TagView>;

/// A new tag.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTag {
    /// The business. May be left out if the caller sees only one.
    #[serde(default)]
    #[schema(nullable = false, value_type = Option<String>)]
    pub business: Option<String>,
    /// 1 to 32 of `a-z`, `0-9`, `-` and `_`. It does not change.
    #[schema(example = "renewal")]
    pub id: String,
    /// The name.
    #[schema(example = "Renovación")]
    pub name: String,
    /// The colour.
    #[schema(example = "#2e7d32")]
    pub colour: String,
    /// When it is set and removed by itself.
    #[serde(default)]
    pub rules: Vec<TagRule>,
}

/// What is changed of a tag; what is missing stays as it is.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TagChangeBody {
    /// The name.
    #[schema(nullable = false)]
    pub name: Option<String>,
    /// The colour.
    #[schema(nullable = false)]
    pub colour: Option<String>,
    /// All rules.
    #[schema(nullable = false)]
    pub rules: Option<Vec<TagRule>>,
}

/// The tags of a chat.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTags {
    /// The ids of all tags, without the derived ones.
    #[schema(example = json!(["renewal"]))]
    pub tags: Vec<String>,
}

/// A text that agents write often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = CannedReply)]
pub struct CannedReplyView {
    /// The id.
    #[schema(value_type = String, example = "01KBCNYG3T8R7Q6P5N4M3K2J1H")]
    pub id: CannedReplyId,
    /// The business.
    pub business: BusinessId,
    /// What an agent types to find it, unique in the business.
    #[schema(example = "hola")]
    pub shortcut: String,
    /// What it is about.
    #[schema(example = "Saludo")]
    pub title: String,
    /// The text, with places such as `{{contact.name|default:'👋'}}`.
    #[schema(example = "Hola {{contact.name|default:'👋'}}. ¿En qué puedo ayudar?")]
    pub body: String,
    /// The group whose agents use it. Null: all do.
    #[schema(required, value_type = Option<String>)]
    pub group: Option<GroupId>,
    /// When it was created.
    pub created_at: UnixMs,
}

impl Listed for CannedReplyView {
    const NAME: &str = "replies";
}

/// Canned replies.
pub type CannedReplyPage = Page<CannedReplyView>;

/// A new canned reply.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCannedReply {
    /// The business. May be left out if the caller sees only one.
    #[serde(default)]
    #[schema(nullable = false, value_type = Option<String>)]
    pub business: Option<String>,
    /// What an agent types to find it: 1 to 32 characters without spaces.
    #[schema(example = "hola")]
    pub shortcut: String,
    /// What it is about.
    #[schema(example = "Saludo")]
    pub title: String,
    /// The text. `{{contact.name}}`, `{{contact.phone}}`, `{{contact.username}}` and `{{agent.name}}` are filled in.
    #[schema(example = "Hola {{contact.name|default:'👋'}}. ¿En qué puedo ayudar?")]
    pub body: String,
    /// The group whose agents use it.
    #[serde(default)]
    #[schema(nullable = false)]
    pub group: Option<String>,
}

/// What is changed of a canned reply; what is missing stays as it is.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CannedReplyChangeBody {
    /// What an agent types to find it.
    #[schema(nullable = false)]
    pub shortcut: Option<String>,
    /// What it is about.
    #[schema(nullable = false)]
    pub title: Option<String>,
    /// The text.
    #[schema(nullable = false)]
    pub body: Option<String>,
}

/// For which chat a canned reply is filled in.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FillIn {
    /// The id of the chat.
    #[schema(example = "204")]
    pub chat: String,
}

/// A canned reply for a contact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FilledIn {
    /// The text, ready to be sent.
    #[schema(example = "Hola Maria. ¿En qué puedo ayudar?")]
    pub text: String,
}
