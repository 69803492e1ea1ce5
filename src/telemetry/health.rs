//! Shared flags: whether a process is ready for work, and its warnings. Other tasks set them; this module performs no
//! checks.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    time::Instant,
};

use serde::Serialize;

/// Why a process is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum NotReady {
    /// Redis does not answer.
    Redis = 1,
    /// The leases on lines could not be acquired or renewed.
    Leases = 2,
    /// The process is stopping.
    Stopping = 4,
    /// A core task ended: the process stops, and has to be restarted.
    Failed = 8,
}

impl NotReady {
    /// Every reason.
    pub const ALL: [NotReady; 4] = [NotReady::Redis, NotReady::Leases, NotReady::Stopping, NotReady::Failed];

    /// Its name, as `/readyz` shows it.
    pub fn name(self) -> &'static str {
        match self {
            NotReady::Redis => "redis",
            NotReady::Leases => "leases",
            NotReady::Stopping => "stopping",
            NotReady::Failed => "failed",
        }
    }
}

/// A problem that an operator should look at. The process is still ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Warning {
    /// The last webhook was refused for its signature: the app secret may be wrong.
    WebhooksRefused = 1,
    /// Redis uses more of its memory than `intake.memory_share_max`: recipients are refused.
    RedisFull = 2,
}

impl Warning {
    const ALL: [Warning; 2] = [Warning::WebhooksRefused, Warning::RedisFull];
}

/// The health of a process. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Bits>);

/// One bit for each reason and for each warning, and the end of a stop.
#[derive(Debug, Default)]
struct Bits {
    reasons: AtomicU8,
    warnings: AtomicU8,
    stops_by: OnceLock<Instant>,
}

impl Health {
    /// A process that is not ready until each of `reasons` is cleared by [`Health::clear`].
    pub fn starting(reasons: &[NotReady]) -> Self {
        let health = Self::default();
        reasons.iter().for_each(|reason| health.set(*reason));
        health
    }

    /// Makes the process not ready for `reason`.
    pub fn set(&self, reason: NotReady) {
        self.0.reasons.fetch_or(reason as u8, Ordering::Relaxed);
    }

    /// Removes `reason`.
    pub fn clear(&self, reason: NotReady) {
        self.0.reasons.fetch_and(!(reason as u8), Ordering::Relaxed);
    }

    /// Why the process is not ready; empty if it is ready.
    pub fn reasons(&self) -> Vec<NotReady> {
        let bits = self.0.reasons.load(Ordering::Relaxed);
        NotReady::ALL.into_iter().filter(|reason| bits & *reason as u8 != 0).collect()
    }

    /// Sets the deadline of the stop in progress. Later calls change nothing.
    pub fn set_stops_by(&self, at: Instant) {
        let _ = self.0.stops_by.set(at);
    }

    /// The deadline of the stop in progress; `None` if the process is not stopping.
    pub fn stops_by(&self) -> Option<Instant> {
        self.0.stops_by.get().copied()
    }

    /// Sets `warning`.
    pub fn warn(&self, warning: Warning) {
        self.0.warnings.fetch_or(warning as u8, Ordering::Relaxed);
    }

    /// Removes `warning`. If it is not set, this only reads the flag.
    pub fn clear_warning(&self, warning: Warning) {
        if self.0.warnings.load(Ordering::Relaxed) & warning as u8 != 0 {
            self.0.warnings.fetch_and(!(warning as u8), Ordering::Relaxed);
        }
    }

    /// The warnings that are set.
    pub fn warnings(&self) -> Vec<Warning> {
        let bits = self.0.warnings.load(Ordering::Relaxed);
        Warning::ALL.into_iter().filter(|warning| bits & *warning as u8 != 0).collect()
    }
}
