//! Many servers that change places: the nodes of a cluster, or the master of a service that sentinels watch.
//!
//! A pipeline is split by the servers that have its keys, its pieces go out side by side, and the answers are put back in
//! order. A server that does not have a key sends it on (`MOVED`, `ASK`), and has certainly done nothing: the command goes
//! where it was told. What passes by itself (`TRYAGAIN`, `CLUSTERDOWN`, `READONLY`, …) is left to the caller, who tries again
//! as with any Redis that is away.
//!
//! The crate's own cluster connection is not used: see docs/architecture.md.

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
    discovery::{Discovery, Why},
    server::Server,
    slot_map::SlotMap,
};

/// How often a command is sent on before its caller is told to try again.
const SENT_ON_MAX: usize = 4;

/// How long a node may need to hear of what another one did, a tenth of a second at most as a rule.
const GOSSIP: Duration = Duration::from_millis(25);

/// Servers by their place, as long as they are in a slot_map.
#[derive(Default)]
struct Known {
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
    pools: Arc<Mutex<Known>>,
    /// The same servers, each over one connection.
    kept: Option<Arc<Mutex<Known>>>,
}

impl Router {
    pub(super) fn new(deployment: Arc<Deployment>, address: Arc<Address>, incarnations: Arc<Incarnations>) -> Self {
        let discovery = Arc::new(Discovery::new(deployment.clone(), address.timeout, incarnations.clone()));
        Self { deployment, address, incarnations, discovery, pools: Arc::default(), kept: None }
    }

    /// The same servers over connections of its own.
    pub(super) fn reopened(&self) -> Self {
        Self { pools: Arc::default(), kept: None, ..self.clone() }
    }

    /// The same servers over one connection to each.
    pub(super) fn keeping_a_connection(&self) -> Self {
        Self { kept: Some(Arc::default()), ..self.clone() }
    }

    /// Asks whether a server has taken the place of another.
    pub(super) async fn look(&self) {
        if let Ok(slot_map) = self.discovery.slot_map().await {
            // Where nobody answers, commands will tell.
            let _ = self.discovery.ask(&slot_map, Why::Look, None).await;
        }
    }

    /// As [`Server::send`], each command to the server that has its key.
    pub(super) async fn send(
        &self,
        incarnation: u64,
        pipeline: &Pipeline,
    ) -> std::result::Result<Vec<Value>, SendError> {
        let slot_map = self.discovery.slot_map().await.map_err(SendError::Store)?;
        let answers = match slot_map.master_for_all(pipeline) {
            Some(master) => {
                let sent = self.server(&slot_map, &slot_map.masters[master])?.send(incarnation, pipeline).await;
                match self.noticing(sent) {
                    Err(SendError::Unreached(reason)) => return Err(self.elsewhere(incarnation, reason).await),
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
        if pipeline.is_transaction() || !answers.iter().any(is_sent_on) {
            return Ok(answers);
        }
        self.send_on(incarnation, pipeline, answers, slot_map).await
    }

    /// As [`Server::send`], to every master. The answers are those of one after the other.
    pub(super) async fn send_to_all(
        &self,
        incarnation: u64,
        pipeline: &Pipeline,
    ) -> std::result::Result<Vec<Value>, SendError> {
        let slot_map = self.discovery.slot_map().await.map_err(SendError::Store)?;
        let servers = slot_map.masters.iter().map(|place| self.server(&slot_map, place));
        let servers = servers.collect::<std::result::Result<Vec<_>, _>>()?;
        let sent = join_all(servers.iter().map(|server| server.send(incarnation, pipeline))).await;
        let mut answers = Vec::new();
        for sent in sent {
            answers.extend(self.noticing(sent).map_err(|error| partly(error, servers.len()))?);
        }
        Ok(answers)
    }

    /// As [`Server::fence`], for the servers that have `keys`, or for all. `fence` makes keys: one is taken that the server has.
    pub(super) async fn wait_durable(
        &self,
        incarnation: u64,
        keys: Option<&[String]>,
        fence: impl Fn(u32) -> String,
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
        let mut fences = Vec::with_capacity(masters.len());
        for master in masters {
            let key = (0..).map(&fence).find(|key| slot_map.master_of(key.as_bytes()) == Some(master));
            fences.push((self.server(&slot_map, &slot_map.masters[master])?, key.unwrap_or_default()));
        }
        let n_fences = fences.len();
        let waited = fences.iter().map(|(server, key)| server.wait_durable(incarnation, key, durability, within));
        for waited in join_all(waited).await {
            self.noticing(waited).map_err(|error| partly(error, n_fences))?;
        }
        Ok(())
    }

    /// Sends commands, numbered, to the servers that `slot_map` says have their keys, and puts the answers in their places.
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
                self.discovery.doubt();
                return Err(SendError::Store(StoreError::OutcomeUnknown(
                    "a slot of the cluster is served by nobody".into(),
                )));
            };
            pieces[master].0.push(*number);
            pieces[master].1.add_command((*command).clone());
        }
        let mut sendings = Vec::new();
        for ((numbers, pipeline), place) in pieces.iter().zip(&slot_map.masters) {
            if !numbers.is_empty() {
                sendings.push((numbers, pipeline, self.server(slot_map, place)?));
            }
        }
        let n_pieces = sendings.len();
        let sent = join_all(sendings.iter().map(|(_, pipeline, server)| server.send(incarnation, pipeline))).await;
        for ((numbers, ..), sent) in sendings.iter().zip(sent) {
            let values = self.noticing(sent).map_err(|error| partly(error, n_pieces))?;
            for (number, value) in numbers.iter().zip(values) {
                answers[*number] = value;
            }
        }
        Ok(())
    }

