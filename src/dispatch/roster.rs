//! The roster: the live workers, and the lines that each of them lists.
//!
//! Each list is read once, and all of them again when the version of the lists has changed. A worker that has written no list runs an older version,
//! and counts as one that lists every line.
//!
//! If the process dies: nothing is lost; the roster is read from Redis again.

use std::collections::{BTreeMap, HashMap, HashSet};

use tracing::warn;

use crate::{
    domain::{LineId, listing::listed},
    redis::{Result, Store},
};

/// Maximum number of lines that a warning names.
const NAMED_MAX: usize = 10;

/// The live workers and their lists.
#[derive(Debug, Default)]
pub struct Roster {
    workers: Vec<String>,
    lists: HashMap<String, HashSet<LineId>>,
    /// The version of the lists that were read.
    lists_version: u64,
    /// Workers with a different list for which that was already logged.
    warned_about: HashSet<String>,
}

/// Lines that are listed by the same workers, and how many of them one worker may own.
#[derive(Debug, PartialEq, Eq)]
pub struct LineGroup {
    /// The lines.
    pub lines: HashSet<LineId>,
    /// How many lines one worker may own.
    pub lines_max: usize,
}

impl Roster {
    /// Replaces the live workers by `workers`, and reads the lists of new ones, or all of them if one was replaced.
    pub async fn refresh(&mut self, store: &Store, workers: Vec<String>) -> Result<()> {
        self.set_lists_version(store.line_lists_version().await?);
        let unread = self.unread(&workers);
        let lists = store.line_lists(&unread).await?;
        self.update(workers, unread.into_iter().zip(lists));
        Ok(())
    }

    /// Forgets the lists if they have another version than those that were read.
    pub fn set_lists_version(&mut self, version: u64) {
        if self.lists_version != version {
            self.lists_version = version;
            self.lists.clear();
        }
    }

    /// Those of `workers` whose lists were not read yet.
    pub fn unread(&self, workers: &[String]) -> Vec<String> {
        workers.iter().filter(|worker| !self.lists.contains_key(*worker)).cloned().collect()
    }

    /// Replaces the live workers by `workers`, and adds the lists that were read. Returns whether anything has changed.
    pub fn update(
        &mut self,
        workers: Vec<String>,
        lists: impl IntoIterator<Item = (String, Option<HashSet<LineId>>)>,
    ) -> bool {
        let before = (self.workers.len(), self.lists.len());
        let read: HashMap<_, _> = lists.into_iter().filter_map(|(worker, list)| Some((worker, list?))).collect();
        let is_new = !read.is_empty() || self.workers != workers;
        self.lists.extend(read);
        self.lists.retain(|worker, _| workers.contains(worker));
        self.workers = workers;
        is_new || before != (self.workers.len(), self.lists.len())
    }

    fn lists(&self, worker: &str, line: &LineId) -> bool {
        self.lists.get(worker).is_none_or(|list| list.contains(line))
    }

    /// Whether a live worker lists `line`.
    pub fn is_listed(&self, line: &LineId) -> bool {
        self.workers.iter().any(|worker| self.lists(worker, line))
    }

    /// Groups `lines` by the workers that list them. The workers of a group share it equally, rounded up. So every
    /// line finds an owner, and a line that only one worker lists belongs to that worker, whatever else it owns.
    pub fn shares(&self, lines: &[LineId]) -> Vec<LineGroup> {
        let mut groups: BTreeMap<Vec<bool>, HashSet<LineId>> = BTreeMap::new();
        for line in lines {
            let listing = self.workers.iter().map(|worker| self.lists(worker, line)).collect();
            groups.entry(listing).or_default().insert(line.clone());
        }
        let share = |(listing, lines): (Vec<bool>, HashSet<LineId>)| {
            let workers = listing.into_iter().filter(|lists| *lists).count().max(1);
            LineGroup { lines_max: lines.len().div_ceil(workers), lines }
        };
        groups.into_iter().map(share).collect()
    }

