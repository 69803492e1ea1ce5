//! How soon an agent's message leaves while a campaign saturates its line: `cargo bench --bench replies`.
//!
//! A campaign keeps a line of `RATE` messages a second (80 unless set) busy. Agents write at half of the line's headroom,
//! for `SECONDS` (60 unless set). Redis, PostgreSQL with durable commits, the reader of the line, the worker, and a Meta
//! that answers at once share the machine.
//!
//! | figure | meaning |
//! | --- | --- |
//! | `ms` | from the commit of a message to its arrival at Meta: median, 99th percentile, longest |
//! | `of its rate` | what the campaign sends, by the rate without headroom |

mod inputs;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, extract::State, routing::post};
use inputs::stored;
use pregon::{
    dispatch::{DispatchSettings, worker::Worker},
    domain::{
        Fingerprint, Line, Live, MessagingLimit, RetryPolicy, Secret,
        agent::AgentLimits,
        chat::{Owner, content::ReplyContent},
    },
    engage::Engage,
    graph::GraphClientConfig,
    postgres::{
        Database, DatabaseAddress,
        chat_list::ChatFilter,
        chats::{ActionOn, ChatAction, NewMessage},
        spawn::PrivatePostgres,
    },
    redis::{
        Store,
        clock::Clock,
        inbound::{InboundLimits, NewInbound},
        messaging_limits::KnownLimit,
        spawn::PrivateRedis,
    },
    telemetry::{health::Health, metrics::OwnedLines},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The same allocator as the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const LINE: &str = "3001";
const PEOPLE: usize = 50;
const HEADROOM: f64 = 0.1;
const LEASE: Duration = Duration::from_secs(10);
const LIMITS: InboundLimits = InboundLimits { retention: Duration::from_secs(86_400), length_max: 1_000_000 };

/// When the texts of agents arrived, and how many other messages did.
#[derive(Default)]
struct Arrivals {
    texts: HashMap<String, Instant>,
    of_campaigns: u64,
}

type Shared = Arc<Mutex<Arrivals>>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let number = |name: &str, default: f64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (rate, seconds) = (number("RATE", 80.0), number("SECONDS", 60.0));
    let (dir, data) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let redis = PrivateRedis::start(dir.path()).await.expect("a redis-server");
    let postgres = PrivatePostgres::start(data.path()).await.expect("PostgreSQL");
    let store = Store::connect(&stored::address(redis.url())).await.expect("a store");
    let clock = Arc::new(Clock::start(&store).await.expect("a clock"));
    let options = postgres.options().clone();
    let database = Database::new(&DatabaseAddress { options, connections: 16, timeout: Duration::from_secs(30) });
    database.migrate(clock.now()).await.expect("tables");
    let limit = KnownLimit { limit: MessagingLimit::Unlimited, since: clock.now() };
    store.set_messaging_limit(&"1001".into(), limit).await.expect("redis");

    let arrivals = Shared::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let meta = Router::new().route("/{version}/{line}/messages", post(answer)).with_state(arrivals.clone());
    tokio::spawn(async move { axum::serve(listener, meta).await });

    let stop = CancellationToken::new();
    let engage = Engage {
        worker: "bench".to_owned(),
        store: store.clone(),
        database: database.clone(),
        clock: clock.clone(),
        lines: [line(rate)].into_iter().collect::<Live<_>>(),
        lease: LEASE,
        retention: Duration::from_hours(24),
        keep_messages: None,
        files: None,
        agents: AgentLimits { offline_after: Duration::from_mins(1), silence: None },
    };
    let worker = worker(&store, &clock, &url, rate).await;
    let stopping = stop.clone();
    let reader = tokio::spawn(async move { engage.run(stopping).await });
    let sender = tokio::spawn(worker.run(stop.clone()));
    let chats = people(&store, &database, clock.now().seconds()).await;
    let recipients = (rate * (seconds + 60.0)) as u64;
    stored::running(&store, &[LINE], recipients).await;
    while arrivals.lock().unwrap_or_else(PoisonError::into_inner).of_campaigns < (rate * 2.0) as u64 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let of_campaigns = || arrivals.lock().unwrap_or_else(PoisonError::into_inner).of_campaigns;
    let (began, before) = (Instant::now(), of_campaigns());
    let pause = Duration::from_secs_f64(2.0 / (rate * HEADROOM));
    let mut written = Vec::new();
    for n in 0..(seconds / pause.as_secs_f64()) as usize {
        tokio::time::sleep_until((began + pause * n as u32).into()).await;
        let body = format!("text {n}");
        let content = ReplyContent::Text { body: body.clone(), preview_url: false };
        let message = NewMessage { client_id: None, context: None, content };
        let on =
            ActionOn { chat: chats[n % chats.len()], agent: "ana", visible: None, revision: None, now: clock.now() };
        let done = database.act(on, ChatAction::Send(message)).await.expect("PostgreSQL").expect("a message");
        written.push((body, Instant::now()));
        store.ring_reader(&done.outbox.expect("a row of the outbox")).await.expect("redis");
    }
    let campaign = (of_campaigns() - before) as f64 / began.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(2)).await;

    println!("{} messages beside a campaign on a line of {rate} a second", written.len());
    print_waits(&arrivals.lock().unwrap_or_else(PoisonError::into_inner).texts, &written);
    println!("the campaign keeps {:.3} of its rate", campaign / (rate * (1.0 - HEADROOM)));
    stop.cancel();
    reader.await.expect("no panic").expect("a clean end");
    sender.await.expect("no panic").expect("a clean end");
}

