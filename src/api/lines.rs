//! Lines: read state, rate, backlog and owner; set the rate, pause, resume.

use axum::{Json, extract::State};

use super::{
    Shared, SharedState,
    access::Access,
    audit::Audit,
    extract::{JsonBody, LinePath},
    holds::hold_view,
};
use crate::{
    api_types::{LineChange, LinePage, LineView, Page, PauseView},
    config::KeyScope,
    domain::{HoldScope, LINE_RATE_MAX, LINE_RATE_MIN, Line, LineAllowance, LineId, Pause, PauseScope},
    http::request::Params,
    http::{
        page::{self, PageParams},
        problem::{Problem, Result},
    },
    redis::lines::LineControl,
    rules,
    stats::line::{LineSnapshot, Stop},
};

fn view(line: &Line, now: LineSnapshot, backlog: u64) -> LineView {
    let report = now.report.as_ref();
    let LineControl { rate, allowance, .. } = now.control;
    let in_force = |operator| rules::rate::in_force(operator, line.messages_per_second, allowance);
    LineView {
        state: state(&now, backlog).into(),
        // The worker reports it once a second, so it may be from before the rate was lowered.
        allowed_now: now.rate().map(|allowed| allowed.min(in_force(rate).per_second)),
        in_flight: report.map_or(0, |report| report.in_flight as u64),
        accepted_per_second: report.map_or(0.0, |report| report.accepted_per_second),
        throttled: report.is_some_and(|report| report.throttled),
        unreachable: report.and_then(|report| report.unreachable_because.clone()),
        path_broken: report.and_then(|report| report.path_broken.clone()),
        since: report.and_then(|report| report.since),
        id: line.id.clone(),
        waba: line.waba.clone(),
        name: line.name.clone(),
        display: line.display.clone(),
        messages_per_second: in_force(rate).per_second,
        rate_source: in_force(rate).source.name().into(),
        configured: in_force(None).per_second,
        allowance: match allowance {
            LineAllowance::Known(allowed) => Some(allowed),
            LineAllowance::Unasked | LineAllowance::Unknown => None,
        },
        warm_up_until: report.and_then(|report| report.warm_up_until),
        owner: now.owner.map(|owner| owner.worker),
        paused: now.control.paused,
        pauses: now.pauses.into_iter().map(pause_view).collect(),
        holds: now.holds.into_iter().map(|(scope, hold)| hold_view(&scope, hold, Some(&line.business))).collect(),
        backlog,
    }
}

pub(super) fn pause_view(pause: Pause) -> PauseView {
    let business = match pause.scope {
        PauseScope::Installation => None,
        PauseScope::Business(business) => Some(business),
    };
    PauseView { business, since: pause.since }
}

/// The state of a line in one word. If several states apply, the ones that an operator has to end take precedence.
fn state(now: &LineSnapshot, backlog: u64) -> &'static str {
    match now.stop() {
        Some(Stop::Paused) => "paused",
        Some(Stop::Held(..)) => "held",
        Some(Stop::NoWorker | Stop::Silent(_) | Stop::Unlisted) if backlog > 0 => "no_worker",
        Some(Stop::Unreachable(_)) => "unreachable",
        Some(Stop::PathBroken(_)) => "path_broken",
        Some(Stop::WarmUp(_)) if backlog > 0 => "warm_up",
        None if now.report.as_ref().is_some_and(|report| report.throttled) => "throttled",
        _ if backlog > 0 => "sending",
        _ => "idle",
    }
}

/// List lines, in the order of the configuration.
#[utoipa::path(
    get, path = "/v1/lines", tag = "lines", operation_id = "list_lines",
    security(("api_key" = [KeyScope::Read])),
    params(PageParams),
    responses((status = 200, description = "A page of lines.", body = LinePage)),
)]
pub(super) async fn list(
    State(shared): SharedState,
    access: Access,
    Params(params): Params<PageParams>,
) -> Result<Json<LinePage>> {
    let limit = page::limit(params.limit.as_deref())?;
    let lines = shared.lines(&access);
    let from = match page::non_empty(params.cursor.as_deref()) {
        None => 0,
        Some(id) => match lines.iter().position(|line| line.id.as_str() == id) {
            Some(last) => last + 1,
            None => return Err(page::bad_cursor()),
        },
    };
    let page = &lines[from..lines.len().min(from + limit)];
    let next = page.last().filter(|_| from + page.len() < lines.len()).map(|line| line.id.to_string());
    Ok(Json(Page { rows: shared.line_views(page).await?, next }))
}

/// Get a line.
#[utoipa::path(
    get, path = "/v1/lines/{line}", tag = "lines", operation_id = "get_line",
    security(("api_key" = [KeyScope::Read])),
    params(LinePath),
    responses((status = 200, description = "The line.", body = LineView)),
)]
pub(super) async fn one(State(shared): SharedState, LinePath(line): LinePath) -> Result<Json<LineView>> {
    shared.view(&line).await
}

/// Set the rate of a line.
///
/// The rate takes effect at once and survives restarts.
#[utoipa::path(
    patch, path = "/v1/lines/{line}", tag = "lines", operation_id = "set_rate",
    security(("api_key" = [KeyScope::Operate])),
    params(LinePath),
    request_body = LineChange,
    responses((status = 200, description = "The line after the change.", body = LineView)),
    extensions(("x-problems" = json!(["invalid-rate"]))),
)]
pub(super) async fn change(
    State(shared): SharedState,
    audit: Audit,
    LinePath(line): LinePath,
    JsonBody(change): JsonBody<LineChange>,
) -> Result<Json<LineView>> {
    let rate = change.messages_per_second;
    if let Some(rate) = rate.filter(|rate| !(LINE_RATE_MIN..=LINE_RATE_MAX).contains(rate)) {
        let detail = format!(
            "messages_per_second is {rate}: it must be {LINE_RATE_MIN} to {LINE_RATE_MAX}, or null for the configured \
            rate or what Meta allows; to stop a line, pause it"
        );
        return Err(Problem::bad_request("invalid-rate", detail));
    }
    audit.changed(shared.state.store.set_rate(&line.id, rate).await?);
    shared.view(&line).await
}

