//! A fake Meta, written apart from the project's simulator so that the two do not share a misreading of Meta's
//! documentation. It is a bare HTTP/1.1 server that answers each send as a test decides ([`Conduct`]), sends statuses
//! by signed webhook, and records when each request arrived. Most tests that need a Meta use it.
//!
//! It reads on a thread of its own that does nothing else. Where the machine stalls that thread, what arrived meanwhile is
//! read at one moment; so an arrival is kept as the span in which it can have happened: from a heartbeat of that thread
//! before it to the moment it was read. Without a stall that span is two milliseconds.

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
    hooks::{nameless, signature, statuses},
    link::{Delayed, Entered, Heartbeat, Stamp},
};

/// The code of a refusal for good.
pub const REFUSED: u32 = 131_026;

const HEARTBEAT: Duration = Duration::from_millis(1);

/// A send that was read whole.
pub struct Sent {
    /// Of the API, as it stands in the URL: tells processes apart that are configured with different ones.
    pub version: String,
    pub line: String,
    /// The number without its plus.
    pub to: String,
    /// `biz_opaque_callback_data`.
    pub token: String,
}

/// What the server does with a send.
pub enum Answer {
    Json(u16, Value),
    Html(u16),
    /// Text that is no JSON; may be empty.
    Plain(u16, &'static str),
    /// Closes the connection.
    Nothing,
    /// Answers never; the client gives up.
    Silence,
}

/// How a send ends once it gets through.
#[derive(Clone, Copy, PartialEq)]
pub enum End {
    Answered,
    /// Taken, and the connection closes.
    Lost,
    /// Taken, and a proxy says 502.
    LostToProxy,
    /// Taken, and nothing ever comes.
    LostToSilence,
    Closed,
    Proxy,
    Silence,
    Refused,
}

impl End {
    /// Meta has the message.
    pub fn is_taken(self) -> bool {
        !matches!(self, Self::Closed | Self::Proxy | Self::Silence | Self::Refused)
    }

    /// What the sender gets of it.
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

/// What follows from a send.
pub struct Reply {
    pub answer: Answer,
    /// How long the answer takes.
    pub delay: Duration,
    /// Statuses that are told, and answered 200, before the answer.
    pub first: Vec<Status>,
    /// The answer waits for it, or for the end of who would send it.
    pub gate: Option<oneshot::Receiver<()>>,
    /// Closes the connection after the answer, without having said so.
    pub hang_up: bool,
}

impl Reply {
    pub fn of(answer: Answer, delay: Duration) -> Self {
        Self { answer, delay, first: Vec::new(), gate: None, hang_up: false }
    }
}

/// What a status webhook says of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub line: String,
    pub to: String,
    pub wamid: String,
    pub token: Option<String>,
    /// `sent`, `delivered`, `read` or `failed CODE`.
    pub word: String,
}

/// When a send arrived.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Of the API, as it stands in the URL.
    pub version: String,
    pub line: String,
    pub to: String,
    /// Not before.
    pub earliest: Instant,
    /// Not after: it was read.
    pub latest: Instant,
    /// `latest` as a time of day.
    pub at: UnixMs,
}

/// How a Meta behaves. Called on the thread that reads: it returns at once.
pub trait Conduct: Send + 'static {
    fn send(&mut self, sent: Sent, courier: &Courier) -> Reply;

    /// What a proxy answers to a read in Meta's place.
    fn stands_in(&mut self) -> Option<Answer> {
        None
    }

    /// Whether the connection on which a request waits is dropped without reading it.
    fn drops(&mut self) -> bool {
        false
    }
}

/// Takes every message, and answers after `latency`.
pub struct Calm {
    pub latency: Duration,
}

impl Conduct for Calm {
    fn send(&mut self, sent: Sent, _: &Courier) -> Reply {
        Reply::of(accepted(&sent.to, &wamid(&sent.to, 1)), self.latency)
    }
}

/// The id of a message.
pub fn wamid(to: &str, n: u64) -> String {
    format!("wamid.{to}.{n}")
}

