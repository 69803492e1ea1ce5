//! Runs `redis-server` with any arguments. The servers end with the test, even if the test process is killed.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use deadpool_redis::redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisResult, cmd};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin, Command},
};

use crate::support;

/// The ports of the servers. The cluster bus of a server uses the port 10,000 higher. Both are below 32,768, where the
/// ephemeral ports of Linux begin.
const PORTS: std::ops::Range<u16> = 11_000..22_000;

/// The user `pregon` with the rights that docs/architecture.md lists, as a line of an ACL file.
pub const USER: &str = "user pregon on >s3cret ~pregon:* resetchannels -@all +@read +@write +@connection +@transaction \
                        -@dangerous +evalsha +script|load +time +info";
/// The additional rights that the user needs in a cluster.
pub const IN_A_CLUSTER: &str = "+cluster|slots +cluster|info";

/// Starts the server, prints its process id, and kills it when the pipe to standard input closes. The system closes
/// the pipe even if the test process is killed.
const SUPERVISOR: &str = r#"
"$@" </dev/null >/dev/null 2>&1 & server=$!
echo "$server"
exec >&-
read -r _
kill -9 "$server"
"#;

/// A running server.
pub struct RedisServer {
    pub port: u16,
    arguments: Vec<String>,
    dir: TempDir,
    running: Option<Running>,
}

struct Running {
    pid: u32,
    /// The supervisor's standard input. The supervisor kills the server when this pipe closes.
    _pipe: ChildStdin,
    _supervisor: Child,
}

impl RedisServer {
    /// Starts a server. In `arguments`, `PORT` is replaced by a free port and `DIR` by the server's directory.
    pub async fn start(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let fill = |text: &&str| {
            text.replace("PORT", &port.to_string()).replace("DIR", dir.path().to_str().expect("a plain path"))
        };
        let arguments = arguments.iter().map(fill).collect();
        let mut server = Self { port, arguments, dir, running: None };
        server.run().await;
        server
    }

    /// Starts a server without TLS that accepts [`USER`], with an append-only file and further arguments.
    pub async fn plain(arguments: &[&str]) -> Self {
        let base = ["--port", "PORT", "--appendonly", "yes", "--save", "", "--repl-diskless-sync-delay", "0"];
        let user = format!("--{USER} {IN_A_CLUSTER}");
        let user: Vec<&str> = user.split(' ').collect();
        Self::start(&[&base, user.as_slice(), arguments].concat()).await
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts the server with the data of its directory, and waits until it listens.
    pub async fn run(&mut self) {
        assert!(self.running.is_none(), "already running");
        let mut supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "sh"])
            .arg("redis-server")
            .args(&self.arguments)
            .arg("--dir")
            .arg(self.dir.path())
            .arg("--logfile")
            .arg(self.log())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("a shell");
        let (pipe, output) = (supervisor.stdin.take().expect("piped"), supervisor.stdout.take().expect("piped"));
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).await.expect("its process id");
        let pid = line.trim().parse().expect("its process id");
        self.running = Some(Running { pid, _pipe: pipe, _supervisor: supervisor });
        support::until("the server listens", async || {
            tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_ok()
        })
        .await;
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Kills the server, as in a crash, and waits until it no longer listens.
    pub async fn kill(&mut self) {
        self.signal("KILL").await;
        self.running = None;
        support::until("the server is gone", async || {
            tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_err()
        })
        .await;
    }

    /// Sends the server a signal, such as `STOP` or `CONT`.
    pub async fn signal(&self, name: &str) {
        let pid = self.running.as_ref().expect("it runs").pid;
        let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status().await.expect("kill");
        assert!(status.success(), "kill -s {name} {pid}");
    }

    /// Runs a command on a new connection.
    pub async fn try_query<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let timeouts = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(Duration::from_secs(5)));
        let client = Client::open(format!("redis://{}", self.address()))?;
        command.query_async(&mut client.get_multiplexed_async_connection_with_config(&timeouts).await?).await
    }

    /// Whether the response to the command `words` contains `line`. False if the command fails.
    pub async fn reports(&self, words: &str, line: &str) -> bool {
        self.try_query::<String>(&command(words)).await.is_ok_and(|response| response.contains(line))
    }

    /// Waits until the response to the command `words` contains `line`.
    pub async fn wait_for(&self, words: &str, line: &str) {
        support::until(&format!("{line} at {}", self.port), async || self.reports(words, line).await).await;
    }

    /// Runs a command on a new connection. Panics if the command fails.
    pub async fn query<T: FromRedisValue>(&self, words: &str) -> T {
        self.try_query(&command(words)).await.unwrap_or_else(|error| panic!("{words} at {}: {error}", self.port))
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the end of the log of the server at {}:", self.port);
            lines[lines.len().saturating_sub(12)..].iter().for_each(|line| eprintln!("  {line}"));
        }
    }
}

/// Builds a command from words that are separated by spaces.
pub fn command(words: &str) -> Cmd {
    let mut words = words.split(' ');
    let mut command = cmd(words.next().expect("a word"));
    words.for_each(|word| {
        command.arg(word);
    });
    command
}

pub fn free_port() -> u16 {
    let is_free = |port: u16| {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            && TcpListener::bind((Ipv4Addr::LOCALHOST, port + 10_000)).is_ok()
    };
    loop {
        let port = rand::random_range(PORTS);
        if is_free(port) {
            return port;
        }
    }
}
