//! Forwards Meta's webhooks to other systems of the operator, because Meta delivers to one address only. Each system
//! gets the original bytes and Meta's signature, after the webhook was answered 200. A webhook that was answered 503 is
//! not forwarded: Meta delivers it again, and then it is forwarded once.
//!
//! Forwarding does not delay the answer to Meta: webhooks to forward wait in memory, up to a limit in bytes for each
//! target. A webhook that waits for its next attempt does not delay others, so webhooks may arrive in another order, as
//! they do from Meta.
//!
//! If the process dies: waiting webhooks are lost. Systems that must not miss anything use the event feed.
//! Never: forwards a webhook that another Pregón has forwarded, so that a wrong URL cannot cause an endless loop.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, VIA};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::signature;
use crate::{
    domain::RetryPolicy,
    endpoint::{DeliveryError, Endpoint, EndpointClient, NoEndpointClient},
    telemetry::metrics::{ForwardMetrics, ForwardResult},
};

/// What a webhook takes of the limit in addition to its body, in bytes: the state of its attempts.
const OVERHEAD_BYTES: usize = 1_024;

/// Maximum number of requests to one target at a time.
const IN_FLIGHT_MAX: usize = 32;

/// The value of the header `Via`.
const OURS: &str = "1.1 pregon";

/// The name in [`OURS`]. Proxies may append to the header, and change the case of names.
const OUR_NAME: &str = "pregon";

/// Minimum time between two log lines about failures, and between two about a full queue.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// A system that gets Meta's webhooks.
#[derive(Clone, Debug)]
pub struct ForwardTarget {
    /// Its name in logs and metrics.
    pub id: String,
    /// The endpoint that gets the webhooks.
    pub endpoint: Endpoint,
}

/// How webhooks are forwarded.
#[derive(Clone, Debug)]
pub struct ForwardSettings {
    /// The timeout of an attempt.
    pub timeout: Duration,
    /// The number of attempts, and the waits between them.
    pub retry: RetryPolicy,
    /// Maximum size of the webhooks that wait for one target, in bytes.
    pub bytes_max: usize,
    /// How long a stop waits for the attempts in progress.
    pub stop_timeout: Duration,
}

/// Whether a request was forwarded by a Pregón, perhaps through proxies.
///
/// Source: RFC 9110, section 7.6.3: a list of a protocol and a name, each perhaps with a comment.
pub fn is_forwarded(headers: &HeaderMap) -> bool {
    let values = headers.get_all(VIA).iter().filter_map(|value| value.to_str().ok());
    let mut names = values.flat_map(|value| value.split(',')).filter_map(|hop| hop.split_whitespace().nth(1));
    names.any(|name| name.eq_ignore_ascii_case(OUR_NAME))
}

/// Queues webhooks for one target.
pub struct Forwards {
    shared: Arc<Shared>,
    queue: mpsc::UnboundedSender<Waiting>,
}

/// A webhook that waits to be forwarded.
struct Waiting {
    body: Bytes,
    signature: HeaderValue,
    /// Its share of the limit.
    _bytes: OwnedSemaphorePermit,
}

struct Shared {
    id: String,
    client: EndpointClient,
    settings: ForwardSettings,
    metrics: ForwardMetrics,
    /// One permit per byte that may wait.
    bytes: Arc<Semaphore>,
    /// One permit per request.
    in_flight: Semaphore,
    /// The number of webhooks that wait.
    waiting: AtomicUsize,
    failures_log: DefaultDirectRateLimiter,
    dropped_log: DefaultDirectRateLimiter,
    stop: CancellationToken,
}

/// Allows a log line every [`LOG_EVERY`], so that a target that fails now and then does not flood the log.
fn log_limit() -> DefaultDirectRateLimiter {
    RateLimiter::direct(Quota::with_period(LOG_EVERY).expect("longer than nothing"))
}

