//! Defines every series of `/metrics`: its name, its labels, and what a rise means.
//!
//! Label values come from enums and from the configuration, never from a campaign, a recipient, a message id or an
//! error text. Hot paths look up their handles once ([`LineMetrics`]); all others call the functions of this module.
//! Series with known label values start at 0, so that a rate has a first value.

use std::{sync::OnceLock, time::Duration};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio::time::{MissedTickBehavior, interval};

use crate::domain::{BusinessId, HoldScope, LineId, MetaCode, Outcome, State, SubscriberId, policy};

/// Declares each series: its name, its labels, and one text that is both its HELP line and its documentation.
macro_rules! series {
    ($($describe:ident $name:ident = $text:literal $labels:literal $help:literal;)*) => {
        $(
            #[doc = $help]
            #[doc = concat!("\n\nLabels: ", $labels)]
            pub const $name: &str = $text;
        )*

        fn describe() {
            $(metrics::$describe!($name, $help);)*
        }
    };
}

series! {
    describe_counter ATTEMPTS = "pregon_attempts_total" "line, outcome"
        "Attempts by outcome. throttled rising on one line: its rate is set above what Meta allows";
    describe_histogram ATTEMPT_DURATION = "pregon_attempt_duration_seconds" "line"
        "From sending a request to Meta's answer. Rising: Meta is slow, and a line needs more attempts in flight";
    describe_gauge IN_FLIGHT_ATTEMPTS = "pregon_in_flight_attempts" "line"
        "Attempts that wait for Meta's answer. At dispatch.in_flight_max: the line waits for answers, not for its rate";
    describe_gauge LINE_RATE = "pregon_line_rate" "line"
        "Messages per second that the line may send now. Below its configured rate: Meta throttled it";
    describe_gauge HELD = "pregon_held_seconds" "line"
        "How long the line has been held: paused, blocked, without a valid token or with a broken path to Meta. Above \
        0: needs attention";
    describe_gauge LINES_OWNED = "pregon_lines_owned" ""
        "Lines that this worker has the lease of. The sum over all workers is below the number of lines with work: a \
        line has no worker";
    describe_gauge LINES_UNLISTED = "pregon_lines_unlisted" ""
        "Lines with work that no process lists; set only by the worker that does the housekeeping. Above 0: list the \
        line again, or cancel its campaigns";
    describe_gauge QUEUE_MESSAGES = "pregon_queue_messages" "state"
        "Recipients in open states, in the running campaigns; set only by the worker that does the housekeeping. \
        pending rising for long: more is submitted than the lines may send";
    describe_gauge HOLDS = "pregon_holds" "scope"
        "Holds by what they hold; set only by the worker that does the housekeeping. Above 0: needs attention, see GET \
        /v1/holds";
    describe_gauge MESSAGING_LIMIT = "pregon_messaging_limit" "business"
        "How many people a business may message in 24 hours, if Meta limits it; set only by the worker that does the \
        housekeeping";
    describe_gauge MESSAGING_LIMIT_USED = "pregon_messaging_limit_used" "business"
        "How many people count towards that limit now. At the limit: its campaigns wait";
    describe_gauge QUEUE_OLDEST_AGE = "pregon_queue_oldest_age_seconds" ""
        "Time since the oldest running campaign started; set only by the worker that does the housekeeping. Rising \
        beyond the expected duration: sending has stalled";
    describe_counter META_ERRORS = "pregon_meta_errors_total" "code"
        "Meta's errors by code, in answers and in failed statuses. other: a code that is not in the table";
    describe_counter WEBHOOKS = "pregon_webhooks_total" "kind, result"
        "Changes in webhooks by content and result, and webhooks that were not read. refused rising: a wrong app secret, or requests that are not Meta's; \
        unavailable: Redis does not answer, and Meta delivers again";
    describe_counter WEBHOOKS_REFUSED = "pregon_webhooks_refused_total" "reason"
        "Webhooks refused with 401. wrong_signature rising: webhook.app_secret is not the secret of the Meta app that \
        sends them, and no status counts; no_signature: a proxy removes the header, or the requests are not Meta's";
    describe_counter FORWARDS = "pregon_forwards_total" "target, result"
        "Webhooks of Meta that are forwarded, by what became of them. failed or full rising: the target is away, refuses \
        them or is slow, and they are lost for it";
    describe_gauge FORWARDS_WAITING = "pregon_forwards_waiting" "target"
        "Webhooks of Meta that are being forwarded or wait for it. Rising: the target is away or slow";
    describe_counter STATUSES = "pregon_statuses_total" "status, result"
        "Statuses by what they changed. repeated is normal, because Meta delivers some twice; unknown rising: another \
        app sends on the WABA";
    describe_counter INBOUND = "pregon_inbound_messages_total" "result"
        "Messages from people by what became of them. repeated is normal, because Meta delivers some twice; full rising: a \
        consumer group does not read the inbound stream of a line, and Meta delivers its webhooks again";
    describe_counter ACCOUNT_EVENTS = "pregon_account_events_total" "event"
        "Meta's reports on accounts and lines. restricted, disabled, violation, security, alert or errors rising: \
        needs attention, see the log";
    describe_histogram WEBHOOK_LAG = "pregon_webhook_lag_seconds" ""
        "From the timestamp of a status to its commit. Rising with few webhooks: Meta is late; with many: this process \
        is";
    describe_counter API_CALLS = "pregon_api_calls_total" "result"
        "API calls by the result of their authorization. unknown_key and too_often rising: a caller has a wrong key, \
        or guesses keys";
    describe_gauge HTTP_CONNECTIONS = "pregon_http_connections" ""
        "Open connections of the API and the webhooks. At http.connections_max: further connections wait until one \
        closes";
    describe_counter JOBS = "pregon_jobs_total" "result"
        "Entries of the job stream. dead rising: a backend sends invalid jobs, see the stream of dead letters";
    describe_counter RECIPIENTS = "pregon_recipients_total" "result"
        "Recipients of uploads and jobs. rejected rising: a backend sends invalid rows";
    describe_counter FEED_EVENTS = "pregon_feed_events_total" ""
        "Events written to the feed. Not rising while messages are sent: no worker writes events, or feed.enabled is off";
    describe_gauge FEED_LAG = "pregon_feed_lag_seconds" "partition"
        "How long the oldest change that the feed had not told before its last round had waited; set only by the worker \
        that writes that stream. Rising: more changes than the feed can tell";
    describe_counter DELIVERIES = "pregon_deliveries_total" "subscriber, result"
        "Attempts to deliver events to a subscriber by result. Any other than delivered rising: the subscriber is away or \
        refuses them, see last_error in GET /v1/subscribers";
    describe_gauge DELIVERY_LAG = "pregon_delivery_lag_seconds" "subscriber"
        "Age of the oldest event that is not delivered to a subscriber; set only by the process that delivers to it. \
        Rising: the subscriber is away or slow. Near feed.retention: it will miss events";
    describe_gauge SUBSCRIBER_DISABLED = "pregon_subscriber_disabled" "subscriber"
        "1 if a subscriber is disabled; set only by the process that delivers to it. Repair it, then enable it";
    describe_histogram REDIS_OPERATION_DURATION = "pregon_redis_operation_duration_seconds" "operation"
        "From a command to its reply. Rising for all: Redis or its network is slow; for one: its batches are large";
    describe_counter REDIS_ERRORS = "pregon_redis_errors_total" ""
        "Commands without a successful reply. Rising: Redis does not answer, and nothing is sent until it does";
    describe_gauge BUILD_INFO = "pregon_build_info" "version"
        "Always 1; the label has the version";
}

