//! Reads the feed for one subscriber, and builds webhooks from the events.

use std::collections::VecDeque;

use sha2::{Digest as _, Sha256};
use tracing::error;

use super::{Subscriber, request::WebhookRequest, signature::webhook_id};
use crate::{
    domain::{EntryId, UnixMs, event::EventHead},
    redis::{
        self, Store,
        feed::{FeedLimits, StoredEvent, gap, just_before},
        position::Position,
    },
};

/// Maximum number of events that are read at once.
const PAGE_LEN: usize = 100;

/// A batch takes no further events beyond this size, in bytes.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// The next batch of events, and the webhook for the subscriber.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// The webhook; `None` if the subscriber wants none of the events up to the position.
    pub(super) webhook: Option<WebhookRequest>,
    /// The position behind the events of the webhook.
    pub(super) position: Position,
    /// When the first of these events was written.
    pub(super) oldest: UnixMs,
}

/// An event that was read from the feed, or a gap event.
struct Unread {
    /// Its place in its stream.
    place: EntryId,
    /// The event; `None` if the subscriber does not want it.
    event: Option<Wanted>,
}

/// An event that the subscriber wants.
struct Wanted {
    id: String,
    json: String,
}

/// Reads the events after a position, one stream after the other.
pub(super) struct FeedReader<'a> {
    store: &'a Store,
    feed: FeedLimits,
    subscriber: &'a Subscriber,
    /// The position after the events that are already in a webhook.
    position: Position,
    /// The stream of the page.
    partition: u16,
    /// The events that were read and are in no webhook yet.
    page: VecDeque<Unread>,
}

impl<'a> FeedReader<'a> {
    /// A reader that begins after `position`.
    pub(super) fn new(store: &'a Store, feed: FeedLimits, subscriber: &'a Subscriber, position: Position) -> Self {
        Self { store, feed, subscriber, position, partition: 0, page: VecDeque::new() }
    }

    /// The next batch of events, all of one stream; `None` if there are no further events.
    pub(super) async fn next(&mut self) -> redis::Result<Option<Batch>> {
        if self.page.is_empty() {
            self.read_page().await?;
        }
        Ok(self.take_batch())
    }

    /// Reads the next events of the first stream that has some. Begins with the stream after that of the last page, so
    /// that a busy stream does not keep the others waiting.
    async fn read_page(&mut self) -> redis::Result<()> {
        let partitions = self.feed.partitions.get();
        for step in 1..=partitions {
            let partition = (self.partition + step) % partitions;
            let events = self.store.events_after(partition, self.position.of(partition), PAGE_LEN).await?;
            if !events.is_empty() {
                self.partition = partition;
                self.page = self.unread(&events);
                return Ok(());
            }
        }
        Ok(())
    }

    fn unread(&self, events: &[StoredEvent]) -> VecDeque<Unread> {
        let (partition, mut position) = (self.partition, self.position.clone());
        let mut unread = VecDeque::with_capacity(events.len());
        for stored in events {
            if position.misses_events_before(partition, stored.id) {
                let gap = gap(partition, position.of(partition), stored.id);
                let json = gap.to_json();
                // The gap's place is just before the next event, so that it is not delivered twice.
                unread.push_back(Unread { place: just_before(stored.id), event: Some(Wanted { id: gap.id, json }) });
            }
            position.advance(partition, stored.id);
            unread.push_back(Unread { place: stored.id, event: self.wanted(stored) });
        }
        unread
    }

    fn wanted(&self, stored: &StoredEvent) -> Option<Wanted> {
        match serde_json::from_str::<EventHead>(&stored.event) {
            Ok(head) => self.subscriber.wants(&head).then(|| Wanted { id: head.id, json: stored.event.clone() }),
            Err(error) => {
                error!(entry = %stored.id, partition = self.partition, %error, "an entry of the event feed is not an event");
                None
            }
        }
    }

    /// Takes a batch from the page, together with the unwanted events before and after it.
    fn take_batch(&mut self) -> Option<Batch> {
        let oldest = UnixMs(self.page.front()?.place.ms);
        let mut batch: Vec<(EntryId, Wanted)> = Vec::new();
        let mut bytes = 0;
        while let Some(Unread { place, event }) = self.page.pop_front_if(|unread| {
            unread.event.is_none() || batch.len() < self.subscriber.batch && bytes < BATCH_BYTES_MAX
        }) {
            self.position.advance(self.partition, place);
            if let Some(event) = event {
                bytes += event.json.len();
                batch.push((place, event));
            }
        }
        Some(Batch { webhook: self.webhook(batch), position: self.position.clone(), oldest })
    }

    fn webhook(&self, mut batch: Vec<(EntryId, Wanted)>) -> Option<WebhookRequest> {
        if self.subscriber.batch == 1 {
            let (_, event) = batch.pop()?;
            return Some(WebhookRequest { id: webhook_id(&event.id), body: event.json.into() });
        }
        let ((first, _), (last, _)) = (batch.first()?, batch.last()?);
        let events: Vec<&str> = batch.iter().map(|(_, event)| event.json.as_str()).collect();
        let body = format!("[{}]", events.join(","));
        // If `types` was changed, a batch between the same two events can have other contents after a takeover. The
        // digest gives it another id, so that a subscriber does not mistake it for a repeat.
        let digest = hex::encode(&Sha256::digest(&body)[..8]);
        let id = format!("batch:{}:{first}:{last}:{digest}", self.partition);
        Some(WebhookRequest { id, body: body.into() })
    }
}
