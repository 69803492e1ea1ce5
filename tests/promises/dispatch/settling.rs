//! Promises 1 and 4 for unusual outcomes: late, repeated, or for a row without a recipient.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use deadpool_redis::redis::cmd;
use pregon::{
    domain::{
        Applied, CampaignId, CampaignState, ClaimedRow, Due, Fact, FailureReason, Fingerprint, News, OnDoubt, PartId,
        RowReason, Settled, SkipReason, State, UnixMs, Wamid,
    },
    redis::{
        Call, Store,
        message_ids::IdPage,
        parts::{Claim, DoubtsEnded, ToSend},
        script,
    },
};

use crate::support::{claim_request, meta_code, redis::TestRedis, world};

const KEPT: Duration = Duration::from_secs(60);

/// A running campaign on one line, without claims.
struct World {
    _redis: TestRedis,
    store: Store,
    id: CampaignId,
    part: PartId,
}

impl World {
    async fn start(n: u64) -> Self {
        let redis = TestRedis::start().await;
        let store = Store::connect(&world::address(&redis)).await.expect("a store");
        let id = world::campaign(&store, &["3001"], n, OnDoubt::Hold).await;
        world::launch(&store, id).await;
        let part = store.campaign(id).await.expect("redis").expect("a campaign").parts[0].0;
        Self { _redis: redis, store, id, part }
    }

    async fn now(&self) -> UnixMs {
        self.store.time().await.expect("the time")
    }

    /// Claims rows in `epoch`. Rows in flight from an older epoch become in doubt, with a deadline that is already
    /// over.
    async fn claim(&self, epoch: u64, limit: usize) -> Vec<ToSend> {
        let now = self.now().await;
        match self.store.claim(self.part, &claim_request(epoch, now, limit, now)).await.expect("a claim") {
            Claim::Rows { rows, .. } => rows,
            other => panic!("{other:?}"),
        }
    }

    /// Settles a row. Returns the number of open recipients.
    async fn settle(&self, claimed: ClaimedRow, settled: Settled) -> u64 {
        let outcomes = BTreeMap::from([(self.part, vec![(claimed, settled)])]);
        self.store.settle(&outcomes, 1, self.now().await, KEPT).await.expect("settled")[0].open
    }

    /// Applies a failed status with an account fault. Returns its effect and the number of open recipients.
    async fn returned(&self, claimed: ClaimedRow, code: u32) -> (Applied, u64) {
        let ClaimedRow { row, send } = claimed;
        let fact = Fact { row, send, news: News::Returned(meta_code(code)), at: self.now().await, message: None };
        let applied = self.store.apply(&[(self.part, vec![fact])], KEPT).await.expect("applied");
        (applied[0].applied[0], applied[0].open)
    }

    /// The failures by code, after checking that counters and state bytes agree.
    async fn failures(&self) -> HashMap<FailureReason, u64> {
        let record = self.store.campaign(self.id).await.expect("redis").expect("a campaign");
        let counts = world::counts(&self.store, &record).await;
        assert_eq!(counts.by_state, world::recount(&self.store, &record).await);
        counts.failures
    }

    async fn state(&self, row: u16) -> Option<State> {
        State::of(self.store.state_bytes(self.part).await.expect("bytes")[usize::from(row)])
    }
}

#[tokio::test]
async fn a_late_worker_leaves_no_row_pending_in_an_ended_campaign() {
    let world = World::start(2).await;
    let rows = world.claim(1, 2).await;
    // The lease ends, another worker takes over, and no status arrives until the doubts end.
    assert!(world.claim(2, 0).await.is_empty());
    assert_eq!(
        world.store.end_doubts(world.part, world.now().await, 0).await.expect("redis"),
        DoubtsEnded { next: None, open: 0 }
    );
    assert!(world.store.complete_if_done(world.id, world.now().await).await.expect("redis"));
    assert_eq!(world.settle(rows[0].claimed, Settled::Back { at: Due::AtOnce }).await, 0);
    assert_eq!(world.settle(rows[1].claimed, Settled::Retry { at: UnixMs(0), reason: meta_code(131_000) }).await, 0);
    let record = world.store.campaign(world.id).await.expect("redis").expect("a campaign");
    assert_eq!(record.state, CampaignState::Completed);
    assert_eq!((world.state(0).await, world.state(1).await), (Some(State::Unknown), Some(State::Unknown)));
    assert_eq!(world.settle(rows[1].claimed, Settled::Accepted(Wamid::from("wamid.1"))).await, 0);
    assert_eq!(world.state(1).await, Some(State::Accepted), "a message that Meta accepted still counts");
}

