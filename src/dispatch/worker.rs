//! A worker: holds the leases on its share of the lines, and runs a runner for each.
//!
//! `leases.rs` decides which leases to acquire, renew and release; the worker does the I/O. Runners run on dispatch
//! threads. Each thread has a single-threaded runtime and its own connections, and its lines share no locks.
//!
//! When the configured lines change, the runners of lines that are gone, or that have to begin anew, are stopped first.
//! Only then do the runners learn of the change.
//!
//! If the process dies: its leases expire after `dispatch.lease`, and other workers acquire the lines.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    DispatchSettings, RunnerSignals,
    backlogs::Backlogs,
    inbound::{self, InboundMeter, InboundRates},
    lanes::{
        both::Both,
        campaign::{CampaignLane, plans::SendPlans, screening::Screening},
        chat::ChatLane,
    },
    lease::Lease,
    leases::{LeaseKeeper, LeaseRequest, LeaseResponse, LeaseStep},
    line::runner::{LineStatus, Runner, RunnerSetup},
    shard::Shard,
};
use crate::{
    domain::{HoldScope, Line, LineId, Lines, Live, Secret, SharedTokenKey, UnixMs, WabaId},
    graph::client::{GraphClient, GraphClientConfig},
    redis::{
        Store, StoreError,
        clock::Clock,
        doorbells::{Doorbell, Doorbells},
        lines::{LeaseTarget, LineReport},
    },
    rules,
    telemetry::{
        health::{Health, NotReady},
        metrics::{self, LeaseEvent, LineMetrics, OwnedLines},
    },
};

/// How often a worker reads the pulse. A launch, a pause or a new rate takes effect within about this time.
const PULSE_EVERY: Duration = Duration::from_millis(25);

/// How often a worker records that it is alive. So statistics show soon that a killed worker is silent, long before its
/// leases end.
const BEAT_EVERY: Duration = Duration::from_millis(250);

/// How long the last report on a line is kept. It shows when the line last had a worker.
const REPORT_KEPT: Duration = Duration::from_hours(24);

/// Signals are read at least this often, even if the pulse has not changed.
const SIGNALS_EVERY: Duration = Duration::from_secs(5);

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

/// The work that a stop waits for on each line, for the log of a shutdown.
pub type OpenWork = Arc<Mutex<BTreeMap<LineId, OpenOnLine>>>;

/// The work that a stop waits for on a line.
#[derive(Clone, Copy, Debug)]
pub struct OpenOnLine {
    /// Attempts in flight.
    pub attempts: usize,
    /// Outcomes that are not stored yet.
    pub outcomes: usize,
}

/// What a worker needs.
pub struct Worker {
    /// The unique name under which it holds leases.
    pub name: String,
    /// Redis.
    pub store: Store,
    /// The clock of Redis.
    pub clock: Arc<Clock>,
    /// Every configured line.
    pub lines: Live<Lines>,
    /// The settings of dispatch.
    pub settings: DispatchSettings,
    /// The client for Meta.
    pub graph: GraphClientConfig,
    /// Signs tokens.
    pub token_key: SharedTokenKey,
    /// The number of dispatch threads.
    pub threads: usize,
    /// Where the worker reports whether it is ready.
    pub health: Health,
    /// Where the worker reports its open work.
    pub open: OpenWork,
    /// The series of the lines that it serves.
    pub metrics: OwnedLines,
}

/// A line with its runner.
struct RunningLine {
    /// The line, as it was when the runner started.
    line: Line,
    stop: CancellationToken,
    done: oneshot::Receiver<()>,
    status: Arc<Mutex<LineStatus>>,
    /// The counters at the last report, or at the start.
    reported: AcceptedCount,
    /// What keeps the line from its full rate, and since when.
    trouble: Option<(Trouble, UnixMs)>,
}

/// What keeps a line from its full rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Throttled,
    Unreachable,
    PathBroken,
    WarmUp,
}

impl Trouble {
    fn of(status: &LineStatus) -> Option<Self> {
        match status {
            LineStatus { path_broken: Some(_), .. } => Some(Self::PathBroken),
            LineStatus { unreachable: Some(_), .. } => Some(Self::Unreachable),
            LineStatus { warm_up_until: Some(_), .. } => Some(Self::WarmUp),
            LineStatus { throttled: true, .. } => Some(Self::Throttled),
            _ => None,
        }
    }
}

