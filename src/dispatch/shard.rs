//! A shard: the lines that run on one dispatch thread, and what they share.
//!
//! Owns: the ticks at which the lines call Redis together, the limit on attempts in flight, and the probes of the
//! path to Meta. Everything is in memory and used from one thread only.
//! If the process dies: nothing is lost; the next owners of the lines build their own.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{batch, line::path::Probes};
use crate::rules::breaker::Breaker;

/// If the quickest answer takes at least this long, Meta is slow. If the quickest answer takes less, slower answers are
/// late because this shard is overloaded.
pub(super) const SLOW_ANSWER: Duration = Duration::from_millis(50);

/// A shard is busy if it works for more than this share of the time.
const BUSY_SHARE: f64 = 0.85;

/// How often the load of a shard is sampled.
const SAMPLE_EVERY: Duration = Duration::from_millis(50);

/// Attempts in flight that keep a shard fully occupied if answers come at once. With fewer it waits; with more each
/// attempt costs more, because its data has left the processor's cache.
const IN_FLIGHT_TARGET: usize = 32;

/// Minimum and maximum of the number of attempts in flight that every line of a shard may have.
const LINE_CAPACITY: (usize, usize) = (1, 8);

/// The limit on attempts in flight grows by at most one in this time. Over HTTP/1.1 each attempt needs a connection,
/// which costs as much as dozens of messages. If a thousand late lines each opened one at once, that would make them
/// later.
const GROW_EVERY: Duration = Duration::from_millis(1);

/// As [`GROW_EVERY`], for a limit beyond [`IN_FLIGHT_TARGET`] if answers come at once.
const GROW_SLOWLY_EVERY: Duration = Duration::from_millis(5);

/// The limit falls to the peak of the last window of this length. The peak approximates the number of open connections:
/// the Graph client sends nothing over a connection that was idle for longer.
const PEAK_WINDOW: Duration = Duration::from_secs(15);

/// While a shard is busy: attempts allowed in flight for each one that Meta is processing. How many Meta is processing
/// is estimated from the latency of the quickest answer; most answers take longer.
const CONCURRENCY_FACTOR: f64 = 4.0;

/// The state that the lines of one dispatch thread share.
pub struct Shard {
    /// Probes of the path to Meta, by WABA.
    pub probes: Probes,
    /// Stops every line while Meta as a whole is down.
    pub breaker: RefCell<Breaker>,
    started_at: Instant,
    busy: Cell<bool>,
    active_lines: Cell<usize>,
    in_flight: InFlight,
}

/// The attempts in flight on a shard.
#[derive(Default)]
struct InFlight {
    current: Cell<usize>,
    /// The recent peak of attempts in flight, whose connections are still open. Lowered while the shard is busy.
    limit: Cell<usize>,
    grown_at: Cell<Option<Instant>>,
    /// Whether the quickest answer of the last sample took less than [`SLOW_ANSWER`].
    quick: Cell<bool>,
    /// The highest number of attempts in flight since `peak_from`.
    peak: Cell<usize>,
    peak_from: Cell<Option<Instant>>,
    /// The answers since the last sample.
    answers: Cell<Answers>,
    /// The lines that wait for an attempt of another line to end, first come, first served.
    waiters: RefCell<VecDeque<Rc<CapacityWaiter>>>,
}

/// Answers of Meta.
#[derive(Clone, Copy, Default)]
struct Answers {
    count: u32,
    /// The latency of the quickest answer; `None` without an answer.
    quickest: Option<Duration>,
}

/// A line's place in the queue for capacity of its shard.
#[derive(Default)]
pub struct CapacityWaiter {
    /// Notified when the line was granted the permit of an attempt that ended.
    pub granted: Notify,
    permit: Cell<Option<AttemptPermit>>,
    queued: Cell<bool>,
}

/// Counts a line as active until it is dropped.
pub struct ActiveLine(Rc<Shard>);

/// The permit for one attempt in flight. Dropped, it goes to the line that has waited longest.
pub struct AttemptPermit(Rc<Shard>);

