//! The HTTP client that sends messages to Meta, and how it makes one attempt.
//!
//! Owns: the pool of connections to the Graph API, and the decision whether a failed attempt was written.
//! If the process dies: Meta may or may not have received the messages on their way. Their rows are `in_flight` in
//! Redis, and the next owner of the line puts them in doubt. Dropping the future of a send has the same effect: the
//! caller must put the row in doubt.
//! Never: sends a body twice. Meta has no idempotency key, so redirects and reqwest's retries are off, and only an
//! attempt that was certainly not written is reported as a retry.
//!
//! **What was certainly not written.** A request is handed to a connection only after the name was resolved and TCP
//! and TLS are done. From then on, hyper returns a request only if it never began to write it. So exactly these
//! errors mean that the request was not written, or not processed (read in hyper 1.12, hyper-util 0.1.21 and reqwest
//! 0.13.5):
//! - `reqwest::Error::is_connect`: resolving, connecting, the tunnel of a proxy or TLS failed, or took longer than
//!   `connect_timeout`. hyper-util returns this error before it takes the request. The same applies to `Closed`, with
//!   which the gate of a connection refuses to connect again (see `connections.rs`).
//! - `hyper::Error::is_canceled`: the connection closed while the request was still queued for it. hyper returns this
//!   error only together with the whole request. On a reused connection, hyper-util then asks for a new connection by
//!   itself, which the gate refuses; so this error appears only on a new connection.
//! - `REFUSED_STREAM` of HTTP/2: the server states that it did not begin to process the request (RFC 9113, 8.7).
//!
//! Everything else is in doubt: a timeout of the whole request, a connection that closed without a response, a reset.
//! A server that accepts a connection and resets it at once looks the same, although usually nothing was written.
//! hyper can also lose a request that is handed to a connection just as the connection closes: it neither writes the
//! request nor returns an error, and only the timeout ends the attempt. This happened in 10 of 150,000 sends to a
//! server that closed every connection at once, and is most likely the race of
//! <https://github.com/hyperium/hyper/issues/4122>.
//!
//! **When a message leaves.** On an open connection, at once. On a new one, when the caller calls
//! [`Departure::leave`]. No message waits for a connection without the caller's knowledge: see `connections.rs`.
//!
//! **HTTP/2** is used with TLS, because Meta's servers support it best. It is not negotiated: until the protocol of
//! the server is known, each of the first messages would open a connection of its own.
//!
//! **The proxy variables of the environment are ignored.** `HTTPS_PROXY` is often set for other programs on the
//! machine, and would silently send the access tokens through that proxy. Only a proxy named in the configuration is
//! used.

use std::{
    error::Error,
    fs, io, iter,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::{
    Method, Proxy, Request, Response, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT},
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use rustls_platform_verifier::Verifier;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    answer,
    connections::{Closed, Connecting, Connections, Gate, StreamPermit},
};
use crate::domain::{Cause, LineId, Outcome, Secret};

/// The maximum size of a response to a send. Meta's responses are below 1 KiB; a larger one is not Meta's.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How long an idle connection stays open. Shorter than the idle timeout of common servers and load balancers (60 s
/// and more): a request that is on its way while the server closes the connection is in doubt.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a connection may be idle and still be used. Shorter than [`IDLE_TIMEOUT`], so that the connection does
/// not close before the message leaves.
const REUSE_IDLE_MAX: Duration = Duration::from_secs(15);

/// An HTTP/2 connection that is silent for this long is pinged, and closed if there is no reply within the same time.
/// The messages on it are in doubt either way, but no further message is put on it.
const PING_AFTER: Duration = Duration::from_secs(5);

/// Our user agent.
const OUR_USER_AGENT: &str = concat!("pregon/", env!("CARGO_PKG_VERSION"));

