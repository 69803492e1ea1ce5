use super::*;
use crate::{
    domain::{EventType, FrequencyCap, LINE_RATE_MAX, LINE_RATE_MIN},
    telemetry::logging::LogFormat,
};

/// A complete configuration. Its secrets are the variables `A`, `B`, `C` and `K`.
const INSTALLATION: &str = r#"
http.api_keys = [{ name = "backend", secret = { env = "K" } }]
webhook = { verify_token = { env = "A" }, app_secret = { env = "B" } }
[[business]]
id = "1001"
frequency_cap = { messages = 2, days = 7 }
[[waba]]
id = "2001"
business = "1001"
access_token = { env = "C" }
marketing_api = true
[[line]]
id = "3001"
waba = "2001"
display = "+54 9 11 5555 0001"
name = "sales"
messages_per_second = 80
[[line]]
id = 3002
waba = 2001
warm_up = [50, 100]
"#;

fn environment(of: &[(&str, &str)]) -> HashMap<String, String> {
    of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn secrets() -> HashMap<String, String> {
    environment(&[("A", "verify"), ("B", "app"), ("C", "EAAG"), ("K", "key")])
}

fn overridden(text: &str, overrides: &[(&str, &str)]) -> Result<Config, ConfigError> {
    in_folder(Path::new(""), text, overrides)
}

/// The configuration of a file with this text in `folder`.
fn in_folder(folder: &Path, text: &str, overrides: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let surroundings = Surroundings { environment: &secrets(), folder };
    read::config("pregon.toml", text, &environment(overrides), surroundings)
}

/// The configuration of this text, whose secrets are in `environment`.
fn with_variables(text: &str, environment: &HashMap<String, String>) -> Result<Config, ConfigError> {
    read::config("test", text, &HashMap::new(), Surroundings { environment, folder: Path::new("") })
}

fn problems(text: &str) -> Vec<String> {
    overridden(text, &[]).expect_err("a configuration with a problem").problems
}

/// The only problem of `text`.
fn problem(text: &str) -> String {
    let mut problems = problems(text);
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.remove(0)
}

#[test]
fn the_defaults_are_valid_and_configure_no_line_or_key() {
    let config = Config::from_toml("").expect("the compiled defaults");
    assert_eq!(config.redis.url, RedisUrl::Server("redis://127.0.0.1:6379".into()));
    assert_eq!(config.redis.namespace, "pregon");
    assert_eq!(config.graph.base_url, "https://graph.facebook.com");
    assert_eq!(config.graph.version, "v25.0");
    assert_eq!(config.http.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(config.ops.listen.to_string(), "0.0.0.0:9464");
    assert_eq!(config.dispatch.headroom, 0.1);
    assert_eq!(config.dispatch.doubt_deadline, Duration::from_secs(600));
    assert_eq!(config.dispatch.lease, Duration::from_secs(10));
    assert_eq!(config.retention, Duration::from_secs(30 * 86_400));
    assert_eq!(config.id_retention, Duration::from_secs(8 * 86_400));
    assert_eq!(config.redis.start_timeout, None);
    assert!(config.database.is_none());
    assert_eq!(config.intake.memory_share_max, 0.85);
    assert_eq!(config.shutdown.drain, Duration::from_secs(5));
    assert_eq!(config.shutdown.grace, Duration::from_secs(22));
    assert_eq!(config.log.format, LogFormat::Auto);
    assert!(config.businesses.is_empty() && config.wabas.is_empty() && config.lines.is_empty());
    assert!(config.http.api_keys.is_empty() && config.webhook.verify_token.is_none());
}

#[test]
fn the_commented_examples_in_the_defaults_are_valid() {
    let secrets = [
        "PREGON_API_KEY",
        "PREGON_VERIFY_TOKEN",
        "PREGON_APP_SECRET",
        "PREGON_APP_SECRET_PREVIOUS",
        "PREGON_TOKEN_1001",
        "PREGON_TOKEN_2001",
        "PREGON_OTLP_TOKEN",
        "PREGON_OIDC_SECRET",
    ];
    let webhook_secrets = ["PREGON_CRM_SECRET", "PREGON_CRM_SECRET_OLD"];
    let environment = secrets
        .map(|name| (name.to_owned(), "x".to_owned()))
        .into_iter()
        .chain(webhook_secrets.map(|name| (name.to_owned(), format!("whsec_{}", "A".repeat(43)))))
        .collect();
    let example: String = DEFAULTS
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| line.starts_with("[[") || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')))
        .map(|line| match line.split_once(" = ") {
            Some((key @ ("verify_token" | "app_secret" | "app_secret_previous"), value)) => {
                format!("webhook.{key} = {value}\n")
            }
            Some(("file", value)) => format!("[prices]\nfile = {value}\n"),
            Some(("url", value)) if value.contains("postgres") => format!("database.url = {value}\n"),
            Some(("url", value)) if value.contains("./media") => format!("media.url = {value}\n"),
            Some(("endpoint", value)) if value.contains("storage") => format!("media.endpoint = {value}\n"),
            // `headers` follows.
            Some(("endpoint", value)) => format!("[traces]\nendpoint = {value}\n"),
            Some((key, value)) if key.starts_with("oidc.") => format!("agents.{key} = {value}\n"),
            Some(("silence", value)) => format!("agents.silence = {value}\n"),
            Some(("keep_messages", value)) => format!("database.keep_messages = {value}\n"),
            Some((key @ ("api_keys" | "tls"), value)) => format!("http.{key} = {value}\n"),
            Some(("ca", value)) if value.contains("graph") => format!("graph.ca = {value}\n"),
            Some((key @ ("ca" | "client_certificate" | "client_key" | "start_timeout"), value)) => {
                format!("redis.{key} = {value}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let example = format!("redis.url = \"rediss://redis\"\n{example}");
    let surroundings = Surroundings { environment: &environment, folder: Path::new("config") };
    let config = read::config("example", &example, &HashMap::new(), surroundings).expect("the commented examples");
    assert_eq!(config.lines[0].name, "sales");
    assert!(config.http.tls.is_some() && config.media.as_ref().is_some_and(|media| media.endpoint.is_some()));
    assert!(config.traces.as_ref().is_some_and(|traces| !traces.headers.is_empty()));
    assert_eq!(config.agents.oidc.as_ref().map(|oidc| oidc.label.as_str()), Some("Google"));
    assert!(config.contact_hours.by_name("co").is_some());
    assert_eq!(config.http.api_keys[0].scopes, [KeyScope::Read, KeyScope::Submit]);
    assert_eq!(config.subscribers[0].types(), [EventType::RecipientRead, EventType::RecipientFailed]);
    assert_eq!(config.check_roles(&[Role::Api, Role::Webhook, Role::Dispatch]), Ok(()));
}

#[test]
fn every_key_of_the_defaults_has_a_comment() {
    let mut previous = "";
    for line in DEFAULTS.lines() {
        if line.contains(" = ") && !line.starts_with('#') {
            assert!(previous.starts_with("# "), "{line} has no comment above it");
        }
        previous = line;
    }
}

#[test]
fn a_complete_configuration_is_read() {
    let config = overridden(INSTALLATION, &[]).expect("a good configuration");
    assert_eq!(config.http.api_keys[0].digest, SecretDigest::of("key"));
    assert_eq!(config.http.api_keys[0].scopes, KeyScope::ALL, "a key without scopes may do everything");
    assert_eq!(config.webhook.app_secret, Some(Secret::new("app")));
    assert_eq!(config.businesses[0].frequency_cap, Some(FrequencyCap { messages: 2, days: 7 }));
    assert_eq!(config.wabas[0].business, "1001".into());
    assert_eq!((config.wabas[0].access_token.expose(), config.wabas[0].marketing_api), ("EAAG", true));
    let [sales, plain] = &config.lines[..] else { panic!("{:?}", config.lines) };
    assert_eq!((sales.name.as_str(), sales.display.as_str()), ("sales", "+54 9 11 5555 0001"));
    assert_eq!((plain.id.as_str(), plain.waba.as_str(), plain.name.as_str()), ("3002", "2001", "3002"));
    assert_eq!((sales.messages_per_second, plain.messages_per_second), (Some(80.0), None));
    assert_eq!((&*sales.warm_up, &*plain.warm_up), ([].as_slice(), [50, 100].as_slice()));
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
    let text = format!("[redis]\nurl = \"redis://file:1\"\nnamespace = \"file\"\n{INSTALLATION}");
    let text = text.replace("http.api_keys", "[http]\napi_keys").replace("webhook = {", "[webhook]\n#");
    let config = overridden(
        &text,
        &[
            ("PREGON__REDIS__URL", "redis://environment:1"),
            ("PREGON__DISPATCH__RETRY__ATTEMPTS", "3"),
            ("PREGON__DISPATCH__HEADROOM", "0.25"),
            ("PREGON__RETENTION", "60d"),
            ("PREGON__LINE__1__MESSAGES_PER_SECOND", "0.5"),
            ("PREGON__WEBHOOK__APP_SECRET__ENV", "B"),
            ("PREGON_API_KEY", "no override: one underscore"),
        ],
    )
    .expect("a good configuration");
    assert_eq!(config.redis.url, RedisUrl::Server("redis://environment:1".into()));
    assert_eq!(config.redis.namespace, "file");
    assert_eq!(config.redis.pool, 8);
    assert_eq!(config.dispatch.retry.attempts, 3);
    assert_eq!(config.dispatch.headroom, 0.25);
    assert_eq!(config.retention, Duration::from_secs(60 * 86_400));
    assert_eq!(config.lines[0].messages_per_second, Some(80.0));
    assert_eq!(config.lines[1].messages_per_second, Some(0.5));
    assert_eq!(config.webhook.app_secret, Some(Secret::new("app")));
}

#[test]
fn all_problems_are_reported_together() {
    let text = r#"
        colour = "red"
        [redis]
        namespace = "Two words"
        [dispatch]
        lease = "1s"
        leese = "10s"
        threads = 1.5
        [[line]]
        id = "3001"
        waba = "2009"
        messages_per_second = 0
    "#;
    let error = overridden(text, &[("PREGON__DISPATCH__HEADROOM", "1.5")]).expect_err("eight problems");
    assert_eq!(
        error.to_string(),
        "config: 8 problems\n  \
        redis.namespace (Two words) must be 1 to 32 of a-z, 0-9, - and _\n  \
         line[0].messages_per_second (0) must be 0.01 to 1000000\n  \
         dispatch.headroom (1.5, from PREGON__DISPATCH__HEADROOM) must be 0..0.9\n  \
         dispatch.lease (1s) must be a duration, 3s..60s\n  \
         dispatch.threads (1.5) must be a whole number, 1..64\n  \
         dispatch.leese is not a key; the keys here are headroom, doubt_deadline, lease, in_flight_max, threads, \
         pair_spacing, templates_every, late_after, retry\n  \
         colour is not a key; the keys here are retention, id_retention, redis, database, agents, media, graph, http, ops, webhook, inbound, stop_words, contact_hours, feed, subscriber, \
         intake, prices, business, waba, line, dispatch, shutdown, log, traces\n  \
         line[0].waba (2009) is the id of no [[waba]]: list that one, or correct the id"
    );
}

#[test]
fn files_are_stored_only_where_the_configuration_says() {
    assert!(overridden(INSTALLATION, &[]).expect("no store").media.is_none());
    let config = overridden(INSTALLATION, &[("PREGON__MEDIA__URL", "s3://files/chats")]).expect("a bucket");
    let media = config.media.expect("a store");
    assert_eq!((media.url.to_string().as_str(), media.bytes_max), ("s3://files/chats", 100 << 20));
    for (key, bad) in [("URL", "gs://files"), ("MAX_SIZE", "100"), ("MAX_SIZE", "2GB"), ("ENDPOINT", "minio:9000")] {
        let error = overridden(INSTALLATION, &[(&format!("PREGON__MEDIA__{key}"), bad)]).expect_err(bad);
        assert!(error.problems[0].contains(bad), "{error}");
    }
}

#[test]
fn a_rate_must_be_within_the_limits_of_the_limiter() {
    for bad in ["1e-11", "0.009", "1000001", "inf", "nan"] {
        let error = overridden(INSTALLATION, &[("PREGON__LINE__0__MESSAGES_PER_SECOND", bad)]).expect_err(bad);
        assert!(error.problems[0].ends_with("must be 0.01 to 1000000"), "{error}");
    }
    for (good, rate) in [("0.01", LINE_RATE_MIN), ("1000000", LINE_RATE_MAX)] {
        let config = overridden(INSTALLATION, &[("PREGON__LINE__0__MESSAGES_PER_SECOND", good)]).expect(good);
        assert_eq!(config.lines[0].messages_per_second, Some(rate));
    }
}

#[test]
fn a_warm_up_is_a_list_of_messages_per_day() {
    let config = overridden(INSTALLATION, &[("PREGON__LINE__0__WARM_UP", "250, 1000")]).expect("two days");
    assert_eq!(*config.lines[0].warm_up, [250, 1_000]);
    for bad in ["0", "50,0", "1.5", "many", "-1", "4294967296", ""] {
        let error = overridden(INSTALLATION, &[("PREGON__LINE__0__WARM_UP", bad)]).expect_err(bad);
        assert!(error.problems[0].starts_with("line[0].warm_up ("), "{error}");
    }
}

#[test]
fn a_misspelt_log_level_is_refused() {
    for bad in ["warning", "wran", "verbose", "info,loud", "pregon=loud", ""] {
        let error = overridden(INSTALLATION, &[("PREGON__LOG__LEVEL", bad)]).expect_err(bad);
        assert!(error.problems[0].starts_with("log.level"), "{error}");
    }
    for good in
        ["off", "WARN", "info,pregon::dispatch=debug", "pregon=debug", "warn,hyper=error", "info,pregon[x]=trace"]
    {
        overridden(INSTALLATION, &[("PREGON__LOG__LEVEL", good)]).expect(good);
    }
}

#[test]
fn traces_have_a_collector_a_share_and_headers() {
    assert!(overridden(INSTALLATION, &[]).expect("the defaults").traces.is_none(), "nothing is traced by default");
    let text = "[traces]\nendpoint = \"http://c:4318/\"\nshare = 0.5\n\
        headers = [{ name = \"Authorization\", prefix = \"Bearer \", value = { env = \"C\" } }]";
    let traces = overridden(&format!("{INSTALLATION}\n{text}"), &[]).expect("traces").traces.expect("traces");
    assert_eq!((traces.endpoint.as_str(), traces.share), ("http://c:4318", 0.5));
    assert!(traces.headers["authorization"].to_str().is_ok_and(|value| value.starts_with("Bearer ")));
    assert!(!format!("{traces:?}").contains("Bearer"), "{traces:?}");
    for (bad, key) in [
        ("endpoint = \"c:4318\"", "traces.endpoint"),
        ("share = 1.5", "traces.share"),
        ("headers = [{ name = \"a b\", value = { env = \"C\" } }]", "traces.headers[0].name"),
    ] {
        let error = overridden(&format!("{INSTALLATION}\n[traces]\n{bad}"), &[]).expect_err(bad);
        assert!(error.problems[0].starts_with(key), "{error}");
    }
}

#[test]
fn a_duration_needs_a_unit() {
    for (bare, unit) in [("10", "10s"), ("\"10\"", "10s"), ("1.5", "1.5s"), ("\" 10 \"", "10s")] {
        let sentence = problem(&format!("[dispatch]\nlease = {bare}"));
        assert!(sentence.starts_with("dispatch.lease ("), "{sentence}");
        assert!(sentence.ends_with(&format!(" must have a unit, such as \"{unit}\"")), "{sentence}");
    }
    for bad in ["soon", "-10s", "1 month", "", "61s"] {
        assert_eq!(
            problem(&format!("[dispatch]\nlease = {bad:?}")),
            format!("dispatch.lease ({bad}) must be a duration, 3s..60s")
        );
    }
    let config = Config::from_toml("[dispatch]\nlease = \"7500ms\"\ndoubt_deadline = \"1h 30m\"").expect("good");
    assert_eq!(config.dispatch.lease, Duration::from_millis(7500));
    assert_eq!(config.dispatch.doubt_deadline, Duration::from_secs(5400));
}

#[test]
fn a_secret_in_the_file_is_refused_and_not_repeated() {
    let sentence = problem("[webhook]\napp_secret = \"hunter2\"");
    assert!(sentence.starts_with("webhook.app_secret is a secret and must not be written here"), "{sentence}");
    assert!(sentence.contains("{ env = \"NAME\" } or { file = \"PATH\" }"), "{sentence}");
    assert!(!sentence.contains("hunter2"), "{sentence}");

    let sentence = problem("[redis]\nurl = \"redis://:hunter2@redis:6379\"");
    assert!(sentence.starts_with("redis.url holds a password"), "{sentence}");
    assert!(!sentence.contains("hunter2"), "{sentence}");
}

#[test]
fn a_redis_password_from_the_environment_is_not_printed() {
    let url = "redis://user:hunter2@redis:6379/3";
    let by_override = overridden("", &[("PREGON__REDIS__URL", url)]).expect("a URL by override");
    let by_name = with_variables("[redis]\nurl = { env = \"URL\" }", &environment(&[("URL", url)]))
        .expect("a URL by name of its variable");
    for config in [by_override, by_name] {
        assert_eq!(config.redis.url, RedisUrl::Server(url.into()));
        let printed = format!("{:?} {}", config.redis, config.redis.url);
        assert!(printed.contains("redis:6379") && !printed.contains("hunter2"), "{printed}");
    }
}

#[test]
fn a_secret_is_read_from_a_file_without_its_line_break() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), "s3cret\r\n").expect("written");
    let text = format!("[webhook]\napp_secret = {{ file = {:?} }}", file.path());
    let config = Config::from_toml(&text).expect("a secret in a file");
    assert_eq!(config.webhook.app_secret, Some(Secret::new("s3cret")));
    assert!(!format!("{config:?}").contains("s3cret"));

    fs::write(file.path(), "two\nlines\n").expect("written");
    let sentence = format!(
        "webhook.app_secret (file {}) contains a line break or another control character: write only the secret, on \
        one line",
        file.path().display()
    );
    assert_eq!(problem(&text), sentence);

    // UTF-16, as PowerShell writes it.
    fs::write(file.path(), b"\xff\xfes\x003\x00").expect("written");
    assert!(
        problem(&text).ends_with(") is not UTF-8 text: save it as UTF-8 without a byte order mark"),
        "{}",
        problem(&text)
    );
}

#[test]
fn a_malformed_secret_is_reported_with_its_source() {
    for (text, flaw) in [
        ("\u{feff}hunter2", "begins with a byte order mark: save it as UTF-8 without one"),
        ("hunter2 ", "contains a blank or an invisible character: write the secret without it"),
        ("hunter2\n", "contains a line break or another control character: write only the secret, on one line"),
        ("'hunter2'", "has quotes around it: write the secret without them"),
        ("", "is empty: put the secret there"),
    ] {
        let environment = environment(&[("X", text)]);
        let problems = |file: &str| with_variables(file, &environment).expect_err("a flaw").problems.join("\n");
        for (key, file) in [
            ("webhook.app_secret", "webhook.app_secret = { env = \"X\" }"),
            ("webhook.app_secret_previous", "webhook.app_secret_previous = { env = \"X\" }"),
            ("webhook.verify_token", "webhook.verify_token = { env = \"X\" }"),
            ("http.api_keys[0].secret", "http.api_keys = [{ name = \"k\", secret = { env = \"X\" } }]"),
            (
                "waba[0].access_token",
                "business = [{ id = 1 }]\nwaba = [{ id = 2, business = 1, access_token = { env = \"X\" } }]",
            ),
            ("redis.url", "redis.url = { env = \"X\" }"),
        ] {
            assert_eq!(problems(file), format!("{key} (environment variable X) {flaw}"));
        }
    }
    for url in ["redis://:hunter2@redis:6379\n", " redis://:hunter2@redis:6379", "\u{feff}redis://:hunter2@redis:6379"]
    {
        let error = overridden("", &[("PREGON__REDIS__URL", url)]).expect_err("a flaw").to_string();
        assert!(error.contains("redis.url (from PREGON__REDIS__URL) ") && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_missing_secret_is_a_problem() {
    assert_eq!(
        problem("[webhook]\napp_secret = { env = \"NOT_SET\" }"),
        "webhook.app_secret needs the environment variable NOT_SET, which is not set: set it to the secret"
    );
    let sentence = problem("[webhook]\napp_secret = { file = \"/nowhere/secret\" }");
    assert!(
        sentence.starts_with("webhook.app_secret needs the file /nowhere/secret, which cannot be read: "),
        "{sentence}"
    );
    assert_eq!(
        problem("[webhook]\napp_secret = { env = \"A\", file = \"b\" }"),
        "webhook.app_secret must be one of { env = \"NAME\" } and { file = \"PATH\" }"
    );
    assert_eq!(
        problems("[[business]]\nid = \"1\"\n[[waba]]\nid = \"2\"\nbusiness = \"1\""),
        ["waba[0].access_token must be given, as { env = \"NAME\" } or { file = \"PATH\" }"]
    );
}

#[test]
fn the_scopes_of_an_api_key_are_read_from_a_list_or_text() {
    let scopes = |text: &str| {
        let key = format!("http.api_keys = [{{ name = \"k\", secret = {{ env = \"K\" }}, scopes = {text} }}]");
        overridden(&key, &[]).map(|config| config.http.api_keys[0].scopes.clone())
    };
    assert_eq!(scopes("[\"read\"]"), Ok(vec![KeyScope::Read]));
    assert_eq!(scopes("[\"operate\", \"submit\"]"), Ok(vec![KeyScope::Operate, KeyScope::Submit]));
    assert_eq!(scopes("\"read, submit\""), Ok(vec![KeyScope::Read, KeyScope::Submit]));
    for (bad, shown) in [("[]", ""), ("[\"read\", \"root\"]", "read, root"), ("3", ""), ("\"\"", "")] {
        assert_eq!(
            scopes(bad).expect_err("a problem").problems,
            [format!(
                "http.api_keys[0].scopes ({shown}) must be a list of read, submit, operate, contacts, chats, admin"
            )]
        );
    }
}

#[test]
fn an_api_key_is_limited_to_configured_businesses() {
    let businesses = |text: &str| {
        let key = format!("http.api_keys = [{{ name = \"k\", secret = {{ env = \"K\" }}, businesses = {text} }}]");
        let key = format!("{key}\nbusiness = [{{ id = 1001 }}, {{ id = 1002 }}]");
        overridden(&key, &[]).map(|config| config.http.api_keys[0].businesses.clone())
    };
    let ids = |ids: &[&str]| Ok(Some(ids.iter().map(|id| BusinessId::from(*id)).collect()));
    assert_eq!(businesses("[\"1001\"]"), ids(&["1001"]));
    assert_eq!(businesses("[1001, 1002]"), ids(&["1001", "1002"]));
    assert_eq!(businesses("\"1001, 1002\""), ids(&["1001", "1002"]));
    for (bad, problem) in [
        ("[]", "() must be a list of ids of [[business]]"),
        ("\"\"", "() must be a list of ids of [[business]]"),
        ("{}", "() must be a list of ids of [[business]]"),
        ("[\"1001\", \"1003\"]", "(1003) is the id of no [[business]]: list that one, or correct the id"),
    ] {
        let problems = businesses(bad).expect_err("a problem").problems;
        assert_eq!(problems, [format!("http.api_keys[0].businesses {problem}")], "{bad}");
    }
}

#[test]
fn two_api_keys_with_the_same_secret_are_a_problem() {
    let text = r#"http.api_keys = [
        { name = "a", secret = { env = "K" } }, { name = "b", secret = { env = "K" }, scopes = ["read"] }
    ]"#;
    assert_eq!(problem(text), "http.api_keys[1].secret is the same as that of a: give each caller a key of its own");
}

#[test]
fn every_form_of_redis_url_is_accepted() {
    let of = |url: &str| format!("[redis]\nurl = {url:?}");
    for (url, shown) in [
        ("rediss://redis", "redis at redis:6379"),
        ("redis+cluster://h1,h2:7000", "redis cluster at h1:6379, h2:7000"),
        ("rediss+sentinel://h1,h2/main", "redis service main of the sentinels at h1:26379, h2:26379"),
    ] {
        let config = Config::from_toml(&of(url)).expect("a kind of Redis");
        assert_eq!((&config.redis.url, config.redis.url.to_string().as_str()), (&RedisUrl::Server(url.into()), shown));
    }
    for url in ["http://redis", "redis:6379", "spawn:", "redis://"] {
        let found = problems(&of(url));
        assert!(found[0].starts_with("redis.url is not of the form"), "{url}: {found:?}");
    }
    assert!(problem(&of("redis+sentinel://h1,h2")).starts_with("redis.url names no service"));
    let config = Config::from_toml(&of("spawn:./data")).expect("a private server");
    assert_eq!(config.redis.url, RedisUrl::Spawn("./data".into()));
}

#[test]
fn redis_certificates_need_a_tls_url() {
    let config = Config::from_toml("[redis]\nurl = \"rediss://h\"\nca = \"/etc/ca.pem\"").expect("an authority");
    assert_eq!(config.redis.certificates, Certificates { ca: Some("/etc/ca.pem".into()), client: None });
    assert!(problem("[redis]\nca = \"/etc/ca.pem\"").starts_with("redis.url must be a rediss URL"));
    let sentence = problem("[redis]\nurl = \"rediss://h\"\nclient_certificate = \"/c.pem\"");
    assert_eq!(
        sentence,
        "redis.client_certificate must be given together with redis.client_key: give both, or neither"
    );
}

#[test]
fn relations_between_keys_are_checked() {
    for (text, sentence) in [
        ("[redis]\ntimeout = \"4s\"", "redis.timeout (4s) must be at most a third of dispatch.lease (10s), "),
        ("[graph]\nconnect_timeout = \"25s\"", "graph.connect_timeout (25s) must be less than graph.timeout (20s), "),
        ("[graph]\nconnect_timeout = \"20s\"", "graph.connect_timeout (20s) must be less than graph.timeout (20s), "),
        (
            "[dispatch]\ndoubt_deadline = \"20s\"",
            "dispatch.doubt_deadline (20s) must be more than graph.timeout (20s), ",
        ),
        ("[dispatch.retry]\nmax = \"1s\"", "dispatch.retry.max (1s) must be at least dispatch.retry.initial ("),
        ("[shutdown]\ngrace = \"5s\"", "shutdown.grace (5s) must be at least graph.timeout (20s), "),
        ("retention = \"1d\"", "id_retention must be at most retention"),
    ] {
        assert!(problem(text).starts_with(sentence), "{}", problem(text));
    }
}

#[test]
fn relations_skip_keys_that_have_a_problem() {
    assert_eq!(problems("[dispatch]\nlease = \"1s\"").len(), 1);
    assert_eq!(problem("dispatch = 3"), "dispatch must be a table, written as [dispatch]");
    assert_eq!(problem("line = 3"), "line must be a list of tables, each written as [[line]]");
}

#[test]
fn ids_must_be_unique_and_refer_to_existing_entries() {
    let text = r#"
        business = [{ id = "1" }, { id = "1" }]
        waba = [{ id = "2", business = "9", access_token = { env = "C" } }]
        line = [{ id = "3", waba = "2" }, { id = "3", waba = "8" }, { waba = "2" }, { id = "4 {x}", waba = "2" }]
    "#;
    assert_eq!(
        problems(text),
        [
            "line[2].id must be given, in the file or as the environment variable PREGON__LINE__2__ID",
            "line[3].id (4 {x}) must be of digits, letters, - and _",
            "business[1].id (1) occurs twice: remove one, or correct it",
            "line[1].id (3) occurs twice: remove one, or correct it",
            "waba[0].business (9) is the id of no [[business]]: list that one, or correct the id",
            "line[1].waba (8) is the id of no [[waba]]: list that one, or correct the id",
        ]
    );
}

#[test]
fn an_include_needs_the_token_of_its_business() {
    let token = "access_token = { env = \"C\" }";
    let of = |keys: &str| overridden(&format!("[[business]]\nid = \"1\"\n{keys}"), &[]);
    let config = of(&format!("include = [\"*\", 3001]\n{token}")).expect("a good configuration");
    assert_eq!(config.businesses[0].include, ["*", "3001"]);
    assert_eq!(config.businesses[0].access_token, Some(Secret::new("EAAG")));
    assert!(config.check_roles(&[Role::Dispatch]).is_ok(), "it needs no line");
    let key = "business[0]";
    for (keys, problem) in [
        (
            "include = [\"*\"]",
            format!("{key}.include needs the access_token of the business, with which Meta is asked"),
        ),
        (token, format!("{key}.access_token is for the lines that `include` chooses, and there is none")),
        ("include = []", format!("{key}.include () must be a list of")),
    ] {
        let problems = of(keys).expect_err("a problem").problems;
        assert!(problems.len() == 1 && problems[0].starts_with(&problem), "{problems:?}");
    }
}

#[test]
fn a_frequency_cap_needs_both_numbers_within_their_ranges() {
    let of = |cap: &str| problems(&format!("business = [{{ id = \"1\", frequency_cap = {cap} }}]"));
    let key = "business[0].frequency_cap";
    assert_eq!(of("{ messages = 2 }"), [format!("{key}.days must be given: a whole number, 1..30")]);
    let ranges = ["messages (21) must be a whole number, 1..20", "days (0) must be a whole number, 1..30"];
    assert_eq!(of("{ messages = 21, days = 0 }"), ranges.map(|range| format!("{key}.{range}")));
    assert_eq!(
        of("3"),
        [
            format!("{key} must be a table, written as [{key}]"),
            format!("{key}.messages must be given: a whole number, 1..20"),
            format!("{key}.days must be given: a whole number, 1..30"),
        ]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_one_problem() {
    let error = Config::load(Some(Path::new("/nowhere/pregon.toml"))).expect_err("no file");
    assert!(error.to_string().starts_with("config: 1 problem\n  /nowhere/pregon.toml: "), "{error}");
    let sentence = error.to_string();
    assert!(sentence.ends_with("name your file with --config or PREGON_CONFIG"), "{sentence}");
    let with_bom = Config::from_toml("\u{feff}[dispatch]\nlease = \"12s\"").expect("a byte order mark is skipped");
    assert_eq!(with_bom.dispatch.lease, Duration::from_secs(12));
    let sentence = problem("[redis\nurl = 3");
    assert!(sentence.starts_with("pregon.toml: TOML parse error at line 1"), "{sentence}");
    let error = overridden("", &[("PREGON__", "x")]).expect_err("no key");
    assert_eq!(error.problems, ["PREGON__ names no key: write it such as PREGON__REDIS__URL for redis.url"]);
}

#[test]
fn all_settings_that_a_role_lacks_are_reported() {
    let config = Config::from_toml("").expect("the defaults");
    let error = config.check_roles(&[Role::Api, Role::Webhook, Role::Dispatch]).expect_err("nothing is configured");
    assert_eq!(error.problems.len(), 4, "{error}");
    let error = config.check_roles(&[Role::Webhook]).expect_err("no secrets");
    let [verify_token, app_secret] = &error.problems[..] else { panic!("{error}") };
    assert!(
        verify_token.starts_with("webhook.verify_token is needed for the role webhook: a word of your own"),
        "{error}"
    );
    assert!(app_secret.starts_with("webhook.app_secret is needed for the role webhook: the one in Meta's"), "{error}");
    assert_eq!(overridden(INSTALLATION, &[]).expect("good").check_roles(&[Role::Api, Role::Dispatch]), Ok(()));
}

const SUBSCRIBER: &str = r#"
    [[subscriber]]
    id = "crm"
    url = "https://backend.example/hook?token=hunter2"
    secret = { env = "WHSEC" }
"#;

fn subscribers(text: &str) -> Result<Vec<Subscriber>, ConfigError> {
    let (key, url) = (format!("whsec_{}", "A".repeat(43)), "https://user:hunter2@backend.example/hook");
    let environment = environment(&[("WHSEC", &key), ("SHORT", "whsec_hunter2A"), ("URL", url)]);
    with_variables(text, &environment).map(|config| config.subscribers)
}

#[test]
fn a_subscriber_has_defaults() {
    let subscribers = subscribers(SUBSCRIBER).expect("good");
    let [crm] = &subscribers[..] else { panic!("{subscribers:?}") };
    assert_eq!((crm.id.as_str(), crm.keys.len(), crm.batch, crm.endpoint.allow_private), ("crm", 1, 1, false));
    assert_eq!((crm.types(), crm.disable_after), (EventType::ALL, Duration::from_secs(3 * 86_400)));
    assert!(!format!("{crm:?}").contains("hunter2"), "{crm:?}");
    let more = format!("{SUBSCRIBER}secret_previous = {{ env = \"WHSEC\" }}\nbatch = 100\ndisable_after = \"1m\"");
    let [crm] = &self::subscribers(&more).expect("good")[..] else { panic!("one") };
    assert_eq!((crm.keys.len(), crm.batch, crm.disable_after), (2, 100, Duration::from_secs(60)));
}

#[test]
fn a_subscriber_with_a_private_address_needs_allow_private() {
    for url in ["https://127.0.0.1/", "https://10.1/", "https://[::ffff:127.0.0.1]/", "http://backend.example/"] {
        let text = SUBSCRIBER.replace("https://backend.example/hook?token=hunter2", url);
        let error = subscribers(&text).expect_err(url);
        assert!(error.problems[0].starts_with("subscriber[0].url ("), "{error}");
        assert!(error.problems[0].contains("allow_private"), "{error}");
        subscribers(&format!("{text}allow_private = true")).expect(url);
    }
}

#[test]
fn what_is_wrong_with_a_subscriber_is_said_without_its_secrets() {
    let with = |key: &str, value: &str| {
        let lines = SUBSCRIBER.lines().filter(|line| !line.trim().starts_with(key));
        let text = format!("{}\n{key} = {value}\n", lines.collect::<Vec<_>>().join("\n"));
        let error = subscribers(&text).expect_err(value);
        assert!(!error.to_string().contains("hunter2"), "{error}");
        let [problem] = &error.problems[..] else { panic!("{error}") };
        problem.strip_prefix("subscriber[0].").unwrap_or(problem).to_owned()
    };
    assert_eq!(with("id", "\"A b\""), "id (A b) must be 1 to 64 of a-z, 0-9, - and _");
    assert_eq!(with("url", "\"backend.example/hunter2\""), "url must be an https URL without a fragment");
    assert!(with("url", "\"https://u:hunter2@a.example\"").starts_with("url holds a password"));
    assert!(with("secret", "\"whsec_hunter2\"").starts_with("secret is a secret and must not be written here"));
    assert!(with("secret", "{ env = \"SHORT\" }").starts_with("secret must have 24 to 64 bytes"));
    assert!(with("secret", "{ env = \"URL\" }").starts_with("secret must begin with whsec_"));
    assert!(with("types", "[\"recipient.red\"]").starts_with("types (recipient.red) must be a list of recipient."));
    assert_eq!(with("batch", "101"), "batch (101) must be a whole number, 1..100");
    assert_eq!(with("disable_after", "\"59s\""), "disable_after (59s) must be a duration, 1m..30d");
    assert_eq!(with("secrets", "1").split(';').next(), Some("secrets is not a key"));
    subscribers(&SUBSCRIBER.replace("\"https://backend.example/hook?token=hunter2\"", "{ env = \"URL\" }"))
        .expect("good");
}

#[test]
fn webhooks_can_be_forwarded_to_public_addresses() {
    let read = |text: &str| {
        let text = text.replace("FORWARD", "[[webhook.forward]]\nid = \"analytics\"\n");
        with_variables(&text, &HashMap::new())
    };
    let config = read("FORWARDurl = \"https://a.example/meta\"").expect("good");
    let [target] = &config.webhook.forward[..] else { panic!("one") };
    assert_eq!((target.id.as_str(), target.endpoint.url.to_string()), ("analytics", "https://a.example/meta".into()));
    let private = "FORWARDurl = \"http://10.0.0.1/meta\"";
    assert!(read(private).expect_err("private").problems[0].starts_with("webhook.forward[0].url ("));
    let private = format!("{private}\nallow_private = true\n");
    assert!(read(&private).expect("good").webhook.forward[0].endpoint.allow_private);
    let error = read(&private.repeat(2)).expect_err("twice");
    assert_eq!(error.problems, ["webhook.forward[1].id (analytics) occurs twice: remove one, or correct it"]);
}

#[test]
fn subscribers_need_the_feed_and_have_ids_of_their_own() {
    let error = subscribers(&format!("feed.enabled = false\n{SUBSCRIBER}")).expect_err("no feed");
    assert_eq!(error.problems, ["subscriber needs feed.enabled = true: without it there are no events to deliver"]);
    let error = subscribers(&format!("{SUBSCRIBER}{SUBSCRIBER}")).expect_err("twice");
    assert_eq!(error.problems, ["subscriber[1].id (crm) occurs twice: remove one, or correct it"]);
}

/// Reads contact hours with these further keys.
fn contact_hours(keys: &str) -> Result<ContactHours, ConfigError> {
    let text = format!("[[contact_hours]]\nname = \"co\"\nsource = \"a law\"\n{keys}");
    overridden(&text, &[]).map(|config| config.contact_hours)
}

#[test]
fn contact_hours_are_read_by_prefix() {
    let keys =
        "prefixes = [57, \"*\"]\nmon = \"07:00-19:00\"\nholidays = [\"2026-12-08\"]\nholidays_until = \"2026-12-31\"";
    let hours = contact_hours(keys).expect("contact hours");
    let name = |number: &str| hours.of_phone(number.parse().expect("a number")).map(|rule| rule.name.clone());
    assert_eq!([name("+573001234567"), name("+34612345678")], [Some("co".to_owned()), Some("co".to_owned())]);
    let until = hours.by_name("co").and_then(|rule| rule.holidays_until).map(|until| until.to_string());
    assert_eq!(until.as_deref(), Some("2026-12-31"));
    assert!(overridden("", &[]).expect("the defaults").contact_hours.is_empty());
}

#[test]
fn what_is_wrong_with_contact_hours_is_said() {
    let (prefix, hours) = ("prefixes = [\"57\"]", "mon = \"07:00-19:00\"");
    for (keys, problem) in [
        (hours.to_owned(), "contact_hours[0].prefixes must be given: the numbers that the hours are for"),
        (format!("prefixes = [\"+57\"]\n{hours}"), "contact_hours[0].prefixes (+57) must be a list of prefixes"),
        (prefix.to_owned(), "contact_hours[0].mon must be given, or another day"),
        (
            format!("{prefix}\nmon = \"19:00-07:00\"\n{}", hours.replace("mon", "tue")),
            "contact_hours[0].mon (19:00-07:00) must be hours",
        ),
        (
            format!("{prefix}\n{hours}\nholidays = [\"2026-12-08\"]"),
            "contact_hours[0].holidays_until must be given with holidays",
        ),
        (
            format!("{prefix}\n{hours}\nholidays = [\"8 December\"]\nholidays_until = \"2026-12-31\""),
            "contact_hours[0].holidays (8 December) must be a list of dates",
        ),
        (
            format!("{prefix}\n{hours}\nholidays = [\"2027-01-01\"]\nholidays_until = \"2026-12-31\""),
            "contact_hours[0].holidays_until must not be before the last of the holidays, which is 2027-01-01",
        ),
        (
            format!(
                "{prefix}\n{hours}\n[[contact_hours]]\nname = \"co\"\nsource = \"a law\"\nprefixes = [\"58\"]\n{hours}"
            ),
            "contact_hours[1].name (co) is the name of an earlier entry",
        ),
        (
            format!("{prefix}\n{hours}\n[[contact_hours]]\nname = \"ve\"\nsource = \"a law\"\n{prefix}\n{hours}"),
            "contact_hours[1].prefixes (57) is a prefix of an earlier entry",
        ),
    ] {
        let problems = contact_hours(&keys).expect_err(&keys).problems;
        assert!(problems.len() == 1 && problems[0].starts_with(problem), "{keys}: {problems:?}");
    }
}

#[test]
fn the_sample_of_contact_hours_is_valid() {
    let sample = include_str!("../../config/contact-hours-sample.toml");
    let hours = overridden(sample, &[]).expect("a configuration").contact_hours;
    let name = |number: &str| hours.of_phone(number.parse().expect("a number")).map(|rule| rule.name.as_str());
    let numbers = ["+573001234567", "+5585987654321", "+5511987654321"];
    assert_eq!(numbers.map(name), [Some("co"), Some("br-ce"), Some("default")]);
}

#[test]
fn a_relative_path_begins_at_the_folder_of_the_file_that_has_it() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("secret"), "s3cret").expect("written");
    fs::write(folder.path().join("prices.toml"), include_str!("../../config/prices-sample.toml")).expect("written");
    let text = "prices.file = \"prices.toml\"\nwebhook.app_secret = { file = \"secret\" }\ngraph.ca = \"ca.pem\"\n\
        redis = { url = \"rediss://h\", ca = \"/etc/ca.pem\" }\nhttp.tls = { certificate = \"c.pem\", key = \"k.pem\" }";
    let config = in_folder(folder.path(), text, &[("PREGON__HTTP__TLS__KEY", "k.pem")]).expect("good");
    assert!(config.prices.is_some());
    assert_eq!(config.webhook.app_secret, Some(Secret::new("s3cret")));
    assert_eq!(config.graph.ca, Some(folder.path().join("ca.pem")));
    assert_eq!(config.redis.certificates.ca, Some("/etc/ca.pem".into()));
    let tls = config.http.tls.expect("a certificate");
    assert_eq!(
        (tls.certificate, tls.key),
        (folder.path().join("c.pem"), "k.pem".into()),
        "one is from the environment"
    );
}

/// The configuration with a price list of this text.
fn with_prices(text: &str) -> Result<Config, ConfigError> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), text).expect("written");
    Config::from_toml(&format!("prices.file = {:?}", file.path()))
}

#[test]
fn the_sample_of_a_price_list_is_valid_and_says_that_it_is_one() {
    let sample = include_str!("../../config/prices-sample.toml");
    let prices = with_prices(sample).expect("good").prices.expect("a list");
    assert_eq!((prices.currency(), prices.valid_from().to_string().as_str()), ("USD", "2026-10-01"));
    let country = |number: &str| {
        let position = prices.position(number.parse().expect(number))?;
        prices.country(position).map(|country| (country.country.as_str(), country.marketing))
    };
    assert_eq!(country("+5491155550001"), Some(("Argentina (example)", Some(10_000))));
    assert_eq!(country("+18095550123"), Some(("Rest of Latin America (example)", Some(30_000))));
    assert_eq!(country("+12025550123"), Some(("North America (example)", Some(20_000))));
    assert_eq!(country("+442071234567"), None);
    assert!(sample.contains("EXAMPLES, NOT META'S"));
    assert!(Config::from_toml("").expect("good").prices.is_none());
}

#[test]
fn all_problems_of_a_price_list_are_reported() {
    let text = r#"
        currency = "dollars"
        colour = "red"
        [[price]]
        country = "AR"
        prefixes = ["54", "+55"]
        marketing = -1
        [[price]]
        prefixes = ["54"]
        utility = "free"
    "#;
    let error = with_prices(text).expect_err("eight problems");
    assert_eq!(
        error.problems,
        [
            "prices.file.currency (dollars) must be the three letters of a currency, such as USD",
            "prices.file.valid_from must be given: a day, such as 2026-10-01",
            "prices.file.price[0].prefixes (54, +55) must be a list of the first digits of phone numbers, from the calling code \
             on, such as 54 or 1809",
            "prices.file.price[0].marketing (-1) must be the price of one message, 0..1000",
            "prices.file.price[1].prefixes (54) occurs twice: remove one, or correct it",
            "prices.file.price[1].country must be given: a name",
            "prices.file.price[1].utility (free) must be the price of one message, 0..1000",
            "prices.file.colour is not a key; the keys here are currency, valid_from, price",
        ]
    );
    assert!(with_prices("currency =").expect_err("no TOML").problems[0].contains("can't be read: "));
    assert!(
        problem("prices.file = \"/nowhere/prices.toml\"")
            .starts_with("prices.file (/nowhere/prices.toml) can't be read")
    );
    assert_eq!(problem("[prices]\nfiles = 1"), "prices.files is not a key; the keys here are file");
}