    /// Sends commands to where servers that do not have their keys sent them on.
    async fn send_on(
        &self,
        incarnation: u64,
        pipeline: &Pipeline,
        mut answers: Vec<Value>,
        mut slot_map: Arc<SlotMap>,
    ) -> std::result::Result<Vec<Value>, SendError> {
        for attempt in 0..SENT_ON_MAX {
            let (mut moved, mut asked, mut told) = (Vec::new(), Vec::new(), None);
            for (number, command) in pipeline.cmd_iter().enumerate() {
                match SentOn::read(&answers[number], slot_map.masters.first()) {
                    Some(SentOn::Moved(to)) => {
                        told = to.or(told);
                        moved.push((number, command));
                    }
                    Some(SentOn::Ask(to)) => asked.push((number, command, to)),
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
                answers[number] = self.noticing(sent).map_err(after_others)?.pop().unwrap_or_default();
            }
            if !moved.is_empty() {
                if attempt > 0 {
                    tokio::time::sleep(GOSSIP).await;
                }
                self.discovery.ask(&slot_map, Why::Doubt, told).await.map_err(SendError::Store)?;
                slot_map = self.discovery.slot_map().await.map_err(SendError::Store)?;
                self.send_pieces(incarnation, &moved, &slot_map, &mut answers).await.map_err(after_others)?;
            }
        }
        Ok(answers)
    }

    /// Nothing was sent, for this reason: if another server has taken the place of that one, it can be sent there at once.
    async fn elsewhere(&self, incarnation: u64, reason: String) -> SendError {
        match self.discovery.slot_map().await {
            Ok(_) if self.incarnations.newest() != incarnation => SendError::NewIncarnation,
            _ => SendError::Unreached(reason),
        }
    }

    /// Doubts the slot_map where what was sent says that it may not hold.
    fn noticing<T: Answers>(&self, sent: std::result::Result<T, SendError>) -> std::result::Result<T, SendError> {
        let doubtful = match &sent {
            Ok(answers) => answers.are_doubtful(),
            Err(SendError::NewIncarnation) => false,
            Err(SendError::Redis(error)) => !matches!(error.kind(), ErrorKind::Server(_)) || is_doubtful(error.code()),
            Err(SendError::Unreached(_) | SendError::Login(_)) => true,
            Err(SendError::Store(error)) => matches!(error, StoreError::OutcomeUnknown(_)),
        };
        if doubtful {
            self.discovery.doubt();
        }
        sent
    }

    /// The server at `place`.
    fn server(&self, slot_map: &Arc<SlotMap>, place: &HostPort) -> std::result::Result<Server, SendError> {
        let pooled = || {
            known(&self.pools, slot_map, place, || {
                Server::new(self.deployment.server_at(place), &self.address, self.incarnations.clone(), true)
            })
        };
        let server = match &self.kept {
            Some(kept) => known(kept, slot_map, place, || Ok(pooled()?.keeping_a_connection())),
            None => pooled(),
        };
        server.map_err(SendError::Store)
    }
}

/// The server at `place` among those that are known, or a new one. Those that have left the slot_map are forgotten.
fn known(
    all: &Mutex<Known>,
    slot_map: &Arc<SlotMap>,
    place: &HostPort,
    new: impl FnOnce() -> Result<Server>,
) -> Result<Server> {
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    if !Arc::ptr_eq(&all.slot_map, slot_map) && slot_map.epoch >= all.slot_map.epoch {
        all.slot_map = slot_map.clone();
        all.servers.retain(|place, _| slot_map.masters.contains(place));
    }
    if let Some(server) = all.servers.get(place) {
        return Ok(server.clone());
    }
    let server = new()?;
    all.servers.insert(place.clone(), server.clone());
    Ok(server)
}

/// Where a server that does not have a key sends its command.
enum SentOn {
    /// Its slot is there; `None` if the server does not say where.
    Moved(Option<HostPort>),
    /// This key is there already, and its slot will be.
    Ask(HostPort),
}

impl SentOn {
    /// `asked`: a node whose host is that of a place without one.
    fn read(answer: &Value, asked: Option<&HostPort>) -> Option<Self> {
        if !is_sent_on(answer) {
            return None;
        }
        let error = answer.clone().extract_error().err()?;
        let place = error.redirect_node().and_then(|(place, _)| {
            let (host, port) = place.rsplit_once(':')?;
            let host = if host.is_empty() { asked?.host.clone() } else { host.to_owned() };
            Some(HostPort { host, port: port.parse().ok()? })
        });
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::Ask) => place.map(Self::Ask),
            _ => Some(Self::Moved(place)),
        }
    }
}

