//! Templates as a scenario gives them and as Meta lists them.

use serde::{Deserialize, Serialize};

/// A template as a scenario gives it and as Meta lists it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// The WABA it belongs to.
    #[serde(skip_serializing)]
    pub waba: String,
    /// Its name.
    pub name: String,
    /// Its language, such as `es_AR`.
    pub language: String,
    /// `APPROVED`, and can be sent, unless given.
    #[serde(default)]
    pub status: TemplateStatus,
    /// `MARKETING`, `UTILITY` or `AUTHENTICATION`.
    pub category: String,
    /// Which kind of its category it is, such as `ORDER_STATUS`.
    #[serde(default)]
    pub sub_category: Option<String>,
    /// How its variables are named.
    #[serde(default)]
    pub parameter_format: ParameterFormat,
    /// What it consists of.
    pub components: Vec<Component>,
}

/// Whether a template can be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TemplateStatus {
    /// The only one that can be sent.
    #[default]
    Approved,
    /// Not yet reviewed.
    Pending,
    /// Refused by Meta.
    Rejected,
    /// Stopped by Meta for a while.
    Paused,
    /// Stopped by Meta for good.
    Disabled,
    /// Refused, and the business objects.
    InAppeal,
    /// Unused for too long.
    Archived,
}

/// How the variables of a template are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ParameterFormat {
    /// `{{1}}`, `{{2}}`, …
    #[default]
    Positional,
    /// `{{first_name}}`.
    Named,
}

/// A piece of a template.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub enum Component {
    /// Above the text.
    Header {
        /// What it shows.
        format: HeaderFormat,
        /// With format `TEXT`: at most one variable.
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        /// As given to Meta for review.
        #[serde(skip_serializing_if = "Option::is_none")]
        example: Option<serde_json::Value>,
    },
    /// The text.
    Body {
        /// With its variables in `{{…}}`.
        text: String,
        /// Authentication templates only.
        #[serde(skip_serializing_if = "Option::is_none")]
        add_security_recommendation: Option<bool>,
        /// As given to Meta for review.
        #[serde(skip_serializing_if = "Option::is_none")]
        example: Option<serde_json::Value>,
    },
    /// Below the text.
    Footer {
        /// Without variables.
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        /// Authentication templates only.
        #[serde(skip_serializing_if = "Option::is_none")]
        code_expiration_minutes: Option<u32>,
    },
    /// The buttons, in the order of their index.
    Buttons {
        /// At most ten.
        buttons: Vec<Button>,
    },
}

/// What a header shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum HeaderFormat {
    /// A line of text.
    Text,
    /// A picture.
    Image,
    /// A film.
    Video,
    /// A file.
    Document,
    /// A place.
    Location,
}

/// A button of a template.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub enum Button {
    /// Answers with its payload.
    QuickReply {
        /// Its label, and the payload unless a send gives one.
        text: String,
    },
    /// Opens a page.
    Url {
        /// Its label.
        text: String,
        /// With at most one variable, at its end.
        url: String,
        /// As given to Meta for review.
        #[serde(skip_serializing_if = "Option::is_none")]
        example: Option<Vec<String>>,
    },
    /// Calls a number.
    PhoneNumber {
        /// Its label.
        text: String,
        /// The number.
        phone_number: String,
    },
    /// Copies a coupon code.
    CopyCode {
        /// As given to Meta for review.
        #[serde(skip_serializing_if = "Option::is_none")]
        example: Option<Vec<String>>,
    },
    /// Copies a one-time password.
    Otp {
        /// `COPY_CODE`, `ONE_TAP` or `ZERO_TAP`.
        otp_type: String,
        /// Its label.
        text: String,
    },
}
