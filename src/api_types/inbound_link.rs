//! Links with an opening text.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::page::{Listed, Page};
use crate::domain::{BusinessId, GroupId, InboundLinkId, LineId, UnixMs};

/// A link that opens a chat with a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = InboundLink)]
pub struct InboundLinkView {
    /// The id.
    #[schema(value_type = String, example = "01KBCNYG3T8R7Q6P5N4M3K2J1H")]
    pub id: InboundLinkId,
    /// The business.
    pub business: BusinessId,
    /// The line to which it leads.
    pub line: LineId,
    /// The name.
    #[schema(example = "Flyer March")]
    pub name: String,
    /// What people send who follow it.
    #[schema(example = "Hola, quiero información")]
    pub opening: String,
    /// The group whose agents get the chats. Null: all agents of the business.
    #[schema(required, value_type = Option<String>)]
    pub group: Option<GroupId>,
    /// The tags of the chats.
    pub tags: Vec<String>,
    /// The link. Null if the configuration has no number of the line (`line.display`).
    #[schema(required, example = "https://wa.me/5491155550001?text=Hola%2C%20quiero%20informaci%C3%B3n")]
    pub url: Option<String>,
    /// How many chats it has opened.
    pub opened: u64,
    /// When it was created.
    pub created_at: UnixMs,
}

impl Listed for InboundLinkView {
    const NAME: &str = "inbound_links";
}

/// Links.
pub type InboundLinkPage = Page<InboundLinkView>;

/// A new link.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewInboundLink {
    /// The line to which it leads.
    #[schema(example = "3001")]
    pub line: String,
    /// The name.
    #[schema(example = "Flyer March")]
    pub name: String,
    /// What people send who follow it: 1 to 500 characters.
    #[schema(example = "Hola, quiero información")]
    pub opening: String,
    /// The group whose agents get the chats.
    #[serde(default)]
    #[schema(nullable = false)]
    pub group: Option<String>,
    /// The tags of the chats.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// What is changed of a link; what is missing stays as it is.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InboundLinkChangeBody {
    /// The name.
    #[schema(nullable = false)]
    pub name: Option<String>,
    /// What people send who follow it.
    #[schema(nullable = false)]
    pub opening: Option<String>,
    /// The group whose agents get the chats.
    #[schema(nullable = false)]
    pub group: Option<String>,
    /// The tags of the chats.
    #[schema(nullable = false)]
    pub tags: Option<Vec<String>>,
}
