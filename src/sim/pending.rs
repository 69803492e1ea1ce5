//! Counts pending updates, and signals when there are none.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// The number of updates that are scheduled, in flight or waiting for a retry.
#[derive(Default)]
pub(super) struct Pending {
    updates: AtomicU64,
    drained: Notify,
}

impl Pending {
    pub(super) fn add(&self, updates: u64) {
        self.updates.fetch_add(updates, Ordering::AcqRel);
    }

    pub(super) fn settle(&self, updates: u64) {
        if self.updates.fetch_sub(updates, Ordering::AcqRel) == updates {
            self.drained.notify_waiters();
        }
    }

    /// The number of pending updates.
    pub(super) fn updates(&self) -> u64 {
        self.updates.load(Ordering::Relaxed)
    }

    /// Resolves when no update is pending.
    pub(super) async fn drained(&self) {
        loop {
            let mut drained = std::pin::pin!(self.drained.notified());
            // Register before reading the count, so that a notification between the two is not missed.
            drained.as_mut().enable();
            if self.updates.load(Ordering::Acquire) == 0 {
                return;
            }
            drained.await;
        }
    }
}
