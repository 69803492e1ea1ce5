//! What a running process takes over from its configuration: on SIGHUP, and when a file has changed. Lines:
//! `reload_lines.rs`.

use std::fs;

use serde_json::json;

use crate::support::{
    hooks::{APP_SECRET, signature_with},
    http_client,
    redis::TestRedis,
    server::{Installation, KEY, Server, surroundings},
};

const SUCCESSFUL: &str = "pregon_config_last_reload_successful";
const RELOADED: &str = "pregon_config_last_reload_success_timestamp_seconds";

/// A process whose configuration and app secret are files.
struct Reloadable {
    server: Server,
    installation: Installation,
}

impl Reloadable {
    async fn start(redis: &TestRedis, secrets: &tempfile::TempDir) -> Self {
        let app_secret = secrets.path().join("app-secret");
        fs::write(&app_secret, APP_SECRET).expect("a secret");
        let file = format!("{{ file = \"{}\" }}", app_secret.display());
        let surroundings = surroundings("http://127.0.0.1:9").replace(r#"{ env = "PREGON_TEST_APP_SECRET" }"#, &file);
        let log = "[log]\nformat = \"json\"\nlevel = \"info\"\n";
        let text = format!("redis.url = \"{}\"\n{surroundings}{log}", redis.url());
        let installation = Installation::of(&text);
        Self { server: installation.serve("worker", "api,webhook").await, installation }
    }

    /// Replaces `from` in the configuration file.
    fn edit(&self, from: &str, to: &str) {
        self.installation.edit("worker", from, to);
    }

    async fn status_with(&self, key: &str) -> u16 {
        let request = http_client().get(format!("{}/v1/lines", self.server.url())).bearer_auth(key);
        request.send().await.expect("an answer").status().as_u16()
    }

    /// The value of a series without labels.
    async fn value(&self, series: &str) -> f64 {
        let (_, page) = self.server.ops("metrics").await;
        let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.expect(series).parse().expect("a number")
    }

    async fn status_signed_with(&self, secret: &str) -> u16 {
        let body = json!({"object": "whatsapp_business_account", "entry": []}).to_string();
        let signature = signature_with(secret, body.as_bytes());
        let request = http_client().post(self.server.webhook()).header("x-hub-signature-256", signature);
        request.body(body).send().await.expect("an answer").status().as_u16()
    }
}

#[tokio::test]
async fn sighup_takes_over_keys_secrets_and_the_log_level() {
    let (redis, secrets) = (TestRedis::start().await, tempfile::tempdir().expect("a directory"));
    let process = Reloadable::start(&redis, &secrets).await;
    let key = secrets.path().join("office");
    fs::write(&key, "key-of-the-office").expect("a key");
    assert_eq!((process.status_with(KEY).await, process.status_with("key-of-the-office").await), (200, 401));

    let office = format!(r#"api_keys = [{{ name = "office", secret = {{ file = "{}" }} }}]"#, key.display());
    process.edit(r#"api_keys = [{ name = "test", secret = { env = "PREGON_TEST_KEY" } }]"#, &office);
    process.edit(r#"level = "info""#, r#"level = "info,pregon=debug""#);
    process.server.signal("HUP");
    process.server.logged(1, "configuration reloaded").await;
    assert_eq!((process.status_with(KEY).await, process.status_with("key-of-the-office").await), (401, 200));
    // A GET is logged at the level debug.
    process.server.logged(1, r#""level":"DEBUG""#).await;
    let log = process.server.log();
    let reloaded = log.lines().find(|line| line.contains("configuration reloaded")).expect("its line");
    let changed = "API keys added: office; API keys removed: test; log.level";
    assert!(reloaded.contains(changed), "{changed}: {reloaded}");
    assert!(!log.contains("key-of-the-office"), "{log}");
}

#[tokio::test]
async fn two_app_secrets_are_valid_during_a_rotation_and_no_webhook_is_refused() {
    let (redis, secrets) = (TestRedis::start().await, tempfile::tempdir().expect("a directory"));
    let process = Reloadable::start(&redis, &secrets).await;
    let old = secrets.path().join("app-secret-previous");
    fs::write(&old, APP_SECRET).expect("a secret");
    process.edit("[log]", &format!("app_secret_previous = {{ file = \"{}\" }}\n[log]", old.display()));
    process.server.signal("HUP");
    process.server.logged(1, "configuration reloaded").await;
    // A changed file is noticed without a signal.
    fs::write(secrets.path().join("app-secret"), "the-next-app-secret").expect("a secret");
    process.server.logged(2, "configuration reloaded").await;
    for secret in [APP_SECRET, "the-next-app-secret"] {
        assert_eq!(process.status_signed_with(secret).await, 200, "{secret}");
    }
    process.edit(&format!("app_secret_previous = {{ file = \"{}\" }}\n", old.display()), "");
    process.server.signal("HUP");
    process.server.logged(3, "configuration reloaded").await;
    assert_eq!(process.status_signed_with(APP_SECRET).await, 401);
    assert_eq!(process.status_signed_with("the-next-app-secret").await, 200);
}

#[tokio::test]
async fn a_configuration_with_a_problem_or_a_key_that_needs_a_restart_changes_nothing() {
    let (redis, secrets) = (TestRedis::start().await, tempfile::tempdir().expect("a directory"));
    let process = Reloadable::start(&redis, &secrets).await;
    let started = process.value(RELOADED).await;
    assert_eq!(process.value(SUCCESSFUL).await, 1.0);
    process.edit("redis.url", "redis.pool = 3\nredis.url");
    process.edit(r#"name = "test""#, r#"name = "other", scopes = ["operate"]"#);
    let forward = "[[webhook.forward]]\nid = \"crm\"\nurl = \"https://crm.example/meta\"\n";
    process.edit("[log]", &format!("{forward}[log]"));
    process.server.signal("HUP");
    let keys = "these keys need a restart: redis.pool, webhook.forward[crm].id, webhook.forward[crm].url";
    process.server.logged(1, keys).await;
    assert_eq!(process.status_with(KEY).await, 200, "the key still has the scope read");
    assert_eq!((process.value(SUCCESSFUL).await, process.value(RELOADED).await), (0.0, started));

    process.edit(forward, "");
    process.edit("redis.pool = 3", "redis.timeout = \"1h\"\nredis.foo = 1");
    process.server.signal("HUP");
    process.server.logged(1, "redis.foo is not a key").await;
    process.server.logged(1, "redis.timeout (1h) must be a duration").await;
    assert_eq!(process.status_with(KEY).await, 200, "the key still has the scope read");

    process.edit("redis.timeout = \"1h\"\nredis.foo = 1\n", "");
    process.server.signal("HUP");
    process.server.logged(1, "configuration reloaded").await;
    assert_eq!(process.status_with(KEY).await, 403, "the key has the scope operate only");
    assert_eq!(process.value(SUCCESSFUL).await, 1.0);
    assert!(process.value(RELOADED).await > started, "the time of the reload");
}
