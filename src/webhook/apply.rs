//! Group commit: stores the facts of many requests in one round trip to Redis, and answers each request when its own
//! facts are committed.
//!
//! Requests that arrive during a commit form the next one. A single request is therefore committed at once, and under
//! load commits are large and cheap, without a timer. Two commits in flight would each be half as large and cost
//! Redis more.
//!
//! If Redis is unavailable for a commit, all queued requests fail with it. Each would otherwise run into its own
//! timeout, one after the other, and Meta stops waiting for a response long before the last one.
//!
//! If the process dies: Meta delivers unanswered webhooks again, and a fact applied twice changes nothing.
//! Never: answers before the commit; queues more than `FACTS_WAITING_MAX` facts, including those of requests that were
//! cancelled.

use std::{collections::HashMap, iter, slice, sync::Arc, time::Duration};

use ::metrics::Histogram;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{Unavailable, follow_up::FollowUp, tally::StatusTally};
use crate::{
    domain::{Applied, Fact, News, PartId, UnixMs},
    redis::{Store, StoreError, clock::Clock, parts::AppliedFacts},
    telemetry::metrics::{self, StatusResult},
};

/// Limit on the facts that are queued or in a commit: about 100 ms of Redis and 5 MB. A request with more facts is
/// accepted only if nothing else is queued. Further requests are refused, and Meta delivers them again.
const FACTS_WAITING_MAX: u32 = 32_768;
/// Facts above which a commit takes no further request: about 10 ms of Redis.
const FACTS_MAX: usize = 4_096;

/// A fact, and the part of its recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocatedFact {
    /// The part.
    pub part: PartId,
    /// The row in the part, and its news.
    pub fact: Fact,
    /// Meta's error text of a failure; may be empty.
    pub details: Box<str>,
}

struct Request {
    facts: Vec<LocatedFact>,
    done: Done,
    /// One per fact. Released when the facts leave the queue, not when the caller is cancelled.
    permits: OwnedSemaphorePermit,
}

type Done = oneshot::Sender<Result<(), Unavailable>>;

/// Queues facts for a commit. Cheap to clone; the task ends when every clone is dropped.
#[derive(Clone)]
pub struct Committer {
    /// Bounded by `permits`, because every request has at least one fact.
    requests: mpsc::UnboundedSender<Request>,
    /// One permit per fact.
    permits: Arc<Semaphore>,
}

impl Committer {
    /// A handle, and the task behind it. `id_retention`: how long message ids can be looked up.
    pub fn new(
        store: Store,
        clock: Arc<Clock>,
        id_retention: Duration,
        follow_up: FollowUp,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (requests, waiting) = mpsc::unbounded_channel();
        let commits = Commits { store, clock, id_retention, follow_up, lag: metrics::webhook_lag() };
        (Self { requests, permits: Arc::new(Semaphore::new(FACTS_WAITING_MAX as usize)) }, commits.run(waiting))
    }

    /// Returns when `facts` are stored in Redis.
    ///
    /// Errors: all, some or none of the facts are stored; apply them again.
    pub async fn commit(&self, facts: Vec<LocatedFact>) -> Result<(), Unavailable> {
        if facts.is_empty() {
            return Ok(());
        }
        let n_facts = u32::try_from(facts.len()).unwrap_or(u32::MAX).min(FACTS_WAITING_MAX);
        let permits = self.permits.clone().try_acquire_many_owned(n_facts).map_err(|_| Unavailable::busy())?;
        let (done, committed) = oneshot::channel();
        self.requests.send(Request { facts, done, permits }).map_err(|_| Unavailable::stopped())?;
        committed.await.unwrap_or_else(|_| Err(Unavailable::stopped()))
    }
}

/// The facts of one commit.
#[derive(Default)]
struct Batch {
    parts: Vec<(PartId, Vec<Fact>)>,
    /// The index of a part in `parts`.
    indices: HashMap<PartId, usize>,
    n_facts: usize,
    /// Error texts, each with the index of its part and the index of its fact in that part.
    error_texts: Vec<(usize, usize, Box<str>)>,
    /// For each request: the indices of its parts, its response channel, and its permits.
    requests: Vec<(Vec<usize>, Done, OwnedSemaphorePermit)>,
}

