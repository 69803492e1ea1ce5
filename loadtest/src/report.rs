//! The report of a run: figures, goals, and the machine and commit they are from. As JSON and as a table.

use std::{env, fmt, fs, process::Command, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    error::LoadError,
    measure,
    plot::Plot,
    scenario::{Bound, Goal, Scenario},
};
use pregon::{
    domain::UnixMs,
    telemetry::clock,
    terminal::table::{fields, table},
};

/// The report of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The name of the scenario.
    pub scenario: String,
    /// What the scenario shows.
    pub about: String,
    /// The seed of the recipients; 0 in a report of an earlier version.
    #[serde(default)]
    pub seed: u64,
    /// Where, when and on which commit the scenario ran.
    pub origin: Origin,
    /// The figures.
    pub figures: Vec<Figure>,
    /// The goals of the scenario, and whether each is reached.
    pub goals: Vec<Verdict>,
    /// The data of the plots.
    pub plots: Vec<Plot>,
}

/// Where, when and on which commit a scenario ran.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// The command line.
    pub command: String,
    /// The version of this program.
    pub version: String,
    /// The commit of the current directory, with `-dirty` if files differ from it.
    pub commit: Option<String>,
    /// The output of `redis-server --version`.
    pub redis: Option<String>,
    /// The processor model.
    pub processor: Option<String>,
    /// Cores available to this process.
    pub cores: usize,
    /// The kernel version.
    pub kernel: Option<String>,
    /// When the run began, in Unix ms.
    pub began_at: UnixMs,
    /// Duration of the run in seconds.
    pub seconds: f64,
    /// Average number of cores that other programs used during the run. More than a few hundredths disturb the
    /// measurement.
    pub others_cores: f64,
}

/// One measured value, such as messages a second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured, with its unit if it has one.
    pub name: String,
    /// What varies within the scenario, such as the number of lines; empty if nothing varies.
    pub case: String,
    /// The median of the rounds.
    pub value: f64,
    /// The value of each round.
    pub rounds: Vec<f64>,
}

/// Whether a goal is reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The goal.
    #[serde(flatten)]
    pub goal: Goal,
    /// The value of the figure in its worst case.
    pub value: f64,
    /// Whether the value is within the bound.
    pub reached: bool,
}

/// The results of a workload.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// The figures.
    pub figures: Vec<Figure>,
    /// The plots.
    pub plots: Vec<Plot>,
}

impl Findings {
    /// Adds a figure with one or more rounds.
    pub fn rounds(&mut self, name: &str, rounds: Vec<f64>) {
        self.case(name, "", rounds);
    }

    /// Adds a figure of one case, with one or more rounds.
    pub fn case(&mut self, name: &str, case: &str, rounds: Vec<f64>) {
        self.figures.push(Figure { name: name.into(), case: case.into(), value: median(&rounds), rounds });
    }

    /// Adds a figure of one case, with one round.
    pub fn one(&mut self, name: &str, case: &str, value: f64) {
        self.case(name, case, vec![value]);
    }

    /// The value of a figure in each of its cases.
    pub fn values(&self, name: &str) -> impl Iterator<Item = f64> + Clone {
        self.figures.iter().filter(move |figure| figure.name == name).map(|figure| figure.value)
    }
}

impl Figure {
    /// The values of the rounds, if there is more than one.
    pub fn rounds_text(&self) -> String {
        match self.rounds.as_slice() {
            [_] => String::new(),
            rounds => rounds.iter().map(|value| format_value(*value)).collect::<Vec<_>>().join("  "),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::AtLeast(bound) => write!(f, "at least {}", format_value(*bound)),
            Bound::AtMost(bound) => write!(f, "at most {}", format_value(*bound)),
        }
    }
}

/// The middle value, or the mean of the two middle values; NaN without values.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The wall clock and the CPU times at the start of a run. [`Self::finish`] subtracts them from those at its end.
pub struct StartClocks {
    at: UnixMs,
    all: Duration,
    own: Duration,
}

impl StartClocks {
    /// Reads the clocks at the start of a run.
    pub fn now() -> Result<Self, LoadError> {
        Ok(Self { at: clock::now(), all: measure::cpu_of_machine()?, own: measure::cpu(std::process::id())? })
    }

