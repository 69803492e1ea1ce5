//! Lanes: what a line sends.
//!
//! A lane claims messages of one kind, and stores their outcomes. The runner of the line ([`super::line::runner`])
//! decides when a message leaves, whatever its kind. [`campaign`] is the lane of the campaigns, [`chat`] that of the
//! chats, and [`both`] makes one of two.

pub mod both;
pub mod campaign;
pub mod chat;
mod settle;

use std::{
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::line::state::LineState;
use crate::{
    domain::{CampaignId, HoldScope, Outcome, Person},
    graph::client::SendRequest,
};

/// The kinds of lanes, those that go first first. Each has its share of the line's rate: see [`super::line::pace`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneKind {
    /// Messages of agents: a person waits for each.
    Chats,
    /// Messages of campaigns.
    Campaigns,
}

impl LaneKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Chats, Self::Campaigns];
}

/// The addressee of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addressee {
    /// The recipient.
    pub to: Person,
    /// The campaign, which sends to each person once; `None` for other messages, and for a message that may have been
    /// tried before.
    pub campaign: Option<CampaignId>,
}

/// A lane of one line. The runner calls it from one task.
pub trait Lane {
    /// Identifies one claimed message until it is settled or given back.
    type Unit: 'static;

    /// Applies changes that depend on the time, such as the end of a send window. Returns whether waiting messages may
    /// have to be given back: see [`Lane::is_stopped`].
    fn tick(&mut self, now: Instant, line: &LineState) -> bool;

    /// Starts the calls to Redis that are due. If the line stops, starts only those that store results.
    fn start_calls(&mut self, now: Instant, line: &LineState);

    /// Applies the replies that have arrived. Returns `Pending` if there were none; the next reply wakes `cx`.
    fn poll_calls(&mut self, cx: &mut Context<'_>, line: &LineState) -> Poll<()>;

    /// The time, after `now`, at which [`Lane::start_calls`] has to run even if nothing happens before.
    fn deadline(&self, now: Instant) -> Option<Instant>;

    /// Whether a stopping line may end: no message is claimed, and no call is open.
    fn is_done(&self) -> bool;

    /// The number of outcomes that are not stored yet.
    fn unstored(&self) -> usize;

    /// The number of claimed messages that wait to be sent.
    fn ready(&self) -> usize;

    /// Whether a waiting message of this kind may leave now. If so, [`Lane::take`] returns it.
    fn has_next(&mut self, kind: LaneKind, now: Instant) -> bool;

    /// Takes the next waiting message of this kind, with its request. The caller sends it now.
    fn take(&mut self, kind: LaneKind, now: Instant, line: &LineState) -> Option<(Self::Unit, SendRequest)>;

    /// The kind of a taken message.
    fn kind(&self, unit: &Self::Unit) -> LaneKind;

    /// Whether a taken message can be sent again through the Marketing Messages API.
    fn can_be_rerouted(&self, unit: &Self::Unit) -> bool;

    /// Records the outcome of a taken message. Returns whether waiting messages of the lane must not be sent now: see
    /// [`Lane::is_stopped`].
    fn settle(&mut self, unit: Self::Unit, outcome: &Outcome, line: &LineState) -> bool;

    /// Returns a taken message that was certainly not sent, as if it had not been claimed.
    fn give_back(&mut self, unit: Self::Unit, line: &LineState);

    /// Gives back every waiting message that the line does not keep.
    fn give_back_ready(&mut self, line: &LineState);

    /// Gives back the waiting messages that must not be sent now.
    fn give_back_stopped(&mut self, line: &LineState);

    /// Whether a taken message must not be sent now, although the line may send.
    fn is_stopped(&self, unit: &Self::Unit, line: &LineState) -> bool;

    /// The scope of a hold on the template of a taken message, if it has a template.
    fn template(&self, unit: &Self::Unit) -> Option<HoldScope>;

    /// The addressee of a taken message. `None` for a lane whose messages go to no phone number.
    fn addressee(&self, unit: &Self::Unit) -> Option<Addressee>;

    /// The addressee of the message of a campaign that [`Lane::take`] returns next.
    fn next_addressee(&self) -> Option<Addressee>;

    /// Gives back the message of a campaign that [`Lane::take`] would return next. It becomes due again after `wait`.
    fn defer_next(&mut self, wait: Duration, line: &LineState);

    /// Looks for new work after a change that concerns `lines` lines, of which this is one.
    fn changed(&mut self, now: Instant, lines: usize);

    /// Claims again at once, because the line may send again.
    fn wake(&mut self);
}
