//! A runner in the simulation: claims the messages of the next 50 ms, and sends them when the real [`Clearance`] allows
//! it, as `dispatch::line::runner` does.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use pregon::{
    dispatch::{
        lease::Lease,
        line::{clearance::Clearance, pace::Traffic},
    },
    rules::rate::LaneRates,
};

use super::{
    rules::{Claim, LineNo, WorkerNo},
    watch::Write,
    world::{At, Event, World},
};

/// The most attempts in flight.
const SLOTS: usize = 64;

/// The longest time between reading the clock and writing the message, on a machine that is not suspended.
pub const LOOK_TO_WRITE: Duration = Duration::from_micros(200);

/// A claim asks for the messages that the line sends in this many seconds.
const CLAIM_SECONDS: f64 = 0.05;

/// Pause after a claim that failed, or that the grace period forbids.
const PAUSE: Duration = Duration::from_millis(250);

/// The longest sleep of a line without work.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// Identifies a runner by worker, line and epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub worker: WorkerNo,
    pub line: LineNo,
    pub epoch: u64,
}

/// The state of a runner.
pub struct Runner {
    pub clearance: Clearance,
    /// When the worker acquired the lease.
    pub began: At,
    /// The worker has asked the runner to stop.
    pub stop_requested: bool,
    /// All attempts have ended, and their outcomes are stored.
    pub done: bool,
    /// Messages claimed and not yet sent.
    pub ready: usize,
    in_flight: usize,
    wake: u64,
    /// The number of the last claim, and whether its response is outstanding.
    claim: (u64, bool),
    /// The earliest time of the next claim.
    claim_again_at: At,
}

impl Runner {
    pub fn new(lease: Arc<Lease>, rate: f64, now: Instant, began: At) -> Self {
        Self {
            clearance: Clearance::new(lease, LaneRates { campaigns: rate, whole: rate }, now),
            began,
            stop_requested: false,
            done: false,
            ready: 0,
            in_flight: 0,
            wake: 0,
            claim: (0, false),
            claim_again_at: 0,
        }
    }
}

impl World {
    fn runner(&mut self, run: Run) -> Option<&mut Runner> {
        self.workers[run.worker].runners.get_mut(&run.line).filter(|runner| runner.clearance.lease.epoch == run.epoch)
    }

    /// Wakes a runner at `at`. A later call replaces the time.
    pub fn wake(&mut self, run: Run, at: At) {
        let Some(runner) = self.runner(run) else { return };
        runner.wake += 1;
        let wake = runner.wake;
        self.at(at, Event::Wakes(run, wake));
    }

    /// The worker asks a runner to stop.
    pub fn stop_run(&mut self, worker: WorkerNo, line: LineNo) {
        let Some(runner) = self.workers[worker].runners.get_mut(&line) else { return };
        if !std::mem::replace(&mut runner.stop_requested, true) {
            let epoch = runner.clearance.lease.epoch;
            self.wake(Run { worker, line, epoch }, self.now);
        }
    }

    pub fn wakes(&mut self, run: Run, wake: u64) {
        if self.runner(run).is_some_and(|runner| runner.wake == wake && !runner.done) {
            let delay = self.between(Duration::ZERO, LOOK_TO_WRITE);
            self.after(delay, Event::Sends(run, self.now));
        }
    }