impl Shard {
    /// A shard without lines; its ticks count from `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            probes: Probes::default(),
            breaker: RefCell::default(),
            started_at: now,
            busy: Cell::default(),
            active_lines: Cell::default(),
            in_flight: InFlight::default(),
        }
    }

    /// The first tick at or after `at`. At a tick the lines call Redis together.
    pub fn next_tick(&self, at: Instant) -> Instant {
        batch::next_tick(self.started_at, at)
    }

    /// Counts one more line as active.
    pub fn activate_line(self: &Rc<Self>) -> ActiveLine {
        self.active_lines.set(self.active_lines.get() + 1);
        ActiveLine(self.clone())
    }

    /// The capacity of the shard for each of its active lines.
    pub fn capacity(&self) -> LineCapacity {
        let (least, most) = LINE_CAPACITY;
        let per_line = (IN_FLIGHT_TARGET / self.active_lines.get().max(1)).clamp(least, most);
        LineCapacity { per_line, busy: self.busy.get() }
    }

    /// A permit for one more attempt. Without one the line is queued, and `line.granted` is notified at its turn.
    pub fn try_acquire(self: &Rc<Self>, now: Instant, line: &Rc<CapacityWaiter>) -> Option<AttemptPermit> {
        if let Some(permit) = line.permit.take() {
            return Some(permit);
        }
        let InFlight { current, limit, grown_at, quick, peak, peak_from, waiters, .. } = &self.in_flight;
        let on_target = current.get() >= IN_FLIGHT_TARGET;
        // On a busy shard, attempts beyond the target would only wait for the shard.
        let may_grow = !(on_target && self.busy.get());
        let every = if on_target && quick.get() { GROW_SLOWLY_EVERY } else { GROW_EVERY };
        let grows = may_grow && grown_at.get().is_none_or(|at| now >= at + every);
        let others_wait = !line.queued.get() && !waiters.borrow().is_empty();
        if others_wait || current.get() >= limit.get() && !grows {
            if !line.queued.replace(true) {
                waiters.borrow_mut().push_back(line.clone());
            }
            return None;
        }
        current.set(current.get() + 1);
        if peak_from.get().is_none_or(|from| now >= from + PEAK_WINDOW) {
            limit.set(peak.replace(0));
            peak_from.set(Some(now));
        }
        peak.set(peak.get().max(current.get()));
        if current.get() > limit.get() {
            limit.set(current.get());
            grown_at.set(Some(now));
        }
        Some(AttemptPermit(self.clone()))
    }

    /// Records that Meta accepted a message after `latency`.
    pub fn accepted(&self, latency: Duration) {
        let Answers { count, quickest } = self.in_flight.answers.get();
        let quickest = quickest.map_or(latency, |quickest| quickest.min(latency));
        self.in_flight.answers.set(Answers { count: count + 1, quickest: Some(quickest) });
    }

    /// Adjusts the limit to a sample of length `passed`. If the shard was busy and answers came at once, attempts
    /// beyond those that are at Meta only wait for the shard, so the limit is lowered.
    fn adjust(&self, busy: bool, passed: Duration) {
        self.busy.set(busy);
        let Answers { count, quickest } = self.in_flight.answers.take();
        let quick = quickest.filter(|quickest| *quickest < SLOW_ANSWER);
        self.in_flight.quick.set(quick.is_some());
        if let Some(quickest) = quick.filter(|_| busy) {
            let at_meta = f64::from(count) / passed.as_secs_f64() * quickest.as_secs_f64();
            let needed = IN_FLIGHT_TARGET + (at_meta * CONCURRENCY_FACTOR) as usize;
            self.in_flight.limit.set(self.in_flight.limit.get().min(needed));
        }
    }

    /// Samples the load for as long as the shard exists. Runs on the thread of the shard; time in which the processor
    /// ran other threads counts as load too.
    pub async fn watch(self: Rc<Self>) {
        let metrics = tokio::runtime::Handle::current().metrics();
        let mut before = (Instant::now(), metrics.worker_total_busy_duration(0));
        loop {
            tokio::time::sleep(SAMPLE_EVERY).await;
            let now = (Instant::now(), metrics.worker_total_busy_duration(0));
            let (passed, worked) = (now.0 - before.0, now.1.saturating_sub(before.1));
            self.adjust(worked.as_secs_f64() > BUSY_SHARE * passed.as_secs_f64(), passed);
            before = now;
        }
    }
}

impl CapacityWaiter {
    /// Drops a permit that was granted and is not needed: the next line in the queue gets it.
    pub fn yield_permit(&self) {
        self.permit.take();
    }
}

impl Drop for ActiveLine {
    fn drop(&mut self) {
        self.0.active_lines.set(self.0.active_lines.get() - 1);
    }
}

impl Drop for AttemptPermit {
    fn drop(&mut self) {
        let InFlight { current, limit, waiters, .. } = &self.0.in_flight;
        // If the runner of the next line has ended, its waiter drops the permit, which passes it on to the line after
        // that.
        let next = (current.get() <= limit.get()).then(|| waiters.borrow_mut().pop_front()).flatten();
        let Some(next) = next else {
            current.set(current.get() - 1);
            return;
        };
        next.queued.set(false);
        next.permit.set(Some(AttemptPermit(self.0.clone())));
        next.granted.notify_one();
    }
}

