//! The cost of each step of a message in Redis, on a private redis-server: `cargo bench --bench scripts`.
//!
//! Redis runs one script at a time, so its time per message bounds what all workers together can send. One part of
//! 65,536 recipients is uploaded, claimed and settled, and its statuses are applied, once for each of several realistic
//! batch sizes. The steps run one after the other over one connection, so only Redis limits them.
//!
//! | column | meaning |
//! | --- | --- |
//! | `round trip` | µs from the call to its result, with encoding and decoding: median per batch |
//! | `script` | µs in the script, as counted by Redis (`INFO commandstats`): median per batch |
//! | `redis` | µs of CPU time of redis-server per batch (`INFO cpu`): reading, script, append-only file, reply |
//! | `for one` | `redis` per recipient |
//! | `a second` | recipients per second at which this step alone would saturate one Redis |

mod inputs;

use std::time::{Duration, Instant};

use deadpool_redis::redis::{aio::MultiplexedConnection, cmd};
use inputs::{
    stored::{self, BATCH_ROWS},
    wamid,
};
use pregon::{
    domain::{ClaimedRow, Fact, Fingerprint, LineId, News, PartId, Settled, UnixMs, Wamid},
    redis::{
        Call, Store,
        inbound::{InboundLimits, Kept, NewInbound},
        parts::{Claim, ClaimRequest, PART_ROWS},
        script,
        spawn::PrivateRedis,
    },
};

/// The same allocator as the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const LINES: &[&str] = &["3001"];
const RETENTION: Duration = Duration::from_secs(3_600);
/// The epoch of every claim and settlement.
const EPOCH: u64 = 1;
/// The number of groups of batches over which the medians are taken.
const GROUPS: usize = 16;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!(
        "{:<24} {:>6} {:>11} {:>9} {:>9} {:>8} {:>9}",
        "step", "batch", "round trip", "script", "redis", "for one", "a second"
    );
    for (rows, statuses) in [(4, 8), (64, 50), (256, 256)] {
        let dir = tempfile::tempdir().expect("a directory");
        let redis = PrivateRedis::start(dir.path()).await.expect("a redis-server");
        Bench::start(redis.url()).await.steps(rows, statuses).await;
        redis.stop().await.expect("its end");
    }
}

struct Bench {
    store: Store,
    /// A connection besides the store's, for INFO.
    redis: MultiplexedConnection,
}

/// Time that Redis has spent since its start, in µs.
#[derive(Clone, Copy)]
struct Spent {
    scripts: f64,
    /// CPU time of the main thread.
    cpu: f64,
}

impl Bench {
    async fn start(url: &str) -> Self {
        let store = Store::connect(&stored::address(url)).await.expect("a store").with_pinned_connection();
        Self { store, redis: stored::connection(url).await }
    }

    /// Runs every step for 65,536 messages in batches of `rows`, and their statuses in batches of `statuses`.
    async fn steps(&mut self, rows: usize, statuses: usize) {
        let id = stored::draft(&self.store, LINES).await;
        let mut upload = stored::begin_upload(&self.store, id, LINES).await;
        let batches: Vec<u64> = (0..PART_ROWS as u64).step_by(BATCH_ROWS as usize).collect();
        self.step("upload", BATCH_ROWS as usize, &batches, async |_, from| {
            stored::admit(&mut upload, *from, from + BATCH_ROWS).await;
        })
        .await;
        self.activate(PartId { campaign: id, number: u16::MAX }, rows).await;
        let part = stored::launch(&self.store, id).await[0];
        let now = self.store.time().await.expect("the time");
        let claimed = self.claim(part, now, rows).await;
        self.settle(part, now, &claimed, rows).await;
        self.apply("status: sent", part, &facts(&claimed, News::Sent, now), statuses).await;
        self.apply("status: delivered", part, &facts(&claimed, News::Delivered, now), statuses).await;
        // Shuffled, because people read their messages in no particular order.
        let scattered: Vec<ClaimedRow> = (0..PART_ROWS).map(|n| claimed[n * 40_503 % PART_ROWS]).collect();
        self.apply("status: read, scattered", part, &facts(&scattered, News::Read, now), statuses).await;
        self.keep(part, &claimed, statuses).await;
    }

    /// Stores a tap of every recipient.
    async fn keep(&mut self, part: PartId, claimed: &[ClaimedRow], batch: usize) {
        let message = |claimed: &ClaimedRow| NewInbound {
            fingerprint: Fingerprint::of(&format!("in.{}", wamid(claimed.row))),
            message: format!(
                r#"{{"id":"in.{}","at":1795300042000,"sender":{{"number":"5491155550103","name":"José"}},"content":{{"tap":{{"payload":"p1.01JDRV5K3Q8Z7X6W5V4T3S2R1Q.0.{}.1.0123456789abcdef","text":"Sí"}}}}}}"#,
                wamid(claimed.row),
                claimed.row
            ),
            answers: Some((part, *claimed)),
        };
        let messages: Vec<_> = claimed.iter().map(message).collect();
        let line = LINES[0].into();
        let batches: Vec<_> =
            messages.chunks_exact(batch).map(|batch| [(LineId::clone(&line), batch.to_vec())]).collect();
        let limits = InboundLimits { retention: RETENTION, length_max: PART_ROWS as u64 };
        self.step("inbound", batch, &batches, async |store, batch| {
            let kept = store.keep_inbound(batch, limits).await.expect("kept").remove(0).expect("kept");
            assert!(kept.iter().all(|kept| *kept == Kept::Stored));
        })
        .await;
    }

