//! The time of Redis, without a request for each reading.
//!
//! All workers compare due times with this clock, so the clocks of their machines may differ or be changed. Between two
//! readings of Redis, this clock advances with the machine's monotonic clock.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use super::{Result, Store};
use crate::domain::UnixMs;

/// A clock that follows the time of Redis.
#[derive(Debug)]
pub struct Clock {
    started_at: Instant,
    /// The time of Redis at `started_at`, in Unix ms.
    base_ms: AtomicU64,
}

impl Clock {
    /// Starts a clock with a first reading of Redis.
    pub async fn start(store: &Store) -> Result<Self> {
        let clock = Self { started_at: Instant::now(), base_ms: AtomicU64::new(0) };
        clock.adjust(store).await?;
        Ok(clock)
    }

    /// Reads the time of Redis again and corrects this clock.
    pub async fn adjust(&self, store: &Store) -> Result<()> {
        let asked = self.started_at.elapsed();
        let time = store.time().await?;
        // Redis read its clock at some moment between the request and now: assume the middle.
        let middle = (asked + self.started_at.elapsed()) / 2;
        self.base_ms.store(time.0.saturating_sub(middle.as_millis() as u64), Ordering::Relaxed);
        Ok(())
    }

    /// The current time.
    pub fn now(&self) -> UnixMs {
        UnixMs(self.base_ms.load(Ordering::Relaxed)).after(self.started_at.elapsed())
    }
}