/// Pause a line, for all campaigns.
#[utoipa::path(
    post, path = "/v1/lines/{line}/pause", tag = "lines", operation_id = "pause_line",
    security(("api_key" = [KeyScope::Operate])),
    params(LinePath),
    responses((status = 200, description = "The line after the change.", body = LineView)),
)]
pub(super) async fn pause(
    State(shared): SharedState,
    audit: Audit,
    LinePath(line): LinePath,
) -> Result<Json<LineView>> {
    audit.changed(shared.state.store.set_paused(&line.id, true).await?);
    shared.view(&line).await
}

/// Resume a line.
///
/// Ends the pause of the line, and the holds on the line, its WABA and its access token. The holds on the WABA and on
/// the token also stop the other lines of the WABA. Holds on the business or on Meta as a whole stay: `POST
/// /v1/holds/{hold}/lift` lifts them. A hold whose cause persists returns with the next message. A pause of everything
/// stays: `POST /v1/resume` ends it.
#[utoipa::path(
    post, path = "/v1/lines/{line}/resume", tag = "lines", operation_id = "resume_line",
    security(("api_key" = [KeyScope::Operate])),
    params(LinePath),
    responses((status = 200, description = "The line after the change.", body = LineView)),
)]
pub(super) async fn resume(
    State(shared): SharedState,
    audit: Audit,
    LinePath(line): LinePath,
) -> Result<Json<LineView>> {
    let mut changed = false;
    for scope in HoldScope::of_line(&line).into_iter().filter(ends_with_resume) {
        changed |= shared.state.store.unhold(&scope).await?;
    }
    changed |= shared.state.store.set_paused(&line.id, false).await?;
    audit.changed(changed);
    shared.view(&line).await
}

/// Whether the resume of a line ends a hold on `scope`, which stops the line.
fn ends_with_resume(scope: &HoldScope) -> bool {
    match scope {
        HoldScope::Line(_) | HoldScope::Waba(_) | HoldScope::Token(_) => true,
        HoldScope::Business(_)
        | HoldScope::Platform
        | HoldScope::Utility(_)
        | HoldScope::Country { .. }
        | HoldScope::Template { .. } => false,
    }
}

impl Shared {
    async fn view(&self, line: &Line) -> Result<Json<LineView>> {
        let mut views = self.line_views(std::slice::from_ref(line)).await?;
        Ok(Json(views.pop().expect("a view for each line")))
    }

    pub(super) async fn line_views(&self, lines: &[Line]) -> Result<Vec<LineView>> {
        let now = self.now();
        let ids: Vec<LineId> = lines.iter().map(|line| line.id.clone()).collect();
        let stops = self.reader.stops(now).await?;
        let (line_snapshots, loads) =
            tokio::try_join!(self.reader.line_snapshots(&ids, &stops, now), self.reader.loads(now))?;
        let backlog = |line: &Line| loads.get(&line.id).map_or(0, |loads| loads.iter().map(|load| load.open).sum());
        Ok(lines.iter().zip(line_snapshots).map(|(line, now)| view(line, now, backlog(line))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::MetaCode;

    #[test]
    fn the_state_of_a_line_follows_its_report_and_backlog() {
        use crate::{
            api_types::LINE_STATES,
            domain::{Hold, HoldScope, UnixMs},
            redis::lines::{LeaseHolder, LineReport},
            stats::line::LineSnapshot,
        };
        let report = |throttled, unreachable| LineReport {
            worker: "w1".into(),
            rate: 72.0,
            throttled,
            unreachable,
            unreachable_because: None,
            path_broken: None,
            since: None,
            warm_up_until: None,
            in_flight: 0,
            accepted_per_second: 0.0,
            features: Vec::new(),
            at: UnixMs(0),
        };
        let owner = || Some(LeaseHolder { worker: "w1".into(), epoch: 1 });
        let with = |report| LineSnapshot { owner: owner(), report, ..LineSnapshot::default() };
        let mut paused = with(None);
        paused.control.paused = true;
        let hold = Hold { code: Some(MetaCode(131_031)), reason: "locked".into(), since: UnixMs(0), until: None };
        let held = LineSnapshot { holds: vec![(HoldScope::Line("3001".into()), hold)], ..with(None) };
        let broken = LineReport { path_broken: Some("HTTP 503".into()), ..report(false, false) };
        let warming_up = LineReport { warm_up_until: Some(UnixMs(1)), ..report(false, false) };
        let table = [
            (with(Some(warming_up.clone())), 1, "warm_up"),
            (with(Some(warming_up)), 0, "idle"),
            (paused, 1, "paused"),
            (held, 1, "held"),
            (LineSnapshot::default(), 1, "no_worker"),
            (LineSnapshot::default(), 0, "idle"),
            (with(Some(report(false, true))), 1, "unreachable"),
            (with(Some(broken)), 1, "path_broken"),
            (with(Some(report(true, false))), 1, "throttled"),
            (with(Some(report(false, false))), 1, "sending"),
            (with(Some(report(false, false))), 0, "idle"),
            (with(None), 1, "sending"),
        ];
        for (now, backlog, expected) in table {
            assert_eq!(state(&now, backlog), expected, "{now:?}, backlog {backlog}");
            assert!(LINE_STATES.contains(&expected), "{expected}");
        }
    }
}
