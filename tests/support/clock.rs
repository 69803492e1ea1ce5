//! A Redis whose clock can be set while it runs: `clock.c` is preloaded between the server and the system.
//!
//! Linux only. Elsewhere Redis has the time of the system.

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

use super::redis::TestRedis;

/// Whether clocks can be set here.
pub const CAN_BE_SET: bool = cfg!(target_os = "linux");

/// A wrapper for `redis-server`. Its arguments begin with `--dir DIR`.
const START: &str = r#"#!/bin/sh
# A redis-server whose clock is the system's plus the offset in the file `clock` in its directory.
[ -e "$2/clock" ] || head -c 8 /dev/zero >"$2/clock"
export LD_PRELOAD="${0%/*}/clock.so" PREGON_TEST_CLOCK="$2/clock"
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
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clock");
        std::fs::create_dir_all(&dir).expect("a directory");
        // The files are replaced by a rename instead of overwritten: another run may be using them.
        let new = |name: &str| dir.join(format!("{name}.{}", std::process::id()));
        let (library, start) = (new("clock.so"), new("redis-server"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/clock.c");
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
