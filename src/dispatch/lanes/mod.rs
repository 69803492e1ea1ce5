//! Lanes: what a line sends.
//!
//! A lane claims messages of one kind, and stores what becomes of them. The runner of the line
//! ([`super::line::runner`]) decides when a message leaves, without knowing what it is. [`campaign`] is the lane of the
//! campaigns.

pub mod campaign;

use std::{
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::line::state::LineState;
use crate::{
    domain::{CampaignId, HoldScope, Outcome, Person},
    graph::client::SendRequest,
};

/// To whom a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addressee {
    /// The recipient.
    pub to: Person,
    /// The campaign, which has each person once; `None` for other messages, and for a message that may have been tried
    /// before.
    pub campaign: Option<CampaignId>,
}

/// A lane of one line. The runner calls it from one task.
pub trait Lane {
    /// Identifies one claimed message until it is settled or given back.
    type Unit: 'static;

    /// Applies what the time has changed. Returns whether messages that were not sent yet may have to be given back: see
    /// [`Lane::is_stopped`].
    fn tick(&mut self, now: Instant, line: &LineState) -> bool;

    /// Starts the calls to Redis that are due, unless the line stops: then only those that store what is known.
    fn start_calls(&mut self, now: Instant, line: &LineState);

    /// Applies the replies that have arrived. Returns `Pending` if there were none; `cx` is woken by the next one.
    fn poll_calls(&mut self, cx: &mut Context<'_>, line: &LineState) -> Poll<()>;

    /// When [`Lane::start_calls`] has to run next even if nothing happens before: later than `now`.
    fn deadline(&self, now: Instant) -> Option<Instant>;

    /// Whether a line that stops may end: no message is claimed, and no call is open.
    fn is_done(&self) -> bool;

    /// The number of claimed messages that wait to be sent.
    fn ready(&self) -> usize;

    /// Whether a message that waits may leave now. It is the one that [`Lane::take`] returns next.
    fn has_next(&mut self, now: Instant) -> bool;

    /// Takes the next message that waits, with its request. It leaves now.
    fn take(&mut self, now: Instant, line: &LineState) -> Option<(Self::Unit, SendRequest)>;

    /// Whether a taken message can be sent through the Marketing Messages API instead of the way that it took.
    fn can_be_rerouted(&self, unit: &Self::Unit) -> bool;

    /// Records the outcome of a taken message. Returns whether messages of the lane that were not sent yet must not be
    /// sent now: see [`Lane::is_stopped`].
    fn settle(&mut self, unit: Self::Unit, outcome: &Outcome, line: &LineState) -> bool;

    /// Returns a taken message that was certainly not sent, as if it had not been claimed.
    fn give_back(&mut self, unit: Self::Unit, line: &LineState);

    /// Gives back every message that waits.
    fn give_back_ready(&mut self, line: &LineState);

    /// Gives back the messages that wait and must not be sent now.
    fn give_back_stopped(&mut self, line: &LineState);

    /// Whether a taken message must not be sent now, although the line may send.
    fn is_stopped(&self, unit: &Self::Unit, line: &LineState) -> bool;

    /// The scope of a hold on the template of a taken message, if it has a template.
    fn template(&self, unit: &Self::Unit) -> Option<HoldScope>;

    /// To whom a taken message goes. `None` for a lane whose messages go to no phone number.
    fn addressee(&self, unit: &Self::Unit) -> Option<Addressee>;

    /// To whom the message goes that [`Lane::take`] returns next.
    fn next_addressee(&self) -> Option<Addressee>;

    /// Gives back the next message that [`Lane::take`] would return. It becomes due again after `wait`.
    fn defer_next(&mut self, wait: Duration, line: &LineState);

    /// Looks for new work: something has changed that concerns this line and `lines` in all.
    fn changed(&mut self, now: Instant, lines: usize);

    /// Claims again without waiting: the line may send again.
    fn wake(&mut self);
}
