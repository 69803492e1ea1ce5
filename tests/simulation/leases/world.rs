//! Workers, lines and one Redis in virtual time: one thread, one event queue, one seed. The same plan gives the same
//! schedule.
//!
//! The code that keeps leases and clears messages is the real one, which does no I/O. `worker.rs` and `runner.rs` drive
//! it; `rules.rs` models Redis.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use pregon::{
    dispatch::leases::{LeaseRequest, LeaseResponse},
    redis::lines::LiveWorkers,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    plan::{Fault, Plan},
    rules::{Claim, Entry, Leases, LineNo, WorkerNo},
    runner::Run,
    watch::Watch,
    worker::{Worker, line_no},
};

/// True time, in nanoseconds since the world began.
pub type At = u64;

/// A millisecond.
pub const MS: u64 = 1_000_000;

/// Redis' clock when the schedule begins, in ms.
const REDIS_START_MS: u64 = 1_700_000_000_000;

/// Something that happens at one point of virtual time.
#[derive(Clone, Debug)]
pub enum Event {
    /// A worker's lease task, which acquires, renews and releases leases, begins a tick, unless it has begun already.
    Tick(WorkerNo, u64),
    /// A request of a worker arrives at Redis.
    RequestArrives(WorkerNo, u64, LeaseRequest),
    /// The response arrives at the worker, or the request fails or times out (`None`).
    ResponseArrives(WorkerNo, u64, Option<LeaseResponse>),
    /// A claim arrives at Redis.
    ClaimArrives(Run, u64, bool),
    /// The response to a claim arrives, or the claim fails or times out (`None`).
    ClaimReturns(Run, u64, Option<Claim>),
    /// A runner wakes and reads the clock, unless a later [`World::wake`] replaced this time.
    Wakes(Run, u64),
    /// A runner sends what was due when it read the clock, at the given time.
    Sends(Run, At),
    /// An attempt has ended.
    AttemptEnded(Run),
    /// The outcomes of a stopping runner are settled.
    Settled(Run),
    /// A worker receives the new rate of a line.
    RateChanged(WorkerNo, LineNo, f64),
    /// A worker is killed.
    Killed(WorkerNo),
    /// A fault is drawn and injected.
    InjectFault,
}

/// The modelled Redis.
pub struct Redis {
    /// Epochs and leases.
    pub leases: Leases,
    /// The number of restarts, and Redis' clock at the last one, in ms. The first incarnation has no grace period.
    pub incarnation: (u64, u64),
    /// Live workers, each with the time until which it counts as live, in ms.
    pub live: BTreeMap<WorkerNo, u64>,
    /// Workers that have registered their lines.
    pub registered: BTreeSet<WorkerNo>,
    /// The state of a line before each change of the last ten seconds, to be restored if Redis loses writes.
    changes: VecDeque<(At, LineNo, Entry)>,
    /// Drift of its clock, in units of 10⁻⁷ of true time; positive: fast.
    drift: i64,
    /// The sum of all steps of its clock.
    set_by_ms: i64,
    down_until: At,
    stopped_until: At,
}

/// The whole simulation.
pub struct World {
    /// Parameters of the schedule.
    pub plan: Plan,
    /// Source of all random numbers.
    pub rng: StdRng,
    /// The current true time.
    pub now: At,
    pub redis: Redis,
    /// All workers, including those that have ended.
    pub workers: Vec<Worker>,
    /// The configured rate of each line.
    pub rates: Vec<f64>,
    /// For each line, the time until which it has nothing to send.
    pub no_work_until: Vec<At>,
    /// Checks the promises.
    pub watch: Watch,
    queue: BTreeMap<(At, u64), Event>,
    queued: u64,
    clock_origin: Instant,
}

impl World {
    /// A world at the beginning of `plan`. `traced`: whether it records a trace.
    pub fn new(plan: Plan, traced: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(plan.seed);
        let drift = rng.random_range(-plan.drift..=plan.drift);
        let mut world = Self {
            rng,
            now: 0,
            redis: Redis {
                leases: Leases::default(),
                incarnation: (0, 0),
                live: BTreeMap::new(),
                registered: BTreeSet::new(),
                changes: VecDeque::new(),
                drift,
                set_by_ms: 0,
                down_until: 0,
                stopped_until: 0,
            },
            workers: Vec::new(),
            rates: plan.rates.clone(),
            no_work_until: vec![0; plan.rates.len()],
            watch: Watch::new(plan.rates.len(), traced),
            queue: BTreeMap::new(),
            queued: 0,
            // The value does not matter: instants are only compared with each other.
            clock_origin: Instant::now(),
            plan,
        };
        for _ in 0..world.plan.workers {
            world.start_worker();
        }
        if !world.plan.faults.is_empty() {
            world.after(Duration::ZERO, Event::InjectFault);
        }
        world
    }

