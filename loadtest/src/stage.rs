//! The stage of a scenario: a private Redis, a fake Meta and workers, each a process of its own, driven through the
//! public API.
//!
//! Owns: a temporary folder with all files. Dropping the stage removes the folder and kills the workers; Redis and the
//! fake Meta end when their pipe closes.

use std::{
    collections::VecDeque,
    env, fs, io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reqwest::Body;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{Instant, sleep, timeout},
};

use super::{
    arrivals::Seen,
    error::LoadError,
    measure,
    meta::{Message, Question, TEMPLATE},
    recipients::Rows,
    scenario::Setup,
    schedule::{Lateness, Schedule},
};
use pregon::{
    api_types::{NewCampaign, TemplateName, UploadResult},
    client::{self, Client, ControlAction},
    domain::{CampaignId, CampaignState, LineId, Secret},
    intake::Format,
    redis::{Address, Store, spawn::PrivateRedis},
};

/// The WABA of all lines.
pub const WABA: &str = "2001";

/// The key that signs webhooks.
pub const APP_SECRET: &str = "app-secret-for-load-tests";

/// Campaigns use the whole rate of a line, because nothing else sends.
pub const HEADROOM: f64 = 0.0;

const API_KEY: &str = "key-for-load-tests";

/// How long to wait for a process to become ready or to end, and for messages and campaigns to make progress.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The pause between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Lines of a worker's log that an error quotes.
const LOG_LINES_MAX: usize = 10;

/// The running processes of a scenario.
pub struct Stage {
    setup: Setup,
    /// The lines.
    pub lines: Vec<LineId>,
    /// The API of the first worker.
    pub client: Client,
    /// The address of the first worker, which receives the webhooks.
    pub webhooks: std::net::SocketAddr,
    meta: Helper,
    /// The base URL of the fake Meta.
    pub meta_url: String,
    /// The certificate of the fake Meta's authority, if it uses TLS.
    pub ca: Option<PathBuf>,
    workers: Vec<Worker>,
    redis: PrivateRedis,
    folder: Folder,
    /// Name and language of the template of its campaigns.
    pub template: (&'static str, &'static str),
    /// The number of rows in all drafts.
    drafted: AtomicU64,
}

/// CPU time by process: since the start of each process, or the difference of two readings.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    at: Instant,
    /// Time between the two readings; zero for a single reading.
    pub took: Duration,
    /// CPU time of all workers.
    pub workers: Duration,
    /// CPU time of Redis.
    pub redis: Duration,
    /// CPU time of the fake Meta.
    pub meta: Duration,
}

impl Usage {
    /// The difference to the earlier reading `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            at: self.at,
            took: self.at - before.at,
            workers: self.workers.saturating_sub(before.workers),
            redis: self.redis.saturating_sub(before.redis),
            meta: self.meta.saturating_sub(before.meta),
        }
    }
}

impl Stage {
    /// Starts all processes, and returns when they are ready. `keep`: the fake Meta stores each message, for statuses
    /// about it.
    pub async fn start(setup: &Setup, keep: bool) -> Result<Self, LoadError> {
        let folder = Folder::new()?;
        let redis = PrivateRedis::start(&folder.0.join("redis")).await?;
        let ca = setup.http2.then(|| folder.0.join("ca.pem"));
        let mut arguments = vec!["meta".into()];
        arguments.extend(["--latency-ms".into(), setup.latency.as_millis().to_string().into()]);
        arguments.extend(["--threads".into(), setup.meta_threads.to_string().into()]);
        arguments.extend(keep.then(|| "--keep".into()));
        arguments.extend(ca.iter().flat_map(|ca| ["--ca".into(), ca.into()]));
        let mut meta = Helper::start(arguments)?;
        let meta_url = meta.line().await?;
        let lines: Vec<LineId> =
            (0..setup.lines).map(|number| LineId::from((3001 + number).to_string().as_str())).collect();
        fs::write(
            folder.0.join("pregon.toml"),
            configuration(setup, &folder.0, redis.url(), &meta_url, ca.as_deref(), &lines)?,
        )?;
        let mut workers = Vec::with_capacity(setup.workers);
        for number in 0..setup.workers {
            workers.push(Worker::spawn(&folder.0, number, setup)?);
        }
        let mut webhooks = None;
        for worker in &mut workers {
            let address = worker.wait_until_ready().await?;
            webhooks.get_or_insert(address);
        }
        let webhooks = webhooks.ok_or_else(|| LoadError::Failed("no worker".into()))?;
        let server = format!("http://{webhooks}").parse().map_err(LoadError::of)?;
        let client = Client::new(server, Some(Secret::new(API_KEY)), None)?;
        Ok(Self {
            setup: setup.clone(),
            lines,
            client,
            webhooks,
            meta,
            meta_url,
            ca,
            workers,
            redis,
            folder,
            template: TEMPLATE,
            drafted: AtomicU64::new(0),
        })
    }

