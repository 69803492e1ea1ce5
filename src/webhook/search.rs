//! Searches for message ids: in the index of the line, and in the lists of parts that are not indexed yet.
//!
//! Other apps that send on our lines cause searches for any number of unknown ids. Searches therefore have a budget
//! of bytes, one call reads at most 64 KiB, and after each round trip that reads lists the search sleeps for as long
//! as it took.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use tokio::time::sleep;

use super::directory::Directory;
use crate::{
    domain::{Fingerprint, LineId, PartId, Wamid},
    redis::{
        Result, Store,
        message_ids::{RowRef, Segment},
    },
};

/// Bytes a second that searches may read on average: about 2 % of the capacity of one Redis.
const BYTES_PER_SECOND: f64 = 8.0 * 1024.0 * 1024.0;
/// Bytes that may be read at once after a pause.
const BURST_BYTES: f64 = BYTES_PER_SECOND;
/// Cost of a command besides the bytes that it reads, as a number of bytes.
const COMMAND_BYTES: usize = 512;
/// Bytes of the lists that are read while a webhook waits. Most ids are among the newest.
const SHALLOW_BYTES: usize = 1024 * 1024;
/// Lists read in one round trip.
const LISTS_AT_ONCE: usize = 4;

/// The depth of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Reads at most `SHALLOW_BYTES` of the lists, because a webhook waits.
    Shallow,
    /// Reads all lists of the line.
    Full,
}

/// The result of a search for one id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchResult {
    /// The recipient of the message.
    Found(RowRef),
    /// The id is in no list and in no segment.
    NotFound,
    /// The search stopped early or did not start, because its budget is spent.
    Unfinished,
}

/// Runs searches, one at a time.
pub struct Searcher {
    store: Store,
    directory: Directory,
    budget: Budget,
}

impl Searcher {
    /// A searcher in `store`.
    pub fn new(store: Store) -> Self {
        Self { directory: Directory::new(store.clone()), store, budget: Budget::new(Instant::now()) }
    }

    /// Finds the recipients of the messages `wamids` of `line`. Returns one result per id, in order.
    pub async fn search(&mut self, line: &LineId, wamids: &[Wamid], depth: Depth) -> Result<Vec<SearchResult>> {
        if self.budget.is_spent(Instant::now()) {
            return Ok(vec![SearchResult::Unfinished; wamids.len()]);
        }
        let mut search = Search::new(&self.store, line, wamids, depth);
        let result = search.run(&mut self.directory).await;
        self.budget.spend(search.bytes);
        result.map(|()| search.results())
    }
}

struct Search<'a> {
    store: &'a Store,
    line: &'a LineId,
    prints: Vec<Fingerprint>,
    found: HashMap<Fingerprint, RowRef>,
    segments: HashSet<Segment>,
    parts: HashSet<PartId>,
    /// Bytes of the lists that may still be read.
    lists_budget: usize,
    bytes: usize,
    is_truncated: bool,
}

impl<'a> Search<'a> {
    fn new(store: &'a Store, line: &'a LineId, wamids: &[Wamid], depth: Depth) -> Self {
        Self {
            store,
            line,
            prints: wamids.iter().map(|wamid| Fingerprint::of(wamid.as_str())).collect(),
            found: HashMap::new(),
            segments: HashSet::new(),
            parts: HashSet::new(),
            lists_budget: if depth == Depth::Full { usize::MAX } else { SHALLOW_BYTES },
            bytes: 0,
            is_truncated: false,
        }
    }

    async fn run(&mut self, directory: &mut Directory) -> Result<()> {
        directory.refresh().await?;
        self.search_index().await?;
        self.search_lists(directory.parts(self.line)).await?;
        if self.has_missing() && directory.refresh_after_miss().await? {
            self.search_lists(directory.parts(self.line)).await?;
        }
        // The index is searched again, because ids may have moved there from a list after it was read.
        self.search_index().await
    }

    fn has_missing(&self) -> bool {
        !self.missing().is_empty()
    }

