//! What it costs Redis to look for message ids that came without our token: `cargo bench --bench lookups`.
//!
//! A line with 2 million ids in its index and 4 parts that still send, of 65,536 ids each. For some seconds webhooks look for 64 ids
//! of another app each, as fast as they are answered; then for ids of ours in the index, one at a time.
//!
//! | figure | |
//! | --- | --- |
//! | `redis` | share of the time in which redis-server worked for it (`INFO cpu`) |
//! | `µs` | the time that one command or script took Redis in 50, 99 and 99.9 % of the cases (`INFO latencystats`) |
//! | `searched` | of the webhooks, how many were searched for to the end at once; the others are parked |

mod inputs;

use std::time::{Duration, Instant};

use deadpool_redis::redis::{aio::MultiplexedConnection, cmd};
use inputs::stored;
use pregon::{
    domain::{LineId, PartId, Wamid},
    redis::{
        Store,
        message_ids::RowRef,
        parts::{ClaimedRow, Fingerprint, PART_ROWS},
        spawn::PrivateRedis,
    },
    webhook::search::{Depth, Searcher, Sought},
};
use rand::Rng as _;

/// As in the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const LINE: &str = "3001";
const SENDING_PARTS: usize = 4;
const INDEXED: usize = 2_000_000;
const FOREIGN_FOR: Duration = Duration::from_secs(10);
const FOREIGN_IDS: usize = 64;
const OURS: usize = 2_000;
const KEPT: Duration = Duration::from_secs(8 * 86_400);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let dir = tempfile::tempdir().expect("a directory");
    let redis = PrivateRedis::start(dir.path()).await.expect("a redis-server");
    let store = Store::connect(&stored::address(redis.url())).await.expect("a store");
    let mut look = stored::connection(redis.url()).await;
    let (_, parts) = stored::running(&store, &[LINE], (SENDING_PARTS * PART_ROWS) as u64).await;
    for part in &parts {
        fill_list(&store, *part).await;
    }
    for first in (0..INDEXED).step_by(PART_ROWS) {
        fill_index(&store, parts[0], first).await;
    }

    reset(&mut look).await;
    let (mut searcher, line) = (Searcher::new(store.clone()), LineId::from(LINE));
    let (began, cpu) = (Instant::now(), processor(&mut look).await);
    let (mut webhooks, mut searched) = (0, 0);
    while began.elapsed() < FOREIGN_FOR {
        let wamids: Vec<Wamid> =
            (0..FOREIGN_IDS).map(|n| format!("wamid.foreign.{webhooks}.{n}").as_str().into()).collect();
        let sought = searcher.search(&line, &wamids, Depth::Shallow).await.expect("a store");
        searched += usize::from(sought.iter().all(|sought| *sought == Sought::Nowhere));
        webhooks += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let share = (processor(&mut look).await - cpu) / began.elapsed().as_secs_f64();
    println!("foreign ids: {webhooks} webhooks of {FOREIGN_IDS}, searched {searched}, redis {:.1} %", share * 100.0);
    println!("µs: {}", latencies(&mut look).await);

    let (cpu, mut trips) = (processor(&mut look).await, Vec::with_capacity(OURS));
    for n in 0..OURS {
        let wamid = ours(n * (INDEXED / OURS)).as_str().into();
        // A searcher of its own for each: what the budget allows is measured above.
        let mut searcher = Searcher::new(store.clone());
        let began = Instant::now();
        let sought = searcher.search(&line, &[wamid], Depth::Shallow).await.expect("a store");
        trips.push(began.elapsed());
        assert!(matches!(sought[..], [Sought::Found(_)]), "{sought:?}");
    }
    let each = (processor(&mut look).await - cpu) / OURS as f64;
    trips.sort_unstable();
    println!("an id in the index: median {:?}, redis {:.0} µs", trips[OURS / 2], each * 1e6);
    redis.stop().await.expect("its end");
}

/// Settled in full batches: ids that nobody asks for.
async fn fill_list(store: &Store, part: PartId) {
    for _ in 0..PART_ROWS / 256 {
        let mut entry = vec![0_u8; 256 * 11];
        rand::rng().fill_bytes(&mut entry);
        store.query::<u32>("RPUSH", cmd("RPUSH").arg(store.keys.ids(part)).arg(entry)).await.expect("pushed");
    }
}

async fn fill_index(store: &Store, part: PartId, first: usize) {
    let place = |n: usize| -> RowRef { (part, ClaimedRow { row: (n % PART_ROWS) as u16, send: 1 }) };
    let ids: Vec<(Fingerprint, RowRef)> =
        (first..first + PART_ROWS).map(|n| (Fingerprint::of(&ours(n)), place(n))).collect();
    let now = store.time().await.expect("the time");
    store.index_ids(&LineId::from(LINE), &ids, now, KEPT).await.expect("indexed");
}

fn ours(n: usize) -> String {
    format!("wamid.ours.{n}")
}

async fn reset(redis: &mut MultiplexedConnection) {
    cmd("CONFIG").arg("RESETSTAT").exec_async(redis).await.expect("CONFIG RESETSTAT");
}

/// Seconds that the main thread of redis-server worked.
async fn processor(redis: &mut MultiplexedConnection) -> f64 {
    let info: String = cmd("INFO").arg("cpu").query_async(redis).await.expect("INFO");
    let seconds = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    seconds("used_cpu_sys_main_thread:").expect("a time") + seconds("used_cpu_user_main_thread:").expect("a time")
}

/// What each command and script took of Redis, in µs. The slowest of a busy machine are those that had to wait for a core.
async fn latencies(redis: &mut MultiplexedConnection) -> String {
    let info: String = cmd("INFO").arg("latencystats").query_async(redis).await.expect("INFO");
    let figure = |line: &str| {
        let (command, figures) = line.strip_prefix("latency_percentiles_usec_")?.split_once(':')?;
        ["evalsha", "hget", "hgetall"].contains(&command).then(|| format!("{command} {figures}"))
    };
    info.lines().filter_map(figure).collect::<Vec<_>>().join("; ")
}