fn print_waits(arrived: &HashMap<String, Instant>, written: &[(String, Instant)]) {
    let wait = |(body, at): &(String, Instant)| arrived[body].saturating_duration_since(*at).as_secs_f64() * 1_000.0;
    let mut waits: Vec<f64> = written.iter().map(wait).collect();
    waits.sort_by(f64::total_cmp);
    let at = |share: f64| waits[((waits.len() as f64 * share) as usize).min(waits.len() - 1)];
    println!("{:.1} ms, p99 {:.1} ms, longest {:.1} ms", at(0.5), at(0.99), at(1.0));
}

async fn answer(State(arrivals): State<Shared>, body: Bytes) -> &'static str {
    let now = Instant::now();
    let message: Value = serde_json::from_slice(&body).expect("JSON");
    let mut arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
    match message["text"]["body"].as_str() {
        Some(text) => drop(arrivals.texts.insert(text.to_owned(), now)),
        None => arrivals.of_campaigns += 1,
    }
    include_str!("../tests/fixtures/answers/accepted.json")
}

async fn worker(store: &Store, clock: &Arc<Clock>, url: &str, rate: f64) -> Worker {
    Worker {
        name: "bench".to_owned(),
        clock: clock.clone(),
        token_key: store.token_key().await.expect("a key"),
        store: store.clone(),
        lines: [line(rate)].into_iter().collect::<Live<_>>(),
        settings: DispatchSettings {
            headroom: HEADROOM,
            doubt_deadline: Duration::from_secs(600),
            lease: LEASE,
            retry: RetryPolicy::new(Duration::from_secs(5), 3.0, Duration::from_secs(600), 6).expect("a policy"),
            in_flight_max: 512,
            pair_spacing: Duration::from_secs(6),
            id_retention: Duration::from_secs(3600),
            features: &[],
            contact_hours: Default::default(),
            traces: Default::default(),
        },
        graph: GraphClientConfig { base_url: url.to_owned(), ..GraphClientConfig::default() },
        threads: 1,
        health: Health::starting(&[]),
        open: Arc::default(),
        metrics: OwnedLines::default(),
    }
}

fn line(rate: f64) -> Line {
    Line {
        id: LINE.into(),
        waba: "2001".into(),
        business: "1001".into(),
        token: Secret::new("token"),
        display: String::new(),
        name: String::new(),
        messages_per_second: Some(rate),
        warm_up: Arc::default(),
        marketing_api: false,
        frequency_cap: None,
    }
}

/// Chats of people who have just written.
async fn people(store: &Store, database: &Database, now: u64) -> Vec<i64> {
    let message = |person: usize| {
        let wamid = format!("wamid.{person}");
        let number = (5_491_155_000_000 + person).to_string();
        let message =
            json!({"id": wamid, "at": now * 1_000, "sender": {"number": number}, "content": {"text": "Hola"}});
        NewInbound { fingerprint: Fingerprint::of(&wamid), message: message.to_string(), answers: None }
    };
    let messages = [(LINE.into(), (0..PEOPLE).map(message).collect())];
    store.keep_inbound(&messages, LIMITS).await.expect("redis");
    let filter = ChatFilter { owners: Owner::ALL.to_vec(), ..ChatFilter::default() };
    loop {
        let chats = database.chats(&filter, PEOPLE).await.expect("PostgreSQL");
        if chats.len() == PEOPLE {
            return chats.into_iter().map(|chat| chat.id).collect();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
