//! Subscribers in a response.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Listed, Page};
use crate::domain::{EventType, SubscriberId, UnixMs};

/// A subscriber: a backend that gets events by webhook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Subscriber)]
pub struct SubscriberView {
    /// The id in the configuration.
    pub id: SubscriberId,
    /// Where it gets its webhooks, without credentials and query.
    pub url: String,
    /// The types of events that it gets.
    pub types: Vec<EventType>,
    /// The maximum number of events in a webhook. 1: each webhook is an event; otherwise a list of events.
    pub batch: usize,
    /// Whether it gets webhooks. Otherwise it gets none until it is enabled.
    pub enabled: bool,
    /// The position in the feed behind the last event that it was told; null if no process has delivered to it yet.
    #[schema(required, example = "1795984075312-17")]
    pub position: Option<String>,
    /// The number of events behind the position, of all types.
    pub lag_events: u64,
    /// How long ago the oldest of these events was written, in seconds; 0 if there is none.
    pub lag_seconds: f64,
    /// When the first delivery failed since the last success. Absent if it does not fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub failing_since: Option<UnixMs>,
    /// Why the last delivery failed. Absent if it does not fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub last_error: Option<String>,
    /// Why it is disabled. Absent if it is enabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub disabled_because: Option<String>,
}

impl Listed for SubscriberView {
    const NAME: &str = "subscribers";
}

/// A page of subscribers.
pub type SubscriberPage = Page<SubscriberView>;
