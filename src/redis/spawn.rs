//! `spawn:DIR`: a private redis-server, run as a child of this process.
//!
//! Owns: the directory `DIR` while the server runs: the append-only file, `redis.sock`, and `redis.log`.
//! If this process dies, even by SIGKILL: the server stops too, and writes its file as in any stop
//! (`private_server`).
//! If the server dies: commands fail as in any outage of Redis. The next start loads what the server had written.
//! `serve` starts it again.
//! Never: restarts the server by itself, or touches a Redis that it did not start.

use std::{
    ffi::OsString,
    fs::DirBuilder,
    io,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use deadpool_redis::redis::{self, AsyncConnectionConfig, Client, ErrorKind, RedisError, ServerErrorKind};

use crate::private_server::{Kept, Launch, Log, NotLaunched, NotReady, PrivateServer, last_line};

/// Maximum length of a socket path. macOS accepts 103 bytes, Linux 107.
const SOCKET_PATH_BYTES_MAX: usize = 100;
/// Redis rewrites its append-only file once it has doubled, but not below this size. The default of 64 MB is reached
/// within seconds if a thousand lines send, and a rewrite keeps a CPU busy.
const AOF_REWRITE_MIN: &str = "512mb";

/// The names of the server's log and socket in its directory.
const LOG: &str = "redis.log";
const SOCKET: &str = "redis.sock";

/// A running redis-server. Dropping it sends SIGTERM without waiting for the end; [`PrivateRedis::stop`] waits.
#[derive(Debug)]
pub struct PrivateRedis {
    location: Location,
    url: String,
    server: PrivateServer,
}

/// Where a private Redis runs, and by which program. A server that is started there again has the same data and URL.
#[derive(Clone, Debug)]
pub struct Location {
    program: String,
    dir: PathBuf,
    address: Address,
}

/// Why a private Redis did not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The program is not installed.
    #[error(
        "{program} is not installed: run `make redis`, or `apt-get install redis-server`, `dnf install redis`, \
         `apk add redis`, `brew install redis`; or set redis.url to a running Redis"
    )]
    Missing {
        /// The name or path of the program.
        program: String,
    },
    /// Another process uses the directory.
    #[error("{} is in use: another process runs its Redis there; use a separate directory for this one", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The server ended before it answered.
    #[error("redis-server ended while starting ({status}), see {}: {last}", log.display())]
    Ended {
        /// Its exit status.
        status: ExitStatus,
        /// Path of its log.
        log: PathBuf,
        /// The last line of the log.
        last: String,
    },
    /// The server runs but does not answer.
    #[error("redis-server did not answer within {}s, see {}: {cause}", waited.as_secs(), log.display())]
    Silent {
        /// How long this process waited.
        waited: Duration,
        /// Path of its log.
        log: PathBuf,
        /// The error of the last attempt.
        cause: RedisError,
    },
    /// The directory, the pipe or the shell failed.
    #[error("private redis in {}: {cause}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// The error of the system.
        cause: io::Error,
    },
}

impl PrivateRedis {
    /// Starts a redis-server on the data in `dir` and waits until it answers. Creates `dir` if it is missing.
    ///
    /// Errors: [`SpawnError`]; no process is left behind.
    pub async fn start(dir: &Path) -> Result<Self, SpawnError> {
        Self::start_program("redis-server", dir).await
    }

    /// As [`PrivateRedis::start`], with `program` instead of `redis-server`: another version, or a wrapper.
    pub async fn start_program(program: &str, dir: &Path) -> Result<Self, SpawnError> {
        let io = |cause| SpawnError::Io { dir: dir.to_owned(), cause };
        // Only this user may read the directory, because the data include phone numbers.
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
        let dir = dir.canonicalize().map_err(io)?;
        let address = Address::choose(&dir).map_err(io)?;
        Location { program: program.to_owned(), dir, address }.start().await
    }

    /// Waits until the server answers PING, which it does once it has loaded its append-only file.
    async fn wait_until_ready(&mut self, log: PathBuf) -> Result<(), SpawnError> {
        let is_loading = |error: &RedisError| error.kind() == ErrorKind::Server(ServerErrorKind::BusyLoading);
        let ready = self.server.wait_until_ready(|| ping(&self.url), is_loading).await;
        ready.map_err(|error| match error {
            NotReady::Ended(status) => SpawnError::Ended { status, last: last_line(&log), log },
            NotReady::Silent { waited, cause } => SpawnError::Silent { waited, log, cause },
            NotReady::Io(cause) => SpawnError::Io { dir: self.location.dir.clone(), cause },
        })
    }

    /// A URL of the server for the redis crate.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The process id of the redis-server, not of its supervisor.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Stops the server cleanly: it writes the end of its append-only file first. Kills it if that takes longer than
    /// 20 s.
    ///
    /// Errors: waiting for the process failed.
    pub async fn stop(self) -> io::Result<()> {
        self.server.stop().await
    }

    /// Kills the server with SIGKILL, as in a crash, and waits until it has ended. What it had not written is lost.
    ///
    /// Errors: waiting for the process failed.
    pub async fn kill(self) -> io::Result<()> {
        self.server.kill().await
    }
}

