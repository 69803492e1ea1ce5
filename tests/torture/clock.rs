//! A Redis whose clock can be set while it runs: `clock.c` is preloaded between the server and the system.
//!
//! Linux only. Elsewhere the same schedules run without clock faults.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use deadpool_redis::redis::{Client, cmd};

use crate::{report, support::redis::TestRedis};

/// Whether clocks can be set here.
pub const CAN_BE_SET: bool = cfg!(target_os = "linux");

/// A wrapper for `redis-server`. Its arguments begin with `--dir DIR`.
const START: &str = r#"#!/bin/sh
# A redis-server whose clock is the system's plus the offset in the file `clock` in its directory.
[ -e "$2/clock" ] || head -c 8 /dev/zero >"$2/clock"
export LD_PRELOAD="${0%/*}/clock.so" PREGON_TORTURE_CLOCK="$2/clock"
exec redis-server "$@"
"#;

/// How long Redis may cache the time.
const TIME_CACHE_US: i64 = 50_000;

/// The clock of one Redis.
pub struct Clock {
    file: File,
    url: String,
    /// Redis' time minus true time.
    offset_us: AtomicI64,
}

/// Starts a Redis. Its clock can be set where [`CAN_BE_SET`].
pub async fn redis() -> (TestRedis, Option<Clock>) {
    if !CAN_BE_SET {
        return (TestRedis::start().await, None);
    }
    let redis = TestRedis::start_by(program()).await;
    let clock = Clock::of(&redis);
    (redis, Some(clock))
}

impl Clock {
    fn of(redis: &TestRedis) -> Self {
        let file = OpenOptions::new().write(true).open(redis.dir().join("clock")).expect("the file of the clock");
        Self { file, url: redis.url().to_owned(), offset_us: AtomicI64::new(0) }
    }

    /// Moves the clock by `by_ms`, ahead or back. Callers must not do this concurrently. Panics if Redis answers with
    /// another time than the one set.
    pub async fn step(&self, by_ms: i64) {
        let offset_us = self.offset_us.load(Ordering::SeqCst) + 1_000 * by_ms;
        self.file.write_all_at(&offset_us.to_ne_bytes(), 0).expect("written");
        self.offset_us.store(offset_us, Ordering::SeqCst);
        let before = micros();
        if let Ok(Some(redis_us)) = tokio::time::timeout(Duration::from_millis(500), self.redis_time_us()).await {
            let true_time = redis_us - offset_us;
            assert!(
                (before - TIME_CACHE_US..=micros()).contains(&true_time),
                "redis returned {redis_us} at {before}, with an offset of {offset_us} us"
            );
        }
    }

    /// Redis' time, in microseconds; `None` if it does not answer.
    async fn redis_time_us(&self) -> Option<i64> {
        let client = Client::open(self.url.as_str()).expect("a URL of the redis crate");
        let mut connection = client.get_multiplexed_async_connection().await.ok()?;
        let (seconds, micros): (i64, i64) = cmd("TIME").query_async(&mut connection).await.ok()?;
        Some(seconds * 1_000_000 + micros)
    }
}

fn micros() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "it is compared with that of Redis")]
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    since_1970.as_micros() as i64
}

/// The wrapper for `redis-server`, created once per run.
fn program() -> &'static str {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let dir = report::dir().join("clock");
        std::fs::create_dir_all(&dir).expect("a directory");
        // The files are replaced by a rename instead of overwritten: another run may be using them.
        let new = |name: &str| dir.join(format!("{name}.{}", std::process::id()));
        let (library, start) = (new("clock.so"), new("redis-server"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torture/clock.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-o"]).arg(&library).arg(&source);
        assert!(compiler.status().expect("a C compiler").success(), "{}", source.display());
        std::fs::write(&start, START).expect("written");
        std::fs::set_permissions(&start, std::fs::Permissions::from_mode(0o755)).expect("executable");
        let (at, program) = (dir.join("clock.so"), dir.join("redis-server"));
        std::fs::rename(library, at).and_then(|()| std::fs::rename(start, &program)).expect("in their place");
        program
    };
    PROGRAM.get_or_init(make).to_str().expect("a plain path")
}

#[cfg(target_os = "linux")]
mod tests {
    use std::collections::BTreeSet;

    use pregon::{
        domain::{LineId, UnixMs},
        redis::{Store, lines::LeaseTarget},
    };

    use super::*;
    use crate::support::world;

    const LEASE: Duration = Duration::from_secs(3);
    const AN_HOUR_BACK: i64 = -3_600_000;

    async fn store() -> (Store, TestRedis, Clock) {
        let (redis, clock) = redis().await;
        (
            Store::connect(&world::address(&redis)).await.expect("a store"),
            redis,
            clock.expect("a clock that can be set"),
        )
    }

    #[tokio::test]
    async fn a_lease_from_before_a_clock_step_back_is_shortened() {
        let (store, _redis, clock) = store().await;
        let line = LineId::from("3001");
        let right = LeaseTarget::Line(line.clone());
        let held = store.acquire(&[(right.clone(), None)], "dead", LEASE).await.expect("redis");
        assert!(held[0].is_some());
        clock.step(AN_HOUR_BACK).await;
        let left = async || store.lease_ttls(std::slice::from_ref(&line)).await.expect("redis")[0];
        assert!(left().await > Some(60 * LEASE), "{:?}", left().await);
        assert_eq!(store.acquire(&[(right.clone(), None)], "next", LEASE).await.expect("redis"), [None]);
        assert!(left().await <= Some(LEASE), "{:?}", left().await);
    }

    #[tokio::test]
    async fn a_worker_dead_before_a_clock_step_back_is_not_live() {
        let (store, _redis, clock) = store().await;
        let live_workers = async |worker| {
            let now = store.time().await.expect("redis");
            store.worker_heartbeat(worker, now, now.after(LEASE)).await.expect("redis").workers.len()
        };
        assert_eq!((live_workers("dead").await, live_workers("living").await), (1, 2));
        clock.step(AN_HOUR_BACK).await;
        assert_eq!(live_workers("living").await, 1);
        assert_eq!(
            (live_workers("other").await, live_workers("living").await),
            (2, 2),
            "a worker with a new heartbeat counts"
        );
    }

    #[tokio::test]
    async fn a_lost_epoch_is_not_issued_again_with_the_clock_behind() {
        let (store, redis, clock) = store().await;
        let (line, mut epochs) = (LineId::from("3001"), BTreeSet::new());
        let right = LeaseTarget::Line(line.clone());
        let first = store.acquire(&[(right.clone(), None)], "w", LEASE).await.expect("redis")[0].expect("free");
        clock.step(AN_HOUR_BACK).await;
        assert!(store.time().await.expect("redis") < UnixMs(first), "the epochs must be ahead of the clock");
        for _ in 0..10 {
            let mut redis = redis.connection().await;
            let () = cmd("DEL").arg(store.keys.lease(&line)).query_async(&mut redis).await.expect("redis");
            let () = cmd("SET").arg(store.keys.epoch(&line)).arg(first).query_async(&mut redis).await.expect("redis");
            epochs.extend(store.acquire(&[(right.clone(), None)], "w", LEASE).await.expect("redis"));
        }
        assert!(epochs.len() > 5 && epochs.iter().all(|epoch| *epoch > Some(first)), "{epochs:?} after {first}");
    }
}
