//! Processes that are killed with SIGKILL: what the API shows before their leases end, retries that they do not finish,
//! and people who are erased meanwhile.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use pregon::redis::Store;
use reqwest::Method;
use serde_json::json;

use crate::support::{
    hostile::{AcceptAll, Conduct, Courier, Meta, Reply, Sent, Status, accepted, wamid},
    redis::TestRedis,
    seed,
    server::{Installation, Server},
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

/// Accepts every message. The first one to each odd number fails later; all others are delivered.
#[derive(Default)]
struct FirstFails(HashMap<String, u64>);

fn fails_first(to: &str) -> bool {
    to.ends_with(['1', '3', '5', '7', '9'])
}

impl Conduct for FirstFails {
    fn send(&mut self, sent: Sent, courier: &Courier) -> Reply {
        let n = self.0.entry(sent.to.clone()).or_default();
        *n += 1;
        let id = wamid(&sent.to, *n);
        let word = if *n == 1 && fails_first(&sent.to) { "failed 131026" } else { "delivered" };
        let answer = accepted(&sent.to, &id);
        let status = Status { line: sent.line, to: sent.to, wamid: id, token: Some(sent.token), word: word.to_owned() };
        courier.report(Duration::from_millis(20), status);
        Reply::of(answer, Duration::from_millis(2))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_reaches_each_failed_recipient_once_while_servers_and_redis_are_killed() {
    const RECIPIENTS: u64 = 400;
    let mut redis = TestRedis::start().await;
    let meta = Meta::start(FirstFails::default(), seed());
    let doubts = "doubt_deadline = \"6s\"";
    let installation = Installation::new(&redis, &meta.url(), &[("3001", 80.0), ("3002", 80.0)], doubts);
    let webhooks = installation.serve("webhooks", "webhook").await;
    meta.set_webhook(webhooks.webhook());
    let start = async |name: &'static str| installation.serve(name, "api,dispatch").await;
    let first = start("first").await;
    let numbers = 5_491_100_000_000..5_491_100_000_000 + RECIPIENTS;
    let id = first.api().campaign(&["3001", "3002"], numbers, json!({})).await;
    let path = format!("campaigns/{id}");
    first.api().wait_for_state(&id, "completed", Duration::from_secs(60)).await;
    let failed = async || first.api().get(&path).await["statistics"]["by_state"]["failed"] == RECIPIENTS / 2;
    until("half of the messages have failed", failed).await;

    let body = json!({ "states": ["failed"], "external_id": "again" });
    let retry = async |server: &Server| {
        server.api().try_post_json(&format!("{path}/retry"), &body).await.map(|answer| answer["recipients"].clone())
    };
    // The server may die at any point of the call.
    tokio::join!(retry(&first), async { first.signal("KILL") });
    let second = start("second").await;
    until("the retry begins", async || retry(&second).await == Some((RECIPIENTS / 2).into())).await;
    let sent_again = |n: u64| meta.requests() as u64 >= RECIPIENTS + n;
    until("a few are sent again", async || sent_again(20)).await;
    second.signal("KILL");
    let third = start("third").await;
    until("more are sent again", async || sent_again(60)).await;
    redis.kill_hard().await;
    redis.restart().await;
    until("the repeat says the same", async || retry(&third).await == Some((RECIPIENTS / 2).into())).await;
    let shown = third.api().wait_for_state(&id, "completed", Duration::from_secs(60)).await;
    until("Meta has reported everything", async || meta.is_idle()).await;

    let mut messages: HashMap<String, u64> = HashMap::new();
    meta.arrivals().into_iter().for_each(|arrival| *messages.entry(arrival.to).or_default() += 1);
    for recipient in third.api().recipients(&id).await {
        let to = recipient["to"].as_str().expect("a number").trim_start_matches('+').to_owned();
        let (n, state) = (messages.get(&to).copied().unwrap_or(0), &recipient["state"]);
        let expected = if fails_first(&to) { 2 } else { 1 };
        // A message that was in flight when the server was killed may have left or not.
        let was_lost = state == "unknown" && n + 1 == expected;
        assert!(n == expected && state == "delivered" || was_lost, "{n} messages: {recipient}");
    }
    assert_eq!(shown["statistics"]["by_state"]["failed"], 0, "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_forgotten_around_the_death_of_a_worker_gets_nothing_and_nobody_gets_two() {
    const FIRST: u64 = 5_491_100_000_000;
    const RECIPIENTS: u64 = 600;
    let redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let installation = Installation::new(&redis, &meta.url(), &[("3001", 50.0)], "doubt_deadline = \"6s\"");
    let api = installation.serve("api", "api").await;
    let worker = installation.serve("first", "dispatch").await;
    let id = api.api().campaign(&["3001"], FIRST..FIRST + RECIPIENTS, json!({})).await;
    let forget = async |people: std::ops::Range<u64>| {
        let mut skipped = HashSet::new();
        for n in people {
            let (status, removed) = api.api().call(Method::DELETE, &format!("people/+{}", FIRST + n), None).await;
            assert_eq!(status, 200, "{removed}");
            assert_eq!(removed["recipients"], 1, "{removed}");
            skipped.extend((removed["skipped"] == 1).then(|| (FIRST + n).to_string()));
        }
        skipped
    };
    until("the campaign goes on", async || meta.requests() > 100).await;
    // Some of these people have got their message, for some it is in flight, and some are not claimed yet.
    let mut skipped = forget(100..110).await;
    skipped.extend(forget(500..520).await);
    worker.signal("KILL");
    skipped.extend(forget(520..540).await);
    let _worker = installation.serve("second", "dispatch").await;
    skipped.extend(forget(560..570).await);
    let ended = api.api().wait_for_state(&id, "completed", Duration::from_secs(90)).await;
    let by_state = &ended["statistics"]["by_state"];
    assert!(!skipped.is_empty());
    assert_eq!(by_state["skipped"], skipped.len(), "{by_state}");
    let sent: Vec<String> = meta.arrivals().into_iter().map(|arrival| arrival.to).collect();
    let people: HashSet<&String> = sent.iter().collect();
    assert_eq!(people.len(), sent.len(), "nobody gets two messages");
    assert!(skipped.iter().all(|number| !people.contains(number)));
    let counted = ["accepted", "unknown"].map(|state| by_state[state].as_u64().expect("a count"));
    assert_eq!(counted.iter().sum::<u64>() + skipped.len() as u64, RECIPIENTS, "nobody is lost: {by_state}");
}
