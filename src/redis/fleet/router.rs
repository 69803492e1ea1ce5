//! Routes commands to the masters of a cluster, or to the master of a service that sentinels watch.
//!
//! A pipeline is split by the masters of its keys, the pieces are sent concurrently, and the answers are put back in
//! order. `MOVED` and `ASK` are followed: a server that redirects a command has certainly not executed it. Transient
//! errors (`TRYAGAIN`, `CLUSTERDOWN`, `READONLY`, …) are returned to the caller, which retries as in any outage of
//! Redis.
//!
//! The cluster connection of the `redis` crate is not used: see docs/architecture.md.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use deadpool_redis::redis::{Cmd, ErrorKind, Pipeline, ServerErrorKind, Value};
use futures_util::future::join_all;

use super::{
    super::{
        Result, StoreError,
        deployment::{Deployment, HostPort},
        durability::incarnations::{self, Incarnations},
    },
    Address, Durability, SendError,
    discovery::{Discovery, RefreshReason},
    server::Server,
    slot_map::SlotMap,
};

/// Rounds of redirects to follow. After that the caller gets the redirect, a transient error.
const REDIRECTS_MAX: usize = 4;

/// Wait before each round of redirects after the first, for the nodes to learn of a change. That usually takes less
/// than 100 ms.
const GOSSIP_WAIT: Duration = Duration::from_millis(25);

/// The servers of a slot map, by address. Created when first needed, removed when a newer slot map lacks them.
#[derive(Default)]
struct ServerCache {
    slot_map: Arc<SlotMap>,
    servers: HashMap<HostPort, Server>,
}

/// The servers of a deployment. Cheap to clone.
#[derive(Clone)]
pub(super) struct Router {
    deployment: Arc<Deployment>,
    address: Arc<Address>,
    incarnations: Arc<Incarnations>,
    discovery: Arc<Discovery>,
    pools: Arc<Mutex<ServerCache>>,
    /// If set, the same servers over one connection to each.
    pinned: Option<Arc<Mutex<ServerCache>>>,
}

impl Router {
    pub(super) fn new(deployment: Arc<Deployment>, address: Arc<Address>, incarnations: Arc<Incarnations>) -> Self {
        let discovery = Arc::new(Discovery::new(deployment.clone(), address.timeout, incarnations.clone()));
        Self { deployment, address, incarnations, discovery, pools: Arc::default(), pinned: None }
    }

    /// The same servers over new connections.
    pub(super) fn with_own_connections(&self) -> Self {
        Self { pools: Arc::default(), pinned: None, ..self.clone() }
    }

    /// The same servers over one connection to each.
    pub(super) fn with_pinned_connection(&self) -> Self {
        Self { pinned: Some(Arc::default()), ..self.clone() }
    }

    /// Checks whether a failover happened. If so, a new incarnation begins.
    pub(super) async fn check_failover(&self) {
        if let Ok(slot_map) = self.discovery.slot_map().await {
            // An error here is not reported: if no server answers, the next command fails too.
            let _ = self.discovery.refresh(&slot_map, RefreshReason::Poll, None).await;
        }
    }

    /// As [`super::Servers::send`], each command to the master of its key.
    pub(super) async fn send(
        &self,
        incarnation: u64,
        pipeline: &Pipeline,
    ) -> std::result::Result<Vec<Value>, SendError> {
        let slot_map = self.discovery.slot_map().await.map_err(SendError::Store)?;
        let answers = match slot_map.master_for_all(pipeline) {
            Some(master) => {
                let sent = self.server(&slot_map, &slot_map.masters[master])?.send(incarnation, pipeline).await;
                match self.checked(sent) {
                    Err(SendError::Unreached(reason)) => return Err(self.after_unreached(incarnation, reason).await),
                    sent => sent?,
                }
            }
            None => {
                let all: Vec<(usize, &Cmd)> = pipeline.cmd_iter().enumerate().collect();
                let mut answers = vec![Value::Nil; all.len()];
                self.send_pieces(incarnation, &all, &slot_map, &mut answers).await?;
                answers
            }
        };
        if pipeline.is_transaction() || !answers.iter().any(is_redirect) {
            return Ok(answers);
        }
        self.follow_redirects(incarnation, pipeline, answers, slot_map).await
    }

    /// As [`super::Servers::send_to_all`].
    pub(super) async fn send_to_all(
        &self,
        incarnation: u64,
        pipeline: &Pipeline,
    ) -> std::result::Result<Vec<Value>, SendError> {
        let slot_map = self.discovery.slot_map().await.map_err(SendError::Store)?;
        let servers = slot_map.masters.iter().map(|node| self.server(&slot_map, node));
        let servers = servers.collect::<std::result::Result<Vec<_>, _>>()?;
        let sent = join_all(servers.iter().map(|server| server.send(incarnation, pipeline))).await;
        let mut answers = Vec::new();
        for sent in sent {
            answers.extend(self.checked(sent).map_err(|error| of_several(error, servers.len()))?);
        }
        Ok(answers)
    }

