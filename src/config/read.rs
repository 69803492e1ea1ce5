//! Parses and validates a [`Config`]: the keys, their values, and the relations between them.

use std::{
    collections::HashSet,
    fmt::Display,
    num::{NonZeroU16, NonZeroU32},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
};

use config::{File, FileFormat, Map, Value};
use reqwest::header::{HeaderName, HeaderValue};
use tracing_subscriber::EnvFilter;

use super::{
    AgentsConfig, ApiKey, BusinessConfig, Config, ConfigError, DEFAULTS, DatabaseConfig, DatabaseUrl, DispatchConfig,
    GraphConfig, HttpConfig, IntakeConfig, KeyScope, LineConfig, OidcConfig, OpsConfig, RedisConfig, RedisUrl,
    RetryConfig, ShutdownConfig, Source, TlsConfig, WabaConfig, WebhookConfig, contact_hours, endpoint, prices,
    reader::{Environment, Findings, PREFIX, Section, Surroundings, is_plain},
    settings::Settings,
    subscriber,
};
use crate::{
    domain::{
        FrequencyCap, LINE_RATE_MAX, LINE_RATE_MIN, Secret, SuppressionScope,
        agent::{AgentLimits, SessionLimits},
    },
    media::{MediaSettings, MediaUrl},
    redis::{deployment::Certificates, feed::FeedLimits, inbound::InboundLimits},
    rules::stop_words::StopWords,
    telemetry::{
        logging::{LogConfig, LogFormat},
        traces::export::TracesConfig,
    },
    webhook::forward::ForwardTarget,
};

/// Parses the defaults, overridden by the text `file`, overridden by those of `overrides` that begin with `PREGON__`.
/// Secrets are read from the variables and files of `surroundings`. `name` is the name of the file in errors.
pub(super) fn config(
    name: &str,
    file: &str,
    overrides: &Environment,
    surroundings: Surroundings<'_>,
) -> Result<Config, ConfigError> {
    let values = merge(name, file, overrides)?;
    let findings = Findings::of(&values);
    let config = root(Section::root(values, &findings, surroundings));
    check_relations(&config, &findings);
    match findings.into_parts() {
        (settings, problems) if problems.is_empty() => Ok(Config { settings, ..config }),
        (_, problems) => Err(ConfigError { problems }),
    }
}

fn merge(name: &str, file: &str, overrides: &Environment) -> Result<Map<String, Value>, ConfigError> {
    let error = |problem: String| ConfigError { problems: vec![problem] };
    let mut builder = config::Config::builder()
        .add_source(File::from_str(DEFAULTS, FileFormat::Toml))
        .add_source(File::from_str(file, FileFormat::Toml));
    for (variable, text) in overrides {
        let Some(key) = variable.strip_prefix(PREFIX) else { continue };
        let value = Value::new(Some(variable), text.as_str());
        builder = builder.set_override(key_of(key), value).map_err(|_| {
            error(format!("{variable} names no key: write it such as PREGON__REDIS__URL for redis.url"))
        })?;
    }
    builder.build().and_then(|merged| merged.cache.into_table()).map_err(|cause| error(format!("{name}: {cause}")))
}

/// The key that a variable sets: `line[0].messages_per_second` for `LINE__0__MESSAGES_PER_SECOND`.
fn key_of(variable: &str) -> String {
    variable.split("__").fold(String::new(), |key, word| match word.parse::<u16>() {
        Ok(number) => format!("{key}[{number}]"),
        Err(_) if key.is_empty() => word.to_lowercase(),
        Err(_) => format!("{key}.{}", word.to_lowercase()),
    })
}

