//! Refuses recipients before Redis is full: none are accepted while the memory of Redis is above a share of its limit.
//! The rest is left for sending, which needs memory for states, ids and events.
//!
//! If the process dies: nothing is lost; the memory is read again.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::IntakeError;
use crate::redis::{Store, StoreError, memory::Memory};

/// How long a reading of the memory is used. An upload stores at most about 10 MB in this time.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// Decides whether Redis has room for more recipients. Clones share one reading.
#[derive(Clone, Debug)]
pub struct MemoryGuard {
    share_max: f64,
    newest: Arc<Mutex<Option<Reading>>>,
}

/// The memory of Redis, and when it was read.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    memory: Option<Memory>,
}

impl MemoryGuard {
    /// A guard that refuses recipients above `share_max` of Redis' `maxmemory`. At 1 or more, it never refuses.
    pub fn new(share_max: f64) -> Self {
        Self { share_max, newest: Arc::default() }
    }

    /// Checks that Redis has room for more recipients.
    ///
    /// Errors: `RedisFull` if it does not; `Store` if its memory cannot be read.
    pub(super) async fn check(&self, store: &Store) -> Result<(), IntakeError> {
        match self.full(store).await? {
            Some(memory) => Err(IntakeError::RedisFull { memory, share_max: self.share_max }),
            None => Ok(()),
        }
    }

    /// The memory of Redis, if recipients are refused because of it.
    pub async fn full(&self, store: &Store) -> Result<Option<Memory>, StoreError> {
        if self.share_max >= 1.0 {
            return Ok(None);
        }
        Ok(self.memory(store).await?.filter(|memory| memory.share() > self.share_max))
    }

    async fn memory(&self, store: &Store) -> Result<Option<Memory>, StoreError> {
        let newest = *self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Reading { memory, .. }) = newest.filter(|reading| reading.at.elapsed() < FRESH_FOR) {
            return Ok(memory);
        }
        let memory = store.memory().await?;
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(Reading { at: Instant::now(), memory });
        Ok(memory)
    }
}
