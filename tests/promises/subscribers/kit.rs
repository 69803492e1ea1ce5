//! A receiver of webhooks that the test itself answers, and deliveries to it.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use pregon::{
    domain::RetryPolicy,
    redis::{clock::Clock, feed::FeedLimits},
    subscribers::{Delivery, DeliverySettings, Subscriber},
};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use crate::api::harness::{FEED, WEBHOOK_SECRET, subscriber};
use crate::{
    api::harness::Api,
    support::{hooks::now, serve::serve},
};

/// A server that passes each webhook to the test, which answers it.
pub struct Receiver {
    pub url: String,
    webhooks: mpsc::UnboundedReceiver<Webhook>,
}

/// A webhook that waits for its answer. If dropped, it is never answered.
#[derive(Debug)]
pub struct Webhook {
    pub id: String,
    pub timestamp: u64,
    pub body: Bytes,
    headers: HeaderMap,
    answer: oneshot::Sender<Response>,
}

impl Receiver {
    pub async fn start() -> Self {
        let (sender, webhooks) = mpsc::unbounded_channel();
        let router = Router::new().fallback(receive).with_state(sender);
        Self { url: format!("{}/hook", serve(router).await), webhooks }
    }

    /// The next webhook.
    pub async fn next(&mut self) -> Webhook {
        self.webhooks.recv().await.expect("the server runs")
    }

    /// Answers the next webhook with 200. Returns its body.
    pub async fn accept(&mut self) -> Value {
        let webhook = self.next().await;
        let json = webhook.json();
        webhook.answer(200);
        json
    }

    /// Accepts webhooks until the event `id`. Returns the ids of all of them.
    pub async fn accept_until(&mut self, id: &str) -> Vec<String> {
        let mut ids = Vec::new();
        while ids.last().is_none_or(|last| last != id) {
            ids.push(event_id(&self.accept().await));
        }
        ids
    }

    /// Whether there is no webhook that the test has not seen.
    pub fn is_idle(&self) -> bool {
        self.webhooks.is_empty()
    }
}

async fn receive(State(test): State<mpsc::UnboundedSender<Webhook>>, headers: HeaderMap, body: Bytes) -> Response {
    // The test's own calls are events too.
    if serde_json::from_slice::<Value>(&body).is_ok_and(|event| event["type"] == "operator.changed") {
        return StatusCode::OK.into_response();
    }
    let text = |name: &str| headers[name].to_str().expect("text").to_owned();
    let (answer, answered) = oneshot::channel();
    let (id, timestamp) = (text("webhook-id"), text("webhook-timestamp").parse().expect("seconds"));
    let sent = test.send(Webhook { id, timestamp, body, headers, answer });
    match sent.map(|()| answered) {
        Ok(answered) => match answered.await {
            Ok(response) => response,
            Err(_) => std::future::pending().await,
        },
        // The test has ended.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

impl Webhook {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().expect("text")
    }

    pub fn answer(self, status: u16) {
        self.answer_with(status, &[]);
    }

    pub fn answer_with(self, status: u16, headers: &[(&'static str, &str)]) {
        let mut response = StatusCode::from_u16(status).expect("a status").into_response();
        for (name, value) in headers {
            response.headers_mut().insert(*name, value.parse().expect("a value"));
        }
        // The sender may have given up.
        let _ = self.answer.send(response);
    }

    /// Answers 200 with a body.
    pub fn answer_with_body(self, body: Body) {
        let _ = self.answer.send(body.into_response());
    }

    /// Whether one of the signatures was made with `secret`, and the timestamp is of the last minute. This is the check
    /// of the specification, without Pregón's code.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let key = BASE64_STANDARD.decode(secret.strip_prefix("whsec_").expect("its prefix")).expect("base64");
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key");
        mac.update(format!("{}.{}.", self.id, self.timestamp).as_bytes());
        mac.update(&self.body);
        let expected = format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()));
        let age = now().seconds().abs_diff(self.timestamp);
        age <= 60 && self.header("webhook-signature").split(' ').any(|signature| signature == expected)
    }
}

/// An API server, and the deliveries of workers.
pub struct Stage {
    pub api: Api,
    /// The settings of the workers that are started from now on.
    pub settings: DeliverySettings,
    feed: FeedLimits,
    subscribers: Vec<Subscriber>,
    workers: usize,
}