/// How to reach the Graph API.
#[derive(Clone)]
pub struct GraphClientConfig {
    /// `https://graph.facebook.com`, or the address of the simulator.
    pub base_url: String,
    /// The version of the API, such as `v25.0`.
    pub version: String,
    /// The time limit of one whole call, from connecting to the last byte of the response. An attempt that takes
    /// longer is in doubt.
    pub timeout: Duration,
    /// The time limit of resolving, connecting and TLS. Shorter than `timeout`, so that a failure to connect is
    /// recognized as such, and the message as certainly not sent.
    pub connect_timeout: Duration,
    /// Whether to use HTTP/2 for an https base URL. HTTP/1.1 is used otherwise.
    pub http2: bool,
    /// The maximum number of concurrent messages on an HTTP/2 connection, at least 1. This many are in doubt when a
    /// connection breaks.
    pub streams_max: usize,
    /// A PEM file of certificate authorities to trust besides those of the system: for the simulator, or a proxy that
    /// terminates TLS.
    pub ca: Option<PathBuf>,
    /// An HTTP proxy for every call, such as `http://10.0.0.1:3128`. The variables of the environment are ignored.
    pub proxy: Option<String>,
}

impl Default for GraphClientConfig {
    fn default() -> Self {
        Self {
            base_url: "https://graph.facebook.com".to_owned(),
            version: "v25.0".to_owned(),
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            http2: true,
            streams_max: 64,
            ca: None,
            proxy: None,
        }
    }
}

/// A client of the Graph API. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct GraphClient {
    connections: Arc<Connections>,
    /// The client for reads, which are not paced.
    reads: reqwest::Client,
    timeout: Duration,
    root: Url,
}

impl GraphClient {
    /// A client without any connection yet.
    ///
    /// # Errors
    /// [`BadGraphConfig`] names the invalid value.
    pub fn new(config: GraphClientConfig) -> Result<Self, BadGraphConfig> {
        let GraphClientConfig { timeout, connect_timeout, .. } = config;
        if connect_timeout.is_zero() || connect_timeout >= timeout {
            return Err(BadGraphConfig::Timeouts { connect_timeout, timeout });
        }
        if config.version.is_empty() {
            return Err(BadGraphConfig::Version);
        }
        let root = root(&config.base_url, &config.version).ok_or(BadGraphConfig::BaseUrl(config.base_url))?;
        let authorities = config.ca.as_deref().map(authorities).transpose()?.unwrap_or_default();
        let proxy = config.proxy.map(Proxy::all).transpose().map_err(BadGraphConfig::Proxy)?;
        let http2 = config.http2 && root.scheme() == "https";
        let tls = tls(authorities, http2).map_err(BadGraphConfig::Tls)?;

        let builder = move || {
            let mut builder = reqwest::Client::builder()
                .user_agent(OUR_USER_AGENT)
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .referer(false)
                .no_proxy()
                .connect_timeout(connect_timeout)
                .pool_idle_timeout(IDLE_TIMEOUT)
                .tcp_nodelay(true)
                .tls_backend_preconfigured(tls.clone());
            builder = if http2 {
                builder
                    .http2_prior_knowledge()
                    .http2_keep_alive_interval(PING_AFTER)
                    .http2_keep_alive_timeout(PING_AFTER)
            } else {
                builder.http1_only()
            };
            match &proxy {
                Some(proxy) => builder.proxy(proxy.clone()),
                None => builder,
            }
        };
        let reads = builder().timeout(timeout).build().map_err(BadGraphConfig::Client)?;
        let streams_max = if http2 { config.streams_max.max(1) } else { 1 };
        let make = move |gate: Gate| builder().connector_layer(gate).build();
        Ok(Self { connections: Connections::new(streams_max, REUSE_IDLE_MAX, Box::new(make)), reads, timeout, root })
    }

    /// A sender for `line` with `token`. Built once per line, because the URL and the headers are the same for every
    /// message.
    ///
    /// # Errors
    /// [`BadToken`] if the token is not a valid header value.
    pub fn sender(&self, line: &LineId, token: &Secret) -> Result<LineSender, BadToken> {
        let mut headers = authorized(token)?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // These headers are set here, because reqwest would otherwise add them to the header map of each request, and
        // the map would have to grow.
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(USER_AGENT, HeaderValue::from_static(OUR_USER_AGENT));
        Ok(LineSender {
            connections: self.connections.clone(),
            timeout: self.timeout,
            messages: self.endpoint([line.as_str(), "messages"]),
            marketing_messages: self.endpoint([line.as_str(), "marketing_messages"]),
            headers,
        })
    }

