//! The content of a message: an object whose name is the message's `type`.

use super::{time, wamid};
use crate::{
    domain::inbound::{
        CallPermission, Choice, Content, FormReply, Media, MediaKind, Order, OrderItem, Organization, RawJson,
        Reaction, SharedContact, SharedLocation, SharedPhone, SystemNotice, Tap,
    },
    json::Members,
};

/// Anything but the documented form becomes [`Content::Other`], so that nothing is lost.
pub(super) fn read(message: &Members<'_>) -> Content {
    let kind = message.text("type").unwrap_or_default();
    match (&*kind, message.object("edit")) {
        ("edit", Some(edit)) => Content::Edit {
            original: wamid(&edit, "original_message_id"),
            // An edit in an edit is not documented. Reading it would recurse as deep as the body is nested.
            content: Box::new(edit.object("message").map(|message| read_written(&message)).unwrap_or_default()),
        },
        _ => read_written(message),
    }
}

/// The content of a message that is not an edit.
fn read_written(message: &Members<'_>) -> Content {
    let kind = message.text("type").unwrap_or_default();
    let json = message.get(&kind).0.filter(|json| !kind.is_empty() && json.get() != "null");
    let content = match (&*kind, json) {
        // Not every message of this type has the object.
        ("unsupported", _) => {
            let kind = message.object("unsupported").and_then(|unsupported| unsupported.text("type"));
            Some(Content::Unsupported { kind })
        }
        ("contacts", _) => read_contacts(message),
        (_, Some(_)) => message.object(&kind).and_then(|object| read_object(&kind, &object)),
        // A tap is a reply even if the message does not name its type.
        (_, None) => ["button", "interactive"]
            .into_iter()
            .find_map(|name| message.object(name).and_then(|object| read_object(name, &object))),
    };
    content.unwrap_or_else(|| Content::Other { kind, json: json.map(|json| RawJson(json.to_owned())) })
}

fn read_object(kind: &str, object: &Members<'_>) -> Option<Content> {
    let content = match kind {
        "text" => Content::Text(object.text("body")?),
        "button" => Content::Tap(Box::new(Tap { payload: object.text("payload"), text: object.text("text") })),
        "interactive" => read_interactive(object)?,
        "image" => read_media(MediaKind::Image, object),
        "video" => read_media(MediaKind::Video, object),
        "audio" => read_media(MediaKind::Audio, object),
        "document" => read_media(MediaKind::Document, object),
        "sticker" => read_media(MediaKind::Sticker, object),
        "location" => Content::Location(Box::new(SharedLocation {
            latitude: object.get("latitude").decimal(),
            longitude: object.get("longitude").decimal(),
            name: object.text("name"),
            address: object.text("address"),
            url: object.text("url"),
        })),
        "reaction" => Content::Reaction(Box::new(Reaction {
            message: wamid(object, "message_id"),
            emoji: object.text("emoji").filter(|emoji| !emoji.is_empty()),
        })),
        "order" => Content::Order(Box::new(Order {
            catalog: object.text("catalog_id"),
            text: object.text("text"),
            items: object.list("product_items", read_item),
        })),
        "system" => Content::System(Box::new(SystemNotice {
            kind: object.text("type"),
            body: object.text("body"),
            number: object.text("wa_id"),
            user_id: object.text("user_id"),
            previous_user_id: object.text("previous_user_id"),
        })),
        "revoke" => Content::Revoke { original: wamid(object, "original_message_id") },
        _ => return None,
    };
    Some(content)
}

fn read_interactive(interactive: &Members<'_>) -> Option<Content> {
    let choice = |reply: Members<'_>| {
        let (id, title, description) = (reply.text("id"), reply.text("title"), reply.text("description"));
        Box::new(Choice { id, title, description })
    };
    let form = |reply: Members<'_>| {
        let (name, body, response) = (reply.text("name"), reply.text("body"), reply.text("response_json"));
        Box::new(FormReply { name, body, response })
    };
    let permission = |reply: Members<'_>| {
        Box::new(CallPermission {
            response: reply.text("response"),
            is_permanent: reply.flag("is_permanent"),
            until: time(&reply, "expiration_timestamp"),
            source: reply.text("response_source"),
        })
    };
    let object = |name| interactive.object(name);
    let button = object("button_reply").map(|reply| Content::ButtonReply(choice(reply)));
    button
        .or_else(|| object("list_reply").map(|reply| Content::ListReply(choice(reply))))
        .or_else(|| object("nfm_reply").map(|reply| Content::FormReply(form(reply))))
        .or_else(|| object("call_permission_reply").map(|reply| Content::CallPermission(permission(reply))))
}

fn read_media(kind: MediaKind, file: &Members<'_>) -> Content {
    Content::Media(Box::new(Media {
        kind,
        id: file.text("id"),
        mime_type: file.text("mime_type"),
        sha256: file.text("sha256"),
        url: file.text("url"),
        caption: file.text("caption"),
        filename: file.text("filename"),
        is_voice: file.flag("voice"),
        is_animated: file.flag("animated"),
    }))
}

/// `None` without any contact.
fn read_contacts(message: &Members<'_>) -> Option<Content> {
    let contacts = message.list("contacts", read_contact);
    (!contacts.is_empty()).then_some(Content::Contacts(contacts))
}

fn read_contact(contact: &Members<'_>) -> SharedContact {
    let phone = |phone: &Members<'_>| SharedPhone {
        number: phone.text("phone"),
        wa_id: phone.text("wa_id"),
        kind: phone.text("type"),
    };
    let organization = |org: Members<'_>| {
        let (company, department, title) = (org.text("company"), org.text("department"), org.text("title"));
        Box::new(Organization { company, department, title })
    };
    SharedContact {
        name: contact.object("name").and_then(|name| name.text("formatted_name")),
        phones: contact.list("phones", phone),
        organization: contact.object("org").map(organization),
        origin: contact.text("origin"),
        vcard: contact.text("vcard"),
    }
}

fn read_item(item: &Members<'_>) -> OrderItem {
    OrderItem {
        retailer_id: item.text("product_retailer_id"),
        quantity: item.get("quantity").decimal(),
        price: item.get("item_price").decimal(),
        currency: item.text("currency"),
    }
}