    /// As [`super::Servers::wait_durable`]. For each master, `wait_key` is called with 0, 1, … until it returns a key
    /// of that master.
    pub(super) async fn wait_durable(
        &self,
        incarnation: u64,
        keys: Option<&[String]>,
        wait_key: impl Fn(u32) -> String,
        durability: Durability,
        within: Duration,
    ) -> std::result::Result<(), SendError> {
        let slot_map = self.discovery.slot_map().await.map_err(SendError::Store)?;
        let mut masters: Vec<usize> = match keys {
            Some(keys) => keys.iter().filter_map(|key| slot_map.master_of(key.as_bytes())).collect(),
            None => (0..slot_map.masters.len()).collect(),
        };
        masters.sort_unstable();
        masters.dedup();
        let mut waits = Vec::with_capacity(masters.len());
        for master in masters {
            let key = (0..).map(&wait_key).find(|key| slot_map.master_of(key.as_bytes()) == Some(master));
            waits.push((self.server(&slot_map, &slot_map.masters[master])?, key.unwrap_or_default()));
        }
        let n_waits = waits.len();
        let waited = waits.iter().map(|(server, key)| server.wait_durable(incarnation, key, durability, within));
        for waited in join_all(waited).await {
            self.checked(waited).map_err(|error| of_several(error, n_waits))?;
        }
        Ok(())
    }

    /// Sends each command to the master of its key in `slot_map`, and stores its answer in `answers` at the number of
    /// the command.
    async fn send_pieces(
        &self,
        incarnation: u64,
        commands: &[(usize, &Cmd)],
        slot_map: &Arc<SlotMap>,
        answers: &mut [Value],
    ) -> std::result::Result<(), SendError> {
        let mut pieces: Vec<(Vec<usize>, Pipeline)> =
            slot_map.masters.iter().map(|_| (Vec::new(), Pipeline::new())).collect();
        for (number, command) in commands {
            let Some(master) = slot_map.master_for(command) else {
                self.discovery.mark_stale();
                return Err(SendError::Store(StoreError::OutcomeUnknown(
                    "no master serves a slot of the cluster".into(),
                )));
            };
            pieces[master].0.push(*number);
            pieces[master].1.add_command((*command).clone());
        }
        let mut requests = Vec::new();
        for ((numbers, pipeline), node) in pieces.iter().zip(&slot_map.masters) {
            if !numbers.is_empty() {
                requests.push((numbers, pipeline, self.server(slot_map, node)?));
            }
        }
        let n_pieces = requests.len();
        let sent = join_all(requests.iter().map(|(_, pipeline, server)| server.send(incarnation, pipeline))).await;
        for ((numbers, ..), sent) in requests.iter().zip(sent) {
            let values = self.checked(sent).map_err(|error| of_several(error, n_pieces))?;
            for (number, value) in numbers.iter().zip(values) {
                answers[*number] = value;
            }
        }
        Ok(())
    }

    /// Sends each command whose answer is a redirect to the server that the redirect names.
    async fn follow_redirects(
        &self,
        incarnation: u64,
        pipeline: &Pipeline,
        mut answers: Vec<Value>,
        mut slot_map: Arc<SlotMap>,
    ) -> std::result::Result<Vec<Value>, SendError> {
        for attempt in 0..REDIRECTS_MAX {
            let (mut moved, mut asked, mut hint) = (Vec::new(), Vec::new(), None);
            for (number, command) in pipeline.cmd_iter().enumerate() {
                match Redirect::read(&answers[number], slot_map.masters.first()) {
                    Some(Redirect::Moved(to)) => {
                        hint = to.or(hint);
                        moved.push((number, command));
                    }
                    Some(Redirect::Ask(to)) => asked.push((number, command, to)),
                    None => {}
                }
            }
            if moved.is_empty() && asked.is_empty() {
                break;
            }
            for (number, command, to) in asked {
                let mut once = Pipeline::with_capacity(2);
                once.cmd("ASKING").add_command(command.clone());
                let sent = self.server(&slot_map, &to)?.send(incarnation, &once).await;
                answers[number] = self.checked(sent).map_err(maybe_applied)?.pop().unwrap_or_default();
            }
            if !moved.is_empty() {
                if attempt > 0 {
                    tokio::time::sleep(GOSSIP_WAIT).await;
                }
                self.discovery.refresh(&slot_map, RefreshReason::Suspected, hint).await.map_err(SendError::Store)?;
                slot_map = self.discovery.slot_map().await.map_err(SendError::Store)?;
                self.send_pieces(incarnation, &moved, &slot_map, &mut answers).await.map_err(maybe_applied)?;
            }
        }
        Ok(answers)
    }

    /// The error of a pipeline that could not be sent: `NewIncarnation` if a refresh finds a failover, so that the
    /// caller sends it to the new master at once; `Unreached` otherwise.
    async fn after_unreached(&self, incarnation: u64, reason: String) -> SendError {
        match self.discovery.slot_map().await {
            Ok(_) if self.incarnations.newest() != incarnation => SendError::NewIncarnation,
            _ => SendError::Unreached(reason),
        }
    }

