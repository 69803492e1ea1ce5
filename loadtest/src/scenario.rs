//! A scenario of a load test, as TOML: its stage, its workload and its goals.
//!
//! The scenarios are in `loadtest/scenarios`. A scenario has `about`, optionally `seed`, `[stage]`, exactly one workload
//! (`[dispatch]`, `[latency]`, `[ramp]`, `[rates]`, `[growth]`, `[webhooks]`, `[inbound]`, `[feed]`, `[upload]`, `[bytes]`,
//! `[suppression]`, `[frequency_cap]` or `[start]`) and any number of `[[goal]]`.
//! Unknown keys and goals for figures that the workload does not measure are errors. All problems are reported together.

use std::{collections::BTreeMap, ops::RangeInclusive, path::Path, str::FromStr, time::Duration};

use jiff::SignedDuration;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use toml::{Table, Value};

use pregon::domain::{LINE_RATE_MAX, LINE_RATE_MIN};

/// The most recipients of one campaign: the default of `intake.recipients_max`.
const RECIPIENTS_MAX: u64 = 10_000_000;
/// The maximum number of people besides the recipients.
const PEOPLE_MAX: u64 = 100_000_000;
/// The longest latency of the fake Meta: the maximum of `graph.timeout`.
const LATENCY_MAX: Duration = Duration::from_secs(120);
/// The shortest measured duration. Figures per second need at least one second.
const DURATION_MIN: Duration = Duration::from_secs(1);
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);

/// A scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// The name of its file, without the extension.
    pub name: String,
    /// What the scenario shows, in one line.
    pub about: String,
    /// The processes and lines that the scenario runs on.
    pub setup: Setup,
    /// What it measures.
    pub workload: Workload,
    /// The goals of its figures.
    pub goals: Vec<Goal>,
}

/// `[stage]`: the workers, the lines and the fake Meta.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// The number of `pregon serve` processes.
    pub workers: usize,
    /// The number of lines. Their ids start at 3001, and all belong to one WABA.
    pub lines: usize,
    /// The rate limit of each line, in messages per second.
    pub messages_per_second: f64,
    /// The fake Meta serves HTTP/2 over TLS; otherwise HTTP/1.1 without TLS.
    pub http2: bool,
    /// Time from the arrival of a message at the fake Meta to its response.
    pub latency: Duration,
    /// Threads of the fake Meta.
    pub meta_threads: usize,
    /// The workers write the event feed.
    pub feed: bool,
    /// The seed of the recipients: their numbers, their values and the order of both.
    pub seed: u64,
    /// Additional environment variables of the workers, such as `PREGON__DISPATCH__THREADS`.
    pub environment: BTreeMap<String, String>,
}

