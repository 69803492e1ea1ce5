//! The rate window of a line and its pair limits. Pure: callers pass the time.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use super::millis;
use crate::domain::Phone;

/// Counts the events of the last second exactly, and keeps the largest count so far.
///
/// Memory: 8 bytes for each event of the last second.
#[derive(Default)]
pub(super) struct Window {
    times_us: VecDeque<u64>,
    max_in_1s: usize,
}

const SECOND_US: u64 = 1_000_000;

impl Window {
    /// Events in the second that ends at `now_us`: after `now_us` − 1 s, and up to `now_us`. `now_us` must not
    /// decrease.
    pub(super) fn count(&mut self, now_us: u64) -> usize {
        while self.times_us.front().is_some_and(|at| at + SECOND_US <= now_us) {
            self.times_us.pop_front();
        }
        self.times_us.len()
    }

    pub(super) fn record(&mut self, now_us: u64) {
        self.max_in_1s = self.max_in_1s.max(self.count(now_us) + 1);
        self.times_us.push_back(now_us);
    }

    /// The largest count in any one-second window so far.
    pub(super) fn max_in_1s(&self) -> usize {
        self.max_in_1s
    }
}

/// Meta's pair limit, on what one line sends to one person: one message in 6 s. A burst of up to 45 messages within 6 s
/// is admitted on credit. After a burst, nothing is admitted for as long as its messages would have taken at the normal
/// rate (20 messages: 2 minutes).
/// Source: developers.facebook.com/docs/whatsapp/messaging-limits, pair rate limits, read in a copy of 11 Sep 2026.
pub(super) struct Pairs {
    pairs: HashMap<Phone, Pair>,
    /// When the map reaches this size, pairs that owe nothing and had no send in the last 6 s are evicted.
    evict_at: usize,
}

#[derive(Default)]
struct Pair {
    since_ms: u64,
    /// Messages since then; 0 for a pair that owes nothing.
    sent: u64,
    /// When the last send arrived, whether it was admitted or not.
    arrived_ms: Option<u64>,
}

const SPACING_MS: u64 = 6_000;
const BURST_MAX: u64 = 45;

impl Pairs {
    pub(super) fn new() -> Self {
        Self { pairs: HashMap::new(), evict_at: 1024 }
    }

    /// Records the arrival of a send. Returns whether it is more than `jitter` too early after the previous one.
    pub(super) fn arrives_early(&mut self, person: Phone, now: Duration, jitter: Duration) -> bool {
        let (now_ms, spacing_ms) = (millis(now), SPACING_MS.saturating_sub(millis(jitter)));
        if self.pairs.len() >= self.evict_at {
            self.pairs.retain(|_, pair| pair.is_needed(now_ms));
            self.evict_at = (2 * self.pairs.len()).max(1024);
        }
        let previous = self.pairs.entry(person).or_default().arrived_ms.replace(now_ms);
        previous.is_some_and(|previous_ms| now_ms < previous_ms + spacing_ms)
    }

    /// Whether a message to `person` is admitted now. An admitted message counts towards the limit.
    pub(super) fn admit(&mut self, person: Phone, now: Duration) -> bool {
        let now_ms = millis(now);
        let pair = self.pairs.entry(person).or_default();
        if pair.is_free(now_ms) {
            (pair.since_ms, pair.sent) = (now_ms, 1);
            return true;
        }
        let in_burst = now_ms < pair.since_ms + SPACING_MS && pair.sent < BURST_MAX;
        pair.sent += u64::from(in_burst);
        in_burst
    }
}

impl Pair {
    fn is_free(&self, now_ms: u64) -> bool {
        now_ms >= self.since_ms + self.sent * SPACING_MS
    }

    fn is_needed(&self, now_ms: u64) -> bool {
        !self.is_free(now_ms) || self.arrived_ms.is_some_and(|arrived_ms| now_ms < arrived_ms + SPACING_MS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_largest_second_matches_a_brute_force_count(gaps in prop::collection::vec(0u64..400_000, 1..200)) {
            let times: Vec<u64> = gaps.iter().scan(0, |now, gap| { *now += gap; Some(*now) }).collect();
            let mut window = Window::default();
            times.iter().for_each(|at| window.record(*at));
            let within = |end: u64| times.iter().filter(|at| **at <= end && **at + SECOND_US > end).count();
            prop_assert_eq!(window.max_in_1s(), times.iter().map(|end| within(*end)).max().unwrap_or(0));
        }
    }

    const MS: Duration = Duration::from_millis(1);

    fn person(number: u64) -> Phone {
        Phone::from_digits(5_491_100_000_000 + number).expect("a number")
    }

    #[test]
    fn a_burst_blocks_its_pair_until_it_is_paid_back() {
        let mut pairs = Pairs::new();
        let admitted = (0..60).filter(|i| pairs.admit(person(7), *i * 10 * MS)).count();
        assert_eq!(admitted, 45);
        assert!(pairs.admit(person(8), 600 * MS), "the limit applies to one person only");
        assert!(!pairs.admit(person(7), (45 * 6_000 - 1) * MS));
        assert!(pairs.admit(person(7), 45 * 6_000 * MS));

        let mut pairs = Pairs::new();
        assert!((0..20).all(|i| pairs.admit(person(7), i * 100 * MS)));
        assert!(!pairs.admit(person(7), 6_000 * MS), "the burst is over");
        assert!(!pairs.admit(person(7), 119_999 * MS));
        assert!(pairs.admit(person(7), 120_000 * MS));
    }

    #[test]
    fn a_send_within_6_s_of_the_previous_one_is_early() {
        let mut pairs = Pairs::new();
        let jitter = 100 * MS;
        let mut early = |number: u64, at_ms: u32| pairs.arrives_early(person(number), at_ms * MS, jitter);
        assert!(!early(7, 0) && !early(8, 1), "the first of each person");
        assert!(!early(7, 5_900) && early(7, 11_799), "the previous send counts, whatever its response was");
        assert!(!early(7, 17_800));
    }

    #[test]
    fn a_spaced_sender_is_never_refused_and_is_evicted() {
        let mut pairs = Pairs::new();
        let mut send = |number: u64, at_ms: u32| {
            !pairs.arrives_early(person(number), at_ms * MS, Duration::ZERO) && pairs.admit(person(number), at_ms * MS)
        };
        assert!((0..1_000).all(|i| send(7, i * 6_000)));
        assert!((0..100_000).all(|number| send(number.into(), 10_000_000 + number * 6)));
        assert!(pairs.pairs.len() < 5_000, "{} pairs are left", pairs.pairs.len());
    }
}
