//! Values in bodies and queries that several calls take.

use axum::http::StatusCode;

use crate::{
    domain::{GroupId, agent},
    http::{
        page,
        problem::{Problem, Result},
        request::bad_query,
    },
    postgres::search::SearchWords,
};

/// 422 for a value in a body.
pub(super) fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail)
}

/// The name of something that people see.
pub(super) fn name(text: &str) -> Result<String> {
    let name = agent::name(text).map(str::to_owned);
    name.ok_or_else(|| invalid("a name or title has 1 to 100 characters, without line breaks"))
}

/// The id of a group.
pub(super) fn group_id(text: &str) -> Result<GroupId> {
    agent::group_id(text).ok_or_else(|| invalid("the id of a group has 1 to 32 of a-z, 0-9, - and _"))
}

/// The words of the query parameter `search`.
pub(super) fn search(text: Option<&str>) -> Result<Option<SearchWords>> {
    let words = |text| SearchWords::of(text).ok_or_else(|| bad_query("search has neither a letter nor a digit"));
    page::non_empty(text).map(words).transpose()
}
