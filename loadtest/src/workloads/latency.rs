//! Latency: how long after they are due messages are on the wire, at a constant load.
//!
//! What is counted: [`super::offer`].

use std::time::Duration;

use super::{offer::offer, progress};
use crate::{
    error::LoadError,
    plot::{Plot, Series},
    report::{Findings, format_value},
    under_test::UnderTest,
};

/// Runs the workload.
pub(crate) async fn run(
    to: &mut impl UnderTest,
    per_second: f64,
    warm_up: Duration,
    duration: Duration,
) -> Result<Findings, LoadError> {
    let offered = offer(to, per_second, warm_up, duration).await?;
    progress(&format!("{} of {per_second} messages per second arrived", format_value(offered.achieved)));
    let mut findings = Findings::default();
    findings.one("offered_per_second", "", offered.per_second);
    findings.one("achieved_per_second", "", offered.achieved);
    findings.one("achieved_percent", "", offered.achieved_percent());
    findings.one("first_ms", "", offered.first_ms);
    for (name, quantile) in [("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99), ("p999_ms", 0.999), ("max_ms", 1.0)] {
        findings.one(name, "", offered.late_ms(quantile));
    }
    for (name, cores) in offered.cores() {
        findings.one(name, "", cores);
    }
    findings.plots.push(Plot::latency(vec![Series::quantiles("from due to the wire", &offered.late)]));
    Ok(findings)
}
