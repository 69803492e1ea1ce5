//! A server program that runs as a child of this process, on data in a directory of its own.
//!
//! Owns: the log of the server, which stays locked until every process of the server has ended, so that no second
//! server opens the same data.
//! If this process dies, even by SIGKILL: the server stops too. A shell supervises the server and waits on a pipe that
//! only this process holds open. When the system closes the pipe, the shell sends the signal for a clean stop.

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::{fs::OpenOptionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    time::{Instant, sleep, timeout},
};

/// How long to wait for the lock: a killed process may have left a server on this directory that is still stopping.
const LOCK_WAIT: Duration = Duration::from_secs(3);
/// How long to wait until a server serves after its start. The time in which it answers that it is still loading does not
/// count, so loading has no limit.
const START_WAIT: Duration = Duration::from_secs(30);
/// How long a clean stop may take before the server is killed: in this time it writes what it has in memory.
const STOP_WAIT: Duration = Duration::from_secs(20);
/// How often the lock is tried, and a server asked whether it serves.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The shell script that runs the server, as `sh -c SUPERVISOR sh SIGNAL PROGRAM ARGUMENT…`.
///
/// Standard input is the pipe from this process: each line names a signal for the server, and the end of the pipe
/// means SIGNAL. Standard output is the process id of the server, standard error the log. It exits with the status
/// of the server.
const SUPERVISOR: &str = r#"
stop=$1; shift
command -v "$1" >/dev/null || exit 127
exec 3<&0
"$@" </dev/null >&2 3<&- & server=$!
echo "$server"
{ while read -r signal <&3; do kill -s "$signal" "$server"; done; kill -s "$stop" "$server"; } >/dev/null 2>&1 & keeper=$!
exec >&- 3<&-
wait "$server"; status=$?
kill "$keeper" 2>/dev/null
exit "$status"
"#;

/// What to start.
pub(crate) struct Launch {
    /// The name or path of the program.
    pub(crate) program: OsString,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
    /// The signal that stops it cleanly, such as `TERM`.
    pub(crate) stop_signal: &'static str,
    /// The user and the group to run it as; `None`: those of this process.
    pub(crate) user: Option<(u32, u32)>,
}

/// Why a server did not start.
#[derive(Debug)]
pub(crate) enum NotLaunched {
    /// The program is not installed.
    Missing,
    /// The shell ended before it had started the program.
    Ended(ExitStatus),
    /// The pipe or the shell failed.
    Io(io::Error),
}

/// Why a server does not serve.
#[derive(Debug)]
pub(crate) enum NotReady<E> {
    /// It has ended.
    Ended(ExitStatus),
    /// It runs and does not serve.
    Silent {
        /// How long this process waited.
        waited: Duration,
        /// The error of the last attempt.
        cause: E,
    },
    /// The state of its process is not known.
    Io(io::Error),
}

/// A running server. Dropping it begins a clean stop without waiting for the end.
#[derive(Debug)]
pub(crate) struct PrivateServer {
    pid: u32,
    stop_signal: &'static str,
    supervisor: Child,
    /// The pipe to the supervisor. Closing it stops the server.
    signals: ChildStdin,
}