impl RunningLine {
    fn status(&self) -> LineStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The configured lines by which a worker works.
struct ListedLines {
    lines: Lines,
    /// The WABAs with a new token. The holds that the old one has caused are lifted once no runner uses it.
    new_tokens: BTreeSet<WabaId>,
    /// What the signals are read for.
    signalled: Live<Lines>,
}

/// The number of messages of a line that Meta had accepted at an instant.
struct AcceptedCount {
    accepted: u64,
    at: Instant,
}

struct StartRunner {
    line: Line,
    rung: Arc<Notify>,
    lease: Arc<Lease>,
    stop: CancellationToken,
    done: oneshot::Sender<()>,
    status: Arc<Mutex<LineStatus>>,
    metrics: LineMetrics,
}

impl Worker {
    /// Runs until `stop`. Then stops every runner, waits until they have finished, and releases the leases.
    pub async fn run(self, stop: CancellationToken) -> Result<(), WorkerError> {
        let (signals, signals_rx) = watch::channel(Arc::new(RunnerSignals::default()));
        let mut threads = Vec::new();
        for number in 0..self.threads.max(1) {
            threads.push(self.start_thread(number, signals_rx.clone())?);
        }
        let joined = Arc::new(Notify::new());
        let lines = self.lines.get();
        let signalled = Live::new(lines.clone());
        let watch = SignalWatch {
            worker: self.name.clone(),
            store: self.store.clone(),
            clock: self.clock.clone(),
            lines: signalled.clone(),
            inbound: Arc::default(),
            signals,
        };
        let signal_task = tokio::spawn(watch.run(joined.clone()));
        let backlogs = Backlogs { store: self.store.clone(), clock: self.clock.clone(), lines: self.metrics.clone() };
        let backlog_task = tokio::spawn(backlogs.run());
        let doorbells = Doorbells::default();
        let doorbell_task =
            tokio::spawn(doorbells.clone().run(self.store.clone(), Doorbell::Dispatch, self.name.clone()));
        let listed = ListedLines { lines, new_tokens: BTreeSet::new(), signalled };
        let result = self.hold_leases(&threads, &joined, &doorbells, listed, stop).await;
        signal_task.abort();
        doorbell_task.abort();
        backlog_task.abort();
        result
    }

    async fn hold_leases(
        &self,
        threads: &[mpsc::UnboundedSender<StartRunner>],
        joined: &Notify,
        doorbells: &Doorbells,
        mut listed: ListedLines,
        stop: CancellationToken,
    ) -> Result<(), WorkerError> {
        let mut leases = LeaseKeeper::new(listed.lines.ids(), self.settings.lease, self.settings.id_retention);
        let mut running: HashMap<LineId, RunningLine> = HashMap::new();
        loop {
            let stopping = stop.is_cancelled();
            let finished = take_finished(&mut running)?;
            let open = |(id, line): (&LineId, &RunningLine)| {
                let status = line.status();
                (id.clone(), OpenOnLine { attempts: status.in_flight, outcomes: status.unstored })
            };
            *self.open.lock().unwrap_or_else(PoisonError::into_inner) = running.iter().map(open).collect();
            self.follow_lines(&mut listed, &mut leases, &running);
            let mut turn = leases.tick(finished, stopping, Instant::now());
            let pause = loop {
                for id in &turn.stop {
                    running[id].stop.cancel();
                }
                for (id, lease) in turn.start {
                    let line = listed.lines.by_id(&id).expect("the keeper starts only configured lines");
                    let line = self.start_runner(line, lease, doorbells, &threads[running.len() % threads.len()])?;
                    running.insert(id, line);
                }
                match turn.next {
                    LeaseStep::Request(request) => {
                        let response = self.request(&request, &listed.lines, &mut running).await;
                        if matches!(response, Some(LeaseResponse::Live(_))) {
                            joined.notify_one();
                        }
                        turn = leases.response(response, Instant::now(), &mut rand::rng());
                    }
                    LeaseStep::Wait { pause, succeeded: true } => {
                        self.health.clear(NotReady::Leases);
                        break pause;
                    }
                    LeaseStep::Wait { pause, succeeded: false } => {
                        self.health.set(NotReady::Leases);
                        break pause;
                    }
                    LeaseStep::End => return Ok(()),
                }
            };
            self.lift_token_holds(&mut listed, &running).await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled(), if !stopping => {}
            }
        }
    }

