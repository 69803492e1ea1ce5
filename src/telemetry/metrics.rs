//! The series of `/metrics`. [`series`] lists them.
//!
//! Label values come from enums and from the configuration, never from a campaign, a recipient, a message id or an
//! error text. Series with known label values start at 0, so that a rate has a first value.
//!
//! Series that last as long as the process are in the recorder, and most modules set them through the functions here.
//! The recorder cannot remove a series, so those that come and go are written when the page is read: the series of the
//! lines that the process serves ([`OwnedLines`]), those of housekeeping ([`HousekeepingMetrics`]), and those of other
//! duties ([`DutyGauge`]).

mod duties;
mod housekeeping;
mod labels;
mod lines;
mod page;
pub mod series;
mod text;

use std::{sync::OnceLock, time::Duration};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio::time::{MissedTickBehavior, interval};

use self::series::{
    ACCOUNT_EVENTS, API_CALLS, BUILD_INFO, CHAT_INBOUND_AGE, CHAT_MESSAGES, CHAT_REPLIES, CHAT_REPLIES_AGE,
    CONTACT_STATISTICS_AGE, DATABASE_CONNECTIONS, DATABASE_ERRORS, DATABASE_UP, DELIVERIES, DELIVERY_LAG, DOUBTS_ENDED,
    FEED_EVENTS, FEED_LAG, FORWARDS, FORWARDS_WAITING, HTTP_CONNECTIONS, INBOUND, JOBS, LAST_WEBHOOK, LEASES,
    META_ERRORS, RECIPIENTS, RECOUNTS, REDIS_ERRORS, REDIS_OPERATION_DURATION, RELOAD_SUCCESSFUL, RELOADED, SPANS,
    STATUSES, SUBSCRIBER_DISABLED, WEBHOOK_LAG, WEBHOOKS, WEBHOOKS_REFUSED,
};
pub use self::{
    duties::DutyGauge,
    housekeeping::{HousekeepingMetrics, InstallationGauges},
    labels::{
        AccountEvent, ApiResult, AttemptOutcome, ChatResult, DatabaseErrorKind, DeliveryResult, DoubtEnd,
        ForwardResult, InboundResult, JobResult, LeaseEvent, LineStop, RecipientResult, RecountResult, RedisOperation,
        RefusalReason, SpanResult, StatusName, StatusResult, WebhookKind, WebhookResult,
    },
    lines::{LineBacklog, LineGauges, LineMetrics, OwnedLines},
    page::MetricsPage,
};
use crate::domain::{LineId, MetaCode, State, SubscriberId, UnixMs, policy};

/// Bucket limits in seconds. A reply on a local network takes less than a millisecond; the last limit is the default
/// of `redis.timeout`.
const REDIS_BUCKETS: [f64; 11] = [0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0];
/// Bucket limits in seconds: from 1, the resolution of Meta's timestamps, to a day, for webhooks that Meta retries.
const LAG_BUCKETS: [f64; 9] = [1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 86_400.0];
/// What was read from Redis longer ago is unknown, and not shown.
const AGE_MAX: Duration = Duration::from_secs(60);
/// The states that a message of a chat can come to.
const REPLY_STATES: [State; 10] = [
    State::Retrying,
    State::InDoubt,
    State::Unknown,
    State::Accepted,
    State::Sent,
    State::Failed,
    State::Delivered,
    State::Read,
    State::Cancelled,
    State::Refused,
];
/// How often histogram samples are merged into buckets. Reading `/metrics` merges them too.
const UPKEEP: Duration = Duration::from_secs(5);

/// Installs the recorder of this process and starts the known series at 0. Later calls return the same handle, so that
/// several services in one process, as in tests, share one `/metrics` page.
///
/// If the program has set a recorder of its own, the series go there and the page stays empty.
pub fn install() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    let handle = HANDLE.get_or_init(|| {
        let recorder = recorder().expect("no list of buckets is empty");
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("this program has set its own metrics recorder: /metrics stays empty");
        }
        series::describe();
        handle
    });
    start_at_zero();
    handle.clone()
}