    /// Makes uploaded rows claimable, as after an admission. Uses a part that no other step uses.
    async fn activate(&mut self, part: PartId, rows: usize) {
        let keys = [self.store.keys.part(part), self.store.keys.states(part)];
        let starts: Vec<usize> = (0..PART_ROWS).step_by(rows).collect();
        self.step("activate", rows, &starts, async |store, start| {
            let call = Call::new(&script::ACTIVATE, &keys).arg(*start).arg(vec![1u8; rows]);
            assert_eq!(store.call::<usize>(call).await.expect("activated"), rows);
        })
        .await;
    }

    async fn claim(&mut self, part: PartId, now: UnixMs, limit: usize) -> Vec<ClaimedRow> {
        let numbers: Vec<u64> = (1..=(PART_ROWS / limit) as u64).collect();
        let mut all = Vec::with_capacity(PART_ROWS);
        self.step("claim", limit, &numbers, async |store, number| {
            let doubt_until = now.after(RETENTION);
            let wish = ClaimRequest {
                epoch: EPOCH,
                number: *number,
                now,
                limit,
                doubt_until,
                unanswered: None,
                in_grace_period: false,
            };
            let Claim::Rows { rows, .. } = store.claim(part, &wish).await.expect("a claim") else { panic!("no rows") };
            assert_eq!(rows.len(), limit);
            all.extend(rows.iter().map(|row| row.claimed));
        })
        .await;
        all
    }

    async fn settle(&mut self, part: PartId, now: UnixMs, claimed: &[ClaimedRow], rows: usize) {
        let accepted = |row: &ClaimedRow| (*row, Settled::Accepted(Wamid::from(wamid(row.row).as_str())));
        let outcomes: Vec<_> = claimed.iter().map(accepted).collect();
        let batches: Vec<_> = outcomes.chunks(rows).map(|batch| [(part, batch.to_vec())].into()).collect();
        self.step("settle", rows, &batches, async |store, batch| {
            store.settle(batch, EPOCH, now, RETENTION).await.expect("settled");
        })
        .await;
    }

    async fn apply(&mut self, name: &str, part: PartId, facts: &[Fact], statuses: usize) {
        let batches: Vec<_> = facts.chunks_exact(statuses).map(|facts| [(part, facts.to_vec())]).collect();
        self.step(name, statuses, &batches, async |store, batch| {
            store.apply(batch, RETENTION).await.expect("applied");
        })
        .await;
    }

    /// Runs `call` for each of `batches`, of `len` recipients each, and prints a row with its cost.
    async fn step<T>(&mut self, name: &str, len: usize, batches: &[T], mut call: impl AsyncFnMut(&Store, &T)) {
        let (mut trips, mut scripts, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
        for group in batches.chunks(batches.len().div_ceil(GROUPS)) {
            let before_info = self.spent().await;
            let before = self.spent().await;
            for batch in group {
                let began = Instant::now();
                call(&self.store, batch).await;
                trips.push(began.elapsed().as_secs_f64() * 1e6);
            }
            let after = self.spent().await;
            scripts.push((after.scripts - before.scripts) / group.len() as f64);
            // Subtracts the cost of one INFO, which the difference includes.
            let info = before.cpu - before_info.cpu;
            cpu.push((after.cpu - before.cpu - info) / group.len() as f64);
        }
        let (trip, script, cpu) = (median(trips), median(scripts), median(cpu));
        let one = cpu / len as f64;
        println!("{name:<24} {len:>6} {trip:>11.0} {script:>9.0} {cpu:>9.0} {one:>8.2} {:>9.0}", 1e6 / one);
    }

    async fn spent(&mut self) -> Spent {
        let info: String = cmd("INFO").arg("all").query_async(&mut self.redis).await.expect("INFO");
        let field =
            |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}"));
        let seconds = |name: &str| field(name).trim().parse::<f64>().expect("a number");
        let scripts = field("cmdstat_evalsha:").split(',').find_map(|field| field.strip_prefix("usec="));
        Spent {
            scripts: scripts.expect("a time").parse().expect("a number"),
            cpu: (seconds("used_cpu_sys_main_thread:") + seconds("used_cpu_user_main_thread:")) * 1e6,
        }
    }
}

fn facts(claimed: &[ClaimedRow], news: News, at: UnixMs) -> Vec<Fact> {
    let fact = |&ClaimedRow { row, send }: &ClaimedRow| Fact {
        row,
        send,
        news,
        at,
        message: Some(Wamid::from(wamid(row).as_str())),
    };
    claimed.iter().map(fact).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
