//! Lines that a business chooses with `include` from those that it has at Meta.

use pregon::sim::Scenario;
use reqwest::Method;
use serde_json::Value;

use crate::{
    sim::kit::{SimServer, TOKEN, quiet},
    support::{
        redis::TestRedis,
        server::{Installation, Server},
        until,
    },
};

const ROLES: &str = "api,dispatch";
const INCLUDE: &str = "include = [\"*\"]";

/// A business with `include`, and no line or WABA besides.
fn installation(redis: &TestRedis, meta: &str) -> Installation {
    let token = "access_token = { env = \"PREGON_TEST_ACCESS_TOKEN\" }";
    Installation::new(redis, meta, &[], "")
        .replaced("[[waba]]\nid = \"2001\"\nbusiness = \"1001\"\n", "")
        .replaced(token, &format!("{token}\n{INCLUDE}\n"))
}

async fn serve(installation: &Installation, name: &str) -> Server {
    installation.serve_with(name, ROLES, &[("PREGON_TEST_ACCESS_TOKEN", TOKEN)]).await
}

async fn lines(server: &Server) -> Vec<String> {
    let lines = server.api().get("lines").await;
    lines["lines"].as_array().expect("a list").iter().map(|line| line["id"].as_str().expect("an id").into()).collect()
}

/// The first reload, with another `include`.
async fn reload(installation: &Installation, server: &Server, name: &str, include: &str) {
    installation.edit(name, INCLUDE, include);
    server.signal("HUP");
    server.logged(1, "configuration reloaded").await;
}

/// A scenario with the lines 3001 and 3002.
fn two_lines() -> Scenario {
    let mut scenario = quiet();
    scenario.lines.truncate(2);
    scenario
}

#[tokio::test(flavor = "multi_thread")]
async fn a_business_with_include_needs_no_line_in_the_configuration() {
    let (redis, meta) = (TestRedis::start().await, SimServer::start(two_lines()).await);
    let installation = installation(&redis, &meta.base);
    let server = serve(&installation, "worker").await;
    assert_eq!(lines(&server).await, ["3001", "3002"], "from the start on");
    let line = server.api().get("lines/3001").await;
    assert_eq!((&line["waba"], &line["display"]), (&"2001".into(), &"+54 9 11 5555 0001".into()), "{line}");
    until("a worker owns them, at the rate that Meta allows", async || {
        let line = server.api().get("lines/3001").await;
        line["owner"].is_string() && line["messages_per_second"].as_f64() == Some(1000.0)
    })
    .await;
    until("the templates of its WABA are read", async || {
        server.api().call(Method::GET, "templates/2001/order_update/es_AR", None).await.0 == 200
    })
    .await;

    reload(&installation, &server, "worker", "include = [\"+5491155550002\"]").await;
    assert_eq!(lines(&server).await, ["3002"], "without asking Meta");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_line_keeps_its_own_settings() {
    let (redis, meta) = (TestRedis::start().await, SimServer::start(two_lines()).await);
    let own = "[[waba]]\nid = \"2001\"\nbusiness = \"1001\"\n\
               access_token = { env = \"PREGON_TEST_ACCESS_TOKEN\" }\n\
               [[line]]\nid = \"3002\"\nwaba = \"2001\"\nname = \"slow\"\nmessages_per_second = 7\n";
    let installation = installation(&redis, &meta.base).with(own);
    let server = serve(&installation, "worker").await;
    let line = server.api().get("lines/3002").await;
    assert_eq!((&line["name"], line["messages_per_second"].as_f64()), (&"slow".into(), Some(7.0)), "{line}");
    let mut all = lines(&server).await;
    all.sort();
    assert_eq!(all, ["3001", "3002"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_stay_while_meta_does_not_answer_and_come_when_it_does() {
    let (redis, meta) = (TestRedis::start().await, SimServer::start(two_lines()).await);
    let dead = "http://127.0.0.1:1";
    let installation = installation(&redis, dead);
    let first = serve(&installation, "first").await;
    assert_eq!(lines(&first).await, Vec::<String>::new(), "it serves all the same");
    first.logged(1, "lines cannot be discovered").await;

    let set = [("PREGON_TEST_ACCESS_TOKEN", TOKEN), ("PREGON__GRAPH__BASE_URL", meta.base.as_str())];
    let second = installation.serve_with("second", ROLES, &set).await;
    assert_eq!(lines(&second).await, ["3001", "3002"]);
    meta.stop().await;
    first.signal("HUP");
    until("the first has what the second has read", async || lines(&first).await.len() == 2).await;
    let third = serve(&installation, "third").await;
    assert_eq!(lines(&third).await, ["3001", "3002"], "without Meta");
    let found: Value = third.api().get("discovery").await;
    let drift = found["businesses"][0]["drift"].as_array().expect("a list");
    assert!(!drift.is_empty() && drift.iter().all(|drift| drift["kind"] == "unreadable"), "{found}");
}
