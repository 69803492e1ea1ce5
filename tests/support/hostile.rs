//! A fake Meta, written apart from the project's simulator so that the two do not share a misreading of Meta's
//! documentation. It is a bare HTTP/1.1 server that answers each send as a test decides ([`Conduct`]), sends statuses
//! by signed webhook, and records when each request arrived. Most tests that need a Meta use it.
//!
//! A dedicated thread reads the requests. If the machine stalls that thread, everything that arrived meanwhile is
//! read at once. So an arrival is recorded as an interval in which it must have happened: from an earlier heartbeat
//! of the thread to the time of reading. Without a stall the interval is two milliseconds.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use pregon::{domain::UnixMs, telemetry::clock};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use super::{
    hooks::{signature, status_without_token, statuses},
    link::{Delayed, Entered, Heartbeat, Stamp},
};

/// The code of a permanent refusal.
pub const REFUSED: u32 = 131_026;

const HEARTBEAT: Duration = Duration::from_millis(1);

/// A send request that was read completely.
pub struct Sent {
    /// API version in the URL. It distinguishes processes that are configured with different versions.
    pub version: String,
    pub line: String,
    /// The phone number without its plus.
    pub to: String,
    /// `biz_opaque_callback_data`.
    pub token: String,
    /// The access token in the header `authorization`.
    pub access_token: String,
    /// The message was posted to `/marketing_messages`.
    pub is_marketing_api: bool,
}

/// The response to a send.
pub enum Answer {
    Json(u16, Value),
    Html(u16),
    /// Text that is not JSON; may be empty.
    Plain(u16, &'static str),
    /// Closes the connection without a response.
    Nothing,
    /// Never responds; the client times out.
    Silence,
}

/// How Meta, or a proxy on the way to it, handles a send.
#[derive(Clone, Copy, PartialEq)]
pub enum End {
    /// Accepted, and the response says so.
    Answered,
    /// Accepted, and the connection closes.
    Lost,
    /// Accepted, and a proxy answers 502.
    LostToProxy,
    /// Accepted, and no response is ever sent.
    LostToSilence,
    /// Not accepted, and the connection closes.
    Closed,
    /// Not accepted, and a proxy answers 502.
    Proxy,
    /// Not accepted, and no response is ever sent.
    Silence,
    /// Refused for good with the code [`REFUSED`].
    Refused,
}

impl End {
    /// Whether Meta accepted the message.
    pub fn is_accepted(self) -> bool {
        !matches!(self, Self::Closed | Self::Proxy | Self::Silence | Self::Refused)
    }

    /// The response to the sender.
    pub fn answer(self, to: &str, wamid: &str) -> Answer {
        match self {
            Self::Answered => accepted(to, wamid),
            Self::Refused => refused(400, REFUSED),
            Self::Lost | Self::Closed => Answer::Nothing,
            Self::LostToProxy | Self::Proxy => Answer::Html(502),
            Self::LostToSilence | Self::Silence => Answer::Silence,
        }
    }
}

/// The reaction to a send.
pub struct Reply {
    pub answer: Answer,
    /// Delay of the response.
    pub delay: Duration,
    /// Statuses that are reported, and acknowledged with 200, before the response.
    pub first: Vec<Status>,
    /// The response waits until the sender of this channel sends or is dropped.
    pub gate: Option<oneshot::Receiver<()>>,
    /// Closes the connection after the response, without `connection: close`.
    pub hang_up: bool,
}

impl Reply {
    pub fn of(answer: Answer, delay: Duration) -> Self {
        Self { answer, delay, first: Vec::new(), gate: None, hang_up: false }
    }
}

/// A status of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub line: String,
    pub to: String,
    pub wamid: String,
    pub token: Option<String>,
    /// `sent`, `delivered`, `read` or `failed CODE`.
    pub word: String,
}

/// The arrival of a send.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// API version in the URL.
    pub version: String,
    pub line: String,
    pub to: String,
    /// The send arrived at or after this time.
    pub earliest: Instant,
    /// The send arrived by this time, at which it was read.
    pub latest: Instant,
    /// `latest` as a time of day.
    pub at: UnixMs,
}

/// How a fake Meta behaves. Runs on the reading thread, so it must return at once.
pub trait Conduct: Send + 'static {
    fn send(&mut self, sent: Sent, courier: &Courier) -> Reply;

    /// A proxy's response to a GET in Meta's place, if there is one.
    fn proxy_answer(&mut self) -> Option<Answer> {
        None
    }

    /// Whether to close a connection without reading the request that waits on it.
    fn drops(&mut self) -> bool {
        false
    }
}

/// Accepts every message after `latency`.
pub struct AcceptAll {
    pub latency: Duration,
}

