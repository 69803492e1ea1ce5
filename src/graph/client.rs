//! The connection to Meta, and one attempt over it.
//!
//! Owns: the pool of connections to the Graph API, and the judgement whether a failed attempt was written.
//! If the process dies: Meta may or may not have what was on its way; the rows are `in_flight` in Redis and the next
//! owner of the line puts them in doubt. Dropping the future of a send has the same effect: the caller has to treat
//! that row as in doubt.
//! Never: sends a body twice. Meta has no idempotency key, so redirects are off, retries are off, and only what is
//! certain not to have been written is called a retry.
//!
//! **What is certain.** A request is handed to a connection only after the name was resolved, the connection made and
//! the TLS handshake done. From there on hyper hands a request back only if it never began to write it. So these, and
//! only these, were not written (read in hyper 1.12, hyper-util 0.1.21 and reqwest 0.13.5):
//! - `reqwest::Error::is_connect`: resolving, connecting, a proxy's tunnel or TLS failed, or took longer than
//!   `connect_timeout`. hyper-util makes such an error before it takes hold of the request. So it does where the gate of a
//!   connection (`Closed`) refuses to make another one in its place.
//! - `hyper::Error::is_canceled`: the connection went away while the request was still queued for it. hyper makes this
//!   error only together with giving the request back whole. On a reused connection hyper-util has by then asked for
//!   another one by itself, which the gate refuses, so that it surfaces on a new connection only.
//!
//! Everything else is in doubt: a time-out of the whole request, a connection that closed without an answer, a reset. A
//! server that accepts a connection and resets it at once looks the same, though most often nothing was written. hyper
//! can also lose a request that is handed to a connection just as that ends (10 of 150,000 sends to a server that
//! closed every connection at once; most likely the race of <https://github.com/hyperium/hyper/issues/4122>): it
//! neither writes nor answers, and only the time-out ends the attempt.
//!
//! - `REFUSED_STREAM` of HTTP/2: the server says that it has not begun to process the request (RFC 9113, 8.7).
//!
//! **When a message leaves.** At once, over a connection that has answered before; or, over a new one, when its
//! [`Departure`] is told to. No message waits unseen for a connection: see `connections.rs`.
//!
//! **HTTP/2** where TLS is spoken, which is what Meta's servers do best. It is asked for outright and not left to be negotiated: as long as nobody knows what the other
//! side speaks, each of the first messages would make a connection of its own.
//!
//! **Why the proxy of the environment is ignored.** `HTTPS_PROXY` is often set for other programs of a machine; here it
//! would silently move the access tokens' way out. A proxy is used if the configuration names one.

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
use tokio_util::sync::CancellationToken;

use super::{
    answer,
    connections::{Closed, Connections, Gate, InMaking, Taken},
};
use crate::domain::{Cause, LineId, Outcome, Secret};

/// The longest answer to a send that is read. Meta's are below 1 KiB; what is longer is not Meta's.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Idle connections are closed after this long, before the usual server or load balancer does it (60 s and more):
/// a request that meets the server's closing on the wire is in doubt.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection that is idle this long carries no further message, for it may be closed before that leaves.
const KEPT: Duration = Duration::from_secs(15);

/// A connection of HTTP/2 that is silent this long is asked whether it lives, and given up after as long again: what it
/// carries is in doubt either way, and nothing more is put on it.
const PING_AFTER: Duration = Duration::from_secs(5);

/// What we tell Meta that we are.
const OURSELVES: &str = concat!("pregon/", env!("CARGO_PKG_VERSION"));

/// How the Graph API is reached.
#[derive(Clone)]
pub struct GraphClientConfig {
    /// `https://graph.facebook.com`, or where the stand-in for Meta listens.
    pub base_url: String,
    /// The version of the API, such as `v25.0`.
    pub version: String,
    /// For one whole call, from connecting to the last byte of the answer. What takes longer is in doubt.
    pub timeout: Duration,
    /// For resolving, connecting and TLS; shorter than `timeout`, so that a connection that cannot be made is known not
    /// to have carried anything.
    pub connect_timeout: Duration,
    /// HTTP/2 where the base URL is one of https; HTTP/1.1 else.
    pub http2: bool,
    /// Messages that share a connection of HTTP/2 at most, at least 1: so many are in doubt when it breaks.
    pub streams_max: usize,
    /// A PEM file of authorities that are trusted besides those of the system: for a stand-in, or a proxy that opens TLS.
    pub ca: Option<PathBuf>,
    /// An HTTP proxy for every call, such as `http://10.0.0.1:3128`; the variables of the environment are ignored.
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
    /// For what is read, which has no pace.
    reads: reqwest::Client,
    timeout: Duration,
    root: Url,
}