#[tokio::test]
async fn rows_returned_by_a_late_worker_are_sent_if_the_campaign_runs() {
    let world = World::start(2).await;
    let rows = world.claim(1, 1).await;
    assert!(world.claim(2, 0).await.is_empty());
    assert_eq!(
        world.store.end_doubts(world.part, world.now().await, 0).await.expect("redis"),
        DoubtsEnded { next: None, open: 1 }
    );
    assert_eq!(world.settle(rows[0].claimed, Settled::Back { at: Due::AtOnce }).await, 2);
    let again: Vec<u16> = world.claim(2, 1).await.iter().map(|row| row.claimed.row).collect();
    assert_eq!(again, [rows[0].claimed.row]);
}

#[tokio::test]
async fn settle_of_a_reopened_row_requeues_its_part() {
    let world = World::start(1).await;
    let line = "3001".into();
    let rows = world.claim(1, 1).await;
    // Another worker takes over, ends the doubt as unknown, and has nothing left to do in the part.
    assert!(world.claim(2, 0).await.is_empty());
    assert_eq!(
        world.store.end_doubts(world.part, world.now().await, 0).await.expect("redis"),
        DoubtsEnded { next: None, open: 0 }
    );
    world.store.work_done(&line, &[world.part]).await.expect("redis");
    let pulse = world.store.pulse().await.expect("redis");
    // The first worker wakes up and returns the row that it never sent. It settles twice, as after a lost response.
    for again in [false, true] {
        assert_eq!(world.settle(rows[0].claimed, Settled::Back { at: Due::AtOnce }).await, 1);
        assert_eq!(world.store.work(&line).await.expect("redis"), [world.part], "again: {again}");
        assert!(world.store.pulse().await.expect("redis") > pulse);
        world.store.work_done(&line, &[world.part]).await.expect("redis");
    }
}

#[tokio::test]
async fn a_returned_row_is_requeued_and_keeps_its_attempts() {
    let world = World::start(1).await;
    let line = "3001".into();
    let first = world.claim(1, 1).await[0].claimed;
    world.settle(first, Settled::Accepted(Wamid::from("wamid.0"))).await;
    world.store.work_done(&line, &[world.part]).await.expect("redis");
    let pulse = world.store.pulse().await.expect("redis");
    assert_eq!(world.returned(first, 131_042).await, (Applied::Reopened, 1));
    assert_eq!(world.store.work(&line).await.expect("redis"), [world.part]);
    assert!(world.store.pulse().await.expect("redis") > pulse);
    assert_eq!(world.state(0).await, Some(State::Pending));
    let rows = world.store.part_rows(world.part).await.expect("rows");
    assert_eq!(rows.why.get(&0), Some(&RowReason::Failure(meta_code(131_042))));
    // Meta repeats the status, and our own outcome is settled again: both are for an earlier send.
    assert_eq!(world.returned(first, 131_042).await, (Applied::Stale, 1));
    assert_eq!(world.settle(first, Settled::Accepted(Wamid::from("wamid.0"))).await, 1);
    let again = world.claim(1, 1).await[0];
    assert_eq!((again.attempt, again.claimed.send), (1, 2));
    assert_eq!(world.returned(first, 131_042).await, (Applied::Stale, 1));
    assert_eq!(world.state(0).await, Some(State::InFlight));
    assert_eq!(world.failures().await, HashMap::new());
}

