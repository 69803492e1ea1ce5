//! What the log of a process tells those on call: docs/running.md has the lines.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{
    hostile::{AcceptAll, Answer, Conduct, Courier, Meta, Reply, Sent, accepted, refused, wamid},
    redis::TestRedis,
    seed,
    server::{Installation, Server},
    until,
};

const FIRST: u64 = 5_491_100_000_000;

/// The lines of the log whose message begins with `message`.
fn lines(server: &Server, message: &str) -> Vec<Value> {
    let log = server.log();
    let all = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    all.filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with(message))).collect()
}

async fn logged(server: &Server, message: &str) {
    until(message, async || !lines(server, message).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_says_what_was_open_and_a_start_what_runs() {
    let redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_secs(1) }, seed());
    let installation = Installation::new(&redis, &meta.url(), &[("3001", 80.0)], "");
    let mut server = installation.serve("all", "api,dispatch").await;
    let serving = lines(&server, "serving").pop().expect("the line of the start");
    assert_eq!(serving["version"], env!("CARGO_PKG_VERSION"));
    assert!(serving["config"].as_str().is_some_and(|digest| !digest.is_empty()), "{serving}");
    server.api().campaign(&["3001"], FIRST..FIRST + 1_000, json!({})).await;
    let in_flight = async || {
        let page = server.ops("metrics").await.1;
        let of_line = "pregon_in_flight_attempts{line=\"3001\"} ";
        page.lines().any(|line| line.strip_prefix(of_line).is_some_and(|n| n.parse::<f64>().expect("a number") > 40.0))
    };
    until("attempts are in flight", in_flight).await;
    server.signal("TERM");
    assert!(server.ended().await.success(), "{}", server.log());
    let stopped = lines(&server, "stopped");
    assert_eq!(stopped.len(), 1, "{stopped:?}");
    let was_open = stopped[0]["was_open"].as_str().expect("a text");
    assert!(was_open.contains(" attempts: 3001 x") && stopped[0]["took_ms"].is_number(), "{was_open}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_redis_has_a_line_at_its_begin_and_one_at_its_end() {
    let mut redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let names: Vec<String> = (3001..3021).map(|n: u32| n.to_string()).collect();
    let of_line: Vec<(&str, f64)> = names.iter().map(|name| (name.as_str(), 20.0)).collect();
    let installation = Installation::new(&redis, &meta.url(), &of_line, "");
    let server = installation.serve("all", "api,webhook,dispatch").await;
    let ids: Vec<&str> = names.iter().map(String::as_str).collect();
    server.api().campaign(&ids, FIRST..FIRST + 20_000, json!({})).await;
    until("they send", async || meta.requests() > 100).await;
    redis.stop().await;
    logged(&server, "redis does not answer").await;
    // Longer than the leases last.
    until("it is not ready", async || server.ops("readyz").await.1.contains("leases")).await;
    redis.restart().await;
    logged(&server, "redis answers again").await;
    let (lost, found) = (lines(&server, "redis does not answer"), lines(&server, "redis answers again"));
    assert_eq!((lost.len(), found.len()), (1, 1), "{lost:?} {found:?}");
    assert!(found[0]["away_ms"].is_number(), "{found:?}");
    let duties = lines(&server, "duty lost");
    assert!(duties.iter().all(|line| line["level"] == "INFO"), "they follow from the outage: {duties:?}");
    let log = server.log();
    // None for each of the twenty lines.
    let others = log.lines().filter(|line| line.contains("\"WARN\"") && line.contains("redis")).count();
    assert!(others < 12, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_without_redis_says_what_is_not_stored_and_what_settles_it() {
    let mut redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(500) }, seed());
    let installation = Installation::new(&redis, &meta.url(), &[("3001", 80.0)], "");
    let installation = installation.replaced("grace = \"20s\"", "grace = \"5s\"");
    let mut server = installation.serve("all", "api,dispatch").await;
    server.api().campaign(&["3001"], FIRST..FIRST + 1_000, json!({})).await;
    until("it sends", async || meta.requests() > 40).await;
    redis.stop().await;
    logged(&server, "redis does not answer").await;
    server.signal("TERM");
    assert!(!server.ended().await.success(), "open work is left");
    let stopped = lines(&server, "stopped with open work that redis did not store");
    assert_eq!(stopped.len(), 1, "{}", server.log());
    let open = stopped[0]["open"].as_str().expect("a text");
    assert!(open.starts_with("0 attempts; ") && open.contains(" to store: 3001 x"), "{open}");
    assert!(
        stopped[0]["error"].as_str().is_some_and(|error| error.starts_with("redis is not available")),
        "{stopped:?}"
    );
}

/// Refuses the access token.
struct NoToken;

impl Conduct for NoToken {
    fn send(&mut self, _: Sent, _: &Courier) -> Reply {
        Reply::of(refused(401, 190), Duration::from_millis(2))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_many_lines_run_into_is_logged_once() {
    let redis = TestRedis::start().await;
    let meta = Meta::start(NoToken, seed());
    let names: Vec<String> = (3001..3021).map(|n: u32| n.to_string()).collect();
    let of_line: Vec<(&str, f64)> = names.iter().map(|name| (name.as_str(), 20.0)).collect();
    let installation = Installation::new(&redis, &meta.url(), &of_line, "");
    let (first, second) =
        tokio::join!(installation.serve("first", "api,dispatch"), installation.serve("second", "dispatch"));
    let ids: Vec<&str> = names.iter().map(String::as_str).collect();
    let id = first.api().campaign(&ids, FIRST..FIRST + 2_000, json!({})).await;
    until("the campaign waits for a token", async || {
        let campaign = first.api().get(&format!("campaigns/{id}")).await;
        campaign["statistics"]["waiting_for"][0]["reason"] == "token"
            && campaign["statistics"]["by_state"]["in_flight"] == 0
    })
    .await;
    assert!(meta.requests() > 1, "several messages are refused");
    let held = [lines(&first, "held back"), lines(&second, "held back")].concat();
    assert_eq!(held.len(), 1, "{held:?}");
    assert_eq!((&held[0]["scope"], &held[0]["code"]), (&json!("token:2001"), &json!(190)), "{held:?}");
}

/// Throttles a line while told to; otherwise does not answer, or accepts.
struct Moody {
    throttles: Arc<AtomicBool>,
    is_silent: Arc<AtomicBool>,
}

impl Conduct for Moody {
    fn send(&mut self, sent: Sent, _: &Courier) -> Reply {
        if self.throttles.load(Ordering::Relaxed) {
            return Reply::of(refused(429, 130_429), Duration::from_millis(2));
        }
        // Some of them, so that the path to Meta counts as whole.
        if self.is_silent.load(Ordering::Relaxed) && sent.to.ends_with('7') {
            return Reply::of(Answer::Html(502), Duration::from_millis(2));
        }
        Reply::of(accepted(&sent.to, &wamid(&sent.to, 1)), Duration::from_millis(2))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_and_doubts_of_a_line_are_logged_once() {
    let redis = TestRedis::start().await;
    let (throttles, is_silent) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let moods = Moody { throttles: throttles.clone(), is_silent: is_silent.clone() };
    let meta = Meta::start(moods, seed());
    let installation = Installation::new(&redis, &meta.url(), &[("3001", 200.0)], "");
    let server = installation.serve("all", "api,dispatch").await;
    server.api().campaign(&["3001"], FIRST..FIRST + 20_000, json!({})).await;
    logged(&server, "Meta throttles the line").await;
    throttles.store(false, Ordering::Relaxed);
    logged(&server, "the line has its full rate again").await;
    is_silent.store(true, Ordering::Relaxed);
    let in_doubt = async || {
        let page = server.ops("metrics").await.1;
        let of_line = "pregon_attempts_total{line=\"3001\",outcome=\"in_doubt\"} ";
        page.lines().any(|line| line.strip_prefix(of_line).is_some_and(|n| n.parse::<f64>().expect("a number") > 10.0))
    };
    until("some are in doubt", in_doubt).await;
    for message in ["Meta throttles the line", "the line has its full rate again", "messages are in doubt"] {
        let found = lines(&server, message);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0]["line.id"], "3001");
    }
    assert!(!server.log().contains("Some("), "{}", server.log());
}

/// Meta behind a proxy that answers messages itself while `is_broken`, and lets reads through.
struct ReadsOnly {
    is_broken: Arc<AtomicBool>,
}

impl Conduct for ReadsOnly {
    fn send(&mut self, sent: Sent, _: &Courier) -> Reply {
        let answer = match self.is_broken.load(Ordering::Relaxed) {
            true => Answer::Html(503),
            false => accepted(&sent.to, &wamid(&sent.to, 1)),
        };
        Reply::of(answer, Duration::from_millis(2))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_path_is_told_from_its_beginning_until_a_message_is_answered() {
    let (redis, is_broken) = (TestRedis::start().await, Arc::new(AtomicBool::new(true)));
    let meta = Meta::start(ReadsOnly { is_broken: is_broken.clone() }, seed());
    let installation = Installation::new(&redis, &meta.url(), &[("3001", 100.0)], "");
    // A new owner of the line would begin anew.
    let installation = installation.replaced("lease = \"3s\"", "lease = \"30s\"");
    let server = installation.serve("all", "api,dispatch").await;
    let api = server.api();
    let id = api.campaign(&["3001"], FIRST..FIRST + 100, json!({})).await;
    let waiting = async || api.get(&format!("campaigns/{id}")).await["statistics"]["waiting_for"][0].clone();
    let held = async || {
        let page = server.ops("metrics").await.1;
        let held = page.lines().find_map(|line| line.strip_prefix("pregon_held_seconds{line=\"3001\"} "));
        held.expect("the series").parse::<f64>().expect("a number")
    };
    until("the campaign waits for the path", async || waiting().await["reason"] == "path_broken").await;
    let (first, tried) = (waiting().await, meta.requests());
    let text = first["text"].as_str().expect("a text");
    assert!(text.starts_with("the path to Meta is broken: HTTP 503 with "), "{text}");
    let mut before = held().await;
    // Each time Meta answers a probe, and the proxy the message that follows.
    while meta.requests() < tried + 3 {
        let (waiting, held) = (waiting().await, held().await);
        assert_eq!((&waiting["reason"], &waiting["since"]), (&first["reason"], &first["since"]), "{waiting}");
        assert!(held >= before, "{held} after {before}");
        before = held;
    }
    let line = api.get("lines/3001").await;
    assert_eq!((&line["state"], &line["since"]), (&json!("path_broken"), &first["since"]), "{line}");
    assert_eq!(lines(&server, "Meta answers"), Vec::<Value>::new());

    is_broken.store(false, Ordering::Relaxed);
    until("the line is as before", async || api.get("lines/3001").await["since"].is_null()).await;
    assert_eq!((held().await, lines(&server, "Meta answers messages again").len()), (0.0, 1));
}
