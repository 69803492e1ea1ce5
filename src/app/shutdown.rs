//! The life of a process: core tasks that have to run, and a clean stop.
//!
//! Each core task has a name and runs until it is told to stop. One that panics, fails or ends by itself stops the
//! service with an error: it does not run on half alive. A stop begins with SIGTERM or SIGINT, or with such a failure;
//! the tasks are told by a token, and have `shutdown.grace` to settle what is open. A second signal ends the wait.
//!
//! If the process is killed instead: nothing is lost; leases end by themselves, and the next owner of a line finds what
//! was in flight.

use std::{
    any::Any,
    collections::BTreeSet,
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

/// How often a stop says what it still waits for.
const VOICE: Duration = Duration::from_secs(5);

/// The core tasks of a process, and its stop. Clones are the same.
#[derive(Clone)]
pub struct Shutdown {
    stopping: CancellationToken,
    tasks: TaskTracker,
    health: Health,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    running: BTreeSet<String>,
    failure: Option<(String, String)>,
}

/// Why a process did not end well: exit code 1.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// A core task panicked, failed or ended before it was told to.
    #[error("task {name} ended: {why}")]
    Task {
        /// Its name.
        name: String,
        /// What it said.
        why: String,
    },
    /// The time was up; what is open is safe, and is taken up by the next owner.
    #[error("shutdown.grace ({grace:?}) is over and these tasks still run: {tasks}")]
    Late {
        /// How long was waited.
        grace: Duration,
        /// Their names.
        tasks: String,
    },
    /// A second signal came.
    #[error("a second signal ended the stop while these tasks still ran: {tasks}")]
    Forced {
        /// Their names.
        tasks: String,
    },
}

/// The signals that stop a process.
pub struct Signals(mpsc::Receiver<&'static str>);

impl Signals {
    /// SIGTERM and SIGINT to this process, which from now on do not end it by themselves.
    ///
    /// Errors: the system gives no signal handler.
    pub fn of_process() -> io::Result<Self> {
        // Two: the one that stops and the one that ends the stop; more change nothing.
        let (sender, receiver) = mpsc::channel(2);
        for (kind, name) in [(SignalKind::terminate(), "SIGTERM"), (SignalKind::interrupt(), "SIGINT")] {
            let (mut stream, sender) = (signal(kind)?, sender.clone());
            tokio::spawn(async move { while stream.recv().await.is_some() && sender.send(name).await.is_ok() {} });
        }
        Ok(Self(receiver))
    }

    /// Waits for the next one, for ever if there is none.
    pub async fn next(&mut self) -> &'static str {
        match self.0.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }

    /// None: only [`Shutdown::stop`] or a failure stops the process.
    pub fn none() -> Self {
        Self(mpsc::channel(1).1)
    }
}

impl Shutdown {
    /// A process without tasks yet. `health` is told when it stops and when a task fails.
    pub fn new(health: Health) -> Self {
        Self { stopping: CancellationToken::new(), tasks: TaskTracker::new(), health, shared: Arc::default() }
    }

    /// Is cancelled when the stop begins: every core task ends soon after, having settled what it can.
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Begins the stop, as a signal would.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    /// Runs `task` under `name` until it ends, which it may do only after [`Shutdown::stopping`] is cancelled.
    pub fn core<E: Display>(
        &self,
        name: impl Into<String>,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let (name, this) = (name.into(), self.clone());
        self.shared().running.insert(name.clone());
        self.tasks.spawn(async move {
            // The task's own state is gone with the panic, and what it shared is given up with the process.
            let ended = AssertUnwindSafe(task).catch_unwind().await;
            let early = !this.stopping.is_cancelled();
            let why = match ended {
                Ok(Ok(())) => early.then(|| "without being told to stop".to_owned()),
                Ok(Err(error)) => Some(error.to_string()),
                Err(panic) => Some(format!("panic: {}", panic_text(panic.as_ref()))),
            };
            this.shared().running.remove(&name);
            if let Some(why) = why {
                this.fail(name, why);
            }
        });
    }

    fn fail(&self, name: String, why: String) {
        error!(task = name, why, "core task ended, the service stops");
        self.shared().failure.get_or_insert((name, why));
        self.health.set(NotReady::Failed);
        self.stopping.cancel();
    }

