//! A broken path to Meta costs a few recipients per line, not the whole audience.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State as Shared},
    http::{Method, StatusCode},
    response::{IntoResponse as _, Response},
};
use http_body_util::BodyExt as _;
use pregon::{
    dispatch::DispatchSettings,
    domain::{CampaignState, FailureReason, LineId, OnDoubt, State},
    graph::GraphClientConfig,
    redis::Store,
};
use tokio::sync::watch;

use crate::support::{
    self,
    redis::TestRedis,
    serve::serve,
    world::{self, TestWorker},
};

/// The state of the network path to Meta.
#[derive(Clone, Copy, PartialEq)]
enum Path {
    Works,
    /// Every line gets its own kind of broken response.
    Broken,
    /// No request is ever answered.
    Silent,
}

/// A fake Meta behind a path that breaks and is repaired. It is separate from `support::hostile` because each line
/// gets its own kind of broken response, one of which ends in the middle of its body.
#[derive(Clone)]
struct Meta {
    path: watch::Sender<Path>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// Send requests by line.
    sends: HashMap<String, u32>,
    /// Accepted messages by line and recipient. The campaigns have the same recipients.
    taken: HashMap<(String, String), u32>,
    /// Requests for a line's data.
    questions: u32,
}

impl Meta {
    async fn start(path: Path) -> (Self, String) {
        let meta = Self { path: watch::Sender::new(path), seen: Arc::default() };
        let url = serve(Router::new().fallback(answer).with_state(meta.clone())).await;
        (meta, url)
    }

    fn sends(&self, line: &str) -> u32 {
        self.seen.lock().expect("no panic").sends.get(line).copied().unwrap_or(0)
    }
}