/// Bucket limits in seconds. Meta answers a send in about 100 to 500 ms; the last limit is the default of
/// `graph.timeout`.
const ATTEMPT_BUCKETS: [f64; 12] = [0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0];
/// Bucket limits in seconds. A reply on a local network takes less than a millisecond; the last limit is the default
/// of `redis.timeout`.
const REDIS_BUCKETS: [f64; 11] = [0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0];
/// Bucket limits in seconds: from 1, the resolution of Meta's timestamps, to a day, for webhooks that Meta retries.
const LAG_BUCKETS: [f64; 9] = [1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 86_400.0];
/// How often histogram samples are merged into buckets. Reading `/metrics` merges them too.
const UPKEEP: Duration = Duration::from_secs(5);

/// Declares an enum whose variants are the values of a label.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The label value.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

label! {
    /// The content of a webhook.
    WebhookKind {
        /// Meta's verification handshake.
        Handshake = "handshake",
        /// Statuses of messages.
        Statuses = "statuses",
        /// Messages that people sent.
        Messages = "messages",
        /// Anything else: templates, accounts, phone numbers, and fields that this version does not know.
        Other = "other",
        /// A body that was not parsed: refused, too large, or not JSON.
        Unread = "unread",
    }
}

label! {
    /// The result of a webhook.
    WebhookResult {
        /// The effect of the webhook is in Redis.
        Taken = "taken",
        /// Valid, but with nothing that Pregón uses.
        Ignored = "ignored",
        /// A wrong signature or a wrong verify token.
        Refused = "refused",
        /// Correctly signed, but not of the form that Meta documents.
        Malformed = "malformed",
        /// Redis did not answer; the response asks Meta to deliver again.
        Unavailable = "unavailable",
    }
}

