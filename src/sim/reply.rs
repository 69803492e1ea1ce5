//! Responses of the simulator.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;

use super::{scenario::Fault, wire::Refusal, world::SharedWorld};

/// The response to a client, or its absence.
pub(super) enum Reply {
    /// An HTTP status and a JSON body.
    Json(u16, Vec<u8>),
    /// The 502 page of a proxy whose backend is down.
    Html502,
    /// A file, with its MIME type.
    File(Box<str>, Bytes),
    /// A stream of NDJSON rows.
    Rows(BoxBody<Bytes, Infallible>),
    /// The connection is reset without a response.
    Reset,
    /// The connection is reset after a long silence. The caller of [`Reply::of_fault`] waits before returning it.
    Silence,
}

impl Reply {
    pub(super) fn refusal(world: &SharedWorld, refusal: &Refusal) -> Self {
        let (status, body) = refusal.answer(world.limits.refusal_status, world.trace());
        Self::Json(status, body)
    }

    /// The response of a request that meets `fault`.
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
