//! Webhooks: accepted only with Meta's signature, and acknowledged only once they are stored in Redis.

use std::{collections::HashMap, time::Duration};

use deadpool_redis::redis::{AsyncCommands as _, cmd};
use futures_util::future::{FutureExt as _, join_all};
use metrics_exporter_prometheus::PrometheusBuilder;
use pregon::{
    domain::{Fact, HoldScope, MetaCode, News, State, UnixMs},
    webhook::{
        apply::{Committer, LocatedFact},
        follow_up::FollowUp,
    },
};
use serde_json::{Value, json};

use crate::support::{
    hooks::{self, Hooks, Message, VERIFY_TOKEN, inbound, now, payload, status_without_token, statuses},
    redis::TestRedis,
    server::Installation,
    until, world,
};

#[tokio::test]
async fn the_handshake_returns_only_the_challenge() {
    let hooks = Hooks::start().await;
    let ask = async |query: &str| {
        let answer = hooks.client.get(format!("{}?{query}", hooks.url)).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    };
    let good = format!("hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token={VERIFY_TOKEN}");
    assert_eq!(ask(&good).await, (200, "1158201444".into()));
    for bad in [
        good.replace(VERIFY_TOKEN, "verify-mE"),
        good.replace(VERIFY_TOKEN, ""),
        good.replace("subscribe", "unsubscribe"),
        "hub.mode=subscribe&hub.challenge=1".into(),
        "hub.mode=subscribe&hub.mode=subscribe".into(),
        String::new(),
    ] {
        assert_eq!(ask(&bad).await, (403, String::new()), "{bad}");
    }
    hooks.stop().await;
}

#[tokio::test]
async fn a_webhook_without_metas_signature_is_rejected() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 1).await;
    let message = &messages[&"3001".into()][0];
    let body = serde_json::to_vec(&statuses("3001", &[hooks.status(message, "sent")])).expect("JSON");
    let good = hooks::signature(&body);
    for bad in ["", "sha256=", &good[7..], &good[..70], &hooks::signature(b"another body")] {
        assert_eq!(hooks.deliver_with(bad, &body).await, 401, "{bad}");
    }
    let unsigned = hooks.client.post(&hooks.url).body(body.clone()).send().await.expect("an answer");
    assert_eq!(unsigned.status().as_u16(), 401);
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::InFlight, 1)]), "nothing moved");
    assert_eq!(hooks.deliver_with(&good, &body).await, 200);
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::Sent, 1)]));
    hooks.stop().await;
}

#[tokio::test]
async fn an_oversized_body_is_rejected_and_a_malformed_one_acknowledged() {
    let hooks = Hooks::start().await;
    let large = vec![b' '; hooks::BODY_BYTES_MAX + 1];
    assert_eq!(hooks.deliver_bytes(&large).await, 413);
    for body in [&large[1..], b"", b"{", b"[]", b"\xff", b"{}", br#"{"entry":[{"changes":[{"field":"flows"}]}]}"#] {
        assert_eq!(hooks.deliver_bytes(body).await, 200, "{} bytes", body.len());
    }
    hooks.stop().await;
}

#[tokio::test]
async fn a_webhook_during_a_redis_outage_is_503_and_counts_once_later() {
    let mut hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 2).await;
    let [named, unnamed] = messages[&"3001".into()][..] else { panic!("two") };
    hooks.accept([&named, &unnamed]).await;
    let bodies = [
        statuses("3001", &[hooks.status(&named, "sent")]),
        statuses("3001", &[status_without_token(&unnamed.wamid(), "failed 131026")]),
        serde_json::from_slice(include_bytes!("../../fixtures/webhooks/template_paused.json")).expect("JSON"),
    ];
    hooks.redis.stop().await;
    for body in &bodies {
        assert_eq!(hooks.deliver(body).await, 503);
    }
    let others = statuses("9999", &[status_without_token("wamid.x", "sent")]);
    assert_eq!(hooks.deliver(&others).await, 503, "the list of our lines is in Redis");
    hooks.redis.restart().await;
    for body in bodies.iter().chain(&bodies) {
        assert_eq!(hooks.deliver(body).await, 200);
        assert_eq!(hooks.by_state(id).await.values().sum::<u64>(), 2);
    }
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::Sent, 1), (State::Failed, 1)]));
    hooks.stop().await;
}

#[tokio::test]
async fn a_redis_restart_between_webhooks_fails_none_of_them() {
    let mut hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 1).await;
    let message = &messages[&"3001".into()][0];
    for word in ["sent", "delivered", "read"] {
        assert_eq!(hooks.deliver(&statuses("3001", &[hooks.status(message, word)])).await, 200, "{word}");
        hooks.redis.stop().await;
        hooks.redis.restart().await;
    }
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::Read, 1)]));
    hooks.stop().await;
}

