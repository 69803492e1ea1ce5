//! Secrets: rotated without a gap, and never logged or returned.

use pregon::{
    config::{ApiKey, KeyScope},
    domain::Secret,
};
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use super::kit::{KEY, Worker, csv, draft};
use crate::support::{
    alone::runs_alone,
    hooks::{APP_SECRET, VERIFY_TOKEN, signature, signature_with, statuses},
    http_client,
    log::Log,
};

async fn deliver(worker: &Worker, signature: &str, body: &[u8]) -> u16 {
    let request = http_client().post(worker.url("/webhooks/meta")).header("x-hub-signature-256", signature);
    request.body(body.to_vec()).send().await.expect("an answer").status().as_u16()
}

#[tokio::test]
async fn an_app_secret_is_rotated_without_a_gap() {
    let worker = Worker::start(|config| {
        config.webhook.app_secret = Some(Secret::new("after"));
        config.webhook.app_secret_previous = Some(Secret::new("before"));
    })
    .await;
    for (secret, status) in [("before", 200), ("after", 200), ("never", 401), ("", 401), (APP_SECRET, 401)] {
        assert_eq!(deliver(&worker, &signature_with(secret, b"{}"), b"{}").await, status, "{secret}");
    }
    worker.stop().await;
}

#[tokio::test]
async fn an_api_key_is_rotated_without_a_gap() {
    let (old, new) = ("k-of-the-old-year", "k-of-the-new-year");
    let worker = Worker::start(|config| {
        config.http.api_keys = vec![
            ApiKey::new("backend", &Secret::new(old)),
            ApiKey { scopes: vec![KeyScope::Read], ..ApiKey::new("backend-2", &Secret::new(new)) },
        ];
    })
    .await;
    let http = http_client();
    for (key, status) in [(old, 200), (new, 200), (KEY, 401)] {
        let answer = http.get(worker.url("/v1/lines")).bearer_auth(key).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), status, "{key}");
    }
    worker.stop().await;
}

/// Runs in a process of its own, because it installs the global log subscriber.
#[tokio::test]
async fn no_secret_or_phone_number_is_in_logs_or_responses() {
    if !runs_alone(module_path!(), "no_secret_or_phone_number_is_in_logs_or_responses") {
        return;
    }
    let log = Log::of_all_levels();
    let mut worker = Worker::start(|_| ()).await;
    let http = http_client();
    let mut answers = String::new();
    let mut ask = async |request: RequestBuilder| {
        let answer = request.send().await.expect("an answer");
        let (status, body) = (answer.status().as_u16(), answer.text().await.expect("a body"));
        answers.push_str(&body);
        (status, body)
    };
    let base = worker.url("");
    let call = |method: Method, path: &str| http.request(method, format!("{base}{path}")).bearer_auth(KEY);

    for path in ["/v1/lines", "/v1/nowhere"] {
        assert_eq!(ask(http.post(worker.url(path)).bearer_auth("k-guessed")).await.0, 401);
    }
    let created = ask(call(Method::POST, "/v1/campaigns").json(&draft(json!([])))).await.1;
    let created: serde_json::Value = serde_json::from_str(&created).expect("JSON");
    let campaign = format!("/v1/campaigns/{}", created["id"].as_str().expect("an id"));
    let rows = csv(7_000_000..7_000_003) + "+5491107000000,Secreta,A\n5491107000009,Secreta,A\n";
    let upload = call(Method::POST, &format!("{campaign}/recipients")).header("content-type", "text/csv").body(rows);
    assert_eq!(ask(upload).await.0, 200);
    let malformed = call(Method::POST, "/v1/campaigns").header("content-type", "application/json");
    assert_eq!(ask(malformed.body("{\"name\":\"Secreta +5491107000001")).await.0, 400);
    for path in ["/recipients/+5491107000001", "/recipients/+5491107000005", "/recipients/5491107000001/x"] {
        http.get(worker.url(&format!("{campaign}{path}"))).bearer_auth(KEY).send().await.expect("an answer");
    }
    for word in [VERIFY_TOKEN, "verify-guessed"] {
        let query = format!("?hub.mode=subscribe&hub.challenge=1&hub.verify_token={word}");
        ask(http.get(worker.url(&format!("/webhooks/meta{query}")))).await;
    }
    let status = json!({"id": "wamid.Secreta", "status": "failed", "timestamp": "1", "recipient_id": "5491107000001",
        "biz_opaque_callback_data": "token-of-a-stranger"});
    let body = statuses("3001", &[status]).to_string();
    assert_eq!(deliver(&worker, &signature(body.as_bytes()), body.as_bytes()).await, 200);
    assert_eq!(deliver(&worker, &signature(body.as_bytes()), b"{\"Secreta\"").await, 401);
    assert_eq!(deliver(&worker, &signature(b"{\"Secreta\""), b"{\"Secreta\"").await, 200);
    worker.redis.stop().await;
    assert_eq!(ask(call(Method::POST, &format!("{campaign}/launch"))).await.0, 503);
    worker.redis.restart().await;
    worker.stop().await;

    let log = log.take();
    for line in [
        "call refused",
        "caller=\"whole\" method=GET",
        "caller=\"whole\" method=POST",
        "handshake",
        "redis is not available",
    ] {
        assert!(log.contains(line), "the log misses {line}:\n{log}");
    }
    for secret in [KEY, "k-guessed", APP_SECRET, VERIFY_TOKEN, "verify-guessed", "token-2001", "token-of-a-stranger"] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
        assert!(!answers.contains(secret), "{secret} is in an answer:\n{answers}");
    }
    for person in ["549110700000", "Secreta"] {
        assert!(!log.contains(person), "{person} is in the log:\n{log}");
    }
}
