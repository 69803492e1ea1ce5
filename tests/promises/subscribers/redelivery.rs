//! `POST /v1/subscribers/{id}/redeliver`.

use pregon::domain::UnixMs;
use reqwest::Method;
use serde_json::json;

use super::kit::{Stage, event_id};
use crate::api::harness::{answer, key_of_business};

#[tokio::test]
async fn a_delivery_in_flight_does_not_undo_a_redelivery() {
    let (stage, mut receiver, _deliveries) = Stage::with_receiver(|_| ()).await;
    stage.tell(&["a", "b", "c"]).await;
    receiver.accept().await;
    receiver.accept().await;
    let in_flight = receiver.next().await;
    assert_eq!(in_flight.id(), "c");
    let crm = stage.post("crm/redeliver?from=0").await;
    assert_eq!((&crm["position"], &crm["lag_events"]), (&json!("0"), &json!(3)));
    in_flight.answer(200);
    assert_eq!(receiver.accept_until("c").await, ["a", "b", "c"]);
    stage.until_delivered().await;
}

#[tokio::test]
async fn a_redelivery_ends_the_wait_of_a_failing_subscriber() {
    let (stage, mut receiver, _deliveries) = Stage::with_receiver(|_| ()).await;
    stage.tell(&["a", "b"]).await;
    receiver.accept().await;
    // The subscriber asks for a pause of ten minutes.
    receiver.next().await.answer_with(503, &[("retry-after", "600")]);
    stage.post("crm/redeliver?from=0").await;
    assert_eq!(receiver.accept_until("b").await, ["a", "b"]);
}

#[tokio::test]
async fn a_redelivery_starts_at_a_position_or_a_time_and_skips_nothing() {
    let (stage, mut receiver, _deliveries) = Stage::with_receiver(|_| ()).await;
    stage.tell(&["a"]).await;
    let first = stage.stored().await.remove(0).0;
    let millisecond: u64 = first.split('-').next().and_then(|ms| ms.parse().ok()).expect("a time");
    let time = UnixMs(millisecond + 1);
    crate::support::until("a millisecond has passed", async || stage.api.store.time().await.expect("redis") >= time)
        .await;
    stage.tell(&["b", "c"]).await;
    receiver.accept_until("c").await;
    stage.until_delivered().await;

    for _ in 0..2 {
        stage.post(&format!("crm/redeliver?from={first}")).await;
        assert_eq!(receiver.accept_until("c").await, ["b", "c"]);
        stage.until_delivered().await;
    }
    stage.post(&format!("crm/redeliver?from={time}")).await;
    assert_eq!(receiver.accept_until("c").await, ["b", "c"], "written since {time}");
    stage.until_delivered().await;
    for ahead in ["99999999999999-9", "2100-01-01T00:00:00Z"] {
        let before = stage.first().await;
        let after = stage.post(&format!("crm/redeliver?from={ahead}")).await;
        assert_eq!(after, before, "{ahead} is not further back");
    }
    stage.tell(&["d"]).await;
    assert_eq!(event_id(&receiver.accept().await), "d");
}

#[tokio::test]
async fn a_redelivery_that_is_not_possible_says_why() {
    let stage = Stage::start(vec![super::kit::subscriber("crm", "http://127.0.0.1:9/")]).await;
    let post = async |path: &str| stage.api.post(&format!("/v1/subscribers/{path}")).await;
    for path in ["nobody/enable", "nobody/redeliver?from=0"] {
        let answer = post(path).await;
        assert_eq!(answer.problem(404, "subscriber-not-found"), "there is no subscriber nobody in the configuration");
    }
    for from in ["yesterday", "5-1,6-1", "", "2026-13-01T00:00:00Z"] {
        let answer = post(&format!("crm/redeliver?from={from}")).await;
        assert!(answer.problem(400, "invalid-query").starts_with(&format!("from is {from}; ")), "{answer:?}");
    }
    post("crm/redeliver").await.problem(400, "invalid-query");
}

#[tokio::test]
async fn a_key_limited_to_businesses_knows_no_subscriber() {
    let stage = Stage::start(vec![super::kit::subscriber("crm", "http://127.0.0.1:9/")]).await;
    let key = key_of_business("1001");
    let limited =
        |method, path: &str| stage.api.http.request(method, format!("{}{path}", stage.api.base)).bearer_auth(&key);
    let listed = answer(limited(Method::GET, "/v1/subscribers")).await;
    assert_eq!((listed.status.as_u16(), &listed.body["subscribers"]), (200, &json!([])));
    for action in ["redeliver?from=0", "enable"] {
        let refused = answer(limited(Method::POST, &format!("/v1/subscribers/crm/{action}"))).await;
        refused.problem(404, "subscriber-not-found");
    }
}
