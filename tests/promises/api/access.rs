//! Keys that are limited to businesses.

use std::collections::BTreeSet;

use pregon::{
    domain::{Campaign, CampaignId, Line, UnixMs},
    postgres::media::NewFile,
};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use super::{
    chats,
    document::DOCUMENT,
    harness::{Answer, Api, answer, campaign, csv, key_of_business, phone, template},
};
use crate::support::{postgres::TestPostgres, world};

/// The business of line 3003 and WABA 2002; the other lines are of business 1001.
const OTHER: &str = "1002";

/// The id of a dead letter that exists.
const DEAD_LETTER: &str = "1-1";

/// The id of no chat.
const UNKNOWN_CHAT: &str = "900001";

/// A file of business 1001, and one that there is not.
const FILE: &str = "01KBCNYG3T8R7Q6P5N4M3K2J1H";
const UNKNOWN_FILE: &str = "01KBCNYG3T8R7Q6P5N4M3K2J1J";

impl Api {
    pub fn request_of(&self, business: &str, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(key_of_business(business))
    }

    pub async fn get_of(&self, business: &str, path: &str) -> Value {
        let answer = answer(self.request_of(business, Method::GET, path)).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.body);
        answer.body
    }

    async fn post_of(&self, business: &str, path: &str, body: &Value) -> Answer {
        answer(self.request_of(business, Method::POST, path).json(body)).await
    }

    /// Stores the templates of WABA 2002.
    async fn with_other_templates(self) -> Self {
        self.store.put_templates(&"2002".into(), &[template("positional")], self.now()).await.expect("templates");
        self
    }
}

/// The values of `field` in a list.
fn all(list: &Value, field: &str) -> Vec<String> {
    let rows = list.as_array().expect("a list").iter();
    rows.map(|row| row[field].as_str().expect("text").to_owned()).collect()
}

/// Every call of the document that has an id in its path: the method and the path. Calls about a person are left out: a
/// number belongs to no business, and `suppressions.rs`, `people.rs` and `chats.rs` test those calls; `agents.rs` and
/// `tags.rs` test those about what a business has defined.
fn calls_with_ids() -> Vec<(Method, &'static str)> {
    let has_id = |path: &str| {
        path.contains('{')
            && ![
                "/v1/suppressions/",
                "/v1/people/",
                "/v1/contacts/",
                "/v1/agents/",
                "/v1/groups/",
                "/v1/tags/",
                "/v1/replies/",
                "/v1/inbound-links/",
                "/v1/properties/",
            ]
            .iter()
            .any(|of_people| path.starts_with(of_people))
    };
    let items = DOCUMENT["paths"].as_object().expect("an object").iter().filter(|(path, _)| has_id(path));
    let calls = items.flat_map(|(path, item)| item.as_object().expect("an object").keys().map(move |key| (key, path)));
    calls.map(|(method, path)| (method.to_uppercase().parse().expect("a method"), path.as_str())).collect()
}

/// The WABA of a line: 2001 for line 3001, and so on.
fn waba_of(line: &str) -> String {
    format!("2{}", &line[1..])
}

/// The chat of a line: the only one there is, on line 3001, otherwise none.
fn chat_of(line: &str) -> &'static str {
    if line == "3001" { "1" } else { UNKNOWN_CHAT }
}

/// The file of the business of a line: the only one there is, of line 3001, otherwise none.
fn file_of(line: &str) -> &'static str {
    if line == "3001" { FILE } else { UNKNOWN_FILE }
}

/// Calls `path` with these ids and the key of `business`.
async fn call(api: &Api, business: &str, (method, path): &(Method, &str), campaign: &str, line: &str) -> Answer {
    let filled = path.replace("{campaign}", campaign).replace("{line}", line);
    let filled = filled.replace("{phone}", &phone(0)).replace("{dead_letter}", DEAD_LETTER);
    let filled =
        filled.replace("{waba}", &waba_of(line)).replace("{name}", "order_update").replace("{language}", "es_AR");
    let filled = filled
        .replace("{chat}", chat_of(line))
        .replace("{media}", file_of(line))
        .replace("{subscriber}", "crm")
        .replace("{hold}", &format!("line:{line}"));
    assert!(!filled.contains('{'), "an id that this test does not know: {path}");
    let request = api.request_of(business, method.clone(), &filled);
    // Event streams do not end, so their bodies are not read.
    if path.ends_with("/events") {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status(), response.headers().clone());
        let body = if status.is_success() { Value::Null } else { response.json().await.expect("a problem") };
        return Answer { status, headers, body };
    }
    let request = match (method.as_str(), path.rsplit('/').next()) {
        ("PATCH", _) if path.starts_with("/v1/campaigns") => request.json(&json!({ "priority": 4 })),
        ("PATCH", _) => request.json(&json!({ "messages_per_second": 20 })),
        ("POST", Some("recipients")) => request.header("content-type", "text/csv").body(csv(1)),
        _ => request,
    };
    answer(request).await
}

