//! A line runner: claims, paces, sends and settles for one line, while its worker has the lease.
//!
//! One task that owns all its state. It waits for whatever comes first: an answer of Meta, an answer of Redis, its pace,
//! a signal, a time. Nothing in it waits for one of these while another could go on.
//!
//! If the process dies: rows that it had claimed are in flight in Redis, and the next owner puts them in doubt. If it loses its lease
//! or stops: what it has not sent goes back, what it has sent is settled, and nothing is left in doubt that need not be.

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
use tracing::{info, warn};

use super::{
    Settings, Signals,
    backlog::{Backlog, Next},
    calls::{Calls, Claimed, Done, Outcomes, Refresh, Settlement},
    holds::Holds,
    lease::Lease,
    message::Message,
    pace::Pacer,
    settle::{self, Consequence},
    slots::Slots,
    thread::{Begun, Sending, Thread, Waiter},
};
use crate::{
    domain::{
        CampaignId, CampaignState, Cause, Hold, HoldScope, Line, OnDoubt, Outcome, PartId, Scope, TokenKey, UnixMs,
        campaign::PauseReason, policy,
    },
    graph::client::LineSender,
    ops::metrics::{self, LineMetrics},
    store::{
        Store, StoreError,
        clock::Clock,
        parts::{Claim, ClaimWish, ClaimedRow, Settled, ToSend},
    },
};

/// A claim takes what the line sends in this time.
const CLAIM_WINDOW: Duration = Duration::from_millis(50);

/// Rows in one claim at most: a script call of this size takes Redis well below a millisecond.
const CLAIM_ROWS_MAX: usize = 256;

/// Outcomes wait this long for others, unless there are [`CLAIM_ROWS_MAX`] of them.
const SETTLE_WINDOW: Duration = Duration::from_millis(25);

/// A call of Redis costs much the same for one row as for some: a slow line claims and settles so many together, ...
const ROWS_TOGETHER: f64 = 4.0;

/// ... unless that takes longer than this: what was claimed and not sent when a worker is killed ends as unknown.
const WINDOW_MAX: Duration = Duration::from_millis(200);

/// Where the thread has no room for another attempt, and none ends: when to look again.
const ROOM_WAIT: Duration = Duration::from_millis(10);

/// Parts that are taken off the work together at most, ...
const FINISHED_MAX: usize = 64;

/// ... for which a line that still has messages to send waits so long.
const FINISH_WINDOW: Duration = Duration::from_millis(100);

/// After Redis failed, the next try is that much later.
const REDIS_PAUSE: Duration = Duration::from_millis(250);

/// A part that can't be taken over yet is looked at again after this time.
const YOUNG_PAUSE: Duration = Duration::from_millis(250);

/// Meta out of reach: first and longest wait of the line.
const UNREACHABLE_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// That many failures in a row, all with one code that blames the message, pause the campaign.
const BREAKER: u32 = 20;

/// A line with nothing to do looks again after this time, whatever happens: holds end by the clock.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// All lines are told of a change at once, and read what it is within so long for each line that there is.
const REFRESH_SPREAD: Duration = Duration::from_millis(1);

/// A reading asks for each campaign of the line, and each that ends asks for one: from one to the next there is so long for each
/// that is known, or a thousand campaigns would keep Redis busy with nothing else.
const REFRESH_PAUSE: Duration = Duration::from_micros(250);

/// How often others are told how the line does.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);

/// Everything a runner needs.
pub struct Setup {
    /// Redis.
    pub store: Store,
    /// Redis' time.
    pub clock: Arc<Clock>,
    /// The line.
    pub line: Line,
    /// How messages of the line are sent.
    pub sender: LineSender,
    /// Policy.
    pub settings: Settings,
    /// Signs tokens.
    pub token_key: TokenKey,
    /// The right to send.
    pub lease: Arc<Lease>,
    /// What operators and other workers say.
    pub signals: watch::Receiver<Arc<Signals>>,
    /// Stop claiming, finish, and return.
    pub stop: CancellationToken,
    /// What others may know of this line.
    pub status: Arc<Mutex<LineStatus>>,
    /// What it shares with the other lines of its thread.
    pub thread: Rc<Thread>,
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
    /// When the first of them came.
    since: Instant,
    outcomes: Vec<(ClaimedRow, Settled)>,
}

