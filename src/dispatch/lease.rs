//! The right of this worker to send on a line, as its runner sees it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// An owner stops that much of the lease before its end: what it wrote last must have left before another owner begins.
const MARGIN: f64 = 0.2;

/// A lease that the worker renews while the runner watches its end.
#[derive(Debug)]
pub struct Lease {
    /// Fences claims: an older epoch can not claim.
    pub epoch: u64,
    born: Instant,
    ends_us: AtomicU64,
}

impl Lease {
    /// A lease of `length`, asked for at `asked`: it counts from before the question, so that it never ends later here
    /// than in Redis.
    pub fn new(epoch: u64, asked: Instant, length: Duration) -> Self {
        let lease = Self { epoch, born: asked, ends_us: AtomicU64::new(0) };
        lease.renewed(asked, length);
        lease
    }

    /// It was renewed for `length`, asked for at `asked`.
    pub fn renewed(&self, asked: Instant, length: Duration) {
        let ends = asked.duration_since(self.born) + length.mul_f64(1.0 - MARGIN);
        self.ends_us.store(u64::try_from(ends.as_micros()).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// It was lost.
    pub fn lost(&self) {
        self.ends_us.store(0, Ordering::Release);
    }

    /// ActiveLine is allowed at `now`.
    pub fn holds(&self, now: Instant) -> bool {
        now < self.ends()
    }

    /// When sending stops unless it is renewed.
    pub fn ends(&self) -> Instant {
        self.born + Duration::from_micros(self.ends_us.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_stops_before_its_lease_ends() {
        let asked = Instant::now();
        let lease = Lease::new(7, asked, Duration::from_secs(10));
        assert!(lease.holds(asked + Duration::from_millis(7_900)));
        assert!(!lease.holds(asked + Duration::from_millis(8_000)));
        lease.renewed(asked + Duration::from_secs(3), Duration::from_secs(10));
        assert!(lease.holds(asked + Duration::from_millis(10_900)));
        lease.lost();
        assert!(!lease.holds(asked));
    }
}
