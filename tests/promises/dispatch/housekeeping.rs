//! Repairs by housekeeping after a crash between two writes.

use std::{collections::BTreeSet, time::Duration};

use deadpool_redis::redis::{Pipeline, cmd};
use pregon::{
    domain::{
        Campaign, CampaignId, CampaignState, ClaimedRow, Fact, Late, LineId, News, OnDoubt, PartId, State, UnixMs,
    },
    graph::{GraphClient, GraphClientConfig},
    redis::{Store, campaigns::StateChange, parts::Claim},
    stats,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use crate::support::{claim_request, meta_code, redis::TestRedis, until, world};

/// Running housekeeping, and a campaign whose line no worker serves.
struct World {
    _redis: TestRedis,
    store: Store,
    id: CampaignId,
    part: PartId,
    line: LineId,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl World {
    async fn start(n: u64) -> Self {
        let (redis, store) = store().await;
        Self::start_with(redis, store, n).await
    }

    async fn start_with(redis: TestRedis, store: Store, n: u64) -> Self {
        let id = world::campaign(&store, &["3001"], n, OnDoubt::Hold).await;
        world::launch(&store, id).await;
        let (part, line) = store.campaign(id).await.expect("redis").expect("a campaign").parts[0].clone();
        let graph = GraphClient::new(GraphClientConfig::default()).expect("a client");
        let housekeeping = world::housekeeping(&store, &[], graph).await;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move { housekeeping.run(stopped).await.expect("it never fails") });
        Self { _redis: redis, store, id, part, line, stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("no panic");
    }

    async fn state(&self, id: CampaignId) -> CampaignState {
        self.store.campaign(id).await.expect("redis").expect("a campaign").state
    }
}

async fn store() -> (TestRedis, Store) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    (redis, store)
}

/// A scheduled campaign that starts at `start_at`.
async fn scheduled(store: &Store, start_at: UnixMs) -> CampaignId {
    let id = world::campaign_at(store, &["3001"], 1, OnDoubt::Hold, Some(start_at)).await;
    let now = store.time().await.expect("the time");
    let change = store.change_campaign(id, &[CampaignState::Draft], CampaignState::Scheduled, now, None).await;
    assert_eq!(change.expect("a launch"), StateChange::Done);
    id
}

/// The list of active campaigns, with their scores.
async fn active(store: &Store) -> Vec<(String, u64)> {
    let all = cmd("ZRANGE").arg(store.keys.active()).arg(0).arg(-1).arg("WITHSCORES").clone();
    store.query("ZRANGE", &all).await.expect("redis")
}

/// Adds `ids` to the list of active campaigns, with `since` (Unix time in ms) as score.
async fn list_as_active(store: &Store, ids: &[CampaignId], since: u64) {
    let mut listing = Pipeline::new();
    for id in ids {
        listing.cmd("ZADD").arg(store.keys.active()).arg(since).arg(id.to_string());
    }
    store.query_all::<u8>("ZADD", &listing).await.expect("redis");
}

#[tokio::test]
async fn an_open_part_missing_from_its_lines_list_is_listed_again() {
    let world = World::start(2).await;
    world.store.work_done(&world.line, &[world.part]).await.expect("redis");
    let pulse = world.store.pulse().await.expect("redis");
    until("the part is listed", async || world.store.work(&world.line).await.expect("redis") == [world.part]).await;
    until("workers are woken", async || world.store.pulse().await.expect("redis") > pulse).await;
    world.stop().await;
}

#[tokio::test]
async fn a_counter_that_differs_from_the_states_is_noticed() {
    let world = World::start(3).await;
    assert_eq!(stats::counters_agree(&world.store, world.part).await.expect("redis"), Some(true));
    let damage = cmd("HINCRBY").arg(world.store.keys.part(world.part)).arg("pending").arg(1).clone();
    assert_eq!(world.store.query::<i64>("HINCRBY", &damage).await.expect("redis"), 4);
    assert_eq!(stats::counters_agree(&world.store, world.part).await.expect("redis"), Some(false));
    world.stop().await;
}

#[tokio::test]
async fn a_row_left_pending_by_an_ended_campaign_is_ended() {
    let world = World::start(1).await;
    let now = world.store.time().await.expect("the time");
    let Claim::Rows { rows, .. } =
        world.store.claim(world.part, &claim_request(1, now, 1, now)).await.expect("a claim")
    else {
        panic!("no rows")
    };
    let ClaimedRow { row, send } = rows[0].claimed;
    let fact = Fact { row, send, news: News::Returned(meta_code(131_042)), at: now, message: None };
    world.store.apply(&[(world.part, vec![fact])], Duration::from_secs(60)).await.expect("applied");
    // The state that a process leaves if it dies after closing the gate and before ending the reopened rows.
    let record = world.store.campaign(world.id).await.expect("redis").expect("a campaign");
    let version = (record.version + 1).to_string();
    let campaign = [("state", "completed"), ("version", &version), ("applied", &version)];
    let part = [("gate", "completed"), ("version", &version)];
    let mut changes = Pipeline::new();
    changes.cmd("HSET").arg(world.store.keys.campaign(world.id)).arg(&campaign);
    changes.cmd("HSET").arg(world.store.keys.part(world.part)).arg(&part);
    world.store.query_all::<u64>("HSET", &changes).await.expect("redis");
    until("the row is ended", async || {
        let bytes = world.store.state_bytes(world.part).await.expect("bytes");
        State::of(bytes[0]) == Some(State::Failed)
    })
    .await;
    world.stop().await;
}

#[tokio::test]
async fn a_draft_is_not_active_until_it_is_launched() {
    let (_redis, store) = store().await;
    let id = world::campaign(&store, &["3001"], 1, OnDoubt::Hold).await;
    assert_eq!(active(&store).await, []);
    let launched_at = store.time().await.expect("the time");
    world::launch(&store, id).await;
    let active = active(&store).await;
    assert_eq!(active.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), [id.to_string()]);
    assert!(active[0].1 >= launched_at.0, "{active:?}");
}

