//! Features that a campaign requires: a worker without them leaves the campaign alone, and its record as it is.

use std::time::Duration;

use deadpool_redis::redis::cmd;
use pregon::{
    dispatch::DispatchSettings,
    domain::{CampaignId, CampaignState, HoldScope, OnDoubt, State, UnixMs},
    redis::Store,
};
use serde_json::{Value, json};

use crate::support::{
    hooks::Hooks,
    hostile::{AcceptAll, Meta},
    redis::TestRedis,
    seed,
    server::Installation,
    until,
    world::{self, TestWorker, address, line, settings},
};

/// Changes a campaign into one of a newer release: with a feature and with fields that the present release lacks.
async fn make_newer(store: &Store, id: CampaignId) -> String {
    let key = store.keys.campaign(id);
    let definition: String =
        store.query("HGET", cmd("HGET").arg(&key).arg("definition")).await.expect("the definition");
    let mut definition: Value = serde_json::from_str(&definition).expect("JSON");
    definition["requires"] = json!(["quiet_hours"]);
    definition["quiet_hours"] = json!({ "from": "21:00", "until": "09:00" });
    let definition = definition.to_string();
    let set = cmd("HSET").arg(&key).arg("definition").arg(&definition).arg("later_field").arg("kept").clone();
    store.query::<u8>("HSET", &set).await.expect("redis");
    definition
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_waits_for_a_worker_with_its_features() {
    let redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let newer = world::campaign(&store, &["3001"], 5, OnDoubt::Hold).await;
    let definition = make_newer(&store, newer).await;
    world::launch(&store, newer).await;
    let plain = world::campaign(&store, &["3001"], 20, OnDoubt::Hold).await;
    world::launch(&store, plain).await;

    let installation = Installation::new(&redis, &meta.url(), &[("3001", 200.0)], "");
    let mut old = installation.serve("old", "api,dispatch").await;
    let api = old.api();
    world::wait_for_state(&store, plain, CampaignState::Completed).await;
    let mut statistics = Value::Null;
    until("the worker has reported", async || {
        statistics = api.get(&format!("campaigns/{newer}")).await["statistics"].take();
        statistics["waiting_for"][0]["reason"] == "newer_release"
    })
    .await;
    let text = "the worker of line 3001 lacks quiet_hours: upgrade it to a newer release";
    let launched = store.campaign(newer).await.expect("redis").expect("it").changed_at;
    let waiting = json!([{ "reason": "newer_release", "line": "3001", "since": launched, "text": text }]);
    assert_eq!(statistics["waiting_for"], waiting);
    assert_eq!((&statistics["by_state"]["pending"], &statistics["eta"]), (&json!(5), &Value::Null));
    assert_eq!(meta.requests(), 20, "only the other campaign");
    let log = old.log();
    assert_eq!(log.lines().filter(|line| line.contains("lacks a feature")).count(), 1, "{log}");

    // The older release changes the state of the campaign, and nothing else.
    for action in ["pause", "resume"] {
        api.post(&format!("campaigns/{newer}/{action}")).await;
    }
    old.signal("TERM");
    assert!(old.ended().await.success());
    let settings = DispatchSettings { features: &["quiet_hours"], ..settings() };
    let new = TestWorker::start("new", &redis, &meta.url(), &[line("3001", 200.0)], settings).await;
    world::wait_for_state(&store, newer, CampaignState::Completed).await;
    assert_eq!(meta.requests(), 25);
    let fields = cmd("HMGET").arg(store.keys.campaign(newer)).arg(&["definition", "later_field"]).clone();
    let fields: (String, String) = store.query("HMGET", &fields).await.expect("redis");
    assert_eq!(fields, (definition, "kept".to_owned()));
    new.stop().await;
}

#[tokio::test]
async fn a_parked_status_of_a_newer_release_is_searched_and_removed() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 1).await;
    let message = messages[&"3001".into()][0];
    hooks.accept([&message]).await;
    let parked = |wamid: &str, at: UnixMs| json!({ "line": "3001", "wamid": wamid, "code": 131_026, "details": "", "at": at, "later_field": "kept" });
    let now = hooks.clock.now();
    let key = hooks.store.keys.parked();
    let waiting = parked("wamid.nowhere", now).to_string();
    let mut add = cmd("ZADD");
    add.arg(&key).arg(1).arg(parked(&message.wamid(), now).to_string()).arg(1).arg(&waiting);
    hooks.store.query::<u8>("ZADD", &add).await.expect("redis");
    let members = async || {
        let range = cmd("ZRANGE").arg(&key).arg(&["0", "-1", "WITHSCORES"]).clone();
        hooks.store.query::<Vec<(String, f64)>>("ZRANGE", &range).await.expect("redis")
    };
    until("both were searched for", async || {
        let members = members().await;
        members.len() == 1 && members[0].0 == waiting && members[0].1 > 1.0
    })
    .await;
    assert_eq!(hooks.by_state(id).await, [(State::Failed, 1)].into());
    hooks.stop().await;
}

#[tokio::test]
async fn a_reworded_hold_keeps_the_fields_of_a_newer_release() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let scope = HoldScope::Template { waba: "2001".into(), name: "spring".into(), language: "es_AR".into() };
    let hold =
        json!({ "code": 0, "reason": "meta lists it as PENDING", "since": UnixMs(1_000), "later_field": "kept" });
    let set = cmd("HSET").arg(store.keys.holds()).arg(scope.to_string()).arg(hold.to_string()).clone();
    store.query::<u8>("HSET", &set).await.expect("redis");
    store.reword_hold(&scope, "meta lists it as REJECTED").await.expect("redis");
    let get = cmd("HGET").arg(store.keys.holds()).arg(scope.to_string()).clone();
    let stored: String = store.query("HGET", &get).await.expect("redis");
    let mut expected = hold;
    expected["reason"] = "meta lists it as REJECTED".into();
    assert_eq!(serde_json::from_str::<Value>(&stored).expect("JSON"), expected);
}
