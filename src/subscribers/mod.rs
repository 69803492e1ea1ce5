//! Subscribers: backends to which Pregón sends the events of the feed, as signed webhooks. `docs/webhooks.md` describes
//! them.
//!
//! One worker at a time delivers to a subscriber, in a task of its own: in the order of the feed, one webhook after the
//! other. The task holds one page of events in memory. So a slow or unreachable subscriber does not delay others.
//!
//! If the process dies: another worker takes over when the lease has expired, and repeats at most the webhook that was
//! not confirmed.

mod delivery;
mod reader;
mod request;
mod signature;

use std::{sync::Arc, time::Duration};

pub use self::{
    delivery::{Delivery, DeliverySettings},
    signature::{BadSigningKey, SigningKey},
};
use crate::{
    domain::{EventType, SubscriberId, event::EventHead},
    endpoint::Endpoint,
};

/// The largest number of events in a webhook.
pub const BATCH_MAX: usize = 100;

/// A backend that gets events. `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct Subscriber {
    /// Its id.
    pub id: SubscriberId,
    /// The endpoint that gets its webhooks.
    pub endpoint: Endpoint,
    /// The keys that sign its webhooks: the current one, and the previous one during a rotation.
    pub keys: Vec<SigningKey>,
    /// The types of events that it gets; `None` for all, also those of later releases.
    pub types: Option<Arc<[EventType]>>,
    /// The maximum number of events in a webhook, at most [`BATCH_MAX`]. With 1, the body is the event itself;
    /// otherwise it is a list.
    pub batch: usize,
    /// How long it may fail before it is disabled.
    pub disable_after: Duration,
}

impl Subscriber {
    /// The types of events that it gets.
    pub fn types(&self) -> &[EventType] {
        self.types.as_deref().unwrap_or(EventType::ALL)
    }

    fn wants(&self, event: &EventHead) -> bool {
        self.types.as_ref().is_none_or(|types| event.r#type.is_some_and(|kind| types.contains(&kind)))
    }
}
