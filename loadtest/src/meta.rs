//! An instant Meta, in a process of its own: it shares the cores with what is measured, so it does as little as it can.
//!
//! It accepts every message, at once or after a latency, and keeps when each one arrived on which line; it gives the one
//! template that load tests send. Unlike `pregon sim` it refuses nothing, loses nothing, and tells no statuses by itself.
//!
//! Standard output's first line is its address. Then each line of standard input is a [`Question`] and each line of
//! standard output its answer, as JSON; the end of standard input is its end, so it never outlives who started it.

use std::{
    fmt::Write as _,
    fs,
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::{Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;

use super::arrivals::Arrivals;
use pregon::{telemetry::clock, terminal::out};

/// Streams of one HTTP/2 connection at once. Meta's own number is not documented; of those of well-known servers this
/// is the highest.
const STREAMS_MAX: u32 = 1_000;

/// The longest request that is taken.
const REQUEST_BYTES_MAX: usize = 1 << 20;

const HEADERS_MAX: usize = 32;

/// The template that load tests send.
pub const TEMPLATE: (&str, &str) = ("order_update", "es_AR");

const TEMPLATES: &str = r#"{"data":[{"id":"1","name":"order_update","language":"es_AR","status":"APPROVED","category":"UTILITY","parameter_format":"POSITIONAL","components":[{"type":"BODY","text":"Hola {{1}}, tu pedido {{2}} llega el {{3}}."}]}],"paging":{}}"#;
const LINE: &str = r#"{"id":"3001","display_phone_number":"+54 9 11 5555 0001","verified_name":"load","status":"CONNECTED","quality_rating":"GREEN"}"#;
const NOTHING: &str = r#"{"error":{"message":"Unknown path","type":"OAuthException","code":100}}"#;

/// Before and after the sixteen digits of a message's number in the answer to it. Meta's ids are as long.
const ACCEPTED: (&str, &str) = (
    r#"{"messaging_product":"whatsapp","contacts":[{"input":"+5491155550001","wa_id":"5491155550001"}],"messages":[{"id":"wamid.HBgNNTQ5MTE1NTU1MDAwMRUCABEYEjZC"#,
    r#"TYwAA==","message_status":"accepted"}]}"#,
);

/// What is around that number in the id itself.
const WAMID: (&str, &str) = ("wamid.HBgNNTQ5MTE1NTU1MDAwMRUCABEYEjZC", "TYwAA==");

/// How this Meta answers.
#[derive(clap::Args, Clone, Debug)]
pub struct MetaOptions {
    /// Milliseconds from the arrival of a message to the answer
    #[arg(long, default_value_t = 0)]
    pub latency_ms: u64,
    /// Speak HTTP/2 over TLS and nothing else, and write the certificate of its authority here
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Keep token and id of every message, for statuses about them
    #[arg(long)]
    pub keep: bool,
    /// Threads that answer
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
}

/// What is asked of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// How many messages arrived.
    Count,
    /// What arrived: [`super::arrivals::Seen`]. The times are those that a line's `within` counts.
    Seen {
        /// From then on, in microseconds since 1970.
        from_us: u64,
        /// And before then.
        until_us: u64,
    },
    /// Write the messages that were kept to this file, and forget them: [`Message::line`] is how. Answers how many.
    Messages(PathBuf),
    /// Forget all that arrived.
    Forget,
}

/// A message that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// On which line.
    pub line: String,
    /// For whom: digits.
    pub to: String,
    /// `biz_opaque_callback_data`.
    pub token: String,
    /// Its id.
    pub wamid: String,
}

impl Message {
    /// As one line of a file.
    pub fn line(&self) -> String {
        format!("{} {} {} {}", self.line, self.to, self.token, self.wamid)
    }

    /// From such a line.
    pub fn read(line: &str) -> Option<Self> {
        let mut words = line.split(' ').map(str::to_owned);
        let message = Self { line: words.next()?, to: words.next()?, token: words.next()?, wamid: words.next()? };
        words.next().is_none().then_some(message)
    }
}

/// Runs it until standard input ends.
///
/// Errors: no port, no certificate, or nobody who reads what it says.
pub async fn run(options: MetaOptions) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let tls = options.ca.as_deref().map(acceptor).transpose()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let shards: Vec<Arc<Shard>> = (0..options.threads.max(1)).map(|number| Shard::new(number, &options)).collect();
    let mut hands = Vec::with_capacity(shards.len());
    for shard in &shards {
        let (hand, sockets) = mpsc::unbounded_channel();
        let (shard, tls) = (shard.clone(), tls.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("meta".into()).spawn(move || runtime.block_on(answer_all(sockets, shard, tls)))?;
        hands.push(hand);
    }
    tokio::spawn(async move {
        let mut turn = hands.iter().cycle();
        while let (Ok((socket, _)), Some(hand)) = (listener.accept().await, turn.next()) {
            // A socket moves to another runtime only as the system's own.
            if let Ok(socket) = socket.into_std() {
                let _ = hand.send(socket);
            }
        }
    });
    out::line(&format!("{scheme}://{address}"))?;
    let mut questions = BufReader::new(tokio::io::stdin()).lines();
    while let Some(question) = questions.next_line().await? {
        match serde_json::from_str(&question)? {
            Question::Count => {
                out::json(&shards.iter().map(|shard| shard.records(|records| records.arrivals.len())).sum::<usize>())?
            }
            Question::Seen { from_us, until_us } => {
                let mut arrivals = Arrivals::default();
                shards.iter().for_each(|shard| shard.records(|records| arrivals.absorb(&records.arrivals)));
                out::json(&arrivals.seen(from_us..until_us))?;
            }
            Question::Messages(path) => {
                let messages =
                    shards.iter().flat_map(|shard| shard.records(|records| std::mem::take(&mut records.kept)));
                out::json(&write(&path, messages)?)?;
            }
            Question::Forget => {
                shards.iter().for_each(|shard| shard.records(|records| records.arrivals = Arrivals::default()));
                out::json(&())?;
            }
        }
    }
    Ok(())
}

