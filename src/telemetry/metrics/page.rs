//! The page of `/metrics`: the series of the recorder, and those of the lines and duties that the process has at the
//! moment.

use std::time::Instant;

use metrics_exporter_prometheus::PrometheusHandle;

use super::{
    duties,
    housekeeping::HousekeepingMetrics,
    lines::OwnedLines,
    series::{NOT_READY, READY, STOP_GRACE_LEFT},
    text::MetricsText,
};
use crate::telemetry::health::{Health, NotReady};

/// The sources of the page.
#[derive(Clone)]
pub struct MetricsPage {
    /// The series that last as long as the process.
    pub recorder: PrometheusHandle,
    /// The lines that this process serves.
    pub lines: OwnedLines,
    /// The values that housekeeping has read, while this process has that duty.
    pub housekeeping: HousekeepingMetrics,
    /// Whether this process is ready.
    pub health: Health,
}

impl MetricsPage {
    /// The page now, in the text format of Prometheus.
    pub fn render(&self) -> String {
        let (mut text, now) = (MetricsText::new(self.recorder.render()), Instant::now());
        self.lines.write(&mut text, now);
        self.housekeeping.write(&mut text, now);
        duties::write(&mut text, now);
        let reasons = self.health.reasons();
        text.add(READY, [([], u8::from(reasons.is_empty()))]);
        text.add(NOT_READY, NotReady::ALL.map(|reason| ([reason.name()], u8::from(reasons.contains(&reason)))));
        let grace = self.health.stops_by().map(|at| at.saturating_duration_since(now).as_secs_f64());
        text.add(STOP_GRACE_LEFT, grace.map(|left| ([], left)));
        text.into_string()
    }
}
