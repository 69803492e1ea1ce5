//! `pregon serve`: puts the roles of a process together, and takes them apart again in order.
//!
//! Start: the ops listener; Redis, its clock, the key of tokens; then each role as core tasks. If a core task ends on its own, the service stops
//! with an error; it does not run on half alive. Stop: not ready; no new calls, jobs or claims; attempts in flight end and
//! are settled; leases go back; last the ops listener, so that `/readyz` answers to the end, and the private Redis.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::Duration,
};

use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use super::shutdown::{Shutdown, Signals, StopError};
use crate::{
    api::{self, ApiState, SyncTemplates},
    config::{Config, ConfigError, RedisUrl, Role},
    dispatch::{
        self,
        housekeeping::Housekeeping,
        indexing::Indexing,
        worker::{OpenAttempts, Worker},
    },
    domain::{Line, LineId, RetryPolicy, SharedTokenKey},
    graph::{BadGraphConfig, GraphClient, GraphConfig},
    http::{
        listener::{self, Limits},
        ops,
        tls::{Tls, TlsError},
    },
    intake::{Intake, jobs},
    redis::{
        Address, Store, StoreError,
        clock::Clock,
        durability::Risk,
        spawn::{PrivateRedis, SpawnError},
    },
    telemetry::{
        health::{Health, Reason},
        metrics,
    },
    templates,
    webhook::{self, WebhookState},
};

/// How often a process looks whether Redis is there.
const REDIS_WATCH: Duration = Duration::from_millis(500);

/// Attempts to reach Redis at start for each warning in the log: one every 10 s or more.
const WAITS_PER_WARNING: u32 = 20;

/// Each further retry waits this much longer at most.
const RETRY_MULTIPLIER: f64 = 3.0;

