//! `spawn:DIR`: a private redis-server, kept by this process as a child.
//!
//! Owns: the directory `DIR` while it runs: the append-only file, `redis.sock`, and `redis.log`, which is locked as long
//! as anything of this server incarnations, so that no second one opens the same data.
//! If this process dies, even by SIGKILL: the server ends too. A shell between them waits on a pipe that only this
//! process holds open; the system closes it, the shell ends the server, and the server writes its file as in any stop.
//! If the server dies: commands fail as with any Redis that is away; what it had written is there after the next start.
//! Never: starts the server anew by itself, or touches a Redis that it has not started.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use deadpool_redis::redis::{self, AsyncConnectionConfig, Client, ErrorKind, RedisError, ServerErrorKind};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    time::{Instant, sleep, timeout},
};

/// Socket paths are at most 103 bytes on macOS and 107 on Linux.
const SOCKET_PATH_BYTES_MAX: usize = 100;
/// How long an earlier server on the same directory may take to end: its process was killed a moment ago.
const LOCK_WAIT: Duration = Duration::from_secs(3);
/// How long the server may be silent at its start. While it reads its append-only file it answers that it does so, and
/// that may take as long as it takes.
const START_WAIT: Duration = Duration::from_secs(30);
/// How long a stop may take until the server is killed. It writes the end of its file.
const STOP_WAIT: Duration = Duration::from_secs(20);
/// Between two looks at whether a lock is free or the server answers.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The append-only file is written anew once it has grown to twice its size, but not below this: Redis' own 64 MB are written in
/// seconds where a thousand lines send, and to write it anew keeps a processor busy.
const AOF_REWRITE_MIN: &str = "512mb";

/// What keeps the server: run as `sh -c SUPERVISOR sh PROGRAM ARGUMENT…`.
///
/// Standard input is the pipe to our process: each line of it is a signal for the server, and its end is SIGTERM.
/// Standard output tells the server's process id, standard error is the log. When the server has ended, so does this.
const SUPERVISOR: &str = r#"
command -v "$1" >/dev/null || exit 127
exec 3<&0
"$@" </dev/null >&2 3<&- & server=$!
echo "$server"
{ while read -r signal <&3; do kill -s "$signal" "$server"; done; kill "$server"; } >/dev/null 2>&1 & keeper=$!
exec >&- 3<&-
wait "$server"; status=$?
kill "$keeper" 2>/dev/null
exit "$status"
"#;

/// A redis-server that runs. Dropped, it is told to end, and nobody waits for that; see [`PrivateRedis::stop`].
#[derive(Debug)]
pub struct PrivateRedis {
    url: String,
    pid: u32,
    supervisor: Child,
    /// Held open for the server's incarnation.
    signals: ChildStdin,
}

/// Why there is no private Redis.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The program is not installed.
    #[error(
        "{program} is not installed: run `make redis`, or `apt-get install redis-server`, `dnf install redis`, \
         `apk add redis`, `brew install redis`; or set redis.url to a Redis that runs"
    )]
    Missing {
        /// What was looked for.
        program: String,
    },
    /// Another process has the directory.
    #[error("{} is in use: another process keeps its Redis there; give this one a directory of its own", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The server ended before it answered.
    #[error("redis-server ended at its start ({status}), see {}: {last}", log.display())]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The last line of it.
        last: String,
    },
    /// The server runs and does not answer.
    #[error("redis-server did not answer within {}s, see {}: {cause}", waited.as_secs(), log.display())]
    Silent {
        /// How long was waited.
        waited: Duration,
        /// Its log.
        log: PathBuf,
        /// What the last attempt said.
        cause: RedisError,
    },
    /// The directory, the pipe or the shell is at fault.
    #[error("private redis in {}: {cause}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What went wrong.
        cause: io::Error,
    },
}

impl PrivateRedis {
    /// Starts a redis-server on the data in `dir`, which is made if it is missing, and waits until it answers.
    ///
    /// Errors: [`SpawnError`]; nothing is left running.
    pub async fn start(dir: &Path) -> Result<Self, SpawnError> {
        Self::start_program("redis-server", dir).await
    }

