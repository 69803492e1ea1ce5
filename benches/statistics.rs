//! How fast the statistics of contacts are counted from the event feed: `cargo bench --bench statistics`.
//!
//! Two campaigns tell that each of 100,000 people was sent a message, got and read it: four events each. The first creates
//! the contacts. Redis, PostgreSQL with durable commits, and the process that counts share the machine.
//!
//! | figure | meaning | goal |
//! | --- | --- | --- |
//! | `events/s` | events counted in a second | 20,000 |
//! | `B a recipient` | the growth of the database by the number of recipients, with the contacts of the first campaign | |

mod inputs;

use std::{
    num::NonZeroU16,
    sync::Arc,
    time::{Duration, Instant},
};

use inputs::stored;
use pregon::{
    domain::{CampaignId, Lines, Live, agent::AgentLimits},
    engage::Engage,
    postgres::{Database, DatabaseAddress, spawn::PrivatePostgres},
    redis::{Store, clock::Clock, feed::FeedLimits, spawn::PrivateRedis},
};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

/// The same allocator as the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const PEOPLE: u64 = 100_000;
const STATES: [&str; 4] = ["accepted", "sent", "delivered", "read"];
const RECEIVED: &str = "select coalesce(sum(received), 0)::bigint from contact_statistics";
const SIZE: &str = "select pg_database_size(current_database())";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let (dir, data) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let redis = PrivateRedis::start(dir.path()).await.expect("a redis-server");
    let postgres = PrivatePostgres::start(data.path()).await.expect("PostgreSQL");
    let feed = FeedLimits { partitions: NonZeroU16::MIN, retention: Duration::from_hours(24), length_max: 10_000_000 };
    let store = Store::connect(&stored::address(redis.url())).await.expect("a store").with_feed(Some(feed));
    let clock = Arc::new(Clock::start(&store).await.expect("a clock"));
    let options = postgres.options().clone();
    let mut inspect = PgConnection::connect_with(&options).await.expect("a connection");
    let database = Database::new(&DatabaseAddress { options, connections: 16, timeout: Duration::from_secs(30) });
    database.migrate(clock.now()).await.expect("tables");

    let engage = Engage {
        worker: "bench".to_owned(),
        store: store.clone(),
        database: database.clone(),
        clock,
        lines: std::iter::empty().collect::<Live<Lines>>(),
        lease: Duration::from_secs(10),
        retention: Duration::from_hours(24),
        keep_messages: None,
        files: None,
        agents: AgentLimits { offline_after: Duration::from_mins(1), silence: None },
    };
    let start = || {
        let (engage, stop) = (engage.clone(), CancellationToken::new());
        let stopping = stop.clone();
        (stop, tokio::spawn(async move { engage.run(stopping).await }))
    };
    // Whoever counts for the first time reads what Redis has of campaigns, and then the events that follow.
    let (stop, counting) = start();
    while database.feed_place().await.expect("a place").position.is_none_or(|position| position.is_empty()) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.cancel();
    counting.await.expect("no panic").expect("counted");
    for campaign in [1, 2_u64] {
        let before = number(&mut inspect, SIZE).await;
        tell(&store, CampaignId(Ulid(campaign.into()))).await;
        let began = Instant::now();
        let (stop, counting) = start();
        while number(&mut inspect, RECEIVED).await.unsigned_abs() < campaign * PEOPLE {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let seconds = began.elapsed().as_secs_f64();
        stop.cancel();
        counting.await.expect("no panic").expect("counted");
        let grown = number(&mut inspect, SIZE).await - before;
        println!(
            "campaign {campaign}: {:.0} events/s, {} B a recipient",
            (PEOPLE * STATES.len() as u64) as f64 / seconds,
            grown.unsigned_abs() / PEOPLE
        );
    }
}

/// Writes the events of a campaign, each state of a thousand people after the other.
async fn tell(store: &Store, campaign: CampaignId) {
    for first in (0..PEOPLE).step_by(1_000) {
        let mut events = Vec::with_capacity(4_000);
        for state in STATES {
            events.extend((first..first + 1_000).map(|n| {
                let recipient = format!("{campaign}.{}.{}", n / 50_000, n % 50_000);
                json!({
                    "id": format!("{recipient}.1.{state}"), "type": format!("recipient.{state}"),
                    "at": "2026-12-01T10:00:00Z", "business": "1001", "line": "3001", "campaign": campaign,
                    "recipient": recipient, "to": format!("+{}", 5_491_100_000_000 + n),
                    "wamid": format!("wamid.HBgNNTQ5MTE1NTU1{n:020}"), "send": 1, "rank": 11,
                })
                .to_string()
            }));
        }
        store.append_events(Some(campaign), &events).await.expect("Redis");
    }
}

async fn number(connection: &mut PgConnection, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(connection).await.expect("a number")
}
