//! An API server for each test. The test itself plays the worker: it claims, settles and applies statuses.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::{NonZeroU16, NonZeroU32},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::FutureExt as _;
use metrics::Gauge;
use pregon::{
    api::{self, ApiState, UnpauseFailure},
    api_types::DiscoveredBusiness,
    config::{ApiKey, KeyScope, OidcConfig},
    domain::{
        BusinessId, CampaignId, ClaimedRow, Fact, FrequencyCap, Hold, HoldScope, Line, LineId, Lines, Live, MetaCode,
        News, PartId, PriceList, Secret, Settled, Template, UnixMs, WabaId, agent::SessionLimits,
        prices::CountryPrices,
    },
    endpoint::Endpoint,
    http::{
        auth::oidc::Oidc,
        listener::{self, ConnectionLimits},
    },
    intake::{Intake, MemoryGuard},
    media::MediaStore,
    postgres::Database,
    redis::{Address, Store, clock::Clock, feed::FeedLimits, parts::Claim},
    subscribers::{SigningKey, Subscriber},
};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::document;
use crate::support::{claim_request, redis::TestRedis, world};

pub const KEY: &str = "k-test";
pub const BODY_BYTES_MAX: usize = 64 * 1024;
pub const RECIPIENTS_MAX: u64 = 100_000;
pub const KEY_FAILURES_PER_MINUTE: u32 = 15;

/// The secret of [`subscriber`].
pub const WEBHOOK_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// A feed with one stream.
pub const FEED: FeedLimits = FeedLimits { partitions: NonZeroU16::MIN, retention: DAY, length_max: 100_000 };

/// How long sessions of agents live.
pub const SESSIONS: SessionLimits = SessionLimits { idle: Duration::from_mins(30), age: Duration::from_hours(12) };

const EPOCH: u64 = 1;
/// How long a pause of everything waits for workers to confirm it.
const LEASE: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The result of reading the templates from Meta. `None` makes the handler panic.
pub type Synced = Option<Vec<(WabaId, Result<usize, String>)>>;

/// The result of asking Meta to lift a pause.
pub type Unpaused = fn() -> Result<(), UnpauseFailure>;

/// A key that has only `scope`.
pub fn key_for(scope: KeyScope) -> String {
    format!("k-{}", scope.name())
}

/// The configured businesses.
pub const BUSINESSES: [&str; 2] = ["1001", "1002"];

/// A key with all scopes that is limited to a business.
pub fn key_of_business(id: &str) -> String {
    format!("k-of-{id}")
}

pub struct Api {
    pub redis: TestRedis,
    pub store: Store,
    pub clock: Arc<Clock>,
    pub base: String,
    pub http: reqwest::Client,
    pub stopping: CancellationToken,
    pub synced: Arc<Mutex<Synced>>,
    /// The result of calls that unpause a template, and the templates that were named in them.
    pub unpaused: Arc<Mutex<(Unpaused, Vec<String>)>>,
}

/// A subscriber to all events, in batches of one. Its URL may have a private address.
pub fn subscriber(id: &str, url: &str) -> Subscriber {
    Subscriber {
        id: id.into(),
        endpoint: Endpoint { url: url.parse().expect("a URL"), allow_private: true },
        keys: vec![SigningKey::parse(&Secret::new(WEBHOOK_SECRET)).expect("a key")],
        types: None,
        batch: 1,
        disable_after: DAY,
    }
}