impl PrivateServer {
    /// Starts a server that writes its output to `log`. Does not wait until it serves.
    pub(crate) async fn launch(launch: Launch, log: Log) -> Result<Self, NotLaunched> {
        let mut command = Command::new("sh");
        command
            .args(["-c", SUPERVISOR, "sh", launch.stop_signal])
            .arg(&launch.program)
            .args(&launch.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.file)
            // The server has its own process group, so that a Ctrl-C on the terminal does not reach it. This process
            // stops the server after its own work is settled.
            .process_group(0);
        if let Some((user, group)) = launch.user {
            command.uid(user).gid(group);
        }
        let mut supervisor = command.spawn().map_err(NotLaunched::Io)?;
        let (Some(signals), Some(output)) = (supervisor.stdin.take(), supervisor.stdout.take()) else {
            unreachable!("both were piped above");
        };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).await.map_err(NotLaunched::Io)?;
        let Ok(pid) = line.trim().parse() else {
            let status = supervisor.wait().await.map_err(NotLaunched::Io)?;
            return Err(if status.code() == Some(127) { NotLaunched::Missing } else { NotLaunched::Ended(status) });
        };
        Ok(Self { pid, stop_signal: launch.stop_signal, supervisor, signals })
    }

    /// Waits until `attempt` succeeds. `is_loading`: an error of a server that serves as soon as it has loaded its data.
    pub(crate) async fn wait_until_ready<E, F: Future<Output = Result<(), E>>>(
        &mut self,
        attempt: impl Fn() -> F,
        is_loading: fn(&E) -> bool,
    ) -> Result<(), NotReady<E>> {
        let mut deadline = Instant::now() + START_WAIT;
        loop {
            let Err(cause) = attempt().await else { return Ok(()) };
            if let Some(status) = self.supervisor.try_wait().map_err(NotReady::Io)? {
                return Err(NotReady::Ended(status));
            }
            if is_loading(&cause) {
                deadline = Instant::now() + START_WAIT;
            } else if Instant::now() > deadline {
                return Err(NotReady::Silent { waited: START_WAIT, cause });
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// The process id of the server, not of its supervisor.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until the server has ended, and returns how. Can be dropped and called again.
    ///
    /// Errors: waiting for the process failed.
    pub(crate) async fn ended(&mut self) -> io::Result<Ended> {
        let status = self.supervisor.wait().await?;
        // The shell adds 128 to the number of the signal that killed the server.
        let signal = status.code().map_or_else(|| status.signal(), |code| (code > 128).then_some(code - 128));
        Ok(Ended { status, signal })
    }

    /// Stops the server cleanly. Kills it if that takes longer than 20 s.
    ///
    /// Errors: waiting for the process failed.
    pub(crate) async fn stop(mut self) -> io::Result<()> {
        self.signal(self.stop_signal).await;
        match timeout(STOP_WAIT, self.supervisor.wait()).await {
            Ok(ended) => ended.map(drop),
            Err(_) => self.kill().await,
        }
    }

    /// Kills the server with SIGKILL, as in a crash, and waits until it has ended.
    ///
    /// Errors: waiting for the process failed.
    pub(crate) async fn kill(mut self) -> io::Result<()> {
        self.signal("KILL").await;
        self.supervisor.wait().await.map(drop)
    }

    async fn signal(&mut self, name: &str) {
        // A write fails only when nothing reads the pipe any more, and then the server has ended already.
        let _ = self.signals.write_all(format!("{name}\n").as_bytes()).await;
    }
}

/// How a server ended: `signal 9`, or `exit status: 1`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    status: ExitStatus,
    /// The signal that killed the server.
    signal: Option<i32>,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.signal {
            Some(signal) => write!(f, "signal {signal}"),
            None => self.status.fmt(f),
        }
    }
}

/// A private server that is started again when it has died.
pub(crate) trait Kept: Sized + Send + 'static {
    /// What it is, for the log.
    const NAME: &'static str;
    /// Where it runs. A server that is started there again has the same data and address.
    type Location: Send + Sync;
    /// Why it did not start.
    type Error: fmt::Display + Send;

    /// The process of the server, and where it runs.
    fn into_parts(self) -> (PrivateServer, Self::Location);
    /// Starts a server there. The earlier one must have ended, or be stopping.
    fn start_at(location: &Self::Location) -> impl Future<Output = Result<Self, Self::Error>> + Send;
    /// Path of the log of the server.
    fn log(location: &Self::Location) -> PathBuf;
}

/// The log of a server, open and locked. The lock belongs to the open file, which the shell and the server inherit. So
/// it is released when the last of these processes has ended.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens and locks the log at `path`. Returns `None` if another server keeps it locked for more than 3 s.
    pub(crate) async fn lock(path: PathBuf) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Self { path, file })),
                Err(TryLockError::Error(cause)) => return Err(cause),
                Err(TryLockError::WouldBlock) if Instant::now() > deadline => return Ok(None),
                Err(TryLockError::WouldBlock) => sleep(POLL_INTERVAL).await,
            }
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A handle for the output of another program.
    pub(crate) fn output(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

/// The last line of the log at `path` that is not blank.
pub(crate) fn last_line(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("the log is empty").to_owned()
}
