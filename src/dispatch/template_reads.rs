//! Decides when to read the templates of a WABA again after Meta reported a change: at once, and once more later,
//! because Meta's list can lag behind the report.
//!
//! Meta allows an app 200 calls an hour for a WABA, and 5,000 for one with a registered number, which may have 6,000
//! templates: 60 pages. So only the first of many reads are made at once.
//!
//! If the process dies: the next worker with the duty of housekeeping starts by reading all templates.
//! Never: reads a clock. Callers pass `now`.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use crate::{domain::WabaId, templates::LIST_LAG_MAX};

/// How many reads of a WABA may follow each other with only [`PAUSE`] between them.
const BURST: u32 = 10;
/// How often another read becomes possible.
const EVERY: Duration = Duration::from_secs(60);
/// Minimum time between two reads of a WABA. Changes that are reported meanwhile share the second one.
const PAUSE: Duration = Duration::from_secs(2);

/// The reads of all WABAs of which Meta reported a change.
#[derive(Default)]
pub struct TemplateReads(HashMap<WabaId, Reads>);

struct Reads {
    /// When to read next.
    due: Option<Instant>,
    /// When to read the second time.
    again: Option<Instant>,
    /// How many reads may be made now, as of `counted_at`.
    left: u32,
    counted_at: Instant,
    read_at: Option<Instant>,
}

impl TemplateReads {
    /// Records that Meta reported a change of a template of `waba`.
    pub fn changed(&mut self, waba: WabaId, now: Instant) {
        let reads = self.of(waba, now);
        reads.due.get_or_insert(now);
        reads.again = Some(now + LIST_LAG_MAX);
    }

    /// Records that a read failed, so that it is repeated.
    pub fn failed(&mut self, waba: WabaId, now: Instant) {
        self.of(waba, now).due.get_or_insert(now);
    }

    /// Returns the WABAs to read now, and records them as read.
    pub fn take_due(&mut self, now: Instant) -> BTreeSet<WabaId> {
        let due = self.0.iter_mut().filter_map(|(waba, reads)| reads.take(now).then(|| waba.clone()));
        due.collect()
    }

    fn of(&mut self, waba: WabaId, now: Instant) -> &mut Reads {
        let new = || Reads { due: None, again: None, left: BURST, counted_at: now, read_at: None };
        self.0.entry(waba).or_insert_with(new)
    }
}

impl Reads {
    fn take(&mut self, now: Instant) -> bool {
        if let Some(at) = self.again.take_if(|at| *at <= now) {
            self.due.get_or_insert(at);
        }
        let is_early = self.read_at.is_some_and(|at| now < at + PAUSE);
        if is_early || self.due.is_none_or(|at| now < at) {
            return false;
        }
        while self.left < BURST && self.counted_at + EVERY <= now {
            (self.left, self.counted_at) = (self.left + 1, self.counted_at + EVERY);
        }
        if self.left == 0 {
            return false;
        }
        if self.left == BURST {
            self.counted_at = now;
        }
        (self.left, self.due, self.read_at) = (self.left - 1, None, Some(now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_change_is_read_at_once_and_again_when_the_list_has_caught_up() {
        let (mut reads, start) = (TemplateReads::default(), Instant::now());
        reads.changed("2001".into(), start);
        let mut read = Vec::new();
        for second in 0..200 {
            if second == 1 {
                reads.changed("2001".into(), start + seconds(1));
            }
            read.extend(reads.take_due(start + seconds(second)).iter().map(|waba| (waba.to_string(), second)));
        }
        let at = |second| ("2001".to_owned(), second);
        assert_eq!(read, [at(0), at(2), at(31)], "the second change waits for a pause");
    }

    #[test]
    fn a_failed_read_is_made_again() {
        let (mut reads, start) = (TemplateReads::default(), Instant::now());
        reads.changed("2001".into(), start);
        assert_eq!(reads.take_due(start).len(), 1);
        reads.failed("2001".into(), start);
        assert_eq!(reads.take_due(start).len(), 0);
        assert_eq!(reads.take_due(start + PAUSE).len(), 1);
    }

    #[test]
    fn many_changes_cost_few_reads() {
        let (mut reads, start) = (TemplateReads::default(), Instant::now());
        let (mut first_minute, mut all) = (0, 0);
        for second in 0..3_600 {
            let now = start + seconds(second);
            reads.changed("2001".into(), now);
            let read = reads.take_due(now).len();
            all += read;
            first_minute += if second < 60 { read } else { 0 };
        }
        assert_eq!((first_minute, all), (10, 69));
    }
}
