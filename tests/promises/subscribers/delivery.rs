//! Deliveries: which events arrive, in which order and form.

use std::{convert::Infallible, time::Duration};

use axum::body::Body;
use futures_util::stream;
use pregon::{
    domain::{EventType, Secret},
    subscribers::SigningKey,
};
use serde_json::{Value, json};

use super::kit::{Stage, WEBHOOK_SECRET, event, event_id, subscriber};
use crate::support::{hooks::now, receiver::Receiver, until};

#[tokio::test]
async fn events_arrive_signed_and_in_order() {
    let (stage, mut receiver, _deliveries) = Stage::with_receiver(|_| ()).await;
    let ids = ["a.1", "b.2", "c.3", "d.4", "e.5"];
    stage.tell(&ids).await;
    for id in ids {
        let webhook = receiver.next().await;
        assert_eq!(webhook.json(), event(id, "recipient.read"));
        assert_eq!(webhook.id(), id);
        assert!(webhook.is_signed_with(WEBHOOK_SECRET), "{webhook:?}");
        assert!(!webhook.is_signed_with("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"));
        assert_eq!(webhook.header("content-type"), "application/json");
        assert!(webhook.header("user-agent").starts_with("pregon/"));
        webhook.answer(if id == "b.2" { 204 } else { 200 });
    }
    stage.until_delivered().await;
    let crm = stage.first().await;
    let newest = stage.stored().await.pop().expect("events").0;
    assert_eq!((&crm["position"], &crm["enabled"], &crm["lag_seconds"]), (&json!(newest), &json!(true), &json!(0.0)));
    assert!(receiver.is_idle());
}

#[tokio::test]
async fn a_new_subscriber_starts_with_new_events() {
    let mut receiver = Receiver::start().await;
    let mut stage = Stage::start(vec![subscriber("crm", &receiver.url)]).await;
    stage.tell(&["old"]).await;
    assert_eq!(stage.first().await["position"], Value::Null);
    let _deliveries = stage.deliver().await;
    stage.tell(&["new"]).await;
    assert_eq!(event_id(&receiver.accept().await), "new");
}

#[tokio::test]
async fn a_failed_webhook_is_repeated_with_the_same_id() {
    let (stage, mut receiver, _deliveries) = Stage::with_receiver(|_| ()).await;
    stage.tell(&["a", "b"]).await;
    let first = receiver.next().await;
    let (body, began) = (first.body.clone(), now().seconds());
    first.answer(500);
    for status in [404, 429, 503] {
        let again = receiver.next().await;
        assert_eq!((again.id(), &again.body), ("a", &body), "before {status}");
        assert!(again.timestamp() >= began && again.is_signed_with(WEBHOOK_SECRET), "{again:?}");
        let crm = stage.first().await;
        assert!(crm["failing_since"].is_string() && crm["last_error"].is_string(), "{crm}");
        assert_eq!(crm["lag_events"], 2);
        again.answer_with(status, &[("retry-after", "0")]);
    }
    assert_eq!(receiver.accept_until("b").await, ["a", "b"]);
    stage.until_delivered().await;
    let crm = stage.first().await;
    assert_eq!((crm.get("failing_since"), crm.get("last_error")), (None, None), "{crm}");
}

#[tokio::test]
async fn a_webhook_without_an_answer_is_repeated() {
    let mut receiver = Receiver::start().await;
    let mut stage = Stage::start(vec![subscriber("crm", &receiver.url)]).await;
    stage.settings.timeout = Duration::from_millis(50);
    let _deliveries = stage.deliver().await;
    stage.tell(&["a"]).await;
    drop(receiver.next().await);
    let again = receiver.next().await;
    assert_eq!(again.id(), "a");
    assert_eq!(stage.first().await["last_error"], "no response within 50ms");
}

#[tokio::test]
async fn a_long_answer_is_not_read() {
    let mut receiver = Receiver::start().await;
    let mut stage = Stage::start(vec![subscriber("crm", &receiver.url)]).await;
    let _deliveries = stage.deliver().await;
    stage.tell(&["a", "b"]).await;
    // The body of the answer never ends.
    receiver
        .next()
        .await
        .answer_with_body(Body::from_stream(stream::repeat(Ok::<_, Infallible>([b'x'; 65_536].to_vec()))));
    assert_eq!(event_id(&receiver.accept().await), "b");
}

#[tokio::test]
async fn a_batch_is_a_list_whose_repeat_has_the_same_id() {
    let mut receiver = Receiver::start().await;
    let mut crm = subscriber("crm", &receiver.url);
    crm.batch = 3;
    let mut stage = Stage::start(vec![crm]).await;
    drop(stage.deliver().await);
    // Written before the deliveries begin, so that each batch but the last is full.
    stage.tell(&["a", "b", "c", "d", "e", "f", "g"]).await;
    let _deliveries = stage.deliver().await;
    let mut ids = Vec::new();
    for expected in [&["a", "b", "c"][..], &["d", "e", "f"], &["g"]] {
        let first = receiver.next().await;
        let (id, body) = (first.id().to_owned(), first.body.clone());
        first.answer(500);
        let webhook = receiver.next().await;
        assert_eq!((webhook.id(), &webhook.body), (&id[..], &body));
        assert!(webhook.is_signed_with(WEBHOOK_SECRET));
        let events: Vec<String> = webhook.json().as_array().expect("a list").iter().map(event_id).collect();
        assert_eq!(events, expected);
        assert!(!ids.contains(&id), "{id} names two batches");
        ids.push(id);
        webhook.answer(200);
    }
    stage.until_delivered().await;
}

