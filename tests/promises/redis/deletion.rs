//! A deleted campaign leaves no key behind, whatever still happens to its messages, and wherever the deletion is
//! interrupted.

use std::{collections::BTreeMap, time::Duration};

use deadpool_redis::redis::cmd;
use pregon::{
    domain::{CampaignId, CampaignState, ClaimedRow, Due, Fact, News, OnDoubt, PartId, Settled, State, Wamid},
    graph::GraphClient,
    redis::{
        Store,
        deletion::DeletionStart,
        parts::{Claim, ToSend},
    },
};
use tokio_util::sync::CancellationToken;

use crate::support::{self, claim_request, meta_code, redis::TestRedis, world};

const KEPT: Duration = Duration::from_secs(60);

/// All keys in Redis, sorted, without the duties of workers, counters, and keys for durability.
async fn keys(store: &Store) -> Vec<String> {
    let (mut keys, mut cursor): (Vec<String>, u64) = (Vec::new(), 0);
    loop {
        let scan = cmd("SCAN").arg(cursor).arg("COUNT").arg(1_000).clone();
        let (next, page): (u64, Vec<String>) = store.query("SCAN", &scan).await.expect("redis");
        keys.extend(page);
        if next == 0 {
            break;
        }
        cursor = next;
    }
    let other = [":fence:", "{d:", ":pulse", ":born", ":templates", ":lifted", "known_lines"];
    keys.retain(|key| other.iter().all(|other| !key.contains(other)));
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// A campaign whose rows are in many states, cancelled while some are in flight.
async fn cancelled(store: &Store) -> (CampaignId, PartId, Vec<ClaimedRow>) {
    let id = world::campaign(store, &["3001"], 300, OnDoubt::Hold).await;
    world::launch(store, id).await;
    let part = store.campaign(id).await.expect("redis").expect("a campaign").parts[0].0;
    let rows = claim(store, part, 1, 8).await;
    let now = store.time().await.expect("the time");
    let outcomes = vec![
        (rows[0], Settled::Accepted(Wamid::from("wamid.0"))),
        (rows[1], Settled::Retry { at: now.after(KEPT), reason: meta_code(131_000) }),
        (rows[2], Settled::InDoubt { until: now.after(KEPT) }),
        (rows[3], Settled::Refused { reason: meta_code(131_026) }),
        (rows[4], Settled::Back { at: Due::At(now.after(KEPT)) }),
    ];
    store.settle(&BTreeMap::from([(part, outcomes)]), 1, now, KEPT).await.expect("settled");
    store.note_details(part, meta_code(131_026), "not on WhatsApp").await.expect("redis");
    let running = [CampaignState::Running];
    store.change_campaign(id, &running, CampaignState::Cancelled, now, None).await.expect("redis");
    (id, part, rows)
}

async fn claim(store: &Store, part: PartId, epoch: u64, limit: usize) -> Vec<ClaimedRow> {
    let now = store.time().await.expect("the time");
    match store.claim(part, &claim_request(epoch, now, limit, now.after(KEPT))).await.expect("a claim") {
        Claim::Rows { rows, .. } => rows.into_iter().map(|ToSend { claimed, .. }| claimed).collect(),
        Claim::Held { .. } => Vec::new(),
        other => panic!("{other:?}"),
    }
}

async fn delete(store: &Store, id: CampaignId) {
    let now = store.time().await.expect("the time");
    assert_eq!(store.begin_deletion(id, now).await.expect("redis"), DeletionStart::Begun);
    assert!(store.finish_deletion(id).await.expect("redis"));
}

#[tokio::test]
async fn whatever_still_happens_to_a_deleted_campaign_leaves_no_key() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let before = keys(&store).await;
    let (id, part, rows) = cancelled(&store).await;
    assert!(keys(&store).await.len() > before.len() + 10);
    delete(&store, id).await;
    assert_eq!(keys(&store).await, before);

    let now = store.time().await.expect("the time");
    assert_eq!(claim(&store, part, 1, 10).await, []);
    assert_eq!(claim(&store, part, 2, 10).await, []);
    let late = vec![
        (rows[5], Settled::Accepted(Wamid::from("wamid.5"))),
        (rows[6], Settled::Back { at: Due::At(now) }),
        (rows[7], Settled::InDoubt { until: now }),
    ];
    let settled = store.settle(&BTreeMap::from([(part, late)]), 1, now, KEPT).await.expect("settled");
    assert_eq!(settled[0].open, 0);
    let fact = |row: ClaimedRow, news| Fact { row: row.row, send: row.send, news, at: now, message: None };
    let news = vec![fact(rows[0], News::Delivered), fact(rows[3], News::Replied), fact(rows[5], News::Read)];
    store.apply(&[(part, news)], KEPT).await.expect("applied");
    store.note_details(part, meta_code(131_026), "late").await.expect("redis");
    store.end_doubts(part, now, 0).await.expect("redis");
    store.sweep(part, State::Cancelled, now).await.expect("redis");
    store.follow(id, now).await.expect("redis");
    store.retire_campaign(id, now, now).await.expect("redis");
    store.requeue(&[part]).await.expect("redis");
    let changed = |key: &String| key.ends_with(":changed");
    let left: Vec<String> = keys(&store).await.into_iter().filter(|key| !changed(key)).collect();
    assert_eq!(left, before.into_iter().filter(|key| !changed(key)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_deletion_that_was_interrupted_is_finished_by_housekeeping() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let before = keys(&store).await;
    let (id, part, _) = cancelled(&store).await;
    let now = store.time().await.expect("the time");
    // The process dies right after this call.
    assert_eq!(store.begin_deletion(id, now).await.expect("redis"), DeletionStart::Begun);
    assert!(store.campaign(id).await.expect("redis").is_none(), "it is found no more");
    assert_eq!(claim(&store, part, 2, 10).await, []);

    let graph = GraphClient::new(world::graph("http://127.0.0.1:9")).expect("a client");
    let stop = CancellationToken::new();
    let lines = [world::line("3001", 80.0)];
    let housekeeping = tokio::spawn(world::housekeeping(&store, &lines, graph).await.run(stop.clone()));
    support::until("nothing is left", async || keys(&store).await == before).await;
    stop.cancel();
    housekeeping.await.expect("no panic").expect("it ends well");
}

#[tokio::test]
async fn a_campaign_that_can_still_send_is_not_deleted() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let id = world::campaign(&store, &["3001"], 3, OnDoubt::Hold).await;
    world::launch(&store, id).await;
    let now = store.time().await.expect("the time");
    let refused = store.begin_deletion(id, now).await.expect("redis");
    assert_eq!(refused, DeletionStart::NotEnded("running".to_owned()));
    assert!(!store.finish_deletion(id).await.expect("redis"), "nothing is deleted without a mark");
    let part = store.campaign(id).await.expect("redis").expect("a campaign").parts[0].0;
    assert_eq!(claim(&store, part, 1, 10).await.len(), 3);
}
