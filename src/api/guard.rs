//! Middleware for every request: API key or session, timeout, log line, audit trail, panics.

use std::{
    any::Any,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::{debug, info, warn};

use super::{
    Shared,
    access::{self, Access},
    audit::AuditEntry,
    openapi::{Call, Needs},
    session_token::SessionToken,
};
use crate::{
    config::KeyScope,
    domain::reject::redacted,
    http::{
        auth::AuthError,
        problem::{Problem, UnknownOutcome},
    },
    telemetry::{
        metrics::{self, ApiResult},
        traces::Request as TracedRequest,
    },
};

/// How long a request may take once its body has arrived. Uploads and streams are exempt. The slowest request cancels a
/// campaign: ten million recipients take about ten seconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The address of the connected peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client(pub(super) IpAddr);

/// Why a request is rejected.
enum Refusal {
    Key(AuthError),
    /// The cookie has no session, or one that has ended.
    NoSession,
    /// An agent's change has no token against forged requests.
    NoCsrfToken,
    /// The role of the agent lacks the scope.
    NoScope {
        agent: String,
        scope: KeyScope,
    },
    /// The session cannot be read.
    Failed(Problem),
}

/// Who makes a request: the holder of a key, or else an agent with a session. `None`: anybody may make the call.
async fn caller(
    shared: &Shared,
    (method, headers): (&Method, &HeaderMap),
    client: IpAddr,
    call: Option<&Call>,
) -> Result<Option<Access>, Refusal> {
    let scope = match call.map(|call| call.needs) {
        Some(Needs::Nothing) => return Ok(None),
        Some(Needs::Scope(scope)) => Some(scope),
        Some(Needs::Session) | None => None,
    };
    let token = SessionToken::of(headers).filter(|_| !headers.contains_key(header::AUTHORIZATION));
    let Some(token) = token else {
        let key = shared.keys.admit(headers, client, scope).map_err(Refusal::Key)?;
        return Ok(Some(Access::of(&key)));
    };
    let session = shared.session_of(&token, true).await.map_err(Refusal::Failed)?.ok_or(Refusal::NoSession)?;
    if !reads(method) && !token.confirms(headers) {
        return Err(Refusal::NoCsrfToken);
    }
    match scope {
        Some(scope) if !access::scopes(session.role).contains(&scope) => {
            Err(Refusal::NoScope { agent: session.agent.to_string(), scope })
        }
        _ => Ok(Some(Access::of_session(session, token))),
    }
}

/// Whether requests with this method change nothing.
fn reads(method: &Method) -> bool {
    [Method::GET, Method::HEAD].contains(method)
}

/// Passes a request on if its key or session has the scope for it, and logs the response.
pub(super) async fn admit(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let reads = reads(&method);
    let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let call = matched.and_then(|matched| shared.calls.of(&method, matched));
    let path = match matched {
        // The route is logged in place of the path, because the path of a recipient contains a full phone number.
        Some(matched) if reads || matched.contains("{phone}") => matched.to_owned(),
        Some(_) => request.uri().path().to_owned(),
        None => "unknown path".to_owned(),
    };
    let client = client(&request);
    let headers = request.headers().clone();
    let access = match caller(&shared, (&method, &headers), client, call).await {
        Ok(access) => access,
        Err(refusal) => {
            let result = result(&refusal);
            metrics::api_call(result);
            let reason = result.label();
            match &refusal {
                // Logged at debug level, because anyone can cause any number of these.
                Refusal::Key(AuthError::NoKey | AuthError::RateLimited { .. })
                | Refusal::NoSession
                | Refusal::Failed(_) => {
                    debug!(%client, %method, path, reason, "call refused");
                }
                Refusal::Key(AuthError::UnknownKey) | Refusal::NoCsrfToken => {
                    info!(%client, %method, path, reason, "call refused");
                }
                Refusal::Key(AuthError::NoScope { name: caller, scope })
                | Refusal::NoScope { agent: caller, scope } => {
                    info!(%client, %method, path, reason, caller, %scope, "call refused");
                }
            }
            return Problem::from(refusal).into_response();
        }
    };
    metrics::api_call(ApiResult::Admitted);
    let caller = access.as_ref().map_or("nobody", Access::who).to_owned();
    let entry = call.filter(|call| call.is_audited).map(|call| {
        let path_id = matched.and_then(|matched| path_id(matched, request.uri().path()));
        AuditEntry::open(&caller, &call.id, path_id.as_deref(), request.headers())
    });
    let traceparent = request.headers().get("traceparent").filter(|_| !reads).and_then(|value| value.to_str().ok());
    let traced = traceparent.and_then(|traceparent| {
        let name = format!("{method} {}", matched.unwrap_or("unknown path"));
        shared.state.intake.origin.request(name, traceparent)
    });
    request.extensions_mut().insert(Client(client));
    if let Some(access) = access {
        request.extensions_mut().insert(access.traced(traced.as_ref().map(TracedRequest::origin)));
    }
    if let Some(entry) = &entry {
        request.extensions_mut().insert(entry.audit());
    }
    let mut response = next.run(request).await;
    if let Some(outcome) = response.extensions_mut().remove::<UnknownOutcome>().filter(|_| !reads) {
        response = outcome.of_change();
    }
    if let Some(event) = entry.and_then(|entry| entry.close(response.status(), shared.now())) {
        tokio::spawn(tell(shared.clone(), event));
    }
    if let Some(traced) = traced {
        traced.ended(Some(response.status().as_u16()), response.status().is_server_error());
    }
    let (status, duration_ms) = (response.status().as_u16(), began.elapsed().as_millis() as u64);
    if reads {
        debug!(caller, %method, path, status, duration_ms, "call");
    } else {
        info!(caller, %method, path, status, duration_ms, "call");
    }
    response
}

/// Appends the event of a change. The response does not wait for it.
async fn tell(shared: Arc<Shared>, event: String) {
    if let Err(error) = shared.state.store.append_events(None, &[event]).await {
        warn!(%error, "the event of a change is lost; the audit line has the change");
    }
}

/// The id in `path`, whose route is `matched`: of a campaign, a line, … Of a phone number it has the last four digits.
fn path_id(matched: &str, path: &str) -> Option<String> {
    let mut segments = matched.split('/').zip(path.split('/'));
    let (name, id) = segments.find(|(name, _)| name.starts_with('{'))?;
    Some(if name == "{phone}" { redacted(id) } else { id.to_owned() })
}

/// The address of the connected peer. Forwarding headers are ignored, because any client can set them.
fn client(request: &Request) -> IpAddr {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    peer.map_or(Ipv4Addr::UNSPECIFIED.into(), |ConnectInfo(peer)| peer.ip())
}

fn result(refusal: &Refusal) -> ApiResult {
    match refusal {
        Refusal::Key(AuthError::NoKey) => ApiResult::NoKey,
        Refusal::Key(AuthError::UnknownKey) | Refusal::NoSession | Refusal::Failed(_) => ApiResult::UnknownKey,
        Refusal::Key(AuthError::RateLimited { .. }) => ApiResult::TooOften,
        Refusal::Key(AuthError::NoScope { .. }) | Refusal::NoScope { .. } | Refusal::NoCsrfToken => ApiResult::NoScope,
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Key(refusal) => refusal.into(),
            Refusal::NoSession => Self::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "the session has ended: log in with POST /v1/session",
            ),
            Refusal::NoCsrfToken => Self::new(
                StatusCode::FORBIDDEN,
                "forbidden",
                "send `X-CSRF-Token` with the `csrf_token` of the session: GET /v1/session",
            ),
            Refusal::NoScope { scope, .. } => {
                let detail = format!("this call needs the scope `{}`, which your role lacks", scope.name());
                Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
            }
            Refusal::Failed(problem) => problem,
        }
    }
}

/// Answers a request that takes too long with 503.
/// `stall_timeout` is the time in which its body has to arrive.
pub(super) async fn with_timeout(stall_timeout: Duration, request: Request, next: Next) -> Response {
    let limit = stall_timeout + CALL_TIMEOUT;
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            Problem::unavailable("timeout", format!("not done in {limit:?}")).with_unknown_outcome().into_response()
        }
    }
}

/// The response when a handler panics: 500. The panic's text is only logged.
pub(super) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text");
    Problem::internal(&format!("panic: {text}")).into_response()
}