type OnItsWay = Attempt<LocalBoxFuture<'static, Outcome>>;

impl Future for OnItsWay {
    type Output = Attempt<Outcome>;

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
    setup: Setup,
    metrics: LineMetrics,
    sender: Rc<LineSender>,
    pacer: Pacer,
    slots: Slots,
    backlog: Backlog,
    calls: Calls,
    ready: VecDeque<Message>,
    outcomes: BTreeMap<PartId, Gathered>,
    /// Parts in which nothing is open.
    finished: HashSet<PartId>,
    /// When they are taken off the work at the latest.
    finish_at: Option<Instant>,
    /// Parts whose time is over.
    expired: HashSet<PartId>,
    /// Parts of which a claim was not answered: they may have rows in flight that nobody here knows of.
    unsure: HashSet<PartId>,
    /// Redis was asked what is in flight, to be compared with what is known here.
    listing: bool,
    /// For the other lines of the thread, while there is something to send.
    among: Option<Sending>,
    claims: u64,
    noted: HashSet<(PartId, u32)>,
    holds: Holds,
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
    send_at: Option<Instant>,
    /// Where slots or its thread are what it waits for: when to look for more.
    full_at: Option<Instant>,
    waiter: Rc<Waiter>,
    held_since: Option<Instant>,
    publish_at: Instant,
    accepted: u64,
}