label! {
    /// Why a webhook was refused with 401.
    RefusalReason {
        /// The signature was not made with our app secret.
        WrongSignature = "wrong_signature",
        /// There is no signature, or it does not have the form of Meta's.
        NoSignature = "no_signature",
    }
}

label! {
    /// What became of a webhook that is forwarded.
    ForwardResult {
        /// The target has it.
        Forwarded = "forwarded",
        /// Every attempt failed.
        Failed = "failed",
        /// It was dropped, because too many wait.
        Full = "full",
        /// The process stopped before the next attempt.
        Stopped = "stopped",
    }
}

label! {
    /// The value of a status.
    StatusName {
        /// Sent by Meta.
        Sent = "sent",
        /// Delivered to the phone.
        Delivered = "delivered",
        /// Read by the recipient.
        Read = "read",
        /// Failed after it was accepted.
        Failed = "failed",
        /// Not one of Meta's documented statuses.
        Other = "other",
    }
}

label! {
    /// The effect of a status.
    StatusResult {
        /// The status raised the state of its recipient.
        Applied = "applied",
        /// The recipient already had that rank or a higher one, or the status belongs to an earlier send of the row.
        Repeated = "repeated",
        /// The status has no token, and its message id is not stored yet. The id is looked up again later, and that
        /// result is counted too.
        Parked = "parked",
        /// The status belongs to no recipient of this installation.
        Unknown = "unknown",
        /// The line is not configured here, or the WABA is not that of the line.
        Foreign = "foreign",
        /// The value of the status is not one that Pregón uses.
        Ignored = "ignored",
    }
}

label! {
    /// What became of a message from a person.
    InboundResult {
        /// It is on the inbound stream of its line.
        Stored = "stored",
        /// It was stored before.
        Repeated = "repeated",
        /// The stream is full; the response asks Meta to deliver again.
        Full = "full",
    }
}

label! {
    /// What a webhook reports about an account.
    AccountEvent {
        /// The account, or a part of the account, may not send.
        Restricted = "restricted",
        /// The account violated a policy.
        Violation = "violation",
        /// The account was disabled or deleted.
        Disabled = "disabled",
        /// The account was reinstated.
        Reinstated = "reinstated",
        /// The throughput or the messaging limit of a phone number changed.
        Quality = "quality",
        /// A limit of the business portfolio changed.
        Capability = "capability",
        /// A security setting of a phone number changed, such as its PIN.
        Security = "security",
        /// Meta shows a warning on the account's page.
        Alert = "alert",
        /// The webhook has errors that belong to no message.
        Errors = "errors",
        /// Any other change of the account.
        Other = "other",
    }
}

label! {
    /// The result of the authorization of a call.
    ApiResult {
        /// The key allows the call.
        Admitted = "admitted",
        /// The call has no key.
        NoKey = "no_key",
        /// The key is not configured.
        UnknownKey = "unknown_key",
        /// The key was not checked: too many calls from the same address had unknown keys.
        TooOften = "too_often",
        /// The key lacks the scope.
        NoScope = "no_scope",
    }
}

label! {
    /// The result of an entry of the job stream.
    JobResult {
        /// The entry took effect.
        Taken = "taken",
        /// The entry had taken effect before.
        Repeated = "repeated",
        /// The entry was moved to the dead letters.
        Dead = "dead",
    }
}

label! {
    /// The result of a submitted recipient.
    RecipientResult {
        /// The recipient is valid, and was stored for sending.
        Accepted = "accepted",
        /// The recipient is invalid; the response has the reason.
        Rejected = "rejected",
    }
}

label! {
    /// The result of an attempt to deliver events to a subscriber.
    DeliveryResult {
        /// The subscriber has them.
        Delivered = "delivered",
        /// The response has a status that is not one of success.
        Refused = "refused",
        /// The response is a redirect, which is not followed.
        Redirect = "redirect",
        /// The subscriber wants no more events.
        Gone = "gone",
        /// No response came in time.
        Timeout = "timeout",
        /// There was no connection, or it broke.
        Unreachable = "unreachable",
        /// The name of the subscriber has only private addresses.
        NotPublic = "not_public",
    }
}

