//! Group commit: stores the facts of many requests in one round trip to Redis, and their inbound messages in another.
//! Answers each request when its own changes are committed.
//!
//! Requests that arrive during a commit form the next one. A single request is therefore committed at once, and under
//! load commits are large and cheap, without a timer. Two commits in flight would each be half as large and cost
//! Redis more.
//!
//! If Redis is unavailable for a commit, all queued requests fail with it. Each would otherwise run into its own
//! timeout, one after the other, and Meta stops waiting for a response long before the last one.
//!
//! If the process dies: Meta delivers unanswered webhooks again, and a fact or message that comes twice changes
//! nothing.
//! Never: answers before the commit; queues more than `WAITING_MAX` facts and messages, including those of requests
//! that were cancelled.

use std::{
    collections::HashMap,
    hash::Hash,
    iter, slice,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ::metrics::Histogram;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{Unavailable, follow_up::FollowUp, tally::StatusTally};
use crate::{
    domain::{Applied, Fact, LineId, PartId, UnixMs},
    redis::{
        Store, StoreError,
        clock::Clock,
        inbound::{InboundLimits, Kept, NewInbound},
        parts::AppliedFacts,
    },
    telemetry::{
        clock,
        metrics::{self, InboundResult, StatusResult},
        traces::Traces,
    },
};

/// Limit on the facts that are queued or in a commit: about 100 ms of Redis and 8 MB. A message counts as several
/// facts. A request with more facts is accepted only if nothing else is queued. Further requests are refused, and Meta
/// delivers them again.
const WAITING_MAX: u32 = 32_768;
/// Facts and messages above which a commit takes no further request: about 10 ms of Redis.
const COMMIT_MAX: usize = 4_096;
/// The weight of a message against these limits: each of this many bytes counts as one fact.
const BYTES_PER_FACT: usize = 160;

/// A fact, and the part of its recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocatedFact {
    /// The part.
    pub part: PartId,
    /// The row in the part, and what is reported about it.
    pub fact: Fact,
    /// Meta's error text of a failure; may be empty.
    pub details: Box<str>,
}

/// A message from a person to a line.
#[derive(Clone, Debug)]
pub struct LineMessage {
    /// The line.
    pub line: LineId,
    /// The message.
    pub message: NewInbound,
}

/// What a webhook changes.
#[derive(Debug, Default)]
pub struct Changes {
    /// Facts about recipients.
    pub facts: Vec<LocatedFact>,
    /// Messages from people.
    pub messages: Vec<LineMessage>,
}

impl From<Vec<LocatedFact>> for Changes {
    fn from(facts: Vec<LocatedFact>) -> Self {
        Self { facts, messages: Vec::new() }
    }
}

struct Request {
    changes: Changes,
    done: Done,
    /// Released when the changes leave the queue, not when the caller is cancelled.
    permits: OwnedSemaphorePermit,
}

type Done = oneshot::Sender<Result<(), Unavailable>>;

/// Queues changes for a commit. Cheap to clone; the task ends when every clone is dropped.
#[derive(Clone)]
pub struct Committer {
    /// Bounded by `permits`, because every request has at least one change.
    requests: mpsc::UnboundedSender<Request>,
    permits: Arc<Semaphore>,
}

impl Committer {
    /// The handle, and the task that commits. `id_retention`: how long message ids can be looked up.
    pub fn new(
        store: Store,
        clock: Arc<Clock>,
        id_retention: Duration,
        inbound: InboundLimits,
        follow_up: FollowUp,
        traces: Traces,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (requests, waiting) = mpsc::unbounded_channel();
        let commits = Commits { store, clock, id_retention, inbound, follow_up, traces, lag: metrics::webhook_lag() };
        (Self { requests, permits: Arc::new(Semaphore::new(WAITING_MAX as usize)) }, commits.run(waiting))
    }

    /// Returns when `changes` are stored in Redis.
    ///
    /// Errors: all, some or none of the changes are stored. Commit them again.
    pub async fn commit(&self, changes: Changes) -> Result<(), Unavailable> {
        let of_message = |message: &LineMessage| 1 + message.message.message.len() / BYTES_PER_FACT;
        let weight = changes.facts.len() + changes.messages.iter().map(of_message).sum::<usize>();
        if weight == 0 {
            return Ok(());
        }
        let weight = u32::try_from(weight).unwrap_or(u32::MAX).min(WAITING_MAX);
        let permits = self.permits.clone().try_acquire_many_owned(weight).map_err(|_| Unavailable::busy())?;
        let (done, committed) = oneshot::channel();
        self.requests.send(Request { changes, done, permits }).map_err(|_| Unavailable::stopped())?;
        committed.await.unwrap_or_else(|_| Err(Unavailable::stopped()))
    }
}