#[tokio::test]
async fn drafts_listed_as_active_by_an_older_version_are_removed() {
    let (redis, store) = store().await;
    let now = store.time().await.expect("the time");
    // More than one page of drafts with the same score, ahead of the campaign that is due.
    let drafts: Vec<CampaignId> = (0..2_500).map(|n| CampaignId(Ulid::from_parts(now.0, n))).collect();
    list_as_active(&store, &drafts, now.0 - 7_200_000).await;
    let in_grace_period = world::campaign(&store, &["3001"], 1, OnDoubt::Hold).await;
    list_as_active(&store, &[in_grace_period], now.0 - 60_000).await;
    let due = scheduled(&store, UnixMs(now.0 + 1_000)).await;
    let later = scheduled(&store, UnixMs(now.0 + 3_600_000)).await;
    let world = World::start_with(redis, store, 1).await;

    until("the due one runs", async || world.state(due).await == CampaignState::Running).await;
    let expected: BTreeSet<String> =
        [in_grace_period, due, later, world.id].iter().map(CampaignId::to_string).collect();
    until("only campaigns that may need maintenance are listed", async || {
        active(&world.store).await.into_iter().map(|(id, _)| id).collect::<BTreeSet<_>>() == expected
    })
    .await;
    assert!(active(&world.store).await.contains(&(later.to_string(), now.0 + 3_600_000)), "postponed until its start");
    assert_eq!(world.state(later).await, CampaignState::Scheduled);
    world.stop().await;
}

#[tokio::test]
async fn a_missed_start_is_made_up_for_or_expires_or_is_held() {
    let (redis, store) = store().await;
    let now = store.time().await.expect("the time");
    let of = async |late: Late, start_at: UnixMs| {
        let id = world::campaign_at(&store, &["3001"], 1, OnDoubt::Hold, Some(start_at)).await;
        let record = store.campaign(id).await.expect("redis").expect("a campaign");
        let campaign = Campaign { late, ..record.campaign.clone() }.with_requirements();
        if late != Late::Send {
            assert!(store.amend_campaign(&record, &campaign, now).await.expect("redis"));
        }
        let change = store.change_campaign(id, &[CampaignState::Draft], CampaignState::Scheduled, now, None).await;
        assert_eq!(change.expect("a launch"), StateChange::Done);
        id
    };
    let missed = UnixMs(now.0 - 600_000);
    let [sent, expired, held] =
        [of(Late::Send, missed).await, of(Late::Expire, missed).await, of(Late::Hold, missed).await];
    let in_time = of(Late::Hold, now).await;
    let world = World::start_with(redis, store.clone(), 1).await;

    until("the late one runs", async || world.state(sent).await == CampaignState::Running).await;
    until("one in time runs", async || world.state(in_time).await == CampaignState::Running).await;
    let record = world::wait_for_state(&world.store, held, CampaignState::Paused).await;
    let reason = record.reason.expect("a reason");
    assert!(reason.code.is_none() && reason.details.contains("was missed"), "{reason:?}");
    let record = world::wait_for_state(&world.store, expired, CampaignState::Completed).await;
    assert_eq!(world::counts(&world.store, &record).await.by_state[&State::Expired], 1);
    world.stop().await;
}

#[tokio::test]
async fn a_start_that_is_moved_to_an_earlier_time_is_kept() {
    let (redis, store) = store().await;
    let now = store.time().await.expect("the time");
    let world = World::start_with(redis, store, 1).await;
    let id = scheduled(&world.store, UnixMs(now.0 + 3_600_000)).await;
    until("it is postponed to its start", async || {
        active(&world.store).await.contains(&(id.to_string(), now.0 + 3_600_000))
    })
    .await;
    let record = world.store.campaign(id).await.expect("redis").expect("a campaign");
    let sooner = Campaign { start_at: Some(UnixMs(now.0 + 1)), ..record.campaign.clone() };
    let now = world.store.time().await.expect("the time");
    assert!(world.store.amend_campaign(&record, &sooner, now).await.expect("redis"));
    until("it runs", async || world.state(id).await == CampaignState::Running).await;
    world.stop().await;
}

#[tokio::test]
async fn a_campaign_launched_during_its_removal_stays_listed() {
    let (_redis, store) = store().await;
    let now = store.time().await.expect("the time");
    let id = world::campaign(&store, &["3001"], 1, OnDoubt::Hold).await;
    list_as_active(&store, &[id], now.0 - 7_200_000).await;
    let (_, since) = store.active_campaigns(now).await.expect("redis")[0];
    world::launch(&store, id).await;
    store.postpone_campaigns(&[(id, since, None)]).await.expect("redis");
    assert_eq!(store.active_campaigns(now).await.expect("redis").len(), 1);
}