/// What a scenario measures. [`Workload::figures`] lists the figures of each workload.
#[derive(Clone, Debug, PartialEq)]
pub enum Workload {
    /// `[dispatch]`: a campaign, in alternation with the bare loop.
    Dispatch {
        /// Recipients of the campaign, and messages of the bare loop, in each round.
        recipients: u64,
        /// Warm-up messages: of dispatch before the first round, and of the bare loop before each.
        warm_up: u64,
        /// Number of rounds. Each round runs the campaign and the bare loop once.
        rounds: usize,
        /// Concurrent requests of the bare loop.
        streams: usize,
    },
    /// `[latency]`: how late messages are at a constant load.
    Latency {
        /// Messages per second, over all lines.
        per_second: f64,
        /// Time before `duration`, which is not measured.
        warm_up: Duration,
        /// The measured time.
        duration: Duration,
    },
    /// `[ramp]`: the highest load that is kept up with.
    Ramp(Ramp),
    /// `[rates]`: the rate of each line while all lines have work.
    Rates {
        /// Time before `duration`. It does not count for the use of a line, but counts for the worst second.
        warm_up: Duration,
        /// The measured time.
        duration: Duration,
        /// The stages to run on, one after the other; empty: only `[stage]`.
        cases: Vec<RatesCase>,
    },
    /// `[growth]`: cost and memory by size.
    Growth {
        /// The sizes.
        cases: Vec<GrowthCase>,
    },
    /// `[webhooks]`: statuses of messages that were sent.
    Webhooks {
        /// Messages sent, each of which gets three statuses.
        recipients: u64,
        /// Statuses in one request.
        batch: usize,
        /// Connections of the generator.
        connections: usize,
        /// How requests are scheduled.
        arrival: Arrival,
    },
    /// `[inbound]`: taps of people on buttons of messages that were sent.
    Inbound {
        /// Messages sent, each of which is tapped once in each round.
        recipients: u64,
        /// Taps in one request.
        batch: usize,
        /// Connections of the generator.
        connections: usize,
        /// Number of rounds.
        rounds: usize,
    },
    /// `[feed]`: campaigns with the event feed, in alternation with campaigns without it.
    Feed {
        /// Recipients of each campaign.
        recipients: u64,
        /// Number of rounds. Each round runs both campaigns once.
        rounds: usize,
        /// How long the lag is measured.
        duration: Duration,
    },
    /// `[upload]`: NDJSON over one connection.
    Upload {
        /// Rows of an upload.
        recipients: u64,
        /// One in this many rows repeats the phone number of an earlier row. 0: none does.
        duplicate_every: u64,
        /// Number of uploads.
        rounds: usize,
    },
    /// `[bytes]`: memory of Redis for each recipient.
    Bytes {
        /// Recipients.
        recipients: u64,
    },
    /// `[suppression]`: campaigns while people are suppressed, in alternation with campaigns while nobody is.
    Suppression {
        /// Suppressed people, none of whom is a recipient.
        people: u64,
        /// Recipients of each campaign.
        recipients: u64,
        /// Number of rounds. Each round runs both campaigns once.
        rounds: usize,
    },
    /// `[frequency_cap]`: campaigns of a business with a cap, in alternation with campaigns without.
    FrequencyCap {
        /// People who have had messages before, none of whom is a recipient.
        people: u64,
        /// Recipients of each campaign.
        recipients: u64,
        /// Number of rounds. Each round runs both campaigns once.
        rounds: usize,
    },
    /// `[start]`: time to the first message after a start and after a launch.
    Start {
        /// Number of starts.
        rounds: usize,
    },
}

/// `[ramp]`: the search for the knee, the highest load that is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ramp {
    /// The first load, in messages per second over all lines. It is doubled while it is kept.
    pub from: f64,
    /// The highest load that is tried.
    pub to: f64,
    /// The search ends when the knee is known to so many percent.
    pub within_percent: f64,
    /// Time before `duration`, which is not measured.
    pub warm_up: Duration,
    /// The measured time of each load.
    pub duration: Duration,
    /// A load is kept if at least so much of it arrives in its time, in percent.
    pub achieved_percent: f64,
    /// A load is kept if 99 % of its messages are on the wire so many milliseconds after they are due.
    pub p99_ms: f64,
}

/// A case of `[rates]`, which overrides these keys of `[stage]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RatesCase {
    /// The number of workers.
    pub workers: usize,
    /// The number of lines.
    pub lines: usize,
    /// The rate limit of each line.
    pub messages_per_second: f64,
}

/// A size of `[growth]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrowthCase {
    /// Recipients of each campaign.
    pub recipients: u64,
    /// Concurrent campaigns.
    pub campaigns: usize,
    /// Repetitions, for sizes that are too short to be measured once.
    pub times: usize,
}

/// How requests with statuses are scheduled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrival {
    /// As fast as they are answered: a connection sends when its last request was answered. In alternation with the
    /// handler that only checks signatures.
    Closed {
        /// Number of rounds: at most 3, because each round sends one of the three statuses of a message. A round
        /// measures the worker and that handler once each.
        rounds: usize,
    },
    /// On a fixed schedule, even if earlier requests are unanswered.
    Open {
        /// Statuses per second.
        per_second: f64,
        /// Duration of the schedule.
        duration: Duration,
        /// Messages per second that the first line sends at the same time.
        sending: f64,
    },
}

/// A goal of a figure, which each of its cases must reach.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    /// The name of the figure.
    pub figure: String,
    /// The bound of its value.
    #[serde(flatten)]
    pub bound: Bound,
}

/// The bound of a value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The smallest value that reaches the goal.
    AtLeast(f64),
    /// The largest value that reaches the goal.
    AtMost(f64),
}