fn is_sent_on(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error)
             if matches!(error.kind(), Some(ServerErrorKind::Moved | ServerErrorKind::Ask)))
}

/// What says that a server is not what it was taken for.
fn is_doubtful(code: Option<&str>) -> bool {
    matches!(code, Some("READONLY" | "CLUSTERDOWN" | "MASTERDOWN" | "MOVED"))
}

/// What came of a round trip.
trait Answers {
    /// They say that the slot_map may not hold.
    fn are_doubtful(&self) -> bool;
}

impl Answers for Vec<Value> {
    fn are_doubtful(&self) -> bool {
        // Who is sent on asks in any case.
        self.iter().any(|answer| {
            matches!(answer, Value::ServerError(error) if error.code() != "MOVED" && is_doubtful(Some(error.code())))
        })
    }
}

impl Answers for () {
    fn are_doubtful(&self) -> bool {
        false
    }
}

/// An error of one of `n` pieces: that nothing was sent can only be said where there is one.
fn partly(error: SendError, n: usize) -> SendError {
    if n > 1 { after_others(error) } else { error }
}

/// An error after other pieces were sent.
fn after_others(error: SendError) -> SendError {
    match error {
        SendError::NewIncarnation => SendError::Store(incarnations::ended()),
        SendError::Unreached(reason) | SendError::Login(reason) => SendError::Store(StoreError::OutcomeUnknown(reason)),
        error @ (SendError::Store(_) | SendError::Redis(_)) => error,
    }
}
