//! Counts the updates in transit, and signals when there are none.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Updates that are not settled yet.
#[derive(Default)]
pub(super) struct Pending {
    updates: AtomicU64,
    none: Notify,
}

impl Pending {
    pub(super) fn add(&self, updates: u64) {
        self.updates.fetch_add(updates, Ordering::AcqRel);
    }

    pub(super) fn settle(&self, updates: u64) {
        if self.updates.fetch_sub(updates, Ordering::AcqRel) == updates {
            self.none.notify_waiters();
        }
    }

    /// How many there are.
    pub(super) fn updates(&self) -> u64 {
        self.updates.load(Ordering::Relaxed)
    }

    /// Resolves when there are none.
    pub(super) async fn none(&self) {
        loop {
            let mut none = std::pin::pin!(self.none.notified());
            // Registered before the look at the count: a settlement between the two is not missed.
            none.as_mut().enable();
            if self.updates.load(Ordering::Acquire) == 0 {
                return;
            }
            none.await;
        }
    }
}