impl Workload {
    /// The name of its table in the file.
    pub fn name(&self) -> &'static str {
        match self {
            Workload::Dispatch { .. } => "dispatch",
            Workload::Latency { .. } => "latency",
            Workload::Ramp(_) => "ramp",
            Workload::Rates { .. } => "rates",
            Workload::Growth { .. } => "growth",
            Workload::Webhooks { .. } => "webhooks",
            Workload::Inbound { .. } => "inbound",
            Workload::Feed { .. } => "feed",
            Workload::Upload { .. } => "upload",
            Workload::Bytes { .. } => "bytes",
            Workload::Suppression { .. } => "suppression",
            Workload::FrequencyCap { .. } => "frequency_cap",
            Workload::Start { .. } => "start",
        }
    }

    /// The names of the figures that it measures.
    pub fn figures(&self) -> &'static [&'static str] {
        match self {
            Workload::Dispatch { .. } => &[
                "messages_per_second",
                "bare_per_second",
                "ratio",
                "cpu_us_per_message",
                "worker_cpu_us_per_message",
                "redis_cpu_us_per_message",
                "meta_cpu_us_per_message",
                "bare_cpu_us_per_message",
                "worker_memory_mb",
            ],
            Workload::Latency { .. } => &[
                "offered_per_second",
                "achieved_per_second",
                "achieved_percent",
                "first_ms",
                "p50_ms",
                "p90_ms",
                "p99_ms",
                "p999_ms",
                "max_ms",
                "worker_cores",
                "redis_cores",
                "meta_cores",
            ],
            Workload::Ramp(_) => &[
                "knee_per_second",
                "load_kept",
                "load_achieved_per_second",
                "load_achieved_percent",
                "load_p50_ms",
                "load_p99_ms",
                "load_max_ms",
                "load_worker_cores",
                "load_redis_cores",
                "load_meta_cores",
            ],
            Workload::Rates { .. } => &[
                "use_percent",
                "worst_second_percent",
                "worst_second_beyond",
                "messages_per_second",
                "worker_cores",
                "redis_cores",
                "meta_cores",
                "worker_memory_mb",
            ],
            Workload::Growth { .. } => &[
                "cpu_us_per_message",
                "meta_cpu_us_per_message",
                "cpu_by_meta",
                "messages_per_second",
                "worker_memory_mb",
                "cpu_spread_percent",
                "cpu_by_meta_spread_percent",
                "memory_growth_mb",
            ],
            Workload::Webhooks { arrival: Arrival::Closed { .. }, .. } => &[
                "statuses_per_second",
                "baseline_per_second",
                "ratio",
                "p50_ms",
                "p99_ms",
                "worker_cpu_us_per_status",
                "redis_cpu_us_per_status",
            ],
            Workload::Webhooks { arrival: Arrival::Open { .. }, .. } => &[
                "offered_per_second",
                "answered_per_second",
                "sent_per_second",
                "p50_ms",
                "p90_ms",
                "p99_ms",
                "p999_ms",
                "max_ms",
                "late_p99_ms",
                "worker_cores",
                "redis_cores",
            ],
            Workload::Inbound { .. } => &[
                "messages_per_second",
                "p99_ms",
                "worker_cpu_us_per_message",
                "redis_cpu_us_per_message",
                "worker_memory_mb",
            ],
            Workload::Feed { .. } => &[
                "messages_per_second",
                "plain_per_second",
                "ratio",
                "events_per_second",
                "cpu_us_per_message",
                "lag_p50_ms",
                "lag_p99_ms",
                "worker_memory_mb",
            ],
            Workload::Upload { .. } => &[
                "recipients_per_second",
                "worker_cpu_us_per_recipient",
                "redis_cpu_us_per_recipient",
                "worker_memory_mb",
                "memory_growth_mb",
            ],
            Workload::Bytes { .. } => &["pending_bytes", "message_id_bytes", "kept_bytes"],
            Workload::Suppression { .. } => &[
                "imported_per_second",
                "bytes_per_person",
                "messages_per_second",
                "plain_per_second",
                "ratio",
                "cpu_us_per_message",
                "redis_cpu_us_per_message",
            ],
            Workload::FrequencyCap { .. } => &[
                "bytes_per_person",
                "messages_per_second",
                "plain_per_second",
                "ratio",
                "cpu_us_per_message",
                "redis_cpu_us_per_message",
            ],
            Workload::Start { .. } => &["start_to_first_send_ms", "launch_to_first_send_ms"],
        }
    }
}

