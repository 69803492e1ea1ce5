//! A template as Meta's Graph API returns it, and the form that its recipients fill.
//!
//! [`Template`] is one item of `GET {waba}/message_templates`, without the fields that sending does not need. It is
//! stored in Redis in the same JSON form. [`Form`] describes the values that a recipient gives.
//!
//! Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/templates/components>, read
//! 2026-11-22.

mod change;
mod fit;
mod form;
mod header;
mod status;
mod text;

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::Value;

pub use form::{Column, Form, Media, Slot, TemplateError};
pub use status::TemplateStatus;

/// One template in one language. Fields that sending does not need are dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// Meta's id, by which the template is read and unpaused; empty if the list was stored by an earlier release.
    #[serde(default, deserialize_with = "id", skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The name. Name and language together identify a template when sending.
    pub name: String,
    /// The language.
    pub language: Language,
    /// The status at Meta.
    pub status: TemplateStatus,
    /// Why Meta rejected the template, such as `INVALID_FORMAT`; empty if Meta gave no reason.
    #[serde(default, deserialize_with = "reason", skip_serializing_if = "String::is_empty")]
    pub rejected_reason: String,
    /// Meta's category.
    pub category: Category,
    /// Meta's sub-category, such as `ORDER_STATUS`; empty if there is none.
    #[serde(default, deserialize_with = "sub_category", skip_serializing_if = "String::is_empty")]
    pub sub_category: String,
    /// How people react to the template: `GREEN`, `YELLOW`, `RED` or `UNKNOWN`, as Meta writes it; empty if Meta does
    /// not say.
    #[serde(default, deserialize_with = "score", skip_serializing_if = "String::is_empty")]
    pub quality_score: String,
    /// Whether the parameters are numbered or named.
    #[serde(default)]
    pub parameter_format: ParameterFormat,
    /// Header, body, footer and buttons.
    pub components: Vec<Component>,
    /// Why the item could not be parsed; empty if it was.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unreadable: String,
}

impl Template {
    /// Parses one item of Meta's list. An item that cannot be parsed keeps its name and language, and lists the
    /// reason in [`Template::unreadable`].
    pub fn read(item: &Value) -> Self {
        serde_path_to_error::deserialize(item).unwrap_or_else(|error| {
            let text = |field: &str| item[field].as_str().map(str::to_owned);
            Self {
                id: field(item, "id").unwrap_or_default(),
                name: text("name").unwrap_or_else(|| format!("unnamed-{}", text("id").unwrap_or_default())),
                language: Language::from(text("language").unwrap_or_default().as_str()),
                status: field(item, "status").unwrap_or_else(|| TemplateStatus::Other("UNKNOWN".to_owned())),
                rejected_reason: String::new(),
                category: field(item, "category").unwrap_or_else(|| Category::Other("UNKNOWN".to_owned())),
                sub_category: String::new(),
                quality_score: String::new(),
                parameter_format: ParameterFormat::Positional,
                components: Vec::new(),
                unreadable: error.to_string(),
            }
        })
    }

    /// Why no campaign can use the template, with the remedy; `None` if campaigns can use it.
    pub fn problem(&self) -> Option<String> {
        self.status_problem().or_else(|| Form::of(self).err().map(|error| error.to_string()))
    }

    /// Why Meta does not send the template, with the remedy; `None` if Meta sends it.
    pub fn status_problem(&self) -> Option<String> {
        (!self.is_sendable()).then(|| format!("template {self} is {}", self.status_text()))
    }

    /// The status, with the remedy if it is not `APPROVED`: `PENDING, under review by Meta: wait until …`.
    pub fn status_text(&self) -> String {
        self.status.status_text(&self.rejected_reason)
    }

    /// Whether Meta sends the template: only if it is approved. Any other status, known or unknown, is treated as not
    /// sendable.
    pub fn is_sendable(&self) -> bool {
        self.status == TemplateStatus::Approved
    }

    /// The component of this type (`BODY`), if there is one.
    pub fn component(&self, kind: &str) -> Option<&Component> {
        self.components.iter().find(|component| component.kind == kind)
    }

    /// The texts on its quick-reply buttons.
    pub fn quick_replies(&self) -> impl Iterator<Item = &str> {
        let buttons = self.components.iter().flat_map(|component| &component.buttons);
        buttons.filter(|button| button.kind == "QUICK_REPLY").map(|button| button.text.as_str())
    }
}

/// Writes `spring_sale (es_AR)`.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.language)
    }
}

/// A language code in the form that the send API accepts: `en_GB`. Webhooks and people also write `en-GB`.
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

/// Meta's category of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Category {
    /// Advertising: recipients may opt out, and Meta limits it per user.
    Marketing,
    /// Information that the recipient asked for.
    Utility,
    /// A one-time code.
    Authentication,
    /// Any other category, as Meta writes it.
    #[serde(untagged)]
    Other(String),
}

/// Writes the category as Meta does.
impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Category::Marketing => "MARKETING",
            Category::Utility => "UTILITY",
            Category::Authentication => "AUTHENTICATION",
            Category::Other(name) => name,
        })
    }
}

/// Whether the parameters of a template are numbered or named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ParameterFormat {
    /// `{{1}}`, `{{2}}`, …
    #[default]
    Positional,
    /// `{{first_name}}`, …
    Named,
}

/// A header, body, footer or list of buttons, or a component that [`Form::of`] refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// `HEADER`, `BODY`, `FOOTER`, `BUTTONS`, …; upper case.
    #[serde(rename = "type", deserialize_with = "upper_case")]
    pub kind: String,
    /// The format of a header: `TEXT`, `IMAGE`, `VIDEO`, `DOCUMENT`, `LOCATION`, …; upper case. Empty for other
    /// components.
    #[serde(default, deserialize_with = "upper_case", skip_serializing_if = "String::is_empty")]
    pub format: String,
    /// The text with its placeholders; empty if the component has no text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// The buttons. Their positions are the indexes in a send request.
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
    /// The address of a URL button, with a placeholder at its end if it differs between recipients.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
}

/// Upper-cases a type: some of Meta's own examples use lower case.
fn upper_case<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).map(|text| text.to_ascii_uppercase())
}

/// A text that may be missing or null.
fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Option::<String>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// An id, which may be a number.
fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(id) => id,
        Value::Number(id) => id.to_string(),
        _ => String::new(),
    })
}

/// Meta writes `{"score":"GREEN","date":…}`; in Redis it is only the score.
fn score<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(score) => score,
        Value::Object(quality) => quality.get("score").and_then(Value::as_str).unwrap_or_default().to_owned(),
        _ => String::new(),
    })
}

fn sub_category<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    optional(deserializer).map(|text| text.to_ascii_uppercase())
}

/// The rejection reason, empty where Meta writes `NONE`.
fn reason<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    optional(deserializer).map(|text| if text == "NONE" { String::new() } else { text })
}

fn field<T: DeserializeOwned>(item: &Value, name: &str) -> Option<T> {
    serde_json::from_value(item[name].clone()).ok()
}

#[cfg(test)]
pub(crate) mod tests;
