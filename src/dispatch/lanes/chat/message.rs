//! A message of a chat on its way.

use super::WINDOW_CLOSED;
use crate::{
    domain::{ChatMessageId, FailureReason, Person, Settled, Token, TokenKey, UnixMs, chat::content::ChatRequest},
    graph::{
        client::{Edge, SendRequest},
        reply,
    },
    redis::chats::{ChatOutcome, ClaimedChat},
};

/// A claimed message that waits to be sent.
pub(super) struct LaneMessage {
    pub(super) claimed: ClaimedChat,
    request: ChatRequest,
}

/// A message of a chat that was sent.
#[derive(Clone, Debug)]
pub struct ChatUnit {
    pub(super) id: ChatMessageId,
    pub(super) send: u32,
    pub(super) attempt: u8,
    pub(super) to: Option<Person>,
    /// Whether it is a read mark or a typing indicator.
    pub(super) is_mark: bool,
}

impl LaneMessage {
    /// Reads a claimed message. `Err`: it cannot be read, which is its outcome.
    pub(super) fn read(claimed: ClaimedChat) -> Result<Self, ChatOutcome> {
        match serde_json::from_str(&claimed.request) {
            Ok(request) => Ok(Self { claimed, request }),
            Err(error) => Err(ChatOutcome {
                id: claimed.id,
                send: claimed.send,
                settled: Settled::Refused { reason: FailureReason::NotGiven },
                details: format!("this release cannot read the message: {error}"),
            }),
        }
    }

    /// Whether it may only be sent within the window of 24 hours, which has closed.
    pub(super) fn is_late(&self, now: UnixMs) -> bool {
        self.claimed.until.is_some_and(|until| now >= until)
    }

    /// Its outcome if it is not sent.
    pub(super) fn unsent(self, settled: Settled) -> ChatOutcome {
        let details = match &settled {
            Settled::Refused { reason } if *reason == WINDOW_CLOSED => "the window of 24 hours has closed",
            _ => "",
        };
        ChatOutcome { id: self.claimed.id, send: self.claimed.send, settled, details: details.to_owned() }
    }

    /// The message and its request, with a token signed by `key`.
    pub(super) fn leave(self, key: &TokenKey) -> (ChatUnit, SendRequest) {
        let ClaimedChat { id, send, attempt, .. } = self.claimed;
        let (is_mark, to) = match &self.request {
            ChatRequest::Mark(_) => (true, None),
            ChatRequest::Message(reply) => (false, reply.to.number.map(Person::from)),
        };
        let mut token = String::new();
        Token::Chat { id, send }.write(key, &mut token);
        let edge = if is_mark { Edge::Marks } else { Edge::Messages };
        let body = reply::body(&self.request, &token).into();
        (ChatUnit { id, send, attempt, to, is_mark }, SendRequest { edge, body })
    }
}

impl ChatUnit {
    /// Its outcome. `details`: Meta's error text.
    pub(super) fn outcome(self, settled: Settled, details: &str) -> ChatOutcome {
        ChatOutcome { id: self.id, send: self.send, settled, details: details.to_owned() }
    }
}
