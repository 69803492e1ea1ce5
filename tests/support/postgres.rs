//! A real PostgreSQL for each test, with its own server and data.

use std::time::Duration;

use pregon::{
    domain::UnixMs,
    postgres::{Database, DatabaseAddress, spawn::PrivatePostgres},
};
use tempfile::TempDir;

/// A PostgreSQL for one test. It stops when dropped.
pub struct TestPostgres {
    server: Option<PrivatePostgres>,
    address: DatabaseAddress,
    dir: TempDir,
}

impl TestPostgres {
    /// Starts a server on an empty directory. A crash of the server loses nothing, but one of the machine does.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let server = start(&dir).await;
        let options = server.options().clone();
        Self {
            server: Some(server),
            address: DatabaseAddress { options, connections: 8, timeout: Duration::from_secs(20) },
            dir,
        }
    }

    /// Connections of their own.
    pub fn connect(&self) -> Database {
        Database::new(&self.address)
    }

    /// A database with its tables.
    pub async fn database(&self, now: UnixMs) -> Database {
        let database = self.connect();
        database.migrate(now).await.expect("tables");
        database
    }

    /// Kills the server with SIGKILL, like a crash.
    pub async fn kill_hard(&mut self) {
        self.server.take().expect("it runs").kill().await.expect("its end");
    }

    /// Starts the server again on its data, after [`TestPostgres::kill_hard`].
    pub async fn restart(&mut self) {
        assert!(self.server.is_none(), "already running");
        self.server = Some(start(&self.dir).await);
    }
}

async fn start(dir: &TempDir) -> PrivatePostgres {
    PrivatePostgres::start_with(dir.path(), &["fsync=off"]).await.expect("PostgreSQL")
}
