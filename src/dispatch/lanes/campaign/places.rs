//! The places of the business's messaging limit, as one lane sees them: whether it may claim, and the messages for which it
//! has taken a place that they may not need. Pure, but for the clock that callers pass.
//!
//! A lane knows from its last call how many places are left. Other lines take places too, so a claim can get fewer than
//! that. What it does not get is given back.

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

/// Places are asked for at least this often while none is left: a message may have failed and left its place.
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
    /// None before this time, unless something changes.
    None(Instant),
}

/// The places of a lane.
#[derive(Debug, Default)]
pub struct PlaceKeeper {
    left: u64,
    /// When to ask how many are left. `None`: at once.
    ask_at: Option<Instant>,
    /// The messages that were claimed and have not ended, with the people who have a place for them.
    taken: HashMap<RowRef, Person>,
    /// What became of messages that were not sent. To be stored.
    ended: Vec<PlaceNews>,
}

impl PlaceKeeper {
    /// How many messages may be claimed at `now`. `limit`: that of the business, if it is known.
    pub fn allowance(&self, limit: Option<MessagingLimit>, now: Instant) -> Allowance {
        match limit {
            Some(MessagingLimit::Unlimited) => Allowance::Unlimited,
            Some(MessagingLimit::People(limit)) => match (self.ask_at.filter(|at| now < *at), self.left) {
                (None, _) => Allowance::Ask { limit },
                (Some(at), 0) => Allowance::None(at),
                (Some(_), left) => Allowance::Limited { messages: usize::try_from(left).unwrap_or(usize::MAX), limit },
            },
            // Meta is asked as soon as the worker starts.
            None => Allowance::None(now + ASK_PAUSE),
        }
    }

    /// Applies what Redis said at `now`, which is `clock` on its clock.
    pub fn learned(&mut self, places: Places, now: Instant, clock: UnixMs) {
        self.left = places.left;
        let wait = match places {
            Places { left: 0, frees_at: Some(at), .. } => at.since(clock).clamp(ASK_PAUSE, ASK_EVERY),
            _ => ASK_EVERY,
        };
        self.ask_at = Some(now + wait);
    }

    /// Asks again: the limit may have changed.
    pub fn ask_again(&mut self) {
        self.ask_at = None;
    }

    /// Notes that a claimed message has a place.
    pub fn took(&mut self, message: RowRef, person: Person) {
        self.taken.insert(message, person);
    }

    /// Notes how a message ended.
    pub fn ended(&mut self, message: RowRef, settled: &Settled) {
        let Some(person) = self.taken.remove(&message) else { return };
        if settled.is_undelivered() {
            self.ended.push(PlaceNews { person, message, fate: Fate::NotDelivered });
        }
    }

    /// What became of messages that were not sent, once.
    pub fn take_ended(&mut self) -> Vec<PlaceNews> {
        std::mem::take(&mut self.ended)
    }
}
