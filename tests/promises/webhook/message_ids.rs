//! Message ids: a status or reply without our token is matched by message id for at least `id_retention`, and unknown
//! ids cost little.

use std::collections::HashMap;

use deadpool_redis::redis::cmd;
use pregon::{
    dispatch::indexing::Indexing,
    domain::{CampaignId, ClaimedRow, Fingerprint, PartId, Settled, State, UnixMs},
    redis::message_ids::RowRef,
};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

use crate::support::{
    self,
    hooks::{self, Hooks, Message, inbound, status_without_token, statuses},
    meta_code, until,
};

fn indexing(hooks: &Hooks) -> Indexing {
    Indexing {
        name: "indexer".into(),
        store: hooks.store.clone(),
        clock: hooks.clock.clone(),
        lease: std::time::Duration::from_secs(5),
        id_retention: hooks::ID_RETENTION,
    }
}

pub(super) async fn index(hooks: &Hooks) {
    indexing(hooks).index().await.expect("a store");
}

async fn end_campaign(hooks: &Hooks, id: CampaignId) {
    let now = hooks.clock.now();
    assert!(hooks.store.complete_if_done(id, now).await.expect("a store"));
    support::retire(&hooks.store, id, now).await;
}

/// An ended campaign on line 3001 whose `n` messages were accepted.
async fn sent_campaign(hooks: &Hooks, n: u64) -> (CampaignId, Vec<Message>) {
    let (id, mut messages) = hooks.campaign(&["3001"], n).await;
    let messages = messages.remove(&"3001".into()).expect("a line");
    for batch in messages.chunks(256) {
        hooks.accept(batch).await;
    }
    end_campaign(hooks, id).await;
    (id, messages)
}

fn reply(to: &Message) -> Value {
    json!({"type": "text", "context": {"from": "5491155550001", "id": to.wamid()}})
}

/// Number of entries in the id lists of a campaign's parts.
async fn listed_ids(hooks: &Hooks, id: CampaignId) -> u32 {
    let parts: Vec<PartId> = hooks.record(id).await.parts.into_iter().map(|(part, _)| part).collect();
    hooks.store.id_lists(&parts).await.expect("a store").iter().map(|list| list.entries).sum()
}

/// The row of each message according to the index of line 3001.
async fn find_indexed(hooks: &Hooks, messages: &[Message]) -> Vec<Option<RowRef>> {
    let line = "3001".into();
    let segments = hooks.store.segments(&line).await.expect("a store");
    let prints: Vec<Fingerprint> = messages.iter().map(|message| Fingerprint::of(&message.wamid())).collect();
    hooks.store.find_in_segments(&line, &segments, &prints).await.expect("a store").0
}

fn row_refs(messages: &[Message]) -> Vec<Option<RowRef>> {
    let row_ref = |message: &Message| Some((message.part, ClaimedRow { row: message.row, send: message.send }));
    messages.iter().map(row_ref).collect()
}

#[tokio::test]
async fn ids_of_ended_campaigns_move_to_the_index_and_are_found_there() {
    let hooks = Hooks::start().await;
    let mut campaigns = Vec::new();
    for n in [1, 300, 3_000] {
        campaigns.push(sent_campaign(&hooks, n).await);
    }
    index(&hooks).await;
    for (id, messages) in &campaigns {
        assert_eq!(listed_ids(&hooks, *id).await, 0);
        assert_eq!(find_indexed(&hooks, messages).await, row_refs(messages));
    }
    let (id, messages) = &campaigns[1];
    let foreign = status_without_token("wamid.of-another-app", "failed 131026");
    let reported = [status_without_token(&messages[0].wamid(), "failed 131026"), foreign];
    assert_eq!(hooks.deliver(&statuses("3001", &reported)).await, 200);
    assert_eq!(hooks.deliver(&inbound("3001", &[reply(&messages[1])])).await, 200);
    assert_eq!(hooks.by_state(*id).await, HashMap::from([(State::Accepted, 299), (State::Failed, 1)]));
    assert_eq!(hooks.counts(*id).await.replied, 1);
    hooks.stop().await;
}