fn write(path: &Path, messages: impl Iterator<Item = Message>) -> io::Result<u64> {
    let mut file = BufWriter::new(fs::File::create(path)?);
    let mut n = 0;
    for message in messages {
        writeln!(file, "{}", message.line())?;
        n += 1;
    }
    file.flush()?;
    Ok(n)
}

/// A certificate for this machine, of an authority made for it, which `ca` is told.
fn acceptor(ca: &Path) -> io::Result<TlsAcceptor> {
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let mut params = CertificateParams::new(Vec::<String>::new()).map_err(io::Error::other)?;
    params.distinguished_name.push(DnType::CommonName, "authority of a load test");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(ca, params.self_signed(&key).map_err(io::Error::other)?.pem())?;
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).map_err(io::Error::other)?;
    let certificate = CertificateDer::from(params.signed_by(&key, &issuer).map_err(io::Error::other)?);
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(io::Error::other)?;
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate], key))
        .map_err(io::Error::other)?;
    // Who can't speak HTTP/2 gets no connection: a measurement over another protocol would be of something else.
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// What one thread answers and keeps.
struct Shard {
    latency: Duration,
    keep: bool,
    began: Instant,
    began_us: u64,
    records: Mutex<Records>,
}

struct Records {
    arrivals: Arrivals,
    kept: Vec<Message>,
    /// Of the next message; no other thread gives the same.
    number: u64,
}

/// The answer to a request.
enum Answer {
    /// A message, with its number.
    Accepted(u64),
    /// Anything else.
    Json(u16, &'static str),
}

impl Shard {
    fn new(number: usize, options: &MetaOptions) -> Arc<Self> {
        let records = Records { arrivals: Arrivals::default(), kept: Vec::new(), number: (number as u64) << 48 };
        Arc::new(Self {
            latency: Duration::from_millis(options.latency_ms),
            keep: options.keep,
            began: Instant::now(),
            began_us: clock::now().0 * 1_000,
            records: Mutex::new(records),
        })
    }

