//! Redis: connections, keys and the scripts that change state. The only module that names a key.
//!
//! Every change of state is one Lua script over keys of one hash tag. What belongs to two tags is written in an order
//! that a crash leaves harmless, and repaired by whoever comes next: see the modules.

pub mod campaigns;
pub mod chunk;
pub mod clock;
pub mod duty;
pub mod jobs;
pub mod keys;
pub mod lines;
pub mod numbers;
pub mod parked;
pub mod parts;
pub mod reading;
pub mod script;
pub mod settings;
pub mod spawn;
pub mod uploads;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use deadpool_redis::{
    Connection, Manager, Pool, Runtime,
    redis::{
        AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, ServerErrorKind, Value,
        aio::{ConnectionLike as _, MultiplexedConnection},
    },
};

pub use self::{keys::Keys, script::Script};
use crate::{
    domain::{LineId, UnixMs},
    ops::metrics,
};

/// The oldest Redis that has what the scripts use.
const REDIS_VERSION_MIN: (u32, u32) = (6, 2);

/// Why Redis did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It can't be reached, or did not answer in time: the change may have happened. Try again.
    #[error("redis is not available: {0}")]
    Unavailable(String),
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
    /// Another worker has the line.
    #[error("line {line} belongs to a newer epoch, {epoch}")]
    Fenced {
        /// The line.
        line: LineId,
        /// The epoch that owns it.
        epoch: u64,
    },
    /// The configuration can't work.
    #[error("{0}")]
    Unusable(String),
}

/// A result of the store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// One invocation of a script.
pub struct Call {
    script: &'static Script,
    cmd: Cmd,
}

impl Call {
    /// `script` over `keys`; arguments are appended with [`Call::arg`].
    pub fn new(script: &'static Script, keys: &[String]) -> Self {
        let mut cmd = Cmd::new();
        cmd.arg("EVALSHA").arg(&script.digest).arg(keys.len()).arg(keys);
        Self { script, cmd }
    }

    /// Appends an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl deadpool_redis::redis::ToRedisArgs) -> Self {
        self.cmd.arg(arg);
        self
    }
}

/// Where Redis is, and how it is used.
#[derive(Clone, Debug)]
pub struct Address {
    /// `redis://…`, `redis+unix://…`.
    pub url: String,
    /// What every key begins with.
    pub namespace: String,
    /// How long to wait for a connection or an answer.
    pub timeout: Duration,
    /// Connections at most.
    pub connections: usize,
}

/// Redis, as the rest of the crate sees it. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    connections: Connections,
    /// The keys of this installation.
    pub keys: Keys,
}

#[derive(Clone)]
enum Connections {
    Pool(Pool),
    /// One connection of the pool until it fails: the pool asks a connection whether it lives each time it is taken, which
    /// costs as much as a small batch.
    Kept(Pool, Arc<Mutex<Option<MultiplexedConnection>>>),
    One(MultiplexedConnection),
}

impl Store {
    /// Connects, checks the version and loads the scripts.
    ///
    /// Errors: `Unusable` for a URL that can't be read or a Redis that is too old; `Unavailable` if it does not answer.
    pub async fn connect(address: &Address) -> Result<Self> {
        let store = Self::lazy(address)?;
        store.check_version().await?;
        store.load_scripts().await?;
        Ok(store)
    }

    /// A store that connects when it is first used.
    pub fn lazy(address: &Address) -> Result<Self> {
        let timeout = Some(address.timeout);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(timeout)
            // Without this redis-rs gives up after 500 ms, and a worker would take a slow moment for an outage.
            .set_response_timeout(timeout);
        let manager = Manager::new_with_config(address.url.as_str(), config)
            .map_err(|error| StoreError::Unusable(format!("redis.url can't be used: {error}")))?;
        let pool = Pool::builder(manager)
            .max_size(address.connections)
            .runtime(Runtime::Tokio1)
            .wait_timeout(timeout)
            .create_timeout(timeout)
            .recycle_timeout(timeout)
            .build()
            .map_err(|error| StoreError::Unusable(format!("redis pool: {error}")))?;
        Ok(Self { connections: Connections::Pool(pool), keys: Keys::new(&address.namespace) })
    }

    /// The same store over one connection, which is made anew when it fails: for loops that ask all the time.
    pub fn keeping_a_connection(&self) -> Self {
        let connections = match &self.connections {
            Connections::Pool(pool) => Connections::Kept(pool.clone(), Arc::default()),
            kept_or_one => kept_or_one.clone(),
        };
        Self { connections, keys: self.keys.clone() }
    }

