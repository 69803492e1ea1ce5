//! Changes that the event feed has not published yet: notes of what changed, and the changes themselves. *Told*, in
//! names, means published as an event.
//!
//! Every operation that changes recipients, a campaign or the messages of a line also writes a note, if possible in the
//! same round trip. A relay takes the notes, reads the changes that are not published yet, and appends events.
//!
//! The position of the feed is stored beside the changes: in the hash of the part or campaign, or as the position of a
//! consumer group. If Redis loses its last writes, it loses that position with the changes.
//!
//! If a process dies between a change and its note, or a relay dies after it took notes: the next relay starts by
//! comparing every part and campaign with what is published.

use std::{collections::HashMap, fmt, str::FromStr};

use deadpool_redis::redis::{FromRedisValue, Pipeline, cmd};

use super::{
    Call, Result, Store, StoreError,
    history::{CHANGE_BYTES, Change, changes},
    script,
    stored::reason_of,
};
use crate::domain::{CampaignId, FailureReason, LineId, PartId, UnixMs};

/// The field of `told` that exists once the feed has begun. The fields of states have a colon.
const BEGUN: &str = "begun";

/// Parts that are compared in one round trip.
const COMPARED_AT_ONCE: usize = 1_000;

/// Campaigns that are read in one round trip.
const CAMPAIGNS_AT_ONCE: usize = 64;

/// A subject with changes that the feed has to publish.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Untold {
    /// Recipients of a part changed.
    Part(PartId),
    /// A campaign changed.
    Campaign(CampaignId),
    /// A line received messages.
    Inbound(LineId),
}

impl fmt::Display for Untold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Untold::Part(part) => part.fmt(f),
            Untold::Campaign(campaign) => campaign.fmt(f),
            Untold::Inbound(line) => write!(f, "l:{line}"),
        }
    }
}

impl FromStr for Untold {
    type Err = BadUntold;

    fn from_str(text: &str) -> std::result::Result<Self, BadUntold> {
        match text.strip_prefix("l:") {
            Some(line) => Ok(Untold::Inbound(line.into())),
            None if text.contains('.') => text.parse().map(Untold::Part).map_err(|_| BadUntold),
            None => text.parse().map(Untold::Campaign).map_err(|_| BadUntold),
        }
    }
}

/// The text is not the name of something that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadUntold;

/// Changes of a part, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartChanges {
    /// The changes.
    pub changes: Vec<Change>,
    /// The position in the history after these changes: the argument of [`Store::set_told`].
    pub position: u64,
    /// Whether there are more changes.
    pub has_more: bool,
    /// Rises when recipients of the part are erased.
    pub erased: u64,
}

/// What the script `read_changes` returns.
type ReadChanges = (u64, u8, Vec<u8>, u64);

impl From<ReadChanges> for PartChanges {
    fn from((position, more, bytes, erased): ReadChanges) -> Self {
        Self { changes: changes(&bytes).collect(), position, has_more: more == 1, erased }
    }
}

impl Store {
    /// The calls that write notes of what changed; none if no events are written.
    fn notes(&self, changed: impl IntoIterator<Item = Untold>) -> Vec<Call> {
        let Some(feed) = self.feed else { return Vec::new() };
        let mut by_partition: Vec<Vec<String>> = vec![Vec::new(); feed.partitions.get().into()];
        for changed in changed {
            let campaign = match &changed {
                Untold::Part(part) => Some(part.campaign),
                Untold::Campaign(campaign) => Some(*campaign),
                Untold::Inbound(_) => None,
            };
            by_partition[usize::from(feed.partition(campaign))].push(changed.to_string());
        }
        let call = |(partition, changed): (u16, Vec<String>)| {
            let key = self.keys.changed(partition, feed.partitions.get());
            (!changed.is_empty()).then(|| Call::new(&script::MARK_CHANGED, &[key]).arg(changed))
        };
        feed.partitions().zip(by_partition).filter_map(call).collect()
    }

    /// Writes notes of what changed.
    pub async fn note_changed(&self, changed: impl IntoIterator<Item = Untold>) -> Result<()> {
        self.run_all(&self.notes(changed)).await
    }

    /// As [`Store::call`], and writes a note of what the call changes, in the same round trip. In a cluster the note
    /// follows the change, because a relay could otherwise take the note before the change is made. The call must be
    /// safe to repeat.
    pub(super) async fn call_noting<T: FromRedisValue>(&self, call: Call, changed: Untold) -> Result<T> {
        if self.is_spread() {
            let result = self.call(call).await?;
            self.note_changed([changed]).await?;
            return Ok(result);
        }
        let mut calls = vec![call];
        calls.extend(self.notes([changed]));
        let mut results = self.call_all(&calls).await?;
        check_notes(&mut results, 1)?;
        results.swap_remove(0)
    }

