//! Redis: connections, keys and the scripts that change state. The only module that names a key.
//!
//! Every change of state is one Lua script over keys of one hash tag. What belongs to two tags is written in an order
//! that a crash leaves harmless, and repaired by whoever comes next: see the modules.

pub mod campaigns;
pub mod chunk;
pub mod clock;
mod deletion;
pub mod deployment;
pub mod durability;
pub mod duty;
mod fleet;
pub mod installation;
pub mod jobs;
pub mod keys;
pub mod lines;
pub mod message_ids;
pub mod pages;
pub mod parked;
pub mod parts;
pub mod phone_index;
pub mod registry;
pub mod script;
pub mod spawn;
pub mod uploads;

use std::{sync::Arc, time::Instant};

use deadpool_redis::redis::{Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, ServerErrorKind, Value, cmd};

use self::{
    deployment::{Deployment, DeploymentKind},
    durability::incarnations::{self, Incarnations},
    durability::journal::JournalEntry,
    fleet::{SendError, Servers},
    installation::Installation,
};
pub use self::{fleet::Address, keys::RedisKeys, script::Script};
use crate::{domain::UnixMs, telemetry::metrics};

/// The oldest Redis that has what the scripts use. A Valkey says 7.2.4 of itself as a Redis.
const REDIS_VERSION_MIN: (u32, u32) = (7, 0);

/// Why Redis did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It did not answer, or not in time: the change may have happened. Try again.
    #[error("redis is not available: {0}")]
    OutcomeUnknown(String),
    /// It can't be reached, is loading, failing over or full: nothing was changed. Try again.
    #[error("redis is not available: {0}")]
    NotApplied(String),
    /// It does not accept the user and password: nothing was changed. A password that is being changed can be right later.
    #[error("redis does not accept the user and password of redis.url: {0}")]
    Login(String),
    /// It answered with an error that trying again does not mend.
    #[error("redis refused {operation}: {message}")]
    Refused {
        /// The script or command.
        operation: &'static str,
        /// What it said.
        message: String,
    },
    /// What is stored can't be read.
    #[error("{key} in redis can't be read: {reason}")]
    Corrupt {
        /// Where.
        key: String,
        /// Why.
        reason: String,
    },
    /// The configuration can't work.
    #[error("{0}")]
    Unusable(String),
}

impl StoreError {
    /// It passes by itself: try again.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::OutcomeUnknown(_) | Self::NotApplied(_) | Self::Login(_))
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
    /// So many arguments name the script and its keys.
    head: usize,
    cmd: Cmd,
}

impl Call {
    /// `script` over `keys`, at least one; arguments are appended with [`Call::arg`].
    pub fn new(script: &'static Script, keys: &[String]) -> Self {
        let mut cmd = Cmd::new();
        cmd.arg("EVALSHA").arg(&script.digest).arg(keys.len()).arg(keys);
        let head = cmd.args_iter().len();
        Self { script, key: keys.first().cloned().unwrap_or_default(), head, cmd }
    }

    /// Appends an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl deadpool_redis::redis::ToRedisArgs) -> Self {
        self.cmd.arg(arg);
        self
    }

    fn into_journal_entry(self) -> JournalEntry {
        JournalEntry { key: self.key, head: self.head, command: self.cmd }
    }
}

/// Which servers something is for.
#[derive(Clone, Copy)]
enum Reach {
    /// Those that have the keys.
    RedisKeys,
    /// All that hold data.
    All,
}

/// Redis, as the rest of the crate sees it. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    servers: Servers,
    incarnations: Arc<Incarnations>,
    /// The only incarnation in which it works.
    bound_to: Option<u64>,
    installation: Arc<Installation>,
    /// The keys of this installation.
    pub keys: RedisKeys,
}

