//! A worker in the simulation: drives the real [`LeaseKeeper`] in virtual time, as `dispatch::worker` does with Redis.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use pregon::{
    dispatch::{
        lease::Lease,
        leases::{LeaseKeeper, LeaseRequest, LeaseResponse, LeaseStep, LeaseTurn},
    },
    domain::LineId,
    rules::rate::LaneRates,
};
use rand::RngExt as _;

use super::{
    rules::{LineNo, WorkerNo},
    runner::{Run, Runner},
    world::{Event, World},
};

/// How long lines stay in the registry.
const ID_RETENTION: Duration = Duration::from_secs(3_600);

/// A worker process.
pub struct Worker {
    /// Drift of its clock, in units of 10⁻⁷ of true time; positive: fast.
    pub drift: i64,
    /// What its clock showed when the world began.
    pub clock_began: Duration,
    /// The process runs: it has neither been killed nor exited.
    pub alive: bool,
    /// The process is to shut down.
    pub stop_requested: bool,
    /// The lines that it owns, each with its runner.
    pub runners: BTreeMap<LineNo, Runner>,
    /// Its lease task is suspended until this time.
    pub task_stopped_until: u64,
    /// Its runners are suspended until this time.
    pub runners_stopped_until: u64,
    /// No traffic passes between it and Redis until this time.
    pub cut_until: u64,
    /// The rate of each line, as this worker knows it.
    rates: Vec<f64>,
    keeper: LeaseKeeper,
    /// Whether the worker had to stop when its last tick began.
    stopping: bool,
    /// The number of the last request, and whether its response is awaited. Other responses are too late.
    request: (u64, bool),
    /// How long it waits for a response from Redis.
    pub redis_timeout: Duration,
    /// The last incarnation of Redis that it connected to, and when that started, by the worker's clock.
    incarnation: (u64, Option<Instant>),
    /// The number of the next tick.
    tick: u64,
}

impl Worker {
    /// Ends the worker at once, as SIGKILL does.
    pub fn die(&mut self) {
        self.alive = false;
        self.runners.clear();
    }
}

/// The id of a line.
pub fn line_id(line: LineNo) -> LineId {
    LineId::from(line.to_string().as_str())
}

/// The number of a line.
pub fn line_no(id: &LineId) -> LineNo {
    id.as_str().parse().expect("the id of a simulated line is its number")
}

impl World {
    /// A worker starts.
    pub fn start_worker(&mut self) {
        let number = self.workers.len();
        let worker = Worker {
            drift: self.rng.random_range(-self.plan.drift..=self.plan.drift),
            clock_began: self.between(Duration::ZERO, Duration::from_secs(1_000_000)),
            alive: true,
            stop_requested: false,
            runners: BTreeMap::new(),
            task_stopped_until: 0,
            runners_stopped_until: 0,
            cut_until: 0,
            rates: self.rates.clone(),
            keeper: LeaseKeeper::new(self.lines().collect(), self.plan.lease, ID_RETENTION),
            stopping: false,
            request: (0, false),
            // The configuration allows at most a third of the lease; the promises do not depend on that limit.
            redis_timeout: self.between(self.plan.lease / 10, self.plan.lease * 2),
            incarnation: (0, None),
            tick: 0,
        };
        self.workers.push(worker);
        let delay = self.between(Duration::ZERO, Duration::from_millis(100));
        self.after(delay, Event::Tick(number, 0));
    }

    /// The ids of all lines. Every worker lists them all.
    pub fn lines(&self) -> impl Iterator<Item = LineId> + use<> {
        (0..self.rates.len() as LineNo).map(line_id)
    }

    /// SIGTERM: a worker shuts down. That ends the pause between two ticks.
    pub fn leave(&mut self, number: WorkerNo) {
        let worker = &mut self.workers[number];
        worker.stop_requested = true;
        let tick = worker.tick;
        self.at(self.now, Event::Tick(number, tick));
    }

    /// The lease task begins its tick `tick`, unless it has begun already.
    pub fn tick(&mut self, number: WorkerNo, tick: u64) {
        let now = self.clock(number, self.now);
        let worker = &mut self.workers[number];
        if !worker.alive || worker.tick != tick {
            return;
        }
        worker.tick += 1;
        worker.stopping = worker.stop_requested;
        let finished: Vec<LineNo> =
            worker.runners.iter().filter(|(_, runner)| runner.done).map(|(line, _)| *line).collect();
        worker.runners.retain(|line, _| !finished.contains(line));
        let turn = worker.keeper.tick(finished.into_iter().map(line_id).collect(), worker.stopping, now);
        self.carry_out(number, turn);
    }

