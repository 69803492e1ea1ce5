//! Agents: how they log in, what their role allows, and which chats they see.

use std::collections::BTreeSet;

use pregon::{
    domain::{AgentRole, chat::Owner},
    postgres::Database,
};
use reqwest::{Method, RequestBuilder, StatusCode, header};
use serde_json::{Value, json};

use super::{
    chats::write,
    document::DOCUMENT,
    harness::{Answer, Api, EventStream, answer},
};
use crate::support::{postgres::TestPostgres, until};

const PASSWORD: &str = "correcto caballo batería grapa";
pub const LINE: (&str, &str) = ("3001", "1001");

pub async fn start() -> (Api, TestPostgres, Database) {
    let postgres = TestPostgres::start().await;
    let api = Api::start_with_database(postgres.connect()).await;
    let database = postgres.database(api.now()).await;
    (api, postgres, database)
}

/// An agent with a session.
pub struct LoggedIn {
    id: String,
    cookie: String,
    csrf_token: String,
}

impl LoggedIn {
    fn request(&self, api: &Api, method: Method, path: &str) -> RequestBuilder {
        let request = api.http.request(method, format!("{}{path}", api.base)).header(header::COOKIE, &self.cookie);
        request.header("x-csrf-token", &self.csrf_token)
    }

    pub async fn get(&self, api: &Api, path: &str) -> Answer {
        answer(self.request(api, Method::GET, path)).await
    }

    pub async fn call(&self, api: &Api, method: Method, path: &str, body: &Value) -> Answer {
        answer(self.request(api, method, path).json(body)).await
    }

    async fn is_there(&self, api: &Api, presence: &str) {
        let path = format!("/v1/agents/{}/presence", self.id);
        let set = self.call(api, Method::PUT, &path, &json!({ "presence": presence })).await;
        assert_eq!(set.body["presence"], presence, "{}", set.body);
    }

    /// The ids of the chats in a list.
    async fn chats(&self, api: &Api, query: &str) -> BTreeSet<String> {
        let list = self.get(api, &format!("/v1/chats?{query}")).await;
        assert_eq!(list.status, StatusCode::OK, "{}", list.body);
        let chats = list.body["chats"].as_array().expect("chats").iter();
        chats.map(|chat| chat["id"].as_str().expect("an id").to_owned()).collect()
    }
}

/// Creates an agent of business 1001. Returns the id and the invitation.
pub async fn invited(api: &Api, name: &str, role: &str, groups: &[&str]) -> (String, String) {
    let new = json!({
        "business": "1001", "email": format!("{name}@example.com"), "name": name, "role": role, "groups": groups,
    });
    let created = api.post_json("/v1/agents", &new).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.body);
    let text = |field: &str| created.body[field].as_str().expect("text").to_owned();
    (text("id"), text("invitation"))
}

fn session(logged_in: &Answer) -> LoggedIn {
    assert_eq!(logged_in.status, StatusCode::OK, "{}", logged_in.body);
    let cookie = logged_in.headers[header::SET_COOKIE].to_str().expect("text");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    LoggedIn {
        id: text(&logged_in.body["agent"]["id"]),
        cookie: cookie.split(';').next().expect("a name and a value").to_owned(),
        csrf_token: text(&logged_in.body["csrf_token"]),
    }
}

async fn log_in(api: &Api, body: &Value) -> Answer {
    answer(api.http.post(format!("{}/v1/session", api.base)).json(body)).await
}

/// A new agent of business 1001 who is logged in.
pub async fn agent(api: &Api, name: &str, role: &str, groups: &[&str]) -> LoggedIn {
    let (_, invitation) = invited(api, name, role, groups).await;
    session(&log_in(api, &json!({ "invitation": invitation, "password": PASSWORD })).await)
}

pub async fn group(api: &Api, id: &str) {
    let created = api.post_json("/v1/groups", &json!({ "business": "1001", "id": id, "name": id })).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.body);
}

