//! Connections to one Redis server: a pool, and round trips within one incarnation.
//!
//! Never: follows redirects, or repeats a command.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool_redis::{
    Connection, Hook, HookError, Manager, Pool, PoolError, Runtime,
    redis::{
        AsyncConnectionConfig, ConnectionInfo, ErrorKind, Pipeline, RedisError, Value,
        aio::{ConnectionLike as _, MultiplexedConnection},
        cmd,
    },
};
use tokio::time::timeout;

use super::{
    super::{
        Result, StoreError,
        durability::incarnations::{self, Incarnations},
    },
    Address, Durability, SendError,
};

/// Expiry of the key that a wait for durability writes.
const WAIT_KEY_TTL_MS: u64 = 1_000;

/// One server. Cheap to clone.
#[derive(Clone)]
pub(super) struct Server {
    addr: Arc<str>,
    incarnations: Arc<Incarnations>,
    timeout: Duration,
    pool: Pool,
    /// If set, one connection of the pool is used until it fails. The pool checks a connection each time it is taken,
    /// which costs as much as a small batch.
    pinned: Option<Arc<PinnedSlot>>,
}

#[derive(Default)]
struct PinnedSlot {
    current: Mutex<Option<PinnedConnection>>,
    /// Held by the caller that takes a new connection from the pool; concurrent callers wait and share it. Otherwise
    /// the runners of a thousand lines, which start together, would each queue for the pool.
    connecting: tokio::sync::Mutex<()>,
    /// Number of connections pinned so far.
    n_pinned: AtomicU64,
}

/// A connection, and the incarnation in which it was made.
#[derive(Clone)]
struct PinnedConnection {
    incarnation: u64,
    /// Identifies the connection: the count of those pinned before it.
    number: u64,
    connection: MultiplexedConnection,
}

impl Server {
    /// Opens no connection: the first use does. `only_as_master` makes connections fail while the server is a replica.
    /// It is for deployments in which another server may be the master.
    ///
    /// Errors: `Unusable` if `info` can't be used.
    pub(super) fn new(
        info: ConnectionInfo,
        address: &Address,
        incarnations: Arc<Incarnations>,
        only_as_master: bool,
    ) -> Result<Self> {
        let addr: Arc<str> = info.addr().to_string().into();
        let timeout = Some(address.timeout);
        let manager = Manager::new_with_config(info, timeouts(address.timeout))
            .map_err(|error| StoreError::Unusable(format!("redis.url can't be used: {error}")))?;
        let (observed, at) = (incarnations.clone(), addr.clone());
        let pool = Pool::builder(manager)
            .max_size(address.connections)
            .runtime(Runtime::Tokio1)
            .wait_timeout(timeout)
            .create_timeout(timeout)
            .recycle_timeout(timeout)
            .post_create(Hook::async_fn(move |connection, _| {
                let (observed, at) = (observed.clone(), at.clone());
                Box::pin(async move {
                    let mut info = Pipeline::with_capacity(2);
                    info.cmd("INFO").arg("server").cmd("INFO").arg("replication");
                    let (server, replication): (String, String) =
                        info.query_async(connection).await.map_err(HookError::Backend)?;
                    if only_as_master && field(&replication, "role") != "master" {
                        return Err(HookError::message(format!("{at} is not a master")));
                    }
                    observed.observe(&at, field(&server, "run_id"), uptime(&server));
                    Ok(())
                })
            }))
            .build()
            .map_err(|error| StoreError::Unusable(format!("redis pool: {error}")))?;
        Ok(Self { addr, incarnations, timeout: address.timeout, pool, pinned: None })
    }

    /// The same server over one connection, which is replaced when it fails.
    pub(super) fn with_pinned_connection(&self) -> Self {
        Self { pinned: Some(Arc::default()), ..self.clone() }
    }

    /// As [`super::Servers::send`], to this server.
    pub(super) async fn send(
        &self,
        incarnation: u64,
        pipeline: &Pipeline,
    ) -> std::result::Result<Vec<Value>, SendError> {
        // The answers to MULTI and to each queued command come before the answer to EXEC.
        let (skipped, answers) = if pipeline.is_transaction() { (pipeline.len() + 1, 1) } else { (0, pipeline.len()) };
        let (mut connection, pooled, number) = match &self.pinned {
            Some(slot) => {
                let pinned = self.pinned_connection(slot, incarnation).await?;
                (pinned.connection, None, pinned.number)
            }
            None => {
                let pooled = self.pooled_connection().await?;
                (MultiplexedConnection::clone(&pooled), Some(pooled), 0)
            }
        };
        if self.incarnations.newest() != incarnation {
            return Err(SendError::NewIncarnation);
        }
        let values = connection.req_packed_commands(pipeline, skipped, answers).await;
        // The connection returns to the pool only after the answer.
        drop(pooled);
        if let Some(slot) = &self.pinned
            && values.as_ref().is_err_and(|error| !matches!(error.kind(), ErrorKind::Server(_)))
        {
            // Another caller may have replaced the failed connection already.
            slot.current().take_if(|pinned| pinned.number == number);
        }
        let values = values.map_err(SendError::Redis)?;
        if self.incarnations.newest() != incarnation {
            return Err(SendError::Store(incarnations::ended()));
        }
        Ok(values)
    }

