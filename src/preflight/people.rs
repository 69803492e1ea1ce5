//! Which of the remaining recipients would be skipped, and the countries of the others.
//!
//! Examines at most a million recipients, with 16 bytes of memory for each. A larger campaign is sampled: every second
//! chunk, every third, and so on.

use std::collections::BTreeMap;

use crate::{
    domain::{
        BusinessId, CallingCode, Line, OnWithheld, PersonHash, Phone, PriceList, SkipReason, State, Suppression,
        UnixMs, template::Category, us_numbers,
    },
    redis::{Result, Store, campaigns::CampaignRecord, chunk::Chunk, marketing::FrequencyCaps},
};

/// The maximum number of recipients that are examined.
const LOOKED_AT_MAX: u64 = 1_000_000;
/// Chunks that are read in one round trip: at most 8,192 recipients.
const CHUNKS_AT_ONCE: usize = 32;
/// From this many recipients on, all suppressed people are read; below it, only those whose hashes begin like a
/// recipient's.
const READ_ALL_FROM: usize = 1 << 15;
/// The number of people that are looked up in one command.
const LOOKED_UP_AT_ONCE: usize = 1_000;
/// The number of suppressed people that are read in one step.
const SUPPRESSED_AT_ONCE: usize = 100_000;

/// The remaining recipients of a campaign.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct People {
    /// How many would be skipped, by reason. Each reason that was checked has an entry.
    pub skips: BTreeMap<SkipReason, u64>,
    /// How many would get the message.
    pub to_send: u64,
    /// How many of `to_send` are in each country.
    pub by_country: BTreeMap<Country, u64>,
    /// Whether the counts come from a sample.
    pub is_estimated: bool,
}

/// The country of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Country {
    /// By its position in the price list.
    Listed(u16),
    /// By its calling code, because there is no price list or it does not have the country.
    Other(CallingCode),
}

impl Country {
    fn of(phone: Phone, prices: Option<&PriceList>) -> Self {
        let position = prices.and_then(|prices| prices.position(phone));
        position.map_or_else(|| Self::Other(CallingCode::of(phone)), Self::Listed)
    }
}

/// A recipient who was not erased.
struct Seen {
    hash: PersonHash,
    country: Country,
    is_us: bool,
}

/// Counts the `left` recipients of a campaign on `line` at `now`. Without a line the business is unknown, and so are
/// its suppressed people and caps.
pub async fn count(
    store: &Store,
    line: Option<&Line>,
    record: &CampaignRecord,
    prices: Option<&PriceList>,
    left: u64,
    now: UnixMs,
) -> Result<People> {
    let key = store.token_key().await?.get();
    let look = |phone: Phone| Seen {
        hash: PersonHash::of(phone.into(), &key),
        country: Country::of(phone, prices),
        is_us: us_numbers::is_us(phone),
    };
    let (mut seen, forgotten) = look_at(store, record, left, look).await?;
    seen.sort_unstable_by_key(|seen| seen.hash);
    let is_marketing = record.campaign.template.category == Category::Marketing;
    let business = line.map(|line| &line.business);
    let suppressed = suppressed(store, business, &seen, is_marketing).await?;
    // With `OnWithheld::Retry`, recipients from whom Meta withheld marketing wait for a day and are not skipped.
    let is_skipped = is_marketing && record.campaign.on_withheld == OnWithheld::Fail;
    let withheld = withheld(store, business.filter(|_| is_skipped), &seen, now).await?;
    let caps = line.and_then(|line| FrequencyCaps::of(line.frequency_cap, record.campaign.frequency_cap));
    let capped = match (business, caps.filter(|_| is_marketing)) {
        (Some(business), Some(caps)) => {
            let hashes: Vec<PersonHash> = seen.iter().map(|person| person.hash).collect();
            store.capped(business, caps, &hashes, now).await?
        }
        _ => vec![false; seen.len()],
    };
    let mut people = People { is_estimated: left > LOOKED_AT_MAX, ..People::default() };
    let reasons = [SkipReason::Suppressed, SkipReason::MarketingUs, SkipReason::Withheld, SkipReason::FrequencyCap];
    let skips = reasons.map(|reason| (reason, 0));
    people.skips = skips.into_iter().chain([(SkipReason::Forgotten, forgotten)]).collect();
    for (((seen, is_suppressed), is_withheld), is_capped) in seen.iter().zip(suppressed).zip(withheld).zip(capped) {
        let skip = if is_suppressed {
            Some(SkipReason::Suppressed)
        } else if is_marketing && seen.is_us {
            Some(SkipReason::MarketingUs)
        } else if is_withheld {
            Some(SkipReason::Withheld)
        } else {
            is_capped.then_some(SkipReason::FrequencyCap)
        };
        match skip {
            Some(reason) => *people.skips.entry(reason).or_default() += 1,
            None => *people.by_country.entry(seen.country).or_default() += 1,
        }
    }
    Ok(people.scaled(seen.len() as u64 + forgotten, left))
}

impl People {
    /// Scales the counts of a sample of `seen` recipients up to all `left` recipients.
    fn scaled(mut self, seen: u64, left: u64) -> Self {
        if self.is_estimated && seen > 0 {
            let scale = |n: &mut u64| *n = (*n as f64 * left as f64 / seen as f64).round() as u64;
            self.skips.values_mut().chain(self.by_country.values_mut()).for_each(scale);
        }
        self.to_send = self.by_country.values().sum();
        self
    }
}