    /// Sends what lease and pacer allow at `looked`, the time at which the clock was read, and claims more. The
    /// process may have been suspended since.
    pub fn send_due(&mut self, run: Run, looked: At) {
        let now = self.clock(run.worker, looked);
        let (at, has_work) = (self.now, self.now >= self.no_work_until[run.line as usize]);
        let Some(runner) = self.runner(run) else { return };
        if runner.clearance.stop_if(runner.stop_requested, now) {
            runner.ready = 0;
        }
        let mut writes = 0;
        let rate = runner.clearance.pacer.rate();
        while runner.ready > 0 && runner.in_flight < SLOTS && runner.clearance.take(Traffic::Campaign, now) {
            writes += 1;
            runner.ready -= 1;
            runner.in_flight += 1;
        }
        let rate = rate.max(runner.clearance.pacer.rate());
        let few = runner.ready < (runner.clearance.pacer.rate() * CLAIM_SECONDS).ceil() as usize;
        let claims = few && has_work && !runner.clearance.is_stopping() && runner.clearance.lease.is_valid(now);
        let claims = claims && !runner.claim.1 && at >= runner.claim_again_at;
        let claim_again_at = runner.claim_again_at;
        let deadline = runner.clearance.deadline(now, runner.in_flight < SLOTS);
        let wake_at = deadline.into_iter().fold(now + IDLE_MAX, Instant::min);
        let is_idle = runner.clearance.is_stopping() && runner.in_flight == 0;
        for _ in 0..writes {
            self.write(run, Write { at, looked, rate });
        }
        if is_idle {
            let settles = self.between(Duration::ZERO, Duration::from_millis(50));
            return self.after(settles, Event::Settled(run));
        }
        if claims {
            self.claim(run);
        }
        let mut wake_at = self.when(run.worker, wake_at);
        if !has_work {
            wake_at = wake_at.min(self.no_work_until[run.line as usize]);
        }
        if claim_again_at > self.now {
            wake_at = wake_at.min(claim_again_at);
        }
        self.wake(run, wake_at.max(self.now + 1));
    }

    fn claim(&mut self, run: Run) {
        let in_grace_period = self.redis_is_in_grace_period(run.worker);
        let (arrives, delay) = self.link(run.worker);
        let Some(runner) = self.runner(run) else { return };
        runner.claim = (runner.claim.0 + 1, true);
        let number = runner.claim.0;
        if arrives {
            self.after(delay, Event::ClaimArrives(run, number, in_grace_period));
        }
        self.after(self.workers[run.worker].redis_timeout, Event::ClaimReturns(run, number, None));
    }

    /// A claim returned or timed out.
    pub fn claimed(&mut self, run: Run, number: u64, answer: Option<Claim>) {
        let at = self.now;
        let Some(runner) = self.runner(run).filter(|runner| runner.claim == (number, true)) else { return };
        runner.claim.1 = false;
        match answer {
            Some(Claim::Rows) if runner.clearance.is_stopping() => {}
            Some(Claim::Rows) => {
                runner.ready += ((runner.clearance.pacer.rate() * CLAIM_SECONDS).ceil() as usize).max(1)
            }
            Some(Claim::Fenced) => runner.clearance.lease.lost(),
            Some(Claim::InGracePeriod) | None => runner.claim_again_at = at + PAUSE.as_nanos() as u64,
        }
        self.wake(run, at);
    }

    fn write(&mut self, run: Run, write: Write) {
        self.watch.log(write.at, || format!("{run:?} writes"));
        let mut others = Vec::new();
        let began = self.workers[run.worker].runners[&run.line].began;
        for (number, worker) in self.workers.iter().enumerate() {
            let Some(other) = worker.runners.get(&run.line) else { continue };
            let same = number == run.worker && other.clearance.lease.epoch == run.epoch;
            let may = self.watch.valid_lease_is_overlap || other.ready > 0;
            if !same
                && may
                && !other.clearance.is_stopping()
                && !other.done
                && other.clearance.lease.is_valid(self.clock(number, self.now))
            {
                others.push((other.clearance.lease.epoch, other.began));
            }
        }
        self.watch.written(run, write, began, &others);
        let delay = self.between(Duration::from_millis(5), Duration::from_millis(50));
        self.after(delay, Event::AttemptEnded(run));
    }

    pub fn attempt_ended(&mut self, run: Run) {
        let now = self.clock(run.worker, self.now);
        let throttled = self.one_in(self.plan.throttled);
        let at = self.now;
        let Some(runner) = self.runner(run) else { return };
        runner.in_flight -= 1;
        if throttled {
            runner.clearance.pacer.throttled(now);
        }
        self.wake(run, at);
    }

    pub fn settled(&mut self, run: Run) {
        if let Some(runner) = self.runner(run) {
            runner.done = true;
        }
    }
}
