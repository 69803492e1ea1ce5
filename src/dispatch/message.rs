//! A claimed message that waits for its turn.
//!
//! Its body is built when it goes: of hundreds that wait on each line only the parts are kept, most of which they share.

use std::rc::Rc;

use bytes::Bytes;

use super::plans::Plan;
use crate::{
    domain::{PartId, Token, TokenKey},
    store::{chunk::Chunk, parts::ClaimedRow},
};

/// A body of the usual length.
const BODY_BYTES: usize = 512;

/// A token is no longer.
const TOKEN_BYTES: usize = 64;

/// A message to one recipient.
pub struct Message {
    /// The part.
    pub part: PartId,
    /// The row in it, and which of its sends this is.
    pub claimed: ClaimedRow,
    /// Which attempt this is, from 1.
    pub attempt: u8,
    /// What is sent.
    pub plan: Rc<Plan>,
    /// Who it goes to is in here, ...
    pub chunk: Rc<Chunk>,
    /// ... at this place.
    pub place: usize,
}

impl Message {
    /// The body of its request, with a token signed by `key`.
    pub fn body(&self, key: &TokenKey) -> Bytes {
        let mut token = String::with_capacity(TOKEN_BYTES);
        Token { part: self.part, row: self.claimed.row, send: self.claimed.send }.write(key, &mut token);
        let values: Vec<&str> = self.chunk.values(self.place).collect();
        let mut body = Vec::with_capacity(BODY_BYTES);
        self.plan.body.render(self.chunk.numbers()[self.place], &values, &token, &mut body);
        body.into()
    }
}
