//! HTTP/2 over TLS: which messages share a connection, and which are in doubt when it breaks.

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{Reason, server::SendResponse};
use pregon::{
    domain::{Cause, Outcome},
    graph::{GraphClient, GraphClientConfig, Permit},
};
use rustls::pki_types::PrivateKeyDer;
use tempfile::NamedTempFile;
use tokio::{
    net::TcpListener,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::server::{accepted, client, deliver, fixture, message, patient, sender};

/// A request that was read completely and waits for the test's response.
struct Arrived {
    connection: usize,
    body: String,
    answer: SendResponse<Bytes>,
    /// Closes the connection without a response.
    end: UnboundedSender<()>,
}

impl Arrived {
    fn accept(mut self) {
        let mut body = self.answer.send_response(http::Response::new(()), false).expect("a connection");
        body.send_data(fixture!("accepted.json").into(), true).expect("a connection");
    }
}

/// A fake Meta that speaks only HTTP/2, with a certificate of its own. It is separate from the others because its
/// tests answer single streams and send single frames, which takes the `h2` crate.
struct Meta {
    base_url: String,
    ca: NamedTempFile,
    connections: Arc<AtomicUsize>,
    arrived: UnboundedReceiver<Arrived>,
}

impl Meta {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let mut ca = NamedTempFile::new().expect("a file");
        ca.write_all(certified.cert.pem().as_bytes()).expect("written");
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).expect("a key");
        let mut tls = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .expect("a certificate and its key");
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base_url = format!("https://{}", listener.local_addr().expect("bound"));
        let connections = Arc::new(AtomicUsize::new(0));
        let (arrivals, arrived) = unbounded_channel();
        let counted = connections.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let number = counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(acceptor.clone(), stream, number, arrivals.clone()));
            }
        });
        Self { base_url, ca, connections, arrived }
    }

    fn client(&self, streams_max: usize) -> GraphClient {
        let ca = Some(self.ca.path().to_owned());
        client(GraphClientConfig { base_url: self.base_url.clone(), ca, streams_max, ..patient() })
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Makes the client open `n` connections.
    async fn open_connections(&mut self, client: &GraphClient, streams_max: usize, n: usize) {
        for before in 0..n {
            let sending = send(client, before * streams_max + 1);
            self.arrived(before * streams_max + 1).await.into_iter().for_each(Arrived::accept);
            sending.join_all().await;
        }
    }

    /// The next `n` messages.
    async fn arrived(&mut self, n: usize) -> Vec<Arrived> {
        let mut arrived = Vec::with_capacity(n);
        for _ in 0..n {
            arrived.push(self.arrived.recv().await.expect("the server runs"));
        }
        arrived
    }
}

async fn serve(
    acceptor: TlsAcceptor,
    stream: tokio::net::TcpStream,
    connection: usize,
    arrivals: UnboundedSender<Arrived>,
) {
    let Ok(tls) = acceptor.accept(stream).await else { return };
    let Ok(mut http2) = h2::server::handshake(tls).await else { return };
    let (end, mut ended) = unbounded_channel();
    loop {
        let request = tokio::select! {
            request = http2.accept() => request,
            _ = ended.recv() => return,
        };
        let Some(Ok((request, answer))) = request else { return };
        let (arrivals, end) = (arrivals.clone(), end.clone());
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            assert_eq!((head.method.as_str(), head.uri.path()), ("POST", "/v25.0/3001/messages"));
            let mut text = String::new();
            while let Some(Ok(data)) = body.data().await {
                text.push_str(std::str::from_utf8(&data).expect("ascii"));
            }
            let _ = arrivals.send(Arrived { connection, body: text, answer, end });
        });
    }
}