    /// Takes over the configured lines, if they have changed.
    fn follow_lines(&self, listed: &mut ListedLines, leases: &mut LeaseKeeper, running: &HashMap<LineId, RunningLine>) {
        let lines = self.lines.get();
        if lines.is_same(&listed.lines) {
            return;
        }
        let can_go_on =
            |running: &RunningLine| lines.by_id(&running.line.id).is_some_and(|line| running.line.can_become(line));
        let stale: Vec<&LineId> = running.iter().filter(|(_, running)| !can_go_on(running)).map(|(id, _)| id).collect();
        for id in &stale {
            running[*id].stop.cancel();
        }
        leases.set_lines(lines.ids(), stale);
        let before = listed.lines.wabas();
        let has_new_token = |(waba, token): &(&WabaId, &Secret)| before.get(waba).is_some_and(|before| before != token);
        listed.new_tokens.extend(lines.wabas().into_iter().filter(has_new_token).map(|(waba, _)| waba.clone()));
        listed.lines = lines;
        // After the stops, because the signals of a line that is gone do not say any more that it is paused.
        listed.signalled.set(listed.lines.clone());
    }

    /// Lifts the holds on tokens that have been replaced. Not before the runners with the old token have ended, because an
    /// answer to one of their messages would hold the new one.
    async fn lift_token_holds(&self, listed: &mut ListedLines, running: &HashMap<LineId, RunningLine>) {
        let tokens = listed.lines.wabas();
        let is_in_use = |waba: &WabaId| {
            running.values().any(|running| running.line.waba == *waba && tokens.get(waba) != Some(&&running.line.token))
        };
        let unused: Vec<WabaId> = listed.new_tokens.iter().filter(|waba| !is_in_use(waba)).cloned().collect();
        for waba in unused {
            let scope = HoldScope::Token(waba.clone());
            match self.store.unhold(&scope).await {
                Ok(is_lifted) => {
                    if is_lifted {
                        info!(%scope, "hold lifted: the token was replaced");
                    }
                    listed.new_tokens.remove(&waba);
                }
                // Redis is away, which is logged for the whole worker. The next tick tries again.
                Err(_) => return,
            }
        }
    }

    /// Sends a request of the lease keeper to Redis, and logs an error.
    async fn request(
        &self,
        request: &LeaseRequest,
        lines: &Lines,
        running: &mut HashMap<LineId, RunningLine>,
    ) -> Option<LeaseResponse> {
        let error = match self.try_request(request, lines, running).await {
            Ok(response) => return Some(response),
            Err(error) => error,
        };
        match request {
            LeaseRequest::Release(..) => error.report("leases could not be released: they will expire"),
            LeaseRequest::Leave => error.report("the other workers will notice later that this one has stopped"),
            _ => error.report("leases could not be renewed"),
        }
        None
    }

    async fn try_request(
        &self,
        request: &LeaseRequest,
        lines: &Lines,
        running: &mut HashMap<LineId, RunningLine>,
    ) -> Result<LeaseResponse, StoreError> {
        let (store, name, now) = (&self.store, &self.name, self.clock.now());
        match request {
            LeaseRequest::Release(line, epoch) => {
                store.release(&LeaseTarget::Line(line.clone()), name, *epoch).await?;
                metrics::lease(LeaseEvent::Released, 1);
            }
            LeaseRequest::Acquire(leases) => {
                let targets: Vec<(LeaseTarget, Option<u64>)> =
                    leases.iter().map(|(line, epoch)| (LeaseTarget::Line(line.clone()), *epoch)).collect();
                let epochs = store.acquire(&targets, name, self.settings.lease).await?;
                let lost = leases.iter().zip(&epochs).filter(|((_, had), has)| had.is_some() && has.is_none()).count();
                metrics::lease(LeaseEvent::Lost, lost as u64);
                return Ok(LeaseResponse::Epochs(epochs));
            }
            LeaseRequest::Register { replaced } => {
                store.register_lines(name, lines, now.after(self.settings.id_retention)).await?;
                if *replaced {
                    store.announce_line_lists().await?;
                }
            }
            LeaseRequest::Heartbeat => {
                let until = now.after(self.settings.lease);
                return Ok(LeaseResponse::Live(store.worker_heartbeat(name, now, until).await?));
            }
            LeaseRequest::Lists(workers) => return Ok(LeaseResponse::Lists(store.line_lists(workers).await?)),
            LeaseRequest::Ttls(lines) => return Ok(LeaseResponse::Ttls(store.lease_ttls(lines).await?)),
            LeaseRequest::Report => {
                self.report(running, now).await?;
            }
            LeaseRequest::Leave => store.remove_worker(name).await?,
        }
        Ok(LeaseResponse::Done)
    }

