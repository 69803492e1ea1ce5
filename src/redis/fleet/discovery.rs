//! Finds the masters: asks the nodes of a cluster, or the sentinels of a service.
//!
//! Each answer has an epoch, which rises with each failover. The higher epoch wins, so an answer of a node that was
//! cut off from the others never replaces a newer one. After a failover, a new incarnation begins
//! ([`super::super::durability::incarnations`]) before the first command goes to the promoted server.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool_redis::redis::{
    Client, ConnectionInfo, ErrorKind, Pipeline, RedisConnectionInfo, RedisError, RedisResult, Value,
    aio::MultiplexedConnection,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tracing::{info, warn};

use super::{
    super::{
        Result, StoreError,
        deployment::{Deployment, DeploymentKind, HostPort},
        durability::incarnations::Incarnations,
    },
    server::{field, is_login_error, timeouts},
    slot_map::SlotMap,
};

/// Minimum time between two refreshes. An outage lasts longer than this, so asking more often finds nothing new.
const REFRESH_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// How long to wait for further answers after the first one.
const LATE_ANSWERS_WAIT: Duration = Duration::from_millis(100);

/// Why the slot map is refreshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefreshReason {
    /// A periodic check.
    Poll,
    /// A server did not answer, or redirected a command: the slot map has changed or is about to.
    Suspected,
}

/// Finds the servers of a deployment. All clones of a store share one, so that all see a change at the same moment.
pub(super) struct Discovery {
    deployment: Arc<Deployment>,
    timeout: Duration,
    incarnations: Arc<Incarnations>,
    /// Empty until a node has answered.
    slot_map: RwLock<Arc<SlotMap>>,
    /// Set when a request fails; the next request refreshes the slot map first.
    is_stale: AtomicBool,
    /// Locked during a refresh, so that only one runs at a time.
    refresh_state: tokio::sync::Mutex<RefreshState>,
}

#[derive(Default)]
struct RefreshState {
    /// End of the last refresh.
    last: Option<Instant>,
    /// Open connections to the nodes or sentinels, for the next refresh.
    connections: HashMap<HostPort, MultiplexedConnection>,
}

impl Discovery {
    pub(super) fn new(deployment: Arc<Deployment>, timeout: Duration, incarnations: Arc<Incarnations>) -> Self {
        let (slot_map, is_stale, refresh_state) = Default::default();
        Self { deployment, timeout, incarnations, slot_map, is_stale, refresh_state }
    }

    /// The slot map, refreshed first if it is empty or marked stale.
    ///
    /// Errors: `OutcomeUnknown` if the slot map is empty and no node answers; `Login` if it is empty and the nodes
    /// reject the user and password.
    pub(super) async fn slot_map(&self) -> Result<Arc<SlotMap>> {
        let current = self.current();
        if current.is_empty() || self.is_stale.load(Ordering::SeqCst) {
            let refreshed = self.refresh(&current, RefreshReason::Suspected, None).await;
            // If the refresh failed, the old map may still be right.
            return if current.is_empty() { refreshed.map(|()| self.current()) } else { Ok(self.current()) };
        }
        Ok(current)
    }

    /// Makes the next request refresh the slot map first.
    pub(super) fn mark_stale(&self) {
        self.is_stale.store(true, Ordering::SeqCst);
    }

