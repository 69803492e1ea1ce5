//! People who want no messages from a business.
//!
//! Owns: HASH `{b:business}:suppressed`, STRING `{b:business}:suppressed:news`, ZSET `{b:business}:wishes`. Their
//! layout is documented in `scripts/suppress.lua`. Size: some 20 bytes a person, kept forever.
//!
//! A write is durable once a later [`Store::make_durable`] has returned. If Redis loses its last writes, workers that
//! follow the news detect that by the incarnation.

use deadpool_redis::redis::{Pipeline, cmd};

use super::{Call, Result, Store, script};
use crate::domain::{
    BusinessId, Fingerprint, PersonHash, Phone, Suppression, SuppressionReason, SuppressionScope, SuppressionSource,
    UnixMs,
};

/// People in one call of the script, so that no call keeps Redis busy for long.
const PEOPLE_AT_ONCE: usize = 500;
/// Maximum length of `suppressed:news` in bytes: half a million people. A longer list starts over.
pub(super) const NEWS_BYTES_MAX: usize = 4 << 20;
/// Length of a person in a value, in bytes.
const RECORD_BYTES: usize = 18;
/// Maximum number of fields in one command.
const FIELDS_AT_ONCE: usize = 256;
/// Length in bytes of the generation, with which the value of `suppressed:news` begins.
const GENERATION_BYTES: usize = 8;

/// What a call changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SuppressedCounts {
    /// People who were not suppressed before.
    pub new: u64,
    /// Suppressed people whose entry changed.
    pub changed: u64,
}

/// The position of a reader in the news of a business.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewsPosition {
    generation: Vec<u8>,
    /// The bytes after the generation that were read.
    bytes: usize,
    incarnation: u64,
}

/// The people who became suppressed, or had marketing withheld, after a position.
#[derive(Debug)]
pub enum SuppressionNews {
    /// These people, oldest first.
    People(Vec<PersonHash>),
    /// The list has started over, or Redis may have lost entries: read all people.
    Unknown,
}

impl Store {
    /// Suppresses people. `only_widens`: the entry of a person who is suppressed already changes only if the scope
    /// widens from marketing to all messages. The `since` of an existing entry never changes.
    pub async fn suppress(
        &self,
        business: &BusinessId,
        people: &[(PersonHash, Suppression)],
        only_widens: bool,
    ) -> Result<SuppressedCounts> {
        let call = |people: &[(PersonHash, Suppression)]| {
            let packed = people.iter().flat_map(|(hash, entry)| pack(*hash, entry)).collect();
            self.suppress_call(business, only_widens, packed, Vec::new())
        };
        self.run_suppress_calls(people.chunks(PEOPLE_AT_ONCE).map(call).collect()).await
    }

    /// Suppresses people who opted out, as [`Store::suppress`] with `only_widens`. An opt-out that was stored in the
    /// last eight days changes nothing: Meta has delivered it again, and the suppression may have been lifted since.
    pub async fn opt_out(
        &self,
        business: &BusinessId,
        wishes: &[(Fingerprint, PersonHash, Suppression)],
    ) -> Result<SuppressedCounts> {
        let call = |wishes: &[(Fingerprint, PersonHash, Suppression)]| {
            let packed = wishes.iter().flat_map(|(_, hash, entry)| pack(*hash, entry)).collect();
            let prints = wishes.iter().flat_map(|(Fingerprint(print), ..)| *print).collect();
            self.suppress_call(business, true, packed, prints)
        };
        self.run_suppress_calls(wishes.chunks(PEOPLE_AT_ONCE).map(call).collect()).await
    }

    fn suppress_call(&self, business: &BusinessId, only_widens: bool, people: Vec<u8>, prints: Vec<u8>) -> Call {
        let keys = [self.keys.suppressed(business), self.keys.suppressed_news(business), self.keys.wishes(business)];
        let call = Call::new(&script::SUPPRESS, &keys).arg(u8::from(only_widens));
        call.arg(rand::random::<u64>().to_le_bytes().to_vec()).arg(NEWS_BYTES_MAX).arg(people).arg(prints)
    }

    async fn run_suppress_calls(&self, calls: Vec<Call>) -> Result<SuppressedCounts> {
        let mut counts = SuppressedCounts::default();
        for result in self.call_journaled::<(u64, u64)>(calls).await? {
            let (new, changed) = result?;
            counts.new += new;
            counts.changed += changed;
        }
        Ok(counts)
    }

