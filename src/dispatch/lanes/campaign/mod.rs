//! The lane of the campaigns: claims rows of the line's parts, and settles their outcomes.
//!
//! [`backlog`] chooses the part to claim from, and [`share`] the campaign. `redis_calls` starts the [`calls`] that are
//! due and applies their replies. `outcomes` gathers outcomes, which are settled in batches.
//!
//! If the process dies: the rows that were claimed are in flight in Redis, and the line's next owner puts them in
//! doubt.

pub mod backlog;
pub mod calls;
pub mod caps;
pub mod message;
mod outcomes;
pub mod places;
pub mod plans;
pub mod recipients;
mod redis_calls;
pub mod screening;
pub mod share;

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    mem,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::{
    future::{FutureExt, LocalBoxFuture},
    stream::{FuturesUnordered, StreamExt},
};

use self::{
    backlog::Backlog,
    calls::{Calls, Reply, Settlement},
    caps::CapKeeper,
    message::Message,
    outcomes::PendingOutcomes,
    places::PlaceKeeper,
    plans::SendPlans,
    screening::Screening,
};
use super::{Addressee, Lane, LaneKind};
use crate::{
    dispatch::line::state::LineState,
    domain::{
        CallingCode, CampaignId, ClaimedRow, Due, FailureReason, HoldScope, Outcome, PartId, PersonHash, Phone,
        Settled, SharedTokenKey, UnixMs,
    },
    graph::client::{Edge, SendRequest},
    redis::Store,
    telemetry::traces::SendTrace,
};

/// Spread of refreshes after a broadcast: each line waits a random delay of up to this much per configured line.
const REFRESH_SPREAD: Duration = Duration::from_millis(1);

/// A claimed row of a part.
#[derive(Debug)]
pub struct CampaignUnit {
    part: PartId,
    claimed: ClaimedRow,
    /// The number of this attempt, from 1.
    attempt: u8,
    to: Phone,
    /// Whether its template is marketing and it was not sent through the Marketing Messages API.
    can_be_rerouted: bool,
    /// The trace of the attempt, if its recipient is sampled.
    trace: Option<Box<SendTrace>>,
}

#[derive(Clone, Copy)]
struct UnansweredClaim {
    part: PartId,
    number: u64,
}

/// The campaigns of one line.
pub struct CampaignLane {
    calls: Calls,
    token_key: SharedTokenKey,
    backlog: Backlog,
    ready: VecDeque<Message>,
    /// Messages that were taken, and neither settled nor given back.
    in_flight: usize,
    outcomes: BTreeMap<PartId, PendingOutcomes>,
    places: PlaceKeeper,
    caps: CapKeeper,
    /// The people from whom Meta withheld marketing, and until when. Stored before the outcomes of their rows.
    withheld: Vec<(PersonHash, UnixMs)>,
    /// The open call to Redis, if it is not a settlement.
    call: Option<LocalBoxFuture<'static, Reply>>,
    settling: Option<LocalBoxFuture<'static, Settlement>>,
    /// The number of outcomes in the open settlement.
    n_settling: usize,
    /// Calls to Redis whose results the lane does not need. It waits for them only before it ends.
    background: FuturesUnordered<LocalBoxFuture<'static, ()>>,
    /// Parts without open recipients, which are to be removed from the work of the line.
    finished: HashSet<PartId>,
    /// When the finished parts are removed at the latest.
    finish_at: Option<Instant>,
    /// Parts whose campaign has passed its `expires_at`.
    expired: HashSet<PartId>,
    /// A claim whose reply was lost: it may have put rows in flight that this lane does not have.
    unanswered_claim: Option<UnansweredClaim>,
    /// The number of the last claim.
    claims: u64,
    /// Parts and reasons for which the error text was stored.
    details_stored: HashSet<(PartId, FailureReason)>,
    /// The tick at which more is claimed.
    claim_at: Option<Instant>,
    /// When to read the work of the line again.
    refresh_at: Option<Instant>,
    /// A refresh that is due earlier waits until this time.
    refresh_not_before: Instant,
    redis_retry_at: Option<Instant>,
    redis_failing: bool,
    /// The backlog has nothing to do before this time, unless something changes.
    idle_until: Option<Instant>,
    /// When the first message that waits may leave, if all of them wait for the rates of their campaigns.
    leave_at: Option<Instant>,
    /// When the next window of the backlog opens or closes, or its next campaign expires.
    edge_at: Option<Instant>,
}

