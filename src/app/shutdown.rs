//! Supervises the core tasks of a process and stops them cleanly.
//!
//! Each core task has a name and runs until the stop. If one panics, fails or returns before that, the whole service
//! stops with an error, because it cannot work correctly without that task. After SIGTERM or SIGINT, the process is not
//! ready and works on for `shutdown.drain`, so that load balancers notice. Then the stop begins: a `CancellationToken`
//! is cancelled, and the tasks have `shutdown.grace` to settle the open work. A failure begins the stop at once. A
//! further signal ends the current wait.
//!
//! If the process is killed instead: nothing is lost. The leases of the process expire, and the next owner of a line
//! finds the rows that were in flight.

use std::{
    any::Any,
    fmt::Display,
    future::Future,
    io,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, interval_at, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info};

use crate::telemetry::health::{Health, NotReady};

/// The interval at which a stop logs what it still waits for.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// The core tasks of a process, and how the process stops. Clones share one state.
#[derive(Clone)]
pub struct Shutdown {
    stopping: CancellationToken,
    tasks: TaskTracker,
    health: Health,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    running: Vec<String>,
    failure: Option<(String, String)>,
}

/// Why a process did not stop cleanly: exit code 1.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// A core task panicked, failed or returned before the stop.
    #[error("task {name} ended: {why}")]
    Task {
        /// The task's name.
        name: String,
        /// The error or the panic message.
        why: String,
    },
    /// The grace period is over. Open work is safe: the next owner of its line takes it over.
    #[error("shutdown.grace ({grace:?}) is over and these tasks still run: {tasks}")]
    Late {
        /// The grace period.
        grace: Duration,
        /// The names of the tasks that still run.
        tasks: String,
    },
    /// A further signal arrived during the stop.
    #[error("a further signal ended the stop while these tasks still ran: {tasks}")]
    Forced {
        /// The names of the tasks that still run.
        tasks: String,
    },
}

/// How long the two phases of a stop may take.
#[derive(Clone, Copy, Debug)]
pub struct StopTimes {
    /// How long the process works on after the first signal, without being ready.
    pub drain: Duration,
    /// How long the tasks have to settle the open work.
    pub grace: Duration,
}

/// The signals that stop a process.
pub struct Signals(mpsc::Receiver<&'static str>);

impl Signals {
    /// Receives SIGTERM and SIGINT. From then on, these signals do not end the process by themselves.
    ///
    /// Errors: a signal handler cannot be installed.
    pub fn of_process() -> io::Result<Self> {
        // Capacity for three: the first signal begins the drain, the second the stop, the third ends it. Later signals
        // change nothing.
        let (sender, receiver) = mpsc::channel(3);
        for (kind, name) in [(SignalKind::terminate(), "SIGTERM"), (SignalKind::interrupt(), "SIGINT")] {
            let (mut stream, sender) = (signal(kind)?, sender.clone());
            tokio::spawn(async move { while stream.recv().await.is_some() && sender.send(name).await.is_ok() {} });
        }
        Ok(Self(receiver))
    }

    /// Waits for the next signal; for [`Signals::none`], forever.
    pub async fn next(&mut self) -> &'static str {
        match self.0.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }

    /// No signals: only [`Shutdown::stop`] or a failure stops the process.
    pub fn none() -> Self {
        Self(mpsc::channel(1).1)
    }
}

impl Shutdown {
    /// A process without tasks. `health` turns not ready when the stop begins and when a task fails.
    pub fn new(health: Health) -> Self {
        Self { stopping: CancellationToken::new(), tasks: TaskTracker::new(), health, shared: Arc::default() }
    }

    /// The `CancellationToken` that is cancelled when the stop begins. Every core task then settles its open work and
    /// returns.
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Begins the stop, as a signal would.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    /// Spawns `task` under `name`. The task may return only after [`Shutdown::stopping`] is cancelled.
    pub fn core<E: Display>(
        &self,
        name: impl Into<String>,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.core_until(name, self.stopping(), task);
    }

