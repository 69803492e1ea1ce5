//! The runner of a line: decides when a message of its lane leaves, while its worker has the lease.
//!
//! The runner is one task that owns all its state. It waits for whichever comes first: an answer from Meta, a reply to
//! a call of its lane, its pace, a signal, a deadline.
//!
//! If the process dies: the messages that the lane had claimed are in flight in Redis, and the next owner puts them in
//! doubt. If the runner stops or loses its lease: the lane gives back the messages that were not sent, and settles the
//! others. Only a message that Meta did not answer ends in doubt.
//! Never: depends on the kind of message that it sends.

use std::{
    collections::VecDeque,
    future::poll_fn,
    mem,
    pin::pin,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    future::{FutureExt, LocalBoxFuture},
    stream::{FuturesUnordered, StreamExt},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, field::display, info, warn};

use super::{
    consequence::{Consequence, consequence},
    log::LineLog,
    pace::Traffic,
    path::ProbeResult,
    slots::Slots,
    state::{LineState, MetaOutage},
    warm_up::{WarmUp, WarmUpGrant},
};
use crate::{
    dispatch::{
        DispatchSettings, RunnerSignals, batch, inbound,
        lanes::{Addressee, Lane, LaneKind},
        lease::Lease,
        shard::{ActiveLine, AttemptPermit, CapacityWaiter, Shard},
    },
    domain::{CallingCode, Cause, ErrorOrigin, Hold, HoldScope, Line, Outcome, UnixMs, policy},
    graph::{
        client::{Departure, GraphClient, LineSender, Permit, SendRequest},
        management::GraphError,
    },
    redis::{Store, clock::Clock, last_sends::LastSends},
    rules::pairs::Pairs,
    telemetry::metrics::{self, LineGauges, LineMetrics, LineStop},
};

/// How long to wait before retrying when there is no connection or no shard capacity for another attempt, and no
/// attempt has ended.
const CAPACITY_RETRY: Duration = Duration::from_millis(10);

/// An idle line publishes its status at least this often, because holds end by the clock.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// How often the status of the line is published.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);

/// Timeout of a probe. Meta answers reads well within a second.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait before reading the last sends of the line again.
const PAIRS_RETRY: Duration = Duration::from_millis(250);

/// What a runner is built from.
pub struct RunnerSetup {
    /// Stores holds.
    pub store: Store,
    /// The clock of Redis.
    pub clock: Arc<Clock>,
    /// The line.
    pub line: Line,
    /// Sends the messages of the line.
    pub sender: LineSender,
    /// Probes Meta while the path to Meta is broken.
    pub graph: GraphClient,
    /// The settings of dispatch.
    pub settings: DispatchSettings,
    /// The right to send on the line.
    pub lease: Arc<Lease>,
    /// What operators and other workers have changed.
    pub signals: watch::Receiver<Arc<RunnerSignals>>,
    /// Cancelled when the runner is to stop claiming, finish its attempts, and return.
    pub stop: CancellationToken,
    /// Where the runner publishes its status.
    pub status: Arc<Mutex<LineStatus>>,
    /// The series of the line. They end with the lease, or with the runner.
    pub metrics: LineMetrics,
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
    /// Outcomes that are not stored yet.
    pub unstored: usize,
    /// Messages claimed and not yet sent.
    pub ready: usize,
    /// Messages that Meta has accepted since the runner started.
    pub accepted: u64,
    /// While Meta cannot be reached: why.
    pub unreachable: Option<MetaOutage>,
    /// While the path to Meta is broken: what comes instead of Meta's answers.
    pub path_broken: Option<MetaOutage>,
    /// When the next day of the warm-up begins, while the share of this day is spent.
    pub warm_up_until: Option<UnixMs>,
}

/// An event of an attempt to send a message.
struct Attempt<U> {
    unit: U,
    began: Instant,
    event: AttemptEvent,
}

