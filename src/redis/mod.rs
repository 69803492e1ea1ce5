//! Redis: connections, keys and the scripts that change state. The only module that names a key.
//!
//! Every change of state is one Lua script over keys of one hash tag. A change of two tags takes two scripts, in an
//! order that leaves a harmless state if the process dies between them. The next process repairs that state; the
//! modules say how.

pub mod allowances;
pub mod campaigns;
pub mod chats;
pub mod chunk;
pub mod clock;
pub mod data_version;
pub mod dead_letters;
pub mod deletion;
pub mod deployment;
pub mod doorbells;
pub mod durability;
pub mod duty;
pub mod feed;
mod fleet;
pub mod forgetting;
pub mod history;
pub mod holds;
pub mod inbound;
pub mod inbound_counts;
pub mod installation;
pub mod jobs;
pub mod keys;
pub mod last_sends;
pub mod lines;
pub mod marketing;
pub mod memory;
pub mod message_ids;
pub mod messaging_limits;
mod meta_lines;
mod operations;
pub mod pages;
pub mod parked;
pub mod parts;
pub mod pauses;
pub mod phone_index;
pub mod places;
pub mod position;
pub mod processes;
pub mod registry;
pub mod rerouted;
pub mod retries;
pub mod script;
pub mod spawn;
mod stored;
pub mod subscribers;
pub mod suppressions;
pub mod untold;
pub mod uploads;
pub mod wamids;
pub mod warm_up;
pub mod withheld;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use deadpool_redis::redis::{Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, ServerErrorKind, Value, cmd};
use tracing::{debug, warn};

use self::{
    deployment::{Deployment, DeploymentKind},
    durability::incarnations::{self, Incarnations},
    durability::journal::JournalEntry,
    feed::FeedLimits,
    fleet::{SendError, Servers},
    installation::Installation,
    memory::{FULL_REMEDY, NewestReading},
};
pub use self::{fleet::Address, keys::RedisKeys, script::Script};
use crate::{domain::UnixMs, telemetry::metrics};

/// The oldest Redis that supports what the scripts use. A Valkey reports `redis_version` 7.2.4.
const REDIS_VERSION_MIN: (u32, u32) = (7, 0);

/// Why an operation on Redis failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Redis did not answer in time: the change may have been made. Transient.
    #[error("redis is not available: {0}")]
    OutcomeUnknown(String),
    /// Redis is unreachable, loading or failing over: nothing was changed. Transient.
    #[error("redis is not available: {0}")]
    NotApplied(String),
    /// Redis has reached its `maxmemory` and refused this script or command: it changed nothing. Transient.
    ///
    /// Redis refuses the first write of a script, if it was full when the script began, and never a later one. So no
    /// script stops in the middle.
    #[error("redis is full (maxmemory) and refused {0}: {FULL_REMEDY}")]
    Full(&'static str),
    /// Redis rejects the user and password: nothing was changed. Transient, because a password that is being rotated
    /// becomes valid later.
    #[error("redis does not accept the user and password of redis.url: {0}")]
    Login(String),
    /// Redis returned an error that a retry does not fix.
    #[error("redis refused {operation}: {message}")]
    Refused {
        /// The script or command.
        operation: &'static str,
        /// The error of Redis.
        message: String,
    },
    /// A stored value can't be parsed.
    #[error("{key} in redis can't be read: {reason}")]
    Corrupt {
        /// The key of the value.
        key: String,
        /// What is wrong with the value.
        reason: String,
    },
    /// The configuration or the version of Redis can't be used.
    #[error("{0}")]
    Unusable(String),
}

/// How often the process logs that something failed because Redis is away.
const REPORT_EVERY: Duration = Duration::from_secs(30);

impl StoreError {
    /// Whether a retry may succeed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::OutcomeUnknown(_)) || self.is_not_applied()
    }

    /// Whether a retry may succeed, and nothing was changed.
    pub fn is_not_applied(&self) -> bool {
        matches!(self, Self::NotApplied(_) | Self::Full(_) | Self::Login(_))
    }

    /// Logs the sentence `what`, which failed. While Redis is away, everything fails: if a retry may succeed, the process
    /// logs only one of these sentences every `REPORT_EVERY` as a warning.
    pub fn report(&self, what: &str) {
        static REPORTED_AT: Mutex<Option<Instant>> = Mutex::new(None);
        let is_due = !self.is_transient() || {
            let mut reported_at = REPORTED_AT.lock().unwrap_or_else(PoisonError::into_inner);
            let is_due = reported_at.is_none_or(|at| at.elapsed() >= REPORT_EVERY);
            if is_due {
                *reported_at = Some(Instant::now());
            }
            is_due
        };
        if is_due {
            warn!(error = %self, "{what}");
        } else {
            debug!(error = %self, "{what}");
        }
    }
}

