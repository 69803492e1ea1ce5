//! Webhooks reach no private address, unless the subscriber allows it.

use serde_json::Value;

use super::kit::{Stage, event_id, subscriber};
use crate::support::{receiver::Receiver, until};

/// The stored error of the only subscriber.
async fn last_error(stage: &Stage) -> String {
    let mut error = Value::Null;
    until("the delivery fails", async || {
        error = stage.first().await["last_error"].take();
        error.is_string()
    })
    .await;
    error.as_str().expect("text").to_owned()
}

async fn refused(url: &str) -> String {
    let mut crm = subscriber("crm", url);
    crm.endpoint.allow_private = false;
    let mut stage = Stage::start(vec![crm]).await;
    let _deliveries = stage.deliver().await;
    stage.tell(&["a"]).await;
    last_error(&stage).await
}

#[tokio::test]
async fn a_private_address_in_the_url_gets_nothing() {
    let receiver = Receiver::start().await;
    for host in ["127.0.0.1", "127.1", "[::ffff:127.0.0.1]"] {
        let error = refused(&receiver.url.replace("127.0.0.1", host)).await;
        assert!(error.ends_with("which is not public: set allow_private if you mean it"), "{host}: {error}");
    }
    assert!(receiver.is_idle());
}

#[tokio::test]
async fn a_name_with_a_private_address_gets_nothing() {
    let receiver = Receiver::start().await;
    let error = refused(&receiver.url.replace("127.0.0.1", "localhost")).await;
    assert!(error.starts_with("localhost has the address "), "{error}");
    assert!(receiver.is_idle());
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Receiver::start().await;
    let (stage, mut receiver, _deliveries) = Stage::with_receiver(|_| ()).await;
    stage.tell(&["a"]).await;
    for status in [301, 302, 307, 308] {
        receiver.next().await.answer_with(status, &[("location", &elsewhere.url)]);
    }
    let error = last_error(&stage).await;
    assert!(error.contains(": redirects are not followed; set the url"), "{error}");
    assert_eq!(event_id(&receiver.accept().await), "a");
    assert!(elsewhere.is_idle());
}
