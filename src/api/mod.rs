//! The HTTP API: campaigns, recipients, suppressions, people, dead letters of jobs, lines, templates, workers and
//! subscribers, for backends and operators. `docs/api.md` describes it.
//!
//! Every request needs an API key. Errors are `application/problem+json` (`http/problem.rs`). Uploads, reports and
//! event streams use constant memory, and each kind has a limit on how many run at once.
//!
//! If the process dies: a request without a response may have taken effect. It is safe to repeat a creation with an
//! `external_id`, an upload with an `Upload-Id`, and every state change.
//! Never: decides which actions a campaign allows ([`crate::intake`] does), or counts ([`crate::stats`] does).

mod access;
mod agents;
mod audit;
mod businesses;
mod campaigns;
mod canned_replies;
mod chats;
mod contact_lists;
mod contacts;
mod conversations;
mod csv;
mod discovery;
mod docs_page;
mod errors;
mod events;
mod extract;
mod feed;
mod guard;
mod holds;
mod inbound_links;
mod jobs;
mod lines;
mod media;
mod oidc;
mod openapi;
mod pauses;
mod people;
mod preflight;
mod problems;
mod properties;
mod recipients;
mod report;
mod session_token;
mod sessions;
mod stream;
mod subscribers;
mod suppressions;
mod tags;
mod templates;
mod uploads;
mod values;
mod workers;

use std::{collections::HashMap, num::NonZeroU32, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{Method, StatusCode},
    middleware,
};
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower_http::{catch_panic::CatchPanicLayer, timeout::RequestBodyTimeoutLayer};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{access::campaign_not_found, openapi::Calls};
use crate::{
    api_types::DiscoveredBusiness,
    config::ApiKey,
    domain::{BusinessId, CampaignId, Language, Lines, Live, PriceList, UnixMs, WabaId, agent::SessionLimits},
    http::{
        auth::{ApiKeys, oidc::Oidc, passwords::Passwords},
        problem::{Problem, Result},
    },
    intake::Intake,
    media::MediaStore,
    postgres::Database,
    redis::{Store, StoreError, campaigns::CampaignRecord, clock::Clock},
    stats::StatisticsReader,
    subscribers::Subscriber,
};

/// Maximum number of concurrent event streams. Each reads a campaign's counters from Redis twice a second.
const EVENT_STREAMS_MAX: usize = 64;

/// Maximum number of concurrent streams of the event feed. Each reads Redis ten times a second for each stream of the
/// feed, and buffers at most 1,000 events.
const FEED_STREAMS_MAX: usize = 64;

/// Maximum number of concurrent streams of the chats. Together they ask PostgreSQL ten times a second.
const CHAT_STREAMS_MAX: usize = 1_024;

/// Maximum number of concurrent reports and exports. Each report buffers the states and times of one part: about 6 MB.
const REPORTS_MAX: usize = 4;

/// Maximum number of concurrent preflights. Each buffers at most a million recipients: about 16 MB.
const PREFLIGHTS_MAX: usize = 4;

/// Maximum number of concurrent uploads. Each buffers two batches, one being read and one being committed: about 2 MB,
/// even when Redis is slow.
const UPLOADS_MAX: usize = 64;

/// Maximum number of concurrent downloads of files, and of uploads, of which each buffers at most 10 MB.
const FILE_DOWNLOADS_MAX: usize = 256;
const FILE_UPLOADS_MAX: usize = 8;

/// Reads the templates of the WABAs of lines from Meta and stores them. Returns for each WABA its number of templates,
/// or why they could not be read.
pub type SyncTemplates =
    Arc<dyn Fn(Lines) -> BoxFuture<'static, Vec<(WabaId, std::result::Result<usize, String>)>> + Send + Sync>;

/// Asks Meta to lift the pause of a template of a WABA, given by name and language, and then lifts the hold on it.
pub type UnpauseTemplate =
    Arc<dyn Fn(WabaId, String, Language) -> BoxFuture<'static, std::result::Result<(), UnpauseFailure>> + Send + Sync>;

/// Reads from Meta what the businesses of lines have there.
pub type Discover = Arc<dyn Fn(Lines) -> BoxFuture<'static, Vec<DiscoveredBusiness>> + Send + Sync>;

/// Why a template was not unpaused. All but `Store` have a sentence for the caller.
#[derive(Debug)]
pub enum UnpauseFailure {
    /// The WABA has no such template.
    Missing(String),
    /// The template is not paused.
    NotPaused(String),
    /// Meta does not lift the pause.
    Refused(String),
    /// Meta gave no answer. It may have lifted the pause.
    NoAnswer(String),
    /// Redis failed. Meta may have lifted the pause.
    Store(StoreError),
}