impl Runner {
    /// A runner for the line of `setup`.
    pub fn new(setup: Setup) -> Self {
        let now = Instant::now();
        let rate = setup.line.messages_per_second * (1.0 - setup.settings.headroom);
        let calls = Calls {
            store: setup.store.clone(),
            clock: setup.clock.clone(),
            line: setup.line.id.clone(),
            ids_kept: setup.settings.ids_kept,
            recipients: Rc::default(),
            thread: setup.thread.clone(),
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
            outcomes: BTreeMap::new(),
            finished: HashSet::new(),
            finish_at: None,
            expired: HashSet::new(),
            unsure: HashSet::new(),
            listing: false,
            among: None,
            claims: 0,
            noted: HashSet::new(),
            refresh_at: None,
            refresh_from: now,
            stopping: false,
            redis_again_at: None,
            redis_failing: false,
            idle_until: None,
            unreachable: 0,
            reachable_at: None,
            send_at: None,
            full_at: None,
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
            while let Some((ready, begun)) = self.next_to_send(now, attempts.len()) {
                attempts.push(self.attempt(&ready, now, begun));
            }
            if !redis_busy && let Some(call) = self.next_call(now, settling_busy) {
                (redis, redis_busy) = (Some(call).into(), true);
            }
            // Nor is anything settled until that comparison is done: what is settled is known here no more.
            if !settling_busy
                && !self.listing
                && let Some(outcomes) = self.outcomes_to_settle(now, attempts.len())
            {
                (settling, settling_busy) = (Some(self.calls.settle(outcomes, self.setup.lease.epoch)).into(), true);
            }
            if self.stopping
                && attempts.is_empty()
                && !redis_busy
                && !settling_busy
                && self.outcomes.is_empty()
                && chores.is_empty()
            {
                break;
            }
            self.publish(now, attempts.len());
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
                    self.attempt_ended(ended, instant, now, &mut chores);
                    // What ended meanwhile costs no further round of the loop.
                    while let Some(Some(ended)) = attempts.next().now_or_never() {
                        self.attempt_ended(ended, instant, now, &mut chores);
                    }
                }
                Some(done) = &mut redis, if redis_busy => {
                    (redis, redis_busy) = (None.into(), false);
                    self.redis_answered(done, &attempts, &mut chores);
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

    /// The message that may go now, if any; else remembers when to look again.
    fn next_to_send(&mut self, now: Instant, in_flight: usize) -> Option<(Message, Begun)> {
        self.full_at = None;
        if !self.wants_to_send(now, in_flight) {
            self.waiter.pass_on();
            return None;
        }
        let Some(begun) = self.setup.thread.begin(now, &self.waiter) else {
            self.full_at = Some(now + ROOM_WAIT);
            return None;
        };
        self.send_at = None;
        match self.pacer.take(now) {
            Ok(()) => {
                self.among.get_or_insert_with(|| self.setup.thread.line_sends());
                self.slots.began(now, in_flight, self.setup.thread.room());
                self.ready.pop_front().map(|ready| (ready, begun))
            }
            Err(wait) => {
                self.send_at = Some(now + wait);
                None
            }
        }
    }

    fn wants_to_send(&mut self, now: Instant, in_flight: usize) -> bool {
        if self.stopping || self.ready.is_empty() || !self.setup.lease.holds(now) {
            return false;
        }
        if self.send_at.is_some_and(|at| now < at) {
            return false;
        }
        if in_flight >= self.slots.limit() {
            self.full_at = Some(self.slots.full(now, self.pacer.rate()));
        }
        in_flight < self.slots.limit()
    }

    fn attempt(&self, message: &Message, began: Instant, begun: Begun) -> OnItsWay {
        let Message { part, claimed, attempt: number, .. } = *message;
        let (sender, body) = (self.sender.clone(), message.body(&self.setup.token_key));
        let outcome = Box::pin(async move {
            let outcome = sender.send(body).await;
            drop(begun);
            outcome
        });
        Attempt { part, claimed, number, began, outcome }
    }

    fn attempt_ended(&mut self, ended: Attempt<Outcome>, instant: Instant, now: UnixMs, chores: &mut Chores) {
        let Attempt { part, claimed, number, began, outcome } = ended;
        self.metrics.attempt(&outcome, instant - began);
        let room = self.setup.thread.room();
        if self.slots.ended(instant, room) {
            // It may have waited for its connection: what follows at once would come to Meta with it.
            self.pacer.restart(instant);
        }
        let (settled, consequence) = settle::settle(&outcome, number, now, rand::random(), &self.setup.settings);
        if let Some(Cause::Meta { code, .. }) = settle::cause(&outcome) {
            metrics::meta_error(*code, policy::rule(*code).is_some());
        }
        if let Some(cause) = settle::cause(&outcome)
            && self.noted.insert((part, cause.code()))
        {
            let (store, code, details) = (self.setup.store.clone(), cause.code(), cause.details().to_owned());
            chores.push(Box::pin(async move {
                if let Err(error) = store.note_details(part, code, &details).await {
                    warn!(part = %part, code, %error, "what Meta said could not be kept");
                }
            }));
        }
        if consequence != Consequence::Unreachable {
            (self.unreachable, self.reachable_at) = (0, None);
        }
        match &consequence {
            Consequence::None => {}
            Consequence::Slower => self.pacer.throttled(instant),
            Consequence::Unreachable => self.unreachable_now(instant, &outcome),
            Consequence::Hold { scope, wait } => self.hold(*scope, *wait, part.campaign, &outcome, chores),
            Consequence::Breaker => self.count_failure(part.campaign, &outcome, chores),
        }
        if matches!(settled, Settled::Accepted(_)) {
            self.accepted += 1;
            self.slots.accepted(began, instant, self.pacer.rate(), room);
            self.setup.thread.accepted(instant - began);
            if let Some(work) = self.backlog.campaign(part.campaign) {
                work.failing = (0, 0);
            }
        }
        self.put(part, claimed, settled);
    }

    /// Keeps an outcome until it is settled.
    fn put(&mut self, part: PartId, claimed: ClaimedRow, settled: Settled) {
        match settled {
            Settled::Retry { at, .. } | Settled::Back { at } => {
                self.backlog.due(part, at);
                self.idle_until = None;
            }
            Settled::InDoubt { until } => {
                self.backlog.doubt(part, until);
                self.idle_until = None;
            }
            Settled::Accepted(_) | Settled::Refused { .. } => {}
        }
        self.gather(part).push((claimed, settled));
    }

    /// The outcomes of a part that are still to be settled.
    fn gather(&mut self, part: PartId) -> &mut Vec<(ClaimedRow, Settled)> {
        let begin = || Gathered { since: Instant::now(), outcomes: Vec::new() };
        &mut self.outcomes.entry(part).or_insert_with(begin).outcomes
    }

    /// Messages that were claimed and will not be sent now go back, as if they had not been claimed.
    fn give_back(&mut self, which: impl Fn(&Message) -> bool) {
        for ready in std::mem::take(&mut self.ready) {
            if which(&ready) {
                self.put(ready.part, ready.claimed, Settled::Back { at: settle::AT_ONCE });
            } else {
                self.ready.push_back(ready);
            }
        }
    }

    fn unreachable_now(&mut self, now: Instant, outcome: &Outcome) {
        if self.reachable_at.is_some_and(|at| now < at) {
            return; // one of those that were on their way together
        }
        let (first, longest) = UNREACHABLE_PAUSE;
        let pause = (first * 2u32.saturating_pow(self.unreachable.min(16))).min(longest);
        self.unreachable = self.unreachable.saturating_add(1);
        self.reachable_at = Some(now + pause);
        let cause = settle::cause(outcome).map_or("", |cause| cause.details());
        warn!(line.id = %self.setup.line.id, pause_ms = pause.as_millis() as u64, cause, "meta can not be reached");
        self.give_back(|_| true);
    }

    fn hold(
        &mut self,
        scope: Scope,
        wait: Option<Duration>,
        campaign: CampaignId,
        outcome: &Outcome,
        chores: &mut Chores,
    ) {
        let line = &self.setup.line;
        let held = match scope {
            Scope::Line | Scope::Platform => HoldScope::Line(line.id.clone()),
            Scope::Waba => HoldScope::Waba(line.waba.clone()),
            Scope::Token | Scope::App => HoldScope::Token(line.waba.clone()),
            Scope::Template => match self.backlog.campaign(campaign) {
                Some(work) => work.template.clone(),
                None => return,
            },
            Scope::Campaign | Scope::Message | Scope::Recipient | Scope::Pair | Scope::None => {
                return self.pause_campaign(campaign, outcome, chores);
            }
        };
        let (code, details) = settle::cause(outcome).map_or((0, ""), |cause| (cause.code(), cause.details()));
        let since = self.setup.clock.now();
        let hold = Hold { code, reason: details.to_owned(), since, until: wait.map(|wait| since.after(wait)) };
        if self.holds.find(held.clone(), hold.clone(), Instant::now()) {
            warn!(line.id = %line.id, scope = %held, code, reason = details, "held back");
            let store = self.setup.store.clone();
            chores.push(Box::pin(async move {
                // If Redis is away now, the next attempt meets the same answer and tries again.
                if let Err(error) = store.hold(&held, &hold).await {
                    warn!(scope = %held, %error, "the hold could not be stored");
                }
            }));
        }
        self.give_back_held();
    }

    /// Counts failures in a row that blame the message.
    fn count_failure(&mut self, campaign: CampaignId, outcome: &Outcome, chores: &mut Chores) {
        let code = settle::cause(outcome).map_or(0, crate::domain::Cause::code);
        let Some(work) = self.backlog.campaign(campaign) else { return };
        let before = if work.failing.0 == code { work.failing.1 } else { 0 };
        work.failing = (code, before + 1);
        if before + 1 >= BREAKER {
            self.pause_campaign(campaign, outcome, chores);
        }
    }

    fn pause_campaign(&mut self, id: CampaignId, outcome: &Outcome, chores: &mut Chores) {
        let Some(work) = self.backlog.campaign(id) else { return };
        if !std::mem::take(&mut work.running) {
            return;
        }
        let (code, details) = settle::cause(outcome).map_or((0, ""), |cause| (cause.code(), cause.details()));
        let reason = PauseReason { code, details: details.to_owned() };
        warn!(campaign.id = %id, code, reason = details, "campaign paused: its message can not be sent");
        let (store, now) = (self.setup.store.clone(), self.setup.clock.now());
        chores.push(Box::pin(async move {
            let from = [CampaignState::Running];
            if let Err(error) = store.change_campaign(id, &from, CampaignState::Paused, now, Some(&reason)).await {
                warn!(campaign.id = %id, %error, "the pause could not be stored");
            }
        }));
        self.give_back(|ready| ready.part.campaign == id);
    }

    /// Outcomes to be settled now, if it is time.
    fn outcomes_to_settle(&mut self, now: Instant, in_flight: usize) -> Option<Outcomes> {
        if self.outcomes.is_empty() || self.redis_again_at.is_some_and(|at| now < at) {
            return None;
        }
        let many = self.outcomes.values().map(|gathered| gathered.outcomes.len()).sum::<usize>() >= CLAIM_ROWS_MAX;
        let last = self.ready.is_empty() && in_flight == 0;
        let (all, window) = (many || last || self.stopping, self.window(SETTLE_WINDOW));
        // Each part for itself: what is claimed of a small one at once is settled at once, and not cut by the window of another.
        let due = self.outcomes.extract_if(.., |_, gathered| all || now >= gathered.since + window);
        let due: Outcomes = due.map(|(part, gathered)| (part, gathered.outcomes)).collect();
        (!due.is_empty()).then_some(due)
    }

    fn settled(&mut self, outcomes: Outcomes, result: Result<Vec<(PartId, u64)>, StoreError>) {
        match result {
            Ok(open) => {
                (self.redis_again_at, self.redis_failing) = (None, false);
                self.finished.extend(open.into_iter().filter(|(_, open)| *open == 0).map(|(part, _)| part));
            }
            Err(error) => {
                // Settling twice changes nothing, so that what may have been settled is settled again.
                self.redis_failed("outcomes could not be settled", &error);
                for (part, settled) in outcomes {
                    self.gather(part).extend(settled);
                }
            }
        }
    }

    /// The next thing to ask of Redis, if any.
    fn next_call(&mut self, now: Instant, settling: bool) -> Option<LocalBoxFuture<'static, Done>> {
        if self.redis_again_at.is_some_and(|at| now < at) {
            return None;
        }
        if !self.finished.is_empty() {
            let at = *self.finish_at.get_or_insert(now + FINISH_WINDOW);
            if now >= at || self.ready.is_empty() || self.finished.len() >= FINISHED_MAX {
                return Some(self.calls.finish(self.finished.iter().copied().take(FINISHED_MAX).collect()));
            }
        }
        if let Some(&part) = self.expired.iter().next() {
            return Some(self.calls.expire(part));
        }
        if self.stopping {
            return None;
        }
        // However many wait to be sent: their campaign may have been paused, and then they go back.
        if self.refresh_at.take_if(|at| now >= *at).is_some() {
            return Some(self.calls.refresh(self.backlog.campaigns().collect()));
        }
        if self.ready.len() >= self.claim_rows() {
            return None;
        }
        if self.idle_until.is_some_and(|at| now < at) {
            return None;
        }
        let clock = self.setup.clock.now();
        let held = self.line_is_held(clock);
        self.held_since = held.then(|| self.held_since.unwrap_or(now));
        // What is in flight can be compared with what this runner knows of only while nothing is being settled.
        if let Some(&part) = self.unsure.iter().next() {
            return (!settling).then(|| self.claim(part, 0));
        }
        self.metrics.held_seconds.set(self.held_since.map_or(0.0, |since| now.duration_since(since).as_secs_f64()));
        let may_claim = !held && self.reachable_at.is_none_or(|at| now >= at) && self.setup.lease.holds(now);
        let holds = self.held_scopes(clock);
        match self.backlog.next(clock, may_claim, |template| holds.contains(template)) {
            Next::Look(part) => Some(self.claim(part, 0)),
            Next::Claim(part) => Some(self.claim(part, self.claim_rows())),
            Next::Doubts(part) => {
                let campaign = self.backlog.campaign(part.campaign)?;
                let attempts_max = match campaign.plan.campaign.on_doubt {
                    OnDoubt::Hold => 0,
                    OnDoubt::Resend => self.setup.settings.retry.attempts_max(),
                };
                Some(self.calls.end_doubts(part, attempts_max))
            }
            Next::Wait(due) => {
                let wait = due.map_or(IDLE_MAX, |due| due.since(clock).min(IDLE_MAX)).max(Duration::from_millis(1));
                let reachable = self.reachable_at.filter(|at| *at > now);
                self.idle_until = Some(reachable.map_or(now + wait, |at| at.min(now + wait)));
                None
            }
        }
    }

    fn redis_answered(&mut self, done: Done, attempts: &Attempts, chores: &mut Chores) {
        let now = self.setup.clock.now();
        self.listing = false;
        (self.idle_until, self.redis_again_at) = (None, None);
        match done {
            Done::Refreshed(Ok(refresh)) => self.refreshed(refresh),
            Done::Refreshed(Err(error)) => {
                self.refresh_at = Some(Instant::now());
                self.redis_failed("the work of the line could not be read", &error);
            }
            Done::Claimed(part, Ok(Claimed::Claim(claim, messages))) => self.claimed(part, claim, messages, attempts),
            Done::Claimed(part, Ok(Claimed::Unreadable(rows, error))) => {
                self.redis_failed("recipients could not be read", &error);
                for ToSend { claimed, .. } in rows {
                    self.put(part, claimed, Settled::Back { at: settle::AT_ONCE });
                }
            }
            Done::Claimed(part, Err(error)) => {
                // It may have been claimed all the same.
                self.unsure.insert(part);
                self.redis_failed("nothing could be claimed", &error);
            }
            Done::Doubts(part, Ok((next, open))) => {
                self.backlog.set_doubt(part, next);
                self.backlog.due(part, now);
                if open == 0 {
                    self.finished.insert(part);
                }
            }
            Done::Doubts(_, Err(error)) => self.redis_failed("doubts could not be ended", &error),
            Done::Expired(part, Ok(open)) => {
                self.expired.remove(&part);
                self.backlog.shut(part);
                if open == 0 {
                    self.finished.insert(part);
                }
            }
            Done::Expired(_, Err(error)) => self.redis_failed("recipients could not be expired", &error),
            Done::Finished(parts, Ok(())) => {
                self.finish_at = None;
                // The last line of the thread that ends with a campaign asks whether it is done: were it each, a thousand would ask.
                let mut ended = Vec::new();
                for part in parts {
                    self.finished.remove(&part);
                    if self.backlog.remove(part) {
                        ended.push(part.campaign);
                    }
                }
                if !ended.is_empty() {
                    chores.push(self.calls.complete(ended));
                }
            }
            Done::Finished(_, Err(error)) => self.redis_failed("parts could not be finished", &error),
        }
    }

    fn redis_failed(&mut self, what: &'static str, error: &StoreError) {
        if !std::mem::replace(&mut self.redis_failing, true) {
            warn!(line.id = %self.setup.line.id, %error, "{what}");
        }
        self.redis_again_at = Some(Instant::now() + REDIS_PAUSE);
    }

    fn claim(&mut self, part: PartId, limit: usize) -> LocalBoxFuture<'static, Done> {
        self.claims += 1;
        let now = self.setup.clock.now();
        let wish = ClaimWish {
            epoch: self.setup.lease.epoch,
            number: self.claims,
            now,
            limit,
            doubt_until: now.after(self.setup.settings.doubt_deadline),
            list: self.unsure.contains(&part),
            // Another worker that had the line notices within a lease that Redis restarted, or stops.
            young: self.setup.store.is_young(self.setup.settings.lease),
        };
        self.listing = wish.list;
        self.calls.claim(part, wish, self.backlog.plan(part.campaign))
    }