    /// Lets a person get messages again. Returns whether the person was suppressed.
    pub async fn unsuppress(&self, business: &BusinessId, person: PersonHash) -> Result<bool> {
        let call = Call::new(&script::UNSUPPRESS, &[self.keys.suppressed(business)]);
        let mut removed = self.call_journaled::<u8>(vec![call.arg(person.0.to_be_bytes().to_vec())]).await?;
        Ok(removed.pop().transpose()? == Some(1))
    }

    /// Erases the number of a suppressed person, who stays suppressed. Returns whether the person is suppressed, and
    /// whether there was a number.
    pub(super) async fn forget_suppressed(&self, business: &BusinessId, person: PersonHash) -> Result<(bool, bool)> {
        let call = Call::new(&script::ERASE_SUPPRESSED, &[self.keys.suppressed(business)]);
        self.call(call.arg(person.0.to_be_bytes().to_vec())).await
    }

    /// The suppressions of people, in their order.
    pub async fn suppressions(&self, business: &BusinessId, people: &[PersonHash]) -> Result<Vec<Option<Suppression>>> {
        if people.is_empty() {
            return Ok(Vec::new());
        }
        let fields: Vec<Vec<u8>> = people.iter().map(|person| field(*person).to_vec()).collect();
        let key = self.keys.suppressed(business);
        let values: Vec<Option<Vec<u8>>> = self.query("HMGET suppressed", cmd("HMGET").arg(key).arg(fields)).await?;
        let found = people.iter().zip(values).map(|(person, value)| {
            let value = value?;
            let [_, _, rest @ ..] = person.0.to_be_bytes();
            let record = value.chunks_exact(RECORD_BYTES).find(|record| record.starts_with(&rest))?;
            unpack(record)
        });
        Ok(found.collect())
    }

    /// The suppressed people of a business after one of them, in the order of their hashes: at least `limit`, or all.
    /// Returns whether there may be more.
    pub async fn suppressed_after(
        &self,
        business: &BusinessId,
        after: Option<PersonHash>,
        limit: usize,
    ) -> Result<(Vec<(PersonHash, Suppression)>, bool)> {
        let key = self.keys.suppressed(business);
        let mut next = after.map_or(0, |PersonHash(after)| (after >> 48) as u32);
        let (mut found, mut at_once) = (Vec::new(), 1);
        while next <= u32::from(u16::MAX) && found.len() < limit {
            let fields = (next..=u32::from(u16::MAX)).take(at_once);
            let fields: Vec<[u8; 2]> = fields.map(|field| (field as u16).to_be_bytes()).collect();
            let mut hmget = cmd("HMGET");
            hmget.arg(&key);
            for field in &fields {
                hmget.arg(field.as_slice());
            }
            let values: Vec<Option<Vec<u8>>> = self.query("HMGET suppressed", &hmget).await?;
            for (field, value) in fields.iter().zip(values) {
                let mut people = records(field, &value.unwrap_or_default());
                people.sort_unstable_by_key(|(hash, _)| *hash);
                found.extend(people.into_iter().filter(|(hash, _)| after.is_none_or(|after| *hash > after)));
            }
            next += fields.len() as u32;
            // With millions of people a field has hundreds of them; with few people most fields are empty.
            at_once = FIELDS_AT_ONCE.min(2 * at_once);
        }
        Ok((found, next <= u32::from(u16::MAX)))
    }

    /// The number of suppressed people of a business.
    pub async fn suppressed_count(&self, business: &BusinessId) -> Result<u64> {
        let mut hget = cmd("HGET");
        let n: Option<u64> = self.query("HGET suppressed", hget.arg(self.keys.suppressed(business)).arg("n")).await?;
        Ok(n.unwrap_or(0))
    }

    /// The current end of the news of a business. A reader that reads all people afterwards, and then follows the news
    /// from here, misses no one.
    pub async fn suppression_news_end(&self, business: &BusinessId) -> Result<NewsPosition> {
        let incarnation = self.incarnations.newest();
        let key = self.keys.suppressed_news(business);
        let generation: Vec<u8> =
            self.query("GETRANGE news", cmd("GETRANGE").arg(&key).arg(0).arg(GENERATION_BYTES - 1)).await?;
        // If the list has started over meanwhile, the next read finds another generation.
        let length: usize = self.query("STRLEN news", cmd("STRLEN").arg(&key)).await?;
        Ok(NewsPosition { generation, bytes: length.saturating_sub(GENERATION_BYTES), incarnation })
    }

