//! Keeps the private server of `redis.url` or `database.url = "spawn:DIR"` running: starts it again when it has died, and
//! stops it last.
//!
//! If the server dies: the process goes on as in any outage of Redis or PostgreSQL.
//! If this process dies: the server stops too ([`crate::private_server`]).
//! Never: starts the server again once the stop of the process has begun.

use std::{io, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{error, info, warn};

use crate::private_server::{Kept, last_line};

/// Wait before the first start. It doubles with each death or failed start in a row.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Upper limit of the wait.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A server that has run for this long did not die at its start: the waits begin anew.
const STEADY_AFTER: Duration = Duration::from_secs(60);

/// The task that keeps the server running. Dropping this stops the server too, without waiting for its end.
pub(super) struct Keeper {
    stop: DropGuard,
    task: JoinHandle<io::Result<()>>,
}

impl Keeper {
    /// Keeps `server` running. Does not start it again after `stopping`.
    pub(super) fn start<S: Kept>(server: S, stopping: CancellationToken) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(keep(server, stopping, stop.clone()));
        Self { stop: stop.drop_guard(), task }
    }

    /// Stops the server cleanly.
    ///
    /// Errors: waiting for its process failed.
    pub(super) async fn end(self) -> io::Result<()> {
        drop(self.stop);
        self.task.await?
    }
}

async fn keep<S: Kept>(server: S, stopping: CancellationToken, stop: CancellationToken) -> io::Result<()> {
    let (mut server, mut location) = server.into_parts();
    let mut failures = 0;
    loop {
        let began = Instant::now();
        let ended = tokio::select! {
            ended = server.ended() => ended?,
            () = stop.cancelled() => return server.stop().await,
        };
        let died_at = Instant::now();
        if died_at - began >= STEADY_AFTER {
            failures = 0;
        }
        let log = S::log(&location);
        error!(%ended, log = %log.display(), last_line = last_line(&log), "the private {} died", S::NAME);
        let Some(started) = stopping.run_until_cancelled(start_again::<S>(&location, &mut failures)).await else {
            return Ok(());
        };
        (server, location) = started.into_parts();
        let away_ms = died_at.elapsed().as_millis() as u64;
        info!(away_ms, pid = server.pid(), "the private {} runs again", S::NAME);
    }
}

/// Starts the server after a wait, until that succeeds.
async fn start_again<S: Kept>(location: &S::Location, failures: &mut u32) -> S {
    loop {
        sleep(backoff(*failures)).await;
        *failures += 1;
        match S::start_at(location).await {
            Ok(server) => return server,
            Err(error) => {
                let retry_ms = backoff(*failures).as_millis() as u64;
                warn!(%error, retry_ms, "the private {} could not be started again", S::NAME);
            }
        }
    }
}

fn backoff(failures: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(1 << failures.min(16)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_half_a_minute() {
        assert_eq!(
            [0, 1, 2, 8, 9, 40].map(|failures| backoff(failures).as_millis()),
            [100, 200, 400, 25_600, 30_000, 30_000]
        );
    }
}
