//! Uploads that come faster than Redis takes them: the caller waits, and not the memory of the worker.

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
    keeps_no_file,
    memory::{Memory, mib},
    proxy::{Network, Proxy},
    support::{
        self,
        redis::TestRedis,
        server::{Api, Installation, Server},
        world,
    },
    wire,
};

const FIRST: u64 = 5_491_160_000_000;
/// Two batches of the intake: they are taken before Redis is held up.
const TAKEN: u64 = 4_096;
/// Uploads that are taken at once.
pub const AT_ONCE: u64 = 64;
/// More than anybody gets rid of.
const ENDLESS: u64 = 1 << 30;
/// Rows that a client hands over at once.
const PIECE_ROWS: u64 = 32;
/// What one upload may add to the worker's memory: two batches, the buffers of a connection, and what an allocator keeps.
const GROWTH_MAX: u64 = 24 << 20;
/// What each of many may add.
const UPLOAD_BYTES_MAX: u64 = 4 << 20;
/// What a client may get rid of while nothing is taken: it lies in the buffers of the system.
const BUFFERED_MAX: u64 = 96 << 20;

#[derive(Clone, Copy)]
pub struct Size {
    pub rows: u64,
    /// Of each row; most of it is blank.
    pub row_bytes: usize,
    /// How much later everything comes to Redis, and from it.
    pub delay: Duration,
}

pub struct Figures {
    /// What the client got rid of while nothing was taken.
    pub buffered_bytes: u64,
    /// Answers that told to repeat it.
    pub refused: usize,
    pub before: Memory,
    pub after: Memory,
}

/// A worker that takes uploads.
struct Worker {
    api: Api,
    server: Server,
    wire: Proxy,
    _network: Network,
    _redis: TestRedis,
    _installation: Installation,
}

