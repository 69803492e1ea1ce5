//! Redis' time, without asking for it each time.
//!
//! All workers use this one clock for what is due, so that clocks which differ or are set do not matter: between two
//! readings it runs on this machine's monotonic clock.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use super::{Result, Store};
use crate::domain::UnixMs;

/// A clock that follows Redis.
#[derive(Debug)]
pub struct Clock {
    born: Instant,
    /// Redis' time at `born`, in ms.
    base_ms: AtomicU64,
}

impl Clock {
    /// Reads Redis' time.
    pub async fn start(store: &Store) -> Result<Self> {
        let clock = Self { born: Instant::now(), base_ms: AtomicU64::new(0) };
        clock.adjust(store).await?;
        Ok(clock)
    }

    /// Reads Redis' time again.
    pub async fn adjust(&self, store: &Store) -> Result<()> {
        let asked = self.born.elapsed();
        let time = store.time().await?;
        // The answer is from some moment between the question and now: take the middle.
        let middle = (asked + self.born.elapsed()) / 2;
        self.base_ms.store(time.0.saturating_sub(middle.as_millis() as u64), Ordering::Relaxed);
        Ok(())
    }

    /// The time now.
    pub fn now(&self) -> UnixMs {
        UnixMs(self.base_ms.load(Ordering::Relaxed)).after(self.born.elapsed())
    }
}