#[tokio::test]
async fn a_returned_row_of_an_ended_campaign_fails_with_its_code() {
    for to in [CampaignState::Completed, CampaignState::Cancelled] {
        let world = World::start(3).await;
        let rows = world.claim(1, 3).await;
        world.settle(rows[0].claimed, Settled::Accepted(Wamid::from("wamid.0"))).await;
        world.settle(rows[1].claimed, Settled::Accepted(Wamid::from("wamid.1"))).await;
        if to == CampaignState::Completed {
            world.settle(rows[2].claimed, Settled::Refused { reason: meta_code(131_026) }).await;
        } else {
            world.settle(rows[2].claimed, Settled::Accepted(Wamid::from("wamid.2"))).await;
            // The row is reopened, and the campaign ends before the row is sent again.
            assert_eq!(world.returned(rows[2].claimed, 131_026).await, (Applied::Reopened, 1));
        }
        let now = world.now().await;
        world.store.change_campaign(world.id, &[CampaignState::Running], to, now, None).await.expect("redis");
        assert_eq!(world.returned(rows[0].claimed, 131_042).await, (Applied::Moved, 0));
        assert_eq!(world.returned(rows[0].claimed, 131_042).await, (Applied::Repeated, 0));
        assert_eq!(world.state(0).await, Some(State::Failed));
        assert_eq!(world.failures().await, HashMap::from([(meta_code(131_042), 1), (meta_code(131_026), 1)]), "{to}");
    }
}

#[tokio::test]
async fn a_row_reopened_while_its_campaign_completes_fails_with_its_code() {
    let world = World::start(3).await;
    let rows = world.claim(1, 3).await;
    world.settle(rows[0].claimed, Settled::Accepted(Wamid::from("wamid.0"))).await;
    assert!(world.claim(2, 0).await.is_empty());
    assert_eq!(
        world.store.end_doubts(world.part, world.now().await, 0).await.expect("redis"),
        DoubtsEnded { next: None, open: 0 }
    );
    // No row is open. The campaign's state changes, and three rows are reopened before the gates of its parts close.
    let keys = [world.store.keys.campaign(world.id), world.store.keys.outbox(world.id)];
    let change = Call::new(&script::CHANGE, &keys).arg("running").arg("completed").arg(world.now().await.0).arg("");
    let _: (u8, u64) = world.store.call(change).await.expect("redis");
    assert_eq!(world.returned(rows[0].claimed, 131_042).await, (Applied::Reopened, 1));
    assert_eq!(world.settle(rows[1].claimed, Settled::Retry { at: UnixMs(0), reason: meta_code(131_000) }).await, 2);
    assert_eq!(world.settle(rows[2].claimed, Settled::Back { at: Due::AtOnce }).await, 3);
    world.store.follow(world.id, world.now().await).await.expect("redis");
    let states = [world.state(0).await, world.state(1).await, world.state(2).await];
    assert_eq!(states, [Some(State::Failed), Some(State::Refused), Some(State::Unknown)]);
    assert_eq!(world.failures().await, HashMap::from([(meta_code(131_042), 1), (meta_code(131_000), 1)]));
}

