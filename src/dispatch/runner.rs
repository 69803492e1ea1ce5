//! A line runner: claims, paces, sends and settles for one line, while its worker has the lease.
//!
//! The runner is one task that owns all its state. It waits for whichever comes first: an answer from Meta, a reply
//! from Redis, its pace, a signal, a deadline. None of these waits for another.
//!
//! If the process dies: the rows that it had claimed are in flight in Redis, and the next owner puts them in doubt.
//! If it stops or loses its lease: it gives back the messages that it has not sent, and settles the others. Only a
//! message that Meta did not answer ends in doubt.

mod outcomes;
mod redis_calls;

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    pin::{Pin, pin},
    rc::Rc,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures_util::{
    future::{FutureExt, LocalBoxFuture, OptionFuture},
    stream::{FuturesUnordered, StreamExt},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    DispatchSettings, RunnerSignals,
    backlog::Backlog,
    calls::{Calls, Reply, Settlement},
    holds::Holds,
    lease::Lease,
    message::Message,
    pace::Pacer,
    path::PathHealth,
    shard::{ActiveLine, AttemptPermit, CapacityWaiter, Shard},
    slots::Slots,
};
use crate::{
    domain::{
        CampaignId, Cause, ClaimedRow, Due, FailureReason, HoldScope, Line, Outcome, PartId, Settled, SharedTokenKey,
        UnixMs,
    },
    graph::client::{Departure, GraphClient, LineSender, Permit},
    redis::{Store, clock::Clock},
    telemetry::metrics::LineMetrics,
};

/// How long to wait before retrying when there is no connection or no shard capacity for another attempt, and no
/// attempt has ended.
const CAPACITY_RETRY: Duration = Duration::from_millis(10);

/// An idle line looks for work at least this often, because holds end by the clock.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// Spread of refreshes after a broadcast: each line waits a random delay of up to this much per configured line.
const REFRESH_SPREAD: Duration = Duration::from_millis(1);

/// How often the status of the line is published.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);

/// What a runner is built from.
pub struct RunnerSetup {
    /// Redis.
    pub store: Store,
    /// Redis' time.
    pub clock: Arc<Clock>,
    /// The line.
    pub line: Line,
    /// Sends the messages of the line.
    pub sender: LineSender,
    /// Probes Meta while the path to it is broken.
    pub graph: GraphClient,
    /// The settings of dispatch.
    pub settings: DispatchSettings,
    /// Signs tokens.
    pub token_key: SharedTokenKey,
    /// The right to send on the line.
    pub lease: Arc<Lease>,
    /// What operators and other workers have changed.
    pub signals: watch::Receiver<Arc<RunnerSignals>>,
    /// Cancelled when the runner is to stop claiming, finish its attempts, and return.
    pub stop: CancellationToken,
    /// Where the runner publishes its status.
    pub status: Arc<Mutex<LineStatus>>,
    /// What the line shares with the other lines of its dispatch thread.
    pub shard: Rc<Shard>,
}

/// The status of a line, as its runner publishes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LineStatus {
    /// The present rate in messages per second.
    pub rate: f64,
    /// The rate is cut because Meta throttled.
    pub throttled: bool,
    /// Attempts in flight.
    pub in_flight: usize,
    /// Messages claimed and not yet sent.
    pub ready: usize,
    /// Messages that Meta has accepted since the runner started.
    pub accepted: u64,
    /// Meta cannot be reached.
    pub unreachable: bool,
    /// While the path to Meta is broken: what comes instead of Meta's answers.
    pub path_broken: Option<String>,
}

/// An attempt. `outcome` is a future while the attempt is in flight.
struct Attempt<T> {
    part: PartId,
    claimed: ClaimedRow,
    number: u8,
    began: Instant,
    outcome: T,
}

struct PendingOutcomes {
    /// The tick at which they are settled at the latest.
    due: Instant,
    outcomes: Vec<(ClaimedRow, Settled)>,
}

#[derive(Clone, Copy)]
struct UnansweredClaim {
    part: PartId,
    number: u64,
}

enum AttemptEvent {
    Ended(Outcome),
    /// The message has a new connection, and waits to leave.
    Connected(Box<Departing>),
    /// The connection was closed, and the message was certainly not sent.
    NotSent,
}

/// A message on a new connection, which waits for its pace.
struct Departing {
    message: Message,
    departure: Departure,
    attempt_permit: AttemptPermit,
}

