//! Searches for message ids: in the index of the line, and in the lists of parts that are not in it yet.
//!
//! What other apps send on a line of ours brings ids that nobody knows, in any number. Searches therefore have a budget of bytes,
//! one call reads at most 64 KiB, and Redis rests after each round trip for as long as that took.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use tokio::time::sleep;

use super::directory::Directory;
use crate::{
    domain::{LineId, PartId, Wamid},
    redis::{
        Result, Store,
        message_ids::{RowRef, Segment},
        parts::Fingerprint,
    },
};

/// Bytes that searches read in a second, over time: some 2 % of what one Redis can do.
const BYTES_PER_SECOND: f64 = 8.0 * 1024.0 * 1024.0;
/// What is read before that limits anything.
const BURST_BYTES: f64 = BYTES_PER_SECOND;
/// What a command costs beside the bytes that it reads.
const COMMAND_BYTES: usize = 512;
/// How much of the lists is read while a webhook waits for its answer. Most ids are among the newest.
const SHALLOW_BYTES: usize = 1024 * 1024;
/// Lists that are read in one round trip.
const LISTS_AT_ONCE: usize = 4;

/// How far a search goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Someone waits for it.
    Shallow,
    /// To the end.
    Full,
}

/// What a search found out about an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sought {
    /// Where its message is.
    Found(RowRef),
    /// No part knows it.
    Nowhere,
    /// The search did not go on to its end, or did not begin: the budget is spent.
    Unfinished,
}

/// Searches, one after the other.
pub struct Searcher {
    store: Store,
    directory: Directory,
    budget: Budget,
}

impl Searcher {
    /// Searches in `store`.
    pub fn new(store: Store) -> Self {
        Self { directory: Directory::new(store.clone()), store, budget: Budget::new(Instant::now()) }
    }

    /// Where the messages `wamids` of `line` are.
    pub async fn search(&mut self, line: &LineId, wamids: &[Wamid], depth: Depth) -> Result<Vec<Sought>> {
        if self.budget.is_spent(Instant::now()) {
            return Ok(vec![Sought::Unfinished; wamids.len()]);
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
    places: HashMap<Fingerprint, RowRef>,
    segments: HashSet<Segment>,
    parts: HashSet<PartId>,
    /// Of the lists, how much may still be read.
    room: usize,
    bytes: usize,
    is_cut: bool,
}

impl<'a> Search<'a> {
    fn new(store: &'a Store, line: &'a LineId, wamids: &[Wamid], depth: Depth) -> Self {
        Self {
            store,
            line,
            prints: wamids.iter().map(|wamid| Fingerprint::of(wamid.as_str())).collect(),
            places: HashMap::new(),
            segments: HashSet::new(),
            parts: HashSet::new(),
            room: if depth == Depth::Full { usize::MAX } else { SHALLOW_BYTES },
            bytes: 0,
            is_cut: false,
        }
    }

    async fn run(&mut self, directory: &mut Directory) -> Result<()> {
        directory.refresh().await?;
        self.ask_index().await?;
        self.ask_parts(directory.parts(self.line)).await?;
        if self.is_open() && directory.look_again().await? {
            self.ask_parts(directory.parts(self.line)).await?;
        }
        // Ids may have moved from a list to the index between the looks at them.
        self.ask_index().await
    }

    fn is_open(&self) -> bool {
        !self.open().is_empty()
    }

    fn open(&self) -> Vec<Fingerprint> {
        self.prints.iter().filter(|print| !self.places.contains_key(print)).copied().collect()
    }

    fn results(&self) -> Vec<Sought> {
        let missing = if self.is_cut { Sought::Unfinished } else { Sought::Nowhere };
        self.prints.iter().map(|print| self.places.get(print).map_or(missing, |place| Sought::Found(*place))).collect()
    }

    /// Asks those segments that are new, or have new ids, since they were last asked.
    async fn ask_index(&mut self) -> Result<()> {
        let open = self.open();
        if open.is_empty() {
            return Ok(());
        }
        let segments = self.store.segments(self.line).await?;
        let segments: Vec<Segment> = segments.into_iter().filter(|segment| self.segments.insert(*segment)).collect();
        let (places, bytes) = self.store.find_in_segments(self.line, &segments, &open).await?;
        self.bytes += bytes + COMMAND_BYTES * segments.len() * open.len();
        self.places.extend(open.into_iter().zip(places).filter_map(|(print, place)| Some((print, place?))));
        Ok(())
    }

    /// Reads the lists of those of `parts` that were not read yet, until every id is found.
    async fn ask_parts(&mut self, parts: &[PartId]) -> Result<()> {
        let parts: Vec<PartId> = parts.iter().copied().filter(|part| self.parts.insert(*part)).collect();
        for parts in parts.chunks(LISTS_AT_ONCE) {
            let mut pieces: Vec<(PartId, Option<u32>)> = parts.iter().map(|&part| (part, None)).collect();
            while !pieces.is_empty() && self.is_open() {
                if self.room == 0 {
                    self.is_cut = true;
                    return Ok(());
                }
                let begun = Instant::now();
                pieces = self.read(&pieces).await?;
                sleep(begun.elapsed()).await;
            }
        }
        Ok(())
    }

    /// Reads `pieces`, and gives those that follow them.
    async fn read(&mut self, pieces: &[(PartId, Option<u32>)]) -> Result<Vec<(PartId, Option<u32>)>> {
        let wanted: HashSet<Fingerprint> = self.open().into_iter().collect();
        let mut following = Vec::new();
        for (&(part, _), piece) in pieces.iter().zip(self.store.read_ids(pieces).await?) {
            // The newest of a list come last; of two with the same id the newer counts.
            self.places
                .extend(piece.ids().filter(|(id, _)| wanted.contains(id)).map(|(id, claimed)| (id, (part, claimed))));
            let bytes = piece.bytes() + COMMAND_BYTES;
            self.bytes += bytes;
            self.room = self.room.saturating_sub(bytes);
            following.extend(piece.next.map(|next| (part, Some(next))));
        }
        Ok(following)
    }
}

/// Bytes that may be read. A search that began goes on to its end, and those after it wait until what it read is paid for.
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
    fn a_search_beyond_the_budget_is_paid_for_before_the_next() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        assert!(!budget.is_spent(now));
        budget.spend(3 * BURST_BYTES as usize);
        assert!(budget.is_spent(now.checked_add(Duration::from_millis(1_900)).expect("a time")));
        assert!(!budget.is_spent(now.checked_add(Duration::from_millis(2_100)).expect("a time")));
    }

    #[test]
    fn an_unused_budget_grows_no_further_than_a_burst() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        let later = now.checked_add(Duration::from_secs(3_600)).expect("a time");
        assert!(!budget.is_spent(later));
        budget.spend(BURST_BYTES as usize + 1);
        assert!(budget.is_spent(later));
    }
}
