//! A receiver of webhooks that the test itself answers.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use tokio::sync::{mpsc, oneshot};

use super::{hooks::now, serve::serve};

/// A server that passes each webhook to the test, which answers it.
pub struct Receiver {
    pub url: String,
    webhooks: mpsc::UnboundedReceiver<Webhook>,
}

/// A webhook that waits for its answer. If dropped, it is never answered.
#[derive(Debug)]
pub struct Webhook {
    pub body: Bytes,
    headers: HeaderMap,
    answer: oneshot::Sender<Response>,
}

impl Receiver {
    pub async fn start() -> Self {
        let (sender, webhooks) = mpsc::unbounded_channel();
        let router = Router::new().fallback(receive).with_state(sender);
        Self { url: format!("{}/hook", serve(router).await), webhooks }
    }

    /// The next webhook.
    pub async fn next(&mut self) -> Webhook {
        self.webhooks.recv().await.expect("the server runs")
    }

    /// Answers the next webhook with 200. Returns its body.
    pub async fn accept(&mut self) -> Value {
        let webhook = self.next().await;
        let json = webhook.json();
        webhook.answer(200);
        json
    }

    /// Accepts webhooks until the event `id`. Returns the ids of all of them.
    pub async fn accept_until(&mut self, id: &str) -> Vec<String> {
        let mut ids = Vec::new();
        while ids.last().is_none_or(|last| last != id) {
            ids.push(self.accept().await["id"].as_str().expect("an id").to_owned());
        }
        ids
    }

    /// Whether the test has seen every webhook.
    pub fn is_idle(&self) -> bool {
        self.webhooks.is_empty()
    }
}

async fn receive(State(test): State<mpsc::UnboundedSender<Webhook>>, headers: HeaderMap, body: Bytes) -> Response {
    // Accepted at once: the test's own calls of the API cause these events.
    if serde_json::from_slice::<Value>(&body).is_ok_and(|event| event["type"] == "operator.changed") {
        return StatusCode::OK.into_response();
    }
    let (answer, answered) = oneshot::channel();
    let sent = test.send(Webhook { body, headers, answer });
    match sent.map(|()| answered) {
        Ok(answered) => match answered.await {
            Ok(response) => response,
            Err(_) => std::future::pending().await,
        },
        // The test has ended.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

impl Webhook {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().expect("text")
    }

    /// The header `webhook-id`.
    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    /// The header `webhook-timestamp`.
    pub fn timestamp(&self) -> u64 {
        self.header("webhook-timestamp").parse().expect("seconds")
    }

    pub fn answer(self, status: u16) {
        self.answer_with(status, &[]);
    }

    pub fn answer_with(self, status: u16, headers: &[(&'static str, &str)]) {
        let mut response = StatusCode::from_u16(status).expect("a status").into_response();
        for (name, value) in headers {
            response.headers_mut().insert(*name, value.parse().expect("a value"));
        }
        // The sender may have given up.
        let _ = self.answer.send(response);
    }

    /// Answers 200 with a body.
    pub fn answer_with_body(self, body: Body) {
        let _ = self.answer.send(body.into_response());
    }

    /// Whether one of the signatures was made with `secret`, and the timestamp is of the last minute. This is the check
    /// of the specification, without Pregón's code.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let key = BASE64_STANDARD.decode(secret.strip_prefix("whsec_").expect("its prefix")).expect("base64");
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key");
        mac.update(format!("{}.{}.", self.id(), self.timestamp()).as_bytes());
        mac.update(&self.body);
        let expected = format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()));
        let age = now().seconds().abs_diff(self.timestamp());
        age <= 60 && self.header("webhook-signature").split(' ').any(|signature| signature == expected)
    }
}
