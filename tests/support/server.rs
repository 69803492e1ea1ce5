//! `pregon serve` as a process, and a client of its public API.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    hooks::{APP_SECRET, VERIFY_TOKEN},
    redis::TestRedis,
};

/// The API key in the configuration of [`Installation::new`].
pub const KEY: &str = "key-for-tests";

/// The configuration shared by the processes of an installation.
pub struct Installation {
    dir: TempDir,
    text: String,
    /// The id of each line, and its table in the configuration.
    lines: Vec<(String, String)>,
}

/// The tables of a configuration that say how Meta and callers are reached. `meta`: the URL of Meta.
pub fn surroundings(meta: &str) -> String {
    format!(
        r#"[graph]
base_url = "{meta}"
timeout = "5s"
connect_timeout = "2s"
[http]
listen = "127.0.0.1:0"
api_keys = [{{ name = "test", secret = {{ env = "PREGON_TEST_KEY" }} }}]
[ops]
listen = "127.0.0.1:0"
[webhook]
verify_token = {{ env = "PREGON_TEST_VERIFY_TOKEN" }}
app_secret = {{ env = "PREGON_TEST_APP_SECRET" }}
"#
    )
}

impl Installation {
    /// A configuration that uses `redis` and sends to the Meta at the URL `meta`. `lines`: ids and rates per second of
    /// the lines, all of WABA 2001. `dispatch`: further keys of `[dispatch]`, as TOML.
    pub fn new(redis: &TestRedis, meta: &str, lines: &[(&str, f64)], dispatch: &str) -> Self {
        let text = format!(
            r#"
id_retention = "1d"
[redis]
url = "{}"
timeout = "1s"
{}[dispatch]
headroom = 0.0
pair_spacing = "0s"
lease = "3s"
{dispatch}
[dispatch.retry]
initial = "50ms"
max = "500ms"
attempts = 15
[shutdown]
drain = "0s"
grace = "20s"
[log]
format = "json"
[[business]]
id = "1001"
[[waba]]
id = "2001"
business = "1001"
access_token = {{ env = "PREGON_TEST_ACCESS_TOKEN" }}
"#,
            redis.url(),
            surroundings(meta)
        );
        let lines = lines.iter().map(|(id, rate)| ((*id).to_owned(), Self::line(id, *rate))).collect();
        Self { dir: tempfile::tempdir().expect("a directory"), text, lines }
    }

    /// The table of a line of WABA 2001, with its rate per second.
    pub fn line(id: &str, rate: f64) -> String {
        format!("[[line]]\nid = \"{id}\"\nwaba = \"2001\"\nmessages_per_second = {rate}\n")
    }

    /// An installation with the configuration `text`, which must set the API key [`KEY`] and JSON logs.
    pub fn of(text: &str) -> Self {
        Self { dir: tempfile::tempdir().expect("a directory"), text: text.to_owned(), lines: Vec::new() }
    }

    /// The directory of configurations and logs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Replaces `from` in the configuration file of the process `name`.
    pub fn edit(&self, name: &str, from: &str, to: &str) {
        let path = self.dir.path().join(format!("{name}.toml"));
        let text = std::fs::read_to_string(&path).expect("the configuration");
        assert!(text.contains(from), "{from}");
        std::fs::write(path, text.replace(from, to)).expect("written");
    }

    /// Replaces `from` in the configuration.
    pub fn replaced(mut self, from: &str, to: &str) -> Self {
        assert!(self.text.contains(from), "{from}");
        self.text = self.text.replace(from, to);
        self
    }

    /// Appends TOML to the configuration, such as further lines.
    pub fn with(mut self, more: &str) -> Self {
        self.text.push_str(more);
        self
    }

    /// Starts a process with these roles, and waits until it serves.
    pub async fn serve(&self, name: &str, roles: &str) -> Server {
        self.serve_with(name, roles, &[]).await
    }

    /// Like [`Installation::serve`]; `environment` overrides the configuration.
    pub async fn serve_with(&self, name: &str, roles: &str, environment: &[(&str, &str)]) -> Server {
        let mut server = self.start(name, roles, environment);
        super::until("the process serves", async || {
            if let Some(status) = server.has_ended() {
                panic!("the process exited with {status}:\n{}", server.log());
            }
            server.serves()
        })
        .await;
        server
    }

    /// Starts a process with these roles; `environment` overrides the configuration. Returns before the process
    /// serves, which may never happen: see [`Server::serves`] and [`Server::has_ended`].
    pub fn start(&self, name: &str, roles: &str, environment: &[(&str, &str)]) -> Server {
        self.start_without(None, name, roles, environment)
    }

