//! The lane of the chats: sends what agents write, one message of a chat after the other.
//!
//! A message waits for the one before it in its chat until Meta has accepted or refused that one, or it is in doubt. If
//! it has to be tried again, the messages after it wait with it.
//!
//! If the process dies: the messages that were claimed are in flight in Redis until their deadlines, and are unknown then
//! unless Meta reports a status. They are never sent again.
//! Never: asks Redis without need. The lane asks when it starts, when the doorbell rings, and when something is due.

mod message;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::future::{FutureExt, LocalBoxFuture};
use tokio::sync::{Notify, futures::OwnedNotified};
use tracing::warn;

pub use self::message::ChatUnit;
use self::message::LaneMessage;
use super::{
    Addressee, Lane, LaneKind,
    settle::{self, SettleContext},
};
use crate::{
    dispatch::line::state::LineState,
    domain::{Cause, Due, FailureReason, HoldScope, MetaCode, OnWithheld, Outcome, Settled, SharedTokenKey, UnixMs},
    graph::client::SendRequest,
    redis::{
        Store, StoreError,
        chats::{ChatClaim, ChatClaimRequest, ChatOutcome},
    },
};

/// Maximum number of messages in a claim.
const CLAIM_MAX: usize = 64;

/// Wait before the next call after Redis has failed.
const REDIS_PAUSE: Duration = Duration::from_millis(250);

/// Meta's code for free text outside the window of 24 hours.
const WINDOW_CLOSED: FailureReason = FailureReason::Meta(MetaCode(131_047));

/// Outcomes, and whether they are stored.
type ChatSettlement = (Vec<ChatOutcome>, Result<(), StoreError>);

/// The messages of the chats of one line.
pub struct ChatLane {
    store: Store,
    token_key: SharedTokenKey,
    rung: Arc<Notify>,
    ring: Pin<Box<OwnedNotified>>,
    ready: VecDeque<LaneMessage>,
    /// The chats of taken messages.
    busy: HashSet<i64>,
    /// The chats whose oldest message is to be tried again, and when.
    delayed: HashMap<i64, UnixMs>,
    outcomes: Vec<ChatOutcome>,
    claim: Option<LocalBoxFuture<'static, Result<ChatClaim, StoreError>>>,
    settling: Option<LocalBoxFuture<'static, ChatSettlement>>,
    n_settling: usize,
    /// The number of the last claim.
    claims: u64,
    /// The number of a claim whose response was lost.
    unanswered: Option<u64>,
    /// Whether to claim as soon as that is possible.
    wants_claim: bool,
    /// When something is due in Redis.
    claim_at: Option<Instant>,
    redis_retry_at: Option<Instant>,
    redis_failing: bool,
}

impl ChatLane {
    /// A lane that has asked Redis for nothing yet. `rung` is notified when there are new messages.
    pub fn new(store: Store, token_key: SharedTokenKey, rung: Arc<Notify>) -> Self {
        Self {
            store,
            token_key,
            ring: Box::pin(rung.clone().notified_owned()),
            rung,
            ready: VecDeque::new(),
            busy: HashSet::new(),
            delayed: HashMap::new(),
            outcomes: Vec::new(),
            claim: None,
            settling: None,
            n_settling: 0,
            claims: 0,
            unanswered: None,
            wants_claim: true,
            claim_at: None,
            redis_retry_at: None,
            redis_failing: false,
        }
    }

    fn start_claim(&mut self, now: Instant, line: &LineState) {
        // The messages of a claim without a response are given back first, even if the line stops.
        let gives_back = self.unanswered.is_some();
        let is_due = self.wants_claim || self.claim_at.is_some_and(|at| now >= at);
        let claims = is_due && self.ready.len() < CLAIM_MAX && line.may_claim_chats(now);
        if self.claim.is_some() || !(claims || gives_back) {
            return;
        }
        // A worker that had the line before may still have to repeat that it sent a message.
        if let Some(age) = self.store.grace_period(line.settings.lease).filter(|_| !gives_back) {
            self.claim_at = Some(now + line.settings.lease.saturating_sub(age));
            return;
        }
        if !gives_back {
            (self.wants_claim, self.claim_at) = (false, None);
        }
        self.claims += 1;
        let clock = line.clock.now();
        let request = ChatClaimRequest {
            epoch: line.clearance.lease.epoch,
            number: self.claims,
            now: clock,
            limit: if gives_back { 0 } else { CLAIM_MAX },
            doubt_until: clock.after(line.settings.doubt_deadline),
            unanswered: self.unanswered,
        };
        let (store, id) = (self.store.clone(), line.line.id.clone());
        self.claim = Some(Box::pin(async move { store.claim_chats(&id, request).await }));
    }

