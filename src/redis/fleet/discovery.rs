//! Who has what, where servers change places: asks the nodes of a cluster, or the sentinels of a service.
//!
//! What they say is taken by its epoch, which rises with each failover: the word of one that was cut off from the others
//! never replaces that of one that was not. When a server has taken the place of another, a new incarnation begins
//! ([`super::super::durability::incarnations`]) before the first command goes to it.

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
    server::{field, is_login, patience},
    slot_map::SlotMap,
};

/// Between two questions of the same kind: a server that is away is away for longer.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How long others may take to answer after the first one did.
const OTHERS_WAIT: Duration = Duration::from_millis(100);

/// Why servers are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It is time to look.
    Look,
    /// A server was not there, or was not the one: things have changed, or will.
    Doubt,
}

/// Finds the servers of a deployment. One for all stores of a process, so that all see a change at the same moment.
pub(super) struct Discovery {
    deployment: Arc<Deployment>,
    timeout: Duration,
    incarnations: Arc<Incarnations>,
    slot_map: RwLock<Arc<SlotMap>>,
    doubted: AtomicBool,
    asking: tokio::sync::Mutex<Asked>,
}

/// What questions leave behind.
#[derive(Default)]
struct Asked {
    last: Option<Instant>,
    connections: HashMap<HostPort, MultiplexedConnection>,
}

impl Discovery {
    pub(super) fn new(deployment: Arc<Deployment>, timeout: Duration, incarnations: Arc<Incarnations>) -> Self {
        let (slot_map, doubted, asking) = Default::default();
        Self { deployment, timeout, incarnations, slot_map, doubted, asking }
    }

    /// What is known, after asking where that is doubted.
    ///
    /// Errors: `OutcomeUnknown` if nothing is known, and nobody answers; `Login` if they do not let us in.
    pub(super) async fn slot_map(&self) -> Result<Arc<SlotMap>> {
        let known = self.known();
        if known.is_unknown() || self.doubted.load(Ordering::SeqCst) {
            let asked = self.ask(&known, Why::Doubt, None).await;
            // Where others are away, what was known may still be good.
            return if known.is_unknown() { asked.map(|()| self.known()) } else { Ok(self.known()) };
        }
        Ok(known)
    }

    /// A server failed: before the next command the others are asked.
    pub(super) fn doubt(&self) {
        self.doubted.store(true, Ordering::SeqCst);
    }

    /// Asks whether `known` still holds; `told` is who should know.
    ///
    /// Errors: `OutcomeUnknown` if nobody answers; `Login` if they do not let us in.
    pub(super) async fn ask(&self, known: &Arc<SlotMap>, why: Why, told: Option<HostPort>) -> Result<()> {
        let mut asked = self.asking.lock().await;
        if !Arc::ptr_eq(&self.known(), known) {
            return Ok(());
        }
        let lately = asked.last.is_some_and(|last| last.elapsed() < ASK_AGAIN);
        if lately && told.is_none() && !known.is_unknown() {
            return Ok(());
        }
        self.doubted.store(false, Ordering::SeqCst);
        let found = match told {
            Some(told) => match self.find(&mut asked, vec![told], known, why).await {
                Ok(Some(found)) => Ok(Some(found)),
                Ok(None) | Err(_) => self.find(&mut asked, self.witnesses(known), known, why).await,
            },
            None => self.find(&mut asked, self.witnesses(known), known, why).await,
        };
        asked.last = Some(Instant::now());
        if let Some(found) = found? {
            self.adopt(known, found);
        }
        Ok(())
    }

