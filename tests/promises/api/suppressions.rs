//! Suppressions through the API.

use std::{collections::BTreeSet, fmt::Write as _};

use pregon::domain::{PersonHash, Phone, UnixMs};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::harness::{Answer, Api, answer, phone};

const CSV: &str = "text/csv";
const NDJSON: &str = "application/x-ndjson";

impl Api {
    async fn suppress(&self, person: &str, body: &Value) -> Answer {
        answer(self.request(Method::PUT, &format!("/v1/suppressions/{person}")).json(body)).await
    }

    async fn import(&self, query: &str, kind: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.request(Method::POST, &format!("/v1/suppressions{query}"));
        answer(request.header("content-type", kind).header("upload-id", "stop-2026").body(body)).await
    }

    async fn export(&self, business: &str) -> String {
        let path = format!("/v1/suppressions.csv?business={business}");
        let response = self.request(Method::GET, &path).send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/csv; charset=utf-8");
        response.text().await.expect("a complete body")
    }

    /// All suppressions of a business, by pages of `limit`, sorted by number.
    async fn suppressions(&self, business: &str, limit: usize) -> Vec<Value> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.read(&format!("/v1/suppressions?business={business}&limit={limit}&cursor={cursor}")).await;
            let rows = page["suppressions"].as_array().expect("a list");
            assert!(rows.len() <= limit, "{page}");
            all.extend(rows.iter().cloned());
            match page["next"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => break,
            }
        }
        all.sort_by_key(|row| row["phone"].as_str().map(str::to_owned));
        all
    }
}

fn accepted(n: u64) -> Value {
    json!({ "accepted": n, "rejected_count": 0, "rejected": [] })
}

#[tokio::test]
async fn a_suppression_is_stored_changed_and_ended() {
    let api = Api::start().await;
    let of = |number: &str| format!("/v1/suppressions/{number}?business=1001");
    let marketing = json!({ "business": "1001", "scope": "marketing" });
    let stored = api.suppress("+5491155550001", &marketing).await;
    let since = stored.body["since"].as_str().expect("a time").to_owned();
    let expected = json!({
        "phone": "+5491155550001", "business": "1001", "scope": "marketing", "reason": "opt_out", "since": since,
        "source": "api",
    });
    assert_eq!((stored.status, &stored.body), (StatusCode::OK, &expected));
    assert!(UnixMs::parse(&since).is_some_and(|since| since <= api.now()), "{since}");
    assert_eq!(api.suppress("5491155550001", &marketing).await.body, expected, "the plus is optional");
    assert_eq!(api.read(&of("5491155550001")).await, expected);

    // The two forms of the number are of the same person.
    let all = json!({ "business": "1001", "scope": "all", "reason": "complaint" });
    let wider = api.suppress("+541155550001", &all).await.body;
    assert_eq!((&wider["scope"], &wider["reason"]), (&json!("all"), &json!("complaint")));
    assert_eq!(wider["since"], since.as_str(), "the person has been suppressed since then");
    assert_eq!(api.read(&of("+5491155550001")).await, wider);
    assert_eq!(api.suppress("+5491155550001", &marketing).await.body["scope"], "marketing", "a call may narrow it");
    api.get("/v1/suppressions/5491155550001?business=1002").await.problem(404, "suppression-not-found");

    let end = async || answer(api.request(Method::DELETE, &of("+5491155550001"))).await;
    assert_eq!(end().await.status, StatusCode::NO_CONTENT);
    end().await.problem(404, "suppression-not-found");
    api.get(&of("+5491155550001")).await.problem(404, "suppression-not-found");
}

