//! A world of workers, lines and one Redis in virtual time. One thread, one queue of events, one seed: the same plan
//! gives the same schedule.
//!
//! Real are the lease as the runner sees it, and the pace. The worker's loop and the runner's loop are told over in
//! `worker.rs` and `runner.rs`, Redis in `rules.rs`.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    plan::{Fault, Plan},
    rules::{Claim, Entry, Leases, LineNo, WorkerNo},
    runner::Run,
    watch::Watch,
    worker::{Answer, Question, Worker},
};

/// True time, in nanoseconds since the world began.
pub type At = u64;

/// A millisecond.
pub const MS: u64 = 1_000_000;

/// Redis' time when the world begins, in ms.
const REDIS_BORN_MS: u64 = 1_700_000_000_000;

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// A worker looks after its leases.
    Tick(WorkerNo),
    /// A question comes to Redis.
    Asked(WorkerNo, u64, Question),
    /// Its answer comes back.
    Answered(WorkerNo, u64, Answer),
    /// The worker does not wait for it any longer.
    GivenUp(WorkerNo, u64),
    /// A claim comes to Redis.
    ClaimAsked(Run, u64, bool),
    /// Its answer comes back, or is not waited for any longer.
    ClaimAnswered(Run, u64, Option<Claim>),
    /// A runner wakes and reads the clock, unless it was woken again since.
    Looks(Run, u64),
    /// It does what it may at the time that it read.
    Acts(Run, At),
    /// An attempt ended.
    AttemptEnded(Run),
    /// What it had is settled.
    Settled(Run),
    /// A worker hears of the rate of a line.
    Heard(WorkerNo, LineNo, f64),
    /// A worker is killed.
    Killed(WorkerNo),
    /// Something goes wrong.
    Faulty,
}

/// One Redis.
pub struct Redis {
    /// What it knows of lines.
    pub leases: Leases,
    /// Rises with each restart; and Redis' time when it came back, in ms. The first has no past.
    pub life: (u64, u64),
    /// Workers, and until when they count as living.
    pub living: BTreeMap<WorkerNo, u64>,
    /// What was there before each change of a line of the last seconds.
    changes: VecDeque<(At, LineNo, Entry)>,
    /// It runs that much too fast, in ten millionths.
    drift: i64,
    set_by_ms: i64,
    down_until: At,
    stopped_until: At,
}

/// All there is.
pub struct World {
    /// What may happen.
    pub plan: Plan,
    /// Where everything random comes from.
    pub rng: StdRng,
    /// True time.
    pub now: At,
    /// Redis.
    pub redis: Redis,
    /// Every worker that there was.
    pub workers: Vec<Worker>,
    /// The rate that operators set for each line.
    pub rates: Vec<f64>,
    /// Until when each line has nothing to send.
    pub no_work_until: Vec<At>,
    /// Who looks whether the promises hold.
    pub watch: Watch,
    queue: BTreeMap<(At, u64), Event>,
    queued: u64,
    born: Instant,
}

impl World {
    /// A world in which `plan` begins. With `traced` it tells what happens.
    pub fn new(plan: Plan, traced: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(plan.seed);
        let drift = rng.random_range(-plan.drift..=plan.drift);
        let mut world = Self {
            rng,
            now: 0,
            redis: Redis {
                leases: Leases::default(),
                life: (0, 0),
                living: BTreeMap::new(),
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
            // Where virtual time begins is of no importance; it is only ever compared with itself.
            born: Instant::now(),
            plan,
        };
        for _ in 0..world.plan.workers {
            world.start_worker();
        }
        if !world.plan.faults.is_empty() {
            world.soon(Duration::ZERO, Event::Faulty);
        }
        world
    }

    /// Runs the schedule to its end, or to the first broken promise.
    pub fn run(mut self) -> Watch {
        let end = self.plan.length.as_nanos() as u64;
        while let Some(((at, _), event)) = self.queue.pop_first() {
            if at > end || self.watch.broken.is_some() {
                break;
            }
            self.now = at;
            if let Some(later) = self.held_up(&event) {
                self.at(later, event);
            } else {
                self.happens(event);
            }
        }
        self.watch
    }

    /// Puts an event into the queue. Those of one moment happen in the order in which they were put.
    pub fn at(&mut self, at: At, event: Event) {
        self.queued += 1;
        self.queue.insert((at.max(self.now), self.queued), event);
    }

    /// Puts an event into the queue for `delay` from now.
    pub fn soon(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay.as_nanos() as u64, event);
    }

