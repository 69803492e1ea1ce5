//! Configuration: `config/pregon.toml` compiled in, then the operator's file, then the environment.
//!
//! Every key, with its meaning, unit, range and default, is described in that file and nowhere else. Here is what is
//! made of it: one small struct a section, so that code is given what it needs and never the whole. All problems are
//! found in one pass and told together; a configuration with a problem starts nothing.
//!
//! Never: writes a secret into a log, an error or `Debug`; reads anything after start.

mod read;
mod reader;
mod redis_url;

use std::{
    collections::HashMap,
    env, fmt, fs,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

pub use redis_url::RedisUrl;

use crate::{
    domain::{BusinessId, LineId, Secret, SecretDigest, WabaId},
    graph,
    redis::deployment::Certificates,
    telemetry::logging::LogConfig,
};

/// The defaults: every key, commented.
pub const DEFAULTS: &str = include_str!("../../config/pregon.toml");

/// Everything that can be configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long recipients' numbers and values are kept after the end of their campaign.
    pub retention: Duration,
    /// How long Meta's message ids are kept.
    pub id_retention: Duration,
    /// `[redis]`
    pub redis: RedisConfig,
    /// `[graph]`
    pub graph: GraphConfig,
    /// `[http]`
    pub http: HttpConfig,
    /// `[ops]`
    pub ops: OpsConfig,
    /// `[webhook]`
    pub webhook: WebhookConfig,
    /// `[intake]`
    pub intake: IntakeConfig,
    /// `[[business]]`, with different ids.
    pub businesses: Vec<BusinessConfig>,
    /// `[[waba]]`, with different ids; the business of each is configured.
    pub wabas: Vec<WabaConfig>,
    /// `[[line]]`, with different ids; the WABA of each is configured.
    pub lines: Vec<LineConfig>,
    /// `[dispatch]`
    pub dispatch: DispatchConfig,
    /// `[shutdown]`
    pub shutdown: ShutdownConfig,
    /// `[log]`
    pub log: LogConfig,
}

/// `[redis]`
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// Where the work is kept.
    pub url: RedisUrl,
    /// For TLS.
    pub certificates: Certificates,
    /// First word of every key: 1 to 32 of `a-z0-9-_`.
    pub namespace: String,
    /// How long a command may take.
    pub timeout: Duration,
    /// Connections kept open, at least 1.
    pub pool: usize,
}

/// `[graph]`
#[derive(Clone, Debug)]
pub struct GraphConfig {
    /// `http` or `https`, without a slash at its end.
    pub base_url: String,
    /// `v25.0`
    pub version: String,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How long a connection may take; at most `timeout`.
    pub connect_timeout: Duration,
    /// HTTP/2 for https; HTTP/1.1 else.
    pub http2: bool,
    /// Messages that share a connection of HTTP/2 at most.
    pub streams_max: usize,
    /// Authorities that are trusted besides those of the system, in PEM form.
    pub ca: Option<PathBuf>,
}

impl GraphConfig {
    /// For a client.
    pub fn client(&self) -> graph::GraphClientConfig {
        graph::GraphClientConfig {
            base_url: self.base_url.clone(),
            version: self.version.clone(),
            timeout: self.timeout,
            connect_timeout: self.connect_timeout,
            http2: self.http2,
            streams_max: self.streams_max,
            ca: self.ca.clone(),
            proxy: None,
        }
    }
}

/// `[http]`
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Address of the API and of the webhooks.
    pub listen: SocketAddr,
    /// Who may call the API; the names differ, and so do the keys.
    pub api_keys: Vec<ApiKey>,
    /// Calls with a key that is not known, from one address in a minute.
    pub key_failures_per_minute: NonZeroU32,
    /// The largest body of a call that is not an upload.
    pub body_bytes_max: usize,
    /// How long a caller may make a stream stand still.
    pub stall_timeout: Duration,
    /// The longest head of a request.
    pub header_bytes_max: usize,
    /// How long that may take to come, and how long a connection may be idle.
    pub header_timeout: Duration,
    /// Connections at once.
    pub connections_max: usize,
    /// What makes it HTTPS; `None` for plain HTTP.
    pub tls: Option<TlsConfig>,
}

/// Who may call the API.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// For the logs.
    pub name: String,
    /// Of what stands behind `Bearer`. The key itself is not kept.
    pub digest: SecretDigest,
    /// What it may do; at least one.
    pub scopes: Vec<KeyScope>,
}

impl ApiKey {
    /// One that may do everything.
    pub fn new(name: impl Into<String>, key: &Secret) -> Self {
        Self { name: name.into(), digest: SecretDigest::of(key.expose()), scopes: KeyScope::ALL.to_vec() }
    }
}

/// What a key of the API may do. None holds another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyScope {
    /// Look.
    Read,
    /// Create, launch and delete campaigns, upload recipients.
    Submit,
    /// Pause, resume and cancel campaigns; set and hold lines; read the templates from Meta.
    Operate,
}

impl KeyScope {
    /// Every one.
    pub const ALL: [KeyScope; 3] = [KeyScope::Read, KeyScope::Submit, KeyScope::Operate];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            KeyScope::Read => "read",
            KeyScope::Submit => "submit",
            KeyScope::Operate => "operate",
        }
    }
}

/// `http.tls`
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// A PEM file: the certificate of this server, then those between it and its root.
    pub certificate: PathBuf,
    /// A PEM file: its private key.
    pub key: PathBuf,
}