#[tokio::test]
async fn only_ids_of_finished_parts_move_to_the_index() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001", "3002"], 20).await;
    let (done, sending) = (&messages[&"3001".into()], &messages[&"3002".into()]);
    hooks.accept(done.iter().chain(&sending[1..])).await;
    index(&hooks).await;
    assert_eq!(find_indexed(&hooks, done).await, row_refs(done));
    let lists = hooks.store.id_lists(&[done[0].part, sending[0].part]).await.expect("a store");
    assert_eq!(lists.iter().map(|list| list.part).collect::<Vec<_>>(), [sending[0].part]);
    let reported = status_without_token(&sending[1].wamid(), "failed 131026");
    assert_eq!(hooks.deliver(&statuses("3002", &[reported])).await, 200);
    assert_eq!(hooks.counts(id).await.failures, HashMap::from([(meta_code(131_026), 1)]));
    hooks.stop().await;
}

#[tokio::test]
async fn an_id_learned_after_indexing_is_found_at_once_and_indexed_later() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 2).await;
    let [first, doubtful] = messages[&"3001".into()][..] else { panic!("two") };
    let past = UnixMs(0);
    hooks.settle([(first, hooks::accepted(&first)), (doubtful, Settled::InDoubt { until: past })]).await;
    hooks.store.end_doubts(first.part, hooks.clock.now(), 1).await.expect("a store");
    end_campaign(&hooks, id).await;
    index(&hooks).await;
    assert_eq!(listed_ids(&hooks, id).await, 0);
    // Meta did get the message. Its status brings a new id, and a later reply refers to that id.
    assert_eq!(hooks.deliver(&statuses("3001", &[hooks.status(&doubtful, "delivered")])).await, 200);
    assert_eq!(listed_ids(&hooks, id).await, 1);
    assert_eq!(hooks.deliver(&inbound("3001", &[reply(&doubtful)])).await, 200);
    assert_eq!(hooks.counts(id).await.replied, 1);
    index(&hooks).await;
    assert_eq!(listed_ids(&hooks, id).await, 0);
    assert_eq!(find_indexed(&hooks, &[first, doubtful]).await, row_refs(&[first, doubtful]));
    hooks.stop().await;
}

#[tokio::test]
async fn interrupted_indexing_is_repeated_and_loses_no_id() {
    let hooks = Hooks::start().await;
    let (id, messages) = sent_campaign(&hooks, 1_000).await;
    // An earlier run copied the ids to the index and died before it dropped the list.
    let ids: Vec<(Fingerprint, RowRef)> = messages
        .iter()
        .zip(row_refs(&messages).into_iter().flatten())
        .map(|(message, row_ref)| (Fingerprint::of(&message.wamid()), row_ref))
        .collect();
    hooks.store.index_ids(&"3001".into(), &ids, hooks.clock.now(), hooks::ID_RETENTION).await.expect("a store");
    assert_eq!(listed_ids(&hooks, id).await, 4);
    // Two workers that both believe that they own the duty.
    let (first, second) = (indexing(&hooks), indexing(&hooks));
    let (first, second) = tokio::join!(first.index(), second.index());
    first.and(second).expect("a store");
    assert_eq!(listed_ids(&hooks, id).await, 0);
    assert_eq!(find_indexed(&hooks, &messages).await, row_refs(&messages));
    hooks.stop().await;
}

#[tokio::test]
async fn a_list_that_changed_since_it_was_read_is_not_dropped() {
    let hooks = Hooks::start().await;
    let (_, messages) = sent_campaign(&hooks, 600).await;
    let part = messages[0].part;
    let list = hooks.store.id_lists(&[part]).await.expect("a store").remove(0);
    hooks.store.drop_ids(&list).await.expect("a store");
    assert!(hooks.store.id_lists(&[part]).await.expect("a store").is_empty());
    // Later, the list has as many entries again as it had before.
    for batch in messages.chunks(256) {
        let key = hooks.store.keys.ids(part);
        hooks
            .store
            .query::<u32>("RPUSH", cmd("RPUSH").arg(key).arg(vec![7_u8; 11 * batch.len()]))
            .await
            .expect("pushed");
    }
    hooks.store.drop_ids(&list).await.expect("a store");
    assert_eq!(hooks.store.id_lists(&[part]).await.expect("a store")[0].entries, list.entries);
    hooks.stop().await;
}

