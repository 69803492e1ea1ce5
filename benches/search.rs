//! What the search index of messages takes, and how long a search takes: `cargo bench --bench search`.
//!
//! A million messages of 2 to 16 words, over 100,000 chats in random order and three months, are inserted with the index.
//! The words are as frequent as in a language: the n-th word of 30,000 is n times as rare as the first.
//! `MESSAGES=10000000` stores more.
//!
//! | figure | meaning |
//! | --- | --- |
//! | `B a message` | rows with their two indexes, and the search index, by the number of messages |
//! | `ms` | the slowest of three searches for a page of 50 chats, after a first one |

use std::time::{Duration, Instant};

use pregon::{
    domain::{UnixMs, chat::Owner},
    postgres::{Database, DatabaseAddress, chat_list::ChatFilter, search::SearchWords, spawn::PrivatePostgres},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use sqlx::{Connection as _, Executor as _, PgConnection};

const MESSAGES: u64 = 1_000_000;
const CHATS: i64 = 100_000;
const WORDS: usize = 30_000;
const BATCH: u64 = 10_000;
const MONTHS_MICROS: i64 = 80 * 24 * 3_600 * 1_000_000;
const SYLLABLES: [&str; 20] = [
    "ca", "no", "ri", "ta", "es", "lo", "mi", "du", "pe", "na", "gu", "so", "en", "ver", "za", "qui", "ron", "ci",
    "ble", "men",
];
const NAMES: [&str; 8] = ["María", "Juan", "Ana", "José", "Lucía", "Diego", "Sofía", "Martín"];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let messages = std::env::var("MESSAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(MESSAGES);
    let data = tempfile::tempdir().expect("a directory");
    let settings = ["fsync=off", "shared_buffers=256MB", "max_wal_size=4GB"];
    let postgres = PrivatePostgres::start_with(data.path(), &settings).await.expect("PostgreSQL");
    let options = postgres.options().clone();
    let mut inspect = PgConnection::connect_with(&options).await.expect("a connection");
    let database = Database::new(&DatabaseAddress { options, connections: 2, timeout: Duration::from_secs(60) });
    let first = UnixMs::parse("2026-01-05T00:00:00Z").expect("a time");
    database.migrate(first).await.expect("tables");

    let mut random = StdRng::seed_from_u64(7);
    people(&mut inspect, &mut random).await;
    let began = Instant::now();
    for batch in 0..messages / BATCH {
        insert(&mut inspect, &mut random, first, batch, messages).await;
    }
    println!("{:.0} messages/s inserted", messages as f64 / began.elapsed().as_secs_f64());
    // As autovacuum does.
    inspect.execute("vacuum analyze").await.expect("vacuumed");

    let size = async |connection: &mut PgConnection, function: &str, relation: &str| {
        let query = format!("select sum({function}(relid))::bigint from pg_partition_tree('{relation}')");
        let bytes: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(connection).await.expect("a size");
        bytes as f64 / messages as f64
    };
    let rows = size(&mut inspect, "pg_table_size", "messages").await;
    let keys = size(&mut inspect, "pg_relation_size", "messages_pkey").await;
    let ids = size(&mut inspect, "pg_relation_size", "messages_wamid").await;
    let words = size(&mut inspect, "pg_relation_size", "messages_words").await;
    println!("{:.0} B a message: {rows:.0} rows, {:.0} keys and ids", rows + keys + ids, keys + ids);
    println!("{words:.0} B a message: the search index");
    for (what, text) in [
        ("a word of every sixth message", word(0)),
        ("a word of every thousandth", word(300)),
        ("a word of every hundred-thousandth", word(WORDS - 1)),
        ("two words", format!("{} {}", word(5), word(400))),
        ("the beginning of many words", "ca".to_owned()),
        ("a word that nobody wrote", "xylophon".to_owned()),
        ("a name", "María 4711".to_owned()),
        ("a number", "+54 9 11 5500-4711".to_owned()),
    ] {
        let (found, took) = search(&database, &text).await;
        println!("{:.1} ms {what}: {found} chats", took.as_secs_f64() * 1_000.0);
    }
}

/// The word with this rank.
fn word(rank: usize) -> String {
    let (mut rest, mut word) = (rank + SYLLABLES.len(), String::new());
    while rest > 0 {
        word.push_str(SYLLABLES[rest % SYLLABLES.len()]);
        rest /= SYLLABLES.len();
    }
    word
}

fn text(random: &mut StdRng) -> String {
    let words = (0..random.random_range(2..=16)).map(|_| {
        let rank = (WORDS as f64).powf(random.random::<f64>()) - 1.0;
        word(rank as usize)
    });
    words.collect::<Vec<_>>().join(" ")
}

async fn people(connection: &mut PgConnection, random: &mut StdRng) {
    let names: Vec<String> = (0..CHATS)
        .map(|n| format!("{} {} {n}", NAMES[random.random_range(0..NAMES.len())], word(n as usize)))
        .collect();
    let insert = "insert into contacts (business, number, name, created_at)
                  select '1001', 5491155000000 + n - 1, name, 0 from unnest($1::text[]) with ordinality as new (name, n)";
    sqlx::query(insert).bind(names).execute(&mut *connection).await.expect("contacts");
    let insert = "insert into chats (business, line, contact, owner, owner_since_at, created_at, last_message)
                  select '1001', '3001', id, 1, 0, 0, (random() * 1e15)::bigint from contacts order by random()";
    connection.execute(insert).await.expect("chats");
}

async fn insert(connection: &mut PgConnection, random: &mut StdRng, first: UnixMs, batch: u64, messages: u64) {
    let step = MONTHS_MICROS / i64::try_from(messages).expect("fewer messages");
    let number = |n: u64| i64::try_from(first.0 * 1_000).expect("a time") + i64::try_from(n).expect("a number") * step;
    let ids: Vec<i64> = (batch * BATCH..(batch + 1) * BATCH).map(number).collect();
    let chats: Vec<i64> = ids.iter().map(|_| random.random_range(1..=CHATS)).collect();
    let wamids: Vec<String> =
        ids.iter().map(|id| format!("wamid.HBgNNTQ5MTE1NTU1{id}UCABIYFDNBMDdFNkYxRjM4")).collect();
    let bodies: Vec<String> =
        ids.iter().map(|_| serde_json::json!({ "content": { "text": text(random) } }).to_string()).collect();
    let insert = "insert into messages (id, chat, at, kind, business, wamid, body)
                  select id, chat, id / 1000, 1, '1001', wamid, body::jsonb
                  from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[]) as new (id, chat, wamid, body)";
    let query = sqlx::query(insert).bind(ids).bind(chats).bind(wamids).bind(bodies);
    query.execute(connection).await.expect("messages");
}

/// How many chats of the first page a search finds, and how long it takes.
async fn search(database: &Database, text: &str) -> (usize, Duration) {
    let search = SearchWords::of(text);
    let filter = ChatFilter { owners: Owner::ALL.to_vec(), search, ..ChatFilter::default() };
    let (mut found, mut slowest) = (0, Duration::ZERO);
    for round in 0..4 {
        let began = Instant::now();
        found = database.chats(&filter, 50).await.expect("chats").len();
        if round > 0 {
            slowest = slowest.max(began.elapsed());
        }
    }
    (found, slowest)
}
