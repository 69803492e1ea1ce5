//! Subscribers in Redis: the position of each in the feed, and whether it fails or is disabled.
//!
//! Owns: HASH `subscriber:ID`. Its `version` changes with each change by an operator, and when a worker begins to
//! deliver. A delivery stores its result only if the version is still the one that it began with, so a delivery in
//! flight never undoes such a change. Versions are random, so a version that Redis lost is not used again.
//!
//! If a worker dies: the next one begins at the stored position, and repeats the last batch if its success was not
//! stored yet.
//! If Redis loses its last writes: the subscriber gets the events of these seconds again.

use std::collections::HashMap;

use deadpool_redis::redis::Pipeline;
use futures_util::future::try_join_all;

use super::{
    Call, Result, Store,
    feed::{FeedLimits, just_before},
    position::Position,
    script,
};
use crate::domain::{EntryId, SubscriberId, UnixMs};

const VERSION: &str = "version";
const DELIVERER: &str = "deliverer";
const POSITION: &str = "position";
const FAILING_SINCE: &str = "failing_since";
const LAST_ERROR: &str = "last_error";
const DISABLED_BECAUSE: &str = "disabled_because";

/// A subscriber as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriberRecord {
    /// The position behind the last event that was delivered.
    pub position: Position,
    /// When deliveries began to fail, if none has succeeded since.
    pub failing_since: Option<UnixMs>,
    /// Why the last delivery failed, unless one succeeded since.
    pub last_error: Option<String>,
    /// Why it is disabled, if it is. It gets nothing until an operator enables it.
    pub disabled_because: Option<String>,
    /// The worker that delivers: see [`Store::begin_delivery`].
    pub deliverer: String,
    version: String,
}

/// What a delivery stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryChange<'a> {
    /// All events up to this position were delivered, and the subscriber does not fail.
    Told(&'a Position),
    /// A delivery failed.
    Failing {
        /// When the first delivery failed.
        since: UnixMs,
        /// Why this delivery failed.
        error: &'a str,
    },
    /// The subscriber is disabled.
    Disabled {
        /// Why, for people.
        because: &'a str,
    },
}

/// The part of the feed after a position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedLag {
    /// The number of events.
    pub events: u64,
    /// When the oldest of them was written; `None` if there is none.
    pub oldest: Option<UnixMs>,
}

impl Store {
    /// Begins the deliveries of `deliverer`, a name that is unique to this worker and this call. From now on deliveries
    /// under earlier names store nothing. A new subscriber starts after the newest event.
    ///
    /// Returns `None` if the event feed is disabled.
    pub async fn begin_delivery(&self, id: &SubscriberId, deliverer: &str) -> Result<Option<SubscriberRecord>> {
        let Some(feed) = self.feed else { return Ok(None) };
        let key = self.keys.subscriber(id);
        let newest = self.newest_position(feed).await?;
        let call = Call::new(&script::BEGIN_DELIVERY, std::slice::from_ref(&key));
        let fields = self.call(call.arg(deliverer).arg(newest.to_string())).await?;
        Ok(record(fields, feed))
    }

    /// The records of subscribers, in the order of `ids`; `None` for a subscriber without any delivery so far.
    pub async fn subscribers(&self, ids: &[&SubscriberId]) -> Result<Vec<Option<SubscriberRecord>>> {
        let Some(feed) = self.feed else { return Ok(vec![None; ids.len()]) };
        let mut pipeline = Pipeline::with_capacity(ids.len());
        for id in ids {
            pipeline.hgetall(self.keys.subscriber(id));
        }
        let stored: Vec<HashMap<String, String>> = self.query_all("HGETALL subscriber", &pipeline).await?;
        Ok(stored.into_iter().map(|fields| record(fields, feed)).collect())
    }

