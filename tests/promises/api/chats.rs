//! Chats, their messages and contacts, as the API shows them.

use pregon::{
    domain::{UnixMs, chat::Identity},
    postgres::{
        Database,
        inbound::{Author, ReceivedMessage},
    },
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::harness::{Api, answer};
use crate::support::postgres::TestPostgres;

const LINES: [(&str, &str); 2] = [("3001", "1001"), ("3003", "1002")];

pub fn number(n: u64) -> String {
    format!("549115555{n:04}")
}

/// Stores a text from person `n` to a line.
pub async fn write(database: &Database, (line, business): (&str, &str), n: u64, text: &str, now: UnixMs) {
    let identity = Identity::new(Some(&number(n)), None);
    let message = ReceivedMessage {
        wamid: format!("wamid.{line}.{n}.{text}"),
        at: now,
        person: Author { identity, name: Some(format!("Person {n}")), ..Author::default() },
        body: json!({"content": {"text": text}}).to_string(),
        is_echo: false,
        answers: None,
        mark: None,
        file: None,
    };
    database.store_inbound(&line.into(), &business.into(), &[message], None, now).await.expect("stored");
}

/// An API with chats: five people wrote twice to a line of each of two businesses.
async fn with_chats() -> (Api, TestPostgres, Database) {
    let postgres = TestPostgres::start().await;
    let api = Api::start_with_database(postgres.connect()).await;
    let database = postgres.database(api.now()).await;
    for text in ["first", "second"] {
        for line in LINES {
            for n in 0..5 {
                write(&database, line, n, text, api.now()).await;
            }
        }
    }
    (api, postgres, database)
}

async fn pages(api: &Api, path: &str, rows: &str, cursor: &str) -> Vec<Value> {
    let (mut all, mut next) = (Vec::new(), String::new());
    loop {
        let page = api.read(&format!("{path}&{cursor}={next}")).await;
        all.extend(page[rows].as_array().expect("rows").iter().cloned());
        match page["next"].as_str() {
            Some(cursor) => next = cursor.to_owned(),
            None => return all,
        }
    }
}

#[tokio::test]
async fn chats_are_listed_newest_first_with_their_messages_in_pages() {
    let (api, _postgres, _) = with_chats().await;
    let chats = pages(&api, "/v1/chats?limit=3", "chats", "cursor").await;
    assert_eq!(chats.len(), 10);
    let newest: Vec<&Value> = chats.iter().map(|chat| &chat["contact"]["phone"]).collect();
    assert_eq!(newest[0], &json!(format!("+{}", number(4))), "the one who wrote last");
    for chat in &chats {
        assert_eq!((&chat["owner"], &chat["unread"]), (&json!("queue"), &json!(2)));
        assert!(chat["window_until"].as_str() > chat["updated_at"].as_str(), "{chat}");
        let path = format!("/v1/chats/{}", chat["id"].as_str().expect("an id"));
        assert_eq!(api.read(&path).await, *chat);
        let messages = pages(&api, &format!("{path}/messages?limit=2"), "messages", "before").await;
        let shown: Vec<(&str, &Value)> =
            messages.iter().map(|message| (message["kind"].as_str().expect("a kind"), &message["body"])).collect();
        let text = |text: &str| json!({"content": {"text": text}});
        let queued = json!({"owner": "queue", "why": "inbound"});
        assert_eq!(
            shown,
            [("inbound", &text("second")), ("activity", &queued), ("inbound", &text("first"))],
            "the newest first"
        );
    }
    assert_eq!(pages(&api, "/v1/chats?view=queue&line=3003", "chats", "cursor").await.len(), 5);
    assert_eq!(pages(&api, "/v1/chats?view=closed", "chats", "cursor").await, Vec::<Value>::new());
    assert_eq!(pages(&api, "/v1/chats?view=mine", "chats", "cursor").await, Vec::<Value>::new());
    api.get("/v1/chats?view=theirs").await.problem(400, "invalid-query");
    api.get("/v1/chats?cursor=x").await.problem(400, "invalid-query");
    api.get("/v1/chats/0").await.problem(404, "chat-not-found");
    api.get("/v1/chats/x/messages").await.problem(404, "chat-not-found");
}

#[tokio::test]
async fn an_agent_takes_a_chat_and_answers_it() {
    let (api, _postgres, _) = with_chats().await;
    let chat = api.read("/v1/chats?line=3001&limit=1").await["chats"][0].clone();
    let path = format!("/v1/chats/{}", chat["id"].as_str().expect("an id"));
    let post =
        async |call: &str, body: Value| answer(api.request(Method::POST, &format!("{path}/{call}")).json(&body)).await;
    let taken = post("take", json!({})).await.body;
    assert_eq!((&taken["owner"], &taken["unread"]), (&json!("agent"), &json!(2)));
    assert_eq!(pages(&api, "/v1/chats?view=mine", "chats", "cursor").await, std::slice::from_ref(&taken));
    let text = json!({"client_id": "1", "type": "text", "body": "¿En qué puedo ayudar?"});
    let sent = post("messages", text.clone()).await;
    assert_eq!(
        (sent.status, &sent.body["state"], &sent.body["kind"]),
        (StatusCode::CREATED, &json!("pending"), &json!("outbound"))
    );
    assert_eq!(sent.body["body"], json!({"content": {"type": "text", "body": "¿En qué puedo ayudar?"}}));
    let repeated = post("messages", text).await;
    assert_eq!((repeated.status, &repeated.body), (StatusCode::OK, &sent.body));
    for (bad, kind) in [
        (json!({"type": "text", "body": ""}), "invalid"),
        (json!({"type": "text", "body": "b", "context": "77"}), "invalid"),
        (json!({"type": "text", "body": "b", "client_id": ""}), "invalid"),
    ] {
        post("messages", bad).await.problem(422, kind);
    }
    post("messages", json!({"type": "song"})).await.problem(400, "malformed-body");
    post("messages", json!({"type": "text", "body": "b", "colour": "red"})).await.problem(400, "malformed-body");
    let stale = api.request(Method::POST, &format!("{path}/close")).header("if-match", "\"0\"");
    answer(stale).await.problem(412, "chat-changed");
    let malformed = api.request(Method::POST, &format!("{path}/close")).header("if-match", "0");
    answer(malformed).await.problem(400, "invalid-if-match");
    let read = post("read", json!({})).await.body;
    assert_eq!(read["unread"], 0);
    post("notes", json!({"text": "prefers mornings"})).await;
    post("typing", json!({})).await;
    let finished = post("finish", json!({"text": "¡Gracias!"})).await.body;
    assert_eq!((&finished["owner"], &finished["agent"]), (&json!("nobody"), &Value::Null));
    let kinds: Vec<Value> = pages(&api, &format!("{path}/messages?limit=100"), "messages", "before").await;
    let kinds: Vec<&str> = kinds.iter().rev().map(|message| message["kind"].as_str().expect("a kind")).collect();
    assert_eq!(kinds, ["inbound", "activity", "inbound", "activity", "outbound", "note", "outbound", "activity"]);
}

#[tokio::test]
async fn a_key_sees_only_the_chats_and_contacts_of_its_businesses() {
    let (api, _postgres, _) = with_chats().await;
    let get = async |path: &str| answer(api.request_of("1002", Method::GET, path)).await;
    let own = get("/v1/chats").await.body;
    let own = own["chats"].as_array().expect("chats");
    assert!(own.len() == 5 && own.iter().all(|chat| chat["contact"]["business"] == "1002"), "{own:?}");
    for chat in pages(&api, "/v1/chats?line=3001", "chats", "cursor").await {
        let path = format!("/v1/chats/{}", chat["id"].as_str().expect("an id"));
        get(&path).await.problem(404, "chat-not-found");
        get(&format!("{path}/messages")).await.problem(404, "chat-not-found");
    }
    let contact = format!("/v1/contacts/+{}", number(1));
    assert_eq!(get(&contact).await.body["business"], "1002");
    get(&format!("{contact}?business=1001")).await.problem(404, "business-not-found");
    let of_first = api.read(&format!("{contact}?business=1001")).await;
    assert_eq!((&of_first["business"], &of_first["name"]), (&json!("1001"), &json!("Person 1")));
    api.get(&format!("/v1/contacts/+{}?business=1001", number(77))).await.problem(404, "contact-not-found");
}

#[tokio::test]
async fn a_person_is_forgotten_in_the_chats_too() {
    let (api, _postgres, database) = with_chats().await;
    let forgotten = answer(api.request(Method::DELETE, &format!("/v1/people/{}", number(2)))).await.body;
    assert_eq!(forgotten["chat_messages"], 6, "two texts and an activity on each of two lines: {forgotten}");
    assert_eq!(pages(&api, "/v1/chats?limit=100", "chats", "cursor").await.len(), 8);
    api.get(&format!("/v1/contacts/{}?business=1001", number(2))).await.problem(404, "contact-not-found");
    write(&database, LINES[0], 2, "again", api.now()).await;
    let contact = api.read(&format!("/v1/contacts/{}?business=1001", number(2))).await;
    assert_eq!(contact["name"], "Person 2", "who writes again is a new contact");
}

#[tokio::test]
async fn without_a_database_or_while_it_is_away_the_calls_say_so() {
    let api = Api::start().await;
    api.get("/v1/chats").await.problem(409, "no-database");
    let mut postgres = TestPostgres::start().await;
    let api = Api::start_with_database(postgres.connect()).await;
    postgres.kill_hard().await;
    api.get("/v1/chats").await.problem(503, "unavailable");
}

#[tokio::test]
async fn chats_are_found_by_words_of_their_messages_and_by_the_name_and_number_of_the_contact() {
    let (api, _postgres, database) = with_chats().await;
    write(&database, LINES[0], 2, "Quiero la RENOVACIÓN del plan-familiar", api.now()).await;
    let found =
        async |search: &str| pages(&api, &format!("/v1/chats?limit=3&search={search}"), "chats", "cursor").await;
    let phones = async |search: &str| {
        let chats = found(search).await.into_iter();
        chats.map(|chat| chat["contact"]["phone"].as_str().expect("a number").to_owned()).collect::<Vec<_>>()
    };
    let of = |n: u64| format!("+{}", number(n));
    for search in ["renovacion", "Renovaci%C3%B3n%20quier", "familiar", "plan%20fam"] {
        assert_eq!(phones(search).await, [of(2)], "{search}");
    }
    for search in ["Person%203", "%2B54%209%2011%205555-0003"] {
        assert_eq!(phones(search).await, [of(3), of(3)], "{search}: a chat on each line");
    }
    for search in ["second", "SECO", "pers%20549115555"] {
        assert_eq!(found(search).await.len(), 10, "{search}");
    }
    assert!(found("renovacion%20first").await.is_empty(), "no message has both words");
    assert_eq!(api.read("/v1/chats?view=closed&search=second").await["chats"], json!([]));
    assert_eq!(api.read("/v1/chats?line=3003&search=second").await["chats"].as_array().map(Vec::len), Some(5));
    api.get("/v1/chats?search=%21").await.problem(400, "invalid-query");
}
