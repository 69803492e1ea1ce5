//! Every series that `/metrics` shows, in one place: names, labels, and what a rise of each means.
//!
//! Labels come from enums and from the configuration: never a campaign, a recipient, a message id or an error's text.
//! Handles of hot paths are looked up once ([`LineMetrics`]); the rest are functions of this module. Series that are
//! known beforehand start at 0, so that a rate has a first value to rise from.

use std::{sync::OnceLock, time::Duration};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio::time::{MissedTickBehavior, interval};

use crate::domain::{LineId, Outcome, State};

/// Each series: its name, and one text that is both its HELP line and its documentation.
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
        "Messages a second that the line may send now. Below its configured rate: Meta told it to slow down";
    describe_gauge HELD = "pregon_held_seconds" "line"
        "How long the line has been held: paused, blocked, without a good token or with a broken path to Meta. Not 0: somebody has to look";
    describe_gauge LINES_OWNED = "pregon_lines_owned" ""
        "Lines that this worker holds the lease on. The sum over all workers is below the lines with work: one is held by nobody";
    describe_gauge LINES_UNLISTED = "pregon_lines_unlisted" ""
        "Lines with work that no process lists; shown by the one worker that keeps house. Not 0: list the line again, or cancel its campaigns";
    describe_gauge QUEUE_MESSAGES = "pregon_queue_messages" "state"
        "Recipients with work left, in the campaigns that run; shown by the one worker that keeps house. pending rising for long: more comes in than the lines may send";
    describe_gauge QUEUE_OLDEST_AGE = "pregon_queue_oldest_age_seconds" ""
        "How long ago the oldest campaign that still runs has started; shown by the one worker that keeps house. Rising past its plan: work does not move";
    describe_counter META_ERRORS = "pregon_meta_errors_total" "code"
        "Errors of Meta by code, of answers and of failed statuses. other: a code that is not in the table";
    describe_counter WEBHOOKS = "pregon_webhooks_total" "kind, result"
        "Webhooks by what they hold. refused rising: a wrong app secret, or a stranger; unavailable: Redis is away and Meta delivers again";
    describe_counter WEBHOOKS_REFUSED = "pregon_webhooks_refused_total" "reason"
        "Webhooks refused with 401. wrong_signature rising: webhook.app_secret is not the secret of the Meta app that sends them, and no status counts; no_signature: a proxy removes the header, or a stranger";
    describe_counter STATUSES = "pregon_statuses_total" "status, result"
        "Statuses by what they changed. repeated is usual, for Meta delivers twice; unknown rising: another app sends on the WABA";
    describe_counter ACCOUNT_EVENTS = "pregon_account_events_total" "event"
        "What Meta tells of accounts and lines. restricted, disabled, violation, security, alert or errors rising: somebody has to look, see the log";
    describe_histogram WEBHOOK_LAG = "pregon_webhook_lag_seconds" ""
        "From the time Meta gives a status to its commit. Rising with few webhooks: Meta is late; with many: this process is";
    describe_counter API_CALLS = "pregon_api_calls_total" "result"
        "Calls of the API by what became of their key. unknown_key and too_often rising: somebody has a wrong key, or guesses";
    describe_gauge HTTP_CONNECTIONS = "pregon_http_connections" ""
        "Open connections of the API and the webhooks. At http.connections_max: further ones wait until one ends";
    describe_counter JOBS = "pregon_jobs_total" "result"
        "Entries of the job stream. dead rising: a backend sends jobs that cannot be taken, see the stream of dead letters";
    describe_counter RECIPIENTS = "pregon_recipients_total" "result"
        "Recipients of uploads and jobs. rejected rising: a backend sends rows that can never work";
    describe_histogram REDIS_OPERATION_DURATION = "pregon_redis_operation_duration_seconds" "operation"
        "From a command to its reply. Rising for all: Redis or its network is slow; for one: its batches are large";
    describe_counter REDIS_ERRORS = "pregon_redis_errors_total" ""
        "Commands without a good reply. Rising: Redis is away, and nothing is sent until it is back";
    describe_gauge BUILD_INFO = "pregon_build_info" "version"
        "Always 1; its label says which version runs";
}