    fn claimed(&mut self, part: PartId, claim: Claim, messages: Vec<Message>, attempts: &Attempts) {
        match claim {
            Claim::Rows { next_due, next_doubt, fresh, open, in_flight, .. } => {
                self.redis_failing = false;
                self.recover(part, in_flight, attempts);
                self.backlog.claimed(part, messages.len(), fresh > 0, next_due, next_doubt);
                self.ready.extend(messages);
                if open == 0 {
                    self.finished.insert(part);
                }
                if self.stopping {
                    self.give_back(|_| true);
                } else {
                    self.give_back_held();
                }
            }
            Claim::Held { next_doubt, open, in_flight } => {
                self.recover(part, in_flight, attempts);
                self.backlog.shut(part);
                self.backlog.set_doubt(part, next_doubt);
                if open == 0 {
                    self.finished.insert(part);
                }
            }
            // Nobody else claims in this epoch: an older claim of this runner was still on its way, and a newer one is asked for.
            Claim::Late => {}
            Claim::Young => {
                // Redis knows of no claim of this epoch in the part: one without an answer left nothing in flight.
                self.unsure.remove(&part);
                self.backlog.look_again(part, self.setup.clock.now().after(YOUNG_PAUSE));
            }
            Claim::Expired { in_flight } => {
                self.recover(part, in_flight, attempts);
                self.expired.insert(part);
            }
            Claim::Fenced { epoch } => {
                warn!(line.id = %self.setup.line.id, epoch, "another worker has the line");
                self.setup.lease.lost();
            }
        }
    }

