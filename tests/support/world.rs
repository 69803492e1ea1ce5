//! A small set-up for dispatch tests: a store on a private Redis, lines, a template, campaigns with recipients.

use std::{
    num::NonZeroU16,
    rc::Rc,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use metrics_exporter_prometheus::PrometheusBuilder;
use pregon::{
    config::Config,
    dispatch::{
        DispatchSettings, RunnerSignals,
        allowances::AllowanceReader,
        housekeeping::Housekeeping,
        lease::Lease,
        line::runner::{LineStatus, RunnerSetup},
        shard::Shard,
        worker::Worker,
    },
    domain::{
        Campaign, CampaignId, CampaignState, FrequencyCap, Line, LineId, Live, MessagingLimit, OnDoubt, OnWithheld,
        Phone, Recipient, RetryPolicy, Secret, State, Template, UnixMs, campaign::FEATURES, template::Category,
    },
    feed::Feed,
    graph::{GraphClient, GraphClientConfig},
    redis::{
        Address, Store,
        campaigns::{CampaignRecord, StateChange},
        clock::Clock,
        feed::FeedLimits,
        inbound::InboundLimits,
        lines::LineControl,
        messaging_limits::KnownLimit,
        parts::PartCounts,
        uploads::{Admitted, Batch},
    },
    rules::contact_hours::ContactHours,
    telemetry::{
        health::Health,
        metrics::{HousekeepingMetrics, MetricsPage, OwnedLines},
    },
};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::redis::TestRedis;

/// The address of a test's Redis.
pub fn address(redis: &TestRedis) -> Address {
    Address {
        url: redis.url().to_owned(),
        certificates: Default::default(),
        namespace: "pregon".to_owned(),
        timeout: Duration::from_secs(2),
        connections: 8,
    }
}

/// A line of WABA 2001.
pub fn line(id: &str, messages_per_second: f64) -> Line {
    Line {
        id: id.into(),
        waba: "2001".into(),
        business: "1001".into(),
        token: Secret::new("token-2001"),
        display: format!("+54 9 11 5555 {id}"),
        name: format!("line {id}"),
        messages_per_second: Some(messages_per_second),
        warm_up: Arc::default(),
        marketing_api: false,
        frequency_cap: None,
    }
}

/// Dispatch settings with short durations.
pub fn settings() -> DispatchSettings {
    DispatchSettings {
        headroom: 0.0,
        doubt_deadline: Duration::from_secs(2),
        lease: Duration::from_secs(3),
        retry: RetryPolicy::new(Duration::from_millis(20), 2.0, Duration::from_millis(200), 6).expect("a policy"),
        in_flight_max: 64,
        // Many tests send several campaigns to the same people.
        pair_spacing: Duration::ZERO,
        id_retention: Duration::from_secs(3600),
        features: FEATURES,
        contact_hours: Live::default(),
        traces: Default::default(),
    }
}

/// Contact hours named `hours`, for numbers with this prefix. `days`: hours as in the configuration.
pub fn contact_hours(prefix: &str, days: &str) -> ContactHours {
    let text = format!("[[contact_hours]]\nname = \"hours\"\nsource = \"a law\"\nprefixes = [\"{prefix}\"]\n{days}");
    Config::from_toml(&text).expect("a configuration").contact_hours
}

/// A template with two positional parameters.
pub fn template() -> Template {
    let json = include_str!("../fixtures/templates/positional.json");
    serde_json::from_str(json).expect("a template of Meta's")
}

/// The `n`th recipient, with a value for each parameter of [`template`].
pub fn recipient(n: u64) -> Recipient {
    let slots = pregon::domain::Form::of(&template()).expect("a form").slots().len();
    let to = Phone::from_digits(5_491_100_000_000 + n).expect("a number");
    Recipient { to, values: (0..slots).map(|slot| format!("v{slot}-{n}")).collect() }
}

/// A campaign with `n` recipients, not yet launched.
pub async fn campaign(store: &Store, lines: &[&str], n: u64, on_doubt: OnDoubt) -> CampaignId {
    campaign_at(store, lines, n, on_doubt, None).await
}

/// A campaign with `n` recipients that starts at `start_at`, not yet launched.
pub async fn campaign_at(
    store: &Store,
    lines: &[&str],
    n: u64,
    on_doubt: OnDoubt,
    start_at: Option<UnixMs>,
) -> CampaignId {
    let campaign = Campaign { start_at, on_doubt, ..new_campaign(store, template(), lines).await };
    fill(store, &campaign, n).await
}

/// A campaign with `n` recipients whose template is in this category, as Meta writes it; not yet launched.
pub async fn campaign_of(store: &Store, category: &str, lines: &[&str], n: u64) -> CampaignId {
    let category = serde_json::from_value(category.into()).expect("a category");
    let template = Template { name: "of_category".into(), category, ..template() };
    fill(store, &new_campaign(store, template, lines).await, n).await
}

/// A marketing campaign with `n` recipients and this frequency cap of its own; not yet launched.
pub async fn capped_campaign(store: &Store, frequency_cap: Option<FrequencyCap>, lines: &[&str], n: u64) -> CampaignId {
    let template = Template { category: Category::Marketing, ..template() };
    let campaign = Campaign { frequency_cap, ..new_campaign(store, template, lines).await };
    fill(store, &campaign.with_requirements(), n).await
}

/// A campaign with `n` recipients and this choice for what Meta withholds; not yet launched.
pub async fn campaign_on_withheld(store: &Store, on_withheld: OnWithheld, lines: &[&str], n: u64) -> CampaignId {
    campaign_with(store, lines, n, |campaign| campaign.on_withheld = on_withheld).await
}

/// A campaign with `n` recipients and the values that `set` assigns; not yet launched.
pub async fn campaign_with(store: &Store, lines: &[&str], n: u64, set: impl FnOnce(&mut Campaign)) -> CampaignId {
    let mut campaign = new_campaign(store, template(), lines).await;
    set(&mut campaign);
    fill(store, &campaign, n).await
}

async fn new_campaign(store: &Store, template: Template, lines: &[&str]) -> Campaign {
    let now = store.time().await.expect("the time");
    let ids = lines.iter().map(|id| LineId::from(*id)).collect();
    Campaign::new(CampaignId(ulid(now)), "test", template, ids, now)
}

/// Stores a campaign with `n` recipients.
async fn fill(store: &Store, campaign: &Campaign, n: u64) -> CampaignId {
    let (id, created) = store.create_campaign(campaign).await.expect("a campaign");
    assert!(created);
    let weights = campaign.lines.iter().map(|line| (line.clone(), 1.0)).collect();
    let kept = Duration::from_secs(60);
    let (mut upload, state) = store
        .begin_upload(id, "u", weights, "{\"row\":%d}".to_owned(), kept)
        .await
        .expect("an upload")
        .expect("a campaign");
    assert_eq!(state, CampaignState::Draft);
    let mut done = 0;
    while done < n {
        let until = n.min(done + 2_048);
        let recipients = (done..until).map(|n| (n as u32, recipient(n))).collect();
        let batch = Batch { recipients, taken: until, done: until == n, ..Batch::default() };
        let admitted = upload.admit(batch.pack(upload.packing())).await.expect("a batch");
        assert_eq!(admitted, Admitted::Done { accepted: until - done });
        done = until;
    }
    id
}

/// Launches a campaign.
pub async fn launch(store: &Store, id: CampaignId) {
    let now = store.time().await.expect("the time");
    let change = store.change_campaign(id, &[CampaignState::Draft], CampaignState::Running, now, None).await;
    assert_eq!(change.expect("a launch"), StateChange::Done);
}

/// The client configuration for a fake Meta at `base_url`, with short timeouts.
pub fn graph(base_url: &str) -> GraphClientConfig {
    GraphClientConfig {
        base_url: base_url.to_owned(),
        timeout: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(1),
        ..GraphClientConfig::default()
    }
}

/// The limits of the inbound streams.
pub const INBOUND: InboundLimits = InboundLimits { retention: Duration::from_secs(3_600), length_max: 1_000 };

/// The limits of the event feed.
pub const FEED: FeedLimits =
    FeedLimits { partitions: NonZeroU16::MIN, retention: Duration::from_secs(600), length_max: 100_000 };

/// The event feed for `lines`, written by a worker named `name`. Recipients are stored for an hour.
pub async fn feed(name: &str, store: &Store, lines: &[Line]) -> Feed {
    Feed {
        name: name.to_owned(),
        store: store.clone(),
        clock: Arc::new(Clock::start(store).await.expect("a clock")),
        lines: lines.iter().cloned().collect(),
        lease: Duration::from_secs(3),
        retention: Duration::from_secs(3_600),
    }
}

/// Housekeeping for `lines`, with short durations, named `w1`.
pub async fn housekeeping(store: &Store, lines: &[Line], graph: GraphClient) -> Housekeeping {
    Housekeeping {
        name: "w1".to_owned(),
        store: store.clone(),
        clock: Arc::new(Clock::start(store).await.expect("a clock")),
        lines: lines.iter().cloned().collect(),
        businesses: Live::new(["1001".into()].into()),
        graph,
        lease: Duration::from_secs(3),
        templates_every: Duration::from_secs(3_600),
        late_after: Duration::from_secs(300),
        retention: Duration::from_secs(3_600),
        inbound: INBOUND,
        doubt_deadline: Duration::from_secs(2),
        attempts_max: 6,
        metrics: HousekeepingMetrics::default(),
    }
}

/// What a worker builds the runner of `line` from. Its lease lasts longer than any test, and its signals never
/// change.
pub fn runner_setup(
    store: &Store,
    clock: &Arc<Clock>,
    graph: &GraphClient,
    line: Line,
    settings: DispatchSettings,
    stop: &CancellationToken,
) -> RunnerSetup {
    let messaging_limits = [(line.business.clone(), MessagingLimit::Unlimited)].into();
    let controls = [(line.id.clone(), LineControl::default())].into();
    let signals = RunnerSignals { controls, messaging_limits, ..RunnerSignals::default() };
    let metrics = OwnedLines::default().begin(&line.id);
    RunnerSetup {
        store: store.clone(),
        clock: clock.clone(),
        sender: graph.sender(&line.id, &line.token).expect("a sender"),
        graph: graph.clone(),
        line,
        settings,
        lease: Arc::new(Lease::new(1, Instant::now(), Duration::from_secs(3_600))),
        signals: watch::channel(Arc::new(signals)).1,
        stop: stop.clone(),
        status: Arc::new(Mutex::new(LineStatus::default())),
        metrics,
        shard: Rc::new(Shard::new(Instant::now())),
    }
}

/// A worker inside the test process.
pub struct TestWorker {
    stop: CancellationToken,
    task: JoinHandle<()>,
    lines: OwnedLines,
}

impl TestWorker {
    /// Starts a worker.
    pub async fn start(
        name: &str,
        redis: &TestRedis,
        base_url: &str,
        lines: &[Line],
        settings: DispatchSettings,
    ) -> Self {
        Self::start_on(name, address(redis), base_url, lines, settings).await
    }

    /// Starts a worker that reaches Redis at another address.
    pub async fn start_on(
        name: &str,
        redis: Address,
        base_url: &str,
        lines: &[Line],
        settings: DispatchSettings,
    ) -> Self {
        Self::start_with(name, redis, graph(base_url), lines, settings).await
    }

    /// Starts a worker with the configuration `graph` for its calls to Meta.
    pub async fn start_with(
        name: &str,
        redis: Address,
        graph: GraphClientConfig,
        lines: &[Line],
        settings: DispatchSettings,
    ) -> Self {
        let store = Store::connect(&redis).await.expect("a store");
        let lines_owned = OwnedLines::default();
        let worker = Worker {
            name: name.to_owned(),
            clock: Arc::new(Clock::start(&store).await.expect("a clock")),
            token_key: store.token_key().await.expect("a key"),
            store,
            lines: lines.iter().cloned().collect(),
            settings,
            graph,
            threads: 1,
            health: Health::starting(&[]),
            open: Arc::default(),
            metrics: lines_owned.clone(),
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (store, clock) = (worker.store.clone(), worker.clock.clone());
        let graph = GraphClient::new(worker.graph.clone()).expect("a client");
        let allowances =
            AllowanceReader { store: store.clone(), clock: clock.clone(), lines: worker.lines.clone(), graph };
        tokio::spawn(allowances.run(stop.clone()));
        // As `pregon serve` does: detects failovers, and follows Redis' clock.
        let watch = async move {
            loop {
                store.check_failover().await;
                let _ = clock.adjust(&store).await;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        let task = tokio::spawn(async move {
            tokio::select! {
                ended = worker.run(stopped) => ended.expect("a worker that ends well"),
                () = watch => {}
            }
        });
        Self { stop, task, lines: lines_owned }
    }

    /// The page of its metrics, without the counters that all workers of a process share.
    pub fn metrics(&self) -> String {
        page(&self.lines)
    }

    /// Shuts the worker down cleanly. Returns the last page of its metrics.
    pub async fn stop(self) -> String {
        self.stop.cancel();
        self.task.await.expect("no panic");
        page(&self.lines)
    }
}

fn page(lines: &OwnedLines) -> String {
    let page = MetricsPage {
        recorder: PrometheusBuilder::new().build_recorder().handle(),
        lines: lines.clone(),
        housekeeping: HousekeepingMetrics::default(),
        health: Health::starting(&[]),
    };
    page.render()
}

/// The counters of a campaign, summed over its parts.
pub async fn counts(store: &Store, record: &CampaignRecord) -> PartCounts {
    let parts: Vec<_> = record.parts.iter().map(|(part, _)| *part).collect();
    let mut sum = PartCounts::default();
    for counts in store.part_counts(&parts).await.expect("counts") {
        for (state, n) in counts.by_state {
            *sum.by_state.entry(state).or_default() += n;
        }
        for (code, n) in counts.failures {
            *sum.failures.entry(code).or_default() += n;
        }
        for (reason, n) in counts.skips {
            *sum.skips.entry(reason).or_default() += n;
        }
        sum.details.extend(counts.details);
        sum.recipients += counts.recipients;
        sum.replied += counts.replied;
        sum.held += counts.held;
    }
    sum
}

/// The number of recipients of a campaign in `state`.
pub async fn count(store: &Store, id: CampaignId, state: State) -> u64 {
    let record = store.campaign(id).await.expect("redis").expect("a campaign");
    counts(store, &record).await.by_state.get(&state).copied().unwrap_or(0)
}

/// Changes values of a campaign.
pub async fn amend(store: &Store, id: CampaignId, change: impl FnOnce(&mut Campaign)) {
    let record = store.campaign(id).await.expect("redis").expect("a campaign");
    let mut changed = record.campaign.clone();
    change(&mut changed);
    let now = store.time().await.expect("redis");
    assert!(store.amend_campaign(&record, &changed.with_requirements(), now).await.expect("redis"));
}

/// The counts by state, from the state bytes. The promise that counts are exact requires them to equal [`counts`].
pub async fn recount(store: &Store, record: &CampaignRecord) -> std::collections::HashMap<State, u64> {
    let mut sum: std::collections::HashMap<State, u64> = State::ALL.into_iter().map(|state| (state, 0)).collect();
    for (part, _) in &record.parts {
        for state in store.state_bytes(*part).await.expect("bytes").into_iter().filter_map(State::of) {
            *sum.entry(state).or_default() += 1;
        }
    }
    sum
}

/// Stores that these businesses have no messaging limit, as if Meta had reported that.
pub async fn know_messaging_limits(store: &Store, businesses: &[&str]) {
    let now = store.time().await.expect("the time");
    let known = KnownLimit { limit: MessagingLimit::Unlimited, since: now };
    for business in businesses {
        store.set_messaging_limit(&(*business).into(), known).await.expect("redis");
    }
}

/// The number of messages that Meta keeps back, from the bitmaps. Checks that each of their rows is accepted.
pub async fn recount_held(store: &Store, record: &CampaignRecord) -> u64 {
    let mut held = 0;
    for (part, _) in &record.parts {
        let (rows, bytes) =
            (store.held_rows(*part).await.expect("bits"), store.state_bytes(*part).await.expect("bytes"));
        for row in rows {
            assert_eq!(State::of(bytes[usize::from(row)]), Some(State::Accepted), "a held row {row} of {part}");
            held += 1;
        }
    }
    held
}

/// Waits until the campaign is in `state`.
pub async fn wait_for_state(store: &Store, id: CampaignId, state: CampaignState) -> CampaignRecord {
    let waiting = async {
        loop {
            let record = store.campaign(id).await.expect("a store").expect("a campaign");
            if record.state == state {
                return record;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting)
        .await
        .unwrap_or_else(|_| panic!("the campaign never was {state}"))
}

fn ulid(now: UnixMs) -> ulid::Ulid {
    ulid::Ulid::from_parts(now.0, rand::random())
}
