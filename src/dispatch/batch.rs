//! How many messages of a line go to Redis in one call. Pure.
//!
//! A call costs much the same for one row as for some, and what was claimed and not sent when a worker is killed ends as unknown.

use std::time::Duration;

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

/// Rows in one claim of a line that sends `rate` messages a second.
pub fn claim_rows(rate: f64) -> usize {
    let rows = rate * window(rate, CLAIM_WINDOW).as_secs_f64();
    (rows.ceil() as usize).clamp(1, ROWS_MAX)
}

/// How long the outcomes of such a line gather.
pub fn settle_window(rate: f64) -> Duration {
    window(rate, SETTLE_WINDOW)
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
    }
}
