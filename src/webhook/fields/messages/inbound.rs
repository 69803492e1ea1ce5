//! Messages from people, parsed in full.
//!
//! Parsing one copies its text into an [`Inbound`], which outlives the webhook and is not bound to its bytes. Statuses,
//! which are most of the traffic, avoid that cost: their webhooks have `contacts` too, but `contacts` are only parsed
//! if there is a message.
//!
//! The members of a message are found first and parsed one by one, because the name of the object with its content is
//! the value of `type`. A member in another form than Meta documents counts as missing, and affects no other.
//!
//! Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/messages>,
//! read 2026-11-22.

mod content;

use std::{borrow::Cow, collections::HashMap};

use serde::{Deserialize, Deserializer};

use super::WireError;
use crate::{
    domain::{
        Inbound, UnixMs, Wamid,
        inbound::{Content, Context, InboundError, Product, Referral, Sender},
    },
    json::{List, Members, Number, Object, Raw, Text, objects},
    webhook::fields,
};

/// A message, parsed from Meta's JSON. An [`Inbound`] itself deserializes from its own document.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct WireMessage(pub(super) Box<Inbound>);

impl<'de> Deserialize<'de> for WireMessage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Members::deserialize(deserializer).map(|message| Self(Box::new(read(&message))))
    }
}

objects! {
    Contact {
        profile: Object<Box<Profile<'a>>>,
        wa_id: Text<'a>,
        user_id: Text<'a>,
        parent_user_id: Text<'a>,
        identity_key_hash: Text<'a>,
    }
    Profile { name: Text<'a>, username: Text<'a>, }
}

fn read(message: &Members<'_>) -> Inbound {
    read_with(message, ["from", "from_user_id", "from_parent_user_id"])
}

/// A message from the business. Its `sender` is the person to whom it went.
pub(super) fn read_echo(message: &Members<'_>) -> Inbound {
    let echo = read_with(message, ["to", "to_user_id", "to_parent_user_id"]);
    Inbound { content: Content::Echo { content: Box::new(echo.content) }, ..echo }
}

/// `person`: the names of the members that say who the person is.
fn read_with(message: &Members<'_>, person: [&str; 3]) -> Inbound {
    let [number, user_id, parent_user_id] = person.map(|name| message.text(name));
    Inbound {
        id: wamid(message, "id"),
        at: time(message, "timestamp"),
        sender: Sender { number, user_id, parent_user_id, ..Sender::default() },
        group: message.text("group_id"),
        context: message.object("context").map(|context| Box::new(read_context(&context))),
        referral: message.object("referral").map(|referral| Box::new(read_referral(&referral))),
        errors: message.lenient::<List<_>>("errors").0.into_iter().map(read_error).collect(),
        content: content::read(message),
    }
}

fn read_context(context: &Members<'_>) -> Context {
    Context {
        message: wamid(context, "id"),
        from: context.text("from"),
        forwarded: context.flag("forwarded"),
        frequently_forwarded: context.flag("frequently_forwarded"),
        product: context.object("referred_product").map(|product| Product {
            catalog: product.text("catalog_id"),
            retailer_id: product.text("product_retailer_id"),
        }),
    }
}

fn read_referral(referral: &Members<'_>) -> Referral {
    let welcome = referral.object("welcome_message").and_then(|message| message.text("text"));
    Referral {
        source_url: referral.text("source_url"),
        source_id: referral.text("source_id"),
        source_type: referral.text("source_type"),
        headline: referral.text("headline"),
        body: referral.text("body"),
        media_type: referral.text("media_type"),
        media_url: referral.text("image_url").or_else(|| referral.text("video_url")),
        thumbnail_url: referral.text("thumbnail_url"),
        click_id: referral.text("ctwa_clid"),
        welcome_message: welcome.or_else(|| referral.text("welcome_message")),
    }
}

fn read_error(error: WireError<'_>) -> InboundError {
    InboundError { code: error.code(), text: error.text().into_owned() }
}

fn wamid(object: &Members<'_>, name: &str) -> Option<Wamid> {
    object.text(name).map(|id| Wamid::from(&*id))
}

fn time(object: &Members<'_>, name: &str) -> Option<UnixMs> {
    fields::time(object.lenient::<Number>(name))
}

/// Adds the data about the senders from `contacts`, a member of the value next to the messages.
pub(super) fn add_profiles(inbound: &mut [Box<Inbound>], contacts: Raw<'_>) {
    let List(contacts) = contacts.read::<List<Contact<'_>>>().unwrap_or_default();
    let mut by_id = HashMap::new();
    for contact in &contacts {
        for Text(id) in [&contact.wa_id, &contact.user_id] {
            by_id.extend(id.as_deref().map(|id| (id, contact)));
        }
    }
    for Sender { number, user_id, parent_user_id, name, username, identity_key_hash } in
        inbound.iter_mut().map(|message| &mut message.sender)
    {
        let ids = [user_id.as_deref(), number.as_deref()];
        let Some(contact) = ids.into_iter().flatten().find_map(|id| by_id.get(id)) else { continue };
        let profile = contact.profile.0.as_ref();
        for (missing, Text(known)) in [
            (number, &contact.wa_id),
            (user_id, &contact.user_id),
            (parent_user_id, &contact.parent_user_id),
            (identity_key_hash, &contact.identity_key_hash),
            (name, profile.map_or(&Text(None), |profile| &profile.name)),
            (username, profile.map_or(&Text(None), |profile| &profile.username)),
        ] {
            if missing.is_none() {
                *missing = known.clone().map(Cow::into_owned);
            }
        }
    }
}

#[cfg(test)]
mod tests;