enum AttemptEvent {
    Ended(Outcome),
    /// The message has a new connection, and waits to leave.
    Connected(Box<Connected>),
    /// The connection was closed, and the message was certainly not sent.
    NotSent,
}

/// A new connection, on which a message waits to leave.
struct Connected {
    departure: Departure,
    attempt_permit: AttemptPermit,
}

/// A message on a new connection, which waits for its pace.
struct Departing<U> {
    unit: U,
    connected: Box<Connected>,
}

type PendingAttempt<U> = LocalBoxFuture<'static, Attempt<U>>;

/// The runner of one line, which sends the messages of the lane `L`.
pub struct Runner<L: Lane> {
    lane: L,
    state: LineState,
    store: Store,
    sender: Rc<LineSender>,
    graph: GraphClient,
    signals: watch::Receiver<Arc<RunnerSignals>>,
    stop: CancellationToken,
    status: Arc<Mutex<LineStatus>>,
    metrics: LineMetrics,
    slots: Slots,
    pairs: Pairs,
    attempts: FuturesUnordered<PendingAttempt<L::Unit>>,
    /// Sent before the messages that wait in the lane.
    departing: VecDeque<Departing<L::Unit>>,
    /// Calls to Redis and Meta whose results the runner does not need. It waits for them only before it ends.
    background: FuturesUnordered<LocalBoxFuture<'static, ()>>,
    /// Counts the line as active on its shard while it has something to send.
    active_line: Option<ActiveLine>,
    /// When to look for slots, a connection or shard capacity again, if the next message waits for one of them.
    capacity_retry_at: Option<Instant>,
    /// Since when the next message has waited for a connection.
    unconnected_since: Option<Instant>,
    capacity_waiter: Rc<CapacityWaiter>,
    /// Since when the line is stopped for each reason.
    stops: [Option<Instant>; LineStop::ALL.len()],
    /// The end of the counted time in which messages waited for the pace.
    paced_until: Instant,
    publish_at: Instant,
    /// When to adjust the rate to the inbound messages next.
    rate_at: Instant,
    accepted: u64,
    log: LineLog,
}

impl<L: Lane> Runner<L> {
    /// A runner for the line of `setup` and its lane, which has not started.
    pub fn new(setup: RunnerSetup, lane: L) -> Self {
        let now = Instant::now();
        let RunnerSetup { store, clock, line, sender, graph, settings, lease, signals, stop, status, metrics, shard } =
            setup;
        Self {
            lane,
            metrics,
            slots: Slots::new(settings.in_flight_max, now),
            pairs: Pairs::new(settings.pair_spacing),
            state: LineState::new(line, settings, clock, lease, shard, signals.clone(), now),
            store,
            // Shared, so that attempts do not copy the URL and the headers.
            sender: Rc::new(sender),
            graph,
            signals,
            stop,
            status,
            attempts: FuturesUnordered::new(),
            departing: VecDeque::new(),
            background: FuturesUnordered::new(),
            active_line: None,
            capacity_retry_at: None,
            unconnected_since: None,
            capacity_waiter: Rc::default(),
            stops: Default::default(),
            paced_until: now,
            publish_at: now,
            rate_at: now + inbound::READ_EVERY,
            accepted: 0,
            log: LineLog::default(),
        }
    }