type PendingAttempt = Attempt<LocalBoxFuture<'static, AttemptEvent>>;

impl Future for PendingAttempt {
    type Output = Attempt<AttemptEvent>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(self.outcome.poll_unpin(cx));
        let Self { part, claimed, number, began, .. } = *self;
        Poll::Ready(Attempt { part, claimed, number, began, outcome })
    }
}

type Attempts = FuturesUnordered<PendingAttempt>;

/// Calls to Redis and Meta whose results the runner does not need. It waits for them only before it ends.
type BackgroundTasks = FuturesUnordered<LocalBoxFuture<'static, ()>>;

/// The runner of one line.
pub struct Runner {
    setup: RunnerSetup,
    metrics: LineMetrics,
    sender: Rc<LineSender>,
    pacer: Pacer,
    slots: Slots,
    backlog: Backlog,
    calls: Calls,
    ready: VecDeque<Message>,
    /// Sent before the messages in `ready`.
    departing: VecDeque<Departing>,
    outcomes: BTreeMap<PartId, PendingOutcomes>,
    /// Parts without open recipients, which are to be removed from the work of the line.
    finished: HashSet<PartId>,
    /// When they are removed at the latest.
    finish_at: Option<Instant>,
    /// Parts whose campaign has passed its `expires_at`.
    expired: HashSet<PartId>,
    /// A claim whose reply was lost: it may have put rows in flight that this runner does not have.
    unanswered_claim: Option<UnansweredClaim>,
    /// Counts the line as active on its shard while it has something to send.
    active_line: Option<ActiveLine>,
    /// The number of the last claim.
    claims: u64,
    /// Parts and reasons for which the error text was stored.
    details_stored: HashSet<(PartId, FailureReason)>,
    holds: Holds,
    /// The tick at which more is claimed.
    claim_at: Option<Instant>,
    /// When to read the work of the line again.
    refresh_at: Option<Instant>,
    /// A refresh that is due earlier waits until this time.
    refresh_not_before: Instant,
    stopping: bool,
    redis_retry_at: Option<Instant>,
    redis_failing: bool,
    /// The backlog has nothing to do before this time, unless something changes.
    idle_until: Option<Instant>,
    unreachable: u32,
    reachable_at: Option<Instant>,
    path: PathHealth,
    send_at: Option<Instant>,
    /// When to look for slots, a connection or shard capacity again, if the next message waits for one of them.
    capacity_retry_at: Option<Instant>,
    /// Since when the next message has waited for a connection.
    unconnected_since: Option<Instant>,
    capacity_waiter: Rc<CapacityWaiter>,
    held_since: Option<Instant>,
    publish_at: Instant,
    accepted: u64,
}

impl Runner {
    /// A runner for the line of `setup`, which has not started.
    pub fn new(setup: RunnerSetup) -> Self {
        let now = Instant::now();
        let rate = setup.line.messages_per_second * (1.0 - setup.settings.headroom);
        let calls = Calls {
            store: setup.store.clone(),
            clock: setup.clock.clone(),
            line: setup.line.id.clone(),
            id_retention: setup.settings.id_retention,
            recipients: Rc::default(),
            shard: setup.shard.clone(),
        };
        Self {
            metrics: LineMetrics::new(&setup.line.id),
            // Shared, so that attempts do not copy the URL and the headers.
            sender: Rc::new(setup.sender.clone()),
            pacer: Pacer::new(rate, now),
            slots: Slots::new(setup.settings.in_flight_max, now),
            holds: Holds::new(&setup.line),
            setup,
            backlog: Backlog::default(),
            calls,
            ready: VecDeque::new(),
            departing: VecDeque::new(),
            outcomes: BTreeMap::new(),
            finished: HashSet::new(),
            finish_at: None,
            expired: HashSet::new(),
            unanswered_claim: None,
            active_line: None,
            claims: 0,
            details_stored: HashSet::new(),
            claim_at: None,
            refresh_at: None,
            refresh_not_before: now,
            stopping: false,
            redis_retry_at: None,
            redis_failing: false,
            idle_until: None,
            unreachable: 0,
            reachable_at: None,
            path: PathHealth::default(),
            send_at: None,
            capacity_retry_at: None,
            unconnected_since: None,
            capacity_waiter: Rc::default(),
            held_since: None,
            publish_at: now,
            accepted: 0,
        }
    }

