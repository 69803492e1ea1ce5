//! Configuration: the compiled-in defaults of `config/pregon.toml`, overridden by the operator's file, overridden by
//! the environment.
//!
//! `config/pregon.toml` is the only reference of the keys: their meanings, units, ranges and defaults. This module
//! parses them into one struct per section, so that other modules receive only the settings that they need. All
//! problems are reported together, and a configuration with a problem starts nothing.
//!
//! Never: writes a secret into a log, an error or `Debug`; reads anything after loading.

mod contact_hours;
mod database_url;
mod endpoint;
mod prices;
mod read;
mod reader;
mod redis_url;
mod settings;
mod subscriber;

use std::{
    collections::HashMap,
    env, fmt, fs,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use database_url::DatabaseUrl;
use reader::Surroundings;
pub use redis_url::RedisUrl;
pub use settings::Settings;

use crate::{
    domain::{
        BusinessId, FrequencyCap, LineId, PriceList, Secret, SecretDigest, WabaId,
        agent::{AgentLimits, SessionLimits},
    },
    graph,
    media::MediaSettings,
    redis::{deployment::Certificates, feed::FeedLimits, inbound::InboundLimits},
    rules::{contact_hours::ContactHours, stop_words::StopWords},
    subscribers::Subscriber,
    telemetry::{logging::LogConfig, traces::export::TracesConfig},
    webhook::forward::ForwardTarget,
};

/// The default configuration, with a comment for every key.
pub const DEFAULTS: &str = include_str!("../../config/pregon.toml");

/// The complete configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long phone numbers and values of recipients are kept after the end of their campaign.
    pub retention: Duration,
    /// How long Meta's message ids are kept.
    pub id_retention: Duration,
    /// `[redis]`
    pub redis: RedisConfig,
    /// `[database]`; `None` if it has no `url`.
    pub database: Option<DatabaseConfig>,
    /// `[agents]`
    pub agents: AgentsConfig,
    /// `[media]`; `None` if it has no `url`.
    pub media: Option<MediaSettings>,
    /// `[graph]`
    pub graph: GraphConfig,
    /// `[http]`
    pub http: HttpConfig,
    /// `[ops]`
    pub ops: OpsConfig,
    /// `[webhook]`
    pub webhook: WebhookConfig,
    /// `[inbound]`
    pub inbound: InboundLimits,
    /// `[[stop_words]]`
    pub stop_words: StopWords,
    /// `[[contact_hours]]`, with unique names and prefixes.
    pub contact_hours: ContactHours,
    /// `[feed]`; `None` if no events are written.
    pub feed: Option<FeedLimits>,
    /// `[[subscriber]]`, with unique ids; none if no events are written.
    pub subscribers: Vec<Subscriber>,
    /// `[intake]`
    pub intake: IntakeConfig,
    /// The price list in the file `prices.file`; `None`: no prices are known.
    pub prices: Option<Arc<PriceList>>,
    /// `[[business]]`, with unique ids.
    pub businesses: Vec<BusinessConfig>,
    /// `[[waba]]`, with unique ids. The business of each is configured.
    pub wabas: Vec<WabaConfig>,
    /// `[[line]]`, with unique ids. The WABA of each is configured.
    pub lines: Vec<LineConfig>,
    /// `[dispatch]`
    pub dispatch: DispatchConfig,
    /// `[shutdown]`
    pub shutdown: ShutdownConfig,
    /// `[log]`
    pub log: LogConfig,
    /// `[traces]`; `None` without an endpoint.
    pub traces: Option<TracesConfig>,
    /// The values of all keys.
    pub settings: Settings,
    /// Where the configuration comes from.
    source: Source,
}

/// Where a configuration comes from.
#[derive(Clone, Debug, Default)]
enum Source {
    /// The file, if there is one, and the environment of the process.
    Process(Option<PathBuf>),
    /// A text, which does not change.
    #[default]
    Text,
}

