//! How long the lists of contacts, chats, tags and agents take with a million contacts: `cargo bench --bench lists`.
//!
//! A million contacts of one business have a chat and a conversation each on one of five lines. One in a hundred is open; of those, three in ten
//! wait in the queue, and the others belong to 200 agents. Nine of ten chats belong to one of eight groups, a few hundred to a small
//! one. A third has a frequent tag, a few hundred a rare one. `CHATS=100000` stores fewer.
//!
//! | figure | meaning |
//! | --- | --- |
//! | `p50`, `p99` | ms of a page of 50, of 200 pages that begin at random, after 10 others; goal: p99 of 50 |

use std::time::{Duration, Instant};

use pregon::{
    domain::{DerivedTag, UnixMs, agent::Visibility, chat::Owner},
    postgres::{
        Database, DatabaseAddress,
        chat_list::{ChatFilter, TagFilter},
        contacts::{ContactFilter, ContactOrder, Statistic},
        conversations::ConversationFilter,
        search::SearchWords,
        spawn::PrivatePostgres,
    },
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::Map;
use sqlx::{Connection as _, Executor as _, PgConnection};

const CHATS: i64 = 1_000_000;
const PAGE: usize = 50;
const ROUNDS: usize = 200;
const WARM_UP: usize = 10;
/// When the first chat was written to, in ms; the others follow each second.
const BEGAN: i64 = 1_790_000_000_000;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let chats: i64 = std::env::var("CHATS").ok().and_then(|n| n.parse().ok()).unwrap_or(CHATS);
    let data = tempfile::tempdir().expect("a directory");
    let settings = ["fsync=off", "shared_buffers=512MB", "max_wal_size=4GB"];
    let postgres = PrivatePostgres::start_with(data.path(), &settings).await.expect("PostgreSQL");
    let options = postgres.options().clone();
    let mut inspect = PgConnection::connect_with(&options).await.expect("a connection");
    let database = Database::new(&DatabaseAddress { options, connections: 2, timeout: Duration::from_secs(60) });
    let now = UnixMs((BEGAN + chats * 1_000).unsigned_abs());
    database.migrate(now).await.expect("tables");
    fill(&mut inspect, chats).await;

    let business = || Some(vec!["1001".to_owned()]);
    let sees = |groups: &[&str]| {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Some(Visibility { agent: "AGENT93".to_owned(), groups })
    };
    let all = ChatFilter { businesses: business(), owners: Owner::ALL.to_vec(), ..ChatFilter::default() };
    let agent = ChatFilter { agent: Some("AGENT93".into()), owners: vec![Owner::Agent], ..all.clone() };
    let tag = |tag| ChatFilter { tag: Some(tag), ..all.clone() };
    for (what, filter) in [
        ("all of every business", ChatFilter { businesses: None, ..all.clone() }),
        ("all", all.clone()),
        ("queue", ChatFilter { owners: vec![Owner::Queue], ..all.clone() }),
        ("closed", ChatFilter { owners: vec![Owner::Nobody], ..all.clone() }),
        ("mine", ChatFilter { is_snoozed: Some(false), ..agent.clone() }),
        ("snoozed", ChatFilter { is_snoozed: Some(true), ..agent }),
        ("of a line", ChatFilter { line: Some("3003".into()), ..all.clone() }),
        ("of a group", ChatFilter { group: Some("g3".into()), ..all.clone() }),
        ("of a small group", ChatFilter { group: Some("small".into()), ..all.clone() }),
        ("of two groups, as an agent", ChatFilter { visible: sees(&["g3", "g5"]), ..all.clone() }),
        ("of a small group, as an agent", ChatFilter { visible: sees(&["small"]), ..all.clone() }),
        ("queue, as an agent", ChatFilter { visible: sees(&["small"]), owners: vec![Owner::Queue], ..all.clone() }),
        ("with a frequent tag", tag(TagFilter::Own("frequent".into()))),
        ("with a rare tag", tag(TagFilter::Own("rare".into()))),
        ("with a tag that none has", tag(TagFilter::Own("none".into()))),
        ("unanswered", tag(TagFilter::Derived(DerivedTag::Unanswered, now))),
        ("attended", tag(TagFilter::Derived(DerivedTag::Attended, now))),
        ("window_closing", tag(TagFilter::Derived(DerivedTag::WindowClosing, now))),
    ] {
        let mut random = StdRng::seed_from_u64(7);
        measure(&format!("chats: {what}"), async || {
            let second = random.random_range(chats / 2..chats);
            let before = Some(((BEGAN + second * 1_000) * 1_000, i64::MAX)).filter(|_| random.random_bool(0.5));
            let filter = ChatFilter { before, ..filter.clone() };
            database.chats(&filter, PAGE).await.expect("chats").len()
        })
        .await;
    }
    let contacts = |order, is_descending| ContactFilter {
        business: "1001".into(),
        search: None,
        tag: None,
        properties: Map::new(),
        order,
        is_descending,
        after: None,
    };
    let newest = contacts(ContactOrder::Created, true);
    let words = |text| ContactFilter { search: SearchWords::of(text), ..newest.clone() };
    let city = |name: &str| {
        let properties = [("city".to_owned(), name.into())].into_iter().collect();
        ContactFilter { properties, ..newest.clone() }
    };
    for (what, filter) in [
        ("the newest", newest.clone()),
        ("the oldest", contacts(ContactOrder::Created, false)),
        ("by name", contacts(ContactOrder::Name, false)),
        ("by name in reverse", contacts(ContactOrder::Name, true)),
        ("by received", contacts(ContactOrder::Statistic(Statistic::Received), true)),
        ("by last interaction", contacts(ContactOrder::Statistic(Statistic::LastInteraction), true)),
        ("with a rare tag", ContactFilter { tag: Some("rare".into()), ..newest.clone() }),
        ("with a frequent tag", ContactFilter { tag: Some("frequent".into()), ..newest.clone() }),
        ("with a frequent value", city("Rosario")),
        ("with a rare value", city("Salta")),
        ("a word that every name has", words("person")),
        ("a name", words("4711")),
        ("a number", words("+54 9 11 0047 11")),
    ] {
        measure(&format!("contacts: {what}"), async || database.contacts(&filter, PAGE).await.expect("contacts").len())
            .await;
    }
    let opened = ConversationFilter {
        business: "1001".into(),
        place: None,
        contact: None,
        line: None,
        campaign: None,
        from: None,
        to: None,
        before: None,
    };
    let at = |second: i64| Some(UnixMs((BEGAN + second * 1_000).unsigned_abs()));
    for (what, filter) in [
        ("all", opened.clone()),
        ("of a line", ConversationFilter { line: Some("3003".into()), ..opened.clone() }),
        ("of a contact", ConversationFilter { contact: Some(4_711), ..opened.clone() }),
        ("of an hour", ConversationFilter { from: at(chats / 2), to: at(chats / 2 + 3_600), ..opened }),
    ] {
        measure(&format!("conversations: {what}"), async || {
            database.conversations(&filter, PAGE).await.expect("conversations").len()
        })
        .await;
    }
    let businesses = business();
    let businesses = businesses.as_deref();
    measure("tags", async || database.tags(businesses, None).await.expect("tags").len()).await;
    measure("derived tags", async || database.derived_tags(businesses, None, now).await.expect("tags").len()).await;
    measure("agents", async || database.agents(businesses, false, None, PAGE).await.expect("agents").len()).await;
    measure("groups", async || database.groups(businesses).await.expect("groups").len()).await;
}