    /// Any time between two.
    pub fn between(&mut self, from: Duration, to: Duration) -> Duration {
        Duration::from_nanos(self.rng.random_range(from.as_nanos() as u64..=to.as_nanos() as u64))
    }

    /// One of `n` times; never with 0.
    pub fn one_of(&mut self, n: u32) -> bool {
        n > 0 && self.rng.random_ratio(1, n)
    }

    /// What the monotonic clock of a worker shows at `at`.
    pub fn clock(&self, worker: WorkerNo, at: At) -> Instant {
        let Worker { drift, clock_began, .. } = &self.workers[worker];
        self.born + *clock_began + Duration::from_nanos(drifted(at, *drift))
    }

    /// The true time at which that clock shows `instant`, and the timer of a runtime fires.
    pub fn when(&self, worker: WorkerNo, instant: Instant) -> At {
        let Worker { drift, clock_began, .. } = &self.workers[worker];
        let shown = instant.saturating_duration_since(self.born + *clock_began).as_nanos() as u64;
        let timer = shown.div_ceil(MS) * MS;
        (i128::from(timer) * 10_000_000 / i128::from(10_000_000 + drift)) as u64 + 1
    }

    /// Redis' time.
    pub fn redis_ms(&self) -> u64 {
        (REDIS_BORN_MS + drifted(self.now, self.redis.drift) / MS).saturating_add_signed(self.redis.set_by_ms)
    }

