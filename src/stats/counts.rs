//! Sums of the counters of parts: by state, as a funnel, by failure, and per second.

use std::collections::BTreeMap;

use crate::{
    api_types::{ByState, FailureCount, Funnel, SkipCount},
    domain::{FailureReason, SkipReason, State, UnixMs},
    redis::parts::PartCounts,
};

/// The rate is an average over this many full seconds. A part stores the counts of ten seconds, so that no second is
/// lost when Redis responds slowly.
const RATE_SECONDS: u64 = 5;

/// Numbers of recipients by internal state. `Refused` and `Failed` are counted separately.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateCounts([u64; 16]);

impl StateCounts {
    /// The sum of the counters of `parts`.
    pub fn of(parts: &[PartCounts]) -> Self {
        let mut tally = Self::default();
        for (&state, &n) in parts.iter().flat_map(|part| &part.by_state) {
            tally.0[usize::from(state.code())] += n;
        }
        tally
    }

    /// Adds the states in `bytes`. A byte without a state is a row without a recipient.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        for state in bytes.iter().filter_map(|&byte| State::of(byte)) {
            self.0[usize::from(state.code())] += 1;
        }
    }

    /// The number of recipients in `state`.
    pub fn get(&self, state: State) -> u64 {
        self.0[usize::from(state.code())]
    }

    /// The number of recipients in any of `states`.
    pub fn sum(&self, states: &[State]) -> u64 {
        states.iter().map(|&state| self.get(state)).sum()
    }

    /// The number of open recipients: pending, retrying, in flight or in doubt.
    pub fn open(&self) -> u64 {
        State::ALL.into_iter().filter(|state| state.is_open()).map(|state| self.get(state)).sum()
    }

    /// The number of recipients still to be sent: pending or retrying.
    pub fn to_send(&self) -> u64 {
        self.sum(&[State::Pending, State::Retrying])
    }
}

impl From<&StateCounts> for ByState {
    fn from(tally: &StateCounts) -> Self {
        Self {
            pending: tally.get(State::Pending),
            in_flight: tally.get(State::InFlight),
            retrying: tally.get(State::Retrying),
            in_doubt: tally.get(State::InDoubt),
            accepted: tally.get(State::Accepted),
            sent: tally.get(State::Sent),
            delivered: tally.get(State::Delivered),
            read: tally.get(State::Read),
            failed: tally.sum(&[State::Failed, State::Refused]),
            skipped: tally.get(State::Skipped),
            expired: tally.get(State::Expired),
            cancelled: tally.get(State::Cancelled),
            unknown: tally.get(State::Unknown),
        }
    }
}

/// The funnel of a campaign with this number of `recipients`. `replied` is the number of recipients who replied.
pub fn funnel(tally: &StateCounts, recipients: u64, replied: u64) -> Funnel {
    let never = tally.sum(&[State::Pending, State::Skipped, State::Expired, State::Cancelled]);
    let read = tally.get(State::Read);
    let delivered = read + tally.get(State::Delivered);
    let sent = delivered + tally.get(State::Sent);
    let accepted = sent + tally.sum(&[State::Accepted, State::Failed]);
    Funnel { attempted: recipients.saturating_sub(never), accepted, sent, delivered, read, replied }
}

/// The failures of all `parts`, the most frequent first. Unknown recipients count as a failure without a response.
pub fn failures(parts: &[PartCounts]) -> Vec<FailureCount> {
    let mut counts: BTreeMap<FailureReason, u64> = BTreeMap::new();
    for (&reason, &n) in parts.iter().flat_map(|part| &part.failures) {
        *counts.entry(reason).or_default() += n;
    }
    let unknown: u64 = parts.iter().filter_map(|part| part.by_state.get(&State::Unknown)).sum();
    if unknown > 0 {
        *counts.entry(FailureReason::NoAnswer).or_default() += unknown;
    }
    let details = |reason| parts.iter().find_map(|part| part.details.get(&reason)).cloned();
    let mut failures: Vec<FailureCount> = counts
        .into_iter()
        .map(|(reason, count)| FailureCount {
            code: reason.code(),
            title: reason.title().into(),
            count,
            details: details(reason),
        })
        .collect();
    // A stable sort: failures with the same count stay in the order of their codes.
    failures.sort_by_key(|failure| std::cmp::Reverse(failure.count));
    failures
}

