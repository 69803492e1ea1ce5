//! Lines, rates and access tokens that change while a process sends.

use std::{
    collections::{HashMap, HashSet},
    fs,
    sync::{Arc, Mutex},
    time::Duration,
};

use pregon::redis::Store;
use serde_json::{Value, json};

use crate::support::{
    hostile::{AcceptAll, Conduct, Courier, Meta, Reply, Sent, accepted, refused, wamid},
    redis::TestRedis,
    seed,
    server::{Installation, Server},
    until, world,
};

const ROLES: &str = "api,dispatch";
const TIMEOUT: Duration = Duration::from_secs(120);

fn people(from: u64, n: u64) -> impl Iterator<Item = u64> {
    (0..n).map(move |nth| 5_491_100_000_000 + from + nth)
}

/// Reloads the configuration for the `n`th time.
async fn reload(server: &Server, n: usize) {
    server.signal("HUP");
    server.logged(n, "configuration reloaded").await;
}

/// The number of sends of each line.
fn sends(meta: &Meta) -> HashMap<String, usize> {
    let mut sends = HashMap::new();
    meta.arrivals().into_iter().for_each(|arrival| *sends.entry(arrival.line).or_default() += 1);
    sends
}

/// Checks that `n` people got one message each.
fn assert_sent_once(meta: &Meta, n: usize) {
    let arrivals = meta.arrivals();
    let people: HashSet<&str> = arrivals.iter().map(|arrival| arrival.to.as_str()).collect();
    assert_eq!((arrivals.len(), people.len()), (n, n));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_added_while_another_one_sends() {
    let redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let installation = Installation::new(&redis, &meta.url(), &[("3001", 50.0)], "");
    let worker = installation.serve("worker", ROLES).await;
    let api = worker.api();
    let first = api.campaign(&["3001"], people(0, 400), json!({})).await;
    until("the line sends", async || meta.requests() > 10).await;

    let before = Installation::line("3001", 50.0);
    installation.edit("worker", &before, &format!("{before}{}", Installation::line("3002", 100.0)));
    reload(&worker, 1).await;
    let second = api.campaign(&["3002"], people(1_000, 50), json!({})).await;
    api.wait_for_state(&second, "completed", TIMEOUT).await;
    assert_eq!(api.get("lines/3002").await["owner"], worker.worker);
    api.wait_for_state(&first, "completed", TIMEOUT).await;
    assert_sent_once(&meta, 450);
    assert_eq!(worker.log().matches("line taken").count(), 2, "each line has one runner from its start on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_line_ends_its_attempts_and_its_lease_and_the_others_go_on() {
    let redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(100) }, seed());
    let installation = Installation::new(&redis, &meta.url(), &[("3001", 100.0), ("3002", 100.0)], "");
    let worker = installation.serve("worker", ROLES).await;
    let api = worker.api();
    let stays = api.campaign(&["3001"], people(0, 600), json!({})).await;
    let stops = api.campaign(&["3002"], people(1_000, 600), json!({})).await;
    until("both lines send", async || sends(&meta).values().filter(|n| **n > 50).count() == 2).await;

    let removed = Installation::line("3002", 100.0);
    installation.edit("worker", &removed, "");
    reload(&worker, 1).await;
    worker.logged(1, "lines removed: 3002").await;
    worker.logged(1, "line released: the configuration does not list it any more").await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    until("the lease is released", async || store.owners(&["3002".into()]).await.expect("redis") == [None]).await;
    let states = api.get(&format!("campaigns/{stops}")).await["statistics"]["by_state"].clone();
    let count = |state: &str| states[state].as_u64().unwrap_or(0) as usize;
    assert_eq!((count("in_flight"), count("in_doubt"), count("unknown")), (0, 0, 0), "{states}");
    assert_eq!(count("accepted"), sends(&meta)["3002"], "{states}");
    assert_eq!(count("accepted") + count("pending"), 600, "{states}");
    let waiting = async || api.get(&format!("campaigns/{stops}")).await["statistics"]["waiting_for"][0].clone();
    until("the campaign waits for the line", async || {
        let waiting = waiting().await;
        let text = waiting["text"].as_str().unwrap_or_default();
        waiting["reason"] == "line_unlisted" && text.starts_with("no process lists line 3002")
    })
    .await;
    api.wait_for_state(&stays, "completed", TIMEOUT).await;
    let (status, _) = api.call(reqwest::Method::GET, "lines/3002", None).await;
    assert_eq!(status, 404);

    let kept = Installation::line("3001", 100.0);
    installation.edit("worker", &kept, &format!("{kept}{removed}"));
    reload(&worker, 2).await;
    api.wait_for_state(&stops, "completed", TIMEOUT).await;
    assert_sent_once(&meta, 1_200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_one_process_drops_is_served_by_another_that_lists_it() {
    let redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let all = ["3001", "3002", "3003", "3004"];
    let installation = Installation::new(&redis, &meta.url(), &all.map(|id| (id, 200.0)), "");
    let first = installation.serve("first", ROLES).await;
    let second = installation.serve("second", ROLES).await;
    let api = second.api();
    let owned_by = async |worker: &Server| {
        let owners = api.owners().await.into_iter();
        owners.filter(|(_, owner)| owner.as_ref() == Some(&worker.worker)).map(|(line, _)| line).collect::<Vec<_>>()
    };
    until("both have two lines", async || owned_by(&first).await.len() == 2 && owned_by(&second).await.len() == 2)
        .await;
    let id = api.campaign(&all, people(0, 2_000), json!({})).await;
    for line in &all[..3] {
        installation.edit("first", &Installation::line(line, 200.0), "");
    }
    reload(&first, 1).await;
    until("the second has the lines that only it lists", async || {
        let owned = owned_by(&second).await;
        all[..3].iter().all(|line| owned.iter().any(|owned| owned == line))
    })
    .await;
    api.wait_for_state(&id, "completed", TIMEOUT).await;
    assert_sent_once(&meta, 2_000);
}

/// Accepts messages with one access token, and refuses those with any other one as Meta does.
struct OneToken(Arc<Mutex<&'static str>>);

impl Conduct for OneToken {
    fn send(&mut self, sent: Sent, _: &Courier) -> Reply {
        let is_valid = sent.access_token == *self.0.lock().expect("no panic under the lock");
        let answer = if is_valid { accepted(&sent.to, &wamid(&sent.to, 1)) } else { refused(401, 190) };
        Reply::of(answer, Duration::from_millis(50))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_lifts_the_hold_of_the_old_one() {
    let redis = TestRedis::start().await;
    let valid = Arc::new(Mutex::new("old-token"));
    let meta = Meta::start(OneToken(valid.clone()), seed());
    let installation = Installation::new(&redis, &meta.url(), &[("3001", 100.0), ("3002", 100.0)], "");
    let token = installation.dir().join("token");
    fs::write(&token, "old-token").expect("a token");
    let file = format!(r#"{{ file = "{}" }}"#, token.display());
    let installation = installation.replaced(r#"{ env = "PREGON_TEST_ACCESS_TOKEN" }"#, &file);
    let worker = installation.serve("worker", ROLES).await;
    let api = worker.api();
    let id = api.campaign(&["3001", "3002"], people(0, 400), json!({})).await;
    until("both lines send", async || meta.requests() > 50).await;
    *valid.lock().expect("no panic under the lock") = "new-token";
    let holds = async || -> Vec<Value> { api.get("holds").await["holds"].as_array().expect("a list").clone() };
    until("the token is held", async || holds().await.iter().any(|hold| hold["id"] == "token:2001")).await;

    // No signal for the change of the file: it is noticed.
    fs::write(&token, "new-token").expect("a token");
    worker.logged(1, "configuration reloaded").await;
    worker.logged(1, "hold lifted: the token was replaced").await;
    let campaign = api.wait_for_state(&id, "completed", TIMEOUT).await;
    assert_eq!(campaign["statistics"]["by_state"]["accepted"], 400, "{campaign}");
    assert_eq!(holds().await, Vec::<Value>::new());
    assert!(!worker.log().contains("new-token"), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_changes_without_a_stop_and_a_bad_line_changes_nothing() {
    let redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let installation = Installation::new(&redis, &meta.url(), &[("3001", 20.0)], "");
    let worker = installation.serve("worker", ROLES).await;
    let api = worker.api();
    let id = api.campaign(&["3001"], people(0, 600), json!({})).await;
    let rate = async || api.get("lines/3001").await["allowed_now"].as_f64();
    until("the line sends", async || meta.requests() > 5 && rate().await == Some(20.0)).await;

    let (before, after) = (Installation::line("3001", 20.0), Installation::line("3001", 100.0));
    let bad = Installation::line("3002", 20.0).replace("2001", "2009");
    installation.edit("worker", &before, &format!("{after}{bad}"));
    worker.signal("HUP");
    worker.logged(1, "configuration not reloaded").await;
    worker.logged(1, "2009").await;
    assert_eq!(api.get("lines").await["lines"].as_array().map(Vec::len), Some(1));

    installation.edit("worker", &bad, "");
    reload(&worker, 1).await;
    worker.logged(1, "lines changed: 3001 (messages_per_second 20 → 100)").await;
    until("the line has its new rate", async || rate().await == Some(100.0)).await;
    api.wait_for_state(&id, "completed", TIMEOUT).await;
    assert_sent_once(&meta, 600);
    assert_eq!(worker.log().matches("line taken").count(), 1, "the runner goes on");
}
