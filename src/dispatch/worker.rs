//! A worker: holds the leases of its share of the lines, and runs a runner for each.
//!
//! Work spreads line by line: of the lines that the same workers list, each takes at most its share, gives back what is too
//! much, and takes what is free. Runners live on threads of their own, each with one single-threaded runtime, its own
//! connections and no locks between lines.
//!
//! If the process dies: its leases end after `dispatch.lease`, and others take the lines.

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
    lease::Lease,
    roster::{LineGroup, Roster},
    runner::{LineStatus, Runner, RunnerSetup},
    shard::Shard,
};
use crate::{
    domain::{Line, LineId, SharedTokenKey, UnixMs},
    graph::client::{GraphClient, GraphClientConfig},
    redis::{
        Store, StoreError,
        clock::Clock,
        lines::{LineReport, Right},
    },
    telemetry::{
        health::{Health, NotReady},
        metrics,
    },
};

/// How often a worker looks whether anything was changed anywhere: the delay of a launch, a pause, a new rate.
const PULSE_EVERY: Duration = Duration::from_millis(25);

/// Signals are read again after this time even if nothing was changed.
const SIGNALS_EVERY: Duration = Duration::from_secs(5);

/// Free leases are looked for, and leases renewed, at least this often.
const TICK_MAX: Duration = Duration::from_millis(500);

/// The lines of a worker are registered anew after this time, so that they stay known.
const REGISTER_EVERY: Duration = Duration::from_secs(60);

/// Lines of a list that a warning names at most.
const NAMED_MAX: usize = 10;

/// Why a worker could not go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A runner ended on its own: a bug. The service stops rather than run on half alive.
    #[error("the runner of line {0} ended unexpectedly")]
    RunnerDied(LineId),
    /// A thread of runners could not be started.
    #[error("a dispatch thread could not be started: {0}")]
    NoThread(String),
}

/// Attempts in flight on each line, for the voice of the stop.
pub type OpenAttempts = Arc<Mutex<BTreeMap<LineId, usize>>>;

/// What a worker needs.
pub struct Worker {
    /// The name under which it holds leases; unique.
    pub name: String,
    /// Redis.
    pub store: Store,
    /// Redis' time.
    pub clock: Arc<Clock>,
    /// Every configured line.
    pub lines: Vec<Line>,
    /// Policy.
    pub settings: DispatchSettings,
    /// How Meta is reached.
    pub graph: GraphClientConfig,
    /// Signs tokens.
    pub token_key: SharedTokenKey,
    /// Threads of runners.
    pub threads: usize,
    /// Tells whether it is ready.
    pub health: Health,
    /// Tells which attempts are open.
    pub open: OpenAttempts,
}

/// The workers of the installation, as this one sees them.
#[derive(Default)]
struct Colleagues {
    roster: Roster,
    shares: Vec<LineGroup>,
    registered_at: Option<Instant>,
    /// Workers whose different lists were warned of.
    warned_of: HashSet<String>,
}

struct Owned {
    lease: Arc<Lease>,
    stop: CancellationToken,
    done: oneshot::Receiver<()>,
    status: Arc<Mutex<LineStatus>>,
    accepted: (u64, Instant),
}

impl Owned {
    fn status(&self) -> LineStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An order to a thread of runners.
struct Order {
    line: Line,
    lease: Arc<Lease>,
    stop: CancellationToken,
    done: oneshot::Sender<()>,
    status: Arc<Mutex<LineStatus>>,
}

impl Worker {
    /// Works until `stop`; then lets every runner finish, and gives its leases back.
    pub async fn run(self, stop: CancellationToken) -> Result<(), WorkerError> {
        let (signals, signals_rx) = watch::channel(Arc::new(RunnerSignals::default()));
        let mut threads = Vec::new();
        for number in 0..self.threads.max(1) {
            threads.push(self.start_thread(number, signals_rx.clone())?);
        }
        let watching = tokio::spawn(watch_signals(self.store.clone(), self.clock.clone(), self.ids(), signals));
        let result = self.hold_leases(&threads, stop).await;
        watching.abort();
        result
    }

    fn ids(&self) -> Vec<LineId> {
        self.lines.iter().map(|line| line.id.clone()).collect()
    }

