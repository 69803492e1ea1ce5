//! Lists in pages: `?limit=` and `?cursor=`, and the answer's `next`.
//!
//! A cursor is where the next page begins, in a form that only we read. `next` is null at the end of the list. A page may
//! hold fewer rows than asked for and still have a next one: a call looks through a bounded part of a list.

use std::str::FromStr;

use super::{
    extract::bad_query,
    problem::{Problem, Result},
};

/// The rows of a page when the caller asks for no number.
pub(super) const LIMIT_DEFAULT: usize = 100;

/// The most rows of a page.
pub(super) const LIMIT_MAX: usize = 1_000;

/// `limit` as a number; an empty one is as good as none.
pub(super) fn limit(text: Option<&str>) -> Result<usize> {
    let Some(text) = given(text) else { return Ok(LIMIT_DEFAULT) };
    let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| bad_query(format!("limit is {text}; it is a number from 1 to {LIMIT_MAX}")))
}

/// A cursor of ours; an empty one is as good as none.
pub(super) fn cursor<T: FromStr>(text: Option<&str>) -> Result<Option<T>> {
    let cursor = given(text).map(|text| text.parse().map_err(|_| bad_cursor()));
    cursor.transpose()
}

/// 400 for a cursor that is none of ours.
pub(super) fn bad_cursor() -> Problem {
    bad_query("cursor is not a `next` of this list: leave it out to begin at the first page")
}

/// A parameter that says something.
pub(super) fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}