impl Store {
    /// Connects, checks the version and loads the scripts.
    ///
    /// Errors: `Unusable` for a URL or certificates that can't be used, or a Redis that is too old; one that passes
    /// if it does not answer.
    pub async fn connect(address: &Address) -> Result<Self> {
        let deployment: Deployment =
            address.url.parse().map_err(|error| StoreError::Unusable(format!("redis.url {error}")))?;
        let deployment = deployment.with(&address.certificates).map_err(StoreError::Unusable)?;
        let is_one = deployment.kind == DeploymentKind::One;
        let forgets = if is_one { incarnations::LOSS_WINDOW } else { incarnations::LOSS_WINDOW_PARTITIONED };
        let incarnations = Arc::new(Incarnations::new(forgets, matches!(deployment.kind, DeploymentKind::Cluster(_))));
        let servers = Servers::new(deployment, Arc::new(address.clone()), incarnations.clone())?;
        let store = Self {
            servers,
            incarnations,
            bound_to: None,
            installation: Arc::default(),
            keys: RedisKeys::new(&address.namespace),
        };
        let info: String = store.query("INFO", cmd("INFO").arg("server")).await?;
        check_version(fleet::field(&info, "redis_version"))?;
        // This also meets every server, so that the incarnations of all are known.
        store.load_scripts().await?;
        // Whoever comes first writes it before anything else: where it is missing, everything is.
        let incarnation = fleet::field(&info, "run_id");
        let born = cmd("SET").arg(store.keys.born()).arg(incarnation).arg("NX").arg("GET").clone();
        let born_in = store.query::<Option<String>>("SET born", &born).await?;
        let _ = store.installation.born.set(born_in.clone().unwrap_or_else(|| incarnation.to_owned()));
        // Of many servers it tells of one alone.
        if born_in.is_none_or(|born_in| is_one && born_in == incarnation) {
            store.incarnations.has_no_past();
        }
        Ok(store)
    }

    /// The same store over connections of its own: those of one runtime do not serve another.
    pub fn reopened(&self) -> Result<Self> {
        Ok(Self { servers: self.servers.reopened()?, ..self.clone() })
    }

    /// The same store over one connection, which is made anew when it fails: for loops that ask all the time.
    pub fn keeping_a_connection(&self) -> Self {
        Self { servers: self.servers.keeping_a_connection(), ..self.clone() }
    }

    async fn load_scripts(&self) -> Result<()> {
        let mut pipeline = Pipeline::new();
        for script in script::all() {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(&script.source);
        }
        for value in self.send_to("SCRIPT LOAD", &pipeline, Reach::All).await? {
            value.extract_error().map_err(|error| refused("SCRIPT LOAD", &error))?;
        }
        Ok(())
    }

    /// Redis' clock: the one clock of all workers.
    pub async fn time(&self) -> Result<UnixMs> {
        let (seconds, micros): (u64, u64) = self.query("TIME", Cmd::new().arg("TIME")).await?;
        Ok(UnixMs(seconds * 1000 + micros / 1000))
    }

    /// One plain command.
    pub async fn query<T: FromRedisValue>(&self, operation: &'static str, cmd: &Cmd) -> Result<T> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(cmd.clone());
        let mut values = self.send(operation, &pipeline).await?;
        read(operation, values.pop().unwrap_or_default())
    }

    /// Plain commands in one round trip; the answers in their order, or the one answer of a transaction.
    pub async fn query_all<T: FromRedisValue>(&self, operation: &'static str, pipeline: &Pipeline) -> Result<Vec<T>> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        self.send(operation, pipeline).await?.into_iter().map(|value| read(operation, value)).collect()
    }

    /// One script.
    pub async fn call<T: FromRedisValue>(&self, call: Call) -> Result<T> {
        let name = call.script.name;
        let mut results = self.call_all(&[call]).await?;
        results.pop().unwrap_or_else(|| Err(StoreError::OutcomeUnknown(format!("no answer to {name}"))))
    }

