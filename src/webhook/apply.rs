//! Group commit: the facts of many requests in one round trip to Redis, and every request answered when its own are
//! committed.
//!
//! While commits are on their way, what arrives gathers for the next one. So a single request waits for nobody, and under
//! load a commit is large and cheap; there is no timer.
//!
//! If the process dies: what was not answered is delivered again by Meta, and a fact applied twice changes nothing.
//! Never: answers before the commit; keeps more than [`REQUESTS_MAX`] requests waiting.

use std::{collections::HashMap, slice, sync::Arc, time::Duration};

use ::metrics::Histogram;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::{
    mpsc::{self, error::TryRecvError},
    oneshot,
};

use super::{Unavailable, aftercare::Aftercare, tally::Tally};
use crate::{
    domain::{PartId, UnixMs, policy},
    ops::metrics::{self, StatusResult},
    store::{
        Store, StoreError,
        clock::Clock,
        parts::{Applied, Fact, News},
    },
};

/// Requests that wait for a commit at most. Further ones are refused, and Meta delivers them again.
const REQUESTS_MAX: usize = 4_096;
/// Facts in one commit at most, unless one request has more: some 10 ms of Redis.
const FACTS_MAX: usize = 4_096;
/// Commits on their way at most: while Redis works on one, the next is packed.
const COMMITS_MAX: usize = 2;

/// A fact, and whom it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The part.
    pub part: PartId,
    /// The row in it, and what is new of it.
    pub fact: Fact,
    /// Meta's words where it failed; may be empty.
    pub details: Box<str>,
}

struct Request {
    facts: Vec<Placed>,
    done: Done,
}

type Done = oneshot::Sender<Result<(), Unavailable>>;

/// Takes facts to be committed. Cheap to clone; the task ends when every clone is gone.
#[derive(Clone)]
pub struct Committer {
    requests: mpsc::Sender<Request>,
}

impl Committer {
    /// A handle, and the task behind it. `ids_kept`: how long message ids are found again.
    pub fn new(
        store: Store,
        clock: Arc<Clock>,
        ids_kept: Duration,
        aftercare: Aftercare,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
        let commits = Commits { store, clock, ids_kept, aftercare, lag: metrics::webhook_lag() };
        (Self { requests }, commits.run(waiting))
    }

    /// Returns when `facts` are in Redis.
    ///
    /// Errors: they may be, or not, or in part; apply them again.
    pub async fn commit(&self, facts: Vec<Placed>) -> Result<(), Unavailable> {
        if facts.is_empty() {
            return Ok(());
        }
        let (done, committed) = oneshot::channel();
        self.requests.try_send(Request { facts, done }).map_err(|_| Unavailable::busy())?;
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
    /// Who waits, and for which parts.
    requests: Vec<(Vec<usize>, Done)>,
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
        self.requests.push((needs, request.done));
    }
}

/// What became of the facts of one part, and how many of its recipients are open.
type Committed = Result<(Vec<Applied>, u64), Unavailable>;

struct Commits {
    store: Store,
    clock: Arc<Clock>,
    ids_kept: Duration,
    aftercare: Aftercare,
    lag: Histogram,
}

impl Commits {
    async fn run(self, mut waiting: mpsc::Receiver<Request>) {
        let mut on_their_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                request = waiting.recv(), if on_their_way.len() < COMMITS_MAX => {
                    let Some(request) = request else { break };
                    let mut batch = Batch::default();
                    batch.take(request);
                    gather(&mut batch, &mut waiting);
                    on_their_way.push(self.commit(batch));
                }
                Some((batch, result)) = on_their_way.next() => self.finish(batch, result),
            }
        }
        while let Some((batch, result)) = on_their_way.next().await {
            self.finish(batch, result);
        }
    }

    async fn commit(&self, batch: Batch) -> (Batch, Vec<Committed>) {
        let mut committed = self.store.apply(&batch.parts, self.ids_kept).await;
        if matches!(committed, Err(StoreError::Unavailable(_))) {
            // Once more: the connection that is kept may have ended unnoticed, and a fact applied twice changes nothing.
            committed = self.store.apply(&batch.parts, self.ids_kept).await;
        }
        let committed = match committed {
            Ok(committed) => committed.into_iter().map(Ok).collect(),
            Err(cause @ StoreError::Unavailable(_)) => {
                vec![Err(Unavailable::because(&cause)); batch.parts.len()]
            }
            Err(_) => self.commit_one_by_one(&batch.parts).await,
        };
        (batch, committed)
    }

    /// Something in Redis is not as it should be: then only those wait who need just that.
    async fn commit_one_by_one(&self, parts: &[(PartId, Vec<Fact>)]) -> Vec<Committed> {
        let mut results = Vec::with_capacity(parts.len());
        for part in parts {
            let committed = self.store.apply(slice::from_ref(part), self.ids_kept).await;
            let committed = committed.map_err(|cause| Unavailable::because(&cause));
            results.push(committed.and_then(|mut committed| committed.pop().ok_or_else(Unavailable::stopped)));
        }
        results
    }

    fn finish(&self, batch: Batch, committed: Vec<Committed>) {
        for (needs, done) in batch.requests {
            let failed = needs.iter().find_map(|&place| committed[place].as_ref().err());
            // Who has gone away is delivered to again, and changes nothing by that.
            let _ = done.send(failed.map_or(Ok(()), |cause| Err(cause.clone())));
        }
        let now = self.clock.now();
        let mut tally = Tally::default();
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
            if let (News::Failed(code), Some(Applied::Moved | Applied::Known)) = (facts[at].news, applied) {
                self.aftercare.words(*part, code, words);
            }
        }
    }

    fn count(&self, fact: &Fact, applied: Applied, now: UnixMs, tally: &mut Tally) {
        let moved = applied == Applied::Moved;
        if moved {
            self.lag.record(now.since(fact.at));
        }
        if let (News::Failed(code), true) = (fact.news, moved) {
            metrics::meta_error(code, policy::rule(code).is_some());
        }
        tally.add(fact.news, if moved { StatusResult::Applied } else { StatusResult::Repeated });
    }
}

fn gather(batch: &mut Batch, waiting: &mut mpsc::Receiver<Request>) {
    while batch.n_facts < FACTS_MAX {
        match waiting.try_recv() {
            Ok(request) => batch.take(request),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
        }
    }
}
