//! The series of the lines that this process serves. They exist from the start of a line's runner to the end of the
//! runner or of its lease, whichever comes first.
//!
//! Each line has its own counters, so the runners of different threads share none. A page reads them all.
//!
//! If the process dies: the counters start at 0 again, as Prometheus expects. The line's next owner has its own.

use std::{
    array,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use metrics::counter;

use super::{
    AGE_MAX,
    labels::{AttemptOutcome, LineStop},
    series::{
        ATTEMPT_DURATION, ATTEMPT_ERRORS, ATTEMPTS, HELD, IN_FLIGHT_ATTEMPTS, LINE_OLDEST_AGE, LINE_RATE,
        LINE_RATE_CONFIGURED, LINE_WAITING, LINES_OWNED, LINES_STOPPED, PACED, PAUSED,
    },
    text::MetricsText,
};
use crate::domain::{ErrorScope, LineId, Outcome, policy};

/// Bucket limits in seconds. Meta answers a send in about 100 to 500 ms; the last limit is the default of
/// `graph.timeout`.
const ATTEMPT_BUCKETS: [f64; 12] = [0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0];

/// The lines that this process serves. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct OwnedLines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    lines: Mutex<BTreeMap<LineId, Arc<LineSeries>>>,
    /// The attempts of the runners that have ended.
    ended: Durations,
}

/// The series of one line, which end when the value is dropped.
#[derive(Debug)]
pub struct LineMetrics {
    line: LineId,
    series: Arc<LineSeries>,
    all: OwnedLines,
}

#[derive(Debug, Default)]
struct LineSeries {
    attempts: [AtomicU64; AttemptOutcome::ALL.len()],
    durations: Durations,
    paced_micros: AtomicU64,
    gauges: Mutex<LineGauges>,
    backlog: Mutex<Option<LineBacklog>>,
    /// Only the durations of its attempts are shown any more.
    has_ended: AtomicBool,
}

/// The present state of a line.
#[derive(Clone, Copy, Debug, Default)]
pub struct LineGauges {
    /// The rate in force, in messages per second.
    pub configured_rate: f64,
    /// What campaigns may send while nothing stops the line, in messages per second.
    pub rate: f64,
    /// Attempts that wait for Meta's answer.
    pub in_flight: usize,
    /// Since when the line is stopped for each reason of [`LineStop::ALL`].
    pub stops: [Option<Instant>; LineStop::ALL.len()],
}

impl LineGauges {
    fn stopped_since(&self, stop: LineStop) -> Option<Instant> {
        self.stops[stop as usize]
    }

    fn allowed_rate(&self) -> f64 {
        if self.stops.iter().any(Option::is_some) { 0.0 } else { self.rate }
    }

    /// Since when the line is blocked. Pauses do not count, nor do stops that end by themselves.
    fn blocked_since(&self) -> Option<Instant> {
        [LineStop::Held, LineStop::PathBroken].into_iter().filter_map(|stop| self.stopped_since(stop)).min()
    }
}

/// The backlog of a line.
#[derive(Clone, Copy, Debug)]
pub struct LineBacklog {
    /// Recipients that wait to be sent.
    pub waiting: u64,
    /// Since when the oldest of them has waited.
    pub oldest: Option<Instant>,
    /// When this was read.
    pub read_at: Instant,
}

/// The durations of attempts, in the buckets of [`ATTEMPT_BUCKETS`] and one above the last.
#[derive(Debug)]
struct Durations {
    buckets: [AtomicU64; ATTEMPT_BUCKETS.len() + 1],
    sum_micros: AtomicU64,
}

impl Default for Durations {
    fn default() -> Self {
        Self { buckets: array::from_fn(|_| AtomicU64::new(0)), sum_micros: AtomicU64::new(0) }
    }
}

impl Durations {
    fn record(&self, took: Duration) {
        let bucket = ATTEMPT_BUCKETS.partition_point(|limit| *limit < took.as_secs_f64());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }

    fn add(&self, other: &Self) {
        for (bucket, more) in self.buckets.iter().zip(&other.buckets) {
            bucket.fetch_add(more.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.sum_micros.fetch_add(other.sum_micros.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn write(&self, text: &mut MetricsText) {
        let n = |bucket: &AtomicU64| bucket.load(Ordering::Relaxed);
        let above = n(&self.buckets[ATTEMPT_BUCKETS.len()]);
        let sum = micros(&self.sum_micros);
        text.add_histogram(ATTEMPT_DURATION, ATTEMPT_BUCKETS.into_iter().zip(self.buckets.iter().map(n)), above, sum);
    }
}

impl OwnedLines {
    /// Creates the series of a line when its runner starts.
    pub fn begin(&self, line: &LineId) -> LineMetrics {
        let series = Arc::new(LineSeries::default());
        self.lock().insert(line.clone(), series.clone());
        LineMetrics { line: line.clone(), series, all: self.clone() }
    }

    /// The lines that have series now.
    pub fn ids(&self) -> Vec<LineId> {
        self.lock().iter().filter(|(_, series)| series.is_shown()).map(|(line, _)| line.clone()).collect()
    }

    /// Sets what waits on each line.
    pub fn set_backlogs(&self, backlogs: &HashMap<LineId, LineBacklog>) {
        for (line, series) in self.lock().iter() {
            *series.backlog.lock().unwrap_or_else(PoisonError::into_inner) = backlogs.get(line).copied();
        }
    }

    /// Writes the series of all lines as of `now`.
    pub(super) fn write(&self, text: &mut MetricsText, now: Instant) {
        let lines = self.lock();
        let read = |(line, series): (&LineId, &Arc<LineSeries>)| (line.to_string(), series.clone(), series.gauges());
        let read: Vec<(String, Arc<LineSeries>, LineGauges)> =
            lines.iter().filter(|(_, series)| series.is_shown()).map(read).collect();
        let attempts = Durations::default();
        attempts.add(&self.0.ended);
        lines.values().for_each(|series| attempts.add(&series.durations));
        drop(lines);

        text.add(
            ATTEMPTS,
            read.iter().flat_map(|(line, series, _)| {
                let count = |(outcome, n): (&AttemptOutcome, &AtomicU64)| {
                    ([line.as_str(), outcome.label()], n.load(Ordering::Relaxed))
                };
                AttemptOutcome::ALL.iter().zip(&series.attempts).map(count)
            }),
        );
        let mut gauge = |name, value: &dyn Fn(&LineGauges) -> f64| {
            text.add(name, read.iter().map(|(line, _, gauges)| ([line.as_str()], value(gauges))));
        };
        gauge(IN_FLIGHT_ATTEMPTS, &|gauges| gauges.in_flight as f64);
        gauge(LINE_RATE_CONFIGURED, &|gauges| gauges.configured_rate);
        gauge(LINE_RATE, &LineGauges::allowed_rate);
        gauge(HELD, &|gauges| seconds_since(gauges.blocked_since(), now));
        gauge(PAUSED, &|gauges| seconds_since(gauges.stopped_since(LineStop::Paused), now));
        text.add(PACED, read.iter().map(|(line, series, _)| ([line.as_str()], micros(&series.paced_micros))));
        let backlogs = || read.iter().filter_map(|(line, series, _)| Some(([line.as_str()], series.backlog(now)?)));
        text.add(LINE_WAITING, backlogs().map(|(line, backlog)| (line, backlog.waiting)));
        text.add(LINE_OLDEST_AGE, backlogs().map(|(line, backlog)| (line, seconds_since(backlog.oldest, now))));
        attempts.write(text);
        text.add(LINES_OWNED, [([], read.len())]);
        let stopped = |stop: &LineStop| {
            ([stop.label()], read.iter().filter(|(_, _, gauges)| gauges.stopped_since(*stop).is_some()).count())
        };
        text.add(LINES_STOPPED, LineStop::ALL.iter().map(stopped));
    }

    /// Ignores poisoning, because nothing panics while the lock is held.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<LineId, Arc<LineSeries>>> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LineSeries {
    fn is_shown(&self) -> bool {
        !self.has_ended.load(Ordering::Relaxed)
    }

    fn gauges(&self) -> LineGauges {
        *self.gauges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn backlog(&self, now: Instant) -> Option<LineBacklog> {
        let backlog = *self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        backlog.filter(|backlog| now.saturating_duration_since(backlog.read_at) <= AGE_MAX)
    }
}

impl LineMetrics {
    /// Counts an attempt that ended with `outcome` after `took`. An accepted message that Meta holds back is `held`.
    pub fn attempt(&self, outcome: &Outcome, took: Duration) {
        let label = AttemptOutcome::of(outcome);
        self.series.attempts[label as usize].fetch_add(1, Ordering::Relaxed);
        self.series.durations.record(took);
        if let Some(cause) = outcome.cause() {
            let told = match outcome {
                Outcome::Throttled { scope, .. } | Outcome::Blocked { scope, .. } => Some(*scope),
                _ => cause.code().and_then(policy::rule).map(|rule| rule.scope),
            };
            attempt_error(label, told.unwrap_or(ErrorScope::None), 1);
        }
    }

    /// Adds time in which a message waited for the pace.
    pub fn paced(&self, wait: Duration) {
        self.series.paced_micros.fetch_add(wait.as_micros() as u64, Ordering::Relaxed);
    }

    /// Ends the series of the line, because another process may have the line from now on.
    pub fn end(&self) {
        self.series.has_ended.store(true, Ordering::Relaxed);
    }

    /// Publishes the present state of the line.
    pub fn publish(&self, gauges: LineGauges) {
        *self.series.gauges.lock().unwrap_or_else(PoisonError::into_inner) = gauges;
    }
}

impl Drop for LineMetrics {
    fn drop(&mut self) {
        let mut lines = self.all.lock();
        if lines.get(&self.line).is_some_and(|series| Arc::ptr_eq(series, &self.series)) {
            lines.remove(&self.line);
        }
        self.all.0.ended.add(&self.series.durations);
    }
}

/// Starts the series of errors at 0.
pub(super) fn start_at_zero() {
    for &outcome in AttemptOutcome::ALL {
        if !matches!(outcome, AttemptOutcome::Accepted | AttemptOutcome::Held) {
            ErrorScope::ALL.into_iter().for_each(|scope| attempt_error(outcome, scope, 0));
        }
    }
}

fn attempt_error(outcome: AttemptOutcome, scope: ErrorScope, n: u64) {
    counter!(ATTEMPT_ERRORS, "outcome" => outcome.label(), "scope" => scope.name()).increment(n);
}

fn micros(sum: &AtomicU64) -> f64 {
    Duration::from_micros(sum.load(Ordering::Relaxed)).as_secs_f64()
}

fn seconds_since(since: Option<Instant>, now: Instant) -> f64 {
    since.map_or(0.0, |since| now.saturating_duration_since(since).as_secs_f64())
}

#[cfg(test)]
mod tests;