#[tokio::test]
async fn an_id_of_another_business_does_not_exist() {
    const UNKNOWN: &str = "01J9ZK3V5T8R7Q6P5N4M3K2J1H";
    let postgres = TestPostgres::start().await;
    let api = Api::start_with_database(postgres.connect()).await;
    let database = postgres.database(api.now()).await;
    chats::write(&database, ("3001", "1001"), 0, "hola", api.now()).await;
    let (file, business, now) = (FILE.parse().expect("an id"), "1001".into(), api.now());
    let file = NewFile { id: file, business: &business, mime_type: "image/png", filename: None };
    database.announce_file(&file, now, now).await.expect("PostgreSQL");
    let id = api.launched("spring", &["3001"], 5).await.to_string();
    api.add_dead_letter(DEAD_LETTER, &[b"job", b"{}"]).await;
    let (campaign, line) = (format!("/v1/campaigns/{id}"), "/v1/lines/3001");
    let before = (api.read(&campaign).await, api.read(line).await);
    let calls = calls_with_ids();
    assert!(calls.len() >= 15, "{calls:?}");
    for given in &calls {
        let foreign = call(&api, OTHER, given, &id, "3001").await;
        let unknown = call(&api, OTHER, given, UNKNOWN, "3009").await;
        assert_eq!(foreign.status, StatusCode::NOT_FOUND, "{given:?}: {foreign:?}");
        let text = unknown.body.to_string().replace(UNKNOWN, &id).replace("3009", "3001").replace("2009", "2001");
        let text = text.replace(UNKNOWN_CHAT, "1").replace(UNKNOWN_FILE, FILE);
        assert_eq!(foreign.body.to_string(), text, "{given:?}: nothing distinguishes it from an unknown id");
    }
    assert_eq!((api.read(&campaign).await, api.read(line).await), before, "nothing was changed");
    assert_eq!(api.unpaused.lock().expect("no panic under the lock").1, [""; 0]);
    // A limited key sees no dead letters and no subscribers.
    let is_hidden = |path: &str| path.contains("{dead_letter}") || path.contains("{subscriber}");
    for given in calls.iter().filter(|(_, path)| !is_hidden(path)) {
        let own = call(&api, "1001", given, &id, "3001").await;
        assert!(![401, 403, 404].contains(&own.status.as_u16()), "{given:?}: {own:?}");
    }
}

