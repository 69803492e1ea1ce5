//! Slots: the limit on attempts in flight of one line.
//!
//! The limit is what the line's rate needs at Meta's present latency, and no more: over HTTP/1.1 each attempt needs a
//! connection. The first message of a line is sent alone, because no latency has been measured yet. Each time all slots
//! have been used once, the limit is computed from the mean latency:
//! - It rises in steps. A step is undone if latency rose so much that throughput hardly grew: then Meta is the limit.
//! - While the shard is busy it does not rise, because more attempts would only wait for the shard and take capacity
//!   from its other lines. If answers are late because of the shard, it is halved.
//!
//! Never: reads a clock. Callers pass `now`, which does not go back.

use std::time::{Duration, Instant};

use crate::dispatch::shard::{LineCapacity, SLOW_ANSWER};

/// Slots per message that is in flight on average at the line's rate. Some answers take longer than the mean.
const CONCURRENCY_FACTOR: f64 = 2.0;

/// Slots on top of that: a small number in flight varies more in proportion.
const CONCURRENCY_EXTRA: usize = 4;

/// Maximum factor by which one step raises the limit.
const STEP: usize = 4;

/// Minimum time from one step to the next, so that the effect of a step on the shard's load shows before the next.
const STEP_EVERY: Duration = Duration::from_millis(100);

/// A line that had nothing in flight for longer than this starts low again.
const IDLE_MIN: Duration = Duration::from_millis(500);

/// If answers take more than this many times as long as the quickest one, they wait on this machine, because too many
/// lines send at once. A line cannot detect that by its own steps: the slots of one line make no difference.
const QUEUED_FACTOR: u32 = 4;

/// Wait before the next step after a step that brought nothing.
const STEP_BACKOFF: Duration = Duration::from_secs(10);

/// After this long without an answer, the next step does not wait for one: the delay is Meta's, not this machine's.
const ANSWER_WAIT_MAX: Duration = Duration::from_millis(250);

/// The slots of one line.
pub struct Slots {
    limit: usize,
    limit_max: usize,
    /// When the limit was set. Attempts that began earlier measured the previous limit.
    limit_since: Instant,
    /// The answers to attempts that began since then, and the sum of their latencies.
    answers: u32,
    latency_sum: Duration,
    /// The measurement before the last step, until that step is evaluated.
    previous: Option<Measured>,
    no_step_before: Instant,
    /// When the last attempt ended.
    ended: Option<Instant>,
    quickest: Duration,
    /// The start of the first attempt since an attempt last ended.
    silent_since: Option<Instant>,
}

/// The mean latency that was measured with a limit.
struct Measured {
    limit: usize,
    latency: Duration,
}

impl Slots {
    /// A limit of 1, which may rise to `limit_max` (at least 1).
    pub fn new(limit_max: usize, now: Instant) -> Self {
        Self {
            limit: 1,
            limit_max: limit_max.max(1),
            limit_since: now,
            answers: 0,
            latency_sum: Duration::ZERO,
            previous: None,
            no_step_before: now,
            ended: None,
            quickest: Duration::MAX,
            silent_since: None,
        }
    }

    /// How many attempts may be in flight now.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Records that an attempt begins while `in_flight` others are open. After a rest the limit falls to the capacity
    /// per line: it may have grown while other lines were idle, and not all lines can have so many slots at once.
    pub fn began(&mut self, now: Instant, in_flight: usize, capacity: LineCapacity) {
        if in_flight == 0 && self.ended.is_some_and(|ended| now - ended > IDLE_MIN) {
            self.previous = None;
            self.set(self.limit.min(capacity.per_line), now);
        }
        self.silent_since.get_or_insert(now);
    }

    /// Records that an attempt has ended. The first one raises the limit to the capacity per line.
    pub fn ended(&mut self, now: Instant, capacity: LineCapacity) {
        self.silent_since = None;
        if self.ended.replace(now).is_none() {
            self.set(self.limit.max(capacity.per_line), now);
        }
    }

    /// Records that Meta accepted the message of an attempt that began at `began`, on a line of `rate` messages per
    /// second. Failures are not recorded: a refused connection is quicker than any answer.
    pub fn accepted(&mut self, began: Instant, now: Instant, rate: f64, capacity: LineCapacity) {
        self.quickest = self.quickest.min(now - began);
        if began >= self.limit_since {
            self.answers += 1;
            self.latency_sum += now - began;
            if self.answers as usize >= self.limit {
                self.evaluate(self.latency_sum / self.answers, now, rate, capacity);
            }
        }
    }

