//! Who a person is: one contact for each, however Meta names the person.

use pregon::domain::{
    Inbound,
    inbound::{Content, SystemNotice},
};

use super::{Office, chats, message, text, texts};
use crate::support::until;

fn with_id(mut message: Inbound, user_id: &str) -> Inbound {
    message.sender.user_id = Some(user_id.to_owned());
    message
}

fn without_number(mut message: Inbound) -> Inbound {
    message.sender.number = None;
    message
}

/// Who wrote to a line, by number and user id, and how many messages.
type Writers = Vec<(Option<String>, Option<String>, u32)>;

/// Stores messages, and returns who wrote them: the same in one transaction as in one for each message.
async fn who_wrote(messages: &[Inbound]) -> Writers {
    let one_by_one = who_wrote_in(messages, 1).await;
    assert_eq!(who_wrote_in(messages, messages.len()).await, one_by_one, "in one transaction");
    one_by_one
}

async fn who_wrote_in(messages: &[Inbound], batch: usize) -> Writers {
    let office = Office::start().await;
    let database = office.database().await;
    let reader = office.reader("a");
    let mut n = 0;
    for batch in messages.chunks(batch) {
        office.write("3001", batch).await;
        n += batch.len();
        until("the messages are stored", async || {
            chats(&database).await.iter().map(|chat| chat.unread as usize).sum::<usize>() >= n
        })
        .await;
    }
    reader.stop().await;
    let mut found: Vec<_> = chats(&database)
        .await
        .into_iter()
        .map(|chat| (chat.contact.number.map(|number| number.to_string()), chat.contact.user_id, chat.unread))
        .collect();
    found.sort();
    let together = texts(&database).await.values().map(Vec::len).sum::<usize>();
    assert_eq!(together, messages.len(), "each message is in one chat");
    found
}

fn someone(number: &str, user_id: Option<&str>, n: u32) -> (Option<String>, Option<String>, u32) {
    (Some(format!("+{number}")), user_id.map(str::to_owned), n)
}

#[tokio::test]
async fn both_forms_of_a_number_are_one_contact() {
    let found = who_wrote(&[text(1, "5491155550001", "a"), text(2, "541155550001", "b")]).await;
    assert_eq!(found, [someone("541155550001", None, 2)], "messages go to the number that Meta wrote last");
}

#[tokio::test]
async fn a_number_and_an_id_that_a_message_names_together_are_one_contact() {
    let number = "5491155550001";
    let found = who_wrote(&[
        text(1, number, "by number"),
        without_number(with_id(text(2, number, "by id"), "AR.1")),
        with_id(text(3, number, "by both"), "AR.1"),
        without_number(with_id(text(4, number, "by id"), "AR.1")),
        text(5, number, "by number"),
    ])
    .await;
    assert_eq!(found, [someone(number, Some("AR.1"), 5)]);
}

#[tokio::test]
async fn another_id_on_the_same_number_is_another_person() {
    let number = "5491155550001";
    let found = who_wrote(&[
        with_id(text(1, number, "the first owner"), "AR.1"),
        text(2, number, "the first owner"),
        with_id(text(3, number, "the second owner"), "AR.2"),
        text(4, number, "the second owner"),
    ])
    .await;
    let first = (None, Some("AR.1".to_owned()), 2);
    assert_eq!(found, [first, someone(number, Some("AR.2"), 2)], "the number is that of the second");
}

#[tokio::test]
async fn a_person_with_a_new_number_stays_one_contact_and_the_old_number_is_free() {
    let (old, new) = ("5491155550001", "5491155550002");
    let notice = SystemNotice {
        kind: Some("user_changed_number".into()),
        number: Some(new.into()),
        user_id: Some("AR.2".into()),
        previous_user_id: Some("AR.1".into()),
        ..SystemNotice::default()
    };
    let found = who_wrote(&[
        with_id(text(1, old, "before"), "AR.1"),
        message(2, old, Content::System(Box::new(notice))),
        with_id(text(3, new, "after"), "AR.2"),
        text(4, old, "somebody else"),
    ])
    .await;
    assert_eq!(found, [someone(old, None, 1), someone(new, Some("AR.2"), 3)]);
}

#[tokio::test]
async fn two_lines_that_hear_of_people_at_the_same_time_create_one_contact_for_each() {
    let office = Office::start().await;
    let database = office.database().await;
    let number = |n: u32| format!("549115555{n:04}");
    let messages =
        |line: &str| -> Vec<Inbound> { (0..300).map(|n| text(format!("{line}.{n}"), &number(n), "hola")).collect() };
    let (first, second) = (messages("3001"), messages("3002"));
    tokio::join!(office.write("3001", &first), office.write("3002", &second));
    let reader = office.reader("a");
    until("all messages are stored", async || chats(&database).await.len() == 600).await;
    let contacts: std::collections::BTreeSet<i64> = chats(&database).await.iter().map(|chat| chat.contact.id).collect();
    assert_eq!(contacts.len(), 300);
    reader.stop().await;
}