#[tokio::test]
async fn late_facts_after_retention_keep_counts_exact_and_leave_no_trace() {
    const NEWS: [News; 6] = [
        News::Sent,
        News::Delivered,
        News::Read,
        News::Failed(meta_code(131_026)),
        News::Returned(meta_code(131_042)),
        News::Replied,
    ];
    const BEFORE: [Option<News>; 7] = [
        None,
        Some(News::Sent),
        Some(News::Delivered),
        Some(News::Read),
        Some(News::Failed(meta_code(131_049))),
        // Refused and unknown rows have no update.
        None,
        None,
    ];
    let world = World::start((BEFORE.len() * NEWS.len()) as u64).await;
    let claimed: Vec<ClaimedRow> = world.claim(1, 256).await.iter().map(|row| row.claimed).collect();
    let now = world.now().await;
    let kind = |claimed: &ClaimedRow| usize::from(claimed.row) / NEWS.len();
    let accepted = |row: u16| Settled::Accepted(Wamid::from(format!("wamid.{row}").as_str()));
    let outcome = |claimed: &ClaimedRow| match kind(claimed) {
        5 => Settled::Refused { reason: meta_code(131_008) },
        6 => Settled::InDoubt { until: now },
        _ => accepted(claimed.row),
    };
    let outcomes = claimed.iter().map(|claimed| (*claimed, outcome(claimed))).collect();
    world.store.settle(&BTreeMap::from([(world.part, outcomes)]), 1, now, KEPT).await.expect("settled");
    let fact = |ClaimedRow { row, send }: ClaimedRow, news: News| {
        let message = Some(Wamid::from(format!("wamid.{row}").as_str()));
        Fact { row, send, news, at: now, message }
    };
    let before = claimed.iter().filter_map(|claimed| Some(fact(*claimed, BEFORE[kind(claimed)]?)));
    world.store.apply(&[(world.part, before.collect())], KEPT).await.expect("applied");
    assert_eq!(world.store.end_doubts(world.part, now, 0).await.expect("redis"), DoubtsEnded { next: None, open: 0 });
    assert!(world.store.complete_if_done(world.id, now).await.expect("redis"));
    world.store.forget_recipients(world.id).await.expect("redis");

    let late = claimed.iter().map(|claimed| fact(*claimed, NEWS[usize::from(claimed.row) % NEWS.len()])).collect();
    world.store.apply(&[(world.part, late)], KEPT).await.expect("applied");
    let again = claimed.iter().map(|claimed| (*claimed, accepted(claimed.row))).collect();
    world.store.settle(&BTreeMap::from([(world.part, again)]), 1, now, KEPT).await.expect("settled");

    // Failed and refused rows keep their state and code. Of the other rows, an accepted, a sent and an unknown one fail
    // with each code.
    assert_eq!(
        world.failures().await,
        HashMap::from([
            (meta_code(131_049), 6),
            (meta_code(131_008), 6),
            (meta_code(131_026), 3),
            (meta_code(131_042), 3)
        ])
    );
    let fields = cmd("HGETALL").arg(world.store.keys.part(world.part)).clone();
    let fields: HashMap<String, String> = world.store.query("HGETALL", &fields).await.expect("redis");
    let negative: Vec<_> = fields.iter().filter(|(_, n)| n.starts_with('-')).collect();
    assert!(negative.is_empty(), "{negative:?}");
    let keys = &world.store.keys;
    let traces = [keys.history(world.part), keys.ids(world.part), keys.error_codes(world.part), keys.tries(world.part)];
    assert_eq!(world.store.query::<u64>("EXISTS", cmd("EXISTS").arg(&traces)).await.expect("redis"), 0);
}

#[tokio::test]
async fn an_outcome_for_an_empty_row_does_not_block_others() {
    let world = World::start(1).await;
    let claimed = world.claim(1, 1).await[0].claimed;
    let nobody = ClaimedRow { row: 7, send: 1 };
    let accepted = |wamid: &str| Settled::Accepted(Wamid::from(wamid));
    let outcomes = vec![(nobody, accepted("wamid.7")), (claimed, accepted("wamid.0"))];
    let settled = world.store.settle(&BTreeMap::from([(world.part, outcomes)]), 1, world.now().await, KEPT).await;
    assert_eq!(settled.expect("settled")[0].open, 0);
    let counts = &world.store.part_counts(&[world.part]).await.expect("counts")[0];
    assert_eq!((counts.recipients, counts.by_state[&State::Accepted]), (1, 1));
}

