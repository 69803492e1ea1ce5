//! A worker with a configuration of the test's choice, and raw connections for callers that misbehave.

use std::{net::SocketAddr, sync::Arc};

use pregon::{
    app::{serve::Service, shutdown::Signals},
    config::{ApiKey, BusinessConfig, Config, LineConfig, Role, WabaConfig},
    domain::Secret,
    redis::{Store, clock::Clock},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    hooks::{APP_SECRET, VERIFY_TOKEN, signature},
    redis::TestRedis,
    world,
};

pub const KEY: &str = "k-whole";

/// A worker in this process.
pub struct Worker {
    pub redis: TestRedis,
    pub store: Store,
    pub http: SocketAddr,
    pub ops: SocketAddr,
    service: Service,
}

impl Worker {
    /// Starts a worker with the roles api and webhook, line 3001 of WABA 2001 and a template. `change` edits the
    /// configuration first.
    pub async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let redis = TestRedis::start().await;
        let store = Store::connect(&world::address(&redis)).await.expect("a store");
        let now = Clock::start(&store).await.expect("a clock").now();
        store.put_templates(&"2001".into(), &[world::template()], now).await.expect("templates");
        let mut config = config(redis.url());
        change(&mut config);
        let service = Service::start(config, &[Role::Api, Role::Webhook]).await.expect("a worker");
        let http = service.http.expect("a role that listens");
        Self { redis, store, http, ops: service.ops, service }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// Stops the worker and checks that none of its tasks failed.
    pub async fn stop(self) {
        self.service.stop();
        self.service.wait(Signals::none()).await.expect("a clean end");
    }

    pub async fn connect(&self) -> Caller {
        Caller(TcpStream::connect(self.http).await.expect("a connection"))
    }

    /// The response to a request on its own connection; `None` if the connection ends without a response.
    pub async fn ask(&self, request: &[u8]) -> Option<Answer> {
        let mut caller = self.connect().await;
        caller.send(request).await;
        caller.answer().await
    }

    /// A request with a key for every scope; `path` follows `/v1`.
    pub async fn call(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> Answer {
        self.ask(&call(method, path, media_type, body)).await.expect("an answer")
    }

    /// Creates a draft. Returns its path below `/v1`.
    pub async fn draft(&self) -> String {
        let created =
            self.call("POST", "/campaigns", "application/json", draft(json!([])).to_string().as_bytes()).await;
        assert_eq!(created.status, 201, "{}", created.body);
        format!("/campaigns/{}", created.body["id"].as_str().expect("an id"))
    }

    /// Delivers a webhook with Meta's signature. Returns the HTTP status.
    pub async fn webhook(&self, body: &[u8]) -> u16 {
        let head = format!(
            "POST /webhooks/meta HTTP/1.1\r\nhost: a\r\nx-hub-signature-256: {}\r\ncontent-length: {}\r\n\r\n",
            signature(body),
            body.len()
        );
        self.ask(&[head.as_bytes(), body].concat()).await.expect("an answer").status
    }

    /// Checks that the worker still serves well-behaved callers.
    pub async fn assert_healthy(&self) {
        let lines = self.call("GET", "/lines", "application/json", b"").await;
        assert_eq!((lines.status, &lines.body["lines"][0]["id"]), (200, &json!("3001")), "{}", lines.body);
    }
}

fn config(redis: &str) -> Config {
    let text = "http.listen = \"127.0.0.1:0\"\nops.listen = \"127.0.0.1:0\"\nlog.level = \"warn\"\n";
    let mut config = Config::from_toml(&format!("redis.url = {redis:?}\n{text}")).expect("a configuration");
    config.http.api_keys = vec![ApiKey::new("whole", &Secret::new(KEY))];
    config.webhook.verify_token = Some(Secret::new(VERIFY_TOKEN));
    config.webhook.app_secret = Some(Secret::new(APP_SECRET));
    config.businesses.push(BusinessConfig {
        id: "1001".into(),
        frequency_cap: None,
        include: Vec::new(),
        access_token: None,
    });
    let access_token = Secret::new("token-2001");
    config.wabas.push(WabaConfig { id: "2001".into(), business: "1001".into(), access_token, marketing_api: false });
    config.lines.push(LineConfig {
        id: "3001".into(),
        waba: "2001".into(),
        display: "+54 9 11 5555 3001".into(),
        name: "sales".into(),
        messages_per_second: Some(80.0),
        warm_up: Arc::default(),
    });
    config
}

/// A campaign as a backend submits it.
pub fn draft(recipients: Value) -> Value {
    let template = world::template();
    json!({
        "name": "spring",
        "template": { "name": template.name, "language": template.language.as_str() },
        "lines": ["3001"],
        "recipients": recipients,
    })
}

/// A CSV with a row for each phone number 5491100000000 + n, with n in `numbers`.
pub fn csv(numbers: std::ops::Range<u64>) -> String {
    let rows = numbers.map(|n| format!("+{},Maria,A-{n}\n", 5_491_100_000_000 + n));
    std::iter::once("to,1,2\n".to_owned()).chain(rows).collect()
}

pub fn head(method: &str, path: &str, more: &str) -> String {
    format!("{method} /v1{path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\n{more}\r\n")
}

fn call(method: &str, path: &str, media_type: &str, body: &[u8]) -> Vec<u8> {
    let head = head(method, path, &format!("content-type: {media_type}\r\ncontent-length: {}\r\n", body.len()));
    [head.as_bytes(), body].concat()
}

/// A raw connection to the worker.
pub struct Caller(pub TcpStream);

/// A response. A body that is not JSON is null.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// Checks that the response is a problem of this status and kind. Returns its detail.
    #[track_caller]
    pub fn problem(&self, status: u16, kind: &str) -> &str {
        assert_eq!(
            (self.status, &self.body["type"]),
            (status, &json!(format!("urn:pregon:problem:{kind}"))),
            "{self:?}"
        );
        self.body["detail"].as_str().expect("a detail")
    }
}

impl Caller {
    /// Sends `bytes`. Ignores that the server may have closed the connection.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes).await;
    }

    /// The next response; `None` if the connection ends without one.
    pub async fn answer(&mut self) -> Option<Answer> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if self.0.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        while bytes.len() < end + length.unwrap_or(0) && self.0.read_buf(&mut bytes).await.unwrap_or(0) > 0 {}
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Some(Answer { status, body: serde_json::from_slice(&bytes[end..]).unwrap_or_default() })
    }

    /// Reads until the server closes the connection.
    pub async fn ended(&mut self) {
        let mut bytes = [0; 4096];
        while self.0.read(&mut bytes).await.is_ok_and(|n| n > 0) {}
    }
}