impl Conduct for AcceptAll {
    fn send(&mut self, sent: Sent, _: &Courier) -> Reply {
        Reply::of(accepted(&sent.to, &wamid(&sent.to, 1)), self.latency)
    }
}

/// Meta's id for the `n`th message to `to`.
pub fn wamid(to: &str, n: u64) -> String {
    format!("wamid.{to}.{n}")
}

/// Meta's response to a message that it accepts.
pub fn accepted(to: &str, wamid: &str) -> Answer {
    let contacts = json!([{"input": to, "wa_id": to}]);
    Answer::Json(
        200,
        json!({"messaging_product": "whatsapp", "contacts": contacts,
               "messages": [{"id": wamid, "message_status": "accepted"}]}),
    )
}

/// Meta's response to a message that it refuses.
pub fn refused(http_status: u16, code: u32) -> Answer {
    let error = json!({"message": format!("(#{code}) no"), "type": "OAuthException", "code": code,
                       "error_data": {"messaging_product": "whatsapp", "details": format!("details of {code}")},
                       "fbtrace_id": "A"});
    Answer::Json(http_status, json!({"error": error}))
}

/// Delivers statuses.
#[derive(Clone)]
pub struct Courier {
    orders: mpsc::UnboundedSender<(Instant, Status)>,
    records: Arc<Records>,
}

impl Courier {
    /// Delivers `status` after `delay`, in a webhook with others of the same time, and repeats it until it is
    /// acknowledged with 200.
    pub fn report(&self, delay: Duration, status: Status) {
        self.records.pending.fetch_add(1, Ordering::SeqCst);
        self.orders.send((Instant::now() + delay, status)).expect("the delivering task runs as long as the server");
    }
}

/// What the server records.
#[derive(Default)]
struct Records {
    webhook: OnceLock<String>,
    arrivals: Mutex<Vec<Arrival>>,
    /// The messages that were marked as read.
    marks: Mutex<Vec<String>>,
    /// Statuses acknowledged with 200, each with the time of the acknowledgement.
    acknowledged: Mutex<Vec<(Instant, Status)>>,
    pending: AtomicUsize,
}

/// A running server with two threads. It stops when dropped.
pub struct Meta {
    addr: SocketAddr,
    records: Arc<Records>,
    courier: Courier,
    end: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

impl Meta {
    pub fn start(conduct: impl Conduct, seed: u64) -> Self {
        Self::start_behind_link(conduct, seed, Duration::ZERO)
    }

    /// Starts a server behind a link with a one-way `delay`. A send arrives when it enters the link.
    pub fn start_behind_link(conduct: impl Conduct, seed: u64, delay: Duration) -> Self {
        let records = Arc::new(Records::default());
        let end = CancellationToken::new();
        let (orders, ordered) = mpsc::unbounded_channel();
        let courier = Courier { orders, records: records.clone() };
        let (addr_sender, addr) = std::sync::mpsc::channel();
        let reading = thread("meta-reads", end.clone(), {
            let shared = Arc::new(Shared {
                conduct: Mutex::new(Box::new(conduct)),
                courier: courier.clone(),
                heartbeats: Mutex::new([Instant::now(); 2]),
            });
            async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                addr_sender.send(listener.local_addr().expect("an address")).expect("the test waits");
                tokio::join!(keep_heartbeat(&shared), accept(&listener, &shared, delay));
            }
        });
        let delivering = thread(
            "meta-delivers",
            end.clone(),
            deliver_due(ordered, records.clone(), StdRng::seed_from_u64(seed ^ 1)),
        );
        let addr = addr.recv().expect("the server listens");
        Self { addr, records, courier, end, threads: vec![reading, delivering] }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Sets the URL that receives statuses.
    pub fn set_webhook(&self, webhook: String) {
        self.records.webhook.set(webhook).expect("set once");
    }

    /// Every send so far, in the order of arrival.
    pub fn arrivals(&self) -> Vec<Arrival> {
        let mut arrivals = lock(&self.records.arrivals).clone();
        // Sends are recorded when the delay of the link ends, which is longer for the first bytes of a connection.
        arrivals.sort_by_key(|arrival| arrival.latest);
        arrivals
    }

    pub fn requests(&self) -> usize {
        lock(&self.records.arrivals).len()
    }

    /// Every status that was acknowledged with 200.
    pub fn reported(&self) -> Vec<Status> {
        lock(&self.records.acknowledged).iter().map(|(_, status)| status.clone()).collect()
    }

    /// The first time, at or after `from`, at which a status with this word was acknowledged with 200.
    pub fn first_reported(&self, word: &str, from: Instant) -> Option<Instant> {
        let acknowledged = lock(&self.records.acknowledged);
        acknowledged.iter().filter(|(at, status)| *at >= from && status.word == word).map(|(at, _)| *at).min()
    }

    /// The messages that were marked as read.
    pub fn marks(&self) -> Vec<String> {
        lock(&self.records.marks).clone()
    }

