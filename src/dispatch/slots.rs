//! How many attempts of a line are in flight at once.
//!
//! Enough to keep the line's rate at Meta's present latency, and no more: over HTTP/1.1 each one is a connection. The
//! first message of a line goes alone, for nothing is known of the latency yet. Then, whenever each slot was used once, the latency says how many the rate needs. They are raised in steps, but not while
//! the thread that sends is busy: more would only wait for it, and many lines that each take more take it from one another;
//! what they have too much they give back. A step is kept only if answers did not come as much later by it: then Meta is the limit.
//!
//! Never: reads a clock. Callers pass `now`, which does not go back.

use std::time::{Duration, Instant};

use super::shard::{LineCapacity, NOT_FOR_US};

/// Slots for each message that is in flight on average when the line keeps its rate: some answers take longer.
const SPARE: f64 = 2.0;

/// And these besides, for a few in flight vary more.
const SPARE_MIN: usize = 4;

/// A step is to so many times the slots.
const STEP: usize = 4;

/// From one step to the next: so that it is known what the one before has made of the thread.
const STEP_EVERY: Duration = Duration::from_millis(100);

/// A line that had nothing in flight for so long has rested.
const REST: Duration = Duration::from_millis(500);

/// Answers that take so many times as long as the quickest wait here: too many lines send for this machine, and each of them
/// alone would see no difference by more slots.
const WAITED_FOR_US: u32 = 4;

/// After a step that brought nothing, the next one is that much later.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where no answer comes for so long, the next step does not wait for one: no machine of ours is that slow.
const SILENCE: Duration = Duration::from_millis(250);

/// The number of attempts that may be in flight.
pub struct Slots {
    limit: usize,
    limit_max: usize,
    /// Attempts that began earlier tell of another limit.
    since: Instant,
    answers: u32,
    took: Duration,
    /// Limit and latency before the last step, until it is judged.
    before: Option<(usize, Duration)>,
    patience_ends: Instant,
    /// When the last attempt ended.
    ended: Option<Instant>,
    quickest: Duration,
    /// When the first attempt began after the last that ended.
    silent_since: Option<Instant>,
}

impl Slots {
    /// At most `limit_max`, at least one.
    pub fn new(limit_max: usize, now: Instant) -> Self {
        Self {
            limit: 1,
            limit_max: limit_max.max(1),
            since: now,
            answers: 0,
            took: Duration::ZERO,
            before: None,
            patience_ends: now,
            ended: None,
            quickest: Duration::MAX,
            silent_since: None,
        }
    }

    /// Attempts that may be in flight now.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// An attempt begins beside the `in_flight` others; `room` is the thread's. After a rest the line starts as low as any: what it
    /// had in the end, when others had ended, all lines together may not have at once.
    pub fn began(&mut self, now: Instant, in_flight: usize, room: LineCapacity) {
        if in_flight == 0 && self.ended.is_some_and(|ended| now - ended > REST) {
            self.before = None;
            self.set(self.limit.min(room.each), now);
        }
        self.silent_since.get_or_insert(now);
    }

    /// An attempt has ended; `room` is the thread's.
    pub fn ended(&mut self, now: Instant, room: LineCapacity) {
        self.silent_since = None;
        if self.ended.replace(now).is_none() {
            self.set(self.limit.max(room.each), now);
        }
    }

    /// Meta accepted the message of an attempt that began at `began`; the line may send `rate` messages a second, and
    /// `room` is its thread's. What failed tells nothing here: a refused connection is quicker than any answer.
    pub fn accepted(&mut self, began: Instant, now: Instant, rate: f64, room: LineCapacity) {
        self.quickest = self.quickest.min(now - began);
        if began >= self.since {
            self.answers += 1;
            self.took += now - began;
            if self.answers as usize >= self.limit {
                self.judge(self.took / self.answers, now, rate, room);
            }
        }
    }

    /// A message could go but for the limit. Gives when to ask again if it is still so.
    pub fn full(&mut self, now: Instant, rate: f64) -> Instant {
        let silent = self.silent_since.map_or(Duration::ZERO, |since| now - since);
        if silent >= SILENCE && now >= self.since + SILENCE {
            self.before = None;
            self.set(self.limit.max(needed(rate, silent).min(self.limit.saturating_mul(STEP))), now);
        }
        now + SILENCE
    }

    /// Every slot was used, and answers take `latency`.
    fn judge(&mut self, latency: Duration, now: Instant, rate: f64, room: LineCapacity) {
        let needed = needed(rate, latency);
        if let Some((limit, earlier)) = self.before.take()
            && self.limit < needed
        {
            let slots = self.limit as f64 / limit as f64;
            let throughput = slots * earlier.as_secs_f64() / latency.as_secs_f64();
            if throughput < slots.sqrt() {
                self.patience_ends = now + PATIENCE;
                return self.set(limit, now);
            }
        }
        (self.answers, self.took) = (0, Duration::ZERO);
        let waited = latency > self.quickest * WAITED_FOR_US && latency < NOT_FOR_US;
        if room.busy && waited && self.limit > room.each {
            return self.set((self.limit / 2).max(room.each), now);
        }
        if self.limit < needed && now >= self.patience_ends && !room.busy && !waited {
            self.before = Some((self.limit, latency));
            self.set(needed.min(self.limit.saturating_mul(STEP)), now);
        }
    }

    fn set(&mut self, limit: usize, now: Instant) {
        self.limit = limit.min(self.limit_max);
        (self.since, self.answers, self.took) = (now, 0, Duration::ZERO);
        self.patience_ends = self.patience_ends.max(now + STEP_EVERY);
    }
}