/// Meta's answer to a message that it took.
pub fn accepted(to: &str, wamid: &str) -> Answer {
    let contacts = json!([{"input": to, "wa_id": to}]);
    Answer::Json(
        200,
        json!({"messaging_product": "whatsapp", "contacts": contacts,
               "messages": [{"id": wamid, "message_status": "accepted"}]}),
    )
}

/// Meta's answer to a message that it did not take.
pub fn refused(http_status: u16, code: u32) -> Answer {
    let error = json!({"message": format!("(#{code}) no"), "type": "OAuthException", "code": code,
                       "error_data": {"messaging_product": "whatsapp", "details": format!("details of {code}")},
                       "fbtrace_id": "A"});
    Answer::Json(http_status, json!({"error": error}))
}

/// Tells statuses.
#[derive(Clone)]
pub struct Courier {
    orders: mpsc::UnboundedSender<(Instant, Status)>,
    books: Arc<Books>,
}

impl Courier {
    /// Tells `status` after `delay`, together with others of that moment, until it is answered 200.
    pub fn report(&self, delay: Duration, status: Status) {
        self.books.pending.fetch_add(1, Ordering::SeqCst);
        self.orders.send((Instant::now() + delay, status)).expect("the courier lives as long as the server");
    }
}

/// What the server keeps.
#[derive(Default)]
struct Books {
    webhook: OnceLock<String>,
    arrivals: Mutex<Vec<Arrival>>,
    /// Each with when it was answered.
    told: Mutex<Vec<(Instant, Status)>>,
    pending: AtomicUsize,
}

/// A server that runs, on two threads of its own. Dropped, it ends.
pub struct Meta {
    addr: SocketAddr,
    books: Arc<Books>,
    courier: Courier,
    end: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

impl Meta {
    pub fn start(conduct: impl Conduct, seed: u64) -> Self {
        Self::start_far(conduct, seed, Duration::ZERO)
    }

    /// The same at the end of a link that takes `delay` one way. A send has arrived when it enters the link.
    pub fn start_far(conduct: impl Conduct, seed: u64, delay: Duration) -> Self {
        let books = Arc::new(Books::default());
        let end = CancellationToken::new();
        let (orders, ordered) = mpsc::unbounded_channel();
        let courier = Courier { orders, books: books.clone() };
        let (told_addr, addr) = std::sync::mpsc::channel();
        let reading = thread("meta-reads", end.clone(), {
            let shared = Arc::new(Shared {
                conduct: Mutex::new(Box::new(conduct)),
                courier: courier.clone(),
                heartbeats: Mutex::new([Instant::now(); 2]),
            });
            async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                told_addr.send(listener.local_addr().expect("an address")).expect("the test waits");
                tokio::join!(beat(&shared), accept(&listener, &shared, delay));
            }
        });
        let telling = thread("meta-tells", end.clone(), tell(ordered, books.clone(), StdRng::seed_from_u64(seed ^ 1)));
        let addr = addr.recv().expect("the server listens");
        Self { addr, books, courier, end, threads: vec![reading, telling] }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Where statuses are told.
    pub fn set_webhook(&self, webhook: String) {
        self.books.webhook.set(webhook).expect("told once");
    }

    /// Every send so far, in the order of arrival.
    pub fn arrivals(&self) -> Vec<Arrival> {
        let mut arrivals = lock(&self.books.arrivals).clone();
        // A link brings the first bytes of a new connection later than others.
        arrivals.sort_by_key(|arrival| arrival.latest);
        arrivals
    }

    pub fn requests(&self) -> usize {
        lock(&self.books.arrivals).len()
    }

    /// Every status that was answered 200.
    pub fn reported(&self) -> Vec<Status> {
        lock(&self.books.told).iter().map(|(_, status)| status.clone()).collect()
    }

    /// When the first status with this word was answered 200, from `from` on.
    pub fn first_reported(&self, word: &str, from: Instant) -> Option<Instant> {
        let told = lock(&self.books.told);
        told.iter().filter(|(at, status)| *at >= from && status.word == word).map(|(at, _)| *at).min()
    }

    /// How many statuses were answered 200.
    pub fn n_reported(&self) -> usize {
        lock(&self.books.told).len()
    }

    /// Tells further statuses.
    pub fn courier(&self) -> &Courier {
        &self.courier
    }

