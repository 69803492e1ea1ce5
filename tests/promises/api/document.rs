//! The OpenAPI document: it equals the committed one, and the API answers as it says.

use std::{collections::BTreeSet, fs, sync::LazyLock};

use pregon::config::KeyScope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    harness::{Answer, Api, answer, campaign, key_for, phone},
    truth,
};

/// The committed document.
pub static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../../docs/openapi.json")).expect("JSON"));

/// Checks an answer against the document.
///
/// Panics: the status, the content type, or the body is not as documented.
#[track_caller]
pub fn check(method: &Method, path: &str, answer: &Answer) {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let paths = DOCUMENT["paths"].as_object().expect("an object");
    let operation = paths.iter().find(|(template, _)| matches(template, path));
    let operation = operation.and_then(|(_, item)| item.get(method.as_str().to_lowercase()));
    let (status, call) = (answer.status.as_u16(), format!("{method} {path}: {answer:?}"));
    let Some(operation) = operation else {
        assert!([401, 403, 404, 405, 429].contains(&status) || !path.starts_with("/v1/"), "not documented: {call}");
        return;
    };
    let contents =
        &operation["responses"].get(status.to_string()).unwrap_or_else(|| panic!("status of {call}"))["content"];
    if let Some(content_type) = answer.headers.get("content-type") {
        let essence = content_type.to_str().expect("text").split(';').next().unwrap_or_default();
        let content =
            contents.get(essence).or_else(|| contents.get("*/*")).unwrap_or_else(|| panic!("content type of {call}"));
        if essence.ends_with("json") && !answer.body.is_null() {
            assert_valid(&content["schema"], &answer.body, &call);
        }
    }
}

/// Checks `json` against a schema of the document.
#[track_caller]
pub fn assert_valid(schema: &Value, json: &Value, what: &str) {
    let mut schema = schema.clone();
    schema["components"] = DOCUMENT["components"].clone();
    let validator = jsonschema::options().should_validate_formats(true).build(&schema).expect("a schema");
    let errors: Vec<_> =
        validator.iter_errors(json).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{what}: {}", errors.join("; "));
}

fn matches(template: &str, path: &str) -> bool {
    let is_parameter = |segment: &str| segment.starts_with('{');
    let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    template.len() == path.len() && template.iter().zip(path).all(|(a, b)| is_parameter(a) || *a == b)
}

#[tokio::test]
async fn the_committed_document_is_the_generated_one() {
    let api = Api::start().await;
    let response = api.http.get(format!("{}/openapi.json", api.base)).send().await.expect("an answer");
    assert_eq!(
        (response.status(), &response.headers()["content-type"]),
        (StatusCode::OK, &"application/json".parse().expect("a value"))
    );
    let generated = response.text().await.expect("a body");
    let root = env!("CARGO_MANIFEST_DIR");
    fs::write(format!("{root}/target/openapi.json"), &generated).expect("a file in target");
    let committed = fs::read_to_string(format!("{root}/docs/openapi.json")).unwrap_or_default();
    assert!(committed == generated, "docs/openapi.json is out of date: cp target/openapi.json docs/openapi.json");
}