/// The changes of one commit.
#[derive(Default)]
struct Batch {
    parts: Groups<PartId, Fact>,
    lines: Groups<LineId, NewInbound>,
    /// Error texts, each with the position of its fact.
    error_texts: Vec<(Place, Box<str>)>,
    requests: Vec<BatchedRequest>,
}

/// Items in groups, in the order of the first item of each group.
struct Groups<K, T> {
    groups: Vec<(K, Vec<T>)>,
    /// The index of a group in `groups`.
    indices: HashMap<K, usize>,
    n_items: usize,
}

/// Where an item is in its [`Groups`].
#[derive(Clone, Copy)]
struct Place {
    group: usize,
    index: usize,
}

struct BatchedRequest {
    /// The indices of the parts of the request.
    parts: Vec<usize>,
    /// The positions of the messages of the request.
    messages: Vec<Place>,
    done: Done,
    _permits: OwnedSemaphorePermit,
}

impl<K, T> Default for Groups<K, T> {
    fn default() -> Self {
        Self { groups: Vec::new(), indices: HashMap::new(), n_items: 0 }
    }
}

impl<K: Clone + Eq + Hash, T> Groups<K, T> {
    fn add(&mut self, key: K, item: T) -> Place {
        let group = *self.indices.entry(key).or_insert_with_key(|key| {
            self.groups.push((key.clone(), Vec::new()));
            self.groups.len() - 1
        });
        let items = &mut self.groups[group].1;
        items.push(item);
        self.n_items += 1;
        Place { group, index: items.len() - 1 }
    }
}

impl Batch {
    fn take(&mut self, Request { changes, done, permits }: Request) {
        let mut parts = Vec::with_capacity(1);
        for LocatedFact { part, fact, details } in changes.facts {
            let place = self.parts.add(part, fact);
            if !details.is_empty() {
                self.error_texts.push((place, details));
            }
            if parts.last() != Some(&place.group) {
                parts.push(place.group);
            }
        }
        let messages = changes.messages.into_iter().map(|message| self.lines.add(message.line, message.message));
        let messages = messages.collect();
        self.requests.push(BatchedRequest { parts, messages, done, _permits: permits });
    }

    fn is_full(&self) -> bool {
        self.parts.n_items + self.lines.n_items >= COMMIT_MAX
    }
}

/// The results of the facts of one part.
type Committed = Result<AppliedFacts, Unavailable>;

/// The results of the facts of a batch by part. An error means that Redis was unavailable.
type Answer = Result<Vec<Committed>, Unavailable>;

/// The results for the messages of one line.
type KeptOfLine = Result<Vec<Kept>, Unavailable>;

struct Commits {
    store: Store,
    clock: Arc<Clock>,
    id_retention: Duration,
    inbound: InboundLimits,
    follow_up: FollowUp,
    traces: Traces,
    lag: Histogram,
}

impl Commits {
    async fn run(self, mut waiting: mpsc::UnboundedReceiver<Request>) {
        while let Some(request) = waiting.recv().await {
            let mut batch = Batch::default();
            batch.take(request);
            gather(&mut batch, &mut waiting).await;
            let began = clock::system_time();
            let committed = match self.keep(&batch.lines.groups).await {
                Ok(kept) => self.commit(&batch.parts.groups).await.map(|committed| (committed, kept)),
                Err(unavailable) => Err(unavailable),
            };
            match committed {
                Ok((committed, kept)) => self.finish(batch, committed, &kept, began),
                Err(unavailable) => fail(batch, &mut waiting, &unavailable),
            }
        }
    }

