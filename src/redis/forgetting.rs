//! Erases a person: removes the number, the values, the message ids and the messages, and keeps the statistics.
//!
//! Owns: HASH `forgetting`: digits of the person → start of the erasure, in ms. The entry exists until the erasure is
//! complete.
//!
//! If the process dies: the entry remains, and housekeeping repeats the erasure, each step of which can be repeated.
//! If Redis loses its last writes: the entry is made durable before the first step, and removed after all steps are
//! durable.
//! Never: changes the state of a recipient whose message may have been sent.
//!
//! Costs: two commands for each campaign whose recipients are stored, and two for each part, which return about a
//! kilobyte. In parts with rows that are not recipients, such as duplicates, the state bytes and the chunks with such
//! rows are read too. All inbound messages and all events are read once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use deadpool_redis::redis::{Pipeline, Value, cmd};
use serde::Deserialize;
use tracing::info;

use super::{
    Call, Result, Store, StoreError,
    campaigns::CampaignRecord,
    chunk::{CHUNK_ROWS_MAX, Chunk},
    parts::PhoneQuery,
    phone_index::{self, IndexedBy},
    script,
    untold::Untold,
    wamids::{BLOCK_ROWS, without_rows},
};
use crate::domain::{
    BusinessId, CampaignId, CampaignState, EntryId, LineId, Lines, PartId, Person, PersonHash, Phone, SkipReason,
    TokenKey, UnixMs,
};

/// Campaigns that are searched together.
const CAMPAIGNS_AT_ONCE: usize = 64;
/// Parts that are searched together.
const PARTS_AT_ONCE: usize = 64;
/// Entries of a stream that are read in one command.
const ENTRIES_AT_ONCE: usize = 500;

/// The age at which housekeeping takes over an erasure: longer than a call may take.
pub const TAKEN_OVER_AFTER: Duration = Duration::from_secs(120);

/// Where a person can be found besides campaigns.
#[derive(Clone)]
pub struct Surroundings {
    /// Every line that is configured, or in the registry of known lines.
    pub lines: Vec<LineId>,
    /// Every configured business.
    pub businesses: Vec<BusinessId>,
    /// The ids in the business portfolio by which the person is known.
    pub user_ids: Vec<String>,
    /// The key with which people are hashed.
    pub token_key: TokenKey,
}

/// The data of a person that were removed, as counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Campaigns that had the person as a recipient.
    pub campaigns: u64,
    /// The person's rows in these campaigns: more than one in a campaign only if release 0.1.0 created the campaign.
    pub recipients: u64,
    /// Those of these rows that were still to be sent, and are skipped now.
    pub skipped: u64,
    /// Messages from the person.
    pub messages: u64,
    /// Events about the person.
    pub events: u64,
    /// Businesses that suppress the person. The suppressions stay, without the number.
    pub suppressions: u64,
    /// Those of these suppressions that had the number.
    pub suppressed_numbers: u64,
    /// Dead letters that name the person. They are not deleted, because their other recipients would be lost with them.
    pub dead_letters: Vec<EntryId>,
}

/// A chunk that may contain the person.
type ChunkId = (PartId, u16);

impl Store {
    /// Erases a person everywhere, and returns once that is durable, as far as [`Store::make_durable`] can confirm it.
    ///
    /// After the return, no row of the person is claimed any more. A message in flight keeps its state, and Meta's
    /// statuses about it still count. Recipients who are uploaded during the call or later are not erased.
    ///
    /// Errors: some steps may be done. Housekeeping repeats all of them later.
    pub async fn forget(&self, person: Person, around: &Surroundings, now: UnixMs) -> Result<Forgotten> {
        // Fails if the incarnation changes, so that the entry is not removed after Redis lost a step.
        let store = self.in_this_incarnation();
        let (key, field) = (self.keys.forgetting(), person.digits());
        store.query::<u8>("HSETNX forgetting", cmd("HSETNX").arg(&key).arg(field).arg(now.0)).await?;
        store.make_durable().await?;
        let mut forgotten = Forgotten::default();
        store.forget_in_campaigns(person, now, &mut forgotten).await?;
        store.forget_in_businesses(person, around, &mut forgotten).await?;
        for line in &around.lines {
            forgotten.messages += store.forget_in_stream(&self.keys.inbound(line), "message", person, around).await?;
        }
        // If the feed was turned off, its events may still be stored.
        let partitions = self.feed.map_or(1, |feed| feed.partitions.get());
        for partition in 0..partitions {
            let stream = self.keys.events(partition, partitions);
            forgotten.events += store.forget_in_stream(&stream, "event", person, around).await?;
        }
        forgotten.dead_letters = store.dead_letters_of(person).await?;
        store.make_durable().await?;
        store.query::<u8>("HDEL forgetting", cmd("HDEL").arg(&key).arg(field)).await?;
        store.make_durable().await?;
        Ok(forgotten)
    }

