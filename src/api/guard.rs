//! What surrounds every call: its key, its time, its log line, its panic.

use std::{
    any::Any,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::Method,
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::{debug, info};

use super::Shared;
use crate::{
    config::KeyScope,
    http::{auth::AuthError, problem::Problem},
    telemetry::metrics::{self, ApiResult},
};

/// How long a call may take, once its body is there, that neither uploads nor streams. Cancelling ten million recipients takes some ten seconds.
const CALL_TIME_MAX: Duration = Duration::from_secs(60);

/// Lets a call pass whose key may do what it asks for, and logs what came of it.
pub(super) async fn admit(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let reads = [Method::GET, Method::HEAD].contains(&method);
    let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let scope = matched.map(|matched| scope(&method, matched));
    let path = match matched {
        // The path of a recipient holds a whole phone number.
        Some(matched) if reads || matched.contains("{phone}") => matched.to_owned(),
        Some(_) => request.uri().path().to_owned(),
        None => "none of ours".to_owned(),
    };
    let client = client(&request);
    let caller = match shared.keys.admit(request.headers(), client, scope) {
        Ok(caller) => caller,
        Err(refusal) => {
            metrics::api_call(result(&refusal));
            match &refusal {
                // As many as somebody likes to make.
                AuthError::NoKey | AuthError::TooOften { .. } => {
                    debug!(%client, %method, path, ?refusal, "call refused")
                }
                AuthError::UnknownKey | AuthError::NoScope { .. } => {
                    info!(%client, %method, path, ?refusal, "call refused");
                }
            }
            return Problem::from(refusal).into_response();
        }
    };
    metrics::api_call(ApiResult::Admitted);
    let response = next.run(request).await;
    let (status, duration_ms) = (response.status().as_u16(), began.elapsed().as_millis() as u64);
    if reads {
        debug!(caller, %method, path, status, duration_ms, "call");
    } else {
        info!(caller, %method, path, status, duration_ms, "call");
    }
    response
}

/// What a call needs. Whatever is new here, and changes something, is at first for those who operate.
fn scope(method: &Method, matched: &str) -> KeyScope {
    match (method, matched) {
        (&Method::GET | &Method::HEAD, _) => KeyScope::Read,
        (
            &Method::POST,
            "/v1/campaigns" | "/v1/campaigns/{campaign}/recipients" | "/v1/campaigns/{campaign}/launch",
        )
        | (&Method::DELETE, "/v1/campaigns/{campaign}") => KeyScope::Submit,
        _ => KeyScope::Operate,
    }
}

/// Who is connected. What a header says of that anybody can write.
fn client(request: &Request) -> IpAddr {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    peer.map_or(Ipv4Addr::UNSPECIFIED.into(), |ConnectInfo(peer)| peer.ip())
}

fn result(refusal: &AuthError) -> ApiResult {
    match refusal {
        AuthError::NoKey => ApiResult::NoKey,
        AuthError::UnknownKey => ApiResult::UnknownKey,
        AuthError::TooOften { .. } => ApiResult::TooOften,
        AuthError::NoScope { .. } => ApiResult::NoScope,
    }
}

/// Ends a call that takes too long.
pub(super) async fn in_time(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let time = shared.state.stall_timeout + CALL_TIME_MAX;
    match tokio::time::timeout(time, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!("not done in {time:?}; a change may have been made, so look before you repeat it");
            Problem::unavailable("timeout", detail).into_response()
        }
    }
}

/// What a caller gets when a handler panics.
pub(super) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text");
    Problem::internal(&format!("panic: {text}")).into_response()
}
