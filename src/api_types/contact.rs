//! Contacts and their properties.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    chat::ContactView,
    page::{Listed, Page},
};
use crate::domain::{BusinessId, Phone, UnixMs};

/// A contact with what the business knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ContactDetails {
    /// The contact.
    #[serde(flatten)]
    pub contact: ContactView,
    /// The values of properties, by their keys.
    #[schema(value_type = Object, example = json!({"city": "Rosario"}))]
    pub properties: Map<String, Value>,
    /// The ids of the tags.
    pub tags: Vec<String>,
    /// What the business and the contact had to do with each other.
    pub statistics: ContactStatisticsView,
}

/// What a business and a contact had to do with each other, since the contact was created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ContactStatistics)]
pub struct ContactStatisticsView {
    /// When a message last came from the contact, or reached it. Null: never.
    #[schema(required)]
    pub last_interaction: Option<UnixMs>,
    /// Conversations that the contact opened.
    pub conversations_by_client: u32,
    /// Conversations that the business opened, by a template.
    pub conversations_by_business: u32,
    /// Messages to the contact that were not sent: cancelled, skipped, or too late.
    pub cancelled: u32,
    /// Messages that reached the contact.
    pub received: u32,
    /// Messages from the contact that answer a campaign.
    pub replies: u32,
    /// Messages to the contact that failed.
    pub failures: u32,
}

impl Listed for ContactDetails {
    const NAME: &str = "contacts";
}

/// A page of contacts.
pub type ContactPage = Page<ContactDetails>;

/// A new contact.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewContact {
    /// The business. May be left out if the caller sees only one.
    #[serde(default)]
    #[schema(nullable = false, value_type = Option<String>)]
    pub business: Option<String>,
    /// The phone number.
    pub phone: Phone,
    /// The name.
    #[serde(default)]
    #[schema(nullable = false, example = "Maria")]
    pub name: Option<String>,
    /// Values of properties, by their keys.
    #[serde(default)]
    #[schema(value_type = Object, example = json!({"city": "Rosario"}))]
    pub properties: Map<String, Value>,
    /// The ids of tags.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// What is changed of a contact; what is missing stays as it is.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ContactChangeBody {
    /// The name, in place of the one in the profile.
    #[schema(nullable = false)]
    pub name: Option<String>,
    /// Values of properties, by their keys; null removes one.
    #[schema(value_type = Object)]
    pub properties: Map<String, Value>,
    /// The ids of all tags.
    #[schema(nullable = false)]
    pub tags: Option<Vec<String>>,
}

/// A property of contacts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Property)]
pub struct PropertyView {
    /// The key, unique in the business.
    #[schema(example = "city")]
    pub key: String,
    /// The business.
    pub business: BusinessId,
    /// What people read.
    #[schema(example = "Ciudad")]
    pub label: String,
    /// `text`, `number`, `date`, `boolean`, `choice`, `email` or `url`.
    #[serde(rename = "type")]
    #[schema(example = "text")]
    pub kind: String,
    /// Of a `choice`: the texts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    /// When it was created.
    pub created_at: UnixMs,
}

impl Listed for PropertyView {
    const NAME: &str = "properties";
}

/// Properties.
pub type PropertyPage = Page<PropertyView>;

/// A new property.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewProperty {
    /// The business. May be left out if the caller sees only one.
    #[serde(default)]
    #[schema(nullable = false, value_type = Option<String>)]
    pub business: Option<String>,
    /// 1 to 32 of `a-z`, `0-9`, `-` and `_`. It does not change.
    #[schema(example = "city")]
    pub key: String,
    /// What people read.
    #[schema(example = "Ciudad")]
    pub label: String,
    /// `text`, `number`, `date`, `boolean`, `choice`, `email` or `url`. It does not change.
    #[serde(rename = "type")]
    #[schema(example = "text")]
    pub kind: String,
    /// Of a `choice`: 1 to 200 texts.
    #[serde(default)]
    pub choices: Vec<String>,
}

/// What is changed of a property; what is missing stays as it is.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PropertyChangeBody {
    /// What people read.
    #[schema(nullable = false)]
    pub label: Option<String>,
    /// Of a `choice`: all texts. Values that are none of them any more stay.
    #[schema(nullable = false)]
    pub choices: Option<Vec<String>>,
}
