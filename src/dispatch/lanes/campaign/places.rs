//! The places of the business's messaging limit, as one lane sees them: how many messages it may claim, and the places
//! to give back for messages that were not sent. Pure: callers pass the time.
//!
//! A lane knows from its last call how many places are left. Other lines take places too, so a claim can get fewer
//! places than that. Rows without a place are given back.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{
    domain::{MessagingLimit, Person, Settled, UnixMs},
    redis::{
        message_ids::RowRef,
        places::{Fate, PlaceNews, Places},
    },
};

/// While no place is left, Redis is asked at least this often: a message may have failed and freed its place.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// Minimum time between two calls that find no place.
const ASK_PAUSE: Duration = Duration::from_millis(100);

/// How many messages may be claimed, as far as the messaging limit goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// Any number.
    Unlimited,
    /// A number of messages that the messaging limit allows.
    Limited {
        /// The number of messages, above 0.
        messages: usize,
        /// The limit in people.
        limit: u32,
    },
    /// The number of places left has to be read first.
    Ask {
        /// The limit in people.
        limit: u32,
    },
    /// No message before this time, unless something changes.
    None(Instant),
}

/// Tracks the places that one lane has taken.
#[derive(Debug, Default)]
pub struct PlaceKeeper {
    left: u64,
    /// When to ask how many places are left. `None`: at once.
    ask_at: Option<Instant>,
    /// The claimed messages whose attempt has not ended, each with the person who has a place for it.
    taken: HashMap<RowRef, Person>,
    /// The messages that were not sent, as facts to store.
    ended: Vec<PlaceNews>,
}

impl PlaceKeeper {
    /// How many messages may be claimed at `now`. `limit`: the messaging limit of the business, if it is known.
    pub fn allowance(&self, limit: Option<MessagingLimit>, now: Instant) -> Allowance {
        match limit {
            Some(MessagingLimit::Unlimited) => Allowance::Unlimited,
            Some(MessagingLimit::People(limit)) => match (self.ask_at.filter(|at| now < *at), self.left) {
                (None, _) => Allowance::Ask { limit },
                (Some(at), 0) => Allowance::None(at),
                (Some(_), left) => Allowance::Limited { messages: usize::try_from(left).unwrap_or(usize::MAX), limit },
            },
            // The worker reads the limit from Meta as soon as it starts.
            None => Allowance::None(now + ASK_PAUSE),
        }
    }

    /// Applies an answer of Redis that arrived at `now`. `clock`: the time of Redis at `now`.
    pub fn learned(&mut self, places: Places, now: Instant, clock: UnixMs) {
        self.left = places.left;
        let wait = match places {
            Places { left: 0, frees_at: Some(at), .. } => at.since(clock).clamp(ASK_PAUSE, ASK_EVERY),
            _ => ASK_EVERY,
        };
        self.ask_at = Some(now + wait);
    }

    /// Makes the next call ask Redis again, because the limit may have changed.
    pub fn ask_again(&mut self) {
        self.ask_at = None;
    }

    /// Records that a claimed message has a place.
    pub fn took(&mut self, message: RowRef, person: Person) {
        self.taken.insert(message, person);
    }

    /// Records how a message ended.
    pub fn ended(&mut self, message: RowRef, settled: &Settled) {
        let Some(person) = self.taken.remove(&message) else { return };
        if settled.is_undelivered() {
            self.ended.push(PlaceNews { person, message, fate: Fate::NotDelivered });
        }
    }

    /// Returns the facts to store about messages that were not sent, each once.
    pub fn take_ended(&mut self) -> Vec<PlaceNews> {
        std::mem::take(&mut self.ended)
    }
}
