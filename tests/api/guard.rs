//! Keys, errors, limits: what every call has around it.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::harness::{Api, BODY_BYTES_MAX, KEY, answer, campaign};

#[tokio::test]
async fn a_call_without_a_key_is_refused_whatever_it_asks_for() {
    let api = Api::start().await;
    for path in ["/v1/campaigns", "/v1/campaigns/01J9ZK3V5T8R7Q6P5N4M3K2J1H/report.csv", "/v1/lines", "/nowhere", "/"] {
        for authorization in [None, Some("Bearer wrong"), Some("Basic azp0ZXN0"), Some(KEY)] {
            let request = api.http.get(format!("{}{path}", api.base));
            let request = match authorization {
                Some(value) => request.header("authorization", value),
                None => request,
            };
            let answer = answer(request).await;
            answer.problem(401, "unauthorized");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
    }
    assert_eq!(api.get("/v1/lines").await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_does_not_exist_is_a_problem() {
    let api = Api::start().await;
    api.get("/v1/nothing").await.problem(404, "not-found");
    let unknown = "01J9ZK3V5T8R7Q6P5N4M3K2J1H";
    for id in [unknown, "x", "%ff", "01J9ZK3V5T8R7Q6P5N4M3K2J1H1"] {
        let kind = if id == "%ff" { "not-found" } else { "campaign-not-found" };
        for path in ["", "/recipients", "/recipients/+5491155550001", "/report.csv", "/events"] {
            api.get(&format!("/v1/campaigns/{id}{path}")).await.problem(404, kind);
        }
        for action in ["launch", "pause", "resume", "cancel"] {
            api.post(&format!("/v1/campaigns/{id}/{action}")).await.problem(404, kind);
        }
    }
    for (method, path) in [(Method::GET, "3009"), (Method::POST, "3009/pause"), (Method::POST, "3009/resume")] {
        answer(api.request(method, &format!("/v1/lines/{path}"))).await.problem(404, "line-not-found");
    }
    let wrong = answer(api.request(Method::DELETE, "/v1/lines/3001")).await;
    wrong.problem(405, "method-not-allowed");
    assert_eq!(wrong.headers["allow"], "GET,HEAD,PATCH");
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_refused_and_changes_nothing() {
    let api = Api::start().await;
    let post = || api.request(Method::POST, "/v1/campaigns");
    let with = |body: String| post().header("content-type", "application/json").body(body);
    answer(post().body("{}")).await.problem(415, "unsupported-media-type");
    answer(post().header("content-type", "text/csv").body("{}")).await.problem(415, "unsupported-media-type");
    for (body, detail) in [
        ("", "not a JSON object"),
        ("{", "EOF"),
        ("[]", "not a JSON object"),
        (" \n[1]", "not a JSON object"),
        (r#"{"name":"spring"}"#, "missing field `template`"),
        (r#"{"name":"spring","lanes":[]}"#, "unknown field `lanes`"),
        (
            r#"{"name":"spring","template":{"name":"a","language":"es_AR"},"lines":["3001"],"start_at":"soon"}"#,
            "start_at",
        ),
    ] {
        let answer = answer(with(body.into())).await;
        let said = answer.problem(400, "malformed-body");
        assert!(said.contains(detail) || detail == "start_at", "{body}: {said}");
    }
    let long = campaign(&"x".repeat(BODY_BYTES_MAX), &["3001"]).to_string();
    answer(with(long)).await.problem(413, "body-too-large");
    assert_eq!(api.read("/v1/campaigns").await, json!({ "campaigns": [], "next": null }));
}

#[tokio::test]
async fn what_stands_behind_the_question_mark_has_to_make_sense() {
    let api = Api::start().await;
    let id = api.draft("spring", &["3001"], 1).await;
    let recipients = format!("/v1/campaigns/{id}/recipients");
    for path in ["/v1/campaigns", &recipients, "/v1/lines", "/v1/templates"] {
        for query in ["limit=0", "limit=1001", "limit=x", "limit=-1", "cursor=%20", "states=failed", "limit=1&limit=2"]
        {
            let answer = api.get(&format!("{path}?{query}")).await;
            answer.problem(400, "invalid-query");
        }
        assert_eq!(api.get(&format!("{path}?limit=&cursor=")).await.status, StatusCode::OK, "{path}");
    }
    for path in ["/v1/campaigns", &recipients] {
        let answer = api.get(&format!("{path}?state=finished")).await;
        assert!(answer.problem(400, "invalid-query").contains("one of"), "{}", answer.body);
        assert_eq!(api.get(&format!("{path}?state=")).await.status, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn a_panic_is_a_problem_and_the_server_goes_on() {
    let api = Api::start().await;
    *api.synced.lock().expect("no panic under the lock") = None;
    let answer = api.post("/v1/templates/sync").await;
    assert!(!answer.problem(500, "internal").contains("the test wants"), "the cause is for the log alone");
    assert_eq!(api.get("/v1/lines").await.status, StatusCode::OK);
}

#[tokio::test]
async fn while_redis_is_away_calls_are_answered_503_and_then_work_again() {
    let mut api = Api::start().await;
    let id = api.draft("spring", &["3001"], 1).await;
    api.redis.kill_hard().await;
    for path in [
        "/v1/campaigns".to_owned(),
        format!("/v1/campaigns/{id}"),
        "/v1/lines".into(),
        format!("/v1/campaigns/{id}/report.csv"),
    ] {
        let answer = api.get(&path).await;
        answer.problem(503, "unavailable");
        assert_eq!(answer.headers["retry-after"], "2");
    }
    api.post(&format!("/v1/campaigns/{id}/launch")).await.problem(503, "unavailable");
    api.post("/v1/lines/3001/pause").await.problem(503, "unavailable");
    api.redis.restart().await;
    assert_eq!(api.get(&format!("/v1/campaigns/{id}")).await.status, StatusCode::OK);
}