    fn carry_out(&mut self, number: WorkerNo, turn: LeaseTurn) {
        for line in &turn.stop {
            self.stop_run(number, line_no(line));
        }
        for (line, lease) in turn.start {
            self.start_run(number, line_no(&line), lease);
        }
        match turn.next {
            LeaseStep::Request(request) => self.request(number, request),
            LeaseStep::Wait { pause, .. } => {
                let worker = &self.workers[number];
                let (tick, is_new_stop) = (worker.tick, worker.stop_requested && !worker.stopping);
                self.after(if is_new_stop { Duration::ZERO } else { pause }, Event::Tick(number, tick));
            }
            LeaseStep::End => self.workers[number].alive = false,
        }
    }

    fn request(&mut self, number: WorkerNo, request: LeaseRequest) {
        let (arrives, delay) = self.link(number);
        let worker = &mut self.workers[number];
        worker.request = (worker.request.0 + 1, true);
        let (asked, redis_timeout) = (worker.request.0, worker.redis_timeout);
        if arrives {
            self.after(delay, Event::RequestArrives(number, asked, request));
        }
        self.after(redis_timeout, Event::ResponseArrives(number, asked, None));
    }

    /// The response to request `asked` arrives, or the request failed or timed out (`None`).
    pub fn response(&mut self, number: WorkerNo, asked: u64, response: Option<LeaseResponse>) {
        let now = self.clock(number, self.now);
        let worker = &mut self.workers[number];
        if !worker.alive || worker.request != (asked, true) {
            return;
        }
        worker.request.1 = false;
        let turn = worker.keeper.response(response, now, &mut self.rng);
        self.carry_out(number, turn);
    }

    fn start_run(&mut self, number: WorkerNo, line: LineNo, lease: Arc<Lease>) {
        let now = self.clock(number, self.now);
        let epoch = lease.epoch;
        let rate = self.workers[number].rates[line as usize];
        let runner = Runner::new(lease, rate, now, self.now);
        self.workers[number].runners.insert(line, runner);
        self.watch.log(self.now, || format!("worker {number} acquired line {line} in epoch {epoch}"));
        let delay = self.between(Duration::ZERO, Duration::from_millis(2));
        self.wake(Run { worker: number, line, epoch }, self.now + delay.as_nanos() as u64);
    }

    /// Called when a request arrives at Redis. If the incarnation is new to the worker, the worker has just connected
    /// to it, and derives when it began from Redis' uptime, which is in whole seconds.
    pub fn connect_to_redis(&mut self, number: WorkerNo) {
        let (incarnation, began_ms) = self.redis.incarnation;
        if self.workers[number].incarnation.0 != incarnation {
            let uptime = Duration::from_secs(self.redis_ms().saturating_sub(began_ms) / 1_000);
            let began = self.clock(number, self.now).checked_sub(uptime);
            self.workers[number].incarnation = (incarnation, began);
        }
    }

    /// Whether, as far as the worker knows, other workers may still have to replay what Redis lost.
    pub fn redis_is_in_grace_period(&self, number: WorkerNo) -> bool {
        let now = self.clock(number, self.now);
        self.workers[number].incarnation.1.is_some_and(|began| now.saturating_duration_since(began) < self.plan.lease)
    }

    /// A worker receives the new rate of a line.
    pub fn rate_changed(&mut self, number: WorkerNo, line: LineNo, rate: f64) {
        let now = self.clock(number, self.now);
        let worker = &mut self.workers[number];
        worker.rates[line as usize] = rate;
        if let Some(runner) = worker.runners.get_mut(&line) {
            runner.clearance.set_rates(LaneRates { campaigns: rate, whole: rate }, now);
            let run = Run { worker: number, line, epoch: runner.clearance.lease.epoch };
            self.wake(run, self.now);
        }
    }

    /// The lists that workers have registered. Every worker lists all lines.
    pub fn line_lists(&self, workers: &[String]) -> Vec<Option<HashSet<LineId>>> {
        let list = |worker: &String| {
            let number: WorkerNo = worker.parse().expect("the name of a simulated worker is its number");
            self.redis.registered.contains(&number).then(|| self.lines().collect())
        };
        workers.iter().map(list).collect()
    }
}