    /// Like [`Installation::start`], without the line `omitted_line`.
    pub fn start_without(
        &self,
        omitted_line: Option<&str>,
        name: &str,
        roles: &str,
        environment: &[(&str, &str)],
    ) -> Server {
        let listed = self.lines.iter().filter(|(id, _)| omitted_line != Some(id));
        let text: String = std::iter::once(&self.text).chain(listed.map(|(_, table)| table)).cloned().collect();
        let config = self.dir.path().join(format!("{name}.toml"));
        std::fs::write(&config, text).expect("the configuration");
        let log = self.dir.path().join(format!("{name}.log"));
        let ready = self.dir.path().join(format!("{name}.ready"));
        let child = Command::new(env!("CARGO_BIN_EXE_pregon"))
            .args(["serve", "--roles", roles, "--config"])
            .arg(&config)
            .arg("--ready-file")
            .arg(&ready)
            .env("PREGON_TEST_KEY", KEY)
            .env("PREGON_TEST_VERIFY_TOKEN", VERIFY_TOKEN)
            .env("PREGON_TEST_APP_SECRET", APP_SECRET)
            .env("PREGON_TEST_ACCESS_TOKEN", "token-2001")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log"))
            .spawn()
            .expect("the process");
        Server { child, log, ready, url: String::new(), worker: String::new() }
    }
}

/// A running process. It is killed when dropped.
pub struct Server {
    child: Child,
    log: PathBuf,
    ready: PathBuf,
    url: String,
    /// The name under which the process owns leases. Empty until [`Server::serves`] returns true.
    pub worker: String,
}

impl Server {
    /// A client of the process's API.
    pub fn api(&self) -> Api {
        Api::at(&self.url)
    }

    /// The base URL of the process's API: `http://ADDRESS:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The URL to which Meta posts webhooks.
    pub fn webhook(&self) -> String {
        format!("{}/webhooks/meta", self.url)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends the process a signal: `TERM`, `STOP`, `CONT` or `KILL`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("sh").args(["-c", "kill -s \"$1\" \"$2\"", "sh", name, &pid]).status();
        assert!(sent.expect("a shell").success(), "SIG{name} to {pid}");
    }

    /// Waits for the process to exit.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut ended = None;
        super::until("the process ends", async || {
            ended = self.has_ended();
            ended.is_some()
        })
        .await;
        ended.expect("it ended")
    }

    /// The exit status of the process, if it has exited.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a process of ours")
    }

    /// Whether the process serves. If so, stores its address and name.
    pub fn serves(&mut self) -> bool {
        let Some(ready) = std::fs::read(&self.ready).ok().and_then(|json| serde_json::from_slice::<Value>(&json).ok())
        else {
            return false;
        };
        if ready["pid"] != self.pid() {
            return false;
        }
        let text = |key: &str| ready[key].as_str().unwrap_or_default().to_owned();
        (self.url, self.worker) = (format!("http://{}", text("http")), text("worker"));
        true
    }

    /// The response of the process's ops listener to `path`: status and body.
    pub async fn ops(&self, path: &str) -> (u16, String) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let log = self.log();
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        // The ops listener answers before the process serves.
        let address = lines.find_map(|line| line["ops"].as_str().map(str::to_owned)).expect("its address in the log");
        let answer = reqwest::get(format!("http://{address}/{path}")).await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    }

    /// Waits until the log has `text` `n` times.
    pub async fn logged(&self, n: usize, text: &str) {
        super::until(text, async || self.log().matches(text).count() >= n).await;
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of {}:\n{}", self.worker, self.log());
        }
    }
}

/// A client of the public API.
#[derive(Clone)]
pub struct Api {
    http: reqwest::Client,
    url: String,
}

impl Api {
    /// A client of the API at `url`.
    pub fn at(url: &str) -> Self {
        Self { http: super::http_client(), url: url.to_owned() }
    }

    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.http.request(method, format!("{}/v1/{path}", self.url)).bearer_auth(KEY);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    pub async fn get(&self, path: &str) -> Value {
        self.repeat(Method::GET, path).await
    }

    /// The body of a 200, `None` for any other response or an error.
    pub async fn try_get(&self, path: &str) -> Option<Value> {
        let request = self.http.get(format!("{}/v1/{path}", self.url)).bearer_auth(KEY);
        let answer = request.send().await.ok().filter(|answer| answer.status() == 200)?;
        answer.json().await.ok()
    }

    pub async fn post(&self, path: &str) -> Value {
        self.repeat(Method::POST, path).await
    }

    /// Deletes once. The body of a 200, `None` for any other response or an error.
    pub async fn try_delete(&self, path: &str) -> Option<Value> {
        let request = self.http.delete(format!("{}/v1/{path}", self.url)).bearer_auth(KEY);
        let answer = request.send().await.ok().filter(|answer| answer.status() == 200)?;
        answer.json().await.ok()
    }