    /// Records that only the limit keeps a message from leaving. Returns when to call this again if that has not
    /// changed.
    pub fn at_limit(&mut self, now: Instant, rate: f64) -> Instant {
        let silent = self.silent_since.map_or(Duration::ZERO, |since| now - since);
        if silent >= ANSWER_WAIT_MAX && now >= self.limit_since + ANSWER_WAIT_MAX {
            self.previous = None;
            self.set(self.limit.max(needed(rate, silent).min(self.limit.saturating_mul(STEP))), now);
        }
        now + ANSWER_WAIT_MAX
    }

    /// Sets the limit after every slot was used once, with answers after `latency` on average.
    fn evaluate(&mut self, latency: Duration, now: Instant, rate: f64, capacity: LineCapacity) {
        let needed = needed(rate, latency);
        if let Some(Measured { limit, latency: earlier }) = self.previous.take()
            && self.limit < needed
        {
            let slots = self.limit as f64 / limit as f64;
            let throughput = slots * earlier.as_secs_f64() / latency.as_secs_f64();
            if throughput < slots.sqrt() {
                self.no_step_before = now + STEP_BACKOFF;
                return self.set(limit, now);
            }
        }
        (self.answers, self.latency_sum) = (0, Duration::ZERO);
        let queued = latency > self.quickest * QUEUED_FACTOR && latency < SLOW_ANSWER;
        if capacity.busy && queued && self.limit > capacity.per_line {
            return self.set((self.limit / 2).max(capacity.per_line), now);
        }
        if self.limit < needed && now >= self.no_step_before && !capacity.busy && !queued {
            self.previous = Some(Measured { limit: self.limit, latency });
            self.set(needed.min(self.limit.saturating_mul(STEP)), now);
        }
    }

    fn set(&mut self, limit: usize, now: Instant) {
        self.limit = limit.min(self.limit_max);
        (self.limit_since, self.answers, self.latency_sum) = (now, 0, Duration::ZERO);
        self.no_step_before = self.no_step_before.max(now + STEP_EVERY);
    }
}

