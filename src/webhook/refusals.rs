//! Webhooks that are refused because of their signature: counted, reported by readiness, and logged at most once a
//! minute. With a wrong app secret every webhook is refused, and nothing else shows that.
//!
//! If the process dies: a count that was not logged yet is lost.
//! Never: logs the body or the signature of a refused webhook.

use std::{
    mem,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::warn;

use crate::telemetry::{
    health::{Health, Warning},
    metrics::{self, RefusalReason},
};

/// Shortest interval between two log messages.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The refusals of one process.
pub(super) struct Refusals {
    health: Health,
    unlogged: Mutex<Unlogged>,
}

/// Refusals since the last log message.
#[derive(Default)]
struct Unlogged {
    warned_at: Option<Instant>,
    wrong_signature: u64,
    no_signature: u64,
}

impl Refusals {
    pub(super) fn new(health: Health) -> Self {
        Self { health, unlogged: Mutex::default() }
    }

    /// Records a webhook that is refused with 401.
    pub(super) fn refused(&self, reason: RefusalReason) {
        metrics::webhook_refused(reason, 1);
        self.health.warn(Warning::WebhooksRefused);
        let due = self.unlogged.lock().unwrap_or_else(PoisonError::into_inner).add(reason, Instant::now());
        let Some((wrong_signature, no_signature)) = due else { return };
        if wrong_signature > 0 {
            warn!(
                wrong_signature,
                no_signature,
                "webhooks are refused, so no status is counted: webhook.app_secret is probably not the secret of the \
                 Meta app that sends them; set it to the one in the app dashboard under App settings, Basic, and \
                 webhook.app_secret_previous to the former one during a rotation"
            );
        } else {
            warn!(
                no_signature,
                "webhooks without the header X-Hub-Signature-256 are refused: a proxy in front of http.listen removes \
                 it, or a sender other than Meta sends them"
            );
        }
    }

    /// Records a webhook with a valid signature.
    pub(super) fn accepted(&self) {
        self.health.clear_warning(Warning::WebhooksRefused);
    }
}

impl Unlogged {
    /// Counts a refusal. If a log message is due, returns the refusals since the last one: with a wrong signature,
    /// and without one.
    fn add(&mut self, reason: RefusalReason, now: Instant) -> Option<(u64, u64)> {
        match reason {
            RefusalReason::WrongSignature => self.wrong_signature += 1,
            RefusalReason::NoSignature => self.no_signature += 1,
        }
        if self.warned_at.is_some_and(|at| now.duration_since(at) < WARN_EVERY) {
            return None;
        }
        self.warned_at = Some(now);
        Some((mem::take(&mut self.wrong_signature), mem::take(&mut self.no_signature)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_logged_once_a_minute_with_their_count() {
        let (mut unlogged, start) = (Unlogged::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(unlogged.add(RefusalReason::WrongSignature, at(0)), Some((1, 0)), "the first at once");
        for second in 1..60 {
            assert_eq!(unlogged.add(RefusalReason::WrongSignature, at(second)), None);
        }
        assert_eq!(unlogged.add(RefusalReason::NoSignature, at(60)), Some((59, 1)));
        assert_eq!(unlogged.add(RefusalReason::NoSignature, at(61)), None);
        assert_eq!(unlogged.add(RefusalReason::WrongSignature, at(200)), Some((1, 1)));
    }
}