/// Seconds. Meta answers a send in some 100 to 500 ms; the last bucket is the default of `graph.timeout`.
const ATTEMPT_BUCKETS: [f64; 12] = [0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0];
/// Seconds. A reply on a local network takes less than a millisecond; the last bucket is the default of `redis.timeout`.
const REDIS_BUCKETS: [f64; 11] = [0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0];
/// Seconds, from Meta's whole seconds to the end of its attempts to deliver a webhook: an hour, a day.
const LAG_BUCKETS: [f64; 9] = [1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 86_400.0];
/// Samples of histograms are kept one by one until somebody reads `/metrics` or this long has passed.
const UPKEEP: Duration = Duration::from_secs(5);

/// An enum whose variants are the values of a label.
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

            /// How the value stands in the series.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

label! {
    /// What a webhook holds.
    WebhookKind {
        /// Meta's verification handshake.
        Handshake = "handshake",
        /// Statuses of messages.
        Statuses = "statuses",
        /// Messages that people sent.
        Messages = "messages",
        /// Anything else that Meta tells: templates, accounts, numbers, and what is not known yet.
        Other = "other",
        /// A body that was not read: refused, too large, or no JSON.
        Unread = "unread",
    }
}

label! {
    /// What became of a webhook.
    WebhookResult {
        /// Its effect is in Redis.
        Taken = "taken",
        /// Good, and nothing of it is of use.
        Ignored = "ignored",
        /// A wrong signature or a wrong verify token.
        Refused = "refused",
        /// Signed well, and not of the form that Meta documents.
        Malformed = "malformed",
        /// Redis was away; Meta was asked to deliver again.
        Unavailable = "unavailable",
    }
}

label! {
    /// Why a webhook was refused with 401.
    RefusalReason {
        /// The signature is not made with our app secret.
        WrongSignature = "wrong_signature",
        /// There is no signature, or it has another form than Meta's.
        NoSignature = "no_signature",
    }
}

label! {
    /// What a status says.
    StatusName {
        /// On its way.
        Sent = "sent",
        /// On the phone.
        Delivered = "delivered",
        /// Read.
        Read = "read",
        /// Failed after it was accepted.
        Failed = "failed",
        /// A word that is not in Meta's list of statuses.
        Other = "other",
    }
}

label! {
    /// What a status changed.
    StatusResult {
        /// It moved its recipient up.
        Applied = "applied",
        /// Its recipient was as far already, or this is not its last send.
        Repeated = "repeated",
        /// It came without our token and its message is not known yet; it is looked for again, and counted again.
        Parked = "parked",
        /// It belongs to no recipient of ours.
        Unknown = "unknown",
        /// It is of a line that is not ours, or of a WABA that is not that line's.
        Foreign = "foreign",
        /// Its word says nothing of use.
        Ignored = "ignored",
    }
}

label! {
    /// What Meta tells of an account.
    AccountEvent {
        /// It may not send, or not all of it.
        Restricted = "restricted",
        /// It violated a policy.
        Violation = "violation",
        /// It was disabled or deleted.
        Disabled = "disabled",
        /// It was reinstated.
        Reinstated = "reinstated",
        /// The throughput or the limit of a number changed.
        Quality = "quality",
        /// A limit of the business changed.
        Capability = "capability",
        /// A security setting of a number changed, such as its PIN.
        Security = "security",
        /// A warning on the account's page.
        Alert = "alert",
        /// Errors that belong to no message.
        Errors = "errors",
        /// Any other change of the account.
        Other = "other",
    }
}

label! {
    /// What became of a call's key.
    ApiResult {
        /// It may do what was asked for.
        Admitted = "admitted",
        /// There was none.
        NoKey = "no_key",
        /// It is none of ours.
        UnknownKey = "unknown_key",
        /// It was not looked at: too many from there were unknown.
        TooOften = "too_often",
        /// It lacks the scope.
        NoScope = "no_scope",
    }
}

label! {
    /// What became of an entry of the job stream.
    JobResult {
        /// It took effect.
        Taken = "taken",
        /// Its effect was there already.
        Repeated = "repeated",
        /// It moved to the dead letters.
        Dead = "dead",
    }
}

label! {
    /// What became of a recipient that somebody handed in.
    RecipientResult {
        /// It will be sent to.
        Accepted = "accepted",
        /// It can never work; the caller was told why.
        Rejected = "rejected",
    }
}

/// Installs the recorder of this process and starts the known series at 0. Called again, it gives the same handle, so
/// that several services of one process (as in tests) share a page.
///
/// A program that has set a recorder of its own gets the series there, and an empty page here.
pub fn install(lines: &[LineId]) -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    let handle = HANDLE.get_or_init(|| {
        let recorder = recorder().expect("every list of buckets above holds one");
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("this program has a metrics recorder of its own: /metrics stays empty");
        }
        describe();
        handle
    });
    start_at_zero(lines);
    handle.clone()
}

