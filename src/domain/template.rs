//! A template as Meta's Graph API describes it, and the form that its recipients have to fill.
//!
//! [`Template`] mirrors one item of `GET {waba}/message_templates` as far as sending needs it, and is stored in Redis
//! in the same JSON form. [`Form`] is what a recipient must give for it.
//!
//! Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/templates/components>, read
//! 2026-11-22.

mod fit;
mod form;
mod header;

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

pub use form::{Column, Form, Media, Slot, TemplateError};

/// One template in one language. Fields that sending does not need are dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// Its name; with the language it names the template when sending.
    pub name: String,
    /// Its language.
    pub language: Language,
    /// Where it stands with Meta.
    pub status: TemplateStatus,
    /// What Meta takes it for.
    pub category: Category,
    /// Whether its parameters have numbers or names.
    #[serde(default)]
    pub parameter_format: ParameterFormat,
    /// Header, body, footer and buttons.
    pub components: Vec<Component>,
}

impl Template {
    /// Meta sends only what it has approved; every other status, known or not, is held back.
    pub fn is_sendable(&self) -> bool {
        self.status == TemplateStatus::Approved
    }

    /// The component of this type (`BODY`), if there is one.
    pub fn component(&self, kind: &str) -> Option<&Component> {
        self.components.iter().find(|component| component.kind == kind)
    }
}

/// `spring_sale (es_AR)`.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.language)
    }
}

/// A language code as the API takes it: `en_GB`. Webhooks, and people, also write `en-GB`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Language(String);

impl Language {
    /// The code.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Language {
    fn from(code: &str) -> Self {
        Self(code.replace('-', "_"))
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Language {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|code| Self::from(code.as_str()))
    }
}

/// Where a template stands with Meta.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TemplateStatus {
    /// May be sent.
    Approved,
    /// Waits for Meta's review.
    Pending,
    /// Refused by Meta.
    Rejected,
    /// Held by Meta for bad feedback.
    Paused,
    /// Ended by Meta.
    Disabled,
    /// Unused for a year.
    Archived,
    /// Any other, as Meta writes it.
    #[serde(untagged)]
    Other(String),
}

/// What Meta takes a template for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Category {
    /// Advertising: recipients may opt out, and Meta limits it per user.
    Marketing,
    /// About something the recipient has asked for.
    Utility,
    /// A one-time code.
    Authentication,
    /// Any other, as Meta writes it.
    #[serde(untagged)]
    Other(String),
}

/// Whether the parameters have numbers or names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ParameterFormat {
    /// `{{1}}`, `{{2}}`, …
    #[default]
    Positional,
    /// `{{first_name}}`, …
    Named,
}

/// Header, body, footer, buttons, or something that [`Form::of`] refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// `HEADER`, `BODY`, `FOOTER`, `BUTTONS`, …; upper case.
    #[serde(rename = "type", deserialize_with = "upper_case")]
    pub kind: String,
    /// Of a header: `TEXT`, `IMAGE`, `VIDEO`, `DOCUMENT`, `LOCATION`, …; upper case, empty elsewhere.
    #[serde(default, deserialize_with = "upper_case", skip_serializing_if = "String::is_empty")]
    pub format: String,
    /// The text with its placeholders; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// The buttons, in the order that sending counts them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buttons: Vec<Button>,
}

/// One button.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Button {
    /// `QUICK_REPLY`, `URL`, `PHONE_NUMBER`, `COPY_CODE`, `OTP`, …; upper case.
    #[serde(rename = "type", deserialize_with = "upper_case")]
    pub kind: String,
    /// The label.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// Of a URL button: the address, with a placeholder at its end if it differs by recipient.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
}

/// Meta writes types in upper case, but not in every example of its own.
fn upper_case<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).map(|text| text.to_ascii_uppercase())
}

#[cfg(test)]
pub(crate) mod tests;