    fn claimed(&mut self, claim: Result<ChatClaim, StoreError>, line: &LineState) {
        match claim {
            Ok(ChatClaim::Claimed { messages, next }) => {
                (self.unanswered, self.redis_failing) = (None, false);
                let (now, clock) = (Instant::now(), line.clock.now());
                self.claim_at = next.map(|at| now + at.since(clock).max(Duration::from_millis(1)));
                self.wants_claim |= messages.len() == CLAIM_MAX;
                for claimed in messages {
                    match LaneMessage::read(claimed) {
                        Ok(message) => self.admit(message, clock),
                        Err(unreadable) => self.outcomes.push(unreadable),
                    }
                }
                if !line.is_sending() {
                    self.give_back_all(line);
                }
            }
            Ok(ChatClaim::Late) => {}
            Ok(ChatClaim::Fenced { epoch }) => {
                self.unanswered = None;
                warn!(line.id = %line.line.id, epoch, "another worker has the line");
                line.clearance.lease.lost();
            }
            Err(error) => {
                // Redis may have executed the claim.
                if !error.is_not_applied() {
                    self.unanswered.get_or_insert(self.claims);
                }
                // An error that a retry does not fix must not delay the stop.
                if line.clearance.is_stopping() && !error.is_transient() {
                    self.unanswered = None;
                }
                self.wants_claim = true;
                self.redis_failed("messages of chats could not be claimed", &error, line);
            }
        }
    }

    /// Lets a claimed message wait, unless its window has closed, or an earlier one of its chat is to be tried again
    /// later.
    fn admit(&mut self, message: LaneMessage, clock: UnixMs) {
        let chat = message.claimed.id.chat;
        if message.is_late(clock) {
            return self.outcomes.push(message.unsent(Settled::Refused { reason: WINDOW_CLOSED }));
        }
        match self.delayed.get(&chat) {
            Some(at) if *at > clock => {
                let at = Due::At(*at);
                self.outcomes.push(message.unsent(Settled::Back { at }));
            }
            _ => {
                self.delayed.remove(&chat);
                self.ready.push_back(message);
            }
        }
    }

    fn redis_failed(&mut self, what: &'static str, error: &StoreError, line: &LineState) {
        let is_new = !mem::replace(&mut self.redis_failing, true);
        if is_new && error.is_transient() {
            error.report(what);
        } else if is_new {
            warn!(line.id = %line.line.id, %error, "{what}");
        }
        self.redis_retry_at = Some(Instant::now() + REDIS_PAUSE);
    }

    /// The place of the next message whose chat has no message on its way.
    fn next(&self) -> Option<usize> {
        self.ready.iter().position(|message| !self.busy.contains(&message.claimed.id.chat))
    }

    fn give_back_all(&mut self, line: &LineState) {
        for message in mem::take(&mut self.ready) {
            self.outcomes.push(message.unsent(Settled::Back { at: Due::AtOnce }));
        }
        // Nothing tells the lane that the line sends again.
        self.claim_at.get_or_insert(Instant::now() + REDIS_PAUSE);
        self.wants_claim |= line.is_sending();
    }

    /// Gives back the messages of a chat whose earlier message is tried again at `at`.
    fn delay(&mut self, chat: i64, at: Due) {
        if let Due::At(at) = at {
            self.delayed.insert(chat, at);
        }
        for message in mem::take(&mut self.ready) {
            if message.claimed.id.chat == chat {
                self.outcomes.push(message.unsent(Settled::Back { at }));
            } else {
                self.ready.push_back(message);
            }
        }
    }
}

impl Lane for ChatLane {
    type Unit = ChatUnit;

    /// Refuses the waiting messages whose window has closed since they were claimed: a slow line has them for a minute.
    fn tick(&mut self, _: Instant, line: &LineState) -> bool {
        let clock = line.clock.now();
        if self.ready.iter().any(|message| message.is_late(clock)) {
            mem::take(&mut self.ready).into_iter().for_each(|message| self.admit(message, clock));
        }
        false
    }

    fn start_calls(&mut self, now: Instant, line: &LineState) {
        if self.redis_retry_at.is_some_and(|at| now < at) {
            return;
        }
        self.redis_retry_at = None;
        if self.settling.is_none() && !self.outcomes.is_empty() {
            let outcomes = mem::take(&mut self.outcomes);
            self.n_settling = outcomes.len();
            let (store, id, at) = (self.store.clone(), line.line.id.clone(), line.clock.now());
            self.settling = Some(Box::pin(async move {
                let result = store.settle_chats(&id, at, &outcomes).await;
                (outcomes, result)
            }));
        }
        self.start_claim(now, line);
    }