/// A result of the store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// One invocation of a script.
#[derive(Clone, Debug)]
pub struct Call {
    script: &'static Script,
    /// The first of its keys; the others share its hash tag.
    key: String,
    /// Number of leading arguments that name the script and its keys.
    prefix_len: usize,
    cmd: Cmd,
}

impl Call {
    /// A call of `script` with `keys`, at least one. [`Call::arg`] appends arguments.
    pub fn new(script: &'static Script, keys: &[String]) -> Self {
        let mut cmd = Cmd::new();
        cmd.arg("EVALSHA").arg(&script.digest).arg(keys.len()).arg(keys);
        let prefix_len = cmd.args_iter().len();
        Self { script, key: keys.first().cloned().unwrap_or_default(), prefix_len, cmd }
    }

    /// Appends an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl deadpool_redis::redis::ToRedisArgs) -> Self {
        self.cmd.arg(arg);
        self
    }

    fn into_journal_entry(self) -> JournalEntry {
        JournalEntry { key: self.key, prefix_len: self.prefix_len, command: self.cmd }
    }
}

/// Which servers a pipeline goes to.
#[derive(Clone, Copy)]
enum Reach {
    /// Each command goes to the master of its key.
    KeyOwners,
    /// The whole pipeline goes to every master.
    AllMasters,
}

/// The interface of the crate to Redis. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    servers: Servers,
    incarnations: Arc<Incarnations>,
    /// If set, operations fail in any other incarnation.
    bound_to: Option<u64>,
    installation: Arc<Installation>,
    memory_reading: Arc<NewestReading>,
    /// The limits of the event feed, if events are written.
    feed: Option<FeedLimits>,
    /// The keys of this installation.
    pub keys: RedisKeys,
}

impl Store {
    /// Connects, checks the version and loads the scripts.
    ///
    /// Errors: `Unusable` for a URL or certificates that can't be used, or a Redis that is too old; a transient error
    /// if Redis does not answer.
    pub async fn connect(address: &Address) -> Result<Self> {
        let deployment: Deployment =
            address.url.parse().map_err(|error| StoreError::Unusable(format!("redis.url {error}")))?;
        let deployment = deployment.with(&address.certificates).map_err(StoreError::Unusable)?;
        let is_single = deployment.kind == DeploymentKind::One;
        let loss_window = if is_single { incarnations::LOSS_WINDOW } else { incarnations::LOSS_WINDOW_PARTITIONED };
        let incarnations =
            Arc::new(Incarnations::new(loss_window, matches!(deployment.kind, DeploymentKind::Cluster(_))));
        let servers = Servers::new(deployment, Arc::new(address.clone()), incarnations.clone())?;
        let store = Self {
            servers,
            incarnations,
            bound_to: None,
            installation: Arc::default(),
            memory_reading: Arc::default(),
            feed: None,
            keys: RedisKeys::new(&address.namespace),
        };
        let info: String = store.query("INFO", cmd("INFO").arg("server")).await?;
        check_version(fleet::field(&info, "redis_version"))?;
        // This connects to every master, which records the run id of each.
        store.load_scripts().await?;
        // The first process of an installation writes `born` before any other key. So Redis is empty if `born` is
        // missing.
        let run_id = fleet::field(&info, "run_id");
        let key = store.keys.first_incarnation();
        let mut first = store.query::<Option<String>>("GET born", cmd("GET").arg(&key)).await?;
        // Writes only if needed, because a full Redis refuses writes.
        if first.is_none() {
            let set = cmd("SET").arg(&key).arg(run_id).arg("NX").arg("GET").clone();
            first = store.query("SET born", &set).await?;
        }
        let _ = store.installation.first_incarnation.set(first.clone().unwrap_or_else(|| run_id.to_owned()));
        // With several servers, `born` names the run of only one of them, and another server may have restarted or been
        // promoted since.
        if first.is_none_or(|first| is_single && first == run_id) {
            store.incarnations.skip_grace_period();
        }
        Ok(store)
    }

