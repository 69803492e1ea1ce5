//! Subscribers that are disabled, and enabled again.

use serde_json::{Value, json};

use super::kit::{Stage, event_id};
use crate::support::until;

async fn until_disabled(stage: &Stage) -> Value {
    until("the subscriber is disabled", async || stage.first().await["enabled"] == false).await;
    stage.first().await
}

#[tokio::test]
async fn status_410_disables_a_subscriber_until_it_is_enabled() {
    let (stage, mut receiver, _deliveries) = Stage::with_receiver(|_| ()).await;
    stage.tell(&["a", "b", "c", "d"]).await;
    receiver.accept().await;
    receiver.next().await.answer(410);
    let crm = until_disabled(&stage).await;
    assert_eq!(crm["disabled_because"], "410 Gone");
    let event = stage.stored().await.pop().expect("events").1;
    assert_eq!(
        (&event["type"], &event["subscriber"], &event["reason"]),
        (&json!("subscriber.disabled"), &json!("crm"), &json!("410 Gone"))
    );
    // A disabled subscriber gets nothing, although events are removed from the feed.
    stage.remove_all_but(2).await;
    assert!(receiver.is_idle());

    let crm = stage.post("crm/enable").await;
    assert_eq!((&crm["enabled"], crm.get("failing_since")), (&json!(true), None));
    let gap = receiver.accept().await;
    assert_eq!(gap["type"], "feed.gap", "b and c were removed");
    assert_eq!(event_id(&receiver.accept().await), "d");
    assert_eq!(receiver.accept().await["type"], "subscriber.disabled");
    stage.until_delivered().await;
    let again = stage.post("crm/enable").await;
    assert_eq!(again, stage.first().await, "enabled already: nothing changes");
}

#[tokio::test]
async fn a_subscriber_that_fails_for_too_long_is_disabled() {
    let (stage, mut receiver, _deliveries) =
        Stage::with_receiver(|crm| crm.disable_after = std::time::Duration::from_millis(50)).await;
    stage.tell(&["a"]).await;
    let disabled = until_disabled(&stage);
    let failing = async {
        loop {
            receiver.next().await.answer(500);
        }
    };
    let crm = tokio::select! {
        crm = disabled => crm,
        () = failing => unreachable!("it never ends"),
    };
    let reason = crm["disabled_because"].as_str().expect("a reason");
    assert!(reason.starts_with("no delivery succeeded since 20"), "{reason}");
    assert!(reason.ends_with("the last one failed: 500 Internal Server Error"), "{reason}");
    assert_eq!(stage.stored().await.pop().expect("events").1["type"], "subscriber.disabled");

    stage.post("crm/enable").await;
    assert_eq!(event_id(&receiver.accept().await), "a");
    until("it does not fail", async || stage.first().await.get("failing_since").is_none()).await;
}

#[tokio::test]
async fn a_disabled_subscriber_stays_disabled_after_a_restart() {
    let (mut stage, mut receiver, deliveries) = Stage::with_receiver(|_| ()).await;
    stage.tell(&["a"]).await;
    receiver.next().await.answer(410);
    until_disabled(&stage).await;
    drop(deliveries);
    let deliverer = async |stage: &Stage| {
        let stored = stage.api.store.subscribers(&[&"crm".into()]).await.expect("redis").pop();
        stored.flatten().expect("a record").deliverer
    };
    let before = deliverer(&stage).await;
    let _deliveries = stage.deliver().await;
    until("another worker has taken over", async || deliverer(&stage).await != before).await;
    assert!(receiver.is_idle());
    assert_eq!(stage.first().await["enabled"], false);
    stage.post("crm/enable").await;
    assert_eq!(event_id(&receiver.accept().await), "a");
}
