//! A link with a delay, and a fake Meta at its far end that speaks HTTP/2 or HTTP/1.1 over TLS. It is separate from
//! [`hostile`](super::hostile), which speaks plain HTTP/1.1, because handshakes and streams over a slow link can
//! cause bursts.
//!
//! A message is stamped when it enters the link, before the delay. So the stamp says when the worker sent the message,
//! unchanged by timers of the link that fire late. As in [`hostile`](super::hostile), a stamp is an interval, from an
//! earlier heartbeat of the reading thread to the time of reading.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pregon::telemetry::clock;
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::Sleep,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::hostile::{self, Answer, Arrival};

const HEARTBEAT: Duration = Duration::from_millis(1);

/// The interval in which bytes entered the link: its start and end.
pub(super) type Stamp = (Instant, Instant);

/// A TCP proxy that delays all bytes in both directions by the same time. It ends with its runtime.
pub struct Link {
    addr: SocketAddr,
}

impl Link {
    /// A link to `server` with a one-way `delay`.
    pub async fn start(server: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let heartbeat = Heartbeat::start();
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                let mut client = Delayed::new(client, delay, heartbeat.clone(), Entered::default());
                tokio::spawn(async move {
                    // Both ends notice a broken connection themselves.
                    if let Ok(mut server) = TcpStream::connect(server).await {
                        let _ = server.set_nodelay(true);
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { addr }
    }

    /// The address of the near end.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// Options of a [`FarMeta`].
#[derive(Clone, Copy)]
pub struct FarOptions {
    /// Speaks HTTP/2 if true, otherwise HTTP/1.1.
    pub http2: bool,
    /// The one-way delay of the link.
    pub delay: Duration,
    /// One in this many messages is accepted and never answered; 0: none.
    pub lost_every: usize,
}

/// A fake Meta behind a link, on a separate thread. It stops when dropped.
pub struct FarMeta {
    addr: SocketAddr,
    ca: NamedTempFile,
    far: Arc<Far>,
    end: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Far {
    options: FarOptions,
    messages: AtomicUsize,
    arrivals: Mutex<Vec<Arrival>>,
    /// Cancelled to close the open connections.
    hang_up: Mutex<CancellationToken>,
}

impl FarMeta {
    pub fn start(options: FarOptions) -> Self {
        let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let mut ca = NamedTempFile::new().expect("a file");
        ca.write_all(certified.cert.pem().as_bytes()).expect("written");
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).expect("a key");
        let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .expect("a certificate and its key");
        tls.alpn_protocols = vec![if options.http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let far = Arc::new(Far {
            options,
            messages: AtomicUsize::new(0),
            arrivals: Mutex::default(),
            hang_up: Mutex::new(CancellationToken::new()),
        });
        let end = CancellationToken::new();
        let (addr_sender, addr) = std::sync::mpsc::channel();
        let (shared, ended) = (far.clone(), end.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(ended.run_until_cancelled(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                addr_sender.send(listener.local_addr().expect("an address")).expect("the test waits");
                let heartbeat = Heartbeat::start();
                loop {
                    let (stream, _) = listener.accept().await.expect("a connection");
                    let hung_up = shared.hang_up.lock().expect("no panic").clone();
                    let serving = serve(stream, acceptor.clone(), shared.clone(), heartbeat.clone());
                    tokio::spawn(async move { hung_up.run_until_cancelled(serving).await });
                }
            }));
        });
        Self { addr: addr.recv().expect("it listens"), ca, far, end, thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.addr)
    }

    /// The environment variables that a process needs to call this Meta, besides its URL.
    pub fn environment(&self) -> [(&'static str, &str); 2] {
        let version = if self.far.options.http2 { "2" } else { "1.1" };
        [
            ("PREGON__GRAPH__CA", self.ca.path().to_str().expect("a path of letters")),
            ("PREGON__GRAPH__HTTP_VERSION", version),
        ]
    }

    /// Every message so far, in the order in which they entered the link.
    pub fn arrivals(&self) -> Vec<Arrival> {
        let mut arrivals = self.far.arrivals.lock().expect("no panic").clone();
        arrivals.sort_by_key(|arrival| arrival.latest);
        arrivals
    }

    pub fn messages(&self) -> usize {
        self.far.messages.load(Ordering::SeqCst)
    }

    /// Closes every connection, as servers do with idle ones.
    pub fn hang_up(&self) {
        std::mem::take(&mut *self.far.hang_up.lock().expect("no panic")).cancel();
    }
}

impl Drop for FarMeta {
    fn drop(&mut self) {
        self.end.cancel();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("no panic in the server");
            }
        }
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, far: Arc<Far>, heartbeat: Heartbeat) {
    let entered = Entered::default();
    let link = Delayed::new(stream, far.options.delay, heartbeat, entered.clone());
    let Ok(tls) = acceptor.accept(link).await else { return };
    let http2 = far.options.http2;
    let service = service_fn(move |request| {
        let stamp = entered.last();
        answer(request, stamp, far.clone())
    });
    // An error means that the client has gone.
    if http2 {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(tls), service).await;
    } else {
        let builder = hyper::server::conn::http1::Builder::new();
        let _ = builder.serve_connection(TokioIo::new(tls), service).await;
    }
}

async fn answer(
    request: Request<Incoming>,
    (earliest, latest): Stamp,
    far: Arc<Far>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let answer = if head.method == hyper::Method::POST {
        let mut steps = head.uri.path().split('/').skip(1).map(str::to_owned);
        let (version, line) = (steps.next().unwrap_or_default(), steps.next().unwrap_or_default());
        let body: Value = serde_json::from_slice(&body.collect().await?.to_bytes()).expect("a send is JSON");
        let to = body["to"].as_str().unwrap_or_default().trim_start_matches('+').to_owned();
        let answer = hostile::accepted(&to, &hostile::wamid(&to, 1));
        far.arrivals.lock().expect("no panic").push(Arrival { version, line, to, earliest, latest, at: clock::now() });
        let number = far.messages.fetch_add(1, Ordering::SeqCst) + 1;
        if far.options.lost_every > 0 && number.is_multiple_of(far.options.lost_every) {
            std::future::pending::<()>().await;
        }
        answer
    } else {
        hostile::node(head.uri.path())
    };
    let Answer::Json(http_status, body) = answer else { unreachable!("it answers in JSON") };
    let response = Response::builder().status(http_status).header("content-type", "application/json");
    Ok(response.body(Full::new(body.to_string().into())).expect("a response"))
}

/// The last two times at which a thread was certainly running.
#[derive(Clone)]
pub(super) struct Heartbeat(Arc<Mutex<[Instant; 2]>>);

impl Heartbeat {
    pub(super) fn start() -> Self {
        let heartbeats = Self(Arc::new(Mutex::new([Instant::now(); 2])));
        let shared = heartbeats.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(HEARTBEAT);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let mut heartbeats = shared.0.lock().expect("no panic");
                *heartbeats = [heartbeats[1], Instant::now()];
            }
        });
        heartbeats
    }

    fn stamp(&self) -> Stamp {
        (self.0.lock().expect("no panic")[0], Instant::now())
    }
}