/// A chat of person `n`, of a group. Returns its id.
async fn chat_of(api: &Api, database: &Database, n: u64, group: &str) -> String {
    write(database, LINE, n, "hola", api.now()).await;
    let newest = api.read("/v1/chats?limit=1").await["chats"][0]["id"].as_str().expect("an id").to_owned();
    let moved = api.post_json(&format!("/v1/chats/{newest}/assign"), &json!({ "group": group })).await;
    assert_eq!((moved.status, &moved.body["group"]), (StatusCode::OK, &json!(group)), "{}", moved.body);
    newest
}

#[tokio::test]
async fn an_agent_sets_a_password_with_an_invitation_and_logs_in_with_it() {
    let (api, _postgres, _) = start().await;
    let (id, invitation) = invited(&api, "ana", "agent", &[]).await;
    let with = |invitation: &str, password: &str| json!({ "invitation": invitation, "password": password });
    log_in(&api, &with(&invitation, "ana ana ana ana")).await.problem(422, "invalid");
    log_in(&api, &with("guessed", PASSWORD)).await.problem(401, "login-refused");
    let first = log_in(&api, &with(&invitation, PASSWORD)).await;
    let cookie = first.headers[header::SET_COOKIE].to_str().expect("text");
    for attribute in ["HttpOnly", "Secure", "SameSite=Lax", "Path=/"] {
        assert!(cookie.contains(attribute), "{attribute}: {cookie}");
    }
    assert_eq!((&first.body["agent"]["id"], &first.body["scopes"]), (&json!(id), &json!(["contacts", "chats"])));
    log_in(&api, &with(&invitation, PASSWORD)).await.problem(401, "login-refused");
    let second = session(&log_in(&api, &json!({ "email": "Ana@Example.com", "password": PASSWORD })).await);
    let own = second.get(&api, "/v1/session").await;
    assert_eq!((&own.body["agent"]["id"], &own.body["csrf_token"]), (&json!(id), &json!(second.csrf_token)));
    assert_eq!(second.call(&api, Method::DELETE, "/v1/session", &json!({})).await.status, StatusCode::NO_CONTENT);
    second.get(&api, "/v1/session").await.problem(401, "unauthorized");
    assert_eq!(session(&first).get(&api, "/v1/session").await.status, StatusCode::OK, "the other session goes on");
    log_in(&api, &json!({ "password": PASSWORD })).await.problem(400, "malformed-body");
    api.get("/v1/session").await.problem(403, "forbidden");
}

#[tokio::test]
async fn a_wrong_password_says_nothing_about_the_agent_and_several_are_slowed() {
    let (api, _postgres, _) = start().await;
    agent(&api, "ana", "agent", &[]).await;
    let try_with =
        async |email: &str, password: &str| log_in(&api, &json!({ "email": email, "password": password })).await;
    let unknown = try_with("eva@example.com", PASSWORD).await;
    for _ in 0..5 {
        let wrong = try_with("ana@example.com", "wrong wrong wrong").await;
        assert_eq!((wrong.status, &wrong.body), (unknown.status, &unknown.body));
        wrong.problem(401, "login-refused");
    }
    let slowed = try_with("ana@example.com", PASSWORD).await;
    assert!(slowed.headers.contains_key(header::RETRY_AFTER), "{:?}", slowed.headers);
    slowed.problem(429, "too-many-logins");
    try_with("eva@example.com", PASSWORD).await.problem(401, "login-refused");
    for _ in 0..60 {
        try_with("nobody", "nothing").await;
    }
    try_with("eva@example.com", PASSWORD).await.problem(429, "too-many-logins");
}