    /// The same store over new connections, because a connection can only be used in the runtime that opened it.
    pub fn with_own_connections(&self) -> Result<Self> {
        Ok(Self { servers: self.servers.with_own_connections()?, ..self.clone() })
    }

    /// The same store over one connection to each server, which is replaced when it fails. For loops that call Redis
    /// all the time: taking a connection from the pool costs as much as a small batch.
    pub fn with_pinned_connection(&self) -> Self {
        Self { servers: self.servers.with_pinned_connection(), ..self.clone() }
    }

    async fn load_scripts(&self) -> Result<()> {
        let mut pipeline = Pipeline::new();
        for script in script::all() {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(&script.source);
        }
        let loaded = self.send_to("SCRIPT LOAD", &pipeline, Reach::AllMasters).await?;
        loaded.into_iter().try_for_each(|value| read::<Value>("SCRIPT LOAD", value).map(drop))
    }

    /// The time of Redis, which all workers use.
    pub async fn time(&self) -> Result<UnixMs> {
        let (seconds, micros): (u64, u64) = self.query("TIME", Cmd::new().arg("TIME")).await?;
        Ok(UnixMs(seconds * 1000 + micros / 1000))
    }

    /// Runs one plain command.
    pub async fn query<T: FromRedisValue>(&self, operation: &'static str, cmd: &Cmd) -> Result<T> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(cmd.clone());
        let mut values = self.send(operation, &pipeline).await?;
        read(operation, values.pop().unwrap_or_default())
    }

    /// Runs plain commands in one round trip. Returns the answers in the order of the commands, or the one answer of a
    /// transaction.
    pub async fn query_all<T: FromRedisValue>(&self, operation: &'static str, pipeline: &Pipeline) -> Result<Vec<T>> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        self.send(operation, pipeline).await?.into_iter().map(|value| read(operation, value)).collect()
    }

    /// Runs one script.
    pub async fn call<T: FromRedisValue>(&self, call: Call) -> Result<T> {
        let name = call.script.name;
        let mut results = self.call_all(&[call]).await?;
        results.pop().unwrap_or_else(|| Err(StoreError::OutcomeUnknown(format!("no answer to {name}"))))
    }

    /// Runs scripts in order in one round trip. Returns one result for each call, in the same order.
    ///
    /// Errors: `OutcomeUnknown` if the round trip failed; then any of the scripts may have run.
    pub async fn call_all<T: FromRedisValue>(&self, calls: &[Call]) -> Result<Vec<Result<T>>> {
        let mut results: Vec<Option<Result<T>>> = calls.iter().map(|_| None).collect();
        let mut remaining: Vec<usize> = (0..calls.len()).collect();
        for is_last in [false, true] {
            if remaining.is_empty() {
                break;
            }
            let mut pipeline = Pipeline::with_capacity(remaining.len());
            for &index in &remaining {
                pipeline.add_command(calls[index].cmd.clone());
            }
            let values = self.send(calls[remaining[0]].script.name, &pipeline).await?;
            let mut not_loaded = Vec::new();
            for (index, value) in remaining.into_iter().zip(values) {
                // NOSCRIPT: the script has certainly not run. Load it and call it again, once.
                let is_missing = !is_last
                    && matches!(&value, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript));
                if is_missing {
                    not_loaded.push(index);
                } else {
                    results[index] = Some(read(calls[index].script.name, value));
                }
            }
            remaining = not_loaded;
            if !remaining.is_empty() {
                self.load_scripts().await?;
            }
        }
        let unanswered = || Err(StoreError::OutcomeUnknown("no answer".into()));
        Ok(results.into_iter().map(|result| result.unwrap_or_else(unanswered)).collect())
    }

    /// Runs scripts in order in one round trip, for their effect.
    ///
    /// Errors: as [`Store::call_all`]; otherwise the first error of a script.
    pub async fn run_all(&self, calls: &[Call]) -> Result<()> {
        self.call_all::<Value>(calls).await?.into_iter().try_for_each(|result| result.map(drop))
    }

    async fn send(&self, operation: &'static str, pipeline: &Pipeline) -> Result<Vec<Value>> {
        self.send_to(operation, pipeline, Reach::KeyOwners).await
    }

    /// Sends a pipeline in the newest incarnation, after the journal was replayed into it. All commands go through
    /// here, except those of the replay and of [`Store::make_durable`].
    async fn send_to(&self, operation: &'static str, pipeline: &Pipeline, reach: Reach) -> Result<Vec<Value>> {
        let began = Instant::now();
        let values = loop {
            let incarnation = self.replayed_incarnation().await?;
            let sent = match reach {
                Reach::KeyOwners => self.servers.send(incarnation, pipeline).await,
                Reach::AllMasters => self.servers.send_to_all(incarnation, pipeline).await,
            };
            match sent {
                Err(SendError::NewIncarnation) => {}
                sent => break sent,
            }
        };
        // That nobody rings for a while says nothing about Redis.
        if operation != doorbells::WAIT_FOR_RING {
            metrics::redis_operation(operations::group(operation)).record(began.elapsed());
        }
        values.map_err(|error| sending_failed(operation, error))
    }

    /// Checks whether a failover happened. A failed request also reveals a failover, unless the old master still
    /// answers because it is only cut off from the other servers.
    pub async fn check_failover(&self) {
        self.servers.check_failover().await;
    }
}