/// A response. A body that is missing or not JSON is null.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Api {
    /// Holds a scope with Meta's code 131031.
    pub async fn hold(&self, scope: &HoldScope, until: Option<UnixMs>) {
        let since = self.clock.now();
        let hold = Hold { code: Some(MetaCode(131_031)), reason: "held".into(), since, until };
        self.store.hold(scope, &hold).await.expect("redis");
    }

    /// Starts a server with the lines 3001 to 3006 at 80 messages a second. Line 3003 is of WABA 2002 and business
    /// 1002; the others are of WABA 2001, which has templates, and business 1001. Business 1002 has a frequency cap of
    /// 3 in 7 days. Nothing is delivered to the subscriber `crm`.
    pub async fn start() -> Self {
        Self::start_with(Some(FEED), vec![subscriber("crm", "http://127.0.0.1:9/hook")]).await
    }

    /// Like [`Api::start`], with this event feed or none, and without subscribers.
    pub async fn start_with_feed(feed: Option<FeedLimits>) -> Self {
        Self::start_with(feed, Vec::new()).await
    }

    /// Like [`Api::start`], with this database.
    pub async fn start_with_database(database: Database) -> Self {
        Self::start_by(Some(FEED), vec![subscriber("crm", "http://127.0.0.1:9/hook")], Some(database), None, None).await
    }

    /// Like [`Api::start_with_database`], with this provider of logins.
    pub async fn start_with_oidc(database: Database, oidc: OidcConfig) -> Self {
        let oidc = Oidc::new(oidc).expect("a client");
        Self::start_by(Some(FEED), Vec::new(), Some(database), None, Some(Arc::new(oidc))).await
    }

    /// Like [`Api::start`], with this database and this store of files.
    pub async fn start_with_media(database: Database, media: MediaStore) -> Self {
        let subscribers = vec![subscriber("crm", "http://127.0.0.1:9/hook")];
        Self::start_by(Some(FEED), subscribers, Some(database), Some(media), None).await
    }

    /// Starts a server with this feed or none, and these subscribers.
    pub async fn start_with(feed: Option<FeedLimits>, subscribers: Vec<Subscriber>) -> Self {
        Self::start_by(feed, subscribers, None, None, None).await
    }

    async fn start_by(
        feed: Option<FeedLimits>,
        subscribers: Vec<Subscriber>,
        database: Option<Database>,
        media: Option<MediaStore>,
        oidc: Option<Arc<Oidc>>,
    ) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let redis = TestRedis::start().await;
        let address = Address {
            url: redis.url().to_owned(),
            certificates: Default::default(),
            namespace: "test".into(),
            timeout: Duration::from_secs(5),
            connections: 8,
        };
        let store = Store::connect(&address).await.expect("a store").with_feed(feed);
        let clock = Arc::new(Clock::start(&store).await.expect("a clock"));
        world::know_messaging_limits(&store, &BUSINESSES).await;
        let lines = [
            ("3001", "2001", "1001"),
            ("3002", "2001", "1001"),
            ("3003", "2002", "1002"),
            ("3004", "2001", "1001"),
            ("3005", "2001", "1001"),
            ("3006", "2001", "1001"),
        ];
        let line = |(id, waba, business): (&str, &str, &str)| Line {
            waba: waba.into(),
            business: business.into(),
            frequency_cap: (business == "1002").then_some(FrequencyCap { messages: 3, days: 7 }),
            ..world::line(id, 80.0)
        };
        let lines: Live<Lines> = lines.into_iter().map(line).collect();
        let templates: Vec<Template> = ["positional", "static", "paused", "carousel"].map(template).into();
        store.put_templates(&"2001".into(), &templates, clock.now()).await.expect("templates");

        let synced = Arc::new(Mutex::new(Some(Vec::new())));
        let unpaused = Arc::new(Mutex::new(((|| Ok(())) as Unpaused, Vec::new())));
        let unpauses = unpaused.clone();
        let (answers, stopping) = (synced.clone(), CancellationToken::new());
        let intake = Intake {
            store: store.clone(),
            clock: clock.clone(),
            lines: lines.clone(),
            is_limited: false,
            grace_period: Duration::from_secs(10),
            recipients_max: RECIPIENTS_MAX,
            memory: MemoryGuard::new(1.0),
            contact_hours: Default::default(),
            origin: Default::default(),
        };
        let mut keys = vec![ApiKey::new("test", &Secret::new(KEY))];
        keys.extend(
            KeyScope::ALL
                .map(|scope| ApiKey { scopes: vec![scope], ..ApiKey::new(scope.name(), &Secret::new(key_for(scope))) }),
        );
        keys.extend(BUSINESSES.map(|id| ApiKey {
            businesses: Some(vec![id.into()]),
            ..ApiKey::new(id, &Secret::new(key_of_business(id)))
        }));
        let router = api::router(ApiState {
            database,
            media,
            store: store.clone(),
            clock: clock.clone(),
            intake,
            lines,
            businesses: Live::new(BUSINESSES.map(BusinessId::from).into()),
            wabas: Live::new(Arc::new([("2001".into(), "1001".into()), ("2002".into(), "1002".into())].into())),
            prices: Some(Arc::new(prices(clock.now()))).into(),
            lease: LEASE,
            subscribers: Live::new(subscribers.into()),
            keys: Live::new(keys.into()),
            key_failures_per_minute: NonZeroU32::new(KEY_FAILURES_PER_MINUTE).expect("not 0"),
            sessions: SESSIONS,
            oidc,
            sync_templates: Arc::new(move |lines| {
                let synced = answers.lock().expect("no panic under the lock").clone();
                let of_lines = move |(waba, _): &(WabaId, _)| lines.wabas().contains_key(waba);
                async move { synced.expect("the test wants a fault").into_iter().filter(of_lines).collect() }.boxed()
            }),
            unpause_template: Arc::new(move |waba, name, language| {
                let mut unpauses = unpauses.lock().expect("no panic under the lock");
                unpauses.1.push(format!("{waba}/{name}/{language}"));
                std::future::ready(unpauses.0()).boxed()
            }),
            discover: Arc::new(|lines| std::future::ready(discovered(&lines)).boxed()),
            body_bytes_max: BODY_BYTES_MAX,
            stall_timeout: Duration::from_secs(60),
            stopping: stopping.clone(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let limits = ConnectionLimits {
            connections_max: 256,
            header_bytes_max: 16 * 1024,
            header_timeout: DAY,
            stall_timeout: DAY,
            stop_timeout: DAY,
        };
        tokio::spawn(listener::serve(listener, router, limits, None, Gauge::noop(), stopping.clone()));
        let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).build().expect("a client");
        Self { redis, store, clock, base, http, stopping, synced, unpaused }
    }

    pub fn now(&self) -> UnixMs {
        self.clock.now()
    }

    /// A request with [`KEY`].
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(KEY)
    }

    pub async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str) -> Answer {
        answer(self.request(Method::POST, path)).await
    }

    pub async fn post_json(&self, path: &str, body: &Value) -> Answer {
        answer(self.request(Method::POST, path).json(body)).await
    }

    pub async fn patch_json(&self, path: &str, body: &Value) -> Answer {
        answer(self.request(Method::PATCH, path).json(body)).await
    }

    /// GETs `path`, checks that the status is 200, and returns the body.
    pub async fn read(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.body);
        answer.body
    }

    /// A launched campaign on `lines` with the recipients `phone(0)` to `phone(n - 1)`.
    pub async fn launched(&self, name: &str, lines: &[&str], n: u64) -> CampaignId {
        let campaign = self.draft(name, lines, n).await;
        let answer = self.post(&format!("/v1/campaigns/{campaign}/launch")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        campaign
    }

    pub async fn draft(&self, name: &str, lines: &[&str], n: u64) -> CampaignId {
        let answer = self.post_json("/v1/campaigns", &campaign(name, lines)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        let id: CampaignId = answer.body["id"].as_str().expect("an id").parse().expect("an id");
        if n > 0 {
            let answer = self.upload(id, "text/csv", csv(n)).await;
            assert_eq!((answer.status, &answer.body["accepted"]), (StatusCode::OK, &json!(n)), "{}", answer.body);
        }
        id
    }

    pub async fn upload(&self, campaign: CampaignId, media_type: &str, body: impl Into<reqwest::Body>) -> Answer {
        let path = format!("/v1/campaigns/{campaign}/recipients");
        answer(self.request(Method::POST, &path).header("content-type", media_type).body(body)).await
    }

    pub async fn parts(&self, campaign: CampaignId) -> Vec<(PartId, LineId)> {
        self.store.campaign(campaign).await.expect("redis").expect("the campaign").parts
    }

    /// Claims up to `n` rows of a part, as the owner of its line does.
    pub async fn claim(&self, part: PartId, n: usize) -> Vec<ClaimedRow> {
        let now = self.now();
        match self.store.claim(part, &claim_request(EPOCH, now, n, now.after(DAY))).await.expect("redis") {
            Claim::Rows { rows, .. } => rows.into_iter().map(|row| row.claimed).collect(),
            other => panic!("{other:?}"),
        }
    }

    pub async fn settle(&self, part: PartId, outcomes: Vec<(ClaimedRow, Settled)>) {
        self.store.settle(&BTreeMap::from([(part, outcomes)]), EPOCH, self.now(), DAY).await.expect("redis");
    }

    pub async fn apply(&self, part: PartId, facts: &[(ClaimedRow, News)]) {
        let at = self.now();
        let facts =
            facts.iter().map(|&(ClaimedRow { row, send }, news)| Fact { row, send, news, at, message: None }).collect();
        self.store.apply(&[(part, facts)], DAY).await.expect("redis");
    }
}

/// Far longer than any event takes: only a failing test waits this long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A client of a stream of server-sent events.
pub struct EventStream {
    response: Response,
    text: String,
}

/// A block of a stream of server-sent events. A field that is missing is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block {
    pub id: String,
    pub event: String,
    pub data: String,
}

