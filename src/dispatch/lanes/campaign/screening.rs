//! Decides which claimed messages must not be sent, and why.
//!
//! Few people are suppressed, or had marketing withheld by Meta. Each business therefore has a Bloom filter of the
//! hashes of these people in memory, and only recipients whom the filter may contain are looked up in Redis. Before the
//! messages of a claim are checked, the people who were added in Redis before the claim are added to the filter. Lines
//! of one business that claim at the same time share that read.
//!
//! Promises: no message is sent to a person whose suppression was stored before its row was claimed, and no marketing
//! to one from whom Meta had withheld it less than a day before.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    rc::Rc,
    time::Instant,
};

use fastbloom::BloomFilter;
use tokio::sync::Mutex;
use tracing::info;

use super::message::Message;
use crate::{
    domain::{BusinessId, PersonHash, SharedTokenKey, SkipReason, UnixMs, us_numbers},
    redis::{
        Store, StoreError,
        suppressions::{NewsPosition, SuppressionNews},
    },
};

/// The false positive rate of the filter. Each false positive costs a lookup in Redis.
const FALSE_POSITIVES: f64 = 0.01;
/// Minimum number of people that can be added to a new filter before it is rebuilt.
const ROOM_MIN: usize = 10_000;
/// People that are read in one step while a filter is built.
const READ_AT_ONCE: usize = 10_000;

/// What the messages to check have in common.
#[derive(Clone, Copy, Debug)]
pub struct Claimed<'a> {
    /// The business that sends the messages.
    pub business: &'a BusinessId,
    /// Whether their template is marketing.
    pub is_marketing: bool,
    /// When their rows were claimed, at the latest.
    pub at: Instant,
    /// The time of the claim.
    pub now: UnixMs,
}

/// Why a message must not be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// The message is skipped for this reason.
    Skip(SkipReason),
    /// Meta withheld marketing from the person, who may get marketing again from this time on.
    Until(UnixMs),
}

/// The people to whom the campaigns of a shard must not send.
pub struct Screening {
    token_key: SharedTokenKey,
    filters: RefCell<HashMap<BusinessId, Rc<Mutex<Filter>>>>,
}

/// The people of a business who are suppressed, or had marketing withheld.
#[derive(Default)]
struct Filter {
    /// The hashes of these people; `None` while there are none.
    people: Option<BloomFilter>,
    /// How many more people can be added before the filter is rebuilt.
    room: usize,
    position: NewsPosition,
    /// When the last read of the news began.
    followed_at: Option<Instant>,
}

impl Screening {
    /// Starts with empty filters. `token_key` is the key of the installation.
    pub fn new(token_key: SharedTokenKey) -> Self {
        Self { token_key, filters: RefCell::default() }
    }

    /// Which of `messages` must not be sent now, by their index in order, and why.
    ///
    /// Errors: send none of them.
    pub async fn barred(
        &self,
        store: &Store,
        messages: &[Message],
        claimed: Claimed<'_>,
    ) -> Result<Vec<(usize, Bar)>, StoreError> {
        let Claimed { business, is_marketing, at, now } = claimed;
        let (indices, hashes): (Vec<_>, Vec<_>) =
            self.suspects(store, business, messages, at).await?.into_iter().unzip();
        // Later entries replace earlier ones. So a suppression takes precedence over a US number, which gets no
        // marketing, and a US number over marketing that Meta withheld for a time.
        let mut barred = BTreeMap::new();
        if is_marketing {
            let withheld = indices.iter().zip(store.withheld_until(business, &hashes, now).await?);
            barred.extend(withheld.filter_map(|(index, until)| Some((*index, Bar::Until(until?)))));
            barred.extend(undeliverable(messages).map(|index| (index, Bar::Skip(SkipReason::MarketingUs))));
        }
        let found = indices.into_iter().zip(store.suppressions(business, &hashes).await?);
        let suppressed = found.filter(|(_, entry)| entry.is_some_and(|entry| entry.covers(is_marketing)));
        barred.extend(suppressed.map(|(index, _)| (index, Bar::Skip(SkipReason::Suppressed))));
        Ok(barred.into_iter().collect())
    }

