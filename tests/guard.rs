//! A performance guard that does not depend on the speed of the machine: it counts costs instead of measuring time.
//!
//! It counts allocations, round trips, Redis commands and bytes in Redis. The counts are the same in every run, except
//! those of sending a message: the number of attempts that one round trip settles depends on the load of the machine.
//! Each count has a bound a little above its value when the bound was set. A failing test means that something costs
//! more than before. If the cost is intended, raise the bound and say why in the commit. Otherwise
//! `cargo bench --bench paths` and `make instructions` help to find the cause.
//!
//! The guard is a separate test binary, so that no tests but its own load the machine at the same time: cargo runs
//! test binaries one after another.

mod support;

#[path = "../benches/inputs/mod.rs"]
mod inputs;

use std::{
    collections::BTreeMap,
    fmt,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use allocation_counter::measure;
use deadpool_redis::redis::{aio::MultiplexedConnection, cmd};
use inputs::{
    meta::InstantMeta,
    paths::PATHS,
    stored::{self, BATCH_ROWS},
    wamid,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use pregon::{
    dispatch::{
        lanes::campaign::{CampaignLane, screening::Screening},
        line::runner::Runner,
    },
    domain::{ClaimedRow, Fact, FrequencyCap, News, PartId, PersonHash, Settled, SharedTokenKey, State, UnixMs, Wamid},
    graph::{GraphClient, GraphClientConfig},
    redis::{
        Store,
        clock::Clock,
        marketing::{FrequencyCaps, MarketingMessage},
        parts::Claim,
    },
};
use support::{claim_request, redis::TestRedis, world};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

const RETENTION: Duration = Duration::from_secs(3_600);

/// Counts: the name, the count and the bound of each.
#[derive(Default)]
struct Counted(Vec<(String, f64, f64)>);

impl Counted {
    fn add(&mut self, what: impl fmt::Display, count: f64, max: f64) {
        self.0.push((what.to_string(), count, max));
    }

    /// Prints all counts, and fails if one is above its bound.
    #[track_caller]
    fn check(self) {
        let line = |(what, count, max): &(String, f64, f64)| format!("{what:<50} {count:>9.3}, at most {max:>9.3}\n");
        println!("{}", self.0.iter().map(line).collect::<String>());
        let above: String = self.0.iter().filter(|(_, count, max)| count > max).map(line).collect();
        assert!(above.is_empty(), "a cost is above its bound; the head of tests/guard.rs says what to do:\n{above}");
    }
}

#[test]
fn a_hot_path_stays_within_its_allocation_bounds() {
    // Bounds of the allocations and of the allocated bytes. Both are per message, answer, status, webhook, recipient or
    // row.
    let bounds = [
        ("body", 0.0, 0.0),
        ("send", 63.0, 22_000.0),
        ("answer", 4.0, 320.0),
        ("answer of an error", 5.0, 480.0),
        ("answer of a proxy", 2.0, 140.0),
        ("token", 0.0, 0.0),
        ("signature", 0.0, 0.0),
        ("signature of many", 0.0, 0.0),
        ("webhook", 7.0, 1_650.0),
        ("webhook of many", 0.15, 480.0),
        ("encode", 0.02, 150.0),
        ("decode", 0.02, 90.0),
        ("ndjson", 10.1, 690.0),
        ("csv", 10.2, 710.0),
    ];
    assert_eq!(bounds.map(|(name, ..)| name), PATHS.map(|(name, _)| name));
    let mut counted = Counted::default();
    for ((name, allocations_max, bytes_max), (_, make)) in bounds.into_iter().zip(PATHS) {
        let mut path = make();
        (path.run)();
        let cost = measure(|| (path.run)());
        let one = |n: u64| n as f64 / path.n as f64;
        counted.add(format_args!("{name}: allocations per {}", path.of), one(cost.count_total), allocations_max);
        counted.add(format_args!("{name}: allocated bytes per {}", path.of), one(cost.bytes_total), bytes_max);
    }
    counted.check();
}

/// The number of commands that Redis ran since the last call of this function, including those inside scripts.
async fn commands(redis: &mut MultiplexedConnection) -> u64 {
    let info: String = cmd("INFO").arg("commandstats").query_async(redis).await.expect("INFO");
    let () = cmd("CONFIG").arg("RESETSTAT").query_async(redis).await.expect("CONFIG RESETSTAT");
    let stats = info.lines().filter_map(|line| line.strip_prefix("cmdstat_"));
    // Without the commands of this function.
    let stats = stats.filter(|line| !line.starts_with("info:") && !line.starts_with("config"));
    let calls = stats.filter_map(|line| line.split_once(":calls=")?.1.split(',').next());
    calls.map(|calls| calls.parse::<u64>().expect("a number")).sum()
}

async fn claim(store: &Store, part: PartId, now: UnixMs, limit: usize) -> Vec<ClaimedRow> {
    let claim = store.claim(part, &claim_request(1, now, limit, now.after(RETENTION))).await;
    let Claim::Rows { rows, .. } = claim.expect("a claim") else { panic!("no rows") };
    rows.iter().map(|row| row.claimed).collect()
}

async fn settle(store: &Store, part: PartId, now: UnixMs, rows: &[ClaimedRow]) {
    let accepted = |row: &ClaimedRow| (*row, Settled::Accepted(Wamid::from(wamid(row.row).as_str())));
    let outcomes = BTreeMap::from([(part, rows.iter().map(accepted).collect())]);
    store.settle(&outcomes, 1, now, RETENTION).await.expect("settled");
}

async fn apply(store: &Store, part: PartId, now: UnixMs, rows: &[ClaimedRow], news: News) {
    let fact = |&ClaimedRow { row, send }: &ClaimedRow| Fact {
        row,
        send,
        news,
        at: now,
        message: Some(Wamid::from(wamid(row).as_str())),
    };
    store.apply(&[(part, rows.iter().map(fact).collect())], RETENTION).await.expect("applied");
}

#[tokio::test]
async fn a_batch_stays_within_its_bound_of_redis_commands() {
    const ROWS: usize = 256;
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let mut inspect = redis.connection().await;
    let id = stored::draft(&store, &["3001"]).await;
    let mut upload = stored::begin_upload(&store, id, &["3001"]).await;
    // Not counted: the first batch also grows the index of phone numbers to its final size.
    stored::admit(&mut upload, 0, BATCH_ROWS).await;
    commands(&mut inspect).await;
    let mut counted = Counted::default();
    stored::admit(&mut upload, BATCH_ROWS, 2 * BATCH_ROWS).await;
    counted.add("upload of 2,048: commands for one", commands(&mut inspect).await as f64 / BATCH_ROWS as f64, 1.2);
    let part = stored::launch(&store, id).await[0];
    let now = store.time().await.expect("the time");
    claim(&store, part, now, 1).await;
    commands(&mut inspect).await;
    let rows = claim(&store, part, now, ROWS).await;
    assert_eq!(rows.len(), ROWS);
    counted.add("claim of 256: commands", commands(&mut inspect).await as f64, 12.0);
    settle(&store, part, now, &rows).await;
    counted.add("settlement of 256: commands", commands(&mut inspect).await as f64, 14.0);
    for news in [News::Sent, News::Delivered, News::Read] {
        apply(&store, part, now, &rows, news).await;
        counted.add(format_args!("256 times {news:?}: commands"), commands(&mut inspect).await as f64, 11.0);
    }
    counted.check();
}

/// The memory of all keys, in bytes.
async fn bytes(redis: &mut MultiplexedConnection) -> u64 {
    let keys: Vec<String> = cmd("KEYS").arg("*").query_async(redis).await.expect("KEYS");
    let mut bytes = 0;
    for key in keys {
        let usage = cmd("MEMORY").arg("USAGE").arg(&key).arg("SAMPLES").arg(0).query_async::<u64>(redis).await;
        bytes += usage.unwrap_or_else(|error| panic!("{key}: {error}"));
    }
    bytes
}

#[tokio::test]
async fn a_person_under_a_cap_stays_within_the_bound_of_redis_memory() {
    const PEOPLE: u64 = 262_144;
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let mut inspect = redis.connection().await;
    let empty = bytes(&mut inspect).await;
    let caps = FrequencyCaps::of(Some(FrequencyCap { messages: 2, days: 7 }), None).expect("a cap");
    let (campaign, now) = (stored::draft(&store, &["3001"]).await, store.time().await.expect("the time"));
    let drafted = bytes(&mut inspect).await - empty;
    for row in 0..2 {
        let claimed = (PartId { campaign, number: 0 }, ClaimedRow { row, send: 1 });
        let message = |n: u64| MarketingMessage::new(PersonHash(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)), claimed);
        for people in (0..PEOPLE).collect::<Vec<_>>().chunks(256) {
            let messages: Vec<_> = people.iter().map(|n| message(*n)).collect();
            let sent = store.count_marketing(&"1001".into(), caps, &messages, now).await.expect("counted");
            assert!(sent.into_iter().all(|may_be_sent| may_be_sent));
        }
    }
    let mut counted = Counted::default();
    let used = bytes(&mut inspect).await - empty - drafted;
    counted.add("two messages under a cap: bytes of a person", used as f64 / PEOPLE as f64, 40.0);
    counted.check();
}

#[tokio::test]
async fn a_recipient_stays_within_its_bound_of_redis_memory() {
    const LINES: &[&str] = &["3001", "3002"];
    const N: u64 = 16_384;
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let mut inspect = redis.connection().await;
    let empty = bytes(&mut inspect).await;
    let (id, parts) = stored::running(&store, LINES, N).await;
    let mut counted = Counted::default();
    let pending = bytes(&mut inspect).await - empty;
    let each = |bytes: u64| bytes as f64 / N as f64;
    counted.add("pending: bytes of a recipient", each(pending), 32.0);
    let now = store.time().await.expect("the time");
    let mut sent = Vec::new();
    for part in parts {
        loop {
            let rows = claim(&store, part, now, 256).await;
            if rows.is_empty() {
                break;
            }
            settle(&store, part, now, &rows).await;
            sent.push((part, rows));
        }
    }
    assert_eq!(sent.iter().map(|(_, rows)| rows.len() as u64).sum::<u64>(), N);
    let accepted = bytes(&mut inspect).await - empty;
    counted.add("accepted: further bytes of a recipient", each(accepted - pending), 43.0);
    for news in [News::Sent, News::Delivered, News::Read] {
        for (part, rows) in &sent {
            apply(&store, *part, now, rows, news).await;
        }
    }
    let read = bytes(&mut inspect).await - empty;
    counted.add("sent, delivered, read: further bytes of a recipient", each(read - accepted), 26.0);
    store.forget_recipients(id).await.expect("forgotten");
    // One byte for the recipient's state, and a small share of the keys of the campaign.
    counted.add("after its retention: bytes of a recipient", each(bytes(&mut inspect).await - empty), 1.6);
    counted.check();
}

/// Round trips to Redis by operation, from the metrics of `handle`.
fn round_trips(handle: &PrometheusHandle) -> BTreeMap<String, u64> {
    let text = handle.render();
    let series = text.lines().filter_map(|line| line.strip_prefix("pregon_redis_operation_duration_seconds_count{"));
    let trips = series.filter_map(|line| {
        let (labels, n) = line.split_once("} ")?;
        Some((labels.strip_prefix("operation=\"")?.strip_suffix('"')?.to_owned(), n.parse().ok()?))
    });
    trips.collect()
}

/// Creates a runner as a worker does.
fn runner(
    store: &Store,
    clock: &Arc<Clock>,
    meta: &GraphClient,
    id: &str,
    stop: &CancellationToken,
) -> Runner<CampaignLane> {
    let line = world::line(id, 1e6);
    let key = SharedTokenKey::new(inputs::token_key());
    let screening = Rc::new(Screening::new(key.clone()));
    let lane = CampaignLane::new(store.clone(), key, Rc::default(), screening);
    let setup = world::runner_setup(store, clock, meta, line, world::settings(), stop);
    Runner::new(setup, lane)
}

#[test]
fn a_message_stays_within_its_bounds_of_allocations_and_round_trips() {
    const LINES: [&str; 2] = ["3001", "3002"];
    const N: u64 = 2_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let meta = InstantMeta::start(N);
    let redis = runtime.block_on(TestRedis::start());
    let (store, clock, id) = runtime.block_on(async {
        let store = Store::connect(&world::address(&redis)).await.expect("a store").with_pinned_connection();
        let clock = Arc::new(Clock::start(&store).await.expect("a clock"));
        let (id, _) = stored::running(&store, &LINES, N).await;
        (store, clock, id)
    });
    let graph = GraphClientConfig { base_url: meta.url, ..GraphClientConfig::default() };
    let graph = GraphClient::new(graph).expect("a client");
    let stop = CancellationToken::new();

    let recorder = PrometheusBuilder::new().build_recorder();
    let began = Instant::now();
    let cost = metrics::with_local_recorder(&recorder, || {
        measure(|| {
            let all = LocalSet::new();
            let runners = LINES.map(|line| all.spawn_local(runner(&store, &clock, &graph, line, &stop).run()));
            all.block_on(&runtime, async {
                meta.answered.await.expect("every message is answered");
                stop.cancel();
                for runner in runners {
                    runner.await.expect("no panic");
                }
            });
        })
    });
    let took = began.elapsed();

    let counts = runtime.block_on(async {
        let record = store.campaign(id).await.expect("redis").expect("a campaign");
        world::counts(&store, &record).await
    });
    assert_eq!(counts.by_state[&State::Accepted], N);
    let mut trips = round_trips(&recorder.handle());
    let mut trips_of = |what: &str| trips.remove(what).unwrap_or_else(|| panic!("no round trip for {what}")) as f64;
    let (claims, chunks, settlements) = (trips_of("claim"), trips_of("recipients"), trips_of("settle"));
    let people = trips_of("people");
    let others: u64 = trips.values().sum();

    let (lines, messages) = (LINES.len() as f64, N as f64);
    let mut counted = Counted::default();
    // The bounds grow with the number of settlements, which depends on the load of the machine. They include the cost
    // of connections: a connection takes about 370 allocations and 17 kB, and a test this small opens one for every
    // fifty messages.
    counted.add("allocations of a message", cost.count_total as f64 / messages, 76.0 + 100.0 * settlements / messages);
    let bytes_max = 25_000.0 + 60_000.0 * settlements / messages;
    counted.add("allocated bytes of a message", cost.bytes_total as f64 / messages, bytes_max);
    counted.add("round trips for claims of a line", claims / lines, 6.0);
    // Each claim asks whether people have been suppressed since the last one.
    counted.add("round trips for suppressions of a line", people / lines, 6.0);
    counted.add("round trips for chunks of a line", chunks / lines, 4.0);
    // Attempts that end within 10 ms are settled together.
    counted.add("round trips for settlements of a line", settlements / lines, took.as_secs_f64() / 0.01 + 6.0);
    counted.add("round trips for all else of a line", others as f64 / lines, 12.0);
    counted.check();
}