#[tokio::test]
async fn lists_have_only_what_belongs_to_the_key() {
    let api = Api::start().await.with_other_templates().await;
    let mut own = Vec::new();
    for number in 0..3 {
        api.launched(&format!("first {number}"), &["3001", "3002"], 1).await;
        own.push(api.draft(&format!("other {number}"), &["3003"], 0).await.to_string());
    }
    own.reverse();
    assert_eq!(all(&api.get_of(OTHER, "/v1/campaigns").await["campaigns"], "id"), own);
    assert_eq!(all(&api.get_of(OTHER, "/v1/campaigns?state=running").await["campaigns"], "id"), [""; 0]);
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get_of(OTHER, &format!("/v1/campaigns?limit=1&cursor={cursor}")).await;
        paged.extend(all(&page["campaigns"], "id"));
        match page["next"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(paged, own);

    assert_eq!(all(&api.get_of(OTHER, "/v1/lines").await["lines"], "id"), ["3003"]);
    let of_first = ["3001", "3002", "3004", "3005", "3006"];
    assert_eq!(all(&api.get_of("1001", "/v1/lines?limit=9").await["lines"], "id"), of_first);
    let wabas = |list: &Value| all(&list["templates"], "waba").into_iter().collect::<BTreeSet<_>>();
    assert_eq!(wabas(&api.get_of(OTHER, "/v1/templates").await), ["2002".to_owned()].into());
    assert_eq!(wabas(&api.get_of("1001", "/v1/templates").await), ["2001".to_owned()].into());
    *api.synced.lock().expect("no panic under the lock") =
        Some(vec![("2001".into(), Err("waba 2001: code 190".into())), ("2002".into(), Ok(1))]);
    let synced = api.post_of(OTHER, "/v1/templates/sync", &json!({})).await;
    assert_eq!(synced.body, json!({ "wabas": [{ "waba": "2002", "templates": 1 }] }));
}

#[tokio::test]
async fn a_campaign_is_created_only_on_own_lines() {
    let api = Api::start().await.with_other_templates().await;
    let create = async |business: &str, new: &Value| api.post_of(business, "/v1/campaigns", new).await;
    let foreign = create(OTHER, &campaign("x", &["3001"])).await;
    let unknown = create(OTHER, &campaign("x", &["3009"])).await;
    foreign.problem(422, "invalid");
    assert_eq!(foreign.body.to_string(), unknown.body.to_string().replace("3009", "3001"));
    assert!(!foreign.body.to_string().contains("3002"), "it names only lines of its own: {}", foreign.body);

    // The same campaign again, by the key of another business: refused, even with exactly the same definition.
    let mut new = campaign("spring", &["3001"]);
    new["external_id"] = "crm-1".into();
    new["recipients"] = json!([{ "to": phone(1), "params": { "1": "Maria", "2": "7" } }]);
    let id = create("1001", &new).await.body["id"].clone();
    for lines in [["3001"], ["3003"]] {
        new["lines"] = json!(lines);
        let taken = create(OTHER, &new).await;
        assert_eq!(
            taken.problem(409, "campaign-conflict"),
            "the external_id crm-1 is in use: give the new campaign another one"
        );
    }
    new["lines"] = json!(["3001"]);
    let again = create("1001", &new).await;
    assert_eq!((again.status, &again.body["id"]), (StatusCode::OK, &id));
    new["external_id"] = "crm-2".into();
    new["lines"] = json!(["3003"]);
    assert_eq!(create(OTHER, &new).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_limited_key_pauses_only_its_businesses() {
    let api = Api::start().await;
    for path in ["/v1/pause", "/v1/resume"] {
        for body in [json!({}), json!({ "business": "1001" }), json!({ "business": "9" })] {
            let refused = api.post_of(OTHER, path, &body).await;
            let detail = refused.problem(403, "forbidden");
            assert_eq!(detail, "this key is limited: name one of its businesses in `business`: 1002");
        }
    }
    api.post_json("/v1/pause", &json!({ "business": "1001" })).await;
    api.post("/v1/pause").await;
    let paused = api.post_of(OTHER, "/v1/pause", &json!({ "business": OTHER })).await;
    let pauses = paused.body["pauses"].as_array().expect("a list").iter();
    let businesses: Vec<&Value> = pauses.map(|pause| &pause["business"]).collect();
    assert_eq!(businesses, [&Value::Null, &json!(OTHER)], "{}", paused.body);
    assert_eq!(api.post_of(OTHER, "/v1/resume", &json!({ "business": OTHER })).await.body["changed"], true);
}

/// A campaign on a line that is no longer configured belongs to the business of its WABA, if the WABA is known.
#[tokio::test]
async fn a_campaign_on_a_removed_line_keeps_its_business() {
    let api = Api::start().await;
    let id: CampaignId = "01J9ZK3V5T8R7Q6P5N4M3K2J1H".parse().expect("an id");
    let removed = Campaign::new(id, "removed", template("positional"), vec!["3999".into()], UnixMs(1_000));
    assert_eq!(api.store.create_campaign(&removed).await.expect("redis"), (id, true));
    let path = format!("/v1/campaigns/{id}");
    let statuses = async || {
        let mut statuses = Vec::new();
        for business in ["1001", OTHER] {
            let listed = all(&api.get_of(business, "/v1/campaigns").await["campaigns"], "id");
            let status = answer(api.request_of(business, Method::GET, &path)).await.status.as_u16();
            assert_eq!(status == 200, listed == [id.to_string()], "{business}: {listed:?}");
            statuses.push(status);
        }
        statuses
    };
    assert_eq!(api.read(&path).await["name"], "removed");
    assert_eq!(statuses().await, [404, 404], "nobody knows the WABA of the line");
    let line = Line { waba: "2002".into(), ..world::line("3999", 80.0) };
    api.store.register_lines("w1", &[line], api.now()).await.expect("redis");
    assert_eq!(statuses().await, [404, 200]);
}