/// The slots that `rate` messages per second need if each is answered after `latency`.
fn needed(rate: f64, latency: Duration) -> usize {
    (rate * latency.as_secs_f64() * CONCURRENCY_FACTOR) as usize + CONCURRENCY_EXTRA
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, collections::BinaryHeap};

    use super::*;

    const PER_LINE: usize = 4;
    const IDLE: LineCapacity = LineCapacity { per_line: PER_LINE, busy: false };

    /// Sends for `seconds` as fast as slots and `rate` allow. `latency` maps the number of attempts in flight to
    /// seconds. Returns the final limit, and the messages of the last second.
    fn simulate(seconds: f64, rate: f64, busy: bool, latency: impl Fn(usize) -> f64) -> (usize, usize) {
        let start = Instant::now();
        let (mut slots, capacity) = (Slots::new(1_000, start), LineCapacity { per_line: PER_LINE, busy });
        let mut open: BinaryHeap<(Reverse<Instant>, Instant)> = BinaryHeap::new();
        let (mut at, mut next, mut last) = (start, start, 0);
        let end = start + Duration::from_secs_f64(seconds);
        while at < end {
            while open.peek().is_some_and(|(Reverse(ends), _)| *ends <= at) {
                let (Reverse(ends), began) = open.pop().expect("one");
                slots.ended(ends, capacity);
                slots.accepted(began, ends, rate, capacity);
            }
            if at >= next {
                if open.len() < slots.limit() {
                    let ends = at + Duration::from_secs_f64(latency(open.len() + 1));
                    slots.began(at, open.len(), capacity);
                    open.push((Reverse(ends), at));
                    next = at + Duration::from_secs_f64(1.0 / rate);
                    last += usize::from(end - at <= Duration::from_secs(1));
                } else {
                    slots.at_limit(at, rate);
                }
            }
            at += Duration::from_micros(100);
        }
        (slots.limit(), last)
    }

    #[test]
    fn a_line_reaches_its_rate_at_any_latency() {
        for (rate, latency) in [(20.0, 0.2), (80.0, 1.0), (80.0, 5.0), (1_000.0, 0.05), (1_000.0, 0.2), (1_000.0, 0.6)]
        {
            let (slots, last) = simulate(3.0 + 3.0 * latency, rate, false, |_| latency);
            assert!(last as f64 >= 0.97 * rate, "{last} of {rate} at {latency} s, with {slots} slots");
        }
    }

    #[test]
    fn a_step_is_undone_if_meta_is_the_limit() {
        // Meta serves the attempts one after the other.
        let (slots, _) = simulate(2.0, 1_000_000.0, false, |open| open as f64 * 0.0005);
        assert_eq!(slots, PER_LINE);
    }

    #[test]
    fn the_limit_does_not_rise_while_the_shard_is_busy() {
        // Other lines share the shard, so a line cannot detect by its own steps that it is busy.
        assert_eq!(simulate(2.0, 1_000_000.0, true, |_| 0.005).0, PER_LINE);
    }

    #[test]
    fn the_limit_does_not_rise_if_answers_wait_on_this_machine() {
        let quick = std::cell::Cell::new(true);
        let answers = |_| if quick.replace(false) { 0.004 } else { 0.02 };
        assert_eq!(simulate(2.0, 1_000_000.0, false, answers).0, PER_LINE);
    }

    #[test]
    fn the_limit_is_halved_while_answers_wait_for_a_busy_shard() {
        let (mut now, quick) = (Instant::now(), Duration::from_millis(1));
        let mut slots = Slots::new(1_000, now);
        let mut answered = |after: Duration, capacity: LineCapacity| {
            let began = now;
            now += after;
            for _ in 0..slots.limit() {
                slots.ended(now, capacity);
                slots.accepted(began, now, 1_000_000.0, capacity);
            }
            slots.limit()
        };
        while answered(quick, IDLE) < 64 {}
        answered(quick, IDLE);
        // From here on the shard cannot keep up.
        let busy = LineCapacity { per_line: 2, busy: true };
        assert_eq!([(); 6].map(|()| answered(quick * 8, busy)), [32, 16, 8, 4, 2, 2]);
        // Fewer slots would not speed up answers that are late because of Meta.
        while answered(quick, IDLE) < 16 {}
        let unchanged = answered(quick, IDLE);
        assert_eq!(answered(SLOW_ANSWER, busy), unchanged);
    }

    #[test]
    fn a_line_starts_low_and_in_steps_after_a_rest() {
        let start = Instant::now();
        let mut slots = Slots::new(1_000, start);
        slots.ended(start, IDLE);
        let mut grown_to = |at: Instant| {
            slots.began(at, 0, IDLE);
            for _ in 0..slots.limit() {
                slots.ended(at, IDLE);
                slots.accepted(at, at + Duration::from_millis(1), 1_000_000.0, IDLE);
            }
            slots.limit()
        };
        let steps = |from: Instant, at: [u32; 3]| at.map(|step| from + STEP_EVERY * step);
        assert_eq!(steps(start, [1, 2, 3]).map(&mut grown_to), [4 * PER_LINE, 16 * PER_LINE, 64 * PER_LINE]);
        let again = start + Duration::from_secs(60);
        assert_eq!(steps(again, [0, 1, 2]).map(&mut grown_to), [PER_LINE, 4 * PER_LINE, 16 * PER_LINE]);
    }

    #[test]
    fn a_refused_connection_is_not_a_quick_answer() {
        let (mut now, answer) = (Instant::now(), Duration::from_millis(30));
        let mut slots = Slots::new(1_000, now);
        slots.ended(now, IDLE);
        slots.ended(now + Duration::from_micros(100), IDLE);
        for _ in 0..100 {
            slots.ended(now + answer, IDLE);
            slots.accepted(now, now + answer, 1_000.0, IDLE);
            now += answer;
        }
        assert!(slots.limit() >= 30, "1,000 a second after 30 ms are thirty at once, and not {}", slots.limit());
    }

    #[test]
    fn quick_answers_need_few() {
        assert!(simulate(5.0, 1_000.0, false, |_| 0.001).0 <= PER_LINE + 2);
    }

    #[test]
    fn the_first_message_goes_alone() {
        let now = Instant::now();
        let mut slots = Slots::new(1_000, now);
        assert_eq!(slots.limit(), 1);
        slots.ended(now + Duration::from_secs(1), IDLE);
        assert_eq!(slots.limit(), PER_LINE);
    }

    #[test]
    fn the_limit_never_exceeds_its_maximum() {
        let now = Instant::now();
        let mut slots = Slots::new(6, now);
        slots.ended(now, IDLE);
        assert_eq!(slots.limit(), PER_LINE);
        slots.began(now, 0, IDLE);
        slots.at_limit(now + Duration::from_secs(30), 80.0);
        assert_eq!(slots.limit(), 6);
    }
}
