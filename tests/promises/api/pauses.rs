//! Pause and resume everything.

use std::time::Duration;

use pregon::domain::PauseScope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::harness::{Api, answer};
use crate::support::until;

const MINUTE: Duration = Duration::from_secs(60);

impl Api {
    /// Registers `worker` as alive.
    async fn join(&self, worker: &str) {
        let now = self.now();
        self.store.worker_heartbeat(worker, now, now.after(MINUTE)).await.expect("redis");
    }

    /// The reasons why a campaign waits, with their texts.
    async fn waits(&self, path: &str) -> Vec<(String, String)> {
        let campaign = self.read(path).await;
        let waiting = campaign["statistics"]["waiting_for"].as_array().expect("a list").iter();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        waiting.map(|waiting| (text(&waiting["reason"]), text(&waiting["text"]))).collect()
    }
}

/// The businesses of a list of pauses; `all` for a pause of everything.
fn scopes(pauses: &Value) -> Vec<&str> {
    let pauses = pauses.as_array().expect("a list").iter();
    pauses.map(|pause| pause["business"].as_str().unwrap_or("all")).collect()
}

#[tokio::test]
async fn a_pause_of_everything_is_shown_and_ends_only_by_its_resume() {
    let api = Api::start().await;
    let campaign = format!("/v1/campaigns/{}", api.launched("spring", &["3001"], 5).await);
    api.assign_line("3001", "w1", 72.0).await;
    let business = json!({ "business": "1001" });

    let first = api.post_json("/v1/pause", &business).await;
    assert_eq!((first.status, &first.body["changed"]), (StatusCode::OK, &json!(true)), "{first:?}");
    let all = api.post("/v1/pause").await;
    assert_eq!((all.status, scopes(&all.body["pauses"])), (StatusCode::OK, vec!["all", "1001"]));
    let again = api.post("/v1/pause").await.body;
    assert_eq!(
        (&again["changed"], &again["pauses"]),
        (&json!(false), &all.body["pauses"]),
        "it stays paused since then"
    );

    let line = api.read("/v1/lines/3001").await;
    assert_eq!(
        (&line["state"], scopes(&line["pauses"]), &line["paused"], &line["allowed_now"]),
        (&json!("paused"), vec!["all", "1001"], &json!(false), &Value::Null)
    );
    let text = |text: &str| ("all_paused".to_owned(), text.to_owned());
    let (whole, of_business) =
        (text("an operator paused all sending"), text("an operator paused all sending of business 1001"));
    assert_eq!(api.waits(&campaign).await, [whole, of_business.clone()]);

    // A line is paused separately, and resuming it ends no other pause.
    api.post("/v1/lines/3001/pause").await;
    let line = api.post("/v1/lines/3001/resume").await.body;
    assert_eq!((&line["state"], &line["paused"]), (&json!("paused"), &json!(false)));
    api.post("/v1/lines/3001/pause").await;
    assert_eq!(api.post(&format!("{campaign}/pause")).await.body["state"], "paused");

    let resumed = api.post("/v1/resume").await.body;
    assert_eq!((&resumed["changed"], scopes(&resumed["pauses"])), (&json!(true), vec!["1001"]));
    assert_eq!(api.post("/v1/resume").await.body["changed"], false);
    api.post(&format!("{campaign}/resume")).await;
    assert_eq!(api.waits(&campaign).await, [of_business]);
    let resumed = api.post_json("/v1/resume", &business).await.body;
    assert_eq!((&resumed["changed"], scopes(&resumed["pauses"])), (&json!(true), vec![]));
    let line = api.read("/v1/lines/3001").await;
    assert_eq!((&line["state"], &line["paused"], &line["pauses"]), (&json!("paused"), &json!(true), &json!([])));
    assert_eq!(api.waits(&campaign).await, [("paused".to_owned(), "line 3001 is paused".to_owned())]);
}

#[tokio::test]
async fn a_pause_returns_once_every_worker_obeys() {
    let api = Api::start().await;
    for worker in ["w1", "w2"] {
        api.join(worker).await;
    }
    let pausing = tokio::spawn(answer(api.request(Method::POST, "/v1/pause")));
    until("the pause is stored", async || api.store.pauses().await.expect("redis").version == 1).await;
    api.store.obey_pauses("w1", 1).await.expect("redis");
    let behind = api.store.workers_not_obeying(1).await.expect("redis");
    assert_eq!((behind, pausing.is_finished()), (vec!["w2".to_owned()], false));
    api.store.obey_pauses("w2", 1).await.expect("redis");
    let paused = pausing.await.expect("no panic");
    assert_eq!((paused.status, &paused.body["changed"]), (StatusCode::OK, &json!(true)));

    // The answer names a worker that does not confirm the pause, such as one of an older release.
    api.join("w3").await;
    for worker in ["w1", "w2"] {
        api.store.obey_pauses(worker, 2).await.expect("redis");
    }
    let unconfirmed = api.post("/v1/pause").await;
    assert!(unconfirmed.problem(503, "pause-unconfirmed").contains("may still send: w3;"), "{unconfirmed:?}");
    assert!(api.store.pauses().await.expect("redis").pauses.contains(&PauseScope::Installation));
}

#[tokio::test]
async fn what_is_paused_is_never_guessed() {
    let api = Api::start().await;
    for path in ["/v1/pause", "/v1/resume"] {
        let post = async |body: &Value| api.post_json(path, body).await;
        assert!(post(&json!({ "business": "9" })).await.problem(404, "business-not-found").contains("no business 9"));
        for bad in [json!({ "business": null }), json!({ "business": 1001 }), json!({ "buisness": "1001" }), json!([])]
        {
            post(&bad).await.problem(400, "malformed-body");
        }
        let untyped = api.request(Method::POST, path).body(r#"{"business":"1001"}"#);
        answer(untyped).await.problem(415, "unsupported-media-type");
    }
    let stored = api.store.pauses().await.expect("redis");
    assert_eq!((stored.version, stored.pauses.iter().count()), (0, 0));
    assert_eq!(api.post_json("/v1/pause", &json!({})).await.body["pauses"].as_array().map(Vec::len), Some(1));
}