    /// Where people can be found, with these configured lines and businesses.
    pub async fn surroundings(&self, lines: &Lines, businesses: &[BusinessId]) -> Result<Surroundings> {
        let listed = self.known_lines().await?.into_keys();
        let lines: BTreeSet<LineId> = lines.iter().map(|line| line.id.clone()).chain(listed).collect();
        let token_key = self.token_key().await?.get();
        let (lines, businesses) = (lines.into_iter().collect(), businesses.to_vec());
        Ok(Surroundings { lines, businesses, user_ids: Vec::new(), token_key })
    }

    /// Finishes erasures that were begun more than [`TAKEN_OVER_AFTER`] ago and are not complete.
    pub async fn finish_forgetting(&self, lines: &Lines, businesses: &[BusinessId], now: UnixMs) -> Result<()> {
        let begun = self.forgetting().await?;
        for (person, _) in begun.into_iter().filter(|(_, since)| now.since(*since) > TAKEN_OVER_AFTER) {
            let around = self.surroundings(lines, businesses).await?;
            let forgotten = self.forget(person, &around, now).await?;
            info!(?person, recipients = forgotten.recipients, "a forgetting that was interrupted is finished");
        }
        Ok(())
    }

    /// The people who are being erased, and since when.
    pub async fn forgetting(&self) -> Result<Vec<(Person, UnixMs)>> {
        let key = self.keys.forgetting();
        let people: HashMap<u64, u64> = self.query("HGETALL forgetting", cmd("HGETALL").arg(key)).await?;
        let person = |(digits, since)| Some((Phone::from_digits(digits)?.into(), UnixMs(since)));
        Ok(people.into_iter().filter_map(person).collect())
    }

    async fn forget_in_campaigns(&self, person: Person, now: UnixMs, forgotten: &mut Forgotten) -> Result<()> {
        let mut before = None;
        loop {
            let ids = self.newest_campaigns(before, CAMPAIGNS_AT_ONCE).await?;
            let Some(&last) = ids.last() else { return Ok(()) };
            before = Some(last);
            let records = self.campaigns(&ids).await?.into_iter().flatten().filter(|record| !record.forgotten);
            let records: Vec<CampaignRecord> = records.collect();
            for record in records.iter().filter(|record| takes_recipients(record)) {
                self.drain_outbox(record.campaign.id).await?;
            }
            let indexed = self.indexed(person, &records).await?;
            let mut concerned = BTreeSet::new();
            for (part, start) in self.chunks_to_search(&indexed, &records).await? {
                let (recipients, skipped) = self.forget_in_chunk(person, part, start, now).await?;
                forgotten.recipients += recipients;
                forgotten.skipped += skipped;
                concerned.extend((recipients > 0).then_some(part.campaign));
            }
            forgotten.campaigns += concerned.len() as u64;
            // The index goes last, because a repetition finds the chunk through it.
            for (query, _) in &indexed {
                self.forget_in_index(*query).await?;
            }
        }
    }

