//! A Redis that is nearly full: new recipients are refused, and accepted ones are sent.

use std::time::Duration;

use deadpool_redis::redis::{aio::MultiplexedConnection, cmd};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    hostile::{AcceptAll, Meta},
    intake::row,
    redis::TestRedis,
    seed,
    server::Installation,
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
    assert_eq!(server.ops("readyz").await.1, r#"{"ready":true,"reasons":[]}"#);
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
        server.ops("readyz").await == (200, r#"{"ready":true,"reasons":[],"warnings":["redis_full"]}"#.to_owned())
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