/// Reads the remaining recipients, or a sample of them. Also returns how many of them were erased.
async fn look_at<T>(
    store: &Store,
    record: &CampaignRecord,
    left: u64,
    look: impl Fn(Phone) -> T,
) -> Result<(Vec<T>, u64)> {
    let every = usize::try_from(left.div_ceil(LOOKED_AT_MAX)).unwrap_or(usize::MAX).max(1);
    let (mut seen, mut forgotten, mut nth) = (Vec::new(), 0, 0);
    for &(part, _) in &record.parts {
        let states = store.state_bytes(part).await?;
        let mut starts = store.chunks_with(part, &states, is_left).await?;
        starts.retain(|_| {
            nth += 1;
            nth % every == 0
        });
        for starts in starts.chunks(CHUNKS_AT_ONCE) {
            for (start, chunk) in starts.iter().zip(store.chunks(part, starts).await?) {
                for number in left_of(&chunk, &states[usize::from(*start)..]) {
                    match number {
                        Some(phone) => seen.push(look(phone)),
                        None => forgotten += 1,
                    }
                }
            }
        }
    }
    Ok((seen, forgotten))
}

/// The numbers of a chunk that are still to be sent to, by the state bytes `states`; `None` for an erased recipient.
fn left_of(chunk: &Chunk, states: &[u8]) -> impl Iterator<Item = Option<Phone>> {
    chunk.numbers().iter().zip(states).filter(|(_, byte)| is_left(**byte)).map(|(phone, _)| *phone)
}

fn is_left(byte: u8) -> bool {
    matches!(State::of(byte), Some(State::Pending | State::Retrying))
}

/// For each person, whether the person is suppressed. `people` is sorted by hash.
async fn suppressed(
    store: &Store,
    business: Option<&BusinessId>,
    people: &[Seen],
    is_marketing: bool,
) -> Result<Vec<bool>> {
    let nobody = vec![false; people.len()];
    let Some(business) = business else { return Ok(nobody) };
    if store.suppressed_count(business).await? == 0 {
        return Ok(nobody);
    }
    let covers = |entry: Suppression| entry.covers(is_marketing);
    if people.len() >= READ_ALL_FROM {
        return among_all(store, business, people, covers).await;
    }
    let mut suppressed = Vec::with_capacity(people.len());
    for people in people.chunks(LOOKED_UP_AT_ONCE) {
        let hashes: Vec<PersonHash> = people.iter().map(|person| person.hash).collect();
        let found = store.suppressions(business, &hashes).await?;
        suppressed.extend(found.into_iter().map(|entry| entry.is_some_and(covers)));
    }
    Ok(suppressed)
}

/// For each person, whether Meta withheld marketing of the business from the person less than a day ago.
async fn withheld(store: &Store, business: Option<&BusinessId>, people: &[Seen], now: UnixMs) -> Result<Vec<bool>> {
    let nobody = vec![false; people.len()];
    let Some(business) = business else { return Ok(nobody) };
    if store.withheld_count(business).await? == 0 {
        return Ok(nobody);
    }
    let mut withheld = Vec::with_capacity(people.len());
    for people in people.chunks(LOOKED_UP_AT_ONCE) {
        let hashes: Vec<PersonHash> = people.iter().map(|person| person.hash).collect();
        withheld.extend(store.withheld_until(business, &hashes, now).await?.iter().map(Option::is_some));
    }
    Ok(withheld)
}

/// Like [`suppressed`], but reads all suppressed people once, in the order of their hashes.
async fn among_all(
    store: &Store,
    business: &BusinessId,
    people: &[Seen],
    covers: impl Fn(Suppression) -> bool,
) -> Result<Vec<bool>> {
    let mut suppressed = vec![false; people.len()];
    let (mut next, mut last, mut more) = (0, None, true);
    while more && next < people.len() {
        let (found, has_more) = store.suppressed_after(business, last, SUPPRESSED_AT_ONCE).await?;
        for (hash, entry) in &found {
            while people.get(next).is_some_and(|person| person.hash < *hash) {
                next += 1;
            }
            if people.get(next).is_some_and(|person| person.hash == *hash) {
                suppressed[next] = covers(*entry);
            }
        }
        (last, more) = (found.last().map(|(hash, _)| *hash), has_more);
    }
    Ok(suppressed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_a_sample_are_scaled_to_all() {
        let other = Country::Other("44".parse().expect("a code"));
        let sample = People {
            skips: [(SkipReason::Suppressed, 10), (SkipReason::MarketingUs, 0)].into(),
            by_country: [(Country::Listed(0), 85), (other, 5)].into(),
            is_estimated: true,
            ..People::default()
        };
        let all = sample.clone().scaled(100, 3_000);
        assert_eq!(all.skips, [(SkipReason::Suppressed, 300), (SkipReason::MarketingUs, 0)].into());
        assert_eq!((all.by_country, all.to_send), ([(Country::Listed(0), 2_550), (other, 150)].into(), 2_700));
        let exact = People { is_estimated: false, ..sample.clone() };
        assert_eq!((exact.scaled(100, 100).to_send, sample.scaled(0, 3_000).to_send), (90, 90));
    }
}
