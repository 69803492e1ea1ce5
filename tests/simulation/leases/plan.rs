//! The parameters of a schedule. Everything else is drawn from its seed.

use std::time::Duration;

/// A fault or a change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// SIGSTOP of a worker at any point, and SIGCONT after at most two leases.
    Stop,
    /// The worker's lease task is suspended for at most two leases, while the runners run.
    TaskStalls,
    /// The runners are suspended for at most two leases, while the lease task runs.
    RunnersStall,
    /// SIGKILL of a worker.
    Die,
    /// One more worker starts.
    Start,
    /// SIGTERM of a worker.
    Leave,
    /// No traffic passes between a worker and Redis for at most two leases.
    Cut,
    /// Redis is suspended for at most two leases, then answers everything.
    RedisStops,
    /// Redis stops and restarts within a lease, and loses at most its last `forgets`.
    RedisRestarts { forgets: Duration },
    /// Redis' clock is set back by up to a minute.
    ClockBack,
    /// Redis' clock is set forward once, by at most this.
    ClockForward(Duration),
    /// A line has nothing to send for at most two leases, so its pacer fills up.
    NoWork,
    /// An operator changes the rate of a line.
    Rate,
}

/// The parameters of a schedule.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Seed of all random numbers.
    pub seed: u64,
    /// How long the schedule runs, in virtual time.
    pub length: Duration,
    /// The length of a lease.
    pub lease: Duration,
    /// Workers at the beginning.
    pub workers: usize,
    /// The rate of each line, in messages per second.
    pub rates: Vec<f64>,
    /// The faults to draw from, each with equal probability; a repeated one is drawn more often.
    pub faults: Vec<Fault>,
    /// The longest time between two faults.
    pub fault_every: Duration,
    /// When faults and trouble end.
    pub quiet_from: Duration,
    /// One in this many messages between workers and Redis is delayed or lost; 0: none.
    pub trouble: u32,
    /// Largest drift of the clocks of workers and of Redis, in units of 10⁻⁷ of true time.
    pub drift: i64,
    /// One in this many responses from Meta throttles the line; 0: none.
    pub throttled: u32,
}

impl Plan {
    /// A plan of 12 seconds without faults.
    pub fn calm(seed: u64, lease: Duration, workers: usize, rates: &[f64]) -> Self {
        Self {
            seed,
            length: Duration::from_secs(12),
            lease,
            workers,
            rates: rates.to_vec(),
            faults: Vec::new(),
            fault_every: lease / 2,
            quiet_from: Duration::MAX,
            trouble: 0,
            drift: 0,
            throttled: 0,
        }
    }
}