/// The dependencies and settings of the API. Built by `serve`.
#[derive(Clone)]
pub struct ApiState {
    /// Redis.
    pub store: Store,
    /// PostgreSQL, if there is one: `database.url`.
    pub database: Option<Database>,
    /// The files of chats, if they are stored: `media.url`.
    pub media: Option<MediaStore>,
    /// Redis server time.
    pub clock: Arc<Clock>,
    /// Creates and changes campaigns, and stores uploads.
    pub intake: Intake,
    /// The configured lines.
    pub lines: Live<Lines>,
    /// The configured businesses.
    pub businesses: Live<Arc<[BusinessId]>>,
    /// The configured WABAs, with their businesses.
    pub wabas: Live<Arc<HashMap<WabaId, BusinessId>>>,
    /// What messages cost: `prices.file`.
    pub prices: Live<Option<Arc<PriceList>>>,
    /// How long a line belongs to a worker without renewal: `dispatch.lease`.
    pub lease: Duration,
    /// The configured subscribers, in configuration order.
    pub subscribers: Live<Arc<[Subscriber]>>,
    /// The API keys, as they are now.
    pub keys: Live<Arc<[ApiKey]>>,
    /// Requests with an unknown key that each network may make per minute: `http.key_failures_per_minute`.
    pub key_failures_per_minute: NonZeroU32,
    /// How long sessions of agents live: `agents.session_idle` and `agents.session_age`.
    pub sessions: SessionLimits,
    /// Where agents log in without a password: `agents.oidc`.
    pub oidc: Option<Arc<Oidc>>,
    /// Reads the templates from Meta now.
    pub sync_templates: SyncTemplates,
    /// Asks Meta to lift the pause of a template.
    pub unpause_template: UnpauseTemplate,
    /// Reads what the businesses have at Meta.
    pub discover: Discover,
    /// The largest body of a request that is not an upload: `http.body_bytes_max`.
    pub body_bytes_max: usize,
    /// The longest pause within an upload, and the deadline for any other body: `http.stall_timeout`.
    pub stall_timeout: Duration,
    /// Ends event streams, which would otherwise delay the shutdown of the server.
    pub stopping: CancellationToken,
}

/// State that all handlers share.
struct Shared {
    state: ApiState,
    keys: ApiKeys,
    passwords: Passwords,
    reader: StatisticsReader,
    /// Redis, over a connection that only the streams of the event feed use.
    feed: Store,
    event_streams: Arc<Semaphore>,
    feed_streams: Arc<Semaphore>,
    chat_streams: Arc<Semaphore>,
    watch: stream::Watch,
    reports: Arc<Semaphore>,
    preflights: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    file_downloads: Arc<Semaphore>,
    file_uploads: Arc<Semaphore>,
    calls: Calls,
}

type SharedState = axum::extract::State<Arc<Shared>>;

/// The routes of the API. Other routes can be merged in. Unknown paths also need an API key, and are answered 404.
pub fn router(state: ApiState) -> Router {
    let (calls, mut api) =
        OpenApiRouter::with_openapi(openapi::empty()).merge(calls(&state)).merge(streams(&state)).split_for_parts();
    let shared = Arc::new(Shared {
        calls: openapi::complete(&mut api),
        keys: ApiKeys::new(state.keys.clone(), state.key_failures_per_minute),
        passwords: Passwords::default(),
        reader: StatisticsReader::new(state.store.clone(), state.lines.clone())
            .with_contact_hours(state.intake.contact_hours.clone())
            .with_grace_period(state.intake.grace_period),
        feed: state.store.with_pinned_connection(),
        event_streams: Arc::new(Semaphore::new(EVENT_STREAMS_MAX)),
        feed_streams: Arc::new(Semaphore::new(FEED_STREAMS_MAX)),
        chat_streams: Arc::new(Semaphore::new(CHAT_STREAMS_MAX)),
        watch: stream::Watch::default(),
        reports: Arc::new(Semaphore::new(REPORTS_MAX)),
        preflights: Arc::new(Semaphore::new(PREFLIGHTS_MAX)),
        uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
        file_downloads: Arc::new(Semaphore::new(FILE_DOWNLOADS_MAX)),
        file_uploads: Arc::new(Semaphore::new(FILE_UPLOADS_MAX)),
        state,
    });
    calls
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(guard::panicked))
        .layer(middleware::from_fn_with_state(shared.clone(), guard::admit))
        .with_state(shared)
        .merge(openapi::routes(&api))
}

