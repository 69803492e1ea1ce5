//! What may happen in a schedule. Everything else is drawn from its seed.

use std::time::Duration;

/// One thing that goes wrong, or changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// SIGSTOP of a worker at any point, and SIGCONT after up to two leases.
    Stop,
    /// The task that holds the leases is not run for up to two leases, while the runners are.
    TaskStalls,
    /// The runners are not run for up to two leases, while the task that holds the leases is.
    RunnersStall,
    /// SIGKILL of a worker.
    Die,
    /// A worker more.
    Start,
    /// SIGTERM of a worker.
    Leave,
    /// Nothing passes between a worker and Redis for up to two leases.
    Cut,
    /// Redis answers nothing for up to two leases, and then everything.
    RedisStops,
    /// Redis ends and comes back within a lease. It forgets up to so much.
    RedisRestarts { forgets: Duration },
    /// Redis' clock is set back by up to a minute.
    ClockBack,
    /// Redis' clock is set forward by up to so much, once.
    ClockForward(Duration),
    /// A line has nothing to send for a while: its pace fills up.
    NoWork,
    /// An operator changes the rate of a line.
    Rate,
}

/// A schedule to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything follows from it.
    pub seed: u64,
    /// How long the faults go on.
    pub length: Duration,
    /// The length of a lease.
    pub lease: Duration,
    /// Workers at the beginning.
    pub workers: usize,
    /// What each line may send, messages per second.
    pub rates: Vec<f64>,
    /// What happens, at random times, that often.
    pub faults: Vec<Fault>,
    /// Time between two faults at most.
    pub fault_every: Duration,
    /// One of so many questions and answers takes long or is lost; 0: none.
    pub trouble: u32,
    /// How much faster or slower than true time the clocks of workers and of Redis run at most, in ten millionths.
    pub drift: i64,
    /// One of so many answers of Meta says that the line is too fast; 0: none.
    pub throttled: u32,
}

impl Plan {
    /// Lines and workers on a machine and a network without faults.
    pub fn calm(seed: u64, lease: Duration, workers: usize, rates: &[f64]) -> Self {
        Self {
            seed,
            length: Duration::from_secs(12),
            lease,
            workers,
            rates: rates.to_vec(),
            faults: Vec::new(),
            fault_every: lease / 2,
            trouble: 0,
            drift: 0,
            throttled: 0,
        }
    }
}
