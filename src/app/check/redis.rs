//! Checks Redis: that it answers, its version, latency and durability, that this release can read its data, and that
//! every line with work is listed.

use std::time::{Duration, Instant};

use deadpool_redis::redis::cmd;
use tokio::process::Command;

use super::Check;
use crate::{
    config::{Config, LineConfig, RedisConfig, RedisUrl},
    domain::LineId,
    redis::{
        Address, Result, Store, StoreError, check_version,
        data_version::{DataVersion, READS},
        durability::risks::Risk,
        memory::{FULL_REMEDY, Memory, ROOM_REMEDY},
        registry::UNLISTED_REMEDY,
        spawn::{self, SpawnError},
    },
};

/// Round trips that are timed. The median is reported.
const ROUND_TRIPS: usize = 9;

/// The program that a `redis.url` with `spawn:` starts.
const SERVER: &str = "redis-server";

/// Checks the Redis of `config`. A private server that does not run is not started: only its program is checked.
pub(super) async fn check(config: &Config) -> Vec<Check> {
    match &config.redis.url {
        RedisUrl::Spawn(dir) => match spawn::running(dir).await {
            Some(url) => server(config, &url).await,
            None => vec![program(&config.redis).await],
        },
        RedisUrl::Server(url) => server(config, url).await,
    }
}

async fn program(config: &RedisConfig) -> Check {
    match Command::new(SERVER).arg("--version").output().await {
        Ok(output) if output.status.success() => {
            let stdout = String::from_utf8_lossy(&output.stdout);
            let version = stdout.split_whitespace().find_map(|word| word.strip_prefix("v=")).unwrap_or("unknown");
            match check_version(version) {
                Ok(()) => Check::ok("redis", format!("{}: {SERVER} {version} is installed", config.url)),
                Err(error) => {
                    Check::failed("redis", format!("{}: {error}", config.url), "install a newer redis-server")
                }
            }
        }
        _ => {
            let found = format!("{}: {SERVER} does not run", config.url);
            Check::failed("redis", found, SpawnError::Missing { program: SERVER.into() }.to_string())
        }
    }
}

async fn server(config: &Config, url: &str) -> Vec<Check> {
    let (lines, share_max, config) = (&config.lines, config.intake.memory_share_max, &config.redis);
    let address = Address {
        url: url.to_owned(),
        certificates: config.certificates.clone(),
        namespace: config.namespace.clone(),
        timeout: config.timeout,
        connections: 1,
    };
    let found = async {
        // Connecting checks the version and the permission to load scripts.
        let store = Store::connect(&address).await?;
        let info: String = store.query("INFO", &cmd("INFO")).await?;
        let mut of_data = vec![data_version(&store.data_version().await?)];
        if of_data[0].ok {
            of_data.extend(unlisted(&store, lines).await?);
        }
        Ok((info, store.memory().await?, latency(&store).await?, of_data))
    };
    match found.await {
        Ok((info, memory, latency, of_data)) => {
            let version = field(&info, "redis_version").unwrap_or("unknown");
            let ms = latency.as_secs_f64() * 1000.0;
            let found = Check::ok("redis", format!("{}: version {version}, answers in {ms:.1} ms", config.url));
            let room = memory.map(|memory| room(memory, share_max));
            [found, durability(&info)].into_iter().chain(room).chain(of_data).collect()
        }
        // Redis answers, and refuses what a first process has to write.
        Err(error @ StoreError::Full(_)) => {
            vec![Check::failed(ROOM, format!("{}: {error}", config.url), FULL_REMEDY)]
        }
        Err(error) => vec![unusable(config, &error)],
    }
}

fn unusable(config: &RedisConfig, error: &StoreError) -> Check {
    let remedy = match error {
        StoreError::Login(_) => {
            "set the user and password that this Redis accepts: PREGON__REDIS__URL, or redis.url = { env = \"NAME\" }"
        }
        error if error.is_transient() => {
            "start Redis there, or set redis.url to its address; redis.timeout may be too short"
        }
        StoreError::Refused { .. } => "give the user of redis.url the right to run scripts and INFO",
        _ => "set redis.url to another Redis",
    };
    Check::failed("redis", format!("{}: {error}", config.url), remedy)
}

/// Checks that this release can read the data.
fn data_version(data: &DataVersion) -> Check {
    let DataVersion { version, release } = data;
    let found = format!("version {version}; this release reads up to version {READS}");
    match *version <= READS {
        true => Check::ok("data version", found),
        false => Check::failed("data version", found, format!("use release {release} or newer")),
    }
}

/// Finds lines with work that neither `lines` nor any live worker lists. Nothing would be sent on them.
async fn unlisted(store: &Store, lines: &[LineConfig]) -> Result<Option<Check>> {
    let now = store.time().await?;
    let work = store.open_parts(now, |line| !lines.iter().any(|listed| listed.id == *line)).await?;
    let ids: Vec<LineId> = work.into_keys().collect();
    let workers = store.live_workers(now).await?;
    if workers.is_empty() && lines.is_empty() {
        // No process that lists lines has started yet, so it is unknown which lines will be listed.
        return Ok(None);
    }
    let lists = store.line_lists(&workers).await?;
    let is_listed = |line: &LineId| lists.iter().any(|list| list.as_ref().is_none_or(|list| list.contains(line)));
    let unlisted: Vec<&str> = ids.iter().filter(|line| !is_listed(line)).map(LineId::as_str).collect();
    Ok((!unlisted.is_empty()).then(|| {
        let found = format!("campaigns have work on lines that no process lists: {}", unlisted.join(", "));
        Check::failed("lines with work", found, UNLISTED_REMEDY)
    }))
}

async fn latency(store: &Store) -> Result<Duration> {
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let began = Instant::now();
        store.time().await?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(times[ROUND_TRIPS / 2])
}

/// Checks that Redis persists its data and never evicts keys.
fn durability(info: &str) -> Check {
    let risks = Risk::of(info);
    let policy = field(info, "maxmemory_policy").filter(|policy| *policy != "noeviction");
    let warning = policy.filter(|_| !risks.iter().any(|risk| matches!(risk, Risk::Evicts { .. }))).map(|policy| {
        format!(
            "\nwarning: maxmemory-policy is {policy}, which evicts campaigns once maxmemory is set: CONFIG SET \
            maxmemory-policy noeviction, and the same in redis.conf"
        )
    });
    let warning = warning.unwrap_or_default();
    if risks.is_empty() {
        return Check::ok("redis keeps data", format!("the append-only file is on, nothing is evicted{warning}"));
    }
    let found: Vec<_> = risks.iter().map(Risk::to_string).collect();
    let remedies: Vec<_> = risks.iter().map(Risk::remedy).collect();
    Check::failed("redis keeps data", found.join("\n") + &warning, remedies.join("\n→ "))
}

/// The name of the check whether Redis has room.
const ROOM: &str = "redis has room";

/// Checks that Redis is not full, and that recipients are not refused because it nearly is.
fn room(memory: Memory, share_max: f64) -> Check {
    let found = format!("{memory} are used (maxmemory)");
    if memory.is_full() {
        return Check::failed(ROOM, format!("{found}: it is full, and refuses every write"), FULL_REMEDY);
    }
    match memory.share() <= share_max {
        true => Check::ok(ROOM, found),
        false => Check::failed(
            ROOM,
            format!("{found}: above {share_max} of it, recipients are refused (intake.memory_share_max)"),
            ROOM_REMEDY,
        ),
    }
}

/// The value of `name` in the reply to INFO.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}
