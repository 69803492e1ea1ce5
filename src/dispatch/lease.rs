//! A lease: the right of this worker to send on a line, for a limited time, as its runner sees it.
//!
//! Never: calls Redis, or reads a clock. The worker renews the lease and calls `renewed`.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// An owner stops sending before its lease ends, by this share of the lease: its last requests have to leave the
/// machine before another owner begins.
const MARGIN: f64 = 0.2;

/// A lease, which the worker renews and the runner checks.
#[derive(Debug)]
pub struct Lease {
    /// Fences claims: Redis rejects a claim of an older epoch.
    pub epoch: u64,
    created_at: Instant,
    valid_us: AtomicU64,
}

impl Lease {
    /// A lease of `length`. It counts from `requested_at`, before the request was sent, so that it never ends later
    /// here than in Redis.
    pub fn new(epoch: u64, requested_at: Instant, length: Duration) -> Self {
        let lease = Self { epoch, created_at: requested_at, valid_us: AtomicU64::new(0) };
        lease.renewed(requested_at, length);
        lease
    }

    /// Records a renewal for `length` that was requested at `requested_at`.
    pub fn renewed(&self, requested_at: Instant, length: Duration) {
        let ends = requested_at.duration_since(self.created_at) + length.mul_f64(1.0 - MARGIN);
        self.valid_us.store(u64::try_from(ends.as_micros()).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// Records that the lease was lost.
    pub fn lost(&self) {
        self.valid_us.store(0, Ordering::Release);
    }

    /// Whether the owner may send at `now`.
    pub fn is_valid(&self, now: Instant) -> bool {
        now < self.ends()
    }

    /// When sending stops unless the lease is renewed.
    pub fn ends(&self) -> Instant {
        self.created_at + Duration::from_micros(self.valid_us.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_stops_before_its_lease_ends() {
        let requested_at = Instant::now();
        let lease = Lease::new(7, requested_at, Duration::from_secs(10));
        assert!(lease.is_valid(requested_at + Duration::from_millis(7_900)));
        assert!(!lease.is_valid(requested_at + Duration::from_millis(8_000)));
        lease.renewed(requested_at + Duration::from_secs(3), Duration::from_secs(10));
        assert!(lease.is_valid(requested_at + Duration::from_millis(10_900)));
        lease.lost();
        assert!(!lease.is_valid(requested_at));
    }
}
