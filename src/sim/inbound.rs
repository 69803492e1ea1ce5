//! Messages from people.

use std::time::Duration;

use super::{free::Choice, media::Medium};
use crate::domain::Phone;

/// An inbound message.
#[derive(Clone)]
pub(super) struct Inbound {
    pub(super) from: Phone,
    pub(super) at: Duration,
    pub(super) content: Content,
    /// The index on the line of the message that it answers, if it does.
    pub(super) about: Option<u32>,
}

/// The content of an inbound message.
#[derive(Clone)]
pub(super) enum Content {
    Text(Box<str>),
    /// A tap on a quick-reply button of a template.
    Tap(Tap),
    /// A reply button or a row of an interactive message.
    Choice(Choice),
    /// A file, with its id.
    File(Medium, u64),
    /// The emoji with which the person reacts to the message that it is about.
    Reaction(&'static str),
}

/// The payload and label that a tap on a quick-reply button returns.
#[derive(Clone)]
pub(super) struct Tap {
    pub(super) payload: Box<str>,
    pub(super) label: Box<str>,
}