/// `[redis]`
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// The Redis to use.
    pub url: RedisUrl,
    /// Certificates for TLS.
    pub certificates: Certificates,
    /// The prefix of every key: 1 to 32 of `a-z0-9-_`.
    pub namespace: String,
    /// How long a start waits for a Redis that does not answer; `None`: as long as it takes.
    pub start_timeout: Option<Duration>,
    /// The timeout of a command.
    pub timeout: Duration,
    /// Maximum number of pooled connections to each server, at least 1.
    pub pool: usize,
}

/// `[database]`
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    /// The PostgreSQL to use.
    pub url: DatabaseUrl,
    /// Maximum number of connections, at least 1.
    pub pool: u32,
    /// The timeout of a connection attempt and of a statement.
    pub timeout: Duration,
    /// How long messages of chats are kept, at least; `None`: for ever.
    pub keep_messages: Option<Duration>,
}

/// `[agents]`
#[derive(Clone, Debug)]
pub struct AgentsConfig {
    /// How long sessions live.
    pub sessions: SessionLimits,
    /// When agents count as gone.
    pub limits: AgentLimits,
    /// Where agents log in without a password; `None`: nowhere.
    pub oidc: Option<OidcConfig>,
}

/// `[agents.oidc]`: a provider of logins that speaks OpenID Connect.
#[derive(Clone, Debug)]
pub struct OidcConfig {
    /// The issuer, exactly as in its tokens.
    pub issuer: String,
    /// The name of Pregón at the provider.
    pub client_id: String,
    /// The secret of Pregón at the provider.
    pub client_secret: Secret,
    /// Where browsers find this server, without a trailing slash.
    pub public_url: String,
    /// What people call the provider.
    pub label: String,
}

/// `[graph]`
#[derive(Clone, Debug)]
pub struct GraphConfig {
    /// An `http` or `https` URL without a trailing slash.
    pub base_url: String,
    /// Such as `v25.0`.
    pub version: String,
    /// The timeout of a send, from connecting to the end of the response.
    pub timeout: Duration,
    /// The timeout of connecting; less than `timeout`.
    pub connect_timeout: Duration,
    /// Whether to use HTTP/2 for https URLs.
    pub http2: bool,
    /// Maximum number of messages in flight on one HTTP/2 connection.
    pub streams_max: usize,
    /// A PEM file with certificate authorities to trust in addition to the system's.
    pub ca: Option<PathBuf>,
}

impl GraphConfig {
    /// The configuration of a client.
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
    /// The address of the API and the webhooks.
    pub listen: SocketAddr,
    /// The API keys, with unique names and unique secrets.
    pub api_keys: Vec<ApiKey>,
    /// Requests with an unknown key that one address, or one IPv6 /64, may make per minute.
    pub key_failures_per_minute: NonZeroU32,
    /// The largest body of a request that is not an upload, in bytes.
    pub body_bytes_max: usize,
    /// How long an upload may send nothing, or a client may read nothing of a response. Other bodies must arrive
    /// completely within this time.
    pub stall_timeout: Duration,
    /// The longest request line and headers together, in bytes.
    pub header_bytes_max: usize,
    /// How long the request line and headers may take to arrive, and how long a connection may be idle.
    pub header_timeout: Duration,
    /// Maximum number of open connections.
    pub connections_max: usize,
    /// The certificate for HTTPS; `None` for plain HTTP.
    pub tls: Option<TlsConfig>,
}

/// An API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// The name of the caller, for the logs.
    pub name: String,
    /// The digest of the key. The key itself is not stored.
    pub digest: SecretDigest,
    /// What the key may do; at least one.
    pub scopes: Vec<KeyScope>,
    /// The businesses that the key is limited to, at least one, each configured. `None`: all businesses.
    pub businesses: Option<Vec<BusinessId>>,
}

impl ApiKey {
    /// A key with all scopes, for all businesses.
    pub fn new(name: impl Into<String>, key: &Secret) -> Self {
        let digest = SecretDigest::of(key.expose());
        Self { name: name.into(), digest, scopes: KeyScope::ALL.to_vec(), businesses: None }
    }
}

