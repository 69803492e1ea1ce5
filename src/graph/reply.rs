//! The JSON of a message of a chat, and of a mark.
//!
//! Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/messages/send-messages>, read
//! 2026-12-01.

use serde_json::{Value, json};

use crate::domain::chat::content::{ChatReply, ChatRequest, ReadMark, ReplyContent};

/// The body of a request. `token`: what Meta returns with every status; marks have none.
pub fn body(request: &ChatRequest, token: &str) -> Vec<u8> {
    let body = match request {
        ChatRequest::Message(reply) => message(reply, token),
        ChatRequest::Mark(mark) => self::mark(mark),
    };
    body.to_string().into_bytes()
}

fn message(ChatReply { to, context, content }: &ChatReply, token: &str) -> Value {
    let (kind, content) = typed(content);
    let mut body = json!({
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "type": kind,
        kind: content,
        "biz_opaque_callback_data": token,
    });
    match (to.number, &to.user_id) {
        (Some(number), _) => body["to"] = number.to_string().trim_start_matches('+').into(),
        (None, user_id) => body["recipient"] = user_id.as_deref().into(),
    }
    if let Some(message_id) = context {
        body["context"] = json!({ "message_id": message_id });
    }
    body
}

fn mark(ReadMark { message_id, typing }: &ReadMark) -> Value {
    let mut body = json!({ "messaging_product": "whatsapp", "status": "read", "message_id": message_id });
    if *typing {
        body["typing_indicator"] = json!({ "type": "text" });
    }
    body
}

/// Meta's type of the message, and the object of that name.
fn typed(content: &ReplyContent) -> (&'static str, Value) {
    match content {
        ReplyContent::Text { body, preview_url } => ("text", json!({ "body": body, "preview_url": preview_url })),
        ReplyContent::Image(media) => ("image", json!(media)),
        ReplyContent::Video(media) => ("video", json!(media)),
        ReplyContent::Audio(media) => ("audio", json!(media)),
        ReplyContent::Document(media) => ("document", json!(media)),
        ReplyContent::Sticker(media) => ("sticker", json!(media)),
        ReplyContent::Buttons { header, body, footer, buttons } => {
            let buttons = buttons.iter().map(|choice| json!({ "type": "reply", "reply": choice }));
            let action = json!({ "buttons": buttons.collect::<Vec<_>>() });
            ("interactive", interactive("button", [header, footer], body, action))
        }
        ReplyContent::List { header, body, footer, button, sections } => {
            let action = json!({ "button": button, "sections": sections });
            ("interactive", interactive("list", [header, footer], body, action))
        }
        ReplyContent::Location { latitude, longitude, name, address } => {
            let mut place = json!({ "latitude": latitude, "longitude": longitude });
            set(&mut place, "name", name.as_deref());
            set(&mut place, "address", address.as_deref());
            ("location", place)
        }
        ReplyContent::Contacts { contacts } => ("contacts", json!(contacts)),
        ReplyContent::Reaction { message_id, emoji } => {
            ("reaction", json!({ "message_id": message_id, "emoji": emoji }))
        }
        ReplyContent::Template { name, language, components } => {
            let mut template = json!({ "name": name, "language": { "code": language } });
            if !components.is_empty() {
                template["components"] = json!(components);
            }
            ("template", template)
        }
    }
}

fn interactive(kind: &str, [header, footer]: [&Option<String>; 2], body: &str, action: Value) -> Value {
    let mut interactive = json!({ "type": kind, "body": { "text": body }, "action": action });
    if let Some(header) = header {
        interactive["header"] = json!({ "type": "text", "text": header });
    }
    if let Some(footer) = footer {
        interactive["footer"] = json!({ "text": footer });
    }
    interactive
}

fn set(object: &mut Value, field: &str, text: Option<&str>) {
    if let Some(text) = text {
        object[field] = text.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::chat::content::ReplyTo;

    fn sent(content: Value) -> Value {
        let to = ReplyTo { number: "+5491155550001".parse().ok(), user_id: None };
        let content = serde_json::from_value(content).expect("content");
        let body = body(&ChatRequest::Message(ChatReply { to, context: None, content }), "token");
        serde_json::from_slice(&body).expect("JSON")
    }

    #[test]
    fn a_text_has_meta_s_form() {
        let expected = json!({
            "messaging_product": "whatsapp", "recipient_type": "individual", "to": "5491155550001", "type": "text",
            "text": {"body": "Hola", "preview_url": false}, "biz_opaque_callback_data": "token",
        });
        assert_eq!(sent(json!({"type": "text", "body": "Hola"})), expected);
    }

    #[test]
    fn each_content_is_under_the_name_of_its_type() {
        let buttons = json!({"type": "buttons", "header": "H", "body": "B", "buttons": [{"id": "yes", "title": "Sí"}]});
        let list = json!({"type": "list", "body": "B", "footer": "F", "button": "Menu",
            "sections": [{"title": "A", "rows": [{"id": "r1", "title": "One"}]}]});
        for (content, name, expected) in [
            (
                buttons,
                "interactive",
                json!({"type": "button", "header": {"type": "text", "text": "H"}, "body": {"text": "B"},
                    "action": {"buttons": [{"type": "reply", "reply": {"id": "yes", "title": "Sí"}}]}}),
            ),
            (
                list,
                "interactive",
                json!({"type": "list", "body": {"text": "B"}, "footer": {"text": "F"}, "action": {"button": "Menu",
                    "sections": [{"title": "A", "rows": [{"id": "r1", "title": "One"}]}]}}),
            ),
            (json!({"type": "image", "id": "77", "caption": "C"}), "image", json!({"id": "77", "caption": "C"})),
            (
                json!({"type": "template", "name": "order_update", "language": "es_AR"}),
                "template",
                json!({"name": "order_update", "language": {"code": "es_AR"}}),
            ),
            (
                json!({"type": "reaction", "message_id": "wamid.A", "emoji": "👍"}),
                "reaction",
                json!({"message_id": "wamid.A", "emoji": "👍"}),
            ),
        ] {
            let body = sent(content);
            assert_eq!((&body["type"], &body[name]), (&json!(name), &expected));
        }
    }

    #[test]
    fn a_mark_names_a_message_and_nobody() {
        let of = |typing| {
            let mark = ChatRequest::Mark(ReadMark { message_id: "wamid.A".into(), typing });
            serde_json::from_slice::<Value>(&body(&mark, "token")).expect("JSON")
        };
        let read = json!({"messaging_product": "whatsapp", "status": "read", "message_id": "wamid.A"});
        assert_eq!(of(false), read);
        assert_eq!(of(true)["typing_indicator"], json!({"type": "text"}));
    }

    #[test]
    fn a_person_without_number_is_addressed_by_the_user_id() {
        let to = ReplyTo { number: None, user_id: Some("AR.1A2b".into()) };
        let content = ReplyContent::Text { body: "Hola".into(), preview_url: false };
        let reply = ChatReply { to, context: Some("wamid.A".into()), content };
        let body: Value = serde_json::from_slice(&body(&ChatRequest::Message(reply), "token")).expect("JSON");
        assert_eq!((&body["recipient"], &body["to"]), (&json!("AR.1A2b"), &Value::Null));
        assert_eq!(body["context"], json!({"message_id": "wamid.A"}));
    }
}