/// The skipped recipients of all `parts`, the most frequent reason first.
pub fn skips(parts: &[PartCounts]) -> Vec<SkipCount> {
    let mut counts: BTreeMap<SkipReason, u64> = BTreeMap::new();
    for (&reason, &n) in parts.iter().flat_map(|part| &part.skips) {
        *counts.entry(reason).or_default() += n;
    }
    let mut skips: Vec<SkipCount> =
        counts.into_iter().map(|(reason, count)| SkipCount { reason: reason.name().into(), count }).collect();
    skips.sort_by_key(|skip| std::cmp::Reverse(skip.count));
    skips
}

/// Messages accepted per second, rounded to a tenth: the average over the last `RATE_SECONDS` full seconds, or since
/// the campaign started if that is shorter.
pub fn rate_per_second(parts: &[PartCounts], started_at: Option<UnixMs>, now: UnixMs) -> f64 {
    let until = now.seconds();
    let from = until.saturating_sub(RATE_SECONDS).max(started_at.map_or(0, UnixMs::seconds));
    let accepted: u64 = parts
        .iter()
        .flat_map(|part| &part.accepted_by_second)
        .filter(|(second, _)| (from..until).contains(second))
        .map(|(_, n)| n)
        .sum();
    match until.saturating_sub(from) {
        0 => 0.0,
        seconds => (accepted as f64 / seconds as f64 * 10.0).round() / 10.0,
    }
}

/// The number of messages of `parts` that Meta keeps back.
pub fn held(parts: &[PartCounts]) -> u64 {
    parts.iter().map(|part| part.held).sum()
}

