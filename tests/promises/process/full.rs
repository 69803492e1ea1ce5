//! A Redis that is nearly full: new recipients are refused, and accepted ones are sent. A full one stops everything,
//! and everything says so.

use std::{process::Command, time::Duration};

use deadpool_redis::redis::{aio::MultiplexedConnection, cmd};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    hostile::{AcceptAll, Meta},
    intake::row,
    redis::TestRedis,
    seed,
    server::{Installation, KEY},
    until,
};

const JOBS: &str = "pregon:jobs";

async fn jobs(connection: &mut MultiplexedConnection) -> usize {
    cmd("XLEN").arg(JOBS).query_async(connection).await.expect("a length")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nearly_full_redis_takes_no_recipients_and_sends_those_it_has() {
    let redis = TestRedis::start().await;
    let mut connection = redis.connection().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let installation = Installation::new(&redis, &meta.url(), &[("3001", 80.0)], "");
    let server =
        installation.serve_with("worker", "api,dispatch", &[("PREGON__INTAKE__MEMORY_SHARE_MAX", "0.5")]).await;
    let api = server.api();
    let named = json!({"external_id": "spring"});
    let id = api.draft(&["3001"], 5_491_100_000_000..5_491_100_000_050, named).await;
    assert_eq!(server.ops("readyz").await.1, concat!(r#"{"ready":true,"reasons":[]}"#, "\n"));
    redis.fill_to(0.7).await;
    until("the metrics show the memory", async || {
        let (_, page) = server.ops("metrics").await;
        let value = |series: &str| page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse::<f64>().ok());
        let used = value("pregon_redis_memory_bytes").zip(value("pregon_redis_memory_limit_bytes"));
        used.is_some_and(|(used, limit)| (0.5..1.0).contains(&(used / limit)))
            && page.contains("pregon_redis_risk{risk=\"evicts\"} 0\n")
    })
    .await;
    until("readiness warns", async || {
        server.ops("readyz").await
            == (200, concat!(r#"{"ready":true,"reasons":[],"warnings":["redis_full"]}"#, "\n").to_owned())
    })
    .await;
    let preflight = api.get(&format!("campaigns/{id}/preflight")).await;
    let problems = preflight["problems"].as_array().expect("a list");
    assert!(
        problems.iter().any(|problem| problem["code"] == "redis_full" && problem["blocking"] == false),
        "{preflight}"
    );

    let (mut problem, mut tries) = (Value::Null, 0);
    until("uploads are refused", async || {
        tries += 1;
        let (status, body) = api.upload(&id, &format!("more-{tries}"), format!("{}\n", row(5_491_100_000_099))).await;
        problem = body;
        status == 507
    })
    .await;
    assert_eq!(problem["type"], "urn:pregon:problem:redis-full");
    let detail = problem["detail"].as_str().expect("a sentence");
    assert!(detail.contains(" MiB (maxmemory)") && detail.contains("intake.memory_share_max"), "{detail}");
    let mut new = json!({"name": "big", "template": {"name": "order_update", "language": "es_AR"}, "lines": ["3001"]});
    new["recipients"] = json!([row(5_491_100_000_001)]);
    let (status, _) = api.call(Method::POST, "campaigns", Some(new)).await;
    let listed = api.get("campaigns").await["campaigns"].as_array().map(Vec::len);
    assert_eq!((status, listed), (507, Some(1)), "no campaign without its recipients");

    let job = json!({"type": "recipients", "external_id": "spring", "recipients": [row(5_491_100_000_098)]});
    let add = cmd("XADD").arg(JOBS).arg("*").arg("job").arg(job.to_string()).exec_async(&mut connection).await;
    add.expect("a job");
    until("jobs wait", async || server.log().contains("jobs wait")).await;
    assert_eq!(jobs(&mut connection).await, 1);

    redis.set_memory(0).await;
    until("the warning ends", async || !server.ops("readyz").await.1.contains("redis_full")).await;
    until("the job is applied", async || jobs(&mut connection).await == 0).await;
    redis.fill_to(0.7).await;
    api.post(&format!("campaigns/{id}/launch")).await;
    let sent = api.wait_for_state(&id, "completed", Duration::from_secs(60)).await;
    let accepted = sent["statistics"]["funnel"]["accepted"].as_u64();
    assert!(accepted >= Some(51), "{sent}");
}

/// The checks of `pregon check` with the configuration of the process `name`, without those of Meta and of the ports.
fn checks(installation: &Installation, name: &str) -> Value {
    let ran = Command::new(env!("CARGO_BIN_EXE_pregon"))
        .args(["check", "--json", "--roles", "webhook", "--config"])
        .arg(installation.dir().join(format!("{name}.toml")))
        .env("PREGON_TEST_KEY", KEY)
        .env("PREGON_TEST_VERIFY_TOKEN", "word-of-tests")
        .env("PREGON_TEST_APP_SECRET", "secret-of-tests")
        .env("PREGON_TEST_ACCESS_TOKEN", "token-2001")
        .output();
    serde_json::from_slice(&ran.expect("the command").stdout).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_is_named_as_the_cause_until_it_has_room() {
    const FIRST: u64 = 5_491_100_000_000;
    let redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let installation = Installation::new(&redis, &meta.url(), &[("3001", 80.0)], "");
    let server = installation.serve("worker", "api,dispatch").await;
    let api = server.api();
    let id = api.campaign(&["3001"], FIRST..FIRST + 600, json!({})).await;
    let ended = api.draft(&["3001"], FIRST..FIRST + 1, json!({})).await;
    until("it sends", async || meta.requests() > 20).await;
    redis.fill_to(1.2).await;

    let mut campaign = Value::Null;
    until("the campaign waits for room", async || {
        campaign = api.get(&format!("campaigns/{id}")).await;
        campaign["statistics"]["waiting_for"][0]["reason"] == "redis_full"
    })
    .await;
    let waiting = campaign["statistics"]["waiting_for"].as_array().expect("a list");
    assert!(waiting.len() == 1 && campaign["statistics"]["eta"].is_null(), "{campaign}");
    assert!(waiting[0]["text"].as_str().is_some_and(|text| text.contains("give redis more memory")), "{campaign}");

    for (method, path) in
        [(Method::POST, format!("campaigns/{id}/pause")), (Method::DELETE, format!("campaigns/{ended}"))]
    {
        let (status, problem) = api.call(method, &path, None).await;
        assert_eq!((status, &problem["type"]), (507, &json!("urn:pregon:problem:redis-full")), "{path}: {problem}");
        let detail = problem["detail"].as_str().expect("a sentence");
        assert!(detail.contains("refused the change") && !detail.contains("may have been made"), "{detail}");
    }

    let report = checks(&installation, "worker");
    let failed = report["checks"].as_array().expect("a list").iter().filter(|check| check["ok"] == false);
    let failed: Vec<&Value> = failed.collect();
    assert!(failed.len() == 1 && failed[0]["check"] == "redis has room", "{report}");
    until("the failed commands are counted", async || {
        let page = server.ops("metrics").await.1;
        let counted = page.lines().find_map(|line| line.strip_prefix("pregon_redis_errors_total ")?.parse().ok());
        counted.is_some_and(|n: f64| n > 0.0)
    })
    .await;
    until("the log says so", async || server.log().contains("redis is full: nothing is sent or accepted")).await;
    assert!(!server.log().contains("redis is not available"), "it answers");

    redis.set_memory(0).await;
    let sent = api.wait_for_state(&id, "completed", Duration::from_secs(120)).await;
    assert_eq!(sent["statistics"]["funnel"]["accepted"], 600, "{sent}");
    assert_eq!(meta.requests(), 600, "none is sent twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_on_a_full_redis_names_the_cause() {
    let redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let installation = Installation::new(&redis, &meta.url(), &[("3001", 80.0)], "");
    redis.fill_to(1.2).await;
    let server = installation.start("worker", "api", &[]);
    until("it waits", async || server.log().contains("waiting for redis")).await;
    assert!(server.log().contains("redis is full (maxmemory)"), "{}", server.log());
    let report = checks(&installation, "worker");
    let failed = report["checks"].as_array().expect("a list").iter().filter(|check| check["ok"] == false);
    let failed: Vec<&Value> = failed.collect();
    assert!(failed.len() == 1 && failed[0]["check"] == "redis has room", "{report}");
}