    /// Runs the schedule to its end, or to the first broken promise.
    pub fn run(mut self) -> Watch {
        self.run_to_end();
        self.watch
    }

    /// As [`World::run`]. At the end, every line must have one owner, and no worker more lines than its share. A
    /// schedule in which no worker is left passes.
    pub fn run_to_equal_shares(mut self) -> Watch {
        self.run_to_end();
        if self.watch.broken.is_none() {
            self.watch.broken = self.unequal_shares();
        }
        self.watch
    }

    fn unequal_shares(&self) -> Option<String> {
        let alive: Vec<WorkerNo> = (0..self.workers.len()).filter(|worker| self.workers[*worker].alive).collect();
        let mut owners = vec![Vec::new(); self.rates.len()];
        for &worker in &alive {
            for (line, runner) in &self.workers[worker].runners {
                if !runner.clearance.is_stopping() && runner.clearance.lease.is_valid(self.clock(worker, self.now)) {
                    owners[*line as usize].push(worker);
                }
            }
        }
        let share = self.rates.len().div_ceil(alive.len().max(1));
        let owned = |worker: &WorkerNo| owners.iter().filter(|owners| owners.contains(worker)).count();
        let is_equal = owners.iter().all(|owners| owners.len() == 1) && alive.iter().all(|w| owned(w) <= share);
        (!is_equal && !alive.is_empty()).then(|| format!("workers {alive:?} are left, and the lines have {owners:?}"))
    }

    fn run_to_end(&mut self) {
        let end = self.plan.length.as_nanos() as u64;
        while let Some(((at, _), event)) = self.queue.pop_first() {
            if at > end || self.watch.broken.is_some() {
                break;
            }
            self.now = at;
            if let Some(later) = self.suspended_until(&event) {
                self.at(later, event);
            } else {
                self.handle(event);
            }
        }
    }

    /// Queues an event. Events with the same time run in the order of queueing.
    pub fn at(&mut self, at: At, event: Event) {
        self.queued += 1;
        self.queue.insert((at.max(self.now), self.queued), event);
    }