/// An invalid scenario, with a sentence for each problem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct InvalidScenario(pub Vec<String>);

/// A key of a scenario and its value, as `dispatch.recipients=1e5` on the command line. A value that is not TOML is text.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    key: String,
    value: Value,
}

impl FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("not KEY=VALUE, such as dispatch.recipients=1e5")?;
        let table: Option<Table> = format!("value = {value}").parse().ok();
        let value = table.and_then(|mut table| table.remove("value")).unwrap_or_else(|| value.into());
        Ok(Self { key: key.to_owned(), value })
    }
}

impl Override {
    /// The seed of a scenario.
    pub fn seed(seed: u64) -> Self {
        // A seed that TOML cannot hold as an integer is out of range there too.
        Self { key: "seed".into(), value: i64::try_from(seed).unwrap_or(-1).into() }
    }

    /// Replaces the value in `table`. A table on the way that is missing is made.
    fn apply(&self, table: &mut Table) {
        let (path, last) = self.key.rsplit_once('.').unwrap_or(("", &self.key));
        let mut table = table;
        for step in path.split('.').filter(|step| !step.is_empty()) {
            let Value::Table(inner) = table.entry(step).or_insert_with(|| Table::new().into()) else { return };
            table = inner;
        }
        table.insert(last.to_owned(), self.value.clone());
    }
}

impl Scenario {
    /// Parses `text`, with the values of `overrides` in place of its own. The scenario is named after `file`.
    ///
    /// Errors: all problems of the scenario.
    pub fn read(file: &Path, text: &str, overrides: &[Override]) -> Result<Self, InvalidScenario> {
        let shown = file.display();
        let prefixed = |problems: Vec<String>| {
            InvalidScenario(problems.iter().map(|problem| format!("{shown}: {problem}")).collect())
        };
        let mut table: Table = text.parse().map_err(|error: toml::de::Error| prefixed(vec![error.to_string()]))?;
        overrides.iter().for_each(|with| with.apply(&mut table));
        let mut problems = Vec::new();
        let mut keys = Keys { at: String::new(), table, problems: &mut problems };
        let about = keys.required("about");
        let setup = setup(&mut keys);
        let workload = workload(&mut keys);
        let goals = goals(&mut keys, workload.as_ref());
        keys.reject_unknown();
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match workload {
            Some(workload) if problems.is_empty() => Ok(Self { name, about, setup, workload, goals }),
            _ => Err(prefixed(problems)),
        }
    }
}

fn setup(keys: &mut Keys<'_>) -> Setup {
    let seed = keys.number("seed", Some(1), 0..=i64::MAX as u64);
    let mut keys = keys.table("stage");
    let setup = Setup {
        workers: keys.number("workers", Some(1), 1..=64),
        lines: keys.number("lines", Some(1), 1..=10_000),
        messages_per_second: keys.rate("messages_per_second", Some(1_000_000.0)),
        http2: keys.optional("http2").unwrap_or(false),
        latency: keys.duration("latency", Some(Duration::ZERO), Duration::ZERO..=LATENCY_MAX),
        meta_threads: keys.number("meta_threads", Some(1), 1..=64),
        feed: keys.optional("feed").unwrap_or(false),
        seed,
        environment: keys.optional("environment").unwrap_or_default(),
    };
    keys.reject_unknown();
    setup
}

