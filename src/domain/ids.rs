//! Ids. Each has its own type, so that the compiler rejects a campaign id where a line id is expected.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use ulid::Ulid;

macro_rules! meta_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as Meta writes it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(id: &str) -> Self {
                Self(id.into())
            }
        }
    };
}

meta_id! {
    /// A Meta business portfolio.
    BusinessId
}
meta_id! {
    /// A WhatsApp Business Account, which owns lines and templates.
    WabaId
}
meta_id! {
    /// A line: one `phone_number_id`, the unit of rate limiting.
    LineId
}
meta_id! {
    /// Meta's message id. Opaque: compared bytewise, never parsed.
    Wamid
}

/// The id that Pregón assigns to a campaign: a ULID, 26 characters, sorted by creation time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CampaignId(pub Ulid);

impl fmt::Display for CampaignId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for CampaignId {
    type Err = ulid::DecodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ulid::from_string(text).map(Self)
    }
}

/// A part: up to 65,536 recipients of one campaign, sent on one line at a time. Written as `01J….7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartId {
    /// The campaign that the part belongs to.
    pub campaign: CampaignId,
    /// The part's number in its campaign, from 0.
    pub number: u16,
}

impl fmt::Display for PartId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.campaign, self.number)
    }
}

impl FromStr for PartId {
    type Err = BadPartId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (campaign, number) = text.split_once('.').ok_or(BadPartId)?;
        Ok(Self { campaign: campaign.parse().map_err(|_| BadPartId)?, number: number.parse().map_err(|_| BadPartId)? })
    }
}

/// The text is not `<campaign id>.<part number>`.
#[derive(Debug, thiserror::Error)]
#[error("not a part id")]
pub struct BadPartId;
