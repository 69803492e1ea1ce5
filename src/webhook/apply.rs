//! Group commit: the facts of many requests in one round trip to Redis, and every request answered when its own are
//! committed.
//!
//! While a commit is on its way, what arrives gathers for the next one. So a single request waits for nobody, and under
//! load a commit is large and cheap; there is no timer. Two on their way would be half as large each, and cost Redis more.
//!
//! When Redis is away for one commit, all that waits is told so with it: each on its own would only find the same, one
//! time-out after the other, and Meta gives up on an answer long before the last.
//!
//! If the process dies: what was not answered is delivered again by Meta, and a fact applied twice changes nothing.
//! Never: answers before the commit; has more than `FACTS_WAITING_MAX` facts, whether somebody still waits for them or not.

use std::{collections::HashMap, iter, slice, sync::Arc, time::Duration};

use ::metrics::Histogram;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{Unavailable, aftercare::Aftercare, tally::StatusTally};
use crate::{
    domain::{PartId, UnixMs, policy},
    redis::{
        Store, StoreError,
        clock::Clock,
        parts::{Applied, Fact, News},
    },
    telemetry::metrics::{self, StatusResult},
};

/// Facts that wait for a commit or are in one at most, some 100 ms of Redis and 5 MB; a larger request is taken when it is
/// alone. Further requests are refused, and Meta delivers them again.
const FACTS_WAITING_MAX: u32 = 32_768;
/// Facts in one commit at most, unless one request has more: some 10 ms of Redis.
const FACTS_MAX: usize = 4_096;

/// A fact, and whom it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocatedFact {
    /// The part.
    pub part: PartId,
    /// The row in it, and what is new of it.
    pub fact: Fact,
    /// Meta's words where it failed; may be empty.
    pub details: Box<str>,
}

struct Request {
    facts: Vec<LocatedFact>,
    done: Done,
    /// For its facts. It goes with them and not with whoever waits, who may have gone away.
    room: OwnedSemaphorePermit,
}

type Done = oneshot::Sender<Result<(), Unavailable>>;

/// Takes facts to be committed. Cheap to clone; the task ends when every clone is gone.
#[derive(Clone)]
pub struct Committer {
    /// Bounded by `room`, for every request has a fact.
    requests: mpsc::UnboundedSender<Request>,
    /// A permit for each fact.
    room: Arc<Semaphore>,
}

impl Committer {
    /// A handle, and the task behind it. `ids_kept`: how long message ids are found again.
    pub fn new(
        store: Store,
        clock: Arc<Clock>,
        ids_kept: Duration,
        aftercare: Aftercare,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (requests, waiting) = mpsc::unbounded_channel();
        let commits = Commits { store, clock, ids_kept, aftercare, lag: metrics::webhook_lag() };
        (Self { requests, room: Arc::new(Semaphore::new(FACTS_WAITING_MAX as usize)) }, commits.run(waiting))
    }

    /// Returns when `facts` are in Redis.
    ///
    /// Errors: they may be, or not, or in part; apply them again.
    pub async fn commit(&self, facts: Vec<LocatedFact>) -> Result<(), Unavailable> {
        if facts.is_empty() {
            return Ok(());
        }
        let n_facts = u32::try_from(facts.len()).unwrap_or(u32::MAX).min(FACTS_WAITING_MAX);
        let room = self.room.clone().try_acquire_many_owned(n_facts).map_err(|_| Unavailable::busy())?;
        let (done, committed) = oneshot::channel();
        self.requests.send(Request { facts, done, room }).map_err(|_| Unavailable::stopped())?;
        committed.await.unwrap_or_else(|_| Err(Unavailable::stopped()))
    }
}

/// What goes to Redis together.
#[derive(Default)]
struct Batch {
    parts: Vec<(PartId, Vec<Fact>)>,
    /// Where a part is in `parts`.
    places: HashMap<PartId, usize>,
    n_facts: usize,
    /// Meta's words on a fact: place of its part, its place there.
    words: Vec<(usize, usize, Box<str>)>,
    /// Who waits, for which parts, and the room of its facts.
    requests: Vec<(Vec<usize>, Done, OwnedSemaphorePermit)>,
}

impl Batch {
    fn take(&mut self, request: Request) {
        let mut needs = Vec::with_capacity(1);
        for placed in request.facts {
            let place = *self.places.entry(placed.part).or_insert_with(|| {
                self.parts.push((placed.part, Vec::new()));
                self.parts.len() - 1
            });
            let facts = &mut self.parts[place].1;
            if !placed.details.is_empty() {
                self.words.push((place, facts.len(), placed.details));
            }
            facts.push(placed.fact);
            self.n_facts += 1;
            if needs.last() != Some(&place) {
                needs.push(place);
            }
        }
        self.requests.push((needs, request.done, request.room));
    }
}

/// What became of the facts of one part, and how many of its recipients are open.
type Committed = Result<(Vec<Applied>, u64), Unavailable>;

