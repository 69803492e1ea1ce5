//! Webhooks that cannot be processed, as episodes for the log: one line when they begin to fail, and one when they have
//! ended.
//!
//! A full Redis, or one inbound stream that is full, fails some webhooks and not others. So an episode has only ended
//! once no webhook has failed for a while.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// How long no webhook has to fail before the episode counts as ended.
const QUIET: Duration = Duration::from_secs(30);

/// The failures of one process.
#[derive(Default)]
pub(super) struct Failures {
    /// Whether `last` is set, so that a success usually costs one read.
    is_failing: AtomicBool,
    /// The last failure of the present episode.
    last: Mutex<Option<Instant>>,
}

impl Failures {
    /// Records a webhook that could not be processed. Returns whether an episode begins with it.
    pub(super) fn failed(&self, now: Instant) -> bool {
        let begins = self.last.lock().unwrap_or_else(PoisonError::into_inner).replace(now).is_none();
        self.is_failing.store(true, Ordering::Relaxed);
        begins
    }

    /// Records a webhook that was processed. Returns whether an episode has ended.
    pub(super) fn succeeded(&self, now: Instant) -> bool {
        if !self.is_failing.load(Ordering::Relaxed) {
            return false;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let has_ended = last.take_if(|last| now.duration_since(*last) >= QUIET).is_some();
        if has_ended {
            self.is_failing.store(false, Ordering::Relaxed);
        }
        has_ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_between_successes_are_one_episode() {
        let (failures, start) = (Failures::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!failures.succeeded(at(0)), "nothing has failed");
        assert!(failures.failed(at(1)));
        for second in 2..60 {
            assert!(!failures.succeeded(at(second)) && !failures.failed(at(second)), "{second}");
        }
        assert!(!failures.succeeded(at(88)));
        assert!(failures.succeeded(at(89)), "30 s without a failure");
        assert!(!failures.succeeded(at(90)));
        assert!(failures.failed(at(91)), "another one");
    }
}