    /// The rows of the person in the indexes of campaigns, each with the query that found it.
    async fn indexed(&self, person: Person, records: &[CampaignRecord]) -> Result<Vec<(PhoneQuery, (PartId, u16))>> {
        let mut queries: Vec<PhoneQuery> = records.iter().flat_map(|record| queries(person, record)).collect();
        let mut indexed = Vec::new();
        // The loop ends, because an index grows only while recipients are uploaded.
        while !queries.is_empty() {
            let found = self.find_phones(&queries).await?;
            let (found, missing): (Vec<_>, Vec<_>) =
                queries.into_iter().zip(found).partition(|(_, location)| location.is_some());
            indexed.extend(found.into_iter().filter_map(|(query, location)| Some((query, location?))));
            // If an upload split buckets meanwhile, the entry may have moved.
            queries = Vec::new();
            let growing = |query: &PhoneQuery| {
                records.iter().any(|record| record.campaign.id == query.campaign && takes_recipients(record))
            };
            for (query, _) in missing.into_iter().filter(|(query, _)| growing(query)) {
                let buckets = self.buckets(query.campaign).await?;
                queries
                    .extend(buckets.filter(|now| *now != query.buckets).map(|buckets| PhoneQuery { buckets, ..query }));
            }
        }
        Ok(indexed)
    }

    /// The number of buckets in the index of a campaign; `None` if there is no such campaign.
    async fn buckets(&self, id: CampaignId) -> Result<Option<u32>> {
        self.query("HGET buckets", cmd("HGET").arg(self.keys.campaign(id)).arg("buckets")).await
    }

    /// The chunks of campaigns that may contain the person: those that the index names, and those with rows that are
    /// not recipients, because the index lacks these rows. They are duplicates, or belong to an interrupted upload.
    async fn chunks_to_search(
        &self,
        indexed: &[(PhoneQuery, (PartId, u16))],
        records: &[CampaignRecord],
    ) -> Result<BTreeSet<ChunkId>> {
        let mut rows: BTreeMap<PartId, Vec<u16>> = BTreeMap::new();
        for (_, (part, row)) in indexed {
            rows.entry(*part).or_default().push(*row);
        }
        let parts: Vec<PartId> = records.iter().flat_map(|record| &record.parts).map(|(part, _)| *part).collect();
        let mut chunks = BTreeSet::new();
        for parts in parts.chunks(PARTS_AT_ONCE) {
            for (&part, layout) in parts.iter().zip(self.layouts(parts).await?) {
                let found = rows.get(&part).into_iter().flatten().filter_map(|row| layout.start_of(*row));
                chunks.extend(found.map(|start| (part, start)));
                if layout.has_other_rows() {
                    let states = self.state_bytes(part).await?;
                    chunks.extend(layout.with_other_rows(&states).map(|start| (part, start)));
                }
            }
        }
        Ok(chunks)
    }

    /// Where the chunks of parts begin, in one round trip.
    async fn layouts(&self, parts: &[PartId]) -> Result<Vec<Layout>> {
        let mut pipeline = Pipeline::with_capacity(2 * parts.len());
        for &part in parts {
            pipeline.cmd("HMGET").arg(self.keys.part(part)).arg("recipients").arg("rows");
            pipeline.cmd("HKEYS").arg(self.keys.chunks(part));
        }
        let answers: Vec<Vec<Option<u32>>> = self.query_all("HKEYS chunks", &pipeline).await?;
        let layout = |[counts, starts]: &[Vec<Option<u32>>; 2]| {
            let count = |n: usize| counts.get(n).copied().flatten().unwrap_or(0);
            let mut starts: Vec<u16> = starts.iter().flatten().filter_map(|start| u16::try_from(*start).ok()).collect();
            starts.sort_unstable();
            Layout { recipients: count(0), rows: count(1), starts }
        };
        Ok(answers.as_chunks().0.iter().map(layout).collect())
    }

