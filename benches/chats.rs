//! How fast messages from people become chats, and what they take in PostgreSQL: `cargo bench --bench chats`.
//!
//! Four lines have 25,000 messages each on their streams, from 10,000 people. The readers of one process store them, with
//! durable commits, while Redis, PostgreSQL and the readers share the machine. `MESSAGES=1000000` stores more.
//!
//! | figure | meaning |
//! | --- | --- |
//! | `messages/s` | messages stored in a second, of all lines |
//! | `B a message` | the growth of the database, with indexes, contacts and chats, by the number of messages |

mod inputs;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use inputs::stored;
use pregon::{
    domain::{Fingerprint, Line, Live, Secret, agent::AgentLimits},
    engage::Engage,
    postgres::{Database, DatabaseAddress, spawn::PrivatePostgres},
    redis::{
        Store,
        clock::Clock,
        inbound::{InboundLimits, NewInbound},
        spawn::PrivateRedis,
    },
};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tokio_util::sync::CancellationToken;

/// The same allocator as the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const LINES: [&str; 4] = ["3001", "3002", "3003", "3004"];
const PEOPLE: usize = 10_000;
const MESSAGES: usize = 100_000;
/// How many messages are on the streams at once.
const WAITING_MAX: usize = 100_000;
const LIMITS: InboundLimits = InboundLimits { retention: Duration::from_secs(86_400), length_max: 1_000_000 };
const SIZE: &str = "select pg_database_size(current_database())";
const INBOUND: &str = "select count(*) from messages where kind = 1";
const TEXTS: [&str; 4] =
    ["Hola", "Sí, quiero renovar", "¿Cuánto cuesta el envío a Rosario?", "Gracias, hasta mañana 👍"];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let messages = std::env::var("MESSAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(MESSAGES);
    let (dir, data) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let redis = PrivateRedis::start(dir.path()).await.expect("a redis-server");
    let postgres = PrivatePostgres::start(data.path()).await.expect("PostgreSQL");
    let store = Store::connect(&stored::address(redis.url())).await.expect("a store");
    let clock = Arc::new(Clock::start(&store).await.expect("a clock"));
    let options = postgres.options().clone();
    let mut inspect = PgConnection::connect_with(&options).await.expect("a connection");
    let database = Database::new(&DatabaseAddress { options, connections: 16, timeout: Duration::from_secs(30) });
    database.migrate(clock.now()).await.expect("tables");
    let empty = number(&mut inspect, SIZE).await;

    let engage = Engage {
        worker: "bench".to_owned(),
        store: store.clone(),
        database: database.clone(),
        clock: clock.clone(),
        lines: LINES.iter().map(|id| line(id)).collect::<Live<_>>(),
        lease: Duration::from_secs(10),
        retention: Duration::from_hours(24),
        keep_messages: None,
        files: None,
        agents: AgentLimits { offline_after: Duration::from_mins(1), silence: None },
    };
    let (mut written, mut elapsed) = (0, Duration::ZERO);
    while written < messages {
        let n = WAITING_MAX.min(messages - written);
        write(&store, written..written + n, clock.now().seconds()).await;
        written += n;
        let (began, stop) = (Instant::now(), CancellationToken::new());
        let readers = {
            let (engage, stop) = (engage.clone(), stop.clone());
            tokio::spawn(async move { engage.run(stop).await })
        };
        while number(&mut inspect, INBOUND).await < written as i64 {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        elapsed += began.elapsed();
        stop.cancel();
        readers.await.expect("no panic").expect("a clean end");
    }
    let bytes = number(&mut inspect, SIZE).await - empty;
    println!("{:.0} messages/s", messages as f64 / elapsed.as_secs_f64());
    println!("{:.0} B a message", bytes as f64 / messages as f64);
}

async fn number(connection: &mut PgConnection, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(connection).await.expect("a number")
}

fn line(id: &str) -> Line {
    Line {
        id: id.into(),
        waba: "2001".into(),
        business: "1001".into(),
        token: Secret::new("EAAGbench"),
        frequency_cap: None,
        display: String::new(),
        name: String::new(),
        messages_per_second: None,
        warm_up: Arc::default(),
        marketing_api: false,
    }
}

async fn write(store: &Store, numbers: std::ops::Range<usize>, now: u64) {
    let numbers: Vec<usize> = numbers.collect();
    for numbers in numbers.chunks(1_000) {
        let lines = LINES.iter().enumerate().map(|(index, line)| {
            let of_line = numbers.iter().filter(|number| *number % LINES.len() == index);
            ((*line).into(), of_line.map(|number| message(*number, now)).collect())
        });
        store.keep_inbound(&lines.collect::<Vec<_>>(), LIMITS).await.expect("a store");
    }
}

fn message(number: usize, now: u64) -> NewInbound {
    let person = number.wrapping_mul(7_919) % PEOPLE;
    let phone = 5_491_155_000_000 + person;
    let wamid = format!("wamid.HBgNNTQ5MTE1NTU1{number:012}UCABIYFDNBMDdFNkYxRjM4RkM2NzU1");
    let message = json!({
        "id": wamid, "at": now * 1_000, "sender": {"number": phone.to_string(), "name": format!("Person {person}")},
        "content": {"text": TEXTS[number % TEXTS.len()]},
    });
    NewInbound { fingerprint: Fingerprint::of(&wamid), message: message.to_string(), answers: None }
}