/// Merges histogram samples into their buckets every few seconds. Otherwise samples would accumulate in a process whose
/// `/metrics` is never read. Never returns.
pub async fn run_upkeep(handle: PrometheusHandle) {
    let mut ticks = interval(UPKEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        handle.run_upkeep();
    }
}

fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let full = |name: &str| Matcher::Full(name.to_owned());
    Ok(PrometheusBuilder::new()
        .set_buckets_for_metric(full(REDIS_OPERATION_DURATION), &REDIS_BUCKETS)?
        .set_buckets_for_metric(full(WEBHOOK_LAG), &LAG_BUCKETS)?
        .build_recorder())
}

fn start_at_zero() {
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    lines::start_at_zero();
    LeaseEvent::ALL.iter().for_each(|&event| lease(event, 0));
    DoubtEnd::ALL.iter().for_each(|&end| doubts_ended(end, 0));
    RecountResult::ALL.iter().for_each(|&result| recount(result, 0));
    for &kind in WebhookKind::ALL {
        for &result in WebhookResult::ALL {
            webhook(kind, result, 0);
        }
    }
    RefusalReason::ALL.iter().for_each(|&reason| webhook_refused(reason, 0));
    for &status in StatusName::ALL {
        for &result in StatusResult::ALL {
            self::status(status, result, 0);
        }
    }
    InboundResult::ALL.iter().for_each(|&result| inbound(result, 0));
    ChatResult::ALL.iter().for_each(|&result| chat_messages(result, 0));
    REPLY_STATES.iter().for_each(|&state| chat_replies(state, 0));
    DatabaseErrorKind::ALL.iter().for_each(|&kind| database_errors(kind, 0));
    AccountEvent::ALL.iter().for_each(|&event| counter!(ACCOUNT_EVENTS, "event" => event.label()).increment(0));
    ApiResult::ALL.iter().for_each(|&result| counter!(API_CALLS, "result" => result.label()).increment(0));
    http_connections().increment(0.0);
    JobResult::ALL.iter().for_each(|&result| job(result, 0));
    RecipientResult::ALL.iter().for_each(|&result| recipients(result, 0));
    redis_errors().increment(0);
    for &operation in RedisOperation::ALL {
        let _ = redis_operation(operation);
    }
    feed_events().increment(0);
    SpanResult::ALL.iter().for_each(|&result| spans(result, 0));
    let _ = webhook_lag();
}

/// The series of one subscriber.
#[derive(Debug)]
pub struct SubscriberMetrics {
    deliveries: Vec<(DeliveryResult, Counter)>,
    lag: DutyGauge,
    disabled: DutyGauge,
}

impl SubscriberMetrics {
    /// Looks up the series of `subscriber`.
    pub fn new(subscriber: &SubscriberId) -> Self {
        let deliveries = |&result: &DeliveryResult| {
            (result, counter!(DELIVERIES, "subscriber" => subscriber.to_string(), "result" => result.label()))
        };
        Self {
            deliveries: DeliveryResult::ALL.iter().map(deliveries).collect(),
            lag: DutyGauge::new(DELIVERY_LAG, subscriber.to_string()),
            disabled: DutyGauge::new(SUBSCRIBER_DISABLED, subscriber.to_string()),
        }
    }

    /// Counts an attempt.
    pub fn delivery(&self, result: DeliveryResult) {
        let counters = self.deliveries.iter().filter(|(counted, _)| *counted == result);
        counters.for_each(|(_, counter)| counter.increment(1));
    }

    /// Sets the age of the oldest event that is not delivered to the subscriber, which is enabled.
    pub fn set_lag(&self, lag: Duration) {
        self.lag.set(lag.as_secs_f64());
        self.disabled.set(0.0);
    }

