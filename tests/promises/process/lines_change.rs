//! Processes with different `[[line]]` lists, as during every rolling change of lines: every line is served, and no
//! status or reply is lost.

use std::{collections::HashMap, time::Duration};

use pregon::{
    api_types::WaitReason,
    dispatch::housekeeping::Housekeeping,
    domain::{CampaignId, CampaignState, Line, LineId, Lines, Live, OnDoubt, State, UnixMs},
    graph::{GraphClient, GraphClientConfig},
    redis::{Store, campaigns::StateChange, parts::Claim},
    stats::StatisticsReader,
};
use tokio_util::sync::CancellationToken;

use crate::support::{
    claim_request,
    hooks::{self, Hooks, inbound, status_without_token, statuses},
    hostile::{AcceptAll, Meta},
    redis::TestRedis,
    seed, until,
    world::{self, TestWorker, address, line, settings},
};

/// A line that the process with the webhook role does not list.
const OTHER: &str = "3009";

#[tokio::test]
async fn a_status_with_a_token_counts_for_an_unlisted_line() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&[OTHER], 144).await;
    let ours = &messages[&OTHER.into()];
    hooks.accept(ours).await;
    let all: Vec<_> = ours.iter().map(|message| hooks.status(message, "delivered")).collect();
    assert_eq!(hooks.deliver(&statuses(OTHER, &all)).await, 200);
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::Delivered, 144)]));
    hooks.stop().await;
}

#[tokio::test]
async fn a_status_without_a_token_counts_for_a_line_that_any_worker_listed() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&[OTHER], 2).await;
    let [failed, replied] = messages[&OTHER.into()][..] else { panic!("two") };
    hooks.accept([&failed, &replied]).await;
    // No process has listed the line, so it may belong to another app.
    assert_eq!(hooks.deliver(&statuses(OTHER, &[status_without_token(&failed.wamid(), "failed 131026")])).await, 200);
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::Accepted, 2)]));

    let until_later = hooks.clock.now().after(hooks::ID_RETENTION);
    hooks.store.register_lines("w1", &[line(OTHER, 80.0)], until_later).await.expect("registered");
    // The registry of lines is read again at a limited rate.
    until("the failure counts", async || {
        assert_eq!(
            hooks.deliver(&statuses(OTHER, &[status_without_token(&failed.wamid(), "failed 131026")])).await,
            200
        );
        hooks.by_state(id).await.contains_key(&State::Failed)
    })
    .await;
    let answer = serde_json::json!({ "from": "5491155550101", "id": "wamid.answer", "timestamp": "1790000000",
        "type": "text", "text": { "body": "hola" }, "context": { "id": replied.wamid() } });
    assert_eq!(hooks.deliver(&inbound(OTHER, &[answer])).await, 200);
    assert_eq!(hooks.counts(id).await.replied, 1);
    hooks.stop().await;
}

