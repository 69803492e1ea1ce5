//! A real Redis for each test, with its own server and data.

use std::{path::Path, time::Duration};

use deadpool_redis::redis::{AsyncConnectionConfig, Client, aio::MultiplexedConnection, cmd};
use pregon::redis::spawn::PrivateRedis;
use tempfile::TempDir;

use super::until;

/// A redis-server for one test. It stops when dropped.
pub struct TestRedis {
    url: String,
    program: String,
    server: Option<PrivateRedis>,
    dir: TempDir,
}

impl TestRedis {
    /// Starts `redis-server` on an empty directory.
    pub async fn start() -> Self {
        Self::start_by("redis-server").await
    }

    /// Starts `program` on an empty directory.
    pub async fn start_by(program: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let server = start(program, dir.path()).await;
        Self { url: server.url().to_owned(), program: program.to_owned(), server: Some(server), dir }
    }

    /// The URL of the server, which stays the same after a restart.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The data directory of the server.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The process id of the running server.
    pub fn pid(&self) -> u32 {
        self.server.as_ref().expect("it runs").pid()
    }

    /// A new connection, for inspection.
    pub async fn connection(&self) -> MultiplexedConnection {
        let client = Client::open(self.url()).expect("a URL of the redis crate");
        // The default of half a second is too short for a long script on a loaded machine.
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(20)));
        client.get_multiplexed_async_connection_with_config(&config).await.expect("a connection")
    }

    /// Stores 100 MB, and sets `maxmemory` so that the used memory is this share of it. With this much stored, the
    /// remaining share is large enough for what a test writes until the memory is read again.
    pub async fn fill_to(&self, share: f64) {
        let mut connection = self.connection().await;
        let ballast = cmd("SETRANGE").arg("ballast").arg(100_000_000).arg("x").exec_async(&mut connection).await;
        ballast.expect("room");
        let info: String = cmd("INFO").arg("memory").query_async(&mut connection).await.expect("the figures");
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")?.parse::<f64>().ok());
        self.set_memory((used.expect("a number") / share) as u64).await;
    }

    /// Sets `maxmemory`, in bytes; 0: no limit.
    pub async fn set_memory(&self, max: u64) {
        let mut connection = self.connection().await;
        cmd("CONFIG").arg("SET").arg("maxmemory").arg(max).exec_async(&mut connection).await.expect("a setting");
    }

    /// Sends the server a signal: `STOP` or `CONT`.
    pub fn signal(&self, name: &str) {
        let status = std::process::Command::new("kill").args(["-s", name, &self.pid().to_string()]).status();
        assert!(status.expect("kill").success(), "SIG{name}");
    }

    /// Kills the server with SIGKILL, like a crash.
    pub async fn kill_hard(&mut self) {
        let server = self.server.take().expect("it runs");
        server.kill().await.expect("its end");
    }

    /// Shuts the server down cleanly.
    pub async fn stop(&mut self) {
        let server = self.server.take().expect("it runs");
        server.stop().await.expect("its end");
    }

    /// Copies the data as of now into `file`, as `redis-cli --rdb` does.
    pub async fn copy_to(&self, file: &Path) {
        let mut connection = self.connection().await;
        cmd("SAVE").exec_async(&mut connection).await.expect("a copy");
        std::fs::copy(self.dir.path().join("dump.rdb"), file).expect("a copy");
    }

    /// Starts the server with the copy in `file` instead of its data, after [`TestRedis::kill_hard`], by the steps of
    /// docs/running.md.
    pub async fn restore(&mut self, file: &Path) {
        let dir = self.dir.path();
        std::fs::remove_dir_all(dir.join("appendonlydir")).expect("removed");
        std::fs::copy(file, dir.join("dump.rdb")).expect("a copy");
        let socket = dir.join("restore.sock");
        let mut loading = std::process::Command::new(&self.program)
            .args(["--port", "0", "--appendonly", "no", "--save", "", "--logfile", "restore.log", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(dir)
            .spawn()
            .expect("a server");
        let url = format!("redis+unix://{}", socket.display());
        let client = Client::open(url).expect("a URL of the redis crate");
        until("the copy is loaded", async || socket.exists() && query(&client, &["PING"]).await.is_some()).await;
        query(&client, &["CONFIG", "SET", "appendonly", "yes"]).await.expect("an append-only file");
        until("the file is written", async || {
            let info = query(&client, &["INFO", "persistence"]).await.unwrap_or_default();
            info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0")
        })
        .await;
        query(&client, &["SHUTDOWN"]).await;
        loading.wait().expect("its end");
        self.restart().await;
    }

    /// The size of the append-only file, in bytes.
    pub fn written(&self) -> u64 {
        self.append_only_file().metadata().expect("its size").len()
    }

    /// Kills the server and truncates its append-only file to the first `kept` bytes, like a power failure.
    pub async fn lose_power(&mut self, kept: u64) {
        self.kill_hard().await;
        self.append_only_file().set_len(kept).expect("cut");
    }

    /// Kills the server and restarts it without data, like a Redis without an append-only file.
    pub async fn lose_all(&mut self) {
        self.kill_hard().await;
        std::fs::remove_dir_all(self.dir.path().join("appendonlydir")).expect("removed");
        self.restart().await;
    }

    fn append_only_file(&self) -> std::fs::File {
        let files = std::fs::read_dir(self.dir.path().join("appendonlydir")).expect("its directory");
        let mut paths = files.map(|file| file.expect("a file").path());
        let path = paths.find(|path| path.to_string_lossy().ends_with(".incr.aof")).expect("a file that grows");
        std::fs::OpenOptions::new().write(true).open(path).expect("the file")
    }

    /// Starts the server again on its data, after [`TestRedis::stop`], [`TestRedis::kill_hard`] or
    /// [`TestRedis::lose_power`].
    pub async fn restart(&mut self) {
        assert!(self.server.is_none(), "already running");
        let server = start(&self.program, self.dir.path()).await;
        assert_eq!(server.url(), self.url, "a socket stays where it was");
        self.server = Some(server);
    }
}

/// The answer to a command; `None` if there is none, or an error.
async fn query(client: &Client, words: &[&str]) -> Option<String> {
    let mut connection = client.get_multiplexed_async_connection().await.ok()?;
    cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await.ok()
}

async fn start(program: &str, dir: &Path) -> PrivateRedis {
    PrivateRedis::start_program(program, dir).await.unwrap_or_else(|error| panic!("{error}"))
}
