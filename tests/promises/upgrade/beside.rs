//! A worker of release 0.1.0 beside workers of the present one: its scripts, on data that the present release wrote.

use std::{collections::BTreeMap, time::Duration};

use deadpool_redis::redis::{FromRedisValue, Value, aio::MultiplexedConnection, cmd};
use pregon::{
    domain::{CampaignState, ClaimedRow, Fact, News, OnDoubt, PartId, Settled, State, UnixMs},
    redis::{Store, lines::LeaseTarget, parts::Claim},
};

use super::Recorded;
use crate::support::{claim_request, redis::TestRedis, world};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const LEASE: Duration = Duration::from_secs(60);

/// What a worker of 0.1.0 does in Redis: its scripts, with keys and arguments as that release passes them.
struct OldWorker {
    recorded: Recorded,
    connection: MultiplexedConnection,
    part: PartId,
    epoch: u64,
    claims: u64,
}

impl OldWorker {
    async fn run<T: FromRedisValue>(&mut self, script: &str, keys: &[String], arguments: &[Vec<u8>]) -> T {
        let source = self.recorded.script(script);
        let mut call = cmd("EVAL");
        let answer = call.arg(source).arg(keys.len()).arg(keys).arg(arguments).query_async(&mut self.connection).await;
        answer.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    fn keys(&self, suffixes: &[&str]) -> Vec<String> {
        suffixes.iter().map(|suffix| format!("pregon:{{{}}}{suffix}", self.part)).collect()
    }

    /// Takes the lease of line 3001. Returns whether it was free.
    async fn take_line(&mut self) -> bool {
        let keys = ["pregon:{l:3001}:lease".to_owned(), "pregon:{l:3001}:epoch".to_owned()];
        let arguments = [text("old"), text(LEASE.as_millis()), text(0), text(1)];
        let (taken, epoch): (u8, u64) = self.run("acquire", &keys, &arguments).await;
        self.epoch = epoch;
        taken == 1
    }

    async fn give_line_back(&mut self) {
        let arguments = [text("old"), text(self.epoch)];
        let released: u8 = self.run("release", &["pregon:{l:3001}:lease".to_owned()], &arguments).await;
        assert_eq!(released, 1);
    }

    /// Claims up to `limit` rows.
    async fn claim(&mut self, now: UnixMs, limit: usize) -> Vec<ClaimedRow> {
        self.claims += 1;
        let keys = self.keys(&["", ":s", ":h", ":g", ":r", ":d", ":t"]);
        let numbers = [self.epoch, now.0, limit as u64, now.0, self.claims, 0, 0];
        let answer: Vec<Value> = self.run("claim", &keys, &numbers.map(text)).await;
        let [Value::BulkString(kind), Value::Int(start), Value::Int(count), Value::BulkString(packed), ..] =
            &answer[..]
        else {
            panic!("{answer:?}")
        };
        assert_eq!(kind, b"claimed");
        let fresh = (*start..start + count).map(|row| ClaimedRow { row: row as u16, send: 1 });
        let others = packed.as_chunks::<4>().0.iter();
        let others = others.map(|&[low, high, send, _]| ClaimedRow { row: u16::from_le_bytes([low, high]), send });
        others.chain(fresh).collect()
    }

    /// Settles rows: accepted, or another kind of outcome with its code. Returns the number of open recipients.
    async fn settle(&mut self, now: UnixMs, accepted: &[ClaimedRow], others: &[(ClaimedRow, u8, u32)]) -> u64 {
        let keys = self.keys(&["", ":s", ":h", ":g", ":r", ":d", ":w", ":i", ":t"]);
        let (mut ids, mut entries, mut outcomes) = (Vec::new(), Vec::new(), Vec::new());
        for ClaimedRow { row, send } in accepted {
            ids.extend(row.to_le_bytes());
            ids.push(*send);
            ids.extend(u64::from(*row).to_le_bytes());
            entries.extend(row.to_le_bytes());
            entries.push(send << 4 | State::Accepted.code());
            entries.extend((now.seconds() as u32).to_le_bytes());
        }
        for (ClaimedRow { row, send }, kind, code) in others {
            outcomes.extend(row.to_le_bytes());
            outcomes.extend([*send, *kind]);
            outcomes.extend(code.to_le_bytes());
            outcomes.extend((now.0 as f64).to_le_bytes());
        }
        let none = Vec::new;
        let arguments =
            [text(now.0), text(DAY.as_millis()), text(self.epoch), ids, entries, outcomes, none(), none(), text(0)];
        let (open, ..): (u64, u8, u8) = self.run("settle", &keys, &arguments).await;
        open
    }

    /// Applies a status to each of `rows`. Returns how many rows it moved.
    async fn status(&mut self, now: UnixMs, rows: &[ClaimedRow], state: State) -> u64 {
        let keys = self.keys(&["", ":s", ":h", ":g", ":r", ":d", ":w", ":a", ":i", ":t"]);
        let mut facts = Vec::new();
        for ClaimedRow { row, send } in rows {
            facts.extend(row.to_le_bytes());
            facts.extend([*send, state.code()]);
            facts.extend(0_u32.to_le_bytes());
            facts.extend((now.seconds() as u32).to_le_bytes());
            facts.extend([0; 8]);
        }
        let answer: Vec<u64> = self.run("status", &keys, &[text(DAY.as_millis()), facts]).await;
        answer[0]
    }
}

fn text(value: impl ToString) -> Vec<u8> {
    value.to_string().into_bytes()
}

#[tokio::test]
async fn a_0_1_0_worker_works_beside_one_of_this_release() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let id = world::campaign(&store, &["3001"], 12, OnDoubt::Hold).await;
    world::launch(&store, id).await;
    let record = store.campaign(id).await.expect("redis").expect("a campaign");
    let part = record.parts[0].0;
    let line = LeaseTarget::Line("3001".into());
    let mut old =
        OldWorker { recorded: Recorded::of("0.1.0"), connection: redis.connection().await, part, epoch: 0, claims: 0 };
    let now = store.time().await.expect("the time");

