//! The event feed: all events, from a position on.

use std::collections::VecDeque;

use serde_json::value::RawValue;

use super::{Result, sse::Event, stream::Stream};
use crate::domain::{CampaignId, EventType};

/// Which events of the feed to read.
#[derive(Clone, Debug, Default)]
pub struct FeedQuery {
    /// Only events of these types; all if it is empty.
    pub types: Vec<EventType>,
    /// Only events of this campaign.
    pub campaign: Option<CampaignId>,
    /// Only events after this position; without it, only new events.
    pub after: Option<String>,
}

/// The events of the feed over one connection.
#[derive(Debug)]
pub struct FeedReader {
    stream: Stream,
    ready: VecDeque<Event>,
    position: String,
}

impl FeedReader {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, ready: VecDeque::new(), position: String::new() }
    }

    /// The next event, JSON. `None` when the server ended the stream.
    ///
    /// Errors: [`ClientError::Broken`](super::ClientError::Broken) if the connection failed, was silent for too long,
    /// or sent something that is not JSON.
    pub async fn next(&mut self) -> Result<Option<Box<RawValue>>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                let json = serde_json::from_str(&event.data).map_err(|error| self.stream.invalid(&event, &error))?;
                self.position = event.id;
                return Ok(Some(json));
            }
            self.stream.last_id().clone_into(&mut self.position);
            let Some(events) = self.stream.next().await? else { return Ok(None) };
            self.ready.extend(events);
        }
    }

    /// The position after the last returned event, and after events that the server filtered out since. `None` until
    /// the server has sent a position.
    pub fn position(&self) -> Option<&str> {
        Some(self.position.as_str()).filter(|position| !position.is_empty())
    }
}
