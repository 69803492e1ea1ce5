//! Counts for each contact what becomes of the messages of campaigns: reads the event feed.
//!
//! If the process dies: another one reads on. A batch and the position behind it are stored together, and an event that is
//! repeated counts once.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    domain::{BusinessId, EventType, LineId, Lines, Live, MessageFate, PartId, Phone, UnixMs},
    feed::Retelling,
    postgres::{Database, DatabaseError, campaign_results::CampaignResult},
    redis::{Store, StoreError, clock::Clock, duty::backoff, feed::FeedLimits, position::Position},
    telemetry::metrics::DutyGauge,
};

/// Maximum number of events in a transaction.
const BATCH_MAX: usize = 2_000;

/// In place of a position: every campaign has to be read.
const UNREAD: &str = "";

/// How many campaigns are read from Redis at once.
const CAMPAIGNS_MAX: usize = 100;

/// How long to wait once there is no further event.
const WAIT: Duration = Duration::from_millis(500);

/// Why a batch of events was not counted.
#[derive(Debug, thiserror::Error)]
enum NotCounted {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Redis(#[from] StoreError),
}

/// Counts what the events of the feed say about contacts.
pub(super) struct ResultsReader<'a> {
    pub(super) store: &'a Store,
    pub(super) database: &'a Database,
    pub(super) clock: &'a Clock,
    pub(super) lines: &'a Live<Lines>,
    /// How long recipients are stored after the end of their campaign.
    pub(super) retention: Duration,
    /// The age of the oldest event that is not counted, by partition.
    pub(super) ages: Vec<DutyGauge>,
}

impl ResultsReader<'_> {
    /// Runs until `stop`.
    pub(super) async fn run(&self, stop: &CancellationToken) {
        let mut failures = 0;
        while !stop.is_cancelled() {
            let wait = match self.step().await {
                Ok(has_more) => {
                    if failures > 0 {
                        info!("the statistics of contacts are counted again");
                    }
                    failures = 0;
                    if has_more { Duration::ZERO } else { WAIT }
                }
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        warn!(%error, "the statistics of contacts are not counted: tried again");
                    }
                    backoff(failures)
                }
            };
            stop.run_until_cancelled(sleep(wait)).await;
        }
    }

    /// Returns whether there may be more to count.
    async fn step(&self) -> Result<bool, NotCounted> {
        let has_earlier = self.database.count_earlier().await?;
        let Some(feed) = self.store.feed() else { return Ok(has_earlier) };
        let place = self.database.feed_place().await?;
        let Some(mut position) = known_position(place.position.as_deref(), feed) else {
            self.count_all(feed).await?;
            return Ok(true);
        };
        let (mut results, mut has_more) = (Vec::new(), has_earlier);
        for (partition, age) in feed.partitions().zip(&self.ages) {
            let events = self.store.events_after(partition, position.of(partition), BATCH_MAX).await?;
            has_more |= events.len() == BATCH_MAX;
            let waited = events.first().map_or(Duration::ZERO, |event| self.clock.now().since(UnixMs(event.id.ms)));
            age.set(waited.as_secs_f64());
            for event in events {
                if position.misses_events_before(partition, event.id) {
                    warn!(partition, after = %position.of(partition), next = %event.id,
                        "events were removed before they were counted: every campaign is read again");
                    self.count_all(feed).await?;
                    return Ok(true);
                }
                position.advance(partition, event.id);
                results.extend(result_of(&event.event));
            }
        }
        let position = position.to_string();
        if place.position.as_ref() != Some(&position) {
            self.database.store_results(&place, &results, &position, self.clock.now()).await?;
        }
        Ok(has_more)
    }

    /// Counts every campaign that is stored in Redis, and then goes on behind the events that there were before.
    async fn count_all(&self, feed: FeedLimits) -> Result<(), NotCounted> {
        // So that whoever takes over in between begins again.
        let place = self.database.feed_place().await?;
        self.database.store_results(&place, &[], UNREAD, self.clock.now()).await?;
        let place = self.database.feed_place().await?;
        let mut newest = Vec::new();
        for partition in feed.partitions() {
            newest.push(self.store.newest_event(partition).await?);
        }
        let mut retelling = Retelling::new(self.lines.clone(), self.retention);
        for campaigns in self.store.stored_campaigns().await?.chunks(CAMPAIGNS_MAX) {
            let records = self.store.campaigns(campaigns).await?;
            let parts: Vec<PartId> =
                records.into_iter().flatten().flat_map(|record| record.parts).map(|(part, _)| part).collect();
            for part in parts {
                let mut next = Some(0);
                while let Some(position) = next {
                    let (events, following) = retelling.events(self.store, part, position, self.clock.now()).await?;
                    let results: Vec<CampaignResult> = events.iter().filter_map(|event| result_of(event)).collect();
                    self.database.store_results(&place, &results, UNREAD, self.clock.now()).await?;
                    next = following;
                }
            }
        }
        let behind = Position::behind(newest).to_string();
        Ok(self.database.store_results(&place, &[], &behind, self.clock.now()).await?)
    }
}

/// The position that is stored; `None` if there is none, or the feed had other partitions then.
fn known_position(stored: Option<&str>, feed: FeedLimits) -> Option<Position> {
    Position::parse(stored.filter(|stored| *stored != UNREAD)?, feed).ok()
}

/// The fields of an event about a recipient.
#[derive(Deserialize)]
struct RecipientEvent<'a> {
    r#type: &'a str,
    at: UnixMs,
    business: BusinessId,
    line: LineId,
    recipient: &'a str,
    to: Option<Phone>,
    send: u8,
}

/// What an event says became of a message; `None` if it says no such thing.
fn result_of(event: &str) -> Option<CampaignResult> {
    let event: RecipientEvent<'_> = serde_json::from_str(event).ok()?;
    let fate = match event.r#type.parse().ok()? {
        EventType::RecipientDelivered | EventType::RecipientRead => MessageFate::Received,
        EventType::RecipientFailed => MessageFate::Failed,
        EventType::RecipientSkipped | EventType::RecipientExpired | EventType::RecipientCancelled => {
            MessageFate::NotSent
        }
        _ => return None,
    };
    let (part, row) = event.recipient.rsplit_once('.')?;
    let (part, row): (PartId, u32) = (part.parse().ok()?, row.parse().ok()?);
    let RecipientEvent { at, business, line, to, send, .. } = event;
    Some(CampaignResult { part, row, send, business, line, to, fate, at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_that_end_a_message_count() {
        let of = |kind: &str| {
            let event = format!(
                r#"{{"id":"x","type":"{kind}","at":"2026-11-22T17:41:15Z","business":"1001","line":"3001",
                "campaign":"01J9ZK3V5T8R7Q6P5N4M3K2J1H","recipient":"01J9ZK3V5T8R7Q6P5N4M3K2J1H.0.41","to":"+5491155550001",
                "wamid":"wamid.A","send":2,"rank":11}}"#
            );
            result_of(&event)
        };
        let read = of("recipient.read").expect("a result");
        assert_eq!((read.row, read.send, read.fate, read.part.number), (41, 2, MessageFate::Received, 0));
        assert_eq!(of("recipient.failed").map(|result| result.fate), Some(MessageFate::Failed));
        assert_eq!(of("recipient.skipped").map(|result| result.fate), Some(MessageFate::NotSent));
        for kind in ["recipient.accepted", "recipient.sent", "recipient.unknown", "campaign.state", "sky.fell"] {
            assert!(of(kind).is_none(), "{kind}");
        }
    }
}