    fn known(&self) -> Arc<SlotMap> {
        self.slot_map.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who can be asked.
    fn witnesses(&self, known: &SlotMap) -> Vec<HostPort> {
        match &self.deployment.kind {
            DeploymentKind::Sentinel { sentinels, .. } => sentinels.clone(),
            DeploymentKind::One | DeploymentKind::Cluster(_) => {
                let first =
                    if let DeploymentKind::Cluster(nodes) = &self.deployment.kind { nodes.as_slice() } else { &[] };
                let mut all: Vec<HostPort> = Vec::new();
                for place in known.masters.iter().chain(&known.replicas).chain(first) {
                    if !all.contains(place) {
                        all.push(place.clone());
                    }
                }
                all
            }
        }
    }

    /// Asks all `witnesses` at once, and takes the first that brings news.
    async fn find(
        &self,
        asked: &mut Asked,
        witnesses: Vec<HostPort>,
        known: &SlotMap,
        why: Why,
    ) -> Result<Option<SlotMap>> {
        let mut answers: FuturesUnordered<_> = witnesses
            .into_iter()
            .map(|place| {
                let connection = asked.connections.remove(&place);
                async move {
                    let answer = tokio::time::timeout(self.timeout, self.answer(&place, connection)).await;
                    let late = || RedisError::from((ErrorKind::Io, "no answer in time"));
                    (place, answer.unwrap_or_else(|_| Err(late())))
                }
            })
            .collect();
        let (mut heard, mut failed) = (false, None);
        let mut until = tokio::time::Instant::now() + 2 * self.timeout;
        while let Ok(Some((place, answer))) = tokio::time::timeout_at(until, answers.next()).await {
            match answer {
                Ok((connection, slot_map)) => {
                    asked.connections.insert(place, connection);
                    if self.is_news(&slot_map, known, why) {
                        return Ok(Some(slot_map));
                    }
                    if !heard {
                        (heard, until) = (true, tokio::time::Instant::now() + OTHERS_WAIT);
                    }
                }
                Err(error) if is_login(&error) => failed = Some(StoreError::Login(format!("{place}: {error}"))),
                // That one of them refused the login says more.
                Err(_) if matches!(failed, Some(StoreError::Login(_))) => {}
                Err(error) => {
                    failed = Some(StoreError::OutcomeUnknown(format!("{}: {place}: {error}", self.deployment)));
                }
            }
        }
        match failed {
            Some(failed) if !heard => Err(failed),
            _ => Ok(None),
        }
    }

    /// What one witness says, and the connection over which it did.
    async fn answer(
        &self,
        place: &HostPort,
        connection: Option<MultiplexedConnection>,
    ) -> RedisResult<(MultiplexedConnection, SlotMap)> {
        if let Some(mut connection) = connection
            && let Ok(slot_map) = self.question(place, &mut connection).await
        {
            return Ok((connection, slot_map));
        }
        let info = self.deployment.server_at(place);
        if matches!(self.deployment.kind, DeploymentKind::Sentinel { .. }) {
            // Most sentinels want no password; those that do are asked with that of the servers.
            let bare = info.clone().set_redis_settings(RedisConnectionInfo::default());
            if let Ok(answer) = self.first_answer(place, bare).await {
                return Ok(answer);
            }
            let settings = info.redis_settings().clone().set_db(0);
            return self.first_answer(place, info.set_redis_settings(settings)).await;
        }
        self.first_answer(place, info).await
    }

    async fn first_answer(
        &self,
        place: &HostPort,
        info: ConnectionInfo,
    ) -> RedisResult<(MultiplexedConnection, SlotMap)> {
        let mut connection =
            Client::open(info)?.get_multiplexed_async_connection_with_config(&patience(self.timeout)).await?;
        let slot_map = self.question(place, &mut connection).await?;
        Ok((connection, slot_map))
    }

    async fn question(&self, place: &HostPort, connection: &mut MultiplexedConnection) -> RedisResult<SlotMap> {
        let unexpected = || RedisError::from((ErrorKind::UnexpectedReturnType, "an answer that makes no sense"));
        let mut pipeline = Pipeline::with_capacity(2);
        if let DeploymentKind::Sentinel { service, .. } = &self.deployment.kind {
            pipeline.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(service);
            pipeline.cmd("SENTINEL").arg("MASTER").arg(service);
            let (master, details): (Option<(String, u16)>, HashMap<String, String>) =
                pipeline.query_async(connection).await?;
            let (host, port) = master.ok_or_else(unexpected)?;
            let epoch = details.get("config-epoch").and_then(|epoch| epoch.parse().ok()).ok_or_else(unexpected)?;
            return Ok(SlotMap::of_one(HostPort { host, port }, epoch));
        }
        pipeline.cmd("CLUSTER").arg("INFO");
        pipeline.cmd("CLUSTER").arg("SLOTS");
        let (info, slots): (String, Value) = pipeline.query_async(connection).await?;
        if field(&info, "cluster_state") != "ok" {
            return Err((ErrorKind::Client, "it says that the cluster is down").into());
        }
        let epoch = field(&info, "cluster_current_epoch").parse().unwrap_or(0);
        SlotMap::of_slots(slots, place, epoch).filter(|slot_map| !slot_map.is_unknown()).ok_or_else(unexpected)
    }

    fn is_news(&self, slot_map: &SlotMap, known: &SlotMap, why: Why) -> bool {
        if known.is_unknown() || slot_map.epoch > known.epoch {
            return true;
        }
        // In one epoch slots wander from master to master, and servers may change their address: only who was sent away, or
        // found nobody, believes that.
        let same_epoch = slot_map.epoch == known.epoch;
        // Sentinels that were set up anew count from the beginning.
        let anew = matches!(self.deployment.kind, DeploymentKind::Sentinel { .. });
        why == Why::Doubt && (same_epoch || anew) && !slot_map.is_like(known)
    }

    fn adopt(&self, known: &SlotMap, found: SlotMap) {
        let gone = known.masters.iter().any(|master| !found.masters.contains(master));
        let mut slot_map = self.slot_map.write().unwrap_or_else(PoisonError::into_inner);
        if !known.is_unknown() && (gone || found.epoch > known.epoch) {
            // Before anybody can see where to find the other server.
            self.incarnations.changed();
            let masters: Vec<String> = found.masters.iter().map(HostPort::to_string).collect();
            if gone {
                warn!(masters = masters.join(", "), "another redis server took the place of one");
            } else {
                info!(masters = masters.join(", "), epoch = found.epoch, "redis servers changed their parts");
            }
        }
        *slot_map = Arc::new(found);
    }
}
