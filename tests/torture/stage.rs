//! What a round plays on: a Redis, a Meta, workers, and a network between them that can be harmed.

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
use tokio::{sync::Mutex, task::JoinHandle};

use crate::{
    backend::Backend,
    clock::{self, Clock},
    proxy::{Network, Place, Proxy},
    schedule::{DOUBT_DEADLINE, Fsync, LINES, Wire},
    support::{
        hostile::Meta,
        redis::TestRedis,
        server::{Installation, Server},
    },
};

/// The size of the append-only file is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Before a worker that ended at its start is started again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// A worker that does not serve after this time never will: no fault keeps one from it for so long.
const START_MAX: Duration = Duration::from_secs(120);
/// A stop is to end within the grace that the workers are configured with.
const STOP_MAX: Duration = Duration::from_secs(25);

/// Everything that takes part in a round.
pub struct Stage {
    pub redis: Mutex<Disk>,
    /// A backend that adds jobs to it.
    pub backend: Backend,
    clock: Option<Clock>,
    pub meta: Meta,
    pub posts: Vec<Post>,
    /// Held for the proxies that run on it.
    _network: Network,
    /// What backends and Meta call: leads to the workers that take calls.
    pub front: Proxy,
    pub installation: Installation,
    fsync: Fsync,
    watched: Arc<Lock<Watched>>,
    watching: JoinHandle<()>,
}

/// What is seen meanwhile.
#[derive(Default)]
struct Watched {
    /// The size of the append-only file, and when.
    sizes: Vec<(Instant, u64)>,
    /// How late this task was at most when it wanted to go on.
    late: Duration,
}

/// A Redis, and the file in which it keeps what it is told.
pub struct Disk {
    pub server: TestRedis,
    file: PathBuf,
}

/// The place of a worker, in which one process follows another.
pub struct Post {
    number: usize,
    roles: &'static str,
    redis: Proxy,
    meta: Proxy,
    meta_url: String,
    /// The line that its next process does not list.
    lacks: Lock<Option<&'static str>>,
    /// It reaches Meta through the proxy.
    crooked: bool,
    process: Mutex<Option<Server>>,
    serves_at: Lock<Option<SocketAddr>>,
    starts: AtomicUsize,
    /// Ends that nobody asked for, and stops that took too long.
    problems: Lock<Vec<String>>,
}