/// The number of recipients of `parts`, and how many of them replied.
pub fn totals(parts: &[PartCounts]) -> (u64, u64) {
    parts.iter().fold((0, 0), |(recipients, replied), part| (recipients + part.recipients, replied + part.replied))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::MetaCode;

    fn part(states: &[(State, u64)]) -> PartCounts {
        let by_state: HashMap<State, u64> = states.iter().copied().collect();
        PartCounts { recipients: by_state.values().sum(), by_state, ..PartCounts::default() }
    }

    /// The example in the documentation.
    fn example() -> [PartCounts; 2] {
        let mut first =
            part(&[(State::Accepted, 12), (State::Sent, 100), (State::Delivered, 40_000), (State::Refused, 590)]);
        let undeliverable = FailureReason::Meta(MetaCode(131_026));
        first.failures = [(undeliverable, 590)].into();
        let mut second = part(&[
            (State::Sent, 200),
            (State::Read, 59_000),
            (State::Skipped, 80),
            (State::Unknown, 8),
            (State::Refused, 10),
        ]);
        second.failures = [(undeliverable, 10)].into();
        second.details =
            [(undeliverable, "not on WhatsApp".into()), (FailureReason::NoAnswer, "HTTP 503".into())].into();
        [first, second]
    }

    #[test]
    fn parts_add_up_to_the_example_of_the_contract() {
        let parts = example();
        let (tally, (recipients, replied)) = (StateCounts::of(&parts), totals(&parts));
        assert_eq!(recipients, 100_000);
        let expected = ByState {
            accepted: 12,
            sent: 300,
            delivered: 40_000,
            read: 59_000,
            failed: 600,
            skipped: 80,
            unknown: 8,
            ..ByState::default()
        };
        assert_eq!(ByState::from(&tally), expected);
        let expected =
            Funnel { attempted: 99_920, accepted: 99_312, sent: 99_300, delivered: 99_000, read: 59_000, replied: 0 };
        assert_eq!(funnel(&tally, recipients, replied), expected);
        let failure = |reason: FailureReason, count, details: &str| FailureCount {
            code: reason.code(),
            title: reason.title().into(),
            count,
            details: Some(details.to_owned()),
        };
        assert_eq!(
            failures(&parts),
            [
                failure(MetaCode(131_026).into(), 600, "not on WhatsApp"),
                failure(FailureReason::NoAnswer, 8, "HTTP 503")
            ],
            "unknown recipients have no code of Meta's"
        );
    }

    #[test]
    fn the_funnel_counts_failed_but_not_refused_as_accepted() {
        let tally = StateCounts::of(&[part(&[
            (State::Failed, 3),
            (State::Refused, 5),
            (State::Pending, 1),
            (State::InDoubt, 2),
        ])]);
        let expected = Funnel { attempted: 10, accepted: 3, ..Funnel::default() };
        assert_eq!(funnel(&tally, 11, 0), expected);
        assert_eq!(ByState::from(&tally).failed, 8, "one public state");
        assert_eq!((tally.open(), tally.to_send()), (3, 1));
    }

    #[test]
    fn the_most_frequent_failure_comes_first_then_the_smaller_code() {
        let (undeliverable, limited) = (MetaCode(131_026).into(), MetaCode(131_049).into());
        let with = |failures: &[(FailureReason, u64)]| PartCounts {
            failures: failures.iter().copied().collect(),
            ..PartCounts::default()
        };
        let found = failures(&[
            with(&[(limited, 2), (undeliverable, 1), (FailureReason::NoAnswer, 2)]),
            with(&[(undeliverable, 4)]),
        ]);
        let codes: Vec<_> =
            found.iter().map(|failure| serde_json::to_value(failure).expect("an object")["code"].clone()).collect();
        assert_eq!(codes, [131_026, 0, 131_049]);
        assert_eq!(found.iter().map(|failure| failure.count).collect::<Vec<_>>(), [5, 2, 2]);
    }

    #[test]
    fn the_rate_is_over_full_seconds_since_the_start() {
        let with = |seconds: &[(u64, u64)]| PartCounts {
            accepted_by_second: seconds.iter().copied().collect(),
            ..PartCounts::default()
        };
        let parts = [with(&[(94, 1000), (95, 80), (96, 80), (99, 77)]), with(&[(97, 80), (98, 81), (100, 5)])];
        let rate = |started: u64, now: u64| rate_per_second(&parts, Some(UnixMs(started)), UnixMs(now));
        assert_eq!(rate(0, 100_900), 79.6, "the current second is not full, the sixth is too old");
        assert_eq!(rate(98_200, 100_900), 79.0, "two seconds since the start");
        assert_eq!(rate(100_200, 100_900), 0.0, "no full second yet");
        assert_eq!(rate(0, 200_000), 0.0, "long over");
        assert_eq!(rate_per_second(&parts, None, UnixMs(100_900)), 79.6);
    }

    proptest! {
        #[test]
        fn states_add_up_and_the_funnel_narrows(counts in prop::collection::vec(0u64..1_000_000, State::ALL.len()), replied in 0u64..10) {
            let states: Vec<(State, u64)> = State::ALL.into_iter().zip(counts).collect();
            let parts = [part(&states)];
            let (tally, (recipients, _)) = (StateCounts::of(&parts), totals(&parts));
            let by_state = serde_json::to_value(ByState::from(&tally)).expect("an object");
            let by_state = by_state.as_object().expect("an object");
            prop_assert_eq!(by_state.len(), 13);
            prop_assert_eq!(by_state.values().filter_map(serde_json::Value::as_u64).sum::<u64>(), recipients);
            let steps = funnel(&tally, recipients, replied);
            let steps = [recipients, steps.attempted, steps.accepted, steps.sent, steps.delivered, steps.read];
            prop_assert!(steps.is_sorted_by(|wide, narrow| wide >= narrow), "{steps:?}");
        }

        #[test]
        fn a_recount_of_state_bytes_matches_the_counters(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let mut counted: HashMap<State, u64> = HashMap::new();
            for state in bytes.iter().filter_map(|&byte| State::of(byte)) {
                *counted.entry(state).or_default() += 1;
            }
            let mut tally = StateCounts::default();
            tally.add_bytes(&bytes);
            prop_assert_eq!(tally, StateCounts::of(&[part(&counted.into_iter().collect::<Vec<_>>())]));
        }
    }
}
