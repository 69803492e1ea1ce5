//! Parses a webhook: its entries and changes. [`super::fields`] parses the value of each change.
//!
//! Meta adds fields, changes the types of others, and uses values that its documentation does not list. The parser
//! skips these and uses the rest. Only a body that is not a JSON object is an error.
//!
//! The type of a `value` depends on `field`, which Meta writes after it. The value is therefore parsed as one of
//! `messages`, which nearly all webhooks are, in a single pass that copies no text. If `field` then names another
//! field, the body is parsed again, and each value only after its `field` is known.
//!
//! Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference>,
//! read 2026-11-22.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor},
};

use super::fields::{self, WebhookChange, messages};
use crate::{
    domain::UnixMs,
    json::{List, Members, Number, Object, Raw, Text},
};

/// One webhook.
#[derive(Debug, Default, PartialEq)]
pub struct Payload<'a> {
    /// The entries that have changes, in order.
    pub entries: Vec<Entry<'a>>,
}

/// The changes of one WABA.
#[derive(Debug, PartialEq)]
pub struct Entry<'a> {
    /// The WABA that the webhook names; may be empty.
    pub waba: Cow<'a, str>,
    /// Meta's timestamp. Entries with `messages` have none.
    pub at: Option<UnixMs>,
    /// The changes, at least one, in order.
    pub changes: Vec<WebhookChange<'a>>,
}

/// The body is not a JSON object.
#[derive(Debug, thiserror::Error)]
#[error("not a webhook of Meta: {0}")]
pub struct NotAPayload(String);

impl<'a> Payload<'a> {
    /// Parses a body.
    pub fn read(body: &'a [u8]) -> Result<Self, NotAPayload> {
        let entries = match serde_json::from_slice::<Object<wire::Envelope<'a>>>(body) {
            Ok(Object(Some(envelope))) => envelope.entry.0.into_iter().filter_map(read_entry).collect(),
            Ok(Object(None)) => return Err(NotAPayload("it is not an object".into())),
            // Either a value belongs to another field, or the body is malformed. In the second case this parse fails
            // too.
            Err(_) => read_again(body).map_err(|error| NotAPayload(error.to_string()))?,
        };
        Ok(Self { entries })
    }

    /// Every change with its entry, in order.
    pub fn changes(&self) -> impl Iterator<Item = (&Entry<'a>, &WebhookChange<'a>)> {
        self.entries.iter().flat_map(|entry| entry.changes.iter().map(move |change| (entry, change)))
    }
}

fn read_entry(entry: wire::Entry<'_>) -> Option<Entry<'_>> {
    let changes = entry.changes.0.into_iter().filter_map(|Change(change)| change).collect();
    Entry::new(entry.id, entry.time, changes)
}

/// Parses each value after its `field`.
fn read_again(body: &[u8]) -> serde_json::Result<Vec<Entry<'_>>> {
    let envelope: Members<'_> = serde_json::from_slice(body)?;
    let mut entries = Vec::new();
    for entry in envelope.get("entry").read::<List<Members<'_>>>()?.0 {
        let mut changes = Vec::new();
        for wire::LateChange { field: Text(field), value: Raw(value) } in entry.get("changes").read::<List<_>>()?.0 {
            let seed = FieldValue(field.as_deref().unwrap_or_default());
            let value = value.map(|json| seed.deserialize(&mut serde_json::Deserializer::from_str(json.get())));
            changes.extend(value.transpose()?.flatten().or_else(|| field.map(|_| WebhookChange::Malformed)));
        }
        entries.extend(Entry::new(entry.get("id").read()?, entry.get("time").read()?, changes));
    }
    Ok(entries)
}

impl<'a> Entry<'a> {
    /// An entry; `None` if it has no changes.
    fn new(Text(waba): Text<'a>, time: Number, changes: Vec<WebhookChange<'a>>) -> Option<Self> {
        (!changes.is_empty()).then(|| Self { waba: waba.unwrap_or_default(), at: fields::time(time), changes })
    }
}

/// An element of `changes`; `None` if it has neither a field nor an object as its value.
#[derive(Debug, Default, PartialEq)]
struct Change<'a>(Option<WebhookChange<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Change<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ChangeVisitor;

        impl<'de> Visitor<'de> for ChangeVisitor {
            type Value = Change<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a change")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let (mut field, mut parsed_as, mut value) = (Text(None), None, None);
                while let Some(Text(name)) = map.next_key()? {
                    match name.as_deref() {
                        Some("field") => field = map.next_value()?,
                        Some("value") => {
                            let name = field.0.clone().unwrap_or(messages::FIELD.into());
                            value = map.next_value_seed(FieldValue(&name))?;
                            parsed_as = Some(name);
                        }
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                if value.is_some() && parsed_as != field.0 {
                    return Err(A::Error::custom("the field follows its value and is not messages"));
                }
                Ok(Change(value.or_else(|| field.0.map(|_| WebhookChange::Malformed))))
            }
        }

        deserializer.deserialize_map(ChangeVisitor)
    }
}

/// Parses the value of the named field. `None` if the value is not an object.
struct FieldValue<'f>(&'f str);

impl<'de> DeserializeSeed<'de> for FieldValue<'_> {
    type Value = Option<WebhookChange<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Self::Value, D::Error> {
        fields::read(self.0, value)
    }
}

/// The fields that are used, under Meta's names.
mod wire {
    use super::Change;
    use crate::json::{List, Number, Raw, Text, objects};

    objects! {
        Envelope { entry: List<Entry<'a>>, }
        Entry { id: Text<'a>, time: Number, changes: List<Change<'a>>, }
        LateChange { field: Text<'a>, value: Raw<'a>, }
    }
}

#[cfg(test)]
mod tests;
