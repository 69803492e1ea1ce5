//! Forgetting people through the API.

use pregon::config::KeyScope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::harness::{Answer, Api, answer, csv, key_for, phone};

impl Api {
    async fn forget(&self, person: &str) -> Answer {
        answer(self.request(Method::DELETE, &format!("/v1/people/{person}"))).await
    }
}

#[tokio::test]
async fn a_forgotten_person_is_found_nowhere_and_counted_everywhere() {
    let api = Api::start().await;
    let id = api.draft("Spring", &["3001"], 0).await;
    api.upload(id, "text/csv", csv(20)).await;
    let of = |rest: &str| format!("/v1/campaigns/{id}{rest}");
    let suppression = json!({ "business": "1001", "scope": "all" });
    let path = format!("/v1/suppressions/{}?business=1001", phone(3));
    let stored = answer(api.request(Method::PUT, &path).json(&suppression)).await;
    assert_eq!(stored.status, StatusCode::OK, "{}", stored.body);

    let removed = api.forget(&phone(3)).await;
    assert_eq!(removed.status, StatusCode::OK, "{}", removed.body);
    let counts = ["campaigns", "recipients", "skipped", "suppressions"].map(|field| removed.body[field].as_u64());
    assert_eq!(counts, [Some(1); 4], "{}", removed.body);
    assert_eq!(removed.body["dead_letters"], json!([]));
    let again = api.forget(phone(3).trim_start_matches('+')).await;
    assert_eq!((&again.body["recipients"], &again.body["suppressions"]), (&json!(0), &json!(1)), "it stays suppressed");

    api.get(&of(&format!("/recipients/{}", phone(3)))).await.problem(404, "recipient-not-found");
    let page = api.read(&of("/recipients?limit=100")).await;
    let rows = page["recipients"].as_array().expect("a list");
    let nameless: Vec<&Value> = rows.iter().filter(|row| row.get("to").is_none()).collect();
    assert_eq!((rows.len(), nameless.len()), (20, 1));
    assert_eq!((&nameless[0]["state"], &nameless[0]["reason"]), (&json!("skipped"), &json!("forgotten")));
    let report = api.request(Method::GET, &of("/report.csv")).send().await.expect("an answer").text().await;
    let report = report.expect("a report");
    assert!(report.contains("\r\n,skipped,,forgotten,") && !report.contains(&phone(3)), "{report}");
    let statistics = api.read(&of("")).await["statistics"].take();
    assert_eq!(statistics["by_state"]["skipped"], 1);
    assert_eq!(statistics["recipients"], 20);
    assert_eq!(statistics["skips"], json!([{ "reason": "forgotten", "count": 1 }]));
    let suppressed = api.read(&path).await;
    assert_eq!((&suppressed["phone"], &suppressed["scope"]), (&Value::Null, &json!("all")));
}

#[tokio::test]
async fn only_a_key_for_all_businesses_with_the_scope_forgets_people() {
    let api = Api::start().await;
    let path = format!("{}/v1/people/{}", api.base, phone(3));
    let forget = async |key: &str| answer(api.http.delete(&path).bearer_auth(key)).await;
    for scope in [KeyScope::Read, KeyScope::Operate] {
        forget(&key_for(scope)).await.problem(403, "forbidden");
    }
    assert_eq!(forget(&key_for(KeyScope::Submit)).await.status, StatusCode::OK);
    let limited = answer(api.request_of("1001", Method::DELETE, &format!("/v1/people/{}", phone(3)))).await;
    let detail = limited.problem(403, "forbidden");
    assert!(detail.ends_with("use another key"), "{detail}");
    api.forget("12").await.problem(400, "invalid-phone");
}