impl EventStream {
    pub async fn open(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    /// The next block with a field; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Block> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                let [id, event, data] = ["id", "event", "data"].map(|name| field(name).unwrap_or_default().to_owned());
                self.text = rest.to_owned();
                let block = Block { id, event, data };
                if block != Block::default() {
                    return Some(block);
                }
                continue;
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("an event in time");
            self.text.push_str(std::str::from_utf8(&chunk.expect("a chunk")?).expect("UTF-8"));
        }
    }
}

/// Sends a request, and checks that the answer is as the OpenAPI document says.
pub async fn answer(request: RequestBuilder) -> Answer {
    let (http, request) = request.build_split();
    let request = request.expect("a request");
    let (method, path) = (request.method().clone(), request.url().path().to_owned());
    let response = http.execute(request).await.expect("an answer");
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = response.bytes().await.expect("a body");
    let answer = Answer { status, headers, body: serde_json::from_slice(&bytes).unwrap_or_default() };
    document::check(&method, &path, &answer);
    answer
}

/// Prices of messages to Argentina and the USA, valid from `now`.
fn prices(now: UnixMs) -> PriceList {
    let country = |country: &str, prefix| CountryPrices {
        country: country.into(),
        prefixes: vec![prefix],
        marketing: Some(60_000),
        utility: Some(20_000),
        authentication: None,
    };
    let today = now.to_string()[..10].parse().expect("a day");
    PriceList::new("USD".into(), today, vec![country("AR", 54), country("US", 1)])
}

