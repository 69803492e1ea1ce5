//! Makes one attempt to deliver a body to an endpoint.
//!
//! Never: follows a redirect, uses a proxy of the environment, or connects to a private address unless the endpoint
//! allows it.

use std::{error::Error, iter, time::Duration};

use bytes::Bytes;
use reqwest::{
    Response, StatusCode,
    header::{HeaderMap, RETRY_AFTER},
    redirect::Policy,
};

use super::{
    Endpoint,
    addresses::{NotPublic, PublicResolver},
};
use crate::telemetry::metrics::DeliveryResult;

/// How much of a response is read, in bytes. A shorter response is read completely, so that its connection can be used
/// again.
const RESPONSE_BYTES_MAX: usize = 4 * 1024;

/// Maximum wait that a response can demand.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// Timeout for reading the body of a response. The body does not affect the result, only the status does.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why an attempt failed. The texts name the host and the status, but no other part of the URL or the response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// The endpoint asks not to be sent any more requests (410).
    #[error("410 Gone")]
    Gone,
    /// The response is a redirect.
    #[error("{0}: redirects are not followed; set the url to the new address")]
    Redirect(StatusCode),
    /// The response has another status outside of 2xx.
    #[error("{status}")]
    Status {
        /// The status.
        status: StatusCode,
        /// The minimum wait that the response demands.
        retry_after: Option<Duration>,
    },
    /// The host of the endpoint has only private addresses.
    #[error(transparent)]
    NotPublic(#[from] NotPublic),
    /// No response came in time.
    #[error("no response within {0:?}")]
    Timeout(Duration),
    /// The connection could not be made, or it broke.
    #[error("{0}")]
    Unreachable(String),
}

impl DeliveryError {
    /// The minimum wait that the endpoint demands, up to ten minutes.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => retry_after.map(|wait| wait.min(RETRY_AFTER_MAX)),
            _ => None,
        }
    }

    /// The label in metrics.
    pub fn result(&self) -> DeliveryResult {
        match self {
            Self::Gone => DeliveryResult::Gone,
            Self::Redirect(_) => DeliveryResult::Redirect,
            Self::Status { .. } => DeliveryResult::Refused,
            Self::NotPublic(_) => DeliveryResult::NotPublic,
            Self::Timeout(_) => DeliveryResult::Timeout,
            Self::Unreachable(_) => DeliveryResult::Unreachable,
        }
    }
}

/// No client can be made: the system's certificate authorities cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("no HTTP client: are the system's root certificates (ca-certificates) installed?")]
pub struct NoEndpointClient(#[from] reqwest::Error);

/// The client of one endpoint.
pub struct EndpointClient {
    http: reqwest::Client,
    endpoint: Endpoint,
    timeout: Duration,
}

impl EndpointClient {
    /// A client without a connection yet. `timeout` limits an attempt, from connecting to the status of the response.
    pub fn new(endpoint: Endpoint, timeout: Duration) -> Result<Self, NoEndpointClient> {
        // reqwest uses the crypto provider of the process. An error means that a provider is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = reqwest::Client::builder()
            .user_agent(concat!("pregon/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy();
        let builder = match endpoint.allow_private {
            true => builder,
            false => builder.dns_resolver(PublicResolver::of_system()),
        };
        Ok(Self { http: builder.build()?, endpoint, timeout })
    }

    /// Posts `body` with `headers`. Any status of 2xx is a success.
    pub async fn post(&self, headers: HeaderMap, body: Bytes) -> Result<(), DeliveryError> {
        if let Some(address) = self.endpoint.url.private_address().filter(|_| !self.endpoint.allow_private) {
            // An address in the URL is not resolved, so it is checked here. The configuration refuses it too.
            return Err(NotPublic { name: address.to_string(), address }.into());
        }
        let request = self.http.post(self.endpoint.url.expose().clone()).headers(headers).body(body);
        let answered = tokio::time::timeout(self.timeout, request.send()).await;
        let response = answered.map_err(|_| DeliveryError::Timeout(self.timeout))?.map_err(unanswered)?;
        let result = judge(&response);
        // If the response is long or stalls, only the connection is lost.
        let _ = tokio::time::timeout(RESPONSE_TIMEOUT, read_to_end(response)).await;
        result
    }
}

fn judge(response: &Response) -> Result<(), DeliveryError> {
    match response.status() {
        status if status.is_success() => Ok(()),
        status if status.is_redirection() => Err(DeliveryError::Redirect(status)),
        StatusCode::GONE => Err(DeliveryError::Gone),
        status => Err(DeliveryError::Status { status, retry_after: retry_after(response) }),
    }
}

/// The wait in seconds that the header `Retry-After` demands. A date in the header is ignored.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

async fn read_to_end(mut response: Response) {
    let mut left = RESPONSE_BYTES_MAX;
    while let Ok(Some(piece)) = response.chunk().await {
        match left.checked_sub(piece.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

fn unanswered(error: reqwest::Error) -> DeliveryError {
    // The URL may contain a secret.
    let error = error.without_url();
    let causes = || iter::successors(Some(&error as &(dyn Error + 'static)), |&error| error.source());
    match causes().find_map(|cause| cause.downcast_ref::<NotPublic>()) {
        Some(private) => DeliveryError::NotPublic(private.clone()),
        None => DeliveryError::Unreachable(causes().map(ToString::to_string).collect::<Vec<_>>().join(": ")),
    }
}
