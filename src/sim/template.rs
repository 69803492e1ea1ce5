//! Templates, in the form that scenarios and Meta's API share.

use serde::{Deserialize, Serialize};

use super::pacing::Pacing;

/// A template, as scenarios define it and as Meta lists it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// The WABA it belongs to.
    #[serde(skip_serializing)]
    pub waba: String,
    /// The name.
    pub name: String,
    /// The language, such as `es_AR`.
    pub language: String,
    /// The initial status; `APPROVED` by default.
    #[serde(default)]
    pub status: TemplateStatus,
    /// `MARKETING`, `UTILITY` or `AUTHENTICATION`.
    pub category: String,
    /// The subcategory, such as `ORDER_STATUS`.
    #[serde(default)]
    pub sub_category: Option<String>,
    /// How variables are named.
    #[serde(default)]
    pub parameter_format: ParameterFormat,
    /// Header, body, footer and buttons.
    pub components: Vec<Component>,
    /// Template pacing; without it, no message of the template is held.
    #[serde(default, skip_serializing)]
    pub pacing: Option<Pacing>,
}

/// The status of a template. The webhook about a change names its event by the new status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TemplateStatus {
    /// Approved by Meta; can be sent.
    #[default]
    Approved,
    /// Not yet reviewed.
    Pending,
    /// Rejected by Meta.
    Rejected,
    /// Paused by Meta for a limited time.
    Paused,
    /// Disabled by Meta permanently.
    Disabled,
    /// Rejected, and appealed by the business.
    InAppeal,
    /// Unused for too long.
    Archived,
    /// Used again, or restored, after it was archived; can be sent.
    Unarchived,
    /// About to be disabled because of its quality; can be sent.
    Flagged,
    /// No longer flagged or disabled; can be sent.
    Reinstated,
    /// Locked by Meta.
    Locked,
    /// The WABA has too many templates.
    LimitExceeded,
    /// Deleted by the business, with messages on their way.
    PendingDeletion,
    /// Deleted by the business.
    Deleted,
}

impl TemplateStatus {
    /// Whether a template with this status can be sent.
    pub(super) fn is_sendable(self) -> bool {
        matches!(self, Self::Approved | Self::Unarchived | Self::Flagged | Self::Reinstated)
    }
}

/// How people react to a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Quality {
    /// Positively.
    Green,
    /// With some complaints.
    Yellow,
    /// Negatively.
    Red,
    /// There are too few messages to rate.
    Unknown,
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

/// A component of a template.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub enum Component {
    /// Shown above the body.
    Header {
        /// Text, media or a location.
        format: HeaderFormat,
        /// The text, with at most one variable; only with format `TEXT`.
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        /// The example given to Meta for review.
        #[serde(skip_serializing_if = "Option::is_none")]
        example: Option<serde_json::Value>,
    },
    /// The main text.
    Body {
        /// The text, with variables in `{{…}}`.
        text: String,
        /// Authentication templates only.
        #[serde(skip_serializing_if = "Option::is_none")]
        add_security_recommendation: Option<bool>,
        /// The example given to Meta for review.
        #[serde(skip_serializing_if = "Option::is_none")]
        example: Option<serde_json::Value>,
    },
    /// Shown below the body.
    Footer {
        /// The text, without variables.
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        /// Authentication templates only.
        #[serde(skip_serializing_if = "Option::is_none")]
        code_expiration_minutes: Option<u32>,
    },
    /// The buttons, in the order of their index.
    Buttons {
        /// At most ten buttons.
        buttons: Vec<Button>,
    },
}

/// The format of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum HeaderFormat {
    /// A line of text.
    Text,
    /// An image.
    Image,
    /// A video.
    Video,
    /// A file.
    Document,
    /// A location.
    Location,
}

/// A button of a template.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub enum Button {
    /// Replies with a payload.
    QuickReply {
        /// The label, which is also the payload if a send provides none.
        text: String,
    },
    /// Opens a web page.
    Url {
        /// The label.
        text: String,
        /// The URL, with at most one variable, at its end.
        url: String,
        /// The example given to Meta for review.
        #[serde(skip_serializing_if = "Option::is_none")]
        example: Option<Vec<String>>,
    },
    /// Calls a phone number.
    PhoneNumber {
        /// The label.
        text: String,
        /// The phone number.
        phone_number: String,
    },
    /// Copies a coupon code.
    CopyCode {
        /// The example given to Meta for review.
        #[serde(skip_serializing_if = "Option::is_none")]
        example: Option<Vec<String>>,
    },
    /// Copies a one-time password.
    Otp {
        /// `COPY_CODE`, `ONE_TAP` or `ZERO_TAP`.
        otp_type: String,
        /// The label.
        text: String,
    },
}