#[tokio::test]
async fn a_call_about_suppressions_that_is_wrong_says_what_to_do() {
    let api = Api::start().await;
    let missing = api.suppress("+5491155550001", &json!({ "scope": "all" })).await;
    let detail = missing.problem(400, "business-missing");
    assert_eq!(detail, "name the business in `business`: one of 1001, 1002");
    for path in ["/v1/suppressions", "/v1/suppressions.csv", "/v1/suppressions/5491155550001?business="] {
        api.get(path).await.problem(400, "business-missing");
    }
    let unknown = api.suppress("+5491155550001", &json!({ "business": "9", "scope": "all" })).await;
    let detail = unknown.problem(404, "business-not-found");
    assert_eq!(
        detail,
        "there is no business 9 in the configuration: `pregon business list` and GET /v1/businesses list the businesses"
    );
    let all = json!({ "business": "1001", "scope": "all" });
    api.suppress("+54x", &all).await.problem(400, "invalid-phone");
    for body in [json!({}), json!({ "business": "1001" }), json!({ "business": "1001", "scope": "some" })] {
        api.suppress("+5491155550001", &body).await.problem(400, "malformed-body");
    }
    api.get("/v1/suppressions?business=1001&cursor=7").await.problem(400, "invalid-query");
    let refused = api.import("?business=1001&scope=none", CSV, "phone\n+5491155550001\n").await;
    assert_eq!(refused.problem(400, "invalid-query"), "scope is none; it is one of marketing, all");
    api.import("?business=1001", "application/json", "{}").await.problem(415, "unsupported-media-type");
    api.import("?business=1001&ignore=email", NDJSON, "").await.problem(400, "invalid-query");
    let refused = api.import("?business=1001", CSV, "number,scope\n+5491155550001,all\n").await;
    assert_eq!(
        refused.problem(422, "upload-unreadable"),
        "the first row of the csv names no column `phone` for the phone numbers, but `number`, `scope`: rename the column \
         with the numbers to `phone`, or put a row with the names of the columns on top"
    );
    let refused = api.import("?business=1001", CSV, "phone,email\n+5491155550001,a@example.com\n").await;
    assert_eq!(
        refused.problem(422, "upload-unreadable"),
        "the csv has `email`, which a list of suppressions does not use; it uses `phone`, `business`, `scope`, `reason`, \
         `since`, `source`: rename or delete it, or leave it out with ?ignore=email (on the command line --ignore email)"
    );
    assert_eq!(api.suppressions("1001", 10).await, [] as [Value; 0]);
}

#[tokio::test]
async fn an_import_suppresses_its_good_rows_and_reports_the_others() {
    let api = Api::start().await;
    api.suppress(&phone(1), &json!({ "business": "1001", "scope": "all", "reason": "complaint" })).await;
    api.suppress(&phone(2), &json!({ "business": "1001", "scope": "marketing" })).await;
    let table = format!(
        "Phone;Scope;since;E-Mail\n{};marketing;;a\n{};all;;b\n{};;2026-01-02T03:04:05Z;c\nnobody;all;;d\n{};some;;e\n",
        phone(1),
        phone(2),
        phone(3),
        phone(4)
    );
    let query = "?business=1001&scope=marketing&reason=register&ignore=e-mail";
    let taken = api.import(query, CSV, table.clone()).await;
    let expected = json!({
        "accepted": 3, "rejected_count": 2, "rejected": [
            {
                "row": 4, "line": 5, "code": "not_e164",
                "reason": "`phone` is nobody: that is not a phone number in E.164, such as +5491155550001",
            },
            {
                "row": 5, "line": 6, "code": "unknown_word",
                "reason": "scope is some, and it is one of marketing, all",
            },
        ],
    });
    assert_eq!((taken.status, &taken.body), (StatusCode::OK, &expected));
    assert_eq!(api.import(query, CSV, table).await.body, expected, "a repetition has the same result");
    let people = api.suppressions("1001", 10).await;
    let fields = |person: &Value| ["scope", "reason", "source"].map(|name| person[name].clone());
    assert_eq!(fields(&people[0]), ["all", "complaint", "api"], "an import does not narrow");
    assert_eq!(fields(&people[1]), ["all", "register", "import"], "an import widens");
    assert_eq!(fields(&people[2]), ["marketing", "register", "import"]);
    assert_eq!(people[2]["since"], "2026-01-02T03:04:05Z");
    assert_eq!(people.len(), 3);

    let rows = format!("{{\"phone\":\"{}\",\"scope\":\"all\"}}\n\n{{\"phone\":\"{}\"}}\n", phone(5), phone(6));
    let taken = api.import("?business=1002", NDJSON, rows).await.body;
    assert_eq!((&taken["accepted"], &taken["rejected"][0]["code"]), (&json!(1), &json!("scope_missing")));
    assert_eq!(taken["rejected"][0]["line"], 3);
    assert_eq!(api.suppressions("1002", 10).await.len(), 1);
}

