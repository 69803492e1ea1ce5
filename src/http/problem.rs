//! Error responses: RFC 9457, `application/problem+json`.
//!
//! `type` is `urn:pregon:problem:` followed by a kind that never changes, so that programs can match on it. `title`
//! is the kind in words; `detail` says what is wrong with this request and how to fix it. Causes meant only for the
//! operator are logged here, once.

use axum::{
    Json,
    http::{
        HeaderValue, StatusCode,
        header::{self, HeaderName},
    },
    response::{IntoResponse, Response},
};
use tracing::error;

use crate::api_types::{PROBLEM_PREFIX, ProblemBody};

/// Seconds for `Retry-After` while Redis is unavailable. By then Redis is usually back, or a replica was promoted.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("2");

const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// An error response.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    kind: &'static str,
    detail: String,
    problems: Vec<String>,
    /// Boxed to keep every `Result` small: few problems have a header.
    header: Option<Box<(HeaderName, HeaderValue)>>,
    is_outcome_unknown: bool,
}

/// The problem of a response whose change may have been made, as an extension of the response: the handler does not
/// know whether the call changes anything.
#[derive(Clone, Debug)]
pub struct UnknownOutcome(Problem);

impl UnknownOutcome {
    /// The response to a call that may have changed something.
    pub fn of_change(self) -> Response {
        let detail = self.0.detail
            + "; the change may have been made. Repeating the call is safe, unless it creates a campaign, a test or a \
               retry without an external_id";
        Problem { detail, is_outcome_unknown: false, ..self.0 }.into_response()
    }
}

/// The result of a handler.
pub type Result<T> = std::result::Result<T, Problem>;

impl Problem {
    /// A problem of `kind`, in kebab case.
    pub fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, detail: detail.into(), problems: Vec::new(), header: None, is_outcome_unknown: false }
    }

    /// Adds the list of everything that is wrong with the request.
    pub fn with_problems(self, problems: Vec<String>) -> Self {
        Self { problems, ..self }
    }

    /// Adds a header to the response.
    pub fn with_header(self, name: HeaderName, value: HeaderValue) -> Self {
        Self { header: Some(Box::new((name, value))), ..self }
    }

    /// 400: the request is malformed.
    pub fn bad_request(kind: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, kind, detail)
    }

    /// 404.
    pub fn not_found(kind: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, kind, detail)
    }

    /// 503 with `Retry-After`: the same request can succeed later.
    pub fn unavailable(kind: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, detail).with_header(header::RETRY_AFTER, RETRY_AFTER_S)
    }

    /// The same problem of a call whose change, if it makes one, may have been made: [`UnknownOutcome`].
    pub fn with_unknown_outcome(self) -> Self {
        Self { is_outcome_unknown: true, ..self }
    }

    /// 500. `cause` is only logged.
    pub fn internal(cause: &str) -> Self {
        error!(cause, "request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "this is a fault in pregon; its log has the cause")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let unknown = self.is_outcome_unknown.then(|| UnknownOutcome(self.clone()));
        let Self { status, kind, detail, problems, header, .. } = self;
        let body = ProblemBody {
            r#type: format!("{PROBLEM_PREFIX}{kind}"),
            title: kind.replace('-', " "),
            status: status.as_u16(),
            detail,
            problems,
        };
        let mut response = (status, [(header::CONTENT_TYPE, MEDIA_TYPE)], Json(body)).into_response();
        if let Some(header) = header {
            let (name, value) = *header;
            response.headers_mut().insert(name, value);
        }
        if let Some(unknown) = unknown {
            response.extensions_mut().insert(unknown);
        }
        response
    }
}