    /// Stores what a delivery changed. Returns false, and stores nothing, if an operator changed the subscriber since
    /// `record` was read, or if another worker delivers to it.
    pub async fn settle_delivery(
        &self,
        id: &SubscriberId,
        record: &SubscriberRecord,
        change: &DeliveryChange<'_>,
    ) -> Result<bool> {
        let call = Call::new(&script::CHANGE_SUBSCRIBER, &[self.keys.subscriber(id)]).arg(&record.version);
        let call = match change {
            DeliveryChange::Told(position) => {
                let call = call.arg(POSITION).arg(position.to_string());
                call.arg(FAILING_SINCE).arg("").arg(LAST_ERROR).arg("")
            }
            DeliveryChange::Failing { since, error } => call.arg(FAILING_SINCE).arg(since.0).arg(LAST_ERROR).arg(error),
            DeliveryChange::Disabled { because } => call.arg(DISABLED_BECAUSE).arg(because),
        };
        self.call(call).await
    }

    /// Sets the position of a subscriber, behind which its deliveries continue.
    pub async fn set_position(&self, id: &SubscriberId, position: &Position) -> Result<()> {
        self.call(self.change_subscriber(id).arg(POSITION).arg(position.to_string())).await
    }

    /// Enables a subscriber, and resets its failures.
    pub async fn enable_subscriber(&self, id: &SubscriberId) -> Result<()> {
        let call = self.change_subscriber(id);
        let without = |call: Call, field: &str| call.arg(field).arg("");
        self.call([DISABLED_BECAUSE, FAILING_SINCE, LAST_ERROR].into_iter().fold(call, without)).await
    }

    fn change_subscriber(&self, id: &SubscriberId) -> Call {
        Call::new(&script::CHANGE_SUBSCRIBER, &[self.keys.subscriber(id)])
            .arg("")
            .arg(VERSION)
            .arg(rand::random::<u64>())
    }

    /// The position behind the newest events.
    pub async fn newest_position(&self, feed: FeedLimits) -> Result<Position> {
        try_join_all(feed.partitions().map(|partition| self.newest_event(partition))).await.map(Position::behind)
    }

    /// The position just before the first events that were written at `time` or later.
    pub async fn position_at(&self, feed: FeedLimits, time: UnixMs) -> Result<Position> {
        let mut ids = Vec::new();
        for partition in feed.partitions() {
            let first = self.events_after(partition, EntryId { ms: time.0, number: 0 }, 1).await?;
            ids.push(match first.first() {
                Some(event) => just_before(event.id),
                None => self.newest_event(partition).await?,
            });
        }
        Ok(Position::behind(ids))
    }

    /// The events after a position, of any type.
    pub async fn feed_lag(&self, feed: FeedLimits, position: &Position) -> Result<FeedLag> {
        let mut lag = FeedLag::default();
        for partition in feed.partitions() {
            let first = self.events_after(partition, position.of(partition), 1).await?;
            let Some(first) = first.first() else { continue };
            let newest = self.newest_event(partition).await?;
            lag.events += (newest.number + 1).saturating_sub(first.id.number);
            lag.oldest = lag.oldest.into_iter().chain([UnixMs(first.id.ms)]).min();
        }
        Ok(lag)
    }
}

impl SubscriberRecord {
    /// Whether an operator changed the subscriber, or another worker began to deliver to it, since `earlier` was read.
    pub fn was_changed_since(&self, earlier: &SubscriberRecord) -> bool {
        self.version != earlier.version
    }
}

/// `None` if nothing is stored. If the position is for another number of partitions, deliveries start with the oldest
/// events that are kept.
fn record(mut fields: HashMap<String, String>, feed: FeedLimits) -> Option<SubscriberRecord> {
    let position = fields.remove(POSITION)?;
    Some(SubscriberRecord {
        position: Position::parse(&position, feed).unwrap_or_else(|_| Position::oldest(feed)),
        failing_since: fields.remove(FAILING_SINCE).and_then(|ms| ms.parse().ok()).map(UnixMs),
        last_error: fields.remove(LAST_ERROR),
        disabled_because: fields.remove(DISABLED_BECAUSE),
        deliverer: fields.remove(DELIVERER).unwrap_or_default(),
        version: fields.remove(VERSION)?,
    })
}
