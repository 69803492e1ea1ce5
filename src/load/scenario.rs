//! What is measured, as TOML: what stands on the stage, what is played on it, and which goals that has.
//!
//! `loadtest/scenarios` has them. A scenario has `about`, `[stage]`, exactly one play (`[dispatch]`, `[rates]`, `[growth]`,
//! `[webhooks]`, `[upload]`, `[bytes]` or `[start]`) and any number of `[[goal]]`. Unknown keys are errors, and so is a goal
//! for a figure that the play does not give; all problems are told together.

use std::{collections::BTreeMap, ops::RangeInclusive, path::Path, time::Duration};

use jiff::SignedDuration;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use toml::{Table, Value};

use crate::domain::{LINE_RATE_MAX, LINE_RATE_MIN};

/// The most recipients of one campaign: the default of `intake.recipients_max`.
const RECIPIENTS_MAX: u64 = 10_000_000;
/// The longest answer: that of `graph.timeout`.
const LATENCY_MAX: Duration = Duration::from_secs(120);
/// What is counted by the second lasts at least one.
const DURATION_MIN: Duration = Duration::from_secs(1);
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);

/// A scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// The name of its file.
    pub name: String,
    /// What it shows, in a line.
    pub about: String,
    /// What stands on the stage.
    pub setup: Setup,
    /// What is played.
    pub play: Play,
    /// What it has to reach.
    pub goals: Vec<Goal>,
}

/// `[stage]`: the processes besides Redis, and what they know.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// Processes of `pregon serve`.
    pub workers: usize,
    /// Lines, from 3001 on, all of one WABA.
    pub lines: usize,
    /// What each of them may send.
    pub messages_per_second: f64,
    /// Meta speaks HTTP/2 over TLS; else HTTP/1.1.
    pub http2: bool,
    /// From a message's arrival at Meta to the answer.
    pub latency: Duration,
    /// Threads of Meta.
    pub meta_threads: usize,
    /// Further environment of the workers, such as `PREGON__DISPATCH__THREADS`.
    pub environment: BTreeMap<String, String>,
}

/// What is played. The figures that each gives are in [`Play::figures`].
#[derive(Clone, Debug, PartialEq)]
pub enum Play {
    /// `[dispatch]`: a campaign against the bare loop, in turns.
    Dispatch {
        /// Of the campaign, and messages of the bare loop.
        recipients: u64,
        /// Messages before the first round, of each.
        warm_up: u64,
        /// Turns.
        rounds: usize,
        /// Requests at once of the bare loop.
        streams: usize,
    },
    /// `[rates]`: what arrives on each line while all have work.
    Rates {
        /// Not counted for the use of a line; the worst second counts in it too.
        warm_up: Duration,
        /// What is counted.
        duration: Duration,
        /// Other stages to play it on: all in turn.
        cases: Vec<RatesCase>,
    },
    /// `[growth]`: cost and memory by size.
    Growth {
        /// Sizes.
        cases: Vec<GrowthCase>,
    },
    /// `[webhooks]`: statuses of messages that were sent.
    Webhooks {
        /// Messages that they are about: three statuses each.
        recipients: u64,
        /// Statuses in one request.
        batch: usize,
        /// Connections of the generator.
        connections: usize,
        /// How they come.
        arrival: Arrival,
    },
    /// `[upload]`: NDJSON over one connection.
    Upload {
        /// Rows.
        recipients: u64,
        /// One row in so many brings a number that was there before; 0: none does.
        duplicate_every: u64,
        /// Uploads.
        rounds: usize,
    },
    /// `[bytes]`: what a recipient takes of Redis.
    Bytes {
        /// Recipients.
        recipients: u64,
    },
    /// `[start]`: how soon the first message goes out.
    Start {
        /// Starts.
        rounds: usize,
    },
}

/// One stage of `[rates]`: what differs from `[stage]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RatesCase {
    /// Workers.
    pub workers: usize,
    /// Lines.
    pub lines: usize,
    /// Rate of each.
    pub messages_per_second: f64,
}

/// One size of `[growth]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrowthCase {
    /// Of each campaign.
    pub recipients: u64,
    /// At once.
    pub campaigns: usize,
    /// One after the other: for sizes that alone are too short to be measured.
    pub times: usize,
}

/// How statuses come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrival {
    /// As fast as they are taken: each connection sends when the one before is answered. In turns with a handler that
    /// only checks the signature.
    Closed {
        /// Turns, at most one for each of the three statuses of a message.
        rounds: usize,
    },
    /// By a clock, whether the ones before are answered or not.
    Open {
        /// Statuses that come in a second.
        per_second: f64,
        /// For so long.
        duration: Duration,
        /// Messages that go out in a second meanwhile, on the first line.
        sending: f64,
    },
}