    /// Stores messages, and returns the results by line. An error means that Redis was unavailable.
    async fn keep(&self, lines: &[(LineId, Vec<NewInbound>)]) -> Result<Vec<KeptOfLine>, Unavailable> {
        if lines.is_empty() {
            return Ok(Vec::new());
        }
        let mut kept = self.store.keep_inbound(lines, self.inbound).await;
        if kept.as_ref().is_err_and(StoreError::is_transient) {
            // Retry once, because the pinned connection may have closed unnoticed. A message is only stored once.
            kept = self.store.keep_inbound(lines, self.inbound).await;
        }
        let by_line = kept.map_err(|cause| Unavailable::because(&cause))?.into_iter();
        Ok(by_line.map(|kept| kept.map_err(|cause| Unavailable::because(&cause))).collect())
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

    fn finish(&self, batch: Batch, committed: Vec<Committed>, kept: &[KeptOfLine], began: SystemTime) {
        for BatchedRequest { parts, messages, done, .. } in batch.requests {
            let failed = parts.iter().find_map(|&part| committed[part].as_ref().err().cloned());
            let not_kept = || messages.iter().find_map(|&place| not_kept(place, &batch.lines.groups, kept));
            // A cancelled request is delivered again by Meta, which changes nothing.
            let _ = done.send(failed.or_else(not_kept).map_or(Ok(()), Err));
        }
        let results = [
            (Kept::Stored, InboundResult::Stored),
            (Kept::Repeated, InboundResult::Repeated),
            (Kept::Full, InboundResult::Full),
        ];
        for (result, label) in results {
            let n = kept.iter().flatten().flatten().filter(|kept| **kept == result).count();
            metrics::inbound(label, n as u64);
        }
        let now = self.clock.now();
        let mut tally = StatusTally::default();
        for ((part, facts), committed) in batch.parts.groups.iter().zip(&committed) {
            let Ok(AppliedFacts { applied, open }) = committed else { continue };
            for (fact, applied) in facts.iter().zip(applied) {
                self.count(fact, *applied, now, &mut tally);
                if applied.has_moved()
                    && let Some(trace) = self.traces.of_recipient(*part, fact.row)
                {
                    trace.reported(fact, began);
                }
            }
            if *open == 0 {
                self.follow_up.complete_if_done(part.campaign);
            }
        }
        tally.record();
        for (Place { group, index }, text) in batch.error_texts {
            let (part, facts) = &batch.parts.groups[group];
            let applied = committed[group].as_ref().ok().and_then(|committed| committed.applied.get(index));
            // Nothing may be written to a part that was deleted.
            let exists = matches!(applied, Some(Applied::Moved | Applied::Repeated | Applied::Reopened));
            if let (Some(reason), true) = (facts[index].news.failure(), exists) {
                self.follow_up.store_error_text(*part, reason, text);
            }
        }
    }

    fn count(&self, fact: &Fact, applied: Applied, now: UnixMs, tally: &mut StatusTally) {
        let moved = applied.has_moved();
        if moved {
            self.lag.record(now.since(fact.at));
        }
        if let (Some(reason), true) = (fact.news.failure(), moved) {
            metrics::meta_error(reason.code());
        }
        tally.add(fact.news, if moved { StatusResult::Applied } else { StatusResult::Repeated });
    }
}

/// Why the message at `place` is not stored, if it is not.
fn not_kept(place: Place, lines: &[(LineId, Vec<NewInbound>)], kept: &[KeptOfLine]) -> Option<Unavailable> {
    match &kept[place.group] {
        Ok(kept) if kept.get(place.index) == Some(&Kept::Full) => Some(Unavailable::full(&lines[place.group].0)),
        Ok(_) => None,
        Err(cause) => Some(cause.clone()),
    }
}

/// Fails the requests of a batch and all that wait.
fn fail(batch: Batch, waiting: &mut mpsc::UnboundedReceiver<Request>, unavailable: &Unavailable) {
    let waiting = iter::from_fn(|| waiting.try_recv().ok()).map(|request| request.done);
    for done in batch.requests.into_iter().map(|request| request.done).chain(waiting) {
        let _ = done.send(Err(unavailable.clone()));
    }
}

/// Adds queued requests to the batch, yielding in between, until no further request arrives. Callers that were just
/// answered are about to send their next request. Without the yields the first of these requests would be committed
/// alone while the others wait.
async fn gather(batch: &mut Batch, waiting: &mut mpsc::UnboundedReceiver<Request>) {
    let mut had = 0;
    while had < batch.requests.len() && !batch.is_full() {
        had = batch.requests.len();
        tokio::task::yield_now().await;
        while !batch.is_full()
            && let Ok(request) = waiting.try_recv()
        {
            batch.take(request);
        }
    }
}