/// Prints how long `call` takes, which returns the number of rows.
async fn measure(what: &str, mut call: impl AsyncFnMut() -> usize) {
    let (mut times, mut rows) = (Vec::with_capacity(ROUNDS), 0);
    for round in 0..WARM_UP + ROUNDS {
        let began = Instant::now();
        rows = rows.max(call().await);
        if round >= WARM_UP {
            times.push(began.elapsed().as_secs_f64() * 1_000.0);
        }
    }
    times.sort_by(f64::total_cmp);
    println!("p50 {:.1} ms, p99 {:.1} ms: {what}, {rows} rows", times[ROUNDS / 2], times[ROUNDS * 99 / 100]);
}

async fn fill(connection: &mut PgConnection, chats: i64) {
    let statements = [
        format!(
            "insert into contacts (business, number, name, created_at, properties, tags)
             select '1001', 5491100000000 + n, 'Person ' || n, {BEGAN} + n * 1000,
                case when n % 3 = 0 then '{{\"city\": \"Rosario\"}}' when n % 3000 = 1 then '{{\"city\": \"Salta\"}}' else '{{}}' end::jsonb,
                case when n % 3 = 0 then array['frequent'] when n % 3000 = 1 then array['rare'] else '{{}}' end
             from generate_series(1, {chats}) n"
        ),
        format!(
            "insert into agents (id, business, email, name, role, capacity, created_at)
             select lpad(n::text, 26, '0'), '1001', n || '@example.com', 'Agent', 1, 5, {BEGAN} from generate_series(1, 200) n"
        ),
        format!(
            "insert into agent_groups (business, id, name, created_at)
             select '1001', id, id, {BEGAN} from unnest(array['small', 'g0', 'g1', 'g2', 'g3', 'g4', 'g5', 'g6', 'g7']) id"
        ),
        format!(
            "insert into tags (business, id, name, colour, rules, created_at)
             select '1001', id, id, '#000000', '[]', {BEGAN} from unnest(array['frequent', 'rare', 'none']) id"
        ),
        format!(
            "insert into chats (business, line, contact, owner, agent, owner_since_at, created_at, last_inbound_at,
                last_message, group_id, waiting_since_at, tags, attended)
             select '1001', '300' || n % 5, n, case when n % 1000 < 990 then 0 when n % 1000 < 993 then 1 else 2 end,
                case when n % 1000 >= 993 then 'AGENT' || n / 1000 % 200 end, at, at, at, at * 1000,
                case when n % 10 = 0 then null when n % 3000 = 7 then 'small' else 'g' || n % 8 end,
                case when n % 1000 between 990 and 995 then at end,
                case when n % 3 = 0 then array['frequent'] when n % 3000 = 1 then array['rare'] else '{{}}' end, n % 4 = 0
             from generate_series(1, {chats}) n, lateral (select {BEGAN} + n * 1000 as at) as times order by random()"
        ),
        format!(
            "update contact_statistics set received = contact % 40, last_interaction_at = {BEGAN} + contact * 1000,
                conversations_by_client = contact % 3, replies = contact % 2"
        ),
        format!(
            "insert into conversations (contact, line, opened_at, business, opened_by)
             select n, '300' || n % 5, {BEGAN} + n * 1000, '1001', 1 + n % 2 from generate_series(1, {chats}) n"
        ),
    ];
    for statement in statements {
        connection.execute(sqlx::AssertSqlSafe(statement)).await.expect("filled");
    }
    // As autovacuum does.
    connection.execute("vacuum analyze").await.expect("vacuumed");
}