fn workload(keys: &mut Keys<'_>) -> Option<Workload> {
    const WORKLOADS: [&str; 13] = [
        "dispatch",
        "latency",
        "ramp",
        "rates",
        "growth",
        "webhooks",
        "inbound",
        "feed",
        "upload",
        "bytes",
        "suppression",
        "frequency_cap",
        "start",
    ];
    let present: Vec<&str> = WORKLOADS.into_iter().filter(|workload| keys.table.contains_key(*workload)).collect();
    let &[name] = present.as_slice() else {
        keys.problem("", &format!("exactly one of these tables is required: {}", WORKLOADS.join(", ")));
        present.iter().for_each(|name| drop(keys.table.remove(*name)));
        return None;
    };
    let mut keys = keys.table(name);
    let workload = match name {
        "dispatch" => Workload::Dispatch {
            recipients: keys.number("recipients", None, 1..=RECIPIENTS_MAX),
            warm_up: keys.number("warm_up", Some(10_000), 1..=RECIPIENTS_MAX),
            rounds: keys.number("rounds", Some(3), 1..=100),
            streams: keys.number("streams", Some(64), 1..=10_000),
        },
        "latency" => {
            let (warm_up, duration) = times(&mut keys, None);
            let per_second = keys.rate("per_second", None);
            check_recipients(&mut keys, per_second, warm_up + duration);
            Workload::Latency { per_second, warm_up, duration }
        }
        "ramp" => {
            let (warm_up, duration) = times(&mut keys, Some(Duration::from_secs(5)));
            let ramp = Ramp {
                from: keys.rate("from", Some(1_000.0)),
                to: keys.rate("to", Some(LINE_RATE_MAX)),
                within_percent: keys.decimal("within_percent", Some(5.0), 0.1..=100.0),
                warm_up,
                duration,
                achieved_percent: keys.decimal("achieved_percent", Some(97.0), 1.0..=100.0),
                p99_ms: keys.decimal("p99_ms", Some(250.0), 1.0..=1e6),
            };
            if ramp.from > ramp.to {
                keys.problem("from", "must not be above `to`");
            }
            check_recipients(&mut keys, ramp.to, warm_up + duration);
            Workload::Ramp(ramp)
        }
        "rates" => Workload::Rates {
            warm_up: keys.duration("warm_up", Some(Duration::from_secs(3)), Duration::ZERO..=DURATION_MAX),
            duration: keys.duration("duration", None, DURATION_MIN..=DURATION_MAX),
            cases: keys.tables("case", |keys| RatesCase {
                workers: keys.number("workers", Some(1), 1..=64),
                lines: keys.number("lines", None, 1..=10_000),
                messages_per_second: keys.rate("messages_per_second", None),
            }),
        },
        "growth" => Workload::Growth {
            cases: keys.tables("case", |keys| GrowthCase {
                recipients: keys.number("recipients", None, 1..=RECIPIENTS_MAX),
                campaigns: keys.number("campaigns", Some(1), 1..=10_000),
                times: keys.number("times", Some(1), 1..=1_000),
            }),
        },
        "webhooks" => {
            let recipients = keys.number("recipients", None, 1..=RECIPIENTS_MAX);
            Workload::Webhooks {
                recipients,
                batch: keys.number("batch", Some(1), 1..=1_000),
                connections: keys.number("connections", Some(64), 1..=1_000),
                arrival: arrival(&mut keys, recipients),
            }
        }
        "inbound" => Workload::Inbound {
            recipients: keys.number("recipients", None, 1..=RECIPIENTS_MAX),
            batch: keys.number("batch", Some(1), 1..=1_000),
            connections: keys.number("connections", Some(64), 1..=1_000),
            rounds: keys.number("rounds", Some(3), 1..=100),
        },
        "feed" => Workload::Feed {
            recipients: keys.number("recipients", None, 1..=RECIPIENTS_MAX),
            rounds: keys.number("rounds", Some(3), 1..=100),
            duration: keys.duration("duration", Some(Duration::from_secs(20)), DURATION_MIN..=DURATION_MAX),
        },
        "upload" => Workload::Upload {
            recipients: keys.number("recipients", None, 1..=RECIPIENTS_MAX),
            duplicate_every: keys.number("duplicate_every", Some(0), 0..=RECIPIENTS_MAX),
            rounds: keys.number("rounds", Some(3), 1..=100),
        },
        "bytes" => Workload::Bytes { recipients: keys.number("recipients", None, 1..=RECIPIENTS_MAX) },
        "suppression" => Workload::Suppression {
            people: keys.number("people", None, 1..=PEOPLE_MAX),
            recipients: keys.number("recipients", None, 1..=RECIPIENTS_MAX),
            rounds: keys.number("rounds", Some(3), 1..=100),
        },
        "frequency_cap" => Workload::FrequencyCap {
            people: keys.number("people", None, 1..=PEOPLE_MAX),
            recipients: keys.number("recipients", None, 1..=RECIPIENTS_MAX),
            rounds: keys.number("rounds", Some(3), 1..=100),
        },
        _ => Workload::Start { rounds: keys.number("rounds", Some(5), 1..=100) },
    };
    if let Workload::Growth { cases } = &workload
        && cases.is_empty()
    {
        keys.problem("case", "at least one is required");
    }
    keys.reject_unknown();
    Some(workload)
}

