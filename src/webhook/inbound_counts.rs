//! Counts the messages that people send to each line, for the workers: Meta counts them against the rate of the line.
//!
//! If the process dies, or Redis is unavailable: recent counts are lost, and the workers reserve too little of the rate
//! for inbound messages for a few seconds.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::mpsc;

use crate::{
    domain::{LineId, UnixMs},
    redis::Store,
};

/// How long counts are gathered before they are stored, so that storing costs little however many messages come.
const STORE_EVERY: Duration = Duration::from_millis(250);

/// Age above which a message is not counted: Meta repeats webhooks for days, and counted the message when it was sent.
const COUNTED_FOR: Duration = Duration::from_secs(15);

/// Counts inbound messages. The task behind it ends when this handle is dropped.
pub struct InboundCounter {
    counts: Arc<Mutex<HashMap<LineId, u64>>>,
    /// Wakes the task. Its capacity is one wake.
    wake: mpsc::Sender<()>,
}

impl InboundCounter {
    /// The handle, and the task that stores the counts.
    pub fn new(store: Store) -> (Self, impl Future<Output = ()> + Send) {
        let (wake, woken) = mpsc::channel(1);
        let counts = Arc::default();
        (Self { counts: Arc::clone(&counts), wake }, store_counts(store, counts, woken))
    }

    /// Counts a message to `line` that was sent at `at`.
    pub fn count(&self, line: &LineId, at: UnixMs, now: UnixMs) {
        if now.since(at) > COUNTED_FOR {
            return;
        }
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(line.clone()).or_default() += 1;
        let _ = self.wake.try_send(());
    }
}

async fn store_counts(store: Store, counts: Arc<Mutex<HashMap<LineId, u64>>>, mut woken: mpsc::Receiver<()>) {
    while woken.recv().await.is_some() {
        tokio::time::sleep(STORE_EVERY).await;
        let counted = mem::take(&mut *counts.lock().unwrap_or_else(PoisonError::into_inner));
        if !counted.is_empty() {
            // An outage of Redis is logged with the webhooks that fail because of it.
            let _ = store.count_inbound(&counted).await;
        }
    }
}
