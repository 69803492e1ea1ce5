//! Parses a webhook: every entry, change, status and message, without copying text.
//!
//! Meta adds fields, changes the types of others, and uses values that its documentation does not list. The parser
//! skips these and uses the rest. Only a body that is not a JSON object is an error.
//!
//! Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference>,
//! read 2026-11-22.

use std::{borrow::Cow, mem};

use crate::{
    domain::{Language, MetaCode, UnixMs},
    json::{Number, Object},
};

/// Timestamps from this value on are milliseconds. Meta sends seconds, and sometimes has sent milliseconds. As
/// seconds this value is in the year 33658.
const MILLISECONDS_FROM: u64 = 1_000_000_000_000;

/// The changes of one webhook, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Payload<'a> {
    /// One for each change of each entry.
    pub changes: Vec<WebhookChange<'a>>,
}

/// One change.
#[derive(Debug, PartialEq, Eq)]
pub enum WebhookChange<'a> {
    /// Statuses and inbound messages.
    Messages(Messages<'a>),
    /// The status of a template changed.
    Template(TemplateChange<'a>),
    /// A template of this WABA was edited, or Meta changed its category.
    TemplateEdited(Cow<'a, str>),
    /// The status of the account or of one of its numbers changed; or errors that belong to no message.
    Account(AccountChange<'a>),
    /// Any other change.
    Other,
    /// One of the above in another form than Meta documents.
    Malformed,
}

/// Statuses and inbound messages of one line.
#[derive(Debug, PartialEq, Eq)]
pub struct Messages<'a> {
    /// The WABA that the webhook names: `entry.id`.
    pub waba: Cow<'a, str>,
    /// The line's `phone_number_id`.
    pub line: Cow<'a, str>,
    /// Statuses of messages that were sent.
    pub statuses: Vec<Status<'a>>,
    /// Messages from recipients.
    pub inbound: Vec<Inbound<'a>>,
}

/// The status of a message that was sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Status<'a> {
    /// Meta's id of the message; empty if it is missing.
    pub wamid: Cow<'a, str>,
    /// Its kind.
    pub kind: StatusKind,
    /// Meta's timestamp.
    pub at: Option<UnixMs>,
    /// `biz_opaque_callback_data`: our token, or data of another app.
    pub token: Option<Cow<'a, str>>,
    /// The code of the first error, if there is one.
    pub code: Option<MetaCode>,
    /// Meta's text for this error; may be empty.
    pub details: Cow<'a, str>,
}

/// The kind of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusKind {
    /// Sent by Meta.
    Sent,
    /// Delivered to the phone.
    Delivered,
    /// Read, or played in the case of a voice message.
    Read,
    /// Not delivered, with a code.
    Failed,
    /// Any other, such as `deleted` or `warning`. Has no effect.
    Other,
}

/// A message from a recipient.
#[derive(Debug, PartialEq, Eq)]
pub struct Inbound<'a> {
    /// The payload of the tapped button: our token, unless the campaign sets its own payload.
    pub payload: Option<Cow<'a, str>>,
    /// Meta's id of the message that this one answers.
    pub answers: Option<Cow<'a, str>>,
    /// Meta's timestamp.
    pub at: Option<UnixMs>,
}

/// A change of a template's status.
#[derive(Debug, PartialEq, Eq)]
pub struct TemplateChange<'a> {
    /// The WABA that owns it.
    pub waba: Cow<'a, str>,
    /// Its name; not empty, and without a slash.
    pub name: Cow<'a, str>,
    /// Its language.
    pub language: Language,
    /// Meta's event: `PAUSED`, `APPROVED`, …
    pub event: Cow<'a, str>,
    /// Meta's reason; may be empty.
    pub reason: Cow<'a, str>,
}

