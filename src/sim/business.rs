//! Businesses (Meta's business portfolios) of a scenario, and Meta's messaging limits.

use serde::Deserialize;

use super::pacing::Pacing;
use crate::domain::FrequencyCap;

/// The business of the WABAs that name none: unlimited, unless the scenario lists it.
pub(super) const DEFAULT_BUSINESS: &str = "1001";

/// A business portfolio.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Business {
    /// The id of the portfolio.
    pub id: String,
    /// To how many people its lines, taken together, may open conversations in any 24 hours.
    #[serde(default)]
    pub limit: MessagingLimit,
    /// Portfolio pacing of all its templates together; without it, none of its messages is held. If it drops messages,
    /// the business can no longer send.
    pub pacing: Option<Pacing>,
    /// The most marketing messages that the business wants a person to get. Only the referee uses it: Meta has no such
    /// setting.
    pub frequency_cap: Option<FrequencyCap>,
}

/// The number of unique people to whom the lines of a business may deliver messages outside a service window in any 24
/// hours.
///
/// Written as a number of people, or `"unlimited"`.
/// Source: developers.facebook.com/docs/whatsapp/messaging-limits, read in a copy of 11 Sep 2026.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub enum MessagingLimit {
    /// 250 people: a new business.
    Tier250,
    /// 2,000 people.
    Tier2K,
    /// 10,000 people.
    Tier10K,
    /// 100,000 people.
    Tier100K,
    /// No limit.
    #[default]
    Unlimited,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    People(u32),
    Word(String),
}

impl MessagingLimit {
    /// The number of people; `None` for unlimited.
    pub(super) fn people(self) -> Option<usize> {
        match self {
            Self::Tier250 => Some(250),
            Self::Tier2K => Some(2_000),
            Self::Tier10K => Some(10_000),
            Self::Tier100K => Some(100_000),
            Self::Unlimited => None,
        }
    }

    /// Meta's name of the limit.
    pub(super) fn tier(self) -> &'static str {
        match self {
            Self::Tier250 => "TIER_250",
            Self::Tier2K => "TIER_2K",
            Self::Tier10K => "TIER_10K",
            Self::Tier100K => "TIER_100K",
            Self::Unlimited => "TIER_UNLIMITED",
        }
    }
}

impl TryFrom<Written> for MessagingLimit {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, &'static str> {
        match written {
            Written::People(250) => Ok(Self::Tier250),
            Written::People(2_000) => Ok(Self::Tier2K),
            Written::People(10_000) => Ok(Self::Tier10K),
            Written::People(100_000) => Ok(Self::Tier100K),
            Written::Word(word) if word == "unlimited" => Ok(Self::Unlimited),
            Written::People(_) | Written::Word(_) => Err("a limit is 250, 2000, 10000, 100000 or \"unlimited\""),
        }
    }
}
