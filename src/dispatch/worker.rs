//! A worker: holds the leases on its share of the lines, and runs a runner for each.
//!
//! The unit of balance is the line. Workers that list the same lines share them equally: each acquires free lines up
//! to its share, and gives back lines above its share. Runners run on dispatch threads. Each thread has a
//! single-threaded runtime and its own connections, and its lines share no locks.
//!
//! If the process dies: its leases expire after `dispatch.lease`, and other workers acquire the lines.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rand::seq::SliceRandom;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    DispatchSettings, RunnerSignals,
    lanes::campaign::{CampaignLane, CampaignLaneSetup, plans::SendPlans},
    lease::Lease,
    line::runner::{LineStatus, Runner, RunnerSetup},
    roster::{LineGroup, Roster},
    shard::Shard,
};
use crate::{
    domain::{Line, LineId, Lines, SharedTokenKey, UnixMs},
    graph::client::{GraphClient, GraphClientConfig},
    redis::{
        Store, StoreError,
        clock::Clock,
        lines::{LeaseTarget, LineReport},
    },
    telemetry::{
        health::{Health, NotReady},
        metrics,
    },
};

/// How often a worker reads the pulse, which is the delay of a launch, a pause or a new rate.
const PULSE_EVERY: Duration = Duration::from_millis(25);

/// Signals are read at least this often, even if the pulse has not changed.
const SIGNALS_EVERY: Duration = Duration::from_secs(5);

/// Leases are renewed, and free lines acquired, at least this often.
const TICK_MAX: Duration = Duration::from_millis(500);

/// A worker registers its lines at least this often, so that they stay in the registry.
const REGISTER_EVERY: Duration = Duration::from_secs(60);

/// Maximum number of lines that a warning names.
const NAMED_MAX: usize = 10;

/// Why a worker had to stop.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A runner ended without being stopped, which is a bug. The service stops: it does not run on half alive.
    #[error("the runner of line {0} ended unexpectedly")]
    RunnerDied(LineId),
    /// A dispatch thread could not be started.
    #[error("a dispatch thread could not be started: {0}")]
    NoThread(String),
}

/// The number of attempts in flight on each line, for the progress log of a shutdown.
pub type OpenAttempts = Arc<Mutex<BTreeMap<LineId, usize>>>;

/// What a worker needs.
pub struct Worker {
    /// The unique name under which it holds leases.
    pub name: String,
    /// Redis.
    pub store: Store,
    /// Redis' time.
    pub clock: Arc<Clock>,
    /// Every configured line.
    pub lines: Lines,
    /// The settings of dispatch.
    pub settings: DispatchSettings,
    /// How Meta is reached.
    pub graph: GraphClientConfig,
    /// Signs tokens.
    pub token_key: SharedTokenKey,
    /// The number of dispatch threads.
    pub threads: usize,
    /// Where the worker reports whether it is ready.
    pub health: Health,
    /// Where the worker reports its attempts in flight.
    pub open: OpenAttempts,
}

/// The other workers of the installation, and the share of this one.
#[derive(Default)]
struct Peers {
    roster: Roster,
    shares: Vec<LineGroup>,
    registered_at: Option<Instant>,
    /// Workers with a different list that were already logged.
    warned_about: HashSet<String>,
}

struct OwnedLine {
    lease: Arc<Lease>,
    stop: CancellationToken,
    done: oneshot::Receiver<()>,
    status: Arc<Mutex<LineStatus>>,
    /// At the last report, or at the start.
    reported: AcceptedCount,
}

impl OwnedLine {
    fn status(&self) -> LineStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How many messages of a line Meta had accepted at a time.
struct AcceptedCount {
    accepted: u64,
    at: Instant,
}

struct StartRunner {
    line: Line,
    lease: Arc<Lease>,
    stop: CancellationToken,
    done: oneshot::Sender<()>,
    status: Arc<Mutex<LineStatus>>,
}

impl Worker {
    /// Runs until `stop`. Then stops every runner, waits until they have finished, and releases the leases.
    pub async fn run(self, stop: CancellationToken) -> Result<(), WorkerError> {
        let (signals, signals_rx) = watch::channel(Arc::new(RunnerSignals::default()));
        let mut threads = Vec::new();
        for number in 0..self.threads.max(1) {
            threads.push(self.start_thread(number, signals_rx.clone())?);
        }
        let signal_task =
            tokio::spawn(watch_signals(self.store.clone(), self.clock.clone(), self.lines.ids(), signals));
        let result = self.hold_leases(&threads, stop).await;
        signal_task.abort();
        result
    }