async fn answer(Shared(meta): Shared<Meta>, request: Request) -> Response {
    let line = request.uri().path().split('/').nth(2).unwrap_or_default().to_owned();
    let is_send = request.method() == Method::POST;
    let body = request.into_body().collect().await.expect("a body").to_bytes();
    let path = *meta.path.borrow();
    let path = if line == "3000" { Path::Works } else { path };
    {
        let mut seen = meta.seen.lock().expect("no panic");
        seen.questions += u32::from(!is_send);
        *seen.sends.entry(line.clone()).or_default() += u32::from(is_send);
    }
    let answer =
        |status: u16, text: &str| (StatusCode::from_u16(status).expect("a status"), text.to_owned()).into_response();
    match (path, &*line) {
        (Path::Silent, _) => std::future::pending().await,
        (Path::Broken, "3001") => answer(503, "<html><h1>Service Unavailable</h1></html>"),
        (Path::Broken, "3002") => answer(404, "<html><h1>Not Found</h1></html>"),
        (Path::Broken, "3003") => answer(429, "slow down"),
        (Path::Broken, "3004") => answer(401, ""),
        (Path::Broken, "3005") => answer(200, ""),
        // The body is cut off, and the connection closes.
        (Path::Broken, _) => {
            let broken = futures_util::stream::once(async { Err::<&str, _>(std::io::Error::other("cut")) });
            Body::from_stream(broken).into_response()
        }
        (Path::Works, _) if is_send => {
            let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            let to = body["to"].as_str().expect("a number").to_owned();
            let id = format!("wamid.{to}");
            *meta.seen.lock().expect("no panic").taken.entry((line, to)).or_default() += 1;
            answer(200, &serde_json::json!({"messages": [{"id": id}]}).to_string())
        }
        (Path::Works, _) => answer(200, r#"{"id":"1","display_phone_number":"+54 9 11 5555 0001"}"#),
    }
}

/// The description of the broken responses on `line` in its worker's report, or `None` if the path works.
async fn broken_by(store: &Store, line: &str) -> Option<String> {
    let reports = store.reports(&[LineId::from(line)]).await.expect("redis");
    reports.into_iter().next().flatten()?.path_broken
}

#[tokio::test]
async fn non_meta_responses_in_a_row_stop_a_line_until_meta_answers() {
    const BROKEN: [&str; 6] = ["3001", "3002", "3003", "3004", "3005", "3006"];
    const WORKS: &str = "3000";
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let (meta, url) = Meta::start(Path::Broken).await;
    let id = world::campaign(&store, &BROKEN, 1_800, OnDoubt::Hold).await;
    let other = world::campaign(&store, &[WORKS], 300, OnDoubt::Hold).await;
    world::launch(&store, id).await;
    let lines: Vec<_> = BROKEN.iter().chain([&WORKS]).map(|line| world::line(line, 1_000.0)).collect();
    world::know_messaging_limits(&store, &["1001"]).await;
    let worker = TestWorker::start("w1", &redis, &url, &lines, world::settings()).await;
    for line in BROKEN {
        support::until("the line stops", async || broken_by(&store, line).await.is_some()).await;
    }
    let cause = broken_by(&store, "3001").await.expect("it is stopped");
    assert_eq!(cause, "HTTP 503 with 41 bytes that are not Meta's JSON");
    // A line of the same WABA whose path works continues.
    world::launch(&store, other).await;
    world::wait_for_state(&store, other, CampaignState::Completed).await;
    support::until("meta is asked again", async || meta.seen.lock().expect("no panic").questions >= 2).await;
    let record = store.campaign(id).await.expect("redis").expect("a campaign");
    assert_eq!(record.state, CampaignState::Running);
    let lost: HashMap<&str, u32> = BROKEN.map(|line| (line, meta.sends(line))).into();
    // Five in a row stop the line; the others were in flight by then.
    assert!(lost.values().all(|lost| (5..=20).contains(lost)), "{lost:?}");

    meta.path.send_replace(Path::Works);
    let record = world::wait_for_state(&store, id, CampaignState::Completed).await;
    worker.stop().await;
    let counts = world::counts(&store, &record).await;
    let of = |state| counts.by_state[&state];
    let lost: u64 = lost.values().map(|lost| u64::from(*lost)).sum();
    assert_eq!((of(State::Unknown), of(State::Accepted)), (lost, 1_800 - lost));
    let seen = meta.seen.lock().expect("no panic");
    assert_eq!(
        (seen.taken.len() as u64, seen.taken.values().max()),
        (2_100 - lost, Some(&1)),
        "no recipient gets two messages"
    );
    assert!(
        counts.details.contains_key(&FailureReason::NoAnswer),
        "the details describe the broken responses: {:?}",
        counts.details
    );
}

#[tokio::test]
async fn a_path_without_responses_gets_few_messages() {
    const RATE: f64 = 40.0;
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let (meta, url) = Meta::start(Path::Silent).await;
    let id = world::campaign(&store, &["3001"], 300, OnDoubt::Hold).await;
    world::launch(&store, id).await;
    let settings = DispatchSettings { in_flight_max: 1_000, ..world::settings() };
    let graph = GraphClientConfig { timeout: Duration::from_secs(4), ..world::graph(&url) };
    let lines = [world::line("3001", RATE)];
    world::know_messaging_limits(&store, &["1001"]).await;
    let worker = TestWorker::start_with("w1", world::address(&redis), graph, &lines, settings).await;
    support::until("the line stops", async || broken_by(&store, "3001").await.is_some()).await;
    let lost = meta.sends("3001");
    // The messages of three seconds, plus a few.
    assert!(lost <= 3 * RATE as u32 + 5, "{lost}");

    meta.path.send_replace(Path::Works);
    let record = world::wait_for_state(&store, id, CampaignState::Completed).await;
    worker.stop().await;
    let counts = world::counts(&store, &record).await;
    let of = |state| counts.by_state[&state];
    let lost = u64::from(lost);
    assert_eq!((of(State::Unknown), of(State::Accepted)), (lost, 300 - lost));
}

#[tokio::test]
async fn an_unreachable_meta_is_reported_with_the_error_from_the_first_attempt_on() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let id = world::campaign(&store, &["3001"], 300, OnDoubt::Hold).await;
    world::launch(&store, id).await;
    world::know_messaging_limits(&store, &["1001"]).await;
    let lines = [world::line("3001", 100.0)];
    // A new owner of the line would begin anew.
    let settings = DispatchSettings { lease: Duration::from_secs(60), ..world::settings() };
    let worker = TestWorker::start("w1", &redis, "http://127.0.0.1:9", &lines, settings).await;
    let report = async || store.reports(&["3001".into()]).await.expect("redis").remove(0);
    let is_unreachable = async || report().await.is_some_and(|report| report.unreachable);
    support::until("Meta is unreachable", is_unreachable).await;
    let first = report().await.expect("a report");
    let because = first.unreachable_because.as_deref().expect("an error");
    assert!(because.to_lowercase().contains("connection refused"), "{because}");
    let mut at = first.at;
    // The pauses between the attempts are half a second, one, two, and four.
    while at.since(first.at) < Duration::from_secs(4) {
        let report = report().await.expect("a report");
        assert_eq!((report.unreachable, report.since), (true, first.since));
        let stopped = "pregon_lines_stopped{reason=\"unreachable\"} 1";
        assert!(worker.metrics().lines().any(|line| line == stopped), "{}", worker.metrics());
        at = report.at;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    worker.stop().await;
}
