//! Messages from recipients.

use std::borrow::Cow;

use crate::{
    domain::UnixMs,
    json::{Number, Object, Text, objects},
    webhook::fields,
};

/// A message from a recipient.
#[derive(Debug, PartialEq, Eq)]
pub struct Inbound<'a> {
    /// The payload of the tapped button: our token, unless the campaign sets its own payload.
    pub payload: Option<Cow<'a, str>>,
    /// Meta's id of the message that this one answers.
    pub answers: Option<Cow<'a, str>>,
    /// Meta's timestamp.
    pub at: Option<UnixMs>,
}

objects! {
    WireMessage {
        id: Text<'a>,
        button: Object<Button<'a>>,
        interactive: Object<Interactive<'a>>,
        context: Object<Context<'a>>,
        timestamp: Number,
    }
    Button { payload: Text<'a>, }
    Interactive { button_reply: Object<Choice<'a>>, list_reply: Object<Choice<'a>>, }
    Choice { id: Text<'a>, }
    Context { id: Text<'a>, }
}

impl<'a> From<WireMessage<'a>> for Inbound<'a> {
    fn from(message: WireMessage<'a>) -> Self {
        let tapped = message.button.0.and_then(|button| button.payload.0);
        let chosen = || {
            let interactive = message.interactive.0?;
            interactive.button_reply.0.or(interactive.list_reply.0)?.id.0
        };
        Self {
            payload: tapped.or_else(chosen),
            answers: message.context.0.and_then(|context| context.id.0),
            at: fields::time(message.timestamp),
        }
    }
}