impl CampaignLane {
    /// A lane that has read nothing from Redis yet. `token_key` signs tokens. `plans` and `screening` are shared by the
    /// lines of a dispatch thread.
    pub fn new(store: Store, token_key: SharedTokenKey, plans: Rc<SendPlans>, screening: Rc<Screening>) -> Self {
        Self {
            calls: Calls { store, recipients: Rc::default(), plans, screening },
            token_key,
            backlog: Backlog::default(),
            ready: VecDeque::new(),
            in_flight: 0,
            outcomes: BTreeMap::new(),
            places: PlaceKeeper::default(),
            caps: CapKeeper::default(),
            withheld: Vec::new(),
            call: None,
            settling: None,
            n_settling: 0,
            background: FuturesUnordered::new(),
            finished: HashSet::new(),
            finish_at: None,
            expired: HashSet::new(),
            unanswered_claim: None,
            claims: 0,
            details_stored: HashSet::new(),
            claim_at: None,
            refresh_at: None,
            refresh_not_before: Instant::now(),
            redis_retry_at: None,
            redis_failing: false,
            idle_until: None,
            leave_at: None,
            edge_at: None,
        }
    }

    /// Gives back the waiting messages that `which` selects: they are settled as if they had not been claimed.
    fn give_back_if(&mut self, line: &LineState, which: impl Fn(PartId) -> bool) {
        for ready in mem::take(&mut self.ready) {
            if which(ready.part()) {
                self.return_row(ready.part(), ready.claimed, line);
            } else {
                self.ready.push_back(ready);
            }
        }
    }

    /// Fails the waiting messages to countries to which Meta does not let the WABA send, as Meta would. Otherwise they
    /// would wait for a day, and most would fail then.
    fn refuse_held_countries(&mut self, line: &LineState) {
        let held = line.held_countries(line.clock.now());
        if held.is_empty() {
            return;
        }
        for ready in mem::take(&mut self.ready) {
            match held.get(&CallingCode::of(ready.to)) {
                Some(code) => self.queue_outcome(
                    ready.part(),
                    ready.claimed,
                    Settled::Refused { reason: FailureReason::Meta(*code) },
                    line,
                ),
                None => self.ready.push_back(ready),
            }
        }
    }

    /// Whether messages of a part must not be sent: its campaign is not running, has expired or has left the line, its
    /// template is held, or its window is closed.
    fn is_part_stopped(&self, id: PartId, line: &LineState) -> bool {
        let now = line.clock.now();
        self.backlog.is_stopped(id, |template| line.is_held(template, now))
    }
}

impl Lane for CampaignLane {
    type Unit = CampaignUnit;

    fn tick(&mut self, now: Instant, line: &LineState) -> bool {
        if self.backlog.edge().is_none() {
            self.edge_at = None;
            return false;
        }
        let clock = line.clock.now();
        let has_changed = self.backlog.tick(clock);
        if has_changed {
            self.wake();
        }
        self.edge_at = self.backlog.edge().map(|edge| now + edge.since(clock));
        has_changed
    }

    fn start_calls(&mut self, now: Instant, line: &LineState) {
        if self.redis_retry_at.is_some_and(|at| now < at) {
            return;
        }
        if self.call.is_none() {
            self.call = self.next_call(now, line);
        }
        if self.settling.is_none()
            && let Some(outcomes) = self.outcomes_to_settle(now, line)
        {
            let of_people = self.take_of_people();
            self.n_settling = outcomes.values().map(|outcomes| outcomes.len()).sum();
            self.settling = Some(self.calls.settle(outcomes, of_people, line));
            let ended = self.places.take_ended();
            if !ended.is_empty() {
                self.background.push(self.calls.note_places(ended, line));
            }
        }
    }

    fn poll_calls(&mut self, cx: &mut Context<'_>, line: &LineState) -> Poll<()> {
        let mut applied = Poll::Pending;
        if let Some(Poll::Ready(reply)) = self.call.as_mut().map(|call| call.poll_unpin(cx)) {
            self.call = None;
            self.apply_reply(reply, line);
            applied = Poll::Ready(());
        }
        if let Some(Poll::Ready(settlement)) = self.settling.as_mut().map(|settling| settling.poll_unpin(cx)) {
            (self.settling, self.n_settling) = (None, 0);
            self.apply_settlement(settlement, line);
            applied = Poll::Ready(());
        }
        while let Poll::Ready(Some(())) = self.background.poll_next_unpin(cx) {
            applied = Poll::Ready(());
        }
        applied
    }

    fn deadline(&self, now: Instant) -> Option<Instant> {
        let settle_at = self.outcomes.values().map(|pending| pending.due).min();
        let calls = [self.redis_retry_at, settle_at, self.claim_at, self.finish_at, self.refresh_at, self.idle_until];
        let deadlines = calls.into_iter().chain([self.leave_at, self.edge_at]);
        deadlines.flatten().filter(|at| *at > now).min()
    }

