//! The loop of a runner, told over from `dispatch::runner` as far as it decides when a message may go: it claims what it
//! sends in the next moments, and lets it go by lease and pace.

use std::time::{Duration, Instant};

use pregon::dispatch::{lease::Lease, pace::Pacer};

use super::{
    rules::{Claim, LineNo, WorkerNo},
    watch::Write,
    world::{At, Event, World},
};

/// Attempts at once.
const SLOTS: usize = 64;

/// A machine that is not stopped gets from reading the clock to writing the message within this time.
pub const LOOK_TO_WRITE: Duration = Duration::from_micros(200);

/// A claim takes what the line sends in this time.
const CLAIM_SECONDS: f64 = 0.05;

/// After a claim that brought nothing, the next one is that much later.
const PAUSE: Duration = Duration::from_millis(250);

/// A line with nothing to do looks again after this time.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// A runner, while its worker knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub worker: WorkerNo,
    pub line: LineNo,
    pub epoch: u64,
}

/// The state of a runner.
pub struct Runner {
    pub lease: Lease,
    pub pacer: Pacer,
    /// When its worker had the lease.
    pub began: At,
    /// Its worker told it to stop.
    pub told_to_stop: bool,
    /// It begins nothing any more.
    pub stopping: bool,
    /// It has ended.
    pub done: bool,
    /// Messages claimed and not yet sent.
    pub ready: usize,
    in_flight: usize,
    wake: u64,
    /// The claim that is on its way, and before which time there is no other.
    claim: (u64, bool),
    claim_again_at: At,
}

impl Runner {
    pub fn new(lease: Lease, pacer: Pacer, began: At) -> Self {
        Self {
            lease,
            pacer,
            began,
            told_to_stop: false,
            stopping: false,
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
        self.workers[run.worker].owned.get_mut(&run.line).filter(|runner| runner.lease.epoch == run.epoch)
    }

    /// Wakes a runner at `at` and not before, unless it is woken again.
    pub fn wake(&mut self, run: Run, at: At) {
        let Some(runner) = self.runner(run) else { return };
        runner.wake += 1;
        let wake = runner.wake;
        self.at(at, Event::Looks(run, wake));
    }

    /// The worker tells a runner to stop.
    pub fn stop_run(&mut self, worker: WorkerNo, line: LineNo) {
        let Some(runner) = self.workers[worker].owned.get_mut(&line) else { return };
        if !std::mem::replace(&mut runner.told_to_stop, true) {
            let epoch = runner.lease.epoch;
            self.wake(Run { worker, line, epoch }, self.now);
        }
    }

    pub fn looks(&mut self, run: Run, wake: u64) {
        if self.runner(run).is_some_and(|runner| runner.wake == wake && !runner.done) {
            let delay = self.between(Duration::ZERO, LOOK_TO_WRITE);
            self.soon(delay, Event::Acts(run, self.now));
        }
    }

    /// Does what may be done at the time `looked` that was read: the process may have been stopped since.
    pub fn acts(&mut self, run: Run, looked: At) {
        let now = self.clock(run.worker, looked);
        let (at, has_work) = (self.now, self.now >= self.no_work_until[run.line as usize]);
        let Some(runner) = self.runner(run) else { return };
        if !runner.stopping && (runner.told_to_stop || !runner.lease.holds(now)) {
            runner.stopping = true;
            runner.ready = 0;
        }
        let (mut writes, mut send_at) = (0, None);
        let rate = runner.pacer.rate();
        while !runner.stopping && runner.ready > 0 && runner.lease.holds(now) && runner.in_flight < SLOTS {
            match runner.pacer.take(now) {
                Ok(()) => {
                    writes += 1;
                    runner.ready -= 1;
                    runner.in_flight += 1;
                }
                Err(wait) => {
                    send_at = Some(now + wait);
                    break;
                }
            }
        }
        let rate = rate.max(runner.pacer.rate());
        let few = runner.ready < (runner.pacer.rate() * CLAIM_SECONDS).ceil() as usize;
        let claims = few && has_work && !runner.stopping && runner.lease.holds(now);
        let claims = claims && !runner.claim.1 && at >= runner.claim_again_at;
        let claim_again_at = runner.claim_again_at;
        let idle = now + IDLE_MAX;
        let wake_at =
            send_at.into_iter().chain((!runner.stopping).then(|| runner.lease.ends())).fold(idle, Instant::min);
        let is_idle = runner.stopping && runner.in_flight == 0;
        for _ in 0..writes {
            self.write(run, Write { at, looked, rate });
        }
        if is_idle {
            let settles = self.between(Duration::ZERO, Duration::from_millis(50));
            return self.soon(settles, Event::Settled(run));
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
        let in_grace_period = self.takes_redis_for_young(run.worker);
        let (comes, takes) = self.passage(run.worker);
        let Some(runner) = self.runner(run) else { return };
        runner.claim = (runner.claim.0 + 1, true);
        let number = runner.claim.0;
        if comes {
            self.soon(takes, Event::ClaimAsked(run, number, in_grace_period));
        }
        self.soon(self.workers[run.worker].patience, Event::ClaimAnswered(run, number, None));
    }

    /// A claim was answered, or is given up.
    pub fn claimed(&mut self, run: Run, number: u64, answer: Option<Claim>) {
        let at = self.now;
        let Some(runner) = self.runner(run).filter(|runner| runner.claim == (number, true)) else { return };
        runner.claim.1 = false;
        match answer {
            Some(Claim::Rows) if runner.stopping => {}
            Some(Claim::Rows) => runner.ready += ((runner.pacer.rate() * CLAIM_SECONDS).ceil() as usize).max(1),
            Some(Claim::Fenced) => runner.lease.lost(),
            Some(Claim::Young) | None => runner.claim_again_at = at + PAUSE.as_nanos() as u64,
        }
        self.wake(run, at);
    }

    fn write(&mut self, run: Run, write: Write) {
        self.watch.tell(write.at, || format!("{run:?} writes"));
        let mut others = Vec::new();
        let began = self.workers[run.worker].owned[&run.line].began;
        for (number, worker) in self.workers.iter().enumerate() {
            let Some(other) = worker.owned.get(&run.line) else { continue };
            let same = number == run.worker && other.lease.epoch == run.epoch;
            let may = self.watch.who_may_is_enough || other.ready > 0;
            if !same && may && !other.stopping && !other.done && other.lease.holds(self.clock(number, self.now)) {
                others.push((other.lease.epoch, other.began));
            }
        }
        self.watch.written(run, write, began, &others);
        let takes = self.between(Duration::from_millis(5), Duration::from_millis(50));
        self.soon(takes, Event::AttemptEnded(run));
    }

    pub fn attempt_ended(&mut self, run: Run) {
        let now = self.clock(run.worker, self.now);
        let throttled = self.one_of(self.plan.throttled);
        let at = self.now;
        let Some(runner) = self.runner(run) else { return };
        runner.in_flight -= 1;
        if throttled {
            runner.pacer.throttled(now);
        }
        self.wake(run, at);
    }

    pub fn settled(&mut self, run: Run) {
        if let Some(runner) = self.runner(run) {
            runner.done = true;
        }
    }
}