impl GraphClient {
    /// A client that has not connected yet.
    ///
    /// # Errors
    /// [`BadGraphConfig`] names the value that cannot be used.
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
                .user_agent(OURSELVES)
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
        Ok(Self { connections: Connections::new(streams_max, KEPT, Box::new(make)), reads, timeout, root })
    }

    /// What sends on `line` with `token`. Built once for a line: the address and the headers are the same every time.
    ///
    /// # Errors
    /// [`BadToken`] if no header can hold the token.
    pub fn sender(&self, line: &LineId, token: &Secret) -> Result<LineSender, BadToken> {
        let mut headers = authorized(token)?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // reqwest would put these into each copy, which grows for them.
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(USER_AGENT, HeaderValue::from_static(OURSELVES));
        Ok(LineSender {
            connections: self.connections.clone(),
            timeout: self.timeout,
            url: self.endpoint([line.as_str(), "messages"]),
            headers,
        })
    }

    /// The address of a node or of an edge below it; what an id must not hold is escaped.
    pub(super) fn endpoint<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.root.clone();
        url.path_segments_mut().expect("a URL of http or https has a path, and the root is one").extend(path);
        url
    }

    /// Reads from the Graph API; a read may be repeated at will. `Err`: why there is no answer.
    pub(super) async fn get(&self, url: Url, headers: HeaderMap, bytes_max: usize) -> Result<(u16, Bytes), String> {
        let mut request = Request::new(Method::GET, url);
        *request.headers_mut() = headers;
        let response = self.reads.execute(request).await.map_err(sentence)?;
        let http_status = response.status().as_u16();
        Ok((http_status, whole_body(response, bytes_max).await?))
    }
}

/// Sends on one line. Cheap to clone, and used by many tasks at once.
#[derive(Clone, Debug)]
pub struct LineSender {
    connections: Arc<Connections>,
    timeout: Duration,
    url: Url,
    headers: HeaderMap,
}

/// The right to send one message, until it is dropped.
pub enum Permit {
    /// On a connection that has answered: the message leaves when it is sent.
    Open(OpenPermit),
    /// On one that has yet to be made: the message leaves when its [`Departure`] is told to.
    New(NewPermit),
}

/// See [`Permit::Open`].
pub struct OpenPermit(Taken);

/// See [`Permit::New`].
pub struct NewPermit(Taken, InMaking);

/// A message with a connection of its own, which has not left. Dropped, it was certainly not sent.
pub struct Departure {
    exchange: Exchange,
    leave: CancellationToken,
}

/// An attempt. `None`: the connection was closed before the message left.
type Exchange = Pin<Box<dyn Future<Output = Option<Outcome>> + Send>>;

impl LineSender {
    /// The right to send one message, if a connection has room for it or may be made.
    pub fn permit(&self, now: Instant) -> Option<Permit> {
        let (taken, in_making) = self.connections.take(now)?;
        Some(match in_making {
            Some(in_making) => Permit::New(NewPermit(taken, in_making)),
            None => Permit::Open(OpenPermit(taken)),
        })
    }

    /// Why there is no connection, if none is open and the last that was tried, after `since`, could not be made.
    pub fn unreachable_since(&self, since: Instant) -> Option<String> {
        self.connections.failed_since(since)
    }

    /// One attempt: `body` is written to Meta at most once.
    ///
    /// Shape: `body` is the whole JSON of a send. Errors are outcomes; there is no other way for an attempt to end, but for
    /// `None`: the connection was closed, and the message certainly not sent. A caller that drops the future before it
    /// is done has to put the message in doubt.
    /// Source: the module doc says which failures are certain.
    pub fn send(
        &self,
        OpenPermit(connection): OpenPermit,
        body: Bytes,
    ) -> impl Future<Output = Option<Outcome>> + use<> {
        let response = connection.execute(self.request(body));
        exchange(connection, response, self.timeout, tokio::time::sleep(self.timeout))
    }

    /// Makes the connection for an attempt with `body`. `Err`: what the attempt ended in, without one.
    pub async fn connect(
        &self,
        NewPermit(connection, _in_making): NewPermit,
        body: Bytes,
    ) -> Result<Departure, Outcome> {
        let hold = connection.gate().hold();
        let (leave, timeout) = (hold.leave.clone(), self.timeout);
        let patience = async move {
            leave.cancelled().await;
            tokio::time::sleep(timeout).await;
        };
        let response = connection.execute(self.request(body));
        let mut exchange: Exchange = Box::pin(exchange(connection, response, timeout, patience));
        tokio::select! {
            biased;
            () = hold.connected.cancelled() => Ok(Departure { exchange, leave: hold.leave }),
            ended = &mut exchange => Err(came_to_nothing(ended)),
        }
    }