/// Rows with consecutive numbers that are settled together are moved in one step.
#[tokio::test]
async fn a_row_that_has_moved_does_not_block_its_neighbours() {
    let world = World::start(300).await;
    // One row is given back first, so that its next claim has another send number.
    let back = world.claim(1, 1).await[0].claimed;
    world.settle(back, Settled::Back { at: Due::AtOnce }).await;
    let claimed: Vec<ClaimedRow> = world.claim(1, 300).await.iter().map(|row| row.claimed).collect();
    assert_eq!(claimed.len(), 300);
    let now = world.now().await;
    let read = Fact { row: 150, send: 1, news: News::Read, at: now, message: None };
    world.store.apply(&[(world.part, vec![read])], KEPT).await.expect("redis");
    // In reverse order, and with two other outcomes: the accepted rows form runs of 99, 99 and 98, and the second run
    // contains the row that was read.
    let outcome = |claimed: &ClaimedRow| match claimed.row {
        100 => Settled::Refused { reason: meta_code(131_026) },
        200 => Settled::InDoubt { until: now },
        row => Settled::Accepted(Wamid::from(format!("wamid.{row}").as_str())),
    };
    let outcomes: Vec<_> = claimed.iter().rev().map(|claimed| (*claimed, outcome(claimed))).collect();
    let outcomes = BTreeMap::from([(world.part, outcomes)]);
    for again in [false, true] {
        assert_eq!(world.store.settle(&outcomes, 1, now, KEPT).await.expect("settled")[0].open, 1, "again: {again}");
        let rows = world.store.part_rows(world.part).await.expect("rows");
        for (row, byte) in rows.states.iter().enumerate() {
            let (state, send) = match row {
                0 => (State::Accepted, 2),
                100 => (State::Refused, 1),
                150 => (State::Read, 1),
                200 => (State::InDoubt, 1),
                _ => (State::Accepted, 1),
            };
            assert_eq!((State::of(*byte), State::send_of(*byte)), (Some(state), send), "row {row}, again: {again}");
            assert_eq!(u64::from(rows.times[row][usize::from(state.code())]), now.seconds(), "row {row}");
        }
        let counts = &world.store.part_counts(&[world.part]).await.expect("counts")[0];
        let count = |state| counts.by_state[&state];
        assert_eq!([State::Accepted, State::Read, State::Refused, State::InDoubt].map(count), [297, 1, 1, 1]);
        assert_eq!(counts.by_state.values().sum::<u64>(), 300);
        assert_eq!(counts.accepted_by_second, HashMap::from([(now.seconds(), 298)]), "again: {again}");
    }
    let pieces = world.store.read_ids(&[(world.part, None)]).await.expect("redis");
    let ids: HashMap<Fingerprint, ClaimedRow> = pieces.iter().flat_map(IdPage::ids).collect();
    let found = [0, 99, 299].map(|row| ids.get(&Fingerprint::of(&format!("wamid.{row}"))).copied());
    assert_eq!(found, [(0, 2), (99, 1), (299, 1)].map(|(row, send)| Some(ClaimedRow { row, send })));
}

#[tokio::test]
async fn a_later_claim_of_a_row_is_never_taken_for_its_first() {
    let world = World::start(1).await;
    let first = world.claim(1, 1).await[0];
    let retry = Settled::Retry { at: UnixMs(0), reason: meta_code(131_000) };
    world.settle(first.claimed, retry).await;
    // Throttled again and again, as during a long outage, until the send numbers wrap around.
    for _ in 0..300 {
        let again = world.claim(1, 1).await[0];
        assert_eq!(again.attempt, 2);
        assert_ne!(again.claimed.send, first.claimed.send);
        world.settle(again.claimed, Settled::Back { at: Due::AtOnce }).await;
        assert_eq!(world.state(0).await, Some(State::Retrying), "claim {}", again.claimed.send);
    }
}

#[tokio::test]
async fn fresh_rows_claimed_beside_a_later_retry_are_in_flight() {
    let world = World::start(6).await;
    world.claim(1, 2).await;
    // Redis lost the claim of row 4, and the replay returns the row: it now waits ahead of rows that were never
    // claimed.
    world.settle(ClaimedRow { row: 0, send: 1 }, Settled::Back { at: Due::AtOnce }).await;
    world.settle(ClaimedRow { row: 4, send: 1 }, Settled::Back { at: Due::AtOnce }).await;
    let claimed: Vec<u16> = world.claim(1, 4).await.iter().map(|row| row.claimed.row).collect();
    assert_eq!(claimed, [0, 4, 2, 3]);
    for row in claimed {
        assert_eq!(world.state(row).await, Some(State::InFlight), "row {row}");
    }
    world.failures().await;
}