    /// Gives back what is in flight and unknown here: a claim brought it whose answer was lost, so it was certainly not sent.
    fn recover(&mut self, part: PartId, in_flight: Vec<ClaimedRow>, attempts: &Attempts) {
        if !self.unsure.remove(&part) || in_flight.is_empty() {
            return;
        }
        let ready = self.ready.iter().filter(|ready| ready.part == part).map(|ready| ready.claimed);
        let ended = self.outcomes.get(&part).into_iter().flat_map(|gathered| &gathered.outcomes);
        let ended = ended.map(|(claimed, _)| *claimed);
        let sending = attempts.iter().filter(|attempt| attempt.part == part).map(|attempt| attempt.claimed);
        let unknown = unknown(in_flight, &ready.chain(ended).chain(sending).collect());
        if !unknown.is_empty() {
            info!(line.id = %self.setup.line.id, part = %part, n = unknown.len(), "rows of a claim without an answer were given back");
        }
        for claimed in unknown {
            self.put(part, claimed, Settled::Back { at: settle::AT_ONCE });
        }
    }

    fn refreshed(&mut self, refresh: Refresh) {
        for plan in refresh.new {
            self.backlog.add(&self.setup.line.waba, plan);
        }
        self.backlog.set_parts(&refresh.parts);
        self.refresh_from = Instant::now() + REFRESH_PAUSE * self.backlog.campaigns().count() as u32;
        for (id, running) in &refresh.running {
            if let Some(work) = self.backlog.campaign(*id) {
                work.running = *running;
            }
        }
        self.give_back(|ready| refresh.running.get(&ready.part.campaign) != Some(&true));
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
        if self.ready.is_empty() {
            return;
        }
        let now = self.setup.clock.now();
        if self.line_is_held(now) {
            return self.give_back(|_| true);
        }
        let holds = self.held_scopes(now);
        // Of a campaign many follow one another.
        let mut stopped: Vec<CampaignId> = self.ready.iter().map(|ready| ready.part.campaign).collect();
        stopped.dedup();
        stopped.retain(|id| self.backlog.is_stopped(*id, |template| holds.contains(template)));
        if !stopped.is_empty() {
            self.give_back(|ready| stopped.contains(&ready.part.campaign));
        }
    }