/// Installs the recorder of this process and starts the known series at 0. Later calls return the same handle, so that
/// several services in one process, as in tests, share one `/metrics` page.
///
/// If the program has set a recorder of its own, the series go there and the page stays empty.
pub fn install(lines: &[LineId]) -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    let handle = HANDLE.get_or_init(|| {
        let recorder = recorder().expect("no list of buckets is empty");
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("this program has set its own metrics recorder: /metrics stays empty");
        }
        describe();
        handle
    });
    start_at_zero(lines);
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
        .set_buckets_for_metric(full(ATTEMPT_DURATION), &ATTEMPT_BUCKETS)?
        .set_buckets_for_metric(full(REDIS_OPERATION_DURATION), &REDIS_BUCKETS)?
        .set_buckets_for_metric(full(WEBHOOK_LAG), &LAG_BUCKETS)?
        .build_recorder())
}

fn start_at_zero(lines: &[LineId]) {
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    for line in lines {
        LineMetrics::new(line);
    }
    lines_owned().set(0.0);
    lines_unlisted().set(0.0);
    QueueMetrics::new();
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
    AccountEvent::ALL.iter().for_each(|&event| counter!(ACCOUNT_EVENTS, "event" => event.label()).increment(0));
    ApiResult::ALL.iter().for_each(|&result| counter!(API_CALLS, "result" => result.label()).increment(0));
    http_connections().increment(0.0);
    JobResult::ALL.iter().for_each(|&result| job(result, 0));
    RecipientResult::ALL.iter().for_each(|&result| recipients(result, 0));
    redis_errors().increment(0);
    feed_events().increment(0);
    let _ = webhook_lag();
}

/// The series of one line.
#[derive(Clone, Debug)]
pub struct LineMetrics {
    accepted: Counter,
    held: Counter,
    throttled: Counter,
    retry: Counter,
    in_doubt: Counter,
    failed: Counter,
    blocked: Counter,
    duration: Histogram,
    /// Attempts that wait for Meta's answer.
    pub in_flight: Gauge,
    /// Messages per second that the line may send now.
    pub rate: Gauge,
    /// Seconds for which the line has been held; 0 if it is not held.
    pub held_seconds: Gauge,
}

impl LineMetrics {
    /// Looks up the series of `line`. Call this once for each line, not for each message.
    pub fn new(line: &LineId) -> Self {
        let attempts = |outcome: &'static str| counter!(ATTEMPTS, "line" => line.to_string(), "outcome" => outcome);
        Self {
            accepted: attempts("accepted"),
            held: attempts("held"),
            throttled: attempts("throttled"),
            retry: attempts("retry"),
            in_doubt: attempts("in_doubt"),
            failed: attempts("failed"),
            blocked: attempts("blocked"),
            duration: histogram!(ATTEMPT_DURATION, "line" => line.to_string()),
            in_flight: gauge!(IN_FLIGHT_ATTEMPTS, "line" => line.to_string()),
            rate: gauge!(LINE_RATE, "line" => line.to_string()),
            held_seconds: gauge!(HELD, "line" => line.to_string()),
        }
    }

    /// Counts an attempt that ended with `outcome` after `took`. An accepted message that Meta holds back is `held`.
    pub fn attempt(&self, outcome: &Outcome, took: Duration) {
        let counter = match outcome {
            Outcome::Accepted { held: false, .. } => &self.accepted,
            Outcome::Accepted { held: true, .. } => &self.held,
            Outcome::Throttled { .. } => &self.throttled,
            Outcome::Rerouted(_) => &self.retry,
            Outcome::Retry { .. } => &self.retry,
            Outcome::InDoubt(_) => &self.in_doubt,
            // Counted as a failure, because only a campaign that asks for it sends the message again.
            Outcome::Failed { .. } | Outcome::Withheld(_) => &self.failed,
            Outcome::Blocked { .. } => &self.blocked,
        };
        counter.increment(1);
        self.duration.record(took);
    }
}

/// The series of the open work.
#[derive(Clone, Debug)]
pub struct QueueMetrics {
    messages: Vec<(State, Gauge)>,
    /// Seconds since the oldest running campaign started.
    pub oldest_age: Gauge,
    holds: Vec<(&'static str, Gauge)>,
}

impl QueueMetrics {
    /// Looks up the series. Call this once, in the task that counts the open work.
    #[expect(clippy::new_without_default, reason = "it looks up series in the recorder")]
    pub fn new() -> Self {
        let open = State::ALL.into_iter().filter(|state| state.is_open());
        let messages = open.map(|state| (state, gauge!(QUEUE_MESSAGES, "state" => state.name()))).collect();
        let holds = HoldScope::KINDS.map(|kind| (kind, gauge!(HOLDS, "scope" => kind))).into();
        Self { messages, oldest_age: gauge!(QUEUE_OLDEST_AGE), holds }
    }