/// What an API key may do. No scope includes another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyScope {
    /// Every GET.
    Read,
    /// Create, test, launch and delete campaigns, upload recipients, store and end suppressions, forget people.
    Submit,
    /// Pause, resume and cancel campaigns; set, pause and resume lines; pause and resume everything; sync templates;
    /// deliver events again and enable subscribers.
    Operate,
    /// Read contacts.
    Contacts,
    /// Read chats and answer them.
    Chats,
    /// Create, change and remove agents and groups, and assign chats.
    Admin,
}

impl fmt::Display for KeyScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl KeyScope {
    /// All scopes.
    pub const ALL: [KeyScope; 6] =
        [KeyScope::Read, KeyScope::Submit, KeyScope::Operate, KeyScope::Contacts, KeyScope::Chats, KeyScope::Admin];

    /// The name of the scope in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            KeyScope::Read => "read",
            KeyScope::Submit => "submit",
            KeyScope::Operate => "operate",
            KeyScope::Contacts => "contacts",
            KeyScope::Chats => "chats",
            KeyScope::Admin => "admin",
        }
    }
}

/// `http.tls`
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// A PEM file with the server's certificate, followed by its intermediate certificates.
    pub certificate: PathBuf,
    /// A PEM file with the private key.
    pub key: PathBuf,
}

/// `[ops]`
#[derive(Clone, Debug)]
pub struct OpsConfig {
    /// The address of `/metrics`, `/healthz` and `/readyz`.
    pub listen: SocketAddr,
}

/// `[webhook]`
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// The token of the verification handshake. The role `webhook` needs it.
    pub verify_token: Option<Secret>,
    /// The secret that signs every webhook. The role `webhook` needs it.
    pub app_secret: Option<Secret>,
    /// The app secret before the last reset at Meta. Webhooks signed with it are still accepted.
    pub app_secret_previous: Option<Secret>,
    /// The largest webhook, in bytes.
    pub body_bytes_max: usize,
    /// `[[webhook.forward]]`, with unique ids.
    pub forward: Vec<ForwardTarget>,
}

/// `[intake]`
#[derive(Clone, Debug)]
pub struct IntakeConfig {
    /// Maximum number of recipients of one campaign.
    pub recipients_max: u64,
    /// The share of Redis' `maxmemory` above which no more recipients are accepted, 0.1 to 1.
    pub memory_share_max: f64,
}

/// `[[business]]`
#[derive(Clone, Debug)]
pub struct BusinessConfig {
    /// Meta's id of the portfolio.
    pub id: BusinessId,
    /// How much marketing a person may get. The marketing of a business with a cap is counted.
    pub frequency_cap: Option<FrequencyCap>,
    /// Which of the lines that it has at Meta are served besides the configured ones; see [`crate::domain::MetaLine`].
    pub include: Vec<String>,
    /// The access token for its lines whose WABA is not configured. Set if there is an `include`.
    pub access_token: Option<Secret>,
}

/// `[[waba]]`
#[derive(Clone, Debug)]
pub struct WabaConfig {
    /// Meta's id of the WABA.
    pub id: WabaId,
    /// The portfolio that owns the WABA.
    pub business: BusinessId,
    /// The access token for sending on the WABA's lines.
    pub access_token: Secret,
    /// Whether marketing goes through the Marketing Messages API.
    pub marketing_api: bool,
}

/// `[[line]]`
#[derive(Clone, Debug)]
pub struct LineConfig {
    /// Meta's `phone_number_id`.
    pub id: LineId,
    /// The WABA that owns the line.
    pub waba: WabaId,
    /// The phone number as people read it.
    pub display: String,
    /// The operator's name for the line.
    pub name: String,
    /// The rate of the line, inbound and outbound messages together; above 0. `None`: the rate that Meta allows.
    pub messages_per_second: Option<f64>,
    /// How many messages the line may send on each of its first days; each above 0. Empty: any number.
    pub warm_up: Arc<[u32]>,
}