/// What a figure has to reach, in each of its cases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    /// The name of the figure.
    pub figure: String,
    /// And which way.
    #[serde(flatten)]
    pub bound: Bound,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Not less than this.
    AtLeast(f64),
    /// Not more than this.
    AtMost(f64),
}

impl Play {
    /// Its table in the file.
    pub fn name(&self) -> &'static str {
        match self {
            Play::Dispatch { .. } => "dispatch",
            Play::Rates { .. } => "rates",
            Play::Growth { .. } => "growth",
            Play::Webhooks { .. } => "webhooks",
            Play::Upload { .. } => "upload",
            Play::Bytes { .. } => "bytes",
            Play::Start { .. } => "start",
        }
    }

    /// The figures that it gives.
    pub fn figures(&self) -> &'static [&'static str] {
        match self {
            Play::Dispatch { .. } => &[
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
            Play::Rates { .. } => &[
                "use_percent",
                "worst_second_percent",
                "worst_second_beyond",
                "messages_per_second",
                "worker_cores",
                "redis_cores",
                "meta_cores",
                "worker_memory_mb",
            ],
            Play::Growth { .. } => &[
                "cpu_us_per_message",
                "meta_cpu_us_per_message",
                "cpu_by_meta",
                "messages_per_second",
                "worker_memory_mb",
                "cpu_spread_percent",
                "cpu_by_meta_spread_percent",
                "memory_growth_mb",
            ],
            Play::Webhooks { arrival: Arrival::Closed { .. }, .. } => &[
                "statuses_per_second",
                "baseline_per_second",
                "ratio",
                "p50_ms",
                "p99_ms",
                "worker_cpu_us_per_status",
                "redis_cpu_us_per_status",
            ],
            Play::Webhooks { arrival: Arrival::Open { .. }, .. } => &[
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
            Play::Upload { .. } => &[
                "recipients_per_second",
                "worker_cpu_us_per_recipient",
                "redis_cpu_us_per_recipient",
                "worker_memory_mb",
                "memory_growth_mb",
            ],
            Play::Bytes { .. } => &["pending_bytes", "message_id_bytes", "kept_bytes"],
            Play::Start { .. } => &["start_to_first_send_ms", "launch_to_first_send_ms"],
        }
    }
}

/// Why a scenario can't be played: a sentence for each problem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct BadScenario(pub Vec<String>);

impl Scenario {
    /// Reads `text`; the scenario is called as its file is.
    ///
    /// Errors: everything wrong with it, together.
    pub fn read(file: &Path, text: &str) -> Result<Self, BadScenario> {
        let shown = file.display();
        let told =
            |problems: Vec<String>| BadScenario(problems.iter().map(|problem| format!("{shown}: {problem}")).collect());
        let table: Table = text.parse().map_err(|error: toml::de::Error| told(vec![error.to_string()]))?;
        let mut problems = Vec::new();
        let mut keys = Keys { at: String::new(), table, problems: &mut problems };
        let about = keys.need("about");
        let setup = setup(&mut keys);
        let play = play(&mut keys);
        let goals = goals(&mut keys, play.as_ref());
        keys.end();
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match play {
            Some(play) if problems.is_empty() => Ok(Self { name, about, setup, play, goals }),
            _ => Err(told(problems)),
        }
    }
}

fn setup(keys: &mut Keys<'_>) -> Setup {
    let mut keys = keys.table("stage");
    let setup = Setup {
        workers: keys.number("workers", Some(1), 1..=64),
        lines: keys.number("lines", Some(1), 1..=10_000),
        messages_per_second: keys.rate("messages_per_second", Some(1_000_000.0)),
        http2: keys.optional("http2").unwrap_or(false),
        latency: keys.duration("latency", Some(Duration::ZERO), Duration::ZERO..=LATENCY_MAX),
        meta_threads: keys.number("meta_threads", Some(1), 1..=64),
        environment: keys.optional("environment").unwrap_or_default(),
    };
    keys.end();
    setup
}

fn play(keys: &mut Keys<'_>) -> Option<Play> {
    const PLAYS: [&str; 7] = ["dispatch", "rates", "growth", "webhooks", "upload", "bytes", "start"];
    let there: Vec<&str> = PLAYS.into_iter().filter(|play| keys.table.contains_key(*play)).collect();
    let &[name] = there.as_slice() else {
        keys.problem("", &format!("exactly one of these tables must be there: {}", PLAYS.join(", ")));
        there.iter().for_each(|name| drop(keys.table.remove(*name)));
        return None;
    };
    let mut keys = keys.table(name);
    let play = match name {
        "dispatch" => Play::Dispatch {
            recipients: keys.number("recipients", None, 1..=RECIPIENTS_MAX),
            warm_up: keys.number("warm_up", Some(10_000), 1..=RECIPIENTS_MAX),
            rounds: keys.number("rounds", Some(3), 1..=100),
            streams: keys.number("streams", Some(64), 1..=10_000),
        },
        "rates" => Play::Rates {
            warm_up: keys.duration("warm_up", Some(Duration::from_secs(3)), Duration::ZERO..=DURATION_MAX),
            duration: keys.duration("duration", None, DURATION_MIN..=DURATION_MAX),
            cases: keys.tables("case", |keys| RatesCase {
                workers: keys.number("workers", Some(1), 1..=64),
                lines: keys.number("lines", None, 1..=10_000),
                messages_per_second: keys.rate("messages_per_second", None),
            }),
        },
        "growth" => Play::Growth {
            cases: keys.tables("case", |keys| GrowthCase {
                recipients: keys.number("recipients", None, 1..=RECIPIENTS_MAX),
                campaigns: keys.number("campaigns", Some(1), 1..=10_000),
                times: keys.number("times", Some(1), 1..=1_000),
            }),
        },
        "webhooks" => {
            let recipients = keys.number("recipients", None, 1..=RECIPIENTS_MAX);
            Play::Webhooks {
                recipients,
                batch: keys.number("batch", Some(1), 1..=1_000),
                connections: keys.number("connections", Some(64), 1..=1_000),
                arrival: arrival(&mut keys, recipients),
            }
        }
        "upload" => Play::Upload {
            recipients: keys.number("recipients", None, 1..=RECIPIENTS_MAX),
            duplicate_every: keys.number("duplicate_every", Some(0), 0..=RECIPIENTS_MAX),
            rounds: keys.number("rounds", Some(3), 1..=100),
        },
        "bytes" => Play::Bytes { recipients: keys.number("recipients", None, 1..=RECIPIENTS_MAX) },
        _ => Play::Start { rounds: keys.number("rounds", Some(5), 1..=100) },
    };
    if let Play::Growth { cases } = &play
        && cases.is_empty()
    {
        keys.problem("case", "at least one is needed");
    }
    keys.end();
    Some(play)
}

fn arrival(keys: &mut Keys<'_>, recipients: u64) -> Arrival {
    if !keys.table.contains_key("per_second") {
        // Each round needs statuses that are news.
        return Arrival::Closed { rounds: keys.number("rounds", Some(3), 1..=3) };
    }
    let (per_second, duration) =
        (keys.rate("per_second", None), keys.duration("duration", None, DURATION_MIN..=DURATION_MAX));
    if per_second * duration.as_secs_f64() > 3.0 * recipients as f64 {
        keys.problem("duration", "three statuses of each recipient do not last so long");
    }
    Arrival::Open { per_second, duration, sending: keys.rate("sending", None) }
}

fn goals(keys: &mut Keys<'_>, play: Option<&Play>) -> Vec<Goal> {
    let goals = keys.tables("goal", |keys| {
        let figure: String = keys.need("figure");
        if let Some(play) = play
            && !play.figures().contains(&figure.as_str())
        {
            let figures = play.figures().join(", ");
            keys.problem("figure", &format!("[{}] gives no `{figure}`, but {figures}", play.name()));
        }
        match (keys.optional("at_least"), keys.optional("at_most")) {
            (Some(bound), None) => Some(Goal { figure, bound: Bound::AtLeast(bound) }),
            (None, Some(bound)) => Some(Goal { figure, bound: Bound::AtMost(bound) }),
            _ => {
                keys.problem("", "either `at_least` or `at_most` must be there");
                None
            }
        }
    });
    goals.into_iter().flatten().collect()
}

/// A table that is read key by key. What is wrong is noted, and something else taken in its place: with a problem nothing
/// is played.
struct Keys<'p> {
    /// Where it stands: empty, or with a dot at its end.
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

    fn need<T: DeserializeOwned + Default>(&mut self, key: &str) -> T {
        if !self.table.contains_key(key) {
            self.problem(key, "is missing");
        }
        self.optional(key).unwrap_or_default()
    }

    /// A number of what is counted, whose default is in `range`.
    fn number<N: TryFrom<u64> + Default>(&mut self, key: &str, default: Option<u64>, range: RangeInclusive<u64>) -> N {
        let missing = default.is_none() && !self.table.contains_key(key);
        let number = match default {
            Some(default) => self.optional(key).unwrap_or(default),
            None => self.need(key),
        };
        if !missing && !range.contains(&number) {
            self.problem(key, &format!("must be from {} to {}", range.start(), range.end()));
        }
        N::try_from(number).unwrap_or_default()
    }

    fn rate(&mut self, key: &str, default: Option<f64>) -> f64 {
        let rate = match self.table.remove(key) {
            None => {
                return default.unwrap_or_else(|| {
                    self.problem(key, "is missing");
                    1.0
                });
            }
            Some(Value::Float(rate)) => rate,
            Some(Value::Integer(rate)) => rate as f64,
            Some(_) => 0.0,
        };
        if !(LINE_RATE_MIN..=LINE_RATE_MAX).contains(&rate) {
            self.problem(key, &format!("must be a number from {LINE_RATE_MIN} to {LINE_RATE_MAX}"));
            return 1.0;
        }
        rate
    }

    fn duration(&mut self, key: &str, default: Option<Duration>, range: RangeInclusive<Duration>) -> Duration {
        if let Some(default) = default.filter(|_| !self.table.contains_key(key)) {
            return default;
        }
        let missing = !self.table.contains_key(key);
        let text: String = self.need(key);
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
            keys.end();
            value
        });
        read.collect()
    }

    /// What is left is known to nobody.
    fn end(self) {
        let at = &self.at;
        self.problems.extend(self.table.keys().map(|key| format!("{at}{key}: there is no such key here")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Scenario, BadScenario> {
        Scenario::read(Path::new("folder/small.toml"), text)
    }

    #[test]
    fn a_scenario_says_what_differs_from_the_usual() {
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
        assert_eq!(scenario.play, Play::Dispatch { recipients: 1_000, warm_up: 10_000, rounds: 3, streams: 64 });
        assert_eq!(scenario.goals, [Goal { figure: "ratio".into(), bound: Bound::AtLeast(1.0) }]);
    }

    #[test]
    fn all_problems_are_told_together() {
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
        let BadScenario(problems) = read(text).expect_err("a bad one");
        let wanted = [
            "about: is missing",
            "stage.lines: must be from 1 to 10000",
            "stage.latency: must be a duration with its unit, such as \"20s\" or \"200ms\"",
            "stage.colour: there is no such key here",
            "rates.duration: is missing",
            "rates.case.1.lines: is missing",
            "rates.case.1.messages_per_second: must be a number from 0.01 to 1000000",
            "rates.case.1.rate: there is no such key here",
            "goal.1.figure: [rates] gives no `ratio`, but use_percent, worst_second_percent, worst_second_beyond, \
             messages_per_second, worker_cores, redis_cores, meta_cores, worker_memory_mb",
            "goal.1: either `at_least` or `at_most` must be there",
            "goal.2: either `at_least` or `at_most` must be there",
        ];
        assert_eq!(problems, wanted.map(|problem| format!("folder/small.toml: {problem}")));
    }

    #[test]
    fn a_duration_or_rate_that_could_not_be_played_is_refused() {
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
            let BadScenario(problems) = read(&text).expect_err(change);
            assert!(problems.contains(&format!("folder/small.toml: {problem}")), "{problems:?}");
        }
    }

    #[test]
    fn there_is_one_play() {
        for text in ["about = ''", "about = ''\n[bytes]\nrecipients = 1\n[start]"] {
            let BadScenario(problems) = read(text).expect_err("none, or two");
            assert!(problems[0].contains("exactly one of these tables") && problems.len() == 1, "{problems:?}");
        }
    }

    #[test]
    fn statuses_come_by_a_clock_where_their_rate_is_given() {
        let closed = read("about = ''\n[webhooks]\nrecipients = 10").expect("a scenario");
        assert!(matches!(closed.play, Play::Webhooks { batch: 1, arrival: Arrival::Closed { rounds: 3 }, .. }));
        let open = "about = ''\n[webhooks]\nrecipients = 10\nper_second = 3\nduration = \"10s\"\nsending = 1";
        let scenario = read(open).expect("a scenario");
        let Play::Webhooks { arrival: Arrival::Open { per_second, sending, .. }, .. } = scenario.play else {
            panic!("{scenario:?}")
        };
        assert_eq!((per_second, sending), (3.0, 1.0));
        let BadScenario(problems) = read(&open.replace("10s", "11s")).expect_err("not enough statuses");
        assert!(problems[0].contains("do not last"), "{problems:?}");
    }
}
