//! Duties: tasks that only one worker of an installation does at a time, such as reading the stream of jobs.
//!
//! If the worker dies: its lease expires, and another worker takes over the duty. The work may have been interrupted
//! at any point, so it must be safe to repeat.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Store, lines::LeaseTarget};

/// Upper limit of the wait after the first failure in a row.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Upper limit of any wait.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Exponential backoff with full jitter: a random wait below a limit that doubles with each of `failures` in a row.
/// The jitter keeps workers from retrying all at once after an outage of Redis.
pub fn backoff(failures: u32) -> Duration {
    let limit = BACKOFF_FIRST.saturating_mul(1 << failures.clamp(1, 16).saturating_sub(1)).min(BACKOFF_MAX);
    limit.mul_f64(rand::random())
}

/// Why a worker lost a duty.
#[derive(Clone, Copy)]
enum Loss {
    /// Redis did not answer, so the lease could not be renewed in time.
    Outage,
    /// Redis answered: the lease had ended, because this worker was late, or another one has it.
    Lease,
}

impl Store {
    /// Runs `work` whenever this worker has the lease on `duty`, with its epoch, until `stop` is cancelled. `work` has to return soon
    /// after `stop`. If the lease can't be renewed in time, its future is dropped, at any await point.
    pub async fn on_duty<F: Future<Output = ()>>(
        &self,
        duty: &str,
        worker: &str,
        lease: Duration,
        stop: &CancellationToken,
        work: impl Fn(u64) -> F,
    ) {
        let target = LeaseTarget::Duty(duty.to_owned());
        let mut failures = 0;
        while !stop.is_cancelled() {
            let asked_at = Instant::now();
            let wait = match self.acquire(&[(target.clone(), None)], worker, lease).await {
                Ok(epochs) => {
                    failures = 0;
                    if let [Some(epoch)] = epochs.as_slice() {
                        info!(duty, "duty acquired");
                        tokio::select! {
                            // The lease is checked first, so that a worker which was suspended until after the end of
                            // its lease does not go on.
                            biased;
                            loss = self.keep_lease(&target, worker, *epoch, lease, asked_at) => match loss {
                                // That Redis was away is logged for the whole process.
                                Loss::Outage => info!(duty, "duty lost while redis was away"),
                                Loss::Lease => warn!(duty, "duty lost"),
                            },
                            () = work(*epoch) => self.release_duty(duty, worker, *epoch).await,
                        }
                    }
                    lease / 4
                }
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        error.report(&format!("the lease on the duty {duty} can't be acquired"));
                    }
                    backoff(failures)
                }
            };
            stop.run_until_cancelled(sleep(wait)).await;
        }
    }

    async fn release_duty(&self, duty: &str, worker: &str, epoch: u64) {
        if let Err(error) = self.release(&LeaseTarget::Duty(duty.to_owned()), worker, epoch).await {
            debug!(duty, %error, "lease not released: it will expire");
        }
    }

    /// Renews a lease that was requested at `asked_at`. Returns when the lease is lost or ends.
    async fn keep_lease(
        &self,
        target: &LeaseTarget,
        worker: &str,
        epoch: u64,
        lease: Duration,
        asked_at: Instant,
    ) -> Loss {
        // Until the first renewal fails.
        let mut loss = Loss::Lease;
        let mut end = asked_at + lease;
        let mut next = asked_at + lease / 3;
        loop {
            sleep_until(next.min(end)).await;
            let asked_at = Instant::now();
            let targets = [(target.clone(), Some(epoch))];
            match timeout_at(end, self.acquire(&targets, worker, lease)).await {
                Ok(Ok(epochs)) if epochs == [Some(epoch)] => (end, loss) = (asked_at + lease, Loss::Lease),
                // Redis may be back before the lease ends.
                Ok(Err(_)) if asked_at < end => loss = Loss::Outage,
                Err(_) if asked_at < end => return Loss::Outage,
                Ok(_) | Err(_) => return loss,
            }
            next = asked_at + lease / 3;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_doubles_with_each_failure_up_to_a_limit() {
        for (failures, limit_ms) in [(0, 100), (1, 100), (2, 200), (3, 400), (6, 3_200), (7, 5_000), (40, 5_000)] {
            for _ in 0..50 {
                assert!(backoff(failures) <= Duration::from_millis(limit_ms), "{failures}");
            }
        }
    }
}
