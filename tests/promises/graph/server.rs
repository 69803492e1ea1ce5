//! A fake Meta on raw sockets, and a client for it. It is separate from `support::hostile` because its tests choose
//! every byte that is written and how each connection closes.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use pregon::{
    domain::{LineId, Outcome, Secret},
    graph::{Edge, GraphClient, GraphClientConfig, LineSender, Permit, SendRequest},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const WAMID: &str = "wamid.HBgMNDQ3NzAwOTAwMTIzFQIAERgSQ0U5RjA2QjE4RkM0RUUyRkI0AA==";

/// A response of Meta from `tests/fixtures/answers`.
macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("../../fixtures/answers/", $name))
    };
}
pub(crate) use fixture;

/// A request as it was received.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) head: String,
    pub(crate) body: String,
}

/// A server on a raw socket whose behaviour on every connection the test defines.
pub(crate) struct Server {
    pub(crate) base_url: String,
    received: Arc<Mutex<Vec<Received>>>,
}

/// One connection to a [`Server`], which keeps a record of every whole request read from it.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Server {
    pub(crate) async fn start<F: Future<Output = ()> + Send + 'static>(
        mut on_connection: impl FnMut(Connection) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base_url = format!("http://{}", listener.local_addr().expect("bound"));
        let received = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&received);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                tokio::spawn(on_connection(Connection { stream, received: Arc::clone(&record) }));
            }
        });
        Self { base_url, received }
    }

    /// Gives every request on every connection the same response.
    pub(crate) async fn answering(answer: String) -> Self {
        Self::start(move |mut connection| {
            let answer = answer.clone();
            async move {
                while connection.request().await.is_some() {
                    connection.write(&answer).await;
                }
            }
        })
        .await
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().expect("no test panicked with it").clone()
    }

    /// How many times each body arrived.
    pub(crate) fn bodies(&self) -> HashMap<String, usize> {
        let mut bodies = HashMap::new();
        for request in self.received() {
            *bodies.entry(request.body).or_default() += 1;
        }
        bodies
    }

    pub(crate) fn client(&self) -> GraphClient {
        client(GraphClientConfig { base_url: self.base_url.clone(), ..patient() })
    }

    /// A client for requests that may never be answered, with a timeout of one second.
    pub(crate) fn hasty(&self) -> GraphClient {
        let timeout = Duration::from_secs(1);
        client(GraphClientConfig {
            base_url: self.base_url.clone(),
            timeout,
            connect_timeout: timeout * 9 / 10,
            ..patient()
        })
    }

    pub(crate) fn sender(&self) -> LineSender {
        sender(&self.client())
    }
}

impl Connection {
    /// The next complete request; `None` when the client has closed the connection.
    pub(crate) async fn request(&mut self) -> Option<Received> {
        let mut bytes = Vec::new();
        loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
                let body_len = header(&head, "content-length").map_or(0, |len| len.parse().expect("a length"));
                if bytes.len() >= end + 4 + body_len {
                    let body = String::from_utf8_lossy(&bytes[end + 4..end + 4 + body_len]).into_owned();
                    let request = Received { head, body };
                    self.received.lock().expect("no test panicked with it").push(request.clone());
                    return Some(request);
                }
            }
            if self.stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        }
    }

    pub(crate) async fn write(&mut self, text: &str) {
        // Writing fails if the client has closed the connection, which it may do at any time.
        let _ = self.stream.write_all(text.as_bytes()).await;
    }

    /// Closes the connection with a reset.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().expect("a socket");
    }
}

pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, v)| v)
}

pub(crate) fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Long timeouts, for servers that do answer, so that only a hang reaches one.
pub(crate) fn patient() -> GraphClientConfig {
    GraphClientConfig {
        timeout: Duration::from_secs(20),
        connect_timeout: Duration::from_secs(5),
        ..GraphClientConfig::default()
    }
}

pub(crate) fn client(config: GraphClientConfig) -> GraphClient {
    GraphClient::new(config).expect("a good configuration")
}

pub(crate) fn sender(client: &GraphClient) -> LineSender {
    client.sender(&LineId::from("3001"), &token()).expect("a good token")
}

pub(crate) fn token() -> Secret {
    Secret::new("EAAJ-token")
}

/// The outcome of `accepted.json`, or of `accepted_held.json`.
pub(crate) fn accepted(held: bool) -> Outcome {
    Outcome::Accepted { wamid: WAMID.into(), held }
}

/// A message with this body.
pub fn message(body: Bytes) -> SendRequest {
    SendRequest { edge: Edge::Messages, body }
}

/// Sends `body` as soon as there is a permit.
pub(crate) async fn deliver(sender: &LineSender, body: Bytes) -> Outcome {
    loop {
        match sender.permit(Instant::now()) {
            Some(Permit::Open(permit)) => {
                if let Some(outcome) = sender.send(permit, message(body.clone())).await {
                    return outcome;
                }
            }
            Some(Permit::New(permit)) => {
                return match sender.connect(permit, message(body)).await {
                    Ok(departure) => departure.leave().await,
                    Err(outcome) => outcome,
                };
            }
            None => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}
