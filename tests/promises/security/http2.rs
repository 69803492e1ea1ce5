//! HTTP/2 and upgraded connections, under the limits of the listener.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{StatusCode, Version, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use futures_util::{FutureExt as _, stream};
use h2::client::SendRequest;
use hyper_util::rt::TokioIo;
use metrics::Gauge;
use pregon::http::{
    listener::{self, ConnectionLimits},
    tls::Tls,
};
use reqwest::Certificate;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::{
    connections::LIMITS,
    kit::{KEY, Worker},
    tls::{Files, authorities, fixture},
};
use crate::support::until;

/// A running listener with TLS. `stop` stops it.
struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Infallible>>,
    _files: Files,
}

impl Server {
    async fn start(router: Router, limits: ConnectionLimits) -> Self {
        let files = Files::of("first");
        let tls = Tls::load(&files.config()).expect("a certificate");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (address, stop) = (listener.local_addr().expect("an address"), CancellationToken::new());
        let task = tokio::spawn(listener::serve(listener, router, limits, Some(tls), Gauge::noop(), stop.clone()));
        Self { address, stop, task, _files: files }
    }

    /// A connection over HTTP/2, and the task that keeps it going until it ends.
    async fn connect(&self) -> (SendRequest<Bytes>, JoinHandle<()>) {
        let mut config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_root_certificates(authorities())
                .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(self.address).await.expect("a connection");
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (requests, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        (requests, tokio::spawn(async { drop(connection.await) }))
    }

    async fn stop(self) {
        self.stop.cancel();
        assert_eq!(self.task.await.expect("no panic"), Ok(()));
    }
}

fn request() -> http::Request<()> {
    http::Request::get("https://127.0.0.1/").body(()).expect("a request")
}

/// A route whose handlers wait until `true` is sent.
fn waiting() -> (watch::Sender<bool>, Router) {
    let (go, may_answer) = watch::channel(false);
    let handler = get(move || {
        let mut may_answer = may_answer.clone();
        async move {
            may_answer.wait_for(|allowed| *allowed).await.expect("the test signals");
            "done"
        }
    });
    (go, Router::new().route("/", handler))
}

#[tokio::test]
async fn a_client_chooses_the_http_version_in_the_handshake() {
    let files = Files::of("first");
    let worker = Worker::start(|config| config.http.tls = Some(files.config())).await;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ca = Certificate::from_pem(&std::fs::read(fixture("ca.pem")).expect("the CA")).expect("a certificate");
    for (only_http1, version) in [(false, Version::HTTP_2), (true, Version::HTTP_11)] {
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([ca.clone()]);
        let client = if only_http1 { client.http1_only() } else { client }.build().expect("a client");
        let answer = client.get(format!("https://{}/v1/lines", worker.http)).bearer_auth(KEY).send().await;
        let answer = answer.expect("an answer");
        assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_client_that_reads_no_response_over_http2_is_disconnected() {
    let endless = get(|| async {
        let pieces = stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 64 * 1024])));
        Body::from_stream(pieces)
    });
    let router = Router::new().route("/", endless).route("/other", get(|| async { "done" }));
    let server = Server::start(router, LIMITS).await;
    let (mut requests, connection) = server.connect().await;
    let (answer, _) = requests.send_request(request(), true).expect("sent");
    let _unread = answer.await.expect("an answer").into_body();
    // Other requests on the connection do not keep it open.
    until("the connection ends", async || {
        let other = http::Request::get("https://127.0.0.1/other").body(()).expect("a request");
        match requests.send_request(other, true) {
            Ok((answer, _)) => answer.await.is_err(),
            Err(_) => true,
        }
    })
    .await;
    connection.await.expect("no panic");
    server.stop().await;
}

#[tokio::test]
async fn an_idle_connection_over_http2_is_closed_and_a_waiting_request_is_not() {
    let (go, router) = waiting();
    let server = Server::start(router, LIMITS).await;
    let (_idle, idle_ended) = server.connect().await;
    let (mut requests, _connection) = server.connect().await;
    let (answer, _) = requests.send_request(request(), true).expect("sent");
    idle_ended.await.expect("no panic");
    go.send(true).expect("a handler waits");
    assert_eq!(answer.await.expect("an answer").status(), StatusCode::OK);
    server.stop().await;
}

#[tokio::test]
async fn requests_over_http2_beyond_the_limit_wait() {
    let (current, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = peak.clone();
    let handler = get(move || {
        let (current, peak) = (current.clone(), peak.clone());
        async move {
            peak.fetch_max(current.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // Meanwhile the other requests would begin, if they could.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            current.fetch_sub(1, Ordering::SeqCst);
        }
    });
    let limits = ConnectionLimits { connections_max: 2, ..LIMITS };
    let server = Server::start(Router::new().route("/", handler), limits).await;
    let (mut requests, _connection) = server.connect().await;
    let answers: Vec<_> = (0..20).map(|_| requests.send_request(request(), true).expect("sent").0).collect();
    for answer in answers {
        assert_eq!(answer.await.expect("an answer").status(), StatusCode::OK);
    }
    assert_eq!(seen.load(Ordering::SeqCst), 2);
    server.stop().await;
}

#[tokio::test]
async fn a_stop_answers_requests_over_http2_and_closes_their_connection() {
    let (go, router) = waiting();
    let server = Server::start(router, LIMITS).await;
    let (mut requests, connection) = server.connect().await;
    let (answer, _) = requests.send_request(request(), true).expect("sent");
    until("the request has begun", async || go.receiver_count() > 1).await;
    server.stop.cancel();
    go.send(true).expect("a handler waits");
    assert_eq!(answer.await.expect("an answer").status(), StatusCode::OK);
    connection.await.expect("no panic");
    server.stop().await;
}

/// Upgrades the connection, and returns what is written to it.
async fn echo(mut request: Request) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.expect("an upgrade"));
        let mut piece = [0; 64];
        while let Ok(n @ 1..) = stream.read(&mut piece).await {
            stream.write_all(&piece[..n]).await.expect("written");
        }
    });
    (StatusCode::SWITCHING_PROTOCOLS, [(header::CONNECTION, "upgrade"), (header::UPGRADE, "echo")]).into_response()
}

#[tokio::test]
async fn an_upgraded_connection_counts_until_it_ends_and_a_stop_ends_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let (address, stop) = (listener.local_addr().expect("an address"), CancellationToken::new());
    let limits = ConnectionLimits { connections_max: 1, stop_timeout: Duration::from_millis(100), ..LIMITS };
    let router = Router::new().route("/", get(echo));
    let server = tokio::spawn(listener::serve(listener, router, limits, None, Gauge::noop(), stop.clone()));
    let upgrade = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    let connect = async || {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(upgrade).await.expect("written");
        stream
    };
    /// Reads the response's head.
    async fn head(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a response"));
        }
        String::from_utf8(head).expect("ASCII")
    }
    let mut first = connect().await;
    assert!(head(&mut first).await.starts_with("HTTP/1.1 101 "));
    let mut second = connect().await;
    let mut piece = [0; 5];
    first.write_all(b"hello").await.expect("written");
    first.read_exact(&mut piece).await.expect("an echo");
    assert_eq!(&piece, b"hello");
    assert!(head(&mut second).now_or_never().is_none(), "the second connection waits for the end of the first");
    drop(first);
    assert!(head(&mut second).await.starts_with("HTTP/1.1 101 "));
    stop.cancel();
    assert_eq!(server.await.expect("no panic"), Ok(()));
    assert_eq!(second.read(&mut piece).await.unwrap_or(0), 0, "the stop closed the upgraded connection");
}