    /// Scripts in one round trip, in their order, each with a result of its own.
    ///
    /// Errors: `OutcomeUnknown` if the round trip failed: then any of them may have run.
    pub async fn call_all<T: FromRedisValue>(&self, calls: &[Call]) -> Result<Vec<Result<T>>> {
        let mut results: Vec<Option<Result<T>>> = calls.iter().map(|_| None).collect();
        let mut left: Vec<usize> = (0..calls.len()).collect();
        for last in [false, true] {
            if left.is_empty() {
                break;
            }
            let mut pipeline = Pipeline::with_capacity(left.len());
            for &index in &left {
                pipeline.add_command(calls[index].cmd.clone());
            }
            let values = self.send(calls[left[0]].script.name, &pipeline).await?;
            let mut missing = Vec::new();
            for (index, value) in left.into_iter().zip(values) {
                // A script that Redis does not know has certainly not run: load it and call it again, once.
                let unknown = !last
                    && matches!(&value, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript));
                if unknown {
                    missing.push(index);
                } else {
                    results[index] = Some(read(calls[index].script.name, value));
                }
            }
            left = missing;
            if !left.is_empty() {
                self.load_scripts().await?;
            }
        }
        let unanswered = || Err(StoreError::OutcomeUnknown("no answer".into()));
        Ok(results.into_iter().map(|result| result.unwrap_or_else(unanswered)).collect())
    }

    async fn send(&self, operation: &'static str, pipeline: &Pipeline) -> Result<Vec<Value>> {
        self.send_to(operation, pipeline, Reach::RedisKeys).await
    }

    /// Everything that is asked of Redis: in its newest incarnation, after what an older one may have forgotten was repeated.
    async fn send_to(&self, operation: &'static str, pipeline: &Pipeline, reach: Reach) -> Result<Vec<Value>> {
        let began = Instant::now();
        let values = loop {
            let incarnation = self.replayed_incarnation().await?;
            let sent = match reach {
                Reach::RedisKeys => self.servers.send(incarnation, pipeline).await,
                Reach::All => self.servers.send_to_all(incarnation, pipeline).await,
            };
            match sent {
                Err(SendError::NewIncarnation) => {}
                sent => break sent,
            }
        };
        metrics::redis_operation(operation).record(began.elapsed());
        values.map_err(|error| sending_failed(operation, error))
    }

    /// Asks whether another server has taken the place of one; failures tell that too, but not of a server that was cut off from
    /// the others and does not know it.
    pub async fn check_failover(&self) {
        self.servers.look().await;
    }
}

/// Whether this version of Redis, as INFO tells it, is new enough.
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
    let value = value.extract_error().map_err(|error| refused(operation, &error))?;
    T::from_redis_value(value)
        .map_err(|error| StoreError::Refused { operation, message: format!("unexpected answer: {error}") })
}

/// Errors of the server that pass by themselves: it is loading, failing over, or full.
fn is_transient_error(error: &RedisError) -> bool {
    const TRANSIENT: [&str; 12] = [
        "LOADING",
        "BUSY",
        "TRYAGAIN",
        "CLUSTERDOWN",
        "MASTERDOWN",
        "READONLY",
        "OOM",
        "MISCONF",
        "NOREPLICAS",
        "UNBLOCKED",
        "MOVED",
        "ASK",
    ];
    error.code().is_some_and(|code| TRANSIENT.contains(&code))
}

fn refused(operation: &'static str, error: &RedisError) -> StoreError {
    if is_transient_error(error) {
        return StoreError::NotApplied(format!("{operation}: {error}"));
    }
    StoreError::Refused { operation, message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_before_7_0_is_refused_in_one_line() {
        for new in ["7.0.0", "7.2.4", "8.4.0", "10.0.1"] {
            assert!(check_version(new).is_ok(), "{new}");
        }
        for old in ["6.2.14", "5.0.7", ""] {
            let told = check_version(old).expect_err(old).to_string();
            let expected = format!("redis is version {old}; pregon needs Redis 7.0 or newer, or Valkey 7.2 or newer");
            assert_eq!(told, expected);
        }
    }
}
