//! Arrival times of messages at the fake Meta, by line, and the rates of lines that follow from them.
//!
//! Every arrival is stored, in eight bytes, so that the counts are exact. The worst second is the maximum over all
//! one-second windows, not over calendar seconds.
//!
//! Never: reads a clock. Times are microseconds since 1970.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use serde::{Deserialize, Serialize};

const SECOND_US: u64 = 1_000_000;

/// The length of an interval of [`Seen::per_tenth`].
const TENTH_US: u64 = 100_000;

/// Arrival times in microseconds since 1970, by line.
#[derive(Clone, Debug, Default)]
pub struct Arrivals(HashMap<Box<str>, Vec<u64>>);

/// Counts of the messages that arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// All messages.
    pub total: u64,
    /// Time of the first arrival; 0 if there is none.
    pub first_us: u64,
    /// Time of the last arrival; 0 if there is none.
    pub last_us: u64,
    /// Arrivals in each tenth of a second, counted from the first arrival.
    pub per_tenth: Vec<u64>,
    /// The counts of each line, by line id.
    pub lines: BTreeMap<String, SeenLine>,
}

/// Counts of the messages that arrived on one line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenLine {
    /// Arrivals within the requested range.
    pub within: u64,
    /// The most arrivals in any one-second window, inside or outside the range.
    pub worst_second: u64,
}

impl Arrivals {
    /// Records an arrival.
    pub fn record(&mut self, line: &str, at_us: u64) {
        match self.0.get_mut(line) {
            Some(times) => times.push(at_us),
            None => drop(self.0.insert(line.into(), vec![at_us])),
        }
    }

    /// The number of arrivals.
    pub fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Whether there are no arrivals.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the arrivals of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (line, times) in &other.0 {
            self.0.entry(line.clone()).or_default().extend(times);
        }
    }

    /// The arrivals of each line, in order.
    pub fn sorted(mut self) -> HashMap<Box<str>, Vec<u64>> {
        self.0.values_mut().for_each(|times| times.sort_unstable());
        self.0
    }

    /// Counts the arrivals. `within` is the range of [`SeenLine::within`].
    pub fn seen(self, within: Range<u64>) -> Seen {
        let lines = self.sorted();
        let times = lines.values();
        let mut seen = Seen {
            total: times.clone().map(|times| times.len() as u64).sum(),
            first_us: times.clone().filter_map(|times| times.first()).min().copied().unwrap_or(0),
            last_us: times.filter_map(|times| times.last()).max().copied().unwrap_or(0),
            ..Seen::default()
        };
        let tenths = if seen.total == 0 { 0 } else { (seen.last_us - seen.first_us) / TENTH_US + 1 };
        seen.per_tenth = vec![0; tenths as usize];
        for (line, times) in &lines {
            times.iter().for_each(|at| seen.per_tenth[((at - seen.first_us) / TENTH_US) as usize] += 1);
            let of_line = SeenLine {
                within: (times
                    .partition_point(|at| *at < within.end)
                    .saturating_sub(times.partition_point(|at| *at < within.start))) as u64,
                worst_second: worst_second(times),
            };
            seen.lines.insert(line.to_string(), of_line);
        }
        seen
    }
}

/// The most of `times` in any one-second window. `times` must be sorted.
fn worst_second(times: &[u64]) -> u64 {
    let mut from = 0;
    let within = times.iter().enumerate().map(|(at, time)| {
        while times[from] + SECOND_US <= *time {
            from += 1;
        }
        at + 1 - from
    });
    within.max().unwrap_or(0) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arrivals(times: &[(&str, u64)]) -> Arrivals {
        let mut arrivals = Arrivals::default();
        times.iter().for_each(|(line, at)| arrivals.record(line, *at));
        arrivals
    }

    proptest! {
        #[test]
        fn the_worst_second_matches_a_brute_force_count(gaps in prop::collection::vec(0u64..400_000, 0..200)) {
            let times: Vec<u64> = gaps.iter().scan(0, |now, gap| { *now += gap; Some(*now) }).collect();
            let within = |end: u64| times.iter().filter(|at| **at <= end && **at + SECOND_US > end).count() as u64;
            prop_assert_eq!(worst_second(&times), times.iter().map(|end| within(*end)).max().unwrap_or(0));
        }
    }

    #[test]
    fn the_worst_second_may_span_two_calendar_seconds() {
        assert_eq!(worst_second(&[900_000, 999_999, 1_000_001, 1_899_999, 1_900_000]), 4);
    }

    #[test]
    fn arrivals_are_counted_by_line_and_over_time() {
        let mut one = arrivals(&[("3001", 1_000_000), ("3001", 1_099_999), ("3002", 1_350_000)]);
        one.merge(&arrivals(&[("3001", 1_050_000)]));
        let seen = one.seen(1_050_000..1_350_000);
        assert_eq!((seen.total, seen.first_us, seen.last_us), (4, 1_000_000, 1_350_000));
        assert_eq!(seen.per_tenth, [3, 0, 0, 1]);
        assert_eq!(seen.lines["3001"], SeenLine { within: 2, worst_second: 3 });
        assert_eq!(seen.lines["3002"], SeenLine { within: 0, worst_second: 1 });
    }

    #[test]
    fn counts_without_arrivals_are_zero() {
        assert_eq!(Arrivals::default().seen(0..1), Seen::default());
    }
}
