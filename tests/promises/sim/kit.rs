//! A simulator on a free port, a client for it, and a webhook endpoint that records its requests.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use hmac::{Hmac, KeyInit as _, Mac as _};
use pregon::sim::{
    Ledger, Scenario, Sim,
    scenario::{Limits, Statuses, Target},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

use crate::support::serve::serve;

pub(crate) const TOKEN: &str = "sim-token-2001";
pub(crate) const SECRET: &str = "sim-app-secret";

/// The scenario `calm` without latency, limits and webhooks.
pub(crate) fn quiet() -> Scenario {
    let mut scenario = Scenario::named("calm").expect("it comes with the program");
    scenario.limits = Limits { pair: false, ..Limits::default() };
    scenario.lines.iter_mut().for_each(|line| line.messages_per_second = 1_000_000);
    scenario.wabas[0].webhook = None;
    scenario
}

/// The scenario of [`quiet`] with `statuses`, each sent to `webhook` after a few milliseconds.
pub(crate) fn with_webhook(webhook: &Webhook, statuses: Statuses) -> Scenario {
    let mut scenario = quiet();
    let fast = "1ms..5ms".parse().expect("a delay");
    scenario.statuses = Statuses {
        sent_after: fast,
        failed_after: fast,
        delivered_after: fast,
        read_after: fast,
        duplicated_after: fast,
        ..statuses
    };
    scenario.webhooks.batch_window = Duration::from_millis(2);
    // One POST at a time, so that only the scenario changes the order.
    scenario.webhooks.posts_at_once = 1;
    scenario.wabas[0].webhook = Some(Target { url: webhook.url.clone(), app_secret: SECRET.into() });
    scenario
}

/// A running simulator and a client for it.
pub(crate) struct SimServer {
    pub(crate) sim: Sim,
    pub(crate) base: String,
    pub(crate) http: reqwest::Client,
    stop: CancellationToken,
}

impl SimServer {
    pub(crate) async fn start(scenario: Scenario) -> Self {
        println!("seed {}", scenario.seed);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let stop = CancellationToken::new();
        let sim = Sim::start(scenario, listener, stop.clone()).await.expect("the scenario can be played");
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { base: format!("http://{}", sim.addr()), sim, http, stop }
    }

    pub(crate) fn ledger(&self) -> Ledger {
        self.sim.ledger()
    }

    /// Status and body of a send on line 3001.
    pub(crate) async fn send(&self, message: &Value) -> (u16, Value) {
        self.try_send("3001", message).await.expect("an answer")
    }

    pub(crate) async fn try_send(&self, line: &str, message: &Value) -> reqwest::Result<(u16, Value)> {
        let url = format!("{}/v25.0/{line}/messages", self.base);
        answer_of(self.http.post(url).bearer_auth(TOKEN).json(message)).await
    }

    /// Sends on line 3001 over a connection of its own, which ends right after the response.
    pub(crate) async fn send_and_hang_up(&self, message: &Value) {
        let (host, body) = (self.sim.addr().to_string(), message.to_string());
        let mut stream = TcpStream::connect(&host).await.expect("a connection");
        let length = body.len();
        let request = format!(
            "POST /v25.0/3001/messages HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {TOKEN}\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.expect("written");
        stream.read_to_end(&mut Vec::new()).await.expect("a response and the end");
    }

    /// The error code of a send on line 3001 through the Marketing Messages API; 0 if it was accepted.
    pub(crate) async fn marketing_code(&self, message: &Value) -> u64 {
        let url = format!("{}/v25.0/3001/marketing_messages", self.base);
        let request = self.http.post(url).bearer_auth(TOKEN).json(message);
        answer_of(request).await.expect("an answer").1["error"]["code"].as_u64().unwrap_or(0)
    }

    /// The error code of a send on line 3001; 0 if it was accepted.
    pub(crate) async fn code(&self, message: &Value) -> u64 {
        self.send(message).await.1["error"]["code"].as_u64().unwrap_or(0)
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.base) };
        answer_of(self.http.get(url).bearer_auth(TOKEN)).await.expect("an answer")
    }

    pub(crate) async fn post(&self, path: &str) -> (u16, Value) {
        answer_of(self.http.post(format!("{}{path}", self.base)).bearer_auth(TOKEN)).await.expect("an answer")
    }

    pub(crate) async fn control(&self, what: &str, body: &Value) -> (u16, Value) {
        answer_of(self.http.post(format!("{}/sim/{what}", self.base)).json(body)).await.expect("an answer")
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.sim.stopped().await;
    }
}

async fn answer_of(request: reqwest::RequestBuilder) -> reqwest::Result<(u16, Value)> {
    let response = request.send().await?;
    let status = response.status().as_u16();
    let body = response.bytes().await?;
    let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
    Ok((status, serde_json::from_slice(&body).unwrap_or_else(|_| text())))
}

/// The template `order_update` to the recipient with this number.
pub(crate) fn order(person: u32, callback: &str) -> Value {
    template(person, callback, "order_update", &json!([body(&["María", "A-10"])]))
}

