//! Connections that are too many or too slow, and request heads that are too large.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use futures_util::{FutureExt as _, stream};
use metrics::Gauge;
use pregon::http::listener::{self, ConnectionLimits};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use super::kit::{Caller, Worker, head};
use crate::support::until;

#[tokio::test]
async fn oversized_or_too_many_headers_return_431() {
    let worker = Worker::start(|config| config.http.header_bytes_max = 4_096).await;
    let long = format!("x: {}\r\n", "x".repeat(4_096));
    for (what, request) in [
        ("one long header", head("GET", "/lines", &long)),
        ("too many headers", head("GET", "/lines", &"x: y\r\n".repeat(100))),
        ("a long path", head("GET", &format!("/{}", "x".repeat(4_096)), "")),
        ("an endless header", format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(1 << 20))),
    ] {
        let answer = worker.ask(request.as_bytes()).await;
        assert_eq!(answer.map(|answer| answer.status), Some(431), "{what}");
    }
    let many = worker.ask(head("GET", "/lines", &"x: y\r\n".repeat(90)).as_bytes()).await.expect("an answer");
    assert_eq!(many.status, 200, "headers within the limits are accepted");
    worker.stop().await;
}

#[tokio::test]
async fn a_malformed_request_returns_400() {
    let worker = Worker::start(|_| ()).await;
    let bad = [
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n",
    ];
    for bad in bad {
        assert_eq!(worker.ask(bad.as_bytes()).await.map(|answer| answer.status), Some(400), "{bad:?}");
    }
    let twice = "POST /v1/campaigns HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n";
    assert_eq!(worker.ask(twice.as_bytes()).await.map(|answer| answer.status), Some(400), "two different body lengths");
    worker.assert_healthy().await;
    worker.stop().await;
}

#[tokio::test]
async fn an_unfinished_head_or_idle_connection_is_closed() {
    let worker = Worker::start(|config| config.http.header_timeout = Duration::from_secs(1)).await;
    let mut silent = worker.connect().await;
    let mut unfinished = worker.connect().await;
    unfinished.send(b"GET /v1/lines HTTP/1.1\r\nhost: ").await;
    let mut idle = worker.connect().await;
    idle.send(head("GET", "/lines", "").as_bytes()).await;
    assert_eq!(idle.answer().await.map(|answer| answer.status), Some(200));
    let mut dripping = worker.connect().await;
    let drip = async {
        while dripping.0.readable().now_or_never().is_none() {
            dripping.send(b"x").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        dripping.ended().await;
    };
    tokio::join!(silent.ended(), unfinished.ended(), idle.ended(), drip);
    worker.assert_healthy().await;
    worker.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_and_open_ones_go_on() {
    let worker = Worker::start(|config| config.http.connections_max = 2).await;
    let asks = head("GET", "/lines", "");
    let (mut first, mut second) = (worker.connect().await, worker.connect().await);
    for caller in [&mut first, &mut second] {
        caller.send(asks.as_bytes()).await;
        assert_eq!(caller.answer().await.map(|answer| answer.status), Some(200));
    }
    let mut third = worker.connect().await;
    third.send(asks.as_bytes()).await;
    for _ in 0..50 {
        first.send(asks.as_bytes()).await;
        assert_eq!(first.answer().await.map(|answer| answer.status), Some(200));
    }
    assert!(third.0.readable().now_or_never().is_none(), "it waits");
    drop(second);
    assert_eq!(third.answer().await.map(|answer| answer.status), Some(200));
    drop((first, third));
    worker.assert_healthy().await;
    worker.stop().await;
}

/// Limits with timeouts of one second.
pub const LIMITS: ConnectionLimits = ConnectionLimits {
    connections_max: 8,
    header_bytes_max: 4_096,
    header_timeout: Duration::from_secs(1),
    stall_timeout: Duration::from_secs(1),
    stop_timeout: Duration::from_secs(60),
};

/// Serves `router` and connects to it. Returns the connection, the token that stops the server, and the server's task.
async fn listen(
    router: Router,
    limits: ConnectionLimits,
) -> (Caller, CancellationToken, tokio::task::JoinHandle<Result<(), Infallible>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let stop = CancellationToken::new();
    let server = tokio::spawn(listener::serve(listener, router, limits, None, Gauge::noop(), stop.clone()));
    (Caller(TcpStream::connect(address).await.expect("a connection")), stop, server)
}

#[tokio::test]
async fn a_client_that_reads_no_response_is_disconnected() {
    let held = Arc::new(());
    let by_the_router = held.clone();
    let endless = get(move || {
        let held = by_the_router.clone();
        let pieces = stream::repeat_with(move || {
            let _while_it_is_written = &held;
            Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 64 * 1024]))
        });
        async { Body::from_stream(pieces) }
    });
    let (mut caller, stop, server) = listen(Router::new().route("/", endless), LIMITS).await;
    let idle = Arc::strong_count(&held);
    caller.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    caller.0.readable().await.expect("it begins");
    assert!(Arc::strong_count(&held) > idle);
    until("nothing is written any more", async || Arc::strong_count(&held) == idle).await;
    stop.cancel();
    assert_eq!(server.await.expect("no panic"), Ok(()));
}

#[tokio::test]
async fn a_stop_answers_started_requests_and_closes_idle_connections() {
    let (start, mut started) = mpsc::channel(1);
    let (go, may_answer) = tokio::sync::watch::channel(false);
    let slow = get(move || {
        let (start, mut may_answer) = (start.clone(), may_answer.clone());
        async move {
            start.send(()).await.expect("the test waits");
            may_answer.wait_for(|allowed| *allowed).await.expect("the test signals");
            "done"
        }
    });
    let (mut caller, stop, server) = listen(Router::new().route("/", slow), LIMITS).await;
    caller.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    started.recv().await.expect("a request");
    stop.cancel();
    go.send(true).expect("the handler waits");
    assert_eq!(caller.answer().await.map(|answer| answer.status), Some(200));
    caller.ended().await;
    assert_eq!(server.await.expect("no panic"), Ok(()));
}

#[tokio::test]
async fn a_stop_drops_requests_after_its_timeout() {
    let (start, mut started) = mpsc::channel(1);
    let never = get(move || {
        let start = start.clone();
        async move {
            start.send(()).await.expect("the test waits");
            std::future::pending::<()>().await;
        }
    });
    let limits = ConnectionLimits { stop_timeout: Duration::from_millis(100), ..LIMITS };
    let (mut caller, stop, server) = listen(Router::new().route("/", never), limits).await;
    caller.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    started.recv().await.expect("a request");
    stop.cancel();
    assert_eq!(server.await.expect("no panic"), Ok(()));
    caller.ended().await;
    assert_eq!(started.recv().await, None, "the handler is dropped");
}
