//! Finds the recipient of a message by Meta's message id, where our token did not come along.
//!
//! Meta does not promise the token on every failed status, and an answer names only the message that it answers. The ids are in
//! the index of the line, or still in the lists of the parts that sent them ([`super::search`]).
//!
//! What is not found may be parked in Redis: a failed status because it may be ahead of Meta's answer to our own request, and
//! either where the search has not come to its end. It is looked for again: after one second, two, four, and so on until it was
//! searched for to the end in vain and is [`LOOK_FOR`] old, or cannot be ahead of anything.
//!
//! If the process dies: what was not answered is delivered again by Meta; what is parked, any process looks for.
//! Never: looks for two groups of ids at once, or for more than half of the time: ids that nobody knows are dear, and must not
//! keep Redis from its work.

use std::{collections::HashMap, iter, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};
use tracing::debug;

use super::{
    Unavailable,
    apply::{Committer, LocatedFact},
    faults,
    search::{Depth, Searcher, Sought},
    tally::StatusTally,
};
use crate::{
    domain::{LineId, UnixMs, Wamid},
    redis::{
        Result, Store,
        clock::Clock,
        message_ids::RowRef,
        parked::Parked,
        parts::{Fact, Fingerprint, News},
    },
    telemetry::metrics::StatusResult,
};

/// Requests that wait for a look at most. Further ones are refused, and Meta delivers them again.
const REQUESTS_MAX: usize = 256;
/// Message ids that are looked for at once, of all requests that wait.
const IDS_MAX: usize = 256;
/// How old a failed status gets before it belongs to nobody: longer than any of our own requests takes to be settled.
pub const LOOK_FOR: Duration = Duration::from_secs(10 * 60);
/// From parking a status to the first look for it.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// Between two looks at what is parked.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Parked statuses that are looked for at once.
const PARKED_AT_ONCE: usize = 256;
/// A look that took longer is followed by a rest as long.
const REST_FROM: Duration = Duration::from_millis(5);

struct Request {
    line: LineId,
    wamids: Vec<Wamid>,
    answer: oneshot::Sender<std::result::Result<Vec<Sought>, Unavailable>>,
}

/// Takes message ids to look for. Cheap to clone; the task ends when every clone is gone.
#[derive(Clone)]
pub struct MessageFinder {
    requests: mpsc::Sender<Request>,
}

impl MessageFinder {
    /// A handle, and the task behind it.
    pub fn new(store: Store, clock: Arc<Clock>, committer: Committer) -> (Self, impl Future<Output = ()> + Send) {
        let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
        let searcher = Searcher::new(store.clone());
        (Self { requests }, Looks { store, clock, searcher, committer }.run(waiting))
    }

    /// Where the messages `wamids` of `line` are.
    pub async fn find(&self, line: LineId, wamids: Vec<Wamid>) -> std::result::Result<Vec<Sought>, Unavailable> {
        let (answer, found) = oneshot::channel();
        self.requests.try_send(Request { line, wamids, answer }).map_err(|_| Unavailable::busy())?;
        found.await.unwrap_or_else(|_| Err(Unavailable::stopped()))
    }
}

/// When a parked status is looked for again; `None` if it is too old. Each wait is as long as the status is old.
pub fn next_look(at: UnixMs, now: UnixMs) -> Option<UnixMs> {
    let age = now.since(at);
    (age < LOOK_FOR).then(|| now.after(age.max(FIRST_LOOK)))
}

struct Looks {
    store: Store,
    clock: Arc<Clock>,
    searcher: Searcher,
    committer: Committer,
}

impl Looks {
    async fn run(mut self, mut waiting: mpsc::Receiver<Request>) {
        let mut look_at = Instant::now();
        loop {
            let request = tokio::select! {
                request = waiting.recv() => match request {
                    Some(request) => Some(request),
                    None => break,
                },
                () = sleep_until(look_at) => None,
            };
            let begun = Instant::now();
            match request {
                Some(request) => self.answer(request, &mut waiting).await,
                None => {
                    if let Err(error) = self.look_for_parked().await {
                        debug!(%error, "parked statuses are looked for later");
                    }
                    look_at = Instant::now() + LOOK_EVERY;
                }
            }
            let took = begun.elapsed();
            if took > REST_FROM {
                sleep(took).await;
            }
        }
    }

