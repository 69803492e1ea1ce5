//! Pacing: when the next message of a line may go.
//!
//! The owner of a line paces it alone, in memory, with `governor`. A new pacer starts empty, so that a take-over, a
//! restart or a change of the rate never adds a burst to what Meta has already had in this second.
//! When Meta throttles, the rate is cut by half at once and rises again in steps.
//!
//! Never: reads a clock. Callers pass `now`, which does not go back.

use std::{
    cell::Cell,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    state::{InMemoryState, NotKeyed},
};

/// What may go at once beyond one message, at any rate. Without it the timer's tick of a millisecond costs 1 % of the rate at 80/s;
/// a line that is late makes up for it, and no second gets two more than its rate by it.
const SPARE: f64 = 0.25;

/// Seconds of the rate that may go at once beyond one message where that is more: what a busy machine is late it makes up for, and
/// the worst second is the rate, one message and one percent. Most of that percent is left for what is late on its way.
const SPARE_SECONDS: f64 = 0.003;

/// The limiter counts in parts of a message.
const PARTS: NonZeroU32 = NonZeroU32::new(4).expect("4 is not 0");

/// A cut leaves this share of the rate.
const CUT: f64 = 0.5;

/// Share of the full rate that comes back each second.
const RISE_PER_SECOND: f64 = 0.05;

/// Cuts come from many answers at once: one is enough for what was sent before it.
const CUT_EVERY: Duration = Duration::from_secs(1);

/// The least that a cut leaves, messages per second.
const RATE_MIN: f64 = 0.2;

/// `governor` asks a clock for the time: this one says what it was told.
struct PacerClock(Cell<Instant>);

impl Clock for PacerClock {
    type Instant = Instant;