    /// Erases the person in a chunk. Returns the number of the person's rows in it, and how many of them are skipped
    /// now.
    async fn forget_in_chunk(&self, person: Person, part: PartId, start: u16, now: UnixMs) -> Result<(u64, u64)> {
        // The loop ends, because the script refuses only if another process has just erased a person from the chunk, or
        // stored the id of a message.
        loop {
            let read = cmd("HGET").arg(self.keys.chunks(part)).arg(start).clone();
            // The retention of the recipients may have ended meanwhile.
            let Some(stored) = self.query::<Option<Vec<u8>>>("HGET chunk", &read).await? else { return Ok((0, 0)) };
            let chunk = Chunk::decode(&stored).map_err(|error| StoreError::Corrupt {
                key: self.keys.chunks(part),
                reason: format!("chunk {start}: {error}"),
            })?;
            let is_person = |number: &Option<Phone>| number.map(Person::from) == Some(person);
            let indexes: Vec<usize> =
                (0..).zip(chunk.numbers()).filter(|(_, number)| is_person(number)).map(|(index, _)| index).collect();
            if indexes.is_empty() {
                return Ok((0, 0));
            }
            let rows: Vec<u16> = indexes.iter().map(|index| start + *index as u16).collect();
            let call = self.erasure(part, now).arg(start).arg(stored).arg(chunk.encode_without(&indexes));
            let call = call.arg(SkipReason::Forgotten.byte()).arg(packed(&rows));
            let call = self.erasure_of_ids(call, part, &rows).await?;
            if let Some(counts) = self.call_noting::<Option<(u64, u64)>>(call, Untold::Part(part)).await? {
                return Ok(counts);
            }
        }
    }

    fn erasure(&self, part: PartId, now: UnixMs) -> Call {
        let keys = &self.keys;
        let of_states = [keys.part(part), keys.states(part), keys.history(part), keys.sends(part), keys.retry(part)];
        let of_rows =
            [keys.error_codes(part), keys.skips(part), keys.chunks(part), keys.wamids(part), keys.before(part)];
        Call::new(&script::ERASE, &[of_states.as_slice(), &of_rows].concat()).arg(now.0)
    }

    /// Adds the blocks with whole message ids of `rows` to the call, each as it is and without these ids.
    async fn erasure_of_ids(&self, mut call: Call, part: PartId, rows: &[u16]) -> Result<Call> {
        let blocks: BTreeSet<u16> = rows.iter().map(|row| row / BLOCK_ROWS).collect();
        for block in blocks {
            let read = cmd("HGET").arg(self.keys.wamids(part)).arg(block).clone();
            let Some(ids) = self.query::<Option<Vec<u8>>>("HGET wamids", &read).await? else { continue };
            let without = without_rows(&ids, block, rows);
            if without.len() < ids.len() {
                call = call.arg(block).arg(ids).arg(without);
            }
        }
        Ok(call)
    }

    /// Removes a number from the index of a campaign. Repeats that if an upload split buckets of the index meanwhile,
    /// because the entry may have moved.
    async fn forget_in_index(&self, mut query: PhoneQuery) -> Result<()> {
        loop {
            let field = query.indexed_by.field(query.phone);
            let bucket = self.keys.phone_bucket(query.campaign, phone_index::bucket(field, query.buckets));
            self.query::<u8>("HDEL number", cmd("HDEL").arg(bucket).arg(field.as_slice())).await?;
            match self.buckets(query.campaign).await? {
                Some(buckets) if buckets != query.buckets => query.buckets = buckets,
                _ => return Ok(()),
            }
        }
    }

    /// Removes the number from the suppressions and the places of every business.
    async fn forget_in_businesses(
        &self,
        person: Person,
        around: &Surroundings,
        forgotten: &mut Forgotten,
    ) -> Result<()> {
        let hash = PersonHash::of(person, &around.token_key);
        for business in &around.businesses {
            let (is_suppressed, had_number) = self.forget_suppressed(business, hash).await?;
            forgotten.suppressions += u64::from(is_suppressed);
            forgotten.suppressed_numbers += u64::from(had_number);
            self.forget_places(business, &around.lines, person).await?;
        }
        Ok(())
    }

    /// Removes the entries of a stream that are from or about the person. Returns their number.
    async fn forget_in_stream(&self, stream: &str, field: &str, person: Person, around: &Surroundings) -> Result<u64> {
        let (mut after, mut removed) = ("-".to_owned(), 0);
        loop {
            let mut range = cmd("XRANGE");
            range.arg(stream).arg(&after).arg("+").arg("COUNT").arg(ENTRIES_AT_ONCE);
            let entries: Vec<(String, Vec<String>)> = self.query("XRANGE", &range).await?;
            let Some((last, _)) = entries.last() else { return Ok(removed) };
            after = format!("({last}");
            let text = |fields: &[String]| {
                fields.as_chunks::<2>().0.iter().find(|[name, _]| name == field).map(|[_, text]| text.clone())
            };
            let concerned = entries
                .iter()
                .filter(|(_, fields)| text(fields).is_some_and(|text| concerns(person, &around.user_ids, &text)));
            let ids: Vec<&String> = concerned.map(|(id, _)| id).collect();
            if !ids.is_empty() {
                removed += self.query::<u64>("XDEL", cmd("XDEL").arg(stream).arg(ids)).await?;
            }
        }
    }

