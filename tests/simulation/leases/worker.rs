//! A model of the worker's loop in `dispatch::worker`: its requests to Redis, their order, and what it does with
//! each response or timeout.

use std::{collections::BTreeMap, time::Duration, time::Instant};

use pregon::dispatch::{lease::Lease, line::pace::Pacer};
use rand::{RngExt as _, seq::SliceRandom as _};

use super::{
    rules::{LineNo, WorkerNo},
    runner::{Run, Runner},
    world::{Event, World},
};

/// The longest pause between two ticks, as in `dispatch::worker`.
const TICK_MAX: Duration = Duration::from_millis(500);

/// A request to Redis.
#[derive(Clone, Debug)]
pub enum Request {
    /// Renews leases, or acquires those with an epoch of 0.
    Acquire(Vec<(LineNo, u64)>),
    /// Releases a lease.
    Release(LineNo, u64),
    /// Registers the worker as live, and counts the live workers.
    LiveWorkers,
    /// Asks which lines have an owner.
    Owners(Vec<LineNo>),
    /// A request without effect on leases.
    Other,
}

/// A response from Redis.
#[derive(Clone, Debug)]
pub enum Response {
    Epochs(Vec<Option<u64>>),
    LiveWorkers(usize),
    Owners(Vec<bool>),
    Done,
    Error,
}

/// The request whose response a worker waits for.
enum Step {
    Nothing,
    Releasing,
    Renewing { asked: Instant, held: Vec<LineNo> },
    LiveWorkers,
    FindingFree { n: usize, free: Vec<LineNo> },
    Taking { asked: Instant, free: Vec<LineNo> },
    Reporting,
}

/// A worker process.
pub struct Worker {
    /// Drift of its clock, in units of 10⁻⁷ of true time; positive: fast.
    pub drift: i64,
    /// What its clock showed when the world began.
    pub clock_began: Duration,
    /// The process runs: it has neither been killed nor exited.
    pub alive: bool,
    /// The process is shutting down.
    pub stopping: bool,
    /// The lines that it owns, each with its runner.
    pub owned: BTreeMap<LineNo, Runner>,
    /// Its lease task is suspended until this time.
    pub task_stopped_until: u64,
    /// Its runners are suspended until this time.
    pub runners_stopped_until: u64,
    /// No traffic passes between it and Redis until this time.
    pub cut_until: u64,
    /// The rate of each line, as this worker knows it.
    rates: Vec<f64>,
    ended: Vec<(LineNo, u64)>,
    step: Step,
    asked: u64,
    /// How long it waits for a response from Redis.
    pub redis_timeout: Duration,
    /// The last incarnation of Redis that it connected to, and when that started, by the worker's clock.
    incarnation: (u64, Option<Instant>),
    ticking: bool,
}

impl Worker {
    /// Ends the worker at once, as SIGKILL does.
    pub fn die(&mut self) {
        self.alive = false;
        self.owned.clear();
    }
}

impl World {
    /// A worker starts.
    pub fn start_worker(&mut self) {
        let number = self.workers.len();
        let worker = Worker {
            drift: self.rng.random_range(-self.plan.drift..=self.plan.drift),
            clock_began: self.between(Duration::ZERO, Duration::from_secs(1_000_000)),
            alive: true,
            stopping: false,
            owned: BTreeMap::new(),
            task_stopped_until: 0,
            runners_stopped_until: 0,
            cut_until: 0,
            rates: self.rates.clone(),
            ended: Vec::new(),
            step: Step::Nothing,
            asked: 0,
            // The configuration allows at most a third of the lease; the promises do not depend on that limit.
            redis_timeout: self.between(self.plan.lease / 10, self.plan.lease * 2),
            incarnation: (0, None),
            ticking: false,
        };
        self.workers.push(worker);
        let delay = self.between(Duration::ZERO, Duration::from_millis(100));
        self.after(delay, Event::Tick(number));
    }

    fn ask(&mut self, number: WorkerNo, step: Step, request: Request) {
        let (arrives, delay) = self.link(number);
        let worker = &mut self.workers[number];
        worker.step = step;
        worker.asked += 1;
        let (asked, redis_timeout) = (worker.asked, worker.redis_timeout);
        if arrives {
            self.after(delay, Event::RequestArrives(number, asked, request));
        }
        self.after(redis_timeout, Event::TimedOut(number, asked));
    }

    pub fn tick(&mut self, number: WorkerNo) {
        let worker = &mut self.workers[number];
        if !worker.alive || worker.ticking {
            return;
        }
        worker.ticking = true;
        worker.ended =
            worker.owned.iter().filter(|(_, run)| run.done).map(|(line, run)| (*line, run.lease.epoch)).collect();
        for (line, _) in &worker.ended {
            worker.owned.remove(line);
        }
        self.release_next(number);
    }

    fn release_next(&mut self, number: WorkerNo) {
        match self.workers[number].ended.pop() {
            Some((line, epoch)) => self.ask(number, Step::Releasing, Request::Release(line, epoch)),
            None => self.renew(number),
        }
    }