    /// Nobody else waits for it, but for who asks what arrived.
    fn records<T>(&self, with: impl FnOnce(&mut Records) -> T) -> T {
        with(&mut self.records.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a request for what it is; `path` as it stands in the request.
    fn take(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let mut steps = path.split(['/', '?']).skip(2);
        match (method, steps.next(), steps.next()) {
            ("POST", Some(line), Some("messages")) => {
                let at_us = self.began_us + u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.records(|records| {
                    records.number += 1;
                    records.arrivals.note(line, at_us);
                    if self.keep {
                        let text = |name| text_of(body, name).unwrap_or_default().to_owned();
                        let wamid = format!("{}{:016X}{}", WAMID.0, records.number, WAMID.1);
                        let to = text("\"to\":\"").trim_start_matches('+').to_owned();
                        let token = text("\"biz_opaque_callback_data\":\"");
                        records.kept.push(Message { line: line.to_owned(), to, token, wamid });
                    }
                    Answer::Accepted(records.number)
                })
            }
            ("GET", Some(_), Some("message_templates")) => Answer::Json(200, TEMPLATES),
            ("GET", Some(_), _) => Answer::Json(200, LINE),
            _ => Answer::Json(404, NOTHING),
        }
    }
}

/// What stands in `body` between `name` and the next quote.
fn text_of<'b>(body: &'b [u8], name: &str) -> Option<&'b str> {
    let rest = &body[memchr::memmem::find(body, name.as_bytes())? + name.len()..];
    std::str::from_utf8(&rest[..memchr::memchr(b'"', rest)?]).ok()
}

async fn answer_all(
    mut sockets: mpsc::UnboundedReceiver<std::net::TcpStream>,
    shard: Arc<Shard>,
    tls: Option<TlsAcceptor>,
) {
    while let Some(socket) = sockets.recv().await {
        let Ok(socket) = TcpStream::from_std(socket) else { continue };
        let _ = socket.set_nodelay(true);
        let (shard, tls) = (shard.clone(), tls.clone());
        // A connection that breaks concerns its caller alone.
        tokio::spawn(async move {
            match tls {
                None => plain(socket, &shard).await.is_ok(),
                Some(tls) => over_tls(socket, &tls, shard).await.is_ok(),
            }
        });
    }
}

/// HTTP/1.1.
async fn plain(mut socket: TcpStream, shard: &Shard) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(8 * 1024);
    let (before, after) = ACCEPTED;
    let head = |status: u16, length: usize| {
        format!("HTTP/1.1 {status} \r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n")
    };
    let mut accepted = head(200, before.len() + 16 + after.len()) + before;
    let until = accepted.len();
    loop {
        while let Some((answer, length)) = next_request(&buffer, shard)? {
            buffer.advance(length);
            match answer {
                Answer::Accepted(number) => {
                    if !shard.latency.is_zero() {
                        tokio::time::sleep(shard.latency).await;
                    }
                    accepted.truncate(until);
                    let _ = write!(accepted, "{number:016X}{after}");
                    socket.write_all(accepted.as_bytes()).await?;
                }
                Answer::Json(status, json) => {
                    socket.write_all((head(status, json.len()) + json).as_bytes()).await?;
                }
            }
        }
        if socket.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// The answer to the first request in `buffer`, if it is there whole, and its length.
fn next_request(buffer: &[u8], shard: &Shard) -> io::Result<Option<(Answer, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(buffer).map_err(io::Error::other)? else { return Ok(None) };
    let length = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok()).unwrap_or(0);
    if length > REQUEST_BYTES_MAX {
        return Err(io::Error::other("a request that long is none of a load test"));
    }
    let Some(body) = buffer.get(head..head + length) else { return Ok(None) };
    let answer = shard.take(request.method.unwrap_or_default(), request.path.unwrap_or_default(), body);
    Ok(Some((answer, head + length)))
}

/// HTTP/2.
async fn over_tls(socket: TcpStream, tls: &TlsAcceptor, shard: Arc<Shard>) -> io::Result<()> {
    let socket = tls.accept(socket).await?;
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let shard = shard.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            let (status, json) = match shard.take(head.method.as_str(), head.uri.path(), &body) {
                Answer::Accepted(number) => {
                    if !shard.latency.is_zero() {
                        tokio::time::sleep(shard.latency).await;
                    }
                    (200, Bytes::from(format!("{}{number:016X}{}", ACCEPTED.0, ACCEPTED.1)))
                }
                Answer::Json(status, json) => (status, Bytes::from_static(json.as_bytes())),
            };
            let response = Response::builder().status(status).header("content-type", "application/json");
            response.body(Full::new(json)).map_err(io::Error::other)
        }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX);
    builder.serve_connection(TokioIo::new(socket), service).await.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard() -> Arc<Shard> {
        Shard::new(3, &MetaOptions { latency_ms: 0, ca: None, keep: true, threads: 1 })
    }

    #[test]
    fn a_message_is_accepted_counted_and_kept() {
        let shard = shard();
        let body = r#"{"to":"+5491155550001","type":"template","biz_opaque_callback_data":"p1.x.0.1.1.ff"}"#;
        let request =
            format!("POST /v25.0/3007/messages HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let whole = next_request(request.as_bytes(), &shard).expect("a request").expect("it is whole");
        assert!(
            matches!(whole, (Answer::Accepted(number), length) if number == (3 << 48) + 1 && length == request.len())
        );
        shard.records(|records| {
            assert_eq!(records.arrivals.len(), 1);
            let wamid = format!("{}0003000000000001{}", WAMID.0, WAMID.1);
            let (line, to, token) = ("3007".to_owned(), "5491155550001".to_owned(), "p1.x.0.1.1.ff".to_owned());
            let message = Message { line, to, token, wamid };
            assert_eq!(Message::read(&message.line()).as_ref(), Some(&message));
            assert_eq!(records.kept, [message]);
        });
        assert!(ACCEPTED.0.ends_with(WAMID.0) && ACCEPTED.1.starts_with(WAMID.1), "the id in the answer is that one");
    }

    #[test]
    fn half_a_request_is_waited_for_and_nothing_counts() {
        let shard = shard();
        for half in ["POST /v25.0/3001/mes", "POST /v25.0/3001/messages HTTP/1.1\r\ncontent-length: 2\r\n\r\n{"] {
            assert!(next_request(half.as_bytes(), &shard).expect("no fault yet").is_none(), "{half}");
        }
        assert!(shard.records(|records| records.arrivals.is_empty()));
    }

    #[test]
    fn what_is_read_besides_is_there() {
        let shard = shard();
        let answer = |method, path| match shard.take(method, path, b"") {
            Answer::Json(status, json) => (status, serde_json::from_str::<serde_json::Value>(json).expect("JSON")),
            Answer::Accepted(_) => panic!("no message"),
        };
        let (status, templates) = answer("GET", "/v25.0/2001/message_templates?fields=name&limit=100");
        assert_eq!((status, templates["data"][0]["name"].as_str()), (200, Some(TEMPLATE.0)));
        assert_eq!(templates["data"][0]["language"], TEMPLATE.1);
        assert_eq!(answer("GET", "/v25.0/3001?fields=id").1["status"], "CONNECTED");
        assert_eq!(answer("DELETE", "/v25.0/3001").0, 404);
    }
}