/// Moves the samples of histograms into their buckets every few seconds: without it they pile up where nobody reads
/// `/metrics`. Never returns.
pub async fn keep_up(handle: PrometheusHandle) {
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
    AccountEvent::ALL.iter().for_each(|&event| counter!(ACCOUNT_EVENTS, "event" => event.label()).increment(0));
    ApiResult::ALL.iter().for_each(|&result| counter!(API_CALLS, "result" => result.label()).increment(0));
    http_connections().increment(0.0);
    JobResult::ALL.iter().for_each(|&result| job(result, 0));
    RecipientResult::ALL.iter().for_each(|&result| recipients(result, 0));
    redis_errors().increment(0);
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
    /// Messages a second that the line may send now.
    pub rate: Gauge,
    /// Seconds since the line was held; 0 while it is not.
    pub held_seconds: Gauge,
}

impl LineMetrics {
    /// Looks up the series of `line`, once for its runner.
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

    /// Counts an attempt that ended in `outcome` after `took`. `held`: accepted, and kept back by Meta for now.
    pub fn attempt(&self, outcome: &Outcome, took: Duration) {
        let counter = match outcome {
            Outcome::Accepted { held: false, .. } => &self.accepted,
            Outcome::Accepted { held: true, .. } => &self.held,
            Outcome::Throttled { .. } => &self.throttled,
            Outcome::Retry { .. } => &self.retry,
            Outcome::InDoubt(_) => &self.in_doubt,
            Outcome::Failed { .. } => &self.failed,
            Outcome::Blocked { .. } => &self.blocked,
        };
        counter.increment(1);
        self.duration.record(took);
    }
}

/// The series of the work that is left.
#[derive(Clone, Debug)]
pub struct QueueMetrics {
    messages: Vec<(State, Gauge)>,
    /// Seconds since the oldest recipient that may be sent now became due.
    pub oldest_age: Gauge,
}

impl QueueMetrics {
    /// Looks up the series, once for the task that counts.
    #[expect(clippy::new_without_default, reason = "a look-up in the recorder is no plain value")]
    pub fn new() -> Self {
        let open = State::ALL.into_iter().filter(|state| state.is_open());
        let messages = open.map(|state| (state, gauge!(QUEUE_MESSAGES, "state" => state.name()))).collect();
        Self { messages, oldest_age: gauge!(QUEUE_OLDEST_AGE) }
    }

    /// Shows how many recipients are in each open state. `count` is asked once for each.
    pub fn set(&self, count: impl Fn(State) -> u64) {
        for (state, gauge) in &self.messages {
            gauge.set(count(*state) as f64);
        }
    }
}

/// Lines that this worker holds the lease on.
pub fn lines_owned() -> Gauge {
    gauge!(LINES_OWNED)
}

/// Lines with work that no process lists.
pub fn lines_unlisted() -> Gauge {
    gauge!(LINES_UNLISTED)
}

/// Counts an error of Meta. `known`: its code is in the table; any other is shown as `other`, for a label is bounded.
pub fn meta_error(code: u32, known: bool) {
    if known {
        counter!(META_ERRORS, "code" => code.to_string()).increment(1);
    } else {
        counter!(META_ERRORS, "code" => "other").increment(1);
    }
}

/// Counts `n` changes of a webhook, or one webhook that was not read.
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

/// Counts something that Meta told of an account.
pub fn account_event(event: AccountEvent) {
    counter!(ACCOUNT_EVENTS, "event" => event.label()).increment(1);
}

/// From the time in a status to its commit.
pub fn webhook_lag() -> Histogram {
    histogram!(WEBHOOK_LAG)
}

/// Counts a call of the API.
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

/// Counts `n` recipients that were handed in.
pub fn recipients(result: RecipientResult, n: u64) {
    counter!(RECIPIENTS, "result" => result.label()).increment(n);
}

/// From a command of Redis, or a script, to its reply.
pub fn redis_operation(operation: &'static str) -> Histogram {
    histogram!(REDIS_OPERATION_DURATION, "operation" => operation)
}

/// Commands without a good reply.
pub fn redis_errors() -> Counter {
    counter!(REDIS_ERRORS)
}

#[cfg(test)]
mod tests;
