//! A claimed message that waits for its turn.
//!
//! Its body is built when it goes: of hundreds that wait on each line only what tells them apart is kept, and what they share by
//! reference.

use std::rc::Rc;

use bytes::Bytes;

use super::plans::SendPlan;
use crate::{
    domain::{PartId, Token, TokenKey},
    redis::{chunk::Chunk, parts::ClaimedRow},
};

/// A body of the usual length.
const BODY_BYTES: usize = 512;

/// A token is no longer.
const TOKEN_BYTES: usize = 64;

/// A message to one recipient.
pub struct Message {
    /// The number of its part in the campaign.
    pub part: u16,
    /// The row in that, and which of its sends this is.
    pub claimed: ClaimedRow,
    /// Which attempt this is, from 1.
    pub attempt: u8,
    /// What is sent.
    pub plan: Rc<SendPlan>,
    /// Who it goes to is in here, ...
    pub chunk: Rc<Chunk>,
    /// ... at this place.
    pub place: u16,
}

impl Message {
    /// The part that it is of.
    pub fn part(&self) -> PartId {
        PartId { campaign: self.plan.campaign.id, number: self.part }
    }

    /// The body of its request, with a token signed by `key`.
    pub fn body(&self, key: &TokenKey) -> Bytes {
        let mut token = String::with_capacity(TOKEN_BYTES);
        Token { part: self.part(), row: self.claimed.row, send: self.claimed.send }.write(key, &mut token);
        let place = usize::from(self.place);
        let values: Vec<&str> = self.chunk.values(place).collect();
        let mut body = Vec::with_capacity(BODY_BYTES);
        self.plan.body.render(self.chunk.numbers()[place], &values, &token, &mut body);
        body.into()
    }
}