    /// Runs until it is stopped or its lease ends. Then gives back the messages that it has not sent, and settles the
    /// others.
    pub async fn run(mut self) {
        let mut attempts = Attempts::new();
        let mut redis: OptionFuture<LocalBoxFuture<'static, Reply>> = None.into();
        let mut redis_busy = false;
        let mut settling: OptionFuture<LocalBoxFuture<'static, Settlement>> = None.into();
        let mut settling_busy = false;
        let mut background = BackgroundTasks::new();
        let mut alarm = pin!(tokio::time::sleep_until(Instant::now().into()));
        let stop = self.setup.stop.clone();
        let mut stopped = pin!(stop.cancelled());
        self.apply_signals();
        loop {
            let now = Instant::now();
            if !self.stopping && (stop.is_cancelled() || !self.setup.lease.is_valid(now)) {
                self.stopping = true;
                self.give_back(|_| true);
            }
            self.probe_path(now, &mut background);
            while let Some(attempt) = self.next_to_send(now, attempts.len()) {
                attempts.push(attempt);
            }
            if !redis_busy && let Some(call) = self.next_call(now) {
                (redis, redis_busy) = (Some(call).into(), true);
            }
            if !settling_busy
                && let Some(outcomes) = self.outcomes_to_settle(now, attempts.len() + self.departing.len())
            {
                (settling, settling_busy) = (Some(self.calls.settle(outcomes, self.setup.lease.epoch)).into(), true);
            }
            if self.stopping
                && attempts.is_empty()
                && !redis_busy
                && !settling_busy
                && self.outcomes.is_empty()
                && self.unanswered_claim.is_none()
                && background.is_empty()
            {
                break;
            }
            self.publish(now, attempts.len() + self.departing.len());
            // The timer is set again only if it would fire too late. Firing too early costs a round of the loop now
            // and then; setting the timer in every round costs more.
            let wake_at = self.wake_at(now, attempts.len()).into();
            if alarm.is_elapsed() || wake_at < alarm.deadline() {
                alarm.as_mut().reset(wake_at);
            }
            tokio::select! {
                biased;
                Some(attempt) = attempts.next() => {
                    let (instant, now) = (Instant::now(), self.setup.clock.now());
                    self.handle_attempt(attempt, instant, now, &mut background);
                    // Attempts that ended meanwhile are handled in the same round of the loop.
                    while let Some(Some(attempt)) = attempts.next().now_or_never() {
                        self.handle_attempt(attempt, instant, now, &mut background);
                    }
                }
                Some(reply) = &mut redis, if redis_busy => {
                    (redis, redis_busy) = (None.into(), false);
                    self.apply_reply(reply, &mut background);
                }
                Some((outcomes, result)) = &mut settling, if settling_busy => {
                    (settling, settling_busy) = (None.into(), false);
                    self.apply_settlement(outcomes, result);
                }
                Some(()) = background.next() => {}
                () = self.capacity_waiter.granted.notified() => {}
                Ok(()) = self.setup.signals.changed() => self.apply_signals(),
                () = &mut stopped, if !self.stopping => {}
                () = &mut alarm => {}
            }
        }
        *self.setup.status.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = LineStatus::default();
    }

    /// The attempt that may begin or continue now, if any. If there is none, remembers when to look again.
    ///
    /// A message gets its connection before its pace. A message that was paced and then waited for a connection would
    /// reach Meta together with those that were paced meanwhile.
    fn next_to_send(&mut self, now: Instant, attempts: usize) -> Option<PendingAttempt> {
        self.capacity_retry_at = None;
        if let Some(departing) = self.departing.pop_front() {
            if !self.take_pace(now) {
                self.departing.push_front(departing);
                return None;
            }
            self.record_departure(now, attempts);
            return Some(self.departure(departing, now));
        }
        if !self.wants_to_send(now, attempts) {
            self.unconnected_since = None;
            self.capacity_waiter.yield_permit();
            return None;
        }
        let Some(permit) = self.sender.permit(now) else {
            self.capacity_waiter.yield_permit();
            self.capacity_retry_at = Some(now + CAPACITY_RETRY);
            let since = *self.unconnected_since.get_or_insert(now);
            if let Some(reason) = self.sender.unreachable_since(since) {
                self.unconnected_since = None;
                self.unreachable_now(now, &Outcome::Retry { wait: None, cause: Cause::Unreachable(reason) });
            }
            return None;
        };
        self.unconnected_since = None;
        let Some(attempt_permit) = self.setup.shard.try_acquire(now, &self.capacity_waiter) else {
            self.capacity_retry_at = Some(now + CAPACITY_RETRY);
            return None;
        };
        match permit {
            Permit::New(_) => {
                // The message is paced when it has its connection. The next message is not due before this one could
                // leave.
                self.send_at = Some(now + Duration::from_secs_f64(1.0 / self.pacer.rate()));
            }
            Permit::Open(_) if !self.take_pace(now) => return None,
            Permit::Open(_) => self.record_departure(now, attempts),
        }
        self.active_line.get_or_insert_with(|| self.setup.shard.activate_line());
        self.ready.pop_front().map(|message| self.attempt(message, now, permit, attempt_permit))
    }