/// Checks that `version`, the `redis_version` of INFO, is supported.
///
/// Errors: `Unusable` if it is older than Redis 7.0.
pub fn check_version(version: &str) -> Result<()> {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < REDIS_VERSION_MIN {
        return Err(StoreError::Unusable(format!(
            "redis is version {version}; pregon needs Redis 7.0 or newer, or Valkey 7.2 or newer"
        )));
    }
    Ok(())
}

fn sending_failed(operation: &'static str, error: SendError) -> StoreError {
    metrics::redis_errors().increment(1);
    match error {
        SendError::NewIncarnation => incarnations::ended(),
        SendError::Unreached(reason) => StoreError::NotApplied(reason),
        SendError::Login(reason) => StoreError::Login(reason),
        SendError::Store(error) => error,
        SendError::Redis(error) => match error.kind() {
            ErrorKind::Server(_) => refused(operation, &error),
            _ => StoreError::OutcomeUnknown(format!("{operation}: {error}")),
        },
    }
}

fn read<T: FromRedisValue>(operation: &'static str, value: Value) -> Result<T> {
    let value = value.extract_error().map_err(|error| reply_failed(operation, &error))?;
    T::from_redis_value(value)
        .map_err(|error| StoreError::Refused { operation, message: format!("unexpected answer: {error}") })
}

/// Whether a server returned an error that a retry can fix: the server is loading or failing over, or a slot moves.
fn is_transient_error(error: &RedisError) -> bool {
    const TRANSIENT: [&str; 11] = [
        "LOADING",
        "BUSY",
        "TRYAGAIN",
        "CLUSTERDOWN",
        "MASTERDOWN",
        "READONLY",
        "MISCONF",
        "NOREPLICAS",
        "UNBLOCKED",
        "MOVED",
        "ASK",
    ];
    error.code().is_some_and(|code| TRANSIENT.contains(&code))
}

/// Whether a server refused a command, or the transaction that it was part of, because it has reached its `maxmemory`.
fn is_full(error: &RedisError) -> bool {
    let errors = error.clone().into_server_errors();
    errors.is_some_and(|errors| errors.iter().any(|(_, error)| error.code() == "OOM"))
}

/// The error of one command in a round trip that succeeded. Counts those that a retry can fix; the others are faults
/// that are logged, or answers that the caller expects.
fn reply_failed(operation: &'static str, error: &RedisError) -> StoreError {
    let error = refused(operation, error);
    if error.is_transient() {
        metrics::redis_errors().increment(1);
    }
    error
}

fn refused(operation: &'static str, error: &RedisError) -> StoreError {
    if is_full(error) {
        return StoreError::Full(operation);
    }
    if is_transient_error(error) {
        return StoreError::NotApplied(format!("{operation}: {error}"));
    }
    StoreError::Refused { operation, message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_before_7_0_is_refused() {
        for new in ["7.0.0", "7.2.4", "8.4.0", "10.0.1"] {
            assert!(check_version(new).is_ok(), "{new}");
        }
        for old in ["6.2.14", "5.0.7", ""] {
            let message = check_version(old).expect_err(old).to_string();
            let expected = format!("redis is version {old}; pregon needs Redis 7.0 or newer, or Valkey 7.2 or newer");
            assert_eq!(message, expected);
        }
    }
}
