//! `pregon serve`: starts the roles of a process, and stops them in order.
//!
//! Start: the ops listener; Redis, its clock and the token key; then the core tasks of each role. If a core task fails,
//! the whole service stops with an error.
//!
//! Stop: `/readyz` returns 503; for `shutdown.drain` all work continues, so that load balancers notice; no new calls,
//! jobs or claims are accepted; attempts in flight finish and are settled; leases are released; the process leaves the
//! list of workers; the last spans are exported; the ops listener, which answers until then, stops; last, the private
//! Redis stops.

mod api;
mod changes;
mod configured;
mod deliveries;
mod dispatch;
mod engage;
mod included;
mod keeper;
mod listeners;
mod memory;
mod presence;
mod ready;
mod redis;
mod reload;
mod webhook;

use std::{collections::BTreeMap, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::Router;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing::{info, warn};

pub(super) use self::configured::{Found, lines};
use self::{
    configured::Configured,
    included::Included,
    keeper::Keeper,
    listeners::{Http, Ops},
    presence::Presence,
    ready::{Ready, ReadyFile},
    reload::{LiveParts, Reload},
};
use super::{
    database,
    shutdown::{Shutdown, Signals, StopError, StopTimes},
};
use crate::{
    config::{Config, ConfigError, Role},
    dispatch::worker::OpenWork,
    domain::{Live, SharedTokenKey, retry::BadRetryPolicy},
    endpoint::NoEndpointClient,
    graph::{BadGraphConfig, GraphClient},
    http::auth::oidc::NoOidcClient,
    http::tls::TlsError,
    media::{MediaStore, MediaStoreError},
    postgres::{Database, spawn::DatabaseSpawnError},
    redis::{Store, StoreError, clock::Clock, spawn::SpawnError},
    telemetry::{
        health::{Health, NotReady},
        metrics::{self, HousekeepingMetrics, MetricsPage, OwnedLines},
        traces::{
            Traces,
            export::{self, NoTracesClient, SpanExport},
        },
    },
};

/// Why a service could not start, or did not stop cleanly.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration lacks what the roles need.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Redis does not answer, or cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Redis did not answer within `redis.start_timeout`.
    #[error(
        "{source}; it did not answer within {timeout:?} (redis.start_timeout): start Redis there, or set redis.url to \
        its address"
    )]
    NoRedis {
        /// The time that is over.
        timeout: Duration,
        /// The last error.
        source: StoreError,
    },
    /// The private Redis could not be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The private PostgreSQL could not be started.
    #[error(transparent)]
    SpawnDatabase(#[from] DatabaseSpawnError),
    /// The store of files cannot be opened.
    #[error("media.url cannot be used: {0}")]
    Media(#[from] MediaStoreError),
    /// No client for the Graph API can be made from this configuration.
    #[error(transparent)]
    Graph(#[from] BadGraphConfig),
    /// No client for the webhooks to a subscriber, or for those that are forwarded, can be made.
    #[error(transparent)]
    Endpoint(#[from] NoEndpointClient),
    /// No client for the provider of logins.
    #[error(transparent)]
    Oidc(#[from] NoOidcClient),
    /// The configuration accepts the values of `dispatch.retry`, but the retry policy does not.
    #[error("dispatch.retry can't be used: {0}")]
    Retry(#[from] BadRetryPolicy),
    /// The service cannot listen on an address.
    #[error("cannot listen on {key} = {address}: {source}")]
    Listen {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The certificate is missing or unusable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No client for the collector of traces can be made.
    #[error(transparent)]
    Traces(#[from] NoTracesClient),
    /// The private Redis could not be stopped.
    #[error("the private redis-server did not end: {0}")]
    Redis(io::Error),
    /// The private PostgreSQL could not be stopped.
    #[error("the private PostgreSQL did not end: {0}")]
    Database(io::Error),
    /// The ready file cannot be written.
    #[error("cannot write the ready file {}: {source}", path.display())]
    ReadyFile {
        /// Its path.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A signal handler cannot be installed.
    #[error("cannot install a signal handler: {0}")]
    Signals(io::Error),
    /// A core task failed, or the stop took too long.
    #[error(transparent)]
    Stop(#[from] StopError),
}

/// A running service.
pub struct Service {
    /// The id of the process among the workers.
    pub worker: String,
    /// The address of the API and the webhooks, if a role needs them.
    pub http: Option<SocketAddr>,
    /// The address of `/metrics`, `/healthz` and `/readyz`.
    pub ops: SocketAddr,
    shutdown: Shutdown,
    ops_listener: Ops,
    presence: Presence,
    redis: Option<Keeper>,
    database: Option<Database>,
    postgres: Option<Keeper>,
    stop_times: StopTimes,
    open: OpenWork,
    store: Store,
    health: Health,
    spans: Option<SpanExport>,
}

/// Runs the roles of a process until a signal or a failure stops it. The file `ready_file` exists while the process
/// serves, and says at which addresses.
pub async fn run(config: Config, roles: &[Role], ready_file: Option<PathBuf>) -> Result<(), ServeError> {
    let failed = |source| ServeError::ReadyFile { path: ready_file.clone().unwrap_or_default(), source };
    let file = ready_file.clone().map(ReadyFile::new).transpose().map_err(failed)?;
    // Register a handler before the start, because an unhandled SIGHUP ends the process. Reloads are handled elsewhere.
    let _ignored = signal(SignalKind::hangup()).map_err(ServeError::Signals)?;
    let mut signals = Signals::of_process().map_err(ServeError::Signals)?;
    let service = tokio::select! {
        started = Service::start(config, roles) => started?,
        signal = signals.next() => {
            info!(signal, "stopped before the start was complete");
            return Ok(());
        }
    };
    let ready = Ready { pid: std::process::id(), worker: &service.worker, http: service.http, ops: service.ops };
    let written = file.as_ref().map_or(Ok(()), |file| file.write(&ready));
    if written.is_err() {
        service.stop();
    }
    service.wait(signals).await?;
    written.map_err(failed)
}

impl Service {
    /// Starts the roles. For port 0 the system assigns a free port.
    pub async fn start(config: Config, roles: &[Role]) -> Result<Self, ServeError> {
        Self::start_on(config, roles, None).await
    }

    /// Starts the roles, with the API and the webhooks on a listener that is already bound: for callers that need its
    /// address first.
    pub async fn start_on(config: Config, roles: &[Role], http: Option<TcpListener>) -> Result<Self, ServeError> {
        config.check_roles(roles)?;
        let dispatching = roles.contains(&Role::Dispatch);
        let waiting: &[NotReady] = if dispatching { &[NotReady::Redis, NotReady::Leases] } else { &[NotReady::Redis] };
        let health = Health::starting(waiting);
        let page = MetricsPage {
            recorder: metrics::install(),
            lines: OwnedLines::default(),
            housekeeping: HousekeepingMetrics::default(),
            health: health.clone(),
        };
        let ops = Ops::start(config.ops.listen, page.clone()).await?;
        let (opened, redis) = redis::open(&config.redis, config.feed).await?;
        health.clear(NotReady::Redis);
        let needs_database = roles.iter().any(|role| role.uses_database());
        let (database, postgres) = match config.database.as_ref().filter(|_| needs_database) {
            Some(config) => {
                let (database, private) = database::open(config).await?;
                (Some(database), private)
            }
            None => (None, None),
        };
        let media = config.media.as_ref().filter(|_| needs_database).map(MediaStore::open).transpose()?;
        for risk in opened.risks {
            warn!(remedy = risk.remedy(), "redis can lose data: {risk}");
        }
        let shutdown = Shutdown::new(health.clone());
        let redis = redis.map(|server| Keeper::start(server, shutdown.stopping()));
        let postgres = postgres.map(|server| Keeper::start(server, shutdown.stopping()));
        let name = presence::name();
        let worker = format!("{name}-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let export = config.traces.as_ref().map(|traces| export::start(traces, &worker)).transpose()?;
        let (traces, spans) = export.unzip();
        let context = Context {
            config: &config,
            configured: Configured::of(&config),
            worker,
            store: opened.store,
            database: database.clone(),
            media,
            clock: Arc::new(opened.clock),
            token_key: opened.token_key,
            health: health.clone(),
            traces: traces.unwrap_or_default(),
            shutdown: &shutdown,
        };
        for outdated in config.contact_hours.outdated(context.clock.now()) {
            warn!("{outdated}");
        }
        context.include_lines().await?;
        let (http, live) = context.start_http(roles, http).await?;
        let open = OpenWork::default();
        if dispatching {
            dispatch::start(&context, open.clone(), &page)?;
        }
        if let Some(database) = context.database.clone().filter(|_| roles.contains(&Role::Engage)) {
            engage::start(&context, database)?;
        }
        if let Some(database) = context.database.clone() {
            shutdown.core("database watch", engage::watch(database, shutdown.stopping()));
        }
        let presence = Presence::start(&context.worker, name, roles, context.store.clone(), context.clock.clone());
        let watch = redis::watch(context.store.clone(), context.clock.clone(), health.clone(), shutdown.stopping());
        shutdown.core("redis watch", watch);
        let (store, share_max) = (context.store.clone(), config.intake.memory_share_max);
        shutdown.core("redis memory watch", memory::watch(store, share_max, health.clone(), shutdown.stopping()));
        let hangups = signal(SignalKind::hangup()).map_err(ServeError::Signals)?;
        let configured = context.configured.clone();
        let reload = Reload { config: config.clone(), roles: roles.to_vec(), configured, live };
        shutdown.core("reload", reload.run(hangups, shutdown.stopping()));
        info!(
            version = env!("CARGO_PKG_VERSION"),
            config = %config.settings,
            worker = context.worker,
            http = http.map(display),
            ops = %ops.address,
            lines = context.configured.lines.get().len(),
            "serving"
        );
        // Without a listener for requests, there is no load balancer to wait for.
        let drain = http.map_or(Duration::ZERO, |_| config.shutdown.drain);
        let stop_times = StopTimes { drain, grace: config.shutdown.grace };
        let (worker, store) = (context.worker, context.store);
        Ok(Self {
            worker,
            http,
            ops: ops.address,
            shutdown,
            ops_listener: ops,
            presence,
            redis,
            database,
            postgres,
            stop_times,
            open,
            store,
            health,
            spans,
        })
    }

    /// Begins the stop, as a signal would.
    pub fn stop(&self) {
        self.shutdown.stop();
    }

    /// Waits for a signal, for [`Service::stop`] or for the failure of a core task, and then for the end of the stop.
    pub async fn wait(self, signals: Signals) -> Result<(), ServeError> {
        let (open, store) = (self.open, self.store);
        let redis_fails = async move || redis::failure(&store).await;
        let ended = self.shutdown.run(signals, self.stop_times, || dispatch::open_work(&open), redis_fails).await;
        self.presence.end().await;
        if let (Some(spans), Some(deadline)) = (self.spans, self.health.stops_by()) {
            spans.end(deadline.into()).await;
        }
        self.ops_listener.end().await;
        if let Some(database) = self.database {
            database.close().await;
        }
        if let Some(postgres) = self.postgres {
            postgres.end().await.map_err(ServeError::Database)?;
        }
        if let Some(redis) = self.redis {
            redis.end().await.map_err(ServeError::Redis)?;
        }
        Ok(ended?)
    }
}

/// What every role needs to start.
struct Context<'a> {
    config: &'a Config,
    configured: Configured,
    /// The id of this process among the workers.
    worker: String,
    store: Store,
    database: Option<Database>,
    media: Option<MediaStore>,
    clock: Arc<Clock>,
    token_key: SharedTokenKey,
    health: Health,
    traces: Traces,
    shutdown: &'a Shutdown,
}

impl Context<'_> {
    /// Adds the lines that businesses include, and keeps them up to date.
    async fn include_lines(&self) -> Result<(), ServeError> {
        let mut included = Included {
            graph: GraphClient::new(self.config.graph.client())?,
            store: self.store.clone(),
            clock: self.clock.clone(),
            configured: self.configured.clone(),
            logged: BTreeMap::new(),
        };
        included.begin().await;
        self.shutdown.core("included lines", included.run(self.shutdown.stopping()));
        Ok(())
    }

    /// Starts the roles that serve HTTP. Returns their address (`None` without such a role), and the parts that a
    /// reload can replace.
    async fn start_http(
        &self,
        roles: &[Role],
        listener: Option<TcpListener>,
    ) -> Result<(Option<SocketAddr>, LiveParts), ServeError> {
        let mut live = LiveParts::default();
        if !roles.iter().any(|role| matches!(role, Role::Api | Role::Webhook)) {
            return Ok((None, live));
        }
        let http = Http::bind(self.config, listener).await?;
        let mut router = Router::new();
        if roles.contains(&Role::Api) {
            let (api, deliveries) = api::start(self)?;
            live.deliveries = Some(deliveries);
            router = router.merge(api);
        }
        if roles.contains(&Role::Webhook)
            && let Some(secrets) = webhook::secrets(self.config)
        {
            let secrets = Live::new(secrets);
            live.webhook_secrets = Some(secrets.clone());
            router = router.merge(webhook::start(self, secrets)?);
        }
        let address = http.address;
        live.tls.clone_from(&http.tls);
        http.serve(self.config, self.shutdown, router);
        Ok((Some(address), live))
    }
}
