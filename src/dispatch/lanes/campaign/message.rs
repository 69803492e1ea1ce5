//! A claimed message that waits to be sent.
//!
//! The body is built only when the message is sent. Hundreds of messages wait on each line, so a message stores only
//! its own data, and shares the rest by reference.

use std::rc::Rc;

use super::plans::SendPlan;
use crate::{
    domain::{ClaimedRow, PartId, Phone, Token, TokenKey},
    graph::{
        body,
        client::{Edge, SendRequest},
    },
    redis::{chunk::Chunk, message_ids::RowRef},
    telemetry::traces::ClaimTrace,
};

/// Initial capacity of a body: the usual length.
const BODY_BYTES: usize = 512;

/// Maximum length of a token in bytes.
const TOKEN_BYTES: usize = 64;

/// A message to one recipient.
pub struct Message {
    /// The number of its part within the campaign.
    pub part: u16,
    /// Its row in the part, and the number of this send.
    pub claimed: ClaimedRow,
    /// The number of this attempt, from 1.
    pub attempt: u8,
    /// The campaign and its template, shared by all messages of the campaign.
    pub plan: Rc<SendPlan>,
    /// The chunk that contains the recipient.
    pub chunk: Rc<Chunk>,
    /// The index of the recipient in the chunk.
    pub index: u16,
    /// The recipient's number.
    pub to: Phone,
    /// The trace of its claim, if its recipient is sampled.
    pub trace: Option<Box<ClaimTrace>>,
}

impl Message {
    /// The part of the message.
    pub fn part(&self) -> PartId {
        PartId { campaign: self.plan.campaign.id, number: self.part }
    }

    /// The row of the message in Redis.
    pub fn row(&self) -> RowRef {
        (self.part(), self.claimed)
    }

    /// Its request over `edge`, with a token signed by `key`.
    pub fn request(&self, edge: Edge, key: &TokenKey) -> SendRequest {
        let mut token = String::with_capacity(TOKEN_BYTES);
        Token::Campaign { part: self.part(), claimed: self.claimed }.write(key, &mut token);
        let index = usize::from(self.index);
        let values: Vec<&str> = self.chunk.values(index).collect();
        let mut body = Vec::with_capacity(BODY_BYTES);
        self.plan.body.render(self.to, &values, &token, &mut body);
        if edge == Edge::MarketingMessages {
            body::for_marketing_api(&mut body);
        }
        SendRequest { edge, body: body.into() }
    }
}