    /// Runs until it is stopped or its lease ends. Then the lane gives back the messages that were not sent, and
    /// settles the others.
    pub async fn run(mut self) {
        let mut alarm = pin!(tokio::time::sleep_until(Instant::now().into()));
        let stop = self.stop.clone();
        let mut stopped = pin!(stop.cancelled());
        self.take_over_pairs().await;
        self.signals.mark_unchanged();
        self.apply_signals();
        loop {
            let now = Instant::now();
            // Signals are applied first, because a worker confirms a pause as soon as its runners have the signal.
            if self.signals.has_changed().unwrap_or(false) {
                self.signals.mark_unchanged();
                self.apply_signals();
            }
            if self.state.clearance.stop_if(stop.is_cancelled(), now) {
                self.give_back_all();
            }
            if !self.state.clearance.lease.is_valid(now) {
                // A call of the lane may keep the runner until Redis is back.
                self.metrics.end();
            }
            self.probe_path(now);
            if self.lane.tick(now, &self.state) {
                self.give_back_stopped();
            }
            while let Some(attempt) = self.next_to_send(now) {
                self.attempts.push(attempt);
            }
            self.lane.start_calls(now, &self.state);
            if self.state.clearance.is_stopping()
                && self.attempts.is_empty()
                && self.lane.is_done()
                && self.background.is_empty()
            {
                break;
            }
            self.publish(now);
            // The timer is set again only if it would fire too late. Firing too early costs a round of the loop now
            // and then; setting the timer in every round costs more.
            let wake_at = self.wake_at(now).into();
            if alarm.is_elapsed() || wake_at < alarm.deadline() {
                alarm.as_mut().reset(wake_at);
            }
            tokio::select! {
                biased;
                Some(attempt) = self.attempts.next() => {
                    let now = Instant::now();
                    self.handle_attempt(attempt, now);
                    // Attempts that ended meanwhile are handled in the same round of the loop.
                    while let Some(Some(attempt)) = self.attempts.next().now_or_never() {
                        self.handle_attempt(attempt, now);
                    }
                }
                () = poll_fn(|cx| self.lane.poll_calls(cx, &self.state)) => self.give_back_departing(),
                Some(()) = self.background.next() => {}
                () = self.capacity_waiter.granted.notified() => {}
                Ok(()) = self.signals.changed() => self.apply_signals(),
                () = &mut stopped, if !self.state.clearance.is_stopping() => {}
                () = &mut alarm => {}
            }
        }
        self.hand_over_pairs().await;
        self.return_warm_up().await;
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = LineStatus::default();
    }

    /// Reads the people to whom the last owner of the line has just sent. If Redis does not answer, waits until the
    /// pair spacing has passed.
    async fn take_over_pairs(&mut self) {
        let (line, spacing) = (&self.state.line.id, self.state.settings.pair_spacing);
        let began = Instant::now();
        while began.elapsed() < spacing && !self.stop.is_cancelled() {
            match self.store.last_sends(line).await {
                Ok(Some(LastSends { sends, at })) => {
                    let since = self.state.clock.now().since(at);
                    return self.pairs.take_over(&sends, since, Instant::now());
                }
                Ok(None) => return,
                // An outage of Redis is logged for the whole worker.
                Err(_) => tokio::time::sleep(PAIRS_RETRY).await,
            }
        }
    }

    /// Stores the people to whom the line has just sent, for its next owner. If this fails, the lease cannot be
    /// released either, and by its end the pair spacing has passed.
    async fn hand_over_pairs(&mut self) {
        let (line, spacing) = (&self.state.line.id, self.state.settings.pair_spacing);
        let sends = self.pairs.recent(Instant::now());
        if sends.is_empty() {
            return;
        }
        let sends = LastSends { sends, at: self.state.clock.now() };
        if let Err(error) = self.store.put_last_sends(line, &sends, spacing).await {
            warn!(line.id = %line, %error, "the last sends of the line could not be stored for its next owner");
        }
    }

    /// Returns the messages of the warm-up's daily share that the line has taken and not sent. If this fails, they
    /// count as sent.
    async fn return_warm_up(&mut self) {
        let line = &self.state.line.id;
        let Some((number, n)) = self.state.warm_up.as_ref().and_then(|warm_up| warm_up.borrow().unsent()) else {
            return;
        };
        if let Err(error) = self.store.return_warm_up(line, number, n).await {
            warn!(line.id = %line, %error, n, "the rest of the day's share of the line's warm-up could not be returned");
        }
    }

