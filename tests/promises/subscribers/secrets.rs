//! Secrets of subscribers are in no log and no answer.

use super::kit::{Stage, WEBHOOK_SECRET};
use crate::support::{alone::runs_alone, log::Log};

/// Runs in a process of its own, because it installs the global log subscriber.
#[tokio::test]
async fn no_secret_of_a_subscriber_is_in_logs_or_responses() {
    if !runs_alone(module_path!(), "no_secret_of_a_subscriber_is_in_logs_or_responses") {
        return;
    }
    let log = Log::of_all_levels();

    let (stage, mut receiver, _deliveries) = Stage::with_receiver(|crm| {
        let url = crm.endpoint.url.expose().as_str().replace("http://", "http://user:hunter2@");
        crm.endpoint.url = format!("{url}?token=hunter2").parse().expect("a URL");
    })
    .await;
    stage.tell(&["a"]).await;
    let webhook = receiver.next().await;
    assert!(webhook.header("authorization").starts_with("Basic "));
    let signature = webhook.header("webhook-signature").to_owned();
    webhook.answer(500);
    receiver.next().await.answer(410);
    crate::support::until("the subscriber is disabled", async || stage.first().await["enabled"] == false).await;

    let crm = stage.first().await;
    assert_eq!(crm["url"], receiver.url);
    let log = log.take();
    assert!(log.contains("subscriber disabled"), "the log has the events of the deliveries");
    let key = WEBHOOK_SECRET.strip_prefix("whsec_").expect("its prefix");
    for secret in ["hunter2", key, &signature] {
        for (place, text) in [("log", &log), ("answer", &crm.to_string())] {
            let line = text.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{secret} in the {place}");
        }
    }
}
