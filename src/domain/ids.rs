//! Ids. Each has its own type, so that the compiler rejects a campaign id where a line id is expected.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ulid::Ulid;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as text: Meta's, or the one in the configuration.
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

text_id! {
    /// A Meta business portfolio.
    BusinessId
}
text_id! {
    /// A WhatsApp Business Account, which owns lines and templates.
    WabaId
}
text_id! {
    /// A line: one `phone_number_id`, the unit of rate limiting.
    LineId
}
text_id! {
    /// Meta's message id. Opaque: compared bytewise, never parsed.
    Wamid
}

text_id! {
    /// A group of agents of a business: of `a-z`, `0-9`, `-` and `_`.
    GroupId
}
text_id! {
    /// A tag of a business: of `a-z`, `0-9`, `-` and `_`.
    TagId
}
text_id! {
    /// A subscriber, which gets events by webhook: of `a-z`, `0-9`, `-` and `_`.
    SubscriberId
}

/// Whether a text is 1 to 32 of `a-z`, `0-9`, `-` and `_`: an id that people choose.
pub(super) fn is_plain(text: &str) -> bool {
    let is_plain = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    (1..=32).contains(&text.len()) && text.bytes().all(is_plain)
}

macro_rules! ulid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Ulid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ulid::DecodeError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Ulid::from_string(text).map(Self)
            }
        }
    };
}

ulid_id! {
    /// The id that Pregón assigns to a campaign: a ULID, 26 characters, sorted by creation time.
    CampaignId
}
ulid_id! {
    /// The id that Pregón assigns to an agent: a ULID.
    AgentId
}
ulid_id! {
    /// The id that Pregón assigns to a canned reply: a ULID.
    CannedReplyId
}
ulid_id! {
    /// The id that Pregón assigns to an inbound link: a ULID.
    InboundLinkId
}
ulid_id! {
    /// The id that Pregón assigns to a file of a chat: a ULID, of which 80 bits are random.
    MediaId
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

/// The id of an entry of a stream in Redis, such as `1795339607791-0`. Entries are in the order of their ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// When the entry was added: Unix time in ms.
    pub ms: u64,
    /// The number of the entry: among those of the same ms, from 0, or for an event among all of its stream, from 1.
    pub number: u64,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.number)
    }
}

impl FromStr for EntryId {
    type Err = BadEntryId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (ms, number) = text.split_once('-').ok_or(BadEntryId)?;
        // `u64` also parses a number with a plus.
        let number_of = |digits: &str| match digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true => digits.parse().map_err(|_| BadEntryId),
            false => Err(BadEntryId),
        };
        Ok(Self { ms: number_of(ms)?, number: number_of(number)? })
    }
}

impl Serialize for EntryId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EntryId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The text is not the id of an entry of a stream.
#[derive(Debug, thiserror::Error)]
#[error("not the id of an entry, such as 1795339607791-0")]
pub struct BadEntryId;

/// The text is not `<campaign id>.<part number>`.
#[derive(Debug, thiserror::Error)]
#[error("not a part id")]
pub struct BadPartId;

/// A message of a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChatMessageId {
    /// The chat.
    pub chat: i64,
    /// Its id in the chat. Negative: a read mark or a typing indicator, which is no message.
    pub message: i64,
}

impl fmt::Display for ChatMessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.chat, self.message)
    }
}

/// The text is not the id of a message of a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the id of a message of a chat is CHAT.MESSAGE")]
pub struct BadChatMessageId;

impl FromStr for ChatMessageId {
    type Err = BadChatMessageId;

    fn from_str(text: &str) -> Result<Self, BadChatMessageId> {
        let (chat, message) = text.split_once('.').ok_or(BadChatMessageId)?;
        let number = |text: &str| text.parse().map_err(|_| BadChatMessageId);
        Ok(Self { chat: number(chat)?, message: number(message)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_id_is_two_numbers() {
        let id = EntryId { ms: 1_795_339_607_791, number: 12 };
        assert_eq!((id.to_string().as_str(), "1795339607791-12".parse().ok()), ("1795339607791-12", Some(id)));
        assert_eq!(serde_json::from_str::<EntryId>("\"1795339607791-12\"").ok(), Some(id));
        for bad in ["", "-", "1", "1-", "-1", "+1-0", "1-+0", "1-0-0", "1-*", "$", "99999999999999999999-0"] {
            assert!(bad.parse::<EntryId>().is_err(), "{bad}");
        }
    }
}