    fn renew(&mut self, number: WorkerNo) {
        let asked = self.clock(number, self.now);
        let worker = &self.workers[number];
        let rights: Vec<(LineNo, u64)> = worker.owned.iter().map(|(line, run)| (*line, run.lease.epoch)).collect();
        let held = worker.owned.keys().copied().collect();
        self.ask(number, Step::Renewing { asked, held }, Request::Acquire(rights));
    }

    fn tick_ends(&mut self, number: WorkerNo) {
        let worker = &mut self.workers[number];
        (worker.step, worker.ticking) = (Step::Nothing, false);
        if worker.stopping && worker.owned.is_empty() {
            worker.alive = false;
            return;
        }
        let tick = TICK_MAX.min(self.plan.lease / 5);
        let pause = if worker.stopping { tick / 10 } else { tick };
        self.after(pause, Event::Tick(number));
    }

    pub fn timed_out(&mut self, number: WorkerNo, asked: u64) {
        self.answered(number, asked, Response::Error);
    }

    pub fn answered(&mut self, number: WorkerNo, asked: u64, response: Response) {
        let worker = &mut self.workers[number];
        if !worker.alive || worker.asked != asked {
            return;
        }
        match (std::mem::replace(&mut worker.step, Step::Nothing), response) {
            (Step::Nothing, _) => {}
            (Step::Releasing, Response::Done) => self.release_next(number),
            (Step::Releasing, _) => {
                // The remaining leases expire.
                worker.ended.clear();
                self.renew(number);
            }
            (Step::Renewing { asked, held }, Response::Epochs(epochs)) => self.renewed(number, asked, &held, &epochs),
            (Step::LiveWorkers, Response::LiveWorkers(workers)) => self.shares(number, workers),
            (Step::FindingFree { n, free }, Response::Owners(owned)) => {
                let free: Vec<LineNo> =
                    free.into_iter().zip(owned).filter(|(_, owned)| !owned).map(|(line, _)| line).take(n).collect();
                let asked = self.clock(number, self.now);
                let rights = free.iter().map(|line| (*line, 0)).collect();
                self.ask(number, Step::Taking { asked, free }, Request::Acquire(rights));
            }
            (Step::Taking { asked, free }, Response::Epochs(epochs)) => {
                self.took(number, asked, &free, &epochs);
                self.ask(number, Step::Reporting, Request::Other);
            }
            (Step::Reporting, _) | (_, Response::Error) => self.tick_ends(number),
            (_, response) => unreachable!("{response:?} to another request"),
        }
    }

    fn renewed(&mut self, number: WorkerNo, asked: Instant, held: &[LineNo], epochs: &[Option<u64>]) {
        let worker = &mut self.workers[number];
        for (line, epoch) in held.iter().zip(epochs) {
            let lease = &worker.owned[line].lease;
            if epoch.is_some() {
                lease.renewed(asked, self.plan.lease);
            } else {
                lease.lost();
            }
        }
        if worker.stopping {
            let lines: Vec<LineNo> = worker.owned.keys().copied().collect();
            lines.into_iter().for_each(|line| self.stop_run(number, line));
            self.tick_ends(number);
        } else {
            self.ask(number, Step::LiveWorkers, Request::LiveWorkers);
        }
    }

    fn shares(&mut self, number: WorkerNo, workers: usize) {
        let share = self.rates.len().div_ceil(workers.max(1));
        let staying: Vec<LineNo> =
            self.workers[number].owned.iter().filter(|(_, run)| !run.stop_requested).map(|(line, _)| *line).collect();
        if staying.len() > share {
            staying[share..].iter().for_each(|line| self.stop_run(number, *line));
        } else if staying.len() < share {
            let mut free: Vec<LineNo> =
                (0..self.rates.len() as LineNo).filter(|line| !self.workers[number].owned.contains_key(line)).collect();
            free.shuffle(&mut self.rng);
            let n = share - staying.len();
            return self.ask(number, Step::FindingFree { n, free: free.clone() }, Request::Owners(free));
        }
        self.ask(number, Step::Reporting, Request::Other);
    }

    fn took(&mut self, number: WorkerNo, asked: Instant, free: &[LineNo], epochs: &[Option<u64>]) {
        let now = self.clock(number, self.now);
        for (&line, epoch) in free.iter().zip(epochs) {
            let Some(epoch) = *epoch else { continue };
            let lease = Lease::new(epoch, asked, self.plan.lease);
            let rate = self.workers[number].rates[line as usize];
            let runner = Runner::new(lease, Pacer::new(rate, now), self.now);
            self.workers[number].owned.insert(line, runner);
            self.watch.log(self.now, || format!("worker {number} acquired line {line} in epoch {epoch}"));
            let delay = self.between(Duration::ZERO, Duration::from_millis(2));
            self.wake(Run { worker: number, line, epoch }, self.now + delay.as_nanos() as u64);
        }
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
        if let Some(run) = worker.owned.get_mut(&line) {
            run.pacer.set_rate(rate, now);
        }
    }
}
