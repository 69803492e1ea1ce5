//! Compares dispatch with a bare reqwest loop, in one run on the same cores.
//!
//! `cargo bench --bench dispatch [-- RECIPIENTS ROUNDS]`. Three processes share the machine, as in a small
//! installation: an instant HTTP server (a second process of this program), a private redis-server, and this process.
//! Each round sends the same number of messages twice, first by the bare loop, then by dispatch. The bare loop has 64
//! concurrent tasks on a multi-threaded runtime and builds URL and headers for each request. Dispatch runs with
//! everything on: leases, pacing, claims, message ids, settling, statistics. The last line has the medians. CPU time is
//! measured for the sending process and for Redis. If other programs share the cores, it is more reliable than the
//! rates.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use pregon::{
    dispatch::{DispatchSettings, worker::Worker},
    domain::{
        Campaign, CampaignId, CampaignState, Line, LineId, Lines, MessagingLimit, Phone, Recipient, RetryPolicy,
        Secret, State, Template,
    },
    graph::GraphClientConfig,
    redis::{
        Address, Store,
        clock::Clock,
        messaging_limits::KnownLimit,
        spawn::PrivateRedis,
        uploads::{Admitted, Batch},
    },
    telemetry::{health::Health, metrics::OwnedLines},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

/// The same allocator as the program, for the bare loop too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const LINES: usize = 8;
const STREAMS: u64 = 64;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if args.first().is_some_and(|arg| arg == "server") {
        // Exits when the parent process ends, because that closes this pipe.
        std::thread::spawn(|| {
            let _ = std::io::stdin().read_line(&mut String::new());
            std::process::exit(0);
        });
        return runtime().block_on(serve());
    }
    // The bare loop needs a crypto provider. The client of the Graph API installs its own.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let number = |index: usize, default: u64| args.get(index).map_or(default, |arg| arg.parse().expect("a number"));
    let (recipients, rounds) = (number(0, 200_000), number(1, 3));
    let mut server = Server::start();
    // One runtime for both contenders. Dispatch additionally has its own thread.
    tokio::runtime::Runtime::new().expect("a runtime").block_on(compare(&server.url, recipients, rounds));
    server.child.kill().expect("the server was running");
    server.child.wait().expect("the server ends");
}

async fn compare(url: &str, recipients: u64, rounds: u64) {
    println!("{recipients} messages a round, {LINES} lines, {rounds} rounds");
    println!(
        "{:>8} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>15} {:>10}",
        "round", "bare/s", "dispatch/s", "ratio", "bare us", "worker us", "redis us", "redis B/pending", "memory MiB"
    );
    let mut columns: [Vec<f64>; 8] = Default::default();
    for round in 1..=rounds {
        let before = cpu_us("self");
        let bare = bare(url, recipients).await;
        let bare_us = (cpu_us("self") - before) / recipients as f64;
        let Dispatched { rate, worker_us, redis_us, bytes } = dispatch(url, recipients).await;
        let row = [bare, rate, rate / bare, bare_us, worker_us, redis_us, bytes, memory_mib()];
        print_row(&round.to_string(), row);
        columns.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
    }
    let median = |column: &mut Vec<f64>| {
        column.sort_by(f64::total_cmp);
        column[column.len() / 2]
    };
    print_row("median", columns.each_mut().map(median));
}

fn print_row(name: &str, row: [f64; 8]) {
    let [bare, dispatch, ratio, bare_us, worker_us, redis_us, bytes, memory] = row;
    println!(
        "{name:>8} {bare:>10.0} {dispatch:>10.0} {ratio:>10.2} {bare_us:>10.1} {worker_us:>10.1} {redis_us:>10.1} \
         {bytes:>15.1} {memory:>10.0}"
    );
}

/// CPU time of a process, in microseconds; 0 without `/proc`.
fn cpu_us(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // After the process name, which may contain any character, user and system time are fields 12 and 13, in ticks of
    // 10 ms.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * 10_000.0
}

/// The measurements of one run of dispatch.
struct Dispatched {
    /// Messages per second.
    rate: f64,
    /// CPU time of the worker per message, in microseconds.
    worker_us: f64,
    /// CPU time of Redis per message, in microseconds.
    redis_us: f64,
    /// Redis memory per pending recipient, in bytes.
    bytes: f64,
}

