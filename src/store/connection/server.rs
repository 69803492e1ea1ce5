//! Connections to one server.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_redis::{
    Hook, HookError, Manager, Pool, Runtime,
    redis::{
        AsyncConnectionConfig, ConnectionInfo, ErrorKind, Pipeline, Value,
        aio::{ConnectionLike as _, MultiplexedConnection},
        cmd,
    },
};

use super::{
    super::{
        Result, StoreError,
        lives::{self, Lives},
    },
    Address, SendError,
};

/// One server. Cheap to clone.
#[derive(Clone)]
pub(super) struct Server {
    lives: Arc<Lives>,
    pool: Pool,
    /// One connection of the pool until it fails, with the life that it was made in: the pool asks a connection whether it
    /// lives each time it is taken, which costs as much as a small batch.
    kept: Option<Arc<Mutex<Kept>>>,
}

type Kept = Option<(u64, MultiplexedConnection)>;

impl Server {
    /// Connects when it is first used.
    ///
    /// Errors: `Unusable` where `info` makes no sense.
    pub(super) fn new(info: ConnectionInfo, address: &Address, lives: Arc<Lives>) -> Result<Self> {
        let place = info.addr().to_string();
        let timeout = Some(address.timeout);
        let manager = Manager::new_with_config(info, patience(address.timeout))
            .map_err(|error| StoreError::Unusable(format!("redis.url can't be used: {error}")))?;
        let met = lives.clone();
        let pool = Pool::builder(manager)
            .max_size(address.connections)
            .runtime(Runtime::Tokio1)
            .wait_timeout(timeout)
            .create_timeout(timeout)
            .recycle_timeout(timeout)
            .post_create(Hook::async_fn(move |connection, _| {
                let (place, met) = (place.clone(), met.clone());
                Box::pin(async move {
                    let info: String =
                        cmd("INFO").arg("server").query_async(connection).await.map_err(HookError::Backend)?;
                    met.met(&place, field(&info, "run_id"), uptime(&info));
                    Ok(())
                })
            }))
            .build()
            .map_err(|error| StoreError::Unusable(format!("redis pool: {error}")))?;
        Ok(Self { lives, pool, kept: None })
    }

    /// The same server over one connection, which is made anew when it fails.
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

/// How long a connection and an answer may take.
fn patience(timeout: Duration) -> AsyncConnectionConfig {
    // Without the second redis-rs gives up after 500 ms, and a worker would take a slow moment for an outage.
    AsyncConnectionConfig::new().set_connection_timeout(Some(timeout)).set_response_timeout(Some(timeout))
}

/// A field of what INFO says; empty if it is not there.
pub(in super::super) fn field<'a>(info: &'a str, name: &str) -> &'a str {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
}

fn uptime(info: &str) -> Duration {
    Duration::from_secs(field(info, "uptime_in_seconds").parse().unwrap_or(0))
}