/// Slots for `rate` messages a second that are answered after `latency`.
fn needed(rate: f64, latency: Duration) -> usize {
    (rate * latency.as_secs_f64() * SPARE) as usize + SPARE_MIN
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, collections::BinaryHeap};

    use super::*;

    const EACH: usize = 4;
    const IDLE: LineCapacity = LineCapacity { each: EACH, busy: false };

    /// Sends as fast as slots and `rate` allow for `seconds`; `latency` says when an attempt is answered that is one of
    /// `n` in flight. Gives the slots in the end, and messages in the last second.
    fn play(seconds: f64, rate: f64, busy: bool, latency: impl Fn(usize) -> f64) -> (usize, usize) {
        let start = Instant::now();
        let (mut slots, room) = (Slots::new(1_000, start), LineCapacity { each: EACH, busy });
        let mut open: BinaryHeap<(Reverse<Instant>, Instant)> = BinaryHeap::new();
        let (mut at, mut next, mut last) = (start, start, 0);
        let end = start + Duration::from_secs_f64(seconds);
        while at < end {
            while open.peek().is_some_and(|(Reverse(ends), _)| *ends <= at) {
                let (Reverse(ends), began) = open.pop().expect("one");
                slots.ended(ends, room);
                slots.accepted(began, ends, rate, room);
            }
            if at >= next {
                if open.len() < slots.limit() {
                    let ends = at + Duration::from_secs_f64(latency(open.len() + 1));
                    slots.began(at, open.len(), room);
                    open.push((Reverse(ends), at));
                    next = at + Duration::from_secs_f64(1.0 / rate);
                    last += usize::from(end - at <= Duration::from_secs(1));
                } else {
                    slots.full(at, rate);
                }
            }
            at += Duration::from_micros(100);
        }
        (slots.limit(), last)
    }

    #[test]
    fn a_line_gets_to_its_rate_however_slow_the_answers_are() {
        for (rate, latency) in [(20.0, 0.2), (80.0, 1.0), (80.0, 5.0), (1_000.0, 0.05), (1_000.0, 0.2), (1_000.0, 0.6)]
        {
            let (slots, last) = play(3.0 + 3.0 * latency, rate, false, |_| latency);
            assert!(last as f64 >= 0.97 * rate, "{last} of {rate} at {latency} s, with {slots} slots");
        }
    }

    #[test]
    fn where_meta_is_the_limit_more_slots_are_given_up_again() {
        // What is in flight is served one after the other.
        let (slots, _) = play(2.0, 1_000_000.0, false, |open| open as f64 * 0.0005);
        assert_eq!(slots, EACH);
    }

    #[test]
    fn where_the_thread_is_busy_no_more_are_tried() {
        // Other lines share it: each alone would see no difference.
        assert_eq!(play(2.0, 1_000_000.0, true, |_| 0.005).0, EACH);
    }

    #[test]
    fn where_too_many_lines_send_for_this_machine_no_more_are_tried() {
        let quick = std::cell::Cell::new(true);
        let answers = |_| if quick.replace(false) { 0.004 } else { 0.02 };
        assert_eq!(play(2.0, 1_000_000.0, false, answers).0, EACH);
    }

    #[test]
    fn what_lines_have_too_much_they_give_back() {
        let (mut now, quick) = (Instant::now(), Duration::from_millis(1));
        let mut slots = Slots::new(1_000, now);
        let mut answered = |after: Duration, room: LineCapacity| {
            let began = now;
            now += after;
            for _ in 0..slots.limit() {
                slots.ended(now, room);
                slots.accepted(began, now, 1_000_000.0, room);
            }
            slots.limit()
        };
        while answered(quick, IDLE) < 64 {}
        answered(quick, IDLE);
        // Now its thread can't keep up.
        let busy = LineCapacity { each: 2, busy: true };
        assert_eq!([(); 6].map(|()| answered(quick * 8, busy)), [32, 16, 8, 4, 2, 2]);
        // But what comes late because Meta takes her time would not come earlier.
        while answered(quick, IDLE) < 16 {}
        let kept = answered(quick, IDLE);
        assert_eq!(answered(NOT_FOR_US, busy), kept);
    }

    #[test]
    fn after_a_rest_a_line_starts_low_and_waits_with_its_steps() {
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
        assert_eq!(steps(start, [1, 2, 3]).map(&mut grown_to), [4 * EACH, 16 * EACH, 64 * EACH]);
        let again = start + Duration::from_secs(60);
        assert_eq!(steps(again, [0, 1, 2]).map(&mut grown_to), [EACH, 4 * EACH, 16 * EACH]);
    }

    #[test]
    fn a_refused_connection_is_not_taken_for_a_quick_answer() {
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
        assert!(play(5.0, 1_000.0, false, |_| 0.001).0 <= EACH + 2);
    }

    #[test]
    fn the_first_message_goes_alone() {
        let now = Instant::now();
        let mut slots = Slots::new(1_000, now);
        assert_eq!(slots.limit(), 1);
        slots.ended(now + Duration::from_secs(1), IDLE);
        assert_eq!(slots.limit(), EACH);
    }

    #[test]
    fn there_are_never_more_than_allowed() {
        let now = Instant::now();
        let mut slots = Slots::new(6, now);
        slots.ended(now, IDLE);
        assert_eq!(slots.limit(), EACH);
        slots.began(now, 0, IDLE);
        slots.full(now + Duration::from_secs(30), 80.0);
        assert_eq!(slots.limit(), 6);
    }
}
