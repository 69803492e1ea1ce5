//! What follows from statuses, off the way of their answer: campaigns that are done with them, and Meta's words on errors.
//!
//! If the process dies, or more comes than it can take: the housekeeping completes the campaign a little later, and the
//! words come with the next failure of that kind.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;
use tracing::warn;

use crate::{
    domain::{CampaignId, CampaignState, PartId},
    redis::{Result, Store, clock::Clock},
};

/// Things to do that wait at most.
const WAITING_MAX: usize = 4_096;
/// Kinds of failure, by part and code, whose words are remembered, so that each is written once.
const KNOWN_MAX: usize = 10_000;
/// What is kept of Meta's words.
const WORDS_CHARS_MAX: usize = 500;
/// Between two rounds: statuses of a campaign that is done come by the thousand, and ask for one look together.
const PAUSE: Duration = Duration::from_millis(100);

enum Todo {
    MaybeDone(CampaignId),
    Words(PartId, u32, Box<str>),
}

/// Takes what is to be done. The task ends when it is dropped.
pub struct Aftercare {
    todo: mpsc::Sender<Todo>,
}

impl Aftercare {
    /// A handle, and the task behind it.
    pub fn new(store: Store, clock: Arc<Clock>) -> (Self, impl Future<Output = ()> + Send) {
        let (todo, waiting) = mpsc::channel(WAITING_MAX);
        (Self { todo }, Carer { store, clock, known: HashMap::new() }.run(waiting))
    }

    /// Nothing is open in one part of this campaign: perhaps in none.
    pub fn maybe_done(&self, campaign: CampaignId) {
        let _ = self.todo.try_send(Todo::MaybeDone(campaign));
    }

    /// What Meta says of failures with `code` in this part.
    pub fn words(&self, part: PartId, code: u32, words: Box<str>) {
        let _ = self.todo.try_send(Todo::Words(part, code, words));
    }
}

struct Carer {
    store: Store,
    clock: Arc<Clock>,
    /// A hash of the words that are stored.
    known: HashMap<(PartId, u32), u64>,
}

impl Carer {
    async fn run(mut self, mut waiting: mpsc::Receiver<Todo>) {
        let mut todo = Vec::new();
        while waiting.recv_many(&mut todo, WAITING_MAX).await > 0 {
            let (mut campaigns, mut words) = (HashSet::new(), HashMap::new());
            for todo in todo.drain(..) {
                match todo {
                    Todo::MaybeDone(campaign) => drop(campaigns.insert(campaign)),
                    Todo::Words(part, code, text) => drop(words.insert((part, code), text)),
                }
            }
            if let Err(error) = self.note(words).await {
                warn!(%error, "meta's words on failures could not be stored");
            }
            if let Err(error) = self.complete(campaigns.into_iter().collect()).await {
                warn!(%error, "campaigns that may be done are left to the housekeeping");
            }
            if !waiting.is_closed() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn note(&mut self, words: HashMap<(PartId, u32), Box<str>>) -> Result<()> {
        for ((part, code), text) in words {
            let text: String = text.chars().take(WORDS_CHARS_MAX).collect();
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            let hash = hasher.finish();
            if self.known.get(&(part, code)) == Some(&hash) {
                continue;
            }
            self.store.note_details(part, code, &text).await?;
            if self.known.len() >= KNOWN_MAX {
                self.known.clear();
            }
            self.known.insert((part, code), hash);
        }
        Ok(())
    }

    async fn complete(&self, campaigns: Vec<CampaignId>) -> Result<()> {
        // Most of them have been completed long ago: their states are asked for first, in one round trip.
        let states = self.store.campaign_states(&campaigns).await?;
        for (id, state) in campaigns.into_iter().zip(states) {
            if matches!(state, Some(CampaignState::Running | CampaignState::Paused)) {
                self.store.complete_if_done(id, self.clock.now()).await?;
            }
        }
        Ok(())
    }
}