/// A change of an account.
#[derive(Debug, PartialEq, Eq)]
pub struct AccountChange<'a> {
    /// The WABA.
    pub waba: Cow<'a, str>,
    /// The webhook field of the change.
    pub field: Cow<'a, str>,
    /// Meta's event, or the state of a ban if there is one: `DISABLE`, `REINSTATE`, …; may be empty.
    pub event: Cow<'a, str>,
    /// The restriction, violation or error; may be empty.
    pub reason: Cow<'a, str>,
    /// Whether a restriction forbids sending messages.
    pub stops_messages: bool,
    /// When all such restrictions end, if Meta says so for each.
    pub until: Option<UnixMs>,
    /// Meta's timestamp of the entry.
    pub at: Option<UnixMs>,
}

/// The body is not a JSON object.
#[derive(Debug, thiserror::Error)]
#[error("not a webhook of meta: {0}")]
pub struct NotAPayload(String);

impl<'a> Payload<'a> {
    /// Parses a body.
    pub fn read(body: &'a [u8]) -> Result<Self, NotAPayload> {
        let envelope: Object<wire::Envelope<'a>> =
            serde_json::from_slice(body).map_err(|error| NotAPayload(error.to_string()))?;
        let Object(Some(envelope)) = envelope else { return Err(NotAPayload("it is not an object".into())) };
        let mut changes = Vec::with_capacity(envelope.entry.0.len());
        for entry in envelope.entry.0 {
            let waba = entry.id.0.unwrap_or_default();
            let at = read_time(entry.time);
            changes.extend(entry.changes.0.into_iter().map(|change| read_change(&waba, at, change)));
        }
        Ok(Self { changes })
    }
}

fn read_change<'a>(waba: &Cow<'a, str>, at: Option<UnixMs>, change: wire::WebhookChange<'a>) -> WebhookChange<'a> {
    let field = change.field.0.unwrap_or_default();
    let Object(Some(value)) = change.value else { return WebhookChange::Malformed };
    match &*field {
        "messages" => read_messages(waba.clone(), at, *value),
        "message_template_status_update" => read_template(waba.clone(), *value),
        "message_template_components_update" | "template_category_update" => {
            WebhookChange::TemplateEdited(waba.clone())
        }
        "account_update"
        | "account_alerts"
        | "phone_number_quality_update"
        | "business_capability_update"
        | "security" => WebhookChange::Account(read_account(waba.clone(), field, at, *value)),
        _ => WebhookChange::Other,
    }
}

fn read_account<'a>(
    waba: Cow<'a, str>,
    field: Cow<'a, str>,
    at: Option<UnixMs>,
    value: wire::Value<'a>,
) -> AccountChange<'a> {
    let ban = value.ban_info.0.and_then(|ban| ban.waba_ban_state.0);
    let alert = value.alert_info.0.unwrap_or_default();
    let restrictions = value.restriction_info.0;
    let stopping: Vec<_> = restrictions.iter().filter(|restriction| restriction.stops_messages()).collect();
    // There is no end if any of these restrictions has none.
    let ends: Option<Vec<_>> = stopping.iter().map(|restriction| read_time(restriction.expiration)).collect();
    let (stops_messages, until) = (!stopping.is_empty(), ends.and_then(|ends| ends.into_iter().max()));
    let kinds: Vec<_> = restrictions.into_iter().filter_map(|restriction| restriction.restriction_type.0).collect();
    let error = value.errors.0.into_iter().next().unwrap_or_default();
    let texts = [
        (!kinds.is_empty()).then(|| kinds.join(", ").into()),
        value.violation_info.0.and_then(|violation| violation.violation_type.0),
        alert.alert_description.0,
        error.error_data.0.and_then(|data| data.details.0),
        error.message.0,
        error.title.0,
    ];
    let code = error.code.0.map(|code| code.to_string().into());
    AccountChange {
        waba,
        field,
        event: ban.or(value.event.0).or(alert.alert_type.0).or(code).unwrap_or_default(),
        reason: texts.into_iter().flatten().find(|text: &Cow<'_, str>| !text.is_empty()).unwrap_or_default(),
        stops_messages,
        until,
        at,
    }
}