    /// Waits until all earlier writes, of any connection, have `durability`, as far as this server can confirm it.
    /// WAIT covers everything up to the last write of its own connection, so that connection first writes `key`.
    ///
    /// Errors: `OutcomeUnknown` if a confirmation takes longer than `within`.
    pub(super) async fn wait_durable(
        &self,
        incarnation: u64,
        key: &str,
        durability: Durability,
        within: Duration,
    ) -> std::result::Result<(), SendError> {
        let deadline = Instant::now() + within;
        // The pinned connection is not used, because WAIT would block its other users.
        let mut connection = self.pooled_connection().await?;
        if self.incarnations.newest() != incarnation {
            return Err(SendError::NewIncarnation);
        }
        let mut write = Pipeline::with_capacity(3);
        write.cmd("SET").arg(key).arg("").arg("PX").arg(WAIT_KEY_TTL_MS);
        write.cmd("INFO").arg("persistence").cmd("INFO").arg("replication");
        let ((), persistence, replication): ((), String, String) =
            write.query_async(&mut connection).await.map_err(SendError::Redis)?;
        let has_replica = field(&replication, "connected_slaves").parse::<u32>().is_ok_and(|n| n > 0);
        let appends = field(&persistence, "aof_enabled") == "1";
        let (replica, disk) = match durability {
            Durability::Replica => (has_replica, false),
            Durability::ReplicaElseDisk => (has_replica, appends && !has_replica),
            Durability::ReplicaAndDisk => (has_replica, appends),
        };
        // Shorter than the response timeout of the connection.
        let wait_timeout_ms = u64::try_from((self.timeout * 3 / 4).as_millis()).unwrap_or(u64::MAX).max(1);
        let mut remaining = Vec::new();
        if replica {
            remaining.push(("a replica", cmd("WAIT").arg(1).arg(wait_timeout_ms).clone()));
        }
        if disk {
            remaining.push(("the disk", cmd("WAITAOF").arg(1).arg(0).arg(wait_timeout_ms).clone()));
        }
        while let Some((target, wait)) = remaining.last() {
            match wait.query_async::<Value>(&mut connection).await {
                Ok(Value::Int(1..)) => remaining.pop(),
                Ok(Value::Array(done)) if matches!(done.first(), Some(Value::Int(1..))) => remaining.pop(),
                Ok(_) if Instant::now() < deadline => None,
                Ok(_) => {
                    let late =
                        format!("{target} of redis at {} did not confirm the writes within {within:?}", self.addr);
                    return Err(SendError::Store(StoreError::OutcomeUnknown(late)));
                }
                // Redis before 7.2 has no WAITAOF. Writes that its file lacks are lost if it dies.
                Err(error) if error.to_string().contains("unknown command") => remaining.pop(),
                Err(error) => return Err(SendError::Redis(error)),
            };
        }
        if self.incarnations.newest() != incarnation {
            return Err(SendError::Store(incarnations::ended()));
        }
        Ok(())
    }

    async fn pooled_connection(&self) -> std::result::Result<Connection, SendError> {
        self.pool.get().await.map_err(|error| match &error {
            PoolError::Backend(cause) | PoolError::PostCreateHook(HookError::Backend(cause)) => {
                let reason = format!("{}: {cause}", self.addr);
                if is_login_error(cause) { SendError::Login(reason) } else { SendError::Unreached(reason) }
            }
            _ => SendError::Unreached(format!("{}: {}", self.addr, error.to_string().trim_end())),
        })
    }

    /// The pinned connection of `incarnation`; a new one from the pool if there is none.
    async fn pinned_connection(
        &self,
        slot: &PinnedSlot,
        incarnation: u64,
    ) -> std::result::Result<PinnedConnection, SendError> {
        if let Some(pinned) = slot.of(incarnation) {
            return Ok(pinned);
        }
        let late = |_| SendError::Unreached("no connection in time".into());
        let _connecting = timeout(self.timeout, slot.connecting.lock()).await.map_err(late)?;
        if let Some(pinned) = slot.of(incarnation) {
            return Ok(pinned);
        }
        let connection = MultiplexedConnection::clone(&*self.pooled_connection().await?);
        let number = slot.n_pinned.fetch_add(1, Ordering::Relaxed);
        Ok(slot.current().insert(PinnedConnection { incarnation, number, connection }).clone())
    }
}

impl PinnedSlot {
    fn of(&self, incarnation: u64) -> Option<PinnedConnection> {
        self.current().clone().filter(|pinned| pinned.incarnation == incarnation)
    }

    fn current(&self) -> MutexGuard<'_, Option<PinnedConnection>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Applies `timeout` to connection attempts and to answers.
pub(super) fn timeouts(timeout: Duration) -> AsyncConnectionConfig {
    // The default response timeout of redis-rs is 500 ms, so a worker would mistake a short delay for an outage.
    AsyncConnectionConfig::new().set_connection_timeout(Some(timeout)).set_response_timeout(Some(timeout))
}

/// A field of the answer to INFO; empty if it is missing.
pub(in super::super) fn field<'a>(info: &'a str, name: &str) -> &'a str {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
}

/// Whether a server rejected the user and password, or requires them.
pub(super) fn is_login_error(error: &RedisError) -> bool {
    // The error of a pipeline has the codes of its commands only in its text.
    error.kind() == ErrorKind::AuthenticationFailed || error.to_string().contains("NOAUTH")
}

fn uptime(info: &str) -> Duration {
    Duration::from_secs(field(info, "uptime_in_seconds").parse().unwrap_or(0))
}