pub(crate) fn template(person: u32, callback: &str, name: &str, components: &Value) -> Value {
    json!({
        "messaging_product": "whatsapp", "recipient_type": "individual", "to": number(person), "type": "template",
        "template": {"name": name, "language": {"code": "es_AR"}, "components": components},
        "biz_opaque_callback_data": callback,
    })
}

pub(crate) fn text(person: u32, words: &str) -> Value {
    json!({"messaging_product": "whatsapp", "to": number(person), "type": "text", "text": {"body": words}})
}

/// A positional body.
pub(crate) fn body(texts: &[&str]) -> Value {
    let parameters: Vec<_> = texts.iter().map(|text| json!({"type": "text", "text": text})).collect();
    json!({"type": "body", "parameters": parameters})
}

pub(crate) fn number(person: u32) -> String {
    format!("+54911{person:08}")
}

/// A token of Pregón's form.
pub(crate) fn token(row: u32, send: u32) -> String {
    format!("p1.01J9ZK3V5T8R7Q6P5N4M3K2J1H.0.{row}.{send}.00000000deadbeef")
}

/// A webhook endpoint that records every request and responds as configured.
pub(crate) struct Webhook {
    pub(crate) url: String,
    recorded: Arc<Recorded>,
}

#[derive(Default)]
struct Recorded {
    posts: Mutex<Vec<Post>>,
    /// Notified of every request.
    arrived: Notify,
    /// HTTP statuses of the next responses, in order; 200 after the last.
    answers: Mutex<VecDeque<u16>>,
}

/// A request to the webhook.
#[derive(Clone)]
pub(crate) struct Post {
    pub(crate) signature: String,
    pub(crate) body: Bytes,
    pub(crate) answered: u16,
}

impl Webhook {
    pub(crate) async fn start() -> Self {
        Self::answering([]).await
    }

    pub(crate) async fn answering(answers: impl IntoIterator<Item = u16>) -> Self {
        let recorded = Arc::new(Recorded { answers: Mutex::new(answers.into_iter().collect()), ..Recorded::default() });
        let router = Router::new().route("/webhooks/meta", post(record)).with_state(recorded.clone());
        Self { url: format!("{}/webhooks/meta", serve(router).await), recorded }
    }

    pub(crate) fn posts(&self) -> Vec<Post> {
        self.recorded.posts.lock().expect("no holder panics").clone()
    }

    /// Every change that was answered 200, in order of arrival.
    fn changes(&self) -> Vec<Value> {
        let taken = self.posts().into_iter().filter(|post| post.answered == 200);
        taken
            .flat_map(|post| {
                let body: Value = serde_json::from_slice(&post.body).expect("JSON");
                let changes =
                    body["entry"].as_array().expect("entries").iter().flat_map(|entry| entry["changes"].as_array());
                changes.flatten().cloned().collect::<Vec<_>>()
            })
            .collect()
    }

    /// The `value` of every change that was answered 200, in order of arrival.
    pub(crate) fn values(&self) -> Vec<Value> {
        self.changes().into_iter().map(|mut change| change["value"].take()).collect()
    }

    /// The values of one field, as [`Webhook::values`].
    pub(crate) fn values_of(&self, field: &str) -> Vec<Value> {
        let of_field = self.changes().into_iter().filter(|change| change["field"] == field);
        of_field.map(|mut change| change["value"].take()).collect()
    }

    /// As [`Webhook::values_of`], as soon as there are `count` of them.
    pub(crate) async fn wait_for(&self, field: &str, count: usize) -> Vec<Value> {
        let found = async {
            loop {
                let arrived = self.recorded.arrived.notified();
                let values = self.values_of(field);
                if values.len() >= count {
                    return values;
                }
                arrived.await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), found).await;
        waited.unwrap_or_else(|_| panic!("{count} of {field}, instead of {:?}", self.values_of(field)))
    }

    /// The statuses that were answered 200, in order of arrival.
    pub(crate) fn statuses(&self) -> Vec<Value> {
        self.values().iter().filter_map(|value| value["statuses"].as_array().cloned()).flatten().collect()
    }

    /// The inbound messages that were answered 200, in order of arrival.
    pub(crate) fn messages(&self) -> Vec<Value> {
        self.values().iter().filter_map(|value| value["messages"].as_array().cloned()).flatten().collect()
    }
}

async fn record(State(recorded): State<Arc<Recorded>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let answered = recorded.answers.lock().expect("no holder panics").pop_front().unwrap_or(200);
    let signature = headers.get("x-hub-signature-256").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let post = Post { signature: signature.to_owned(), body, answered };
    recorded.posts.lock().expect("no holder panics").push(post);
    recorded.arrived.notify_waiters();
    StatusCode::from_u16(answered).expect("a status")
}

/// The signature that Meta sends for `body`.
pub(crate) fn signature(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).expect("a key of any length");
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}