    /// Queues an event to run `delay` from now.
    pub fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay.as_nanos() as u64, event);
    }

    /// A random duration in a range.
    pub fn between(&mut self, from: Duration, to: Duration) -> Duration {
        Duration::from_nanos(self.rng.random_range(from.as_nanos() as u64..=to.as_nanos() as u64))
    }

    /// True once in `n` calls on average; never if `n` is 0.
    pub fn one_in(&mut self, n: u32) -> bool {
        n > 0 && self.rng.random_ratio(1, n)
    }

    /// The monotonic clock of a worker at `at`.
    pub fn clock(&self, worker: WorkerNo, at: At) -> Instant {
        let Worker { drift, clock_began, .. } = &self.workers[worker];
        self.clock_origin + *clock_began + Duration::from_nanos(drifted(at, *drift))
    }

    /// The true time at which a timer of a worker fires that is set for `instant` on the worker's clock. As in Tokio,
    /// timers have a resolution of 1 ms and are rounded up.
    pub fn when(&self, worker: WorkerNo, instant: Instant) -> At {
        let Worker { drift, clock_began, .. } = &self.workers[worker];
        let shown = instant.saturating_duration_since(self.clock_origin + *clock_began).as_nanos() as u64;
        let timer = shown.div_ceil(MS) * MS;
        (i128::from(timer) * 10_000_000 / i128::from(10_000_000 + drift)) as u64 + 1
    }

    /// Redis' clock, in ms.
    pub fn redis_ms(&self) -> u64 {
        (REDIS_START_MS + drifted(self.now, self.redis.drift) / MS).saturating_add_signed(self.redis.set_by_ms)
    }

    /// When the suspension of the event's process ends, if that process is suspended now.
    fn suspended_until(&mut self, event: &Event) -> Option<At> {
        let until = match event {
            Event::Tick(worker, _) | Event::ResponseArrives(worker, _, Some(_)) | Event::RateChanged(worker, ..) => {
                self.workers[*worker].task_stopped_until
            }
            Event::ResponseArrives(worker, _, None) => {
                let until = self.workers[*worker].task_stopped_until;
                // After the suspension, the timeout runs at random before or after a response that arrived meanwhile.
                if until > self.now { until + u64::from(self.rng.random_bool(0.5)) } else { until }
            }
            Event::Wakes(run, _)
            | Event::Sends(run, _)
            | Event::AttemptEnded(run)
            | Event::ClaimReturns(run, ..)
            | Event::Settled(run) => self.workers[run.worker].runners_stopped_until,
            Event::RequestArrives(..) | Event::ClaimArrives(..) => self.redis.stopped_until,
            Event::Killed(_) | Event::InjectFault => 0,
        };
        (until > self.now).then_some(until)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Tick(worker, tick) => self.tick(worker, tick),
            Event::RequestArrives(worker, number, request) => self.redis_receives(worker, number, request),
            Event::ResponseArrives(worker, number, response) => self.response(worker, number, response),
            Event::ClaimArrives(run, number, in_grace_period) => self.redis_claims(run, number, in_grace_period),
            Event::ClaimReturns(run, number, response) => self.claimed(run, number, response),
            Event::Wakes(run, wake) => self.wakes(run, wake),
            Event::Sends(run, looked) => self.send_due(run, looked),
            Event::AttemptEnded(run) => self.attempt_ended(run),
            Event::Settled(run) => self.settled(run),
            Event::RateChanged(worker, line, rate) => self.rate_changed(worker, line, rate),
            Event::Killed(worker) => self.workers[worker].die(),
            Event::InjectFault => self.inject_fault(),
        }
    }

    fn redis_receives(&mut self, worker: WorkerNo, number: u64, request: LeaseRequest) {
        let (mut returns, mut delay) = self.link(worker);
        let response = if self.now < self.redis.down_until {
            // Redis is down and refuses the connection at once, which is an error and not a timeout.
            delay = Duration::ZERO;
            returns = true;
            None
        } else {
            self.connect_to_redis(worker);
            Some(self.redis_response(worker, &request))
        };
        if returns {
            self.after(delay, Event::ResponseArrives(worker, number, response));
        }
    }

    fn redis_claims(&mut self, run: Run, number: u64, in_grace_period: bool) {
        let (mut returns, mut delay) = self.link(run.worker);
        let mut response = None;
        if self.now < self.redis.down_until {
            (returns, delay) = (true, Duration::ZERO);
        } else {
            self.connect_to_redis(run.worker);
            self.save_line(run.line);
            response = Some(self.redis.leases.claim(run.line, run.epoch, in_grace_period));
        }
        self.watch.log(self.now, || format!("redis: {run:?} claims, in_grace_period {in_grace_period}: {response:?}"));
        if returns {
            self.after(delay, Event::ClaimReturns(run, number, response));
        }
    }

    fn redis_response(&mut self, worker: WorkerNo, request: &LeaseRequest) -> LeaseResponse {
        let (now_ms, length_ms) = (self.redis_ms(), self.plan.lease.as_millis() as u64);
        let response = match request {
            LeaseRequest::Acquire(leases) => {
                let mut epochs = Vec::with_capacity(leases.len());
                for (line, mine) in leases {
                    let line = line_no(line);
                    self.save_line(line);
                    epochs.push(self.redis.leases.acquire(line, worker, length_ms, *mine, now_ms));
                }
                LeaseResponse::Epochs(epochs)
            }
            LeaseRequest::Release(line, epoch) => {
                self.save_line(line_no(line));
                self.redis.leases.release(line_no(line), worker, *epoch, now_ms);
                LeaseResponse::Done
            }
            LeaseRequest::Register { .. } => {
                self.redis.registered.insert(worker);
                LeaseResponse::Done
            }
            LeaseRequest::Heartbeat => LeaseResponse::Live(self.heartbeat(worker, now_ms, length_ms)),
            LeaseRequest::Lists(workers) => LeaseResponse::Lists(self.line_lists(workers)),
            LeaseRequest::Ttls(lines) => {
                let left_ms = |line| {
                    self.redis.leases.held(line_no(line), now_ms).map(|held| held.until_ms.saturating_sub(now_ms))
                };
                LeaseResponse::Ttls(lines.iter().map(|line| left_ms(line).map(Duration::from_millis)).collect())
            }
            LeaseRequest::Report => LeaseResponse::Done,
            LeaseRequest::Leave => {
                self.redis.live.remove(&worker);
                self.redis.registered.remove(&worker);
                LeaseResponse::Done
            }
        };
        self.watch.log(self.now, || format!("redis, {now_ms}: worker {worker} {request:?}: {response:?}"));
        response
    }

    /// As `Store::worker_heartbeat`. Housekeeping, which removes the lists of dead workers, is part of it here.
    fn heartbeat(&mut self, worker: WorkerNo, now_ms: u64, length_ms: u64) -> LiveWorkers {
        let Redis { live, registered, .. } = &mut self.redis;
        live.insert(worker, now_ms + length_ms);
        live.retain(|_, until_ms| (now_ms + 1..=now_ms + length_ms).contains(until_ms));
        registered.retain(|worker| live.contains_key(worker));
        LiveWorkers {
            workers: live.keys().map(WorkerNo::to_string).collect(),
            is_registered: registered.contains(&worker),
            // No worker replaces its list.
            lists_version: 0,
        }
    }

    fn save_line(&mut self, line: LineNo) {
        self.redis.changes.push_back((self.now, line, self.redis.leases.entry(line)));
        while self.redis.changes.front().is_some_and(|(at, ..)| at + 10_000 * MS < self.now) {
            self.redis.changes.pop_front();
        }
    }

    /// Whether a message passes between a worker and Redis now, and its delay.
    pub fn link(&mut self, worker: WorkerNo) -> (bool, Duration) {
        let troubled = !self.is_quiet() && self.one_in(self.plan.trouble);
        let passes = self.now >= self.workers[worker].cut_until && !(troubled && self.rng.random_bool(0.5));
        let longest = if troubled { self.plan.lease * 2 } else { Duration::from_millis(2) };
        (passes, self.between(Duration::from_micros(50), longest))
    }

    /// Whether faults and trouble have ended.
    fn is_quiet(&self) -> bool {
        u128::from(self.now) >= self.plan.quiet_from.as_nanos()
    }

    fn inject_fault(&mut self) {
        if self.is_quiet() {
            return;
        }
        let next = self.between(Duration::from_millis(1), self.plan.fault_every);
        self.after(next, Event::InjectFault);
        let fault = self.plan.faults[self.rng.random_range(0..self.plan.faults.len())];
        let alive: Vec<WorkerNo> = (0..self.workers.len()).filter(|worker| self.workers[*worker].alive).collect();
        let Some(&worker) = alive.get(self.rng.random_range(0..alive.len().max(1))) else {
            return self.start_worker();
        };
        let line = self.rng.random_range(0..self.rates.len());
        let lasts = self.between(Duration::from_millis(1), self.plan.lease * 2);
        let until = self.now + lasts.as_nanos() as u64;
        self.watch.log(self.now, || format!("{fault:?}: worker {worker}, line {line}, {lasts:?}"));
        match fault {
            Fault::Stop | Fault::TaskStalls | Fault::RunnersStall => {
                if fault != Fault::RunnersStall {
                    self.workers[worker].task_stopped_until = until;
                }
                if fault != Fault::TaskStalls {
                    self.workers[worker].runners_stopped_until = until;
                }
            }
            Fault::Die => self.workers[worker].die(),
            Fault::Start if alive.len() < self.plan.workers + 2 => self.start_worker(),
            Fault::Start => {}
            Fault::Leave => {
                self.leave(worker);
            }
            Fault::Cut => self.workers[worker].cut_until = until,
            Fault::RedisStops => self.redis.stopped_until = until,
            Fault::RedisRestarts { forgets } => {
                let down = self.between(Duration::from_millis(1), self.plan.lease);
                self.redis.down_until = self.now + down.as_nanos() as u64;
                self.redis.incarnation = (self.redis.incarnation.0 + 1, self.redis_ms() + down.as_millis() as u64);
                let forgets = self.between(Duration::ZERO, forgets);
                self.forget_since(self.now.saturating_sub(forgets.as_nanos() as u64));
            }
            Fault::ClockBack => {
                if self.rng.random_bool(0.5) {
                    self.redis.leases.expire(self.redis_ms());
                }
                self.redis.set_by_ms -= self.rng.random_range(0..60_000);
            }
            Fault::ClockForward(most) => {
                self.redis.set_by_ms += self.rng.random_range(0..=most.as_millis() as i64);
                self.plan.faults.retain(|other| *other != fault);
            }
            Fault::NoWork => self.no_work_until[line] = until,
            Fault::Rate => {
                self.rates[line] = self.plan.rates[line] * [0.5, 1.0, 2.0][self.rng.random_range(0..3)];
                for worker in alive {
                    let delay = self.between(Duration::ZERO, Duration::from_millis(100));
                    self.after(delay, Event::RateChanged(worker, line as LineNo, self.rates[line]));
                }
            }
        }
    }

    /// Restores the leases in Redis to their state at `then`.
    fn forget_since(&mut self, then: At) {
        while let Some((_, line, entry)) = self.redis.changes.pop_back_if(|(at, ..)| *at >= then) {
            self.redis.leases.set_entry(line, entry);
        }
    }
}

/// The reading at `at` of a clock that runs too fast by `drift`, in units of 10⁻⁷.
fn drifted(at: At, drift: i64) -> u64 {
    at.saturating_add_signed((i128::from(at) * i128::from(drift) / 10_000_000) as i64)
}
