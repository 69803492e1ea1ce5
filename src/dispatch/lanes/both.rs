//! Two lanes on one line.

use std::{
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{Addressee, Lane, LaneKind};
use crate::{
    dispatch::line::state::LineState,
    domain::{HoldScope, Outcome},
    graph::client::SendRequest,
};

/// The lanes of the chats and of the campaigns, as the one lane of a line.
pub struct Both<A, B>(pub A, pub B);

/// A message of either lane.
pub enum Either<A, B> {
    /// Of the chats.
    Chat(A),
    /// Of the campaigns.
    Campaign(B),
}

impl<A: Lane, B: Lane> Lane for Both<A, B> {
    type Unit = Either<A::Unit, B::Unit>;

    fn tick(&mut self, now: Instant, line: &LineState) -> bool {
        let (first, second) = (self.0.tick(now, line), self.1.tick(now, line));
        first || second
    }

    fn start_calls(&mut self, now: Instant, line: &LineState) {
        self.0.start_calls(now, line);
        self.1.start_calls(now, line);
    }

    fn poll_calls(&mut self, cx: &mut Context<'_>, line: &LineState) -> Poll<()> {
        let (first, second) = (self.0.poll_calls(cx, line), self.1.poll_calls(cx, line));
        if first.is_ready() { first } else { second }
    }

    fn deadline(&self, now: Instant) -> Option<Instant> {
        [self.0.deadline(now), self.1.deadline(now)].into_iter().flatten().min()
    }

    fn is_done(&self) -> bool {
        self.0.is_done() && self.1.is_done()
    }

    fn unstored(&self) -> usize {
        self.0.unstored() + self.1.unstored()
    }

    fn ready(&self) -> usize {
        self.0.ready() + self.1.ready()
    }

    fn has_next(&mut self, kind: LaneKind, now: Instant) -> bool {
        match kind {
            LaneKind::Chats => self.0.has_next(kind, now),
            LaneKind::Campaigns => self.1.has_next(kind, now),
        }
    }

    fn take(&mut self, kind: LaneKind, now: Instant, line: &LineState) -> Option<(Self::Unit, SendRequest)> {
        match kind {
            LaneKind::Chats => self.0.take(kind, now, line).map(|(unit, message)| (Either::Chat(unit), message)),
            LaneKind::Campaigns => {
                self.1.take(kind, now, line).map(|(unit, message)| (Either::Campaign(unit), message))
            }
        }
    }

    fn kind(&self, unit: &Self::Unit) -> LaneKind {
        match unit {
            Either::Chat(_) => LaneKind::Chats,
            Either::Campaign(_) => LaneKind::Campaigns,
        }
    }

    fn can_be_rerouted(&self, unit: &Self::Unit) -> bool {
        match unit {
            Either::Chat(unit) => self.0.can_be_rerouted(unit),
            Either::Campaign(unit) => self.1.can_be_rerouted(unit),
        }
    }

    fn settle(&mut self, unit: Self::Unit, outcome: &Outcome, line: &LineState) -> bool {
        match unit {
            Either::Chat(unit) => self.0.settle(unit, outcome, line),
            Either::Campaign(unit) => self.1.settle(unit, outcome, line),
        }
    }

    fn give_back(&mut self, unit: Self::Unit, line: &LineState) {
        match unit {
            Either::Chat(unit) => self.0.give_back(unit, line),
            Either::Campaign(unit) => self.1.give_back(unit, line),
        }
    }

    fn give_back_ready(&mut self, line: &LineState) {
        self.0.give_back_ready(line);
        self.1.give_back_ready(line);
    }

    fn give_back_stopped(&mut self, line: &LineState) {
        self.0.give_back_stopped(line);
        self.1.give_back_stopped(line);
    }

    fn is_stopped(&self, unit: &Self::Unit, line: &LineState) -> bool {
        match unit {
            Either::Chat(unit) => self.0.is_stopped(unit, line),
            Either::Campaign(unit) => self.1.is_stopped(unit, line),
        }
    }

    fn template(&self, unit: &Self::Unit) -> Option<HoldScope> {
        match unit {
            Either::Chat(unit) => self.0.template(unit),
            Either::Campaign(unit) => self.1.template(unit),
        }
    }

    fn addressee(&self, unit: &Self::Unit) -> Option<Addressee> {
        match unit {
            Either::Chat(unit) => self.0.addressee(unit),
            Either::Campaign(unit) => self.1.addressee(unit),
        }
    }

    fn next_addressee(&self) -> Option<Addressee> {
        self.1.next_addressee()
    }

    fn defer_next(&mut self, wait: Duration, line: &LineState) {
        self.1.defer_next(wait, line);
    }

    fn changed(&mut self, now: Instant, lines: usize) {
        self.0.changed(now, lines);
        self.1.changed(now, lines);
    }

    fn wake(&mut self) {
        self.0.wake();
        self.1.wake();
    }
}
