//! Compares the lease rules in `rules.rs` with `acquire.lua` and `release.lua` on a real Redis, over random
//! histories.

use std::time::Duration;

use deadpool_redis::redis::{aio::MultiplexedConnection, cmd};
use pregon::{
    domain::LineId,
    redis::{Store, lines::LeaseTarget},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::rules::{Leases, LineNo};
use crate::support::{self, redis::TestRedis, world};

/// Long enough that a lease expires only when the history lets it expire.
const LEASE: Duration = Duration::from_secs(3_600);

/// In ms; ahead of any clock. A new epoch is then the last one plus a random increment, instead of the time.
const FAR_FUTURE: u64 = 9_000_000_000_000;

struct Pair {
    store: Store,
    redis: MultiplexedConnection,
    model: Leases,
    lines: Vec<LineId>,
    /// The model's time, in ms: [`FAR_FUTURE`] in histories in which Redis' clock was set back, 0 in the others.
    now_ms: u64,
}

impl Pair {
    async fn redis_ms(&mut self) -> u64 {
        let (seconds, micros): (u64, u64) = cmd("TIME").query_async(&mut self.redis).await.expect("TIME");
        seconds * 1_000 + micros / 1_000
    }

    async fn acquire(&mut self, worker: usize, wanted: &[(LineNo, Option<u64>)]) -> Vec<Option<u64>> {
        let rights: Vec<(LeaseTarget, Option<u64>)> =
            wanted.iter().map(|&(line, mine)| (LeaseTarget::Line(self.lines[line as usize].clone()), mine)).collect();
        let before = self.redis_ms().await;
        let real = self.store.acquire(&rights, &name(worker), LEASE).await.expect("redis");
        let after = self.redis_ms().await;
        for (&(line, mine), &epoch) in wanted.iter().zip(&real) {
            let old = self.model.entry(line);
            let now_ms = self.now_ms;
            let expected = self.model.acquire(line, worker, LEASE.as_millis() as u64, mine, now_ms);
            let is_by_clock = |epoch| epoch > old.epoch && (before..=after).contains(&epoch);
            let is_by_increment = |epoch| (old.epoch + 1..=old.epoch + 1_000).contains(&epoch);
            if mine.is_none() && epoch.is_some_and(|epoch| is_by_clock(epoch) || is_by_increment(epoch)) {
                // The model adopts the epoch: it depends on Redis' clock or on a random increment.
                let epoch = epoch.expect("an epoch");
                let mut entry = self.model.entry(line);
                assert!(expected.is_some(), "line {line}, worker {worker}: redis gave {epoch}");
                entry.epoch = epoch;
                entry.lease.as_mut().expect("a lease").epoch = epoch;
                self.model.set_entry(line, entry);
            } else {
                assert_eq!(epoch, expected, "line {line}, worker {worker}, epoch {mine:?}, before {old:?}");
            }
        }
        real
    }

    async fn release(&mut self, worker: usize, line: LineNo, mine: u64) {
        let right = LeaseTarget::Line(self.lines[line as usize].clone());
        self.store.release(&right, &name(worker), mine).await.expect("redis");
        self.model.release(line, worker, mine, self.now_ms);
    }

    /// Lets the lease of `line` expire.
    async fn expire(&mut self, line: LineNo) {
        let key = self.store.keys.lease(&self.lines[line as usize]);
        let () = cmd("PEXPIREAT").arg(key).arg(1).query_async(&mut self.redis).await.expect("redis");
        let mut entry = self.model.entry(line);
        entry.lease = None;
        self.model.set_entry(line, entry);
    }

    /// Makes the lease of `line` last longer than any new one, as if Redis' clock had been set back since.
    async fn prolong(&mut self, line: LineNo) {
        let key = self.store.keys.lease(&self.lines[line as usize]);
        let length_ms = 2 * LEASE.as_millis() as u64;
        let () = cmd("PEXPIRE").arg(key).arg(length_ms).query_async(&mut self.redis).await.expect("redis");
        let mut entry = self.model.entry(line);
        if let Some(held) = &mut entry.lease {
            held.until_ms = self.now_ms + length_ms;
        }
        self.model.set_entry(line, entry);
    }

    async fn check_owners(&mut self) {
        let owners = self.store.owners(&self.lines).await.expect("redis");
        for (line, owner) in (0..).zip(owners) {
            let held = self.model.held(line, self.now_ms);
            let owner = owner.map(|owner| owner.worker);
            assert_eq!(owner, held.map(|held| name(held.worker)), "line {line}");
            let key = self.store.keys.lease(&self.lines[line as usize]);
            let left: i64 = cmd("PTTL").arg(key).query_async(&mut self.redis).await.expect("redis");
            let expected = held.map_or(-2, |held| (held.until_ms - self.now_ms) as i64);
            assert!((expected - 60_000..=expected).contains(&left), "line {line}: {left} ms, not {expected} ms");
        }
    }
}

fn name(worker: usize) -> String {
    format!("w{worker}")
}

#[tokio::test]
async fn the_lease_rules_agree_with_the_scripts() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let mut rng = StdRng::seed_from_u64(support::seed());
    for history in 0..40 {
        let lines: Vec<LineId> = (0..3).map(|n| LineId::from(format!("{history}-{n}").as_str())).collect();
        let connection = redis.connection().await;
        let mut pair =
            Pair { store: store.clone(), redis: connection, model: Leases::default(), lines, now_ms: FAR_FUTURE };
        // In half of the histories, Redis' clock was set back: its epochs are ahead of the clock.
        if rng.random_bool(0.5) {
            for line in 0..3 {
                let key = pair.store.keys.epoch(&pair.lines[line as usize]);
                let () = cmd("SET").arg(key).arg(FAR_FUTURE).query_async(&mut pair.redis).await.expect("redis");
                let mut entry = pair.model.entry(line);
                entry.epoch = FAR_FUTURE;
                pair.model.set_entry(line, entry);
            }
        } else {
            pair.now_ms = 0;
        }
        let mut known = vec![None];
        for _ in 0..40 {
            let (worker, line) = (rng.random_range(0..3), rng.random_range(0..3));
            let epoch = known[rng.random_range(0..known.len())];
            match rng.random_range(0..10) {
                0..3 => {
                    let wanted = [(line, None), ((line + 1) % 3, epoch)];
                    known.extend(pair.acquire(worker, &wanted).await.into_iter().filter(Option::is_some));
                }
                3..7 => known.extend(pair.acquire(worker, &[(line, epoch)]).await.into_iter().filter(Option::is_some)),
                7..9 => pair.release(worker, line, epoch.unwrap_or_default()).await,
                _ if rng.random_bool(0.5) => pair.prolong(line).await,
                _ => pair.expire(line).await,
            }
            pair.check_owners().await;
        }
    }
}
