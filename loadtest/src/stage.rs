//! What a scenario is played on: a private Redis, a Meta, workers, each a process of its own; and the public API, by which
//! everything is asked for.
//!
//! Everything lives in a temporary folder. Dropped, the stage is gone: the workers are killed, Redis and Meta end when
//! their pipe does.

use std::{
    collections::VecDeque,
    env, fs, io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::Body;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

use super::{
    arrivals::Seen,
    error::LoadError,
    measure,
    meta::{Message, Question, TEMPLATE},
    recipients::Rows,
    scenario::Setup,
};
use pregon::{
    client::{self, Client, ControlAction, NewCampaign, TemplateName, Uploaded},
    domain::{CampaignId, CampaignState, LineId, Secret},
    intake::Format,
    redis::spawn::PrivateRedis,
};

/// The WABA of all lines.
pub const WABA: &str = "2001";

/// What signs webhooks.
pub const APP_SECRET: &str = "app-secret-for-load-tests";

const API_KEY: &str = "key-for-load-tests";

/// How long a process may take until it serves, or until it has ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Lines of a worker's log that are told if it fails.
const LOG_LINES: usize = 10;

/// What a scenario is played on.
pub struct Stage {
    setup: Setup,
    /// The lines.
    pub lines: Vec<LineId>,
    /// The API of the first worker.
    pub client: Client,
    /// Where webhooks go: to the first worker.
    pub webhooks: std::net::SocketAddr,
    meta: Helper,
    /// Where Meta is.
    pub meta_url: String,
    /// The certificate of its authority, if it speaks TLS.
    pub ca: Option<PathBuf>,
    workers: Vec<Worker>,
    redis: PrivateRedis,
    folder: Folder,
}

/// Time on the processor, by process.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    at: Instant,
    /// Since the earlier reading, if it is a difference.
    pub took: Duration,
    /// Of all workers.
    pub workers: Duration,
    /// Of Redis.
    pub redis: Duration,
    /// Of Meta.
    pub meta: Duration,
}