    // The old worker sends six messages and settles five. The new webhook process applies a status.
    assert!(old.take_line().await);
    assert_eq!(store.acquire(&[(line.clone(), None)], "new", LEASE).await.expect("redis"), [None]);
    let rows = old.claim(now, 6).await;
    assert_eq!(rows.len(), 6);
    let others = [(rows[2], b'R', 131_000), (rows[3], b'B', 0), (rows[4], b'F', 131_026)];
    assert_eq!(old.settle(now, &rows[..2], &others).await, 9);
    let ClaimedRow { row, send } = rows[0];
    let read = Fact { row, send, news: News::Read, at: now, message: None };
    store.apply(&[(part, vec![read])], DAY).await.expect("applied");
    old.give_line_back().await;

    // The new worker takes the line over: what the old one left in flight is in doubt. It sends four.
    let [Some(epoch)] = store.acquire(&[(line.clone(), None)], "new", LEASE).await.expect("redis")[..] else {
        panic!("the line is free")
    };
    let claim = store.claim(part, &claim_request(epoch, now, 4, now)).await.expect("a claim");
    let Claim::Rows { rows: claimed, open: 9, .. } = claim else { panic!("{claim:?}") };
    let accepted = claimed.iter().map(|row| (row.claimed, Settled::Accepted("wamid".into()))).collect();
    let settled = store.settle(&BTreeMap::from([(part, accepted)]), epoch, now, DAY).await.expect("settled");
    assert_eq!(settled[0].open, 5);
    store.release(&line, "new", epoch).await.expect("released");

    // The old worker takes the line back, sends the rest, and applies a status of a message of the new worker. Its late
    // outcome of the message in doubt counts.
    assert!(old.take_line().await && old.epoch > epoch);
    let delivered: Vec<ClaimedRow> = claimed.iter().map(|row| row.claimed).collect();
    assert_eq!(old.status(now, &delivered, State::Delivered).await, 4);
    assert_eq!(old.settle(now, &rows[5..], &[]).await, 4);
    let rest = old.claim(now, 100).await;
    assert_eq!(rest.len(), 4);
    assert_eq!(old.settle(now, &rest, &[]).await, 0);

    assert!(store.complete_if_done(id, now).await.expect("redis"));
    let record = store.campaign(id).await.expect("redis").expect("a campaign");
    assert_eq!(record.state, CampaignState::Completed);
    let mut counts = world::counts(&store, &record).await.by_state;
    assert_eq!(counts, world::recount(&store, &record).await);
    counts.retain(|_, n| *n > 0);
    let expected = [(State::Read, 1), (State::Accepted, 6), (State::Refused, 1), (State::Delivered, 4)];
    assert_eq!(counts, expected.into());
}