/// Messages per second of a loop that only sends.
async fn bare(url: &str, n: u64) -> f64 {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let left = Arc::new(AtomicU64::new(n));
    let began = Instant::now();
    let streams: Vec<_> = (0..STREAMS)
        .map(|_| {
            let (client, left, url) = (client.clone(), left.clone(), url.to_owned());
            tokio::spawn(async move {
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                    let request = client
                        .post(format!("{url}/v25.0/3001/messages"))
                        .bearer_auth("token")
                        .header("content-type", "application/json");
                    let answer = request.body(BODY).send().await.expect("an answer");
                    assert_eq!(answer.bytes().await.expect("a body").len(), ANSWER.len());
                }
            })
        })
        .collect();
    for stream in streams {
        stream.await.expect("no panic");
    }
    n as f64 / began.elapsed().as_secs_f64()
}

async fn dispatch(url: &str, n: u64) -> Dispatched {
    let dir = tempfile::tempdir().expect("a directory");
    let redis = PrivateRedis::start(dir.path()).await.expect("a redis-server");
    let address = Address {
        url: redis.url().to_owned(),
        certificates: Default::default(),
        namespace: "pregon".to_owned(),
        timeout: Duration::from_secs(5),
        connections: 16,
    };
    let store = Store::connect(&address).await.expect("a store");
    let empty = used_memory(&address).await;
    let lines: Lines = (0..LINES).map(|n| line(&format!("300{n}"))).collect();
    // The instant server does not know the messaging limit.
    let limit = KnownLimit { limit: MessagingLimit::Unlimited, since: store.time().await.expect("the time") };
    store.set_messaging_limit(&"1001".into(), limit).await.expect("redis");
    let id = upload(&store, &lines, n).await;
    let bytes = (used_memory(&address).await - empty) as f64 / n as f64;
    let worker = Worker {
        name: "bench".to_owned(),
        clock: Arc::new(Clock::start(&store).await.expect("a clock")),
        token_key: store.token_key().await.expect("a key"),
        store: store.clone(),
        lines: lines.into(),
        settings: DispatchSettings {
            headroom: 0.0,
            doubt_deadline: Duration::from_secs(600),
            lease: Duration::from_secs(10),
            retry: RetryPolicy::new(Duration::from_secs(5), 3.0, Duration::from_secs(600), 6).expect("a policy"),
            in_flight_max: 512,
            pair_spacing: Duration::from_secs(6),
            id_retention: Duration::from_secs(3600),
            features: &[],
            contact_hours: Default::default(),
            traces: Default::default(),
        },
        graph: GraphClientConfig { base_url: url.to_owned(), ..GraphClientConfig::default() },
        threads: std::env::var("THREADS").map_or(1, |n| n.parse().expect("a number")),
        health: Health::starting(&[]),
        open: Arc::default(),
        metrics: OwnedLines::default(),
    };
    let stop = CancellationToken::new();
    let redis_pid = redis.pid().to_string();
    let before = [cpu_us("self"), cpu_us(&redis_pid)];
    let running = tokio::spawn(worker.run(stop.clone()));
    let began = Instant::now();
    let now = store.time().await.expect("the time");
    store.change_campaign(id, &[CampaignState::Draft], CampaignState::Running, now, None).await.expect("a launch");
    loop {
        let record = store.campaign(id).await.expect("a store").expect("a campaign");
        if record.state == CampaignState::Completed {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rate = n as f64 / began.elapsed().as_secs_f64();
    let [worker_us, redis_us] = [cpu_us("self") - before[0], cpu_us(&redis_pid) - before[1]].map(|us| us / n as f64);
    let record = store.campaign(id).await.expect("a store").expect("a campaign");
    let parts: Vec<_> = record.parts.iter().map(|(part, _)| *part).collect();
    let accepted: u64 =
        store.part_counts(&parts).await.expect("counts").iter().map(|counts| counts.by_state[&State::Accepted]).sum();
    assert_eq!(accepted, n, "every message was accepted");
    stop.cancel();
    running.await.expect("no panic").expect("a worker that ends well");
    redis.stop().await.expect("its end");
    Dispatched { rate, worker_us, redis_us, bytes }
}

async fn upload(store: &Store, lines: &[Line], n: u64) -> CampaignId {
    let now = store.time().await.expect("the time");
    let template: Template = serde_json::from_str(TEMPLATE).expect("a template");
    let id = CampaignId(ulid::Ulid::from_parts(now.0, rand::random()));
    let ids = lines.iter().map(|line| line.id.clone()).collect();
    let campaign = Campaign::new(id, "bench", template, ids, now);
    let (id, _) = store.create_campaign(&campaign).await.expect("a campaign");
    let weights: Vec<(LineId, f64)> = campaign.lines.iter().map(|line| (line.clone(), 1.0)).collect();
    let opened =
        store.begin_upload(id, "u", weights, "%d".to_owned(), Duration::from_secs(60)).await.expect("an upload");
    let (mut upload, _) = opened.expect("a campaign");
    let mut done = 0;
    while done < n {
        let until = n.min(done + 2_048);
        let recipients = (done..until).map(|n| (n as u32, recipient(n))).collect();
        let batch = Batch { recipients, taken: until, done: until == n, ..Batch::default() };
        assert_eq!(
            upload.admit(batch.pack(upload.packing())).await.expect("a batch"),
            Admitted::Done { accepted: until - done }
        );
        done = until;
    }
    id
}

/// A recipient with three short, realistic parameters: a name, an order, a day.
fn recipient(n: u64) -> Recipient {
    const NAMES: [&str; 8] = ["María", "José", "Lucía", "Juan", "Sofía", "Martín", "Camila", "Diego"];
    let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let to = Phone::from_digits(5_491_100_000_000 + (mixed % 90_000) * 100_000 + n % 100_000).expect("a number");
    let name = NAMES[(mixed % 8) as usize];
    Recipient {
        to,
        values: vec![name.to_owned(), format!("A-{}", mixed % 1_000_000), format!("{} de mayo", mixed % 31 + 1)],
    }
}

fn line(id: &str) -> Line {
    Line {
        id: id.into(),
        waba: "2001".into(),
        business: "1001".into(),
        token: Secret::new("token"),
        display: String::new(),
        name: String::new(),
        messages_per_second: Some(1e6),
        warm_up: Arc::default(),
        marketing_api: false,
        frequency_cap: None,
    }
}

async fn used_memory(address: &Address) -> u64 {
    let store = Store::connect(address).await.expect("a store");
    let info: String = store.query("INFO", deadpool_redis::redis::cmd("INFO").arg("memory")).await.expect("its memory");
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory_dataset:")).expect("a figure");
    used.trim().parse().expect("a number")
}

/// Peak resident memory of this process, in MiB; 0 without `/proc`.
fn memory_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).and_then(|text| text.trim().split(' ').next());
    kib.and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The instant server, which runs in its own process.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start() -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .arg("server")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("its address");
        Self { child, url: line.trim().to_owned() }
    }
}