#[tokio::test]
async fn a_session_ends_with_its_time_its_password_and_its_agent() {
    let (api, postgres, _) = start().await;
    let ana = agent(&api, "ana", "agent", &[]).await;
    let is_open = async |of: &LoggedIn| of.get(&api, "/v1/session").await.status == StatusCode::OK;
    let again = async || session(&log_in(&api, &json!({ "email": "ana@example.com", "password": PASSWORD })).await);
    let other = again().await;
    let change = |current: &str, new: &str| json!({ "current": current, "password": new });
    let put = async |body: &Value| ana.call(&api, Method::PUT, "/v1/session/password", body).await;
    put(&change("wrong wrong wrong", PASSWORD)).await.problem(401, "login-refused");
    put(&change(PASSWORD, "ana@example.com")).await.problem(422, "invalid");
    assert_eq!(put(&change(PASSWORD, "girasol tranvía océano mapa")).await.status, StatusCode::NO_CONTENT);
    assert!(is_open(&ana).await && !is_open(&other).await, "other sessions end with the password");
    put(&change("girasol tranvía océano mapa", PASSWORD)).await;

    for statement in
        ["update sessions set seen_at = seen_at - 1800001", "update sessions set created_at = created_at - 43200001"]
    {
        let session = again().await;
        assert!(is_open(&session).await);
        postgres.execute(statement).await;
        session.get(&api, "/v1/session").await.problem(401, "unauthorized");
    }
    let session = again().await;
    let path = format!("/v1/agents/{}", session.id);
    let ended = answer(api.request(Method::DELETE, &format!("{path}/sessions"))).await;
    assert_eq!((ended.status, is_open(&session).await), (StatusCode::NO_CONTENT, false));
    let session = again().await;
    assert_eq!(answer(api.request(Method::DELETE, &path)).await.status, StatusCode::NO_CONTENT);
    assert!(!is_open(&session).await, "an agent who was removed");
    log_in(&api, &json!({ "email": "ana@example.com", "password": PASSWORD })).await.problem(401, "login-refused");
    let removed = api.read(&path).await;
    assert_eq!(
        (&removed["email"], &removed["name"]),
        (&Value::Null, &json!("ana")),
        "the name of messages stays known"
    );
}

#[tokio::test]
async fn a_change_needs_the_token_against_forged_requests() {
    let (api, _postgres, _) = start().await;
    let (ana, eva) = (agent(&api, "ana", "agent", &[]).await, agent(&api, "eva", "agent", &[]).await);
    let path = format!("{}/v1/agents/{}/presence", api.base, ana.id);
    let put = || api.http.put(&path).header(header::COOKIE, &ana.cookie).json(&json!({ "presence": "available" }));
    answer(put()).await.problem(403, "forbidden");
    answer(put().header("x-csrf-token", &eva.csrf_token)).await.problem(403, "forbidden");
    assert_eq!(answer(put().header("x-csrf-token", &ana.csrf_token)).await.status, StatusCode::OK);
    let guessed = api.http.put(&path).header(header::COOKIE, "__Host-pregon=guessed");
    let guessed = guessed.header("x-csrf-token", &ana.csrf_token).json(&json!({ "presence": "available" }));
    answer(guessed).await.problem(401, "unauthorized");
}

/// Every call of the document with its scope: method, path with made-up ids, and the scope. Calls without a scope are
/// left out.
fn calls() -> Vec<(Method, String, String)> {
    let items = DOCUMENT["paths"].as_object().expect("an object").iter();
    let calls = items.flat_map(|(path, item)| {
        item.as_object().expect("an object").iter().filter_map(move |(method, call)| {
            let scope = call["security"][0]["api_key"][0].as_str()?.to_owned();
            Some((method.to_uppercase().parse().expect("a method"), path.clone(), scope))
        })
    });
    calls.collect()
}

/// A path with these ids.
fn filled(path: &str, chat: &str, media: &str) -> String {
    let id = |segment: &str| match segment {
        "{chat}" => chat.to_owned(),
        "{media}" => media.to_owned(),
        "{phone}" => "+5491155550009".to_owned(),
        "{agent}" | "{campaign}" => "01KBCNYG3T8R7Q6P5N4M3K2J1H".to_owned(),
        segment if segment.starts_with('{') => "1".to_owned(),
        segment => segment.to_owned(),
    };
    path.split('/').map(id).collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn a_role_may_make_the_calls_of_its_scopes_and_no_others() {
    let (api, _postgres, _) = start().await;
    for (name, role, scopes) in [
        ("ana", AgentRole::Agent, &["contacts", "chats"][..]),
        ("eva", AgentRole::Manager, &["read", "submit", "operate", "contacts", "chats"]),
        ("leo", AgentRole::Admin, &["read", "submit", "operate", "contacts", "chats", "admin"]),
    ] {
        let caller = agent(&api, name, role.name(), &[]).await;
        let mut refused = 0;
        for (method, path, scope) in calls() {
            if scopes.contains(&scope.as_str()) {
                continue;
            }
            let path = filled(&path, "1", "01KBCNYG3T8R7Q6P5N4M3K2J1H");
            let answer = caller.call(&api, method.clone(), &path, &json!({})).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path} as {}: {}", role.name(), answer.body);
            refused += 1;
        }
        assert!(role == AgentRole::Admin || refused > 5, "{refused}");
        assert_eq!(caller.get(&api, "/v1/chats").await.status, StatusCode::OK);
    }
}