    /// Whether the line's warm-up lets a message leave now. If not, takes another portion of the day's share, or gives
    /// the messages back if the share is spent.
    fn is_within_warm_up(&mut self, kind: LaneKind) -> bool {
        if kind == LaneKind::Chats {
            return true;
        }
        let grant = self.state.warm_up_grant();
        match (grant, &self.state.warm_up) {
            (WarmUpGrant::TakeFirst, Some(warm_up)) => {
                let wanted = u32::try_from(batch::claim_rows(self.state.rate())).unwrap_or(u32::MAX);
                let (store, line, now) = (self.store.clone(), self.state.line.id.clone(), self.state.clock.now());
                self.background.push(Box::pin(WarmUp::take(warm_up, store, line, wanted, now)));
            }
            (WarmUpGrant::Spent, _) => self.give_back_stopped(),
            (WarmUpGrant::Granted | WarmUpGrant::TakeFirst | WarmUpGrant::Waiting, _) => {}
        }
        grant == WarmUpGrant::Granted
    }

    /// Gives back the messages of campaigns at the front of the lane whose recipients got a message from this line
    /// within the pair spacing.
    fn defer_pairs(&mut self, now: Instant) {
        while self.lane.has_next(LaneKind::Campaigns, now)
            && let Some(Addressee { to, campaign }) = self.lane.next_addressee()
            && let Some(at) = self.pairs.wait_until(to, campaign, now)
        {
            self.lane.defer_next(at - now, &self.state);
        }
    }

    /// Records the recipient of a message that leaves.
    fn note_pair(&mut self, unit: &L::Unit, now: Instant) {
        if let Some(Addressee { to, campaign }) = self.lane.addressee(unit) {
            self.pairs.sent(to, campaign, now);
        }
    }

    /// The attempt that may begin or continue now, if any. If there is none, remembers when to look again.
    fn next_to_send(&mut self, now: Instant) -> Option<PendingAttempt<L::Unit>> {
        self.capacity_retry_at = None;
        let mut waits = false;
        for kind in LaneKind::ALL {
            if let Some(departing) = self.departing.iter().position(|waiting| self.lane.kind(&waiting.unit) == kind) {
                let may_leave = self.is_within_warm_up(kind) && self.take_pace(kind, now);
                if let Some(departing) = may_leave.then(|| self.departing.remove(departing)).flatten() {
                    self.record_departure(kind, now);
                    self.note_pair(&departing.unit, now);
                    return Some(departure(departing, now));
                }
                waits = true;
            } else if self.wants_to_send(kind, now) {
                if let Some(attempt) = self.begin_next(kind, now) {
                    return Some(attempt);
                }
                waits = true;
            }
        }
        if !waits {
            self.unconnected_since = None;
            self.capacity_waiter.yield_permit();
        }
        None
    }

    /// Begins the attempt of the next message of this kind, if there is a connection and its pace allows it.
    ///
    /// A message gets its connection before its pace. A message that was paced and then waited for a connection would
    /// reach Meta together with those that were paced meanwhile.
    fn begin_next(&mut self, kind: LaneKind, now: Instant) -> Option<PendingAttempt<L::Unit>> {
        let Some(permit) = self.sender.permit(now) else {
            self.capacity_waiter.yield_permit();
            self.capacity_retry_at = Some(now + CAPACITY_RETRY);
            let since = *self.unconnected_since.get_or_insert(now);
            if let Some(reason) = self.sender.unreachable_since(since) {
                self.unconnected_since = None;
                self.unreachable(now, &reason);
            }
            return None;
        };
        self.unconnected_since = None;
        let Some(attempt_permit) = self.state.shard.try_acquire(now, &self.capacity_waiter) else {
            self.capacity_retry_at = Some(now + CAPACITY_RETRY);
            return None;
        };
        match permit {
            Permit::New(_) => {
                // The message is paced when it has its connection. The next message is not due before this one could
                // leave.
                let traffic = self.traffic(kind, now);
                self.state.clearance.skip_one(traffic, now);
            }
            Permit::Open(_) if !self.take_pace(kind, now) => return None,
            Permit::Open(_) => self.record_departure(kind, now),
        }
        self.active_line.get_or_insert_with(|| self.state.shard.activate_line());
        let (unit, message) = self.lane.take(kind, now, &self.state)?;
        self.note_pair(&unit, now);
        Some(self.attempt(unit, message, now, permit, attempt_permit))
    }

