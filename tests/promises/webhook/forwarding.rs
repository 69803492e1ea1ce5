//! Meta's webhooks are forwarded to other systems of the operator, byte by byte as they came.

use std::{convert::Infallible, time::Duration};

use metrics_exporter_prometheus::PrometheusBuilder;
use pregon::{
    domain::RetryPolicy,
    endpoint::Endpoint,
    webhook::forward::{ForwardSettings, ForwardTarget, Forwards},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{
    hooks::{Hooks, inbound, signature, statuses},
    http_client,
    receiver::Receiver,
    redis::TestRedis,
    server::Installation,
    until,
};

/// A webhook that a parser and writer would change: it has escapes, blanks and an unknown field.
const BODY: &[u8] = br#"{ "object":"whatsapp_business_account","entry":[{"id":"2001","changes":[{"field":"flows", "value":{"name":"\u00e9\ud83d"}}]}],"x":1.0 }"#;

/// A receiver of Meta's webhooks that forwards them.
struct Stage {
    hooks: Hooks,
    target: Receiver,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Infallible>>,
}

impl Stage {
    async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    async fn start_with(change: impl FnOnce(&mut ForwardSettings)) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (target, stop) = (Receiver::start().await, CancellationToken::new());
        let endpoint = Endpoint { url: target.url.parse().expect("a URL"), allow_private: true };
        let mut settings = ForwardSettings {
            timeout: Duration::from_secs(15),
            retry: RetryPolicy::new(Duration::from_millis(20), 2.0, Duration::from_millis(100), 10).expect("a policy"),
            bytes_max: 1 << 20,
            stop_timeout: Duration::from_secs(15),
        };
        change(&mut settings);
        let (forwards, task) =
            Forwards::new(ForwardTarget { id: "analytics".into(), endpoint }, settings, stop.clone())
                .expect("a client");
        let hooks = Hooks::start_forwarding(None, vec![forwards]).await;
        Self { hooks, target, stop, task: tokio::spawn(task) }
    }
}

#[tokio::test]
async fn a_webhook_is_forwarded_unchanged_with_its_signature() {
    let mut stage = Stage::start().await;
    for body in [BODY, b"{", b"\xff"] {
        assert_eq!(stage.hooks.deliver_bytes(body).await, 200);
        let forwarded = stage.target.next().await;
        assert_eq!(forwarded.body, body);
        assert_eq!(forwarded.header("x-hub-signature-256"), signature(body));
        assert_eq!(forwarded.header("content-type"), "application/json");
        forwarded.answer(200);
    }
}

#[tokio::test]
async fn what_is_not_metas_or_not_stored_is_not_forwarded() {
    let mut stage = Stage::start().await;
    assert_eq!(stage.hooks.deliver_with(&signature(b"another body"), BODY).await, 401);
    let message = serde_json::json!({"from": "5491155550101", "id": "wamid.in", "timestamp": "1795984075",
        "type": "text", "text": {"body": "hello"}});
    let unstored = serde_json::to_vec(&inbound("3001", &[message])).expect("JSON");
    stage.hooks.redis.kill_hard().await;
    assert_eq!(stage.hooks.deliver_bytes(&unstored).await, 503);
    stage.hooks.redis.restart().await;
    until("the webhook is stored", async || stage.hooks.deliver_bytes(&unstored).await == 200).await;
    let forwarded = stage.target.next().await;
    assert_eq!(forwarded.body, unstored, "it is forwarded once it is answered 200");
    forwarded.answer(200);
    assert!(stage.target.is_idle());
}

#[tokio::test]
async fn a_failed_forward_is_repeated_and_holds_up_no_other() {
    let mut stage = Stage::start().await;
    assert_eq!(stage.hooks.deliver_bytes(BODY).await, 200);
    for status in [500, 404, 302, 429] {
        let forwarded = stage.target.next().await;
        assert_eq!(forwarded.body, BODY, "before {status}");
        forwarded.answer(status);
    }
    let unanswered = stage.target.next().await;
    assert_eq!(stage.hooks.deliver_bytes(b"[]").await, 200);
    let other = stage.target.next().await;
    assert_eq!(other.body, &b"[]"[..]);
    other.answer(200);
    unanswered.answer(200);
}

