//! A line runner: claims, paces, sends and settles for one line, while its worker has the lease.
//!
//! One task that owns all its state. It waits for whatever comes first: an answer of Meta, an answer of Redis, its pace,
//! a signal, a time. Nothing in it waits for one of these while another could go on.
//!
//! If the process dies: rows that it had claimed are in flight in Redis, and the next owner puts them in doubt. If it loses its lease
//! or stops: what it has not sent goes back, what it has sent is settled, and nothing is left in doubt that need not be.

mod asking;
mod outcomes;

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
    calls::{Calls, Done, Settlement},
    holds::Holds,
    lease::Lease,
    message::Message,
    pace::Pacer,
    path::PathHealth,
    settle,
    shard::{ActiveLine, AttemptPermit, CapacityWaiter, Shard},
    slots::Slots,
};
use crate::{
    domain::{CampaignId, Cause, HoldScope, Line, Outcome, PartId, SharedTokenKey, UnixMs},
    graph::client::{Departure, GraphClient, LineSender, Permit},
    redis::{
        Store,
        clock::Clock,
        parts::{ClaimedRow, Settled},
    },
    telemetry::metrics::LineMetrics,
};

/// Where there is no connection, or the thread has no room, for another attempt, and none ends: when to look again.
const ROOM_WAIT: Duration = Duration::from_millis(10);

/// A line with nothing to do looks again after this time, whatever happens: holds end by the clock.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// All lines are told of a change at once, and read what it is within so long for each line that there is.
const REFRESH_SPREAD: Duration = Duration::from_millis(1);

/// How often others are told how the line does.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);

/// Everything a runner needs.
pub struct RunnerSetup {
    /// Redis.
    pub store: Store,
    /// Redis' time.
    pub clock: Arc<Clock>,
    /// The line.
    pub line: Line,
    /// How messages of the line are sent.
    pub sender: LineSender,
    /// Asks Meta about the line while its messages get no answers.
    pub graph: GraphClient,
    /// Policy.
    pub settings: DispatchSettings,
    /// Signs tokens.
    pub token_key: SharedTokenKey,
    /// The right to send.
    pub lease: Arc<Lease>,
    /// What operators and other workers say.
    pub signals: watch::Receiver<Arc<RunnerSignals>>,
    /// Stop claiming, finish, and return.
    pub stop: CancellationToken,
    /// What others may know of this line.
    pub status: Arc<Mutex<LineStatus>>,
    /// What it shares with the other lines of its thread.
    pub shard: Rc<Shard>,
}

/// What a runner says of its line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LineStatus {
    /// Messages per second that may go now.
    pub rate: f64,
    /// The rate is cut because Meta throttled.
    pub throttled: bool,
    /// Attempts in flight.
    pub in_flight: usize,
    /// Messages claimed and not yet sent.
    pub ready: usize,
    /// Messages that Meta accepted, since the runner began.
    pub accepted: u64,
    /// Meta can not be reached.
    pub unreachable: bool,
    /// What comes in the place of Meta's answers, while the path to Meta is broken.
    pub path_broken: Option<String>,
}

/// An attempt, with what it ended in, or the future of that while it is on its way.
struct Attempt<T> {
    part: PartId,
    claimed: ClaimedRow,
    number: u8,
    began: Instant,
    outcome: T,
}

/// Outcomes of a part that are to be settled together.
struct Gathered {
    /// The next_tick at which they have gathered for long enough.
    due: Instant,
    outcomes: Vec<(ClaimedRow, Settled)>,
}

/// How an attempt goes on.
enum Turn {
    /// It ended.
    Ended(Outcome),
    /// Its message has a connection, and waits to leave.
    Connected(Box<Departing>),
    /// Its connection was gone, and its message was certainly not sent.
    NotSent,
}

/// A message with a connection of its own that has not left.
struct Departing {
    message: Message,
    departure: Departure,
    begun: AttemptPermit,
}

type OnItsWay = Attempt<LocalBoxFuture<'static, Turn>>;

impl Future for OnItsWay {
    type Output = Attempt<Turn>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(self.outcome.poll_unpin(cx));
        let Self { part, claimed, number, began, .. } = *self;
        Poll::Ready(Attempt { part, claimed, number, began, outcome })
    }
}

type Attempts = FuturesUnordered<OnItsWay>;