    fn poll_calls(&mut self, cx: &mut Context<'_>, line: &LineState) -> Poll<()> {
        let mut applied = Poll::Pending;
        while self.ring.as_mut().poll(cx).is_ready() {
            self.ring = Box::pin(self.rung.clone().notified_owned());
            self.wants_claim = true;
            applied = Poll::Ready(());
        }
        if let Some(Poll::Ready(claim)) = self.claim.as_mut().map(|claim| claim.poll_unpin(cx)) {
            self.claim = None;
            self.claimed(claim, line);
            applied = Poll::Ready(());
        }
        if let Some(Poll::Ready((outcomes, result))) = self.settling.as_mut().map(|settling| settling.poll_unpin(cx)) {
            (self.settling, self.n_settling) = (None, 0);
            match result {
                Ok(()) => {
                    self.redis_failing = false;
                    let is_due = |outcome: &ChatOutcome| {
                        matches!(
                            outcome.settled,
                            Settled::Retry { .. } | Settled::Back { .. } | Settled::InDoubt { .. }
                        )
                    };
                    // The next claim says when they are due.
                    self.wants_claim |= outcomes.iter().any(is_due) && line.is_sending();
                }
                // Settling is idempotent, so outcomes that may have been settled are settled again.
                Err(error) => {
                    self.redis_failed("outcomes of chats could not be settled", &error, line);
                    let newer = mem::replace(&mut self.outcomes, outcomes);
                    self.outcomes.extend(newer);
                }
            }
            applied = Poll::Ready(());
        }
        applied
    }

    fn deadline(&self, now: Instant) -> Option<Instant> {
        [self.redis_retry_at, self.claim_at].into_iter().flatten().filter(|at| *at > now).min()
    }

    fn is_done(&self) -> bool {
        self.claim.is_none()
            && self.settling.is_none()
            && self.ready.is_empty()
            && self.outcomes.is_empty()
            && self.unanswered.is_none()
    }

    fn unstored(&self) -> usize {
        self.n_settling + self.outcomes.len()
    }

    fn ready(&self) -> usize {
        self.ready.len()
    }

    fn has_next(&mut self, kind: LaneKind, _: Instant) -> bool {
        kind == LaneKind::Chats && self.next().is_some()
    }

    fn take(&mut self, _: LaneKind, _: Instant, _: &LineState) -> Option<(ChatUnit, SendRequest)> {
        let message = self.ready.remove(self.next()?)?;
        self.busy.insert(message.claimed.id.chat);
        Some(message.leave(&self.token_key.get()))
    }

    fn kind(&self, _: &ChatUnit) -> LaneKind {
        LaneKind::Chats
    }

    fn can_be_rerouted(&self, _: &ChatUnit) -> bool {
        false
    }

    fn settle(&mut self, unit: ChatUnit, outcome: &Outcome, line: &LineState) -> bool {
        self.busy.remove(&unit.id.chat);
        let context = SettleContext {
            attempt: unit.attempt,
            on_withheld: OnWithheld::Fail,
            now: line.clock.now(),
            jitter: rand::random(),
        };
        let settled = match settle::settled(outcome, context, &line.settings) {
            // Whether a person sees a read mark twice makes no difference.
            Settled::InDoubt { .. } if unit.is_mark => Settled::Refused { reason: FailureReason::NoAnswer },
            settled => settled,
        };
        match settled {
            Settled::Retry { at, .. } => self.delay(unit.id.chat, Due::At(at)),
            Settled::Back { at } => self.delay(unit.id.chat, at),
            _ => {}
        }
        self.outcomes.push(unit.outcome(settled, outcome.cause().map_or("", Cause::details)));
        false
    }

    fn give_back(&mut self, unit: ChatUnit, line: &LineState) {
        self.busy.remove(&unit.id.chat);
        self.delay(unit.id.chat, Due::AtOnce);
        self.outcomes.push(unit.outcome(Settled::Back { at: Due::AtOnce }, ""));
        self.wants_claim |= line.is_sending();
    }

    /// A line whose warm-up is spent keeps the messages of its chats.
    fn give_back_ready(&mut self, line: &LineState) {
        if !line.is_sending() {
            self.give_back_all(line);
        }
    }

    fn give_back_stopped(&mut self, _: &LineState) {}

    fn is_stopped(&self, _: &ChatUnit, _: &LineState) -> bool {
        false
    }

    fn template(&self, _: &ChatUnit) -> Option<HoldScope> {
        None
    }

    fn addressee(&self, unit: &ChatUnit) -> Option<Addressee> {
        unit.to.map(|to| Addressee { to, campaign: None })
    }

    fn next_addressee(&self) -> Option<Addressee> {
        None
    }

    fn defer_next(&mut self, _: Duration, _: &LineState) {}

    fn changed(&mut self, _: Instant, _: usize) {}

    fn wake(&mut self) {
        self.wants_claim = true;
    }
}
