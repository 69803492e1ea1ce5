//! Every series of `/metrics`: its name, type, unit, labels and meaning. `docs/metrics.md` is generated from this
//! table.

/// The type of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeriesKind {
    /// Only rises; starts at 0 again with the process.
    Counter,
    /// A value now.
    Gauge,
    /// Counts samples by size.
    Histogram,
}

impl SeriesKind {
    /// Its name in the text format of Prometheus.
    pub fn name(self) -> &'static str {
        match self {
            SeriesKind::Counter => "counter",
            SeriesKind::Gauge => "gauge",
            SeriesKind::Histogram => "histogram",
        }
    }
}

/// A series.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: SeriesKind,
    /// The unit of its value.
    pub unit: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it means, and what to do about it. Also the HELP line.
    pub help: &'static str,
}

impl Series {
    /// The series with this name, which must be one of this module.
    pub fn named(name: &str) -> &'static Self {
        ALL.iter().find(|series| series.name == name).expect("the name is a constant of this module")
    }
}

/// Declares each series: its type, name, unit and labels, and one text that is its HELP line and its documentation.
macro_rules! series {
    ($($kind:ident $name:ident = $text:literal $unit:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $name: &str = $text;
        )*

        /// Every series, in the order of `docs/metrics.md`.
        pub const ALL: &[Series] = &[
            $(Series { name: $text, kind: SeriesKind::$kind, unit: $unit, labels: &[$($label),*], help: $help },)*
        ];
    };
}

/// Adds the HELP lines of the series to the recorder.
pub(super) fn describe() {
    for Series { name, kind, help, .. } in ALL {
        match kind {
            SeriesKind::Counter => metrics::describe_counter!(*name, *help),
            SeriesKind::Gauge => metrics::describe_gauge!(*name, *help),
            SeriesKind::Histogram => metrics::describe_histogram!(*name, *help),
        }
    }
}

