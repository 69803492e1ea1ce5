//! A minimal fake Meta, in a process of its own. It shares the cores with the workers, so it does as little as it can.
//!
//! It accepts every message, at once or after a latency, and records its line and arrival time. It serves the one
//! template that load tests send. Unlike `pregon sim`, it refuses nothing, loses nothing and sends no statuses.
//!
//! The first line of standard output is its address. Then each line of standard input is a [`Question`], and each line
//! of standard output is the answer, both as JSON. It exits when standard input ends, so it never outlives its parent.

use std::{
    fs,
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
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

use super::{arrivals::Arrivals, schedule::Schedule};
use pregon::{telemetry::clock, terminal::out};

/// The most concurrent streams of an HTTP/2 connection. Meta does not document its limit; this is the highest limit of
/// well-known servers.
const STREAMS_MAX: u32 = 1_000;

/// The largest request body that is accepted.
const REQUEST_BYTES_MAX: usize = 1 << 20;

const HEADERS_MAX: usize = 32;

/// The template of the category marketing.
pub const MARKETING_TEMPLATE: (&str, &str) = ("spring_sale", "es_AR");

/// The template that load tests send otherwise.
pub const TEMPLATE: (&str, &str) = ("order_update", "es_AR");

const TEMPLATES: &str = r#"{"data":[{"id":"1","name":"order_update","language":"es_AR","status":"APPROVED","category":"UTILITY","parameter_format":"POSITIONAL","components":[{"type":"BODY","text":"Hola {{1}}, tu pedido {{2}} llega el {{3}}."}]},{"id":"2","name":"spring_sale","language":"es_AR","status":"APPROVED","category":"MARKETING","parameter_format":"POSITIONAL","components":[{"type":"BODY","text":"Hola {{1}}, tu oferta {{2}} termina el {{3}}."}]}],"paging":{}}"#;
const LINE: &str = r#"{"id":"3001","display_phone_number":"+54 9 11 5555 0001","verified_name":"load","status":"CONNECTED","quality_rating":"GREEN"}"#;
const NOT_FOUND: &str = r#"{"error":{"message":"Unknown path","type":"OAuthException","code":100}}"#;

/// The response to a message, before and after the end of its id.
const ACCEPTED: (&str, &str) = (
    r#"{"messaging_product":"whatsapp","contacts":[{"input":"+5491155550001","wa_id":"5491155550001"}],"messages":[{"id":"wamid.HBgNNTQ5MTE1NTU1MDAwMRUCABEY"#,
    r#"","message_status":"accepted"}]}"#,
);

/// The id of a message, before its end.
const WAMID: &str = "wamid.HBgNNTQ5MTE1NTU1MDAwMRUCABEY";

/// Number of characters at the end of an id that differ from message to message.
const WAMID_END_LEN: usize = 28;

/// The end of the id of a message: its number, as Meta writes 18 hexadecimal digits.
fn wamid_end(number: u64) -> String {
    STANDARD.encode(format!("\x12{number:018X}\0"))
}

/// Options of the fake Meta.
#[derive(clap::Args, Clone, Debug)]
pub struct MetaOptions {
    /// Milliseconds from the arrival of a message to the response
    #[arg(long, default_value_t = 0)]
    pub latency_ms: u64,
    /// Serve only HTTP/2 over TLS, and write the certificate of the authority to this file
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Store the callback data and id of every message, for statuses about them
    #[arg(long)]
    pub keep: bool,
    /// Threads that serve requests
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
}

/// A question to the fake Meta: one line of its standard input, as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Returns the number of messages that arrived.
    Count,
    /// Returns [`super::arrivals::Seen`], with arrivals in `from_us..until_us` counted as `within`.
    Seen {
        /// Start of the range, in microseconds since 1970.
        from_us: u64,
        /// End of the range, exclusive, in microseconds since 1970.
        until_us: u64,
    },
    /// Returns [`super::schedule::Lateness`].
    Lateness(Schedule),
    /// Writes the stored messages to this file, one [`Message::line`] a line, and drops them. Returns their number.
    Messages(PathBuf),
    /// Drops all recorded arrivals.
    Forget,
}

/// A message that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The id of its line.
    pub line: String,
    /// The recipient's phone number, in digits.
    pub to: String,
    /// `biz_opaque_callback_data`.
    pub token: String,
    /// The id of the message.
    pub wamid: String,
}

