//! Connections to one server.

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

/// How long the key of a fence incarnations.
const FENCE_LIFE_MS: u64 = 1_000;

/// One server. Cheap to clone.
#[derive(Clone)]
pub(super) struct Server {
    place: Arc<str>,
    incarnations: Arc<Incarnations>,
    timeout: Duration,
    pool: Pool,
    /// One connection of the pool until it fails: the pool asks a connection whether it incarnations each time it is taken, which
    /// costs as much as a small batch.
    kept: Option<Arc<Kept>>,
}

#[derive(Default)]
struct Kept {
    now: Mutex<Option<Link>>,
    /// Held by whoever takes one from the pool. The others wait for that one: when the runners of a thousand lines begin
    /// together, each would else wait for its turn at the pool.
    taking: tokio::sync::Mutex<()>,
    /// How many have been kept.
    n_links: AtomicU64,
}

/// A connection, and the incarnation in which it was made.
#[derive(Clone)]
struct Link {
    incarnation: u64,
    /// Which of those that were kept it is.
    number: u64,
    connection: MultiplexedConnection,
}

impl Server {
    /// Connects when it is first used. `only_as_master`: it is of no use as a replica, because there are others to ask.
    ///
    /// Errors: `Unusable` where `info` makes no sense.
    pub(super) fn new(
        info: ConnectionInfo,
        address: &Address,
        incarnations: Arc<Incarnations>,
        only_as_master: bool,
    ) -> Result<Self> {
        let place: Arc<str> = info.addr().to_string().into();
        let timeout = Some(address.timeout);
        let manager = Manager::new_with_config(info, patience(address.timeout))
            .map_err(|error| StoreError::Unusable(format!("redis.url can't be used: {error}")))?;
        let (met, at) = (incarnations.clone(), place.clone());
        let pool = Pool::builder(manager)
            .max_size(address.connections)
            .runtime(Runtime::Tokio1)
            .wait_timeout(timeout)
            .create_timeout(timeout)
            .recycle_timeout(timeout)
            .post_create(Hook::async_fn(move |connection, _| {
                let (met, at) = (met.clone(), at.clone());
                Box::pin(async move {
                    let mut who = Pipeline::with_capacity(2);
                    who.cmd("INFO").arg("server").cmd("INFO").arg("replication");
                    let (server, replication): (String, String) =
                        who.query_async(connection).await.map_err(HookError::Backend)?;
                    if only_as_master && field(&replication, "role") != "master" {
                        return Err(HookError::message(format!("{at} is no master")));
                    }
                    met.met(&at, field(&server, "run_id"), uptime(&server));
                    Ok(())
                })
            }))
            .build()
            .map_err(|error| StoreError::Unusable(format!("redis pool: {error}")))?;
        Ok(Self { place, incarnations, timeout: address.timeout, pool, kept: None })
    }

    /// The same server over one connection, which is made anew when it fails.
    pub(super) fn keeping_a_connection(&self) -> Self {
        Self { kept: Some(Arc::default()), ..self.clone() }
    }

    /// One round trip, all of it in `incarnation`: nothing is sent, and no answer counts, when a newer one has begun.
    pub(super) async fn send(
        &self,
        incarnation: u64,
        pipeline: &Pipeline,
    ) -> std::result::Result<Vec<Value>, SendError> {
        // Before the answer to EXEC come those to MULTI and to each command that is queued.
        let (skipped, answers) = if pipeline.is_transaction() { (pipeline.len() + 1, 1) } else { (0, pipeline.len()) };
        let (mut connection, taken, number) = match &self.kept {
            Some(kept) => {
                let link = self.link(kept, incarnation).await?;
                (link.connection, None, link.number)
            }
            None => {
                let taken = self.taken().await?;
                (MultiplexedConnection::clone(&taken), Some(taken), 0)
            }
        };
        if self.incarnations.newest() != incarnation {
            return Err(SendError::NewIncarnation);
        }
        let values = connection.req_packed_commands(pipeline, skipped, answers).await;
        // Back to the pool only after the answer.
        drop(taken);
        if let Some(kept) = &self.kept
            && values.as_ref().is_err_and(|error| !matches!(error.kind(), ErrorKind::Server(_)))
        {
            // Another may have been taken since.
            kept.now().take_if(|link| link.number == number);
        }
        let values = values.map_err(SendError::Redis)?;
        if self.incarnations.newest() != incarnation {
            return Err(SendError::Store(incarnations::ended()));
        }
        Ok(values)
    }