    /// When the event can happen, if what it happens to is stopped.
    fn held_up(&mut self, event: &Event) -> Option<At> {
        let until = match event {
            Event::Tick(worker) | Event::Answered(worker, ..) | Event::Heard(worker, ..) => {
                self.workers[*worker].task_stopped_until
            }
            Event::GivenUp(worker, _) => {
                let until = self.workers[*worker].task_stopped_until;
                // An answer that came while the process was stopped may be seen before the time-out is.
                if until > self.now { until + u64::from(self.rng.random_bool(0.5)) } else { until }
            }
            Event::Looks(run, _)
            | Event::Acts(run, _)
            | Event::AttemptEnded(run)
            | Event::ClaimAnswered(run, ..)
            | Event::Settled(run) => self.workers[run.worker].runners_stopped_until,
            Event::Asked(..) | Event::ClaimAsked(..) => self.redis.stopped_until,
            Event::Killed(_) | Event::Faulty => 0,
        };
        (until > self.now).then_some(until)
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Tick(worker) => self.tick(worker),
            Event::Asked(worker, number, question) => self.redis_is_asked(worker, number, question),
            Event::Answered(worker, number, answer) => self.answered(worker, number, answer),
            Event::GivenUp(worker, number) => self.given_up(worker, number),
            Event::ClaimAsked(run, number, in_grace_period) => self.redis_claims(run, number, in_grace_period),
            Event::ClaimAnswered(run, number, answer) => self.claimed(run, number, answer),
            Event::Looks(run, wake) => self.looks(run, wake),
            Event::Acts(run, looked) => self.acts(run, looked),
            Event::AttemptEnded(run) => self.attempt_ended(run),
            Event::Settled(run) => self.settled(run),
            Event::Heard(worker, line, rate) => self.heard(worker, line, rate),
            Event::Killed(worker) => self.workers[worker].die(),
            Event::Faulty => self.goes_wrong(),
        }
    }

    fn redis_is_asked(&mut self, worker: WorkerNo, number: u64, question: Question) {
        let (mut comes_back, mut takes) = self.passage(worker);
        let answer = if self.now < self.redis.down_until {
            // Refused at once: an error, and not silence.
            takes = Duration::ZERO;
            comes_back = true;
            Answer::Error
        } else {
            self.meets_redis(worker);
            self.redis_answers(worker, question)
        };
        if comes_back {
            self.soon(takes, Event::Answered(worker, number, answer));
        }
    }

    fn redis_claims(&mut self, run: Run, number: u64, in_grace_period: bool) {
        let (mut comes_back, mut takes) = self.passage(run.worker);
        let mut answer = None;
        if self.now < self.redis.down_until {
            (comes_back, takes) = (true, Duration::ZERO);
        } else {
            self.meets_redis(run.worker);
            self.line_changes(run.line);
            answer = Some(self.redis.leases.claim(run.line, run.epoch, in_grace_period));
        }
        self.watch.tell(self.now, || format!("redis: {run:?} claims, in_grace_period {in_grace_period}: {answer:?}"));
        if comes_back {
            self.soon(takes, Event::ClaimAnswered(run, number, answer));
        }
    }

    fn redis_answers(&mut self, worker: WorkerNo, question: Question) -> Answer {
        let (now_ms, length_ms) = (self.redis_ms(), self.plan.lease.as_millis() as u64);
        let answer = match &question {
            Question::Acquire(wanted) => {
                let mut epochs = Vec::with_capacity(wanted.len());
                for &(line, mine) in wanted {
                    self.line_changes(line);
                    epochs.push(self.redis.leases.acquire(line, worker, length_ms, mine, now_ms));
                }
                Answer::Epochs(epochs)
            }
            Question::Release(line, epoch) => {
                self.line_changes(*line);
                self.redis.leases.release(*line, worker, *epoch, now_ms);
                Answer::Fine
            }
            Question::Living => {
                self.redis.living.insert(worker, now_ms + length_ms);
                self.redis.living.retain(|_, until_ms| *until_ms > now_ms);
                Answer::Living(self.redis.living.len())
            }
            Question::Owned(lines) => {
                Answer::Owned(lines.iter().map(|line| self.redis.leases.held(*line, now_ms).is_some()).collect())
            }
            Question::Other => Answer::Fine,
        };
        self.watch.tell(self.now, || format!("redis, {now_ms}: worker {worker} {question:?}: {answer:?}"));
        answer
    }

    fn line_changes(&mut self, line: LineNo) {
        self.redis.changes.push_back((self.now, line, self.redis.leases.entry(line)));
        while self.redis.changes.front().is_some_and(|(at, ..)| at + 10_000 * MS < self.now) {
            self.redis.changes.pop_front();
        }
    }

    /// Whether something passes between a worker and Redis now, and how long it takes.
    pub fn passage(&mut self, worker: WorkerNo) -> (bool, Duration) {
        let troubled = self.one_of(self.plan.trouble);
        let passes = self.now >= self.workers[worker].cut_until && !(troubled && self.rng.random_bool(0.5));
        let longest = if troubled { self.plan.lease * 2 } else { Duration::from_millis(2) };
        (passes, self.between(Duration::from_micros(50), longest))
    }

    fn goes_wrong(&mut self) {
        let next = self.between(Duration::from_millis(1), self.plan.fault_every);
        self.soon(next, Event::Faulty);
        let fault = self.plan.faults[self.rng.random_range(0..self.plan.faults.len())];
        let alive: Vec<WorkerNo> = (0..self.workers.len()).filter(|worker| self.workers[*worker].alive).collect();
        let Some(&worker) = alive.get(self.rng.random_range(0..alive.len().max(1))) else {
            return self.start_worker();
        };
        let line = self.rng.random_range(0..self.rates.len());
        let lasts = self.between(Duration::from_millis(1), self.plan.lease * 2);
        let until = self.now + lasts.as_nanos() as u64;
        self.watch.tell(self.now, || format!("{fault:?}: worker {worker}, line {line}, {lasts:?}"));
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
                self.workers[worker].stopping = true;
                self.at(self.now, Event::Tick(worker));
            }
            Fault::Cut => self.workers[worker].cut_until = until,
            Fault::RedisStops => self.redis.stopped_until = until,
            Fault::RedisRestarts { forgets } => {
                let down = self.between(Duration::from_millis(1), self.plan.lease);
                self.redis.down_until = self.now + down.as_nanos() as u64;
                self.redis.life = (self.redis.life.0 + 1, self.redis_ms() + down.as_millis() as u64);
                let forgets = self.between(Duration::ZERO, forgets);
                self.forgets(self.now.saturating_sub(forgets.as_nanos() as u64));
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
                    self.soon(delay, Event::Heard(worker, line as LineNo, self.rates[line]));
                }
            }
        }
    }

    /// Redis is as it was at `then`.
    fn forgets(&mut self, then: At) {
        while let Some((_, line, entry)) = self.redis.changes.pop_back_if(|(at, ..)| *at >= then) {
            self.redis.leases.set_entry(line, entry);
        }
    }
}

/// What a clock shows at `at` that runs `drift` ten millionths too fast.
fn drifted(at: At, drift: i64) -> u64 {
    at.saturating_add_signed((i128::from(at) * i128::from(drift) / 10_000_000) as i64)
}
