//! What the log says of a line that sends: messages in doubt, and throttling by Meta.
//!
//! Never: writes a line for each message.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::domain::LineId;

/// How often doubts of one line are logged.
const DOUBTS_EVERY: Duration = Duration::from_secs(60);

/// What was logged of a line.
#[derive(Debug, Default)]
pub(super) struct LineLog {
    /// Messages that came in doubt since the last line about them.
    doubts: u64,
    doubts_logged_at: Option<Instant>,
    is_throttled: bool,
}

impl LineLog {
    /// Counts a message in doubt. Logs the first one, and then how many there were, at most once a minute.
    pub(super) fn doubt(&mut self, line: &LineId, cause: &str, now: Instant) {
        self.doubts += 1;
        if self.doubts_logged_at.is_some_and(|at| now.duration_since(at) < DOUBTS_EVERY) {
            return;
        }
        warn!(
            line.id = %line, n = self.doubts, cause,
            "messages are in doubt: they were written, and no answer of Meta came"
        );
        (self.doubts, self.doubts_logged_at) = (0, Some(now));
    }

    /// Logs that the rate of the line was cut, and that it is whole again. `rate`: the present one.
    pub(super) fn throttled(&mut self, line: &LineId, is_throttled: bool, rate: f64) {
        if self.is_throttled == is_throttled {
            return;
        }
        self.is_throttled = is_throttled;
        if is_throttled {
            warn!(line.id = %line, rate, "Meta throttles the line: its rate is cut");
        } else {
            info!(line.id = %line, rate, "the line has its full rate again");
        }
    }
}