    /// Posts JSON once. The body of a 200 or 201, `None` for any other response or an error.
    pub async fn try_post_json(&self, path: &str, body: &Value) -> Option<Value> {
        let request = self.http.post(format!("{}/v1/{path}", self.url)).bearer_auth(KEY).json(body);
        let answer = request.send().await.ok().filter(|answer| [200, 201].contains(&answer.status().as_u16()))?;
        answer.json().await.ok()
    }

    /// Posts once, and ignores the result.
    pub async fn try_post(&self, path: &str) {
        let request = self.http.post(format!("{}/v1/{path}", self.url)).bearer_auth(KEY);
        let _ = request.send().await;
    }

    /// Repeats a request on 503, as a backend does. On a machine that is busy with other tests, Redis may be so slow
    /// that a 503 is returned.
    async fn repeat(&self, method: Method, path: &str) -> Value {
        let mut answer = (503, Value::Null);
        super::until("redis is available", async || {
            answer = self.call(method.clone(), path, None).await;
            answer.0 != 503
        })
        .await;
        assert_eq!(answer.0, 200, "{path}: {}", answer.1);
        answer.1
    }

    /// Uploads recipients as NDJSON under an upload id. Returns the status and the body.
    pub async fn upload(&self, id: &str, upload_id: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let request = self.http.post(format!("{}/v1/campaigns/{id}/recipients", self.url)).bearer_auth(KEY);
        let request = request.header(CONTENT_TYPE, "application/x-ndjson").header("upload-id", upload_id);
        let answer = request.body(body).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    /// Creates a draft of `order_update` on `lines` with the phone numbers `to`. `more`: further keys of the
    /// campaign.
    pub async fn draft(&self, lines: &[&str], to: impl Iterator<Item = u64>, more: Value) -> String {
        let mut new =
            json!({"name": "test", "template": {"name": "order_update", "language": "es_AR"}, "lines": lines});
        new.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        // Repeated: workers fetch the templates from Meta just after the start, and until then a campaign is refused.
        let mut id = String::new();
        super::until("a campaign is accepted", async || {
            let (status, body) = self.call(Method::POST, "campaigns", Some(new.clone())).await;
            id = body["id"].as_str().unwrap_or_default().to_owned();
            let created = [200, 201].contains(&status);
            assert!(created || body["type"].as_str().is_some(), "{status} {body}");
            created
        })
        .await;
        let mut csv = String::from("to,1,2\n");
        let mut n = 0;
        for to in to {
            csv.push_str(&format!("+{to},Maria,A-{to}\n"));
            n += 1;
        }
        super::until("the recipients are accepted", async || {
            let request = self.http.post(format!("{}/v1/campaigns/{id}/recipients", self.url)).bearer_auth(KEY);
            // With an upload id, so that it can be repeated after a 503.
            let request = request.header(CONTENT_TYPE, "text/csv").header("Upload-Id", "all").body(csv.clone());
            let answer = request.send().await.expect("an answer");
            let status = answer.status().as_u16();
            let uploaded: Value = answer.json().await.expect("JSON");
            assert!(status == 503 || uploaded["accepted"] == n, "{status} {uploaded}");
            status == 200
        })
        .await;
        id
    }

    /// Creates and launches a campaign; see [`Api::draft`].
    pub async fn campaign(&self, lines: &[&str], to: impl Iterator<Item = u64>, more: Value) -> String {
        let id = self.draft(lines, to, more).await;
        self.post(&format!("campaigns/{id}/launch")).await;
        id
    }

    /// Waits until the campaign is in `state`. Returns the campaign.
    pub async fn wait_for_state(&self, id: &str, state: &str, timeout: Duration) -> Value {
        let began = Instant::now();
        loop {
            let campaign = self.get(&format!("campaigns/{id}")).await;
            if campaign["state"] == state {
                return campaign;
            }
            assert!(began.elapsed() < timeout, "not {state} after {timeout:?}: {campaign}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Every recipient of a campaign, page by page.
    pub async fn recipients(&self, id: &str) -> Vec<Value> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("campaigns/{id}/recipients?limit=500&cursor={cursor}")).await;
            all.extend(page["recipients"].as_array().expect("a list").iter().cloned());
            match page["next"].as_str() {
                Some(next) => next.clone_into(&mut cursor),
                None => return all,
            }
        }
    }

    /// The owner of each line, with the line's id.
    pub async fn owners(&self) -> Vec<(String, Option<String>)> {
        let lines = self.get("lines").await;
        let owner =
            |line: &Value| (line["id"].as_str().expect("an id").to_owned(), line["owner"].as_str().map(str::to_owned));
        lines["lines"].as_array().expect("a list").iter().map(owner).collect()
    }
}