    /// The URL of a node, or of an edge of a node. Escapes the ids.
    pub(super) fn endpoint<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.root.clone();
        url.path_segments_mut().expect("a URL of http or https has a path, and the root is one").extend(path);
        url
    }

    /// Makes a call that is safe to repeat. `Err` says why there is no response.
    pub(super) async fn call_once(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: Option<&Value>,
        bytes_max: usize,
    ) -> Result<(u16, Bytes), String> {
        let mut request = Request::new(method, url);
        *request.headers_mut() = headers;
        if let Some(body) = body {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *request.body_mut() = Some(body.to_string().into());
        }
        let response = self.respond(request).await?;
        let http_status = response.status().as_u16();
        Ok((http_status, whole_body(response, bytes_max).await?))
    }

    /// Sends a request that is safe to repeat. `Err` says why there is no response.
    pub(super) async fn respond(&self, request: Request) -> Result<Response, String> {
        self.reads.execute(request).await.map_err(describe)
    }

    /// The time limit of a call.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// Sends on one line. Cheap to clone; usable by many tasks at once.
#[derive(Clone, Debug)]
pub struct LineSender {
    connections: Arc<Connections>,
    timeout: Duration,
    messages: Url,
    marketing_messages: Url,
    headers: HeaderMap,
}

/// The edge of a line to which a message is posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// `/messages`, for every message.
    Messages,
    /// `/marketing_messages`, the Marketing Messages API.
    MarketingMessages,
    /// `/messages`, for read marks and typing indicators, which are answered without a message id.
    Marks,
}

/// A message, ready to be sent.
#[derive(Clone, Debug)]
pub struct SendRequest {
    /// Where it is posted.
    pub edge: Edge,
    /// The whole JSON of the send.
    pub body: Bytes,
}

/// The right to send one message, until dropped.
pub enum Permit {
    /// A permit on an open connection: the message leaves as soon as [`LineSender::send`] runs.
    Open(OpenPermit),
    /// A permit on a connection that is yet to be made: the message leaves at [`Departure::leave`].
    New(NewPermit),
}

/// See [`Permit::Open`].
pub struct OpenPermit(StreamPermit);

/// See [`Permit::New`].
pub struct NewPermit(StreamPermit, Connecting);

/// A message that waits on a new, established connection until it may leave. If dropped, the message was certainly not
/// sent.
pub struct Departure {
    exchange: Exchange,
    leave: CancellationToken,
}

/// An attempt. `None` if the connection was closed before the message left.
type Exchange = Pin<Box<dyn Future<Output = Option<Outcome>> + Send>>;

impl LineSender {
    /// A permit for one message, if a connection has capacity or a new one may be made.
    pub fn permit(&self, now: Instant) -> Option<Permit> {
        let (taken, connecting) = self.connections.take(now)?;
        Some(match connecting {
            Some(connecting) => Permit::New(NewPermit(taken, connecting)),
            None => Permit::Open(OpenPermit(taken)),
        })
    }

    /// The error of the last attempt to connect, if it failed after `since` and no connection is open.
    pub fn unreachable_since(&self, since: Instant) -> Option<String> {
        self.connections.failed_since(since)
    }

    /// Makes one attempt: the body is written to Meta at most once.
    ///
    /// Shape: errors are outcomes. `None` means that the connection was closed,
    /// and that the message was certainly not sent. A caller that drops the future early must put the message in
    /// doubt.
    /// Source: the module doc lists the failures after which the message was certainly not sent.
    pub fn send(
        &self,
        OpenPermit(connection): OpenPermit,
        message: SendRequest,
    ) -> impl Future<Output = Option<Outcome>> + use<> {
        let edge = message.edge;
        let response = connection.execute(self.request(message));
        exchange(connection, edge, response, self.timeout, tokio::time::sleep(self.timeout))
    }