    /// The dead letters that name the person, oldest first.
    async fn dead_letters_of(&self, person: Person) -> Result<Vec<EntryId>> {
        let (mut after, mut found) = ("-".to_owned(), Vec::new());
        loop {
            let mut range = cmd("XRANGE");
            range.arg(self.keys.dead_jobs()).arg(&after).arg("+").arg("COUNT").arg(ENTRIES_AT_ONCE);
            let entries: Vec<(String, Vec<Value>)> = self.query("XRANGE dead", &range).await?;
            let Some((last, _)) = entries.last() else { return Ok(found) };
            after = format!("({last}");
            let names = |value: &Value| match value {
                Value::BulkString(bytes) => names_number(person, &String::from_utf8_lossy(bytes)),
                _ => false,
            };
            let concerned = entries.iter().filter(|(_, fields)| fields.iter().any(names));
            found.extend(concerned.filter_map(|(id, _)| id.parse::<EntryId>().ok()));
        }
    }
}

/// Where the chunks of a part begin.
struct Layout {
    /// The number of rows that are recipients.
    recipients: u32,
    /// The number of rows from the start of the part to the last admitted one.
    rows: u32,
    /// The first rows of its chunks, in order.
    starts: Vec<u16>,
}

impl Layout {
    /// The first row of the chunk with `row`.
    fn start_of(&self, row: u16) -> Option<u16> {
        let behind = self.starts.partition_point(|start| *start <= row);
        self.starts[..behind].last().copied()
    }

    /// Whether chunks have rows that are not recipients.
    fn has_other_rows(&self) -> bool {
        self.recipients < self.rows || self.starts.last().is_some_and(|start| u32::from(*start) >= self.rows)
    }

    /// The first rows of the chunks that may have such rows, according to the state bytes.
    fn with_other_rows(&self, states: &[u8]) -> impl Iterator<Item = u16> {
        let ends = self.starts.iter().skip(1).copied().map(usize::from).chain([usize::MAX]);
        let has_others = move |start: u16, next: usize| {
            let end = next.min(usize::from(start) + CHUNK_ROWS_MAX);
            states.get(usize::from(start)..end).is_none_or(|states| states.contains(&0))
        };
        self.starts
            .iter()
            .copied()
            .zip(ends)
            .filter(move |(start, next)| has_others(*start, *next))
            .map(|(start, _)| start)
    }
}

/// Whether a campaign accepts uploads.
fn takes_recipients(record: &CampaignRecord) -> bool {
    matches!(record.state, CampaignState::Draft | CampaignState::Scheduled)
}

/// How the person is looked up in the index of a campaign.
fn queries(person: Person, record: &CampaignRecord) -> impl Iterator<Item = PhoneQuery> {
    let CampaignRecord { campaign, buckets, indexed_by, .. } = record;
    let (campaign, buckets, indexed_by): (CampaignId, u32, IndexedBy) = (campaign.id, *buckets, *indexed_by);
    let forms = match indexed_by {
        IndexedBy::Person => 1,
        IndexedBy::Number => usize::MAX,
    };
    person.numbers().take(forms).map(move |phone| PhoneQuery { campaign, buckets, indexed_by, phone })
}

fn packed(rows: &[u16]) -> Vec<u8> {
    rows.iter().flat_map(|row| row.to_le_bytes()).collect()
}