    /// Waits for the stop, and then until every task has ended, at most `grace`. Every few seconds of that, `open` is
    /// asked what is open still (`4 attempts: ar-01 x3, ar-02 x1`) and its answer is logged.
    ///
    /// Errors: the stop was not clean; a task that failed is told before anything else.
    pub async fn run(self, mut signals: Signals, grace: Duration, open: impl Fn() -> String) -> Result<(), StopError> {
        tokio::select! {
            Some(signal) = signals.0.recv() => info!(signal, "stopping"),
            () = self.stopping.cancelled() => {}
        }
        self.health.set(NotReady::Stopping);
        self.stopping.cancel();
        self.tasks.close();

        let deadline = Instant::now() + grace;
        let mut voice = interval_at(Instant::now() + VOICE, VOICE);
        let ended = loop {
            tokio::select! {
                biased;
                () = self.tasks.wait() => break Ok(()),
                Some(signal) = signals.0.recv() => {
                    error!(signal, "a second signal: the stop ends here");
                    break Err(StopError::Forced { tasks: self.running() });
                }
                () = sleep_until(deadline) => break Err(StopError::Late { grace, tasks: self.running() }),
                _ = voice.tick() => {
                    let open = open();
                    info!(open, tasks = self.running(), "still stopping");
                }
            }
        };
        match self.shared().failure.take() {
            Some((name, why)) => Err(StopError::Task { name, why }),
            None => ended,
        }
    }

    fn running(&self) -> String {
        self.shared().running.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    /// Nothing panics under this lock.
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use tokio::sync::oneshot;

    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    struct Process {
        shutdown: Shutdown,
        health: Health,
        signals: mpsc::Sender<&'static str>,
        voices: Arc<AtomicUsize>,
        ended: tokio::task::JoinHandle<Result<(), StopError>>,
    }

    /// A process that runs; `tasks` starts its core tasks.
    fn start(tasks: impl FnOnce(&Shutdown)) -> Process {
        let health = Health::starting(&[]);
        let shutdown = Shutdown::new(health.clone());
        tasks(&shutdown);
        let (signals, receiver) = mpsc::channel(2);
        let voices = Arc::new(AtomicUsize::new(0));
        let open = {
            let voices = voices.clone();
            move || {
                voices.fetch_add(1, Ordering::Relaxed);
                "2 attempts".to_owned()
            }
        };
        let ended = tokio::spawn(shutdown.clone().run(Signals(receiver), GRACE, open));
        Process { shutdown, health, signals, voices, ended }
    }

    impl Process {
        async fn signal(&self) {
            self.signals.send("SIGTERM").await.expect("the process runs");
        }

        async fn ended(self) -> Result<(), StopError> {
            self.ended.await.expect("no panic")
        }
    }

    /// A task that ends when it is told to, or a little later.
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
    async fn a_signal_stops_every_task_and_the_process_ends_well() {
        let process = start(|shutdown| {
            shutdown.core("jobs", obedient(shutdown.stopping(), Duration::ZERO));
            shutdown.core("dispatch", obedient(shutdown.stopping(), Duration::from_secs(12)));
        });
        let (health, voices, begun) = (process.health.clone(), process.voices.clone(), Instant::now());
        process.signal().await;
        process.shutdown.stopping().cancelled().await;
        assert_eq!(health.reasons(), [NotReady::Stopping]);
        assert_eq!(process.ended().await, Ok(()));
        assert_eq!(begun.elapsed(), Duration::from_secs(12), "it waits for what is open, and no longer");
        assert_eq!(voices.load(Ordering::Relaxed), 2, "at 5 s and at 10 s it says what is open");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_with_the_grace() {
        let process = start(|shutdown| shutdown.core("dispatch", stubborn()));
        let begun = Instant::now();
        process.signal().await;
        assert_eq!(process.ended().await, Err(StopError::Late { grace: GRACE, tasks: "dispatch".into() }));
        assert_eq!(begun.elapsed(), GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_ends_the_wait() {
        let process = start(|shutdown| {
            shutdown.core("dispatch", stubborn());
            shutdown.core("jobs", stubborn());
        });
        let begun = Instant::now();
        process.signal().await;
        process.signal().await;
        assert_eq!(process.ended().await, Err(StopError::Forced { tasks: "dispatch, jobs".into() }));
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_core_task_that_panics_stops_the_service() {
        let (go, told) = oneshot::channel::<()>();
        let process = start(|shutdown| {
            shutdown.core("jobs", obedient(shutdown.stopping(), Duration::ZERO));
            shutdown.core("line 3001", async move {
                told.await.expect("told");
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
            Err(StopError::Task { name: "jobs".into(), why: "without being told to stop".into() })
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_failure_is_the_one_that_is_told() {
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
    async fn the_program_can_stop_itself() {
        let shutdown = Shutdown::new(Health::starting(&[]));
        shutdown.core("demo", obedient(shutdown.stopping(), Duration::ZERO));
        shutdown.stop();
        assert_eq!(shutdown.run(Signals::none(), GRACE, String::new).await, Ok(()));
    }
}
