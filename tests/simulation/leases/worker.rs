//! The loop of a worker that holds leases, told over from `dispatch::worker`: what it asks, in which order, what it
//! makes of each answer, and of none.

use std::{collections::BTreeMap, time::Duration, time::Instant};

use pregon::dispatch::{lease::Lease, pace::Pacer};
use rand::{RngExt as _, seq::SliceRandom as _};

use super::{
    rules::{LineNo, WorkerNo},
    runner::{Run, Runner},
    world::{Event, World},
};

/// As in `dispatch::worker`.
const TICK_MAX: Duration = Duration::from_millis(500);

/// What a worker asks of Redis.
#[derive(Clone, Debug)]
pub enum Question {
    /// To renew leases, or to take them with an epoch of 0.
    Acquire(Vec<(LineNo, u64)>),
    /// To give a lease back.
    Release(LineNo, u64),
    /// To count it as living, and how many do.
    Living,
    /// Which lines have an owner.
    Owned(Vec<LineNo>),
    /// Something that matters to nobody here.
    Other,
}

/// What Redis answers.
#[derive(Clone, Debug)]
pub enum Answer {
    Epochs(Vec<Option<u64>>),
    Living(usize),
    Owned(Vec<bool>),
    Fine,
    Error,
}

/// What a worker waits for.
enum Step {
    Nothing,
    Releasing,
    Renewing { asked: Instant, held: Vec<LineNo> },
    Living,
    Looking { n: usize, free: Vec<LineNo> },
    Taking { asked: Instant, free: Vec<LineNo> },
    Reporting,
}

/// One process.
pub struct Worker {
    /// It runs that much too fast, in ten millionths.
    pub drift: i64,
    /// What its clock showed when the world began.
    pub clock_began: Duration,
    /// It was not killed and did not end.
    pub alive: bool,
    /// It was told to stop.
    pub stopping: bool,
    /// Its lines.
    pub owned: BTreeMap<LineNo, Runner>,
    /// Its task is not run before this time.
    pub task_stopped_until: u64,
    /// Its runners are not run before this time.
    pub runners_stopped_until: u64,
    /// Nothing passes between it and Redis before this time.
    pub cut_until: u64,
    /// The rates it heard of.
    rates: Vec<f64>,
    ended: Vec<(LineNo, u64)>,
    step: Step,
    asked: u64,
    /// How long it waits for an answer.
    pub patience: Duration,
    /// The life of Redis that it met last, and when that began, by its clock.
    life: (u64, Option<Instant>),
    ticking: bool,
}