    /// Creates a draft with these recipients on these lines. Returns its id and the result of the upload.
    ///
    /// No two drafts have a person in common: a line would leave six seconds between two messages to the same person.
    pub async fn draft(&self, lines: &[LineId], rows: Rows) -> Result<(CampaignId, UploadResult), LoadError> {
        let id = self.create(lines).await?;
        let skipped = self.drafted.fetch_add(rows.n, Ordering::Relaxed);
        let rows = Rows { skipped, seed: self.setup.seed, ..rows };
        Ok((id, self.client.upload(id, "load", &Format::Ndjson.into(), None, Body::wrap_stream(rows.ndjson())).await?))
    }

    /// Creates a draft without recipients. A worker reads the templates from Meta just after its start and rejects
    /// drafts until then, so this retries.
    pub async fn create(&self, lines: &[LineId]) -> Result<CampaignId, LoadError> {
        let (name, language) = self.template;
        let new = NewCampaign {
            name: "load".into(),
            template: TemplateName { name: name.into(), language: language.into() },
            lines: lines.to_vec(),
            ..NewCampaign::default()
        };
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match self.client.create(&new).await {
                Ok(created) => return Ok(created.id),
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Launches a campaign.
    pub async fn launch(&self, id: CampaignId) -> Result<(), LoadError> {
        Ok(self.client.change_campaign(id, ControlAction::Launch).await.map(drop)?)
    }

    /// Waits until `n` messages have arrived at the fake Meta since the last reset. Polls the fake Meta, so as not to
    /// load the worker.
    pub async fn wait_for_arrivals(&mut self, n: u64) -> Result<(), LoadError> {
        let (mut before, mut deadline) = (0, Instant::now() + TIMEOUT);
        loop {
            let arrived = self.arrived().await?;
            if arrived >= n {
                return Ok(());
            }
            if arrived > before {
                (before, deadline) = (arrived, Instant::now() + TIMEOUT);
            } else if Instant::now() > deadline {
                let logs: Vec<String> = self.workers.iter().map(Worker::log_tail).collect();
                let what = format!("nothing arrived for {TIMEOUT:?} after {arrived} of {n} messages");
                return Err(LoadError::Failed(format!("{what}; the workers say: {}", logs.join(" | "))));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// How many messages have arrived at the fake Meta since the last reset.
    pub async fn arrived(&mut self) -> Result<u64, LoadError> {
        self.meta.ask(&Question::Count).await
    }

    /// Waits until a campaign is completed.
    ///
    /// Errors: a recipient was not accepted, or the campaign is not completed in time.
    pub async fn wait_for_completion(&self, id: CampaignId) -> Result<(), LoadError> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let campaign = self.client.campaign(id).await?;
            if campaign.state == CampaignState::Completed {
                let statistics = campaign.statistics.clone().unwrap_or_default();
                if statistics.funnel.accepted != statistics.recipients {
                    let counts =
                        format!("{} of {} messages were accepted", statistics.funnel.accepted, statistics.recipients);
                    return Err(LoadError::Failed(format!("campaign {id} is completed, but only {counts}")));
                }
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(LoadError::Failed(format!("campaign {id} is still {} after {TIMEOUT:?}", campaign.state)));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Resets the arrivals recorded by the fake Meta.
    pub async fn reset_arrivals(&mut self) -> Result<(), LoadError> {
        self.meta.ask(&Question::Forget).await
    }

    /// The arrivals at the fake Meta since the last reset. Arrivals in `from_us..until_us`, in microseconds since 1970,
    /// count as `within`.
    pub async fn seen(&mut self, from_us: u64, until_us: u64) -> Result<Seen, LoadError> {
        self.meta.ask(&Question::Seen { from_us, until_us }).await
    }

    /// How late the messages were that have arrived since the last reset.
    pub async fn lateness(&mut self, schedule: &Schedule) -> Result<Lateness, LoadError> {
        self.meta.ask(&Question::Lateness(schedule.clone())).await
    }

    /// Takes the messages that the fake Meta has stored.
    pub async fn messages(&mut self) -> Result<Vec<Message>, LoadError> {
        let path = self.folder.0.join("messages");
        let n: u64 = self.meta.ask(&Question::Messages(path.clone())).await?;
        let messages: Vec<Message> = fs::read_to_string(&path)?.lines().filter_map(Message::read).collect();
        if messages.len() as u64 != n {
            return Err(LoadError::Failed(format!("only {} of {n} stored messages can be parsed", messages.len())));
        }
        Ok(messages)
    }

    /// The CPU time that the processes have used so far.
    pub fn usage(&self) -> Result<Usage, LoadError> {
        let mut workers = Duration::ZERO;
        for worker in &self.workers {
            workers += measure::cpu(worker.pid)?;
        }
        let (redis, meta) = (measure::cpu(self.redis.pid())?, measure::cpu(self.meta.pid)?);
        Ok(Usage { at: Instant::now(), took: Duration::ZERO, workers, redis, meta })
    }

    /// The largest peak memory of the workers, in bytes.
    pub fn worker_peak_bytes(&self) -> Result<u64, LoadError> {
        let peaks: io::Result<Vec<u64>> = self.workers.iter().map(|worker| measure::peak_bytes(worker.pid)).collect();
        Ok(peaks?.into_iter().max().unwrap_or(0))
    }

    /// Resets the peak memory of all workers.
    pub fn reset_worker_peak(&self) -> Result<(), LoadError> {
        self.workers.iter().try_for_each(|worker| measure::reset_peak(worker.pid))?;
        Ok(())
    }

    /// A connection of its own to the Redis of the stage.
    pub async fn store(&self) -> Result<Store, LoadError> {
        let address = Address {
            url: self.redis.url().to_owned(),
            certificates: Default::default(),
            namespace: "pregon".into(),
            timeout: Duration::from_secs(30),
            connections: 1,
        };
        Ok(Store::connect(&address).await?)
    }

    /// Stops all workers cleanly.
    pub async fn stop_workers(&mut self) -> Result<(), LoadError> {
        for worker in &mut self.workers {
            worker.stop().await?;
        }
        Ok(())
    }

    /// Starts one worker in place of all stopped ones, without waiting until it is ready: see
    /// [`Stage::wait_until_ready`].
    pub fn start_worker(&mut self) -> Result<(), LoadError> {
        self.workers = vec![Worker::spawn(&self.folder.0, 0, &self.setup)?];
        Ok(())
    }

    /// Waits until the restarted worker is ready, and connects to its new address.
    pub async fn wait_until_ready(&mut self) -> Result<(), LoadError> {
        for worker in &mut self.workers {
            self.webhooks = worker.wait_until_ready().await?;
        }
        let server = format!("http://{}", self.webhooks).parse().map_err(LoadError::of)?;
        self.client = Client::new(server, Some(Secret::new(API_KEY)), None)?;
        Ok(())
    }

    /// Stops all processes cleanly.
    pub async fn stop(mut self) -> Result<(), LoadError> {
        self.stop_workers().await?;
        self.meta.end().await?;
        Ok(self.redis.stop().await?)
    }
}

/// The configuration of the workers: the defaults, except for addresses, secrets, lines, `dispatch.headroom` and
/// `feed.enabled`.
fn configuration(
    setup: &Setup,
    folder: &Path,
    redis: &str,
    meta: &str,
    ca: Option<&Path>,
    lines: &[LineId],
) -> Result<String, LoadError> {
    let secret = |name: &str, value: &str| {
        let path = folder.join(name);
        fs::write(&path, value)?;
        Ok::<_, io::Error>(format!("{{ file = \"{}\" }}", path.display()))
    };
    let (key, token) = (secret("api-key", API_KEY)?, secret("token", "token-for-load-tests")?);
    let (verify, app) = (secret("verify-token", "verify-token")?, secret("app-secret", APP_SECRET)?);
    let ca = ca.map(|ca| format!("graph.ca = \"{}\"\n", ca.display())).unwrap_or_default();
    let feed = setup.feed;
    let mut text = format!(
        r#"redis.url = "{redis}"
graph.base_url = "{meta}"
shutdown.drain = "0s"
{ca}http.listen = "127.0.0.1:0"
http.api_keys = [{{ name = "load", secret = {key} }}]
ops.listen = "127.0.0.1:0"
webhook.verify_token = {verify}
webhook.app_secret = {app}
dispatch.headroom = {HEADROOM:?}
feed.enabled = {feed}
log.format = "json"
business = [{{ id = "1001" }}]
waba = [{{ id = "{WABA}", business = "1001", access_token = {token} }}]
"#
    );
    for line in lines {
        text.push_str(&format!(
            "[[line]]\nid = \"{line}\"\nwaba = \"{WABA}\"\nmessages_per_second = {}\n",
            setup.messages_per_second
        ));
    }
    Ok(text)
}

/// A `pregon serve` process.
struct Worker {
    child: Child,
    pid: u32,
    ready_file: PathBuf,
    log: Arc<Mutex<VecDeque<String>>>,
}

/// The content of a worker's ready file.
#[derive(Deserialize)]
struct Ready {
    pid: u32,
    http: std::net::SocketAddr,
    ops: std::net::SocketAddr,
}

impl Worker {
    /// Starts worker `number` with the configuration `pregon.toml` in `folder`.
    fn spawn(folder: &Path, number: usize, setup: &Setup) -> Result<Self, LoadError> {
        let ready_file = folder.join(format!("worker-{number}.json"));
        let mut command = program(Some("pregon"))?;
        command.arg("serve").arg("--config").arg(folder.join("pregon.toml")).envs(&setup.environment);
        command.arg("--ready-file").arg(&ready_file);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let pid = child.id().unwrap_or_default();
        let log = Arc::<Mutex<VecDeque<String>>>::default();
        if let Some(output) = child.stderr.take() {
            tokio::spawn(read_log(BufReader::new(output).lines(), log.clone()));
        }
        Ok(Self { child, pid, ready_file, log })
    }

    /// Waits until the worker is ready. Returns the address of its API.
    async fn wait_until_ready(&mut self) -> Result<std::net::SocketAddr, LoadError> {
        let (asking, deadline) = (client::http().build().map_err(LoadError::of)?, Instant::now() + TIMEOUT);
        while Instant::now() < deadline && self.child.try_wait()?.is_none() {
            let ready = fs::read(&self.ready_file).ok().and_then(|json| serde_json::from_slice(&json).ok());
            if let Some(Ready { pid, http, ops }) = ready
                && pid == self.pid
            {
                let answer = asking.get(format!("http://{ops}/readyz")).send().await;
                if answer.is_ok_and(|answer| answer.status().is_success()) {
                    return Ok(http);
                }
            }
            sleep(POLL_INTERVAL).await;
        }
        Err(LoadError::Failed(format!("a worker is not ready: {}", self.log_tail())))
    }

    async fn stop(&mut self) -> Result<(), LoadError> {
        if self.child.try_wait()?.is_none() {
            let kill = Command::new("sh").args(["-c", "kill -s TERM \"$1\"", "sh", &self.pid.to_string()]).status();
            kill.await?;
        }
        let ended: Option<ExitStatus> = timeout(TIMEOUT, self.child.wait()).await.map(Result::ok).ok().flatten();
        match ended {
            Some(status) if status.success() => Ok(()),
            _ => Err(LoadError::Failed(format!("a worker did not stop cleanly: {}", self.log_tail()))),
        }
    }

    fn log_tail(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// Reads a worker's log to its end, and keeps the last lines.
async fn read_log(mut lines: Lines<BufReader<tokio::process::ChildStderr>>, log: Arc<Mutex<VecDeque<String>>>) {
    while let Ok(Some(line)) = lines.next_line().await {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() == LOG_LINES_MAX {
            log.pop_front();
        }
        log.push_back(line);
    }
}

/// A child process of this program, such as the fake Meta, that prints lines and may answer questions. It exits when
/// its standard input ends.
pub struct Helper {
    child: Child,
    pid: u32,
    questions: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Helper {
    /// Starts this program with `arguments`.
    pub fn start(arguments: Vec<std::ffi::OsString>) -> Result<Self, LoadError> {
        let mut child = program(None)?.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (questions, output) = (child.stdin.take(), child.stdout.take());
        let output = output.ok_or_else(|| LoadError::Failed("a process has no standard output".into()))?;
        Ok(Self { pid: child.id().unwrap_or_default(), child, questions, answers: BufReader::new(output).lines() })
    }

    /// Reads the next line of its standard output.
    pub async fn line(&mut self) -> Result<String, LoadError> {
        match self.answers.next_line().await? {
            Some(line) => Ok(line),
            None => Err(LoadError::Failed("a process of the load test has ended; see its error above".into())),
        }
    }

    async fn ask<T: DeserializeOwned>(&mut self, question: &Question) -> Result<T, LoadError> {
        let text = serde_json::to_string(question).map_err(LoadError::of)?;
        if let Some(questions) = &mut self.questions {
            questions.write_all(format!("{text}\n").as_bytes()).await?;
        }
        serde_json::from_str(&self.line().await?).map_err(LoadError::of)
    }

    /// Closes its standard input and waits for its exit.
    pub async fn end(&mut self) -> Result<(), LoadError> {
        self.questions = None;
        self.child.wait().await?;
        Ok(())
    }
}

/// A command for this program, or for another one in its folder. Variables of the caller's environment that start with
/// `PREGON` are removed, so that they do not change the configuration.
fn program(beside: Option<&str>) -> io::Result<Command> {
    let this = env::current_exe()?;
    let path = beside.map_or_else(|| this.clone(), |name| this.with_file_name(name));
    if !path.exists() {
        let missing =
            format!("{} does not exist: run cargo build --workspace, with --release for figures", path.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, missing));
    }
    let mut command = Command::new(path);
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PREGON")) {
        command.env_remove(name);
    }
    command.kill_on_drop(true);
    Ok(command)
}

/// A temporary folder. Dropping it removes it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        let path = env::temp_dir().join(format!("pregon-load-{:08x}", rand::random::<u32>()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