/// The interval in which the last read bytes entered the link.
#[derive(Clone, Default)]
pub(super) struct Entered(Arc<Mutex<Option<Stamp>>>);

impl Entered {
    fn last(&self) -> Stamp {
        self.0.lock().expect("no panic").expect("a request came in")
    }
}

/// The far end of a client's connection.
///
/// Returns the bytes in the pieces in which they entered the link, and pauses after each. A piece is thus handled
/// before the next one is read, so [`Entered::last`] belongs to the piece being handled. The first piece takes one
/// round trip more, for TCP's handshake.
pub(super) struct Delayed {
    delay: Duration,
    pieces: mpsc::UnboundedReceiver<(Stamp, Bytes)>,
    /// The piece that is due when the timer fires.
    waiting: Option<(Stamp, Bytes)>,
    /// Whether the first piece has been received.
    began: bool,
    timer: Pin<Box<Sleep>>,
    /// Whether the next read pauses first.
    pause: bool,
    entered: Entered,
    out: mpsc::UnboundedSender<(Instant, Bytes)>,
}

impl Delayed {
    pub(super) fn new(stream: TcpStream, delay: Duration, heartbeat: Heartbeat, entered: Entered) -> Self {
        let _ = stream.set_nodelay(true);
        let (mut from, mut to) = stream.into_split();
        let (entering, pieces) = mpsc::unbounded_channel();
        let (out, mut leaving) = mpsc::unbounded_channel::<(Instant, Bytes)>();
        tokio::spawn(async move {
            let mut buffer = BytesMut::new();
            while from.readable().await.is_ok() {
                match from.read_buf(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) if entering.send((heartbeat.stamp(), buffer.split().freeze())).is_err() => return,
                    Ok(_) => {}
                }
            }
        });
        tokio::spawn(async move {
            while let Some((due, bytes)) = leaving.recv().await {
                tokio::time::sleep_until(due.into()).await;
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        let timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self { delay, pieces, waiting: None, began: false, timer, pause: false, entered, out }
    }

    /// The interval in which the last read bytes entered the link.
    pub(super) fn entered(&self) -> Stamp {
        self.entered.last()
    }
}

impl AsyncRead for Delayed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.pause) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.waiting.is_none() {
            let Some((stamp, bytes)) = ready!(self.pieces.poll_recv(cx)) else { return Poll::Ready(Ok(())) };
            let ways = if std::mem::replace(&mut self.began, true) { 1 } else { 3 };
            let due = stamp.1 + self.delay * ways;
            self.timer.as_mut().reset(due.into());
            self.waiting = Some((stamp, bytes));
        }
        ready!(self.timer.as_mut().poll(cx));
        let (stamp, bytes) = self.waiting.as_mut().expect("one waits");
        let (stamp, n) = (*stamp, bytes.len().min(buf.remaining()));
        buf.put_slice(&bytes.split_to(n));
        let used_up = !bytes.has_remaining();
        *self.entered.0.lock().expect("no panic") = Some(stamp);
        if used_up {
            self.waiting = None;
            self.pause = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Delayed {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let due = Instant::now() + self.delay;
        let sent = self.out.send((due, Bytes::copy_from_slice(bytes)));
        Poll::Ready(sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