    /// The same store over one connection, which it shares with others. When Redis restarts, that connection ends and is
    /// not made anew: what is done over it one after the other is done within one life of Redis, or fails.
    pub async fn over_one_connection(&self) -> Result<Self> {
        let connections = match &self.connections {
            Connections::Pool(pool) | Connections::Kept(pool, _) => {
                Connections::One(MultiplexedConnection::clone(&*pooled(pool).await?))
            }
            one @ Connections::One(_) => one.clone(),
        };
        Ok(Self { connections, keys: self.keys.clone() })
    }

    async fn check_version(&self) -> Result<()> {
        let info: String = self.query("INFO", Cmd::new().arg("INFO").arg("server")).await?;
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("unknown").trim();
        let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
        if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < REDIS_VERSION_MIN {
            let (major, minor) = REDIS_VERSION_MIN;
            return Err(StoreError::Unusable(format!(
                "redis is version {version}; pregon needs {major}.{minor} or newer"
            )));
        }
        Ok(())
    }

    async fn load_scripts(&self) -> Result<()> {
        let mut pipeline = Pipeline::new();
        for script in script::all() {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(&script.source);
        }
        for value in self.send("SCRIPT LOAD", &pipeline).await? {
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
        let mut results = self.call_all(vec![call]).await?;
        results.pop().unwrap_or_else(|| Err(StoreError::Unavailable(format!("no answer to {name}"))))
    }

    /// Scripts in one round trip, in their order, each with a result of its own.
    ///
    /// Errors: `Unavailable` if the round trip failed: then any of them may have run.
    pub async fn call_all<T: FromRedisValue>(&self, calls: Vec<Call>) -> Result<Vec<Result<T>>> {
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
        let unanswered = || Err(StoreError::Unavailable("no answer".into()));
        Ok(results.into_iter().map(|result| result.unwrap_or_else(unanswered)).collect())
    }

    async fn send(&self, operation: &'static str, pipeline: &Pipeline) -> Result<Vec<Value>> {
        // Before the answer to EXEC come those to MULTI and to each command that is queued.
        let (skipped, answers) = if pipeline.is_transaction() { (pipeline.len() + 1, 1) } else { (0, pipeline.len()) };
        let began = Instant::now();
        let values = match &self.connections {
            Connections::Pool(pool) => pooled(pool).await?.req_packed_commands(pipeline, skipped, answers).await,
            Connections::Kept(pool, kept) => {
                let known = kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let mut connection = match known {
                    Some(connection) => connection,
                    None => MultiplexedConnection::clone(&*pooled(pool).await?),
                };
                let values = connection.req_packed_commands(pipeline, skipped, answers).await;
                let good = !values.as_ref().is_err_and(|error| !matches!(error.kind(), ErrorKind::Server(_)));
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = good.then_some(connection);
                values
            }
            Connections::One(connection) => connection.clone().req_packed_commands(pipeline, skipped, answers).await,
        };
        metrics::redis_operation(operation).record(began.elapsed());
        values.map_err(|error| {
            metrics::redis_errors().increment(1);
            match error.kind() {
                ErrorKind::Server(_) if !is_passing(&error) => refused(operation, &error),
                _ => StoreError::Unavailable(format!("{operation}: {error}")),
            }
        })
    }
}

async fn pooled(pool: &Pool) -> Result<Connection> {
    pool.get().await.map_err(|error| StoreError::Unavailable(error.to_string()))
}

fn read<T: FromRedisValue>(operation: &'static str, value: Value) -> Result<T> {
    let value = value.extract_error().map_err(|error| refused(operation, &error))?;
    T::from_redis_value(value)
        .map_err(|error| StoreError::Refused { operation, message: format!("unexpected answer: {error}") })
}

/// Errors of the server that pass by themselves: it is loading, failing over, or full.
fn is_passing(error: &RedisError) -> bool {
    matches!(
        error.code(),
        Some("LOADING" | "BUSY" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" | "READONLY" | "OOM" | "MISCONF")
    )
}

fn refused(operation: &'static str, error: &RedisError) -> StoreError {
    if is_passing(error) {
        return StoreError::Unavailable(format!("{operation}: {error}"));
    }
    StoreError::Refused { operation, message: error.to_string() }
}