    /// Replaces `current` if a node has a newer slot map. `hint`, the node that a redirect names, is asked first.
    ///
    /// Does nothing if another caller has replaced `current` meanwhile, or if the last refresh was less than
    /// [`REFRESH_INTERVAL_MIN`] ago and there is no hint.
    ///
    /// Errors: `OutcomeUnknown` if no node answers; `Login` if the nodes reject the user and password.
    pub(super) async fn refresh(
        &self,
        current: &Arc<SlotMap>,
        reason: RefreshReason,
        hint: Option<HostPort>,
    ) -> Result<()> {
        let mut state = self.refresh_state.lock().await;
        if !Arc::ptr_eq(&self.current(), current) {
            return Ok(());
        }
        let is_recent = state.last.is_some_and(|last| last.elapsed() < REFRESH_INTERVAL_MIN);
        if is_recent && hint.is_none() && !current.is_empty() {
            return Ok(());
        }
        self.is_stale.store(false, Ordering::SeqCst);
        let newer = match hint {
            Some(hint) => match self.find(&mut state, vec![hint], current, reason).await {
                Ok(Some(newer)) => Ok(Some(newer)),
                Ok(None) | Err(_) => self.find(&mut state, self.sources(current), current, reason).await,
            },
            None => self.find(&mut state, self.sources(current), current, reason).await,
        };
        state.last = Some(Instant::now());
        if let Some(newer) = newer? {
            self.adopt(current, newer);
        }
        Ok(())
    }

