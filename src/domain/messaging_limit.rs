//! Meta's messaging limit of a business.

use std::{fmt, str::FromStr};

/// The number of people to whom the lines of a business, taken together, may open conversations in any 24 hours.
///
/// Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/messaging-limits>, read
/// 2026-11-30.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessagingLimit {
    /// This many people.
    People(u32),
    /// Any number of people.
    Unlimited,
}

impl MessagingLimit {
    /// The number of people; `None` for any number.
    pub fn people(self) -> Option<u32> {
        match self {
            Self::People(people) => Some(people),
            Self::Unlimited => None,
        }
    }
}

impl From<Option<u32>> for MessagingLimit {
    fn from(people: Option<u32>) -> Self {
        people.map_or(Self::Unlimited, Self::People)
    }
}

impl fmt::Display for MessagingLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::People(people) => write!(f, "{people} people"),
            Self::Unlimited => f.write_str("unlimited"),
        }
    }
}

/// Reads what Meta writes: `TIER_250`, `TIER_2K`, `TIER_UNLIMITED`, a number of people, or -1 for any number.
impl FromStr for MessagingLimit {
    type Err = BadMessagingLimit;

    fn from_str(text: &str) -> Result<Self, BadMessagingLimit> {
        let tier = text.strip_prefix("TIER_").unwrap_or(text);
        if matches!(tier, "UNLIMITED" | "-1") {
            return Ok(Self::Unlimited);
        }
        let (digits, unit) = match tier.strip_suffix('K') {
            Some(thousands) => (thousands, 1_000),
            None => (tier, 1),
        };
        let number: u32 = digits.parse().map_err(|_| BadMessagingLimit)?;
        number.checked_mul(unit).map(Self::People).ok_or(BadMessagingLimit)
    }
}

/// The text is not a messaging limit. Meta writes `TIER_NOT_SET` for a business that has none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a messaging limit, such as TIER_2K")]
pub struct BadMessagingLimit;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_that_meta_writes_is_read() {
        for (text, people) in [
            ("TIER_50", Some(50)),
            ("TIER_250", Some(250)),
            ("TIER_1K", Some(1_000)),
            ("TIER_2K", Some(2_000)),
            ("TIER_10K", Some(10_000)),
            ("TIER_100K", Some(100_000)),
            ("TIER_UNLIMITED", None),
            ("2000", Some(2_000)),
            ("-1", None),
        ] {
            assert_eq!(text.parse().map(MessagingLimit::people), Ok(people), "{text}");
        }
        for text in ["", "TIER_", "TIER_NOT_SET", "K", "-2", "TIER_9999999K"] {
            assert_eq!(text.parse::<MessagingLimit>(), Err(BadMessagingLimit), "{text}");
        }
    }
}
