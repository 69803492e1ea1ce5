//! Uploads that arrive faster than Redis accepts them: the caller waits, and the worker's memory does not grow.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::join_all, stream};
use pregon::redis::{Store, clock::Clock};
use reqwest::Body;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    disable_persistence,
    memory::{Memory, mib},
    proxy::{Network, Proxy},
    redis_proxy,
    support::{
        self,
        redis::TestRedis,
        server::{Api, Installation, Server},
        world,
    },
};

const FIRST: u64 = 5_491_160_000_000;
/// Rows that are stored before Redis stops answering: two batches of the intake.
const STORED: u64 = 4_096;
/// The limit of concurrent uploads of a worker.
pub const AT_ONCE: u64 = 64;
/// More rows than any test can send.
const ENDLESS: u64 = 1 << 30;
/// Rows per chunk of a body.
const PIECE_ROWS: u64 = 32;
/// The most bytes of memory that one upload may add: two batches, the buffers of a connection, and what the allocator
/// keeps.
const GROWTH_MAX: u64 = 24 << 20;
/// The most bytes of memory that each of many uploads may add.
const UPLOAD_BYTES_MAX: u64 = 4 << 20;
/// The most bytes that a client may send while nothing is stored. They fill the socket buffers of the system.
const BUFFERED_MAX: u64 = 96 << 20;

#[derive(Clone, Copy)]
pub struct Size {
    pub rows: u64,
    /// The bytes of each row, most of them padding.
    pub row_bytes: usize,
    /// Delay of the connection to Redis, each way.
    pub delay: Duration,
}

pub struct Figures {
    /// Bytes that the client sent while nothing was stored.
    pub buffered_bytes: u64,
    /// Responses that asked the client to repeat the upload.
    pub refused: usize,
    pub before: Memory,
    pub after: Memory,
}

/// A worker with the role `api`.
struct Worker {
    api: Api,
    server: Server,
    redis_proxy: Proxy,
    _network: Network,
    _redis: TestRedis,
    _installation: Installation,
}

impl Worker {
    /// `timeout`: the worker's timeout for Redis.
    async fn start(timeout: &str) -> Self {
        let (redis, network) = (TestRedis::start().await, Network::start());
        disable_persistence(&redis).await;
        let store = Store::connect(&world::address(&redis)).await.expect("a store");
        let now = Clock::start(&store).await.expect("a clock").now();
        store.put_templates(&"2001".into(), &[world::template()], now).await.expect("templates");
        let installation = Installation::new(&redis, "http://127.0.0.1:9", &[("3001", 80.0), ("3002", 80.0)], "");
        let redis_proxy = redis_proxy(&network, &installation, &redis);
        let url = redis_proxy.url();
        let environment = [
            ("PREGON__REDIS__URL", url.as_str()),
            ("PREGON__REDIS__TIMEOUT", timeout),
            ("PREGON__DISPATCH__LEASE", "30s"),
        ];
        let server = installation.serve_with("api", "api", &environment).await;
        Self { api: server.api(), server, redis_proxy, _network: network, _redis: redis, _installation: installation }
    }

    async fn draft(&self) -> String {
        self.api.draft(&["3001", "3002"], 0..0, json!({})).await
    }

    async fn recipients(&self, id: &str) -> u64 {
        self.api.get(&format!("campaigns/{id}")).await["statistics"]["recipients"].as_u64().expect("a count")
    }

    fn memory(&self) -> Memory {
        Memory::of(self.server.pid())
    }
}

/// Rows as a fast client streams them.
#[derive(Clone)]
struct Rows {
    first: u64,
    bytes: usize,
    /// Rows from this one on wait for `gate`.
    gate_at: u64,
    gate: CancellationToken,
    /// Bytes that the client sent.
    sent: Arc<AtomicU64>,
    /// Responses that asked the client to repeat the upload.
    refused: Arc<AtomicUsize>,
}

impl Rows {
    fn new(first: u64, bytes: usize, gate_at: u64) -> Self {
        Self { first, bytes, gate_at, gate: CancellationToken::new(), sent: Arc::default(), refused: Arc::default() }
    }

    /// The same rows with phone numbers from `first` on. They share the gate and the counts.
    fn others(&self, first: u64) -> Self {
        Self { first, ..self.clone() }
    }

    /// The first `n` rows as a body.
    fn body(&self, n: u64) -> Body {
        let (first, bytes, gate_at) = (self.first, self.bytes, self.gate_at);
        let (gate, sent) = (self.gate.clone(), self.sent.clone());
        let pieces = stream::iter((0..n).step_by(PIECE_ROWS as usize)).then(move |at| {
            let (gate, sent) = (gate.clone(), sent.clone());
            async move {
                if at >= gate_at {
                    gate.cancelled().await;
                }
                let piece: String = (at..n.min(at + PIECE_ROWS)).map(|at| row(first + at, bytes)).collect();
                sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
                Ok::<_, Infallible>(Bytes::from(piece))
            }
        });
        Body::wrap_stream(pieces)
    }
}