    /// As [`Shutdown::core`], for a task that may return after `stop` is cancelled: a child of [`Shutdown::stopping`].
    pub fn core_until<E: Display>(
        &self,
        name: impl Into<String>,
        stop: CancellationToken,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let (name, this) = (name.into(), self.clone());
        self.shared().running.push(name.clone());
        self.tasks.spawn(async move {
            // Unwind-safe: a panic drops the state of the task, and the process stops, so nothing reads shared state.
            let ended = AssertUnwindSafe(task).catch_unwind().await;
            let early = !stop.is_cancelled();
            let why = match ended {
                Ok(Ok(())) => early.then(|| "returned before the stop".to_owned()),
                Ok(Err(error)) => Some(error.to_string()),
                Err(panic) => Some(format!("panic: {}", panic_text(panic.as_ref()))),
            };
            this.ended(&name);
            if let Some(why) = why {
                this.fail(name, why);
            }
        });
    }

    fn ended(&self, name: &str) {
        let running = &mut self.shared().running;
        if let Some(position) = running.iter().position(|running| running == name) {
            running.swap_remove(position);
        }
    }

    fn fail(&self, name: String, why: String) {
        error!(task = name, why, "core task ended; the service stops");
        self.shared().failure.get_or_insert((name, why));
        self.health.set(NotReady::Failed);
        self.stopping.cancel();
    }

    /// Waits for the stop to begin, then up to `times.grace` for every task to end. Logs the open work, as returned by
    /// `open` (`4 attempts: ar-01 x3, ar-02 x1`), every 5 s, and what was open at first when the stop ends. If work is
    /// left, `redis_fails` says why Redis stores nothing now, if that is so.
    ///
    /// Errors: the stop was not clean. The first task that failed takes precedence over a late or forced stop.
    pub async fn run(
        self,
        mut signals: Signals,
        times: StopTimes,
        open: impl Fn() -> String,
        redis_fails: impl AsyncFnOnce() -> Option<String>,
    ) -> Result<(), StopError> {
        let StopTimes { drain, grace } = times;
        tokio::select! {
            Some(signal) = signals.0.recv() => {
                info!(signal, drain_ms = drain.as_millis() as u64, "stopping");
                self.drain(&mut signals, drain).await;
            }
            () = self.stopping.cancelled() => {}
        }
        self.health.set(NotReady::Stopping);
        self.stopping.cancel();
        self.tasks.close();

        let (began, was_open) = (Instant::now(), open());
        let deadline = began + grace;
        self.health.set_stops_by(deadline.into_std());
        let mut progress = interval_at(Instant::now() + PROGRESS_INTERVAL, PROGRESS_INTERVAL);
        let ended = loop {
            tokio::select! {
                biased;
                () = self.tasks.wait() => break Ok(()),
                Some(signal) = signals.0.recv() => {
                    error!(signal, "a further signal ends the stop");
                    break Err(StopError::Forced { tasks: self.running() });
                }
                () = sleep_until(deadline) => break Err(StopError::Late { grace, tasks: self.running() }),
                _ = progress.tick() => {
                    let open = open();
                    info!(open, tasks = self.running(), "still stopping");
                }
            }
        };
        let took_ms = began.elapsed().as_millis() as u64;
        match &ended {
            Ok(()) => info!(was_open, took_ms, "stopped"),
            Err(_) => {
                let (open, tasks) = (open(), self.running());
                match redis_fails().await {
                    Some(error) => error!(
                        was_open,
                        took_ms,
                        open,
                        tasks,
                        error,
                        "stopped with open work that redis did not store: the next owner of each line, also this \
                         process after a restart, puts its messages in doubt, and their statuses settle them"
                    ),
                    None => error!(
                        was_open,
                        took_ms, open, tasks, "stopped with open work: the next owner of each line takes it over"
                    ),
                }
            }
        }
        match self.shared().failure.take() {
            Some((name, why)) => Err(StopError::Task { name, why }),
            None => ended,
        }
    }