    fn now(&self) -> Instant {
        self.0.get()
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, PacerClock>;

/// The pace of one line.
pub struct Pacer {
    full: f64,
    share: f64,
    limiter: Limiter,
    cut_at: Option<Instant>,
    risen_at: Instant,
}

impl Pacer {
    /// A pace of `rate` messages per second, above zero. Starts empty.
    pub fn new(rate: f64, now: Instant) -> Self {
        Self { full: rate, share: 1.0, limiter: limiter(rate, now), cut_at: None, risen_at: now }
    }

    /// Changes the full rate. What a throttle cut stays cut.
    pub fn set_rate(&mut self, rate: f64, now: Instant) {
        if rate != self.full {
            self.full = rate;
            self.restart(now);
        }
    }

    /// What may go each second now.
    pub fn rate(&self) -> f64 {
        (self.full * self.share).max(RATE_MIN.min(self.full))
    }

    /// The full rate is cut for now.
    pub fn is_cut(&self) -> bool {
        self.share < 1.0
    }

    /// Takes the right to send one message; or says how long to wait for it.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.rise(now);
        self.limiter.clock().0.set(now);
        let checked = self.limiter.check_n(PARTS).expect("a burst has room for a message");
        checked.map_err(|not_until| not_until.wait_time_from(now))
    }

    /// Meta said that this line is too fast.
    pub fn throttled(&mut self, now: Instant) {
        if self.cut_at.is_some_and(|at| now.duration_since(at) < CUT_EVERY) {
            return;
        }
        self.cut_at = Some(now);
        self.risen_at = now;
        self.share *= CUT;
        self.restart(now);
    }

    fn rise(&mut self, now: Instant) {
        if self.share >= 1.0 {
            return;
        }
        let waited = now.duration_since(self.risen_at).as_secs_f64();
        if waited >= 1.0 {
            self.risen_at = now;
            self.share = (self.share + RISE_PER_SECOND * waited).min(1.0);
            self.restart(now);
        }
    }

    /// Starts again, empty.
    pub fn restart(&mut self, now: Instant) {
        self.limiter = limiter(self.rate(), now);
    }
}

/// Parts of messages that may go at once at `rate`.
fn burst(rate: f64) -> NonZeroU32 {
    let burst = (1.0 + (rate * SPARE_SECONDS).max(SPARE)) * f64::from(PARTS.get());
    NonZeroU32::new(burst as u32).unwrap_or(PARTS)
}

fn limiter(rate: f64, now: Instant) -> Limiter {
    let burst = burst(rate);
    let period = Duration::from_secs_f64(1.0 / (rate * f64::from(PARTS.get()))).max(Duration::from_nanos(1));
    let quota = Quota::with_period(period).unwrap_or(Quota::per_second(NonZeroU32::MAX)).allow_burst(burst);
    let limiter = RateLimiter::direct_with_clock(quota, PacerClock(Cell::new(now)));
    // Empty it: a full burst right after an older limiter's would break the promise for this second.
    let _ = limiter.check_n(burst);
    limiter
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{LINE_RATE_MAX, LINE_RATE_MIN};

    #[test]
    fn a_new_pace_starts_empty() {
        let now = Instant::now();
        let mut pacer = Pacer::new(80.0, now);
        let wait = pacer.take(now).expect_err("nothing may go at once");
        assert!(wait <= Duration::from_micros(12_500), "{wait:?}");
    }

    #[test]
    fn a_throttle_halves_the_rate_once_for_all_answers_of_a_second_and_it_rises_again() {
        let start = Instant::now();
        let mut pacer = Pacer::new(100.0, start);
        pacer.throttled(start);
        pacer.throttled(start + Duration::from_millis(500));
        assert_eq!(pacer.rate(), 50.0);
        pacer.throttled(start + Duration::from_millis(1_000));
        assert_eq!(pacer.rate(), 25.0);
        let _ = pacer.take(start + Duration::from_secs(3));
        assert_eq!(pacer.rate(), 35.0);
        let _ = pacer.take(start + Duration::from_secs(60));
        assert_eq!(pacer.rate(), 100.0);
        assert!(!pacer.is_cut());
    }

    #[test]
    fn the_worst_second_is_the_rate_one_message_and_one_percent() {
        for rate in [0.5, 20.0, 80.0, 200.0, 1_000.0, 100_000.0] {
            let start = Instant::now();
            let mut pacer = Pacer::new(rate, start);
            // It was late, and asks as often as it can.
            let mut now = start + Duration::from_secs(10);
            let mut sent = 0;
            while now < start + Duration::from_secs(11) {
                match pacer.take(now) {
                    Ok(()) => sent += 1,
                    Err(wait) => now += wait,
                }
            }
            let most = rate + 1.0 + rate / 100.0;
            assert!(f64::from(sent) <= most && f64::from(sent) >= rate.floor(), "{sent} at {rate}");
        }
    }

    #[test]
    fn the_lowest_rate_can_be_cut_and_the_highest_be_taken() {
        let now = Instant::now();
        // Nine tenths of the line's rate may be left as headroom.
        let mut pacer = Pacer::new(LINE_RATE_MIN / 10.0, now);
        pacer.throttled(now);
        let wait = pacer.take(now).expect_err("a new pace starts empty");
        assert!(wait <= Duration::from_secs(1_000), "{wait:?}");
        let _ = Pacer::new(LINE_RATE_MAX, now).take(now);
    }

    #[test]
    fn what_a_tick_of_the_timer_is_late_is_made_up_for() {
        for rate in [20.0, 80.0, 200.0, 1_000.0] {
            let start = Instant::now();
            let (mut pacer, mut now, mut sent) = (Pacer::new(rate, start), start, 0);
            while now < start + Duration::from_secs(100) {
                match pacer.take(now) {
                    Ok(()) => sent += 1,
                    Err(wait) => now += wait + Duration::from_millis(2),
                }
            }
            assert!(f64::from(sent) >= 0.999 * 100.0 * rate, "{sent} at {rate}");
        }
    }
}