    async fn hold_leases(
        &self,
        threads: &[mpsc::UnboundedSender<StartRunner>],
        stop: CancellationToken,
    ) -> Result<(), WorkerError> {
        let tick = TICK_MAX.min(self.settings.lease / 5);
        let mut owned: HashMap<LineId, OwnedLine> = HashMap::new();
        let mut peers = Peers::default();
        loop {
            let stopping = stop.is_cancelled();
            match self.tick(&mut owned, &mut peers, threads, stopping).await {
                Ok(()) => self.health.clear(NotReady::Leases),
                Err(TickError::Store(error)) => {
                    self.health.set(NotReady::Leases);
                    warn!(%error, "leases could not be renewed");
                }
                Err(TickError::Worker(error)) => return Err(error),
            }
            if stopping && owned.is_empty() {
                if let Err(error) = self.store.remove_worker(&self.name).await {
                    warn!(%error, "the other workers will notice later that this one has stopped");
                }
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(if stopping { tick / 10 } else { tick }) => {}
                () = stop.cancelled(), if !stopping => {}
            }
        }
    }

    async fn tick(
        &self,
        owned: &mut HashMap<LineId, OwnedLine>,
        peers: &mut Peers,
        threads: &[mpsc::UnboundedSender<StartRunner>],
        stopping: bool,
    ) -> Result<(), TickError> {
        self.collect_finished(owned).await?;
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) =
            owned.iter().map(|(id, line)| (id.clone(), line.status().in_flight)).collect();
        let now = self.clock.now();
        self.renew(owned).await?;
        if stopping {
            owned.values().for_each(|line| line.stop.cancel());
            return Ok(());
        }
        self.update_peers(peers, now).await?;
        let mut wanted = Vec::new();
        for share in &peers.shares {
            let staying = || owned.iter().filter(|(id, line)| !line.stop.is_cancelled() && share.lines.contains(*id));
            let n = staying().count();
            for (id, line) in staying().take(n.saturating_sub(share.lines_max)) {
                info!(line.id = %id, "line given up to another worker");
                line.stop.cancel();
            }
            if n < share.lines_max {
                wanted.push((share, share.lines_max - n));
            }
        }
        self.take_free_lines(owned, threads, &wanted).await?;
        metrics::lines_owned().set(owned.len() as f64);
        self.report(owned, now).await?;
        Ok(())
    }

    /// Sends the heartbeat of this worker, registers its lines, and computes its share among the live workers.
    async fn update_peers(&self, peers: &mut Peers, now: UnixMs) -> Result<(), StoreError> {
        let every = REGISTER_EVERY.min(self.settings.id_retention / 4);
        // The list goes before the heartbeat: a live worker without a list counts as one of an older version, which
        // lists every line.
        if peers.registered_at.is_none_or(|at| at.elapsed() >= every) {
            self.store.register_lines(&self.name, &self.lines, now.after(self.settings.id_retention)).await?;
            peers.registered_at = Some(Instant::now());
        }
        let live = self.store.worker_heartbeat(&self.name, now, now.after(self.settings.lease)).await?;
        if !live.is_registered {
            // Redis came back empty, or this worker was removed as dead: the list is written again at the next tick.
            peers.registered_at = None;
        }
        if !peers.roster.refresh(&self.store, live.workers).await? && !peers.shares.is_empty() {
            return Ok(());
        }
        peers.shares = peers.roster.shares(&self.lines);
        let differences = peers.roster.differences(&self.lines);
        peers.warned_about.retain(|worker| differences.contains_key(worker));
        for (worker, (only_there, only_here)) in differences {
            if peers.warned_about.insert(worker.clone()) {
                warn!(
                    worker,
                    only_there = summarize(&only_there),
                    only_here = summarize(&only_here),
                    "another worker lists other lines: each line is served by the workers that list it; \
                     unless a change of lines is being rolled out, give all processes the same [[line]] list"
                );
            }
        }
        Ok(())
    }

    /// Releases the leases of runners that have finished.
    async fn collect_finished(&self, owned: &mut HashMap<LineId, OwnedLine>) -> Result<(), TickError> {
        let mut ended = Vec::new();
        for (id, line) in owned.iter_mut() {
            match line.done.try_recv() {
                Ok(()) => ended.push(id.clone()),
                Err(oneshot::error::TryRecvError::Empty) => {}
                Err(oneshot::error::TryRecvError::Closed) => {
                    return Err(TickError::Worker(WorkerError::RunnerDied(id.clone())));
                }
            }
        }
        let mut redis_answers = true;
        for id in ended {
            let Some(line) = owned.remove(&id).filter(|_| redis_answers) else { continue };
            if let Err(error) = self.store.release(&LeaseTarget::Line(id.clone()), &self.name, line.lease.epoch).await {
                warn!(line.id = %id, %error, "leases could not be released: they will expire");
                redis_answers = false;
            }
        }
        Ok(())
    }

