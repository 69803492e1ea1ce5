//! The chats as a stream of server-sent events.

use pregon::postgres::Database;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    chats::write,
    harness::{Api, Block, EventStream, answer},
};
use crate::support::{postgres::TestPostgres, seed};

const FIRST: (&str, &str) = ("3001", "1001");
const OTHER: (&str, &str) = ("3003", "1002");

async fn start() -> (Api, TestPostgres, Database) {
    let postgres = TestPostgres::start().await;
    let api = Api::start_with_database(postgres.connect()).await;
    let database = postgres.database(api.now()).await;
    (api, postgres, database)
}

async fn open(api: &Api, business: Option<&str>, last: Option<&str>) -> EventStream {
    let request = match business {
        Some(business) => api.request_of(business, Method::GET, "/v1/stream"),
        None => api.request(Method::GET, "/v1/stream"),
    };
    EventStream::open(last.into_iter().fold(request, |request, id| request.header("Last-Event-ID", id))).await
}

/// The next event and the position behind it, which may be empty.
async fn next(stream: &mut EventStream) -> (String, Value, String) {
    loop {
        let Block { id, event, data } = stream.next().await.expect("the stream goes on");
        if !event.is_empty() {
            return (event, serde_json::from_str(&data).expect("JSON"), id);
        }
    }
}

/// Reads events until a message says `text`. Returns the position behind it and the chats that the events tell of.
async fn until_text(stream: &mut EventStream, text: &str) -> (String, Vec<Value>) {
    let (mut chats, mut is_told) = (Vec::new(), false);
    loop {
        let (event, data, id) = next(stream).await;
        match event.as_str() {
            "chat" => chats.push(data),
            "message" => is_told |= data["body"]["content"]["text"] == text,
            other => panic!("unexpected event {other}"),
        }
        if is_told && !id.is_empty() {
            return (id, chats);
        }
    }
}

async fn act(api: &Api, chat: &str, call: &str, body: Value) {
    let done = answer(api.request(Method::POST, &format!("/v1/chats/{chat}/{call}")).json(&body)).await;
    assert!(done.status.is_success(), "{call}: {:?}", done.body);
}

#[tokio::test]
async fn a_stream_tells_what_changes_and_a_reader_that_was_away_is_told_the_rest() {
    let (api, _postgres, database) = start().await;
    write(&database, FIRST, 1, "before", api.now()).await;
    let mut stream = open(&api, None, None).await;
    let first = stream.next().await.expect("a position");
    assert!(!first.id.is_empty() && first.event.is_empty(), "a reader that is cut off now loses nothing: {first:?}");
    write(&database, FIRST, 1, "hola", api.now()).await;
    let (event, chat, _) = next(&mut stream).await;
    assert_eq!((event.as_str(), &chat["unread"]), ("chat", &json!(2)));
    let (event, message, position) = next(&mut stream).await;
    assert_eq!(event, "message");
    assert_eq!((&message["chat"], &message["body"]), (&chat["id"], &json!({"content": {"text": "hola"}})));
    drop(stream);
    let id = chat["id"].as_str().expect("an id");
    act(&api, id, "take", json!({})).await;
    write(&database, FIRST, 2, "while away", api.now()).await;
    for since in [&position, &first.id] {
        let (_, chats) = until_text(&mut open(&api, None, Some(since)).await, "while away").await;
        let of_first = chats.iter().find(|chat| chat["id"] == id).expect("the chat that was taken");
        assert_eq!((&of_first["owner"], chats.len()), (&json!("agent"), 2), "as it is, since {since}");
    }
}

#[tokio::test]
async fn every_action_of_an_agent_is_told() {
    let (api, _postgres, database) = start().await;
    write(&database, FIRST, 1, "hola", api.now()).await;
    let chat = api.read("/v1/chats").await["chats"][0]["id"].as_str().expect("an id").to_owned();
    let mut stream = open(&api, None, None).await;
    for (call, body) in [
        ("take", json!({})),
        ("messages", json!({"type": "text", "body": "¿Sí?"})),
        ("read", json!({})),
        ("notes", json!({"text": "calls back"})),
        ("release", json!({})),
        ("close", json!({})),
    ] {
        act(&api, &chat, call, body).await;
        let now = api.read(&format!("/v1/chats/{chat}")).await;
        loop {
            let (event, told, _) = next(&mut stream).await;
            if event == "chat" && told == now {
                break;
            }
        }
    }
}

