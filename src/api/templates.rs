//! Templates as last read from Meta: list, get, sync, unpause.

use std::{fmt, str::FromStr};

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    SharedState, UnpauseFailure,
    access::{Access, template_not_found},
    audit::Audit,
    extract::TemplatePath,
};
use crate::{
    api_types::{Page, SyncedTemplates, SyncedWaba, TemplatePage, TemplateView, UnpausedTemplate},
    config::KeyScope,
    domain::{HoldScope, Template, UnixMs, WabaId},
    http::request::Params,
    http::{
        page,
        problem::{Problem, Result},
    },
};

fn view(waba: &WabaId, template: Template, synced_at: UnixMs) -> TemplateView {
    let problem = template.problem();
    TemplateView { waba: waba.clone(), template, usable: problem.is_none(), problem, synced_at }
}

fn cursor(TemplateView { waba, template, .. }: &TemplateView) -> Cursor {
    Cursor(waba.to_string(), template.name.clone(), template.language.as_str().to_owned())
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
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TemplateListParams {
    /// `next` of the previous page; leave it out for the first page.
    #[param(nullable = false)]
    cursor: Option<String>,
    /// The maximum number of rows.
    #[param(value_type = Option<u16>, nullable = false, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
}

/// List templates, as Meta last returned them.
///
/// Sorted by WABA, name and language. Templates of a WABA that was never synced are missing.
#[utoipa::path(
    get, path = "/v1/templates", tag = "templates", operation_id = "list_templates",
    security(("api_key" = [KeyScope::Read])),
    params(TemplateListParams),
    responses((status = 200, description = "A page of templates.", body = TemplatePage)),
)]
pub(super) async fn list(
    State(shared): SharedState,
    access: Access,
    Params(params): Params<TemplateListParams>,
) -> Result<Json<TemplatePage>> {
    let limit = page::limit(params.limit.as_deref())?;
    let after = page::cursor::<Cursor>(params.cursor.as_deref())?;
    let mut templates = Vec::new();
    for waba in shared.lines(&access).wabas().into_keys() {
        let Some((stored, synced_at)) = shared.state.store.templates(waba).await? else { continue };
        templates.extend(stored.into_iter().map(|template| view(waba, template, synced_at)));
    }
    templates.retain(|template| after.as_ref().is_none_or(|after| cursor(template) > *after));
    templates.sort_by_cached_key(cursor);
    let more = templates.len() > limit;
    templates.truncate(limit);
    let next = templates.last().filter(|_| more).map(|last| cursor(last).to_string());
    Ok(Json(Page { rows: templates, next }))
}

/// Get a template, as Meta last returned it.
#[utoipa::path(
    get, path = "/v1/templates/{waba}/{name}/{language}", tag = "templates", operation_id = "get_template",
    security(("api_key" = [KeyScope::Read])),
    params(TemplatePath),
    responses((status = 200, description = "The template.", body = TemplateView)),
)]
pub(super) async fn one(
    State(shared): SharedState,
    TemplatePath { waba, name, language }: TemplatePath,
) -> Result<Json<TemplateView>> {
    let stored = shared.state.store.templates(&waba).await?;
    let found = stored.and_then(|(templates, synced_at)| {
        let template = templates.into_iter().find(|of| of.name == name && of.language == language)?;
        Some(view(&waba, template, synced_at))
    });
    found.map(Json).ok_or_else(|| template_not_found(&waba, &name, &language))
}

/// Read the templates of all WABAs from Meta now.
#[utoipa::path(
    post, path = "/v1/templates/sync", tag = "templates", operation_id = "sync_templates",
    security(("api_key" = [KeyScope::Operate])),
    responses((status = 200, description = "All WABAs were read.", body = SyncedTemplates)),
    extensions(("x-problems" = json!(["sync-failed"]))),
)]
pub(super) async fn sync(State(shared): SharedState, access: Access, audit: Audit) -> Result<Json<SyncedTemplates>> {
    audit.on("templates");
    audit.changed(true);
    let (mut wabas, mut problems) = (Vec::new(), Vec::new());
    for (waba, result) in (shared.state.sync_templates)(shared.lines(&access)).await {
        match result {
            Ok(templates) => wabas.push(SyncedWaba { waba, templates: templates as u64 }),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        let detail = "the templates of some wabas could not be read from Meta; those read before stay in use";
        let problem = Problem::new(StatusCode::BAD_GATEWAY, "sync-failed", detail);
        return Err(problem.with_problems(problems));
    }
    Ok(Json(SyncedTemplates { wabas }))
}

/// Lift the pause of a template at Meta.
///
/// Meta ends a pause for low quality by itself, after 3 or 6 hours. A pause from pacing ends only by this call. Meta
/// may refuse it within five minutes of the pause. If Meta lifts the pause, the hold on the template is lifted too, and
/// sending resumes at once.
#[utoipa::path(
    post, path = "/v1/templates/{waba}/{name}/{language}/unpause", tag = "templates", operation_id = "unpause_template",
    security(("api_key" = [KeyScope::Operate])),
    params(TemplatePath),
    responses((status = 200, description = "Meta has lifted the pause.", body = UnpausedTemplate)),
    extensions(("x-problems" = json!(["template-not-paused", "unpause-refused", "meta-no-answer"]))),
)]
pub(super) async fn unpause(
    State(shared): SharedState,
    audit: Audit,
    TemplatePath { waba, name, language }: TemplatePath,
) -> Result<Json<UnpausedTemplate>> {
    audit.on(HoldScope::of_template(&waba, &name, &language));
    let unpaused = (shared.state.unpause_template)(waba.clone(), name.clone(), language.clone()).await;
    unpaused.map_err(|failure| match failure {
        UnpauseFailure::Missing(_) => template_not_found(&waba, &name, &language),
        UnpauseFailure::NotPaused(detail) => Problem::new(StatusCode::CONFLICT, "template-not-paused", detail),
        UnpauseFailure::Refused(detail) => Problem::new(StatusCode::CONFLICT, "unpause-refused", detail),
        UnpauseFailure::NoAnswer(detail) => {
            let detail = format!("{detail}; Meta may have lifted the pause: repeat the call");
            Problem::new(StatusCode::BAD_GATEWAY, "meta-no-answer", detail)
        }
        UnpauseFailure::Store(error) => error.into(),
    })?;
    Ok(Json(UnpausedTemplate { waba, name, language }))
}
