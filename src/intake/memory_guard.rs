//! Refuses recipients before Redis is full: none are accepted while the memory of Redis is above a share of its limit.
//! The rest is left for sending, which needs memory for states, ids and events.

use super::IntakeError;
use crate::redis::{Store, StoreError, memory::Memory};

/// Decides whether Redis has room for more recipients.
#[derive(Clone, Copy, Debug)]
pub struct MemoryGuard {
    share_max: f64,
}

impl MemoryGuard {
    /// A guard that refuses recipients above `share_max` of Redis' `maxmemory`. At 1 or more, it never refuses.
    pub fn new(share_max: f64) -> Self {
        Self { share_max }
    }

    /// Checks that Redis has room for more recipients.
    ///
    /// Errors: `RedisFull` if it does not; `Store` if its memory cannot be read.
    pub(super) async fn check(self, store: &Store) -> Result<(), IntakeError> {
        match self.full(store).await? {
            Some(memory) => Err(IntakeError::RedisFull { memory, share_max: self.share_max }),
            None => Ok(()),
        }
    }

    /// The memory of Redis, if recipients are refused because of it.
    pub async fn full(self, store: &Store) -> Result<Option<Memory>, StoreError> {
        if self.share_max >= 1.0 {
            return Ok(None);
        }
        Ok(store.recent_memory().await?.filter(|memory| memory.share() > self.share_max))
    }
}