#[tokio::test]
async fn an_outcome_of_an_older_epoch_does_not_change_a_row_in_flight() {
    let world = World::start(1).await;
    let back = || Settled::Back { at: Due::AtOnce };
    let first = world.claim(1, 1).await[0].claimed;
    world.settle(first, back()).await;
    let older = world.claim(1, 1).await[0].claimed;
    world.settle(older, back()).await;
    // A newer owner claims the row until the send number of the older claim is reused.
    let newer = loop {
        let claimed = world.claim(2, 1).await[0].claimed;
        if claimed.send == older.send {
            break claimed;
        }
        let outcomes = BTreeMap::from([(world.part, vec![(claimed, back())])]);
        world.store.settle(&outcomes, 2, world.now().await, KEPT).await.expect("settled");
    };
    for settled in [
        back(),
        Settled::Retry { at: UnixMs(0), reason: meta_code(131_000) },
        Settled::Refused { reason: meta_code(131_026) },
    ] {
        world.settle(older, settled).await;
        assert_eq!(world.state(0).await, Some(State::InFlight));
    }
    let outcomes = BTreeMap::from([(world.part, vec![(newer, Settled::Accepted(Wamid::from("wamid.0")))])]);
    world.store.settle(&outcomes, 2, world.now().await, KEPT).await.expect("settled");
    assert_eq!(world.state(0).await, Some(State::Accepted));
}

#[tokio::test]
async fn a_replayed_outcome_does_not_reopen_an_ended_doubt() {
    let world = World::start(2).await;
    let claimed = world.claim(1, 1).await[0].claimed;
    let in_doubt = Settled::InDoubt { until: world.now().await };
    world.settle(claimed, in_doubt.clone()).await;
    assert_eq!(
        world.store.end_doubts(world.part, world.now().await, 0).await.expect("redis"),
        DoubtsEnded { next: None, open: 1 }
    );
    world.settle(claimed, in_doubt).await;
    assert_eq!(
        world.store.end_doubts(world.part, UnixMs(0), 0).await.expect("redis"),
        DoubtsEnded { next: None, open: 1 }
    );
}

#[tokio::test]
async fn an_accepted_row_has_no_error_code() {
    let world = World::start(1).await;
    let claimed = world.claim(1, 1).await[0].claimed;
    world.settle(claimed, Settled::Retry { at: UnixMs(0), reason: meta_code(131_000) }).await;
    world.settle(claimed, Settled::Accepted(Wamid::from("wamid.0"))).await;
    let rows = world.store.part_rows(world.part).await.expect("rows");
    assert_eq!((State::of(rows.states[0]), rows.why.get(&0)), (Some(State::Accepted), None));
    let mut left = cmd("ZCARD");
    assert_eq!(
        world.store.query::<u64>("ZCARD", left.arg(world.store.keys.retry(world.part))).await.expect("redis"),
        0
    );
}

impl World {
    /// How many messages are held, after checking that the counter equals the bits.
    async fn held(&self) -> u64 {
        let record = self.store.campaign(self.id).await.expect("redis").expect("a campaign");
        let counted = world::counts(&self.store, &record).await.held;
        assert_eq!(counted, world::recount_held(&self.store, &record).await);
        counted
    }

    async fn sent(&self, claimed: ClaimedRow) {
        let ClaimedRow { row, send } = claimed;
        let fact = Fact { row, send, news: News::Sent, at: self.now().await, message: None };
        self.store.apply(&[(self.part, vec![fact])], KEPT).await.expect("applied");
    }
}

#[tokio::test]
async fn a_held_message_counts_once_and_until_any_status() {
    let world = World::start(8).await;
    let rows: Vec<ClaimedRow> = world.claim(1, 8).await.iter().map(|row| row.claimed).collect();
    let held = |row: usize| Settled::Held(Wamid::from(format!("wamid.{row}").as_str()));
    // A run of rows, some of them held. It is settled twice, as after a lost response.
    let outcomes = rows.iter().take(6).enumerate().map(|(n, row)| {
        (*row, if n % 2 == 0 { held(n) } else { Settled::Accepted(Wamid::from(format!("wamid.{n}").as_str())) })
    });
    let outcomes = BTreeMap::from([(world.part, outcomes.collect::<Vec<_>>())]);
    for _ in 0..2 {
        world.store.settle(&outcomes, 1, world.now().await, KEPT).await.expect("settled");
        assert_eq!(world.held().await, 3);
    }
    // The status came before the response, so the message does not become held.
    world.sent(rows[6]).await;
    world.settle(rows[6], held(6)).await;
    assert_eq!((world.state(6).await, world.held().await), (Some(State::Sent), 3));
    // The message is released. Meta repeats the status, and a process that replays its journal settles the row again.
    for _ in 0..2 {
        world.sent(rows[0]).await;
        world.settle(rows[0], held(0)).await;
        assert_eq!((world.state(0).await, world.held().await), (Some(State::Sent), 2));
    }
    // Meta drops the message. The row is sent again, and whether its new message is held is independent of the first.
    assert_eq!(world.returned(rows[2], 132_015).await.0, Applied::Reopened);
    world.settle(rows[2], held(2)).await;
    assert_eq!((world.state(2).await, world.held().await), (Some(State::Pending), 1));
    let again = world.claim(1, 1).await[0].claimed;
    assert_eq!((again.row, again.send), (2, 2));
    world.settle(again, Settled::Accepted(Wamid::from("wamid.2b"))).await;
    assert_eq!(world.held().await, 1);
    let sends = [rows[2], again, rows[4], ClaimedRow { row: 4, send: 0 }, ClaimedRow { row: 4, send: 2 }, rows[1]];
    let sends = sends.map(|claimed| Some((world.part, claimed)));
    assert_eq!(world.store.are_held(&sends).await.expect("redis"), [false, false, true, true, false, false]);
}