    /// Reads the clocks at the end of a run. All processes of the run must have ended, so that their CPU time counts as
    /// that of this process.
    pub fn finish(self) -> Result<Origin, LoadError> {
        // At least 1 ms: a test may finish at once, and the time is a divisor below.
        let took = clock::now().since(self.at).max(Duration::from_millis(1));
        let (all, own) = (measure::cpu_of_machine()? - self.all, measure::cpu(std::process::id())? - self.own);
        let output_of = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let processor = fs::read_to_string("/proc/cpuinfo").ok();
        let processor = processor.as_deref().and_then(|text| text.lines().find(|line| line.starts_with("model name")));
        Ok(Origin {
            command: command_line(env::args()),
            version: env!("CARGO_PKG_VERSION").into(),
            commit: output_of("git", &["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]),
            redis: output_of("redis-server", &["--version"]),
            processor: processor.and_then(|line| Some(line.split_once(": ")?.1.to_owned())),
            cores: std::thread::available_parallelism()?.get(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned()),
            began_at: self.at,
            seconds: took.as_secs_f64(),
            others_cores: all.saturating_sub(own).as_secs_f64() / took.as_secs_f64(),
        })
    }
}

impl Report {
    /// Evaluates the goals of a scenario.
    pub fn new(scenario: &Scenario, origin: Origin, findings: Findings) -> Self {
        let goals = scenario.goals.iter().map(|goal| verdict(goal, &findings)).collect();
        let (name, about, seed) = (scenario.name.clone(), scenario.about.clone(), scenario.setup.seed);
        Self { scenario: name, about, seed, origin, figures: findings.figures, goals, plots: findings.plots }
    }

    /// Whether every goal is reached.
    pub fn goals_reached(&self) -> bool {
        self.goals.iter().all(|verdict| verdict.reached)
    }

    /// The report as a table.
    pub fn table(&self) -> String {
        let origin = &self.origin;
        let head = fields([
            (&*self.scenario, self.about.clone()),
            ("commit", origin.commit.clone().unwrap_or_default()),
            ("machine", format!("{} cores, {}", origin.cores, origin.processor.as_deref().unwrap_or("unknown"))),
            ("seed", self.seed.to_string()),
            ("took", format!("{:.0} s, while others used {:.2} cores", origin.seconds, origin.others_cores)),
        ]);
        let row = |figure: &Figure| {
            [figure.name.clone(), figure.case.clone(), format_value(figure.value), figure.rounds_text()]
        };
        let figures = table(["=figure", "case", ">value", "rounds"], self.figures.iter().map(row));
        if self.goals.is_empty() {
            return format!("{head}\n\n{figures}");
        }
        let row = |verdict: &Verdict| {
            let bound_text = verdict.goal.bound.to_string();
            let reached = if verdict.reached { "reached" } else { "MISSED" };
            [verdict.goal.figure.clone(), bound_text, format_value(verdict.value), reached.into()]
        };
        let goals = table(["=goal", "wanted", ">worst", ""], self.goals.iter().map(row));
        format!("{head}\n\n{figures}\n\n{goals}")
    }
}

/// The command line, without the API key of a target.
fn command_line(arguments: impl Iterator<Item = String>) -> String {
    let mut masked = Vec::new();
    for argument in arguments {
        let is_key = masked.last().is_some_and(|before| before == "--api-key");
        masked.push(match argument.split_once('=') {
            Some((name @ "--api-key", _)) => format!("{name}=***"),
            _ if is_key => "***".to_owned(),
            _ => argument,
        });
    }
    masked.join(" ")
}

/// Compares the worst case of a figure with a goal. A goal is missed if a value is missing or NaN.
fn verdict(goal: &Goal, findings: &Findings) -> Verdict {
    let values = findings.values(&goal.figure);
    let (value, reached) = match goal.bound {
        Bound::AtLeast(bound) => {
            let worst = values.clone().fold(f64::NAN, f64::min);
            (worst, worst >= bound)
        }
        Bound::AtMost(bound) => {
            let worst = values.clone().fold(f64::NAN, f64::max);
            (worst, worst <= bound)
        }
    };
    Verdict { goal: goal.clone(), value, reached: reached && !values.into_iter().any(f64::is_nan) }
}

/// Formats a value with about three significant digits.
pub fn format_value(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 1_000.0 || size == 0.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(values: &[f64]) -> Findings {
        let mut findings = Findings::default();
        values.iter().enumerate().for_each(|(case, value)| findings.one("ratio", &case.to_string(), *value));
        findings
    }

    fn reached(bound: Bound, values: &[f64]) -> (f64, bool) {
        let verdict = verdict(&Goal { figure: "ratio".into(), bound }, &findings(values));
        (verdict.value, verdict.reached)
    }

    #[test]
    fn a_goal_is_reached_only_if_its_worst_case_reaches_it() {
        assert_eq!(reached(Bound::AtLeast(1.0), &[1.2, 1.0]), (1.0, true));
        assert_eq!(reached(Bound::AtLeast(1.0), &[1.2, 0.99]), (0.99, false));
        assert_eq!(reached(Bound::AtMost(1.0), &[0.2, 1.0]), (1.0, true));
        assert_eq!(reached(Bound::AtMost(1.0), &[1.01, 0.2]), (1.01, false));
        assert!(!reached(Bound::AtMost(1.0), &[]).1, "no case was measured");
        assert!(!reached(Bound::AtMost(1.0), &[0.5, f64::NAN]).1, "one of two cases was not measured");
    }

    #[test]
    fn a_report_does_not_have_the_api_key() {
        for text in ["pregon-load ramp --api-key s3cret --line 3001", "pregon-load ramp --api-key=s3cret"] {
            let shown = command_line(text.split(' ').map(str::to_owned));
            assert!(shown.starts_with("pregon-load ramp --api-key") && !shown.contains("s3cret"), "{shown}");
        }
    }

    #[test]
    fn the_median_of_an_even_number_is_the_mean_of_the_middle_two() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_report_round_trips_and_shows_missed_goals() {
        let text = "about = 'a test'\n[start]\n[[goal]]\nfigure = 'start_to_first_send_ms'\nat_most = 300";
        let scenario = Scenario::read(std::path::Path::new("start.toml"), text, &[]).expect("a scenario");
        let mut found = Findings::default();
        found.rounds("start_to_first_send_ms", vec![310.0, 290.0, 305.5]);
        let origin = StartClocks::now().expect("clocks").finish().expect("clocks");
        let report = Report::new(&scenario, origin, found);
        assert!(!report.goals_reached());
        let table = report.table();
        assert!(table.contains("305.5") && table.contains("at most 300") && table.contains("MISSED"), "{table}");
        let json = serde_json::to_string(&report).expect("JSON");
        assert!(
            json.contains(r#"{"figure":"start_to_first_send_ms","at_most":300.0,"value":305.5,"reached":false}"#),
            "{json}"
        );
        let again: Report = serde_json::from_str(&json).expect("a report");
        assert_eq!((again.figures, again.goals), (report.figures, report.goals));
    }
}