    /// By which limits a message of this kind is paced.
    fn traffic(&mut self, kind: LaneKind, now: Instant) -> Traffic {
        match kind {
            LaneKind::Campaigns => Traffic::Campaign,
            LaneKind::Chats if self.lane.has_next(LaneKind::Campaigns, now) => Traffic::ChatBesideCampaigns,
            LaneKind::Chats => Traffic::Chat,
        }
    }

    /// Takes the right to send one message now. If that fails, the clearance remembers when to try again.
    fn take_pace(&mut self, kind: LaneKind, now: Instant) -> bool {
        let traffic = self.traffic(kind, now);
        let may_leave = self.state.path.may_send() && self.state.clearance.take(traffic, now);
        if !may_leave && let Some(until) = self.state.clearance.send_at(traffic) {
            self.metrics.paced(until.saturating_duration_since(self.paced_until.max(now)));
            self.paced_until = self.paced_until.max(until);
        }
        may_leave
    }

    /// Records that a message leaves.
    fn record_departure(&mut self, kind: LaneKind, now: Instant) {
        self.slots.began(now, self.attempts.len(), self.state.shard.capacity());
        self.state.path.began(now);
        if let Some(warm_up) = self.state.warm_up.as_ref().filter(|_| kind == LaneKind::Campaigns) {
            warm_up.borrow_mut().spend();
        }
    }

    fn wants_to_send(&mut self, kind: LaneKind, now: Instant) -> bool {
        if kind == LaneKind::Campaigns {
            self.defer_pairs(now);
        }
        if !self.lane.has_next(kind, now) || !self.state.path.may_send() {
            return false;
        }
        let traffic = self.traffic(kind, now);
        if !self.state.clearance.may_send(traffic, now) {
            return false;
        }
        // A line that is short of slots sends more than Meta answers in time. A chat is never the cause of that.
        let has_slot = kind == LaneKind::Chats || self.attempts.len() < self.slots.limit();
        if !has_slot {
            self.capacity_retry_at = Some(self.slots.at_limit(now, self.state.rate()));
        }
        has_slot && self.is_within_warm_up(kind)
    }

    fn attempt(
        &self,
        unit: L::Unit,
        message: SendRequest,
        began: Instant,
        permit: Permit,
        attempt_permit: AttemptPermit,
    ) -> PendingAttempt<L::Unit> {
        match permit {
            Permit::Open(permit) => {
                let outcome = self.sender.send(permit, message);
                Box::pin(async move {
                    let outcome = outcome.await;
                    drop(attempt_permit);
                    Attempt { unit, began, event: outcome.map_or(AttemptEvent::NotSent, AttemptEvent::Ended) }
                })
            }
            Permit::New(permit) => {
                let sender = self.sender.clone();
                Box::pin(async move {
                    let event = match sender.connect(permit, message).await {
                        Ok(departure) => AttemptEvent::Connected(Box::new(Connected { departure, attempt_permit })),
                        Err(outcome) => AttemptEvent::Ended(outcome),
                    };
                    Attempt { unit, began, event }
                })
            }
        }
    }

