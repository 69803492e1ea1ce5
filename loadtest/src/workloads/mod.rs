//! The workloads, one per file. A workload starts its stage, measures, and returns figures and plots.

pub mod alternation;
pub mod bytes;
pub mod dispatch;
pub mod feed;
pub mod frequency_cap;
pub mod growth;
pub mod inbound;
pub mod latency;
pub mod offer;
pub mod ramp;
pub mod rates;
pub mod start;
pub mod suppression;
pub mod upload;
pub mod webhooks;

use std::time::Duration;

use crate::error::LoadError;

/// Prints progress to standard error, because standard output is for the report.
pub fn progress(what: &str) {
    eprintln!("{what}");
}

/// `time` divided by `n`, in microseconds.
pub fn us_each(time: Duration, n: u64) -> f64 {
    time.as_secs_f64() * 1e6 / n as f64
}

/// Bytes in megabytes.
pub fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Fails unless `actual` equals `expected`. A run that did not process everything has no valid figures.
pub fn check_equal(what: &str, actual: u64, expected: u64) -> Result<(), LoadError> {
    match actual == expected {
        true => Ok(()),
        false => Err(LoadError::Failed(format!("{what}: {actual} instead of {expected}"))),
    }
}