async fn owners(store: &Store, lines: &[&str]) -> Vec<Option<String>> {
    let ids: Vec<LineId> = lines.iter().map(|id| LineId::from(*id)).collect();
    let owners = store.owners(&ids).await.expect("redis").into_iter();
    owners.map(|owner| Some(owner?.worker)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_is_owned_while_processes_list_different_lines() {
    let redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let list = |ids: &[&str]| ids.iter().map(|id| line(id, 200.0)).collect::<Vec<Line>>();
    let old = list(&["3001", "3002", "3003"]);
    let new = list(&["3002", "3003", "3004"]);
    let all = ["3001", "3002", "3003", "3004"];
    let first = TestWorker::start("first", &redis, &meta.url(), &old, settings()).await;
    until("the first owns its lines", async || {
        owners(&store, &all[..3]).await.iter().all(|owner| owner.as_deref() == Some("first"))
    })
    .await;
    let second = TestWorker::start("second", &redis, &meta.url(), &new, settings()).await;
    until("each line has an owner that lists it", async || {
        let owners = owners(&store, &all).await;
        let of = |n: usize| owners[n].as_deref();
        of(0) == Some("first")
            && of(3) == Some("second")
            && of(1).is_some()
            && of(2).is_some()
            // Two lines are listed by both workers, so each worker has one of them.
            && of(1) != of(2)
    })
    .await;
    let id = world::campaign(&store, &all, 400, OnDoubt::Hold).await;
    world::launch(&store, id).await;
    world::wait_for_state(&store, id, CampaignState::Completed).await;
    assert_eq!(meta.requests(), 400);
    first.stop().await;
    until("the second owns all its lines", async || {
        owners(&store, &all[1..]).await.iter().all(|owner| owner.as_deref() == Some("second"))
    })
    .await;
    second.stop().await;
    let registered = store.known_lines().await.expect("redis");
    assert_eq!(registered.len(), 4, "a line that is no longer listed stays in the registry: {registered:?}");
}

/// A campaign with `n` recipients on line 3009, which no process lists. All rows are claimed by an owner that is gone.
async fn left_in_flight(store: &Store, n: u64) -> CampaignId {
    let id = world::campaign(store, &[OTHER], n, OnDoubt::Hold).await;
    world::launch(store, id).await;
    let record = store.campaign(id).await.expect("redis").expect("it");
    let now = store.time().await.expect("redis");
    for (part, _) in record.parts {
        let claim = store.claim(part, &claim_request(1, now, 1_000, now)).await.expect("a claim");
        assert!(matches!(claim, Claim::Rows { open, .. } if open == n), "{claim:?}");
    }
    id
}

async fn housekeeping_of(store: &Store, meta: &Meta, name: &str) -> Housekeeping {
    let graph =
        GraphClient::new(GraphClientConfig { base_url: meta.url(), ..GraphClientConfig::default() }).expect("a client");
    Housekeeping {
        name: name.to_owned(),
        lease: settings().lease,
        retention: Duration::ZERO,
        doubt_deadline: Duration::from_millis(200),
        ..world::housekeeping(store, &[line("3001", 200.0)], graph).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_on_a_removed_line_with_messages_in_flight_ends() {
    let redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let id = left_in_flight(&store, 10).await;
    let cancelled = left_in_flight(&store, 5).await;
    let now = store.time().await.expect("redis");
    let change = store.change_campaign(cancelled, &[CampaignState::Running], CampaignState::Cancelled, now, None).await;
    assert_eq!(change.expect("redis"), StateChange::Done);
    let worker = TestWorker::start("w1", &redis, &meta.url(), &[line("3001", 200.0)], settings()).await;
    let stop = CancellationToken::new();
    let housekeeping = tokio::spawn(housekeeping_of(&store, &meta, "w1").await.run(stop.clone()));
    let record = world::wait_for_state(&store, id, CampaignState::Completed).await;
    assert_eq!(world::counts(&store, &record).await.by_state[&State::Unknown], 10);
    // With a retention of zero, the recipients of both campaigns are dropped at once.
    for id in [id, cancelled] {
        until("its recipients are forgotten", async || {
            store.campaign(id).await.expect("redis").is_some_and(|record| record.forgotten)
        })
        .await;
    }
    assert_eq!(owners(&store, &[OTHER]).await, [None], "the lease is given back");
    stop.cancel();
    housekeeping.await.expect("no panic").expect("it never fails");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_on_an_unlisted_line_is_reported_and_can_be_cancelled() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let id = world::campaign(&store, &[OTHER], 10, OnDoubt::Hold).await;
    world::launch(&store, id).await;
    let record = store.campaign(id).await.expect("redis").expect("it");
    let lines = Live::<Lines>::from_iter([line(OTHER, 80.0)]);
    let waits = async |now: UnixMs| {
        let statistics =
            StatisticsReader::new(store.clone(), lines.clone()).statistics(&record, now).await.expect("statistics");
        let [waiting] = &statistics.waiting_for[..] else { panic!("{:?}", statistics.waiting_for) };
        assert_eq!(waiting.line.as_ref().map(LineId::as_str), Some(OTHER));
        (waiting.reason, waiting.text.clone())
    };
    let now = store.time().await.expect("redis");
    assert_eq!(waits(now).await, (WaitReason::NoWorker, "no worker serves line 3009".to_owned()));
    let lives_until = now.after(Duration::from_secs(60));
    store.register_lines("w1", &[line("3001", 80.0)], lives_until).await.expect("registered");
    store.worker_heartbeat("w1", now, lives_until).await.expect("alive");
    let (reason, text) = waits(now).await;
    assert_eq!(reason, WaitReason::LineUnlisted);
    assert!(text.starts_with("no process lists line 3009: list the line again"), "{text}");

    let change = store.change_campaign(id, &[CampaignState::Running], CampaignState::Cancelled, now, None).await;
    assert_eq!(change.expect("redis"), StateChange::Done);
    assert_eq!(world::counts(&store, &record).await.by_state[&State::Cancelled], 10);
}