/// Whether an inbound message is from the person, or an event is about the person or such a message.
fn concerns(person: Person, user_ids: &[String], json: &str) -> bool {
    #[derive(Deserialize)]
    struct Sender {
        number: Option<String>,
        user_id: Option<String>,
    }
    #[derive(Deserialize)]
    struct Message {
        sender: Option<Sender>,
    }
    #[derive(Deserialize)]
    struct Entry {
        to: Option<String>,
        sender: Option<Sender>,
        message: Option<Message>,
    }
    if !names_number(person, json) && !user_ids.iter().any(|id| json.contains(id)) {
        return false;
    }
    let Ok(Entry { to, sender, message }) = serde_json::from_str(json) else { return false };
    let senders = [sender, message.and_then(|message| message.sender)].into_iter().flatten();
    let (numbers, ids): (Vec<_>, Vec<_>) = senders.map(|sender| (sender.number, sender.user_id)).unzip();
    numbers.into_iter().flatten().chain(to).any(|number| is_of(person, &number))
        || ids.into_iter().flatten().any(|id| user_ids.contains(&id))
}

/// Whether `number`, with or without its plus, is a number of the person.
fn is_of(person: Person, number: &str) -> bool {
    let digits = number.trim_start_matches('+').parse().ok().and_then(Phone::from_digits);
    digits.is_some_and(|phone| Person::from(phone) == person)
}

/// Whether a text contains a number of the person, as digits that are not part of a longer number.
fn names_number(person: Person, text: &str) -> bool {
    let is_digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
    person.numbers().any(|phone| {
        let digits = phone.digits().to_string();
        text.match_indices(&digits).any(|(at, _)| {
            let bytes = text.as_bytes();
            !is_digit(at.checked_sub(1).and_then(|before| bytes.get(before))) && !is_digit(bytes.get(at + digits.len()))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(number: &str) -> Person {
        number.parse::<Phone>().expect(number).into()
    }

    #[test]
    fn entries_about_a_person_are_found_by_either_form_of_the_number() {
        let maria = person("+541155550001");
        for concerned in [
            r#"{"id":"1","to":"+5491155550001","type":"recipient.read"}"#,
            r#"{"id":"1","to":"+541155550001"}"#,
            r#"{"id":"wamid.1","sender":{"number":"5491155550001","name":"Maria"},"content":{"text":"hola"}}"#,
            r#"{"type":"message.received","message":{"sender":{"number":"5491155550001"}}}"#,
            r#"{"id":"wamid.2","sender":{"user_id":"AR.1"},"content":{"text":"hola"}}"#,
        ] {
            assert!(concerns(maria, &["AR.1".into()], concerned), "{concerned}");
        }
        for other in [
            r#"{"to":"+5491155550002"}"#,
            r#"{"to":"+54911555500012"}"#,
            r#"{"sender":{"number":"5491155550002"},"content":{"text":"call 5491155550001"}}"#,
            r#"{"sender":{"number":"5491155550002","user_id":"AR.12"}}"#,
            "5491155550001",
            "",
        ] {
            assert!(!concerns(maria, &["AR.1".into()], other), "{other}");
        }
    }

    #[test]
    fn only_whole_numbers_are_found_in_a_text() {
        let maria = person("+5491155550001");
        assert!(names_number(maria, "to +5491155550001!") && names_number(maria, "541155550001"));
        assert!(!names_number(maria, "15491155550001") && !names_number(maria, "54911555500011"));
    }

    #[test]
    fn chunks_with_rows_that_are_no_recipients_are_found() {
        let layout = |recipients, rows, starts: &[u16]| Layout { recipients, rows, starts: starts.to_vec() };
        let full = layout(300, 300, &[0, 256]);
        assert!(!full.has_other_rows());
        assert_eq!((full.start_of(255), full.start_of(299)), (Some(0), Some(256)));
        let found = |layout: &Layout, states: &[u8]| layout.with_other_rows(states).collect::<Vec<_>>();
        let mut states = vec![1; 300];
        states[7] = 0;
        let duplicate = layout(299, 300, &[0, 256]);
        assert!(duplicate.has_other_rows());
        // The last chunk may have more rows than the part.
        assert_eq!(found(&duplicate, &states), [0, 256]);
        let interrupted = layout(256, 256, &[0, 256]);
        assert!(interrupted.has_other_rows());
        assert_eq!(found(&interrupted, &[1; 256]), [256]);
    }
}