impl Stage {
    /// Starts everything. A worker in each place, with the roles of that place; those with `api` take webhooks too. Only
    /// workers for which `crooked` holds reach Meta through a proxy: it would blur the measured rate of the others.
    pub async fn set(
        fsync: Fsync,
        rates: [u64; 3],
        roles: &[&'static str],
        meta: Meta,
        crooked: impl Fn(usize) -> bool,
    ) -> Self {
        let (server, clock) = clock::redis().await;
        let network = Network::start();
        let lines: Vec<(&str, f64)> = LINES.into_iter().zip(rates.map(|rate| rate as f64)).collect();
        let dispatch = format!("doubt_deadline = \"{}ms\"", DOUBT_DEADLINE.as_millis());
        let installation = Installation::new(&server, &meta.url(), &lines, &dispatch);
        let meta_at = Place::Tcp(meta.url().trim_start_matches("http://").parse().expect("an address"));
        let backend = Backend::at(server.url());
        let redis_at = Place::Unix(server.url().strip_prefix("redis+unix://").expect("a socket").into());
        let posts = roles.iter().enumerate().map(|(number, roles)| Post {
            number,
            roles,
            redis: network.unix(installation.dir().join(format!("{number}.sock")), redis_at.clone()),
            meta: network.tcp(vec![meta_at.clone()]),
            meta_url: meta.url(),
            lacks: Lock::new(None),
            crooked: crooked(number),
            process: Mutex::new(None),
            serves_at: Lock::new(None),
            starts: AtomicUsize::new(0),
            problems: Lock::default(),
        });
        let posts: Vec<Post> = posts.collect();
        let front = network.tcp(Vec::new());
        meta.set_webhook(format!("{}/webhooks/meta", front.url()));
        let watched = Arc::default();
        let disk = Disk { file: append_only_file(&server), server };
        let watching = tokio::spawn(watch(disk.file.clone(), Arc::clone(&watched)));
        let stage = Self {
            redis: Mutex::new(disk),
            backend,
            clock,
            meta,
            posts,
            _network: network,
            front,
            installation,
            fsync,
            watched,
            watching,
        };
        stage.configure(&*stage.redis.lock().await).await;
        for number in 0..stage.posts.len() {
            stage.start_worker(number).await;
        }
        stage
    }

    async fn configure(&self, disk: &Disk) {
        if self.fsync == Fsync::Always {
            disk.says(&["CONFIG", "SET", "appendfsync", "always"]).await;
        }
    }

    /// Starts a worker, again and again until it serves: without a Redis it does not.
    pub async fn start_worker(&self, number: usize) {
        let post = &self.posts[number];
        let mut process = post.process.lock().await;
        if process.is_none() {
            *process = Some(post.start(&self.installation).await);
        }
        drop(process);
        self.lead();
    }

    /// The next process in a place lists all lines but this one.
    pub fn lists_all_but(&self, number: usize, line: Option<&'static str>) {
        *self.posts[number].lacks.lock().expect("no panic under the lock") = line;
    }

    /// SIGKILL. Gives the moment.
    pub async fn kill_worker(&self, number: usize) -> Option<Instant> {
        let mut process = self.posts[number].process.lock().await;
        let mut killed = process.take()?;
        self.note_end(number, &mut killed);
        killed.signal("KILL");
        let at = Instant::now();
        ends(&mut killed, STOP_MAX).await;
        self.posts[number].is_gone();
        self.lead();
        Some(at)
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop_worker(&self, number: usize) {
        let post = &self.posts[number];
        let mut process = post.process.lock().await;
        let Some(mut stopped) = process.take() else { return };
        self.note_end(number, &mut stopped);
        stopped.signal("TERM");
        if !ends(&mut stopped, STOP_MAX).await {
            post.problem(format!("worker {number} did not stop within {STOP_MAX:?}"));
        }
        post.is_gone();
        self.lead();
    }

    /// SIGSTOP, and SIGCONT after `asleep`.
    pub async fn put_worker_to_sleep(&self, number: usize, asleep: Duration) {
        let process = self.posts[number].process.lock().await;
        if let Some(process) = &*process {
            process.signal("STOP");
            tokio::time::sleep(asleep).await;
            process.signal("CONT");
        }
    }

    /// Keeps in mind a worker that has ended by itself.
    fn note_end(&self, number: usize, process: &mut Server) {
        if let Some(status) = process.has_ended() {
            self.posts[number].problem(format!("worker {number} ended by itself: {status}"));
        }
    }

    fn lead(&self) {
        let serving = self.posts.iter().filter(|post| post.roles.starts_with("api")).filter_map(Post::serves_at);
        self.front.leads_to(serving.map(Place::Tcp).collect());
    }

    /// SIGKILL to Redis; gone is what came to its file in the last `forgets`; and a start after `down`. Gives what it
    /// forgot, in bytes.
    pub async fn kill_redis(&self, forgets: Option<Duration>, down: Duration) -> u64 {
        let mut disk = self.redis.lock().await;
        disk.server.kill_hard().await;
        let died = Instant::now();
        let mut forgotten = 0;
        if let Some(forgets) = forgets {
            let sizes = &mut self.watched.lock().expect("no panic under the lock").sizes;
            let kept =
                sizes.iter().rev().find(|(at, _)| died - *at >= forgets).or(sizes.first()).map(|(_, size)| *size);
            let file = OpenOptions::new().write(true).open(&disk.file).expect("the append-only file");
            let size = file.metadata().expect("its size").len();
            let kept = kept.unwrap_or(size).min(size);
            file.set_len(kept).expect("it is made shorter");
            sizes.clear();
            forgotten = size - kept;
        }
        tokio::time::sleep(down).await;
        disk.server.restart().await;
        self.configure(&disk).await;
        forgotten
    }

    /// Sets Redis' clock ahead or back, where clocks can be set.
    pub async fn step_clock(&self, by_ms: i64) {
        if let Some(clock) = &self.clock {
            clock.step(by_ms).await;
        }
    }

    /// A connection that can be harmed.
    pub fn wire(&self, wire: Wire) -> &Proxy {
        match wire {
            Wire::Redis(worker) => &self.posts[worker].redis,
            Wire::Meta(worker) => &self.posts[worker].meta,
            Wire::Webhooks => &self.front,
        }
    }

    /// Everything is well again: the network, and a worker in each place.
    pub async fn heal(&self) {
        for post in &self.posts {
            post.redis.mend();
            post.meta.mend();
        }
        self.front.mend();
        for number in 0..self.posts.len() {
            let mut process = self.posts[number].process.lock().await;
            if let Some(worker) = process.as_mut()
                && worker.has_ended().is_some()
            {
                self.note_end(number, worker);
                *process = None;
            }
            drop(process);
            self.start_worker(number).await;
        }
    }

    /// How long the machine let this process wait at most: as long it may have kept a worker from its work.
    pub fn machine_was_late(&self) -> Duration {
        self.watched.lock().expect("no panic under the lock").late
    }

    /// Starts of workers beyond the first of each.
    pub fn restarts(&self) -> usize {
        self.posts.iter().map(|post| post.starts.load(Ordering::SeqCst).saturating_sub(1)).sum()
    }

    /// What workers did that nobody asked for.
    pub fn problems(&self) -> Vec<String> {
        let of = |post: &Post| post.problems.lock().expect("no panic under the lock").clone();
        self.posts.iter().flat_map(of).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Disk {
    /// A command, on a connection of its own.
    pub async fn says(&self, words: &[&str]) {
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

impl Post {
    /// The version of Meta's API that its processes use begins so.
    pub fn version(number: usize) -> String {
        format!("v{}.", 20 + number)
    }

    async fn start(&self, installation: &Installation) -> Server {
        let started = self.starts.fetch_add(1, Ordering::SeqCst);
        let version = format!("{}{started}", Self::version(self.number));
        let redis = self.redis.url();
        let meta = if self.crooked { self.meta.url() } else { self.meta_url.clone() };
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
            let lacks = *self.lacks.lock().expect("no panic under the lock");
            let mut process = installation.start_without(lacks, &name, self.roles, &environment);
            while process.has_ended().is_none() {
                if process.serves() {
                    let address = process.url().trim_start_matches("http://").parse().ok();
                    *self.serves_at.lock().expect("no panic under the lock") = address;
                    return process;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert!(began.elapsed() < START_MAX, "worker {} does not start:\n{}", self.number, process.log());
            tokio::time::sleep(AGAIN_AFTER).await;
        }
        unreachable!("attempts do not end")
    }

    fn serves_at(&self) -> Option<SocketAddr> {
        *self.serves_at.lock().expect("no panic under the lock")
    }

    fn is_gone(&self) {
        *self.serves_at.lock().expect("no panic under the lock") = None;
    }

    fn problem(&self, what: String) {
        self.problems.lock().expect("no panic under the lock").push(what);
    }
}

/// Waits for the end of a process, so long at most. Gives whether it came.
async fn ends(process: &mut Server, patience: Duration) -> bool {
    let began = Instant::now();
    while process.has_ended().is_none() {
        if began.elapsed() > patience {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    true
}

/// Where Redis 7 writes what it is told: the last of its incremental files.
fn append_only_file(server: &TestRedis) -> PathBuf {
    let files = std::fs::read_dir(server.dir().join("appendonlydir")).expect("the directory of Redis 7");
    let files = files.map(|entry| entry.expect("an entry").path());
    files.filter(|path| path.to_string_lossy().ends_with(".incr.aof")).max().expect("an append-only file")
}

async fn watch(file: PathBuf, watched: Arc<Lock<Watched>>) {
    loop {
        let began = Instant::now();
        tokio::time::sleep(LOOK_EVERY).await;
        let (slept, size) = (began.elapsed(), std::fs::metadata(&file).map(|metadata| metadata.len()));
        let mut watched = watched.lock().expect("no panic under the lock");
        watched.late = watched.late.max(slept.saturating_sub(LOOK_EVERY));
        watched.sizes.extend(size.ok().map(|size| (Instant::now(), size)));
    }
}