#[tokio::test]
async fn an_import_of_any_size_can_be_exported_and_imported_again() {
    const PEOPLE: u64 = 20_000;
    let api = Api::start().await;
    let mut list = String::from("phone,scope\n");
    for n in 0..PEOPLE {
        writeln!(list, "{},{}", phone(n), if n % 3 == 0 { "all" } else { "marketing" }).expect("a text");
    }
    assert_eq!(api.import("?business=1001&reason=other", CSV, list).await.body, accepted(PEOPLE));
    let before = api.suppressions("1001", 1_000).await;
    let numbers: BTreeSet<&str> = before.iter().filter_map(|person| person["phone"].as_str()).collect();
    assert_eq!((before.len() as u64, numbers.len() as u64), (PEOPLE, PEOPLE), "each is on one page");
    assert_eq!(api.store.suppressed_count(&"1001".into()).await.expect("redis"), PEOPLE);

    let export = api.export("1001").await;
    assert_eq!(export.lines().next(), Some("phone,business,scope,reason,since,source"));
    assert_eq!(export.lines().count() as u64, PEOPLE + 1);
    let wrong = api.import("?business=1002", CSV, export.clone()).await.body;
    assert_eq!((&wrong["accepted"], &wrong["rejected_count"]), (&json!(0), &json!(PEOPLE)));
    assert_eq!(wrong["rejected"].as_array().map(Vec::len), Some(1_000), "the answer is bounded");
    assert_eq!(
        wrong["rejected"][0]["reason"],
        "the row is of business 1001, and the import is not: import the rows of that business by themselves"
    );

    let key = api.store.token_key().await.expect("a key").get();
    for n in 0..PEOPLE {
        let person: Phone = phone(n).parse().expect("a number");
        let removed = api.store.unsuppress(&"1001".into(), PersonHash::of(person.into(), &key)).await;
        assert!(removed.expect("redis"), "{n}");
    }
    assert_eq!(api.export("1001").await, "phone,business,scope,reason,since,source\r\n");
    assert_eq!(api.import("?business=1001", CSV, export).await.body, accepted(PEOPLE));
    assert_eq!(api.suppressions("1001", 1_000).await, before, "the same entries, which were an import before");
}

#[tokio::test]
async fn a_limited_key_sees_and_changes_only_suppressions_of_its_business() {
    let api = Api::start().await;
    let person = "/v1/suppressions/5491155550001";
    let put = |business: &str, body: Value| answer(api.request_of(business, Method::PUT, person).json(&body));
    // A key that is limited to one business need not name it.
    assert_eq!(put("1001", json!({ "scope": "all" })).await.body["business"], "1001");
    let foreign = put("1002", json!({ "business": "1001", "scope": "all" })).await;
    let unknown = put("1002", json!({ "business": "1009", "scope": "all" })).await;
    foreign.problem(404, "business-not-found");
    assert_eq!(foreign.body.to_string(), unknown.body.to_string().replace("1009", "1001"));
    let calls = [
        (Method::GET, format!("{person}?business=1001")),
        (Method::DELETE, format!("{person}?business=1001")),
        (Method::GET, "/v1/suppressions?business=1001".into()),
        (Method::GET, "/v1/suppressions.csv?business=1001".into()),
        (Method::POST, "/v1/suppressions?business=1001".into()),
    ];
    for (method, path) in calls {
        let request = api.request_of("1002", method, &path).header("content-type", CSV).body("phone\n");
        answer(request).await.problem(404, "business-not-found");
    }
    answer(api.request_of("1002", Method::GET, person)).await.problem(404, "suppression-not-found");
    assert_eq!(api.get_of("1002", "/v1/suppressions").await["suppressions"], json!([]));
    assert_eq!(api.get_of("1001", "/v1/suppressions").await["suppressions"][0]["phone"], "+5491155550001");
}
