//! Recipients in a response.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Listed, Page};
use crate::domain::{LineId, MetaCode, Phone, UnixMs, Wamid};

/// A recipient.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Recipient)]
pub struct RecipientView {
    /// The phone number. Missing if the person was forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub to: Option<Phone>,
    /// The name of the state.
    #[schema(schema_with = super::schemas::recipient_state)]
    pub state: Cow<'static, str>,
    /// Meta's error code, if it is the reason for the state.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub code: Option<MetaCode>,
    /// Why the recipient was skipped, what the code means, or why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    pub reason: Option<Cow<'static, str>>,
    /// The number of attempts that count. An attempt that certainly sent nothing, such as a throttled one, does not.
    #[serde(default)]
    #[schema(required)]
    pub attempts: u8,
    /// The line that sends to the recipient.
    pub line: LineId,
    /// When the recipient entered each state.
    #[serde(flatten)]
    pub times: Times,
    /// Meta's id of the last message to the recipient, from its acceptance or first status on. The server keeps it for
    /// at least its `id_retention`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub wamid: Option<Wamid>,
}

impl Listed for RecipientView {
    const NAME: &str = "recipients";
}

/// A page of recipients.
pub type RecipientPage = Page<RecipientView>;

/// When a recipient entered each state. The resolution is one second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Times {
    /// Meta accepted the message, or its first status came before Meta's response.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub accepted_at: Option<UnixMs>,
    /// From a status webhook.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub sent_at: Option<UnixMs>,
    /// From a status webhook.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub delivered_at: Option<UnixMs>,
    /// From a status webhook.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub read_at: Option<UnixMs>,
    /// From Meta's response or a status webhook.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub failed_at: Option<UnixMs>,
    /// The last change, including changes to states without a field here, such as retrying.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub updated_at: Option<UnixMs>,
}
