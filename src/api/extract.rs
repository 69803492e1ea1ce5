//! What a call brings, read so that whatever is wrong with it is a [`Problem`].

use std::{sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{
    Shared,
    problem::{Problem, Result},
};
use crate::{
    coding::Coding,
    domain::{
        CampaignId, LineId,
        reject::{json_fault, shown},
    },
    json,
};

/// The id in the path of a campaign.
pub(super) struct CampaignPath(pub(super) CampaignId);

/// The id in the path of a line.
pub(super) struct LinePath(pub(super) LineId);

/// The campaign and the phone in the path of a recipient.
pub(super) struct RecipientPath(pub(super) CampaignId, pub(super) String);

/// A JSON object as the body.
pub(super) struct Object<T>(pub(super) T);

impl<S: Send + Sync> FromRequestParts<S> for CampaignPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let Path(id) = Path::<String>::from_request_parts(parts, state).await.map_err(|error| no_route(&error))?;
        campaign_id(&id).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for LinePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let Path(id) = Path::<String>::from_request_parts(parts, state).await.map_err(|error| no_route(&error))?;
        Ok(Self(id.as_str().into()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RecipientPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((id, phone)) = path.map_err(|error| no_route(&error))?;
        Ok(Self(campaign_id(&id)?, phone))
    }
}

/// An id that is none is as good as an unknown one.
fn campaign_id(text: &str) -> Result<CampaignId> {
    text.parse().map_err(|_| campaign_not_found(text))
}

/// 404 for the campaign that was asked for as `id`.
pub(super) fn campaign_not_found(id: impl std::fmt::Display) -> Problem {
    Problem::not_found("campaign-not-found", format!("there is no campaign {id}"))
}

fn no_route(error: &impl std::fmt::Display) -> Problem {
    Problem::not_found("not-found", error.to_string())
}

/// What stands behind the `?`: every parameter is one that the call has.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(params)| Self(params)).map_err(|error| bad_query(error.body_text()))
    }
}

/// 400 for a parameter that can't be.
pub(super) fn bad_query(detail: impl Into<String>) -> Problem {
    Problem::bad_request("invalid-query", detail)
}

impl<T: DeserializeOwned> FromRequest<Arc<Shared>> for Object<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self> {
        expect_media_type(request.headers(), &["application/json"])?;
        content_coding(request.headers(), &[])?;
        let time = shared.state.stall_timeout;
        let arrived = timeout(time, Bytes::from_request(request, shared)).await.map_err(|_| too_slow(time))?;
        let bytes = arrived.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-large",
                format!(
                    "the body is longer than {} bytes (http.body_bytes_max); recipients can be uploaded in any number by POST \
                     /v1/campaigns/{{id}}/recipients",
                    shared.state.body_bytes_max
                ),
            ),
            _ => Problem::bad_request("body-cut", format!("the body could not be read: {}", rejection.body_text())),
        })?;
        let malformed = |why: String| Problem::bad_request("malformed-body", format!("the body can't be read: {why}"));
        let mut reader = serde_json::Deserializer::from_slice(&bytes);
        let read = json::object(&mut reader).and_then(|object| reader.end().map(|()| Self(object)));
        read.map_err(|error| malformed(json_fault(&error)))
    }
}

/// 408 for a body that did not arrive in time.
pub(super) fn too_slow(time: Duration) -> Problem {
    let detail = format!("nothing of the body, or not all of it, came for {time:?} (http.stall_timeout)");
    Problem::new(StatusCode::REQUEST_TIMEOUT, "body-too-slow", detail)
}

/// Which of `types` the body is said to be.
///
/// Errors: 415 if it is none of them.
pub(super) fn expect_media_type(headers: &HeaderMap, types: &[&'static str]) -> Result<&'static str> {
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

/// How the body is compressed; `None` if it is plain. The call takes those of `codings`.
///
/// Errors: 415 if it is none of them, or compressed more than once.
pub(super) fn content_coding(headers: &HeaderMap, codings: &[Coding]) -> Result<Option<Coding>> {
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
