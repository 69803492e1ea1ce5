//! Work that statuses cause and that a webhook's response does not wait for: completing campaigns, and storing Meta's
//! error texts.
//!
//! If the process dies, or the queue is full: the housekeeping completes the campaign a little later, and the next
//! failure with the same code brings its error text again.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;
use tracing::warn;

use crate::{
    domain::{CampaignId, CampaignState, FailureReason, PartId},
    redis::{Result, Store, clock::Clock},
};

/// Capacity of the queue.
const QUEUE_MAX: usize = 4_096;
/// Maximum number of pairs of a part and a reason whose stored error text is remembered, so that it is not written
/// again.
const STORED_MAX: usize = 10_000;
/// Limit on a stored error text.
const TEXT_CHARS_MAX: usize = 500;
/// Pause between two rounds. The last statuses of a campaign come by the thousand, and one check serves them all.
const PAUSE: Duration = Duration::from_millis(100);

enum Task {
    CompleteIfDone(CampaignId),
    StoreErrorText(PartId, FailureReason, Box<str>),
}

/// Queues follow-up work. The task ends when this handle is dropped.
pub struct FollowUp {
    queue: mpsc::Sender<Task>,
}

impl FollowUp {
    /// The handle, and the task that does the work.
    pub fn new(store: Store, clock: Arc<Clock>) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, tasks) = mpsc::channel(QUEUE_MAX);
        (Self { queue }, FollowUpTask { store, clock, stored: HashMap::new() }.run(tasks))
    }

    /// Completes the campaign if none of its parts has an open recipient. Called when a part has none.
    pub fn complete_if_done(&self, campaign: CampaignId) {
        let _ = self.queue.try_send(Task::CompleteIfDone(campaign));
    }

    /// Stores Meta's error text for failures with this `reason` in this part.
    pub fn store_error_text(&self, part: PartId, reason: FailureReason, text: Box<str>) {
        let _ = self.queue.try_send(Task::StoreErrorText(part, reason, text));
    }
}

struct FollowUpTask {
    store: Store,
    clock: Arc<Clock>,
    /// A hash of each stored error text.
    stored: HashMap<(PartId, FailureReason), u64>,
}

impl FollowUpTask {
    async fn run(mut self, mut queue: mpsc::Receiver<Task>) {
        let mut tasks = Vec::new();
        while queue.recv_many(&mut tasks, QUEUE_MAX).await > 0 {
            let (mut campaigns, mut texts) = (HashSet::new(), HashMap::new());
            for task in tasks.drain(..) {
                match task {
                    Task::CompleteIfDone(campaign) => drop(campaigns.insert(campaign)),
                    Task::StoreErrorText(part, reason, text) => drop(texts.insert((part, reason), text)),
                }
            }
            if let Err(error) = self.store_error_texts(texts).await {
                warn!(%error, "Meta's error texts could not be stored");
            }
            if let Err(error) = self.complete(campaigns.into_iter().collect()).await {
                warn!(%error, "campaigns could not be completed; the housekeeping does so later");
            }
            if !queue.is_closed() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn store_error_texts(&mut self, texts: HashMap<(PartId, FailureReason), Box<str>>) -> Result<()> {
        for ((part, reason), text) in texts {
            let text: String = text.chars().take(TEXT_CHARS_MAX).collect();
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            let hash = hasher.finish();
            if self.stored.get(&(part, reason)) == Some(&hash) {
                continue;
            }
            self.store.note_details(part, reason, &text).await?;
            if self.stored.len() >= STORED_MAX {
                self.stored.clear();
            }
            self.stored.insert((part, reason), hash);
        }
        Ok(())
    }

    async fn complete(&self, campaigns: Vec<CampaignId>) -> Result<()> {
        // Most of these campaigns are completed already, so one round trip reads their states first.
        let states = self.store.campaign_states(&campaigns).await?;
        for (id, state) in campaigns.into_iter().zip(states) {
            if matches!(state, Some(CampaignState::Running | CampaignState::Paused)) {
                self.store.complete_if_done(id, self.clock.now()).await?;
            }
        }
        Ok(())
    }
}
