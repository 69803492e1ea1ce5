//! A person who is forgotten: nothing that was on its way from or to the person is stored or sent afterwards.

use std::{collections::HashSet, time::Duration};

use deadpool_redis::redis::cmd;
use pregon::{
    domain::{
        FailureReason, Fingerprint, Inbound, LineId, MetaCode, Phone, Settled, UnixMs,
        chat::{Identity, Outgoing},
    },
    postgres::{
        Database,
        inbound::{Author, ReceivedMessage},
    },
    redis::{
        Store,
        chats::{ChatClaim, ChatClaimRequest, ChatOutcome, ClaimedChat},
        inbound::NewInbound,
    },
};
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{Reader, chats, text};
use crate::{
    api::harness::{Api, answer},
    support::{postgres::TestPostgres, traces, until, world},
};

const NUMBER: &str = "5491155550007";
const USER_ID: &str = "AR.7007";

async fn forget(api: &Api, number: &str) {
    let forgotten = answer(api.request(Method::DELETE, &format!("/v1/people/+{number}"))).await;
    assert_eq!(forgotten.status, StatusCode::OK, "{}", forgotten.body);
}

async fn put(store: &Store, line: &str, message: &Inbound) {
    let new = NewInbound {
        fingerprint: Fingerprint::of(message.id.as_ref().expect("an id").as_str()),
        message: serde_json::to_string(message).expect("JSON"),
        answers: None,
    };
    store.keep_inbound(&[(line.into(), vec![new])], world::INBOUND).await.expect("redis").remove(0).expect("kept");
}

/// A text of the person, who has a number and an id.
fn of_person(id: &str) -> Inbound {
    let mut message = text(id, NUMBER, "Hola");
    message.sender.user_id = Some(USER_ID.to_owned());
    message
}

/// Writes `n` texts of an agent to every chat.
async fn answer_all(api: &Api, n: usize) {
    for chat in api.read("/v1/chats").await["chats"].as_array().expect("chats") {
        let path = format!("/v1/chats/{}/messages", chat["id"].as_str().expect("an id"));
        for n in 0..n {
            let body = json!({"client_id": n.to_string(), "type": "text", "body": format!("answer {n}")});
            assert_eq!(api.post_json(&path, &body).await.status, StatusCode::CREATED);
        }
    }
}

/// What a worker claims that has the line.
async fn claim(api: &Api, line: &LineId, number: u64, limit: usize) -> Vec<ClaimedChat> {
    let now = api.now();
    let doubt_until = now.after(Duration::from_secs(3_600));
    let request = ChatClaimRequest { epoch: 1, number, now, limit, doubt_until, unanswered: None };
    match api.store.claim_chats(line, request).await.expect("redis") {
        ChatClaim::Claimed { messages, .. } => messages,
        other => panic!("{other:?}"),
    }
}

async fn length(store: &Store, key: String) -> u64 {
    store.query("HLEN", cmd("HLEN").arg(key)).await.expect("redis")
}

