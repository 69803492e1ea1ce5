//! What is played, each in a file of its own: it sets up its stage, measures, and tells figures and plots.

pub mod bytes;
pub mod dispatch;
pub mod growth;
pub mod rates;
pub mod start;
pub mod upload;
pub mod webhooks;

use std::time::Duration;

use pregon::{domain::UnixMs, telemetry::clock};

use crate::error::LoadError;

/// Says on standard error what happens: standard output is for the report.
pub fn say(what: &str) {
    eprintln!("{what}");
}

/// Microseconds of `time` for each of `n`.
pub fn us_each(time: Duration, n: u64) -> f64 {
    time.as_secs_f64() * 1e6 / n as f64
}

/// Megabytes.
pub fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Now, as Meta counts it.
pub fn now_us() -> u64 {
    let UnixMs(now) = clock::now();
    now * 1_000
}

/// Everything must have been taken: a measurement of something else says nothing.
pub fn equal(what: &str, is: u64, wanted: u64) -> Result<(), LoadError> {
    match is == wanted {
        true => Ok(()),
        false => Err(LoadError::Failed(format!("{what}: {is} instead of {wanted}"))),
    }
}