/// Calls that are answered at once. Those that take too long are answered 503.
fn calls(state: &ApiState) -> OpenApiRouter<Arc<Shared>> {
    let limit = state.stall_timeout;
    OpenApiRouter::new()
        .routes(routes!(campaigns::list, campaigns::create))
        .routes(routes!(campaigns::one, campaigns::change, campaigns::delete))
        .routes(routes!(campaigns::launch))
        .routes(routes!(campaigns::pause))
        .routes(routes!(campaigns::resume))
        .routes(routes!(campaigns::cancel))
        .routes(routes!(campaigns::retry))
        .routes(routes!(campaigns::test))
        .routes(routes!(preflight::preflight))
        .routes(routes!(recipients::one))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::one, jobs::delete))
        .routes(routes!(jobs::retry))
        .routes(routes!(lines::list))
        .routes(routes!(lines::one, lines::change))
        .routes(routes!(lines::pause))
        .routes(routes!(lines::resume))
        .routes(routes!(businesses::list))
        .routes(routes!(discovery::discover))
        .routes(routes!(workers::list))
        .routes(routes!(holds::list))
        .routes(routes!(holds::lift))
        .routes(routes!(pauses::pause))
        .routes(routes!(pauses::resume))
        .routes(routes!(templates::list))
        .routes(routes!(templates::sync))
        .routes(routes!(templates::one))
        .routes(routes!(templates::unpause))
        .routes(routes!(subscribers::list))
        .routes(routes!(subscribers::redeliver))
        .routes(routes!(subscribers::enable))
        .routes(routes!(suppressions::one, suppressions::put, suppressions::delete))
        .routes(routes!(people::forget))
        .routes(routes!(chats::list))
        .routes(routes!(chats::one))
        .routes(routes!(chats::messages, chats::send))
        .routes(routes!(sessions::log_in, sessions::session, sessions::log_out))
        .routes(routes!(sessions::change_password))
        .routes(routes!(oidc::methods))
        .routes(routes!(oidc::begin))
        .routes(routes!(oidc::end))
        .routes(routes!(agents::list, agents::create))
        .routes(routes!(agents::one, agents::change, agents::remove))
        .routes(routes!(agents::invite))
        .routes(routes!(agents::end_sessions))
        .routes(routes!(agents::set_presence))
        .routes(routes!(agents::groups, agents::create_group))
        .routes(routes!(agents::rename_group, agents::remove_group))
        .routes(routes!(chats::take))
        .routes(routes!(chats::assign))
        .routes(routes!(chats::tag))
        .routes(routes!(tags::list, tags::create))
        .routes(routes!(tags::change, tags::remove))
        .routes(routes!(inbound_links::list, inbound_links::create))
        .routes(routes!(inbound_links::change, inbound_links::remove))
        .routes(routes!(inbound_links::qr))
        .routes(routes!(canned_replies::list, canned_replies::create))
        .routes(routes!(canned_replies::change, canned_replies::remove))
        .routes(routes!(canned_replies::fill_in))
        .routes(routes!(chats::snooze))
        .routes(routes!(chats::release))
        .routes(routes!(chats::close))
        .routes(routes!(chats::finish))
        .routes(routes!(chats::read))
        .routes(routes!(chats::typing))
        .routes(routes!(chats::note))
        .routes(routes!(contacts::list, contacts::create))
        .routes(routes!(contacts::one, contacts::change))
        .routes(routes!(conversations::list))
        .routes(routes!(conversations::counts))
        .routes(routes!(properties::list, properties::create))
        .routes(routes!(properties::change, properties::remove))
        .layer(DefaultBodyLimit::max(state.body_bytes_max))
        .layer(middleware::from_fn(move |request, next| guard::with_timeout(limit, request, next)))
}

/// Calls whose request or response may take hours.
fn streams(state: &ApiState) -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(recipients::list, uploads::upload))
        .routes(routes!(report::report))
        .routes(routes!(suppressions::list, suppressions::import))
        .routes(routes!(suppressions::export))
        .routes(routes!(contact_lists::import))
        .routes(routes!(contact_lists::export))
        .routes(routes!(media::upload))
        .routes(routes!(media::download))
        .routes(routes!(events::events))
        .routes(routes!(feed::feed))
        .routes(routes!(stream::follow))
        .layer(DefaultBodyLimit::disable())
        .layer(RequestBodyTimeoutLayer::new(state.stall_timeout))
}

async fn not_found() -> Problem {
    Problem::not_found("not-found", "there is nothing at this path; docs/api.md lists every call")
}

async fn method_not_allowed(method: Method) -> Problem {
    let detail = format!("this path does not accept {method}; the header Allow lists the methods that it accepts");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
}

impl Shared {
    fn now(&self) -> UnixMs {
        self.state.clock.now()
    }

    /// The campaign `id`, which the caller may know: its id comes from [`extract::CampaignPath`].
    async fn campaign(&self, id: CampaignId) -> Result<CampaignRecord> {
        self.state.store.campaign(id).await?.ok_or_else(|| campaign_not_found(id))
    }
}

/// Acquires a permit for one of `what`: an event stream, a report, a preflight, a file or an upload.
///
/// Errors: 429 if no permit is free.
fn stream_permit(permits: &Arc<Semaphore>, what: &str) -> Result<OwnedSemaphorePermit> {
    permits.clone().try_acquire_owned().map_err(|_| {
        let detail = format!("too many {what} are open at once on this server; try again when one has ended");
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-streams", detail)
    })
}