    async fn renew(&self, owned: &HashMap<LineId, OwnedLine>) -> Result<(), TickError> {
        let held: Vec<(&LineId, &OwnedLine)> = owned.iter().collect();
        let rights: Vec<(LeaseTarget, u64)> =
            held.iter().map(|(id, line)| (LeaseTarget::Line((*id).clone()), line.lease.epoch)).collect();
        let requested_at = Instant::now();
        let epochs = self.store.acquire(&rights, &self.name, self.settings.lease).await?;
        for ((id, line), epoch) in held.into_iter().zip(epochs) {
            if epoch.is_some() {
                line.lease.renewed(requested_at, self.settings.lease);
            } else {
                warn!(line.id = %id, "the lease was lost");
                line.lease.lost();
            }
        }
        Ok(())
    }

    /// Acquires free lines: for each group, at most the number that goes with it.
    async fn take_free_lines(
        &self,
        owned: &mut HashMap<LineId, OwnedLine>,
        threads: &[mpsc::UnboundedSender<StartRunner>],
        shares: &[(&LineGroup, usize)],
    ) -> Result<(), TickError> {
        let is_wanted = |line: &&Line| {
            !owned.contains_key(&line.id) && shares.iter().any(|(share, _)| share.lines.contains(&line.id))
        };
        let mut others: Vec<&Line> = self.lines.iter().filter(is_wanted).collect();
        if others.is_empty() {
            return Ok(());
        }
        // Shuffled, so that workers that start together do not all try the same lines first.
        others.shuffle(&mut rand::rng());
        let ids: Vec<LineId> = others.iter().map(|line| line.id.clone()).collect();
        let left = self.store.lease_ttls(&ids).await?;
        let (free, held): (Vec<_>, Vec<_>) = others.into_iter().zip(left).partition(|(_, left)| left.is_none());
        // A lease that lasts longer than any new one was acquired before Redis' clock was set back. Trying to acquire
        // it makes `acquire.lua` shorten it.
        let overlong = held.into_iter().filter(|(_, left)| *left > Some(self.settings.lease));
        let of_share = |&(share, n): &(&LineGroup, usize)| {
            let free = free.iter().filter(|(line, _)| share.lines.contains(&line.id)).take(n);
            free.map(|(line, _)| *line).collect::<Vec<_>>()
        };
        let wanted: Vec<&Line> = shares.iter().flat_map(of_share).chain(overlong.map(|(line, _)| line)).collect();
        let rights: Vec<(LeaseTarget, u64)> =
            wanted.iter().map(|line| (LeaseTarget::Line(line.id.clone()), 0)).collect();
        let requested_at = Instant::now();
        let epochs = self.store.acquire(&rights, &self.name, self.settings.lease).await?;
        for (line, epoch) in wanted.into_iter().zip(epochs) {
            let Some(epoch) = epoch else { continue };
            let lease = Arc::new(Lease::new(epoch, requested_at, self.settings.lease));
            let (done, done_rx) = oneshot::channel();
            let (stop, status) = (CancellationToken::new(), Arc::new(Mutex::new(LineStatus::default())));
            let thread = &threads[owned.len() % threads.len()];
            let order = StartRunner {
                line: line.clone(),
                lease: lease.clone(),
                stop: stop.clone(),
                done,
                status: status.clone(),
            };
            thread.send(order).map_err(|_| WorkerError::RunnerDied(line.id.clone()))?;
            info!(line.id = %line.id, epoch, "line taken");
            let reported = AcceptedCount { accepted: 0, at: requested_at };
            owned.insert(line.id.clone(), OwnedLine { lease, stop, done: done_rx, status, reported });
        }
        Ok(())
    }

    async fn report(&self, owned: &mut HashMap<LineId, OwnedLine>, at: UnixMs) -> Result<(), StoreError> {
        let mut reports = Vec::with_capacity(owned.len());
        for (id, line) in owned {
            let status = line.status();
            let count = AcceptedCount { accepted: status.accepted, at: Instant::now() };
            let before = std::mem::replace(&mut line.reported, count);
            let report = LineReport {
                worker: self.name.clone(),
                rate: status.rate,
                throttled: status.throttled,
                unreachable: status.unreachable,
                path_broken: status.path_broken,
                in_flight: status.in_flight,
                accepted_per_second: status.accepted.saturating_sub(before.accepted) as f64
                    / before.at.elapsed().as_secs_f64().max(0.001),
                features: self.settings.features.iter().map(|feature| (*feature).to_owned()).collect(),
                at,
            };
            reports.push((id.clone(), report));
        }
        self.store.put_reports(&reports, self.settings.lease).await
    }