    /// Turns not ready, and returns after `drain`, at the next signal, or when the stop begins for another reason.
    async fn drain(&self, signals: &mut Signals, drain: Duration) {
        self.health.set(NotReady::Stopping);
        if drain.is_zero() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(drain) => {}
            Some(signal) = signals.0.recv() => info!(signal, "a second signal ends the drain"),
            () = self.stopping.cancelled() => {}
        }
    }

    fn running(&self) -> String {
        let mut running = self.shared().running.clone();
        running.sort_unstable();
        running.join(", ")
    }

    /// Locks the shared state. Ignores poisoning, because nothing panics while the lock is held.
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use tokio::sync::oneshot;

    use super::*;

    const DRAIN: Duration = Duration::from_secs(5);
    const GRACE: Duration = Duration::from_secs(30);

    struct Process {
        shutdown: Shutdown,
        health: Health,
        signals: mpsc::Sender<&'static str>,
        reports: Arc<AtomicUsize>,
        ended: tokio::task::JoinHandle<Result<(), StopError>>,
    }

    /// A running process, whose core tasks are started by `tasks`.
    fn start(tasks: impl FnOnce(&Shutdown)) -> Process {
        start_with(Duration::ZERO, tasks)
    }

    fn start_with(drain: Duration, tasks: impl FnOnce(&Shutdown)) -> Process {
        let health = Health::starting(&[]);
        let shutdown = Shutdown::new(health.clone());
        tasks(&shutdown);
        let (signals, receiver) = mpsc::channel(3);
        let times = StopTimes { drain, grace: GRACE };
        let reports = Arc::new(AtomicUsize::new(0));
        let open = {
            let reports = reports.clone();
            move || {
                reports.fetch_add(1, Ordering::Relaxed);
                "2 attempts".to_owned()
            }
        };
        let ended = tokio::spawn(shutdown.clone().run(Signals(receiver), times, open, async || None));
        Process { shutdown, health, signals, reports, ended }
    }

    impl Process {
        async fn signal(&self) {
            self.signals.send("SIGTERM").await.expect("the process runs");
        }

        async fn ended(self) -> Result<(), StopError> {
            self.ended.await.expect("no panic")
        }
    }

    /// A task that returns at the stop, after a delay of `settles_for`.
    async fn obedient(stopping: CancellationToken, settles_for: Duration) -> Result<(), Infallible> {
        stopping.cancelled().await;
        tokio::time::sleep(settles_for).await;
        Ok(())
    }

    async fn stubborn() -> Result<(), Infallible> {
        std::future::pending().await
    }

    fn broken() -> Result<(), Infallible> {
        panic!("row {} is lost", 7)
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_stops_every_task_and_the_stop_is_clean() {
        let process = start(|shutdown| {
            shutdown.core("jobs", obedient(shutdown.stopping(), Duration::ZERO));
            shutdown.core("dispatch", obedient(shutdown.stopping(), Duration::from_secs(12)));
        });
        let (health, reports, began) = (process.health.clone(), process.reports.clone(), Instant::now());
        process.signal().await;
        process.shutdown.stopping().cancelled().await;
        assert_eq!(health.reasons(), [NotReady::Stopping]);
        assert_eq!(process.ended().await, Ok(()));
        assert_eq!(began.elapsed(), Duration::from_secs(12), "the stop waits only until the last task ends");
        assert_eq!(reports.load(Ordering::Relaxed), 3, "open work is read at the begin, at 5 s and at 10 s");
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_goes_before_the_stop_begins() {
        let process =
            start_with(DRAIN, |shutdown| shutdown.core("http", obedient(shutdown.stopping(), Duration::ZERO)));
        let (health, stopping, began) = (process.health.clone(), process.shutdown.stopping(), Instant::now());
        process.signal().await;
        tokio::time::sleep(DRAIN / 2).await;
        assert_eq!((health.reasons().as_slice(), stopping.is_cancelled()), ([NotReady::Stopping].as_slice(), false));
        assert_eq!(process.ended().await, Ok(()));
        assert_eq!(began.elapsed(), DRAIN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_ends_the_drain_and_a_third_the_stop() {
        let process = start_with(DRAIN, |shutdown| shutdown.core("dispatch", stubborn()));
        let began = Instant::now();
        for _ in 0..3 {
            process.signal().await;
        }
        assert_eq!(process.ended().await, Err(StopError::Forced { tasks: "dispatch".into() }));
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_ends_the_drain() {
        let (go, start_signal) = oneshot::channel::<()>();
        let process = start_with(DRAIN, |shutdown| {
            shutdown.core("http", async move {
                start_signal.await.expect("the test sends it");
                Err("port is taken")
            });
        });
        let began = Instant::now();
        process.signal().await;
        tokio::task::yield_now().await;
        go.send(()).expect("the task waits");
        assert_eq!(process.ended().await, Err(StopError::Task { name: "http".into(), why: "port is taken".into() }));
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_with_its_grace_period() {
        let process = start(|shutdown| shutdown.core("dispatch", stubborn()));
        let began = Instant::now();
        process.signal().await;
        assert_eq!(process.ended().await, Err(StopError::Late { grace: GRACE, tasks: "dispatch".into() }));
        assert_eq!(began.elapsed(), GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_ends_the_wait() {
        let process = start(|shutdown| {
            shutdown.core("dispatch", stubborn());
            shutdown.core("jobs", stubborn());
        });
        let began = Instant::now();
        process.signal().await;
        process.signal().await;
        assert_eq!(process.ended().await, Err(StopError::Forced { tasks: "dispatch, jobs".into() }));
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_core_task_that_panics_stops_the_service() {
        let (go, start_signal) = oneshot::channel::<()>();
        let process = start(|shutdown| {
            shutdown.core("jobs", obedient(shutdown.stopping(), Duration::ZERO));
            shutdown.core("line 3001", async move {
                start_signal.await.expect("the test sends it");
                broken()
            });
        });
        go.send(()).expect("the task waits");
        let health = process.health.clone();
        assert_eq!(
            process.ended().await,
            Err(StopError::Task { name: "line 3001".into(), why: "panic: row 7 is lost".into() })
        );
        assert_eq!(health.reasons(), [NotReady::Stopping, NotReady::Failed]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_core_task_that_fails_or_ends_early_stops_the_service() {
        let failing = start(|shutdown| shutdown.core("http", async { Err(io::Error::other("port is taken")) }));
        assert_eq!(failing.ended().await, Err(StopError::Task { name: "http".into(), why: "port is taken".into() }));
        let early = start(|shutdown| shutdown.core("jobs", async { Ok::<(), Infallible>(()) }));
        assert_eq!(
            early.ended().await,
            Err(StopError::Task { name: "jobs".into(), why: "returned before the stop".into() })
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_failure_is_reported() {
        let process = start(|shutdown| {
            shutdown.core("http", async { Err("port is taken") });
            let stopping = shutdown.stopping();
            shutdown.core("jobs", async move {
                stopping.cancelled().await;
                Err("could not settle")
            });
        });
        assert_eq!(process.ended().await, Err(StopError::Task { name: "http".into(), why: "port is taken".into() }));
    }

    #[tokio::test(start_paused = true)]
    async fn stop_ends_a_process_without_signals() {
        let shutdown = Shutdown::new(Health::starting(&[]));
        shutdown.core("demo", obedient(shutdown.stopping(), Duration::ZERO));
        shutdown.stop();
        let times = StopTimes { drain: DRAIN, grace: GRACE };
        assert_eq!(shutdown.run(Signals::none(), times, String::new, async || None).await, Ok(()));
    }
}
