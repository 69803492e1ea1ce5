//! Old messages are deleted by months, and everything else stays.

use std::{collections::HashSet, time::Duration};

use pregon::{
    domain::{
        MediaId, UnixMs,
        chat::{Identity, content::ReplyContent},
    },
    postgres::{
        chats::{ActionOn, ChatAction, NewMessage},
        inbound::{Author, ReceivedMessage},
        media::ReceivedFile,
    },
};
use ulid::Ulid;

use super::chats;
use crate::support::postgres::TestPostgres;

const DAY: Duration = Duration::from_hours(24);

#[tokio::test]
async fn months_that_are_kept_no_longer_go_and_contacts_chats_and_the_outbox_stay() {
    let postgres = TestPostgres::start().await;
    let at = |day: &str| UnixMs::parse(&format!("{day}T12:00:00Z")).expect("a time");
    let (january, april) = (at("2025-01-15"), at("2025-04-20"));
    let database = postgres.database(january).await;
    let said = async |number: &str, now: UnixMs| {
        let person = Author { identity: Identity::new(Some(number), None), ..Author::default() };
        let (wamid, body) = (format!("wamid.{now}"), r#"{"content":{"text":"Hola"}}"#.to_owned());
        let id = MediaId(Ulid::from_parts(now.0, 1));
        let file = ReceivedFile { id, meta_id: "77".into(), mime_type: "image/png".into(), filename: None };
        let message = ReceivedMessage {
            wamid,
            at: now,
            person,
            body,
            is_echo: false,
            answers: None,
            mark: None,
            file: Some(file),
        };
        database.store_inbound(&"3001".into(), &"1001".into(), &[message], None, now).await.expect("stored");
    };
    said("5491155550001", january).await;
    let old = chats(&database).await[0].clone();
    let content = ReplyContent::Text { body: "¿En qué puedo ayudar?".to_owned(), preview_url: false };
    let reply = ChatAction::Send(NewMessage { client_id: Some("1".to_owned()), context: None, content });
    let on = ActionOn { chat: old.id, agent: "ana", visible: None, revision: None, now: january };
    database.act(on, reply).await.expect("PostgreSQL").expect("a message");

    database.create_partitions(april).await.expect("created");
    said("5491155550002", april).await;
    let dropped = async |keep| database.drop_partitions(april, keep).await.expect("dropped");
    assert!(dropped(100 * DAY).await.is_empty(), "the month has not ended for so long");
    assert_eq!(dropped(60 * DAY).await, ["messages_2025_01"]);
    assert!(dropped(60 * DAY).await.is_empty());
    let removed = database.removed_files(10, april).await.expect("files");
    assert_eq!(removed, [MediaId(Ulid::from_parts(january.0, 1))], "the file of the message that is gone");
    let all = chats(&database).await;
    let of_chat = async |chat| database.messages(chat, None, 10).await.expect("messages").len();
    let [newest, oldest] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((of_chat(oldest.id).await, oldest.id, &oldest.contact), (0, old.id, &old.contact));
    assert!(of_chat(newest.id).await > 0);
    let waiting = database.outbox(&"3001".into(), &HashSet::new(), 10).await.expect("the outbox");
    assert_eq!(waiting.len(), 1, "what waits to be sent is sent");

    let forgotten = async |now| database.forget_client_ids(now).await.expect("forgotten");
    assert_eq!(forgotten(january.after(6 * DAY)).await, 0);
    assert_eq!(forgotten(january.after(8 * DAY)).await, 1);
}