impl Kept for PrivateRedis {
    const NAME: &'static str = "redis-server";
    type Location = Location;
    type Error = SpawnError;

    fn into_parts(self) -> (PrivateServer, Location) {
        (self.server, self.location)
    }

    async fn start_at(location: &Location) -> Result<Self, SpawnError> {
        location.start().await
    }

    fn log(location: &Location) -> PathBuf {
        location.dir.join(LOG)
    }
}

impl Location {
    /// Starts a server on the data there and waits until it answers. The earlier one must have ended, or be stopping.
    ///
    /// Errors: [`SpawnError`]; no process is left behind.
    async fn start(&self) -> Result<PrivateRedis, SpawnError> {
        let io = |cause| SpawnError::Io { dir: self.dir.clone(), cause };
        let path = self.dir.join(LOG);
        let log = Log::lock(path.clone()).await.map_err(io)?;
        let log = log.ok_or_else(|| SpawnError::InUse { dir: self.dir.clone() })?;
        let mut arguments: Vec<OsString> = vec!["--dir".into(), self.dir.clone().into()];
        let settings = ["--appendonly", "yes", "--auto-aof-rewrite-min-size", AOF_REWRITE_MIN];
        let quiet = ["--save", "", "--daemonize", "no", "--logfile", ""];
        arguments.extend(settings.into_iter().chain(quiet).map(Into::into));
        arguments.extend(self.address.arguments());
        let launch = Launch { program: self.program.clone().into(), arguments, stop_signal: "TERM", user: None };
        let server = PrivateServer::launch(launch, log).await.map_err(|error| match error {
            NotLaunched::Missing => SpawnError::Missing { program: self.program.clone() },
            NotLaunched::Ended(status) => SpawnError::Ended { status, last: last_line(&path), log: path.clone() },
            NotLaunched::Io(cause) => io(cause),
        })?;
        let mut server = PrivateRedis { location: self.clone(), url: self.address.url(), server };
        server.wait_until_ready(path).await?;
        Ok(server)
    }
}

/// The URL of the server on the socket in `dir`, if one answers. A server on a port, because the path of its socket would
/// be too long, is not found.
pub async fn running(dir: &Path) -> Option<String> {
    let url = Address::Socket(dir.canonicalize().ok()?.join(SOCKET)).url();
    ping(&url).await.is_ok().then_some(url)
}

/// Where the server listens.
#[derive(Clone, Debug)]
enum Address {
    Socket(PathBuf),
    Port(u16),
}

impl Address {
    /// A socket in `dir`, or a free loopback port if the path of the socket would be too long. If another program
    /// takes the port first, the start fails with the error of redis-server.
    fn choose(dir: &Path) -> io::Result<Self> {
        let socket = dir.join(SOCKET);
        if socket.as_os_str().len() < SOCKET_PATH_BYTES_MAX {
            return Ok(Self::Socket(socket));
        }
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        Ok(Self::Port(port))
    }

    fn arguments(&self) -> Vec<OsString> {
        match self {
            Self::Socket(path) => ["--port", "0", "--unixsocketperm", "700", "--unixsocket"]
                .map(Into::into)
                .into_iter()
                .chain([path.into()])
                .collect(),
            Self::Port(port) => ["--bind", "127.0.0.1", "--port", &port.to_string()].map(Into::into).into(),
        }
    }

    fn url(&self) -> String {
        match self {
            // `from_file_path` escapes spaces and special characters.
            Self::Socket(path) => {
                let url = reqwest::Url::from_file_path(path).expect("a canonical path is absolute");
                format!("redis+unix://{}", url.path())
            }
            Self::Port(port) => format!("redis://127.0.0.1:{port}"),
        }
    }
}

async fn ping(url: &str) -> Result<(), RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(1)))
        .set_response_timeout(Some(Duration::from_secs(1)));
    let mut connection = Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await?;
    redis::cmd("PING").exec_async(&mut connection).await
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_missing_server_is_reported_in_one_line_with_a_remedy() {
        let dir = tempfile::tempdir().expect("a directory");
        for program in ["redis-server-of-nowhere", "/nowhere/redis-server"] {
            let error = PrivateRedis::start_program(program, dir.path()).await.expect_err("nothing to start");
            assert!(matches!(error, SpawnError::Missing { .. }), "{error}");
            let message = error.to_string();
            assert!(message.starts_with(&format!("{program} is not installed: run `make redis`")), "{message}");
            assert!(message.contains("apt-get install redis-server") && !message.contains('\n'), "{message}");
        }
    }

    #[tokio::test]
    async fn a_server_that_ends_at_its_start_is_reported_with_its_last_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let program = dir.path().join("server");
        fs::write(&program, "#!/bin/sh\necho 'bad file format'\nexit 3\n").expect("written");
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("executable");
        let error = PrivateRedis::start_program(&program.to_string_lossy(), dir.path()).await.expect_err("it ends");
        let SpawnError::Ended { status, log, last } = &error else { panic!("{error}") };
        assert_eq!((status.code(), last.as_str()), (Some(3), "bad file format"));
        assert!(error.to_string().contains(&log.display().to_string()), "{error}");
    }
}