    /// Marks the slot map stale if `sent` shows that it may be wrong, and returns `sent`.
    fn checked<T: StaleMapSign>(&self, sent: std::result::Result<T, SendError>) -> std::result::Result<T, SendError> {
        let stale = match &sent {
            Ok(answers) => answers.shows_stale_map(),
            Err(SendError::NewIncarnation) => false,
            Err(SendError::Redis(error)) => {
                !matches!(error.kind(), ErrorKind::Server(_)) || is_stale_code(error.code())
            }
            Err(SendError::Unreached(_) | SendError::Login(_)) => true,
            Err(SendError::Store(error)) => matches!(error, StoreError::OutcomeUnknown(_)),
        };
        if stale {
            self.discovery.mark_stale();
        }
        sent
    }

    /// The server at `node`, with pooled or pinned connections.
    fn server(&self, slot_map: &Arc<SlotMap>, node: &HostPort) -> std::result::Result<Server, SendError> {
        let pooled = || {
            cached_server(&self.pools, slot_map, node, || {
                Server::new(self.deployment.server_at(node), &self.address, self.incarnations.clone(), true)
            })
        };
        let server = match &self.pinned {
            Some(pinned) => cached_server(pinned, slot_map, node, || Ok(pooled()?.with_pinned_connection())),
            None => pooled(),
        };
        server.map_err(SendError::Store)
    }
}

/// The cached server at `node`, or a new one. Drops the servers that are no longer in `slot_map`.
fn cached_server(
    cache: &Mutex<ServerCache>,
    slot_map: &Arc<SlotMap>,
    node: &HostPort,
    new: impl FnOnce() -> Result<Server>,
) -> Result<Server> {
    let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
    if !Arc::ptr_eq(&cache.slot_map, slot_map) && slot_map.epoch >= cache.slot_map.epoch {
        cache.slot_map = slot_map.clone();
        cache.servers.retain(|node, _| slot_map.masters.contains(node));
    }
    if let Some(server) = cache.servers.get(node) {
        return Ok(server.clone());
    }
    let server = new()?;
    cache.servers.insert(node.clone(), server.clone());
    Ok(server)
}

/// Where a server redirects a command whose key it does not own.
enum Redirect {
    /// The slot has moved to this node; `None` if the server does not name it.
    Moved(Option<HostPort>),
    /// The slot is moving, and this key is at this node already.
    Ask(HostPort),
}

impl Redirect {
    /// Parses the redirect in `answer`; `None` if it is not one. An address without a host gets the host of `asked`.
    fn read(answer: &Value, asked: Option<&HostPort>) -> Option<Self> {
        if !is_redirect(answer) {
            return None;
        }
        let error = answer.clone().extract_error().err()?;
        let node = error.redirect_node().and_then(|(node, _)| {
            let (host, port) = node.rsplit_once(':')?;
            let host = if host.is_empty() { asked?.host.clone() } else { host.to_owned() };
            Some(HostPort { host, port: port.parse().ok()? })
        });
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::Ask) => node.map(Self::Ask),
            _ => Some(Self::Moved(node)),
        }
    }
}

fn is_redirect(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error)
             if matches!(error.kind(), Some(ServerErrorKind::Moved | ServerErrorKind::Ask)))
}

/// Whether an error code shows that the server is not the master of the key.
fn is_stale_code(code: Option<&str>) -> bool {
    matches!(code, Some("READONLY" | "CLUSTERDOWN" | "MASTERDOWN" | "MOVED"))
}

/// The result of a round trip.
trait StaleMapSign {
    /// Whether the result shows that the slot map may be wrong.
    fn shows_stale_map(&self) -> bool;
}

impl StaleMapSign for Vec<Value> {
    fn shows_stale_map(&self) -> bool {
        // MOVED is left out: following it refreshes the slot map anyway.
        self.iter().any(|answer| {
            matches!(answer, Value::ServerError(error) if error.code() != "MOVED" && is_stale_code(Some(error.code())))
        })
    }
}

impl StaleMapSign for () {
    fn shows_stale_map(&self) -> bool {
        false
    }
}

/// The error of one of `n` pieces. With several pieces, others may have been sent, so the error must not claim that
/// nothing was sent.
fn of_several(error: SendError, n: usize) -> SendError {
    if n > 1 { maybe_applied(error) } else { error }
}

/// Replaces the errors that claim that nothing was sent, because other pieces were.
fn maybe_applied(error: SendError) -> SendError {
    match error {
        SendError::NewIncarnation => SendError::Store(incarnations::ended()),
        SendError::Unreached(reason) | SendError::Login(reason) => SendError::Store(StoreError::OutcomeUnknown(reason)),
        error @ (SendError::Store(_) | SendError::Redis(_)) => error,
    }
}
