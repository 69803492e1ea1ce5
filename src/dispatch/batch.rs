//! How many messages of a line go to Redis in one call, and when. Pure.
//!
//! A call costs much the same for one row as for some, and what was claimed and not sent when a worker is killed ends as unknown.

use std::time::{Duration, Instant};

/// Rows in one claim at most: a script call of this size takes Redis well below a millisecond.
pub const ROWS_MAX: usize = 256;

/// A claim takes what the line sends in this time.
const CLAIM_WINDOW: Duration = Duration::from_millis(50);

/// Outcomes wait this long for others, unless there are [`ROWS_MAX`] of them.
const SETTLE_WINDOW: Duration = Duration::from_millis(25);

/// A slow line claims and settles so many together, ...
const ROWS_TOGETHER: f64 = 4.0;

/// ... unless that takes longer than this.
const WINDOW_MAX: Duration = Duration::from_millis(200);

/// The lines of a thread ask together, once in this time: more than half of what a small call costs is its way, which they share.
const BEAT: Duration = Duration::from_millis(10);

/// Rows in one claim of a line that sends `rate` messages a second.
pub fn claim_rows(rate: f64) -> usize {
    let rows = rate * window(rate, CLAIM_WINDOW).as_secs_f64();
    (rows.round() as usize).clamp(1, ROWS_MAX)
}

/// Whether such a line, of which `ready` wait to be sent, may put a claim off to the next next_tick: the answer takes its time too.
pub fn can_wait(rate: f64, ready: usize) -> bool {
    ready as f64 >= rate * 2.0 * BEAT.as_secs_f64()
}

/// How long the outcomes of such a line gather; those of one settlement then wait for the next next_tick.
pub fn settle_window(rate: f64) -> Duration {
    window(rate, SETTLE_WINDOW)
}

/// Outcomes of such a line in one settlement.
pub fn settle_rows(rate: f64) -> f64 {
    (rate * (settle_window(rate) + BEAT / 2).as_secs_f64()).clamp(1.0, ROWS_MAX as f64)
}

/// The next next_tick from `at` on, of a thread that began at `from`.
pub fn next_tick(from: Instant, at: Instant) -> Instant {
    let beats = at.duration_since(from).as_nanos().div_ceil(BEAT.as_nanos());
    from + BEAT * u32::try_from(beats).unwrap_or(u32::MAX)
}

fn window(rate: f64, least: Duration) -> Duration {
    Duration::from_secs_f64((ROWS_TOGETHER / rate).min(WINDOW_MAX.as_secs_f64())).max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_line_claims_and_settles_some_together_unless_that_takes_long() {
        let of = |rate: f64| (claim_rows(rate), settle_window(rate).as_millis());
        assert_eq!([1.0, 20.0, 80.0].map(of), [(1, 200), (4, 200), (4, 50)]);
        assert_eq!([1_000.0, 1_000_000.0].map(of), [(50, 25), (ROWS_MAX, 25)]);
        assert_eq!(claim_rows(72.0), 4, "four take it a little more than 55 ms by the clock");
    }

    #[test]
    fn a_claim_waits_for_the_beat_while_there_is_enough_to_send() {
        assert!(can_wait(80.0, 3) && can_wait(1_000.0, 49));
        assert!(!can_wait(80.0, 1) && !can_wait(1_000_000.0, ROWS_MAX - 1), "it would have nothing to send");
    }

    #[test]
    fn lines_that_ask_at_different_times_ask_at_one_beat() {
        let from = Instant::now();
        let beat_after = |us: u64| next_tick(from, from + Duration::from_micros(us)).duration_since(from);
        assert_eq!([1, 4_321, 10_000].map(beat_after), [BEAT; 3]);
        assert_eq!((beat_after(0), beat_after(10_001)), (Duration::ZERO, BEAT * 2));
    }
}