/// A committer whose task the test runs itself, so that the test decides what is queued when the task starts.
fn committer(hooks: &Hooks) -> (Committer, impl Future<Output = ()> + use<>) {
    let (follow_up, _) = FollowUp::new(hooks.store.clone(), hooks.clock.clone());
    let (store, clock) = (hooks.store.clone(), hooks.clock.clone());
    Committer::new(store, clock, hooks::ID_RETENTION, world::INBOUND, follow_up, Default::default())
}

fn sent(message: &Message) -> LocatedFact {
    let fact = Fact { row: message.row, send: message.send, news: News::Sent, at: now(), message: None };
    LocatedFact { part: message.part, fact, details: "".into() }
}

#[tokio::test]
async fn waiting_requests_share_one_commit() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 200).await;
    let ours = &messages[&"3001".into()];
    hooks.accept(ours).await;
    let mut connection = hooks.redis.connection().await;
    let () = cmd("CONFIG").arg("RESETSTAT").query_async(&mut connection).await.expect("CONFIG");
    let (committer, task) = committer(&hooks);
    let commits = async {
        let requests = ours.iter().map(|message| committer.commit(vec![sent(message)].into()));
        let answers = join_all(requests).await;
        drop(committer);
        answers
    };
    let (answers, ()) = tokio::join!(commits, task);
    assert_eq!(answers, vec![Ok(()); 200]);
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::Sent, 200)]));
    let stats: String = cmd("INFO").arg("commandstats").query_async(&mut connection).await.expect("INFO");
    assert!(stats.contains("cmdstat_evalsha:calls=1,"), "{stats}");
    hooks.stop().await;
}

#[tokio::test]
async fn a_part_that_rejects_writes_delays_no_other_part() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001", "3002"], 80).await;
    let (good, bad) = (&messages[&"3001".into()][0], &messages[&"3002".into()][0]);
    hooks.accept([good, bad]).await;
    let (mut connection, key) = (hooks.redis.connection().await, hooks.store.keys.states(bad.part));
    let () = connection.rename(&key, "aside").await.expect("RENAME");
    let () = connection.lpush(&key, "no string").await.expect("LPUSH");
    let (committer, task) = committer(&hooks);
    let commits = async {
        let answers = tokio::join!(
            committer.commit(vec![sent(good)].into()),
            committer.commit(vec![sent(bad)].into()),
            committer.commit(vec![sent(&messages[&"3001".into()][1]), sent(bad)].into()),
        );
        drop(committer);
        answers
    };
    let (answers, ()) = tokio::join!(commits, task);
    assert!(matches!(answers, (Ok(()), Err(_), Err(_))), "{answers:?}");
    let () = connection.rename("aside", &key).await.expect("RENAME");
    let others = HashMap::from([(State::Sent, 2), (State::Accepted, 1), (State::InFlight, 77)]);
    assert_eq!(hooks.by_state(id).await, others);
    hooks.stop().await;
}

#[tokio::test]
async fn the_commit_queue_is_bounded() {
    let hooks = Hooks::start().await;
    let (_, messages) = hooks.campaign(&["3001"], 1).await;
    let (committer, _task) = committer(&hooks);
    let message = &messages[&"3001".into()][0];
    let mut waiting = Vec::new();
    let refused = loop {
        let mut commit = Box::pin(committer.commit(vec![sent(message)].into()));
        match commit.as_mut().now_or_never() {
            None => waiting.push(commit),
            Some(answer) => break answer,
        }
        assert!(waiting.len() < 100_000, "no bound");
    };
    assert!(refused.is_err());
    assert!(waiting.len() >= 1_000, "the bound is too low: {}", waiting.len());
    drop(waiting);
    let refused = committer.commit(vec![sent(message)].into()).now_or_never();
    assert!(matches!(refused, Some(Err(_))), "an abandoned commit still counts towards the bound");
    hooks.stop().await;
}

#[tokio::test]
async fn a_redis_outage_fails_all_waiting_commits_together() {
    const EACH: usize = 4_096;
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 1).await;
    let message = &messages[&"3001".into()][0];
    hooks.accept([message]).await;
    let mut connection = hooks.redis.connection().await;
    let () =
        cmd("CLIENT").arg("PAUSE").arg(600_000).arg("WRITE").query_async(&mut connection).await.expect("CLIENT PAUSE");
    // With the clock paused, time jumps to the next timer: the Redis timeout.
    tokio::time::pause();
    let (began, (committer, task)) = (tokio::time::Instant::now(), committer(&hooks));
    let commits = async {
        let requests = (0..8).map(|_| committer.commit(vec![sent(message); EACH].into()));
        let answers = join_all(requests).await;
        drop(committer);
        answers
    };
    let (answers, ()) = tokio::join!(commits, task);
    assert!(answers.iter().all(Result::is_err), "{answers:?}");
    let (waited, timeout) = (began.elapsed(), world::address(&hooks.redis).timeout);
    // One commit runs at a time. It is tried twice and pings its connection first. Committing the eight requests one
    // after the other would take eight times as long.
    assert!(waited < 5 * timeout, "one after the other: {waited:?}, with a timeout of {timeout:?}");
    tokio::time::resume();
    let () = cmd("CLIENT").arg("UNPAUSE").query_async(&mut connection).await.expect("CLIENT UNPAUSE");
    until("webhooks are accepted again", async || {
        hooks.deliver(&statuses("3001", &[hooks.status(message, "sent")])).await == 200
    })
    .await;
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::Sent, 1)]));
    hooks.stop().await;
}