    fn start_runner(
        &self,
        line: &Line,
        lease: Arc<Lease>,
        doorbells: &Doorbells,
        thread: &mpsc::UnboundedSender<StartRunner>,
    ) -> Result<RunningLine, WorkerError> {
        let (done, done_rx) = oneshot::channel();
        let (stop, status) = (CancellationToken::new(), Arc::new(Mutex::new(LineStatus::default())));
        let metrics = self.metrics.begin(&line.id);
        let (rung, line_status) = (doorbells.of(&line.id), status.clone());
        let order =
            StartRunner { line: line.clone(), rung, lease, stop: stop.clone(), done, status: line_status, metrics };
        metrics::lease(LeaseEvent::Acquired, 1);
        thread.send(order).map_err(|_| WorkerError::RunnerDied(line.id.clone()))?;
        let reported = AcceptedCount { accepted: 0, at: Instant::now() };
        Ok(RunningLine { line: line.clone(), stop, done: done_rx, status, reported, trouble: None })
    }

    async fn report(&self, running: &mut HashMap<LineId, RunningLine>, at: UnixMs) -> Result<(), StoreError> {
        let mut reports = Vec::with_capacity(running.len());
        for (id, line) in running {
            let status = line.status();
            let count = AcceptedCount { accepted: status.accepted, at: Instant::now() };
            let before = std::mem::replace(&mut line.reported, count);
            let trouble = Trouble::of(&status);
            let outage = status.path_broken.as_ref().or(status.unreachable.as_ref());
            if line.trouble.map(|(trouble, _)| trouble) != trouble {
                line.trouble = trouble.map(|trouble| (trouble, outage.map_or(at, |outage| outage.since)));
            }
            let report = LineReport {
                worker: self.name.clone(),
                rate: status.rate,
                throttled: status.throttled,
                unreachable: status.unreachable.is_some(),
                unreachable_because: status.unreachable.map(|outage| outage.cause),
                path_broken: status.path_broken.map(|outage| outage.cause),
                since: line.trouble.map(|(_, since)| since),
                warm_up_until: status.warm_up_until,
                in_flight: status.in_flight,
                accepted_per_second: status.accepted.saturating_sub(before.accepted) as f64
                    / before.at.elapsed().as_secs_f64().max(0.001),
                features: self.settings.features.iter().map(|feature| (*feature).to_owned()).collect(),
                at,
            };
            reports.push((id.clone(), report));
        }
        self.store.put_reports(&reports, REPORT_KEPT).await
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
        let screening = Rc::new(Screening::new(self.token_key.clone()));
        tokio::task::spawn_local(shard.clone().watch());
        while let Some(order) = orders.recv().await {
            let sender = match self.graph.sender(&order.line.id, &order.line.token) {
                Ok(sender) => sender,
                // Dropping the order drops `done`, so the worker notices the failure and stops the service.
                Err(error) => {
                    warn!(line.id = %order.line.id, %error, "the line cannot send");
                    continue;
                }
            };
            let (store, key) = (&self.store, &self.token_key);
            let lane = Both(
                ChatLane::new(store.clone(), key.clone(), order.rung),
                CampaignLane::new(store.clone(), key.clone(), plans.clone(), screening.clone()),
            );
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
                metrics: order.metrics,
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

/// Removes the lines whose runners have finished.
fn take_finished(running: &mut HashMap<LineId, RunningLine>) -> Result<Vec<LineId>, WorkerError> {
    let mut finished = Vec::new();
    for (id, line) in running.iter_mut() {
        match line.done.try_recv() {
            Ok(()) => finished.push(id.clone()),
            Err(oneshot::error::TryRecvError::Empty) => {}
            Err(oneshot::error::TryRecvError::Closed) => return Err(WorkerError::RunnerDied(id.clone())),
        }
    }
    running.retain(|id, _| !finished.contains(id));
    Ok(finished)
}

/// Broadcasts to the runners what operators and other workers have changed.
struct SignalWatch {
    worker: String,
    store: Store,
    clock: Arc<Clock>,
    lines: Live<Lines>,
    inbound: Arc<InboundRates>,
    signals: watch::Sender<Arc<RunnerSignals>>,
}

impl SignalWatch {
    /// Runs until it is aborted. Begins when `joined` is notified, after the first heartbeat of the worker. So an
    /// operator's pause of the installation either finds the worker among the live ones, or is stored before the worker
    /// reads the pauses.
    async fn run(self, joined: Arc<Notify>) {
        joined.notified().await;
        let (mut read_at, mut beat_at): (Option<Instant>, Option<Instant>) = (None, None);
        let (mut meter, mut measured_at) = (InboundMeter::default(), None::<Instant>);
        loop {
            if beat_at.is_none_or(|at| at.elapsed() >= BEAT_EVERY) {
                beat_at = Some(Instant::now());
                // If this fails, so does the next call, which reports it.
                let _ = self.store.beat(&self.worker, self.clock.now()).await;
            }
            if measured_at.is_none_or(|at| at.elapsed() >= inbound::READ_EVERY) {
                measured_at = Some(Instant::now());
                // After a failed read, which is logged below, the next read covers a longer time.
                if let Ok(counts) = self.store.inbound_counts().await {
                    self.inbound.set(meter.record(counts, Instant::now()));
                }
            }
            match self.store.pulse().await {
                Ok(pulse) => {
                    let unchanged = {
                        let signals = self.signals.borrow();
                        signals.pulse == pulse && signals.lines.is_same(&self.lines.get())
                    };
                    if !unchanged || read_at.is_none_or(|at| at.elapsed() > SIGNALS_EVERY) {
                        match self.update(pulse).await {
                            Ok(()) => read_at = Some(Instant::now()),
                            Err(error) => {
                                read_at = None;
                                error.report("controls, holds and pauses could not be read");
                            }
                        }
                    }
                }
                // That Redis does not answer is logged once for the whole process.
                Err(_) => read_at = None,
            }
            tokio::time::sleep(PULSE_EVERY).await;
        }
    }

    /// Reads the signals and broadcasts them. Then confirms the pauses, if that is not done yet.
    async fn update(&self, pulse: u64) -> Result<(), StoreError> {
        let Self { worker, store, clock, inbound, signals, .. } = self;
        let (lines, now) = (self.lines.get(), clock.now());
        let ids = lines.ids();
        let (controls, mut holds, stored, limits, rerouted) = tokio::try_join!(
            store.controls(&ids),
            store.holds(now),
            store.pauses(),
            store.messaging_limits(),
            store.rerouted()
        )?;
        for (scope, hold) in rules::holds::implied(&holds, &lines, now) {
            if store.hold_if_new(&scope, &hold, hold.since).await? {
                warn!(%scope, reason = hold.reason, until = hold.until.map(display), "held back");
                holds.insert(scope, hold);
            }
        }
        let controls = ids.into_iter().zip(controls).collect();
        let pauses = stored.pauses.clone();
        let messaging_limits = limits.into_iter().map(|(business, known)| (business, known.limit)).collect();
        let inbound = inbound.clone();
        let read = RunnerSignals { pulse, lines, controls, holds, pauses, messaging_limits, rerouted, inbound };
        signals.send_replace(Arc::new(read));
        if stored.is_obeyed_by(worker, stored.version) {
            Ok(())
        } else {
            store.obey_pauses(worker, stored.version).await
        }
    }
}
