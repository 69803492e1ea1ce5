//! The event feed: streams of events. Each campaign has its events in one of the streams. The events of a stream are
//! numbered, so a reader can tell whether it missed some.
//!
//! An entry has the field `event`, an [`Event`] as JSON. Its id is the time in ms at which it was written and the
//! number of the event in its stream, from 1.
//!
//! If a writer dies: its successor appends the last events again, under new ids in the stream.

use std::{num::NonZeroU16, time::Duration};

use deadpool_redis::redis::cmd;
use serde::Serialize;

use super::{Call, Result, Store, StoreError, lines::ms, script};
use crate::domain::{CampaignId, EntryId, Event, EventType, UnixMs};

/// Maximum number of events in one call of the script, so that no call keeps Redis busy for long: about a millisecond.
const EVENTS_MAX: usize = 256;

/// How many streams the feed has, and how much of it is kept.
#[derive(Clone, Copy, Debug)]
pub struct FeedLimits {
    /// The number of streams.
    pub partitions: NonZeroU16,
    /// How long events are kept.
    pub retention: Duration,
    /// The maximum number of events in a stream.
    pub length_max: u64,
}

impl FeedLimits {
    /// The stream that has the events of `campaign`. Events of no campaign are in the first stream.
    pub fn partition(&self, campaign: Option<CampaignId>) -> u16 {
        let partition = campaign.map_or(0, |id| id.0.0 % u128::from(self.partitions.get()));
        u16::try_from(partition).expect("less than a u16")
    }

    /// Every stream.
    pub fn partitions(&self) -> impl Iterator<Item = u16> + use<> {
        0..self.partitions.get()
    }
}

/// An event in its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its id in the stream.
    pub id: EntryId,
    /// The event, a JSON object.
    pub event: String,
}

/// The fields that only `feed.gap` has.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Gap {
    /// The id in the stream of the last event that was read.
    pub after: EntryId,
    /// The id in the stream of the first event that is still there.
    pub next: EntryId,
}

/// The event that informs a reader of a stream that the events between `after` and `next` were removed unread. Every
/// reader that finds this gap gets the same event.
pub fn gap(partition: u16, after: EntryId, next: EntryId) -> Event<'static, Gap> {
    let id = format!("gap:{partition}:{after}:{next}");
    Event::new(id, EventType::FeedGap, UnixMs(next.ms), Gap { after, next })
}

/// Whether there were events between `before` and `id`, two events of a stream: the numbers of events have no gaps.
pub fn skips_numbers(before: EntryId, id: EntryId) -> bool {
    // The number is lower if Redis lost its last writes. The lost events are appended again.
    id.number > before.number + 1
}

/// A position between the event `id` and the event before it. `id` must not be the first event.
pub fn just_before(id: EntryId) -> EntryId {
    EntryId { number: id.number - 1, ..id }
}

impl Store {
    /// The same store with this feed. Without a feed it writes and reads no events.
    pub fn with_feed(self, feed: Option<FeedLimits>) -> Self {
        Self { feed, ..self }
    }

    /// The feed, if events are written.
    pub fn feed(&self) -> Option<FeedLimits> {
        self.feed
    }

    /// Appends events, each a JSON object, to the stream of `campaign`. Does nothing if no events are written.
    pub async fn append_events(&self, campaign: Option<CampaignId>, events: &[String]) -> Result<()> {
        let Some(feed) = self.feed else { return Ok(()) };
        self.append_to(feed.partition(campaign), events).await
    }

    /// Appends events to a stream. In a cluster, waits until they are durable, so that writes elsewhere may depend on
    /// them.
    pub async fn append_to(&self, partition: u16, events: &[String]) -> Result<()> {
        let Some(feed) = self.feed else { return Ok(()) };
        let key = self.keys.events(partition, feed.partitions.get());
        let calls = events.chunks(EVENTS_MAX).map(|events| {
            let call = Call::new(&script::APPEND_EVENTS, std::slice::from_ref(&key));
            let call = call.arg(feed.length_max).arg(ms(feed.retention));
            events.iter().fold(call, |call, event| call.arg(event))
        });
        self.run_all(&calls.collect::<Vec<_>>()).await?;
        self.wait_durable_if_spread(&[key]).await
    }

    /// The first events of a stream behind `after`, at most `limit`, in order.
    pub async fn events_after(&self, partition: u16, after: EntryId, limit: usize) -> Result<Vec<StoredEvent>> {
        let Some(feed) = self.feed else { return Ok(Vec::new()) };
        let key = self.keys.events(partition, feed.partitions.get());
        let mut range = cmd("XRANGE");
        range.arg(&key).arg(format!("({after}")).arg("+").arg("COUNT").arg(limit);
        let entries: Vec<(String, Vec<String>)> = self.query("XRANGE events", &range).await?;
        let read = |(id, fields): (String, Vec<String>)| {
            let event = fields.into_iter().nth(1)?;
            Some(StoredEvent { id: id.parse().ok()?, event })
        };
        let corrupt = || StoreError::Corrupt { key: key.clone(), reason: "an entry is not an event".into() };
        entries.into_iter().map(|entry| read(entry).ok_or_else(corrupt)).collect()
    }

    /// The id of the newest event that was ever in a stream; the lowest id if there was none.
    pub async fn newest_event(&self, partition: u16) -> Result<EntryId> {
        let Some(feed) = self.feed else { return Ok(EntryId::default()) };
        let key = self.keys.events(partition, feed.partitions.get());
        let newest: Option<String> = self.call(Call::new(&script::NEWEST_EVENT, &[key])).await?;
        Ok(newest.and_then(|id| id.parse().ok()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_left_out_is_a_gap() {
        let at = |number| EntryId { ms: 1_000, number };
        assert!(skips_numbers(at(5), at(7)));
        for (before, number) in [(at(5), 6), (at(9), 7)] {
            assert!(!skips_numbers(before, at(number)), "{before}");
        }
    }
}