/// The next event of a stream and the chat that it is about.
async fn next(stream: &mut EventStream) -> (String, String) {
    loop {
        let block = stream.next().await.expect("the stream goes on");
        if !block.event.is_empty() {
            let data: Value = serde_json::from_str(&block.data).expect("JSON");
            let chat = data["chat"].as_str().or(data["id"].as_str()).expect("a chat").to_owned();
            return (block.event, chat);
        }
    }
}

#[tokio::test]
async fn an_agent_reads_no_chat_of_another_group_by_any_call() {
    let (api, _postgres, database) = start().await;
    for id in ["sales", "help"] {
        group(&api, id).await;
    }
    let ana = agent(&api, "ana", "agent", &["sales"]).await;
    let boss = agent(&api, "boss", "manager", &[]).await;
    let other = chat_of(&api, &database, 2, "help").await;
    let mut stream = EventStream::open(ana.request(&api, Method::GET, "/v1/stream")).await;
    let own = chat_of(&api, &database, 1, "sales").await;
    write(&database, LINE, 3, "hola", api.now()).await;
    let common = api.read("/v1/chats?limit=1").await["chats"][0]["id"].as_str().expect("an id").to_owned();

    let seen = BTreeSet::from([own.clone(), common.clone()]);
    for query in ["", "view=queue", "search=hola", "line=3001"] {
        assert_eq!(ana.chats(&api, query).await, seen, "{query}");
    }
    assert_eq!(ana.chats(&api, "group=help").await, BTreeSet::new());
    assert_eq!(boss.chats(&api, "").await.len(), 3);

    let mut tried = 0;
    for (method, path, scope) in calls().into_iter().filter(|(_, path, _)| path.contains("{chat}")) {
        assert_eq!(scope, "chats", "{path}");
        let call = |chat: &str| ana.request(&api, method.clone(), &filled(&path, chat, ""));
        let body =
            json!({ "type": "text", "body": "b", "text": "t", "agent": ana.id, "until": "2999-01-01T00:00:00Z" });
        let with_body = |request: RequestBuilder| if method == Method::GET { request } else { request.json(&body) };
        let answer = answer(with_body(call(&other))).await;
        answer.problem(404, "chat-not-found");
        tried += 1;
    }
    assert!(tried >= 12, "{tried}");
    let untouched = api.read(&format!("/v1/chats/{other}")).await;
    assert_eq!((&untouched["owner"], &untouched["group"]), (&json!(Owner::Queue.name()), &json!("help")));

    let mut told = BTreeSet::new();
    while told != seen {
        let (event, chat) = next(&mut stream).await;
        assert!(seen.contains(&chat), "{event} of {chat}");
        told.insert(chat);
    }
    api.post_json(&format!("/v1/chats/{own}/assign"), &json!({ "group": "help" })).await;
    loop {
        let (event, chat) = next(&mut stream).await;
        assert!(seen.contains(&chat), "{event} of {chat}");
        if event == "gone" {
            assert_eq!(chat, own);
            break;
        }
    }
    ana.get(&api, &format!("/v1/chats/{own}")).await.problem(404, "chat-not-found");
}

