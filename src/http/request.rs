//! What every call reads of its request: the query, the media type, the content coding. Errors are [`Problem`]s.

use std::time::Duration;

use axum::{
    extract::{FromRequestParts, Query},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
};
use serde::de::DeserializeOwned;

use super::problem::{Problem, Result};
use crate::{coding::Coding, domain::reject::shown};

/// The query parameters; an unknown one is refused by `T`.
pub struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(params)| Self(params)).map_err(|error| bad_query(error.body_text()))
    }
}

/// 400 for a parameter with an impossible value.
pub fn bad_query(detail: impl Into<String>) -> Problem {
    Problem::bad_request("invalid-query", detail)
}

/// 408 for a body that did not arrive in time.
pub fn too_slow(time: Duration) -> Problem {
    let detail = format!("nothing of the body, or not all of it, came for {time:?} (http.stall_timeout)");
    Problem::new(StatusCode::REQUEST_TIMEOUT, "body-too-slow", detail)
}

/// The one of `types` that the header Content-Type names.
///
/// Errors: 415 for any other type, or none.
pub fn expect_media_type(headers: &HeaderMap, types: &[&'static str]) -> Result<&'static str> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("missing");
    let essence = given.split(';').next().unwrap_or_default().trim();
    types.iter().find(|known| essence.eq_ignore_ascii_case(known)).copied().ok_or_else(|| {
        Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-media-type",
            format!("the header Content-Type is {given}; this call takes {}", types.join(" or ")),
        )
    })
}

/// How the body is compressed, by its header Content-Encoding; `None` for a plain body. `codings`: those that the call accepts.
///
/// Errors: 415 for any other coding, or more than one.
pub fn content_coding(headers: &HeaderMap, codings: &[Coding]) -> Result<Option<Coding>> {
    let values = headers.get_all(header::CONTENT_ENCODING).iter();
    let values: Vec<String> = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
    let names = values.iter().flat_map(|value| value.split(',')).map(str::trim);
    let names: Vec<&str> = names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity")).collect();
    let is_called = |coding: &Coding, name: &str| name.eq_ignore_ascii_case(coding.name());
    match names.as_slice() {
        [] => return Ok(None),
        [name] => {
            if let Some(coding) = codings.iter().find(|coding| is_called(coding, name)) {
                return Ok(Some(*coding));
            }
        }
        _ => {}
    }
    let known: Vec<&str> = codings.iter().map(|coding| coding.name()).collect();
    let (takes, accepted) = match known.as_slice() {
        [] => ("a body that is not compressed: leave the header out".to_owned(), "identity".to_owned()),
        known => (format!("one of {}, or none", known.join(", ")), known.join(", ")),
    };
    let detail = format!("the header Content-Encoding is {}; this call takes {takes}", shown(&names.join(", ")));
    let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-encoding", detail);
    Err(problem.with_header(header::ACCEPT_ENCODING, HeaderValue::try_from(accepted).expect("names of codings")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_type_is_known_with_its_parameters_and_in_any_case() {
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
