//! Connects to Redis, or starts the private server, and then checks at intervals that it answers and that this release
//! can read its data.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::ServeError;
use crate::{
    config::{RedisConfig, RedisUrl},
    domain::SharedTokenKey,
    redis::{
        Address, Store, StoreError, clock::Clock, durability::risks::Risk, feed::FeedLimits, memory::Memory,
        spawn::PrivateRedis,
    },
    telemetry::health::{Health, NotReady},
};

/// How often a process checks whether Redis answers.
const REDIS_WATCH: Duration = Duration::from_millis(500);

/// How long a stop that was not clean waits for Redis, to say whether it answers.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// Connection attempts at start for each warning in the log: at most one warning every 10 s.
const WAITS_PER_WARNING: u32 = 20;

/// Opens the store, and starts the private server if `redis.url` asks for one.
///
/// Waits for a server that does not answer yet, for `redis.start_timeout` if it is set. A private server that cannot be
/// used is an error at once.
pub(super) async fn open(
    config: &RedisConfig,
    feed: Option<FeedLimits>,
) -> Result<(Opened, Option<PrivateRedis>), ServeError> {
    let (url, private) = match &config.url {
        RedisUrl::Server(url) => (url.clone(), None),
        RedisUrl::Spawn(dir) => {
            let private = PrivateRedis::start(dir).await?;
            (private.url().to_owned(), Some(private))
        }
    };
    let address = Address {
        url,
        certificates: config.certificates.clone(),
        namespace: config.namespace.clone(),
        timeout: config.timeout,
        connections: config.pool,
    };
    let opened = match private {
        Some(_) => Opened::once(&address, feed).await?,
        None => Opened::when_available(&address, feed, config.start_timeout).await?,
    };
    Ok((opened, private))
}

/// What every role needs from Redis before it starts.
pub(super) struct Opened {
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) token_key: SharedTokenKey,
    pub(super) risks: Vec<Risk>,
}

impl Opened {
    async fn once(address: &Address, feed: Option<FeedLimits>) -> Result<Self, StoreError> {
        let store = Store::connect(address).await?.with_feed(feed);
        store.open_data().await?;
        store.begin_feed().await?;
        let clock = Clock::start(&store).await?;
        let token_key = store.token_key().await?;
        let (_, risks) = store.memory_and_risks().await?;
        Ok(Self { store, clock, token_key, risks })
    }

    /// Retries until Redis answers, or `timeout` has passed.
    ///
    /// Errors: `Store` if Redis answers but cannot be used, for example because it refuses the login; `NoRedis`.
    async fn when_available(
        address: &Address,
        feed: Option<FeedLimits>,
        timeout: Option<Duration>,
    ) -> Result<Self, ServeError> {
        let (began, mut n_waits) = (Instant::now(), 0_u32);
        loop {
            match Self::once(address, feed).await {
                Err(error) if error.is_transient() && !matches!(error, StoreError::Login(_)) => {
                    if let Some(timeout) = timeout.filter(|timeout| began.elapsed() >= *timeout) {
                        return Err(ServeError::NoRedis { timeout, source: error });
                    }
                    if n_waits.is_multiple_of(WAITS_PER_WARNING) {
                        warn!(%error, "waiting for redis");
                    }
                    n_waits = n_waits.wrapping_add(1);
                    tokio::time::sleep(REDIS_WATCH).await;
                }
                opened => return Ok(opened?),
            }
        }
    }
}

/// Why Redis stores nothing now; `None` if it does, as far as can be told.
pub(super) async fn failure(store: &Store) -> Option<String> {
    match timeout(PROBE_TIMEOUT, store.memory()).await {
        Ok(Ok(memory)) => Some(format!("redis is full ({})", memory.filter(Memory::is_full)?)),
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("redis does not answer within {PROBE_TIMEOUT:?}")),
    }
}

/// Adjusts the clock to that of Redis at intervals, and checks the version of the data. While Redis does not answer,
/// the process is not ready.
///
/// Errors: a newer release raised the version, and this release cannot read it.
pub(super) async fn watch(
    store: Store,
    clock: Arc<Clock>,
    health: Health,
    stopping: CancellationToken,
) -> Result<(), StoreError> {
    let mut lost_at = None;
    while !stopping.is_cancelled() {
        store.check_failover().await;
        match clock.adjust(&store).await {
            Ok(()) => {
                health.clear(NotReady::Redis);
                if let Some(lost_at) = lost_at.take() {
                    info!(away_ms = Instant::elapsed(&lost_at).as_millis() as u64, "redis answers again");
                }
                if let Err(error @ StoreError::Unusable(_)) = store.check_data_version().await {
                    return Err(error);
                }
            }
            Err(error) => {
                health.set(NotReady::Redis);
                if lost_at.replace(lost_at.unwrap_or_else(Instant::now)).is_none() {
                    warn!(%error, "redis does not answer: nothing is sent or accepted until it does");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(REDIS_WATCH) => {}
            () = stopping.cancelled() => {}
        }
    }
    Ok(())
}