impl Message {
    /// Formats the message as one line of a file.
    pub fn line(&self) -> String {
        format!("{} {} {} {}", self.line, self.to, self.token, self.wamid)
    }

    /// Parses a line that [`Message::line`] wrote.
    pub fn read(line: &str) -> Option<Self> {
        let mut words = line.split(' ').map(str::to_owned);
        let message = Self { line: words.next()?, to: words.next()?, token: words.next()?, wamid: words.next()? };
        words.next().is_none().then_some(message)
    }
}

/// Runs the fake Meta until standard input ends.
///
/// Errors: no port can be bound, no certificate can be made or written, a question cannot be parsed, or standard output
/// is closed.
pub async fn run(options: MetaOptions) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let tls = options.ca.as_deref().map(acceptor).transpose()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let shards: Vec<Arc<Shard>> = (0..options.threads.max(1)).map(|number| Shard::new(number, &options)).collect();
    let mut shard_senders = Vec::with_capacity(shards.len());
    for shard in &shards {
        let (sender, sockets) = mpsc::unbounded_channel();
        let (shard, tls) = (shard.clone(), tls.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("meta".into()).spawn(move || runtime.block_on(serve_all(sockets, shard, tls)))?;
        shard_senders.push(sender);
    }
    tokio::spawn(async move {
        let mut turn = shard_senders.iter().cycle();
        while let (Ok((socket, _)), Some(sender)) = (listener.accept().await, turn.next()) {
            // A tokio socket is bound to its runtime. Send the std socket to the other thread.
            if let Ok(socket) = socket.into_std() {
                let _ = sender.send(socket);
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
            Question::Seen { from_us, until_us } => out::json(&arrivals(&shards).seen(from_us..until_us))?,
            Question::Lateness(schedule) => out::json(&schedule.lateness(arrivals(&shards)))?,
            Question::Messages(path) => {
                let messages =
                    shards.iter().flat_map(|shard| shard.records(|records| std::mem::take(&mut records.messages)));
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

/// What all threads have recorded.
fn arrivals(shards: &[Arc<Shard>]) -> Arrivals {
    let mut arrivals = Arrivals::default();
    shards.iter().for_each(|shard| shard.records(|records| arrivals.merge(&records.arrivals)));
    arrivals
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

/// Makes an authority, writes its certificate to `ca`, and makes a certificate for 127.0.0.1 with it.
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
    // Offer only HTTP/2: a client that falls back to HTTP/1.1 would invalidate the measurement.
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The state of one serving thread.
struct Shard {
    latency: Duration,
    keep: bool,
    began: Instant,
    began_us: u64,
    records: Mutex<Records>,
}

struct Records {
    arrivals: Arrivals,
    messages: Vec<Message>,
    /// The number of the last message, unique across threads: the upper 16 bits are the number of the shard.
    number: u64,
}

/// The response to a request.
enum Answer {
    /// A message was accepted and has this number.
    Accepted(u64),
    /// The response to any other request: HTTP status and body.
    Json(u16, &'static str),
}

impl Shard {
    fn new(number: usize, options: &MetaOptions) -> Arc<Self> {
        let records = Records { arrivals: Arrivals::default(), messages: Vec::new(), number: (number as u64) << 48 };
        Arc::new(Self {
            latency: Duration::from_millis(options.latency_ms),
            keep: options.keep,
            began: Instant::now(),
            began_us: clock::now_us(),
            records: Mutex::new(records),
        })
    }

    /// Runs `with` on the records. Only questions on standard input contend for this lock.
    fn records<T>(&self, with: impl FnOnce(&mut Records) -> T) -> T {
        with(&mut self.records.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Handles a request. `path` may include a query.
    fn handle(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let mut steps = path.split(['/', '?']).skip(2);
        match (method, steps.next(), steps.next()) {
            ("POST", Some(line), Some("messages")) => {
                let at_us = self.began_us + u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.records(|records| {
                    records.number += 1;
                    records.arrivals.record(line, at_us);
                    if self.keep {
                        let text = |name| text_between(body, name).unwrap_or_default().to_owned();
                        let wamid = format!("{WAMID}{}", wamid_end(records.number));
                        let to = text("\"to\":\"").trim_start_matches('+').to_owned();
                        let token = text("\"biz_opaque_callback_data\":\"");
                        records.messages.push(Message { line: line.to_owned(), to, token, wamid });
                    }
                    Answer::Accepted(records.number)
                })
            }
            ("GET", Some(_), Some("message_templates")) => Answer::Json(200, TEMPLATES),
            // No line is listed: the lines keep their configured rates, and the business has no limit.
            ("GET", Some(_), Some("phone_numbers")) => Answer::Json(200, r#"{"data":[]}"#),
            ("GET", Some(_), _) => Answer::Json(200, LINE),
            _ => Answer::Json(404, NOT_FOUND),
        }
    }
}

/// The text in `body` between `name` and the next quote.
fn text_between<'b>(body: &'b [u8], name: &str) -> Option<&'b str> {
    let rest = &body[memchr::memmem::find(body, name.as_bytes())? + name.len()..];
    std::str::from_utf8(&rest[..memchr::memchr(b'"', rest)?]).ok()
}

async fn serve_all(
    mut sockets: mpsc::UnboundedReceiver<std::net::TcpStream>,
    shard: Arc<Shard>,
    tls: Option<TlsAcceptor>,
) {
    while let Some(socket) = sockets.recv().await {
        let Ok(socket) = TcpStream::from_std(socket) else { continue };
        let _ = socket.set_nodelay(true);
        let (shard, tls) = (shard.clone(), tls.clone());
        // An error of a connection concerns only its client, which reports it.
        tokio::spawn(async move {
            match tls {
                None => serve_http1(socket, &shard).await.is_ok(),
                Some(tls) => serve_http2(socket, &tls, shard).await.is_ok(),
            }
        });
    }
}

/// Serves HTTP/1.1.
async fn serve_http1(mut socket: TcpStream, shard: &Shard) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(8 * 1024);
    let (before, after) = ACCEPTED;
    let head = |status: u16, length: usize| {
        format!("HTTP/1.1 {status} \r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n")
    };
    let mut accepted = head(200, before.len() + WAMID_END_LEN + after.len()) + before;
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
                    accepted.extend([&wamid_end(number), after]);
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

/// Handles the first request in `buffer`. Returns the response and the length of the request, or `None` if the request
/// is incomplete.
fn next_request(buffer: &[u8], shard: &Shard) -> io::Result<Option<(Answer, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(buffer).map_err(io::Error::other)? else { return Ok(None) };
    let length = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok()).unwrap_or(0);
    if length > REQUEST_BYTES_MAX {
        return Err(io::Error::other("the request body is too large"));
    }
    let Some(body) = buffer.get(head..head + length) else { return Ok(None) };
    let answer = shard.handle(request.method.unwrap_or_default(), request.path.unwrap_or_default(), body);
    Ok(Some((answer, head + length)))
}

/// Serves HTTP/2 over TLS.
async fn serve_http2(socket: TcpStream, tls: &TlsAcceptor, shard: Arc<Shard>) -> io::Result<()> {
    let socket = tls.accept(socket).await?;
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let shard = shard.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            let (status, json) = match shard.handle(head.method.as_str(), head.uri.path(), &body) {
                Answer::Accepted(number) => {
                    if !shard.latency.is_zero() {
                        tokio::time::sleep(shard.latency).await;
                    }
                    (200, Bytes::from(format!("{}{}{}", ACCEPTED.0, wamid_end(number), ACCEPTED.1)))
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
    fn a_message_is_accepted_counted_and_stored() {
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
            let wamid = "wamid.HBgNNTQ5MTE1NTU1MDAwMRUCABEYEjAwMDAwMzAwMDAwMDAwMDAwMQA=".to_owned();
            let (line, to, token) = ("3007".to_owned(), "5491155550001".to_owned(), "p1.x.0.1.1.ff".to_owned());
            let message = Message { line, to, token, wamid };
            assert_eq!(Message::read(&message.line()).as_ref(), Some(&message));
            assert_eq!(records.messages, [message]);
        });
        assert!(ACCEPTED.0.ends_with(WAMID), "the id in the answer is that one");
        assert_eq!(wamid_end(u64::MAX).len(), WAMID_END_LEN);
    }

    #[test]
    fn an_incomplete_request_does_not_count() {
        let shard = shard();
        for half in ["POST /v25.0/3001/mes", "POST /v25.0/3001/messages HTTP/1.1\r\ncontent-length: 2\r\n\r\n{"] {
            assert!(next_request(half.as_bytes(), &shard).expect("no fault yet").is_none(), "{half}");
        }
        assert!(shard.records(|records| records.arrivals.is_empty()));
    }

    #[test]
    fn reads_return_the_template_and_the_line() {
        let shard = shard();
        let answer = |method, path| match shard.handle(method, path, b"") {
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
