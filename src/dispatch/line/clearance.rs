//! The clearance of a line: whether its next message may leave now, by its lease and its pace.
//!
//! The runner asks before each message. `tests/simulation` asks in virtual time.
//!
//! Never: reads a clock. Callers pass `now`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::pace::{Pacer, Traffic};
use crate::{dispatch::lease::Lease, rules::rate::LaneRates};

/// The clearance of one line.
pub struct Clearance {
    /// The right to send on the line.
    pub lease: Arc<Lease>,
    /// Keeps the rate.
    pub pacer: Pacer,
    stopping: bool,
    /// No message of a chat, and none of a campaign, leaves before this time.
    send_at: [Option<Instant>; 2],
}

impl Clearance {
    /// The clearance of a line at `rates`, which starts now.
    pub fn new(lease: Arc<Lease>, rates: LaneRates, now: Instant) -> Self {
        Self { lease, pacer: Pacer::new(rates, now), stopping: false, send_at: [None; 2] }
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
    pub fn may_send(&self, traffic: Traffic, now: Instant) -> bool {
        !self.stopping && self.lease.is_valid(now) && self.send_at(traffic).is_none_or(|at| now >= at)
    }

    /// Takes the right to send one message now. If that fails, remembers when to try again.
    pub fn take(&mut self, traffic: Traffic, now: Instant) -> bool {
        if !self.may_send(traffic, now) {
            return false;
        }
        let wait = self.pacer.take(traffic, now).err();
        self.send_at[lane(traffic)] = wait.map(|wait| now + wait);
        wait.is_none()
    }

    /// The time before which no message of this kind leaves.
    pub fn send_at(&self, traffic: Traffic) -> Option<Instant> {
        self.send_at[lane(traffic)]
    }

    /// Lets no message leave for the time that one message of this kind takes at the current rate.
    pub fn skip_one(&mut self, traffic: Traffic, now: Instant) {
        let rate = if traffic == Traffic::Campaign { self.pacer.rate() } else { self.pacer.whole_rate() };
        self.send_at[lane(traffic)] = Some(now + Duration::from_secs_f64(1.0 / rate));
    }

    /// Lets the line ask the pacer again at once, instead of at the time that the pacer last returned.
    pub fn ask_again(&mut self) {
        self.send_at = [None; 2];
    }

    /// Changes the rates.
    pub fn set_rates(&mut self, rates: LaneRates, now: Instant) {
        self.pacer.set_rates(rates, now);
        self.ask_again();
    }

    /// When to check again if nothing happens before. `has_slot`: whether one more attempt may begin.
    pub fn deadline(&self, now: Instant, has_slot: bool) -> Option<Instant> {
        let lease_ends = (!self.stopping).then(|| self.lease.ends());
        lease_ends.into_iter().chain(self.send_at.into_iter().flatten().filter(|at| has_slot && *at > now)).min()
    }
}

/// The place of a kind of message in [`Clearance::send_at`].
fn lane(traffic: Traffic) -> usize {
    usize::from(traffic == Traffic::Campaign)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(10);

    fn clearance(now: Instant) -> Clearance {
        Clearance::new(Arc::new(Lease::new(7, now, LENGTH)), LaneRates { campaigns: 10.0, whole: 10.0 }, now)
    }

    #[test]
    fn a_line_whose_lease_ended_stays_stopped_after_a_renewal() {
        let now = Instant::now();
        let mut clearance = clearance(now);
        assert!(!clearance.stop_if(false, now + Duration::from_secs(7)));
        let later = now + Duration::from_secs(9);
        assert!(clearance.stop_if(false, later) && !clearance.stop_if(false, later));
        clearance.lease.renewed(later, LENGTH);
        assert!(clearance.is_stopping() && !clearance.take(Traffic::Campaign, later));
    }

    #[test]
    fn a_message_waits_until_the_pace_allows_it() {
        let now = Instant::now();
        let mut clearance = clearance(now);
        assert!(!clearance.take(Traffic::Campaign, now));
        let at = clearance.deadline(now, true).expect("a deadline");
        assert!(
            at > now
                && at < clearance.lease.ends()
                && !clearance.may_send(Traffic::Campaign, now)
                && clearance.take(Traffic::Campaign, at)
        );
        assert_eq!(clearance.deadline(at, false), Some(clearance.lease.ends()));
    }
}