impl Worker {
    /// SIGKILL.
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
            // Configuration allows a third of the lease; the promise does not depend on it.
            patience: self.between(self.plan.lease / 10, self.plan.lease * 2),
            life: (0, None),
            ticking: false,
        };
        self.workers.push(worker);
        let delay = self.between(Duration::ZERO, Duration::from_millis(100));
        self.soon(delay, Event::Tick(number));
    }

    fn ask(&mut self, number: WorkerNo, step: Step, question: Question) {
        let (comes, takes) = self.passage(number);
        let worker = &mut self.workers[number];
        worker.step = step;
        worker.asked += 1;
        let (asked, patience) = (worker.asked, worker.patience);
        if comes {
            self.soon(takes, Event::Asked(number, asked, question));
        }
        self.soon(patience, Event::GivenUp(number, asked));
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
            Some((line, epoch)) => self.ask(number, Step::Releasing, Question::Release(line, epoch)),
            None => self.renew(number),
        }
    }

    fn renew(&mut self, number: WorkerNo) {
        let asked = self.clock(number, self.now);
        let worker = &self.workers[number];
        let rights: Vec<(LineNo, u64)> = worker.owned.iter().map(|(line, run)| (*line, run.lease.epoch)).collect();
        let held = worker.owned.keys().copied().collect();
        self.ask(number, Step::Renewing { asked, held }, Question::Acquire(rights));
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
        self.soon(pause, Event::Tick(number));
    }

    pub fn given_up(&mut self, number: WorkerNo, asked: u64) {
        self.answered(number, asked, Answer::Error);
    }

    pub fn answered(&mut self, number: WorkerNo, asked: u64, answer: Answer) {
        let worker = &mut self.workers[number];
        if !worker.alive || worker.asked != asked {
            return;
        }
        match (std::mem::replace(&mut worker.step, Step::Nothing), answer) {
            (Step::Nothing, _) => {}
            (Step::Releasing, Answer::Fine) => self.release_next(number),
            (Step::Releasing, _) => {
                // Those that are left end by their time.
                worker.ended.clear();
                self.renew(number);
            }
            (Step::Renewing { asked, held }, Answer::Epochs(epochs)) => self.renewed(number, asked, &held, &epochs),
            (Step::Living, Answer::Living(workers)) => self.shares(number, workers),
            (Step::Looking { n, free }, Answer::Owned(owned)) => {
                let free: Vec<LineNo> =
                    free.into_iter().zip(owned).filter(|(_, owned)| !owned).map(|(line, _)| line).take(n).collect();
                let asked = self.clock(number, self.now);
                let rights = free.iter().map(|line| (*line, 0)).collect();
                self.ask(number, Step::Taking { asked, free }, Question::Acquire(rights));
            }
            (Step::Taking { asked, free }, Answer::Epochs(epochs)) => {
                self.took(number, asked, &free, &epochs);
                self.ask(number, Step::Reporting, Question::Other);
            }
            (Step::Reporting, _) | (_, Answer::Error) => self.tick_ends(number),
            (_, answer) => unreachable!("{answer:?} to another question"),
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
            self.ask(number, Step::Living, Question::Living);
        }
    }

    fn shares(&mut self, number: WorkerNo, workers: usize) {
        let share = self.rates.len().div_ceil(workers.max(1));
        let staying: Vec<LineNo> =
            self.workers[number].owned.iter().filter(|(_, run)| !run.told_to_stop).map(|(line, _)| *line).collect();
        if staying.len() > share {
            staying[share..].iter().for_each(|line| self.stop_run(number, *line));
        } else if staying.len() < share {
            let mut free: Vec<LineNo> =
                (0..self.rates.len() as LineNo).filter(|line| !self.workers[number].owned.contains_key(line)).collect();
            free.shuffle(&mut self.rng);
            let n = share - staying.len();
            return self.ask(number, Step::Looking { n, free: free.clone() }, Question::Owned(free));
        }
        self.ask(number, Step::Reporting, Question::Other);
    }

    fn took(&mut self, number: WorkerNo, asked: Instant, free: &[LineNo], epochs: &[Option<u64>]) {
        let now = self.clock(number, self.now);
        for (&line, epoch) in free.iter().zip(epochs) {
            let Some(epoch) = *epoch else { continue };
            let lease = Lease::new(epoch, asked, self.plan.lease);
            let rate = self.workers[number].rates[line as usize];
            let runner = Runner::new(lease, Pacer::new(rate, now), self.now);
            self.workers[number].owned.insert(line, runner);
            self.watch.tell(self.now, || format!("worker {number} has line {line} in epoch {epoch}"));
            let delay = self.between(Duration::ZERO, Duration::from_millis(2));
            self.wake(Run { worker: number, line, epoch }, self.now + delay.as_nanos() as u64);
        }
    }

    /// A connection is made: Redis says how long it has lived, in whole seconds.
    pub fn meets_redis(&mut self, number: WorkerNo) {
        let (life, began_ms) = self.redis.life;
        if self.workers[number].life.0 != life {
            let uptime = Duration::from_secs(self.redis_ms().saturating_sub(began_ms) / 1_000);
            let began = self.clock(number, self.now).checked_sub(uptime);
            self.workers[number].life = (life, began);
        }
    }

    /// Whether others may not yet have repeated what Redis forgot, as far as the worker knows.
    pub fn takes_redis_for_young(&self, number: WorkerNo) -> bool {
        let now = self.clock(number, self.now);
        self.workers[number].life.1.is_some_and(|began| now.saturating_duration_since(began) < self.plan.lease)
    }

    /// A worker hears of a rate.
    pub fn heard(&mut self, number: WorkerNo, line: LineNo, rate: f64) {
        let now = self.clock(number, self.now);
        let worker = &mut self.workers[number];
        worker.rates[line as usize] = rate;
        if let Some(run) = worker.owned.get_mut(&line) {
            run.pacer.set_rate(rate, now);
        }
    }
}