#[tokio::test]
async fn only_wanted_types_arrive_and_the_others_cause_no_lag() {
    let (stage, mut receiver, _deliveries) =
        Stage::with_receiver(|crm| crm.types = Some([EventType::RecipientFailed].into())).await;
    let kinds = ["recipient.read", "recipient.failed", "sky.fell", "recipient.failed", "recipient.read"];
    let events = kinds.iter().zip(1..).map(|(kind, number)| event(&number.to_string(), kind).to_string());
    stage.api.store.append_events(None, &events.collect::<Vec<_>>()).await.expect("redis");
    assert_eq!(receiver.accept_until("4").await, ["2", "4"]);
    stage.until_delivered().await;
    assert_eq!(stage.first().await["types"], json!(["recipient.failed"]));
}

#[tokio::test]
async fn an_entry_that_is_no_event_is_passed_over() {
    let (stage, mut receiver, _deliveries) = Stage::with_receiver(|_| ()).await;
    stage.api.store.append_events(None, &["{".into(), "[]".into()]).await.expect("redis");
    stage.tell(&["a"]).await;
    assert_eq!(receiver.accept_until("a").await, ["a"]);
}

#[tokio::test]
async fn removed_events_are_told_as_a_gap() {
    let (stage, mut receiver, deliveries) =
        Stage::with_receiver(|crm| crm.types = Some([EventType::RecipientRead].into())).await;
    stage.tell(&["a"]).await;
    receiver.accept().await;
    stage.until_delivered().await;
    drop(deliveries);
    let after = stage.first().await["position"].clone();
    stage.tell(&["b", "c", "d"]).await;
    stage.remove_all_but(1).await;
    let next = stage.stored().await.remove(0).0;

    let mut stage = stage;
    let _deliveries = stage.deliver().await;
    let gap = receiver.next().await;
    let json = gap.json();
    assert_eq!((&json["type"], &json["after"], &json["next"]), (&json!("feed.gap"), &after, &json!(next)), "{json}");
    assert!(json["at"].is_string() && gap.id() == event_id(&json), "{json}");
    gap.answer(500);
    let gap = receiver.next().await;
    assert_eq!(gap.json(), json, "the repeat");
    gap.answer(200);
    assert_eq!(receiver.accept_until("d").await, ["d"]);
    stage.until_delivered().await;
}

#[tokio::test]
async fn both_secrets_sign_while_one_replaces_the_other() {
    let old = "whsec_b2xkLW9sZC1vbGQtb2xkLW9sZC1vbGQtb2xk";
    let (stage, mut receiver, _deliveries) =
        Stage::with_receiver(|crm| crm.keys.push(SigningKey::parse(&Secret::new(old)).expect("a key"))).await;
    stage.tell(&["a"]).await;
    let webhook = receiver.next().await;
    assert!(webhook.is_signed_with(WEBHOOK_SECRET) && webhook.is_signed_with(old), "{webhook:?}");
    assert_eq!(webhook.header("webhook-signature").split(' ').count(), 2);
}

#[tokio::test]
async fn a_dead_subscriber_delays_no_other() {
    let (mut alive, mut silent) = (Receiver::start().await, Receiver::start().await);
    let unreachable = "http://127.0.0.1:9/hook";
    let urls = [("silent", &silent.url[..]), ("unreachable", unreachable), ("alive", &alive.url)];
    let mut stage = Stage::start(urls.map(|(id, url)| subscriber(id, url)).into()).await;
    let _deliveries = stage.deliver().await;
    stage.tell(&["a", "b", "c"]).await;
    // This subscriber never answers.
    let _waiting = silent.next().await;
    assert_eq!(alive.accept_until("c").await, ["a", "b", "c"]);
    until("the lag of each is shown", async || {
        let lags: Vec<Value> = stage.list().await.into_iter().map(|mut one| one["lag_events"].take()).collect();
        lags == [3, 3, 0].map(Value::from)
    })
    .await;
}

#[tokio::test]
async fn events_of_every_stream_arrive_in_the_order_of_their_stream() {
    let mut receiver = Receiver::start().await;
    let mut crm = subscriber("crm", &receiver.url);
    crm.batch = 2;
    let mut stage = Stage::start_with(3, vec![crm]).await;
    let _deliveries = stage.deliver().await;
    for number in 0..4 {
        for partition in 0..3 {
            let told = event(&format!("{partition}-{number}"), "recipient.read").to_string();
            stage.api.store.append_to(partition, &[told]).await.expect("redis");
        }
    }
    let mut by_stream: [Vec<String>; 3] = Default::default();
    while by_stream.iter().map(Vec::len).sum::<usize>() < 12 {
        for event in receiver.accept().await.as_array().expect("a list") {
            let id = event_id(event);
            let stream: usize = id[..1].parse().expect("the number of its stream");
            by_stream[stream].push(id);
        }
    }
    for (stream, ids) in by_stream.iter().enumerate() {
        assert_eq!(*ids, [0, 1, 2, 3].map(|number| format!("{stream}-{number}")));
    }
    stage.until_delivered().await;
    assert_eq!(stage.first().await["position"].as_str().expect("a position").split(',').count(), 3);
}