    fn request(&self, body: Bytes) -> Request {
        let mut request = Request::new(Method::POST, self.url.clone());
        *request.headers_mut() = self.headers.clone();
        *request.body_mut() = Some(body.into());
        request
    }
}

impl Departure {
    /// The attempt, from the moment at which the message leaves: as [`LineSender::send`].
    pub async fn leave(self) -> Outcome {
        self.leave.cancel();
        came_to_nothing(self.exchange.await)
    }
}

/// The outcome of an attempt on a new connection, whose gate was not closed.
fn came_to_nothing(ended: Option<Outcome>) -> Outcome {
    ended.unwrap_or_else(|| Outcome::Retry { wait: None, cause: Cause::Unreachable(Closed.to_string()) })
}

/// Reads the answer of `response`, which comes over `connection`, until `patience` ends.
async fn exchange(
    connection: Taken,
    response: impl Future<Output = reqwest::Result<Response>>,
    timeout: Duration,
    patience: impl Future<Output = ()>,
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
                let reason = sentence(error);
                connection.failed(&reason);
                return Some(Outcome::Retry { wait: None, cause: Cause::Unreachable(reason) });
            }
            Err(error) => return unanswered(sentence(error)),
        };
        connection.answered();
        let http_status = response.status().as_u16();
        match whole_body(response, ANSWER_BYTES_MAX).await {
            Ok(body) => Some(answer::read(http_status, &body)),
            Err(reason) => unanswered(format!("HTTP {http_status}, then {reason}")),
        }
    };
    tokio::select! {
        biased;
        outcome = answer => outcome,
        () = patience => unanswered(format!("no answer in {timeout:?}")),
    }
}

/// Headers with `token`, marked so that no log shows it.
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
        Ok(_) => Err(bad(io::Error::other("there is no certificate in it"))),
        Err(error) => Err(bad(io::Error::other(error))),
    }
}

/// TLS for all connections: the system's authorities and `authorities` are trusted.
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

/// Certainly Meta did not begin to process the request; the module doc has the reasons.
fn never_written(error: &reqwest::Error) -> bool {
    let canceled = |cause: &(dyn Error + 'static)| cause.downcast_ref().is_some_and(hyper::Error::is_canceled);
    let refused = |cause: &(dyn Error + 'static)| {
        let by_peer = cause.downcast_ref::<h2::Error>().filter(|error| error.is_remote());
        by_peer.is_some_and(|error| error.reason() == Some(h2::Reason::REFUSED_STREAM))
    };
    error.is_connect() || causes(error).any(|cause| canceled(cause) || refused(cause))
}

/// The body of an answer, if it is not longer than `bytes_max`. As a rule it comes in one piece, which is not copied.
async fn whole_body(mut response: Response, bytes_max: usize) -> Result<Bytes, String> {
    let length = response.content_length();
    let mut body = Bytes::new();
    while let Some(piece) = response.chunk().await.map_err(sentence)? {
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

/// The error and its causes in one line, without the address.
fn sentence(error: reqwest::Error) -> String {
    chain(&error.without_url())
}

fn chain(error: &(dyn Error + 'static)) -> String {
    causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The error itself and what it came from, outermost first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&error| error.source())
}

/// A value of [`GraphClientConfig`] cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadGraphConfig {
    /// `base_url`.
    #[error("the base URL `{0}` of the Graph API is not one of http or https without a query")]
    BaseUrl(String),
    /// `version`.
    #[error("the version of the Graph API is empty: it is written such as v25.0")]
    Version,
    /// `ca`.
    #[error("the authorities of the Graph API can't be read from {}: {source}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// `connect_timeout`.
    #[error("the connect time-out {connect_timeout:?} must be above zero and shorter than the time-out {timeout:?}")]
    Timeouts {
        /// As it was given.
        connect_timeout: Duration,
        /// As it was given.
        timeout: Duration,
    },
    /// `proxy`.
    #[error("the proxy to the Graph API is not a URL")]
    Proxy(#[source] reqwest::Error),
    /// There is nothing to verify Meta's certificate with.
    #[error("TLS cannot be set up: are the system's root certificates (ca-certificates) installed?")]
    Tls(#[source] rustls::Error),
    /// There is no HTTP client with it.
    #[error("the connection to the Graph API cannot be set up")]
    Client(#[source] reqwest::Error),
}

/// No HTTP header can hold the access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the access token holds a line break or another character that no HTTP header may hold")]
pub struct BadToken;