/// Sends `n` messages at once.
fn send(client: &GraphClient, n: usize) -> JoinSet<Outcome> {
    (0..n)
        .map(|n| {
            let sender = sender(client);
            async move { deliver(&sender, format!(r#"{{"n":{n}}}"#).into()).await }
        })
        .collect()
}

#[tokio::test]
async fn a_new_connection_carries_one_message_an_open_one_streams_max() {
    let mut meta = Meta::start().await;
    let client = meta.client(4);
    meta.open_connections(&client, 4, 1).await;
    let sender = sender(&client);
    let sending = send(&client, 5);
    let (full, mut new): (Vec<_>, Vec<_>) =
        meta.arrived(5).await.into_iter().partition(|message| message.connection == 0);
    assert_eq!((full.len(), new.len()), (4, 1));
    assert!(matches!(sender.permit(Instant::now()), Some(Permit::New(_))), "both connections are full");
    new.remove(0).accept();
    while !matches!(sender.permit(Instant::now()), Some(Permit::Open(_))) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    full.into_iter().for_each(Arrived::accept);
    assert_eq!(sending.join_all().await, vec![accepted(false); 5]);
    // Both connections are reused.
    let sending = send(&client, 8);
    let arrived = meta.arrived(8).await;
    assert_eq!(arrived.iter().filter(|message| message.connection == 0).count(), 4);
    let mut bodies: Vec<_> = arrived.iter().map(|message| message.body.clone()).collect();
    bodies.sort_unstable();
    bodies.dedup();
    assert_eq!(bodies.len(), 8);
    arrived.into_iter().for_each(Arrived::accept);
    assert_eq!(sending.join_all().await, vec![accepted(false); 8]);
    assert_eq!(meta.connections(), 2);
}

#[tokio::test]
async fn connect_sends_nothing_until_leave() {
    let mut meta = Meta::start().await;
    let client = meta.client(4);
    let sender = sender(&client);
    let now = Instant::now();
    let Some(Permit::New(permit)) = sender.permit(now) else { panic!("there is no connection yet") };
    assert!(sender.permit(now).is_none(), "a connection is being opened");
    let departure = sender.connect(permit, message("{}".into())).await.expect("a connection");
    assert_eq!(meta.connections(), 1);
    assert!(meta.arrived.try_recv().is_err());
    let leaving = tokio::spawn(departure.leave());
    meta.arrived(1).await.remove(0).accept();
    assert_eq!(leaving.await.expect("it ended"), accepted(false));
    // A departure that is dropped sends nothing.
    let opened = [(); 4].map(|()| sender.permit(now).expect("a permit"));
    let Some(Permit::New(permit)) = sender.permit(now) else { panic!("the open connection is full") };
    drop(sender.connect(permit, message("{}".into())).await.expect("a connection"));
    drop(opened);
    let sending = send(&client, 1);
    let next = meta.arrived(1).await.remove(0);
    assert_eq!((next.connection, next.body.as_str()), (0, r#"{"n":0}"#));
    next.accept();
    sending.join_all().await;
}

/// Checks that the next message uses another connection than `silent`.
async fn assert_next_avoids(meta: &mut Meta, client: &GraphClient, silent: usize) {
    let sending = send(client, 1);
    let next = meta.arrived(1).await.remove(0);
    assert_ne!(next.connection, silent);
    next.accept();
    assert_eq!(sending.join_all().await, [accepted(false)]);
}

#[tokio::test]
async fn a_missing_first_response_delays_no_other_message() {
    let mut meta = Meta::start().await;
    let client = meta.client(4);
    let _sending = send(&client, 1);
    let silent = meta.arrived(1).await.remove(0);
    assert_next_avoids(&mut meta, &client, silent.connection).await;
}

#[tokio::test]
async fn a_message_for_a_closed_connection_is_returned_unsent() {
    let mut meta = Meta::start().await;
    let client = meta.client(4);
    meta.open_connections(&client, 4, 1).await;
    let sender = sender(&client);
    let taken = || match sender.permit(Instant::now()) {
        Some(Permit::Open(permit)) => permit,
        _ => panic!("no open connection"),
    };
    // The server closes the connection while a message is in flight, which is then in doubt. Until the client
    // notices, the connection still has permits.
    let (doubtful, late) = (taken(), taken());
    let doubtful = tokio::spawn({
        let sender = sender.clone();
        async move { sender.send(doubtful, message("{}".into())).await }
    });
    let _ = meta.arrived(1).await.remove(0).end.send(());
    assert!(matches!(doubtful.await.expect("it ended"), Some(Outcome::InDoubt(_))));
    assert_eq!(sender.send(late, message("{}".into())).await, None);
    assert!(meta.arrived.try_recv().is_err());
    assert_eq!(meta.connections(), 1, "sending an existing permit opens no connection");
}

#[tokio::test]
async fn only_messages_on_a_broken_connection_are_in_doubt() {
    let mut meta = Meta::start().await;
    let client = meta.client(2);
    meta.open_connections(&client, 2, 2).await;
    let sending = send(&client, 4);
    let arrived = meta.arrived(4).await;
    let broken = arrived[0].connection;
    for message in arrived {
        if message.connection != broken {
            message.accept();
        } else {
            let _ = message.end.send(());
        }
    }
    let outcomes = sending.join_all().await;
    let in_doubt = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::InDoubt(_))).count();
    let taken = outcomes.iter().filter(|outcome| **outcome == accepted(false)).count();
    assert_eq!((in_doubt, taken), (2, 2), "{outcomes:?}");
    // The next messages use working connections.
    let sending = send(&client, 3);
    meta.arrived(3).await.into_iter().for_each(Arrived::accept);
    assert_eq!(sending.join_all().await, vec![accepted(false); 3]);
}

#[tokio::test]
async fn only_a_refused_stream_is_a_retry_other_resets_are_in_doubt() {
    let mut meta = Meta::start().await;
    let client = meta.client(64);
    for (reason, certain) in [
        (Reason::REFUSED_STREAM, true),
        (Reason::INTERNAL_ERROR, false),
        (Reason::CANCEL, false),
        (Reason::NO_ERROR, false),
    ] {
        let sending = send(&client, 1);
        let [mut message] = <[_; 1]>::try_from(meta.arrived(1).await).ok().expect("one");
        message.answer.send_reset(reason);
        let outcome = sending.join_all().await.remove(0);
        let as_expected = match &outcome {
            Outcome::Retry { wait: None, cause: Cause::Unreachable(_) } => certain,
            Outcome::InDoubt(Cause::Unanswered(_)) => !certain,
            _ => false,
        };
        assert!(as_expected, "{reason:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_connection_with_an_unanswered_message_gets_no_more() {
    let mut meta = Meta::start().await;
    let hasty = std::time::Duration::from_millis(500);
    let ca = Some(meta.ca.path().to_owned());
    let config = GraphClientConfig { timeout: hasty, connect_timeout: hasty * 9 / 10, ca, ..patient() };
    let client = client(GraphClientConfig { base_url: meta.base_url.clone(), ..config });
    let sending = send(&client, 1);
    let silent = meta.arrived(1).await.remove(0);
    assert!(matches!(sending.join_all().await[..], [Outcome::InDoubt(_)]));
    assert_next_avoids(&mut meta, &client, silent.connection).await;
}

#[tokio::test]
async fn a_certificate_of_an_unconfigured_ca_is_not_trusted() {
    let meta = Meta::start().await;
    let untrusting = client(GraphClientConfig { base_url: meta.base_url.clone(), ..patient() });
    let outcome = deliver(&sender(&untrusting), "{}".into()).await;
    assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
}