#[tokio::test]
async fn a_file_of_another_group_is_neither_read_nor_sent() {
    let postgres = TestPostgres::start().await;
    let files = tempfile::tempdir().expect("a directory");
    let api = Api::start_with_media(postgres.connect(), super::media::store(files.path())).await;
    let database = postgres.database(api.now()).await;
    for id in ["sales", "help"] {
        group(&api, id).await;
    }
    let ana = agent(&api, "ana", "agent", &["sales"]).await;
    let (own, other) = (chat_of(&api, &database, 1, "sales").await, chat_of(&api, &database, 2, "help").await);
    let upload = async |bytes: &'static [u8]| {
        let request = api.request(Method::POST, "/v1/media?business=1001").header("content-type", "image/png");
        answer(request.body(bytes)).await.body["id"].as_str().expect("an id").to_owned()
    };
    let (fresh, file) = (upload(b"\x89PNG\r\n\x1a\nfresh").await, upload(b"\x89PNG\r\n\x1a\nsecret").await);
    let image = |media: &str| json!({ "type": "image", "media": media });
    let sent = api.post_json(&format!("/v1/chats/{other}/messages"), &image(&file)).await;
    assert_eq!(sent.status, StatusCode::CREATED, "{}", sent.body);
    assert_eq!(ana.get(&api, &format!("/v1/media/{fresh}")).await.status, StatusCode::OK, "in no chat yet");
    ana.get(&api, &format!("/v1/media/{file}")).await.problem(404, "media-not-found");
    let path = format!("/v1/chats/{own}/messages");
    ana.call(&api, Method::POST, &path, &image(&file)).await.problem(422, "invalid");
    assert_eq!(ana.call(&api, Method::POST, &path, &image(&fresh)).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn the_queue_goes_to_agents_who_are_there_and_returns_when_they_leave() {
    let (api, _postgres, database) = start().await;
    group(&api, "sales").await;
    let (ana, eva) = (agent(&api, "ana", "agent", &["sales"]).await, agent(&api, "eva", "agent", &[]).await);
    let first = chat_of(&api, &database, 1, "sales").await;
    eva.is_there(&api, "available").await;
    let owner = async |chat: &str| {
        let chat = api.read(&format!("/v1/chats/{chat}")).await;
        (chat["owner"].clone(), chat["agent"].clone())
    };
    let queued = (json!("queue"), Value::Null);
    assert_eq!(owner(&first).await, queued, "eva is not in the group");
    ana.is_there(&api, "available").await;
    assert_eq!(owner(&first).await, (json!("agent"), json!(ana.id)));
    assert_eq!(ana.chats(&api, "view=mine").await, BTreeSet::from([first.clone()]));

    let path = format!("/v1/chats/{first}");
    let soon = json!({ "until": "2999-01-01T00:00:00Z" });
    let snoozed = ana.call(&api, Method::POST, &format!("{path}/snooze"), &soon).await;
    assert_eq!(snoozed.body["snoozed_until"], soon["until"], "{}", snoozed.body);
    assert_eq!(ana.chats(&api, "view=mine").await, BTreeSet::new());
    assert_eq!(ana.chats(&api, "view=snoozed").await, BTreeSet::from([first.clone()]));
    let past = json!({ "until": "2020-01-01T00:00:00Z" });
    ana.call(&api, Method::POST, &format!("{path}/snooze"), &past).await.problem(422, "invalid");
    write(&database, LINE, 1, "¿hola?", api.now()).await;
    assert_eq!(ana.chats(&api, "view=mine").await, BTreeSet::from([first.clone()]), "the contact has written");

    let give =
        async |caller: &LoggedIn, to: Value| caller.call(&api, Method::POST, &format!("{path}/assign"), &to).await;
    give(&eva, json!({ "agent": eva.id })).await.problem(404, "chat-not-found");
    give(&ana, json!({ "agent": eva.id, "group": "sales" })).await.problem(422, "invalid");
    give(&ana, json!({ "group": "unknown" })).await.problem(422, "invalid");
    give(&ana, json!({ "agent": "01KBCNYG3T8R7Q6P5N4M3K2J1H" })).await.problem(409, "agent-offline");
    let given = give(&ana, json!({ "agent": eva.id })).await;
    assert_eq!(given.body["agent"], json!(eva.id), "{}", given.body);
    assert_eq!(eva.chats(&api, "").await, BTreeSet::from([first.clone()]), "an agent sees the own chats of any group");
    eva.is_there(&api, "offline").await;
    assert_eq!(owner(&first).await, (json!("agent"), json!(ana.id)), "from the queue to the next one who is there");
    ana.is_there(&api, "offline").await;
    assert_eq!(owner(&first).await, queued);
    let why: Vec<Value> = api.read(&format!("{path}/messages")).await["messages"]
        .as_array()
        .expect("messages")
        .iter()
        .rev()
        .filter(|message| message["kind"] == "activity")
        .map(|message| message["body"]["why"].clone())
        .collect();
    let expected = ["inbound", "moved", "assigned", "assigned", "offline", "assigned", "offline"];
    assert_eq!(why, expected.map(Value::from));
    let presence = format!("/v1/agents/{}/presence", ana.id);
    eva.call(&api, Method::PUT, &presence, &json!({ "presence": "available" })).await.problem(403, "forbidden");
}

#[tokio::test]
async fn agents_and_groups_are_checked_before_they_are_stored() {
    let (api, _postgres, database) = start().await;
    group(&api, "sales").await;
    api.post_json("/v1/groups", &json!({ "business": "1001", "id": "sales", "name": "Ventas" }))
        .await
        .problem(409, "group-exists");
    for (field, value) in [
        ("email", json!("ana")),
        ("name", json!("")),
        ("role", json!("boss")),
        ("capacity", json!(1001)),
        ("groups", json!(["help"])),
        ("groups", json!(["No Group"])),
    ] {
        let mut new = json!({ "business": "1001", "email": "ana@example.com", "name": "Ana" });
        new[field] = value;
        api.post_json("/v1/agents", &new).await.problem(422, "invalid");
    }
    let (id, _) = invited(&api, "ana", "agent", &["sales"]).await;
    let (other, _) = invited(&api, "eva", "agent", &[]).await;
    let path = format!("/v1/agents/{id}");
    api.patch_json(&path, &json!({ "email": "eva@example.com" })).await.problem(409, "agent-exists");
    let changed = api.patch_json(&path, &json!({ "capacity": 2, "role": "manager", "groups": [] })).await;
    assert_eq!((&changed.body["capacity"], &changed.body["groups"]), (&json!(2), &json!([])), "{}", changed.body);
    assert_eq!(changed.body["email"], "ana@example.com");
    api.get("/v1/agents/x").await.problem(404, "agent-not-found");
    let ids: Vec<Value> = api.read("/v1/agents?limit=1").await["agents"].as_array().expect("agents").clone();
    assert_eq!(ids[0]["id"], json!(id));
    let next = api.read("/v1/agents?limit=1").await["next"].as_str().expect("more").to_owned();
    assert_eq!(api.read(&format!("/v1/agents?cursor={next}")).await["agents"][0]["id"], json!(other));

    let of_group = |path: &str| format!("/v1/groups/{path}?business=1001");
    let renamed = api.patch_json(&of_group("sales"), &json!({ "name": "Ventas" })).await;
    assert_eq!(renamed.body["name"], "Ventas", "{}", renamed.body);
    api.patch_json(&of_group("help"), &json!({ "name": "Ventas" })).await.problem(404, "group-not-found");
    chat_of(&api, &database, 1, "sales").await;
    assert_eq!(api.read("/v1/groups").await["groups"][0]["queued"], 1);
    answer(api.request(Method::DELETE, &of_group("sales"))).await.problem(409, "group-in-use");
    group(&api, "help").await;
    assert_eq!(answer(api.request(Method::DELETE, &of_group("help"))).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn agents_of_another_business_do_not_exist() {
    let (api, _postgres, _) = start().await;
    let (id, _) = invited(&api, "ana", "agent", &[]).await;
    let of_other = |method: Method, path: &str| api.request_of("1002", method, path);
    for (method, path) in
        calls().into_iter().filter_map(|(method, path, _)| path.contains("{agent}").then_some((method, path)))
    {
        let path = path.replace("{agent}", &id);
        let body = json!({ "presence": "away", "name": "x" });
        let request = of_other(method.clone(), &path);
        let answer = answer(if method == Method::GET { request } else { request.json(&body) }).await;
        answer.problem(404, "agent-not-found");
    }
    assert_eq!(answer(of_other(Method::GET, "/v1/agents")).await.body["agents"], json!([]));
    until("the agent is as before", async || api.read(&format!("/v1/agents/{id}")).await["name"] == "ana").await;
}