    /// Makes the connection for an attempt with `message`. `Err` is the outcome if there is no connection.
    pub async fn connect(
        &self,
        NewPermit(connection, _connecting): NewPermit,
        message: SendRequest,
    ) -> Result<Departure, Outcome> {
        let gate_wait = connection.gate().open();
        let (leave, timeout) = (gate_wait.leave.clone(), self.timeout);
        let deadline = async move {
            leave.cancelled().await;
            tokio::time::sleep(timeout).await;
        };
        let edge = message.edge;
        let response = connection.execute(self.request(message));
        let mut exchange: Exchange = Box::pin(exchange(connection, edge, response, timeout, deadline));
        tokio::select! {
            biased;
            () = gate_wait.connected.cancelled() => Ok(Departure { exchange, leave: gate_wait.leave }),
            ended = &mut exchange => Err(or_unreachable(ended)),
        }
    }

    fn request(&self, SendRequest { edge, body }: SendRequest) -> Request {
        let url = match edge {
            Edge::Messages | Edge::Marks => &self.messages,
            Edge::MarketingMessages => &self.marketing_messages,
        };
        let mut request = Request::new(Method::POST, url.clone());
        *request.headers_mut() = self.headers.clone();
        *request.body_mut() = Some(body.into());
        request
    }
}

impl Departure {
    /// Lets the message leave, and completes the attempt as [`LineSender::send`] does.
    pub async fn leave(self) -> Outcome {
        self.leave.cancel();
        or_unreachable(self.exchange.await)
    }
}

/// The outcome of an attempt on a new connection. `None` is not expected, because the gate was open; it becomes a
/// retry.
fn or_unreachable(ended: Option<Outcome>) -> Outcome {
    ended.unwrap_or_else(|| Outcome::Retry { wait: None, cause: Cause::Unreachable(Closed.to_string()) })
}

/// Waits for `response`, which arrives over `connection`, and reads its body. Gives up when `deadline` completes.
async fn exchange(
    connection: StreamPermit,
    edge: Edge,
    response: impl Future<Output = reqwest::Result<Response>>,
    timeout: Duration,
    deadline: impl Future<Output = ()>,
) -> Option<Outcome> {
    let unanswered = |reason: String| {
        connection.retire();
        Some(Outcome::InDoubt(Cause::Unanswered(reason)))
    };
    let answer = async {
        let response = match response.await {
            Ok(response) => response,
            Err(error) if causes(&error).any(|cause| cause.is::<Closed>()) => {
                connection.retire();
                return None;
            }
            Err(error) if never_written(&error) => {
                let reason = describe(error);
                connection.failed(&reason);
                return Some(Outcome::Retry { wait: None, cause: Cause::Unreachable(reason) });
            }
            Err(error) => return unanswered(describe(error)),
        };
        connection.answered();
        let http_status = response.status().as_u16();
        match whole_body(response, ANSWER_BYTES_MAX).await {
            Ok(body) if edge == Edge::Marks => Some(answer::read_of_mark(http_status, &body)),
            Ok(body) => Some(answer::read(http_status, &body)),
            Err(reason) => unanswered(format!("HTTP {http_status}, then {reason}")),
        }
    };
    tokio::select! {
        biased;
        outcome = answer => outcome,
        () = deadline => unanswered(format!("no response within {timeout:?}")),
    }
}

/// The headers with `token`, which is marked as sensitive so that it is not logged.
pub(super) fn authorized(token: &Secret) -> Result<HeaderMap, BadToken> {
    let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose())).map_err(|_| BadToken)?;
    bearer.set_sensitive(true);
    Ok(HeaderMap::from_iter([(AUTHORIZATION, bearer)]))
}

