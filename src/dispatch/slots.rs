//! How many attempts of a line are in flight at once.
//!
//! Enough to keep the line's rate at Meta's present latency, and no more: each one is a connection. More slots are
//! tried only while every slot is taken and the pace would allow more; they are kept only if they brought throughput,
//! which they do when answers are slow, and do not when this machine is the limit.

use std::time::{Duration, Instant};

/// Slots that every line may have.
const SLOTS_MIN: usize = 16;

/// How long one number of slots is watched.
const WINDOW: Duration = Duration::from_millis(250);

/// Twice the slots have to bring this much more throughput, unless the pace is the limit then. Slow answers give twice as
/// much; a busy machine gives nothing, and its noise less than this.
const GAIN: f64 = 1.5;

/// After a try that brought nothing, the next one is that many windows later.
const PATIENCE: u32 = 40;

/// The number of attempts that may be in flight, and how well it does.
pub struct Slots {
    limit: usize,
    limit_max: usize,
    window_began: Instant,
    done: u32,
    full: bool,
    /// Throughput before the last raise, and the limit to return to.
    before: Option<(f64, usize)>,
    patience: u32,
}

impl Slots {
    /// At most `limit_max`, at least one.
    pub fn new(limit_max: usize, now: Instant) -> Self {
        let limit_max = limit_max.max(1);
        Self {
            limit: SLOTS_MIN.min(limit_max),
            limit_max,
            window_began: now,
            done: 0,
            full: false,
            before: None,
            patience: 0,
        }
    }

    /// Attempts that may be in flight now.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// A message could have gone but for the limit.
    pub fn was_full(&mut self) {
        self.full = true;
    }

    /// An attempt ended.
    pub fn done(&mut self, now: Instant) {
        self.done += 1;
        let window = now.duration_since(self.window_began);
        if window < WINDOW {
            return;
        }
        let throughput = f64::from(self.done) / window.as_secs_f64();
        let full = self.full;
        (self.window_began, self.done, self.full) = (now, 0, false);
        if let Some((before, limit)) = self.before.take()
            && full
            && throughput < before * GAIN
        {
            self.limit = limit;
            self.patience = PATIENCE;
            return;
        }
        self.patience = self.patience.saturating_sub(1);
        if full && self.patience == 0 && self.limit < self.limit_max {
            self.before = Some((throughput, self.limit));
            self.limit = (self.limit * 2).min(self.limit_max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a server that answers `capacity(slots)` a second, and gives the slots after a while.
    fn settle(windows: u32, capacity: impl Fn(usize) -> f64) -> usize {
        let mut now = Instant::now();
        let mut slots = Slots::new(1_024, now);
        for _ in 0..windows {
            let n = (capacity(slots.limit()) * WINDOW.as_secs_f64()) as u32;
            slots.was_full();
            for i in 1..=n {
                slots.done(now + WINDOW * i / n);
            }
            now += WINDOW;
        }
        slots.limit()
    }

    #[test]
    fn slow_answers_get_more_slots() {
        assert_eq!(settle(40, |slots| slots as f64 / 0.5), 1_024);
    }

    #[test]
    fn a_busy_machine_does_not() {
        assert_eq!(settle(39, |_| 20_000.0), SLOTS_MIN);
    }

    #[test]
    fn slots_that_let_the_pace_be_the_limit_stay() {
        let mut now = Instant::now();
        let mut slots = Slots::new(1_024, now);
        // 16 slots of 100 ms give 160 a second where 200 are allowed.
        for _ in 0..40 {
            let (capacity, paced) = (slots.limit() as f64 / 0.1, 200.0);
            let n = (capacity.min(paced) * WINDOW.as_secs_f64()) as u32;
            if capacity < paced {
                slots.was_full();
            }
            for i in 1..=n {
                slots.done(now + WINDOW * i / n);
            }
            now += WINDOW;
        }
        assert_eq!(slots.limit(), 2 * SLOTS_MIN);
    }

    #[test]
    fn slots_stay_as_they_are_while_the_pace_is_the_limit() {
        let mut now = Instant::now();
        let mut slots = Slots::new(1_024, now);
        for _ in 0..1_000 {
            now += Duration::from_millis(12);
            slots.done(now);
        }
        assert_eq!(slots.limit(), SLOTS_MIN);
    }
}
