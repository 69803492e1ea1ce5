//! The webhook that a subscriber gets.

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::signature::{SigningKey, signatures};
use crate::domain::UnixMs;

/// Identifies the event, or the batch of events. The same for every attempt.
const ID_HEADER: HeaderName = HeaderName::from_static("webhook-id");
/// When the attempt was made, in Unix seconds.
const TIMESTAMP_HEADER: HeaderName = HeaderName::from_static("webhook-timestamp");
/// The signatures, one for each key.
const SIGNATURE_HEADER: HeaderName = HeaderName::from_static("webhook-signature");

/// The parts of a webhook that are the same for every attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WebhookRequest {
    /// The `webhook-id`, as [`super::signature::webhook_id`] makes it.
    pub(super) id: String,
    /// The body, JSON.
    pub(super) body: Bytes,
}

impl WebhookRequest {
    /// The headers of an attempt at `now`, signed with each of `keys`.
    pub(super) fn headers(&self, keys: &[SigningKey], now: UnixMs) -> HeaderMap {
        let timestamp = now.seconds();
        let signatures = signatures(keys, &self.id, timestamp, &self.body);
        let value = |text: &str| HeaderValue::from_str(text).expect("visible ASCII and spaces");
        HeaderMap::from_iter([
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (ID_HEADER, value(&self.id)),
            (TIMESTAMP_HEADER, timestamp.into()),
            (SIGNATURE_HEADER, value(&signatures)),
        ])
    }
}
