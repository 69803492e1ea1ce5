//! Webhooks that are refused because they are not signed with our app secret: counted, shown in readiness, and logged at
//! most once a minute. A wrong app secret refuses every webhook, and nothing else tells of it.
//!
//! If the process dies: a count that was not logged yet is lost.
//! Never: reads the body of a refused webhook, or repeats its signature.

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

/// How often refusals are logged at most.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The refusals of one process.
pub(super) struct Refusals {
    health: Health,
    unlogged: Mutex<Unlogged>,
}

/// What was refused since the last warning.
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

    /// A webhook was refused with 401.
    pub(super) fn refused(&self, reason: RefusalReason) {
        metrics::webhook_refused(reason, 1);
        self.health.warn(Warning::WebhooksRefused);
        let due = self.unlogged.lock().unwrap_or_else(PoisonError::into_inner).add(reason, Instant::now());
        let Some((wrong_signature, no_signature)) = due else { return };
        if wrong_signature > 0 {
            warn!(
                wrong_signature,
                no_signature,
                "webhooks are refused, so that no status counts: webhook.app_secret is probably not the secret of the \
                 Meta app that sends them; set it to the one in the app dashboard under App settings, Basic, and \
                 webhook.app_secret_previous to the former one while it changes"
            );
        } else {
            warn!(
                no_signature,
                "webhooks without the header X-Hub-Signature-256 are refused: a proxy in front of http.listen removes \
                 it, or somebody other than Meta sends them"
            );
        }
    }

    /// A webhook was signed well.
    pub(super) fn accepted(&self) {
        self.health.calm(Warning::WebhooksRefused);
    }
}

impl Unlogged {
    /// Counts a refusal. Gives how many there were, with a wrong signature and without one, if it is time to log them.
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