/// What is asked of Redis beside all else, and answers nothing.
type Chores = FuturesUnordered<LocalBoxFuture<'static, ()>>;

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
    /// They go before those that are ready.
    departing: VecDeque<Departing>,
    outcomes: BTreeMap<PartId, Gathered>,
    /// Parts in which nothing is open.
    finished: HashSet<PartId>,
    /// When they are taken off the work at the latest.
    finish_at: Option<Instant>,
    /// Parts whose time is over.
    expired: HashSet<PartId>,
    /// The claim that was not answered, by its number: its part may have rows in flight that nobody here knows of.
    unanswered: Option<(PartId, u64)>,
    /// For the other lines of the thread, while there is something to send.
    among: Option<ActiveLine>,
    claims: u64,
    noted: HashSet<(PartId, u32)>,
    holds: Holds,
    /// The next_tick at which more is claimed.
    claim_at: Option<Instant>,
    /// When to read the work of the line again.
    refresh_at: Option<Instant>,
    /// Not before this.
    refresh_from: Instant,
    stopping: bool,
    redis_again_at: Option<Instant>,
    redis_failing: bool,
    /// The backlog has nothing to do before this time, unless something happens.
    idle_until: Option<Instant>,
    unreachable: u32,
    reachable_at: Option<Instant>,
    path: PathHealth,
    send_at: Option<Instant>,
    /// Where slots or its thread are what it waits for: when to look for more.
    full_at: Option<Instant>,
    /// A message has waited for a connection since then.
    unconnected_since: Option<Instant>,
    waiter: Rc<CapacityWaiter>,
    held_since: Option<Instant>,
    publish_at: Instant,
    accepted: u64,
}

impl Runner {
    /// A runner for the line of `setup`.
    pub fn new(setup: RunnerSetup) -> Self {
        let now = Instant::now();
        let rate = setup.line.messages_per_second * (1.0 - setup.settings.headroom);
        let calls = Calls {
            store: setup.store.clone(),
            clock: setup.clock.clone(),
            line: setup.line.id.clone(),
            ids_kept: setup.settings.ids_kept,
            recipients: Rc::default(),
            shard: setup.shard.clone(),
        };
        Self {
            metrics: LineMetrics::new(&setup.line.id),
            // Shared, for a copy of URL and headers for each attempt would be one too many.
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
            unanswered: None,
            among: None,
            claims: 0,
            noted: HashSet::new(),
            claim_at: None,
            refresh_at: None,
            refresh_from: now,
            stopping: false,
            redis_again_at: None,
            redis_failing: false,
            idle_until: None,
            unreachable: 0,
            reachable_at: None,
            path: PathHealth::default(),
            send_at: None,
            full_at: None,
            unconnected_since: None,
            waiter: Rc::default(),
            held_since: None,
            publish_at: now,
            accepted: 0,
        }
    }

    /// Runs until it is told to stop or its lease ends; then gives back what it has not sent and settles what it has.
    pub async fn run(mut self) {
        let mut attempts = Attempts::new();
        let mut redis: OptionFuture<LocalBoxFuture<'static, Done>> = None.into();
        let mut redis_busy = false;
        let mut settling: OptionFuture<LocalBoxFuture<'static, Settlement>> = None.into();
        let mut settling_busy = false;
        let mut chores = Chores::new();
        let mut alarm = pin!(tokio::time::sleep_until(Instant::now().into()));
        let stop = self.setup.stop.clone();
        let mut stopped = pin!(stop.cancelled());
        self.read_signals();
        loop {
            let now = Instant::now();
            if !self.stopping && (stop.is_cancelled() || !self.setup.lease.holds(now)) {
                self.stopping = true;
                self.give_back(|_| true);
            }
            self.tend_path(now, &mut chores);
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
                && self.unanswered.is_none()
                && chores.is_empty()
            {
                break;
            }
            self.publish(now, attempts.len() + self.departing.len());
            // Set again only where it would come too late: that it comes too early costs a round of the loop now and then, and a
            // timer in each of them more.
            let wake_at = self.wake_at(now, attempts.len()).into();
            if alarm.is_elapsed() || wake_at < alarm.deadline() {
                alarm.as_mut().reset(wake_at);
            }
            tokio::select! {
                biased;
                Some(ended) = attempts.next() => {
                    let (instant, now) = (Instant::now(), self.setup.clock.now());
                    self.attempt_turned(ended, instant, now, &mut chores);
                    // What ended meanwhile costs no further round of the loop.
                    while let Some(Some(ended)) = attempts.next().now_or_never() {
                        self.attempt_turned(ended, instant, now, &mut chores);
                    }
                }
                Some(done) = &mut redis, if redis_busy => {
                    (redis, redis_busy) = (None.into(), false);
                    self.redis_answered(done, &mut chores);
                }
                Some((outcomes, result)) = &mut settling, if settling_busy => {
                    (settling, settling_busy) = (None.into(), false);
                    self.settled(outcomes, result);
                }
                Some(()) = chores.next() => {}
                () = self.waiter.handed.notified() => {}
                Ok(()) = self.setup.signals.changed() => self.read_signals(),
                () = &mut stopped, if !self.stopping => {}
                () = &mut alarm => {}
            }
        }
        *self.setup.status.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = LineStatus::default();
    }

