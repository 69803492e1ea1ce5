//! Another process takes over the deliveries.

use std::time::Duration;

use pregon::redis::{Store, position::Position, subscribers::DeliveryChange};

use super::kit::{FEED, Stage, event, subscriber};
use crate::support::{self, receiver::Receiver, redis::TestRedis, server::Installation, world};

#[tokio::test]
async fn a_killed_process_repeats_at_most_the_unconfirmed_webhook() {
    let (redis, mut receiver) = (TestRedis::start().await, Receiver::start().await);
    let subscriber = format!(
        "[[subscriber]]\nid = \"crm\"\nurl = \"{}\"\nsecret = {{ env = \"CRM\" }}\nallow_private = true\nbatch = 2\n",
        receiver.url
    );
    let installation = Installation::new(&redis, "http://127.0.0.1:9", &[], "").with(&subscriber);
    let environment = [("CRM", super::kit::WEBHOOK_SECRET)];
    let first = installation.serve_with("first", "api", &environment).await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store").with_feed(Some(FEED));
    support::until("the subscriber has a position", async || {
        !first.api().get("subscribers").await["subscribers"][0]["position"].is_null()
    })
    .await;
    let tell = async |ids: &[&str]| {
        let events: Vec<String> = ids.iter().map(|id| event(id, "recipient.read").to_string()).collect();
        store.append_events(None, &events).await.expect("redis");
    };
    tell(&["a", "b", "c", "d", "e"]).await;
    let ids = |webhook: &serde_json::Value| -> Vec<String> {
        webhook.as_array().expect("a list").iter().map(super::kit::event_id).collect()
    };
    assert_eq!(ids(&receiver.accept().await), ["a", "b"]);
    let unconfirmed = receiver.next().await;
    assert_eq!(ids(&unconfirmed.json()), ["c", "d"]);
    let second = installation.serve_with("second", "api", &environment).await;
    first.signal("KILL");

    let repeated = receiver.next().await;
    assert_eq!((repeated.id(), &repeated.body), (unconfirmed.id(), &unconfirmed.body));
    repeated.answer(200);
    assert_eq!(ids(&receiver.accept().await), ["e"]);
    tell(&["f"]).await;
    assert_eq!(ids(&receiver.accept().await), ["f"]);
    assert!(receiver.is_idle(), "{}", second.log());
}

#[tokio::test]
async fn a_stop_waits_for_the_webhook_in_flight() {
    let mut receiver = Receiver::start().await;
    let mut stage = Stage::start(vec![subscriber("crm", &receiver.url)]).await;
    stage.settings.stop_timeout = Duration::from_secs(600);
    let first = stage.deliver().await;
    stage.tell(&["a", "b"]).await;
    let in_flight = receiver.next().await;
    drop(first);
    in_flight.answer(200);
    let _second = stage.deliver().await;
    assert_eq!(receiver.accept_until("b").await, ["b"]);
}

#[tokio::test]
async fn a_success_while_redis_is_away_is_not_repeated() {
    let mut receiver = Receiver::start().await;
    let mut stage = Stage::start(vec![subscriber("crm", &receiver.url)]).await;
    // A lease that outlasts the outage.
    stage.settings.lease = Duration::from_secs(60);
    let _deliveries = stage.deliver().await;
    stage.tell(&["a", "b"]).await;
    let in_flight = receiver.next().await;
    stage.api.redis.kill_hard().await;
    in_flight.answer(200);
    stage.api.redis.restart().await;
    assert_eq!(receiver.accept_until("b").await, ["b"]);
}

#[tokio::test]
async fn a_worker_that_lost_its_right_moves_no_position() {
    let stage = Stage::start(vec![subscriber("crm", "http://127.0.0.1:9/")]).await;
    let (store, id) = (&stage.api.store, "crm".into());
    stage.tell(&["a", "b"]).await;
    let begin = async |name: &str| store.begin_delivery(&id, name).await.expect("redis").expect("a feed");
    let (first, second) = (begin("first").await, begin("second").await);
    let oldest = Position::oldest(FEED);
    let told = DeliveryChange::Told(&oldest);
    assert!(!store.settle_delivery(&id, &first, &told).await.expect("redis"));
    assert!(!store.settle_delivery(&id, &first, &DeliveryChange::Disabled { because: "x" }).await.expect("redis"));
    assert_eq!(stage.first().await["lag_events"], 0);
    assert!(store.settle_delivery(&id, &second, &told).await.expect("redis"));
    assert_eq!(stage.first().await["lag_events"], 2);
}

#[tokio::test]
async fn a_reload_adds_and_removes_subscribers_while_events_flow() {
    let (redis, mut crm, mut audit) = (TestRedis::start().await, Receiver::start().await, Receiver::start().await);
    let table = |id: &str, receiver: &Receiver| {
        format!(
            "[[subscriber]]\nid = \"{id}\"\nurl = \"{}\"\nsecret = {{ env = \"CRM\" }}\nallow_private = true\n",
            receiver.url
        )
    };
    let (of_crm, of_audit) = (table("crm", &crm), table("audit", &audit));
    let installation = Installation::new(&redis, "http://127.0.0.1:9", &[], "").with(&of_crm);
    let worker = installation.serve_with("worker", "api", &[("CRM", super::kit::WEBHOOK_SECRET)]).await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store").with_feed(Some(FEED));
    let tell = async |id: &str| {
        store.append_events(None, &[event(id, "recipient.read").to_string()]).await.expect("redis");
    };
    let begun = async |n: usize| {
        support::until("every subscriber has a position", async || {
            let listed = worker.api().get("subscribers").await["subscribers"].as_array().expect("a list").clone();
            listed.len() == n && listed.iter().all(|subscriber| !subscriber["position"].is_null())
        })
        .await;
    };
    let deliverer = async || {
        let crm = store.subscribers(&[&"crm".into()]).await.expect("redis").remove(0);
        crm.expect("it has begun").deliverer
    };
    begun(1).await;
    let before = deliverer().await;
    installation.edit("worker", &of_crm, &format!("{of_crm}{of_audit}"));
    worker.signal("HUP");
    worker.logged(1, "configuration reloaded").await;
    begun(2).await;
    assert_eq!(deliverer().await, before, "the delivery to a subscriber that has not changed goes on");

    tell("a").await;
    let in_flight = crm.next().await;
    let changed = format!("{of_crm}disable_after = \"1h\"\n");
    installation.edit("worker", &of_crm, &changed);
    worker.signal("HUP");
    worker.logged(1, "subscribers changed: crm (disable_after)").await;
    // The delivery that was in flight ends first, and is not repeated.
    in_flight.answer(200);
    tell("b").await;
    assert_eq!(crm.accept_until("b").await, ["b"]);
    assert_eq!(audit.accept_until("b").await, ["a", "b"]);
    assert_ne!(deliverer().await, before, "the changed subscriber has a new delivery");

    installation.edit("worker", &changed, "");
    worker.signal("HUP");
    worker.logged(3, "configuration reloaded").await;
    begun(1).await;
    tell("c").await;
    assert_eq!(audit.accept_until("c").await, ["c"]);
    assert!(crm.is_idle(), "{}", worker.log());
}