impl Worker {
    /// Redis is waited for so long.
    async fn start(patience: &str) -> Self {
        let (redis, network) = (TestRedis::start().await, Network::start());
        keeps_no_file(&redis).await;
        let store = Store::connect(&world::address(&redis)).await.expect("a store");
        let now = Clock::start(&store).await.expect("a clock").now();
        store.put_templates(&"2001".into(), &[world::template()], now).await.expect("templates");
        let installation = Installation::new(&redis, "http://127.0.0.1:9", &[("3001", 80.0), ("3002", 80.0)], "");
        let wire = wire(&network, &installation, &redis);
        let url = wire.url();
        let environment = [
            ("PREGON__REDIS__URL", url.as_str()),
            ("PREGON__REDIS__TIMEOUT", patience),
            ("PREGON__DISPATCH__LEASE", "30s"),
        ];
        let server = installation.serve_with("api", "api", &environment).await;
        Self { api: server.api(), server, wire, _network: network, _redis: redis, _installation: installation }
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

/// Rows as a client streams them that is never slow.
#[derive(Clone)]
struct Rows {
    first: u64,
    bytes: usize,
    /// Holds back the rows from this one on.
    gate_at: u64,
    gate: CancellationToken,
    /// What the client got rid of.
    sent: Arc<AtomicU64>,
    /// Answers that told to repeat it.
    refused: Arc<AtomicUsize>,
}

impl Rows {
    fn new(first: u64, bytes: usize, gate_at: u64) -> Self {
        Self { first, bytes, gate_at, gate: CancellationToken::new(), sent: Arc::default(), refused: Arc::default() }
    }

    /// As many others, behind the same gate.
    fn others(&self, first: u64) -> Self {
        Self { first, ..self.clone() }
    }

    /// The first `n` of them.
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

/// One upload: Redis stops answering in the middle of it, and when the upload is repeated Redis is slow.
pub async fn play(size: Size) -> Figures {
    let worker = Worker::start("4s").await;
    let (api, id) = (&worker.api, worker.draft().await);
    let before = worker.memory();
    let rows = Rows::new(FIRST, size.row_bytes, TAKEN);
    let cut = async {
        support::until("two batches are taken", async || worker.recipients(&id).await == TAKEN).await;
        worker.wire.hold();
        let before = rows.sent.load(Ordering::SeqCst);
        rows.gate.cancel();
        before
    };
    let (taken_bytes, (status, problem)) = tokio::join!(cut, api.upload(&id, "one", rows.body(ENDLESS)));
    assert_eq!((status, &problem["type"]), (503, &json!("urn:pregon:problem:unavailable")), "{problem}");
    let buffered_bytes = rows.sent.load(Ordering::SeqCst) - taken_bytes;
    let held = worker.memory();

    worker.wire.mend();
    worker.wire.slow(size.delay);
    let answer = repeated(api, &id, "one", &rows, size.rows).await;
    assert_eq!(answer, json!({"accepted": size.rows, "rejected_count": 0, "rejected": []}));
    worker.wire.mend();
    let after = worker.memory();
    exactly_once(&worker, &id, FIRST..FIRST + size.rows).await;

    println!(
        "buffered {}, grown by {}, then {}",
        mib(buffered_bytes),
        mib(held.grown_since(before)),
        mib(after.grown_since(before))
    );
    assert!(buffered_bytes < BUFFERED_MAX, "{} went out while nothing was taken", mib(buffered_bytes));
    assert!(after.grown_since(before) < GROWTH_MAX, "grown by {}", mib(after.grown_since(before)));
    Figures { buffered_bytes, refused: rows.refused.load(Ordering::SeqCst), before, after }
}

/// Many uploads at once, while Redis is slow.
pub async fn play_many(size: Size, uploads: u64) -> Figures {
    let worker = Worker::start("10s").await;
    let (api, id) = (&worker.api, worker.draft().await);
    let before = worker.memory();
    let rows = Rows::new(FIRST, size.row_bytes, size.rows);
    worker.wire.slow(size.delay);
    let taken = join_all((0..uploads).map(|n| {
        let (id, rows) = (&id, rows.others(FIRST + n * size.rows));
        async move { repeated(api, id, &format!("upload-{n}"), &rows, size.rows).await["accepted"].clone() }
    }));
    assert_eq!(taken.await, vec![json!(size.rows); uploads as usize]);
    worker.wire.mend();
    let after = worker.memory();
    exactly_once(&worker, &id, FIRST..FIRST + uploads * size.rows).await;
    println!(
        "{uploads} uploads, {} refused, grown by {}",
        rows.refused.load(Ordering::SeqCst),
        mib(after.grown_since(before))
    );
    let growth_max = GROWTH_MAX + uploads * UPLOAD_BYTES_MAX;
    assert!(after.grown_since(before) < growth_max, "grown by {}", mib(after.grown_since(before)));
    Figures { buffered_bytes: 0, refused: rows.refused.load(Ordering::SeqCst), before, after }
}

/// Uploads the first `n` rows until they are taken. Gives the answer.
///
/// Redis may be slower than it is waited for, or others may have every place. Then that is told, and the upload is repeated.
async fn repeated(api: &Api, id: &str, upload_id: &str, rows: &Rows, n: u64) -> Value {
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

async fn exactly_once(worker: &Worker, id: &str, numbers: std::ops::Range<u64>) {
    assert_eq!(worker.recipients(id).await, numbers.end - numbers.start);
    let listed = worker.api.recipients(id).await;
    let mut listed: Vec<u64> = listed
        .iter()
        .map(|recipient| recipient["to"].as_str().expect("a number")[1..].parse().expect("a number"))
        .collect();
    listed.sort_unstable();
    assert!(listed.into_iter().eq(numbers), "somebody is missing, or twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_faster_than_redis_waits_for_it_and_memory_does_not_grow() {
    play(Size { rows: 12_000, row_bytes: 4_000, delay: Duration::from_millis(2) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_uploads_are_taken_at_once_and_who_comes_then_is_told() {
    const EACH: u64 = 2 * PIECE_ROWS;
    let worker = Worker::start("10s").await;
    let (api, id) = (&worker.api, worker.draft().await);
    // Half of each has come.
    let rows = Rows::new(FIRST, 100, PIECE_ROWS);
    let uploads = (0..AT_ONCE).map(|n| {
        let (id, rows) = (&id, rows.others(FIRST + n * EACH));
        async move { repeated(api, id, &format!("upload-{n}"), &rows, EACH).await["accepted"].clone() }
    });
    let further = Rows::new(FIRST + AT_ONCE * EACH, 100, EACH);
    let one_more = async {
        support::until("nobody else is taken", async || {
            let (status, problem) = api.upload(&id, "further", further.body(0)).await;
            assert!(status == 200 || problem["type"] == "urn:pregon:problem:too-many-streams", "{problem}");
            status == 429
        })
        .await;
        rows.gate.cancel();
    };
    let (accepted, ()) = tokio::join!(join_all(uploads), one_more);
    assert_eq!(accepted, vec![json!(EACH); AT_ONCE as usize]);
    assert_eq!(repeated(api, &id, "one-more", &further, EACH).await["accepted"], EACH);
    exactly_once(&worker, &id, FIRST..FIRST + (AT_ONCE + 1) * EACH).await;
}
