//! The rate of inbound messages on each line. Meta counts them against the rate of the line.
//!
//! Owns: the last few seconds of the counts in Redis, in memory.
//! If the process dies: nothing is lost; the next worker measures again.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::domain::LineId;

/// How often the counts are read.
pub const READ_EVERY: Duration = Duration::from_secs(1);

/// The time over which the rates are averaged.
const WINDOW: Duration = Duration::from_secs(3);

/// Messages from people per second, by line. A worker's runners share it.
#[derive(Debug, Default)]
pub struct InboundRates(Mutex<HashMap<LineId, f64>>);

impl InboundRates {
    /// The rate of a line.
    pub fn of(&self, line: &LineId) -> f64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(line).copied().unwrap_or_default()
    }

    /// Replaces all rates.
    pub fn set(&self, rates: HashMap<LineId, f64>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = rates;
    }
}

/// Computes rates from counters.
#[derive(Default)]
pub struct InboundMeter {
    /// The last counts, and when they were read.
    last: Option<(Instant, HashMap<LineId, u64>)>,
    samples: VecDeque<Sample>,
}

/// The messages between two reads.
struct Sample {
    lasted: Duration,
    messages: HashMap<LineId, u64>,
}

impl InboundMeter {
    /// Records counts that were read at `now`. Returns the rate of each line with messages in the last seconds.
    pub fn record(&mut self, counts: HashMap<LineId, u64>, now: Instant) -> HashMap<LineId, f64> {
        if let Some((read_at, before)) = self.last.replace((now, counts.clone())) {
            let since_before = |(line, count): (LineId, u64)| {
                // A counter that is lower than before has restarted at 0.
                let before = before.get(&line).copied().filter(|before| *before <= count).unwrap_or_default();
                (count > before).then_some((line, count - before))
            };
            let messages = counts.into_iter().filter_map(since_before).collect();
            self.samples.push_back(Sample { lasted: now - read_at, messages });
        }
        let span = |samples: &VecDeque<Sample>| samples.iter().map(|sample| sample.lasted).sum::<Duration>();
        while self.samples.front().is_some_and(|oldest| span(&self.samples) - oldest.lasted >= WINDOW) {
            self.samples.pop_front();
        }
        let seconds = span(&self.samples).max(READ_EVERY).as_secs_f64();
        let mut rates: HashMap<LineId, f64> = HashMap::new();
        for (line, messages) in self.samples.iter().flat_map(|sample| &sample.messages) {
            *rates.entry(line.clone()).or_default() += *messages as f64 / seconds;
        }
        rates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: &[(&str, u64)]) -> HashMap<LineId, u64> {
        of.iter().map(|(line, n)| (LineId::from(*line), *n)).collect()
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let (mut meter, start) = (InboundMeter::default(), Instant::now());
        let mut at = |second: u64, of: &[(&str, u64)]| {
            let rates = meter.record(counts(of), start + Duration::from_secs(second));
            (rates.get(&LineId::from("3001")).copied(), rates.get(&LineId::from("3002")).copied())
        };
        assert_eq!(at(0, &[("3001", 5_000)]), (None, None), "nobody knows since when these are counted");
        assert_eq!(at(1, &[("3001", 5_030)]), (Some(30.0), None));
        assert_eq!(at(2, &[("3001", 5_060), ("3002", 12)]), (Some(30.0), Some(6.0)));
        assert_eq!(at(3, &[("3001", 5_060), ("3002", 12)]), (Some(20.0), Some(4.0)));
        assert_eq!(at(4, &[("3001", 5_060), ("3002", 12)]), (Some(10.0), Some(4.0)));
        assert_eq!(at(5, &[]), (None, None), "the counts have expired");
        assert_eq!(at(6, &[("3001", 9)]), (Some(3.0), None));
        assert_eq!(at(7, &[("3001", 3)]), (Some(4.0), None), "the counts have begun again");
    }
}
