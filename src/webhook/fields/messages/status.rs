//! Statuses of messages that were sent. Most webhooks are statuses, so parsing one copies no text.

use std::borrow::Cow;

use super::WireError;
use crate::{
    domain::{MetaCode, UnixMs},
    json::{List, Number, Text, objects},
    webhook::fields,
};

/// The status of a message that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status<'a> {
    /// Meta's id of the message; empty if it is missing.
    pub wamid: Cow<'a, str>,
    /// Its kind.
    pub kind: StatusKind,
    /// Meta's timestamp.
    pub at: Option<UnixMs>,
    /// `biz_opaque_callback_data`: our token, or data of another app.
    pub token: Option<Cow<'a, str>>,
    /// The number of the recipient, without `+`, if Meta names it.
    pub recipient: Option<Cow<'a, str>>,
    /// The code of the first error, if there is one.
    pub code: Option<MetaCode>,
    /// Meta's text for this error; may be empty.
    pub details: Cow<'a, str>,
}

/// The kind of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusKind {
    /// Sent by Meta.
    Sent,
    /// Delivered to the phone.
    Delivered,
    /// Read, or played in the case of a voice message.
    Read,
    /// Not delivered, with a code.
    Failed,
    /// Any other, such as `deleted` or `warning`. Has no effect.
    Other,
}

objects! {
    WireStatus {
        id: Text<'a>,
        status: Text<'a>,
        biz_opaque_callback_data: Text<'a>,
        recipient_id: Text<'a>,
        errors: List<WireError<'a>>,
        timestamp: Number,
    }
}

impl<'a> From<WireStatus<'a>> for Status<'a> {
    fn from(status: WireStatus<'a>) -> Self {
        let kind = match status.status.0.as_deref() {
            Some("sent") => StatusKind::Sent,
            Some("delivered") => StatusKind::Delivered,
            Some("read" | "played") => StatusKind::Read,
            Some("failed") => StatusKind::Failed,
            _ => StatusKind::Other,
        };
        let error = status.errors.0.into_iter().next().unwrap_or_default();
        Self {
            wamid: status.id.0.unwrap_or_default(),
            kind,
            at: fields::time(status.timestamp),
            token: status.biz_opaque_callback_data.0,
            recipient: status.recipient_id.0,
            code: error.code(),
            details: error.text(),
        }
    }
}