    /// The number of statuses that were acknowledged with 200.
    pub fn n_reported(&self) -> usize {
        lock(&self.records.acknowledged).len()
    }

    /// Delivers further statuses.
    pub fn courier(&self) -> &Courier {
        &self.courier
    }

    /// Whether every status has been acknowledged with 200.
    pub fn is_idle(&self) -> bool {
        self.records.pending.load(Ordering::SeqCst) == 0
    }
}

impl Drop for Meta {
    fn drop(&mut self) {
        self.end.cancel();
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("no panic in the server");
            }
        }
    }
}

/// The most sends of `line` that certainly arrived within one second.
pub fn worst_second(arrivals: &[Arrival], line: &str) -> usize {
    let ours: Vec<&Arrival> = arrivals.iter().filter(|arrival| arrival.line == line).collect();
    let mut worst = 0;
    let mut end = 0;
    for (first, arrival) in ours.iter().enumerate() {
        let until = arrival.earliest + Duration::from_secs(1);
        while ours.get(end).is_some_and(|later| later.latest < until) {
            end += 1;
        }
        worst = worst.max(end.saturating_sub(first));
    }
    worst
}

/// Sends per second on `line`, from its first to its last.
pub fn rate(arrivals: &[Arrival], line: &str) -> f64 {
    let ours: Vec<&Arrival> = arrivals.iter().filter(|arrival| arrival.line == line).collect();
    let (Some(first), Some(last)) = (ours.first(), ours.last()) else { return 0.0 };
    (ours.len() - 1) as f64 / (last.latest - first.latest).as_secs_f64()
}

struct Shared {
    conduct: Mutex<Box<dyn Conduct>>,
    courier: Courier,
    /// The last two heartbeats.
    heartbeats: Mutex<[Instant; 2]>,
}

fn thread(name: &str, end: CancellationToken, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(end.run_until_cancelled(work));
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic under the lock")
}

async fn keep_heartbeat(shared: &Shared) {
    let mut ticks = tokio::time::interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut heartbeats = lock(&shared.heartbeats);
        *heartbeats = [heartbeats[1], Instant::now()];
    }
}

async fn accept(listener: &TcpListener, shared: &Arc<Shared>, delay: Duration) {
    let link = (!delay.is_zero()).then(Heartbeat::start);
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("an option");
        match &link {
            None => tokio::spawn(serve(stream, shared.clone())),
            Some(heartbeat) => {
                let far = Delayed::new(stream, delay, heartbeat.clone(), Entered::default());
                tokio::spawn(serve(far, shared.clone()))
            }
        };
    }
}

/// A client's connection.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Waits until there is something to read, if that can be known before reading.
    fn wait_readable(&self) -> impl Future<Output = std::io::Result<()>> + Send;

    /// The interval in which the last read bytes arrived. `before`: a time at which they had not yet arrived.
    fn stamp(&self, before: Instant) -> Stamp;
}

impl Connection for TcpStream {
    async fn wait_readable(&self) -> std::io::Result<()> {
        self.readable().await
    }

    fn stamp(&self, before: Instant) -> Stamp {
        (before, Instant::now())
    }
}

