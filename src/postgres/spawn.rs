//! `spawn:DIR`: a private PostgreSQL, run as a child of this process.
//!
//! Owns: the directory `DIR` while the server runs: the data in `DIR/data`, its socket, and `postgres.log`.
//! If this process dies: the server stops too (see `private_server`). The next start recovers what was
//! committed.
//! Never: touches a PostgreSQL that it did not start, or listens on a network.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt as _, chown},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use sqlx::{
    ConnectOptions as _, Connection as _, Executor as _,
    postgres::{PgConnectOptions, PgConnection},
};
use tokio::process::Command;

use crate::private_server::{Kept, Launch, Log, NotLaunched, NotReady, PrivateServer, last_line};

/// The user and the database of the private server.
const NAME: &str = "pregon";
/// The user as whom the server runs if this process is root, because PostgreSQL refuses to run as root.
const UNPRIVILEGED: &str = "postgres";
/// Maximum length of the path of the directory: that of the socket in it must fit into 103 bytes on macOS.
const DIR_BYTES_MAX: usize = 85;
/// Where packages put the programs, if not on the PATH: directories with one for each version.
const PACKAGES: [(&str, &str); 3] =
    [("/usr/lib/postgresql", "bin"), ("/usr/libexec", "bin"), ("/opt/homebrew/opt", "bin")];

/// A running private PostgreSQL. Dropping it begins a fast shutdown without waiting for the end;
/// [`PrivatePostgres::stop`] waits.
#[derive(Debug)]
pub struct PrivatePostgres {
    location: PostgresLocation,
    options: PgConnectOptions,
    server: PrivateServer,
}

/// Where a private PostgreSQL runs, and with which further settings.
#[derive(Clone, Debug)]
pub struct PostgresLocation {
    dir: PathBuf,
    settings: Vec<String>,
}

/// The name of the server's log in its directory.
const LOG: &str = "postgres.log";

/// Why a private PostgreSQL did not start.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseSpawnError {
    /// The programs are not installed.
    #[error(
        "PostgreSQL is not installed: run `make postgres`, or `apt-get install postgresql`, `dnf install \
         postgresql-server`, `apk add postgresql`, `brew install postgresql`; or set database.url to a running one"
    )]
    Missing,
    /// Another process uses the directory.
    #[error("{} is in use: another process runs its PostgreSQL there; use a separate directory for this one", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The path does not fit into the address of a socket.
    #[error("{} is too long for the socket of a private PostgreSQL: use a directory with at most {DIR_BYTES_MAX} bytes", dir.display())]
    TooLong {
        /// The directory.
        dir: PathBuf,
    },
    /// This process is root, and there is no user to run the server as.
    #[error(
        "PostgreSQL refuses to run as root, and there is no user {UNPRIVILEGED}: create one, or run this process as another user"
    )]
    NoUser,
    /// The server ended before it accepted connections, or its data could not be created.
    #[error("{program} ended while starting ({status}), see {}: {last}", log.display())]
    Ended {
        /// `postgres` or `initdb`.
        program: &'static str,
        /// Its exit status.
        status: ExitStatus,
        /// Path of its log.
        log: PathBuf,
        /// The last line of the log.
        last: String,
    },
    /// The server runs but does not accept connections.
    #[error("postgres did not accept connections within {}s, see {}: {cause}", waited.as_secs(), log.display())]
    Silent {
        /// How long this process waited.
        waited: Duration,
        /// Path of its log.
        log: PathBuf,
        /// The error of the last attempt.
        cause: sqlx::Error,
    },
    /// The directory, the pipe or the shell failed.
    #[error("private PostgreSQL in {}: {cause}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// The error of the system.
        cause: io::Error,
    },
}

impl PrivatePostgres {
    /// Starts a server on the data in `dir` and waits until it accepts connections. Creates `dir` and the data if they
    /// are missing.
    ///
    /// Errors: [`DatabaseSpawnError`]; no process is left behind.
    pub async fn start(dir: &Path) -> Result<Self, DatabaseSpawnError> {
        Self::start_with(dir, &[]).await
    }

