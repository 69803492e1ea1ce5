//! Meta's webhooks: what became of messages, who answered them, how templates stand.
//!
//! ```text
//! bytes ─▶ signature ─▶ payload ─▶ receive ─┬─▶ apply: group commit ─▶ Redis ─▶ 200
//!                                           └─▶ find: by message id ─▶ apply, or parked
//! ```
//!
//! A webhook is answered 200 only when its effect is in Redis. Without that it is answered 503, and Meta delivers it again,
//! for up to seven days. Twice is as good as once, and the order does not matter: see `redis/scripts/status.lua`.
//!
//! If the process dies: what was not answered is delivered again; there is nothing here that Redis does not have.
//! Never: answers before the commit; trusts a body before its signature; moves anything for a WABA that is not ours, nor, without a token of ours, for a line that is not.
//!
//! Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/overview>, read 2026-11-22.

pub mod account;
pub mod aftercare;
pub mod apply;
pub mod directory;
pub mod faults;
pub mod find;
pub mod lines;
pub mod payload;
pub mod receive;
mod refusals;
pub mod search;
pub mod signature;
pub mod tally;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Query, Request, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};
use tracing::{error, info, warn};

use self::{
    aftercare::Aftercare,
    apply::Committer,
    find::MessageFinder,
    payload::Payload,
    receive::Receiver,
    refusals::Refusals,
    signature::{Signature, Verifier},
};
use crate::{
    domain::{LineId, Secret, SecretDigest, SharedTokenKey, WabaId},
    json,
    redis::{Store, StoreError, clock::Clock},
    telemetry::{
        health::Health,
        metrics::{self, RefusalReason, WebhookKind, WebhookResult},
    },
};

/// How long a body may take to arrive. Meta sends it at once.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of all bodies that are read or wait for Redis at once. Anybody can send one that is only then found to be not
/// signed. Further ones are answered 503, and Meta delivers them again. It has room for the largest that may be configured.
const BODIES_BYTES_MAX: usize = 64 << 20;

/// Redis did not do its part. What was asked for may have happened, or not: do it again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(Arc<str>);

impl Unavailable {
    /// Because of `cause`. One that does not pass by itself is logged here, for it needs somebody.
    fn because(cause: &StoreError) -> Self {
        if !cause.is_transient() {
            error!(%cause, "a webhook can not be taken");
        }
        Self(cause.to_string().into())
    }

    /// Because as much waits as may.
    fn busy() -> Self {
        Self("too many webhooks wait for redis".into())
    }

    /// Because the task that does it is gone.
    fn stopped() -> Self {
        Self("the process stops".into())
    }
}

/// What the webhooks need to know.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// What Meta's handshake must bring.
    pub verify_token: Secret,
    /// What signs every webhook: more than one while it is being changed.
    pub app_secrets: Vec<Secret>,
    /// The largest webhook.
    pub body_bytes_max: usize,
    /// How long message ids are found again.
    pub ids_kept: Duration,
    /// The lines that this process lists, each with its WABA.
    pub lines: Vec<(LineId, WabaId)>,
    /// Where it is shown that webhooks are refused.
    pub health: Health,
}

/// What the handlers share. Cheap to clone.
#[derive(Clone)]
pub struct WebhookState(Arc<Shared>);

struct Shared {
    verify_token: SecretDigest,
    verifier: Verifier,
    body_bytes_max: usize,
    /// A permit for each byte.
    room: Semaphore,
    receiver: Receiver,
    refusals: Refusals,
    /// The last one was not taken: said once, not for each.
    refusing: AtomicBool,
}

