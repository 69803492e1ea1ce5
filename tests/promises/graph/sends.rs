//! The outcome of an attempt: what is certain, what is in doubt, and that no request is written twice.

use std::{collections::HashMap, time::Duration};

use pregon::{
    domain::{Cause, ErrorScope, MetaCode, Outcome},
    graph::GraphClientConfig,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};

use super::server::{Server, accepted, client, deliver, fixture, header, http, patient, sender};

fn is_retry(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Retry { wait: None, cause: Cause::Unreachable(_) })
}

fn is_in_doubt(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::InDoubt(Cause::Unanswered(_)))
}

#[tokio::test]
async fn a_send_has_metas_format_and_returns_the_message_id() {
    let meta = Server::answering(http("200 OK", fixture!("accepted.json"))).await;
    let sender = meta.sender();
    assert_eq!(deliver(&sender, r#"{"to":"+447700900123"}"#.into()).await, accepted(false));
    let [request] = meta.received().try_into().expect("one request");
    assert!(request.head.starts_with("POST /v25.0/3001/messages HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(header(&request.head, "authorization"), Some("Bearer EAAJ-token"));
    assert_eq!(header(&request.head, "content-type"), Some("application/json"));
    assert_eq!(header(&request.head, "content-length"), Some("22"));
    assert_eq!(header(&request.head, "cookie"), None);
    assert_eq!(request.body, r#"{"to":"+447700900123"}"#);
    assert!(!format!("{sender:?}").contains("EAAJ"), "the token is printed: {sender:?}");
}

#[tokio::test]
async fn a_chunked_response_is_read_completely() {
    let meta = Server::start(|mut connection| async move {
        while connection.request().await.is_some() {
            connection.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            for piece in fixture!("accepted_held.json").as_bytes().chunks(7) {
                let text = std::str::from_utf8(piece).expect("ascii");
                connection.write(&format!("{:x}\r\n{text}\r\n", piece.len())).await;
                tokio::task::yield_now().await;
            }
            connection.write("0\r\n\r\n").await;
        }
    })
    .await;
    assert_eq!(deliver(&meta.sender(), "{}".into()).await, accepted(true));
}

#[tokio::test]
async fn an_error_from_meta_maps_to_its_outcome() {
    let meta = Server::answering(http("400 Bad Request", fixture!("error_130429.json"))).await;
    match deliver(&meta.sender(), "{}".into()).await {
        Outcome::Throttled { scope: ErrorScope::Line, wait, cause: Cause::Meta { code: MetaCode(130_429), .. } } => {
            assert_eq!(wait, Duration::from_secs(1));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_refused_connection_is_a_retry() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base_url = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let outcome = deliver(&sender(&client(GraphClientConfig { base_url, ..patient() })), "{}".into()).await;
    assert!(is_retry(&outcome), "{outcome:?}");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_a_retry() {
    // The resolver itself rejects a label of 64 letters, so no query leaves this machine.
    let base_url = format!("https://{}.invalid", "a".repeat(64));
    let outcome = deliver(&sender(&client(GraphClientConfig { base_url, ..patient() })), "{}".into()).await;
    assert!(is_retry(&outcome), "{outcome:?}");
}

#[tokio::test]
async fn a_failed_tls_handshake_is_a_retry() {
    let not_tls = Server::start(|mut connection| async move {
        connection.write("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        // Read until the client closes: a reset would be a different failure.
        while connection.stream.read_u8().await.is_ok() {}
    })
    .await;
    let base_url = not_tls.base_url.replace("http:", "https:");
    let outcome = deliver(&sender(&client(GraphClientConfig { base_url, ..patient() })), "{}".into()).await;
    assert!(is_retry(&outcome), "{outcome:?}");
    assert_eq!(not_tls.received().len(), 0);
}

#[tokio::test]
async fn a_connect_timeout_is_a_retry() {
    let silent =
        Server::start(|mut connection| async move { while connection.stream.read_u8().await.is_ok() {} }).await;
    let base_url = silent.base_url.replace("http:", "https:");
    let config = GraphClientConfig { base_url, connect_timeout: Duration::from_millis(50), ..patient() };
    let outcome = deliver(&sender(&client(config)), "{}".into()).await;
    assert!(is_retry(&outcome), "{outcome:?}");
}

#[tokio::test]
async fn a_response_timeout_is_in_doubt() {
    let meta = Server::start(|mut connection| async move { while connection.request().await.is_some() {} }).await;
    let outcome = deliver(&sender(&meta.hasty()), "{}".into()).await;
    assert!(is_in_doubt(&outcome), "{outcome:?}");
    assert_eq!(meta.bodies(), HashMap::from([("{}".to_owned(), 1)]));
}

#[tokio::test]
async fn a_timeout_within_the_response_is_in_doubt() {
    let meta = Server::start(|mut connection| async move {
        while connection.request().await.is_some() {
            let answer = http("200 OK", fixture!("accepted.json"));
            connection.write(&answer[..answer.len() - 20]).await;
        }
    })
    .await;
    let outcome = deliver(&sender(&meta.hasty()), "{}".into()).await;
    assert!(is_in_doubt(&outcome), "{outcome:?}");
    assert_eq!(meta.bodies(), HashMap::from([("{}".to_owned(), 1)]));
}

#[tokio::test]
async fn a_reset_after_the_body_is_in_doubt() {
    let meta = Server::start(|mut connection| async move {
        connection.request().await;
        connection.reset();
    })
    .await;
    let outcome = deliver(&meta.sender(), "{}".into()).await;
    assert!(is_in_doubt(&outcome), "{outcome:?}");
    assert_eq!(meta.bodies(), HashMap::from([("{}".to_owned(), 1)]));
}

#[tokio::test]
async fn a_response_that_is_not_metas_is_in_doubt_and_not_resent() {
    let html = "<html><body><h1>502 Bad Gateway</h1></body></html>";
    let whole = http("200 OK", fixture!("accepted.json"));
    let too_long = format!("{}{}", fixture!("accepted.json"), " ".repeat(64 * 1024));
    let cases = [
        ("closed without an answer", String::new()),
        ("half a head", whole[..30].to_owned()),
        ("half a body", whole[..whole.len() - 20].to_owned()),
        ("no HTTP", "220 mail.example ESMTP\r\n".to_owned()),
        ("HTML 502", http("502 Bad Gateway", html)),
        ("HTML 429", http("429 Too Many Requests", html)),
        ("empty 500", http("500 Internal Server Error", "")),
        ("200 of another server", http("200 OK", r#"{"status":"ok"}"#)),
        ("200 with a list", http("200 OK", "[]")),
        ("an answer above the bound", http("200 OK", &too_long)),
        ("408 on a closing connection", "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n".to_owned()),
        ("301", "HTTP/1.1 301 Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("307", "HTTP/1.1 307 Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("308", "HTTP/1.1 308 Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("204", "HTTP/1.1 204 No Content\r\n\r\n".to_owned()),
    ];
    for (name, answer) in cases {
        let meta = Server::start(move |mut connection| {
            let answer = answer.clone();
            async move {
                if connection.request().await.is_some() {
                    connection.write(&answer).await;
                }
            }
        })
        .await;
        let outcome = deliver(&meta.sender(), "{}".into()).await;
        assert!(is_in_doubt(&outcome), "{name}: {outcome:?}");
        assert_eq!(meta.bodies(), HashMap::from([("{}".to_owned(), 1)]), "{name}");
    }
}

#[tokio::test]
async fn a_connection_is_reused() {
    let (opened, mut openings) = mpsc::unbounded_channel();
    let meta = Server::start(move |mut connection| {
        opened.send(()).expect("the test listens");
        async move {
            while connection.request().await.is_some() {
                connection.write(&http("200 OK", fixture!("accepted.json"))).await;
            }
        }
    })
    .await;
    let sender = meta.sender();
    for _ in 0..10 {
        assert_eq!(deliver(&sender, "{}".into()).await, accepted(false));
    }
    assert_eq!(openings.recv().await, Some(()));
    assert!(openings.try_recv().is_err(), "ten sends in a row opened more than one connection");
}

#[tokio::test]
async fn an_idle_connection_closed_by_the_server_costs_no_message() {
    let (closed, mut closings) = mpsc::unbounded_channel();
    let meta = Server::start(move |mut connection| {
        let closed = closed.clone();
        async move {
            connection.request().await;
            connection.write(&http("200 OK", fixture!("accepted.json"))).await;
            drop(connection);
            closed.send(()).expect("the test listens");
        }
    })
    .await;
    let echo = Server::start(|mut connection| async move {
        let byte = connection.stream.read_u8().await.expect("a byte");
        connection.stream.write_u8(byte).await.expect("written");
    })
    .await;
    let sender = meta.sender();
    for n in 0..50 {
        assert_eq!(deliver(&sender, format!("{n}").into()).await, accepted(false), "send {n}");
        closings.recv().await.expect("the server goes on");
        // After this round trip, the runtime has seen every close that came before it.
        let mut probe = TcpStream::connect(echo.base_url.trim_start_matches("http://")).await.expect("the echo");
        probe.write_u8(7).await.expect("written");
        assert_eq!(probe.read_u8().await.expect("echoed"), 7);
        tokio::task::yield_now().await;
    }
    assert_eq!(meta.bodies(), (0..50).map(|n| (format!("{n}"), 1)).collect());
}

/// The server closes each connection right after its response without announcing it, so that the close races with every
/// stage of the next request. An accepted request was seen once, a retry never, one in doubt at most once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_racing_a_request_never_duplicates_it() {
    const SENDS: usize = 2_000;
    let meta = Server::start(|mut connection| async move {
        connection.request().await;
        connection.write(&http("200 OK", fixture!("accepted.json"))).await;
    })
    .await;
    let mut outcomes = HashMap::new();
    let mut senders = JoinSet::new();
    for task in 0..4 {
        let sender = sender(&meta.hasty());
        senders.spawn(async move {
            let mut outcomes = Vec::new();
            for n in 0..SENDS / 4 {
                let body = format!("{task}-{n}");
                outcomes.push((body.clone(), deliver(&sender, body.into()).await));
            }
            outcomes
        });
    }
    while let Some(done) = senders.join_next().await {
        outcomes.extend(done.expect("no panic"));
    }
    assert_eq!(outcomes.len(), SENDS);
    let bodies = meta.bodies();
    for (body, outcome) in &outcomes {
        let seen = bodies.get(body).copied().unwrap_or(0);
        match outcome {
            Outcome::Accepted { .. } => assert_eq!(seen, 1, "{body}: {outcome:?}"),
            Outcome::Withheld(_) | Outcome::Rerouted(_) => panic!("{body}: {outcome:?}"),
            Outcome::Retry { .. } => assert_eq!(seen, 0, "{body}: {outcome:?}"),
            Outcome::InDoubt(_) => assert!(seen <= 1, "{body} was written {seen} times: {outcome:?}"),
            Outcome::Throttled { .. } | Outcome::Failed { .. } | Outcome::Blocked { .. } => {
                panic!("{body}: {outcome:?}")
            }
        }
    }
    assert!(outcomes.values().any(|outcome| *outcome == accepted(false)));
}

/// The server closes each new connection at once. Now and then the client notices before it starts to write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_was_never_started_is_a_retry() {
    let meta = Server::start(|connection| async move { drop(connection) }).await;
    let sender = sender(&meta.hasty());
    let mut sends = 0;
    loop {
        let outcome = deliver(&sender, "{}".into()).await;
        if is_retry(&outcome) {
            break;
        }
        assert!(is_in_doubt(&outcome), "{outcome:?}");
        sends += 1;
        assert!(sends < 20_000, "none of {sends} requests was known to be unstarted");
    }
    assert_eq!(meta.received().len(), 0);
}
