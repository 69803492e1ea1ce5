//! A real PostgreSQL for each test, with its own server and data.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::PathBuf,
    time::Duration,
};

use pregon::{
    domain::UnixMs,
    postgres::{Database, DatabaseAddress, spawn::PrivatePostgres},
};
use sqlx::{Connection as _, postgres::PgConnection};
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
        let server = start(&dir, &[]).await;
        let options = server.options().clone();
        Self {
            server: Some(server),
            address: DatabaseAddress { options, connections: 8, timeout: Duration::from_secs(20) },
            dir,
        }
    }

    /// The URL of the database, which stays the same after a restart.
    pub fn url(&self) -> String {
        let dir = self.dir.path().canonicalize().expect("the directory of the test");
        format!("postgres://pregon@localhost/pregon?host={}", dir.display())
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
        self.restart_with(&[]).await;
    }

    /// As [`TestPostgres::restart`], with further settings.
    pub async fn restart_with(&mut self, settings: &[&str]) {
        assert!(self.server.is_none(), "already running");
        self.server = Some(start(&self.dir, settings).await);
    }

    /// Runs a statement.
    pub async fn execute(&self, statement: &'static str) {
        let mut connection = PgConnection::connect_with(&self.address.options).await.expect("a connection");
        sqlx::raw_sql(statement).execute(&mut connection).await.expect("done");
    }

    /// Writes a file into its directory that only the server can read, and returns its path.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).expect("written");
        let owner = fs::metadata(self.dir.path()).expect("a directory");
        chown(&path, Some(owner.uid()), Some(owner.gid())).expect("the server's");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("the server's");
        path
    }
}

async fn start(dir: &TempDir, settings: &[&str]) -> PrivatePostgres {
    PrivatePostgres::start_with(dir.path(), &[&["fsync=off"], settings].concat()).await.expect("PostgreSQL")
}
