//! Finds the recipient of a message by Meta's message id, for statuses and replies without our token.
//!
//! Meta does not promise the token on every failed status, and a reply names only the message that it answers. The
//! ids are in the index of the line, or still in the lists of the parts that sent them ([`super::search`]).
//!
//! News is parked in Redis in two cases: a failed status that was not found, because it may precede Meta's response
//! to our own request, and a failed status or reply whose search did not finish. It is searched for again after
//! one second, two, four, and so on. The search is given up when it finished without a result and the news is
//! [`SEARCH_FOR`] old, or is a reply.
//!
//! If the process dies: Meta delivers unanswered webhooks again, and any process searches for parked news.
//! Never: runs two searches at once, or searches for more than half of the time. Searches for unknown ids are
//! expensive, and must not slow down other work of Redis.

use std::{
    collections::{HashMap, HashSet},
    iter,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};
use tracing::debug;

use super::{
    Unavailable,
    apply::{Committer, LocatedFact},
    faults,
    search::{Depth, SearchResult, Searcher},
    tally::StatusTally,
};
use crate::{
    domain::{
        CampaignId, Fact, LineId, News, OnWithheld, State, UnixMs, Wamid,
        chat::ChatStatus,
        policy::{self, ByStatus},
    },
    redis::{
        Result, Store,
        clock::Clock,
        message_ids::RowRef,
        parked::{Parked, ParkedEntry},
    },
    telemetry::metrics::StatusResult,
};

/// Capacity of the request queue. Further requests are refused, and Meta delivers them again.
const REQUESTS_MAX: usize = 256;
/// Message ids in one search, collected from the queued requests.
const IDS_MAX: usize = 256;
/// Age at which a failed status that was not found is considered another app's: longer than any request of ours stays
/// unsettled.
pub const SEARCH_FOR: Duration = Duration::from_secs(10 * 60);
/// Time from parking a status to its first search.
const FIRST_SEARCH_AFTER: Duration = Duration::from_secs(1);
/// Interval between two searches for parked news.
const SEARCH_EVERY: Duration = Duration::from_millis(500);
/// Parked news in one round of searches.
const PARKED_AT_ONCE: usize = 256;
/// A search that took longer than this is followed by a pause of the same length.
const REST_FROM: Duration = Duration::from_millis(5);

struct Request {
    line: LineId,
    wamids: Vec<Wamid>,
    answer: oneshot::Sender<std::result::Result<Vec<SearchResult>, Unavailable>>,
}

/// Queues searches for message ids. Cheap to clone; the task ends when every clone is dropped.
#[derive(Clone)]
pub struct MessageFinder {
    requests: mpsc::Sender<Request>,
}

impl MessageFinder {
    /// The handle, and the task that searches.
    pub fn new(store: Store, clock: Arc<Clock>, committer: Committer) -> (Self, impl Future<Output = ()> + Send) {
        let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
        let searcher = Searcher::new(store.clone());
        (Self { requests }, FinderTask { store, clock, searcher, committer }.run(waiting))
    }

    /// Finds the recipients of the messages `wamids` of `line`. Returns one result per id, in order.
    pub async fn find(&self, line: LineId, wamids: Vec<Wamid>) -> std::result::Result<Vec<SearchResult>, Unavailable> {
        let (answer, found) = oneshot::channel();
        self.requests.try_send(Request { line, wamids, answer }).map_err(|_| Unavailable::busy())?;
        found.await.unwrap_or_else(|_| Err(Unavailable::stopped()))
    }
}

/// When to search for a parked status again; `None` if it is too old. Each wait is as long as the age of the status.
pub fn next_search(at: UnixMs, now: UnixMs) -> Option<UnixMs> {
    let age = now.since(at);
    (age < SEARCH_FOR).then(|| now.after(age.max(FIRST_SEARCH_AFTER)))
}

struct FinderTask {
    store: Store,
    clock: Arc<Clock>,
    searcher: Searcher,
    committer: Committer,
}