series! {
    Counter ATTEMPTS = "pregon_attempts_total" "attempts" ["line", "outcome"]
        "Attempts by outcome, of the lines that this worker owns. Its rate is the achieved rate of the line. throttled \
        rising: the rate of the line is set above what Meta allows";
    Gauge IN_FLIGHT_ATTEMPTS = "pregon_in_flight_attempts" "attempts" ["line"]
        "Attempts that wait for Meta's answer. At dispatch.in_flight_max: the line waits for answers, not for its rate";
    Gauge LINE_RATE_CONFIGURED = "pregon_line_rate_configured" "messages per second" ["line"]
        "The rate in force: an operator's, otherwise the configured one, otherwise what Meta allows";
    Gauge LINE_RATE = "pregon_line_rate" "messages per second" ["line"]
        "What campaigns may send on the line now. 0: the line is stopped, see pregon_lines_stopped. Below the \
        configured rate by more than the headroom: Meta throttled the line, or people write much to it";
    Counter PACED = "pregon_paced_seconds_total" "seconds" ["line"]
        "Time in which a message of the line was ready and waited for the pace. Rising by almost a second each second: \
        the line sends all that it may";
    Gauge HELD = "pregon_held_seconds" "seconds" ["line"]
        "How long the line has been blocked: held, without a valid token, or with a broken path to Meta. An operator's \
        pause does not count. Above 0: needs attention";
    Gauge PAUSED = "pregon_paused_seconds" "seconds" ["line"]
        "How long an operator has paused the line, alone or with others";
    Gauge LINE_WAITING = "pregon_line_waiting_messages" "messages" ["line"]
        "Recipients of running campaigns that wait to be sent on the line, for the first time or again. Read every few \
        seconds";
    Gauge LINE_OLDEST_AGE = "pregon_line_oldest_age_seconds" "seconds" ["line"]
        "How long the oldest waiting message of the line has waited: since its campaign started. 0: none waits. Rising \
        beyond the expected duration: see the rates and stops of the line";
    Histogram ATTEMPT_DURATION = "pregon_attempt_duration_seconds" "seconds" []
        "From sending a request to Meta's answer, of all lines. Rising: Meta is slow, and a line needs more attempts \
        in flight";
    Counter ATTEMPT_ERRORS = "pregon_attempt_errors_total" "attempts" ["outcome", "scope"]
        "Attempts that were not accepted, by outcome and by what Meta's error is about. none: no answer, or a code \
        that is not in the table";
    Gauge LINES_OWNED = "pregon_lines_owned" "lines" []
        "Lines that this worker serves. The sum over all workers is below the number of lines with work: a line has no \
        worker";
    Gauge LINES_STOPPED = "pregon_lines_stopped" "lines" ["reason"]
        "Lines of this worker that send nothing, by reason. A line with several reasons counts for each. held or \
        path_broken: needs attention";
    Counter LEASES = "pregon_leases_total" "leases" ["event"]
        "Leases on lines by what happened to them. lost rising: the worker is too slow, or does not reach Redis";
    Gauge LINES_UNLISTED = "pregon_lines_unlisted" "lines" []
        "Lines with work that no process lists; only from the worker that does the housekeeping. Above 0: list the \
        line again, or cancel its campaigns";
    Gauge QUEUE_MESSAGES = "pregon_queue_messages" "recipients" ["state"]
        "Recipients in open states, in the running campaigns; only from the worker that does the housekeeping. pending \
        rising for long: more is submitted than the lines may send. retrying: the backlog of retries";
    Gauge QUEUE_OLDEST_AGE = "pregon_queue_oldest_age_seconds" "seconds" []
        "Time since the oldest running campaign started; only from the worker that does the housekeeping. Rising \
        beyond the expected duration: sending has stalled";
    Counter DOUBTS_ENDED = "pregon_doubts_ended_total" "recipients" ["result"]
        "Recipients whose deadline in doubt has passed. unknown rising: Meta did not answer, and no status said what \
        became of the messages";
    Gauge UNKNOWN = "pregon_unknown_recipients" "recipients" []
        "Recipients of the running campaigns that ended in doubt: nobody knows whether Meta has their messages. A \
        later status takes them out again; only from the worker that does the housekeeping";
    Counter RECOUNTS = "pregon_recounts_total" "parts" ["result"]
        "Parts of ended campaigns whose counters were compared with a recount of the states. different rising: \
        statistics are wrong, which is a bug or damaged data; changed: a state changed meanwhile, so they were not \
        compared";
    Gauge CAMPAIGNS_HELD = "pregon_campaigns_held" "campaigns" []
        "Running campaigns that have recipients to send to and wait, because Meta refuses their template, or utility \
        templates at all; only from the worker that does the housekeeping. Above 0: see GET /v1/holds";
    Gauge HOLDS = "pregon_holds" "holds" ["scope"]
        "Holds by what they hold; only from the worker that does the housekeeping. template: also those that Meta \
        rejected or paused and that no campaign needs. Any other above 0: needs attention, see GET /v1/holds";
    Gauge HOLDS_BY_CODE = "pregon_holds_by_code" "holds" ["code"]
        "Holds by Meta's code that caused them; only from the worker that does the housekeeping. other: a code that is \
        not in the table, or no code";
    Gauge MESSAGING_LIMIT = "pregon_messaging_limit" "people" ["business"]
        "How many people a business may message in 24 hours, if Meta limits it; only from the worker that does the \
        housekeeping";
    Gauge MESSAGING_LIMIT_USED = "pregon_messaging_limit_used" "people" ["business"]
        "How many people count towards that limit now. At the limit: its campaigns wait";
    Counter META_ERRORS = "pregon_meta_errors_total" "errors" ["code"]
        "Meta's errors by code, in answers and in failed statuses. other: a code that is not in the table";
    Counter WEBHOOKS = "pregon_webhooks_total" "webhooks" ["kind", "result"]
        "Changes in webhooks by content and result, and webhooks that were not read. refused rising: a wrong app \
        secret, or requests that are not Meta's; unavailable: Redis does not answer, and Meta delivers again";
    Counter WEBHOOKS_REFUSED = "pregon_webhooks_refused_total" "webhooks" ["reason"]
        "Webhooks refused with 401. wrong_signature rising: webhook.app_secret is not the secret of the Meta app that \
        sends them, and no status counts; no_signature: a proxy removes the header, or the requests are not Meta's";
    Gauge LAST_WEBHOOK = "pregon_last_webhook_timestamp_seconds" "Unix time" []
        "When this process last took a webhook; absent until the first. Far in the past while messages are sent: Meta \
        does not reach this process, or no app is subscribed";
    Histogram WEBHOOK_LAG = "pregon_webhook_lag_seconds" "seconds" []
        "From the timestamp of a status to its commit. Rising with few webhooks: Meta is late; with many: this process \
        is";
    Counter STATUSES = "pregon_statuses_total" "statuses" ["status", "result"]
        "Statuses by what they changed. repeated is normal, because Meta delivers some twice; unknown rising: another \
        app sends on the WABA";
    Counter INBOUND = "pregon_inbound_messages_total" "messages" ["result"]
        "Messages from people by what became of them. repeated is normal, because Meta delivers some twice; full \
        rising: a consumer group does not read the inbound stream of a line, and Meta delivers its webhooks again";
    Counter CHAT_MESSAGES = "pregon_chat_messages_total" "messages" ["result"]
        "Messages from people by what the role engage did with them. repeated: stored before, after a reader or Redis \
        was lost; standing still while pregon_inbound_messages_total rises: PostgreSQL is away, see the log";
    Gauge CHAT_INBOUND_AGE = "pregon_chat_inbound_oldest_age_seconds" "seconds" ["line"]
        "How long the oldest message from people has waited to be in its chat; only from the process that reads the \
        line. Rising: PostgreSQL is away or slow";
    Counter CHAT_REPLIES = "pregon_chat_replies_total" "messages" ["state"]
        "Messages of chats to people by the states that they have come to. refused or failed rising: Meta does not take \
        them, and each says why; unknown rising: workers die, or Meta does not answer";
    Gauge CHAT_REPLIES_AGE = "pregon_chat_replies_oldest_age_seconds" "seconds" ["line"]
        "How long the oldest message of a chat that is not sent has waited; only from the process that reads the line. \
        Rising: the line is paused, held or without a worker, or Meta throttles it";
    Gauge CONTACT_STATISTICS_AGE = "pregon_contact_statistics_oldest_age_seconds" "seconds" ["partition"]
        "How long the oldest event that the statistics of contacts do not count has waited; only from the process that \
        counts them. Rising: PostgreSQL is away or slow; beyond feed.retention events are missed";
    Gauge DATABASE_UP = "pregon_database_up" "1 or 0" []
        "1 while PostgreSQL answers this process, if it uses one. 0: messages from people wait in Redis, and nobody can \
        answer them";
    Gauge DATABASE_CONNECTIONS = "pregon_database_connections" "connections" ["state"]
        "Connections to PostgreSQL. busy at database.pool: operations wait for one another";
    Counter DATABASE_ERRORS = "pregon_database_errors_total" "operations" ["kind"]
        "Operations on PostgreSQL that failed. unavailable rising: it is away, too slow or overloaded; refused rising: \
        a fault of its tables or of Pregón, see the log";
    Counter ACCOUNT_EVENTS = "pregon_account_events_total" "events" ["event"]
        "Meta's reports on accounts and lines. restricted, disabled, violation, security, alert or errors rising: \
        needs attention, see the log";
    Counter FORWARDS = "pregon_forwards_total" "webhooks" ["target", "result"]
        "Webhooks of Meta that are forwarded, by what became of them. failed or full rising: the target is away, \
        refuses them or is slow, and they are lost for it";
    Gauge FORWARDS_WAITING = "pregon_forwards_waiting" "webhooks" ["target"]
        "Webhooks of Meta that are being forwarded or wait for it. Rising: the target is away or slow";
    Counter API_CALLS = "pregon_api_calls_total" "calls" ["result"]
        "API calls by the result of their authorization. unknown_key and too_often rising: a caller has a wrong key, \
        or guesses keys";
    Gauge HTTP_CONNECTIONS = "pregon_http_connections" "connections" []
        "Open connections of the API and the webhooks. At http.connections_max: further connections wait until one \
        closes";
    Counter JOBS = "pregon_jobs_total" "jobs" ["result"]
        "Entries of the job stream. dead rising: a backend sends invalid jobs, see the stream of dead letters";
    Gauge JOBS_WAITING = "pregon_jobs_waiting" "jobs" []
        "Entries of the job stream that have not taken effect; only from the worker that does the housekeeping. \
        Rising: no process with the role api reads jobs, or they arrive too fast";
    Gauge DEAD_LETTERS = "pregon_dead_letters" "jobs" []
        "Dead letters of jobs; only from the worker that does the housekeeping. Above 0: see GET /v1/jobs/dead";
    Counter RECIPIENTS = "pregon_recipients_total" "recipients" ["result"]
        "Recipients of uploads and jobs. rejected rising: a backend sends invalid rows";
    Counter FEED_EVENTS = "pregon_feed_events_total" "events" []
        "Events written to the feed. Not rising while messages are sent: no worker writes events, or feed.enabled is \
        off";
    Gauge FEED_LAG = "pregon_feed_lag_seconds" "seconds" ["partition"]
        "How long the oldest change that the feed had not published before its last round had waited; only from the \
        worker that writes that stream. Rising: more changes than the feed can publish";
    Counter DELIVERIES = "pregon_deliveries_total" "attempts" ["subscriber", "result"]
        "Attempts to deliver events to a subscriber by result. Any other than delivered rising: the subscriber is away \
        or refuses them, see last_error in GET /v1/subscribers";
    Gauge DELIVERY_LAG = "pregon_delivery_lag_seconds" "seconds" ["subscriber"]
        "Age of the oldest event that is not delivered to a subscriber; only from the process that delivers to it, and \
        not while the subscriber is disabled. Rising: the subscriber is away or slow. Near feed.retention: it will \
        miss events";
    Gauge SUBSCRIBER_DISABLED = "pregon_subscriber_disabled" "1 or 0" ["subscriber"]
        "1 if a subscriber is disabled; only from the process that delivers to it. Repair it, then enable it";
    Histogram REDIS_OPERATION_DURATION = "pregon_redis_operation_duration_seconds" "seconds" ["operation"]
        "From a command to its reply, by group of commands; its count is the number of round trips. Rising for all: \
        Redis or its network is slow; for one: its batches are large";
    Counter REDIS_ERRORS = "pregon_redis_errors_total" "commands" []
        "Commands without a successful reply. Rising: Redis does not answer or is full, and nothing is sent until that \
        ends";
    Gauge REDIS_MEMORY = "pregon_redis_memory_bytes" "bytes" []
        "Memory that counts against the limit of Redis; of several servers the fullest; only from the worker that does \
        the housekeeping, and only with a limit. Near the limit: recipients are refused; at the limit nothing is sent";
    Gauge REDIS_MEMORY_LIMIT = "pregon_redis_memory_limit_bytes" "bytes" []
        "The limit of that server: maxmemory";
    Gauge REDIS_RISK = "pregon_redis_risk" "1 or 0" ["risk"]
        "1 for each setting of Redis that can lose campaigns; only from the worker that does the housekeeping. evicts: \
        maxmemory-policy is not noeviction; no_append_only_file: appendonly is off";
    Counter SPANS = "pregon_spans_total" "spans" ["result"]
        "Spans of traces by what became of them. failed or dropped rising: the collector at traces.endpoint is away, \
        refuses them or is slow; sending goes on";
    Gauge READY = "pregon_ready" "1 or 0" []
        "1 while /readyz answers 200";
    Gauge NOT_READY = "pregon_not_ready" "1 or 0" ["reason"]
        "1 for each reason for which /readyz does not answer 200";
    Gauge STOP_GRACE_LEFT = "pregon_stop_grace_left_seconds" "seconds" []
        "What is left of shutdown.grace; only while the process stops. At 0: the process ends, and the open work goes \
        to the next owners of its lines";
    Gauge RELOAD_SUCCESSFUL = "pregon_config_last_reload_successful" "1 or 0" []
        "1 after the start and after a reload; 0 while the configuration file differs from what runs, because the last \
        reload was refused. The log says why, and which keys need a restart";
    Gauge RELOADED = "pregon_config_last_reload_success_timestamp_seconds" "Unix time" []
        "When the process last loaded its configuration, at its start or by a reload";
    Gauge BUILD_INFO = "pregon_build_info" "1" ["version"]
        "Always 1; the label has the version";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        for series in ALL {
            let Series { name, kind, unit, labels, help } = series;
            assert!(name.starts_with("pregon_"), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == SeriesKind::Counter, "{name}");
            assert!(*unit != "seconds" || name.contains("_seconds"), "{name}");
            assert!(!help.contains(['\n', '\\', '|']), "{name} needs no escapes");
            assert_eq!(ALL.iter().filter(|other| other.name == *name).count(), 1, "{name}");
            for never in ["campaign", "recipient", "phone", "message", "wamid", "error"] {
                assert!(!labels.contains(&never), "{name} has the label {never}");
            }
        }
    }
}