    fn handle_attempt(&mut self, Attempt { unit, began, event }: Attempt<L::Unit>, now: Instant) {
        match event {
            AttemptEvent::Ended(outcome) => {
                let outcome = match outcome {
                    Outcome::Rerouted(cause) if !self.lane.can_be_rerouted(&unit) => policy::not_rerouted(cause),
                    outcome => outcome,
                };
                let outcome = match self.lane.addressee(&unit) {
                    Some(Addressee { to, .. }) => self.pairs.judge(to, outcome),
                    None => outcome,
                };
                self.attempt_ended(unit, &outcome, began, now);
            }
            AttemptEvent::Connected(connected) => {
                self.departing.push_back(Departing { unit, connected });
                self.state.clearance.ask_again();
                // The line or the message may have been stopped meanwhile.
                self.give_back_stopped();
            }
            AttemptEvent::NotSent => {
                self.state.path.not_written(began);
                self.refund_warm_up(&unit);
                self.lane.give_back(unit, &self.state);
            }
        }
    }

    /// Records that a message that left was certainly not sent.
    fn refund_warm_up(&mut self, unit: &L::Unit) {
        let is_counted = self.lane.kind(unit) == LaneKind::Campaigns;
        if let Some(warm_up) = self.state.warm_up.as_ref().filter(|_| is_counted) {
            warm_up.borrow_mut().refund();
        }
    }

    fn attempt_ended(&mut self, unit: L::Unit, outcome: &Outcome, began: Instant, now: Instant) {
        let capacity = self.state.shard.capacity();
        self.metrics.attempt(outcome, now - began);
        self.slots.ended(now, capacity);
        if let Some(Cause::Meta { code, .. }) = outcome.cause() {
            metrics::meta_error(Some(*code));
        }
        if let Outcome::InDoubt(cause) = outcome {
            self.log.doubt(&self.state.line.id, cause.details(), now);
        }
        if let Outcome::Accepted { .. } = outcome {
            self.accepted += 1;
            self.slots.accepted(began, now, self.state.rate(), capacity);
            self.state.shard.accepted(now - began);
        }
        self.update_path(outcome, began, now);
        if is_refused(outcome) {
            self.refund_warm_up(&unit);
        }
        let consequence = consequence(outcome);
        if consequence != Consequence::Unreachable && self.state.reached() {
            info!(line.id = %self.state.line.id, "Meta can be reached again");
        }
        let mut stopped = false;
        match consequence {
            Consequence::None => {}
            Consequence::SlowDown => self.state.clearance.pacer.throttled(now),
            Consequence::Reroute => self.reroute(),
            Consequence::Unreachable => self.unreachable(now, outcome.cause().map_or("", Cause::details)),
            Consequence::Hold { scope, wait } => {
                let (line, template) = (&self.state.line, self.lane.template(&unit));
                let origin = ErrorOrigin {
                    line: &line.id,
                    waba: &line.waba,
                    business: Some(&line.business),
                    country: self.lane.addressee(&unit).map(|addressee| CallingCode::of(addressee.to.phone())),
                    template: template.as_ref(),
                };
                if let Some(held) = HoldScope::of_error(scope, origin) {
                    self.hold(held, wait, outcome);
                    stopped = true;
                }
            }
        }
        let opened = self.state.shard.breaker.borrow_mut().record(outcome, self.state.clock.now());
        if let Some(wait) = opened {
            self.hold(HoldScope::Platform, Some(wait), outcome);
            stopped = true;
        }
        stopped |= self.lane.settle(unit, outcome, &self.state);
        if stopped {
            self.give_back_stopped();
        }
    }

    /// Updates the health of the path to Meta by an outcome. If the path is broken, gives all messages back.
    fn update_path(&mut self, outcome: &Outcome, began: Instant, now: Instant) {
        match outcome.cause() {
            None | Some(Cause::Meta { .. }) => {
                if self.state.path_answered(now) {
                    info!(line.id = %self.state.line.id, "Meta answers messages again");
                    self.lane.wake();
                }
            }
            Some(Cause::Unreachable(_)) => self.state.path.not_written(began),
            Some(Cause::Unanswered(cause)) => {
                if let Some(pause) = self.state.path_unanswered(began, now, cause) {
                    warn!(
                        line.id = %self.state.line.id,
                        cause,
                        pause_ms = pause.as_millis() as u64,
                        "the path to Meta is broken: the line sends nothing until Meta answers; \
                         look at the proxy and the network, and at Meta's status page"
                    );
                    self.give_back_all();
                }
            }
        }
    }