    /// Waits until what was written before, over whatever connection, is as safe as `durability` says, as far as this server can
    /// promise it. `key` is one that it has, and may be written: Redis waits for what a connection itself wrote.
    ///
    /// Errors: `OutcomeUnknown` if that takes longer than `within`: it may be safe or not.
    pub(super) async fn wait_durable(
        &self,
        incarnation: u64,
        key: &str,
        durability: Durability,
        within: Duration,
    ) -> std::result::Result<(), SendError> {
        let deadline = Instant::now() + within;
        // A connection that nobody else waits for.
        let mut connection = self.taken().await?;
        if self.incarnations.newest() != incarnation {
            return Err(SendError::NewIncarnation);
        }
        let mut write = Pipeline::with_capacity(3);
        write.cmd("SET").arg(key).arg("").arg("PX").arg(FENCE_LIFE_MS);
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
        // Shorter than what the connection waits for an answer.
        let patience_ms = u64::try_from((self.timeout * 3 / 4).as_millis()).unwrap_or(u64::MAX).max(1);
        let mut left = Vec::new();
        if replica {
            left.push(("a replica", cmd("WAIT").arg(1).arg(patience_ms).clone()));
        }
        if disk {
            left.push(("the disk", cmd("WAITAOF").arg(1).arg(0).arg(patience_ms).clone()));
        }
        while let Some((waited_for, wait)) = left.last() {
            match wait.query_async::<Value>(&mut connection).await {
                Ok(Value::Int(1..)) => left.pop(),
                Ok(Value::Array(done)) if matches!(done.first(), Some(Value::Int(1..))) => left.pop(),
                Ok(_) if Instant::now() < deadline => None,
                Ok(_) => {
                    let late = format!(
                        "{waited_for} of redis at {} did not get within {within:?} what was written",
                        self.place
                    );
                    return Err(SendError::Store(StoreError::OutcomeUnknown(late)));
                }
                // Before Redis 7.2: what its file lacks is lost if it dies.
                Err(error) if error.to_string().contains("unknown command") => left.pop(),
                Err(error) => return Err(SendError::Redis(error)),
            };
        }
        if self.incarnations.newest() != incarnation {
            return Err(SendError::Store(incarnations::ended()));
        }
        Ok(())
    }

    async fn taken(&self) -> std::result::Result<Connection, SendError> {
        self.pool.get().await.map_err(|error| match &error {
            PoolError::Backend(cause) | PoolError::PostCreateHook(HookError::Backend(cause)) => {
                let reason = format!("{}: {cause}", self.place);
                if is_login(cause) { SendError::Login(reason) } else { SendError::Unreached(reason) }
            }
            _ => SendError::Unreached(format!("{}: {}", self.place, error.to_string().trim_end())),
        })
    }

    /// The connection that is kept, of `incarnation`.
    async fn link(&self, kept: &Kept, incarnation: u64) -> std::result::Result<Link, SendError> {
        if let Some(link) = kept.of(incarnation) {
            return Ok(link);
        }
        let late = |_| SendError::Unreached("no connection in time".into());
        let _taking = timeout(self.timeout, kept.taking.lock()).await.map_err(late)?;
        if let Some(link) = kept.of(incarnation) {
            return Ok(link);
        }
        let connection = MultiplexedConnection::clone(&*self.taken().await?);
        let link = Link { incarnation, number: kept.n_links.fetch_add(1, Ordering::Relaxed), connection };
        Ok(kept.now().insert(link).clone())
    }
}

impl Kept {
    fn of(&self, incarnation: u64) -> Option<Link> {
        self.now().clone().filter(|link| link.incarnation == incarnation)
    }

    fn now(&self) -> MutexGuard<'_, Option<Link>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a connection and an answer may take.
pub(super) fn patience(timeout: Duration) -> AsyncConnectionConfig {
    // Without the second redis-rs gives up after 500 ms, and a worker would take a slow moment for an outage.
    AsyncConnectionConfig::new().set_connection_timeout(Some(timeout)).set_response_timeout(Some(timeout))
}

/// A field of what INFO says; empty if it is not there.
pub(in super::super) fn field<'a>(info: &'a str, name: &str) -> &'a str {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
}

/// Whether a server refused user and password, or asks for them.
pub(super) fn is_login(error: &RedisError) -> bool {
    // The error of a pipeline has the codes of its commands in its text alone.
    error.kind() == ErrorKind::AuthenticationFailed || error.to_string().contains("NOAUTH")
}

fn uptime(info: &str) -> Duration {
    Duration::from_secs(field(info, "uptime_in_seconds").parse().unwrap_or(0))
}