impl FinderTask {
    async fn run(mut self, mut waiting: mpsc::Receiver<Request>) {
        let mut next_search_at = Instant::now();
        loop {
            let request = tokio::select! {
                request = waiting.recv() => match request {
                    Some(request) => Some(request),
                    None => break,
                },
                () = sleep_until(next_search_at) => None,
            };
            let started = Instant::now();
            match request {
                Some(request) => self.answer(request, &mut waiting).await,
                None => {
                    if let Err(error) = self.search_parked().await {
                        debug!(%error, "search for parked statuses failed and is repeated later");
                    }
                    next_search_at = Instant::now() + SEARCH_EVERY;
                }
            }
            let took = started.elapsed();
            if took > REST_FROM {
                sleep(took).await;
            }
        }
    }

    /// Answers `first` together with other queued requests.
    async fn answer(&mut self, first: Request, waiting: &mut mpsc::Receiver<Request>) {
        let mut n_ids = first.wamids.len();
        let mut requests = vec![first];
        while n_ids < IDS_MAX
            && let Ok(request) = waiting.try_recv()
        {
            n_ids += request.wamids.len();
            requests.push(request);
        }
        let mut by_line: HashMap<LineId, Vec<Wamid>> = HashMap::new();
        for request in &requests {
            by_line.entry(request.line.clone()).or_default().extend(request.wamids.iter().cloned());
        }
        let mut found = HashMap::with_capacity(by_line.len());
        for (line, wamids) in by_line {
            let results = match self.searcher.search(&line, &wamids, Depth::Shallow).await {
                Ok(results) => Ok(wamids.into_iter().zip(results).collect::<HashMap<_, _>>()),
                Err(cause) => {
                    let unavailable = Unavailable::because(&cause);
                    if cause.is_transient() {
                        // The other lines and all queued requests fail too. They would otherwise run into one timeout
                        // after the other.
                        requests.extend(iter::from_fn(|| waiting.try_recv().ok()));
                        requests.into_iter().for_each(|request| drop(request.answer.send(Err(unavailable.clone()))));
                        return;
                    }
                    Err(unavailable)
                }
            };
            found.insert(line, results);
        }
        for Request { line, wamids, answer } in requests {
            let results = found
                .get(&line)
                .map_or_else(|| Err(Unavailable::stopped()), |results| results.as_ref().map_err(Clone::clone));
            let of_request = |results: &HashMap<Wamid, SearchResult>| {
                wamids.iter().map(|wamid| results.get(wamid).copied().unwrap_or(SearchResult::NotFound)).collect()
            };
            let _ = answer.send(results.map(of_request));
        }
    }

    async fn search_parked(&mut self) -> Result<()> {
        let now = self.clock.now();
        let parked = self.store.parked(now, PARKED_AT_ONCE).await?;
        let mut by_line: HashMap<LineId, Vec<ParkedEntry>> = HashMap::new();
        for entry in parked {
            by_line.entry(entry.status.line.clone()).or_default().push(entry);
        }
        for (line, entries) in by_line {
            let wamids: Vec<Wamid> = entries.iter().map(|entry| entry.status.wamid.clone()).collect();
            let results = self.searcher.search(&line, &wamids, Depth::Full).await?;
            let were_held = self.were_held(&entries, &results).await?;
            let on_withheld = self.on_withheld(&entries, &results).await?;
            let (mut facts, mut unnamed, mut forget, mut again, mut tally) =
                (Vec::new(), Vec::new(), Vec::new(), Vec::new(), StatusTally::default());
            for ((entry, result), was_held) in entries.into_iter().zip(results).zip(were_held) {
                let parked = &entry.status;
                match (result, next_search(parked.at, now)) {
                    (SearchResult::Found(place), _) => {
                        let on_withheld = on_withheld.get(&place.0.campaign).copied().unwrap_or_default();
                        facts.push(located(place, parked, news(parked, was_held, on_withheld)));
                        forget.push(entry);
                    }
                    // Parked again at any age, because no search for it has finished.
                    (SearchResult::Unfinished, due) => {
                        again.push((entry, due.unwrap_or(now.after(FIRST_SEARCH_AFTER))))
                    }
                    (SearchResult::NotFound, Some(due)) if may_appear(parked) => again.push((entry, due)),
                    (SearchResult::NotFound, _) => {
                        tally.add(news(parked, false, OnWithheld::Fail), StatusResult::Unknown);
                        unnamed.extend(of_chat(parked));
                        forget.push(entry);
                    }
                }
            }
            if !unnamed.is_empty() {
                self.store.note_unnamed_statuses(&line, &unnamed).await?;
            }
            // Commit before unparking: a crash in between only applies the news twice.
            if self.committer.commit(facts.into()).await.is_ok() {
                self.store.repark(&forget, &again).await?;
                tally.record();
            }
        }
        Ok(())
    }

