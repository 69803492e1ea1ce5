//! Templates as last read from Meta: list, sync.

use std::{fmt, str::FromStr};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::SharedState;
use crate::{
    domain::{Template, UnixMs, WabaId},
    http::request::Params,
    http::{
        page,
        problem::{Problem, Result},
    },
};

/// A template in a response.
#[derive(Serialize)]
struct TemplateView {
    waba: WabaId,
    #[serde(flatten)]
    template: Template,
    /// Whether a campaign can use it.
    usable: bool,
    /// Why a campaign can't use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    synced_at: UnixMs,
}

impl TemplateView {
    fn new(waba: &WabaId, template: Template, synced_at: UnixMs) -> Self {
        let problem = template.problem();
        Self { waba: waba.clone(), template, usable: problem.is_none(), problem, synced_at }
    }

    fn cursor(&self) -> Cursor {
        let Template { name, language, .. } = &self.template;
        Cursor(self.waba.to_string(), name.clone(), language.as_str().to_owned())
    }
}

/// The last template of a page: `waba/name/language`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cursor(String, String, String);

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let mut fields = text.split('/').map(str::to_owned);
        let cursor = (fields.next(), fields.next(), fields.next(), fields.next());
        let (Some(waba), Some(name), Some(language), None) = cursor else { return Err(()) };
        Ok(Self(waba, name, language))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(waba, name, language) = self;
        write!(f, "{waba}/{name}/{language}")
    }
}

/// The query parameters of the template list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TemplateListParams {
    cursor: Option<String>,
    limit: Option<String>,
}

#[derive(Serialize)]
struct TemplateList {
    templates: Vec<TemplateView>,
    next: Option<String>,
}

/// `GET /v1/templates`: sorted by WABA, name and language. Templates of a WABA that was never synced are missing.
pub(super) async fn list(State(shared): SharedState, Params(params): Params<TemplateListParams>) -> Result<Response> {
    let limit = page::limit(params.limit.as_deref())?;
    let cursor = page::cursor::<Cursor>(params.cursor.as_deref())?;
    let mut templates = Vec::new();
    for waba in shared.state.lines.wabas().into_keys() {
        let Some((stored, synced_at)) = shared.state.store.templates(waba).await? else { continue };
        templates.extend(stored.into_iter().map(|template| TemplateView::new(waba, template, synced_at)));
    }
    templates.retain(|template| cursor.as_ref().is_none_or(|cursor| template.cursor() > *cursor));
    templates.sort_by_cached_key(TemplateView::cursor);
    let more = templates.len() > limit;
    templates.truncate(limit);
    let next = templates.last().filter(|_| more).map(|last| last.cursor().to_string());
    Ok(Json(TemplateList { templates, next }).into_response())
}

#[derive(Serialize)]
struct Synced {
    wabas: Vec<SyncedWaba>,
}

#[derive(Serialize)]
struct SyncedWaba {
    waba: WabaId,
    templates: usize,
}

/// `POST /v1/templates/sync`
pub(super) async fn sync(State(shared): SharedState) -> Result<Response> {
    let (mut wabas, mut problems) = (Vec::new(), Vec::new());
    for (waba, result) in (shared.state.sync_templates)().await {
        match result {
            Ok(templates) => wabas.push(SyncedWaba { waba, templates }),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        let detail = "the templates of some wabas could not be read from meta; those read before stay in use";
        let problem = Problem::new(StatusCode::BAD_GATEWAY, "sync-failed", detail);
        return Err(problem.with_problems(problems));
    }
    Ok(Json(Synced { wabas }).into_response())
}
