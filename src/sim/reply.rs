//! What goes back to a client of the stand-in.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;

use super::{scenario::Fault, wire::Refusal, world::SharedWorld};

/// What goes back to the client.
pub(super) enum Reply {
    /// An HTTP status and a body.
    Json(u16, Vec<u8>),
    /// The page of a proxy whose backend is away.
    Html502,
    /// A body of many rows, one JSON object a line.
    Rows(BoxBody<Bytes, Infallible>),
    /// The connection ends without an answer.
    Reset,
    /// The same, but only after a long silence, which whoever made the reply sees to.
    Silence,
}

impl Reply {
    pub(super) fn refusal(world: &SharedWorld, refusal: &Refusal) -> Self {
        let (status, body) = refusal.answer(world.limits.refusal_status, world.trace());
        Self::Json(status, body)
    }

    /// What a client sees of a fault.
    pub(super) fn of_fault(world: &SharedWorld, fault: Fault) -> Self {
        match fault {
            Fault::Html502 | Fault::Html502AfterAccept => Self::Html502,
            Fault::ResetBefore | Fault::ResetAfterAccept => Self::Reset,
            Fault::NoAnswerLost | Fault::NoAnswerAfterAccept => Self::Silence,
            Fault::Unavailable | Fault::ServerError | Fault::Throttle | Fault::Held | Fault::Refuse(_) => {
                Self::refusal(world, &Refusal::bare(fault.code().unwrap_or(2)))
            }
        }
    }
}