fn root(mut root: Section<'_>) -> Config {
    let config = Config {
        retention: root.duration("retention", "1h..3650d"),
        id_retention: root.duration("id_retention", "1h..90d"),
        redis: redis(root.section("redis")),
        database: database(root.section("database")),
        agents: agents(root.section("agents")),
        media: media(root.section("media")),
        graph: graph(root.section("graph")),
        http: http(root.section("http")),
        ops: ops(root.section("ops")),
        webhook: webhook(root.section("webhook")),
        inbound: inbound(root.section("inbound")),
        stop_words: stop_words(root.list("stop_words")),
        contact_hours: contact_hours::read(root.list("contact_hours")),
        feed: feed(root.section("feed")),
        subscribers: root.list("subscriber").into_iter().map(subscriber::read).collect(),
        intake: intake(root.section("intake")),
        prices: prices::read(root.section("prices")),
        businesses: root.list("business").into_iter().map(business).collect(),
        wabas: root.list("waba").into_iter().map(waba).collect(),
        lines: root.list("line").into_iter().map(line).collect(),
        dispatch: dispatch(root.section("dispatch")),
        shutdown: shutdown(root.section("shutdown")),
        log: log(root.section("log")),
        traces: traces(root.section("traces")),
        settings: Settings::default(),
        source: Source::default(),
    };
    root.finish();
    config
}

fn redis(mut section: Section<'_>) -> RedisConfig {
    let config = RedisConfig {
        url: server_url(&mut section, RedisUrl::has_password).unwrap_or_else(|| RedisUrl::Spawn(PathBuf::new())),
        certificates: certificates(&mut section),
        namespace: section
            .parsed("namespace", "1 to 32 of a-z, 0-9, - and _", |text| is_plain(text, 32).then(|| text.to_owned()))
            .unwrap_or_default(),
        start_timeout: section.has("start_timeout").then(|| section.duration("start_timeout", "0s..24h")),
        timeout: section.duration("timeout", "100ms..30s"),
        pool: section.integer("pool", 1..=256),
    };
    section.finish();
    config
}

fn certificates(section: &mut Section<'_>) -> Certificates {
    let (ca, certificate, key) = (section.path("ca"), section.path("client_certificate"), section.path("client_key"));
    if certificate.is_some() != key.is_some() {
        section.problem("client_certificate", "must be given together with redis.client_key: give both, or neither");
    }
    Certificates { ca, client: certificate.zip(key) }
}

fn database(mut section: Section<'_>) -> Option<DatabaseConfig> {
    let url = section.has("url").then(|| server_url(&mut section, DatabaseUrl::has_password));
    // Known, even if it is missing.
    section.text("url");
    let (pool, timeout) = (section.integer("pool", 1..=256), section.duration("timeout", "100ms..60s"));
    let keep_messages = section.has("keep_messages").then(|| section.duration("keep_messages", "45d..36500d"));
    section.finish();
    let url = url.map(|url| url.unwrap_or_else(|| DatabaseUrl::Spawn(PathBuf::new())));
    url.map(|url| DatabaseConfig { url, pool, timeout, keep_messages })
}

fn agents(mut section: Section<'_>) -> AgentsConfig {
    let sessions = SessionLimits {
        idle: section.duration("session_idle", "1m..12h"),
        age: section.duration("session_age", "5m..30d"),
    };
    let silence = section.has("silence").then(|| section.duration("silence", "10s..7d"));
    let limits = AgentLimits { offline_after: section.duration("offline_after", "30s..1h"), silence };
    let oidc = section.optional("oidc").map(oidc);
    section.finish();
    AgentsConfig { sessions, limits, oidc }
}

fn oidc(mut section: Section<'_>) -> OidcConfig {
    let must = "an https URL without a query, or an http one of this machine";
    let oidc = OidcConfig {
        issuer: section.given("issuer", must, |text| secure_url(text).then(|| text.to_owned())).unwrap_or_default(),
        client_id: section.required("client_id"),
        client_secret: section.required_secret("client_secret"),
        public_url: section
            .given("public_url", must, |text| base_url(text).filter(|url| secure_url(url)))
            .unwrap_or_default(),
        label: section.text("label").unwrap_or_else(|| "OpenID Connect".to_owned()),
    };
    section.finish();
    oidc
}

/// Whether what is sent to a URL, which has no query, cannot be read on the way.
fn secure_url(text: &str) -> bool {
    let is_local = |url: &reqwest::Url| matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    base_url(text).is_some() && reqwest::Url::parse(text).is_ok_and(|url| url.scheme() == "https" || is_local(&url))
}

