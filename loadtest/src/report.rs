//! What a scenario gave: figures, which goals they reach, and where that was. As JSON, and as a table for people.

use std::{env, fs, process::Command, time::Duration};

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

/// A report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The name of the scenario.
    pub scenario: String,
    /// What it shows.
    pub about: String,
    /// What it is a report of.
    pub origin: Origin,
    /// The figures.
    pub figures: Vec<Figure>,
    /// The goals of the scenario.
    pub goals: Vec<Verdict>,
    /// What the plots beside it show.
    pub plots: Vec<Plot>,
}

/// Where, when and of what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// How it was called.
    pub command: String,
    /// The version of this program.
    pub version: String,
    /// The commit of the folder that it was called in, with `-dirty` where files differ from it.
    pub commit: Option<String>,
    /// What `redis-server` says of itself.
    pub redis: Option<String>,
    /// Model of the processor.
    pub processor: Option<String>,
    /// Cores that this process may use.
    pub cores: usize,
    /// The kernel's version.
    pub kernel: Option<String>,
    /// When it began.
    pub began_at: UnixMs,
    /// How long it took.
    pub seconds: f64,
    /// Cores that others used meanwhile, on average: what is above a few hundredths disturbed the measurement.
    pub others_cores: f64,
}

/// A figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Its name.
    pub name: String,
    /// Under which of several conditions; empty where there is only one.
    pub case: String,
    /// The median of the rounds.
    pub value: f64,
    /// Each round.
    pub rounds: Vec<f64>,
}

/// Whether a goal is reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The goal.
    #[serde(flatten)]
    pub goal: Goal,
    /// The figure in its worst case.
    pub value: f64,
    /// It is.
    pub reached: bool,
}

/// What a play gave.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Figures.
    pub figures: Vec<Figure>,
    /// Plots.
    pub plots: Vec<Plot>,
}

impl Findings {
    /// Adds a figure that has several rounds, at least one.
    pub fn rounds(&mut self, name: &str, rounds: Vec<f64>) {
        self.case(name, "", rounds);
    }

    /// Adds a figure that has several rounds, at least one, of one case.
    pub fn case(&mut self, name: &str, case: &str, rounds: Vec<f64>) {
        self.figures.push(Figure { name: name.into(), case: case.into(), value: median(&rounds), rounds });
    }

    /// Adds a figure.
    pub fn one(&mut self, name: &str, case: &str, value: f64) {
        self.case(name, case, vec![value]);
    }

    /// The values of a figure in all its cases.
    pub fn values(&self, name: &str) -> impl Iterator<Item = f64> + Clone {
        self.figures.iter().filter(move |figure| figure.name == name).map(|figure| figure.value)
    }
}

/// The one in the middle; the mean of both where there are two.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Reads the clocks at the beginning, so that the end knows what happened between.
pub struct Beginning {
    at: UnixMs,
    all: Duration,
    own: Duration,
}

impl Beginning {
    /// Now.
    pub fn now() -> Result<Self, LoadError> {
        Ok(Self { at: clock::now(), all: measure::cpu_of_all()?, own: measure::cpu(std::process::id())? })
    }

    /// Now it has ended, and so has everything that was started for it.
    pub fn ended(self) -> Result<Origin, LoadError> {
        // One that took no time is a test's.
        let took = clock::now().since(self.at).max(Duration::from_millis(1));
        let (all, own) = (measure::cpu_of_all()? - self.all, measure::cpu(std::process::id())? - self.own);
        let said = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let processor = fs::read_to_string("/proc/cpuinfo").ok();
        let processor = processor.as_deref().and_then(|text| text.lines().find(|line| line.starts_with("model name")));
        Ok(Origin {
            command: env::args().collect::<Vec<_>>().join(" "),
            version: env!("CARGO_PKG_VERSION").into(),
            commit: said("git", &["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]),
            redis: said("redis-server", &["--version"]),
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
    /// Of what a scenario gave.
    pub fn new(scenario: &Scenario, origin: Origin, findings: Findings) -> Self {
        let goals = scenario.goals.iter().map(|goal| verdict(goal, &findings)).collect();
        let (name, about) = (scenario.name.clone(), scenario.about.clone());
        Self { scenario: name, about, origin, figures: findings.figures, goals, plots: findings.plots }
    }

    /// Every goal is reached.
    pub fn is_good(&self) -> bool {
        self.goals.iter().all(|verdict| verdict.reached)
    }

    /// For people.
    pub fn table(&self) -> String {
        let origin = &self.origin;
        let head = fields([
            (&*self.scenario, self.about.clone()),
            ("commit", origin.commit.clone().unwrap_or_default()),
            ("machine", format!("{} cores, {}", origin.cores, origin.processor.as_deref().unwrap_or("unknown"))),
            ("took", format!("{:.0} s, while others used {:.2} cores", origin.seconds, origin.others_cores)),
        ]);
        let row = |figure: &Figure| {
            let rounds = match figure.rounds.as_slice() {
                [_] => String::new(),
                rounds => rounds.iter().map(|value| shown(*value)).collect::<Vec<_>>().join("  "),
            };
            [figure.name.clone(), figure.case.clone(), shown(figure.value), rounds]
        };
        let figures = table(["=figure", "case", ">value", "rounds"], self.figures.iter().map(row));
        if self.goals.is_empty() {
            return format!("{head}\n\n{figures}");
        }
        let row = |verdict: &Verdict| {
            let wanted = match verdict.goal.bound {
                Bound::AtLeast(bound) => format!("at least {}", shown(bound)),
                Bound::AtMost(bound) => format!("at most {}", shown(bound)),
            };
            let reached = if verdict.reached { "reached" } else { "MISSED" };
            [verdict.goal.figure.clone(), wanted, shown(verdict.value), reached.into()]
        };
        let goals = table(["=goal", "wanted", ">worst", ""], self.goals.iter().map(row));
        format!("{head}\n\n{figures}\n\n{goals}")
    }
}

/// A figure that is not there, or is no number, reaches nothing.
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

/// With as many digits as say something.
pub fn shown(value: f64) -> String {
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
    fn a_goal_is_reached_in_the_worst_case_or_not_at_all() {
        assert_eq!(reached(Bound::AtLeast(1.0), &[1.2, 1.0]), (1.0, true));
        assert_eq!(reached(Bound::AtLeast(1.0), &[1.2, 0.99]), (0.99, false));
        assert_eq!(reached(Bound::AtMost(1.0), &[0.2, 1.0]), (1.0, true));
        assert_eq!(reached(Bound::AtMost(1.0), &[1.01, 0.2]), (1.01, false));
        assert!(!reached(Bound::AtMost(1.0), &[]).1, "nothing was measured");
        assert!(!reached(Bound::AtMost(1.0), &[0.5, f64::NAN]).1, "half of it was measured");
    }

    #[test]
    fn rounds_are_told_by_their_median() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_report_comes_back_from_json_and_says_what_was_missed() {
        let text = "about = 'a test'\n[start]\n[[goal]]\nfigure = 'start_to_first_send_ms'\nat_most = 300";
        let scenario = Scenario::read(std::path::Path::new("start.toml"), text).expect("a scenario");
        let mut found = Findings::default();
        found.rounds("start_to_first_send_ms", vec![310.0, 290.0, 305.5]);
        let origin = Beginning::now().expect("clocks").ended().expect("clocks");
        let report = Report::new(&scenario, origin, found);
        assert!(!report.is_good());
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