    /// Takes the right to send one message now. Without success, remembers when to try again.
    fn take_pace(&mut self, now: Instant) -> bool {
        if !self.setup.lease.is_valid(now) || self.send_at.is_some_and(|at| now < at) || !self.path.may_send() {
            return false;
        }
        self.send_at = self.pacer.take(now).err().map(|wait| now + wait);
        self.send_at.is_none()
    }

    /// Records that a message leaves while `attempts` others are in flight.
    fn record_departure(&mut self, now: Instant, attempts: usize) {
        self.slots.began(now, attempts, self.setup.shard.capacity());
        self.path.began(now);
    }

    fn wants_to_send(&mut self, now: Instant, in_flight: usize) -> bool {
        if self.stopping || self.ready.is_empty() || !self.setup.lease.is_valid(now) {
            return false;
        }
        if self.send_at.is_some_and(|at| now < at) || !self.path.may_send() {
            return false;
        }
        if in_flight >= self.slots.limit() {
            self.capacity_retry_at = Some(self.slots.at_limit(now, self.pacer.rate()));
        }
        in_flight < self.slots.limit()
    }

    fn attempt(
        &self,
        message: Message,
        began: Instant,
        permit: Permit,
        attempt_permit: AttemptPermit,
    ) -> PendingAttempt {
        let Message { claimed, attempt: number, .. } = message;
        let part = message.part();
        let body = message.body(&self.setup.token_key.get());
        let outcome: LocalBoxFuture<'static, AttemptEvent> = match permit {
            Permit::Open(permit) => {
                let outcome = self.sender.send(permit, body);
                Box::pin(async move {
                    let outcome = outcome.await;
                    drop(attempt_permit);
                    outcome.map_or(AttemptEvent::NotSent, AttemptEvent::Ended)
                })
            }
            Permit::New(permit) => {
                let sender = self.sender.clone();
                Box::pin(async move {
                    match sender.connect(permit, body).await {
                        Ok(departure) => {
                            AttemptEvent::Connected(Box::new(Departing { message, departure, attempt_permit }))
                        }
                        Err(outcome) => AttemptEvent::Ended(outcome),
                    }
                })
            }
        };
        Attempt { part, claimed, number, began, outcome }
    }

    fn departure(&self, Departing { message, departure, attempt_permit }: Departing, began: Instant) -> PendingAttempt {
        let Message { claimed, attempt: number, .. } = message;
        let outcome = Box::pin(async move {
            let outcome = departure.leave().await;
            drop(attempt_permit);
            AttemptEvent::Ended(outcome)
        });
        Attempt { part: message.part(), claimed, number, began, outcome }
    }

    fn handle_attempt(
        &mut self,
        attempt: Attempt<AttemptEvent>,
        instant: Instant,
        now: UnixMs,
        background: &mut BackgroundTasks,
    ) {
        let Attempt { part, claimed, number, began, outcome: event } = attempt;
        match event {
            AttemptEvent::Ended(outcome) => {
                self.attempt_ended(Attempt { part, claimed, number, began, outcome }, instant, now, background);
            }
            AttemptEvent::Connected(departing) => {
                self.departing.push_back(*departing);
                self.send_at = None;
                // The line or the campaign of the message may have been paused meanwhile.
                if self.stopping || self.path.is_stopped() {
                    self.give_back(|_| true);
                } else {
                    self.give_back_held();
                }
            }
            AttemptEvent::NotSent => {
                self.path.not_written(began);
                self.queue_outcome(part, claimed, Settled::Back { at: Due::AtOnce });
            }
        }
    }

    /// Gives back claimed messages that `which` accepts: they are settled as if they had not been claimed.
    fn give_back(&mut self, which: impl Fn(&Message) -> bool) {
        for departing in std::mem::take(&mut self.departing) {
            if which(&departing.message) {
                self.queue_outcome(
                    departing.message.part(),
                    departing.message.claimed,
                    Settled::Back { at: Due::AtOnce },
                );
            } else {
                self.departing.push_back(departing);
            }
        }
        for ready in std::mem::take(&mut self.ready) {
            if which(&ready) {
                self.queue_outcome(ready.part(), ready.claimed, Settled::Back { at: Due::AtOnce });
            } else {
                self.ready.push_back(ready);
            }
        }
    }

    fn apply_signals(&mut self) {
        let signals = self.setup.signals.borrow_and_update().clone();
        let rate = signals.controls.get(&self.setup.line.id).and_then(|control| control.rate);
        let rate = rate.unwrap_or(self.setup.line.messages_per_second);
        let now = Instant::now();
        self.pacer.set_rate(rate * (1.0 - self.setup.settings.headroom), now);
        self.send_at = None;
        // If a thousand lines refresh at once, Redis and this thread do nothing else for half a second.
        let spread = REFRESH_SPREAD.mul_f64(signals.controls.len() as f64 * rand::random::<f64>());
        let at = self.refresh_not_before.max(now + spread);
        self.refresh_at = Some(self.refresh_at.map_or(at, |earlier| earlier.min(at)));
        self.idle_until = None;
        self.give_back_held();
    }

    /// The scopes that are held at `now`.
    fn held_scopes(&self, now: UnixMs) -> HashSet<HoldScope> {
        self.holds.scopes(&self.setup.signals.borrow(), now)
    }

    /// Whether the whole line is held or paused.
    fn line_is_held(&self, now: UnixMs) -> bool {
        self.holds.line_is_held(&self.setup.signals.borrow(), now)
    }

    fn give_back_held(&mut self) {
        if self.ready.is_empty() && self.departing.is_empty() {
            return;
        }
        let now = self.setup.clock.now();
        if self.line_is_held(now) {
            return self.give_back(|_| true);
        }
        let holds = self.held_scopes(now);
        // Messages of one campaign follow one another, so `dedup` leaves few ids.
        let departing = self.departing.iter().map(|departing| &departing.message);
        let mut stopped: Vec<CampaignId> =
            departing.chain(&self.ready).map(|message| message.part().campaign).collect();
        stopped.dedup();
        stopped.retain(|id| self.backlog.is_stopped(*id, |template| holds.contains(template)));
        if !stopped.is_empty() {
            self.give_back(|ready| stopped.contains(&ready.part().campaign));
        }
    }

    /// When the loop has to run again if nothing happens before.
    fn wake_at(&self, now: Instant, in_flight: usize) -> Instant {
        let mut at = now + IDLE_MAX;
        let mut sooner = |candidate: Option<Instant>| at = candidate.map_or(at, |candidate| at.min(candidate));
        sooner(self.redis_retry_at.filter(|at| *at > now));
        sooner((!self.stopping).then(|| self.setup.lease.ends()));
        sooner(self.outcomes.values().map(|pending| pending.due).min().filter(|at| *at > now));
        sooner(self.claim_at.filter(|at| *at > now));
        if in_flight < self.slots.limit() || !self.departing.is_empty() {
            sooner(self.send_at.filter(|at| *at > now));
        }
        sooner(self.finish_at.filter(|at| *at > now));
        sooner(self.capacity_retry_at);
        sooner(self.path.probe_at().filter(|at| *at > now));
        sooner(self.refresh_at.filter(|at| *at > now));
        sooner(self.idle_until.filter(|at| *at > now));
        at
    }

    fn publish(&mut self, now: Instant, in_flight: usize) {
        if now < self.publish_at {
            return;
        }
        self.publish_at = now + PUBLISH_EVERY;
        self.active_line.take_if(|_| in_flight == 0 && self.ready.is_empty());
        self.metrics.rate.set(self.pacer.rate());
        self.metrics.in_flight.set(in_flight as f64);
        let status = LineStatus {
            rate: self.pacer.rate(),
            throttled: self.pacer.is_cut(),
            in_flight,
            ready: self.ready.len(),
            accepted: self.accepted,
            unreachable: self.reachable_at.is_some(),
            path_broken: self.path.stopped_by().map(str::to_owned),
        };
        *self.setup.status.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = status;
    }
}