fn media(mut section: Section<'_>) -> Option<MediaSettings> {
    let a_store = "a directory such as ./media or file:///var/media, or a bucket such as s3://BUCKET/PREFIX";
    let url = section.parsed("url", a_store, |text| text.parse::<MediaUrl>().ok());
    let endpoint = section.parsed("endpoint", "an http or https URL without a query", base_url);
    let bytes_max = section.parsed("max_size", "a size such as 100MB, 1MB..1GB", size).unwrap_or_default();
    section.finish();
    url.map(|url| MediaSettings { url, endpoint, bytes_max })
}

/// The bytes of a size such as `100MB`, from 1 MB to 1 GB.
fn size(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let unit = match unit.trim() {
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    number.parse().ok().and_then(|n: u64| n.checked_mul(unit)).filter(|bytes| (1 << 20..=1 << 30).contains(bytes))
}

/// Reads the key `url` of a server. A URL with a password is a secret: in the file it must be a reference to a variable
/// or a file. `None` if there is a problem.
fn server_url<U: FromStr<Err: Display>>(section: &mut Section<'_>, has_password: fn(&U) -> bool) -> Option<U> {
    let variable = section.variable("url");
    let (is_table, by_environment) = section.kind_of("url");
    let text = match is_table {
        true => section.secret("url").map(|secret| secret.expose().to_owned()),
        false => Some(section.required("url")).filter(|text| !text.is_empty()),
    };
    // A URL from the environment may contain a password, so the rules for secrets apply to it. A `spawn:` path is
    // exempt, because it may contain a blank.
    let may_be_secret = text.as_ref().filter(|text| by_environment && !text.starts_with("spawn:"));
    if let Some(flaw) = may_be_secret.and_then(|text| Secret::new(text).flaw()) {
        section.problem("url", format!("(from {variable}) {flaw}"));
        return None;
    }
    match text?.parse::<U>() {
        Ok(url) => {
            if has_password(&url) && !is_table && !by_environment {
                section.problem(
                    "url",
                    format!(
                        "holds a password, which must not be written in this file: \
                         use {{ env = \"NAME\" }}, {{ file = \"PATH\" }} or {variable}"
                    ),
                );
            }
            Some(url)
        }
        Err(error) => {
            section.problem("url", error.to_string());
            None
        }
    }
}

fn graph(mut section: Section<'_>) -> GraphConfig {
    let config = GraphConfig {
        base_url: section.parsed("base_url", "an http or https URL without a query", base_url).unwrap_or_default(),
        version: section.parsed("version", "of the form v25.0", version).unwrap_or_default(),
        timeout: section.duration("timeout", "100ms..120s"),
        connect_timeout: section.duration("connect_timeout", "100ms..30s"),
        http2: section.parsed("http_version", "\"2\" or \"1.1\"", http_version).unwrap_or_default(),
        streams_max: section.integer("streams_max", 1..=256),
        ca: section.path("ca"),
    };
    section.finish();
    config
}

/// Whether `http_version` means HTTP/2.
fn http_version(text: &str) -> Option<bool> {
    match text {
        "2" => Some(true),
        "1.1" => Some(false),
        _ => None,
    }
}

fn base_url(text: &str) -> Option<String> {
    let url = reqwest::Url::parse(text).ok()?;
    let plain = url.query().is_none() && url.fragment().is_none() && url.has_host();
    (plain && matches!(url.scheme(), "http" | "https")).then(|| text.trim_end_matches('/').to_owned())
}

fn version(text: &str) -> Option<String> {
    let (major, minor) = text.strip_prefix('v')?.split_once('.')?;
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (number(major) && number(minor)).then(|| text.to_owned())
}

fn http(mut section: Section<'_>) -> HttpConfig {
    let config = HttpConfig {
        listen: section.address("listen"),
        api_keys: section.list("api_keys").into_iter().map(api_key).collect(),
        key_failures_per_minute: section.integer("key_failures_per_minute", NonZeroU32::MIN..=KEY_FAILURES_MAX),
        body_bytes_max: section.integer("body_bytes_max", 1024..=64 << 20),
        stall_timeout: section.duration("stall_timeout", "1s..10m"),
        header_bytes_max: section.integer("header_bytes_max", 1024..=64 << 10),
        header_timeout: section.duration("header_timeout", "1s..10m"),
        connections_max: section.integer("connections_max", 1..=65_536),
        tls: section.optional("tls").map(tls),
    };
    section.finish();
    config
}

/// The upper limit of `http.key_failures_per_minute`. At this value the throttle is practically off.
const KEY_FAILURES_MAX: NonZeroU32 = NonZeroU32::new(1_000_000).expect("a million is not 0");

fn api_key(mut section: Section<'_>) -> ApiKey {
    let scopes = section.words("scopes", &KeyScope::ALL.map(|scope| (scope.name(), scope)));
    let businesses = section.texts("businesses", "a list of ids of [[business]]");
    let businesses = businesses.map(|ids| ids.iter().map(|id| id.as_str().into()).collect());
    let key = ApiKey::new(section.required("name"), &section.required_secret("secret"));
    section.finish();
    ApiKey { scopes: scopes.unwrap_or(key.scopes), businesses, ..key }
}

fn tls(mut section: Section<'_>) -> TlsConfig {
    let config = TlsConfig { certificate: section.required_path("certificate"), key: section.required_path("key") };
    section.finish();
    config
}

fn ops(mut section: Section<'_>) -> OpsConfig {
    let config = OpsConfig { listen: section.address("listen") };
    section.finish();
    config
}

fn webhook(mut section: Section<'_>) -> WebhookConfig {
    let config = WebhookConfig {
        verify_token: section.secret("verify_token"),
        app_secret: section.secret("app_secret"),
        app_secret_previous: section.secret("app_secret_previous"),
        body_bytes_max: section.integer("body_bytes_max", 1024..=64 << 20),
        forward: section.list("forward").into_iter().map(forward).collect(),
    };
    section.finish();
    config
}

fn forward(mut section: Section<'_>) -> ForwardTarget {
    let target = ForwardTarget { id: section.plain_id("id"), endpoint: endpoint::read(&mut section) };
    section.finish();
    target
}

fn stop_words(sections: Vec<Section<'_>>) -> StopWords {
    const SCOPES: [(&str, SuppressionScope); 2] =
        [("marketing", SuppressionScope::Marketing), ("all", SuppressionScope::All)];
    let mut all: Vec<(String, SuppressionScope)> = Vec::new();
    for mut section in sections {
        // Required for readers of the file; the words of all languages apply to everybody.
        section.required("language");
        let words = section.texts("words", "a list of words or short sentences").unwrap_or_default();
        let scope = section.parsed("scope", "marketing or all", |text| {
            SCOPES.into_iter().find(|(name, _)| *name == text).map(|(_, scope)| scope)
        });
        let scope = scope.unwrap_or(SuppressionScope::Marketing);
        all.extend(words.into_iter().map(|word| (word, scope)));
        section.finish();
    }
    StopWords::new(all.iter().map(|(word, scope)| (word.as_str(), *scope)))
}

fn inbound(mut section: Section<'_>) -> InboundLimits {
    let limits = InboundLimits {
        retention: section.duration("retention", "1h..90d"),
        length_max: section.integer("length_max", 1_000..=100_000_000),
    };
    section.finish();
    limits
}

fn feed(mut section: Section<'_>) -> Option<FeedLimits> {
    let enabled = section.parsed("enabled", "true or false", |text| text.parse::<bool>().ok()).unwrap_or_default();
    let limits = FeedLimits {
        partitions: section.integer("partitions", NonZeroU16::MIN..=FEED_PARTITIONS_MAX),
        retention: section.duration("retention", "1m..30d"),
        length_max: section.integer("length_max", 1_000..=100_000_000),
    };
    section.finish();
    enabled.then_some(limits)
}

/// The upper limit of `feed.partitions`. Each is a duty of a worker.
const FEED_PARTITIONS_MAX: NonZeroU16 = NonZeroU16::new(64).expect("64 is not 0");

fn intake(mut section: Section<'_>) -> IntakeConfig {
    let config = IntakeConfig {
        recipients_max: section.integer("recipients_max", 1..=u64::from(u32::MAX)),
        memory_share_max: section
            .number("memory_share_max", "0.1..1", |share| (0.1..=1.0).contains(&share))
            .unwrap_or_default(),
    };
    section.finish();
    config
}

/// What `include` of a business must be.
const INCLUDE: &str = "a list of \"*\", ids of lines or WABAs, phone numbers with a plus, or verified names";

fn business(mut section: Section<'_>) -> BusinessConfig {
    let config = BusinessConfig {
        id: section.id("id").as_str().into(),
        frequency_cap: section.optional("frequency_cap").map(frequency_cap),
        include: section.texts("include", INCLUDE).unwrap_or_default(),
        access_token: section.secret("access_token"),
    };
    section.finish();
    config
}

fn frequency_cap(mut section: Section<'_>) -> FrequencyCap {
    let cap = FrequencyCap {
        messages: section.required_integer("messages", FrequencyCap::MESSAGES),
        days: section.required_integer("days", FrequencyCap::DAYS),
    };
    section.finish();
    cap
}

fn waba(mut section: Section<'_>) -> WabaConfig {
    let config = WabaConfig {
        id: section.id("id").as_str().into(),
        business: section.id("business").as_str().into(),
        access_token: section.required_secret("access_token"),
        marketing_api: section.parsed("marketing_api", "true or false", |text| text.parse().ok()).unwrap_or_default(),
    };
    section.finish();
    config
}

fn line(mut section: Section<'_>) -> LineConfig {
    let id = section.id("id");
    let config = LineConfig {
        waba: section.id("waba").as_str().into(),
        display: section.text("display").unwrap_or_else(|| id.clone()),
        name: section.text("name").unwrap_or_else(|| id.clone()),
        messages_per_second: section.number(
            "messages_per_second",
            &format!("{LINE_RATE_MIN} to {LINE_RATE_MAX}"),
            |rate| (LINE_RATE_MIN..=LINE_RATE_MAX).contains(&rate),
        ),
        warm_up: warm_up(&mut section),
        id: id.as_str().into(),
    };
    section.finish();
    config
}

/// The maximum number of days of a warm-up.
const WARM_UP_DAYS_MAX: usize = 365;

fn warm_up(section: &mut Section<'_>) -> Arc<[u32]> {
    let must = format!("a list of 1 to {WARM_UP_DAYS_MAX} whole numbers, each the messages of a day, 1..{}", u32::MAX);
    let Some(days) = section.texts("warm_up", &must) else { return Arc::default() };
    let shares: Option<Arc<[u32]>> = days.iter().map(|day| day.parse().ok().filter(|share| *share > 0)).collect();
    let valid = shares.filter(|shares| shares.len() <= WARM_UP_DAYS_MAX);
    valid.unwrap_or_else(|| {
        section.problem("warm_up", format!("({}) must be {must}", days.join(", ")));
        Arc::default()
    })
}

fn dispatch(mut section: Section<'_>) -> DispatchConfig {
    let config = DispatchConfig {
        headroom: section.number("headroom", "0..0.9", |share| (0.0..=0.9).contains(&share)).unwrap_or_default(),
        doubt_deadline: section.duration("doubt_deadline", "1s..24h"),
        lease: section.duration("lease", "3s..60s"),
        in_flight_max: section.integer("in_flight_max", 1..=10_000),
        threads: section.integer("threads", 1..=64),
        pair_spacing: section.duration("pair_spacing", "0s..60s"),
        templates_every: section.duration("templates_every", "10s..24h"),
        late_after: section.duration("late_after", "1m..24h"),
        retry: retry(section.section("retry")),
    };
    section.finish();
    config
}

fn retry(mut section: Section<'_>) -> RetryConfig {
    let config = RetryConfig {
        initial: section.duration("initial", "10ms..1h"),
        max: section.duration("max", "10ms..24h"),
        attempts: section.integer("attempts", 1..=15),
    };
    section.finish();
    config
}

fn shutdown(mut section: Section<'_>) -> ShutdownConfig {
    let config =
        ShutdownConfig { drain: section.duration("drain", "0s..5m"), grace: section.duration("grace", "1s..10m") };
    section.finish();
    config
}

fn log(mut section: Section<'_>) -> LogConfig {
    let config = LogConfig {
        format: section
            .parsed("format", "auto, text or json", |text| match text {
                "auto" => Some(LogFormat::Auto),
                "text" => Some(LogFormat::Text),
                "json" => Some(LogFormat::Json),
                _ => None,
            })
            .unwrap_or(LogFormat::Auto),
        level: section
            .parsed("level", "error, warn, info, debug, trace or a list such as info,pregon::dispatch=debug", |text| {
                is_log_level(text).then(|| text.to_owned())
            })
            .unwrap_or_default(),
    };
    section.finish();
    config
}

fn traces(mut section: Section<'_>) -> Option<TracesConfig> {
    let share = section.number("share", "a number, 0..1", |share| (0.0..=1.0).contains(&share)).unwrap_or_default();
    let headers = section.list("headers").into_iter().filter_map(header).collect();
    let has_endpoint = section.has("endpoint");
    let endpoint = section.parsed("endpoint", "an http or https URL without a query", base_url).unwrap_or_default();
    section.finish();
    has_endpoint.then_some(TracesConfig { endpoint, headers, share })
}

fn header(mut section: Section<'_>) -> Option<(HeaderName, HeaderValue)> {
    let name = section.given("name", "the name of a header", |text| text.parse().ok());
    let prefix = section.text("prefix").unwrap_or_default();
    let value: Option<HeaderValue> = format!("{prefix}{}", section.required_secret("value").expose()).parse().ok();
    if value.is_none() {
        section.problem("value", "must have only characters that a header can have: visible ASCII and blanks");
    }
    section.finish();
    let mut value = value?;
    value.set_sensitive(true);
    Some((name?, value))
}

/// Whether each directive of the list is a level, or a setting for a module. `EnvFilter` would accept a misspelt
/// level as the name of a module, and turn off all other logs.
fn is_log_level(text: &str) -> bool {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_level = |text: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text));
    let names_a_module = |directive: &str| directive.contains(['=', '[', ':']) || directive == "pregon";
    text.split(',').all(|directive| is_level(directive) || names_a_module(directive))
        && EnvFilter::try_new(text).is_ok()
}

