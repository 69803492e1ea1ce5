//! Why a recipient is skipped: left out before sending.

use super::{FailureReason, MetaCode};

/// Why a recipient was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SkipReason {
    /// The person does not want such messages from the business.
    Suppressed,
    /// Meta delivers no marketing to numbers of the USA.
    MarketingUs,
    /// The person was erased: the number is no longer known.
    Forgotten,
    /// The person has had as many marketing messages as a frequency cap allows.
    FrequencyCap,
    /// Meta recently withheld marketing from the person.
    Withheld,
}

impl SkipReason {
    /// Every reason.
    pub const ALL: [Self; 5] =
        [Self::Suppressed, Self::MarketingUs, Self::Forgotten, Self::FrequencyCap, Self::Withheld];

    /// The byte that represents the reason in stored data, above 0. It never changes.
    pub fn byte(self) -> u8 {
        match self {
            SkipReason::Suppressed => 1,
            SkipReason::MarketingUs => 2,
            SkipReason::Forgotten => 3,
            SkipReason::FrequencyCap => 4,
            SkipReason::Withheld => 5,
        }
    }

    /// The reason that `byte` represents; `None` if it represents no reason.
    pub fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.byte() == byte)
    }

    /// The name in the API, reports and events.
    pub fn name(self) -> &'static str {
        match self {
            SkipReason::Suppressed => "suppressed",
            SkipReason::MarketingUs => "marketing_us",
            SkipReason::Forgotten => "forgotten",
            SkipReason::FrequencyCap => "frequency_cap",
            SkipReason::Withheld => "withheld",
        }
    }
}

/// Why a recipient is in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowReason {
    /// It failed, is retried, or has no result.
    Failure(FailureReason),
    /// It was skipped.
    Skip(SkipReason),
}

impl RowReason {
    /// Meta's code, if it gave one.
    pub fn code(self) -> Option<MetaCode> {
        match self {
            RowReason::Failure(reason) => reason.code(),
            RowReason::Skip(_) => None,
        }
    }

    /// The reason in reports, events and the API.
    pub fn title(self) -> &'static str {
        match self {
            RowReason::Failure(reason) => reason.title(),
            RowReason::Skip(reason) => reason.name(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_byte_of_its_own_above_0() {
        for (at, reason) in SkipReason::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(reason.byte()), at + 1);
            assert_eq!(SkipReason::of(reason.byte()), Some(reason));
        }
        assert_eq!(SkipReason::of(0), None);
    }
}