    /// As [`PrivatePostgres::start`], with further settings, such as `fsync=off`.
    pub async fn start_with(dir: &Path, settings: &[&str]) -> Result<Self, DatabaseSpawnError> {
        let io = |cause| DatabaseSpawnError::Io { dir: dir.to_owned(), cause };
        // Only its user may read the directory, because the data are what people wrote.
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
        let dir = dir.canonicalize().map_err(io)?;
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        PostgresLocation { dir, settings }.start().await
    }

    /// Waits until the server accepts connections, and creates the database if it is missing.
    async fn wait_until_ready(&mut self, log: PathBuf) -> Result<(), DatabaseSpawnError> {
        let ready = self.server.wait_until_ready(|| create_database(&self.options), is_starting).await;
        ready.map_err(|error| match error {
            NotReady::Ended(status) => {
                DatabaseSpawnError::Ended { program: "postgres", status, last: last_line(&log), log }
            }
            NotReady::Silent { waited, cause } => DatabaseSpawnError::Silent { waited, log, cause },
            NotReady::Io(cause) => DatabaseSpawnError::Io { dir: self.location.dir.clone(), cause },
        })
    }

    /// How to connect to its database.
    pub fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// The process id of the server, not of its supervisor.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Stops the server cleanly; transactions that are open are rolled back. Kills it if that takes longer than 20 s.
    ///
    /// Errors: waiting for the process failed.
    pub async fn stop(self) -> io::Result<()> {
        self.server.stop().await
    }

    /// Kills the server with SIGKILL, as in a crash, and waits until it has ended.
    ///
    /// Errors: waiting for the process failed.
    pub async fn kill(self) -> io::Result<()> {
        self.server.kill().await
    }
}

impl Kept for PrivatePostgres {
    const NAME: &'static str = "PostgreSQL";
    type Location = PostgresLocation;
    type Error = DatabaseSpawnError;

    fn into_parts(self) -> (PrivateServer, PostgresLocation) {
        (self.server, self.location)
    }

    async fn start_at(location: &PostgresLocation) -> Result<Self, DatabaseSpawnError> {
        location.start().await
    }

    fn log(location: &PostgresLocation) -> PathBuf {
        location.dir.join(LOG)
    }
}

impl PostgresLocation {
    async fn start(&self) -> Result<PrivatePostgres, DatabaseSpawnError> {
        let dir = &self.dir;
        let io = |cause| DatabaseSpawnError::Io { dir: dir.clone(), cause };
        let programs = Programs::find().ok_or(DatabaseSpawnError::Missing)?;
        if dir.as_os_str().len() > DIR_BYTES_MAX {
            return Err(DatabaseSpawnError::TooLong { dir: dir.clone() });
        }
        let user = if rustix::process::geteuid().is_root() { Some(unprivileged().await?) } else { None };
        if let Some((user, group)) = user {
            chown(dir, Some(user), Some(group)).map_err(io)?;
        }
        let log = Log::lock(dir.join(LOG)).await.map_err(io)?;
        let log = log.ok_or_else(|| DatabaseSpawnError::InUse { dir: dir.clone() })?;
        let log_path = log.path().to_owned();
        let data = dir.join("data");
        if !data.join("PG_VERSION").exists() {
            programs.create_data(&data, user, &log).await?;
        }

        let mut arguments: Vec<OsString> = vec!["-D".into(), data.into(), "-k".into(), dir.clone().into()];
        let fixed = ["listen_addresses=", "unix_socket_permissions=0700"];
        let settings = fixed.into_iter().chain(self.settings.iter().map(String::as_str));
        arguments.extend(settings.flat_map(|setting| ["-c".into(), setting.into()]));
        // A fast shutdown does not wait for clients, and rolls their transactions back.
        let launch = Launch { program: programs.postgres.into(), arguments, stop_signal: "INT", user };
        let server = PrivateServer::launch(launch, log).await.map_err(|error| match error {
            NotLaunched::Missing => DatabaseSpawnError::Missing,
            NotLaunched::Ended(status) => DatabaseSpawnError::Ended {
                program: "postgres",
                status,
                last: last_line(&log_path),
                log: log_path.clone(),
            },
            NotLaunched::Io(cause) => DatabaseSpawnError::Io { dir: dir.clone(), cause },
        })?;
        let mut options = PgConnectOptions::new_without_pgpass().socket(dir).username(NAME).disable_statement_logging();
        // The name of the socket has the port, even if the server listens on none.
        if let Some(port) = self.settings.iter().find_map(|setting| setting.strip_prefix("port=")?.parse().ok()) {
            options = options.port(port);
        }
        let mut this = PrivatePostgres { location: self.clone(), options, server };
        this.wait_until_ready(log_path).await?;
        this.options = this.options.database(NAME);
        Ok(this)
    }
}