    /// Rows in one claim: what the line sends in a window.
    fn claim_rows(&self) -> usize {
        let rows = self.pacer.rate() * self.window(CLAIM_WINDOW).as_secs_f64();
        (rows.ceil() as usize).clamp(1, CLAIM_ROWS_MAX)
    }

    /// How long rows gather for one call of Redis: `least`, or on a slow line until there are [`ROWS_TOGETHER`].
    fn window(&self, least: Duration) -> Duration {
        let together = ROWS_TOGETHER / self.pacer.rate();
        Duration::from_secs_f64(together.min(WINDOW_MAX.as_secs_f64())).max(least)
    }

    /// When to look again if nothing happens before.
    fn wake_at(&self, now: Instant, in_flight: usize) -> Instant {
        let mut at = now + IDLE_MAX;
        let mut sooner = |candidate: Option<Instant>| at = candidate.map_or(at, |candidate| at.min(candidate));
        sooner(self.redis_again_at.filter(|at| *at > now));
        sooner((!self.stopping).then(|| self.setup.lease.ends()));
        let gathering = self.outcomes.values().map(|gathered| gathered.since).min();
        sooner(gathering.map(|since| since + self.window(SETTLE_WINDOW)).filter(|at| *at > now));
        if in_flight < self.slots.limit() {
            sooner(self.send_at.filter(|at| *at > now));
        }
        sooner(self.finish_at.filter(|at| *at > now));
        sooner(self.full_at);
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
        };
        *self.setup.status.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = status;
    }
}

/// Which claims of `in_flight` are none of `known`. The same row may be known by an earlier claim alone: what came of that one
/// still has to be settled once more, and the later one brought no answer.
fn unknown(in_flight: Vec<ClaimedRow>, known: &HashSet<ClaimedRow>) -> Vec<ClaimedRow> {
    in_flight.into_iter().filter(|claimed| !known.contains(claimed)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_known_by_an_earlier_claim_alone_is_given_back() {
        let claimed = |row, send| ClaimedRow { row, send };
        let known = HashSet::from([claimed(1, 1), claimed(2, 3)]);
        assert_eq!(unknown(vec![claimed(1, 2), claimed(2, 3), claimed(3, 1)], &known), [claimed(1, 2), claimed(3, 1)]);
    }
}
