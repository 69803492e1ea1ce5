//! What surrounds every call: its key, its time, its log line, its panic.

use std::{
    any::Any,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{Method, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::{debug, info};

use super::{Shared, problem::Problem};

/// How long a call may take that neither uploads nor streams. Cancelling ten million recipients takes some ten seconds.
const CALL_TIME_MAX: Duration = Duration::from_secs(60);

/// Lets a call with a key pass, and logs what came of it.
pub(super) async fn admit(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let caller = shared.keys.caller(request.headers()).map(str::to_owned);
    let method = request.method().clone();
    let reads = [Method::GET, Method::HEAD].contains(&method);
    let path = match request.extensions().get::<MatchedPath>().map(MatchedPath::as_str) {
        // The path of a recipient holds a whole phone number.
        Some(matched) if reads || matched.contains("{phone}") => matched.to_owned(),
        Some(_) => request.uri().path().to_owned(),
        None => "none of ours".to_owned(),
    };
    let response = match &caller {
        Some(_) => next.run(request).await,
        None => no_key().into_response(),
    };
    let (caller, status) = (caller.as_deref().unwrap_or("nobody"), response.status().as_u16());
    let duration_ms = began.elapsed().as_millis() as u64;
    if reads {
        debug!(caller, %method, path, status, duration_ms, "call");
    } else {
        info!(caller, %method, path, status, duration_ms, "call");
    }
    response
}

fn no_key() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "send `Authorization: Bearer KEY` with a key of http.api_keys",
    )
    .with_header("www-authenticate", "Bearer")
}

/// Ends a call that takes too long.
pub(super) async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(CALL_TIME_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail =
                format!("not done in {CALL_TIME_MAX:?}; a change may have been made, so look before you repeat it");
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