/// The warm-up and the measured time of a constant load.
fn times(keys: &mut Keys<'_>, duration: Option<Duration>) -> (Duration, Duration) {
    let warm_up = keys.duration("warm_up", Some(Duration::from_secs(1)), Duration::ZERO..=DURATION_MAX);
    (warm_up, keys.duration("duration", duration, DURATION_MIN..=DURATION_MAX))
}

/// A constant load is sent by one campaign, which lasts longer than the load.
fn check_recipients(keys: &mut Keys<'_>, per_second: f64, lasts: Duration) {
    if per_second * lasts.as_secs_f64() > 0.9 * RECIPIENTS_MAX as f64 {
        keys.problem("duration", "one campaign cannot have so many recipients");
    }
}

fn arrival(keys: &mut Keys<'_>, recipients: u64) -> Arrival {
    if !keys.table.contains_key("per_second") {
        // Each round needs statuses that were not sent before.
        return Arrival::Closed { rounds: keys.number("rounds", Some(3), 1..=3) };
    }
    let (per_second, duration) =
        (keys.rate("per_second", None), keys.duration("duration", None, DURATION_MIN..=DURATION_MAX));
    if per_second * duration.as_secs_f64() > 3.0 * recipients as f64 {
        keys.problem("duration", "three statuses of each recipient are not enough for this duration");
    }
    Arrival::Open { per_second, duration, sending: keys.rate("sending", None) }
}

fn goals(keys: &mut Keys<'_>, workload: Option<&Workload>) -> Vec<Goal> {
    let goals = keys.tables("goal", |keys| {
        let figure: String = keys.required("figure");
        if let Some(workload) = workload
            && !workload.figures().contains(&figure.as_str())
        {
            let figures = workload.figures().join(", ");
            keys.problem("figure", &format!("[{}] does not measure `{figure}`, but {figures}", workload.name()));
        }
        match (keys.optional("at_least"), keys.optional("at_most")) {
            (Some(bound), None) => Some(Goal { figure, bound: Bound::AtLeast(bound) }),
            (None, Some(bound)) => Some(Goal { figure, bound: Bound::AtMost(bound) }),
            _ => {
                keys.problem("", "exactly one of `at_least` and `at_most` is required");
                None
            }
        }
    });
    goals.into_iter().flatten().collect()
}

/// A table that is read key by key. An invalid value is recorded as a problem and replaced by a default, which is never
/// used: a scenario with problems does not run.
struct Keys<'p> {
    /// The path of the table: empty, or with a trailing dot.
    at: String,
    table: Table,
    problems: &'p mut Vec<String>,
}

