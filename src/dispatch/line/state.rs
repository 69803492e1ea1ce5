//! The state of a line: its rate, its lease, and whether something stops it. The runner changes it; its lane reads it.

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    clearance::Clearance,
    holds::Holds,
    path::PathHealth,
    warm_up::{WarmUp, WarmUpGrant},
};
use crate::{
    dispatch::{DispatchSettings, RunnerSignals, lease::Lease, shard::Shard},
    domain::{CallingCode, Hold, HoldScope, Line, MessagingLimit, MetaCode, UnixMs, policy},
    graph::client::Edge,
    redis::clock::Clock,
    rules::{self, rate::LaneRates},
    telemetry::metrics::LineStop,
};

/// A line that cannot reach Meta and has messages to send tries again within this time after its pause, even if each
/// attempt to connect takes its whole timeout. Later the line has nothing to send, and whether Meta can be reached is
/// not known.
const UNTRIED: Duration = Duration::from_secs(60);

/// The first and the longest pause of the line while Meta is unreachable.
const UNREACHABLE_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// Why a line does not get through to Meta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaOutage {
    /// The error, or what came instead of Meta's answer.
    pub cause: String,
    /// When it began.
    pub since: UnixMs,
}

/// Meta could not be reached by the last attempt.
struct Unreachable {
    outage: MetaOutage,
    /// Pauses in a row.
    pauses: u32,
    /// The end of the last pause.
    paused_until: Instant,
}

/// The state of one line.
pub struct LineState {
    /// The line.
    pub line: Line,
    /// The settings of dispatch.
    pub settings: DispatchSettings,
    /// The clock of Redis.
    pub clock: Arc<Clock>,
    /// Whether the next message may leave, by lease and pace.
    pub clearance: Clearance,
    /// What the line shares with the other lines of its dispatch thread.
    pub shard: Rc<Shard>,
    /// Whether the path to Meta works.
    pub path: PathHealth,
    /// The line's warm-up, if it has one. Shared with the calls that take its portions.
    pub warm_up: Option<Rc<RefCell<WarmUp>>>,
    holds: Holds,
    /// The end of the time in which marketing of the line's WABA goes through the Marketing Messages API, if an answer
    /// to this line has set it.
    rerouted_until: Option<UnixMs>,
    signals: watch::Receiver<Arc<RunnerSignals>>,
    /// Since when the path to Meta is broken, if it is.
    broken_since: Option<UnixMs>,
    /// `None` if the last attempt reached Meta.
    unreachable: Option<Unreachable>,
}

impl LineState {
    /// The state of a line that starts now.
    pub fn new(
        line: Line,
        settings: DispatchSettings,
        clock: Arc<Clock>,
        lease: Arc<Lease>,
        shard: Rc<Shard>,
        signals: watch::Receiver<Arc<RunnerSignals>>,
        now: Instant,
    ) -> Self {
        let rates = rates(&line, &settings, &signals.borrow());
        let warm_up = WarmUp::of(&line).map(|warm_up| Rc::new(RefCell::new(warm_up)));
        Self {
            holds: Holds::new(&line),
            rerouted_until: None,
            line,
            settings,
            clock,
            clearance: Clearance::new(lease, rates, now),
            shard,
            path: PathHealth::default(),
            warm_up,
            signals,
            broken_since: None,
            unreachable: None,
        }
    }

    /// The present rate of the campaigns, in messages per second.
    pub fn rate(&self) -> f64 {
        self.clearance.pacer.rate()
    }

    /// The whole rate that is in force for the line, in messages per second, inbound and outbound together.
    pub fn rate_in_force(&self) -> f64 {
        let signals = self.signals.borrow();
        let control = signals.controls.get(&self.line.id);
        let (operator, allowance) = control.map_or_else(Default::default, |control| (control.rate, control.allowance));
        rules::rate::in_force(operator, self.line.messages_per_second, allowance).per_second
    }

    /// Whether more messages of campaigns may be claimed.
    pub fn may_claim(&self, now: Instant) -> bool {
        self.may_claim_chats(now) && self.warm_up_spent_until().is_none()
    }

