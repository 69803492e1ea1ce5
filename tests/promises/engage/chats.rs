//! Messages and chats.

use std::collections::BTreeMap;

use pregon::domain::{
    State, Wamid,
    chat::Owner,
    inbound::{Content, Media, Reaction},
};
use serde_json::json;

use super::{Office, chats, inbound_of, message, text, texts};
use crate::support::until;

#[tokio::test]
async fn every_message_is_in_the_chat_of_its_sender_and_line_in_order() {
    let office = Office::start().await;
    let reader = office.reader("a");
    let database = office.database().await;
    let mut expected: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    // More than one batch, with three people in turns.
    for n in 0..250 {
        let number = format!("549115555{:04}", n % 3);
        for line in ["3001", "3002"] {
            let said = format!("{line} {n}");
            office.write(line, &[text(&said, &number, &said)]).await;
            expected.entry((line.to_owned(), format!("+{number}"))).or_default().push(said);
        }
    }
    until("all messages are stored", async || texts(&database).await == expected).await;
    for chat in chats(&database).await {
        assert_eq!(
            (chat.owner, chat.contact.business.as_str()),
            (Owner::Queue, "1001"),
            "a new chat waits for an agent"
        );
        assert_eq!(
            chat.unread as usize,
            expected[&(chat.line.to_string(), chat.contact.number.expect("known").to_string())].len()
        );
    }
    reader.stop().await;
}

#[tokio::test]
async fn any_message_is_kept_and_an_edit_a_deletion_and_a_reaction_mark_the_message_that_they_name() {
    let office = Office::start().await;
    let database = office.database().await;
    let reader = office.reader("a");
    let number = "5491155550001";
    let original = |id: &str| Some(Wamid::from(id));
    let photo = Media { id: Some("77".into()), mime_type: Some("image/jpeg".into()), ..Media::default() };
    let edit = Content::Edit { original: original("wamid.1"), content: Box::new(Content::Text("Hola!".into())) };
    let reaction = Reaction { message: original("wamid.1"), emoji: Some("👍".into()) };
    let messages = [
        text(1, number, "Hola"),
        text(2, number, "with \0 and \\u0000"),
        message(3, number, Content::Media(Box::new(photo))),
        message(4, number, Content::Unsupported { kind: Some("poll".into()) }),
        message(5, number, edit),
        message(6, number, Content::Reaction(Box::new(reaction))),
        message(7, number, Content::Revoke { original: original("wamid.3") }),
    ];
    office.write("3001", &messages).await;
    until("all messages are stored", async || match chats(&database).await.as_slice() {
        [chat] => inbound_of(&database, chat.id).await.len() == messages.len(),
        _ => false,
    })
    .await;
    let chat = chats(&database).await.remove(0);
    let stored = inbound_of(&database, chat.id).await;
    let content = |n: usize| stored[n].body["content"].clone();
    assert_eq!(content(0), json!({"text": "Hola"}), "the first text stays, with its marks");
    assert_eq!(stored[0].marks, Some(json!({"edited": {"text": "Hola!"}, "reaction": "👍"})));
    assert_eq!(content(1), json!({"text": "with \u{fffd} and \\u0000"}));
    assert_eq!(
        (&stored[2].body, &stored[2].marks),
        (&json!({}), &Some(json!({"revoked": true}))),
        "deleted by its sender"
    );
    assert_eq!(content(3), json!({"unsupported": {"kind": "poll"}}));
    assert_eq!(stored[4].wamid.as_deref(), Some("wamid.5"));
    reader.stop().await;
}

#[tokio::test]
async fn what_the_business_writes_in_its_app_is_a_message_to_the_contact() {
    let office = Office::start().await;
    let database = office.database().await;
    let reader = office.reader("a");
    let number = "5491155550001";
    let echo = |id: u32, content: Content| message(id, number, Content::Echo { content: Box::new(content) });
    let hola = echo(1, Content::Text("¡Hola!".into()));
    let revoke = Content::Revoke { original: Some(Wamid::from("wamid.3")) };
    let messages =
        [hola.clone(), text(2, number, "¿Sí?"), echo(3, Content::Text("typo".into())), hola, echo(4, revoke)];
    for message in &messages {
        office.write("3001", std::slice::from_ref(message)).await;
    }
    let all = async || match chats(&database).await.as_slice() {
        [chat] => database.messages(chat.id, None, 10).await.expect("messages"),
        _ => Vec::new(),
    };
    until("all messages are stored", async || all().await.len() == 5).await;
    let all = all().await;
    let shown: Vec<_> = all.iter().rev().map(|message| (message.kind.name(), message.state)).collect();
    let sent = ("outbound", Some(State::Sent));
    assert_eq!(shown[0], sent, "it began the chat");
    assert_eq!((shown[1].0, shown[2].0), ("inbound", "activity"));
    assert_eq!(shown[3..], [sent, sent]);
    assert_eq!(all[4].body["content"], json!({"echo": {"content": {"text": "¡Hola!"}}}));
    assert_eq!((&all[1].body, &all[1].marks), (&json!({}), &Some(json!({"revoked": true}))));
    let chat = chats(&database).await.remove(0);
    assert_eq!((chat.owner, chat.unread), (Owner::Queue, 0), "who answers in the app has read the chat there");
    reader.stop().await;
}

#[tokio::test]
async fn without_postgresql_messages_wait_in_redis_and_are_stored_when_it_is_back() {
    let mut office = Office::start().await;
    let database = office.database().await;
    let reader = office.reader("a");
    office.write("3001", &[text("before", "5491155550001", "before")]).await;
    until("the first message is stored", async || !texts(&database).await.is_empty()).await;
    office.postgres.kill_hard().await;
    let said: Vec<String> = (0..120).map(|n| n.to_string()).collect();
    let messages: Vec<_> = said.iter().map(|said| text(said, "5491155550001", said)).collect();
    office.write("3001", &messages).await;
    office.postgres.restart().await;
    let expected: Vec<String> = ["before".to_owned()].into_iter().chain(said).collect();
    until("all messages are stored", async || {
        texts(&database).await.values().next().is_some_and(|stored| *stored == expected)
    })
    .await;
    reader.stop().await;
}
