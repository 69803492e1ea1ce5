//! The set-up of a round: a Redis, a PostgreSQL, a fake Meta, workers, and a faulty network between them.

use std::{
    fs::OpenOptions,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex as Lock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool_redis::redis::Cmd;
use pregon::redis::Store;
use tokio::{sync::Mutex, task::JoinHandle};

use crate::{
    backend::Backend,
    proxy::{Endpoint, Network, Proxy},
    schedule::{DOUBT_DEADLINE, Fsync, LINES, Wire},
    support::{
        clock::{self, Clock},
        hostile::Meta,
        postgres::TestPostgres,
        redis::TestRedis,
        server::{Installation, Server},
        world,
    },
};

/// How often the size of the append-only file is recorded.
const OBSERVE_EVERY: Duration = Duration::from_millis(50);
/// Pause before a worker that exited during its start is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// The longest start of a worker. No fault delays a start for that long.
const START_MAX: Duration = Duration::from_secs(120);
/// The longest shutdown: the 20 seconds of `shutdown.grace`, and five more.
const STOP_MAX: Duration = Duration::from_secs(25);

/// All parts of a round.
pub struct Stage {
    pub redis: Mutex<Disk>,
    /// `None` if there are no chats.
    postgres: Option<Mutex<TestPostgres>>,
    /// The backend that adds jobs to Redis.
    pub backend: Backend,
    clock: Option<Clock>,
    pub meta: Meta,
    pub slots: Vec<WorkerSlot>,
    /// Keeps the proxies running.
    _network: Network,
    /// The address that backends and Meta call. Leads to the workers with the role `api`.
    pub front: Proxy,
    pub installation: Installation,
    fsync: Fsync,
    observed: Arc<Lock<Observed>>,
    observer: JoinHandle<()>,
}

/// Observations during the round.
#[derive(Default)]
struct Observed {
    /// Sizes of the append-only file, with the time of each.
    sizes: Vec<(Instant, u64)>,
    /// By how much [`observe`] woke later than its timer, at most. It measures the load of the machine.
    late: Duration,
}

/// A Redis and its append-only file.
pub struct Disk {
    pub server: TestRedis,
    file: PathBuf,
}

/// A worker of a round. Its processes follow one another under the same number.
pub struct WorkerSlot {
    number: usize,
    roles: &'static str,
    redis: Proxy,
    meta: Proxy,
    meta_url: String,
    /// The line that the next process does not configure.
    omitted_line: Lock<Option<&'static str>>,
    /// Whether the worker reaches Meta through the proxy.
    proxied: bool,
    process: Mutex<Option<Server>>,
    /// Where the current process serves HTTP.
    serves_at: Lock<Option<SocketAddr>>,
    starts: AtomicUsize,
    /// Unexpected exits, and shutdowns that took too long.
    problems: Lock<Vec<String>>,
}

impl Stage {
    /// Starts everything, with one worker for each element of `roles`. Workers with `api` receive webhooks too, and
    /// those with `engage` need `postgres`.
    /// Only workers for which `proxied` returns true reach Meta through a proxy, because a proxy makes the measured
    /// rate less exact.
    pub async fn set(
        fsync: Fsync,
        rates: [u64; 3],
        roles: &[&'static str],
        meta: Meta,
        postgres: Option<TestPostgres>,
        proxied: impl Fn(usize) -> bool,
    ) -> Self {
        let (server, clock) = clock::redis().await;
        let network = Network::start();
        let lines: Vec<(&str, f64)> = LINES.into_iter().zip(rates.map(|rate| rate as f64)).collect();
        let dispatch = format!("doubt_deadline = \"{}ms\"", DOUBT_DEADLINE.as_millis());
        let mut installation = Installation::new(&server, &meta.url(), &lines, &dispatch);
        if let Some(postgres) = &postgres {
            installation = installation.with(&format!("[database]\nurl = \"{}\"\n", postgres.url()));
        }
        let meta_at = Endpoint::Tcp(meta.url().trim_start_matches("http://").parse().expect("an address"));
        let backend = Backend::at(server.url());
        let redis_at = Endpoint::Unix(server.url().strip_prefix("redis+unix://").expect("a socket").into());
        let slots = roles.iter().enumerate().map(|(number, roles)| WorkerSlot {
            number,
            roles,
            redis: network.unix(installation.dir().join(format!("{number}.sock")), redis_at.clone()),
            meta: network.tcp(vec![meta_at.clone()]),
            meta_url: meta.url(),
            omitted_line: Lock::new(None),
            proxied: proxied(number),
            process: Mutex::new(None),
            serves_at: Lock::new(None),
            starts: AtomicUsize::new(0),
            problems: Lock::default(),
        });
        let slots: Vec<WorkerSlot> = slots.collect();
        let front = network.tcp(Vec::new());
        meta.set_webhook(format!("{}/webhooks/meta", front.url()));
        let observed = Arc::default();
        let disk = Disk { file: append_only_file(&server), server };
        let observer = tokio::spawn(observe(disk.file.clone(), Arc::clone(&observed)));
        let stage = Self {
            redis: Mutex::new(disk),
            postgres: postgres.map(Mutex::new),
            backend,
            clock,
            meta,
            slots,
            _network: network,
            front,
            installation,
            fsync,
            observed,
            observer,
        };
        stage.configure(&*stage.redis.lock().await).await;
        for number in 0..stage.slots.len() {
            stage.start_worker(number).await;
        }
        stage
    }

    async fn configure(&self, disk: &Disk) {
        if self.fsync == Fsync::Always {
            disk.run(&["CONFIG", "SET", "appendfsync", "always"]).await;
        }
    }

    /// Starts a worker, unless it runs, and waits until it serves. A process that exits before that is replaced.
    pub async fn start_worker(&self, number: usize) {
        let slot = &self.slots[number];
        let mut process = slot.process.lock().await;
        if process.is_none() {
            *process = Some(slot.start(&self.installation).await);
        }
        drop(process);
        self.update_front();
    }

    /// The next process of this worker configures all lines but this one.
    pub fn omit_line(&self, number: usize, line: Option<&'static str>) {
        *self.slots[number].omitted_line.lock().expect("no panic under the lock") = line;
    }

    /// Sends SIGKILL. Returns the time of the kill.
    pub async fn kill_worker(&self, number: usize) -> Option<Instant> {
        let mut process = self.slots[number].process.lock().await;
        let mut killed = process.take()?;
        self.record_exit(number, &mut killed);
        killed.signal("KILL");
        let at = Instant::now();
        exits(&mut killed, STOP_MAX).await;
        self.slots[number].clear_address();
        self.update_front();
        Some(at)
    }

    /// Sends SIGTERM and waits for the exit.
    pub async fn stop_worker(&self, number: usize) {
        let slot = &self.slots[number];
        let mut process = slot.process.lock().await;
        let Some(mut stopped) = process.take() else { return };
        self.record_exit(number, &mut stopped);
        stopped.signal("TERM");
        if !exits(&mut stopped, STOP_MAX).await {
            slot.problem(format!("worker {number} did not stop within {STOP_MAX:?}"));
        }
        slot.clear_address();
        self.update_front();
    }

    /// Sends SIGSTOP, and SIGCONT after `asleep`.
    pub async fn suspend_worker(&self, number: usize, asleep: Duration) {
        let process = self.slots[number].process.lock().await;
        if let Some(process) = &*process {
            process.signal("STOP");
            tokio::time::sleep(asleep).await;
            process.signal("CONT");
        }
    }

    /// Records a problem if the process has already exited by itself.
    fn record_exit(&self, number: usize, process: &mut Server) {
        if let Some(status) = process.has_ended() {
            self.slots[number].problem(format!("worker {number} exited unexpectedly: {status}"));
        }
    }

    fn update_front(&self) {
        let serving = self.slots.iter().filter(|slot| slot.roles.starts_with("api")).filter_map(WorkerSlot::serves_at);
        self.front.set_targets(serving.map(Endpoint::Tcp).collect());
    }

    /// Kills Redis, removes what was written to its append-only file in the last `forgets`, and starts it after `down`.
    /// Returns the number of bytes removed.
    pub async fn kill_redis(&self, forgets: Option<Duration>, down: Duration) -> u64 {
        let mut disk = self.redis.lock().await;
        disk.server.kill_hard().await;
        let died = Instant::now();
        let mut forgotten = 0;
        if let Some(forgets) = forgets {
            let sizes = &mut self.observed.lock().expect("no panic under the lock").sizes;
            let kept_bytes =
                sizes.iter().rev().find(|(at, _)| died - *at >= forgets).or(sizes.first()).map(|(_, size)| *size);
            let file = OpenOptions::new().write(true).open(&disk.file).expect("the append-only file");
            let size = file.metadata().expect("its size").len();
            let kept_bytes = kept_bytes.unwrap_or(size).min(size);
            file.set_len(kept_bytes).expect("it is made shorter");
            sizes.clear();
            forgotten = size - kept_bytes;
        }
        tokio::time::sleep(down).await;
        disk.server.restart().await;
        self.configure(&disk).await;
        forgotten
    }

    /// Kills PostgreSQL, and starts it after `down`.
    pub async fn kill_postgres(&self, down: Duration) {
        let mut postgres = self.postgres.as_ref().expect("a round with chats").lock().await;
        postgres.kill_hard().await;
        tokio::time::sleep(down).await;
        postgres.restart().await;
    }

    /// Moves Redis' clock ahead or back, where clocks can be set.
    pub async fn step_clock(&self, by_ms: i64) {
        if let Some(clock) = &self.clock {
            clock.step(by_ms).await;
        }
    }

    /// A store of the round's Redis, without a proxy in between.
    pub async fn store(&self) -> Store {
        let address = world::address(&self.redis.lock().await.server);
        Store::connect(&address).await.expect("a store").with_feed(Some(world::FEED))
    }

    /// The proxy of a connection.
    pub fn wire(&self, wire: Wire) -> &Proxy {
        match wire {
            Wire::Redis(worker) => &self.slots[worker].redis,
            Wire::Meta(worker) => &self.slots[worker].meta,
            Wire::Webhooks => &self.front,
        }
    }

    /// Ends all faults: restores the network, and starts the workers that are missing.
    pub async fn heal(&self) {
        for slot in &self.slots {
            slot.redis.restore();
            slot.meta.restore();
        }
        self.front.restore();
        for number in 0..self.slots.len() {
            let mut process = self.slots[number].process.lock().await;
            if let Some(worker) = process.as_mut()
                && worker.has_ended().is_some()
            {
                self.record_exit(number, worker);
                *process = None;
            }
            drop(process);
            self.start_worker(number).await;
        }
    }

    /// The longest time that the machine delayed this process. It may have delayed the workers as much.
    pub fn machine_was_late(&self) -> Duration {
        self.observed.lock().expect("no panic under the lock").late
    }

    /// The number of worker starts beyond each worker's first.
    pub fn restarts(&self) -> usize {
        self.slots.iter().map(|slot| slot.starts.load(Ordering::SeqCst).saturating_sub(1)).sum()
    }

    /// Unexpected exits and slow shutdowns of all workers.
    pub fn problems(&self) -> Vec<String> {
        let of = |slot: &WorkerSlot| slot.problems.lock().expect("no panic under the lock").clone();
        self.slots.iter().flat_map(of).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.observer.abort();
    }
}

impl Disk {
    /// Runs a command on a new connection.
    pub async fn run(&self, words: &[&str]) {
        let mut command = Cmd::new();
        words.iter().for_each(|word| {
            command.arg(*word);
        });
        command.exec_async(&mut self.server.connection().await).await.expect("redis answers");
    }

    /// Sends the server a signal.
    pub fn signal(&self, name: &str) {
        let pid = self.server.pid().to_string();
        let sent = std::process::Command::new("sh").args(["-c", "kill -s \"$1\" \"$2\"", "sh", name, &pid]).status();
        assert!(sent.expect("a shell").success(), "SIG{name} to {pid}");
    }
}

impl WorkerSlot {
    /// The prefix of the Graph API version that the worker's processes use.
    pub fn version(number: usize) -> String {
        format!("v{}.", 20 + number)
    }

    async fn start(&self, installation: &Installation) -> Server {
        let started = self.starts.fetch_add(1, Ordering::SeqCst);
        let version = format!("{}{started}", Self::version(self.number));
        let redis = self.redis.url();
        let meta = if self.proxied { self.meta.url() } else { self.meta_url.clone() };
        let environment = [
            ("PREGON__REDIS__URL", redis.as_str()),
            ("PREGON__GRAPH__BASE_URL", &meta),
            ("PREGON__GRAPH__VERSION", &version),
            ("PREGON__GRAPH__TIMEOUT", "2s"),
            ("PREGON__GRAPH__CONNECT_TIMEOUT", "1s"),
        ];
        let began = Instant::now();
        for attempt in 0.. {
            let name = format!("worker-{}-{started}-{attempt}", self.number);
            let omitted_line = *self.omitted_line.lock().expect("no panic under the lock");
            let mut process = installation.start_without(omitted_line, &name, self.roles, &environment);
            while process.has_ended().is_none() {
                if process.serves() {
                    let address = process.url().trim_start_matches("http://").parse().ok();
                    *self.serves_at.lock().expect("no panic under the lock") = address;
                    return process;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert!(began.elapsed() < START_MAX, "worker {} does not start:\n{}", self.number, process.log());
            tokio::time::sleep(RESTART_PAUSE).await;
        }
        unreachable!("attempts do not end")
    }

    fn serves_at(&self) -> Option<SocketAddr> {
        *self.serves_at.lock().expect("no panic under the lock")
    }

    fn clear_address(&self) {
        *self.serves_at.lock().expect("no panic under the lock") = None;
    }

    fn problem(&self, what: String) {
        self.problems.lock().expect("no panic under the lock").push(what);
    }
}

/// Waits at most `timeout` for a process to exit. Returns whether it did.
async fn exits(process: &mut Server, timeout: Duration) -> bool {
    let began = Instant::now();
    while process.has_ended().is_none() {
        if began.elapsed() > timeout {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    true
}

/// The file to which Redis 7 appends its writes: the last of its incremental files.
fn append_only_file(server: &TestRedis) -> PathBuf {
    let files = std::fs::read_dir(server.dir().join("appendonlydir")).expect("the directory of Redis 7");
    let files = files.map(|entry| entry.expect("an entry").path());
    files.filter(|path| path.to_string_lossy().ends_with(".incr.aof")).max().expect("an append-only file")
}

async fn observe(file: PathBuf, observed: Arc<Lock<Observed>>) {
    loop {
        let began = Instant::now();
        tokio::time::sleep(OBSERVE_EVERY).await;
        let (slept, size) = (began.elapsed(), std::fs::metadata(&file).map(|metadata| metadata.len()));
        let mut observed = observed.lock().expect("no panic under the lock");
        observed.late = observed.late.max(slept.saturating_sub(OBSERVE_EVERY));
        observed.sizes.extend(size.ok().map(|size| (Instant::now(), size)));
    }
}