    /// Whether more messages of chats may be claimed. The warm-up does not limit them, because a person waits for each.
    pub fn may_claim_chats(&self, now: Instant) -> bool {
        self.signals.borrow().controls.contains_key(&self.line.id)
            && self.is_sending()
            && self.paused_until(now).is_none()
            && self.clearance.lease.is_valid(now)
    }

    /// Whether a claimed message of a campaign may wait on the line to be sent.
    pub fn keeps_claimed(&self) -> bool {
        self.is_sending() && self.warm_up_spent_until().is_none()
    }

    /// Whether nothing stops the line as a whole.
    pub fn is_sending(&self) -> bool {
        !self.clearance.is_stopping() && !self.is_stopped()
    }

    /// Whether the line's warm-up lets a message leave now.
    pub fn warm_up_grant(&self) -> WarmUpGrant {
        self.warm_up.as_ref().map_or(WarmUpGrant::Granted, |warm_up| warm_up.borrow().grant(self.clock.now()))
    }

    /// When the next day of the line's warm-up begins, if the share of this day is spent.
    pub fn warm_up_spent_until(&self) -> Option<UnixMs> {
        self.warm_up.as_ref().and_then(|warm_up| warm_up.borrow().spent_until(self.clock.now()))
    }

    /// Whether nothing may be sent: the line is held or paused, or the path to Meta is broken.
    pub fn is_stopped(&self) -> bool {
        let (signals, now) = (self.signals.borrow(), self.clock.now());
        self.path.is_stopped()
            || self.holds.line_paused(&signals).is_some()
            || self.holds.line_held(&signals, now).is_some()
    }

    /// When the stop of the line for this reason began; `None` if the line is not stopped for it. The inner value is
    /// `None` if the time is not known.
    pub fn stopped_since(&self, stop: LineStop, now: Instant, clock: UnixMs) -> Option<Option<UnixMs>> {
        match stop {
            LineStop::Paused => self.holds.line_paused(&self.signals.borrow()),
            LineStop::Held => self.holds.line_held(&self.signals.borrow(), clock).map(Some),
            LineStop::PathBroken => self.path_broken(now).map(|outage| Some(outage.since)),
            LineStop::Unreachable => self.unreachable(now).map(|outage| Some(outage.since)),
            LineStop::WarmUp => self.warm_up_spent_until().map(|_| None),
        }
    }