    /// The recipient of each message, in order.
    pub fn people<'m>(&self, messages: &'m [Message]) -> impl Iterator<Item = PersonHash> + use<'m> {
        let key = self.token_key.get();
        messages.iter().map(move |message| PersonHash::of(message.to.into(), &key))
    }

    /// The messages whose recipients the filter may contain.
    async fn suspects(
        &self,
        store: &Store,
        business: &BusinessId,
        messages: &[Message],
        claimed_at: Instant,
    ) -> Result<Vec<(usize, PersonHash)>, StoreError> {
        let known = self.filters.borrow().get(business).cloned();
        let filter = known.unwrap_or_else(|| self.filters.borrow_mut().entry(business.clone()).or_default().clone());
        let mut filter = filter.lock().await;
        filter.follow(store, business, claimed_at).await?;
        let Some(people) = &filter.people else { return Ok(Vec::new()) };
        let hashes = self.people(messages).enumerate();
        Ok(hashes.filter(|(_, PersonHash(hash))| people.contains_hash(*hash)).collect())
    }
}

/// The messages that Meta does not deliver if they are marketing: those to numbers of the USA.
///
/// Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/templates/marketing-templates>,
/// read 2026-11-28: from 1 April 2025 on, nobody with a +1 number and an area code of the USA gets marketing templates.
fn undeliverable(messages: &[Message]) -> impl Iterator<Item = usize> {
    messages.iter().enumerate().filter(|(_, message)| us_numbers::is_us(message.to)).map(|(index, _)| index)
}

impl Filter {
    /// Adds the people who were suppressed or withheld before `until`.
    async fn follow(&mut self, store: &Store, business: &BusinessId, until: Instant) -> Result<(), StoreError> {
        if self.followed_at.is_some_and(|at| at >= until) {
            return Ok(());
        }
        let now = Instant::now();
        match (store.suppression_news(business, &mut self.position).await?, &mut self.people) {
            (SuppressionNews::People(new), _) if new.is_empty() => {}
            (SuppressionNews::People(new), Some(people)) if new.len() <= self.room => {
                self.room -= new.len();
                for PersonHash(hash) in new {
                    people.insert_hash(hash);
                }
            }
            _ => self.build(store, business).await?,
        }
        self.followed_at = Some(now);
        Ok(())
    }

    async fn build(&mut self, store: &Store, business: &BusinessId) -> Result<(), StoreError> {
        // Reset first, so that the filter is built again if this fails in the middle.
        self.position = NewsPosition::default();
        let position = store.suppression_news_end(business).await?;
        let (suppressed, withheld) = (store.suppressed_count(business).await?, store.withheld_count(business).await?);
        let count = usize::try_from(suppressed + withheld).unwrap_or(usize::MAX);
        self.people = None;
        if count > 0 {
            self.room = ROOM_MIN.max(count / 2);
            let mut people = BloomFilter::with_false_pos(FALSE_POSITIVES).expected_items(count + self.room);
            let (mut last, mut more) = (None, true);
            while more {
                let (found, has_more) = store.suppressed_after(business, last, READ_AT_ONCE).await?;
                for (PersonHash(hash), _) in &found {
                    people.insert_hash(*hash);
                }
                (last, more) = (found.last().map(|(hash, _)| *hash), has_more);
            }
            let (mut read, mut more) = (0, true);
            while more {
                let found = store.withheld_people(business, read, READ_AT_ONCE).await?;
                (read, more) = (read + found.len(), found.len() == READ_AT_ONCE);
                for PersonHash(hash) in found {
                    people.insert_hash(hash);
                }
            }
            info!(business.id = %business, suppressed, withheld, bytes = people.num_bits() / 8, "suppressed people, and \
                people from whom Meta withholds marketing, loaded");
            self.people = Some(people);
        }
        self.position = position;
        Ok(())
    }
}