/// Why a service could not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Something is missing for the roles.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Redis is not there, or can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The private Redis did not start or end.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The Graph API can't be reached with this configuration.
    #[error(transparent)]
    Graph(#[from] BadGraphConfig),
    /// A value that the configuration let through and its user does not.
    #[error("dispatch.retry can't be used: {0}")]
    Retry(#[from] crate::domain::retry::BadRetryPolicy),
    /// An address can't be listened on.
    #[error("{key} = {address} can't be listened on: {source}")]
    Listen {
        /// The key of the configuration.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// There is no certificate, or none that can be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The private Redis did not end well.
    #[error("the private redis-server did not end: {0}")]
    Redis(io::Error),
    /// The system gives no signal handler.
    #[error("signals can't be handled: {0}")]
    Signals(io::Error),
    /// A core task failed, or the stop took too long.
    #[error(transparent)]
    Stop(#[from] StopError),
}

/// A service that runs.
pub struct Service {
    /// Where the API and the webhooks listen, if a role needs them.
    pub http: Option<SocketAddr>,
    /// Where `/metrics`, `/healthz` and `/readyz` listen.
    pub ops: SocketAddr,
    shutdown: Shutdown,
    ops_listener: Ops,
    redis: Option<PrivateRedis>,
    grace: Duration,
    open: OpenAttempts,
}

/// Runs the roles of a process until a signal ends it.
pub async fn run(config: Config, roles: &[Role]) -> Result<(), ServeError> {
    // Registering a handler replaces the default action, which ends the process. Only a certificate is read again.
    let _ignored = signal(SignalKind::hangup()).map_err(ServeError::Signals)?;
    let mut signals = Signals::of_process().map_err(ServeError::Signals)?;
    let service = tokio::select! {
        started = Service::start(config, roles) => started?,
        signal = signals.next() => {
            info!(signal, "stopped before the start was complete");
            return Ok(());
        }
    };
    service.wait(signals).await
}

impl Service {
    /// Starts the roles. Port 0 takes a free port.
    pub async fn start(config: Config, roles: &[Role]) -> Result<Self, ServeError> {
        Self::start_on(config, roles, None).await
    }

    /// The same on a listener for the API and the webhooks that is there already: for whoever has to know its address
    /// before.
    pub async fn start_on(config: Config, roles: &[Role], http: Option<TcpListener>) -> Result<Self, ServeError> {
        config.check_roles(roles)?;
        let lines = lines(&config);
        let ids: Vec<LineId> = lines.iter().map(|line| line.id.clone()).collect();
        let metrics = metrics::install(&ids);
        let dispatching = roles.contains(&Role::Dispatch);
        let waiting: &[Reason] = if dispatching { &[Reason::Redis, Reason::Leases] } else { &[Reason::Redis] };
        let health = Health::starting(waiting);
        let ops = Ops::start(config.ops.listen, health.clone(), metrics).await?;
        let (url, redis) = match &config.redis.url {
            RedisUrl::Server(url) => (url.clone(), None),
            RedisUrl::Spawn(dir) => {
                let redis = PrivateRedis::start(dir).await?;
                (redis.url().to_owned(), Some(redis))
            }
        };
        let address = Address {
            url,
            certificates: config.redis.certificates.clone(),
            namespace: config.redis.namespace.clone(),
            timeout: config.redis.timeout,
            connections: config.redis.pool,
        };
        let Installation { store, clock, token_key, risks } = match redis {
            Some(_) => Installation::open(&address).await?,
            None => Installation::open_when_there(&address).await?,
        };
        health.clear(Reason::Redis);
        for risk in risks {
            warn!(remedy = risk.remedy(), "redis can lose data: {risk}");
        }
        let name = format!("{}-{:08x}", std::process::id(), rand::random::<u32>());
        let shutdown = Shutdown::new(health.clone());
        let parts = Parts {
            config: &config,
            lines,
            name,
            store,
            clock: Arc::new(clock),
            token_key,
            health: health.clone(),
            shutdown: &shutdown,
        };
        let http = parts.start_http(roles, http).await?;
        if roles.contains(&Role::Api) {
            shutdown.core(
                "jobs",
                jobs::read_jobs(parts.intake(), parts.name.clone(), shutdown.stopping(), config.dispatch.lease),
            );
        }
        let open = OpenAttempts::default();
        if dispatching {
            parts.start_dispatch(open.clone())?;
        }
        shutdown.core(
            "redis watch",
            watch_redis(parts.store.clone(), parts.clock.clone(), health.clone(), shutdown.stopping()),
        );
        info!(worker = parts.name, http = ?http, ops = %ops.address, lines = parts.lines.len(), "serving");
        let grace = config.shutdown.grace;
        Ok(Self { http, ops: ops.address, shutdown, ops_listener: ops, redis, grace, open })
    }

    /// Begins the stop, as a signal would.
    pub fn stop(&self) {
        self.shutdown.stop();
    }

    /// Waits for the end: a signal, [`Service::stop`], or the failure of a core task.
    pub async fn wait(self, signals: Signals) -> Result<(), ServeError> {
        let open = self.open.clone();
        let ended = self.shutdown.run(signals, self.grace, move || open_text(&open)).await;
        self.ops_listener.end().await;
        if let Some(redis) = self.redis {
            redis.stop().await.map_err(ServeError::Redis)?;
        }
        Ok(ended?)
    }
}

/// The ops listener. It is there before Redis is, and to the end; dropped, it ends too.
struct Ops {
    address: SocketAddr,
    end: DropGuard,
    task: JoinHandle<Result<(), Infallible>>,
}

impl Ops {
    async fn start(address: SocketAddr, health: Health, metrics: PrometheusHandle) -> Result<Self, ServeError> {
        let listener = listen("ops.listen", address).await?;
        let address = bound("ops.listen", &listener, address)?;
        let end = CancellationToken::new();
        tokio::spawn(metrics::keep_up(metrics.clone()));
        let task = tokio::spawn(ops::serve(listener, health, metrics, end.clone()));
        info!(ops = %address, "health and metrics are served");
        Ok(Self { address, end: end.drop_guard(), task })
    }

    async fn end(self) {
        drop(self.end);
        let _ = self.task.await;
    }
}

/// What is read from Redis before anything begins.
struct Installation {
    store: Store,
    clock: Clock,
    token_key: SharedTokenKey,
    risks: Vec<Risk>,
}

impl Installation {
    async fn open(address: &Address) -> Result<Self, StoreError> {
        let store = Store::connect(address).await?;
        let clock = Clock::start(&store).await?;
        let token_key = store.token_key().await?;
        let risks = store.risks().await?;
        Ok(Self { store, clock, token_key, risks })
    }

    /// Waits for a Redis that is away.
    ///
    /// Errors: Redis answers and can't be used.
    async fn open_when_there(address: &Address) -> Result<Self, StoreError> {
        let mut n_waits = 0_u32;
        loop {
            match Self::open(address).await {
                Err(error) if error.passes() && !matches!(error, StoreError::Login(_)) => {
                    if n_waits.is_multiple_of(WAITS_PER_WARNING) {
                        warn!(%error, "waiting for redis");
                    }
                    n_waits = n_waits.wrapping_add(1);
                    tokio::time::sleep(REDIS_WATCH).await;
                }
                opened => return opened,
            }
        }
    }
}

/// What every role is built from.
struct Parts<'a> {
    config: &'a Config,
    lines: Vec<Line>,
    name: String,
    store: Store,
    clock: Arc<Clock>,
    token_key: SharedTokenKey,
    health: Health,
    shutdown: &'a Shutdown,
}

impl Parts<'_> {
    fn intake(&self) -> Intake {
        let lines = self.lines.iter().map(|line| (line.id.clone(), (line.waba.clone(), line.messages_per_second)));
        Intake {
            store: self.store.clone(),
            clock: self.clock.clone(),
            lines: Arc::new(lines.collect()),
            recipients_max: self.config.intake.recipients_max,
        }
    }

    fn graph_config(&self) -> GraphConfig {
        self.config.graph.client()
    }

    fn sync_templates(&self) -> Result<SyncTemplates, ServeError> {
        let (store, clock, lines) = (self.store.clone(), self.clock.clone(), self.lines.clone());
        let graph = GraphClient::new(self.graph_config())?;
        Ok(Arc::new(move || {
            let (store, graph, lines, now) = (store.clone(), graph.clone(), lines.clone(), clock.now());
            Box::pin(async move { templates::sync_all(&store, &graph, &lines, now).await })
        }))
    }

    async fn start_http(
        &self,
        roles: &[Role],
        listener: Option<TcpListener>,
    ) -> Result<Option<SocketAddr>, ServeError> {
        let mut router = Router::new();
        if roles.contains(&Role::Api) {
            router = router.merge(api::router(ApiState {
                store: self.store.clone(),
                clock: self.clock.clone(),
                intake: self.intake(),
                lines: self.lines.clone().into(),
                keys: self.config.http.api_keys.clone().into(),
                key_failures_per_minute: self.config.http.key_failures_per_minute,
                sync_templates: self.sync_templates()?,
                body_bytes_max: self.config.http.body_bytes_max,
                stall_timeout: self.config.http.stall_timeout,
                stopping: self.shutdown.stopping(),
            }));
        }
        if roles.contains(&Role::Webhook)
            && let (Some(verify_token), Some(app_secret)) =
                (self.config.webhook.verify_token.clone(), self.config.webhook.app_secret.clone())
        {
            let settings = webhook::Settings {
                verify_token,
                app_secrets: [Some(app_secret), self.config.webhook.app_secret_previous.clone()]
                    .into_iter()
                    .flatten()
                    .collect(),
                body_bytes_max: self.config.webhook.body_bytes_max,
                ids_kept: self.config.id_retention,
                lines: self.lines.iter().map(|line| (line.id.clone(), line.waba.clone())).collect(),
                health: self.health.clone(),
            };
            let key = self.token_key.clone();
            let (state, commits) = WebhookState::new(self.store.clone(), self.clock.clone(), key, settings);
            self.shutdown.core("webhook commits", commits);
            router = router.merge(webhook::router(state));
        }
        if !roles.iter().any(|role| matches!(role, Role::Api | Role::Webhook)) {
            return Ok(None);
        }
        let key = "http.listen";
        let listener = match listener {
            Some(listener) => listener,
            None => listen(key, self.config.http.listen).await?,
        };
        let address = bound(key, &listener, self.config.http.listen)?;
        let tls = self.config.http.tls.clone().map(Tls::load).transpose()?;
        if let Some(tls) = tls.clone() {
            let hangups = signal(SignalKind::hangup()).map_err(ServeError::Signals)?;
            self.shutdown.core("certificate", tls.keep_up(hangups, self.shutdown.stopping()));
        }
        let (limits, open) = (self.http_limits(), metrics::http_connections());
        self.shutdown.core("http", listener::serve(listener, router, limits, tls, open, self.shutdown.stopping()));
        Ok(Some(address))
    }

    fn http_limits(&self) -> Limits {
        let http = &self.config.http;
        Limits {
            connections_max: http.connections_max,
            header_bytes_max: http.header_bytes_max,
            header_timeout: http.header_timeout,
            stall_timeout: http.stall_timeout,
            // Within the grace, so that no caller makes of a clean stop one that came too late.
            stop_timeout: self.config.shutdown.grace * 3 / 4,
        }
    }

    fn start_dispatch(&self, open: OpenAttempts) -> Result<(), ServeError> {
        let dispatch = &self.config.dispatch;
        let retry =
            RetryPolicy::new(dispatch.retry.initial, RETRY_MULTIPLIER, dispatch.retry.max, dispatch.retry.attempts)?;
        let worker = Worker {
            name: self.name.clone(),
            store: self.store.clone(),
            clock: self.clock.clone(),
            lines: self.lines.clone(),
            settings: dispatch::Settings {
                headroom: dispatch.headroom,
                doubt_deadline: dispatch.doubt_deadline,
                lease: dispatch.lease,
                retry,
                in_flight_max: dispatch.in_flight_max,
                ids_kept: self.config.id_retention,
            },
            graph: self.graph_config(),
            token_key: self.token_key.clone(),
            threads: dispatch.threads,
            health: self.health.clone(),
            open,
        };
        self.shutdown.core("dispatch", worker.run(self.shutdown.stopping()));
        let housekeeping = Housekeeping {
            name: self.name.clone(),
            store: self.store.clone(),
            clock: self.clock.clone(),
            lines: self.lines.clone(),
            graph: GraphClient::new(self.graph_config())?,
            lease: dispatch.lease,
            templates_every: dispatch.templates_every,
            retention: self.config.retention,
            doubt_deadline: dispatch.doubt_deadline,
            attempts_max: dispatch.retry.attempts,
        };
        self.shutdown.core("housekeeping", housekeeping.run(self.shutdown.stopping()));
        let indexing = Indexing {
            name: self.name.clone(),
            store: self.store.clone(),
            clock: self.clock.clone(),
            lease: dispatch.lease,
            ids_kept: self.config.id_retention,
        };
        self.shutdown.core("indexing", indexing.run(self.shutdown.stopping()));
        Ok(())
    }
}

/// The configured lines, each with the token of its WABA.
pub fn lines(config: &Config) -> Vec<Line> {
    let line = |line: &crate::config::LineConfig| {
        let waba = config.wabas.iter().find(|waba| waba.id == line.waba)?;
        Some(Line {
            id: line.id.clone(),
            waba: line.waba.clone(),
            token: waba.access_token.clone(),
            display: line.display.clone(),
            name: line.name.clone(),
            messages_per_second: line.messages_per_second,
        })
    };
    config.lines.iter().filter_map(line).collect()
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { key, address, source })
}

/// Where a listener on `address` is: port 0 took a free one.
fn bound(key: &'static str, listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, ServeError> {
    listener.local_addr().map_err(|source| ServeError::Listen { key, address, source })
}

/// Not ready while Redis is away; and keeps the clock.
async fn watch_redis(
    store: Store,
    clock: Arc<Clock>,
    health: Health,
    stopping: CancellationToken,
) -> Result<(), StoreError> {
    while !stopping.is_cancelled() {
        store.look_around().await;
        match clock.adjust(&store).await {
            Ok(()) => health.clear(Reason::Redis),
            Err(_) => health.set(Reason::Redis),
        }
        tokio::select! {
            () = tokio::time::sleep(REDIS_WATCH) => {}
            () = stopping.cancelled() => {}
        }
    }
    Ok(())
}

/// `4 attempts: 3001 x3, 3002 x1`
fn open_text(open: &OpenAttempts) -> String {
    let open = open.lock().unwrap_or_else(PoisonError::into_inner);
    let lines: Vec<String> = open.iter().filter(|(_, n)| **n > 0).map(|(line, n)| format!("{line} x{n}")).collect();
    format!("{} attempts: {}", open.values().sum::<usize>(), lines.join(", "))
}