/// The capacity of a shard for each of its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineCapacity {
    /// Attempts in flight that every line may have.
    pub per_line: usize,
    /// The shard is almost always at work.
    pub busy: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_per_line_falls_as_more_lines_are_active() {
        let shard = Rc::new(Shard::new(Instant::now()));
        let per_line = |lines: usize| {
            let _active: Vec<ActiveLine> = (0..lines).map(|_| shard.activate_line()).collect();
            shard.capacity().per_line
        };
        assert_eq!([0, 1, 4, 8, 16, 1_000].map(per_line), [8, 8, 8, 4, 2, 1]);
        assert_eq!(per_line(0), 8, "a line that stopped sending does not count");
    }

    const FREE_CAPACITY: &str = "there is capacity";

    #[test]
    fn the_limit_grows_by_one_at_a_time() {
        let (shard, line, start) = (Rc::new(Shard::new(Instant::now())), Rc::default(), Instant::now());
        let try_acquire = |now: Instant| shard.try_acquire(now, &line);
        let mut permits = Vec::new();
        for ms in 0..3 {
            let now = start + GROW_EVERY * ms;
            permits.push(try_acquire(now).expect(FREE_CAPACITY));
            assert!(try_acquire(now).is_none(), "{ms}");
        }
        let late = start + GROW_EVERY * 50;
        permits.push(try_acquire(late).expect(FREE_CAPACITY));
        assert!(try_acquire(late).is_none(), "growth that was missed is not made up for");
        permits.truncate(1);
        permits.extend((0..3).map(|_| try_acquire(late).expect("these connections are open")));
        assert!(try_acquire(late).is_none());
    }

    #[test]
    fn the_limit_grows_slower_beyond_the_target_if_answers_are_quick() {
        let (shard, line, mut now) = (Rc::new(Shard::new(Instant::now())), Rc::default(), Instant::now());
        shard.accepted(Duration::from_micros(100));
        shard.adjust(false, SAMPLE_EVERY);
        let mut permits = Vec::new();
        for _ in 0..IN_FLIGHT_TARGET {
            permits.push(shard.try_acquire(now, &line).expect(FREE_CAPACITY));
            now += GROW_EVERY;
        }
        assert!(shard.try_acquire(now, &line).is_none());
        assert!(shard.try_acquire(now - GROW_EVERY + GROW_SLOWLY_EVERY, &line).is_some());
    }

    #[test]
    fn the_limit_falls_to_the_peak_of_the_last_window() {
        let (shard, line, start) = (Rc::new(Shard::new(Instant::now())), Rc::default(), Instant::now());
        let acquire = |at: Instant, n: u32| -> Vec<AttemptPermit> {
            (0..n).map(|ms| shard.try_acquire(at + GROW_EVERY * ms, &line).expect(FREE_CAPACITY)).collect()
        };
        drop(acquire(start, 10));
        drop(acquire(start + PEAK_WINDOW, 2));
        let _three = acquire(start + PEAK_WINDOW * 2, 3);
        let just_after = start + PEAK_WINDOW * 2 + GROW_EVERY * 2;
        assert!(shard.try_acquire(just_after, &line).is_none(), "the third connection was opened just now");
    }

    #[tokio::test]
    async fn a_permit_goes_to_the_line_that_has_waited_longest() {
        let (shard, now) = (Rc::new(Shard::new(Instant::now())), Instant::now());
        let [first, second, third] = [(); 3].map(|()| Rc::new(CapacityWaiter::default()));
        let permit = shard.try_acquire(now, &first).expect(FREE_CAPACITY);
        for line in [&second, &third, &first] {
            assert!(shard.try_acquire(now, line).is_none());
        }
        drop(permit);
        second.granted.notified().await;
        for line in [&first, &third] {
            assert!(shard.try_acquire(now, line).is_none(), "it is the second line's turn");
        }
        let permit = shard.try_acquire(now, &second).expect("the second line was granted the permit");
        // The third line is gone when its turn comes.
        drop(third);
        drop(permit);
        first.granted.notified().await;
        assert!(shard.try_acquire(now, &first).is_some());
    }

    #[test]
    fn a_busy_shard_lowers_the_limit_if_answers_are_quick() {
        let limit_after = |latency: Duration| {
            let (shard, line, start) = (Rc::new(Shard::new(Instant::now())), Rc::default(), Instant::now());
            let acquire = |ms| shard.try_acquire(start + GROW_EVERY * ms, &line).expect(FREE_CAPACITY);
            let _permits: Vec<AttemptPermit> = (0..1_000).map(acquire).collect();
            for _ in 0..1_000 {
                shard.accepted(latency);
            }
            shard.adjust(true, SAMPLE_EVERY);
            shard.in_flight.limit.get()
        };
        // A thousand answers in 50 ms.
        assert_eq!(limit_after(Duration::from_millis(1)), IN_FLIGHT_TARGET + 80);
        assert_eq!(limit_after(SLOW_ANSWER), 1_000, "the delay is Meta's");
    }
}
