//! Workers, and templates and campaigns one by one.

use std::time::Duration;

use deadpool_redis::redis::cmd;
use pregon::redis::processes::ProcessRecord;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::harness::{Api, answer, campaign};

const MINUTE: Duration = Duration::from_secs(60);

impl Api {
    /// Stores the record of a process for `kept`.
    async fn process(&self, worker: &str, kept: Duration) {
        let (since, until) = (self.now(), self.now().after(kept));
        let roles = vec!["api".into(), "dispatch".into()];
        let record = ProcessRecord { name: "pregon-0".into(), version: "0.2.0".into(), roles, since, until };
        self.store.put_process(worker, &record).await.expect("redis");
    }
}

fn ids(list: &Value) -> Vec<&str> {
    let workers = list["workers"].as_array().expect("a list");
    workers.iter().map(|worker| worker["id"].as_str().expect("an id")).collect()
}

#[tokio::test]
async fn workers_are_listed_with_version_roles_and_lines() {
    let api = Api::start().await;
    let id = "pregon-0-17-0a1b2c3d";
    api.process(id, MINUTE).await;
    api.process("killed-18-0a1b2c3d", Duration::ZERO).await;
    // A worker of 0.1.0 has a heartbeat and no record.
    api.store.worker_heartbeat("4711-0a1b2c3d", api.now(), api.now().after(MINUTE)).await.expect("redis");
    for line in ["3001", "3003"] {
        api.assign_line(line, id, 80.0).await;
    }
    api.assign_line("3002", "4711-0a1b2c3d", 80.0).await;
    let list = api.read("/v1/workers").await;
    assert_eq!((ids(&list), &list["next"]), (vec!["4711-0a1b2c3d", id], &Value::Null));
    let [old, worker] = [0, 1].map(|n| list["workers"][n].clone());
    let expected = json!({
        "id": id, "name": "pregon-0", "version": "0.2.0", "roles": ["api", "dispatch"], "lines": ["3001", "3003"],
        "since": worker["since"],
    });
    assert_eq!(worker, expected);
    assert!(worker["since"].is_string(), "{worker}");
    assert_eq!((&old["version"], &old["since"], &old["lines"]), (&Value::Null, &Value::Null, &json!(["3002"])));
    let first = api.read("/v1/workers?limit=1").await;
    assert_eq!((ids(&first), first["next"].as_str()), (vec!["4711-0a1b2c3d"], Some("4711-0a1b2c3d")));
    let second = api.read("/v1/workers?limit=1&cursor=4711-0a1b2c3d").await;
    assert_eq!((ids(&second), &second["next"]), (vec![id], &Value::Null));
    let limited = api.get_of("1002", "/v1/workers").await;
    assert_eq!(limited["workers"][1]["lines"], json!(["3003"]), "only the lines of its business");
    api.store.remove_process(id).await.expect("redis");
    assert_eq!(ids(&api.read("/v1/workers").await), ["4711-0a1b2c3d"]);
}

#[tokio::test]
async fn housekeeping_removes_the_records_of_dead_processes() {
    let api = Api::start().await;
    for (worker, kept) in [("alive", MINUTE), ("dead", Duration::ZERO)] {
        api.process(worker, kept).await;
    }
    api.store.tidy_registry(api.now()).await.expect("redis");
    let mut redis = api.redis.connection().await;
    let left: Vec<String> = cmd("HKEYS").arg("test:processes").query_async(&mut redis).await.expect("redis");
    assert_eq!(left, ["alive"]);
}

#[tokio::test]
async fn a_template_is_read_by_its_name() {
    let api = Api::start().await;
    let template = api.read("/v1/templates").await["templates"][0].clone();
    let [waba, name, language] = ["waba", "name", "language"].map(|field| template[field].as_str().expect("a text"));
    assert_eq!(api.read(&format!("/v1/templates/{waba}/{name}/{language}")).await, template);
    for path in [format!("{waba}/nothing/{language}"), format!("{waba}/{name}/xx"), format!("9/{name}/{language}")] {
        let missing = answer(api.request(Method::GET, &format!("/v1/templates/{path}"))).await;
        assert_eq!(missing.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(missing.body["type"], "urn:pregon:problem:template-not-found");
    }
}

#[tokio::test]
async fn a_campaign_is_found_by_its_external_id() {
    let api = Api::start().await;
    let mut new = campaign("spring", &["3001"]);
    new["external_id"] = "crm/47 11".into();
    let created = answer(api.request(Method::POST, "/v1/campaigns").json(&new)).await;
    let find = async |query: &str| api.read(&format!("/v1/campaigns?external_id={query}")).await;
    let found = find("crm%2F47%2011").await;
    let ids =
        |list: &Value| list["campaigns"].as_array().expect("a list").iter().map(|one| one["id"].clone()).collect();
    let expected: Vec<Value> = vec![created.body["id"].clone()];
    assert_eq!((ids(&found), &found["next"]), (expected.clone(), &Value::Null));
    assert_eq!(ids(&find("crm%2F47%2011&state=draft").await), expected);
    assert!(ids(&find("crm%2F47%2011&state=running").await).is_empty());
    assert!(ids(&find("crm-0").await).is_empty());
    assert!(ids(&api.get_of("1002", "/v1/campaigns?external_id=crm%2F47%2011").await).is_empty());
}