    /// Says that the subscriber is disabled. Its lag is unknown then.
    pub fn set_disabled(&self) {
        self.lag.hide();
        self.disabled.set(1.0);
    }

    /// Shows neither when the value is dropped: from then on another process has the duty.
    pub fn hide_at_end(&self) -> impl Drop + use<'_> {
        HideAtEnd(self)
    }
}

/// The series of one target that webhooks are forwarded to.
#[derive(Clone, Debug)]
pub struct ForwardMetrics {
    ended: Vec<(ForwardResult, Counter)>,
    waiting: Gauge,
}

impl ForwardMetrics {
    /// Looks up the series of `target`.
    pub fn new(target: &str) -> Self {
        let ended = |&result: &ForwardResult| {
            (result, counter!(FORWARDS, "target" => target.to_owned(), "result" => result.label()))
        };
        Self {
            ended: ForwardResult::ALL.iter().map(ended).collect(),
            waiting: gauge!(FORWARDS_WAITING, "target" => target.to_owned()),
        }
    }

    /// Counts a webhook that is not attempted again.
    pub fn ended(&self, result: ForwardResult) {
        let counters = self.ended.iter().filter(|(counted, _)| *counted == result);
        counters.for_each(|(_, counter)| counter.increment(1));
    }

    /// Sets the number of webhooks that wait.
    pub fn set_waiting(&self, waiting: usize) {
        self.waiting.set(waiting as f64);
    }
}

struct HideAtEnd<'a>(&'a SubscriberMetrics);

impl Drop for HideAtEnd<'_> {
    fn drop(&mut self) {
        self.0.lag.hide();
        self.0.disabled.hide();
    }
}

/// Counts `n` leases on lines.
pub fn lease(event: LeaseEvent, n: u64) {
    counter!(LEASES, "event" => event.label()).increment(n);
}

/// Counts `n` recipients whose deadline in doubt has passed.
pub fn doubts_ended(end: DoubtEnd, n: u64) {
    counter!(DOUBTS_ENDED, "result" => end.label()).increment(n);
}

/// Counts `n` parts whose counters were compared with a recount.
pub fn recount(result: RecountResult, n: u64) {
    counter!(RECOUNTS, "result" => result.label()).increment(n);
}

/// Counts an error of Meta. Errors without a code, and those with a code that is not in the table of Meta's codes,
/// share the label `other`, so that the number of series is bounded.
pub fn meta_error(code: Option<MetaCode>) {
    counter!(META_ERRORS, "code" => code_label(code)).increment(1);
}

fn code_label(code: Option<MetaCode>) -> String {
    let known = code.filter(|code| policy::rule(*code).is_some());
    known.map_or("other".to_owned(), |code| code.to_string())
}

/// Counts `n` changes of a webhook, or a webhook that was not parsed.
pub fn webhook(kind: WebhookKind, result: WebhookResult, n: u64) {
    counter!(WEBHOOKS, "kind" => kind.label(), "result" => result.label()).increment(n);
}

/// Records that the configuration was loaded at `now`.
pub fn config_loaded(now: UnixMs) {
    gauge!(RELOAD_SUCCESSFUL).set(1.0);
    gauge!(RELOADED).set(now.0 as f64 / 1_000.0);
}

/// Records that a reload was refused.
pub fn reload_refused() {
    gauge!(RELOAD_SUCCESSFUL).set(0.0);
}

/// Records that a webhook took effect at `now`.
pub fn webhook_taken(now: UnixMs) {
    gauge!(LAST_WEBHOOK).set(now.0 as f64 / 1_000.0);
}

/// Counts `n` webhooks that were refused with 401.
pub fn webhook_refused(reason: RefusalReason, n: u64) {
    counter!(WEBHOOKS_REFUSED, "reason" => reason.label()).increment(n);
}