#[tokio::test]
async fn calls_are_answered_as_documented() {
    let api = Api::start().await;
    let id = api.launched("spring", &["3001", "3002"], 40).await;
    truth::apply_fates(&api, id).await;
    let draft = api.draft("summer", &["3001"], 1).await;
    api.add_dead_letter("7-0", &[b"job", br#"{"type":"launch","external_id":"crm-9"}"#]).await;
    let of = |rest: &str| format!("/v1/campaigns/{id}{rest}");
    let unknown = |rest: &str| format!("/v1/campaigns/01J9ZK3V5T8R7Q6P5N4M3K2J1H{rest}");
    *api.synced.lock().expect("no panic under the lock") = Some(vec![("2001".into(), Ok(4))]);
    let mut new = campaign("autumn", &["3001"]);
    new["external_id"] = "crm-1".into();
    new["recipients"] = json!([{ "to": phone(1), "params": { "1": "Maria", "2": 7 } }, { "to": "1" }]);
    let rate = |rate: Value| json!({ "messages_per_second": rate });
    let person = "/v1/suppressions/5491155550001";
    let of_business = |path: &str| format!("{path}?business=1001");
    let calls = [
        (Method::POST, "/v1/campaigns".to_owned(), Some(new.clone()), 201),
        (Method::POST, "/v1/campaigns".into(), Some(new), 200),
        (Method::POST, "/v1/campaigns".into(), Some(json!({})), 400),
        (Method::POST, "/v1/campaigns".into(), Some(campaign("x", &["3001", "3003"])), 422),
        (Method::GET, "/v1/campaigns?limit=1".into(), None, 200),
        (Method::GET, "/v1/campaigns?external_id=crm-1".into(), None, 200),
        (Method::GET, "/v1/campaigns?limit=0".into(), None, 400),
        (Method::GET, of(""), None, 200),
        (Method::GET, unknown(""), None, 404),
        (Method::POST, format!("/v1/campaigns/{draft}/launch"), None, 200),
        (Method::POST, of("/pause"), None, 200),
        (Method::POST, of("/resume"), None, 200),
        (Method::PATCH, of(""), Some(json!({ "expires_at": null, "priority": 4 })), 200),
        (Method::PATCH, of(""), Some(json!({ "priority": 40 })), 422),
        (Method::PATCH, of(""), Some(json!({ "start_at": "2099-01-01T00:00:00Z" })), 409),
        (Method::POST, of("/retry"), Some(json!({ "states": ["failed"], "codes": [131_042] })), 409),
        (Method::GET, of("/preflight"), None, 200),
        (Method::GET, unknown("/preflight"), None, 404),
        (Method::POST, of("/test"), Some(json!({ "to": ["+5491155550001"], "external_id": "t" })), 201),
        (Method::POST, of("/test"), Some(json!({ "to": ["+5491155550001"], "external_id": "t" })), 200),
        (Method::POST, of("/test"), Some(json!({ "to": [] })), 422),
        (Method::POST, of("/test"), Some(json!({ "to": ["5491155550001"] })), 400),
        (Method::DELETE, of(""), None, 409),
        (Method::GET, of("/recipients?limit=11"), None, 200),
        (Method::GET, of("/recipients?state=gone"), None, 400),
        (Method::GET, of(&format!("/recipients/{}", phone(3))), None, 200),
        (Method::GET, of("/recipients/x"), None, 400),
        (Method::GET, of("/recipients/+5491155559999"), None, 404),
        (Method::GET, of("/report.csv"), None, 200),
        (Method::GET, unknown("/events"), None, 404),
        (Method::POST, of("/recipients"), None, 415),
        (Method::POST, of("/cancel"), None, 200),
        (Method::POST, of("/launch"), None, 409),
        (Method::GET, of("/preflight"), None, 409),
        (Method::POST, of("/test"), Some(json!({ "to": ["+5491155550001"] })), 409),
        (Method::GET, "/v1/jobs/dead".into(), None, 200),
        (Method::GET, "/v1/jobs/dead?limit=0".into(), None, 400),
        (Method::GET, "/v1/jobs/dead/7-0".into(), None, 200),
        (Method::GET, "/v1/jobs/dead/8-0".into(), None, 404),
        (Method::POST, "/v1/jobs/dead/7-0/retry".into(), None, 202),
        (Method::POST, "/v1/jobs/dead/8-0/retry".into(), None, 404),
        (Method::DELETE, "/v1/jobs/dead/7-0".into(), None, 204),
        (Method::DELETE, "/v1/jobs/dead/7-0".into(), None, 404),
        (Method::GET, "/v1/lines".into(), None, 200),
        (Method::GET, "/v1/lines/3001".into(), None, 200),
        (Method::GET, "/v1/lines/9".into(), None, 404),
        (Method::PATCH, "/v1/lines/3001".into(), Some(rate(40.into())), 200),
        (Method::PATCH, "/v1/lines/3001".into(), Some(rate(Value::Null)), 200),
        (Method::PATCH, "/v1/lines/3001".into(), Some(rate(0.into())), 400),
        (Method::POST, "/v1/lines/3001/pause".into(), None, 200),
        (Method::POST, "/v1/lines/3001/resume".into(), None, 200),
        (Method::GET, "/v1/workers".into(), None, 200),
        (Method::GET, "/v1/workers?limit=0".into(), None, 400),
        (Method::GET, "/v1/businesses".into(), None, 200),
        (Method::GET, "/v1/businesses?limit=0".into(), None, 400),
        (Method::GET, "/v1/discovery".into(), None, 200),
        (Method::GET, "/v1/holds".into(), None, 200),
        (Method::GET, "/v1/holds?limit=0".into(), None, 400),
        (Method::POST, "/v1/holds/line:3001/lift".into(), None, 200),
        (Method::POST, "/v1/holds/x/lift".into(), None, 404),
        (Method::POST, "/v1/pause".into(), None, 200),
        (Method::POST, "/v1/resume".into(), Some(json!({ "business": "1001" })), 200),
        (Method::POST, "/v1/resume".into(), Some(json!({ "business": "1009" })), 404),
        (Method::GET, "/v1/templates".into(), None, 200),
        (Method::GET, "/v1/templates/2001/order_update/es_AR".into(), None, 200),
        (Method::GET, "/v1/templates/2001/order_update/xx".into(), None, 404),
        (Method::POST, "/v1/templates/sync".into(), None, 200),
        (Method::POST, "/v1/templates/2001/order_update/es_AR/unpause".into(), None, 200),
        (Method::POST, "/v1/templates/2009/order_update/es_AR/unpause".into(), None, 404),
        (Method::GET, "/v1/subscribers".into(), None, 200),
        (Method::POST, "/v1/subscribers/crm/redeliver?from=0".into(), None, 200),
        (Method::POST, "/v1/subscribers/crm/redeliver?from=yesterday".into(), None, 400),
        (Method::POST, "/v1/subscribers/crm/enable".into(), None, 200),
        (Method::POST, "/v1/subscribers/nobody/enable".into(), None, 404),
        (Method::PUT, person.into(), Some(json!({ "business": "1001", "scope": "all" })), 200),
        (Method::PUT, person.into(), Some(json!({ "scope": "all" })), 400),
        (Method::GET, of_business(person), None, 200),
        (Method::GET, "/v1/suppressions/5491155550002?business=1001".into(), None, 404),
        (Method::GET, of_business("/v1/suppressions"), None, 200),
        (Method::GET, "/v1/suppressions?business=1009".into(), None, 404),
        (Method::POST, of_business("/v1/suppressions"), None, 415),
        (Method::GET, of_business("/v1/suppressions.csv"), None, 200),
        (Method::DELETE, of_business(person), None, 204),
        (Method::DELETE, of_business(person), None, 404),
        (Method::DELETE, "/v1/people/+5491155550001".into(), None, 200),
        (Method::DELETE, "/v1/people/12".into(), None, 400),
    ];
    for (method, path, body, status) in calls {
        let request = api.request(method.clone(), &path);
        // `answer` checks every answer of these tests against the document.
        let given = answer(body.iter().fold(request, |request, body| request.json(body))).await;
        assert_eq!(given.status.as_u16(), status, "{method} {path}: {}", given.body);
        let path = path.split('?').next().expect("a path");
        let other = if method == Method::GET { KeyScope::Operate } else { KeyScope::Read };
        let forbidden = api.http.request(method, format!("{}{path}", api.base)).bearer_auth(key_for(other));
        answer(forbidden).await.problem(403, "forbidden");
    }
}

#[test]
fn every_call_documents_its_scope_and_how_it_fails() {
    let mut ids = BTreeSet::new();
    for (path, item) in DOCUMENT["paths"].as_object().expect("an object") {
        for (method, operation) in item.as_object().expect("an object") {
            let call = format!("{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().expect("an id")), "{call}");
            if path.starts_with("/v1/session") {
                assert_eq!(operation["security"][0]["api_key"], Value::Null, "{call}");
            } else {
                let scopes = operation["security"][0]["api_key"].as_array().expect("scopes");
                assert_eq!(scopes.len(), 1, "{call}");
                // These scopes are for reads and changes alike.
                let is_for_both = ["contacts", "chats", "admin"].iter().any(|scope| scopes[0] == *scope);
                assert!(is_for_both || (scopes[0] == "read") == (method == "get"), "{call}");
                assert_eq!(operation["security"][1], json!({ "session": [] }), "{call}");
            }
            assert!(operation["summary"].as_str().is_some_and(|summary| summary.len() > 5), "{call}");
            for status in ["401", "403", "429", "500", "503"] {
                let schema = &operation["responses"][status]["content"]["application/problem+json"]["schema"];
                let kind = &schema["allOf"][1]["properties"]["type"]["enum"][0];
                assert_valid(schema, &json!({ "type": kind, "title": "x", "status": 1, "detail": "x" }), &call);
            }
        }
    }
}

/// The page is HTML without scripts, and loads nothing from other servers.
#[tokio::test]
async fn the_page_of_the_document_lists_every_call() {
    let api = Api::start().await;
    let get = async |path: &str| api.http.get(format!("{}{path}", api.base)).send().await.expect("an answer");
    let response = get("/docs").await;
    assert_eq!(response.status(), StatusCode::OK);
    let policy = response.headers()["content-security-policy"].to_str().expect("text").to_owned();
    assert!(policy.starts_with("default-src 'none'; style-src 'self'"), "{policy}");
    let page = response.text().await.expect("a body");
    for (path, item) in DOCUMENT["paths"].as_object().expect("an object") {
        for method in item.as_object().expect("an object").keys() {
            assert!(page.contains(&format!("{} {path}", method.to_uppercase())), "{method} {path}");
        }
    }
    for (name, _) in DOCUMENT["components"]["schemas"].as_object().expect("an object") {
        assert!(page.contains(&format!("<h3 id=\"{name}\">")), "{name}");
    }
    let targets = page.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next());
    for target in targets {
        assert!(page.contains(&format!("id=\"{target}\"")), "a link to {target}");
    }
    assert!(!page.contains("<script") && !page.contains("http://") && !page.contains("https://"), "{page}");
    assert_eq!(get("/docs.css").await.headers()["content-type"], "text/css; charset=utf-8");
}

/// docs/api.md lists the same kinds of problems, with the same status.
#[test]
fn the_introduction_lists_the_same_problems() {
    let introduction = include_str!("../../../docs/api.md");
    let rows = introduction.lines().skip_while(|line| !line.starts_with("| `urn:pregon:problem:…`")).skip(2);
    let mut listed = BTreeSet::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let mut cells = row.split(" | ");
        let (names, status) = (cells.next().expect("names"), cells.next().expect("a status"));
        listed.extend(names.split('`').skip(1).step_by(2).map(|name| (status.to_owned(), name.to_owned())));
    }
    let mut documented = BTreeSet::new();
    let items = DOCUMENT["paths"].as_object().expect("an object").values();
    for operation in items.flat_map(|item| item.as_object().expect("an object").values()) {
        for (status, response) in operation["responses"].as_object().expect("an object") {
            let schema = &response["content"]["application/problem+json"]["schema"];
            let kinds = schema["allOf"][1]["properties"]["type"]["enum"].as_array().into_iter().flatten();
            let names = kinds.map(|kind| kind.as_str().expect("text").trim_start_matches("urn:pregon:problem:"));
            documented.extend(names.map(|name| (status.clone(), name.to_owned())));
        }
    }
    // The document has no call with this problem, which is the answer to a method that no call has.
    documented.insert(("405".into(), "method-not-allowed".into()));
    assert_eq!(listed, documented);
}