impl Keys<'_> {
    fn problem(&mut self, key: &str, what: &str) {
        let at = format!("{}{key}", self.at);
        let at = at.trim_end_matches('.');
        self.problems.push(if at.is_empty() { what.to_owned() } else { format!("{at}: {what}") });
    }

    fn optional<T: DeserializeOwned>(&mut self, key: &str) -> Option<T> {
        let value = self.table.remove(key)?;
        value.try_into().map_err(|error| self.problem(key, error.message())).ok()
    }

    fn required<T: DeserializeOwned + Default>(&mut self, key: &str) -> T {
        if !self.table.contains_key(key) {
            self.problem(key, "is missing");
        }
        self.optional(key).unwrap_or_default()
    }

    /// A count within `range`, which may be written as `1e6`. A default must be within `range` too.
    fn number<N: TryFrom<u64> + Default>(&mut self, key: &str, default: Option<u64>, range: RangeInclusive<u64>) -> N {
        if let Some(Value::Float(number)) = self.table.get(key)
            && number.fract() == 0.0
        {
            // A cast saturates, and the largest values are out of every range.
            let whole = *number as i64;
            self.table.insert(key.to_owned(), whole.into());
        }
        let missing = default.is_none() && !self.table.contains_key(key);
        let number = match default {
            Some(default) => self.optional(key).unwrap_or(default),
            None => self.required(key),
        };
        if !missing && !range.contains(&number) {
            self.problem(key, &format!("must be from {} to {}", range.start(), range.end()));
        }
        N::try_from(number).unwrap_or_default()
    }

    fn rate(&mut self, key: &str, default: Option<f64>) -> f64 {
        self.decimal(key, default, LINE_RATE_MIN..=LINE_RATE_MAX)
    }

    /// A number within `range`. A default must be within `range` too.
    fn decimal(&mut self, key: &str, default: Option<f64>, range: RangeInclusive<f64>) -> f64 {
        let number = match self.table.remove(key) {
            None => {
                return default.unwrap_or_else(|| {
                    self.problem(key, "is missing");
                    1.0
                });
            }
            Some(Value::Float(number)) => number,
            Some(Value::Integer(number)) => number as f64,
            Some(_) => f64::NAN,
        };
        if !range.contains(&number) {
            self.problem(key, &format!("must be a number from {} to {}", range.start(), range.end()));
            return 1.0;
        }
        number
    }

    fn duration(&mut self, key: &str, default: Option<Duration>, range: RangeInclusive<Duration>) -> Duration {
        if let Some(default) = default.filter(|_| !self.table.contains_key(key)) {
            return default;
        }
        let missing = !self.table.contains_key(key);
        let text: String = self.required(key);
        let duration = text.parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
        match duration {
            Some(duration) if range.contains(&duration) => return duration,
            Some(_) => self.problem(key, &format!("must be from {:?} to {:?}", range.start(), range.end())),
            None if missing => {}
            None => self.problem(key, "must be a duration with its unit, such as \"20s\" or \"200ms\""),
        }
        Duration::ZERO
    }

    fn table(&mut self, key: &str) -> Keys<'_> {
        let table = self.optional(key).unwrap_or_default();
        Keys { at: format!("{}{key}.", self.at), table, problems: self.problems }
    }

    fn tables<T>(&mut self, key: &str, read: impl Fn(&mut Keys<'_>) -> T) -> Vec<T> {
        let tables: Vec<Table> = self.optional(key).unwrap_or_default();
        let read = tables.into_iter().enumerate().map(|(number, table)| {
            let at = format!("{}{key}.{}.", self.at, number + 1);
            let mut keys = Keys { at, table, problems: self.problems };
            let value = read(&mut keys);
            keys.reject_unknown();
            value
        });
        read.collect()
    }

    /// Reports the keys that were not read.
    fn reject_unknown(self) {
        let at = &self.at;
        self.problems.extend(self.table.keys().map(|key| format!("{at}{key}: unknown key")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Scenario, InvalidScenario> {
        Scenario::read(Path::new("folder/small.toml"), text, &[])
    }

    #[test]
    fn values_of_the_command_line_replace_those_of_the_file() {
        let text = "about = ''\nseed = 7\n[dispatch]\nrecipients = 1000";
        let over = |overrides: &[&str]| {
            let overrides: Vec<Override> = overrides.iter().map(|text| text.parse().expect("KEY=VALUE")).collect();
            Scenario::read(Path::new("small.toml"), text, &overrides)
        };
        assert_eq!(over(&[]).expect("a scenario").setup.seed, 7);
        let scenario = over(&["dispatch.recipients=1.5e3", "stage.latency=200ms", "seed=3"]).expect("a scenario");
        assert!(matches!(scenario.workload, Workload::Dispatch { recipients: 1_500, .. }), "{scenario:?}");
        assert_eq!((scenario.setup.latency, scenario.setup.seed), (Duration::from_millis(200), 3));
        for (bad, problem) in [
            ("dispatch.recipients=1.5", "dispatch.recipients: "),
            ("dispatch.recipients=1e30", "dispatch.recipients: must be from 1 to 10000000"),
            ("dispatch.colour=red", "dispatch.colour: unknown key"),
        ] {
            let error = over(&[bad]).expect_err(bad).to_string();
            assert!(error.contains(problem), "{error}");
        }
        assert!("dispatch.recipients".parse::<Override>().is_err());
    }

    #[test]
    fn keys_that_are_absent_have_defaults() {
        let text = r#"
            about = "a few"
            [stage]
            lines = 8
            latency = "200ms"
            environment = { PREGON__DISPATCH__THREADS = "1" }
            [dispatch]
            recipients = 1000
            [[goal]]
            figure = "ratio"
            at_least = 1
        "#;
        let scenario = read(text).expect("a scenario");
        assert_eq!((scenario.name.as_str(), scenario.about.as_str()), ("small", "a few"));
        let setup = &scenario.setup;
        assert_eq!((setup.workers, setup.lines, setup.messages_per_second, setup.http2), (1, 8, 1e6, false));
        assert_eq!((setup.latency, setup.environment.len()), (Duration::from_millis(200), 1));
        assert_eq!(
            scenario.workload,
            Workload::Dispatch { recipients: 1_000, warm_up: 10_000, rounds: 3, streams: 64 }
        );
        assert_eq!(scenario.goals, [Goal { figure: "ratio".into(), bound: Bound::AtLeast(1.0) }]);
    }

    #[test]
    fn all_problems_are_reported_together() {
        let text = r#"
            [stage]
            lines = 0
            colour = "red"
            latency = "200"
            [rates]
            case = [{ messages_per_second = -1, rate = 80 }]
            [[goal]]
            figure = "ratio"
            [[goal]]
            figure = "use_percent"
            at_most = 1.0
            at_least = 1.0
        "#;
        let InvalidScenario(problems) = read(text).expect_err("a bad one");
        let expected = [
            "about: is missing",
            "stage.lines: must be from 1 to 10000",
            "stage.latency: must be a duration with its unit, such as \"20s\" or \"200ms\"",
            "stage.colour: unknown key",
            "rates.duration: is missing",
            "rates.case.1.lines: is missing",
            "rates.case.1.messages_per_second: must be a number from 0.01 to 1000000",
            "rates.case.1.rate: unknown key",
            "goal.1.figure: [rates] does not measure `ratio`, but use_percent, worst_second_percent, worst_second_beyond, \
             messages_per_second, worker_cores, redis_cores, meta_cores, worker_memory_mb",
            "goal.1: exactly one of `at_least` and `at_most` is required",
            "goal.2: exactly one of `at_least` and `at_most` is required",
        ];
        assert_eq!(problems, expected.map(|problem| format!("folder/small.toml: {problem}")));
    }

    #[test]
    fn durations_and_rates_out_of_range_are_rejected() {
        for (change, problem) in [
            ("latency = \"121s\"", "stage.latency: must be from 0ns to 120s"),
            ("duration = \"0s\"", "webhooks.duration: must be from 1s to 86400s"),
            ("duration = \"9999999999h\"", "webhooks.duration: must be from 1s to 86400s"),
            ("per_second = 1e-300", "webhooks.per_second: must be a number from 0.01 to 1000000"),
        ] {
            let stage = if change.starts_with("latency") { change } else { "" };
            let mut text = format!("about = ''\n[stage]\n{stage}\n[webhooks]\nrecipients = 10\nsending = 1\n");
            for usual in ["per_second = 3", "duration = \"10s\""] {
                let key = usual.split(' ').next().expect("a key");
                text += if change.starts_with(key) { change } else { usual };
                text += "\n";
            }
            let InvalidScenario(problems) = read(&text).expect_err(change);
            assert!(problems.contains(&format!("folder/small.toml: {problem}")), "{problems:?}");
        }
    }

    #[test]
    fn a_scenario_has_exactly_one_workload() {
        for text in ["about = ''", "about = ''\n[bytes]\nrecipients = 1\n[start]"] {
            let InvalidScenario(problems) = read(text).expect_err("no workload, or two");
            assert!(problems[0].contains("exactly one of these tables") && problems.len() == 1, "{problems:?}");
        }
    }

    #[test]
    fn statuses_follow_a_schedule_if_per_second_is_given() {
        let closed = read("about = ''\n[webhooks]\nrecipients = 10").expect("a scenario");
        assert!(matches!(closed.workload, Workload::Webhooks { batch: 1, arrival: Arrival::Closed { rounds: 3 }, .. }));
        let open = "about = ''\n[webhooks]\nrecipients = 10\nper_second = 3\nduration = \"10s\"\nsending = 1";
        let scenario = read(open).expect("a scenario");
        let Workload::Webhooks { arrival: Arrival::Open { per_second, sending, .. }, .. } = scenario.workload else {
            panic!("{scenario:?}")
        };
        assert_eq!((per_second, sending), (3.0, 1.0));
        let InvalidScenario(problems) = read(&open.replace("10s", "11s")).expect_err("not enough statuses");
        assert!(problems[0].contains("are not enough"), "{problems:?}");
    }
}
