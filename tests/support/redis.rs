//! A real Redis for each test: its own server, its own data, its own end.

use std::path::Path;

use deadpool_redis::redis::{Client, aio::MultiplexedConnection};
use pregon::redis::spawn::PrivateRedis;
use tempfile::TempDir;

/// A redis-server of this test alone. It ends with the test.
pub struct TestRedis {
    url: String,
    program: String,
    server: Option<PrivateRedis>,
    dir: TempDir,
}

impl TestRedis {
    /// Starts it on an empty directory.
    pub async fn start() -> Self {
        Self::start_by("redis-server").await
    }

    /// The same by another program.
    pub async fn start_by(program: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let server = start(program, dir.path()).await;
        Self { url: server.url().to_owned(), program: program.to_owned(), server: Some(server), dir }
    }

    /// Where it is reached; the same after a restart.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The process id of the server that runs.
    pub fn pid(&self) -> u32 {
        self.server.as_ref().expect("it runs").pid()
    }

    /// A connection of the test's own, to look inside.
    pub async fn connection(&self) -> MultiplexedConnection {
        let client = Client::open(self.url()).expect("a URL of the redis crate");
        client.get_multiplexed_async_connection().await.expect("a connection")
    }

    /// Ends it with SIGKILL, as a crash would.
    pub async fn kill_hard(&mut self) {
        let server = self.server.take().expect("it runs");
        server.kill().await.expect("its end");
    }

    /// Ends it cleanly.
    pub async fn stop(&mut self) {
        let server = self.server.take().expect("it runs");
        server.stop().await.expect("its end");
    }

    /// How much it has written to its append-only file.
    pub fn written(&self) -> u64 {
        self.append_only_file().metadata().expect("its size").len()
    }

    /// Ends it as a failure of power would, which leaves of its append-only file only the first `kept` bytes.
    pub async fn lose_power(&mut self, kept: u64) {
        self.kill_hard().await;
        self.append_only_file().set_len(kept).expect("cut");
    }

    /// Ends it as a crash would, and starts it again without anything: it had no append-only file.
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

    /// Starts it again on the data it left, after [`TestRedis::stop`] or [`TestRedis::kill_hard`].
    pub async fn restart(&mut self) {
        assert!(self.server.is_none(), "it runs already");
        let server = start(&self.program, self.dir.path()).await;
        assert_eq!(server.url(), self.url, "a socket stays where it was");
        self.server = Some(server);
    }
}

async fn start(program: &str, dir: &Path) -> PrivateRedis {
    PrivateRedis::start_program(program, dir).await.unwrap_or_else(|error| panic!("{error}"))
}
