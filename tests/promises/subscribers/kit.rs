//! The set-up of these tests: an API server, workers that deliver, and a receiver.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use pregon::{
    domain::RetryPolicy,
    redis::{clock::Clock, feed::FeedLimits},
    subscribers::{Delivery, DeliverySettings, Subscriber},
};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use crate::api::harness::{FEED, WEBHOOK_SECRET, subscriber};
use crate::{api::harness::Api, support::receiver::Receiver};

/// An API server, and the subscribers to whom workers deliver.
pub struct Stage {
    pub api: Api,
    /// The settings of workers that are started later.
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

    /// A stage whose feed has this many streams.
    pub async fn start_with(partitions: u16, subscribers: Vec<Subscriber>) -> Self {
        let feed = FeedLimits { partitions: NonZeroU16::new(partitions).expect("not 0"), ..FEED };
        let api = Api::start_with(Some(feed), subscribers.clone()).await;
        Self { api, settings: settings(), feed, subscribers, workers: 0 }
    }

    /// A stage with one receiver and a worker that delivers to it. `change` edits its subscriber, `crm`.
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

    /// The position of every event in the first stream, with the event.
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

/// An event in the form in which the feed has it.
pub fn event(id: &str, kind: &str) -> Value {
    json!({ "id": id, "type": kind, "at": "2026-11-29T12:00:00Z", "line": "3001", "to": "+5491155550001" })
}

/// The id of an event.
pub fn event_id(event: &Value) -> String {
    event["id"].as_str().expect("an id").to_owned()
}