#[tokio::test]
async fn a_template_paused_by_meta_is_held_until_it_is_approved() {
    let hooks = Hooks::start().await;
    let scope = HoldScope::Template { waba: "2001".into(), name: "spring_sale".into(), language: "en_GB".into() };
    let paused = include_str!("../../fixtures/webhooks/template_paused.json");
    let approved = include_str!("../../fixtures/webhooks/template_approved.json");
    let steps = [
        (paused.replace("2001", "2999"), false),
        (paused.replace("PAUSED", "FLAGGED"), false),
        (paused.to_owned(), true),
        (paused.to_owned(), true),
        (approved.replace("2001", "2999"), true),
        (approved.replace("en-GB", "en-US"), true),
        (approved.to_owned(), false),
        (paused.replace("PAUSED", "DISABLED"), true),
        (approved.replace("APPROVED", "REINSTATED"), false),
    ];
    for (body, held) in steps {
        let at = UnixMs(now().seconds() * 1_000);
        let mut payload: Value = serde_json::from_str(&body).expect("JSON");
        payload["entry"][0]["time"] = at.seconds().into();
        assert_eq!(hooks.deliver(&payload).await, 200);
        let holds = hooks.store.holds(now()).await.expect("a store");
        assert_eq!(holds.contains_key(&scope), held, "{body}");
        assert_eq!(holds.len(), usize::from(held), "{holds:?}");
        if let Some(hold) = holds.get(&scope) {
            let code = body.contains("PAUSED").then_some(MetaCode(132_015));
            assert_eq!(hold.code, code, "the code with which Meta refuses messages of a paused template");
            assert!(hold.reason.ends_with("Your template was paused for 3 hours."), "{}", hold.reason);
            // The length of Meta's pause, plus a minute.
            assert_eq!(hold.until, code.map(|_| at.after(Duration::from_secs(3 * 3_600 + 60))));
        }
    }
    hooks.stop().await;
}