pub fn campaign(name: &str, lines: &[&str]) -> Value {
    json!({ "name": name, "template": { "name": "order_update", "language": "es_AR" }, "lines": lines })
}

pub fn phone(n: u64) -> String {
    format!("+{}", 5_491_100_000_000 + n)
}

pub fn csv(n: u64) -> String {
    let rows = (0..n).map(|n| format!("{},Maria,A-{n}\n", phone(n)));
    std::iter::once("to,1,2\n".to_owned()).chain(rows).collect()
}

pub fn wamid(n: u64) -> pregon::domain::Wamid {
    format!("wamid.{n}").as_str().into()
}

pub fn template(name: &str) -> Template {
    let path = format!("{}/tests/fixtures/templates/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).expect("the fixture")).expect("a template")
}

impl Answer {
    /// Checks that the response is a problem of this status and kind, in the format of RFC 9457. Returns its detail.
    #[track_caller]
    pub fn problem(&self, status: u16, kind: &str) -> &str {
        let Self { status: given, headers, body } = self;
        assert_eq!(given.as_u16(), status, "{body}");
        assert_eq!(headers["content-type"], "application/problem+json", "{body}");
        assert_eq!(body["type"], format!("urn:pregon:problem:{kind}"), "{body}");
        assert_eq!((&body["status"], &body["title"]), (&json!(status), &json!(kind.replace('-', " "))), "{body}");
        body["detail"].as_str().filter(|detail| !detail.is_empty()).expect("a detail")
    }
}

/// The businesses of `lines`, with nothing at Meta.
fn discovered(lines: &Lines) -> Vec<DiscoveredBusiness> {
    let ids: BTreeSet<&BusinessId> = lines.iter().map(|line| &line.business).collect();
    ids.into_iter().map(|id| DiscoveredBusiness { id: id.clone(), wabas: Vec::new(), drift: Vec::new() }).collect()
}