    /// Logs each worker whose list differs from `lines`, once until the lists agree again.
    pub fn warn_of_differences(&mut self, lines: &[LineId]) {
        let differences = self.differences(lines);
        self.warned_about.retain(|worker| differences.contains_key(worker));
        for (worker, (only_there, only_here)) in differences {
            if self.warned_about.insert(worker.clone()) {
                warn!(
                    worker,
                    only_there = summarize(&only_there),
                    only_here = summarize(&only_here),
                    "another worker lists other lines: each line is served by the workers that list it; \
                     unless a change of lines is being rolled out, give all processes the same [[line]] list"
                );
            }
        }
    }

    /// The workers whose list differs from `lines`, each with the lines that only that worker lists, and those that
    /// only `lines` contains.
    fn differences(&self, lines: &[LineId]) -> BTreeMap<String, (Vec<LineId>, Vec<LineId>)> {
        let own: HashSet<LineId> = lines.iter().cloned().collect();
        let sorted = |lines: HashSet<LineId>| {
            let mut lines: Vec<LineId> = lines.into_iter().collect();
            lines.sort_unstable();
            lines
        };
        let difference =
            |(worker, list): (&String, &HashSet<LineId>)| (worker.clone(), (sorted(list - &own), sorted(&own - list)));
        self.lists.iter().filter(|(_, list)| **list != own).map(difference).collect()
    }
}

/// `3001, 3002 and 7 more`; empty for no lines.
fn summarize(lines: &[LineId]) -> String {
    listed(lines.iter().map(LineId::as_str), NAMED_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(ids: &[&str]) -> Vec<LineId> {
        ids.iter().map(|id| LineId::from(*id)).collect()
    }

    fn roster(workers: &[(&str, Option<&[&str]>)]) -> Roster {
        let set = |ids: &[&str]| ids.iter().map(|id| LineId::from(*id)).collect();
        Roster {
            workers: workers.iter().map(|(worker, _)| (*worker).to_owned()).collect(),
            lists: workers.iter().filter_map(|(worker, list)| Some(((*worker).to_owned(), set((*list)?)))).collect(),
            ..Roster::default()
        }
    }

    fn shares(roster: &Roster, ids: &[&str]) -> Vec<(usize, usize)> {
        let mut shares: Vec<_> =
            roster.shares(&lines(ids)).into_iter().map(|share| (share.lines.len(), share.lines_max)).collect();
        shares.sort_unstable();
        shares
    }

    #[test]
    fn a_line_that_one_worker_lists_does_not_count_against_its_share() {
        let both = ["1", "2", "3", "4", "5"];
        let with_sixth = ["1", "2", "3", "4", "5", "6"];
        let roster = roster(&[("a", Some(&both)), ("b", Some(&with_sixth))]);
        assert_eq!(shares(&roster, &both), [(5, 3)]);
        assert_eq!(shares(&roster, &with_sixth), [(1, 1), (5, 3)]);
        let differences = roster.differences(&lines(&both));
        assert_eq!(differences, BTreeMap::from([("b".to_owned(), (vec!["6".into()], vec![]))]));
    }

    #[test]
    fn lists_are_read_again_when_their_version_has_changed() {
        let mut roster = roster(&[("a", Some(&["1"])), ("b", Some(&["1"]))]);
        let workers = ["a", "b"].map(str::to_owned);
        assert!(roster.unread(&workers).is_empty());
        roster.set_lists_version(1);
        assert_eq!(roster.unread(&workers), workers);
    }

    #[test]
    fn a_worker_without_a_list_counts_for_every_line() {
        let roster = roster(&[("a", Some(&["1", "2"])), ("old", None)]);
        assert_eq!(shares(&roster, &["1", "2"]), [(2, 1)]);
        assert!(roster.is_listed(&"9".into()));
    }

    #[test]
    fn a_line_that_no_live_worker_lists_is_not_listed() {
        let roster = roster(&[("a", Some(&["1"]))]);
        assert!(roster.is_listed(&"1".into()) && !roster.is_listed(&"2".into()));
    }
}
