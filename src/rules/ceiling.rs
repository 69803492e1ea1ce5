//! The ceiling of a campaign: its maximum rate in messages per second, over all of its lines.
//!
//! Lines may be on several workers, which do not coordinate each message. So each line of the campaign gets an equal
//! share of the ceiling and enforces it alone. The share of a line that has nothing left to send stays unused.

use std::time::{Duration, Instant};

/// How late a message may leave without delaying those after it, so that a line keeps its pace although timers fire
/// late.
const SLACK: Duration = Duration::from_millis(10);

/// The share of the rate at which messages are paced. The rest covers what [`SLACK`] lets a line catch up within a
/// second.
const PACE: f64 = 0.99;

/// Maximum time between two messages: longer than any campaign runs.
const FAR: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The share of one line of a campaign with `lines` lines and this `rate`, both in messages per second.
pub fn share(rate: f64, lines: usize) -> f64 {
    rate / lines.max(1) as f64
}

/// The ceiling of a campaign on one line. Starts empty, so that a takeover adds no burst.
#[derive(Clone, Debug)]
pub struct Ceiling {
    per_second: f64,
    interval: Duration,
    /// When the next message may leave.
    next_at: Instant,
}

impl Ceiling {
    /// A ceiling of `per_second` messages, above zero.
    pub fn new(per_second: f64, now: Instant) -> Self {
        let interval = Duration::try_from_secs_f64(1.0 / (per_second * PACE)).unwrap_or(FAR).min(FAR);
        Self { per_second, interval, next_at: now + interval }
    }

    /// The ceiling in messages per second.
    pub fn per_second(&self) -> f64 {
        self.per_second
    }

    /// When the next message may leave.
    pub fn next_at(&self) -> Instant {
        self.next_at
    }

    /// How many messages may leave from `now` to `ahead` after it.
    pub fn room(&self, now: Instant, ahead: Duration) -> usize {
        let Some(span) = (now + ahead).checked_duration_since(self.next_at.max(now)) else { return 0 };
        // The cast saturates.
        (span.as_secs_f64() / self.interval.as_secs_f64()) as usize + 1
    }

    /// How long until [`Ceiling::room`] is more than `waiting`.
    pub fn wait_for_room(&self, now: Instant, ahead: Duration, waiting: usize) -> Duration {
        let before = self.interval.saturating_mul(u32::try_from(waiting).unwrap_or(u32::MAX)).min(FAR);
        (self.next_at.max(now) + before).saturating_duration_since(now + ahead)
    }

    /// Records that a message leaves now.
    pub fn left(&mut self, now: Instant) {
        let due = self.next_at.max(now.checked_sub(SLACK).unwrap_or(now));
        self.next_at = due + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_second_has_more_messages_than_the_ceiling(
            rate in prop_oneof![1_u32..20, 20_u32..2_000],
            late_ms in prop::collection::vec(prop_oneof![0_u64..4, 0_u64..1_500], 1..400),
        ) {
            let start = Instant::now();
            let mut ceiling = Ceiling::new(f64::from(rate), start);
            let (mut now, mut sent) = (start, Vec::new());
            for late in late_ms {
                now = now.max(ceiling.next_at()) + Duration::from_millis(late);
                while ceiling.next_at() <= now {
                    ceiling.left(now);
                    sent.push(now);
                }
            }
            for (n, first) in sent.iter().enumerate() {
                let within = sent[n..].iter().take_while(|at| **at < *first + Duration::from_secs(1)).count();
                prop_assert!(within <= rate as usize, "{} in a second at {}", within, rate);
            }
        }
    }

    #[test]
    fn a_line_keeps_its_share_although_timers_are_late() {
        for rate in [0.5, 10.0, 80.0, 500.0] {
            let start = Instant::now();
            let (mut ceiling, mut now, mut sent) = (Ceiling::new(rate, start), start, 0);
            while now < start + Duration::from_secs(100) {
                now = now.max(ceiling.next_at()) + Duration::from_millis(2);
                ceiling.left(now);
                sent += 1;
            }
            assert!(f64::from(sent) >= 0.97 * 100.0 * rate, "{sent} at {rate}");
        }
    }

    #[test]
    fn what_may_leave_soon_is_counted() {
        let now = Instant::now();
        let ceiling = Ceiling::new(10.0, now);
        assert_eq!(ceiling.room(now, Duration::from_millis(50)), 0, "it starts empty");
        let due = ceiling.next_at();
        assert_eq!(ceiling.room(due, Duration::from_millis(50)), 1);
        assert_eq!(ceiling.room(due, Duration::from_millis(250)), 3);
        let wait = ceiling.wait_for_room(now, Duration::from_millis(50), 0);
        assert_eq!(ceiling.room(now + wait, Duration::from_millis(50)), 1);
        let wait = ceiling.wait_for_room(due, Duration::from_millis(50), 2);
        let mut later = ceiling;
        later.left(due);
        later.left(later.next_at());
        assert_eq!(later.room(due + wait, Duration::from_millis(50)), 1, "the two that waited have left in time");
        assert_eq!(share(10.0, 4), 2.5);
    }
}