#[tokio::test]
async fn no_change_is_missed_while_transactions_overlap_and_readers_come_and_go() {
    let (api, _postgres, database) = start().await;
    let mut position = open(&api, None, None).await.next().await.expect("a position").id;
    let writers: Vec<_> = (0..4_u64)
        .map(|writer| {
            let (database, now) = (database.clone(), api.now());
            let line = if writer % 2 == 0 { FIRST } else { OTHER };
            tokio::spawn(async move {
                for n in 0..50 {
                    write(&database, line, writer, &format!("{writer}.{n}"), now).await;
                }
            })
        })
        .collect();
    let mut cut_off = StdRng::seed_from_u64(seed());
    let mut missing: Vec<String> = (0..4).flat_map(|writer| (0..50).map(move |n| format!("{writer}.{n}"))).collect();
    while !missing.is_empty() {
        let mut stream = open(&api, None, Some(&position)).await;
        for _ in 0..cut_off.random_range(1..250) {
            let Block { id, event, data } = stream.next().await.expect("the stream goes on");
            if event == "message" {
                let message: Value = serde_json::from_str(&data).expect("JSON");
                missing.retain(|text| message["body"]["content"]["text"] != **text);
            }
            if !id.is_empty() {
                position = id;
            }
            if missing.is_empty() {
                break;
            }
        }
    }
    for writer in writers {
        writer.await.expect("no panic");
    }
}

#[tokio::test]
async fn a_key_follows_only_the_chats_of_its_businesses() {
    let (api, _postgres, database) = start().await;
    let mut all = open(&api, None, None).await;
    let mut own = open(&api, Some("1002"), None).await;
    let position = own.next().await.expect("a position").id;
    write(&database, FIRST, 1, "for the first", api.now()).await;
    until_text(&mut all, "for the first").await;
    write(&database, OTHER, 1, "for the other", api.now()).await;
    for mut stream in [own, open(&api, Some("1002"), Some(&position)).await] {
        let (_, chats) = until_text(&mut stream, "for the other").await;
        assert!(chats.iter().all(|chat| chat["line"] == "3003"), "{chats:?}");
    }
}

#[tokio::test]
async fn who_was_away_for_too_long_or_follows_another_database_reads_the_lists_again() {
    let (api, _postgres, database) = start().await;
    let position = open(&api, None, None).await.next().await.expect("a position").id;
    for n in 0..=1_000 {
        write(&database, FIRST, n, "hola", api.now()).await;
    }
    for since in [position.as_str(), "900000:900000:"] {
        let mut stream = open(&api, None, Some(since)).await;
        let (event, _, id) = next(&mut stream).await;
        assert_eq!(event, "reload", "since {since}");
        write(&database, FIRST, 1, &format!("after {since}"), api.now()).await;
        until_text(&mut open(&api, None, Some(&id)).await, &format!("after {since}")).await;
    }
    for malformed in ["x", "1:2", "3:2:", "1:9:9", "1:9:4,3", "1:9:-4", "0:0:"] {
        let request = api.request(Method::GET, "/v1/stream").header("Last-Event-ID", malformed);
        answer(request).await.problem(400, "invalid-position");
    }
    Api::start().await.get("/v1/stream").await.problem(409, "no-database");
}

/// Reads events until an agent is told to be `presence`. Returns the agent and the position behind it.
async fn until_presence(stream: &mut EventStream, id: &str, presence: &str) -> (Value, String) {
    loop {
        let (event, agent, position) = next(stream).await;
        assert_eq!(event, "agent", "{agent}");
        assert_eq!(agent["id"], id, "only the agents that the key may see, and only when they change");
        if agent["presence"] == presence && !position.is_empty() {
            return (agent, position);
        }
    }
}

#[tokio::test]
async fn a_stream_tells_which_agents_are_there() {
    let (api, _postgres, _database) = start().await;
    let create = async |name: &str, business: &str| {
        let new = json!({ "business": business, "email": format!("{name}@example.com"), "name": name });
        let created = api.post_json("/v1/agents", &new).await;
        created.body["id"].as_str().expect("an id").to_owned()
    };
    let is = async |id: &str, presence: &str| {
        let path = format!("/v1/agents/{id}/presence");
        let set = answer(api.request(Method::PUT, &path).json(&json!({ "presence": presence }))).await;
        assert_eq!(set.body["presence"], presence, "{}", set.body);
    };
    let mut own = open(&api, Some("1002"), None).await;
    let first = own.next().await.expect("a position").id;
    let (ana, bea) = (create("ana", "1001").await, create("bea", "1002").await);
    let (created, _) = until_presence(&mut own, &bea, "offline").await;
    assert_eq!(created["name"], "bea");
    for presence in ["available", "away"] {
        is(&ana, presence).await;
        is(&bea, presence).await;
        until_presence(&mut own, &bea, presence).await;
    }
    is(&bea, "available").await;
    let (told, position) = until_presence(&mut own, &bea, "available").await;
    assert_eq!(told, api.read(&format!("/v1/agents/{bea}")).await);
    drop(own);
    is(&bea, "away").await;
    api.patch_json(&format!("/v1/agents/{bea}"), &json!({ "name": "Bea", "groups": [] })).await;
    for since in [first, position] {
        let (told, _) = until_presence(&mut open(&api, Some("1002"), Some(&since)).await, &bea, "away").await;
        assert_eq!(told["name"], "Bea", "as the agent is, since {since}");
    }
}