    async fn hold_leases(
        &self,
        threads: &[mpsc::UnboundedSender<Order>],
        stop: CancellationToken,
    ) -> Result<(), WorkerError> {
        let tick = TICK_MAX.min(self.settings.lease / 5);
        let mut owned: HashMap<LineId, Owned> = HashMap::new();
        let mut colleagues = Colleagues::default();
        loop {
            let stopping = stop.is_cancelled();
            match self.tick(&mut owned, &mut colleagues, threads, stopping).await {
                Ok(()) => self.health.clear(NotReady::Leases),
                Err(TickError::Store(error)) => {
                    self.health.set(NotReady::Leases);
                    warn!(%error, "leases could not be renewed");
                }
                Err(TickError::Worker(error)) => return Err(error),
            }
            if stopping && owned.is_empty() {
                if let Err(error) = self.store.worker_leaves(&self.name).await {
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
        owned: &mut HashMap<LineId, Owned>,
        colleagues: &mut Colleagues,
        threads: &[mpsc::UnboundedSender<Order>],
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
        self.meet(colleagues, now).await?;
        let mut wanted = Vec::new();
        for share in &colleagues.shares {
            let staying = || owned.iter().filter(|(id, line)| !line.stop.is_cancelled() && share.lines.contains(*id));
            let n = staying().count();
            for (id, line) in staying().take(n.saturating_sub(share.most)) {
                info!(line.id = %id, "line given up to another worker");
                line.stop.cancel();
            }
            if n < share.most {
                wanted.push((share, share.most - n));
            }
        }
        self.take(owned, threads, &wanted).await?;
        metrics::lines_owned().set(owned.len() as f64);
        self.report(owned, now).await?;
        Ok(())
    }

    /// Says that this worker lives and which lines it lists, and looks who shares them.
    async fn meet(&self, colleagues: &mut Colleagues, now: UnixMs) -> Result<(), StoreError> {
        let every = REGISTER_EVERY.min(self.settings.ids_kept / 4);
        // First the list: who lives and has none counts as a worker of an older version, which lists every line.
        if colleagues.registered_at.is_none_or(|at| at.elapsed() >= every) {
            self.store.register_lines(&self.name, &self.lines, now.after(self.settings.ids_kept)).await?;
            colleagues.registered_at = Some(Instant::now());
        }
        let living = self.store.worker_lives(&self.name, now, now.after(self.settings.lease)).await?;
        if !living.is_registered {
            // Redis came back empty, or took this worker for dead: written again with the next tick.
            colleagues.registered_at = None;
        }
        if !colleagues.roster.read(&self.store, living.workers).await? && !colleagues.shares.is_empty() {
            return Ok(());
        }
        colleagues.shares = colleagues.roster.shares(&self.lines);
        let differences = colleagues.roster.differences(&self.lines);
        colleagues.warned_of.retain(|worker| differences.contains_key(worker));
        for (worker, (only_there, only_here)) in differences {
            if colleagues.warned_of.insert(worker.clone()) {
                warn!(
                    worker,
                    only_there = named(&only_there),
                    only_here = named(&only_here),
                    "another worker lists other lines: each line is served by the workers that list it; \
                     unless a change of lines is being rolled out, give all processes the same [[line]] list"
                );
            }
        }
        Ok(())
    }

    /// Gives back the leases of runners that have ended.
    async fn collect_finished(&self, owned: &mut HashMap<LineId, Owned>) -> Result<(), TickError> {
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
            if let Err(error) = self.store.release(&Right::Line(id.clone()), &self.name, line.lease.epoch).await {
                warn!(line.id = %id, %error, "leases could not be given back: they end by their time");
                redis_answers = false;
            }
        }
        Ok(())
    }

    async fn renew(&self, owned: &HashMap<LineId, Owned>) -> Result<(), TickError> {
        let held: Vec<(&LineId, &Owned)> = owned.iter().collect();
        let rights: Vec<(Right, u64)> =
            held.iter().map(|(id, line)| (Right::Line((*id).clone()), line.lease.epoch)).collect();
        let asked = Instant::now();
        let epochs = self.store.acquire(&rights, &self.name, self.settings.lease).await?;
        for ((id, line), epoch) in held.into_iter().zip(epochs) {
            if epoch.is_some() {
                line.lease.renewed(asked, self.settings.lease);
            } else {
                warn!(line.id = %id, "the lease was lost");
                line.lease.lost();
            }
        }
        Ok(())
    }

    /// Takes free lines: of each share as many as stand beside it, at most.
    async fn take(
        &self,
        owned: &mut HashMap<LineId, Owned>,
        threads: &[mpsc::UnboundedSender<Order>],
        shares: &[(&LineGroup, usize)],
    ) -> Result<(), TickError> {
        let is_wanted = |line: &&Line| {
            !owned.contains_key(&line.id) && shares.iter().any(|(share, _)| share.lines.contains(&line.id))
        };
        let mut others: Vec<&Line> = self.lines.iter().filter(is_wanted).collect();
        if others.is_empty() {
            return Ok(());
        }
        // Workers that start together do not all ask for the same lines first.
        others.shuffle(&mut rand::rng());
        let ids: Vec<LineId> = others.iter().map(|line| line.id.clone()).collect();
        let left = self.store.leases_left(&ids).await?;
        let (free, held): (Vec<_>, Vec<_>) = others.into_iter().zip(left).partition(|(_, left)| left.is_none());
        // Asking for a lease that lasts longer than any can lets it end in time: Redis' clock was set back.
        let overlong = held.into_iter().filter(|(_, left)| *left > Some(self.settings.lease));
        let of_share = |&(share, n): &(&LineGroup, usize)| {
            let free = free.iter().filter(|(line, _)| share.lines.contains(&line.id)).take(n);
            free.map(|(line, _)| *line).collect::<Vec<_>>()
        };
        let wanted: Vec<&Line> = shares.iter().flat_map(of_share).chain(overlong.map(|(line, _)| line)).collect();
        let rights: Vec<(Right, u64)> = wanted.iter().map(|line| (Right::Line(line.id.clone()), 0)).collect();
        let asked = Instant::now();
        let epochs = self.store.acquire(&rights, &self.name, self.settings.lease).await?;
        for (line, epoch) in wanted.into_iter().zip(epochs) {
            let Some(epoch) = epoch else { continue };
            let lease = Arc::new(Lease::new(epoch, asked, self.settings.lease));
            let (done, done_rx) = oneshot::channel();
            let (stop, status) = (CancellationToken::new(), Arc::new(Mutex::new(LineStatus::default())));
            let thread = &threads[owned.len() % threads.len()];
            let order =
                Order { line: line.clone(), lease: lease.clone(), stop: stop.clone(), done, status: status.clone() };
            thread.send(order).map_err(|_| WorkerError::RunnerDied(line.id.clone()))?;
            info!(line.id = %line.id, epoch, "line taken");
            owned.insert(line.id.clone(), Owned { lease, stop, done: done_rx, status, accepted: (0, asked) });
        }
        Ok(())
    }

    async fn report(&self, owned: &mut HashMap<LineId, Owned>, at: UnixMs) -> Result<(), StoreError> {
        let mut reports = Vec::with_capacity(owned.len());
        for (id, line) in owned {
            let status = line.status();
            let (before, since) = line.accepted;
            line.accepted = (status.accepted, Instant::now());
            let report = LineReport {
                worker: self.name.clone(),
                rate: status.rate,
                throttled: status.throttled,
                unreachable: status.unreachable,
                path_broken: status.path_broken,
                in_flight: status.in_flight,
                accepted_per_second: status.accepted.saturating_sub(before) as f64
                    / since.elapsed().as_secs_f64().max(0.001),
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
    ) -> Result<mpsc::UnboundedSender<Order>, WorkerError> {
        let (orders, orders_rx) = mpsc::unbounded_channel();
        let failed = |error: String| WorkerError::NoThread(error);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let graph = GraphClient::new(self.graph.clone()).map_err(|error| failed(error.to_string()))?;
        let shard = ShardThread {
            store: self.store.reopened().map_err(|error| failed(error.to_string()))?.keeping_a_connection(),
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

/// One thread of runners.
struct ShardThread {
    store: Store,
    clock: Arc<Clock>,
    settings: DispatchSettings,
    token_key: SharedTokenKey,
    graph: GraphClient,
    signals: watch::Receiver<Arc<RunnerSignals>>,
}

impl ShardThread {
    async fn run(self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let shard = Rc::new(Shard::new(Instant::now()));
        tokio::task::spawn_local(shard.clone().watch());
        while let Some(order) = orders.recv().await {
            let sender = match self.graph.sender(&order.line.id, &order.line.token) {
                Ok(sender) => sender,
                // The worker sees `done` dropped, and stops the service.
                Err(error) => {
                    warn!(line.id = %order.line.id, %error, "the line can not send");
                    continue;
                }
            };
            let runner = Runner::new(RunnerSetup {
                store: self.store.clone(),
                clock: self.clock.clone(),
                line: order.line,
                sender,
                graph: self.graph.clone(),
                settings: self.settings.clone(),
                token_key: self.token_key.clone(),
                lease: order.lease,
                signals: self.signals.clone(),
                stop: order.stop,
                status: order.status,
                shard: shard.clone(),
            });
            tokio::task::spawn_local(async move {
                runner.run().await;
                let _ = order.done.send(());
            });
        }
    }
}

/// Tells the runners what operators and other workers changed.
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
                let known = signals.borrow().pulse == pulse;
                if !known || read_at.is_none_or(|at| at.elapsed() > SIGNALS_EVERY) {
                    match read_signals(&store, &clock, &lines, pulse).await {
                        Ok(new) => {
                            signals.send_replace(Arc::new(new));
                            read_at = Some(Instant::now());
                        }
                        Err(error) => warn!(%error, "what is held back could not be read"),
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

/// `3001, 3002 and 7 more`; empty where there is none.
fn named(lines: &[LineId]) -> String {
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
