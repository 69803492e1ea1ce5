//! Events: changes that Pregón reports to backends, of recipients, campaigns, lines, holds, templates, messages and
//! jobs.
//!
//! The event feed has the events of an installation in order. An event is delivered at least once, with the same id
//! each time.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{BusinessId, CampaignId, LineId, State, UnixMs};

macro_rules! event_types {
    ($($(#[$doc:meta])* $variant:ident $name:literal,)*) => {
        /// The type of an event. The names are part of the public API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum EventType {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl EventType {
            /// Every type.
            pub const ALL: &[EventType] = &[$(EventType::$variant,)*];

            /// The name in the feed.
            pub fn name(self) -> &'static str {
                match self {
                    $(EventType::$variant => $name,)*
                }
            }
        }
    };
}

event_types! {
    /// Meta accepted the message.
    RecipientAccepted "recipient.accepted",
    /// Meta sent the message.
    RecipientSent "recipient.sent",
    /// The phone received the message.
    RecipientDelivered "recipient.delivered",
    /// The recipient read the message.
    RecipientRead "recipient.read",
    /// Meta refused the message, or accepted it and failed later.
    RecipientFailed "recipient.failed",
    /// It is not known whether Meta has the message. A later status can still show it.
    RecipientUnknown "recipient.unknown",
    /// The recipient was left out.
    RecipientSkipped "recipient.skipped",
    /// The campaign expired before the message was sent.
    RecipientExpired "recipient.expired",
    /// The campaign was cancelled before the message was sent.
    RecipientCancelled "recipient.cancelled",
    /// The state of a campaign changed.
    CampaignState "campaign.state",
    /// The state of a line changed.
    LineState "line.state",
    /// A hold began.
    HoldBegan "hold.began",
    /// A hold ended.
    HoldEnded "hold.ended",
    /// The status of a template at Meta changed.
    TemplateState "template.state",
    /// A person wrote to a line.
    MessageReceived "message.received",
    /// A job was applied.
    JobDone "job.done",
    /// A job failed and is a dead letter.
    JobDead "job.dead",
    /// An operator changed something.
    OperatorChanged "operator.changed",
    /// Webhooks to a subscriber were disabled.
    SubscriberDisabled "subscriber.disabled",
    /// Events were removed before a reader had read them.
    FeedGap "feed.gap",
}

impl EventType {
    /// The type of the event for a recipient that entered `state`; `None` for a state that has no event.
    pub fn of_recipient(state: State) -> Option<Self> {
        match state {
            State::Accepted => Some(Self::RecipientAccepted),
            State::Sent => Some(Self::RecipientSent),
            State::Delivered => Some(Self::RecipientDelivered),
            State::Read => Some(Self::RecipientRead),
            State::Failed | State::Refused => Some(Self::RecipientFailed),
            State::Unknown => Some(Self::RecipientUnknown),
            State::Skipped => Some(Self::RecipientSkipped),
            State::Expired => Some(Self::RecipientExpired),
            State::Cancelled => Some(Self::RecipientCancelled),
            State::Pending | State::Retrying | State::InFlight | State::InDoubt => None,
        }
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for EventType {
    type Err = BadEventType;

    fn from_str(text: &str) -> Result<Self, BadEventType> {
        EventType::ALL.iter().copied().find(|event| event.name() == text).ok_or(BadEventType)
    }
}

/// The text is not the name of an event type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the type of an event")]
pub struct BadEventType;

/// An event to be written. Serialized as one JSON object.
#[derive(Clone, Debug, Serialize)]
pub struct Event<'a, D> {
    /// Identifies the event: the same at each delivery.
    pub id: String,
    /// The type.
    pub r#type: EventType,
    /// When it happened.
    pub at: UnixMs,
    /// The portfolio of the line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub business: Option<&'a BusinessId>,
    /// The line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<&'a LineId>,
    /// The campaign.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub campaign: Option<CampaignId>,
    /// The caller's id of the campaign.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_id: Option<&'a str>,
    /// The fields that only this type has.
    #[serde(flatten)]
    pub details: D,
}

impl<D: Serialize> Event<'_, D> {
    /// An event about no line and no campaign.
    pub fn new(id: String, r#type: EventType, at: UnixMs, details: D) -> Self {
        Self { id, r#type, at, business: None, line: None, campaign: None, external_id: None, details }
    }

    /// The event as it is stored.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("every map has string keys")
    }
}

/// The fields of a stored event by which readers filter.
#[derive(Clone, Debug, Deserialize)]
pub struct EventHead {
    /// Its id.
    pub id: String,
    /// The type; `None` for one that only a newer release knows.
    #[serde(default, deserialize_with = "known_type")]
    pub r#type: Option<EventType>,
    /// When it happened.
    pub at: UnixMs,
    /// The portfolio of the line.
    #[serde(default)]
    pub business: Option<BusinessId>,
    /// The campaign.
    #[serde(default)]
    pub campaign: Option<CampaignId>,
}

fn known_type<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<EventType>, D::Error> {
    Ok(String::deserialize(deserializer)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_event_is_read_by_its_head_even_if_its_type_is_new() {
        #[derive(Serialize)]
        struct Details {
            send: u8,
        }
        let (business, line) = (BusinessId::from("1001"), LineId::from("3001"));
        let event = Event::new("a".into(), EventType::RecipientRead, UnixMs(1_000), Details { send: 2 });
        let event = Event { business: Some(&business), line: Some(&line), ..event };
        let json = event.to_json();
        let expected = r#"{"id":"a","type":"recipient.read","at":"1970-01-01T00:00:01Z","business":"1001","line":"3001","send":2}"#;
        assert_eq!(json, expected);
        let head: EventHead = serde_json::from_str(&json).expect("a head");
        assert_eq!((head.r#type, head.business), (Some(EventType::RecipientRead), Some(business)));
        let newer: EventHead = serde_json::from_str(&json.replace("recipient.read", "sky.fell")).expect("a head");
        assert_eq!(newer.r#type, None);
    }

    #[test]
    fn a_type_is_found_by_its_name() {
        for event in EventType::ALL {
            assert_eq!(event.name().parse(), Ok(*event));
        }
        assert_eq!("recipient".parse::<EventType>(), Err(BadEventType));
    }
}
