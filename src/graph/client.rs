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
//!   `connect_timeout`. hyper-util makes such an error before it takes hold of the request.
//! - `hyper::Error::is_canceled`: the connection went away while the request was still queued for it. hyper makes this
//!   error only together with giving the request back whole. On a reused connection hyper-util has by then tried
//!   another one by itself, which is safe for the same reason, so that it surfaces on a new connection only.
//!
//! Everything else is in doubt: a time-out of the whole request, a connection that closed without an answer, a reset. A
//! server that accepts a connection and resets it at once looks the same, though most often nothing was written. hyper
//! can also lose a request that is handed to a connection just as that ends (10 of 150,000 sends to a server that
//! closed every connection at once; most likely the race of <https://github.com/hyperium/hyper/issues/4122>): it
//! neither writes nor answers, and only the time-out ends the attempt.
//!
//! **Why HTTP/1.1 only.** Over HTTP/2 the pool would keep a single connection to Meta: one reset would put every message
//! on it in doubt at once, one lost packet would hold up every line, and Meta's limit of concurrent streams would
//! bound the whole worker. With HTTP/1.1 a connection carries one message at a time.
//!
//! **Why the proxy of the environment is ignored.** `HTTPS_PROXY` is often set for other programs of a machine; here it
//! would silently move the access tokens' way out. A proxy is used if the configuration names one.

use std::{error::Error, iter, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use reqwest::{
    Body, Method, Proxy, Request, Response, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};

use super::answer;
use crate::domain::{Cause, LineId, Outcome, Secret};

/// The longest answer to a send that is read. Meta's are below 1 KiB; what is longer is not Meta's.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Idle connections are closed after this long, before the usual server or load balancer does it (60 s and more):
/// a request that meets the server's closing on the wire is in doubt.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// How the Graph API is reached.
#[derive(Clone)]
pub struct GraphConfig {
    /// `https://graph.facebook.com`, or where the stand-in for Meta listens.
    pub base_url: String,
    /// The version of the API, such as `v25.0`.
    pub version: String,
    /// For one whole call, from connecting to the last byte of the answer. What takes longer is in doubt.
    pub timeout: Duration,
    /// For resolving, connecting and TLS; shorter than `timeout`, so that a connection that cannot be made is known not
    /// to have carried anything.
    pub connect_timeout: Duration,
    /// Connections kept open between messages: about as many as attempts run at once. More attempts still run, each
    /// paying for a connection of its own.
    pub idle_connections_max: usize,
    /// An HTTP proxy for every call, such as `http://10.0.0.1:3128`; the variables of the environment are ignored.
    pub proxy: Option<String>,
}

impl Default for GraphConfig {
    fn default() -> Self {
        Self {
            base_url: "https://graph.facebook.com".to_owned(),
            version: "v25.0".to_owned(),
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            idle_connections_max: 256,
            proxy: None,
        }
    }
}

/// A client of the Graph API. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct GraphClient {
    http: reqwest::Client,
    root: Url,
}

impl GraphClient {
    /// A client that has not connected yet.
    ///
    /// # Errors
    /// [`BadGraphConfig`] names the value that cannot be used.
    pub fn new(config: GraphConfig) -> Result<Self, BadGraphConfig> {
        let GraphConfig { base_url, version, timeout, connect_timeout, idle_connections_max, proxy } = config;
        if connect_timeout.is_zero() || connect_timeout >= timeout {
            return Err(BadGraphConfig::Timeouts { connect_timeout, timeout });
        }
        if version.is_empty() {
            return Err(BadGraphConfig::Version);
        }
        let root = root(&base_url, &version).ok_or(BadGraphConfig::BaseUrl(base_url))?;

        // reqwest takes the provider of the process. Another part of it may have installed the same one before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("pregon/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .http1_only()
            .timeout(timeout)
            .connect_timeout(connect_timeout)
            .pool_max_idle_per_host(idle_connections_max)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tcp_nodelay(true);
        if let Some(proxy) = proxy {
            builder = builder.proxy(Proxy::all(proxy).map_err(BadGraphConfig::Proxy)?);
        }
        Ok(Self { http: builder.build().map_err(BadGraphConfig::Tls)?, root })
    }

    /// What sends on `line` with `token`. Built once for a line: the address and the headers are the same every time.
    ///
    /// # Errors
    /// [`BadToken`] if no header can hold the token.
    pub fn sender(&self, line: &LineId, token: &Secret) -> Result<LineSender, BadToken> {
        let mut headers = authorized(token)?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(LineSender { http: self.http.clone(), url: self.endpoint([line.as_str(), "messages"]), headers })
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
        let response = self.http.execute(request).await.map_err(sentence)?;
        let http_status = response.status().as_u16();
        Ok((http_status, whole_body(response, bytes_max).await?))
    }
}

/// Sends on one line. Cheap to clone, and used by many tasks at once.
#[derive(Clone, Debug)]
pub struct LineSender {
    http: reqwest::Client,
    url: Url,
    headers: HeaderMap,
}

impl LineSender {
    /// One attempt: `body` is written to Meta at most once.
    ///
    /// Shape: `body` is the whole JSON of a send. Errors are outcomes; there is no other way for an attempt to end. A
    /// caller that drops the future before it is done has to put the message in doubt.
    /// Source: the module doc says which failures are certain.
    pub async fn send(&self, body: Bytes) -> Outcome {
        let mut request = Request::new(Method::POST, self.url.clone());
        *request.headers_mut() = self.headers.clone();
        *request.body_mut() = Some(body.into());
        let response = match self.http.execute(request).await {
            Ok(response) => response,
            Err(error) if never_written(&error) => {
                return Outcome::Retry { wait: None, cause: Cause::Unreachable(sentence(error)) };
            }
            Err(error) => return Outcome::InDoubt(Cause::Unanswered(sentence(error))),
        };
        let http_status = response.status().as_u16();
        match whole_body(response, ANSWER_BYTES_MAX).await {
            Ok(body) => answer::read(http_status, &body),
            Err(reason) => Outcome::InDoubt(Cause::Unanswered(format!("HTTP {http_status}, then {reason}"))),
        }
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

/// Certainly not a byte of the request was written; the module doc has the reasons.
fn never_written(error: &reqwest::Error) -> bool {
    let by_hyper = causes(error).find_map(|cause| cause.downcast_ref::<hyper::Error>());
    error.is_connect() || by_hyper.is_some_and(hyper::Error::is_canceled)
}

async fn whole_body(response: Response, bytes_max: usize) -> Result<Bytes, String> {
    let body = Limited::new(Body::from(response), bytes_max).collect().await;
    Ok(body.map_err(|error| chain(&*error))?.to_bytes())
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

/// A value of [`GraphConfig`] cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadGraphConfig {
    /// `base_url`.
    #[error("the base URL `{0}` of the Graph API is not one of http or https without a query")]
    BaseUrl(String),
    /// `version`.
    #[error("the version of the Graph API is empty: it is written such as v25.0")]
    Version,
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
    Tls(#[source] reqwest::Error),
}

/// No HTTP header can hold the access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the access token holds a line break or another character that no HTTP header may hold")]
pub struct BadToken;