    fn missing(&self) -> Vec<Fingerprint> {
        self.prints.iter().filter(|print| !self.found.contains_key(print)).copied().collect()
    }

    fn results(&self) -> Vec<SearchResult> {
        let missing = if self.is_truncated { SearchResult::Unfinished } else { SearchResult::NotFound };
        self.prints
            .iter()
            .map(|print| self.found.get(print).map_or(missing, |place| SearchResult::Found(*place)))
            .collect()
    }

    /// Searches the segments that are new or have grown since this search last read them.
    async fn search_index(&mut self) -> Result<()> {
        let missing = self.missing();
        if missing.is_empty() {
            return Ok(());
        }
        let segments = self.store.segments(self.line).await?;
        let segments: Vec<Segment> = segments.into_iter().filter(|segment| self.segments.insert(*segment)).collect();
        let (found, bytes) = self.store.find_in_segments(self.line, &segments, &missing).await?;
        self.bytes += bytes + COMMAND_BYTES * segments.len() * missing.len();
        self.found.extend(missing.into_iter().zip(found).filter_map(|(print, place)| Some((print, place?))));
        Ok(())
    }

    /// Reads the lists of those `parts` that this search has not read yet, until every id is found.
    async fn search_lists(&mut self, parts: &[PartId]) -> Result<()> {
        let parts: Vec<PartId> = parts.iter().copied().filter(|part| self.parts.insert(*part)).collect();
        for parts in parts.chunks(LISTS_AT_ONCE) {
            let mut pages: Vec<(PartId, Option<u32>)> = parts.iter().map(|&part| (part, None)).collect();
            while !pages.is_empty() && self.has_missing() {
                if self.lists_budget == 0 {
                    self.is_truncated = true;
                    return Ok(());
                }
                let started = Instant::now();
                pages = self.read(&pages).await?;
                sleep(started.elapsed()).await;
            }
        }
        Ok(())
    }

    /// Reads `pages`. Returns the pages that follow them.
    async fn read(&mut self, pages: &[(PartId, Option<u32>)]) -> Result<Vec<(PartId, Option<u32>)>> {
        let wanted: HashSet<Fingerprint> = self.missing().into_iter().collect();
        let mut following = Vec::new();
        for (&(part, _), page) in pages.iter().zip(self.store.read_ids(pages).await?) {
            // An id that is listed twice names the same message both times.
            self.found
                .extend(page.ids().filter(|(id, _)| wanted.contains(id)).map(|(id, claimed)| (id, (part, claimed))));
            let bytes = page.bytes() + COMMAND_BYTES;
            self.bytes += bytes;
            self.lists_budget = self.lists_budget.saturating_sub(bytes);
            following.extend(page.next.map(|next| (part, Some(next))));
        }
        Ok(following)
    }
}

/// A budget of bytes, refilled over time. A search that starts with a positive budget may overdraw it; later searches
/// wait until it is positive again.
struct Budget {
    bytes: f64,
    at: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { bytes: BURST_BYTES, at: now }
    }

    fn is_spent(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * BYTES_PER_SECOND;
        (self.bytes, self.at) = ((self.bytes + earned).min(BURST_BYTES), now);
        self.bytes <= 0.0
    }

    fn spend(&mut self, bytes: usize) {
        self.bytes -= bytes as f64;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_overdrawn_budget_delays_the_next_search() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        assert!(!budget.is_spent(now));
        budget.spend(3 * BURST_BYTES as usize);
        assert!(budget.is_spent(now.checked_add(Duration::from_millis(1_900)).expect("a time")));
        assert!(!budget.is_spent(now.checked_add(Duration::from_millis(2_100)).expect("a time")));
    }

    #[test]
    fn an_unused_budget_never_exceeds_a_burst() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        let later = now.checked_add(Duration::from_secs(3_600)).expect("a time");
        assert!(!budget.is_spent(later));
        budget.spend(BURST_BYTES as usize + 1);
        assert!(budget.is_spent(later));
    }
}