    /// As [`Store::call_journaled`], and writes notes of what the calls change, as [`Store::call_noting`] does.
    pub(super) async fn call_journaled_noting<T: FromRedisValue>(
        &self,
        mut calls: Vec<Call>,
        changed: impl IntoIterator<Item = Untold>,
    ) -> Result<Vec<Result<T>>> {
        let (n, notes) = (calls.len(), self.notes(changed));
        if self.is_spread() {
            let results = self.call_journaled(calls).await?;
            self.call_journaled::<u64>(notes).await?;
            return Ok(results);
        }
        calls.extend(notes);
        let mut results = self.call_journaled(calls).await?;
        check_notes(&mut results, n)?;
        Ok(results)
    }

    /// Takes at most `limit` notes of a partition, the oldest first, each with the time of the first unpublished
    /// change.
    pub async fn take_changed(&self, partition: u16, limit: usize) -> Result<Vec<(Untold, UnixMs)>> {
        let Some(feed) = self.feed else { return Ok(Vec::new()) };
        let key = self.keys.changed(partition, feed.partitions.get());
        let taken: Vec<(String, f64)> = self.query("ZPOPMIN changed", cmd("ZPOPMIN").arg(key).arg(limit)).await?;
        Ok(taken.into_iter().filter_map(|(name, at)| Some((name.parse().ok()?, UnixMs(at as u64)))).collect())
    }

    /// Writes notes for those of `parts` that have unpublished changes.
    pub async fn note_untold_parts(&self, parts: &[PartId]) -> Result<()> {
        for parts in parts.chunks(COMPARED_AT_ONCE) {
            let mut pipeline = Pipeline::with_capacity(2 * parts.len());
            for &part in parts {
                pipeline.llen(self.keys.history(part)).hget(self.keys.part(part), "told");
            }
            let lengths: Vec<Option<u64>> = self.query_all("LLEN history", &pipeline).await?;
            let untold = parts.iter().zip(lengths.as_chunks::<2>().0).filter(|(_, [length, told])| length > told);
            self.note_changed(untold.map(|(part, _)| Untold::Part(*part))).await?;
        }
        Ok(())
    }

    /// The unpublished changes of parts, in one round trip: from each part at least one entry of the history, and not
    /// many more than `limit` changes.
    pub async fn untold_changes(&self, parts: &[PartId], limit: usize) -> Result<Vec<PartChanges>> {
        let call = |part: &PartId| {
            let keys = [self.keys.part(*part), self.keys.history(*part)];
            Call::new(&script::READ_CHANGES, &keys).arg(limit * CHANGE_BYTES)
        };
        let read = self.call_all::<ReadChanges>(&parts.iter().map(call).collect::<Vec<_>>()).await?;
        read.into_iter().map(|read| Ok(PartChanges::from(read?))).collect()
    }

    /// The changes of a part after a position in its history, published or not: at least one entry, and not many more
    /// than `limit` changes.
    pub async fn changes_after(&self, part: PartId, position: u64, limit: usize) -> Result<PartChanges> {
        let keys = [self.keys.part(part), self.keys.history(part)];
        let call = Call::new(&script::READ_CHANGES, &keys).arg(limit * CHANGE_BYTES).arg(position);
        Ok(self.call::<ReadChanges>(call).await?.into())
    }