impl WebhookState {
    /// The state, and the task that commits. The task ends by itself when the last clone of the state is gone and what that
    /// handed in is committed: so the listener is stopped first.
    pub fn new(
        store: Store,
        clock: Arc<Clock>,
        token_key: SharedTokenKey,
        settings: WebhookSettings,
    ) -> (Self, impl Future<Output = Result<(), Infallible>> + Send) {
        let WebhookSettings { verify_token, app_secrets, body_bytes_max, ids_kept, lines, health } = settings;
        let (aftercare, care) = Aftercare::new(store.clone(), clock.clone());
        let (committer, commits) = Committer::new(store.keeping_a_connection(), clock.clone(), ids_kept, aftercare);
        let (finder, search) = MessageFinder::new(store.clone(), clock.clone(), committer.clone());
        let receiver = Receiver::new(store, clock, token_key, &lines, committer, finder);
        let verifier = Verifier::new(&app_secrets);
        let task = async {
            tokio::join!(commits, search, care);
            Ok(())
        };
        let (verify_token, refusing) = (SecretDigest::of(verify_token.expose()), AtomicBool::new(false));
        let room = Semaphore::new(BODIES_BYTES_MAX);
        let refusals = Refusals::new(health);
        (Self(Arc::new(Shared { verify_token, verifier, body_bytes_max, room, receiver, refusals, refusing })), task)
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

/// Meta asks whether this address is ours: the bare challenge says yes.
async fn handshake(
    State(WebhookState(shared)): State<WebhookState>,
    query: Result<Query<Handshake>, QueryRejection>,
) -> Response {
    let asked = query.map_or_else(|_| Handshake::default(), |Query(asked)| asked);
    if asked.mode == "subscribe" && SecretDigest::of(&asked.verify_token) == shared.verify_token {
        metrics::webhook(WebhookKind::Handshake, WebhookResult::Taken, 1);
        return asked.challenge.into_response();
    }
    metrics::webhook(WebhookKind::Handshake, WebhookResult::Refused, 1);
    warn!("a handshake with another verify token was refused");
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
    // Who can't have a good signature is not listened to any further.
    let header = request.headers().get(signature::HEADER).map(|value| value.as_bytes());
    let Some(signature) = header.and_then(Signature::read) else {
        return unsigned(RefusalReason::NoSignature);
    };
    let (body, _room) = match timeout(BODY_TIMEOUT, shared.read(request.into_body())).await {
        Ok(Ok(read)) => read,
        Ok(Err(StatusCode::SERVICE_UNAVAILABLE)) => {
            return unread(WebhookResult::Unavailable, StatusCode::SERVICE_UNAVAILABLE);
        }
        Ok(Err(status)) => return unread(WebhookResult::Refused, status),
        Err(_) => return unread(WebhookResult::Refused, StatusCode::REQUEST_TIMEOUT),
    };
    if !shared.verifier.accepts(&signature, &body) {
        return unsigned(RefusalReason::WrongSignature);
    }
    shared.refusals.accepted();
    let body = json::mended(&body);
    let payload = match Payload::read(&body) {
        Ok(payload) => payload,
        Err(error) => {
            // 200, for it would be the same the next time, and Meta would deliver it for days.
            warn!(%error, bytes = body.len(), "a webhook can not be read");
            return unread(WebhookResult::Malformed, StatusCode::OK);
        }
    };
    match shared.receiver.take(&payload).await {
        Ok(()) => {
            if shared.refusing.load(Ordering::Relaxed) && shared.refusing.swap(false, Ordering::Relaxed) {
                info!("webhooks are taken again");
            }
            StatusCode::OK
        }
        Err(cause) => {
            if !shared.refusing.swap(true, Ordering::Relaxed) {
                warn!(%cause, "webhooks can not be taken: meta is told to deliver them again");
            }
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}

impl Shared {
    /// A body, and the room that it takes for as long as it is there.
    ///
    /// Errors: the status to answer with.
    async fn read(&self, mut body: Body) -> Result<(Vec<u8>, SemaphorePermit<'_>), StatusCode> {
        let full = |_| StatusCode::SERVICE_UNAVAILABLE;
        let (mut bytes, mut room) = (Vec::new(), self.room.try_acquire_many(0).map_err(full)?);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| StatusCode::BAD_REQUEST)?.into_data() else { continue };
            if bytes.len() + data.len() > self.body_bytes_max {
                return Err(StatusCode::PAYLOAD_TOO_LARGE);
            }
            let n = u32::try_from(data.len()).map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
            room.merge(self.room.try_acquire_many(n).map_err(full)?);
            bytes.extend_from_slice(&data);
        }
        Ok((bytes, room))
    }
}
