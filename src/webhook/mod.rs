//! Meta's webhooks: statuses of messages, replies of recipients, and changes of templates and accounts.
//!
//! ```text
//! bytes ─▶ signature ─▶ payload ─▶ receive ─┬─▶ apply: group commit ─▶ Redis ─▶ 200
//!                                           └─▶ find: by message id ─▶ apply, or park
//! ```
//!
//! Every message is sent with our token, which names its recipient. Most statuses return the token in
//! `biz_opaque_callback_data`, and a tapped button returns it in its payload. Without the token, the recipient is found
//! by Meta's message id.
//!
//! A webhook is answered 200 only after its effect is stored in Redis. Otherwise it is answered 503, and Meta
//! delivers it again, for up to seven days. Applying a webhook is idempotent, in any order: see
//! `redis/scripts/status.lua`.
//!
//! If the process dies: Meta delivers unanswered webhooks again; all state is in Redis.
//! Never: answers before the commit; trusts a body before checking its signature; changes anything for a WABA that is
//! not ours, or for an unknown line without a token of ours.
//!
//! Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/overview>,
//! read 2026-11-22.

pub mod account;
pub mod apply;
pub mod caps;
pub mod directory;
mod failures;
pub mod faults;
pub mod fields;
pub mod find;
pub mod follow_up;
pub mod forward;
pub mod inbound_counts;
pub mod last_campaign;
pub mod lines;
pub mod payload;
pub mod places;
pub mod receive;
mod refusals;
pub mod search;
pub mod signature;
pub mod tally;
mod templates;
mod wishes;
mod withheld;

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Query, Request, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde::Deserialize;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};
use tracing::{error, info, warn};

use self::{
    apply::Committer,
    failures::Failures,
    find::MessageFinder,
    follow_up::FollowUp,
    forward::Forwards,
    inbound_counts::InboundCounter,
    payload::Payload,
    receive::Receiver,
    refusals::Refusals,
    signature::{Signature, Verifier},
};
use crate::{
    domain::{LineId, Lines, Live, Secret, SecretDigest, SharedTokenKey},
    json,
    redis::{Store, StoreError, clock::Clock, inbound::InboundLimits},
    rules::stop_words::StopWords,
    telemetry::{
        health::Health,
        metrics::{self, RefusalReason, WebhookKind, WebhookResult},
        traces::Traces,
    },
};

/// Timeout for receiving a body. Meta sends it at once.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Total bytes of the bodies that are being received or wait for Redis. Bounded because anybody can send a body, and
/// its signature is checked only when it is complete. Further bodies are answered 503, and Meta delivers them again.
/// The limit exceeds the largest body that can be configured.
const BODIES_BYTES_MAX: usize = 64 << 20;

/// Redis failed, a queue is full, or the process stops. The request may or may not have taken effect: repeat it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(Arc<str>);

impl Unavailable {
    /// The store failed with `cause`. An error that is not transient is logged here, because it needs an operator.
    fn because(cause: &StoreError) -> Self {
        if !cause.is_transient() {
            error!(%cause, "a webhook cannot be processed");
        }
        Self(cause.to_string().into())
    }

    /// The queue is full.
    fn busy() -> Self {
        Self("too many webhooks wait for redis".into())
    }

    /// It is not known yet which campaign a tapped button belongs to.
    fn unattributed_tap() -> Self {
        Self("the search for the message with a tapped button has not finished".into())
    }

    /// The reader of a line has left too many statuses of chats.
    fn chats_are_full(line: &LineId) -> Self {
        Self(format!("too many statuses of chats wait on line {line}: no process has stored them in PostgreSQL").into())
    }

    /// A reader of inbound messages has left the stream of `line` full.
    fn full(line: &LineId) -> Self {
        Self(
            format!("the inbound stream of line {line} is full: a consumer group of the stream does not read it")
                .into(),
        )
    }

    /// The task behind the queue has ended.
    fn stopped() -> Self {
        Self("the process stops".into())
    }
}

/// The secrets that prove that a request is from Meta.
pub struct WebhookSecrets {
    verify_token: SecretDigest,
    verifier: Verifier,
}