    /// The same with `program`: another version, or one that stands before it.
    ///
    /// Errors: as [`PrivateRedis::start`].
    pub async fn start_program(program: &str, dir: &Path) -> Result<Self, SpawnError> {
        let io = |cause| SpawnError::Io { dir: dir.to_owned(), cause };
        // For this user alone: the data are people's numbers.
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
        let dir = dir.canonicalize().map_err(io)?;
        let log = Log::lock(&dir).await?;

        let address = Address::choose(&dir).map_err(io)?;
        let mut supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "sh", program, "--dir"])
            .arg(&dir)
            .args(["--appendonly", "yes", "--auto-aof-rewrite-min-size", AOF_REWRITE_MIN])
            .args(["--save", "", "--daemonize", "no", "--logfile", ""])
            .args(address.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.file)
            // A Ctrl-C on the terminal is for this process alone: it stops the server when its own work is settled.
            .process_group(0)
            .spawn()
            .map_err(io)?;
        let (Some(signals), Some(output)) = (supervisor.stdin.take(), supervisor.stdout.take()) else {
            unreachable!("both were piped above");
        };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).await.map_err(io)?;
        let Ok(pid) = line.trim().parse() else {
            let status = supervisor.wait().await.map_err(io)?;
            return Err(match status.code() {
                Some(127) => SpawnError::Missing { program: program.to_owned() },
                _ => SpawnError::Ended { status, last: last_line(&log.path), log: log.path },
            });
        };
        let mut this = Self { url: address.url(), pid, supervisor, signals };
        this.answer(&dir, log.path).await?;
        Ok(this)
    }

    /// Waits until the server answers PING: it has then read its append-only file.
    async fn answer(&mut self, dir: &Path, log: PathBuf) -> Result<(), SpawnError> {
        let io = |cause| SpawnError::Io { dir: dir.to_owned(), cause };
        let mut deadline = Instant::now() + START_WAIT;
        loop {
            let cause = match ping(&self.url).await {
                Ok(()) => return Ok(()),
                Err(cause) => cause,
            };
            if let Some(status) = self.supervisor.try_wait().map_err(io)? {
                return Err(SpawnError::Ended { status, last: last_line(&log), log });
            }
            if cause.kind() == ErrorKind::Server(ServerErrorKind::BusyLoading) {
                deadline = Instant::now() + START_WAIT;
            } else if Instant::now() > deadline {
                return Err(SpawnError::Silent { waited: START_WAIT, log, cause });
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Where it is reached, as the redis crate reads it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The process id of the redis-server itself.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends the server as in any clean stop: it writes the end of its append-only file first. One that takes too long
    /// is killed.
    ///
    /// Errors: the system does not say that it ended.
    pub async fn stop(mut self) -> io::Result<()> {
        self.signal("TERM").await;
        match timeout(STOP_WAIT, self.supervisor.wait()).await {
            Ok(ended) => ended.map(drop),
            Err(_) => self.kill().await,
        }
    }

    /// Ends the server as a crash would, with SIGKILL, and waits for its end. What it had not written is lost.
    ///
    /// Errors: the system does not say that it ended.
    pub async fn kill(mut self) -> io::Result<()> {
        self.signal("KILL").await;
        self.supervisor.wait().await.map(drop)
    }

    async fn signal(&mut self, name: &str) {
        // A pipe that nobody reads any more belongs to a server that has ended: what was asked for is so.
        let _ = self.signals.write_all(format!("{name}\n").as_bytes()).await;
    }
}

/// `redis.log`, open and locked. The lock belongs to the open file, which the shell and the server inherit: it is free
/// when the last of them has ended.
struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    async fn lock(dir: &Path) -> Result<Self, SpawnError> {
        let io = |cause| SpawnError::Io { dir: dir.to_owned(), cause };
        let path = dir.join("redis.log");
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(io)?;
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { path, file }),
                Err(TryLockError::Error(cause)) => return Err(io(cause)),
                Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                    return Err(SpawnError::InUse { dir: dir.to_owned() });
                }
                Err(TryLockError::WouldBlock) => sleep(LOOK_EVERY).await,
            }
        }
    }
}

/// Where the server listens.
enum Address {
    Socket(PathBuf),
    Port(u16),
}

impl Address {
    /// A socket in `dir`; a free port of the loopback where that path would be too long for a socket. Should another
    /// program take that port in the next moment, then the start fails and says so.
    fn choose(dir: &Path) -> io::Result<Self> {
        let socket = dir.join("redis.sock");
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
            // A path is written into a URL as that of a file: blanks and signs are escaped.
            Self::Socket(path) => {
                let url = reqwest::Url::from_file_path(path).expect("a canonical path is absolute");
                format!("redis+unix://{}", url.path())
            }
            Self::Port(port) => format!("redis://127.0.0.1:{port}"),
        }
    }
}

async fn ping(url: &str) -> Result<(), RedisError> {
    let patience = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(1)))
        .set_response_timeout(Some(Duration::from_secs(1)));
    let mut connection = Client::open(url)?.get_multiplexed_async_connection_with_config(&patience).await?;
    redis::cmd("PING").exec_async(&mut connection).await
}

fn last_line(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it is empty").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_server_is_told_in_one_line_with_the_remedy() {
        let dir = tempfile::tempdir().expect("a directory");
        for program in ["redis-server-of-nowhere", "/nowhere/redis-server"] {
            let error = PrivateRedis::start_program(program, dir.path()).await.expect_err("nothing to start");
            assert!(matches!(error, SpawnError::Missing { .. }), "{error}");
            let told = error.to_string();
            assert!(told.starts_with(&format!("{program} is not installed: run `make redis`")), "{told}");
            assert!(told.contains("apt-get install redis-server") && !told.contains('\n'), "{told}");
        }
    }

    #[tokio::test]
    async fn a_server_that_ends_at_its_start_is_told_with_its_last_words() {
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