#[tokio::test]
async fn a_target_that_never_answers_delays_no_webhook_and_bounds_memory() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let _local = metrics::set_default_local_recorder(&recorder);
    let stage = Stage::start_with(|settings| settings.bytes_max = 100_000).await;
    let (id, messages) = stage.hooks.campaign(&["3001"], 200).await;
    stage.hooks.accept(&messages[&"3001".into()]).await;
    for message in &messages[&"3001".into()] {
        let read = statuses("3001", &[stage.hooks.status(message, "read")]);
        assert_eq!(stage.hooks.deliver(&read).await, 200);
    }
    let read = stage.hooks.by_state(id).await[&pregon::domain::State::Read];
    assert_eq!(read, 200, "every status counts");
    let page = page.render();
    let value = |series: &str| -> u64 {
        let line =
            page.lines().find_map(|line| line.strip_prefix(series)).unwrap_or_else(|| panic!("{series}:\n{page}"));
        line.trim().parse().expect("a number")
    };
    let (full, waiting) = (
        value("pregon_forwards_total{target=\"analytics\",result=\"full\"}"),
        value("pregon_forwards_waiting{target=\"analytics\"}"),
    );
    assert_eq!(full + waiting, 200, "{page}");
    assert!((1..100).contains(&waiting), "100 kB hold fewer than 100 webhooks: {waiting}");
}

#[tokio::test]
async fn a_stop_waits_for_attempts_in_progress_and_repeats_none() {
    let mut stage = Stage::start().await;
    assert_eq!(stage.hooks.deliver_bytes(BODY).await, 200);
    assert_eq!(stage.hooks.deliver_bytes(b"[]").await, 200);
    let (first, second) = (stage.target.next().await, stage.target.next().await);
    stage.stop.cancel();
    stage.hooks.stop().await;
    assert!(!stage.task.is_finished());
    first.answer(500);
    second.answer(200);
    stage.task.await.expect("no panic").expect("a clean end");
    assert!(stage.target.is_idle());
}

/// A stop waits at most `stop_timeout` for a target that does not answer.
#[tokio::test]
async fn a_stop_leaves_a_target_that_does_not_answer() {
    let mut stage = Stage::start_with(|settings| settings.stop_timeout = Duration::from_millis(50)).await;
    assert_eq!(stage.hooks.deliver_bytes(BODY).await, 200);
    let _unanswered = stage.target.next().await;
    stage.stop.cancel();
    stage.task.await.expect("no panic").expect("a clean end");
}

/// If a worker's own address is the target by mistake, it gets each webhook back once, and does not forward it again.
#[tokio::test]
async fn a_webhook_that_pregon_forwarded_is_not_forwarded_again() {
    let mut stage = Stage::start().await;
    let request = |via: &'static str| {
        let request = stage.hooks.client.post(&stage.hooks.url).header("x-hub-signature-256", signature(BODY));
        request.header("via", via).body(BODY).send()
    };
    for via in ["1.1 pregon", "1.1 pregon, 1.1 proxy", "HTTP/1.1 proxy,1.1 Pregon (a comment)"] {
        assert_eq!(request(via).await.expect("an answer").status(), 200);
    }
    assert_eq!(request("1.1 proxy").await.expect("an answer").status(), 200);
    let forwarded = stage.target.next().await;
    assert_eq!(forwarded.header("via"), "1.1 pregon");
    forwarded.answer(200);
    assert!(stage.target.is_idle());
}

#[tokio::test]
async fn a_worker_forwards_to_what_its_configuration_names() {
    let (redis, mut target) = (TestRedis::start().await, Receiver::start().await);
    let forward = format!("[[webhook.forward]]\nid = \"a\"\nurl = \"{}\"\nallow_private = true\n", target.url);
    let installation = Installation::new(&redis, "http://127.0.0.1:9", &[("3001", 80.0)], "").with(&forward);
    let mut worker = installation.serve("w1", "webhook").await;
    let request = http_client().post(worker.webhook()).header("x-hub-signature-256", signature(BODY)).body(BODY);
    assert_eq!(request.send().await.expect("an answer").status(), 200);
    let forwarded = target.next().await;
    assert_eq!(forwarded.body, BODY);
    worker.signal("TERM");
    forwarded.answer(200);
    assert!(worker.ended().await.success(), "{}", worker.log());
}