impl WebhookSecrets {
    /// `verify_token`: the token that Meta's handshake must carry. `app_secrets`: the secrets that sign webhooks, two
    /// during a rotation.
    pub fn new<'s>(verify_token: &Secret, app_secrets: impl IntoIterator<Item = &'s Secret>) -> Self {
        Self { verify_token: SecretDigest::of(verify_token.expose()), verifier: Verifier::new(app_secrets) }
    }
}

/// The configuration of the webhooks.
pub struct WebhookSettings {
    /// The current secrets that prove that a request is from Meta.
    pub secrets: Live<Arc<WebhookSecrets>>,
    /// Limit on the size of a body.
    pub body_bytes_max: usize,
    /// How long message ids can be looked up.
    pub id_retention: Duration,
    /// How much of the inbound streams is kept.
    pub inbound: InboundLimits,
    /// The lines that this process lists.
    pub lines: Live<Lines>,
    /// Readiness, which reports whether webhooks are refused.
    pub health: Health,
    /// The systems to which every webhook is forwarded unchanged.
    pub forwards: Vec<Forwards>,
    /// The messages with which people opt out.
    pub stop_words: Live<StopWords>,
    /// Where the statuses of sampled recipients are recorded.
    pub traces: Traces,
}

/// The state that the handlers share. Cheap to clone.
#[derive(Clone)]
pub struct WebhookState(Arc<Shared>);

struct Shared {
    secrets: Live<Arc<WebhookSecrets>>,
    body_bytes_max: usize,
    /// One permit per byte of a body.
    body_permits: Semaphore,
    receiver: Receiver,
    refusals: Refusals,
    forwards: Vec<Forwards>,
    failures: Failures,
}

impl WebhookState {
    /// The state, and the task that commits. The task ends when the last clone of the state is dropped and everything
    /// queued is committed. Stop the listener first.
    pub fn new(
        store: Store,
        clock: Arc<Clock>,
        token_key: SharedTokenKey,
        settings: WebhookSettings,
    ) -> (Self, impl Future<Output = Result<(), Infallible>> + Send) {
        let WebhookSettings {
            secrets,
            body_bytes_max,
            id_retention,
            inbound,
            lines,
            health,
            forwards,
            stop_words,
            traces,
        } = settings;
        let (follow_up, follow_ups) = FollowUp::new(store.clone(), clock.clone());
        let (committer, commits) =
            Committer::new(store.with_pinned_connection(), clock.clone(), id_retention, inbound, follow_up, traces);
        let (finder, searches) = MessageFinder::new(store.clone(), clock.clone(), committer.clone());
        let (inbound_counter, counts) = InboundCounter::new(store.clone());
        let receiver = Receiver::new(store, clock, token_key, lines, committer, finder, inbound_counter)
            .with_stop_words(stop_words);
        let task = async {
            tokio::join!(commits, searches, follow_ups, counts);
            Ok(())
        };
        let failures = Failures::default();
        let body_permits = Semaphore::new(BODIES_BYTES_MAX);
        let refusals = Refusals::new(health);
        (Self(Arc::new(Shared { secrets, body_bytes_max, body_permits, receiver, refusals, forwards, failures })), task)
    }
}

