//! People from whom Meta withheld marketing (131049). For a day they get no marketing from any campaign of the
//! business.
//!
//! Owns: ZSET `{b:business}:withheld`. Its people are also in the news of [`super::suppressions`], which the filters of
//! the workers follow. Size: some 100 bytes a person. A person's entry is dropped when another is added after the day,
//! or when the key expires.
//!
//! If Redis loses its last writes: the journal adds the people again.

use deadpool_redis::redis::cmd;

use super::{Call, Result, Store, script, suppressions::NEWS_BYTES_MAX};
use crate::domain::{BusinessId, PersonHash, UnixMs};

/// People in one call of the script, so that no call keeps Redis busy for long.
const PEOPLE_AT_ONCE: usize = 500;

impl Store {
    /// Stores until when people get no marketing from a business. A later stored time stays.
    pub async fn withhold(&self, business: &BusinessId, people: &[(PersonHash, UnixMs)], now: UnixMs) -> Result<()> {
        let keys = [self.keys.withheld_people(business), self.keys.suppressed_news(business)];
        let call = |people: &[(PersonHash, UnixMs)]| {
            let packed: Vec<u8> = people.iter().flat_map(|(hash, until)| pack(*hash, *until)).collect();
            let call = Call::new(&script::WITHHOLD, &keys).arg(now.0);
            call.arg(rand::random::<u64>().to_le_bytes().to_vec()).arg(NEWS_BYTES_MAX).arg(packed)
        };
        let calls = people.chunks(PEOPLE_AT_ONCE).map(call).collect();
        self.call_journaled::<u64>(calls).await?.into_iter().try_for_each(|result| result.map(drop))
    }

    /// For each of the people, in order: until when they get no marketing from a business, if that is after `now`.
    pub async fn withheld_until(
        &self,
        business: &BusinessId,
        people: &[PersonHash],
        now: UnixMs,
    ) -> Result<Vec<Option<UnixMs>>> {
        if people.is_empty() {
            return Ok(Vec::new());
        }
        let members: Vec<Vec<u8>> = people.iter().map(|person| person.0.to_be_bytes().to_vec()).collect();
        let key = self.keys.withheld_people(business);
        let ends: Vec<Option<f64>> = self.query("ZMSCORE withheld", cmd("ZMSCORE").arg(key).arg(members)).await?;
        let until = |end: Option<f64>| end.map(|end| UnixMs(end as u64)).filter(|end| *end > now);
        Ok(ends.into_iter().map(until).collect())
    }

    /// The number of stored people. Some of them may get marketing again already.
    pub async fn withheld_count(&self, business: &BusinessId) -> Result<u64> {
        self.query("ZCARD withheld", cmd("ZCARD").arg(self.keys.withheld_people(business))).await
    }

    /// At most `limit` of the stored people, after the first `skip`. Newly stored people come first, so a reader of one
    /// page after the other misses none of the others.
    pub async fn withheld_people(&self, business: &BusinessId, skip: usize, limit: usize) -> Result<Vec<PersonHash>> {
        let mut range = cmd("ZREVRANGE");
        range.arg(self.keys.withheld_people(business)).arg(skip).arg((skip + limit).saturating_sub(1));
        let members: Vec<Vec<u8>> = self.query("ZREVRANGE withheld", &range).await?;
        let person = |member: Vec<u8>| Some(PersonHash(u64::from_be_bytes(member.try_into().ok()?)));
        Ok(members.into_iter().filter_map(person).collect())
    }
}

/// A person as the script reads it.
fn pack(PersonHash(hash): PersonHash, until: UnixMs) -> [u8; 16] {
    let mut packed = [0; 16];
    packed[..8].copy_from_slice(&hash.to_be_bytes());
    packed[8..].copy_from_slice(&(until.0 as f64).to_le_bytes());
    packed
}
