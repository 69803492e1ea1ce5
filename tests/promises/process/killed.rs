//! A worker that is killed with kill -9: what is shown before its leases end.

use std::time::Duration;

use pregon::redis::Store;
use serde_json::json;

use crate::support::{
    hostile::{AcceptAll, Meta},
    redis::TestRedis,
    seed,
    server::Installation,
    until, world,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_line_whose_worker_was_killed_is_shown_without_one_before_its_lease_ends() {
    let redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let installation = Installation::new(&redis, &meta.url(), &[("3001", 20.0)], "");
    let long_lease = [("PREGON__DISPATCH__LEASE", "6s")];
    let api = installation.serve_with("api", "api", &long_lease).await;
    let worker = installation.serve_with("worker", "dispatch", &long_lease).await;
    let id = api.api().campaign(&["3001"], 5_491_100_000_000..5_491_100_010_000, json!({})).await;
    let waiting = async || api.api().get(&format!("campaigns/{id}")).await["statistics"]["waiting_for"].clone();
    until("the line sends", async || waiting().await[0]["reason"] == "line_rate").await;
    assert!(waiting().await[0]["since"].is_string());
    until("the rate is known", async || api.api().get("lines/3001").await["allowed_now"].is_number()).await;

    worker.signal("KILL");
    until("the line waits for a worker", async || waiting().await[0]["reason"] == "no_worker").await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let owners = store.owners(&["3001".into()]).await.expect("redis");
    assert!(owners[0].is_some(), "the lease has ended");
    let shown = waiting().await;
    assert!(shown[0]["since"].is_string() && shown[0]["until"].is_string(), "{shown}");
    let eta = api.api().get(&format!("campaigns/{id}")).await["statistics"]["eta"].clone();
    assert!(eta.as_str() > shown[0]["until"].as_str(), "{eta} {shown}");
    let line = api.api().get("lines/3001").await;
    assert_eq!(line["state"], "no_worker");
}
