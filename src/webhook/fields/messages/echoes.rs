//! `smb_message_echoes`: what the business wrote to people in the WhatsApp Business app, on a line that is used there
//! too.
//!
//! Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/smb_message_echoes>,
//! read 2026-12-01.

use serde::{Deserialize, Deserializer};

use super::{Messages, Metadata, WebhookChange, inbound};
use crate::{
    domain::Inbound,
    json::{List, Members, Object, Raw, objects},
};

pub(in crate::webhook) const FIELD: &str = "smb_message_echoes";

#[derive(Debug, Default, PartialEq)]
pub(crate) struct WireEcho(Box<Inbound>);

impl<'de> Deserialize<'de> for WireEcho {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Members::deserialize(deserializer).map(|message| Self(Box::new(inbound::read_echo(&message))))
    }
}

objects! {
    Value {
        metadata: Object<Metadata<'a>>,
        message_echoes: List<WireEcho>,
        contacts: Raw<'a>,
    }
}

impl<'a> From<Value<'a>> for WebhookChange<'a> {
    fn from(value: Value<'a>) -> Self {
        let mut echoes: Vec<_> = value.message_echoes.0.into_iter().map(|WireEcho(message)| message).collect();
        inbound::add_profiles(&mut echoes, value.contacts);
        match value.metadata.0.and_then(|metadata| metadata.phone_number_id.0) {
            Some(line) => Self::Messages(Messages { line, statuses: Vec::new(), inbound: echoes }),
            None => Self::Malformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::super::tests::value, *};
    use crate::domain::inbound::Content;

    #[test]
    fn an_echo_names_the_person_to_whom_it_went() {
        let json = r#"{"metadata":{"phone_number_id":"3001"},
            "contacts":[{"wa_id":"5491155550001","profile":{"name":"Ana"}}],
            "message_echoes":[{"from":"5491100000001","to":"5491155550001","to_user_id":"AR.1","id":"wamid.A",
                "timestamp":"1796000000","type":"text","text":{"body":"Hola"}}]}"#;
        let WebhookChange::Messages(messages) = value(FIELD, json) else { panic!("messages") };
        let [echo] = messages.inbound.as_slice() else { panic!("one echo: {messages:?}") };
        let sender = &echo.sender;
        assert_eq!(sender.number.as_deref(), Some("5491155550001"));
        assert_eq!((sender.user_id.as_deref(), sender.name.as_deref()), (Some("AR.1"), Some("Ana")));
        assert_eq!(echo.content, Content::Echo { content: Box::new(Content::Text("Hola".into())) });
        assert_eq!(value(FIELD, r#"{"message_echoes":[{"id":"wamid.A"}]}"#), WebhookChange::Malformed);
    }
}