/// `[dispatch]`
#[derive(Clone, Debug)]
pub struct DispatchConfig {
    /// The share of each line's rate that campaigns leave free for other messages, 0 to 0.9.
    pub headroom: f64,
    /// How long a message in doubt waits for a status.
    pub doubt_deadline: Duration,
    /// How long a line belongs to a worker without renewal.
    pub lease: Duration,
    /// Maximum number of attempts in flight on one line.
    pub in_flight_max: usize,
    /// Threads that send.
    pub threads: usize,
    /// The minimum time between two messages of a line to the same person.
    pub pair_spacing: Duration,
    /// How often the templates are read from Meta.
    pub templates_every: Duration,
    /// How long after its `start_at` the start of a campaign counts as missed.
    pub late_after: Duration,
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
    /// Maximum number of attempts, including the first: 1 to 15.
    pub attempts: u8,
}

/// `[shutdown]`
#[derive(Clone, Debug)]
pub struct ShutdownConfig {
    /// How long a process continues to serve after a signal, without being ready.
    pub drain: Duration,
    /// How long a stop waits for attempts in flight.
    pub grace: Duration,
}

/// A role of a process, as in `serve --roles`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// The API and the job queue.
    Api,
    /// Meta's webhooks.
    Webhook,
    /// Sending to Meta on the lines that the process leases.
    Dispatch,
    /// What people write becomes contacts and chats.
    Engage,
}

impl Role {
    /// The name of the role, as in `serve --roles`.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Api => "api",
            Role::Webhook => "webhook",
            Role::Dispatch => "dispatch",
            Role::Engage => "engage",
        }
    }

    /// Whether the role uses the database.
    pub fn uses_database(self) -> bool {
        matches!(self, Role::Api | Role::Engage)
    }
}

/// All problems of a configuration. Contains no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one sentence. Each begins with its key, variable or file.
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
    /// Loads the defaults, the file if `path` is given, and the environment, each overriding the one before.
    ///
    /// Errors: all problems.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let name = path.unwrap_or(Path::new("defaults")).display().to_string();
        let file = match path {
            Some(path) => {
                let problem = |error| format!("{name}: {error}: name your file with --config or PREGON_CONFIG");
                fs::read_to_string(path).map_err(|error| ConfigError { problems: vec![problem(error)] })?
            }
            None => String::new(),
        };
        let environment = process_environment();
        let folder = path.and_then(Path::parent).unwrap_or(Path::new(""));
        let surroundings = Surroundings { environment: &environment, folder };
        let config = read::config(&name, &file, &environment, surroundings)?;
        Ok(Self { source: Source::Process(path.map(Path::to_owned)), ..config })
    }

    /// Loads the configuration again from the same source.
    ///
    /// Errors: all problems.
    pub fn load_again(&self) -> Result<Self, ConfigError> {
        match &self.source {
            Source::Process(path) => Self::load(path.as_deref()),
            Source::Text => Ok(self.clone()),
        }
    }

    /// Loads the defaults, overridden by `text`. `PREGON__…` variables are ignored, but secrets in `text` may name
    /// variables.
    ///
    /// Errors: all problems.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let surroundings = Surroundings { environment: &process_environment(), folder: Path::new("") };
        read::config("text", text, &HashMap::new(), surroundings)
    }

    /// Checks that all settings that `roles` need are present.
    ///
    /// Errors: all missing settings.
    pub fn check_roles(&self, roles: &[Role]) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        let mut need = |role, present: bool, text: &str| {
            if roles.contains(&role) && !present {
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
            Role::Engage,
            self.database.is_some(),
            "database.url is needed for the role engage: postgres://USER@HOST/DATABASE, or spawn:DIR for a private server",
        );
        need(
            Role::Dispatch,
            !self.lines.is_empty() || self.businesses.iter().any(|business| !business.include.is_empty()),
            "line: the role dispatch needs at least one [[line]], with its phone_number_id as id and the id of its [[waba]] as \
             waba; or `include` of a [[business]]",
        );
        if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
    }
}

/// The environment variables of the process. Variables that are not Unicode are skipped: no setting has such a value.
fn process_environment() -> HashMap<String, String> {
    env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}

#[cfg(test)]
mod tests;
