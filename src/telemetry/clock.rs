//! The only module that reads the wall clock. All other code receives `now` as an argument, so that tests control it.

use std::time::{Duration, SystemTime};

use crate::domain::UnixMs;

/// The current time by this machine's clock; 0 if the clock is before 1970.
pub fn now() -> UnixMs {
    UnixMs(0).after(since_1970())
}

/// The current time by this machine's clock, in microseconds since 1970: for measurements.
pub fn now_us() -> u64 {
    u64::try_from(since_1970().as_micros()).unwrap_or(u64::MAX)
}

fn since_1970() -> Duration {
    system_time().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The current time by this machine's clock, with its whole precision: for spans, which are shorter than a millisecond.
pub fn system_time() -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "the lint refers to this module")]
    SystemTime::now()
}
