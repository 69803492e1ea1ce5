//! Updates the people who count towards the messaging limit of a business from webhooks: a message to them was
//! delivered or failed, or they wrote to a line. Only for lines that this process lists, and for businesses with a
//! limit.
//!
//! If the process dies: Meta delivers unanswered webhooks again, and storing the same fact twice changes nothing.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use tracing::debug;

use super::apply::LocatedFact;
use crate::{
    domain::{BusinessId, ClaimedRow, LineId, News, Person, UnixMs},
    redis::{
        Result, Store,
        places::{Fate, PlaceNews},
    },
};

/// Maximum age of the cached list of businesses with a limit. A limit changes a few times a year.
const MAX_AGE: Duration = Duration::from_secs(5);

/// A cache of the businesses that have a messaging limit.
pub struct LimitedBusinesses {
    store: Store,
    read: RwLock<Option<LimitsRead>>,
    /// Locked during a read of Redis. Webhooks do not wait for the read of another one.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct LimitsRead {
    limited: Arc<HashSet<BusinessId>>,
    at: Instant,
}

/// The changes of one webhook.
#[derive(Debug, Default)]
pub struct PlaceChanges {
    news: BTreeMap<(BusinessId, LineId), Vec<PlaceNews>>,
    wrote: BTreeMap<(BusinessId, LineId), Vec<(Person, UnixMs)>>,
}

impl LimitedBusinesses {
    /// An empty cache.
    pub fn new(store: Store) -> Self {
        Self { store, read: RwLock::default(), reading: tokio::sync::Mutex::default() }
    }

    /// The businesses with a limit. If Redis cannot be read, returns the last list. With an outdated list, people may
    /// count for too long.
    pub async fn get(&self) -> Arc<HashSet<BusinessId>> {
        let last = match self.last() {
            Some(last) if last.at.elapsed() < MAX_AGE => return last.limited,
            last => last.map(|last| last.limited).unwrap_or_default(),
        };
        let Ok(_reading) = self.reading.try_lock() else { return last };
        let limited = match self.store.messaging_limits().await {
            Ok(limits) => {
                let limits = limits.into_iter();
                Arc::new(limits.filter_map(|(business, known)| known.limit.people().map(|_| business)).collect())
            }
            Err(error) => {
                debug!(%error, "messaging limits could not be read");
                last
            }
        };
        let read = LimitsRead { limited: Arc::clone(&limited), at: Instant::now() };
        *self.read.write().unwrap_or_else(PoisonError::into_inner) = Some(read);
        limited
    }

    fn last(&self) -> Option<LimitsRead> {
        self.read.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stores the changes of a webhook.
    pub async fn note(&self, changes: PlaceChanges, now: UnixMs) -> Result<()> {
        for ((business, line), news) in changes.news {
            self.store.note_places(&business, &line, &news, now).await?;
        }
        for ((business, line), people) in changes.wrote {
            self.store.open_windows(&business, &line, &people, now).await?;
        }
        Ok(())
    }
}

impl PlaceChanges {
    /// Adds the fate of a message of a line to `person`.
    pub fn add_fate(&mut self, business: &BusinessId, line: &LineId, person: Person, located: &LocatedFact) {
        let fate = match located.fact.news {
            News::Delivered => Fate::Delivered(located.fact.at),
            News::Read => Fate::Read(located.fact.at),
            News::Failed(_) | News::Returned(_) | News::Withheld(_) => Fate::NotDelivered,
            News::Sent | News::Replied => return,
        };
        let claimed = ClaimedRow { row: located.fact.row, send: located.fact.send };
        let news = PlaceNews { person, message: (located.part, claimed), fate };
        self.news.entry((business.clone(), line.clone())).or_default().push(news);
    }

    /// Adds a message from `person` to a line.
    pub fn add_wrote(&mut self, business: &BusinessId, line: &LineId, person: Person, at: UnixMs) {
        self.wrote.entry((business.clone(), line.clone())).or_default().push((person, at));
    }
}
