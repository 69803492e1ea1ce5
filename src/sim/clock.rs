//! The clock of the simulator. Everything else in this folder gets the time from here, or as an argument. Only
//! connections and the timeouts of webhooks use real time.
//!
//! The clock runs with that of the machine. It can also be advanced: then the simulator does at once, in order,
//! everything that is due in that time.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::lock;
use crate::{domain::UnixMs, telemetry};

/// Counts the time since the simulator started.
pub(super) struct Clock {
    started: Instant,
    started_at: UnixMs,
    /// By how much the clock was advanced in total.
    advanced: watch::Sender<Duration>,
    sleepers: Sleepers,
}

/// When each task that sleeps will wake: time since the start → number of tasks.
#[derive(Default)]
struct Sleepers {
    by_due: Mutex<BTreeMap<Duration, usize>>,
    woke: Notify,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self {
            started: Instant::now(),
            started_at: telemetry::clock::now(),
            advanced: watch::Sender::new(Duration::ZERO),
            sleepers: Sleepers::default(),
        }
    }

    /// The time since the start. Monotonic.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed() + *self.advanced.borrow()
    }

    /// The Unix time at a time since the start.
    pub(super) fn unix(&self, since_start: Duration) -> UnixMs {
        self.started_at.after(since_start)
    }

    /// Resolves at a time since the start.
    pub(super) async fn sleep_until(&self, since_start: Duration) {
        let mut advanced = self.advanced.subscribe();
        let _sleeper = self.sleepers.add(since_start);
        loop {
            let left = since_start.saturating_sub(*advanced.borrow_and_update());
            tokio::select! {
                () = tokio::time::sleep_until(self.started + left) => return,
                // The sender lives as long as `self`, so this is never an error.
                _ = advanced.changed() => {}
            }
        }
    }

    /// When the next task wakes, in time since the start; `None` if none sleeps.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.sleepers.next()
    }

    /// Advances the clock by `by`, beside the time that passes meanwhile. Stops at each time at which a task wakes, until
    /// that task has run.
    pub(super) async fn advance(&self, by: Duration) {
        let mut left = by;
        loop {
            let now = self.now();
            let step = self.next_due().map_or(left, |due| due.saturating_sub(now).min(left));
            self.advanced.send_modify(|advanced| *advanced += step);
            self.sleepers.awake_until(now + step).await;
            left -= step;
            if left.is_zero() {
                return;
            }
        }
    }
}

impl Sleepers {
    fn add(&self, due: Duration) -> Sleeper<'_> {
        *lock(&self.by_due).entry(due).or_default() += 1;
        Sleeper { sleepers: self, due }
    }

    fn next(&self) -> Option<Duration> {
        lock(&self.by_due).first_key_value().map(|(due, _)| *due)
    }

    /// Resolves when no task sleeps until this time or an earlier one.
    async fn awake_until(&self, time: Duration) {
        loop {
            let mut woke = std::pin::pin!(self.woke.notified());
            // Register before reading, so that a notification between the two is not missed.
            woke.as_mut().enable();
            if self.next().is_none_or(|due| due > time) {
                return;
            }
            woke.await;
        }
    }
}

/// A task that sleeps.
struct Sleeper<'c> {
    sleepers: &'c Sleepers,
    due: Duration,
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        let mut by_due = lock(&self.sleepers.by_due);
        if let Some(sleeping) = by_due.get_mut(&self.due) {
            *sleeping -= 1;
            if *sleeping == 0 {
                by_due.remove(&self.due);
            }
        }
        drop(by_due);
        self.sleepers.woke.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[tokio::test(start_paused = true)]
    async fn an_advance_wakes_all_that_is_due_in_order_and_nothing_else() {
        let (clock, woken) = (Arc::new(Clock::start()), Arc::new(Mutex::new(Vec::new())));
        for hours in [5, 2, 30, 3, 3] {
            let (clock, woken) = (clock.clone(), woken.clone());
            tokio::spawn(async move {
                clock.sleep_until(HOUR * hours).await;
                lock(&woken).push((hours, clock.now()));
            });
        }
        tokio::task::yield_now().await;
        assert_eq!(clock.next_due(), Some(2 * HOUR));
        clock.advance(24 * HOUR).await;
        tokio::task::yield_now().await;
        assert_eq!(*lock(&woken), [2, 3, 3, 5].map(|hours| (hours, HOUR * hours)));
        assert_eq!((clock.now(), clock.next_due()), (24 * HOUR, Some(30 * HOUR)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_advance_wakes_can_sleep_again_within_it() {
        let clock = Arc::new(Clock::start());
        let sleeper = clock.clone();
        let hourly = tokio::spawn(async move {
            for hour in 1..=3 {
                sleeper.sleep_until(HOUR * hour).await;
            }
            sleeper.now()
        });
        tokio::task::yield_now().await;
        clock.advance(10 * HOUR).await;
        assert!(hourly.await.expect("no panic") >= 3 * HOUR);
        assert_eq!(clock.now(), 10 * HOUR);
    }
    #[tokio::test(start_paused = true)]
    async fn the_time_that_an_advance_takes_is_not_lost() {
        let took = Duration::from_secs(2);
        let clock = Arc::new(Clock::start());
        let sleeper = clock.clone();
        let slow = tokio::spawn(async move {
            sleeper.sleep_until(HOUR).await;
            tokio::time::advance(took).await;
            sleeper.sleep_until(2 * HOUR).await;
        });
        tokio::task::yield_now().await;
        clock.advance(10 * HOUR).await;
        slow.await.expect("no panic");
        assert_eq!(clock.now(), 10 * HOUR + took);
    }
}
