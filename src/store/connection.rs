//! Connections to the servers that hold the data.
//!
//! Each new connection first asks the server who it is ([`super::lives`]), before anything else goes out over it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use deadpool_redis::{
    Hook, HookError, Manager, Pool, Runtime,
    redis::{
        AsyncConnectionConfig, ErrorKind, Pipeline, RedisError, Value,
        aio::{ConnectionLike as _, MultiplexedConnection},
        cmd,
    },
};

use super::{
    Result, StoreError,
    lives::{self, Lives},
};

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

/// Why a round trip brought nothing.
#[derive(Debug)]
pub(super) enum SendError {
    /// Nothing was sent: a server has begun a new life.
    NewLife,
    /// No connection, or an answer that is an error.
    Store(StoreError),
    /// Redis, or the way to it.
    Redis(RedisError),
}

/// The servers. Cheap to clone.
#[derive(Clone)]
pub(super) struct Servers {
    address: Arc<Address>,
    lives: Arc<Lives>,
    pool: Pool,
    /// One connection of the pool until it fails, with the life that it was made in: the pool asks a connection whether it
    /// lives each time it is taken, which costs as much as a small batch.
    kept: Option<Arc<Mutex<Kept>>>,
}

type Kept = Option<(u64, MultiplexedConnection)>;

impl Servers {
    /// Connects when it is first used.
    ///
    /// Errors: `Unusable` for a URL that can't be read.
    pub(super) fn new(address: Arc<Address>, lives: Arc<Lives>) -> Result<Self> {
        let timeout = Some(address.timeout);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(timeout)
            // Without this redis-rs gives up after 500 ms, and a worker would take a slow moment for an outage.
            .set_response_timeout(timeout);
        let manager = Manager::new_with_config(address.url.as_str(), config)
            .map_err(|error| StoreError::Unusable(format!("redis.url can't be used: {error}")))?;
        let (url, met) = (address.url.clone(), lives.clone());
        let pool = Pool::builder(manager)
            .max_size(address.connections)
            .runtime(Runtime::Tokio1)
            .wait_timeout(timeout)
            .create_timeout(timeout)
            .recycle_timeout(timeout)
            .post_create(Hook::async_fn(move |connection, _| {
                let (url, met) = (url.clone(), met.clone());
                Box::pin(async move {
                    let info: String =
                        cmd("INFO").arg("server").query_async(connection).await.map_err(HookError::Backend)?;
                    met.met(&url, field(&info, "run_id"), uptime(&info));
                    Ok(())
                })
            }))
            .build()
            .map_err(|error| StoreError::Unusable(format!("redis pool: {error}")))?;
        Ok(Self { address, lives, pool, kept: None })
    }

    /// The same servers over connections of its own: those of one runtime do not serve another.
    pub(super) fn reopened(&self) -> Result<Self> {
        Self::new(self.address.clone(), self.lives.clone())
    }

    /// The same servers over one connection, which is made anew when it fails: for loops that ask all the time.
    pub(super) fn keeping_a_connection(&self) -> Self {
        Self { kept: Some(Arc::default()), ..self.clone() }
    }

    /// One round trip, all of it in `life`: nothing is sent, and no answer counts, when a newer one has begun.
    pub(super) async fn send(&self, life: u64, pipeline: &Pipeline) -> std::result::Result<Vec<Value>, SendError> {
        // Before the answer to EXEC come those to MULTI and to each command that is queued.
        let (skipped, answers) = if pipeline.is_transaction() { (pipeline.len() + 1, 1) } else { (0, pipeline.len()) };
        let known = self.kept().and_then(|kept| kept.clone()).filter(|(made_in, _)| *made_in == life);
        let mut pooled = None;
        let mut connection = match known {
            Some((_, connection)) => connection,
            None => {
                let taken = self.pool.get().await;
                let taken = taken.map_err(|error| SendError::Store(StoreError::Unavailable(error.to_string())))?;
                let connection = MultiplexedConnection::clone(&taken);
                // Back to the pool only after the answer.
                pooled = Some(taken);
                connection
            }
        };
        if self.lives.newest() != life {
            return Err(SendError::NewLife);
        }
        let values = connection.req_packed_commands(pipeline, skipped, answers).await;
        drop(pooled);
        if let Some(mut kept) = self.kept() {
            let good = !values.as_ref().is_err_and(|error| !matches!(error.kind(), ErrorKind::Server(_)));
            *kept = good.then_some((life, connection));
        }
        let values = values.map_err(SendError::Redis)?;
        if self.lives.newest() != life {
            return Err(SendError::Store(lives::ended()));
        }
        Ok(values)
    }

    fn kept(&self) -> Option<MutexGuard<'_, Kept>> {
        Some(self.kept.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A field of what INFO says; empty if it is not there.
pub(super) fn field<'a>(info: &'a str, name: &str) -> &'a str {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
}

fn uptime(info: &str) -> Duration {
    Duration::from_secs(field(info, "uptime_in_seconds").parse().unwrap_or(0))
}