/// Whether the programs for a private server are installed.
pub fn is_installed() -> bool {
    Programs::find().is_some()
}

/// Whether the server answers that it is starting or recovering (`cannot_connect_now`).
fn is_starting(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "57P03")
}

async fn create_database(options: &PgConnectOptions) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect_with(&options.clone().database("postgres")).await?;
    let found = connection.fetch_optional(sqlx::query("select from pg_database where datname = $1").bind(NAME)).await?;
    if found.is_none() {
        connection.execute(sqlx::AssertSqlSafe(format!("create database {NAME}"))).await?;
    }
    connection.close().await
}

/// The user and group of [`UNPRIVILEGED`].
async fn unprivileged() -> Result<(u32, u32), DatabaseSpawnError> {
    let id = async |what: &str| {
        let output = Command::new("id").args([what, UNPRIVILEGED]).stdin(Stdio::null()).output().await.ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    match (id("-u").await, id("-g").await) {
        (Some(user), Some(group)) => Ok((user, group)),
        _ => Err(DatabaseSpawnError::NoUser),
    }
}

/// The programs of one version.
struct Programs {
    postgres: PathBuf,
    initdb: PathBuf,
}

impl Programs {
    /// Those on the PATH, otherwise those of the newest version in a directory of [`PACKAGES`].
    fn find() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let on_path = std::env::split_paths(&path).find_map(|dir| Self::in_dir(&dir));
        on_path.or_else(|| {
            let versions = PACKAGES.iter().flat_map(|(dir, bin)| {
                let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
                entries.filter_map(move |entry| {
                    let name = entry.file_name().into_string().ok()?;
                    let version: u32 = name.trim_start_matches("postgresql").trim_start_matches('@').parse().ok()?;
                    Some((version, Self::in_dir(&entry.path().join(bin))?))
                })
            });
            versions.max_by_key(|(version, _)| *version).map(|(_, programs)| programs)
        })
    }

    fn in_dir(dir: &Path) -> Option<Self> {
        let programs = Self { postgres: dir.join("postgres"), initdb: dir.join("initdb") };
        (programs.postgres.is_file() && programs.initdb.is_file()).then_some(programs)
    }

    /// Creates the data in a directory beside `data`, which gets its name at the end, so that a start that is
    /// interrupted leaves no half of it.
    async fn create_data(&self, data: &Path, user: Option<(u32, u32)>, log: &Log) -> Result<(), DatabaseSpawnError> {
        let io = |cause| DatabaseSpawnError::Io { dir: data.to_owned(), cause };
        let new = data.with_extension("new");
        match fs::remove_dir_all(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        let mut initdb = Command::new(&self.initdb);
        // Nobody else reaches the socket, so it needs no password.
        initdb
            .args(["--username", NAME, "--auth", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8", "--pgdata"])
            .arg(&new)
            .stdin(Stdio::null())
            .stdout(log.output().map_err(io)?)
            .stderr(log.output().map_err(io)?);
        if let Some((user, group)) = user {
            initdb.uid(user).gid(group);
        }
        let status = initdb.status().await.map_err(io)?;
        if !status.success() {
            let (log, last) = (log.path().to_owned(), last_line(log.path()));
            return Err(DatabaseSpawnError::Ended { program: "initdb", status, log, last });
        }
        fs::rename(new, data).map_err(io)
    }
}