#[tokio::test]
async fn a_wrong_app_secret_is_logged_once_counted_and_shown_as_a_warning() {
    let redis = TestRedis::start().await;
    let installation = Installation::new(&redis, "http://127.0.0.1:1", &[("3001", 80.0)], "");
    let server = installation.serve_with("w1", "webhook", &[("PREGON_TEST_APP_SECRET", "of-another-app")]).await;
    let client = reqwest::Client::new();
    let deliver = async |app_secret: &str| {
        let body = serde_json::to_vec(&payload(&[])).expect("JSON");
        let signature = hooks::signature_with(app_secret, &body);
        let request = client.post(server.webhook()).header("x-hub-signature-256", signature).body(body);
        request.send().await.expect("an answer").status().as_u16()
    };
    for _ in 0..3 {
        assert_eq!(deliver(hooks::APP_SECRET).await, 401);
    }
    let warnings: Vec<_> = server.log().lines().filter(|line| line.contains("refused")).map(str::to_owned).collect();
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(warning.contains("\"wrong_signature\":1") && warning.contains("webhook.app_secret"), "{warning}");
    let (ready, details) = server.ops("readyz").await;
    assert_eq!((ready, details.contains(r#""warnings":["webhooks_refused"]"#)), (200, true), "{details}");
    let (_, page) = server.ops("metrics").await;
    assert!(page.contains("pregon_webhooks_refused_total{reason=\"wrong_signature\"} 3"), "{page}");
    assert_eq!(deliver("of-another-app").await, 200);
    assert!(!server.ops("readyz").await.1.contains("warnings"), "a valid webhook clears the warning");
}

/// The metrics recorder is local to a thread. The whole test, the server included, runs on that thread.
#[tokio::test]
async fn webhooks_and_statuses_are_counted_by_result() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 2).await;
    let ours = &messages[&"3001".into()];
    hooks.accept(ours).await;
    let reported = [
        hooks.status(&ours[0], "sent"),
        hooks.status(&ours[0], "sent"),
        hooks.status(&ours[0], "evaporated"),
        hooks.status(&ours[1], "failed 131026"),
        status_without_token("wamid.of-another-app", "read"),
        status_without_token("wamid.of-another-app", "failed 131026"),
    ];
    assert_eq!(hooks.deliver(&statuses("3001", &reported)).await, 200);
    assert_eq!(hooks.deliver(&statuses("9999", &[status_without_token("wamid.of-another-app", "sent")])).await, 200);
    assert_eq!(
        hooks.deliver(&inbound("3001", &[json!({"text": {"body": "hola"}, "timestamp": "1795339600"})])).await,
        200
    );
    assert_eq!(hooks.deliver_bytes(b"{").await, 200);
    assert_eq!(hooks.deliver_with("sha256=", b"{}").await, 401);
    let odd = payload(&[json!({"field": "messages"}), json!({"field": "flows", "value": {}})]);
    assert_eq!(hooks.deliver(&odd).await, 200);
    until("the details are stored", async || !hooks.counts(id).await.details.is_empty()).await;
    let page = page.render();
    let expected = [
        r#"pregon_statuses_total{status="sent",result="applied"} 1"#,
        r#"pregon_statuses_total{status="sent",result="repeated"} 1"#,
        r#"pregon_statuses_total{status="sent",result="foreign"} 1"#,
        r#"pregon_statuses_total{status="failed",result="applied"} 1"#,
        r#"pregon_statuses_total{status="failed",result="parked"} 1"#,
        r#"pregon_statuses_total{status="read",result="unknown"} 1"#,
        r#"pregon_statuses_total{status="other",result="ignored"} 1"#,
        r#"pregon_meta_errors_total{code="131026"} 1"#,
        r#"pregon_webhooks_total{kind="statuses",result="taken"} 1"#,
        r#"pregon_webhooks_total{kind="statuses",result="ignored"} 1"#,
        r#"pregon_webhooks_total{kind="messages",result="taken"} 1"#,
        r#"pregon_webhooks_total{kind="other",result="malformed"} 1"#,
        r#"pregon_webhooks_total{kind="other",result="ignored"} 1"#,
        r#"pregon_webhooks_total{kind="unread",result="malformed"} 1"#,
        r#"pregon_webhooks_total{kind="unread",result="refused"} 1"#,
        r#"pregon_webhooks_refused_total{reason="no_signature"} 1"#,
        "pregon_webhook_lag_seconds_count 2",
    ];
    for line in expected {
        assert!(page.lines().any(|shown| shown == line), "{line} is not in:\n{page}");
    }
    let counted =
        page.lines().filter(|line| line.starts_with("pregon_statuses") || line.starts_with("pregon_webhooks"));
    assert_eq!(counted.count(), expected.len() - 2, "{page}");
    hooks.stop().await;
}

/// A webhook about the status of the template `spring_sale`, with the time `at`.
fn template_update(event: &str, title: &str, at: UnixMs) -> Value {
    let mut update = payload(&[json!({"field": "message_template_status_update", "value": {
        "event": event, "message_template_name": "spring_sale", "message_template_language": "en-GB",
        "other_info": {"title": title},
    }})]);
    update["entry"][0]["time"] = at.seconds().into();
    update
}

#[tokio::test]
async fn late_updates_of_a_template_change_nothing() {
    let hooks = Hooks::start().await;
    let scope = HoldScope::Template { waba: "2001".into(), name: "spring_sale".into(), language: "en_GB".into() };
    let start = now();
    let ago = |minutes: u64| UnixMs(start.0 - minutes * 60_000);
    let until = async || hooks.store.holds(start).await.expect("a store").remove(&scope).map(|hold| hold.until);
    let deliver = async |event: &str, title: &str, at: UnixMs| {
        assert_eq!(hooks.deliver(&template_update(event, title, at)).await, 200);
    };
    deliver("PAUSED", "FIRST_PAUSE", ago(4 * 60)).await;
    assert_eq!(until().await, None, "the pause is over");
    deliver("PAUSED", "RATE_LIMITING_PAUSE", ago(10)).await;
    assert_eq!(until().await, Some(None));
    deliver("APPROVED", "", ago(20)).await;
    assert_eq!(until().await, Some(None), "it was approved before it was paused");
    deliver("APPROVED", "UNPAUSE", ago(5)).await;
    assert_eq!(until().await, None);
    deliver("PAUSED", "SECOND_PAUSE", ago(10)).await;
    assert_eq!(until().await, None, "it was unpaused since");
    // Meta's times are in whole seconds. The next whole second is certainly after the lift.
    let next = UnixMs((now().seconds() + 1) * 1_000);
    deliver("PAUSED", "SECOND_PAUSE", next).await;
    let six_hours = next.after(Duration::from_secs(6 * 3_600 + 60));
    assert_eq!(until().await, Some(Some(six_hours)));
    hooks.stop().await;
}