impl Usage {
    /// What was used since `before`.
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
    /// Sets it up; everything is ready when it is there. `keep`: Meta keeps each message, for statuses about it.
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
        let config = folder.0.join("pregon.toml");
        fs::write(&config, configuration(setup, &folder.0, redis.url(), &meta_url, ca.as_deref(), &lines)?)?;
        let mut workers = Vec::with_capacity(setup.workers);
        for _ in 0..setup.workers {
            workers.push(Worker::spawn(&config, setup)?);
        }
        let mut webhooks = None;
        for worker in &mut workers {
            let serves = worker.serves().await?;
            webhooks.get_or_insert(serves);
        }
        let webhooks = webhooks.ok_or_else(|| LoadError::Failed("no worker".into()))?;
        let server = format!("http://{webhooks}").parse().map_err(LoadError::of)?;
        let client = Client::new(server, Some(Secret::new(API_KEY)), None)?;
        Ok(Self { setup: setup.clone(), lines, client, webhooks, meta, meta_url, ca, workers, redis, folder })
    }

    /// A draft with these recipients on these lines, and what came of the upload.
    pub async fn draft(&self, lines: &[LineId], rows: Rows) -> Result<(CampaignId, Uploaded), LoadError> {
        let id = self.create(lines).await?;
        Ok((id, self.client.upload(id, "load", &Format::Ndjson.into(), None, Body::wrap_stream(rows.ndjson())).await?))
    }

    /// A draft without recipients. The templates are read from Meta just after the start: until then it is refused.
    pub async fn create(&self, lines: &[LineId]) -> Result<CampaignId, LoadError> {
        let (name, language) = TEMPLATE;
        let new = NewCampaign {
            name: "load".into(),
            external_id: None,
            template: TemplateName { name: name.into(), language: language.into() },
            lines: lines.to_vec(),
            start_at: None,
            expires_at: None,
            priority: None,
            on_doubt: None,
        };
        let deadline = Instant::now() + PATIENCE;
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

    /// Waits until so many messages have arrived at Meta since it last forgot. It asks Meta and not the worker, which has
    /// other things to do.
    pub async fn arrived(&mut self, n: u64) -> Result<(), LoadError> {
        let (mut before, mut deadline) = (0, Instant::now() + PATIENCE);
        loop {
            let arrived: u64 = self.meta.ask(&Question::Count).await?;
            if arrived >= n {
                return Ok(());
            }
            if arrived > before {
                (before, deadline) = (arrived, Instant::now() + PATIENCE);
            } else if Instant::now() > deadline {
                let logs: Vec<String> = self.workers.iter().map(Worker::last_words).collect();
                let what = format!("nothing arrived for {PATIENCE:?} after {arrived} of {n} messages");
                return Err(LoadError::Failed(format!("{what}; the workers say: {}", logs.join(" | "))));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until a campaign is completed.
    pub async fn completed(&self, id: CampaignId) -> Result<(), LoadError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let campaign = self.client.campaign(id).await?;
            if campaign.state == CampaignState::Completed {
                let statistics = campaign.statistics.unwrap_or_default();
                if statistics.funnel.accepted != statistics.recipients {
                    let told = format!("{} of {} were accepted", statistics.funnel.accepted, statistics.recipients);
                    return Err(LoadError::Failed(format!("campaign {id} is completed, and {told}")));
                }
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(LoadError::Failed(format!("campaign {id} is still {} after {PATIENCE:?}", campaign.state)));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Meta forgets what arrived.
    pub async fn forget(&mut self) -> Result<(), LoadError> {
        self.meta.ask(&Question::Forget).await
    }

    /// What arrived at Meta since it last forgot; a line's `within` counts what came between the two.
    pub async fn seen(&mut self, from_us: u64, until_us: u64) -> Result<Seen, LoadError> {
        self.meta.ask(&Question::Seen { from_us, until_us }).await
    }

    /// The messages that Meta kept, which it forgets.
    pub async fn messages(&mut self) -> Result<Vec<Message>, LoadError> {
        let path = self.folder.0.join("messages");
        let n: u64 = self.meta.ask(&Question::Messages(path.clone())).await?;
        let messages: Vec<Message> = fs::read_to_string(&path)?.lines().filter_map(Message::read).collect();
        if messages.len() as u64 != n {
            return Err(LoadError::Failed(format!("{} of {n} messages can be read", messages.len())));
        }
        Ok(messages)
    }

    /// What the processes have used so far.
    pub fn usage(&self) -> Result<Usage, LoadError> {
        let mut workers = Duration::ZERO;
        for worker in &self.workers {
            workers += measure::cpu(worker.pid)?;
        }
        let (redis, meta) = (measure::cpu(self.redis.pid())?, measure::cpu(self.meta.pid)?);
        Ok(Usage { at: Instant::now(), took: Duration::ZERO, workers, redis, meta })
    }

    /// The most memory that any worker has had, in bytes.
    pub fn worker_peak_bytes(&self) -> Result<u64, LoadError> {
        let peaks: io::Result<Vec<u64>> = self.workers.iter().map(|worker| measure::peak_bytes(worker.pid)).collect();
        Ok(peaks?.into_iter().max().unwrap_or(0))
    }

    /// Counts that anew.
    pub fn forget_worker_peak(&self) -> Result<(), LoadError> {
        self.workers.iter().try_for_each(|worker| measure::forget_peak(worker.pid))?;
        Ok(())
    }

    /// Where Redis is.
    pub fn redis_url(&self) -> &str {
        self.redis.url()
    }

    /// Stops every worker cleanly.
    pub async fn stop_workers(&mut self) -> Result<(), LoadError> {
        for worker in &mut self.workers {
            worker.stop().await?;
        }
        Ok(())
    }

    /// Starts the first worker again; the others stay stopped. It serves when it does: see [`Stage::serves`].
    pub fn start_worker(&mut self) -> Result<(), LoadError> {
        self.workers = vec![Worker::spawn(&self.folder.0.join("pregon.toml"), &self.setup)?];
        Ok(())
    }

    /// Waits until the worker that was started again serves, at an address of its own.
    pub async fn serves(&mut self) -> Result<(), LoadError> {
        for worker in &mut self.workers {
            self.webhooks = worker.serves().await?;
        }
        let server = format!("http://{}", self.webhooks).parse().map_err(LoadError::of)?;
        self.client = Client::new(server, Some(Secret::new(API_KEY)), None)?;
        Ok(())
    }

    /// Ends everything cleanly.
    pub async fn stop(mut self) -> Result<(), LoadError> {
        self.stop_workers().await?;
        self.meta.end().await?;
        Ok(self.redis.stop().await?)
    }
}

/// The configuration of the workers: the defaults, but for addresses, secrets and lines, and that campaigns leave nothing of a
/// line's rate to others, for there are none.
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
    let mut text = format!(
        r#"redis.url = "{redis}"
graph.base_url = "{meta}"
{ca}http.listen = "127.0.0.1:0"
http.api_keys = [{{ name = "load", secret = {key} }}]
ops.listen = "127.0.0.1:0"
webhook.verify_token = {verify}
webhook.app_secret = {app}
dispatch.headroom = 0.0
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

/// A process of `pregon serve`.
struct Worker {
    child: Child,
    pid: u32,
    /// Tells its addresses, of HTTP and of operations.
    addresses: Option<oneshot::Receiver<(String, String)>>,
    log: Arc<Mutex<VecDeque<String>>>,
}

impl Worker {
    fn spawn(config: &Path, setup: &Setup) -> Result<Self, LoadError> {
        let mut command = program(Some("pregon"))?;
        command.arg("serve").arg("--config").arg(config).envs(&setup.environment);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let pid = child.id().unwrap_or_default();
        let (tell, addresses) = oneshot::channel();
        let log = Arc::<Mutex<VecDeque<String>>>::default();
        if let Some(output) = child.stderr.take() {
            tokio::spawn(read_log(BufReader::new(output).lines(), log.clone(), tell));
        }
        Ok(Self { child, pid, addresses: Some(addresses), log })
    }

    /// Waits until it is ready, and gives where the API is.
    async fn serves(&mut self) -> Result<std::net::SocketAddr, LoadError> {
        let ended = |worker: &Self| LoadError::Failed(format!("a worker does not serve: {}", worker.last_words()));
        let Some(addresses) = self.addresses.take() else { return Err(ended(self)) };
        let told = timeout(PATIENCE, addresses).await.map(Result::ok).ok().flatten();
        let Some((http, ops)) = told else { return Err(ended(self)) };
        let (asking, deadline) = (client::http().build().map_err(LoadError::of)?, Instant::now() + PATIENCE);
        while !asking.get(format!("http://{ops}/readyz")).send().await.is_ok_and(|answer| answer.status().is_success())
        {
            if Instant::now() > deadline {
                return Err(ended(self));
            }
            sleep(LOOK_EVERY).await;
        }
        http.parse().map_err(LoadError::of)
    }

    async fn stop(&mut self) -> Result<(), LoadError> {
        if self.child.try_wait()?.is_none() {
            let kill = Command::new("sh").args(["-c", "kill -s TERM \"$1\"", "sh", &self.pid.to_string()]).status();
            kill.await?;
        }
        let ended: Option<ExitStatus> = timeout(PATIENCE, self.child.wait()).await.map(Result::ok).ok().flatten();
        match ended {
            Some(status) if status.success() => Ok(()),
            _ => Err(LoadError::Failed(format!("a worker did not end well: {}", self.last_words()))),
        }
    }

    fn last_words(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// Reads a worker's log for as long as there is one.
async fn read_log(
    mut lines: Lines<BufReader<tokio::process::ChildStderr>>,
    log: Arc<Mutex<VecDeque<String>>>,
    tell: oneshot::Sender<(String, String)>,
) {
    let mut tell = Some(tell);
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some((http, ops)) = addresses(&line)
            && let Some(tell) = tell.take()
        {
            let _ = tell.send((http, ops));
        }
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() == LOG_LINES {
            log.pop_front();
        }
        log.push_back(line);
    }
}

/// What the line of a log that says so tells of where its worker serves.
fn addresses(line: &str) -> Option<(String, String)> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let text = |key: &str| line[key].as_str();
    let http = text("http")?.strip_prefix("Some(")?.strip_suffix(')')?;
    (text("message")? == "serving").then_some((http.to_owned(), text("ops")?.to_owned()))
}

/// A process of ours that answers questions, or just says something. It ends when its standard input does.
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
        let output = output.ok_or_else(|| LoadError::Failed("a process without an output".into()))?;
        Ok(Self { pid: child.id().unwrap_or_default(), child, questions, answers: BufReader::new(output).lines() })
    }

    /// The next line that it says.
    pub async fn line(&mut self) -> Result<String, LoadError> {
        match self.answers.next_line().await? {
            Some(line) => Ok(line),
            None => Err(LoadError::Failed("a process of the load test has ended; it says why above".into())),
        }
    }

    async fn ask<T: DeserializeOwned>(&mut self, question: &Question) -> Result<T, LoadError> {
        let text = serde_json::to_string(question).map_err(LoadError::of)?;
        if let Some(questions) = &mut self.questions {
            questions.write_all(format!("{text}\n").as_bytes()).await?;
        }
        serde_json::from_str(&self.line().await?).map_err(LoadError::of)
    }

    /// Ends it.
    pub async fn end(&mut self) -> Result<(), LoadError> {
        self.questions = None;
        self.child.wait().await?;
        Ok(())
    }
}

/// This program, or another one beside it, without what the caller's environment would tell it.
fn program(beside: Option<&str>) -> io::Result<Command> {
    let this = env::current_exe()?;
    let path = beside.map_or_else(|| this.clone(), |name| this.with_file_name(name));
    if !path.exists() {
        let missing =
            format!("{} is not there: run cargo build --workspace, with --release for figures", path.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, missing));
    }
    let mut command = Command::new(path);
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PREGON")) {
        command.env_remove(name);
    }
    command.kill_on_drop(true);
    Ok(command)
}

/// A temporary folder. Dropped, it is gone.
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
