//! The HTTP API: campaigns, recipients, lines and templates for backends and operators. `docs/api.md` describes it.
//!
//! Every call needs a key. What is wrong with a call is an `application/problem+json` (`problem.rs`); whatever can be long
//! is streamed in or out at constant memory, and how many such streams run at once is bounded.
//!
//! If the process dies: a call that was not answered may have been done. Creating with an `external_id`, uploading with an
//! `Upload-Id`, and every change of state can be repeated.
//! Never: decides what may be done with a campaign ([`crate::intake`] does), or counts ([`crate::stats`] does).

mod campaigns;
mod errors;
mod events;
mod extract;
mod guard;
mod lines;
mod recipients;
mod report;
mod templates;
mod uploads;

use std::{collections::HashMap, num::NonZeroU32, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{Method, StatusCode},
    middleware,
    routing::{get, post},
};
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower_http::{catch_panic::CatchPanicLayer, timeout::RequestBodyTimeoutLayer};

use self::extract::campaign_not_found;
use crate::{
    config::ApiKey,
    domain::{CampaignId, Line, UnixMs, WabaId},
    http::{
        auth::ApiKeys,
        problem::{Problem, Result},
    },
    intake::Intake,
    redis::{Store, campaigns::CampaignRecord, clock::Clock},
    stats::StatisticsReader,
};

/// Streams of events at once. Each asks Redis for a campaign's counters twice a second.
const EVENT_STREAMS_MAX: usize = 64;

/// Reports that are written at once. Each holds the states and times of one part: some 6 MB.
const REPORTS_MAX: usize = 4;

/// Uploads at once. Each holds two batches, the one that is committed and the one that is read: some 2 MB, however slow
/// Redis is.
const UPLOADS_MAX: usize = 64;

/// Reads the templates of every WABA from Meta and stores them. Gives for each WABA how many it has, or why that is not
/// known.
pub type SyncTemplates =
    Arc<dyn Fn() -> BoxFuture<'static, Vec<(WabaId, std::result::Result<usize, String>)>> + Send + Sync>;

/// What the API needs. Built by `serve`.
#[derive(Clone)]
pub struct ApiState {
    /// Redis.
    pub store: Store,
    /// Redis' time.
    pub clock: Arc<Clock>,
    /// Takes campaigns in.
    pub intake: Intake,
    /// Our lines, in the order of the configuration.
    pub lines: Arc<[Line]>,
    /// Who may call.
    pub keys: Arc<[ApiKey]>,
    /// Calls with an unknown key that are listened to, of each network: `http.key_failures_per_minute`.
    pub key_failures_per_minute: NonZeroU32,
    /// Reads the templates from Meta now.
    pub sync_templates: SyncTemplates,
    /// The largest body of a call that is not an upload: `http.body_bytes_max`.
    pub body_bytes_max: usize,
    /// How long an upload may be silent, and until when any other body has to be there: `http.stall_timeout`.
    pub stall_timeout: Duration,
    /// Ends the streams of events: they would hold up the stop of the server.
    pub stopping: CancellationToken,
}

/// What the handlers share.
struct Shared {
    state: ApiState,
    keys: ApiKeys,
    reader: StatisticsReader,
    event_streams: Arc<Semaphore>,
    reports: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
}

type SharedState = axum::extract::State<Arc<Shared>>;

/// The API. Other routes may be merged into it; paths that nobody has are answered here, and need a key like the rest.
pub fn router(state: ApiState) -> Router {
    let lines = state.lines.iter().map(|line| (line.id.clone(), line.waba.clone())).collect::<HashMap<_, _>>();
    let shared = Arc::new(Shared {
        keys: ApiKeys::new(state.keys.clone(), state.key_failures_per_minute),
        reader: StatisticsReader::new(state.store.clone(), lines),
        event_streams: Arc::new(Semaphore::new(EVENT_STREAMS_MAX)),
        reports: Arc::new(Semaphore::new(REPORTS_MAX)),
        uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
        state,
    });
    let calls = Router::new()
        .route("/v1/campaigns", get(campaigns::list).post(campaigns::create))
        .route("/v1/campaigns/{campaign}", get(campaigns::one).delete(campaigns::delete))
        .route("/v1/campaigns/{campaign}/launch", post(campaigns::launch))
        .route("/v1/campaigns/{campaign}/pause", post(campaigns::pause))
        .route("/v1/campaigns/{campaign}/resume", post(campaigns::resume))
        .route("/v1/campaigns/{campaign}/cancel", post(campaigns::cancel))
        .route("/v1/campaigns/{campaign}/recipients/{phone}", get(recipients::one))
        .route("/v1/lines", get(lines::list))
        .route("/v1/lines/{line}", get(lines::one).patch(lines::change))
        .route("/v1/lines/{line}/pause", post(lines::pause))
        .route("/v1/lines/{line}/resume", post(lines::resume))
        .route("/v1/templates", get(templates::list))
        .route("/v1/templates/sync", post(templates::sync))
        .layer(DefaultBodyLimit::max(shared.state.body_bytes_max))
        .layer(middleware::from_fn_with_state(shared.clone(), guard::in_time));
    let streams = Router::new()
        .route("/v1/campaigns/{campaign}/recipients", get(recipients::list).post(uploads::upload))
        .route("/v1/campaigns/{campaign}/report.csv", get(report::report))
        .route("/v1/campaigns/{campaign}/events", get(events::events))
        .layer(DefaultBodyLimit::disable())
        .layer(RequestBodyTimeoutLayer::new(shared.state.stall_timeout));
    calls
        .merge(streams)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(guard::panicked))
        .layer(middleware::from_fn_with_state(shared.clone(), guard::admit))
        .with_state(shared)
}

async fn not_found() -> Problem {
    Problem::not_found("not-found", "there is nothing at this path; docs/api.md lists every call")
}

async fn method_not_allowed(method: Method) -> Problem {
    let detail = format!("this path does not take {method}; the header Allow says what it takes");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
}

impl Shared {
    fn now(&self) -> UnixMs {
        self.state.clock.now()
    }

    async fn campaign(&self, id: CampaignId) -> Result<CampaignRecord> {
        self.state.store.campaign(id).await?.ok_or_else(|| campaign_not_found(id))
    }
}

/// A place among the streams of one kind.
///
/// Errors: 429 if they are all taken.
fn place(places: &Arc<Semaphore>, what: &str) -> Result<OwnedSemaphorePermit> {
    places.clone().try_acquire_owned().map_err(|_| {
        let detail = format!("too many {what} are open at once on this server; try again when one has ended");
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-streams", detail)
    })
}