    /// While the path to Meta is broken: probes Meta when that is due, and applies the results.
    fn probe_path(&mut self, now: Instant) {
        if self.state.clearance.is_stopping() || !self.state.path.is_stopped() {
            return;
        }
        let line = &self.state.line;
        let probe = self.state.shard.probes.get(&line.waba);
        if let Some(result) = probe.result()
            && self.state.path.apply_probe(result, now, rand::random())
        {
            debug!(line.id = %line.id, "Meta answered a probe: trying one message before the others");
            self.lane.wake();
        }
        if self.state.path.probe_at().is_some_and(|at| now >= at)
            && let Some(guard) = probe.start()
        {
            let (graph, line, stop) = (self.graph.clone(), line.clone(), self.stop.clone());
            self.background.push(Box::pin(async move {
                let answer = tokio::time::timeout(PROBE_TIMEOUT, graph.line(&line.id, &line.token));
                // A stop does not wait for the probe.
                let Some(answer) = stop.run_until_cancelled(answer).await else { return };
                // A refusal by Meta is an answer too.
                let answered = matches!(answer, Ok(Ok(_) | Err(GraphError::Refused { .. })));
                guard.finish(ProbeResult { at: Instant::now(), answered });
            }));
        }
    }

    fn unreachable(&mut self, now: Instant, cause: &str) {
        let Some(pause) = self.state.not_reached(now, cause) else { return };
        warn!(line.id = %self.state.line.id, pause_ms = pause.as_millis() as u64, cause, "Meta cannot be reached");
        self.give_back_all();
    }

    /// Sends marketing of the WABA through the Marketing Messages API from now on, on every line.
    fn reroute(&mut self) {
        let Some(until) = self.state.reroute() else { return };
        let (store, waba) = (self.store.clone(), self.state.line.waba.clone());
        warn!(waba.id = %waba, "Meta takes marketing of this waba only through the marketing messages api: it is sent \
            through it from now on; set waba.marketing_api");
        self.background.push(Box::pin(async move {
            // If this fails, other lines get the same answer from Meta and store it then.
            if let Err(error) = store.reroute(&waba, until).await {
                warn!(waba.id = %waba, %error, "that marketing goes through the marketing messages api could not be stored");
            }
        }));
    }

    fn hold(&mut self, scope: HoldScope, wait: Option<Duration>, outcome: &Outcome) {
        let (code, details) = outcome.cause().map_or((None, ""), |cause| (cause.code(), cause.details()));
        let since = self.state.clock.now();
        let hold = Hold { code, reason: details.to_owned(), since, until: wait.map(|wait| since.after(wait)) };
        if !self.state.add_hold(scope.clone(), hold.clone(), Instant::now()) {
            return;
        }
        let (store, line) = (self.store.clone(), self.state.line.id.clone());
        self.background.push(Box::pin(async move {
            match store.hold_at_least(&scope, &hold).await {
                Ok(true) => {
                    let (code, until) = (hold.code.map(|code| code.0), hold.until.map(display));
                    warn!(line.id = %line, %scope, code, reason = hold.reason, until, "held back");
                }
                // Another line or process got the same answer from Meta before.
                Ok(false) => {}
                // The next attempt gets the same answer from Meta and stores the hold then.
                Err(error) => warn!(%scope, %error, "the hold could not be stored"),
            }
        }));
    }

    fn apply_signals(&mut self) {
        let now = Instant::now();
        let lines = self.state.apply_signals(now);
        self.lane.changed(now, lines);
        self.give_back_stopped();
    }