fn row(number: u64, bytes: usize) -> String {
    let row = format!(r#"{{"to":"+{number}","params":{{"1":"Maria","2":"A-{number}"}}}}"#);
    format!("{row:<bytes$}\n")
}

/// One upload: Redis stops answering in the middle, and is slow when the upload is repeated.
pub async fn run(size: Size) -> Figures {
    let worker = Worker::start("4s").await;
    let (api, id) = (&worker.api, worker.draft().await);
    let before = worker.memory();
    let rows = Rows::new(FIRST, size.row_bytes, STORED);
    let cut = async {
        support::until("two batches are stored", async || worker.recipients(&id).await == STORED).await;
        worker.redis_proxy.hold();
        let before = rows.sent.load(Ordering::SeqCst);
        rows.gate.cancel();
        before
    };
    let (stored_bytes, (status, problem)) = tokio::join!(cut, api.upload(&id, "one", rows.body(ENDLESS)));
    assert_eq!((status, &problem["type"]), (503, &json!("urn:pregon:problem:unavailable")), "{problem}");
    let buffered_bytes = rows.sent.load(Ordering::SeqCst) - stored_bytes;
    let held = worker.memory();

    worker.redis_proxy.restore();
    worker.redis_proxy.slow(size.delay);
    let answer = upload_until_accepted(api, &id, "one", &rows, size.rows).await;
    assert_eq!(answer, json!({"accepted": size.rows, "rejected_count": 0, "rejected": []}));
    worker.redis_proxy.restore();
    let after = worker.memory();
    check_exactly_once(&worker, &id, FIRST..FIRST + size.rows).await;

    println!(
        "buffered {}, grown by {}, then {}",
        mib(buffered_bytes),
        mib(held.grown_since(before)),
        mib(after.grown_since(before))
    );
    assert!(buffered_bytes < BUFFERED_MAX, "{} were sent while nothing was stored", mib(buffered_bytes));
    assert!(after.grown_since(before) < GROWTH_MAX, "grown by {}", mib(after.grown_since(before)));
    Figures { buffered_bytes, refused: rows.refused.load(Ordering::SeqCst), before, after }
}

/// Many concurrent uploads while Redis is slow.
pub async fn run_many(size: Size, uploads: u64) -> Figures {
    let worker = Worker::start("10s").await;
    let (api, id) = (&worker.api, worker.draft().await);
    let before = worker.memory();
    let rows = Rows::new(FIRST, size.row_bytes, size.rows);
    worker.redis_proxy.slow(size.delay);
    let taken =
        join_all(
            (0..uploads).map(|n| {
                let (id, rows) = (&id, rows.others(FIRST + n * size.rows));
                async move {
                    upload_until_accepted(api, id, &format!("upload-{n}"), &rows, size.rows).await["accepted"].clone()
                }
            }),
        );
    assert_eq!(taken.await, vec![json!(size.rows); uploads as usize]);
    worker.redis_proxy.restore();
    let after = worker.memory();
    check_exactly_once(&worker, &id, FIRST..FIRST + uploads * size.rows).await;
    println!(
        "{uploads} uploads, {} refused, grown by {}",
        rows.refused.load(Ordering::SeqCst),
        mib(after.grown_since(before))
    );
    let growth_max = GROWTH_MAX + uploads * UPLOAD_BYTES_MAX;
    assert!(after.grown_since(before) < growth_max, "grown by {}", mib(after.grown_since(before)));
    Figures { buffered_bytes: 0, refused: rows.refused.load(Ordering::SeqCst), before, after }
}

/// Uploads the first `n` rows, repeatedly until they are accepted. Returns the response.
///
/// The worker asks the client to repeat the upload if Redis does not answer within the timeout, or if the limit of
/// concurrent uploads is reached.
async fn upload_until_accepted(api: &Api, id: &str, upload_id: &str, rows: &Rows, n: u64) -> Value {
    loop {
        let (status, answer) = api.upload(id, upload_id, rows.body(n)).await;
        if status == 200 {
            return answer;
        }
        let problem = answer["type"].as_str().and_then(|kind| kind.strip_prefix("urn:pregon:problem:"));
        assert!(matches!((status, problem), (503, Some("unavailable")) | (429, Some("too-many-streams"))), "{answer}");
        rows.refused.fetch_add(1, Ordering::SeqCst);
    }
}

async fn check_exactly_once(worker: &Worker, id: &str, numbers: std::ops::Range<u64>) {
    assert_eq!(worker.recipients(id).await, numbers.end - numbers.start);
    let listed = worker.api.recipients(id).await;
    let mut listed: Vec<u64> = listed
        .iter()
        .map(|recipient| recipient["to"].as_str().expect("a number")[1..].parse().expect("a number"))
        .collect();
    listed.sort_unstable();
    assert!(listed.into_iter().eq(numbers), "a recipient is missing, or listed twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_faster_than_redis_waits_without_using_memory() {
    run(Size { rows: 12_000, row_bytes: 4_000, delay: Duration::from_millis(2) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_above_the_limit_are_refused() {
    const EACH: u64 = 2 * PIECE_ROWS;
    let worker = Worker::start("10s").await;
    let (api, id) = (&worker.api, worker.draft().await);
    // Each upload sends half of its rows and then waits for the gate, so that all uploads stay open.
    let rows = Rows::new(FIRST, 100, PIECE_ROWS);
    let uploads = (0..AT_ONCE).map(|n| {
        let (id, rows) = (&id, rows.others(FIRST + n * EACH));
        async move { upload_until_accepted(api, id, &format!("upload-{n}"), &rows, EACH).await["accepted"].clone() }
    });
    let further = Rows::new(FIRST + AT_ONCE * EACH, 100, EACH);
    let one_more = async {
        support::until("a further upload is refused", async || {
            let (status, problem) = api.upload(&id, "further", further.body(0)).await;
            assert!(status == 200 || problem["type"] == "urn:pregon:problem:too-many-streams", "{problem}");
            status == 429
        })
        .await;
        rows.gate.cancel();
    };
    let (accepted, ()) = tokio::join!(join_all(uploads), one_more);
    assert_eq!(accepted, vec![json!(EACH); AT_ONCE as usize]);
    assert_eq!(upload_until_accepted(api, &id, "one-more", &further, EACH).await["accepted"], EACH);
    check_exactly_once(&worker, &id, FIRST..FIRST + (AT_ONCE + 1) * EACH).await;
}