const BODY: &str = r#"{"messaging_product":"whatsapp","recipient_type":"individual","to":"+5491155550001","type":"template","template":{"name":"order_update","language":{"code":"es_AR"},"components":[{"type":"body","parameters":[{"type":"text","text":"María"},{"type":"text","text":"A-10"},{"type":"text","text":"3 de mayo"}]}]},"biz_opaque_callback_data":"p1.01J9ZK3V5T8R7Q6P5N4M3K2J1H.0.1.1.0123456789abcdef"}"#;
const ANSWER: &str = r#"{"messaging_product":"whatsapp","contacts":[{"input":"+5491155550001","wa_id":"5491155550001"}],"messages":[{"id":"wamid.HBgNNTQ5MTE1NTU1MDAwMRUCABEYEjlBM0NBNUIzRDREOTJGNjdFNwA=","message_status":"accepted"}]}"#;
const TEMPLATE: &str = r#"{"name":"order_update","language":"es_AR","status":"APPROVED","category":"UTILITY","parameter_format":"POSITIONAL","components":[{"type":"BODY","text":"Hola {{1}}, tu pedido {{2}} llega el {{3}}."}]}"#;

/// The instant server: answers every request at once.
async fn serve() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("http://{}", listener.local_addr().expect("an address"));
    let answer: Arc<[u8]> = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{ANSWER}",
        ANSWER.len()
    )
    .into_bytes()
    .into();
    loop {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        let answer = answer.clone();
        tokio::spawn(async move {
            let _ = socket.set_nodelay(true);
            let mut buffer = Vec::with_capacity(4_096);
            while matches!(socket.read_buf(&mut buffer).await, Ok(n) if n > 0) {
                while let Some(length) = request_length(&buffer) {
                    buffer.drain(..length);
                    if socket.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
}

/// The length of the first request in `buffer`, if it is complete.
fn request_length(buffer: &[u8]) -> Option<usize> {
    let head = memchr::memmem::find(buffer, b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&buffer[..head]).expect("a request of ours");
    let length = text
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(|n| n.trim().parse::<usize>()));
    let whole = head + length.expect("it has a length").expect("a number");
    (buffer.len() >= whole).then_some(whole)
}