    /// The people who became suppressed, or had marketing withheld, after `position`. Moves `position` behind them.
    pub async fn suppression_news(
        &self,
        business: &BusinessId,
        position: &mut NewsPosition,
    ) -> Result<SuppressionNews> {
        let key = self.keys.suppressed_news(business);
        let mut pipeline = Pipeline::new();
        pipeline.cmd("GETRANGE").arg(&key).arg(0).arg(GENERATION_BYTES - 1);
        pipeline.cmd("GETRANGE").arg(&key).arg(GENERATION_BYTES + position.bytes).arg(-1);
        let mut answers: Vec<Vec<u8>> = self.query_all("GETRANGE news", &pipeline).await?;
        let (Some(news), Some(generation)) = (answers.pop(), answers.pop()) else {
            return Ok(SuppressionNews::Unknown);
        };
        if generation != position.generation || self.incarnations.newest() != position.incarnation {
            return Ok(SuppressionNews::Unknown);
        }
        position.bytes += news.len();
        let hashes = news.as_chunks::<8>().0.iter().map(|bytes| PersonHash(u64::from_be_bytes(*bytes)));
        Ok(SuppressionNews::People(hashes.collect()))
    }
}

fn field(PersonHash(hash): PersonHash) -> [u8; 2] {
    let [a, b, ..] = hash.to_be_bytes();
    [a, b]
}

/// The people of a field.
fn records(field: &[u8; 2], value: &[u8]) -> Vec<(PersonHash, Suppression)> {
    let person = |record: &[u8]| {
        let mut hash = [0; 8];
        hash[..2].copy_from_slice(field);
        hash[2..].copy_from_slice(&record[..6]);
        Some((PersonHash(u64::from_be_bytes(hash)), unpack(record)?))
    };
    value.chunks_exact(RECORD_BYTES).filter_map(person).collect()
}

// The numbers that are stored. They never change.

fn number_of_scope(scope: SuppressionScope) -> u8 {
    match scope {
        SuppressionScope::Marketing => 0,
        SuppressionScope::All => 1,
    }
}

fn number_of_reason(reason: SuppressionReason) -> u8 {
    match reason {
        SuppressionReason::OptOut => 0,
        SuppressionReason::Complaint => 1,
        SuppressionReason::Register => 2,
        SuppressionReason::Other => 3,
    }
}

fn number_of_source(source: SuppressionSource) -> u8 {
    match source {
        SuppressionSource::Api => 0,
        SuppressionSource::Import => 1,
        SuppressionSource::StopWord => 2,
        SuppressionSource::Button => 3,
        SuppressionSource::Meta => 4,
    }
}

/// The value among `all` that `number` stands for; `None` if a newer release wrote it.
fn numbered<T: Copy>(all: &[T], number_of: impl Fn(T) -> u8, number: u8) -> Option<T> {
    all.iter().copied().find(|value| number_of(*value) == number)
}

/// A person as the script reads it.
fn pack(PersonHash(hash): PersonHash, entry: &Suppression) -> [u8; 20] {
    let mut packed = [0; 20];
    let phone = entry.phone.map_or(0, Phone::digits).to_le_bytes();
    let since = u32::try_from(entry.since.seconds()).unwrap_or(u32::MAX).to_le_bytes();
    packed[..8].copy_from_slice(&hash.to_be_bytes());
    packed[8..15].copy_from_slice(&phone[..7]);
    packed[15..19].copy_from_slice(&since);
    packed[19] =
        number_of_scope(entry.scope) << 7 | number_of_reason(entry.reason) << 4 | number_of_source(entry.source);
    packed
}

/// The inverse of [`pack`] for a stored person; `None` if a newer release wrote it.
fn unpack(record: &[u8]) -> Option<Suppression> {
    let (_, entry) = record.split_first_chunk::<6>()?;
    let (phone, entry) = entry.split_first_chunk::<7>()?;
    let (since, flags) = entry.split_first_chunk::<4>()?;
    let flags = *flags.first()?;
    let mut digits = [0; 8];
    digits[..7].copy_from_slice(phone);
    Some(Suppression {
        phone: Phone::from_digits(u64::from_le_bytes(digits)),
        scope: numbered(&SuppressionScope::ALL, number_of_scope, flags >> 7)?,
        reason: numbered(&SuppressionReason::ALL, number_of_reason, flags >> 4 & 0b111)?,
        source: numbered(&SuppressionSource::ALL, number_of_source, flags & 0b1111)?,
        since: UnixMs(u64::from(u32::from_le_bytes(*since)) * 1_000),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_survives_packing() {
        for scope in SuppressionScope::ALL {
            for reason in SuppressionReason::ALL {
                for source in SuppressionSource::ALL {
                    for phone in [None, Phone::from_digits(999_999_999_999_999)] {
                        let entry = Suppression { phone, scope, reason, source, since: UnixMs(1_795_300_000_000) };
                        let packed = pack(PersonHash(u64::MAX - 7), &entry);
                        assert_eq!(unpack(&packed[2..]), Some(entry));
                    }
                }
            }
        }
    }
}