/// A worker that delivers. It stops when dropped.
pub struct Deliveries(#[expect(dead_code, reason = "it is dropped")] DropGuard);

impl Stage {
    pub async fn start(subscribers: Vec<Subscriber>) -> Self {
        Self::start_with(1, subscribers).await
    }

    /// A stage whose feed has several streams.
    pub async fn start_with(partitions: u16, subscribers: Vec<Subscriber>) -> Self {
        let feed = FeedLimits { partitions: NonZeroU16::new(partitions).expect("not 0"), ..FEED };
        let api = Api::start_with(Some(feed), subscribers.clone()).await;
        Self { api, settings: settings(), feed, subscribers, workers: 0 }
    }

    /// A stage with one receiver, whose subscriber `crm` is changed by `change`, and a worker that delivers to it.
    pub async fn with_receiver(change: impl FnOnce(&mut Subscriber)) -> (Self, Receiver, Deliveries) {
        let receiver = Receiver::start().await;
        let mut crm = subscriber("crm", &receiver.url);
        change(&mut crm);
        let mut stage = Self::start(vec![crm]).await;
        let deliveries = stage.deliver().await;
        (stage, receiver, deliveries)
    }

    /// Starts a worker that delivers to every subscriber. Returns when its deliveries have begun.
    pub async fn deliver(&mut self) -> Deliveries {
        self.workers += 1;
        let stop = CancellationToken::new();
        for subscriber in &self.subscribers {
            let store = self.api.store.clone();
            let clock = Arc::new(Clock::start(&store).await.expect("a clock"));
            let worker = format!("worker-{}", self.workers);
            let delivery = Delivery::new(subscriber.clone(), store, clock, worker, self.settings.clone());
            let delivery = delivery.expect("a client");
            tokio::spawn(delivery.run(stop.clone()));
        }
        crate::support::until("every subscriber has a position", async || {
            self.list().await.iter().all(|subscriber| !subscriber["position"].is_null())
        })
        .await;
        Deliveries(stop.drop_guard())
    }

    /// Writes events with these ids.
    pub async fn tell(&self, ids: &[&str]) {
        let events: Vec<String> = ids.iter().map(|id| event(id, "recipient.read").to_string()).collect();
        self.api.store.append_events(None, &events).await.expect("redis");
    }

    /// The subscribers, as the API lists them.
    pub async fn list(&self) -> Vec<Value> {
        self.api.read("/v1/subscribers").await["subscribers"].as_array().expect("a list").clone()
    }

    /// The first subscriber, as the API lists it.
    pub async fn first(&self) -> Value {
        self.list().await.swap_remove(0)
    }

    /// Waits until everything was delivered to the first subscriber.
    pub async fn until_delivered(&self) {
        crate::support::until("all is delivered", async || self.first().await["lag_events"] == 0).await;
    }

    /// Posts to the API. Returns the subscriber in the response.
    pub async fn post(&self, path: &str) -> Value {
        let answer = self.api.post(&format!("/v1/subscribers/{path}")).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.body
    }

    /// The place of every event in the first stream, with its type.
    pub async fn stored(&self) -> Vec<(String, Value)> {
        let after = Default::default();
        let events = self.api.store.events_after(0, after, 1_000).await.expect("redis");
        events
            .into_iter()
            .map(|event| (event.id.to_string(), serde_json::from_str(&event.event).expect("JSON")))
            .collect()
    }

    /// Removes the oldest events, except `kept` of them.
    pub async fn remove_all_but(&self, kept: usize) {
        let mut trim = deadpool_redis::redis::cmd("XTRIM");
        trim.arg(self.api.store.keys.events(0, self.feed.partitions.get())).arg("MAXLEN").arg(kept);
        self.api.store.query::<u64>("XTRIM", &trim).await.expect("redis");
    }
}

fn settings() -> DeliverySettings {
    DeliverySettings {
        lease: Duration::from_secs(5),
        timeout: Duration::from_secs(15),
        retry: RetryPolicy::new(Duration::from_millis(20), 2.0, Duration::from_millis(100), 15).expect("a policy"),
        poll: Duration::from_millis(10),
        stop_timeout: Duration::ZERO,
    }
}

/// An event as a writer of the feed makes it.
pub fn event(id: &str, kind: &str) -> Value {
    json!({ "id": id, "type": kind, "at": "2026-11-29T12:00:00Z", "line": "3001", "to": "+5491155550001" })
}

/// The id of an event.
pub fn event_id(event: &Value) -> String {
    event["id"].as_str().expect("an id").to_owned()
}