    /// No status waits to be told.
    pub fn is_idle(&self) -> bool {
        self.books.pending.load(Ordering::SeqCst) == 0
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

/// The most sends of `line` that certainly arrived within one second, and those of its use: sends per second from the first
/// to the last.
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
    /// The last two.
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

async fn beat(shared: &Shared) {
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
    /// Waits until there is something to read, where it can be known before it is read.
    fn brings(&self) -> impl Future<Output = std::io::Result<()>> + Send;

    /// When what was read last arrived. `before`: a moment before which it had not been there.
    fn stamp(&self, before: Instant) -> Stamp;
}

impl Connection for TcpStream {
    async fn brings(&self) -> std::io::Result<()> {
        self.readable().await
    }

    fn stamp(&self, before: Instant) -> Stamp {
        (before, Instant::now())
    }
}

impl Connection for Delayed {
    async fn brings(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn stamp(&self, _: Instant) -> Stamp {
        self.entered()
    }
}

async fn serve(mut stream: impl Connection, shared: Arc<Shared>) {
    let mut buffer = Vec::with_capacity(4096);
    // What a client that went away leaves behind is of no interest.
    while let Ok(()) = stream.brings().await {
        if buffer.is_empty() && lock(&shared.conduct).drops() {
            return;
        }
        let Ok(Some((head, body))) = read(&mut stream, &mut buffer).await else { return };
        let (earliest, latest) = stream.stamp(lock(&shared.heartbeats)[0]);
        let path = head.split(' ').nth(1).unwrap_or_default();
        if !head.starts_with("POST ") {
            let stands_in = lock(&shared.conduct).stands_in();
            let answer = stands_in.unwrap_or_else(|| node(path));
            if stream.write_all(&response(&answer)).await.is_err() {
                return;
            }
            continue;
        }
        let mut words = path.split('/').skip(1).map(str::to_owned);
        let (version, line) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let body: Value = serde_json::from_slice(&body).expect("a send is JSON");
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        let (to, token) = (text("to").trim_start_matches('+').to_owned(), text("biz_opaque_callback_data"));
        assert!(!to.is_empty() && !token.is_empty(), "{body}");
        let at = clock::now();
        let sent = Sent { version, line, to, token };
        let (version, line, to) = (sent.version.clone(), sent.line.clone(), sent.to.clone());
        let arrival = Arrival { version, line, to, earliest, latest, at };
        lock(&shared.courier.books.arrivals).push(arrival);
        let reply = lock(&shared.conduct).send(sent, &shared.courier);
        for status in reply.first {
            let (books, told) = (&shared.courier.books, status.clone());
            shared.courier.report(Duration::ZERO, status);
            while !lock(&books.told).iter().any(|(_, status)| *status == told) {
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

/// The next request: its head and its body. None at the end of the connection.
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

/// What Meta says of its nodes: the templates of a WABA, and nothing of others.
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

/// Tells what is due, in webhooks of a few statuses in any order, many at once.
async fn tell(mut ordered: mpsc::UnboundedReceiver<(Instant, Status)>, books: Arc<Books>, mut rng: StdRng) {
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
            let told = due.split_off(due.len().saturating_sub(rng.random_range(1..=8)));
            tokio::spawn(deliver(http.clone(), books.clone(), told));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn deliver(http: reqwest::Client, books: Arc<Books>, told: Vec<Status>) {
    let mut body = json!({"object": "whatsapp_business_account", "entry": []});
    let entries = body["entry"].as_array_mut().expect("a list");
    for status in &told {
        let mut said = nameless(&status.wamid, &status.word);
        if let Some(token) = &status.token {
            said["biz_opaque_callback_data"] = token.as_str().into();
        }
        let mut webhook = statuses(&status.line, &[said]);
        entries.push(webhook["entry"][0].take());
    }
    let body = body.to_string();
    loop {
        if let Some(webhook) = books.webhook.get() {
            let request =
                http.post(webhook).header("x-hub-signature-256", signature(body.as_bytes())).body(body.clone());
            if request.send().await.is_ok_and(|answer| answer.status() == 200) {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let n = told.len();
    let at = Instant::now();
    lock(&books.told).extend(told.into_iter().map(|status| (at, status)));
    books.pending.fetch_sub(n, Ordering::SeqCst);
}
