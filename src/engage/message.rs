//! A message from the stream of a line, as it is stored in PostgreSQL.

use serde_json::{Value, json};
use ulid::Ulid;

use crate::{
    domain::{Inbound, LineId, MediaId, UnixMs, chat::Identity, inbound::Content},
    postgres::{
        inbound::{AnsweredCampaign, Author, Mark, ReceivedMessage},
        media::ReceivedFile,
    },
    redis::inbound::{InboundEntry, recipient_of},
};

/// What is stored for an entry. `now` replaces a time that Meta does not tell. `answers`: the campaign that it answers.
pub(super) fn received(
    line: &LineId,
    entry: InboundEntry,
    answers: Option<AnsweredCampaign>,
    now: UnixMs,
) -> ReceivedMessage {
    let inbound: Inbound = serde_json::from_str(&entry.message).unwrap_or_default();
    // What this release cannot read is stored as it is, because nothing that a person wrote is lost.
    let unreadable = || json!({ "content": { "other": { "kind": "", "json": entry.message } } });
    let mut body = serde_json::from_str(&entry.message).ok().filter(Value::is_object).unwrap_or_else(unreadable);
    remove_nul(&mut body);
    let id = inbound.id.as_ref().map(|id| without_nul(id.as_str()));
    let wamid = id.unwrap_or_else(|| format!("{line}/{}", entry.id));
    let file = file(&inbound, &mut body, now);
    // A time in the future would extend the window.
    let (at, person, mark) = (inbound.at.unwrap_or(now).min(now), person(&inbound), mark(&inbound, &body));
    if let Some(fields) = body.as_object_mut() {
        // Columns of their own.
        for stored_apart in ["id", "at", "sender"] {
            fields.remove(stored_apart);
        }
        fields.extend(entry.answers.map(|answers| ("recipient".to_owned(), json!(recipient_of(answers)))));
    }
    let is_echo = matches!(inbound.content, Content::Echo { .. });
    ReceivedMessage { wamid, at, person, body: body.to_string(), is_echo, answers, mark, file }
}

/// The file of a message, whose `body` names it from then on.
fn file(inbound: &Inbound, body: &mut Value, now: UnixMs) -> Option<ReceivedFile> {
    let (content, place) = match &inbound.content {
        Content::Edit { content, .. } => (&**content, "/content/edit/content/media"),
        Content::Echo { content } => (&**content, "/content/echo/content/media"),
        content => (content, "/content/media"),
    };
    let Content::Media(media) = content else { return None };
    let meta_id = without_nul(media.id.as_deref()?);
    let id = MediaId(Ulid::from_parts(now.0, rand::random()));
    body.pointer_mut(place)?.as_object_mut()?.insert("media".to_owned(), json!(id));
    let text = |text: &Option<String>| text.as_deref().map(without_nul);
    let mime_type = text(&media.mime_type).unwrap_or_default();
    Some(ReceivedFile { id, meta_id, mime_type, filename: text(&media.filename) })
}

/// Replaces the character NUL, which PostgreSQL cannot store.
fn remove_nul(json: &mut Value) {
    match json {
        Value::String(text) => *text = without_nul(text),
        Value::Array(items) => items.iter_mut().for_each(remove_nul),
        Value::Object(fields) => {
            *fields = std::mem::take(fields).into_iter().map(|(name, value)| (without_nul(&name), value)).collect();
            fields.values_mut().for_each(remove_nul);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn person(inbound: &Inbound) -> Author {
    let sender = &inbound.sender;
    let (mut user_id, mut becomes) = (sender.user_id.as_deref(), None);
    if let Content::System(notice) = &inbound.content {
        user_id = notice.previous_user_id.as_deref().or(user_id);
        let new = Identity::new(notice.number.as_deref(), notice.user_id.as_deref());
        becomes = (new != Identity::default()).then_some(new);
    }
    let identity = Identity::new(sender.number.as_deref(), user_id);
    let text = |text: &Option<String>| text.as_deref().map(without_nul);
    Author { identity, name: text(&sender.name), username: text(&sender.username), becomes }
}

/// What a reaction, an edit or a deletion does to the message that it names. `body`: that of the reaction, edit or
/// deletion.
fn mark(inbound: &Inbound, body: &Value) -> Option<Mark> {
    let (content, body) = match &inbound.content {
        Content::Echo { content } => (&**content, &body["content"]["echo"]["content"]),
        content => (content, &body["content"]),
    };
    let (message, marks) = match content {
        Content::Reaction(reaction) => (&reaction.message, json!({ "reaction": body["reaction"]["emoji"] })),
        Content::Edit { original, .. } => (original, json!({ "edited": body["edit"]["content"] })),
        Content::Revoke { original } => (original, json!({ "revoked": true })),
        _ => return None,
    };
    let removes_content = matches!(content, Content::Revoke { .. });
    Some(Mark { message: without_nul(message.as_ref()?.as_str()), marks: marks.to_string(), removes_content })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(message: &str) -> ReceivedMessage {
        let entry = InboundEntry { id: "7-1".parse().expect("an id"), message: message.to_owned(), answers: None };
        received(&"3001".into(), entry, None, UnixMs(5_000))
    }

    #[test]
    fn what_cannot_be_read_is_stored_as_it_is() {
        let lone = r#"{"id":"wamid.1","content":{"edit":{"original":"wamid.0","content":{"other":{"kind":"x","json":"\ud800"}}}}}"#;
        for message in ["", "[]", "{", lone, r#"{"content":{"hologram":1}}"#] {
            let stored = of(message);
            let body: Value = serde_json::from_str(&stored.body).expect("JSON");
            let kept = body["content"]["other"]["json"] == message || body["content"]["hologram"] == 1;
            assert!(kept && !stored.wamid.is_empty(), "{message}: {}", stored.body);
        }
        assert_eq!(of("{").wamid, "3001/7-1", "a message without an id is known by its entry");
    }

    #[test]
    fn a_message_names_its_file_also_in_an_edit() {
        let media = r#"{"media":{"kind":"document","id":"77","mime_type":"application/pdf","filename":"a.pdf"}}"#;
        let edit = format!(r#"{{"edit":{{"original":"wamid.0","content":{media}}}}}"#);
        for (content, place) in [(media, "/content/media"), (edit.as_str(), "/content/edit/content/media")] {
            let stored = of(&format!(r#"{{"id":"wamid.1","content":{content}}}"#));
            let file = stored.file.expect("a file");
            assert_eq!((file.meta_id.as_str(), file.mime_type.as_str()), ("77", "application/pdf"));
            let body: Value = serde_json::from_str(&stored.body).expect("JSON");
            let named = body.pointer(place).expect("the file");
            assert_eq!((&named["media"], &named["id"]), (&json!(file.id.to_string()), &json!("77")));
        }
        assert!(of(r#"{"id":"wamid.1","content":{"media":{"kind":"image"}}}"#).file.is_none(), "not at Meta");
    }

    #[test]
    fn a_message_is_never_from_the_future() {
        assert_eq!(of(r#"{"at":9000}"#).at, UnixMs(5_000));
        assert_eq!(of(r#"{"at":4000}"#).at, UnixMs(4_000));
    }
}
