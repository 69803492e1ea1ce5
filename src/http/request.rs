//! Parses the query, the media type and the content coding of requests. Errors are [`Problem`]s.

use std::time::Duration;

use axum::{
    extract::{FromRequestParts, Query},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
};
use serde::de::DeserializeOwned;

use super::problem::{Problem, Result};
use crate::{coding::Coding, domain::reject::quoted};

/// The query parameters as a `T`, which should reject unknown ones (`deny_unknown_fields`).
pub struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(params)| Self(params)).map_err(|error| bad_query(error.body_text()))
    }
}

/// 400 for an invalid query parameter.
pub fn bad_query(detail: impl Into<String>) -> Problem {
    Problem::bad_request("invalid-query", detail)
}

/// 408 for a body that did not arrive in time.
pub fn too_slow(time: Duration) -> Problem {
    let detail = format!("the body stalled for {time:?}, or was not complete by then (http.stall_timeout)");
    Problem::new(StatusCode::REQUEST_TIMEOUT, "body-too-slow", detail)
}

/// Returns the entry of `types` that the header Content-Type names.
///
/// Errors: 415 for any other type, or a missing header.
pub fn expect_media_type(headers: &HeaderMap, types: &[&'static str]) -> Result<&'static str> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("missing");
    let essence = given.split(';').next().unwrap_or_default().trim();
    types.iter().find(|accepted| essence.eq_ignore_ascii_case(accepted)).copied().ok_or_else(|| {
        Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-media-type",
            format!("the header Content-Type is {given}; this call accepts {}", types.join(" or ")),
        )
    })
}

/// The compression of the body according to the header Content-Encoding, or `None` for a plain body. The endpoint
/// accepts `codings`.
///
/// Errors: 415 for any other coding, or more than one.
pub fn content_coding(headers: &HeaderMap, codings: &[Coding]) -> Result<Option<Coding>> {
    let values = headers.get_all(header::CONTENT_ENCODING).iter();
    let values: Vec<String> = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
    let names = values.iter().flat_map(|value| value.split(',')).map(str::trim);
    let names: Vec<&str> = names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity")).collect();
    let has_name = |coding: &Coding, name: &str| name.eq_ignore_ascii_case(coding.name());
    match names.as_slice() {
        [] => return Ok(None),
        [name] => {
            if let Some(coding) = codings.iter().find(|coding| has_name(coding, name)) {
                return Ok(Some(*coding));
            }
        }
        _ => {}
    }
    let accepted: Vec<&str> = codings.iter().map(|coding| coding.name()).collect();
    let (expected, header) = match accepted.as_slice() {
        [] => ("a body that is not compressed: leave the header out".to_owned(), "identity".to_owned()),
        accepted => (format!("one of {}, or none", accepted.join(", ")), accepted.join(", ")),
    };
    let detail = format!("the header Content-Encoding is {}; this call accepts {expected}", quoted(&names.join(", ")));
    let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-encoding", detail);
    Err(problem.with_header(header::ACCEPT_ENCODING, HeaderValue::try_from(header).expect("names of codings")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_type_matches_with_parameters_and_in_any_case() {
        let types = ["application/x-ndjson", "text/csv"];
        let with = |value: &str| HeaderMap::from_iter([(header::CONTENT_TYPE, value.parse().expect("a value"))]);
        for good in ["text/csv", "TEXT/CSV", "text/csv; charset=utf-8", "text/csv;header=present"] {
            assert_eq!(expect_media_type(&with(good), &types).expect("known"), "text/csv", "{good}");
        }
        for bad in ["text/csvx", "application/json", "application/x-www-form-urlencoded", ""] {
            assert!(expect_media_type(&with(bad), &types).is_err(), "{bad}");
        }
        assert!(expect_media_type(&HeaderMap::new(), &types).is_err());
    }
}