impl Batch {
    fn take(&mut self, request: Request) {
        let mut part_indices = Vec::with_capacity(1);
        for located in request.facts {
            let index = *self.indices.entry(located.part).or_insert_with(|| {
                self.parts.push((located.part, Vec::new()));
                self.parts.len() - 1
            });
            let facts = &mut self.parts[index].1;
            if !located.details.is_empty() {
                self.error_texts.push((index, facts.len(), located.details));
            }
            facts.push(located.fact);
            self.n_facts += 1;
            if part_indices.last() != Some(&index) {
                part_indices.push(index);
            }
        }
        self.requests.push((part_indices, request.done, request.permits));
    }
}

/// The results of the facts of one part.
type Committed = Result<AppliedFacts, Unavailable>;

/// The results of a batch by part. An error means that Redis was unavailable.
type Answer = Result<Vec<Committed>, Unavailable>;

struct Commits {
    store: Store,
    clock: Arc<Clock>,
    id_retention: Duration,
    follow_up: FollowUp,
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
        let mut committed = self.store.apply(parts, self.id_retention).await;
        if committed.as_ref().is_err_and(StoreError::is_transient) {
            // Retry once, because the pinned connection may have closed unnoticed. Applying facts is idempotent.
            committed = self.store.apply(parts, self.id_retention).await;
        }
        match committed {
            Ok(committed) => Ok(committed.into_iter().map(Ok).collect()),
            Err(cause) if cause.is_transient() => Err(Unavailable::because(&cause)),
            Err(_) => self.commit_one_by_one(parts).await,
        }
    }

    /// Commits each part on its own, so that a part with corrupt data fails only the requests about that part.
    async fn commit_one_by_one(&self, parts: &[(PartId, Vec<Fact>)]) -> Answer {
        let mut results = Vec::with_capacity(parts.len());
        for part in parts {
            results.push(match self.store.apply(slice::from_ref(part), self.id_retention).await {
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
            Err(unavailable) => {
                let waiting = iter::from_fn(|| waiting.try_recv().ok()).map(|request| request.done);
                for done in batch.requests.into_iter().map(|(_, done, _)| done).chain(waiting) {
                    let _ = done.send(Err(unavailable.clone()));
                }
            }
        }
    }

    fn finish(&self, batch: Batch, committed: Vec<Committed>) {
        for (part_indices, done, _room) in batch.requests {
            let failed = part_indices.iter().find_map(|&index| committed[index].as_ref().err());
            // A cancelled request is delivered again by Meta, which changes nothing.
            let _ = done.send(failed.map_or(Ok(()), |cause| Err(cause.clone())));
        }
        let now = self.clock.now();
        let mut tally = StatusTally::default();
        for ((part, facts), committed) in batch.parts.iter().zip(&committed) {
            let Ok(AppliedFacts { applied, open }) = committed else { continue };
            for (fact, applied) in facts.iter().zip(applied) {
                self.count(fact, *applied, now, &mut tally);
            }
            if *open == 0 {
                self.follow_up.complete_if_done(part.campaign);
            }
        }
        tally.record();
        for (index, at, text) in batch.error_texts {
            let (part, facts) = &batch.parts[index];
            let applied = committed[index].as_ref().ok().and_then(|committed| committed.applied.get(at));
            // Nothing may be written to a part that was deleted.
            let exists = matches!(applied, Some(Applied::Moved | Applied::Repeated | Applied::Reopened));
            if let (News::Failed(reason) | News::Returned(reason), true) = (facts[at].news, exists) {
                self.follow_up.store_error_text(*part, reason, text);
            }
        }
    }

    fn count(&self, fact: &Fact, applied: Applied, now: UnixMs, tally: &mut StatusTally) {
        let moved = matches!(applied, Applied::Moved | Applied::Reopened);
        if moved {
            self.lag.record(now.since(fact.at));
        }
        if let (News::Failed(reason) | News::Returned(reason), true) = (fact.news, moved) {
            metrics::meta_error(reason.code());
        }
        tally.add(fact.news, if moved { StatusResult::Applied } else { StatusResult::Repeated });
    }
}

/// Adds the queued requests to the batch, and those that arrive while other tasks run. Callers that were just
/// answered are about to send their next request; without the yield the first of these would be committed alone while
/// the others wait.
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
