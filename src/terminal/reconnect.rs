//! How a command that follows something on a server reconnects.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::client::ClientError;

/// Wait before a reconnect if the last connection delivered something new. Doubles while connections deliver nothing.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// The longest wait before a reconnect.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Transient errors are retried for this long after the server was last heard: longer than any restart takes.
const GIVE_UP_AFTER: Duration = Duration::from_secs(300);

/// Decides when to reconnect and when to give up.
#[derive(Debug)]
pub struct Reconnect {
    backoff: Duration,
    /// When the server was last connected.
    heard_at: Option<Instant>,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self { backoff: BACKOFF_MIN, heard_at: None }
    }
}

impl Reconnect {
    /// Records that the server answered, or that a connection to it existed until now.
    pub fn heard(&mut self) {
        self.heard_at = Some(Instant::now());
    }

    /// Whether to reconnect after `error`: it is transient, and the server was heard in the last five minutes.
    pub fn can_follow(&self, error: &ClientError) -> bool {
        error.is_transient() && self.heard_at.is_some_and(|at| at.elapsed() < GIVE_UP_AFTER)
    }

    /// Waits before the next connection. `has_progressed`: whether the last one delivered something new.
    pub async fn wait(&mut self, has_progressed: bool) {
        self.backoff = if has_progressed { BACKOFF_MIN } else { BACKOFF_MAX.min(self.backoff * 2) };
        sleep(self.backoff).await;
    }
}
