//! Paged lists: the parameters `limit` and `cursor`, and `next` in the response.
//!
//! A cursor marks where the next page begins; its form is opaque to callers. `next` is null on the last page. A page
//! may have fewer rows than `limit` and still be followed by another, because each call scans a bounded part of the
//! list.

use std::str::FromStr;

use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    problem::{Problem, Result},
    request::bad_query,
};

/// Rows of a page when the request has no `limit`.
pub const LIMIT_DEFAULT: usize = 100;

/// Maximum number of rows of a page.
pub const LIMIT_MAX: usize = 1_000;

/// The query parameters of a list without filters.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageParams {
    /// `next` of the page before. Without it the list begins.
    #[param(nullable = false)]
    pub cursor: Option<String>,
    /// The maximum number of rows.
    #[param(value_type = Option<u16>, nullable = false, minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<String>,
}

/// Parses the parameter `limit`. An empty one counts as missing.
pub fn limit(text: Option<&str>) -> Result<usize> {
    let Some(text) = non_empty(text) else { return Ok(LIMIT_DEFAULT) };
    let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| bad_query(format!("limit is {text}; it is a number from 1 to {LIMIT_MAX}")))
}

/// Parses the parameter `cursor`. An empty one counts as missing.
pub fn cursor<T: FromStr>(text: Option<&str>) -> Result<Option<T>> {
    let cursor = non_empty(text).map(|text| text.parse().map_err(|_| bad_cursor()));
    cursor.transpose()
}

/// 400 for a cursor that is not a `next` of this list.
pub fn bad_cursor() -> Problem {
    bad_query("cursor is not a `next` of this list: leave it out to begin at the first page")
}

/// The parameter, unless it is empty.
pub fn non_empty(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}