    /// For each entry, whether it was found and Meta keeps its message back.
    async fn were_held(&self, entries: &[ParkedEntry], results: &[SearchResult]) -> Result<Vec<bool>> {
        let found = |(entry, result): (&ParkedEntry, &SearchResult)| match (entry.status.failure, result) {
            (Some(reason), SearchResult::Found(place)) => policy::may_be_a_drop(reason).then_some(*place),
            _ => None,
        };
        self.store.are_held(&entries.iter().zip(results).map(found).collect::<Vec<_>>()).await
    }

    /// The settings for withheld messages, by campaign, for the entries that were found and that Meta withheld.
    async fn on_withheld(
        &self,
        entries: &[ParkedEntry],
        results: &[SearchResult],
    ) -> Result<HashMap<CampaignId, OnWithheld>> {
        let withheld = |(entry, result): (&ParkedEntry, &SearchResult)| match (entry.status.failure, result) {
            (Some(reason), SearchResult::Found((part, _))) => {
                (policy::by_status(reason) == ByStatus::Withheld).then_some(part.campaign)
            }
            _ => None,
        };
        let campaigns: HashSet<CampaignId> = entries.iter().zip(results).filter_map(withheld).collect();
        if campaigns.is_empty() {
            return Ok(HashMap::new());
        }
        let campaigns: Vec<CampaignId> = campaigns.into_iter().collect();
        let definitions = self.store.definitions(&campaigns).await?.into_iter().flatten();
        Ok(definitions.map(|read| (read.campaign.id, read.campaign.on_withheld)).collect())
    }
}

/// Whether the message id may be stored later, so that the next search can find it. A status can precede Meta's
/// response to our request; a reply cannot, because the recipient has the message.
fn may_appear(parked: &Parked) -> bool {
    parked.failure.is_some()
}

/// The news of a parked status. `was_held`: Meta had accepted the message and kept it back.
pub fn news(parked: &Parked, was_held: bool, on_withheld: OnWithheld) -> News {
    parked.failure.map_or(News::Replied, |reason| faults::news(reason, was_held, on_withheld))
}

/// What a parked failure says if it is about a message of a chat. Its first webhook may have come before Meta's response
/// to our request, so the reader of the line gets it again, when that is certainly over.
fn of_chat(parked: &Parked) -> Option<ChatStatus> {
    let Parked { wamid, failure, details, at, .. } = parked;
    let (wamid, code, details) = (Some(wamid.clone()), (*failure)?.code(), details.clone());
    Some(ChatStatus { id: None, send: 0, state: State::Failed, at: *at, wamid, code, details })
}

fn located((part, claimed): RowRef, parked: &Parked, news: News) -> LocatedFact {
    let fact = Fact { row: claimed.row, send: claimed.send, news, at: parked.at, message: Some(parked.wamid.clone()) };
    LocatedFact { part, fact, details: parked.details.as_str().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_for_a_parked_status_back_off_and_then_end() {
        let at = UnixMs(1_000_000);
        let mut now = at.after(Duration::from_millis(200));
        let mut ages = Vec::new();
        while let Some(due) = next_search(at, now) {
            now = due;
            ages.push(now.since(at).as_millis());
        }
        let doubling = [1_200, 2_400, 4_800, 9_600, 19_200, 38_400, 76_800, 153_600, 307_200, 614_400];
        assert_eq!(ages, doubling);
        assert_eq!(next_search(at, at.after(SEARCH_FOR)), None);
        assert_eq!(
            next_search(at.after(SEARCH_FOR), at),
            Some(at.after(FIRST_SEARCH_AFTER)),
            "Meta's clock may be ahead"
        );
    }
}
