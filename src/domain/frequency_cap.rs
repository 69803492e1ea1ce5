//! Frequency caps: how many marketing messages a person may get in a number of days.

use std::{fmt, ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};

use super::UnixMs;

const HOUR: Duration = Duration::from_hours(1);

/// At most this many marketing messages to a person in this many days, of 24 hours each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrequencyCap {
    /// The number of messages.
    pub messages: u8,
    /// The number of days.
    pub days: u8,
}

impl FrequencyCap {
    /// The numbers of messages that a cap can have.
    pub const MESSAGES: RangeInclusive<u8> = 1..=20;
    /// The numbers of days that a cap can have.
    pub const DAYS: RangeInclusive<u8> = 1..=30;

    /// What is wrong with the numbers, as a sentence.
    pub fn problem(self) -> Option<String> {
        let is_valid = Self::MESSAGES.contains(&self.messages) && Self::DAYS.contains(&self.days);
        let text = || {
            let ([m1, m2], [d1, d2]) =
                ([Self::MESSAGES.start(), Self::MESSAGES.end()], [Self::DAYS.start(), Self::DAYS.end()]);
            format!("frequency_cap is {self}: `messages` must be {m1} to {m2}, and `days` {d1} to {d2}")
        };
        (!is_valid).then(text)
    }

    /// Whether this cap has no effect in addition to `other`: people reach `other` first, or at the same time.
    pub fn is_implied_by(self, other: Self) -> bool {
        self.messages >= other.messages && self.days <= other.days
    }

    /// How long a message counts, in whole hours after the hour of its claim.
    ///
    /// A message counts until the last of these hours is over, so it never counts for less than the days of the cap.
    /// The additional hour covers a message that leaves some time after its claim.
    pub fn hours(self) -> u16 {
        u16::from(self.days) * 24 + 1
    }
}

impl fmt::Display for FrequencyCap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {} days", self.messages, self.days)
    }
}

/// The hour that contains `at`, counted from 1970.
pub fn hour_of(at: UnixMs) -> u64 {
    at.seconds() / HOUR.as_secs()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn a_cap_out_of_its_ranges_says_so() {
        assert_eq!(FrequencyCap { messages: 20, days: 30 }.problem(), None);
        for (messages, days) in [(0, 7), (21, 7), (2, 0), (2, 31)] {
            let problem = FrequencyCap { messages, days }.problem().expect("a problem");
            assert_eq!(
                problem,
                format!("frequency_cap is {messages} in {days} days: `messages` must be 1 to 20, and `days` 1 to 30")
            );
        }
    }

    #[test]
    fn a_cap_has_no_effect_beside_one_that_is_as_strict() {
        let cap = |messages, days| FrequencyCap { messages, days };
        let of_business = cap(3, 7);
        assert!([cap(3, 7), cap(4, 7), cap(3, 1)].into_iter().all(|own| own.is_implied_by(of_business)));
        assert!(![cap(2, 7), cap(2, 1), cap(3, 8)].into_iter().any(|own| own.is_implied_by(of_business)));
    }

    proptest! {
        #[test]
        fn a_message_counts_for_the_days_from_its_departure_and_hardly_longer(
            days in 1u8..=30, claimed in 1_790_000_000_000u64..1_900_000_000_000, wait in 0u64..3_600_000,
            asked in 0u64..(33 * 24 * 3_600_000),
        ) {
            let (cap, claimed) = (FrequencyCap { messages: 1, days }, UnixMs(claimed));
            let left = claimed.after(Duration::from_millis(wait));
            let asked = left.after(Duration::from_millis(asked));
            let counts = hour_of(asked) - hour_of(claimed) <= u64::from(cap.hours());
            if asked.since(left) <= DAY * u32::from(days) {
                prop_assert!(counts);
            }
            if asked.since(claimed) >= DAY * u32::from(days) + HOUR * 2 {
                prop_assert!(!counts);
            }
        }
    }
}