fn root(base_url: &str, version: &str) -> Option<Url> {
    let mut url = Url::parse(base_url).ok()?;
    if !matches!(url.scheme(), "http" | "https") || url.query().is_some() || url.fragment().is_some() {
        return None;
    }
    url.path_segments_mut().ok()?.pop_if_empty().push(version);
    Some(url)
}

/// The certificates in the PEM file at `path`.
fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, BadGraphConfig> {
    let bad = |source| BadGraphConfig::Authorities { path: path.to_owned(), source };
    let pem = fs::read(path).map_err(bad)?;
    match CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>() {
        Ok(authorities) if !authorities.is_empty() => Ok(authorities),
        Ok(_) => Err(bad(io::Error::other("the file has no certificate"))),
        Err(error) => Err(bad(io::Error::other(error))),
    }
}

/// The TLS configuration of all connections. Trusts the system's certificate authorities and `authorities`.
fn tls(authorities: Vec<CertificateDer<'static>>, http2: bool) -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new_with_extra_roots(authorities, provider.clone())?;
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    tls.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    Ok(tls)
}

/// Whether Meta certainly did not begin to process the request. The module doc has the reasons.
fn never_written(error: &reqwest::Error) -> bool {
    let canceled = |cause: &(dyn Error + 'static)| cause.downcast_ref().is_some_and(hyper::Error::is_canceled);
    let refused = |cause: &(dyn Error + 'static)| {
        let by_peer = cause.downcast_ref::<h2::Error>().filter(|error| error.is_remote());
        by_peer.is_some_and(|error| error.reason() == Some(h2::Reason::REFUSED_STREAM))
    };
    error.is_connect() || causes(error).any(|cause| canceled(cause) || refused(cause))
}

/// The body of a response of at most `bytes_max` bytes. It usually arrives in one piece, which is not copied.
pub(super) async fn whole_body(mut response: Response, bytes_max: usize) -> Result<Bytes, String> {
    let length = response.content_length();
    let mut body = Bytes::new();
    while let Some(piece) = response.chunk().await.map_err(describe)? {
        if body.len() + piece.len() > bytes_max {
            return Err(format!("more than {bytes_max} bytes"));
        }
        body = if body.is_empty() { piece } else { [body, piece].concat().into() };
        if length == Some(body.len() as u64) {
            break;
        }
    }
    Ok(body)
}

/// The error and its causes in one line, without the URL.
pub(super) fn describe(error: reqwest::Error) -> String {
    chain(&error.without_url())
}

fn chain(error: &(dyn Error + 'static)) -> String {
    causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The error and its causes, outermost first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&error| error.source())
}

/// A value of [`GraphClientConfig`] is invalid.
#[derive(Debug, thiserror::Error)]
pub enum BadGraphConfig {
    /// `base_url` is not an HTTP URL.
    #[error("the base URL `{0}` of the Graph API must be an http or https URL without a query")]
    BaseUrl(String),
    /// `version` is empty.
    #[error("the version of the Graph API is empty: set it, for example to v25.0")]
    Version,
    /// The file `ca` has no readable certificates.
    #[error("the certificate authorities for the Graph API can't be read from {}: {source}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with the file.
        source: io::Error,
    },
    /// `connect_timeout` is zero, or not shorter than `timeout`.
    #[error("the connect timeout {connect_timeout:?} must be above zero and shorter than the timeout {timeout:?}")]
    Timeouts {
        /// The configured value.
        connect_timeout: Duration,
        /// The configured value.
        timeout: Duration,
    },
    /// `proxy` is not a URL.
    #[error("the proxy to the Graph API is not a URL")]
    Proxy(#[source] reqwest::Error),
    /// TLS cannot verify Meta's certificate.
    #[error("TLS cannot be set up: are the system's root certificates (ca-certificates) installed?")]
    Tls(#[source] rustls::Error),
    /// The HTTP client cannot be created.
    #[error("the connection to the Graph API cannot be set up")]
    Client(#[source] reqwest::Error),
}

/// The access token is not a valid header value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the access token has a line break or another character that is not allowed in an HTTP header")]
pub struct BadToken;
