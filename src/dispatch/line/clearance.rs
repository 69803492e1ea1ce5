//! The clearance of a line: whether its next message may leave now, by its lease and its pace.
//!
//! The runner asks before each message. `tests/simulation` asks in virtual time.
//!
//! Never: reads a clock. Callers pass `now`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::pace::Pacer;
use crate::dispatch::lease::Lease;

/// The clearance of one line.
pub struct Clearance {
    /// The right to send on the line.
    pub lease: Arc<Lease>,
    /// Keeps the rate.
    pub pacer: Pacer,
    stopping: bool,
    /// No message leaves before this time.
    send_at: Option<Instant>,
}

impl Clearance {
    /// The clearance of a line at `rate` messages per second, which starts now.
    pub fn new(lease: Arc<Lease>, rate: f64, now: Instant) -> Self {
        Self { lease, pacer: Pacer::new(rate, now), stopping: false, send_at: None }
    }

    /// Whether the line claims nothing more, finishes its attempts, and ends.
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Stops the line for good if that is `requested`, or if its lease has ended. Returns whether it stops with this
    /// call.
    pub fn stop_if(&mut self, requested: bool, now: Instant) -> bool {
        let stops = !self.stopping && (requested || !self.lease.is_valid(now));
        self.stopping |= stops;
        stops
    }

    /// Whether a message may leave now if the pace allows it.
    pub fn may_send(&self, now: Instant) -> bool {
        !self.stopping && self.lease.is_valid(now) && self.send_at.is_none_or(|at| now >= at)
    }

    /// Takes the right to send one message now. If that fails, remembers when to try again.
    pub fn take(&mut self, now: Instant) -> bool {
        if !self.may_send(now) {
            return false;
        }
        self.send_at = self.pacer.take(now).err().map(|wait| now + wait);
        self.send_at.is_none()
    }

    /// The time before which no message leaves.
    pub fn send_at(&self) -> Option<Instant> {
        self.send_at
    }

    /// Lets no message leave for the time that one message takes at the current rate.
    pub fn skip_one(&mut self, now: Instant) {
        self.send_at = Some(now + Duration::from_secs_f64(1.0 / self.pacer.rate()));
    }

    /// Lets the line ask the pacer again at once, instead of at the time that the pacer last returned.
    pub fn ask_again(&mut self) {
        self.send_at = None;
    }

    /// Changes the rate.
    pub fn set_rate(&mut self, rate: f64, now: Instant) {
        self.pacer.set_rate(rate, now);
        self.ask_again();
    }

    /// When to check again if nothing happens before. `has_slot`: whether one more attempt may begin.
    pub fn deadline(&self, now: Instant, has_slot: bool) -> Option<Instant> {
        let lease_ends = (!self.stopping).then(|| self.lease.ends());
        lease_ends.into_iter().chain(self.send_at.filter(|at| has_slot && *at > now)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(10);

    fn clearance(now: Instant) -> Clearance {
        Clearance::new(Arc::new(Lease::new(7, now, LENGTH)), 10.0, now)
    }

    #[test]
    fn a_line_whose_lease_ended_stays_stopped_after_a_renewal() {
        let now = Instant::now();
        let mut clearance = clearance(now);
        assert!(!clearance.stop_if(false, now + Duration::from_secs(7)));
        let later = now + Duration::from_secs(9);
        assert!(clearance.stop_if(false, later) && !clearance.stop_if(false, later));
        clearance.lease.renewed(later, LENGTH);
        assert!(clearance.is_stopping() && !clearance.take(later));
    }

    #[test]
    fn a_message_waits_until_the_pace_allows_it() {
        let now = Instant::now();
        let mut clearance = clearance(now);
        assert!(!clearance.take(now));
        let at = clearance.deadline(now, true).expect("a deadline");
        assert!(at > now && at < clearance.lease.ends() && !clearance.may_send(now) && clearance.take(at));
        assert_eq!(clearance.deadline(at, false), Some(clearance.lease.ends()));
    }
}