#[tokio::test]
async fn a_campaign_waits_a_day_for_held_messages() {
    let world = World::start(1).await;
    let row = world.claim(1, 1).await[0].claimed;
    let now = world.now().await;
    assert_eq!(world.settle(row, Settled::Held(Wamid::from("wamid.0"))).await, 0, "it is not open");
    assert!(!world.store.complete_if_done(world.id, now).await.expect("redis"));
    let later = now.after(Duration::from_secs(25 * 3_600));
    assert!(world.store.complete_if_done(world.id, later).await.expect("redis"), "the webhook is lost");
    assert_eq!(world.held().await, 1);
    // After the end of the retention, nothing is held.
    world.store.forget_recipients(world.id).await.expect("redis");
    assert_eq!(world.held().await, 0);
    world.sent(row).await;
    assert_eq!((world.state(0).await, world.held().await), (Some(State::Sent), 0));
}

#[tokio::test]
async fn a_released_message_completes_its_campaign() {
    let world = World::start(1).await;
    let row = world.claim(1, 1).await[0].claimed;
    world.settle(row, Settled::Held(Wamid::from("wamid.0"))).await;
    world.sent(row).await;
    assert!(world.store.complete_if_done(world.id, world.now().await).await.expect("redis"));
}

impl World {
    /// Skipped recipients by reason, after checking that the counters equal the rows.
    async fn skips(&self) -> HashMap<SkipReason, u64> {
        let record = self.store.campaign(self.id).await.expect("redis").expect("a campaign");
        let counted = world::counts(&self.store, &record).await.skips;
        let mut recounted = HashMap::new();
        for reason in self.store.skips(self.part).await.expect("redis").into_iter().flatten() {
            *recounted.entry(reason).or_default() += 1;
        }
        assert_eq!(counted, recounted);
        counted
    }
}

#[tokio::test]
async fn a_skipped_recipient_is_ended_and_counted_once_with_its_reason() {
    let world = World::start(3).await;
    let rows: Vec<ClaimedRow> = world.claim(1, 3).await.iter().map(|row| row.claimed).collect();
    for _ in 0..2 {
        world.settle(rows[0], Settled::Skipped { reason: SkipReason::Suppressed }).await;
        world.settle(rows[2], Settled::Skipped { reason: SkipReason::MarketingUs }).await;
    }
    assert_eq!((world.state(0).await, world.state(1).await), (Some(State::Skipped), Some(State::InFlight)));
    assert_eq!(world.skips().await, HashMap::from([(SkipReason::Suppressed, 1), (SkipReason::MarketingUs, 1)]));
    assert!(world.claim(1, 3).await.is_empty(), "a skipped recipient is not claimed again");
    // Meta has the message nevertheless: another worker sent it, and Redis lost that.
    let resent = ClaimedRow { row: 0, send: 2 };
    world.settle(resent, Settled::Accepted(Wamid::from("wamid.0"))).await;
    assert_eq!(world.state(0).await, Some(State::Accepted));
    assert_eq!(world.skips().await, HashMap::from([(SkipReason::MarketingUs, 1)]));
}