    /// Answers `first`, together with others that wait.
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
            let sought = match self.searcher.search(&line, &wamids, Depth::Shallow).await {
                Ok(sought) => Ok(wamids.into_iter().zip(sought).collect::<HashMap<_, _>>()),
                Err(cause) => {
                    let unavailable = Unavailable::because(&cause);
                    if cause.is_transient() {
                        // For the other lines, and for all that waits, it would only be found again, one time-out after the
                        // other.
                        requests.extend(iter::from_fn(|| waiting.try_recv().ok()));
                        requests.into_iter().for_each(|request| drop(request.answer.send(Err(unavailable.clone()))));
                        return;
                    }
                    Err(unavailable)
                }
            };
            found.insert(line, sought);
        }
        for Request { line, wamids, answer } in requests {
            let sought = found
                .get(&line)
                .map_or_else(|| Err(Unavailable::stopped()), |sought| sought.as_ref().map_err(Clone::clone));
            let of_request = |sought: &HashMap<Wamid, Sought>| {
                wamids.iter().map(|wamid| sought.get(wamid).copied().unwrap_or(Sought::Nowhere)).collect()
            };
            let _ = answer.send(sought.map(of_request));
        }
    }

    async fn look_for_parked(&mut self) -> Result<()> {
        let now = self.clock.now();
        let parked = self.store.parked(now, PARKED_AT_ONCE).await?;
        let mut by_line: HashMap<LineId, Vec<Parked>> = HashMap::new();
        for status in parked {
            by_line.entry(status.line.clone()).or_default().push(status);
        }
        for (line, parked) in by_line {
            let wamids: Vec<Wamid> = parked.iter().map(|status| status.wamid.clone()).collect();
            let sought = self.searcher.search(&line, &wamids, Depth::Full).await?;
            let (mut facts, mut forget, mut again, mut tally) =
                (Vec::new(), Vec::new(), Vec::new(), StatusTally::default());
            for (parked, sought) in parked.into_iter().zip(sought) {
                match (sought, next_look(parked.at, now)) {
                    (Sought::Found(place), _) => {
                        facts.push(placed(place, &parked));
                        forget.push(parked);
                    }
                    // However old it is: nobody has looked for it to the end.
                    (Sought::Unfinished, due) => again.push((parked, due.unwrap_or(now.after(FIRST_LOOK)))),
                    (Sought::Nowhere, Some(due)) if may_come(&parked) => again.push((parked, due)),
                    (Sought::Nowhere, _) => {
                        tally.add(news(&parked), StatusResult::Unknown);
                        forget.push(parked);
                    }
                }
            }
            // First the effect, then the end of the wait for it: a crash between them only applies it twice.
            if self.committer.commit(facts).await.is_ok() {
                self.store.repark(&forget, &again).await?;
                tally.record();
            }
        }
        Ok(())
    }
}

/// Whether the message may become known after what was said about it. A recipient that answers has it, and we know of that.
fn may_come(parked: &Parked) -> bool {
    parked.code.is_some()
}

/// What is said of the message.
pub fn news(parked: &Parked) -> News {
    parked.code.map_or(News::Replied, faults::news)
}

fn placed((part, claimed): RowRef, parked: &Parked) -> LocatedFact {
    let fact = Fact {
        row: claimed.row,
        send: claimed.send,
        news: news(parked),
        at: parked.at,
        message: Some(Fingerprint::of(parked.wamid.as_str())),
    };
    LocatedFact { part, fact, details: parked.details.as_str().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parked_status_is_looked_for_ever_more_rarely_and_then_given_up() {
        let at = UnixMs(1_000_000);
        let mut now = at.after(Duration::from_millis(200));
        let mut ages = Vec::new();
        while let Some(due) = next_look(at, now) {
            now = due;
            ages.push(now.since(at).as_millis());
        }
        let doubling = [1_200, 2_400, 4_800, 9_600, 19_200, 38_400, 76_800, 153_600, 307_200, 614_400];
        assert_eq!(ages, doubling);
        assert_eq!(next_look(at, at.after(LOOK_FOR)), None);
        assert_eq!(next_look(at.after(LOOK_FOR), at), Some(at.after(FIRST_LOOK)), "Meta's clock may be ahead");
    }
}
