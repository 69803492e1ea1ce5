//! Errors as the caller gets them: RFC 9457, `application/problem+json`.
//!
//! `type` is `urn:pregon:problem:` and a kind that never changes: programs match on it. `title` says the kind in words,
//! `detail` what is wrong this time and what helps. What only the operator is to know is logged here, once.

use axum::{
    Json,
    http::{
        HeaderValue, StatusCode,
        header::{self, HeaderName},
    },
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tracing::{error, warn};

use crate::{intake::IntakeError, redis::StoreError};

/// Seconds after which it is worth trying again when Redis is away: it is back, or its replica has taken over.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("2");

const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Why a call was not done.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    kind: &'static str,
    detail: String,
    problems: Vec<String>,
    /// Boxed, for few have one, and every result carries the room for it.
    header: Option<Box<(HeaderName, HeaderValue)>>,
}

/// The result of a call.
pub(super) type Result<T> = std::result::Result<T, Problem>;

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: String,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    problems: &'a [String],
}

impl Problem {
    /// A problem of `kind`, in kebab case.
    pub(super) fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, detail: detail.into(), problems: Vec::new(), header: None }
    }

    /// With everything that is wrong, where it may be several things.
    pub(super) fn with_problems(self, problems: Vec<String>) -> Self {
        Self { problems, ..self }
    }

    /// With a header that the answer must have.
    pub(super) fn with_header(self, name: HeaderName, value: HeaderValue) -> Self {
        Self { header: Some(Box::new((name, value))), ..self }
    }

    /// 400: the call itself is malformed.
    pub(super) fn bad_request(kind: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, kind, detail)
    }

    /// 404.
    pub(super) fn not_found(kind: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, kind, detail)
    }

    /// 503, and worth trying again.
    pub(super) fn unavailable(kind: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, detail).with_header(header::RETRY_AFTER, RETRY_AFTER_S)
    }

    /// 500. The cause is for the log alone.
    pub(super) fn internal(cause: &str) -> Self {
        error!(cause, "a call failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "this is a fault of pregon; its log says more")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, kind, detail, problems, header } = self;
        let body = Body {
            r#type: format!("urn:pregon:problem:{kind}"),
            title: kind.replace('-', " "),
            status: status.as_u16(),
            detail: &detail,
            problems: &problems,
        };
        let mut response = (status, [(header::CONTENT_TYPE, MEDIA_TYPE)], Json(body)).into_response();
        if let Some(header) = header {
            let (name, value) = *header;
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if !error.passes() {
            return Self::internal(&error.to_string());
        }
        warn!(%error, "a call could not be done");
        let detail = "redis is not available; a change may have been made, so look before you repeat it";
        Self::unavailable("unavailable", detail)
    }
}

impl From<IntakeError> for Problem {
    fn from(error: IntakeError) -> Self {
        use IntakeError as E;
        let (kind, detail) = (error.kind(), error.to_string());
        let status = match error {
            E::Store(error) => return error.into(),
            E::Invalid(problems) => {
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                return Self::new(status, kind, detail).with_problems(problems);
            }
            E::NotFound(_) => StatusCode::NOT_FOUND,
            E::Template(_) | E::Upload(_) => StatusCode::UNPROCESSABLE_ENTITY,
            E::State { .. }
            | E::NotDeletable { .. }
            | E::Conflict { .. }
            | E::Expired { .. }
            | E::Empty(_)
            | E::UploadConflict
            | E::UploadInProgress
            | E::TooManyRecipients(_)
            | E::OverLimit { .. } => StatusCode::CONFLICT,
            E::Interrupted(_) => StatusCode::BAD_REQUEST,
        };
        Self::new(status, kind, detail)
    }
}
