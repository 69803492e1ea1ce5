//! Messages from people.

use std::time::Duration;

use crate::domain::Phone;

/// An inbound message.
#[derive(Clone)]
pub(super) struct Inbound {
    pub(super) from: Phone,
    pub(super) at: Duration,
    pub(super) content: Content,
}

/// The content of an inbound message.
#[derive(Clone)]
pub(super) enum Content {
    Text(Box<str>),
    /// A tap on a quick-reply button of the message with this index on the line.
    Tap {
        message: u32,
        tap: Tap,
    },
}

/// The payload and label that a tap on a quick-reply button returns.
#[derive(Clone)]
pub(super) struct Tap {
    pub(super) payload: Box<str>,
    pub(super) label: Box<str>,
}