/// Checks the relations between keys. A relation is skipped if one of its keys has a problem already.
fn check_relations(config: &Config, problems: &Findings) {
    let Config { redis, graph, dispatch, .. } = config;
    problems.relation(
        &["redis.timeout", "dispatch.lease"],
        redis.timeout * 3 <= dispatch.lease,
        format_args!(
            "({:?}) must be at most a third of dispatch.lease ({:?}), so that a failed renewal can be retried in \
             time: lower it, or raise dispatch.lease",
            redis.timeout, dispatch.lease
        ),
    );
    problems.relation(
        &["redis.url", "redis.ca", "redis.client_certificate"],
        redis.certificates.is_empty() || redis.url.uses_tls(),
        "must be a rediss URL if redis.ca or redis.client_certificate is set, which have no effect otherwise: write \
         rediss:// in front, or remove the certificates",
    );
    problems.relation(
        &["graph.connect_timeout", "graph.timeout"],
        graph.connect_timeout < graph.timeout,
        format_args!(
            "({:?}) must be less than graph.timeout ({:?}), which covers connecting and the response: lower \
             it, or raise graph.timeout",
            graph.connect_timeout, graph.timeout
        ),
    );
    problems.relation(
        &["dispatch.doubt_deadline", "graph.timeout"],
        dispatch.doubt_deadline > graph.timeout,
        format_args!(
            "({:?}) must be more than graph.timeout ({:?}), or a message could end as unknown before its response \
             arrives: raise it, or lower graph.timeout",
            dispatch.doubt_deadline, graph.timeout
        ),
    );
    problems.relation(
        &["dispatch.retry.max", "dispatch.retry.initial"],
        dispatch.retry.max >= dispatch.retry.initial,
        format_args!(
            "({:?}) must be at least dispatch.retry.initial ({:?}), from which the waits grow: raise it, or lower \
             dispatch.retry.initial",
            dispatch.retry.max, dispatch.retry.initial
        ),
    );
    problems.relation(
        &["shutdown.grace", "graph.timeout"],
        config.shutdown.grace >= graph.timeout,
        format_args!(
            "({:?}) must be at least graph.timeout ({:?}), or a clean stop could leave attempts in doubt: raise it, or lower \
             graph.timeout",
            config.shutdown.grace, graph.timeout
        ),
    );
    problems.relation(
        &["id_retention", "retention"],
        config.id_retention <= config.retention,
        "must be at most retention, for a message id leads to a recipient: lower it, or raise retention",
    );
    problems.relation(
        &["feed.retention", "retention"],
        config.feed.is_none_or(|feed| feed.retention <= config.retention),
        "must be at most retention, for an event names a recipient: lower it, or raise retention",
    );

    problems.relation(
        &["subscriber", "feed.enabled"],
        config.feed.is_some() || config.subscribers.is_empty(),
        "needs feed.enabled = true: without it there are no events to deliver",
    );

    check_unique(problems, "http.api_keys", "name", config.http.api_keys.iter().map(|key| key.name.as_str()));
    for (number, key) in config.http.api_keys.iter().enumerate() {
        let same = config.http.api_keys[..number].iter().find(|earlier| earlier.digest == key.digest);
        let name = same.map(|same| same.name.as_str()).unwrap_or_default();
        problems.relation(
            &[&format!("http.api_keys[{number}].secret")],
            same.is_none(),
            format_args!("is the same as that of {name}: give each caller a key of its own"),
        );
    }
    for (number, key) in config.http.api_keys.iter().enumerate() {
        for id in key.businesses.iter().flatten() {
            problems.relation(
                &[&format!("http.api_keys[{number}].businesses")],
                config.businesses.iter().any(|business| business.id == *id),
                format_args!("({id}) is the id of no [[business]]: list that one, or correct the id"),
            );
        }
    }
    check_unique(problems, "business", "id", config.businesses.iter().map(|business| business.id.as_str()));
    check_unique(problems, "waba", "id", config.wabas.iter().map(|waba| waba.id.as_str()));
    check_unique(problems, "webhook.forward", "id", config.webhook.forward.iter().map(|target| target.id.as_str()));
    check_unique(problems, "subscriber", "id", config.subscribers.iter().map(|subscriber| subscriber.id.as_str()));
    check_unique(problems, "line", "id", config.lines.iter().map(|line| line.id.as_str()));

    for (number, business) in config.businesses.iter().enumerate() {
        let (include, token) = (format!("business[{number}].include"), format!("business[{number}].access_token"));
        problems.relation(
            &[&include, &token],
            business.include.is_empty() || business.access_token.is_some(),
            "needs the access_token of the business, with which Meta is asked for its lines: add it",
        );
        problems.relation(
            &[&token, &include],
            business.access_token.is_none() || !business.include.is_empty(),
            "is for the lines that `include` chooses, and there is none: add it, or remove the token",
        );
    }
    for (number, waba) in config.wabas.iter().enumerate() {
        let exists = config.businesses.iter().any(|business| business.id == waba.business);
        problems.relation(
            &[&format!("waba[{number}].business")],
            exists,
            format_args!("({}) is the id of no [[business]]: list that one, or correct the id", waba.business),
        );
    }
    for (number, line) in config.lines.iter().enumerate() {
        let exists = config.wabas.iter().any(|waba| waba.id == line.waba);
        problems.relation(
            &[&format!("line[{number}].waba")],
            exists,
            format_args!("({}) is the id of no [[waba]]: list that one, or correct the id", line.waba),
        );
    }
}

/// Reports each entry of a list that has the same `key` as an earlier one.
fn check_unique<'a>(problems: &Findings, list: &str, key: &str, values: impl Iterator<Item = &'a str>) {
    let mut seen = HashSet::new();
    for (number, value) in values.enumerate() {
        let name = format!("{list}[{number}].{key}");
        problems.relation(
            &[&name],
            seen.insert(value),
            format_args!("({value}) occurs twice: remove one, or correct it"),
        );
    }
}