    fn start_thread(
        &self,
        number: usize,
        signals: watch::Receiver<Arc<RunnerSignals>>,
    ) -> Result<mpsc::UnboundedSender<StartRunner>, WorkerError> {
        let (orders, orders_rx) = mpsc::unbounded_channel();
        let failed = |error: String| WorkerError::NoThread(error);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let graph = GraphClient::new(self.graph.clone()).map_err(|error| failed(error.to_string()))?;
        let shard = ShardThread {
            store: self
                .store
                .with_own_connections()
                .map_err(|error| failed(error.to_string()))?
                .with_pinned_connection(),
            clock: self.clock.clone(),
            settings: self.settings.clone(),
            token_key: self.token_key.clone(),
            graph,
            signals,
        };
        thread::Builder::new()
            .name(format!("dispatch-{number}"))
            .spawn(move || {
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, shard.run(orders_rx));
            })
            .map_err(|error| failed(error.to_string()))?;
        Ok(orders)
    }
}

struct ShardThread {
    store: Store,
    clock: Arc<Clock>,
    settings: DispatchSettings,
    token_key: SharedTokenKey,
    graph: GraphClient,
    signals: watch::Receiver<Arc<RunnerSignals>>,
}

impl ShardThread {
    async fn run(self, mut orders: mpsc::UnboundedReceiver<StartRunner>) {
        let (shard, plans) = (Rc::new(Shard::new(Instant::now())), Rc::new(SendPlans::default()));
        tokio::task::spawn_local(shard.clone().watch());
        while let Some(order) = orders.recv().await {
            let sender = match self.graph.sender(&order.line.id, &order.line.token) {
                Ok(sender) => sender,
                // Dropping the order drops `done`. The worker notices that, and stops the service.
                Err(error) => {
                    warn!(line.id = %order.line.id, %error, "the line cannot send");
                    continue;
                }
            };
            let lane = CampaignLane::new(CampaignLaneSetup {
                store: self.store.clone(),
                clock: self.clock.clone(),
                line: order.line.id.clone(),
                id_retention: self.settings.id_retention,
                features: self.settings.features,
                token_key: self.token_key.clone(),
                plans: plans.clone(),
            });
            let setup = RunnerSetup {
                store: self.store.clone(),
                clock: self.clock.clone(),
                line: order.line,
                sender,
                graph: self.graph.clone(),
                settings: self.settings.clone(),
                lease: order.lease,
                signals: self.signals.clone(),
                stop: order.stop,
                status: order.status,
                shard: shard.clone(),
            };
            let runner = Runner::new(setup, lane);
            tokio::task::spawn_local(async move {
                runner.run().await;
                let _ = order.done.send(());
            });
        }
    }
}

/// Broadcasts to the runners what operators and other workers have changed.
async fn watch_signals(
    store: Store,
    clock: Arc<Clock>,
    lines: Vec<LineId>,
    signals: watch::Sender<Arc<RunnerSignals>>,
) {
    let mut read_at: Option<Instant> = None;
    loop {
        match store.pulse().await {
            Ok(pulse) => {
                let unchanged = signals.borrow().pulse == pulse;
                if !unchanged || read_at.is_none_or(|at| at.elapsed() > SIGNALS_EVERY) {
                    match read_signals(&store, &clock, &lines, pulse).await {
                        Ok(new) => {
                            signals.send_replace(Arc::new(new));
                            read_at = Some(Instant::now());
                        }
                        Err(error) => warn!(%error, "controls and holds could not be read"),
                    }
                }
            }
            Err(error) => {
                if read_at.take().is_some() {
                    warn!(%error, "redis does not answer");
                }
            }
        }
        tokio::time::sleep(PULSE_EVERY).await;
    }
}

async fn read_signals(store: &Store, clock: &Clock, lines: &[LineId], pulse: u64) -> Result<RunnerSignals, StoreError> {
    let controls = store.controls(lines).await?;
    let holds = store.holds(clock.now()).await?;
    Ok(RunnerSignals { pulse, controls: lines.iter().cloned().zip(controls).collect(), holds })
}

/// `3001, 3002 and 7 more`; empty for no lines.
fn summarize(lines: &[LineId]) -> String {
    let mut text = lines.iter().take(NAMED_MAX).map(LineId::as_str).collect::<Vec<_>>().join(", ");
    if lines.len() > NAMED_MAX {
        text.push_str(&format!(" and {} more", lines.len() - NAMED_MAX));
    }
    text
}

#[derive(Debug)]
enum TickError {
    Store(StoreError),
    Worker(WorkerError),
}

impl From<StoreError> for TickError {
    fn from(error: StoreError) -> Self {
        TickError::Store(error)
    }
}

impl From<WorkerError> for TickError {
    fn from(error: WorkerError) -> Self {
        TickError::Worker(error)
    }
}