/// What became of a batch: of each part; or Redis is away.
type Answer = Result<Vec<Committed>, Unavailable>;

struct Commits {
    store: Store,
    clock: Arc<Clock>,
    ids_kept: Duration,
    aftercare: Aftercare,
    lag: Histogram,
}

impl Commits {
    async fn run(self, mut waiting: mpsc::UnboundedReceiver<Request>) {
        while let Some(request) = waiting.recv().await {
            let mut batch = Batch::default();
            batch.take(request);
            gather(&mut batch, &mut waiting).await;
            let answer = self.commit(&batch.parts).await;
            self.answered(batch, answer, &mut waiting);
        }
    }

    async fn commit(&self, parts: &[(PartId, Vec<Fact>)]) -> Answer {
        let mut committed = self.store.apply(parts, self.ids_kept).await;
        if committed.as_ref().is_err_and(StoreError::is_transient) {
            // Once more: the connection that is kept may have ended unnoticed, and a fact applied twice changes nothing.
            committed = self.store.apply(parts, self.ids_kept).await;
        }
        match committed {
            Ok(committed) => Ok(committed.into_iter().map(Ok).collect()),
            Err(cause) if cause.is_transient() => Err(Unavailable::because(&cause)),
            Err(_) => self.commit_one_by_one(parts).await,
        }
    }

    /// Something in Redis is not as it should be: then only those wait who need just that.
    async fn commit_one_by_one(&self, parts: &[(PartId, Vec<Fact>)]) -> Answer {
        let mut results = Vec::with_capacity(parts.len());
        for part in parts {
            results.push(match self.store.apply(slice::from_ref(part), self.ids_kept).await {
                Ok(mut committed) => committed.pop().ok_or_else(Unavailable::stopped),
                Err(cause) if cause.is_transient() => return Err(Unavailable::because(&cause)),
                Err(cause) => Err(Unavailable::because(&cause)),
            });
        }
        Ok(results)
    }

    fn answered(&self, batch: Batch, answer: Answer, waiting: &mut mpsc::UnboundedReceiver<Request>) {
        match answer {
            Ok(committed) => self.finish(batch, committed),
            Err(away) => {
                let waiting = iter::from_fn(|| waiting.try_recv().ok()).map(|request| request.done);
                for done in batch.requests.into_iter().map(|(_, done, _)| done).chain(waiting) {
                    let _ = done.send(Err(away.clone()));
                }
            }
        }
    }

    fn finish(&self, batch: Batch, committed: Vec<Committed>) {
        for (needs, done, _room) in batch.requests {
            let failed = needs.iter().find_map(|&place| committed[place].as_ref().err());
            // Who has gone away is delivered to again, and changes nothing by that.
            let _ = done.send(failed.map_or(Ok(()), |cause| Err(cause.clone())));
        }
        let now = self.clock.now();
        let mut tally = StatusTally::default();
        for ((part, facts), committed) in batch.parts.iter().zip(&committed) {
            let Ok((applied, open)) = committed else { continue };
            for (fact, applied) in facts.iter().zip(applied) {
                self.count(fact, *applied, now, &mut tally);
            }
            if *open == 0 {
                self.aftercare.maybe_done(part.campaign);
            }
        }
        tally.record();
        for (place, at, words) in batch.words {
            let (part, facts) = &batch.parts[place];
            let applied = committed[place].as_ref().ok().and_then(|(applied, _)| applied.get(at));
            // Of a part that is gone nothing may be written any more.
            let stays = matches!(applied, Some(Applied::Moved | Applied::Known | Applied::Reopened));
            if let (News::Failed(code) | News::Returned(code), true) = (facts[at].news, stays) {
                self.aftercare.words(*part, code, words);
            }
        }
    }

    fn count(&self, fact: &Fact, applied: Applied, now: UnixMs, tally: &mut StatusTally) {
        let moved = matches!(applied, Applied::Moved | Applied::Reopened);
        if moved {
            self.lag.record(now.since(fact.at));
        }
        if let (News::Failed(code) | News::Returned(code), true) = (fact.news, moved) {
            metrics::meta_error(code, policy::rule(code).is_some());
        }
        tally.add(fact.news, if moved { StatusResult::Applied } else { StatusResult::Repeated });
    }
}

/// Takes what waits, and what comes while others have their turn: who was answered just now is about to ask again, and the
/// first of them would be committed alone while the others wait for it.
async fn gather(batch: &mut Batch, waiting: &mut mpsc::UnboundedReceiver<Request>) {
    let mut had = 0;
    while had < batch.requests.len() && batch.n_facts < FACTS_MAX {
        had = batch.requests.len();
        tokio::task::yield_now().await;
        while batch.n_facts < FACTS_MAX
            && let Ok(request) = waiting.try_recv()
        {
            batch.take(request);
        }
    }
}