impl Forwards {
    /// The queue for `target`, and the task that empties it. The task ends when the queue is dropped and nothing waits;
    /// after `stop`, it does not retry a failed attempt.
    ///
    /// # Errors
    /// No HTTP client can be made.
    pub fn new(
        target: ForwardTarget,
        settings: ForwardSettings,
        stop: CancellationToken,
    ) -> Result<(Self, impl Future<Output = Result<(), Infallible>> + Send), NoEndpointClient> {
        let shared = Arc::new(Shared {
            metrics: ForwardMetrics::new(&target.id),
            client: EndpointClient::new(target.endpoint, settings.timeout)?,
            id: target.id,
            bytes: Arc::new(Semaphore::new(settings.bytes_max)),
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
            waiting: AtomicUsize::new(0),
            settings,
            failures_log: log_limit(),
            dropped_log: log_limit(),
            stop,
        });
        let (queue, waiting) = mpsc::unbounded_channel();
        Ok((Self { shared: shared.clone(), queue }, async move {
            shared.run(waiting).await;
            Ok(())
        }))
    }

    /// Queues a webhook, unless the limit is reached.
    pub fn forward(&self, body: Bytes, signature: HeaderValue) {
        let shared = &self.shared;
        let bytes = u32::try_from(body.len() + OVERHEAD_BYTES).unwrap_or(u32::MAX);
        let Ok(bytes) = shared.bytes.clone().try_acquire_many_owned(bytes) else {
            shared.dropped(ForwardResult::Full, "too many wait");
            return;
        };
        shared.metrics.set_waiting(shared.waiting.fetch_add(1, Ordering::Relaxed) + 1);
        // Fails only after the task has ended, in a stop.
        let _ = self.queue.send(Waiting { body, signature, _bytes: bytes });
    }
}

impl Shared {
    async fn run(&self, mut queue: mpsc::UnboundedReceiver<Waiting>) {
        let stopped = AtomicUsize::new(0);
        let all = stream::poll_fn(|context| queue.poll_recv(context)).for_each_concurrent(None, async |waiting| {
            match self.forward(&waiting).await {
                ForwardResult::Failed => self.dropped(ForwardResult::Failed, "no attempt is left"),
                ForwardResult::Stopped => {
                    self.metrics.ended(ForwardResult::Stopped);
                    stopped.fetch_add(1, Ordering::Relaxed);
                }
                result => self.metrics.ended(result),
            }
            self.metrics.set_waiting(self.waiting.fetch_sub(1, Ordering::Relaxed) - 1);
        });
        let too_late = async {
            self.stop.cancelled().await;
            sleep(self.settings.stop_timeout).await;
        };
        tokio::select! {
            () = all => {}
            () = too_late => {}
        }
        let n = stopped.into_inner() + self.waiting.load(Ordering::Relaxed);
        if n > 0 {
            warn!(forward = self.id, n, "the process stops: webhooks that waited to be forwarded are dropped");
        }
    }

    /// Attempts to forward a webhook until one attempt succeeds, no attempt is left, or the process stops.
    async fn forward(&self, webhook: &Waiting) -> ForwardResult {
        let mut failures = 0;
        loop {
            let Err(error) = self.attempt(webhook).await else { return ForwardResult::Forwarded };
            failures += 1;
            let Some(wait) = self.settings.retry.delay(failures, rand::random_range(0.5..=1.0)) else {
                return ForwardResult::Failed;
            };
            if self.failures_log.check().is_ok() {
                warn!(forward = self.id, %error, "webhooks could not be forwarded: they are sent again");
            }
            let wait = wait.max(error.retry_after().unwrap_or_default());
            if self.stop.run_until_cancelled(sleep(wait)).await.is_none() {
                return ForwardResult::Stopped;
            }
        }
    }

    fn dropped(&self, result: ForwardResult, reason: &str) {
        self.metrics.ended(result);
        if self.dropped_log.check().is_ok() {
            let waiting = self.waiting.load(Ordering::Relaxed);
            warn!(forward = self.id, reason, waiting, "webhooks are dropped instead of being forwarded");
        }
    }

    async fn attempt(&self, webhook: &Waiting) -> Result<(), DeliveryError> {
        let headers = HeaderMap::from_iter([
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (HeaderName::from_static(signature::HEADER), webhook.signature.clone()),
            (VIA, HeaderValue::from_static(OURS)),
        ]);
        let _permit = self.in_flight.acquire().await;
        self.client.post(headers, webhook.body.clone()).await
    }
}