    /// The attempt that may go on or begin now, if any; else remembers when to look again.
    ///
    /// A connection comes before the pace: a message that was paced and then waited for its connection would come to Meta
    /// together with those that were paced meanwhile.
    fn next_to_send(&mut self, now: Instant, attempts: usize) -> Option<OnItsWay> {
        self.full_at = None;
        if let Some(departing) = self.departing.pop_front() {
            if !self.paced(now) {
                self.departing.push_front(departing);
                return None;
            }
            self.leaves(now, attempts);
            return Some(self.departure(departing, now));
        }
        if !self.wants_to_send(now, attempts) {
            self.unconnected_since = None;
            self.waiter.pass_on();
            return None;
        }
        let Some(permit) = self.sender.permit(now) else {
            self.waiter.pass_on();
            self.full_at = Some(now + ROOM_WAIT);
            let since = *self.unconnected_since.get_or_insert(now);
            if let Some(reason) = self.sender.unreachable_since(since) {
                self.unconnected_since = None;
                self.unreachable_now(now, &Outcome::Retry { wait: None, cause: Cause::Unreachable(reason) });
            }
            return None;
        };
        self.unconnected_since = None;
        let Some(begun) = self.setup.shard.begin(now, &self.waiter) else {
            self.full_at = Some(now + ROOM_WAIT);
            return None;
        };
        match permit {
            Permit::New(_) => {
                // It is paced when it has its connection. The next one is not due before this one could be.
                self.send_at = Some(now + Duration::from_secs_f64(1.0 / self.pacer.rate()));
            }
            Permit::Open(_) if !self.paced(now) => return None,
            Permit::Open(_) => self.leaves(now, attempts),
        }
        self.among.get_or_insert_with(|| self.setup.shard.activate_line());
        self.ready.pop_front().map(|message| self.attempt(message, now, permit, begun))
    }

    /// Takes the right to send one message now, or remembers when it can be had.
    fn paced(&mut self, now: Instant) -> bool {
        if !self.setup.lease.holds(now) || self.send_at.is_some_and(|at| now < at) || !self.path.may_send() {
            return false;
        }
        self.send_at = self.pacer.take(now).err().map(|wait| now + wait);
        self.send_at.is_none()
    }

    /// A message leaves while `attempts` others are open.
    fn leaves(&mut self, now: Instant, attempts: usize) {
        self.slots.began(now, attempts, self.setup.shard.room());
        self.path.began(now);
    }

    fn wants_to_send(&mut self, now: Instant, in_flight: usize) -> bool {
        if self.stopping || self.ready.is_empty() || !self.setup.lease.holds(now) {
            return false;
        }
        if self.send_at.is_some_and(|at| now < at) || !self.path.may_send() {
            return false;
        }
        if in_flight >= self.slots.limit() {
            self.full_at = Some(self.slots.full(now, self.pacer.rate()));
        }
        in_flight < self.slots.limit()
    }