    /// The end of the line's pause because Meta is unreachable, if it has not passed.
    pub fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.unreachable.as_ref().map(|unreachable| unreachable.paused_until).filter(|until| now < *until)
    }

    /// Why Meta cannot be reached, from the first attempt that failed until one that succeeds.
    pub fn unreachable(&self, now: Instant) -> Option<&MetaOutage> {
        let Unreachable { outage, paused_until, .. } = self.unreachable.as_ref()?;
        (now < *paused_until + UNTRIED).then_some(outage)
    }

    /// Why the path to Meta is broken, from its first stop until Meta answers a message.
    pub fn path_broken(&self, now: Instant) -> Option<MetaOutage> {
        let cause = self.path.broken_by(now)?.to_owned();
        Some(MetaOutage { cause, since: self.broken_since? })
    }

    /// Records that Meta answered an attempt. Returns whether that ends an outage of the path.
    pub fn path_answered(&mut self, now: Instant) -> bool {
        self.broken_since = None;
        self.path.answered(now)
    }

    /// Records that the attempt that began at `began` was unanswered, because of `cause`. If that stops the line,
    /// returns the pause before the next probe.
    pub fn path_unanswered(&mut self, began: Instant, now: Instant, cause: &str) -> Option<Duration> {
        let pause = self.path.unanswered(began, now, cause, rand::random())?;
        self.broken_since.get_or_insert_with(|| self.clock.now());
        Some(pause)
    }

    /// Whether a scope is held at `now`.
    pub fn is_held(&self, scope: &HoldScope, now: UnixMs) -> bool {
        self.holds.is_held(scope, &self.signals.borrow(), now)
    }

    /// The messaging limit of the line's business; `None` until it is known.
    pub fn messaging_limit(&self) -> Option<MessagingLimit> {
        self.signals.borrow().messaging_limits.get(&self.line.business).copied()
    }

    /// The edge to which a message is posted. `is_marketing`: whether its template is marketing.
    pub fn edge(&self, is_marketing: bool) -> Edge {
        let is_rerouted = || {
            let told = self.signals.borrow().rerouted.get(&self.line.waba).copied();
            told.max(self.rerouted_until).is_some_and(|until| self.clock.now() < until)
        };
        match is_marketing && (self.line.marketing_api || is_rerouted()) {
            true => Edge::MarketingMessages,
            false => Edge::Messages,
        }
    }

    /// Records that the line's WABA sends marketing only through the Marketing Messages API from now on. Returns until
    /// when, or `None` if that was known already.
    pub fn reroute(&mut self) -> Option<UnixMs> {
        let until = self.clock.now().after(policy::REROUTED_FOR);
        let is_known = self.edge(true) == Edge::MarketingMessages;
        self.rerouted_until = Some(until);
        (!is_known).then_some(until)
    }

    /// The countries that are held at `now`, each with Meta's code.
    pub fn held_countries(&self, now: UnixMs) -> HashMap<CallingCode, MetaCode> {
        self.holds.held_countries(&self.signals.borrow(), now)
    }

    /// Adds a hold that an answer of Meta just called for. Returns whether the scope was not held before.
    pub fn add_hold(&mut self, scope: HoldScope, hold: Hold, now: Instant) -> bool {
        self.holds.add_local(scope, hold, &self.signals.borrow(), now)
    }

    /// Applies new signals from operators and other workers. Returns the number of lines that the change concerns.
    pub fn apply_signals(&mut self, now: Instant) -> usize {
        let signals = self.signals.borrow_and_update().clone();
        self.holds.apply_signals(&signals);
        if let Some(line) = signals.lines.by_id(&self.line.id).filter(|line| self.line.can_become(line)) {
            self.line.clone_from(line);
        }
        self.update_rate(now);
        signals.controls.len()
    }

    /// Sets the rate from the signals and the rate of inbound messages.
    pub fn update_rate(&mut self, now: Instant) {
        let rates = rates(&self.line, &self.settings, &self.signals.borrow());
        self.clearance.set_rates(rates, now);
    }

    /// Records that Meta was unreachable, because of `cause`. Returns the pause, or `None` if the line pauses already.
    pub fn not_reached(&mut self, now: Instant, cause: &str) -> Option<Duration> {
        if self.paused_until(now).is_some() {
            return None; // The attempt was in flight together with the one that started the pause.
        }
        let (first, longest) = UNREACHABLE_PAUSE;
        let pauses = self.unreachable.as_ref().map_or(0, |unreachable| unreachable.pauses);
        let pause = (first * 2u32.saturating_pow(pauses.min(16))).min(longest);
        let since = self.unreachable(now).map_or_else(|| self.clock.now(), |outage| outage.since);
        self.unreachable = Some(Unreachable {
            outage: MetaOutage { cause: cause.to_owned(), since },
            pauses: pauses.saturating_add(1),
            paused_until: now + pause,
        });
        Some(pause)
    }

    /// Records that an attempt reached Meta. Returns whether Meta could not be reached before.
    pub fn reached(&mut self) -> bool {
        self.unreachable.take().is_some()
    }
}

/// What the lanes of a line may send while Meta does not throttle it.
fn rates(line: &Line, settings: &DispatchSettings, signals: &RunnerSignals) -> LaneRates {
    let control = signals.controls.get(&line.id).cloned().unwrap_or_default();
    let in_force = rules::rate::in_force(control.rate, line.messages_per_second, control.allowance);
    let inbound = signals.inbound.of(&line.id);
    rules::rate::for_lanes(in_force.per_second, control.allowance, settings.headroom, inbound)
}