    /// Why recipients of a part failed, are retried or have no result, in the order of `rows`.
    pub async fn reasons(&self, part: PartId, rows: &[u16]) -> Result<Vec<Option<FailureReason>>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let codes: Vec<Option<u32>> =
            self.query("HMGET why", cmd("HMGET").arg(self.keys.error_codes(part)).arg(rows)).await?;
        Ok(codes.into_iter().map(|code| code.map(reason_of)).collect())
    }

    /// The numbers of the last claims of `rows`, in order; `None` for a row whose number fits its state byte.
    pub async fn sends(&self, part: PartId, rows: &[u16]) -> Result<Vec<Option<u8>>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        self.query("HMGET sends", cmd("HMGET").arg(self.keys.sends(part)).arg(rows)).await
    }

    /// Stores the published position in the history of parts, in one round trip.
    pub async fn set_told(&self, parts: &[(PartId, u64)]) -> Result<()> {
        let call = |(part, position): &(PartId, u64)| Call::new(&script::TOLD, &[self.keys.part(*part)]).arg(*position);
        self.run_all(&parts.iter().map(call).collect::<Vec<_>>()).await
    }

    /// The last published version of each campaign; `None` if none was published.
    pub async fn told_versions(&self, campaigns: &[CampaignId]) -> Result<Vec<Option<u64>>> {
        let mut pipeline = Pipeline::with_capacity(campaigns.len());
        for &campaign in campaigns {
            pipeline.hget(self.keys.campaign(campaign), "told");
        }
        self.query_all("HGET told", &pipeline).await
    }

    /// Stores the last published version of a campaign.
    pub async fn set_told_version(&self, campaign: CampaignId, version: u64) -> Result<()> {
        self.call::<u8>(Call::new(&script::TOLD, &[self.keys.campaign(campaign)]).arg(version)).await.map(drop)
    }

    /// The last published states, by field.
    pub async fn told_states(&self) -> Result<HashMap<String, String>> {
        self.query("HGETALL told", cmd("HGETALL").arg(self.keys.told())).await
    }

    /// Stores published states, and removes the fields in `ended`.
    pub async fn set_told_states(&self, states: &[(String, String)], ended: &[String]) -> Result<()> {
        let (key, mut pipeline) = (self.keys.told(), Pipeline::new());
        for (field, state) in states {
            pipeline.hset(&key, field, state);
        }
        for field in ended {
            pipeline.hdel(&key, field);
        }
        self.query_all::<u8>("HSET told", &pipeline).await.map(drop)
    }

    /// Begins the feed, unless it has begun: marks everything so far as published, because the feed starts with new
    /// changes. Each process calls this before it does anything else, so no change is missed. Does nothing if no events
    /// are written.
    pub async fn begin_feed(&self) -> Result<()> {
        if self.feed.is_none() || self.feed_has_begun().await? {
            return Ok(());
        }
        for ids in self.stored_campaigns().await?.chunks(CAMPAIGNS_AT_ONCE) {
            for record in self.campaigns(ids).await?.into_iter().flatten() {
                let parts: Vec<PartId> = record.parts.into_iter().map(|(part, _)| part).collect();
                self.skip_past(&parts).await?;
                self.set_told_version(record.campaign.id, record.version).await?;
            }
        }
        self.skip_past_inbound(&self.known_lines().await?.into_keys().collect::<Vec<_>>()).await?;
        self.set_feed_begun().await
    }

    async fn feed_has_begun(&self) -> Result<bool> {
        self.query("HEXISTS begun", cmd("HEXISTS").arg(self.keys.told()).arg(BEGUN)).await
    }

    /// Stores that the feed has begun.
    pub async fn set_feed_begun(&self) -> Result<()> {
        self.query::<u8>("HSET begun", cmd("HSET").arg(self.keys.told()).arg(BEGUN).arg(1)).await.map(drop)
    }

    /// Marks all changes of parts so far as published, without publishing them.
    async fn skip_past(&self, parts: &[PartId]) -> Result<()> {
        for parts in parts.chunks(COMPARED_AT_ONCE) {
            let mut pipeline = Pipeline::with_capacity(parts.len());
            for &part in parts {
                pipeline.llen(self.keys.history(part));
            }
            let lengths: Vec<u64> = self.query_all("LLEN history", &pipeline).await?;
            self.set_told(&parts.iter().copied().zip(lengths).collect::<Vec<_>>()).await?;
        }
        Ok(())
    }

    /// Ends the feed, because no events are written any more. A later feed publishes nothing of the time in between,
    /// and the messages of `lines` no longer wait for the feed.
    pub async fn end_feed(&self, lines: &[LineId]) -> Result<()> {
        self.query::<u8>("HDEL begun", cmd("HDEL").arg(self.keys.told()).arg(BEGUN)).await?;
        self.release_inbound(lines).await
    }
}

/// Removes the results of the notes, which follow the results of `n` calls.
///
/// Errors: a note could not be written, for example because Redis is full. The caller repeats its calls and their
/// notes.
fn check_notes<T>(results: &mut Vec<Result<T>>, n: usize) -> Result<()> {
    // The result of a note does not parse as `T`. That error is not transient.
    let failed = results.drain(n..).find_map(|note| note.err().filter(StoreError::is_transient));
    failed.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let campaign: CampaignId = "01J9ZK3V5T8R7Q6P5N4M3K2J1H".parse().expect("an id");
        let part = PartId { campaign, number: 7 };
        for untold in [Untold::Part(part), Untold::Campaign(campaign), Untold::Inbound("3.1".into())] {
            assert_eq!(untold.to_string().parse(), Ok(untold));
        }
        assert_eq!("x".parse::<Untold>(), Err(BadUntold));
    }
}