    fn is_done(&self) -> bool {
        self.call.is_none()
            && self.settling.is_none()
            && self.ready.is_empty()
            && self.outcomes.is_empty()
            && self.unanswered_claim.is_none()
            && self.background.is_empty()
    }

    fn unstored(&self) -> usize {
        self.n_settling + self.queued_outcomes()
    }

    fn ready(&self) -> usize {
        self.ready.len()
    }

    fn has_next(&mut self, kind: LaneKind, now: Instant) -> bool {
        if kind != LaneKind::Campaigns {
            return false;
        }
        self.leave_at = None;
        if !self.backlog.has_ceilings() {
            return !self.ready.is_empty();
        }
        let leaves_at = |message: &Message| self.backlog.leaves_at(message.part().campaign).filter(|at| *at > now);
        let Some(next) = self.ready.iter().position(|message| leaves_at(message).is_none()) else {
            self.leave_at = self.ready.iter().filter_map(leaves_at).min();
            return false;
        };
        if let Some(message) = self.ready.remove(next) {
            self.ready.push_front(message);
        }
        true
    }

    fn take(&mut self, _: LaneKind, now: Instant, line: &LineState) -> Option<(CampaignUnit, SendRequest)> {
        let mut message = self.ready.pop_front()?;
        self.in_flight += 1;
        self.backlog.left(message.part().campaign, now);
        let trace = message.trace.take().map(|claim| Box::new(claim.left(now)));
        let Message { claimed, attempt, .. } = message;
        let is_marketing = self.backlog.is_marketing(message.part().campaign);
        let edge = line.edge(is_marketing);
        let can_be_rerouted = is_marketing && edge == Edge::Messages;
        let unit = CampaignUnit { part: message.part(), claimed, attempt, to: message.to, can_be_rerouted, trace };
        Some((unit, message.request(edge, &self.token_key.get())))
    }

    fn kind(&self, _: &CampaignUnit) -> LaneKind {
        LaneKind::Campaigns
    }

    fn can_be_rerouted(&self, unit: &CampaignUnit) -> bool {
        unit.can_be_rerouted
    }

    fn settle(&mut self, unit: CampaignUnit, outcome: &Outcome, line: &LineState) -> bool {
        self.in_flight -= 1;
        self.attempt_ended(unit, outcome, line)
    }

    fn give_back(&mut self, unit: CampaignUnit, line: &LineState) {
        self.in_flight -= 1;
        self.return_row(unit.part, unit.claimed, line);
    }

    fn give_back_ready(&mut self, line: &LineState) {
        self.give_back_if(line, |_| true);
    }

    fn give_back_stopped(&mut self, line: &LineState) {
        self.refuse_held_countries(line);
        // Messages of one part follow one another, so `dedup` leaves few ids.
        let mut stopped: Vec<PartId> = self.ready.iter().map(Message::part).collect();
        stopped.dedup();
        stopped.retain(|id| self.is_part_stopped(*id, line));
        if !stopped.is_empty() {
            self.give_back_if(line, |part| stopped.contains(&part));
        }
    }

    fn is_stopped(&self, unit: &CampaignUnit, line: &LineState) -> bool {
        self.is_part_stopped(unit.part, line)
    }

    fn template(&self, unit: &CampaignUnit) -> Option<HoldScope> {
        self.backlog.template(unit.part.campaign)
    }

    fn addressee(&self, unit: &CampaignUnit) -> Option<Addressee> {
        Some(Addressee { to: unit.to.into(), campaign: only_attempt(unit.part.campaign, unit.claimed) })
    }

    fn next_addressee(&self) -> Option<Addressee> {
        let next = self.ready.front()?;
        Some(Addressee { to: next.to.into(), campaign: only_attempt(next.part().campaign, next.claimed) })
    }

    fn defer_next(&mut self, wait: Duration, line: &LineState) {
        let Some(next) = self.ready.pop_front() else { return };
        let due = Due::At(line.clock.now().after(wait));
        self.queue_outcome(next.part(), next.claimed, Settled::Back { at: due }, line);
    }

    fn changed(&mut self, now: Instant, lines: usize) {
        self.places.ask_again();
        // If a thousand lines refresh at once, Redis and this thread do nothing else for half a second.
        let spread = REFRESH_SPREAD.mul_f64(lines as f64 * rand::random::<f64>());
        let at = self.refresh_not_before.max(now + spread);
        self.refresh_at = Some(self.refresh_at.map_or(at, |earlier| earlier.min(at)));
        self.wake();
    }

    fn wake(&mut self) {
        self.idle_until = None;
    }
}

/// The campaign of a message, if this is its first claim: then it was certainly not sent before.
fn only_attempt(campaign: CampaignId, claimed: ClaimedRow) -> Option<CampaignId> {
    const FIRST: u8 = 1;
    (claimed.send == FIRST).then_some(campaign)
}
