//! When messages are due, and how much later they were on the wire.
//!
//! **Due**: message number `n` of a line is due `n / rate` after the launch of its campaign was requested, where `rate`
//! is what campaigns may send on the line. The schedule is fixed when the campaign is launched: it does not move when the
//! sender is late, so one pause delays every message that was due in it, and all of them count (no coordinated omission).
//!
//! **On the wire**: the message has arrived at the stand-in for Meta. Messages of a line are interchangeable, so the nth
//! arrival belongs to number `n`.
//!
//! A message that is early, by the few milliseconds that a line may catch up, is not late: 0.
//!
//! Never: reads a clock. Times are microseconds since 1970.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::{arrivals::Arrivals, generator::histogram};

/// The schedule of a campaign, and the part of it that is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// When the launch was requested.
    pub launched_us: u64,
    /// What campaigns may send on each line, in messages per second, by line id.
    pub per_second: BTreeMap<String, f64>,
    /// Messages that are due from this time on are measured.
    pub from_us: u64,
    /// Messages that are due before this time are measured. One that has not arrived by then is late by the time that it
    /// has waited: a lower bound.
    pub until_us: u64,
}

/// How late the messages were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lateness {
    /// Messages that were due within the measured time.
    pub due: u64,
    /// Messages that arrived within the measured time, due in it or before.
    pub arrived: u64,
    /// The first arrival on any line; `None` if there is none.
    pub first_us: Option<u64>,
    /// Microseconds from due to arrival, and how many messages were so late: the steps of an HDR histogram.
    pub late_us: Vec<(u64, u64)>,
}

impl Schedule {
    /// Compares arrivals with the schedule. Arrivals on other lines are ignored.
    pub fn lateness(&self, arrivals: Arrivals) -> Lateness {
        let arrivals = arrivals.sorted();
        let (mut of_all, mut histogram) = (Lateness::default(), histogram());
        for (line, per_second) in &self.per_second {
            let times = arrivals.get(line.as_str()).map_or(&[][..], Vec::as_slice);
            let before = |at| times.partition_point(|time| *time < at) as u64;
            of_all.arrived += before(self.until_us).saturating_sub(before(self.from_us));
            of_all.first_us = of_all.first_us.into_iter().chain(times.first().copied()).min();
            let (first, end) = (self.first_due(*per_second, self.from_us), self.first_due(*per_second, self.until_us));
            for number in first..end {
                let due_us = self.launched_us + (number as f64 * 1e6 / per_second) as u64;
                let arrived_us = times.get(number as usize - 1).copied().unwrap_or(self.until_us).min(self.until_us);
                // A histogram that resizes itself accepts every value.
                let _ = histogram.record(arrived_us.saturating_sub(due_us));
            }
            of_all.due += end - first;
        }
        of_all.late_us =
            histogram.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect();
        of_all
    }

    /// The number of the first message that is due at `at_us` or later, from 1 on.
    fn first_due(&self, per_second: f64, at_us: u64) -> u64 {
        let seconds = at_us.saturating_sub(self.launched_us) as f64 / 1e6;
        ((seconds * per_second).ceil() as u64).max(1)
    }
}

impl Lateness {
    /// The histogram of the microseconds from due to arrival.
    pub fn histogram(&self) -> Histogram<u64> {
        let mut histogram = histogram();
        for (late_us, count) in &self.late_us {
            let _ = histogram.record_n(*late_us, *count);
        }
        histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAUNCHED: u64 = 1_000_000_000;

    /// Line 3001 at 10 messages per second. The first two seconds are measured, from 0.5 s on.
    fn schedule() -> Schedule {
        let per_second = [("3001".to_owned(), 10.0)].into();
        Schedule { launched_us: LAUNCHED, per_second, from_us: LAUNCHED + 500_000, until_us: LAUNCHED + 2_000_000 }
    }

    /// Message number `n` of line 3001 arrives `late_ms(n)` after it is due; `None`: never.
    fn arrivals(late_ms: impl Fn(u64) -> Option<i64>) -> Arrivals {
        let mut arrivals = Arrivals::default();
        for n in 1..=30 {
            if let Some(late) = late_ms(n) {
                arrivals.record("3001", (LAUNCHED + n * 100_000).saturating_add_signed(late * 1_000));
            }
        }
        arrivals
    }

    fn worst_ms(lateness: &Lateness) -> u64 {
        lateness.histogram().max() / 1_000
    }

    #[test]
    fn messages_on_time_are_not_late_and_early_ones_neither() {
        let lateness = schedule().lateness(arrivals(|n| Some(if n % 2 == 0 { 0 } else { -3 })));
        assert_eq!((lateness.due, lateness.first_us, worst_ms(&lateness)), (15, Some(LAUNCHED + 97_000), 0));
        assert_eq!(lateness.arrived, 14, "number 5 arrived before the measured time");
    }

    #[test]
    fn a_pause_delays_all_messages_that_were_due_in_it() {
        // Nothing leaves from 1.0 to 1.5 s. What was due then leaves at once afterwards.
        let paused = |n: u64| Some(if (10..15).contains(&n) { 1_500 - n as i64 * 100 } else { 0 });
        let lateness = schedule().lateness(arrivals(paused));
        assert_eq!((lateness.due, lateness.arrived, worst_ms(&lateness)), (15, 15, 500));
        assert_eq!(lateness.histogram().count_between(99_000, u64::MAX), 5, "all five, and not only the first");
    }

    #[test]
    fn a_message_that_never_arrives_has_waited_until_the_end() {
        let lateness = schedule().lateness(arrivals(|n| (n < 10).then_some(0)));
        assert_eq!((lateness.due, lateness.arrived), (15, 5));
        assert_eq!(worst_ms(&lateness), 1_000);
        let nothing = schedule().lateness(Arrivals::default());
        assert_eq!((nothing.due, nothing.arrived, nothing.first_us), (15, 0, None));
    }

    #[test]
    fn a_lateness_keeps_its_histogram_as_json() {
        let lateness = schedule().lateness(arrivals(|n| Some(n as i64 * 7)));
        let json = serde_json::to_string(&lateness).expect("JSON");
        let again: Lateness = serde_json::from_str(&json).expect("a lateness");
        assert_eq!(again.histogram(), lateness.histogram());
        assert_eq!(lateness.histogram().len(), 15);
    }
}
