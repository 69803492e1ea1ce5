//! Duties: what one worker of an installation does at a time, such as reading the stream of jobs.
//!
//! If the worker dies: its lease ends by itself, and another one takes the duty up. What it was doing may have been cut
//! anywhere, so the work of a duty is such that it can be done again.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Store, lines::Right};

/// The longest wait after the first failure in a row.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest wait after any.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How long to wait after `failures` in a row, at least one: a random time below a limit that doubles with each. So
/// workers that lost the same Redis do not come back at the same moment.
pub fn backoff(failures: u32) -> Duration {
    let limit = BACKOFF_FIRST.saturating_mul(1 << failures.clamp(1, 16).saturating_sub(1)).min(BACKOFF_MAX);
    limit.mul_f64(rand::random())
}

impl Store {
    /// Does `work` whenever this worker has the lease on `duty`, until `stop` is cancelled. `work` ends by itself soon
    /// after `stop`; it is dropped where it stands if the lease can't be renewed in time.
    pub async fn on_duty<F: Future<Output = ()>>(
        &self,
        duty: &'static str,
        worker: &str,
        lease: Duration,
        stop: &CancellationToken,
        work: impl Fn() -> F,
    ) {
        let right = Right::Duty(duty);
        let mut failures = 0;
        while !stop.is_cancelled() {
            let asked = Instant::now();
            let wait = match self.acquire(&[(right.clone(), 0)], worker, lease).await {
                Ok(epochs) => {
                    failures = 0;
                    if let [Some(epoch)] = epochs.as_slice() {
                        info!(duty, "duty taken up");
                        tokio::select! {
                            // First, so that a worker which slept past the end of its lease does not go on.
                            biased;
                            () = self.keep_lease(&right, worker, *epoch, lease, asked) => warn!(duty, "duty lost"),
                            () = work() => self.lay_down(&right, worker, *epoch).await,
                        }
                    }
                    lease / 4
                }
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        warn!(duty, %error, "duty can't be taken up");
                    }
                    backoff(failures)
                }
            };
            stop.run_until_cancelled(sleep(wait)).await;
        }
    }

    async fn lay_down(&self, right: &Right, worker: &str, epoch: u64) {
        if let Err(error) = self.release(right, worker, epoch).await {
            debug!(?right, %error, "lease not given back: it ends by itself");
        }
    }

    /// Renews a lease that was asked for at `asked`. Returns when it is lost, or about to end.
    async fn keep_lease(&self, right: &Right, worker: &str, epoch: u64, lease: Duration, asked: Instant) {
        let mut end = asked + lease;
        let mut next = asked + lease / 3;
        loop {
            sleep_until(next.min(end)).await;
            let asked = Instant::now();
            let rights = [(right.clone(), epoch)];
            match timeout_at(end, self.acquire(&rights, worker, lease)).await {
                Ok(Ok(epochs)) if epochs == [Some(epoch)] => end = asked + lease,
                // Redis is away: perhaps it is back before the lease ends.
                Ok(Err(_)) if asked < end => {}
                Ok(_) | Err(_) => return,
            }
            next = asked + lease / 3;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_with_each_failure_up_to_a_limit() {
        for (failures, limit_ms) in [(0, 100), (1, 100), (2, 200), (3, 400), (6, 3_200), (7, 5_000), (40, 5_000)] {
            for _ in 0..50 {
                assert!(backoff(failures) <= Duration::from_millis(limit_ms), "{failures}");
            }
        }
    }
}