/// `[ops]`
#[derive(Clone, Debug)]
pub struct OpsConfig {
    /// Address of `/metrics`, `/healthz` and `/readyz`.
    pub listen: SocketAddr,
}

/// `[webhook]`
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// What the handshake must bring; there where the role `webhook` runs.
    pub verify_token: Option<Secret>,
    /// What signs every webhook; there where the role `webhook` runs.
    pub app_secret: Option<Secret>,
    /// What signed them until it was reset at Meta.
    pub app_secret_previous: Option<Secret>,
    /// The largest webhook.
    pub body_bytes_max: usize,
}

/// `[intake]`
#[derive(Clone, Debug)]
pub struct IntakeConfig {
    /// Recipients of one campaign at most.
    pub recipients_max: u64,
}

/// `[[business]]`
#[derive(Clone, Debug)]
pub struct BusinessConfig {
    /// Meta's id of the portfolio.
    pub id: BusinessId,
}

/// `[[waba]]`
#[derive(Clone, Debug)]
pub struct WabaConfig {
    /// Meta's id of the account.
    pub id: WabaId,
    /// The portfolio that owns it.
    pub business: BusinessId,
    /// What sends for its lines.
    pub access_token: Secret,
}

/// `[[line]]`
#[derive(Clone, Debug)]
pub struct LineConfig {
    /// Meta's `phone_number_id`.
    pub id: LineId,
    /// The account it belongs to.
    pub waba: WabaId,
    /// The number as people read it.
    pub display: String,
    /// What the operator calls it.
    pub name: String,
    /// What Meta allows on it, inbound and outbound together; above 0.
    pub messages_per_second: f64,
}

/// `[dispatch]`
#[derive(Clone, Debug)]
pub struct DispatchConfig {
    /// Share of each line's rate that campaigns leave, 0 to 0.9.
    pub headroom: f64,
    /// How long a message stays in doubt.
    pub doubt_deadline: Duration,
    /// How long a line belongs to a worker without renewal.
    pub lease: Duration,
    /// Attempts open at once on one line.
    pub in_flight_max: usize,
    /// Threads that send.
    pub threads: usize,
    /// How often templates are read again.
    pub templates_every: Duration,
    /// `[dispatch.retry]`
    pub retry: RetryConfig,
}

/// `[dispatch.retry]`
#[derive(Clone, Debug)]
pub struct RetryConfig {
    /// The longest wait before the second attempt.
    pub initial: Duration,
    /// The longest wait before any attempt; at least `initial`.
    pub max: Duration,
    /// Attempts in all, 1 to 15.
    pub attempts: u8,
}

/// `[shutdown]`
#[derive(Clone, Debug)]
pub struct ShutdownConfig {
    /// How long a stop waits for attempts in flight.
    pub grace: Duration,
}

/// What a process does; `serve --roles` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// The API and the job queue.
    Api,
    /// Meta's webhooks.
    Webhook,
    /// Sending.
    Dispatch,
}

/// Everything that is wrong with a configuration, a sentence each. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one; each begins with the key or the file that it is about.
    pub problems: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.problems.len();
        write!(f, "config: {n} problem{}", if n == 1 { "" } else { "s" })?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl Config {
    /// The defaults, with the file at `path` if one is given, and the environment above both.
    ///
    /// Errors: everything wrong with them, together.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let name = path.unwrap_or(Path::new("defaults")).display().to_string();
        let file = match path {
            Some(path) => {
                let told = |error| format!("{name}: {error}: name your file with --config or PREGON_CONFIG");
                fs::read_to_string(path).map_err(|error| ConfigError { problems: vec![told(error)] })?
            }
            None => String::new(),
        };
        let environment = process_environment();
        read::config(&name, &file, &environment, &environment)
    }

    /// The defaults with `text` above them. `PREGON__…` variables change nothing; a secret that `text` names is read.
    ///
    /// Errors: everything wrong with it, together.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        read::config("text", text, &HashMap::new(), &process_environment())
    }

    /// Whether everything is there that `roles` need.
    ///
    /// Errors: everything that is missing, together.
    pub fn check_roles(&self, roles: &[Role]) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        let mut need = |role, there: bool, text: &str| {
            if roles.contains(&role) && !there {
                problems.push(text.to_owned());
            }
        };
        need(
            Role::Api,
            !self.http.api_keys.is_empty(),
            "http.api_keys needs at least one key for the role api: \
             [{ name = \"backend\", secret = { env = \"PREGON_API_KEY\" } }]",
        );
        need(
            Role::Webhook,
            self.webhook.verify_token.is_some(),
            "webhook.verify_token is needed for the role webhook: a word of your own, which you also enter in Meta's app \
             dashboard, as { env = \"PREGON_VERIFY_TOKEN\" }",
        );
        need(
            Role::Webhook,
            self.webhook.app_secret.is_some(),
            "webhook.app_secret is needed for the role webhook: the one in Meta's app dashboard under App settings, Basic, as \
             { env = \"PREGON_APP_SECRET\" }",
        );
        need(
            Role::Dispatch,
            !self.lines.is_empty(),
            "line: the role dispatch needs at least one [[line]], with its phone_number_id as id and the id of its [[waba]] as \
             waba",
        );
        if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
    }
}

/// Variables whose name or value is not Unicode are left out: none of ours can be.
fn process_environment() -> HashMap<String, String> {
    env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}

#[cfg(test)]
mod tests;