#[tokio::test]
async fn nothing_is_sent_to_a_forgotten_person_or_left_of_one() {
    let (line, other): (LineId, LineId) = ("3001".into(), "3004".into());
    let postgres = TestPostgres::start().await;
    let api = Api::start_with_database(postgres.connect()).await;
    let database = postgres.database(api.now()).await;
    let reader = Reader::start("r", &api.store, postgres.connect(), &api.clock);
    put(&api.store, "3001", &of_person("1")).await;
    // Nobody reads this line, so what is written on it stays in the outbox.
    store(&database, &other, "wamid.2", None, api.now()).await;
    until("the person has two chats", async || chats(&database).await.len() == 2).await;
    answer_all(&api, 3).await;
    let requests = api.store.keys.chat_requests(&line);
    until("three messages are in the lane", async || length(&api.store, requests.clone()).await == 3).await;
    let in_flight = claim(&api, &line, 1, 1).await.remove(0);
    let waiting = database.outbox(&other, &HashSet::new(), 10).await.expect("the outbox");
    assert_eq!(waiting.len(), 3);

    forget(&api, NUMBER).await;
    // A reader that has read the outbox before puts the messages now.
    api.store.put_chats(&other, 1, api.now(), &waiting).await.expect("redis");
    assert_eq!(claim(&api, &other, 1, 10).await, []);
    let retry = Settled::Retry { at: api.now(), reason: FailureReason::Meta(MetaCode(131_000)) };
    let outcome =
        ChatOutcome { id: in_flight.id, send: in_flight.send, settled: retry, details: "try again".to_owned() };
    api.store.settle_chats(&line, api.now(), &[outcome]).await.expect("redis");
    assert_eq!(claim(&api, &line, 2, 10).await, [], "a request on its way is not sent again");
    until("the reader has removed the messages", async || {
        length(&api.store, api.store.keys.chat_states(&line)).await == 0
    })
    .await;
    let phone: Phone = NUMBER.parse::<u64>().ok().and_then(Phone::from_digits).expect("a number");
    let mut forms = traces::of(phone);
    forms.extend([USER_ID.into(), "answer".into()]);
    assert_eq!(traces::found(&api.store, &forms, &[phone], &[]).await, Vec::<String>::new());
    assert_eq!(chats(&database).await, []);
    assert_eq!(database.contact_of(&"1001".into(), phone.into()).await.expect("PostgreSQL"), None);
    for line in [&line, &other] {
        let left: Vec<Outgoing> = database.outbox(line, &HashSet::new(), 10).await.expect("the outbox");
        assert_eq!(left, []);
    }
    reader.stop().await;
}

/// Stores a text of the person. `forgettings`: as the reader of the line knows it. Returns whether it is stored.
async fn store(database: &Database, line: &LineId, wamid: &str, forgettings: Option<i64>, now: UnixMs) -> bool {
    let message = ReceivedMessage {
        wamid: wamid.to_owned(),
        at: now,
        person: Author { identity: Identity::new(Some(NUMBER), None), ..Author::default() },
        body: r#"{"content":{"text":"Hola"}}"#.to_owned(),
        is_echo: false,
        answers: None,
        mark: None,
        file: None,
    };
    let stored = database.store_inbound(line, &"1001".into(), &[message], forgettings, now).await;
    stored.expect("PostgreSQL").is_some()
}

#[tokio::test]
async fn a_message_that_was_read_before_its_person_was_forgotten_is_not_stored() {
    let line = LineId::from("3001");
    let postgres = TestPostgres::start().await;
    let api = Api::start_with_database(postgres.connect()).await;
    let database = postgres.database(api.now()).await;
    let before = database.forgettings(&line).await.expect("PostgreSQL");
    forget(&api, NUMBER).await;
    assert!(!store(&database, &line, "wamid.1", Some(before), api.now()).await);
    assert_eq!(chats(&database).await, []);
    let after = database.forgettings(&line).await.expect("PostgreSQL");
    assert!(store(&database, &line, "wamid.2", Some(after), api.now()).await, "a message that was written later");
}

#[tokio::test]
async fn people_who_are_forgotten_while_their_messages_are_read_have_no_chat() {
    let postgres = TestPostgres::start().await;
    let api = Api::start_with_database(postgres.connect()).await;
    let database = postgres.database(api.now()).await;
    let reader = Reader::start("r", &api.store, postgres.connect(), &api.clock);
    for n in 0..40 {
        let number = format!("54911555560{n:02}");
        put(&api.store, "3001", &text(format!("a{n}"), &number, "Hola")).await;
        put(&api.store, "3002", &text(format!("b{n}"), &number, "Hola")).await;
        forget(&api, &number).await;
    }
    for line in ["3001", "3002"] {
        put(&api.store, line, &text(format!("last.{line}"), NUMBER, "Hola")).await;
    }
    let of_others = async || {
        let last = |number: Option<Phone>| number.is_some_and(|number| number.to_string() == format!("+{NUMBER}"));
        let (last, others): (Vec<_>, Vec<_>) =
            chats(&database).await.into_iter().partition(|chat| last(chat.contact.number));
        (last.len(), others)
    };
    until("the last messages are stored", async || of_others().await.0 == 2).await;
    assert_eq!(of_others().await.1, []);
    reader.stop().await;
}
