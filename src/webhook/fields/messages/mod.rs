//! `messages`: statuses of messages that were sent, and messages from people; or errors that belong to neither.

pub mod echoes;
mod inbound;
pub mod status;

use std::borrow::Cow;

use self::{
    inbound::WireMessage,
    status::{Status, WireStatus},
};
use super::WebhookChange;
use crate::{
    domain::{Inbound, MetaCode},
    json::{List, Number, Object, Raw, Text, objects},
    telemetry::metrics::AccountEvent,
    webhook::account::AccountChange,
};

pub(in crate::webhook) const FIELD: &str = "messages";

/// Statuses and inbound messages of one line.
#[derive(Debug, PartialEq)]
pub struct Messages<'a> {
    /// The line's `phone_number_id`.
    pub line: Cow<'a, str>,
    /// Statuses of messages that were sent.
    pub statuses: Vec<Status<'a>>,
    /// Messages from people, who need not be recipients. Boxed to bound the memory of a body with very many of them: a
    /// growing `Vec` takes up to three times the size of its elements.
    pub inbound: Vec<Box<Inbound>>,
}

objects! {
    Value {
        metadata: Object<Metadata<'a>>,
        statuses: List<WireStatus<'a>>,
        messages: List<WireMessage>,
        contacts: Raw<'a>,
        errors: List<WireError<'a>>,
    }
    Metadata { phone_number_id: Text<'a>, }
    WireError { title: Text<'a>, message: Text<'a>, error_data: Object<ErrorData<'a>>, code: Number, }
    ErrorData { details: Text<'a>, }
}

impl<'a> From<Value<'a>> for WebhookChange<'a> {
    fn from(value: Value<'a>) -> Self {
        let statuses: Vec<_> = value.statuses.0.into_iter().map(Status::from).collect();
        let mut inbound: Vec<_> = value.messages.0.into_iter().map(|WireMessage(message)| message).collect();
        if statuses.is_empty() && inbound.is_empty() {
            return value.errors.0.into_iter().next().map_or(Self::Other, WireError::into_change);
        }
        if !inbound.is_empty() {
            inbound::add_profiles(&mut inbound, value.contacts);
        }
        match value.metadata.0.and_then(|metadata| metadata.phone_number_id.0) {
            Some(line) => Self::Messages(Messages { line, statuses, inbound }),
            None => Self::Malformed,
        }
    }
}

impl<'a> WireError<'a> {
    /// An error without messages is about the account or its line. It has no timestamp, so a repeat looks like a new
    /// error. It therefore holds nothing; responses and statuses of messages report the same errors.
    fn into_change(self) -> WebhookChange<'a> {
        let event = self.code.0.map_or_else(Cow::default, |code| code.to_string().into());
        let reason = self.text();
        let notice = AccountChange::notice(FIELD, AccountEvent::Errors, event);
        WebhookChange::Account(Box::new(AccountChange { reason, ..notice }))
    }

    fn code(&self) -> Option<MetaCode> {
        self.code.0.and_then(|code| u32::try_from(code).ok().map(MetaCode))
    }

    /// The most precise of the error's texts; may be empty.
    fn text(self) -> Cow<'a, str> {
        super::first([self.error_data.0.and_then(|data| data.details.0), self.message.0, self.title.0])
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::value, *};

    #[test]
    fn errors_alone_are_a_change_of_the_account() {
        let errors = |errors: &str| format!(r#"{{"metadata":{{"phone_number_id":"3001"}},"errors":{errors}}}"#);
        let json = errors(r#"[7,{"code":131031,"title":"Account locked","message":""},{"code":1}]"#);
        let WebhookChange::Account(change) = value(FIELD, &json) else { panic!("an account's change") };
        assert_eq!((change.kind, &*change.event, &*change.reason), (AccountEvent::Errors, "131031", "Account locked"));
        for none in ["[]", "{}", "null", "[{}]"] {
            assert_eq!(value(FIELD, &errors(none)), WebhookChange::Other, "{none}");
        }
    }

    #[test]
    fn messages_without_a_line_are_malformed() {
        for json in [
            r#"{"statuses":[{"id":"wamid.A","status":"sent"}]}"#,
            r#"{"messages":[{"id":"wamid.A"}],"metadata":{}}"#,
            r#"{"messages":[{"id":"wamid.A"}],"metadata":{"phone_number_id":null}}"#,
        ] {
            assert_eq!(value(FIELD, json), WebhookChange::Malformed, "{json}");
        }
    }
}