fn read_messages<'a>(waba: Cow<'a, str>, at: Option<UnixMs>, mut value: wire::Value<'a>) -> WebhookChange<'a> {
    let statuses: Vec<_> = mem::take(&mut value.statuses.0).into_iter().map(read_status).collect();
    let inbound: Vec<_> = mem::take(&mut value.messages.0).into_iter().map(read_inbound).collect();
    if statuses.is_empty() && inbound.is_empty() {
        // `errors` without messages are about the account or its line. They have no timestamp, so a repeat looks like
        // a new error. They therefore hold nothing; responses and statuses of messages report the same errors.
        if value.errors.0.is_empty() {
            return WebhookChange::Other;
        }
        return WebhookChange::Account(read_account(waba, "messages".into(), at, value));
    }
    match value.metadata.0.and_then(|metadata| metadata.phone_number_id.0) {
        Some(line) => WebhookChange::Messages(Messages { waba, line, statuses, inbound }),
        None => WebhookChange::Malformed,
    }
}

fn read_status(status: wire::Status<'_>) -> Status<'_> {
    let kind = match status.status.0.as_deref() {
        Some("sent") => StatusKind::Sent,
        Some("delivered") => StatusKind::Delivered,
        Some("read" | "played") => StatusKind::Read,
        Some("failed") => StatusKind::Failed,
        _ => StatusKind::Other,
    };
    let error = status.errors.0.into_iter().next().unwrap_or_default();
    let texts = [error.error_data.0.and_then(|data| data.details.0), error.message.0, error.title.0];
    Status {
        wamid: status.id.0.unwrap_or_default(),
        kind,
        at: read_time(status.timestamp),
        token: status.biz_opaque_callback_data.0,
        code: error.code.0.and_then(|code| u32::try_from(code).ok().map(MetaCode)),
        details: texts.into_iter().flatten().find(|text| !text.is_empty()).unwrap_or_default(),
    }
}

fn read_inbound(message: wire::Message<'_>) -> Inbound<'_> {
    let tapped = message.button.0.and_then(|button| button.payload.0);
    let chosen = || {
        let interactive = message.interactive.0?;
        interactive.button_reply.0.or(interactive.list_reply.0)?.id.0
    };
    Inbound {
        payload: tapped.or_else(chosen),
        answers: message.context.0.and_then(|context| context.id.0),
        at: read_time(message.timestamp),
    }
}

fn read_template<'a>(waba: Cow<'a, str>, value: wire::Value<'a>) -> WebhookChange<'a> {
    let is_valid = |text: &Cow<'a, str>| !text.is_empty() && !text.contains('/');
    let (Some(name), Some(language)) = (
        value.message_template_name.0.filter(is_valid),
        value.message_template_language.0.filter(is_valid).map(|code| Language::from(&*code)),
    ) else {
        return WebhookChange::Malformed;
    };
    let other = value.other_info.0.unwrap_or_default();
    let rejection = value.rejection_info.0.and_then(|info| info.reason.0);
    let texts = [value.reason.0, rejection, other.description.0, other.title.0];
    let is_reason = |text: &Cow<'_, str>| !text.is_empty() && text != "NONE";
    WebhookChange::Template(TemplateChange {
        waba,
        name,
        language,
        event: value.event.0.unwrap_or_default(),
        reason: texts.into_iter().flatten().find(is_reason).unwrap_or_default(),
    })
}

fn read_time(Number(timestamp): Number) -> Option<UnixMs> {
    let timestamp = timestamp.filter(|timestamp| *timestamp > 0)?;
    Some(UnixMs(if timestamp < MILLISECONDS_FROM { timestamp * 1000 } else { timestamp }))
}

/// The fields that are used, under Meta's names.
mod wire {
    use std::fmt;

    use serde::{
        Deserialize, Deserializer,
        de::{IgnoredAny, MapAccess, Visitor},
    };

    use crate::json::{List, Number, Object, Text};

    /// Objects of which any field may be missing. The last one of duplicate fields counts, as in most JSON parsers;
    /// the derived implementation would reject the whole webhook.
    macro_rules! objects {
        ($($name:ident { $($field:ident: $kind:ty,)* })*) => {
            $(#[derive(Debug, Default, PartialEq)]
            pub(super) struct $name<'a> {
                $(pub(super) $field: $kind,)*
            }

            impl<'de: 'a, 'a> Deserialize<'de> for $name<'a> {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    struct Fields;

                    impl<'de> Visitor<'de> for Fields {
                        type Value = $name<'de>;

                        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                            f.write_str("an object")
                        }

                        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                            let mut value = Self::Value::default();
                            while let Some(Text(name)) = map.next_key()? {
                                match name.as_deref() {
                                    $(Some(stringify!($field)) => value.$field = map.next_value()?,)*
                                    _ => drop(map.next_value::<IgnoredAny>()?),
                                }
                            }
                            Ok(value)
                        }
                    }

                    deserializer.deserialize_map(Fields)
                }
            })*
        };
    }

    objects! {
        Envelope { entry: List<Entry<'a>>, }
        Entry { id: Text<'a>, time: Number, changes: List<WebhookChange<'a>>, }
        WebhookChange { field: Text<'a>, value: Object<Box<Value<'a>>>, }
        // The fields of all kinds of value, because `field` may follow `value`. Rare objects are boxed, because a
        // body may have very many values.
        Value {
            metadata: Object<Metadata<'a>>,
            statuses: List<Status<'a>>,
            messages: List<Message<'a>>,
            event: Text<'a>,
            message_template_name: Text<'a>,
            message_template_language: Text<'a>,
            reason: Text<'a>,
            other_info: Object<Box<OtherInfo<'a>>>,
            rejection_info: Object<Box<RejectionInfo<'a>>>,
            errors: List<Error<'a>>,
            ban_info: Object<Box<BanInfo<'a>>>,
            restriction_info: List<Restriction<'a>>,
            violation_info: Object<Box<Violation<'a>>>,
            alert_info: Object<Box<Alert<'a>>>,
        }
        BanInfo { waba_ban_state: Text<'a>, }
        Restriction { restriction_type: Text<'a>, expiration: Number, }
        Violation { violation_type: Text<'a>, }
        Alert { alert_type: Text<'a>, alert_description: Text<'a>, }
        Metadata { phone_number_id: Text<'a>, }
        Status {
            id: Text<'a>,
            status: Text<'a>,
            biz_opaque_callback_data: Text<'a>,
            errors: List<Error<'a>>,
            timestamp: Number,
        }
        Error { title: Text<'a>, message: Text<'a>, error_data: Object<ErrorData<'a>>, code: Number, }
        ErrorData { details: Text<'a>, }
        Message {
            button: Object<Button<'a>>,
            interactive: Object<Interactive<'a>>,
            context: Object<Context<'a>>,
            timestamp: Number,
        }
        Button { payload: Text<'a>, }
        Interactive { button_reply: Object<Choice<'a>>, list_reply: Object<Choice<'a>>, }
        Choice { id: Text<'a>, }
        Context { id: Text<'a>, }
        OtherInfo { title: Text<'a>, description: Text<'a>, }
        RejectionInfo { reason: Text<'a>, }
    }
}

impl wire::Restriction<'_> {
    fn stops_messages(&self) -> bool {
        let kind = self.restriction_type.0.as_deref();
        matches!(kind, Some("RESTRICTED_BIZ_INITIATED_MESSAGING" | "RESTRICTED_CUSTOMER_INITIATED_MESSAGING"))
    }
}

#[cfg(test)]
mod tests;
