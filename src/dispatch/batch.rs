//! Batch sizes: how many messages of a line go to Redis in one call, and when. Pure.
//!
//! Larger batches cost less, because a call for a few rows costs about as much as one for a single row. Smaller batches
//! lose less: if a worker is killed, the rows that it had claimed and not sent are in doubt.

use std::time::{Duration, Instant};

/// Maximum number of rows in one claim. A script call of this size takes Redis well below a millisecond.
pub const ROWS_MAX: usize = 256;

/// A claim takes as many rows as the line sends in this time.
const CLAIM_WINDOW: Duration = Duration::from_millis(50);

/// Outcomes wait this long to be settled together, unless [`ROWS_MAX`] of them wait.
const SETTLE_WINDOW: Duration = Duration::from_millis(25);

/// Rows that a slow line claims and settles together, unless that takes longer than [`WINDOW_MAX`].
const ROWS_MIN: f64 = 4.0;

/// Longest window in which a slow line gathers rows.
const WINDOW_MAX: Duration = Duration::from_millis(200);

/// Interval at which the lines of a shard call Redis together. They share one round trip, which is more than half the
/// cost of a small call.
const TICK: Duration = Duration::from_millis(10);

/// Rows in one claim of a line that sends `rate` messages per second.
pub fn claim_rows(rate: f64) -> usize {
    let rows = rate * window(rate, CLAIM_WINDOW).as_secs_f64();
    (rows.round() as usize).clamp(1, ROWS_MAX)
}

/// Whether a line with `ready` messages left to send may put its next claim off to the next tick. The messages have
/// to last for two ticks, because the answer takes time too.
pub fn can_wait(rate: f64, ready: usize) -> bool {
    ready as f64 >= rate * 2.0 * TICK.as_secs_f64()
}

/// How long a line gathers outcomes. After this window they wait for the next tick.
pub fn settle_window(rate: f64) -> Duration {
    window(rate, SETTLE_WINDOW)
}

/// Mean number of outcomes in one settlement: those of the window, and of half a tick on average.
pub fn settle_rows(rate: f64) -> f64 {
    (rate * (settle_window(rate) + TICK / 2).as_secs_f64()).clamp(1.0, ROWS_MAX as f64)
}

/// The first tick at or after `at`, of a shard that started at `from`.
pub fn next_tick(from: Instant, at: Instant) -> Instant {
    let ticks = at.duration_since(from).as_nanos().div_ceil(TICK.as_nanos());
    from + TICK * u32::try_from(ticks).unwrap_or(u32::MAX)
}

fn window(rate: f64, least: Duration) -> Duration {
    Duration::from_secs_f64((ROWS_MIN / rate).min(WINDOW_MAX.as_secs_f64())).max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_line_gathers_a_few_rows_within_the_longest_window() {
        let of = |rate: f64| (claim_rows(rate), settle_window(rate).as_millis());
        assert_eq!([1.0, 20.0, 80.0].map(of), [(1, 200), (4, 200), (4, 50)]);
        assert_eq!([1_000.0, 1_000_000.0].map(of), [(50, 25), (ROWS_MAX, 25)]);
        assert_eq!(claim_rows(72.0), 4, "the line sends four in a little more than 55 ms");
    }

    #[test]
    fn a_claim_waits_for_the_tick_while_two_ticks_of_messages_are_left() {
        assert!(can_wait(80.0, 3) && can_wait(1_000.0, 49));
        assert!(!can_wait(80.0, 1) && !can_wait(1_000_000.0, ROWS_MAX - 1), "the line would run out of messages");
    }

    #[test]
    fn calls_at_different_times_fall_on_one_tick() {
        let from = Instant::now();
        let tick_after = |us: u64| next_tick(from, from + Duration::from_micros(us)).duration_since(from);
        assert_eq!([1, 4_321, 10_000].map(tick_after), [TICK; 3]);
        assert_eq!((tick_after(0), tick_after(10_001)), (Duration::ZERO, TICK * 2));
    }
}