    fn current(&self) -> Arc<SlotMap> {
        self.slot_map.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The addresses to ask: the sentinels, or the nodes of the current slot map and those of the URL.
    fn sources(&self, current: &SlotMap) -> Vec<HostPort> {
        match &self.deployment.kind {
            DeploymentKind::Sentinel { sentinels, .. } => sentinels.clone(),
            DeploymentKind::One | DeploymentKind::Cluster(_) => {
                let of_url =
                    if let DeploymentKind::Cluster(nodes) = &self.deployment.kind { nodes.as_slice() } else { &[] };
                let mut all: Vec<HostPort> = Vec::new();
                for node in current.masters.iter().chain(&current.replicas).chain(of_url) {
                    if !all.contains(node) {
                        all.push(node.clone());
                    }
                }
                all
            }
        }
    }

    /// Asks all `sources` at once. Returns the first slot map that replaces `current`, or `None` if no answer does.
    ///
    /// Errors: if no source answered, `Login` if any of them rejected the user and password, otherwise
    /// `OutcomeUnknown`.
    async fn find(
        &self,
        state: &mut RefreshState,
        sources: Vec<HostPort>,
        current: &SlotMap,
        reason: RefreshReason,
    ) -> Result<Option<SlotMap>> {
        let mut answers: FuturesUnordered<_> = sources
            .into_iter()
            .map(|node| {
                let connection = state.connections.remove(&node);
                async move {
                    let answer = tokio::time::timeout(self.timeout, self.ask(&node, connection)).await;
                    let late = || RedisError::from((ErrorKind::Io, "no answer in time"));
                    (node, answer.unwrap_or_else(|_| Err(late())))
                }
            })
            .collect();
        let (mut answered, mut failed) = (false, None);
        let mut until = tokio::time::Instant::now() + 2 * self.timeout;
        while let Ok(Some((node, answer))) = tokio::time::timeout_at(until, answers.next()).await {
            match answer {
                Ok((connection, slot_map)) => {
                    state.connections.insert(node, connection);
                    if self.replaces(&slot_map, current, reason) {
                        return Ok(Some(slot_map));
                    }
                    if !answered {
                        (answered, until) = (true, tokio::time::Instant::now() + LATE_ANSWERS_WAIT);
                    }
                }
                Err(error) if is_login_error(&error) => failed = Some(StoreError::Login(format!("{node}: {error}"))),
                // A rejected login is the more useful error: keep it.
                Err(_) if matches!(failed, Some(StoreError::Login(_))) => {}
                Err(error) => {
                    failed = Some(StoreError::OutcomeUnknown(format!("{}: {node}: {error}", self.deployment)));
                }
            }
        }
        match failed {
            Some(failed) if !answered => Err(failed),
            _ => Ok(None),
        }
    }

    /// Asks one node or sentinel, over `connection` if that still works. Returns its slot map and the connection for
    /// the next refresh.
    async fn ask(
        &self,
        node: &HostPort,
        connection: Option<MultiplexedConnection>,
    ) -> RedisResult<(MultiplexedConnection, SlotMap)> {
        if let Some(mut connection) = connection
            && let Ok(slot_map) = self.query_slot_map(node, &mut connection).await
        {
            return Ok((connection, slot_map));
        }
        let info = self.deployment.server_at(node);
        if matches!(self.deployment.kind, DeploymentKind::Sentinel { .. }) {
            // Most sentinels have no password. The others are asked with that of the servers.
            let no_login = info.clone().set_redis_settings(RedisConnectionInfo::default());
            if let Ok(answer) = self.connect_and_ask(node, no_login).await {
                return Ok(answer);
            }
            let settings = info.redis_settings().clone().set_db(0);
            return self.connect_and_ask(node, info.set_redis_settings(settings)).await;
        }
        self.connect_and_ask(node, info).await
    }

    async fn connect_and_ask(
        &self,
        node: &HostPort,
        info: ConnectionInfo,
    ) -> RedisResult<(MultiplexedConnection, SlotMap)> {
        let mut connection =
            Client::open(info)?.get_multiplexed_async_connection_with_config(&timeouts(self.timeout)).await?;
        let slot_map = self.query_slot_map(node, &mut connection).await?;
        Ok((connection, slot_map))
    }

    async fn query_slot_map(&self, node: &HostPort, connection: &mut MultiplexedConnection) -> RedisResult<SlotMap> {
        let unexpected = || RedisError::from((ErrorKind::UnexpectedReturnType, "unexpected answer"));
        let mut pipeline = Pipeline::with_capacity(2);
        if let DeploymentKind::Sentinel { service, .. } = &self.deployment.kind {
            pipeline.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(service);
            pipeline.cmd("SENTINEL").arg("MASTER").arg(service);
            let (master, details): (Option<(String, u16)>, HashMap<String, String>) =
                pipeline.query_async(connection).await?;
            let (host, port) = master.ok_or_else(unexpected)?;
            let epoch = details.get("config-epoch").and_then(|epoch| epoch.parse().ok()).ok_or_else(unexpected)?;
            return Ok(SlotMap::single(HostPort { host, port }, epoch));
        }
        pipeline.cmd("CLUSTER").arg("INFO");
        pipeline.cmd("CLUSTER").arg("SLOTS");
        let (info, slots): (String, Value) = pipeline.query_async(connection).await?;
        if field(&info, "cluster_state") != "ok" {
            return Err((ErrorKind::Client, "the node reports that the cluster is down").into());
        }
        let epoch = field(&info, "cluster_current_epoch").parse().unwrap_or(0);
        SlotMap::parse(slots, node, epoch).filter(|slot_map| !slot_map.is_empty()).ok_or_else(unexpected)
    }

    /// Whether `slot_map`, the answer of a node, replaces `current`.
    fn replaces(&self, slot_map: &SlotMap, current: &SlotMap, reason: RefreshReason) -> bool {
        if current.is_empty() || slot_map.epoch > current.epoch {
            return true;
        }
        // Slots can move and servers can change their address within one epoch. Such a change is accepted only after a
        // redirect or a failure has shown that the current map is wrong.
        let same_epoch = slot_map.epoch == current.epoch;
        // Sentinels that were set up again count epochs from 0, so theirs may be lower.
        let may_be_reset = matches!(self.deployment.kind, DeploymentKind::Sentinel { .. });
        reason == RefreshReason::Suspected && (same_epoch || may_be_reset) && !slot_map.same_assignment(current)
    }

    fn adopt(&self, current: &SlotMap, newer: SlotMap) {
        let gone = current.masters.iter().any(|master| !newer.masters.contains(master));
        let mut slot_map = self.slot_map.write().unwrap_or_else(PoisonError::into_inner);
        if !current.is_empty() && (gone || newer.epoch > current.epoch) {
            // Begun before the new map is visible, so that no command reaches a promoted server in the old incarnation.
            self.incarnations.begin_incarnation();
            let masters: Vec<String> = newer.masters.iter().map(HostPort::to_string).collect();
            if gone {
                warn!(masters = masters.join(", "), "a redis master was replaced");
            } else {
                info!(masters = masters.join(", "), epoch = newer.epoch, "the redis servers have a new epoch");
            }
        }
        *slot_map = Arc::new(newer);
    }
}