    /// Sets the number of holds of each kind of scope.
    pub fn set_holds<'a>(&self, scopes: impl Iterator<Item = &'a HoldScope> + Clone) {
        for (kind, gauge) in &self.holds {
            gauge.set(scopes.clone().filter(|scope| scope.kind() == *kind).count() as f64);
        }
    }

    /// Sets how many people count towards the messaging limit of a business.
    pub fn set_messaging_limit(&self, business: &BusinessId, limit: u32, used: u64) {
        gauge!(MESSAGING_LIMIT, "business" => business.to_string()).set(f64::from(limit));
        gauge!(MESSAGING_LIMIT_USED, "business" => business.to_string()).set(used as f64);
    }

    /// Sets the number of recipients in each open state to `count` of that state.
    pub fn set(&self, count: impl Fn(State) -> u64) {
        for (state, gauge) in &self.messages {
            gauge.set(count(*state) as f64);
        }
    }
}

/// The series of one subscriber.
#[derive(Clone, Debug)]
pub struct SubscriberMetrics {
    deliveries: Vec<(DeliveryResult, Counter)>,
    lag: Gauge,
    disabled: Gauge,
}

impl SubscriberMetrics {
    /// Looks up the series of `subscriber`.
    pub fn new(subscriber: &SubscriberId) -> Self {
        let deliveries = |&result: &DeliveryResult| {
            (result, counter!(DELIVERIES, "subscriber" => subscriber.to_string(), "result" => result.label()))
        };
        let metrics = Self {
            deliveries: DeliveryResult::ALL.iter().map(deliveries).collect(),
            lag: gauge!(DELIVERY_LAG, "subscriber" => subscriber.to_string()),
            disabled: gauge!(SUBSCRIBER_DISABLED, "subscriber" => subscriber.to_string()),
        };
        metrics.reset();
        metrics
    }

    /// Counts an attempt.
    pub fn delivery(&self, result: DeliveryResult) {
        let counters = self.deliveries.iter().filter(|(counted, _)| *counted == result);
        counters.for_each(|(_, counter)| counter.increment(1));
    }

    /// Sets the age of the oldest event that is not delivered.
    pub fn set_lag(&self, lag: Duration) {
        self.lag.set(lag.as_secs_f64());
    }

    /// Sets whether the subscriber is disabled.
    pub fn set_disabled(&self, disabled: bool) {
        self.disabled.set(u8::from(disabled));
    }

    /// Sets lag and disabled to 0 when the value is dropped: from then on another process sets its own.
    pub fn reset_at_end(&self) -> impl Drop + use<'_> {
        ResetAtEnd(self)
    }

    fn reset(&self) {
        self.lag.set(0.0);
        self.disabled.set(0.0);
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

struct ResetAtEnd<'a>(&'a SubscriberMetrics);

impl Drop for ResetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.reset();
    }
}

/// Lines that this worker has the lease of.
pub fn lines_owned() -> Gauge {
    gauge!(LINES_OWNED)
}

/// Lines with work that no process lists.
pub fn lines_unlisted() -> Gauge {
    gauge!(LINES_UNLISTED)
}

/// Counts an error of Meta. Errors without a code, and those with a code that is not in the table of Meta's codes,
/// share the label `other`, so that the number of series is bounded.
pub fn meta_error(code: Option<MetaCode>) {
    let known = code.filter(|code| policy::rule(*code).is_some());
    let label = known.map_or("other".to_owned(), |code| code.to_string());
    counter!(META_ERRORS, "code" => label).increment(1);
}

/// Counts `n` changes of a webhook, or a webhook that was not parsed.
pub fn webhook(kind: WebhookKind, result: WebhookResult, n: u64) {
    counter!(WEBHOOKS, "kind" => kind.label(), "result" => result.label()).increment(n);
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
pub fn redis_operation(operation: &'static str) -> Histogram {
    histogram!(REDIS_OPERATION_DURATION, "operation" => operation)
}

/// Commands without a successful reply.
pub fn redis_errors() -> Counter {
    counter!(REDIS_ERRORS)
}

/// Events written to the feed.
pub fn feed_events() -> Counter {
    counter!(FEED_EVENTS)
}

/// How long the oldest change that the feed had not told had waited.
pub fn feed_lag(partition: u16) -> Gauge {
    gauge!(FEED_LAG, "partition" => partition.to_string())
}

#[cfg(test)]
mod tests;