/// `GET` and `POST /webhooks/meta`.
pub fn router(state: WebhookState) -> Router {
    Router::new().route("/webhooks/meta", get(handshake).post(receive)).with_state(state)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Handshake {
    #[serde(rename = "hub.mode")]
    mode: String,
    #[serde(rename = "hub.challenge")]
    challenge: String,
    #[serde(rename = "hub.verify_token")]
    verify_token: String,
}

/// Answers Meta's verification request with the bare challenge.
async fn handshake(
    State(WebhookState(shared)): State<WebhookState>,
    query: Result<Query<Handshake>, QueryRejection>,
) -> Response {
    let asked = query.map_or_else(|_| Handshake::default(), |Query(asked)| asked);
    let is_known = SecretDigest::of(&asked.verify_token) == shared.secrets.get().verify_token;
    if asked.mode == "subscribe" && is_known {
        metrics::webhook(WebhookKind::Handshake, WebhookResult::Taken, 1);
        return asked.challenge.into_response();
    }
    metrics::webhook(WebhookKind::Handshake, WebhookResult::Refused, 1);
    warn!("refused a handshake with a wrong verify token");
    StatusCode::FORBIDDEN.into_response()
}

async fn receive(State(WebhookState(shared)): State<WebhookState>, request: Request) -> StatusCode {
    let unread = |result, status| {
        metrics::webhook(WebhookKind::Unread, result, 1);
        status
    };
    let unsigned = |reason| {
        shared.refusals.refused(reason);
        unread(WebhookResult::Refused, StatusCode::UNAUTHORIZED)
    };
    // Without a well-formed signature the body is not read.
    let header = request.headers().get(signature::HEADER).cloned();
    let Some((signature, header)) = header.and_then(|header| Some((Signature::read(header.as_bytes())?, header)))
    else {
        return unsigned(RefusalReason::NoSignature);
    };
    let is_forwarded = forward::is_forwarded(request.headers());
    let (body, _permits) = match timeout(BODY_TIMEOUT, shared.read(request.into_body())).await {
        Ok(Ok(read)) => read,
        Ok(Err(StatusCode::SERVICE_UNAVAILABLE)) => {
            return unread(WebhookResult::Unavailable, StatusCode::SERVICE_UNAVAILABLE);
        }
        Ok(Err(status)) => return unread(WebhookResult::Refused, status),
        Err(_) => return unread(WebhookResult::Refused, StatusCode::REQUEST_TIMEOUT),
    };
    if !shared.secrets.get().verifier.accepts(&signature, &body) {
        return unsigned(RefusalReason::WrongSignature);
    }
    shared.refusals.accepted();
    let status = shared.process(&body).await;
    if status == StatusCode::OK && !is_forwarded {
        let body = Bytes::from(body);
        shared.forwards.iter().for_each(|forwards| forwards.forward(body.clone(), header.clone()));
    }
    status
}

impl Shared {
    /// Processes a webhook of Meta. Returns the status of the response.
    async fn process(&self, body: &[u8]) -> StatusCode {
        // Text that is not UTF-8 must not cause the loss of other statuses in the same webhook.
        let body = String::from_utf8_lossy(body);
        let body = json::replace_lone_surrogates(body.as_bytes());
        let payload = match Payload::read(&body) {
            Ok(payload) => payload,
            Err(error) => {
                // 200, because Meta would otherwise deliver the same bytes again for days.
                warn!(%error, bytes = body.len(), "a webhook cannot be parsed");
                metrics::webhook(WebhookKind::Unread, WebhookResult::Malformed, 1);
                return StatusCode::OK;
            }
        };
        match self.receiver.process(&payload).await {
            Ok(()) => {
                if self.failures.succeeded(Instant::now()) {
                    info!("webhooks are processed again");
                }
                StatusCode::OK
            }
            Err(cause) => {
                if self.failures.failed(Instant::now()) {
                    warn!(%cause, "webhooks cannot be processed and are answered 503, so that Meta delivers them again");
                }
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// Reads a body. The caller keeps the permits for its bytes until it drops the body.
    ///
    /// Errors: the status of the response.
    async fn read(&self, mut body: Body) -> Result<(Vec<u8>, SemaphorePermit<'_>), StatusCode> {
        let full = |_| StatusCode::SERVICE_UNAVAILABLE;
        let (mut bytes, mut permits) = (Vec::new(), self.body_permits.try_acquire_many(0).map_err(full)?);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| StatusCode::BAD_REQUEST)?.into_data() else { continue };
            if bytes.len() + data.len() > self.body_bytes_max {
                return Err(StatusCode::PAYLOAD_TOO_LARGE);
            }
            let n = u32::try_from(data.len()).map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
            permits.merge(self.body_permits.try_acquire_many(n).map_err(full)?);
            bytes.extend_from_slice(&data);
        }
        Ok((bytes, permits))
    }
}