/// Counts `n` statuses.
pub fn status(status: StatusName, result: StatusResult, n: u64) {
    counter!(STATUSES, "status" => status.label(), "result" => result.label()).increment(n);
}

/// Counts `n` messages from people.
pub fn inbound(result: InboundResult, n: u64) {
    counter!(INBOUND, "result" => result.label()).increment(n);
}

/// Counts `n` messages from people that were read from the streams for the chats.
pub fn chat_messages(result: ChatResult, n: usize) {
    counter!(CHAT_MESSAGES, "result" => result.label()).increment(n as u64);
}

/// Counts `n` messages of chats that have come to a state.
pub fn chat_replies(state: State, n: u64) {
    counter!(CHAT_REPLIES, "state" => state.name()).increment(n);
}

/// How long the oldest message from people on the stream of a line has waited, in seconds.
pub fn chat_inbound_age(line: &LineId) -> DutyGauge {
    DutyGauge::new(CHAT_INBOUND_AGE, line.to_string())
}

/// How long the oldest message of the chats of a line that is not sent has waited, in seconds.
pub fn chat_replies_age(line: &LineId) -> DutyGauge {
    DutyGauge::new(CHAT_REPLIES_AGE, line.to_string())
}

/// How long the oldest event of a partition that the statistics of contacts do not count has waited, in seconds.
pub fn contact_statistics_age(partition: u16) -> DutyGauge {
    DutyGauge::new(CONTACT_STATISTICS_AGE, partition.to_string())
}

/// Sets whether PostgreSQL answers, and the numbers of its connections.
pub fn database(is_up: bool, idle: usize, busy: usize) {
    gauge!(DATABASE_UP).set(f64::from(u8::from(is_up)));
    gauge!(DATABASE_CONNECTIONS, "state" => "idle").set(idle as f64);
    gauge!(DATABASE_CONNECTIONS, "state" => "busy").set(busy as f64);
}

/// Counts `n` operations on PostgreSQL that failed.
pub fn database_errors(kind: DatabaseErrorKind, n: u64) {
    counter!(DATABASE_ERRORS, "kind" => kind.label()).increment(n);
}

/// Counts a report of Meta on an account.
pub fn account_event(event: AccountEvent) {
    counter!(ACCOUNT_EVENTS, "event" => event.label()).increment(1);
}

/// Seconds from the timestamp of a status to its commit.
pub fn webhook_lag() -> Histogram {
    histogram!(WEBHOOK_LAG)
}

/// Counts an API call.
pub fn api_call(result: ApiResult) {
    counter!(API_CALLS, "result" => result.label()).increment(1);
}

/// Open connections of the API and the webhooks.
pub fn http_connections() -> Gauge {
    gauge!(HTTP_CONNECTIONS)
}

/// Counts `n` entries of the job stream.
pub fn job(result: JobResult, n: u64) {
    counter!(JOBS, "result" => result.label()).increment(n);
}

/// Counts `n` submitted recipients.
pub fn recipients(result: RecipientResult, n: u64) {
    counter!(RECIPIENTS, "result" => result.label()).increment(n);
}

/// Seconds from a command or script of Redis to its reply.
pub fn redis_operation(operation: RedisOperation) -> Histogram {
    histogram!(REDIS_OPERATION_DURATION, "operation" => operation.label())
}

/// Commands without a successful reply.
pub fn redis_errors() -> Counter {
    counter!(REDIS_ERRORS)
}

/// Counts `n` spans of traces.
pub fn spans(result: SpanResult, n: u64) {
    counter!(SPANS, "result" => result.label()).increment(n);
}

/// Events written to the feed.
pub fn feed_events() -> Counter {
    counter!(FEED_EVENTS)
}

/// How long the oldest change without an event had waited, in seconds.
pub fn feed_lag(partition: u16) -> DutyGauge {
    DutyGauge::new(FEED_LAG, partition.to_string())
}

#[cfg(test)]
mod tests;
