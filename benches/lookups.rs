//! The cost in Redis of searching for message ids without our token: `cargo bench --bench lookups`.
//!
//! The line has 2 million ids in its index and 4 parts that are still sending, of 65,536 ids each. For 10 seconds,
//! webhooks search for 64 ids of another app each, one webhook after the other. Then ids of ours are looked up in the
//! index, one at a time.
//!
//! | figure | meaning |
//! | --- | --- |
//! | `redis` | CPU time of redis-server, as a share of the elapsed time (`INFO cpu`) |
//! | `µs` | duration of each command and script in Redis: 50th, 99th and 99.9th percentile (`INFO latencystats`) |
//! | `searched` | webhooks whose search was completed at once; the others are parked |

mod inputs;

use std::time::{Duration, Instant};

use deadpool_redis::redis::{aio::MultiplexedConnection, cmd};
use inputs::stored;
use pregon::{
    domain::{ClaimedRow, Fingerprint, LineId, PartId, Wamid},
    redis::{Store, message_ids::RowRef, parts::PART_ROWS, spawn::PrivateRedis},
    webhook::search::{Depth, SearchResult, Searcher},
};
use rand::Rng as _;

/// The same allocator as the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const LINE: &str = "3001";
const SENDING_PARTS: usize = 4;
const INDEXED: usize = 2_000_000;
const FOREIGN_FOR: Duration = Duration::from_secs(10);
const FOREIGN_IDS: usize = 64;
const OURS: usize = 2_000;
const RETENTION: Duration = Duration::from_secs(8 * 86_400);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let dir = tempfile::tempdir().expect("a directory");
    let redis = PrivateRedis::start(dir.path()).await.expect("a redis-server");
    let store = Store::connect(&stored::address(redis.url())).await.expect("a store");
    let mut inspect = stored::connection(redis.url()).await;
    let (_, parts) = stored::running(&store, &[LINE], (SENDING_PARTS * PART_ROWS) as u64).await;
    for part in &parts {
        fill_list(&store, *part).await;
    }
    for first in (0..INDEXED).step_by(PART_ROWS) {
        fill_index(&store, parts[0], first).await;
    }

    reset(&mut inspect).await;
    let (mut searcher, line) = (Searcher::new(store.clone()), LineId::from(LINE));
    let (began, cpu) = (Instant::now(), cpu_seconds(&mut inspect).await);
    let (mut webhooks, mut searched) = (0, 0);
    while began.elapsed() < FOREIGN_FOR {
        let wamids: Vec<Wamid> =
            (0..FOREIGN_IDS).map(|n| format!("wamid.foreign.{webhooks}.{n}").as_str().into()).collect();
        let sought = searcher.search(&line, &wamids, Depth::Shallow).await.expect("a store");
        searched += usize::from(sought.iter().all(|sought| *sought == SearchResult::NotFound));
        webhooks += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let share = (cpu_seconds(&mut inspect).await - cpu) / began.elapsed().as_secs_f64();
    println!("foreign ids: {webhooks} webhooks of {FOREIGN_IDS}, searched {searched}, redis {:.1} %", share * 100.0);
    println!("µs: {}", latencies(&mut inspect).await);

    let (cpu, mut trips) = (cpu_seconds(&mut inspect).await, Vec::with_capacity(OURS));
    for n in 0..OURS {
        let wamid = ours(n * (INDEXED / OURS)).as_str().into();
        // A new searcher each time, so that its budget does not limit the search. The budget is measured above.
        let mut searcher = Searcher::new(store.clone());
        let began = Instant::now();
        let sought = searcher.search(&line, &[wamid], Depth::Shallow).await.expect("a store");
        trips.push(began.elapsed());
        assert!(matches!(sought[..], [SearchResult::Found(_)]), "{sought:?}");
    }
    let each = (cpu_seconds(&mut inspect).await - cpu) / OURS as f64;
    trips.sort_unstable();
    println!("an id in the index: median {:?}, redis {:.0} µs", trips[OURS / 2], each * 1e6);
    redis.stop().await.expect("its end");
}

/// Fills the list of a part with random ids, as if it had been settled in full batches. No search finds them.
async fn fill_list(store: &Store, part: PartId) {
    for _ in 0..PART_ROWS / 256 {
        let mut entry = vec![0_u8; 256 * 11];
        rand::rng().fill_bytes(&mut entry);
        store.query::<u32>("RPUSH", cmd("RPUSH").arg(store.keys.ids(part)).arg(entry)).await.expect("pushed");
    }
}

async fn fill_index(store: &Store, part: PartId, first: usize) {
    let row = |n: usize| -> RowRef { (part, ClaimedRow { row: (n % PART_ROWS) as u16, send: 1 }) };
    let ids: Vec<(Fingerprint, RowRef)> =
        (first..first + PART_ROWS).map(|n| (Fingerprint::of(&ours(n)), row(n))).collect();
    let now = store.time().await.expect("the time");
    store.index_ids(&LineId::from(LINE), &ids, now, RETENTION).await.expect("indexed");
}

fn ours(n: usize) -> String {
    format!("wamid.ours.{n}")
}

async fn reset(redis: &mut MultiplexedConnection) {
    cmd("CONFIG").arg("RESETSTAT").exec_async(redis).await.expect("CONFIG RESETSTAT");
}

/// CPU time of redis-server's main thread, in seconds.
async fn cpu_seconds(redis: &mut MultiplexedConnection) -> f64 {
    let info: String = cmd("INFO").arg("cpu").query_async(redis).await.expect("INFO");
    let seconds = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    seconds("used_cpu_sys_main_thread:").expect("a time") + seconds("used_cpu_user_main_thread:").expect("a time")
}

/// Percentiles of each command's duration, in µs. On a busy machine the highest percentiles include waiting for a core.
async fn latencies(redis: &mut MultiplexedConnection) -> String {
    let info: String = cmd("INFO").arg("latencystats").query_async(redis).await.expect("INFO");
    let figure = |line: &str| {
        let (command, figures) = line.strip_prefix("latency_percentiles_usec_")?.split_once(':')?;
        ["evalsha", "hget", "hgetall"].contains(&command).then(|| format!("{command} {figures}"))
    };
    info.lines().filter_map(figure).collect::<Vec<_>>().join("; ")
}