    /// Gives back every message that has not left.
    fn give_back_all(&mut self) {
        for Departing { unit, .. } in mem::take(&mut self.departing) {
            self.lane.give_back(unit, &self.state);
        }
        self.lane.give_back_ready(&self.state);
    }

    /// Gives back the messages that have not left and must not be sent now.
    fn give_back_stopped(&mut self) {
        if !self.state.keeps_claimed() {
            return self.give_back_all();
        }
        self.lane.give_back_stopped(&self.state);
        self.give_back_departing();
    }

    /// As [`Self::give_back_stopped`], for the messages on new connections.
    fn give_back_departing(&mut self) {
        for departing in mem::take(&mut self.departing) {
            if self.lane.is_stopped(&departing.unit, &self.state) {
                self.lane.give_back(departing.unit, &self.state);
            } else {
                self.departing.push_back(departing);
            }
        }
    }

    /// When the loop has to run again if nothing happens before.
    fn wake_at(&self, now: Instant) -> Instant {
        let has_slot = self.attempts.len() < self.slots.limit() || !self.departing.is_empty();
        let deadlines = [
            self.state.clearance.deadline(now, has_slot),
            self.capacity_retry_at,
            self.state.path.probe_at().filter(|at| *at > now),
            self.lane.deadline(now),
        ];
        deadlines.into_iter().flatten().fold(now + IDLE_MAX, Instant::min)
    }

    /// Updates since when the line is stopped for each reason. If the beginning is not known, uses the time at which
    /// this runner noticed.
    fn update_stops(&mut self, now: Instant) {
        let clock = self.state.clock.now();
        for (&stop, since) in LineStop::ALL.iter().zip(&mut self.stops) {
            let began = |at: Option<UnixMs>| at.and_then(|at| now.checked_sub(clock.since(at)));
            *since = self.state.stopped_since(stop, now, clock).map(|at| began(at).or(*since).unwrap_or(now));
        }
    }

    fn publish(&mut self, now: Instant) {
        if now < self.publish_at {
            return;
        }
        self.publish_at = now + PUBLISH_EVERY;
        if now >= self.rate_at {
            self.rate_at = now + inbound::READ_EVERY;
            self.state.update_rate(now);
        }
        let throttled = self.state.clearance.pacer.is_cut();
        self.log.throttled(&self.state.line.id, throttled, self.state.rate());
        let (in_flight, ready) = (self.attempts.len() + self.departing.len(), self.lane.ready());
        self.active_line.take_if(|_| in_flight == 0 && ready == 0);
        self.update_stops(now);
        self.metrics.publish(LineGauges {
            configured_rate: self.state.rate_in_force(),
            rate: self.state.rate(),
            in_flight,
            stops: self.stops,
        });
        let status = LineStatus {
            rate: self.state.rate(),
            throttled,
            in_flight,
            unstored: self.lane.unstored(),
            ready,
            accepted: self.accepted,
            unreachable: self.state.unreachable(now).cloned(),
            path_broken: self.state.path_broken(now),
            warm_up_until: self.state.warm_up_spent_until(),
        };
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

/// Whether the outcome is an answer from Meta that refuses the message.
fn is_refused(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Accepted { .. } | Outcome::InDoubt(_) => false,
        Outcome::Throttled { .. }
        | Outcome::Retry { .. }
        | Outcome::Withheld(_)
        | Outcome::Rerouted(_)
        | Outcome::Failed { .. }
        | Outcome::Blocked { .. } => {
            matches!(outcome.cause(), Some(Cause::Meta { .. }))
        }
    }
}

/// Lets a message leave on its new connection.
fn departure<U: 'static>(Departing { unit, connected }: Departing<U>, began: Instant) -> PendingAttempt<U> {
    let Connected { departure, attempt_permit } = *connected;
    Box::pin(async move {
        let outcome = departure.leave().await;
        drop(attempt_permit);
        Attempt { unit, began, event: AttemptEvent::Ended(outcome) }
    })
}
