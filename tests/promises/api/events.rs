//! The event stream of a campaign: its state and statistics as they change.

use futures_util::StreamExt as _;
use pregon::domain::CampaignId;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    harness::{Api, EventStream, PATIENCE, answer},
    truth,
};

/// A client that watches a campaign.
struct Watch(EventStream);

impl Watch {
    async fn start(api: &Api, campaign: CampaignId) -> Self {
        Self(EventStream::open(api.request(Method::GET, &format!("/v1/campaigns/{campaign}/events"))).await)
    }

    /// The next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<(String, Value)> {
        let block = self.0.next().await?;
        Some((block.event, serde_json::from_str(&block.data).expect("JSON")))
    }

    /// Reads until an event with this name satisfies `fits`. Returns its data.
    async fn until(&mut self, name: &str, fits: impl Fn(&Value) -> bool) -> Value {
        loop {
            let (found, data) = self.next().await.expect("the stream goes on");
            if found == name && fits(&data) {
                return data;
            }
        }
    }
}

#[tokio::test]
async fn a_stream_sends_the_current_state_and_then_changes() {
    let api = Api::start().await;
    let id = api.launched("spring", &["3001"], 110).await;
    let mut watch = Watch::start(&api, id).await;
    assert_eq!(watch.next().await, Some(("state".into(), json!({ "state": "running" }))));
    let (name, first) = watch.next().await.expect("an event");
    assert_eq!((name.as_str(), &first["by_state"]["pending"]), ("statistics", &json!(110)));

    let truth = truth::apply_fates(&api, id).await;
    let expected = truth::counts(&truth);
    watch.until("statistics", |statistics| truth::counts_of(statistics) == expected).await;

    api.post(&format!("/v1/campaigns/{id}/pause")).await;
    watch.until("state", |state| state["state"] == "paused").await;
    api.post(&format!("/v1/campaigns/{id}/cancel")).await;
    watch.until("state", |state| state["state"] == "cancelled").await;
    watch.until("statistics", |statistics| statistics["by_state"]["cancelled"] != 0).await;

    api.stopping.cancel();
    while watch.next().await.is_some() {}
}

#[tokio::test]
async fn a_stream_keeps_its_last_counts_during_a_redis_outage() {
    let mut api = Api::start().await;
    let id = api.launched("spring", &["3001"], 10).await;
    let mut watch = Watch::start(&api, id).await;
    watch.until("statistics", |statistics| statistics["by_state"]["pending"] == 10).await;
    api.redis.kill_hard().await;
    let away = watch.until("statistics", |statistics| statistics["waiting_for"][0]["reason"] == "redis").await;
    assert_eq!((&away["by_state"]["pending"], &away["eta"]), (&json!(10), &Value::Null));
    api.redis.restart().await;
    watch.until("statistics", |statistics| statistics["waiting_for"][0]["reason"] != "redis").await;
}

#[tokio::test]
async fn streams_are_limited_and_a_disconnect_frees_one() {
    let api = Api::start().await;
    let id = api.draft("spring", &["3001"], 0).await;
    let path = format!("/v1/campaigns/{id}/events");
    let mut open: Vec<Watch> = futures_util::stream::iter(0..64).then(|_| Watch::start(&api, id)).collect().await;
    answer(api.request(Method::GET, &path)).await.problem(429, "too-many-streams");
    open.pop();
    let room = async {
        // The server notices a disconnect at its next write or read.
        while api.request(Method::GET, &path).send().await.expect("an answer").status() != StatusCode::OK {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, room).await.expect("a free stream in time");
}
