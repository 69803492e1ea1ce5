//! The clock of the simulator. Everything else in this folder gets the time from here, or as an argument. Only
//! connections and the timeouts of webhooks use real time.

use std::time::Duration;

use tokio::time::Instant;

use crate::{domain::UnixMs, telemetry};

/// Counts the time since the simulator started.
pub(super) struct Clock {
    started: Instant,
    started_at: UnixMs,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { started: Instant::now(), started_at: telemetry::clock::now() }
    }

    /// The time since the start. Monotonic.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The Unix time at a time since the start.
    pub(super) fn unix(&self, since_start: Duration) -> UnixMs {
        self.started_at.after(since_start)
    }

    /// Resolves at a time since the start.
    pub(super) async fn sleep_until(&self, since_start: Duration) {
        tokio::time::sleep_until(self.started + since_start).await;
    }
}