    fn attempt(&self, message: Message, began: Instant, permit: Permit, begun: AttemptPermit) -> OnItsWay {
        let Message { claimed, attempt: number, .. } = message;
        let part = message.part();
        let body = message.body(&self.setup.token_key.get());
        let outcome: LocalBoxFuture<'static, Turn> = match permit {
            Permit::Open(permit) => {
                let outcome = self.sender.send(permit, body);
                Box::pin(async move {
                    let outcome = outcome.await;
                    drop(begun);
                    outcome.map_or(Turn::NotSent, Turn::Ended)
                })
            }
            Permit::New(permit) => {
                let sender = self.sender.clone();
                Box::pin(async move {
                    match sender.connect(permit, body).await {
                        Ok(departure) => Turn::Connected(Box::new(Departing { message, departure, begun })),
                        Err(outcome) => Turn::Ended(outcome),
                    }
                })
            }
        };
        Attempt { part, claimed, number, began, outcome }
    }

    fn departure(&self, Departing { message, departure, begun }: Departing, began: Instant) -> OnItsWay {
        let Message { claimed, attempt: number, .. } = message;
        let outcome = Box::pin(async move {
            let outcome = departure.leave().await;
            drop(begun);
            Turn::Ended(outcome)
        });
        Attempt { part: message.part(), claimed, number, began, outcome }
    }

    fn attempt_turned(&mut self, attempt: Attempt<Turn>, instant: Instant, now: UnixMs, chores: &mut Chores) {
        let Attempt { part, claimed, number, began, outcome: turn } = attempt;
        match turn {
            Turn::Ended(outcome) => {
                self.attempt_ended(Attempt { part, claimed, number, began, outcome }, instant, now, chores);
            }
            Turn::Connected(departing) => {
                self.departing.push_back(*departing);
                self.send_at = None;
                // It may have been paused meanwhile.
                if self.stopping || self.path.is_stopped() {
                    self.give_back(|_| true);
                } else {
                    self.give_back_held();
                }
            }
            Turn::NotSent => {
                self.path.not_written(began);
                self.put(part, claimed, Settled::Back { at: settle::AT_ONCE });
            }
        }
    }

    /// Messages that were claimed and will not be sent now go back, as if they had not been claimed.
    fn give_back(&mut self, which: impl Fn(&Message) -> bool) {
        for departing in std::mem::take(&mut self.departing) {
            if which(&departing.message) {
                self.put(departing.message.part(), departing.message.claimed, Settled::Back { at: settle::AT_ONCE });
            } else {
                self.departing.push_back(departing);
            }
        }
        for ready in std::mem::take(&mut self.ready) {
            if which(&ready) {
                self.put(ready.part(), ready.claimed, Settled::Back { at: settle::AT_ONCE });
            } else {
                self.ready.push_back(ready);
            }
        }
    }

    fn read_signals(&mut self) {
        let signals = self.setup.signals.borrow_and_update().clone();
        let rate = signals.controls.get(&self.setup.line.id).and_then(|control| control.rate);
        let rate = rate.unwrap_or(self.setup.line.messages_per_second);
        let now = Instant::now();
        self.pacer.set_rate(rate * (1.0 - self.setup.settings.headroom), now);
        self.send_at = None;
        // A thousand lines that read at once keep Redis and this thread from all else for half a second.
        let spread = REFRESH_SPREAD.mul_f64(signals.controls.len() as f64 * rand::random::<f64>());
        let at = self.refresh_from.max(now + spread);
        self.refresh_at = Some(self.refresh_at.map_or(at, |earlier| earlier.min(at)));
        self.idle_until = None;
        self.give_back_held();
    }

    /// What is held back at `now`.
    fn held_scopes(&self, now: UnixMs) -> HashSet<HoldScope> {
        self.holds.scopes(&self.setup.signals.borrow(), now)
    }

    /// The whole line is held back or paused.
    fn line_is_held(&self, now: UnixMs) -> bool {
        self.holds.stop_the_line(&self.setup.signals.borrow(), now)
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
        // Of a campaign many follow one another.
        let departing = self.departing.iter().map(|departing| &departing.message);
        let mut stopped: Vec<CampaignId> =
            departing.chain(&self.ready).map(|message| message.part().campaign).collect();
        stopped.dedup();
        stopped.retain(|id| self.backlog.is_stopped(*id, |template| holds.contains(template)));
        if !stopped.is_empty() {
            self.give_back(|ready| stopped.contains(&ready.part().campaign));
        }
    }

    /// When to look again if nothing happens before.
    fn wake_at(&self, now: Instant, in_flight: usize) -> Instant {
        let mut at = now + IDLE_MAX;
        let mut sooner = |candidate: Option<Instant>| at = candidate.map_or(at, |candidate| at.min(candidate));
        sooner(self.redis_again_at.filter(|at| *at > now));
        sooner((!self.stopping).then(|| self.setup.lease.ends()));
        sooner(self.outcomes.values().map(|gathered| gathered.due).min().filter(|at| *at > now));
        sooner(self.claim_at.filter(|at| *at > now));
        if in_flight < self.slots.limit() || !self.departing.is_empty() {
            sooner(self.send_at.filter(|at| *at > now));
        }
        sooner(self.finish_at.filter(|at| *at > now));
        sooner(self.full_at);
        sooner(self.path.ask_at().filter(|at| *at > now));
        sooner(self.refresh_at.filter(|at| *at > now));
        sooner(self.idle_until.filter(|at| *at > now));
        at
    }

    fn publish(&mut self, now: Instant, in_flight: usize) {
        if now < self.publish_at {
            return;
        }
        self.publish_at = now + PUBLISH_EVERY;
        self.among.take_if(|_| in_flight == 0 && self.ready.is_empty());
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