impl Connection for Delayed {
    async fn wait_readable(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn stamp(&self, _: Instant) -> Stamp {
        self.entered()
    }
}

async fn serve(mut stream: impl Connection, shared: Arc<Shared>) {
    let mut buffer = Vec::with_capacity(4096);
    // An error means that the client has gone, which ends the connection.
    while let Ok(()) = stream.wait_readable().await {
        if buffer.is_empty() && lock(&shared.conduct).drops() {
            return;
        }
        let Ok(Some((head, body))) = read(&mut stream, &mut buffer).await else { return };
        let (earliest, latest) = stream.stamp(lock(&shared.heartbeats)[0]);
        let path = head.split(' ').nth(1).unwrap_or_default();
        if !head.starts_with("POST ") {
            let proxy_answer = lock(&shared.conduct).proxy_answer();
            let answer = proxy_answer.unwrap_or_else(|| node(path));
            if stream.write_all(&response(&answer)).await.is_err() {
                return;
            }
            continue;
        }
        let mut words = path.split('/').skip(1).map(str::to_owned);
        let (version, line) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let body: Value = serde_json::from_slice(&body).expect("a send is JSON");
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        if body["status"] == "read" {
            lock(&shared.courier.records.marks).push(text("message_id"));
            if stream.write_all(&response(&Answer::Json(200, json!({"success": true})))).await.is_err() {
                return;
            }
            continue;
        }
        let (to, token) = (text("to").trim_start_matches('+').to_owned(), text("biz_opaque_callback_data"));
        assert!(!to.is_empty() && !token.is_empty(), "{body}");
        let at = clock::now();
        let is_marketing_api = words.next().as_deref() == Some("marketing_messages");
        assert_eq!(body["product_policy"].is_string(), is_marketing_api, "{body}");
        let bearer = head.lines().find(|line| line.to_ascii_lowercase().starts_with("authorization: bearer "));
        let access_token = bearer.and_then(|line| line.rsplit(' ').next()).unwrap_or_default().to_owned();
        let sent = Sent { version, line, to, token, access_token, is_marketing_api };
        let (version, line, to) = (sent.version.clone(), sent.line.clone(), sent.to.clone());
        let arrival = Arrival { version, line, to, earliest, latest, at };
        lock(&shared.courier.records.arrivals).push(arrival);
        let reply = lock(&shared.conduct).send(sent, &shared.courier);
        for status in reply.first {
            let (records, acknowledged) = (&shared.courier.records, status.clone());
            shared.courier.report(Duration::ZERO, status);
            while !lock(&records.acknowledged).iter().any(|(_, status)| *status == acknowledged) {
                tokio::time::sleep(HEARTBEAT).await;
            }
        }
        tokio::time::sleep(reply.delay).await;
        if let Some(gate) = reply.gate {
            let _ = gate.await;
        }
        match &reply.answer {
            Answer::Nothing => return,
            Answer::Silence => {
                let _ = stream.read_u8().await;
                return;
            }
            answer => {
                if stream.write_all(&response(answer)).await.is_err() || reply.hang_up {
                    return;
                }
            }
        }
    }
}

/// The next request: head and body. `None` at the end of the connection.
async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> std::io::Result<Option<(String, Vec<u8>)>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().expect("a length"))
            });
            let whole = end + 4 + length.unwrap_or(0);
            while buffer.len() < whole {
                if stream.read_buf(buffer).await? == 0 {
                    return Ok(None);
                }
            }
            let body = buffer[end + 4..whole].to_vec();
            buffer.drain(..whole);
            return Ok(Some((head, body)));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// Meta's response to a GET of a node: the templates of a WABA, 404 for anything else.
pub fn node(path: &str) -> Answer {
    if path.contains("/message_templates") {
        let template: Value =
            serde_json::from_str(include_str!("../fixtures/templates/positional.json")).expect("a template");
        return Answer::Json(200, json!({"data": [template]}));
    }
    refused(404, 100)
}

fn response(answer: &Answer) -> Vec<u8> {
    let (http_status, kind, body) = match answer {
        Answer::Json(http_status, body) => (*http_status, "application/json", body.to_string()),
        Answer::Html(http_status) => (*http_status, "text/html", "<html><h1>Bad Gateway</h1></html>".to_owned()),
        Answer::Plain(http_status, text) => (*http_status, "text/plain", (*text).to_owned()),
        Answer::Nothing | Answer::Silence => return Vec::new(),
    };
    let length = body.len();
    format!("HTTP/1.1 {http_status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

/// Delivers what is due, in concurrent webhooks of a few statuses in random order.
async fn deliver_due(mut ordered: mpsc::UnboundedReceiver<(Instant, Status)>, records: Arc<Records>, mut rng: StdRng) {
    let http = super::http_client();
    let mut waiting: Vec<(Instant, Status)> = Vec::new();
    loop {
        while let Ok(order) = ordered.try_recv() {
            waiting.push(order);
        }
        let now = Instant::now();
        let mut due: Vec<Status> = waiting.extract_if(.., |(at, _)| *at <= now).map(|(_, status)| status).collect();
        due.shuffle(&mut rng);
        while !due.is_empty() {
            let acknowledged = due.split_off(due.len().saturating_sub(rng.random_range(1..=8)));
            tokio::spawn(deliver(http.clone(), records.clone(), acknowledged));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn deliver(http: reqwest::Client, records: Arc<Records>, acknowledged: Vec<Status>) {
    let mut body = json!({"object": "whatsapp_business_account", "entry": []});
    let entries = body["entry"].as_array_mut().expect("a list");
    for status in &acknowledged {
        let mut status_json = status_without_token(&status.wamid, &status.word);
        if let Some(token) = &status.token {
            status_json["biz_opaque_callback_data"] = token.as_str().into();
        }
        let mut webhook = statuses(&status.line, &[status_json]);
        entries.push(webhook["entry"][0].take());
    }
    let body = body.to_string();
    loop {
        if let Some(webhook) = records.webhook.get() {
            let request =
                http.post(webhook).header("x-hub-signature-256", signature(body.as_bytes())).body(body.clone());
            if request.send().await.is_ok_and(|answer| answer.status() == 200) {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let n = acknowledged.len();
    let at = Instant::now();
    lock(&records.acknowledged).extend(acknowledged.into_iter().map(|status| (at, status)));
    records.pending.fetch_sub(n, Ordering::SeqCst);
}