#[tokio::test]
async fn segments_rotate_and_expire_with_their_last_id() {
    let hooks = Hooks::start().await;
    let mut rng = StdRng::seed_from_u64(support::seed());
    let (line, now) = ("3001".into(), hooks.clock.now());
    let part = PartId { campaign: "01J9ZK3V5T8R7Q6P5N4M3K2J1H".parse().expect("an id"), number: 3 };
    let mut all = Vec::new();
    // The second batch arrives when the first segment is too old for more ids. The third and fourth do not fit into one
    // segment.
    for (n, later) in [(10, 0), (250_000, 9), (250_000, 9), (100, 9)] {
        let ids: Vec<(Fingerprint, RowRef)> = (0..n)
            .map(|row| {
                let print = Fingerprint::of(&rng.random::<u128>().to_string());
                (print, (part, ClaimedRow { row: row as u16, send: rng.random_range(1..=255) }))
            })
            .collect();
        let at = now.after(hooks::ID_RETENTION * later / 64);
        hooks.store.index_ids(&line, &ids, at, hooks::ID_RETENTION).await.expect("a store");
        all.extend(ids.into_iter().take(100));
    }
    let segments = hooks.store.segments(&line).await.expect("a store");
    assert_eq!(segments.len(), 3);
    let prints: Vec<Fingerprint> = all.iter().map(|(print, _)| *print).collect();
    let found = hooks.store.find_in_segments(&line, &segments, &prints).await.expect("a store").0;
    assert_eq!(found, all.iter().map(|(_, row_ref)| Some(*row_ref)).collect::<Vec<_>>());
    let keys: Vec<String> = hooks.store.query("KEYS", cmd("KEYS").arg("*:ids:*")).await.expect("keys");
    assert_eq!(keys.len(), 3);
    for key in keys {
        let left: u64 = hooks.store.query("PTTL", cmd("PTTL").arg(&key)).await.expect("a time");
        let kept = hooks::ID_RETENTION.as_millis() as u64;
        assert!((kept - 60_000..=kept * 10 / 8 + kept / 4).contains(&left), "{key}: {left}");
    }
    hooks.stop().await;
}

#[tokio::test]
async fn a_slow_id_search_is_acknowledged_and_counted_later() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 3).await;
    let [answered, failed, sending] = messages[&"3001".into()][..] else { panic!("three") };
    hooks.accept([&answered, &failed]).await;
    // Far more ids than are searched before the response to Meta, all newer than the id of the reply.
    let mut rng = StdRng::seed_from_u64(support::seed());
    let key = hooks.store.keys.ids(sending.part);
    for _ in 0..500 {
        let mut entry = vec![0_u8; 256 * 11];
        rng.fill_bytes(&mut entry);
        hooks.store.query::<u32>("RPUSH", cmd("RPUSH").arg(&key).arg(entry)).await.expect("pushed");
    }
    let foreign: Vec<Value> = (0..64)
        .map(|n| json!({"type": "text", "context": {"from": "5491155550001", "id": format!("wamid.of-another-app.{n}")}}))
        .collect();
    assert_eq!(hooks.deliver(&inbound("3001", &foreign)).await, 200);
    assert_eq!(hooks.deliver(&inbound("3001", &[reply(&answered)])).await, 200);
    let mut late = status_without_token(&failed.wamid(), "failed 131026");
    late["timestamp"] = (hooks.clock.now().seconds() - 86_400).to_string().into();
    assert_eq!(hooks.deliver(&statuses("3001", &[late])).await, 200);
    until("the answer is counted", async || hooks.counts(id).await.replied == 1).await;
    until("the failure is counted", async || hooks.by_state(id).await.contains_key(&State::Failed)).await;
    until("nothing is parked", async || {
        hooks.store.query::<u32>("ZCARD", cmd("ZCARD").arg(hooks.store.keys.parked())).await.expect("a count") == 0
    })
    .await;
    hooks.stop().await;
}
