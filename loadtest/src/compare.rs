//! Compares two reports figure by figure, and judges which figures have become worse.
//!
//! A figure is *worse* if its median is worse by more than its threshold, and outside the rounds of the first report: a
//! difference within those is noise.

use std::{cmp::Ordering, fs, path::Path, str::FromStr};

use serde::Serialize;

use super::report::{Figure, Origin, Report, format_value};
use pregon::terminal::{
    CommandError,
    table::{fields, table},
};

/// By how many percent a figure may be worse, if nothing else is said.
const PERCENT: f64 = 10.0;

/// The beginnings of figures that do not measure Pregón: what it is compared with, the fake Meta, what the scenario sets,
/// single loads of a ramp, and counts of a target.
const NOT_JUDGED: [&str; 8] = ["bare_", "baseline_", "plain_", "meta_", "late_", "offered_", "load_", "counted_"];

/// By how many percent a figure may be worse: `10` for all figures, or `p99_ms=25` for one.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    figure: Option<String>,
    percent: f64,
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (figure, percent) =
            text.split_once('=').map_or((None, text), |(name, value)| (Some(name.to_owned()), value));
        let percent = percent.parse().ok().filter(|percent| (0.0..=1e6).contains(percent));
        let percent = percent.ok_or("not a percentage, such as 10, or one of a figure, such as p99_ms=25")?;
        Ok(Self { figure, percent })
    }
}

/// The comparison of two reports.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// Scenario, commit, time and cores of each report.
    pub of: [String; 2],
    /// What makes the reports hard to compare, such as different machines; empty if nothing does.
    pub differences: Vec<&'static str>,
    /// Figures that are in both reports.
    pub figures: Vec<Compared>,
    /// Figures, with their cases, that are in only one of the reports.
    pub only: [Vec<String>; 2],
}

/// A figure that is in both reports.
#[derive(Debug, PartialEq, Serialize)]
pub struct Compared {
    /// The name.
    pub name: String,
    /// The case.
    pub case: String,
    /// The values in both reports.
    pub values: [f64; 2],
    /// The second value divided by the first.
    pub ratio: f64,
    /// Whether the second value is worse than the threshold allows.
    pub worse: bool,
}

/// Reads a report.
///
/// Errors: the file cannot be read, or is not a report.
pub fn read(path: &Path) -> Result<Report, CommandError> {
    let usage = |error: &dyn std::fmt::Display| CommandError::Usage(format!("{}: {error}", path.display()));
    serde_json::from_str(&fs::read_to_string(path).map_err(|error| usage(&error))?).map_err(|error| usage(&error))
}

impl Comparison {
    /// Compares two reports of any scenarios. Figures match by name and case.
    pub fn of(reports: [&Report; 2], thresholds: &[Threshold]) -> Self {
        let name = |figure: &Figure| format!("{} {}", figure.name, figure.case).trim().to_owned();
        let find = |report: &Report, figure: &Figure| {
            report
                .figures
                .iter()
                .find(|other| other.name == figure.name && other.case == figure.case)
                .map(|other| other.value)
        };
        let compared = |figure: &Figure| {
            let value = find(reports[1], figure)?;
            let (name, case) = (figure.name.clone(), figure.case.clone());
            let worse = is_worse(figure, value, thresholds);
            Some(Compared { name, case, values: [figure.value, value], ratio: value / figure.value, worse })
        };
        let only = |one: usize| {
            let alone = reports[one].figures.iter().filter(|figure| find(reports[1 - one], figure).is_none());
            alone.map(name).collect()
        };
        Self {
            of: reports.map(|report| {
                let origin = &report.origin;
                let commit = origin.commit.as_deref().unwrap_or(&origin.version);
                format!("{} at {commit}, {}, {} cores", report.scenario, origin.began_at, origin.cores)
            }),
            differences: differences(reports),
            figures: reports[0].figures.iter().filter_map(compared).collect(),
            only: [only(0), only(1)],
        }
    }

    /// The names of the figures that have become worse, with their cases.
    pub fn worse(&self) -> impl Iterator<Item = String> {
        let worse = self.figures.iter().filter(|figure| figure.worse);
        worse.map(|figure| format!("{} {}", figure.name, figure.case).trim().to_owned())
    }

    /// The comparison as a table.
    pub fn table(&self) -> String {
        let head = fields([
            ("a", self.of[0].clone()),
            ("b", self.of[1].clone()),
            ("different", self.differences.join(", ")),
            ("only in a", self.only[0].join(", ")),
            ("only in b", self.only[1].join(", ")),
        ]);
        let row = |of: &Compared| {
            let [a, b] = of.values.map(format_value);
            let worse = if of.worse { "WORSE" } else { "" };
            [of.name.clone(), of.case.clone(), a, b, format!("{:.3}", of.ratio), worse.into()]
        };
        format!("{head}\n\n{}", table(["=figure", "case", ">a", ">b", ">b/a", ""], self.figures.iter().map(row)))
    }
}

/// What makes two reports hard to compare.
fn differences([a, b]: [&Report; 2]) -> Vec<&'static str> {
    let machine = |origin: &Origin| (origin.processor.clone(), origin.cores);
    let differences = [
        ("scenarios", a.scenario != b.scenario),
        ("seeds", a.seed != b.seed),
        ("machines", machine(&a.origin) != machine(&b.origin)),
        ("versions of Redis", a.origin.redis != b.origin.redis),
    ];
    differences.into_iter().filter(|(_, differ)| *differ).map(|(what, _)| what).collect()
}

/// Which values of a figure are better; `None` if it does not measure Pregón.
fn better(figure: &str) -> Option<Ordering> {
    if NOT_JUDGED.iter().any(|beginning| figure.starts_with(beginning)) {
        return None;
    }
    let is_greater = figure.ends_with("_per_second") || ["ratio", "use_percent", "achieved_percent"].contains(&figure);
    Some(if is_greater { Ordering::Greater } else { Ordering::Less })
}

/// Whether `value` is worse than `before`.
fn is_worse(before: &Figure, value: f64, thresholds: &[Threshold]) -> bool {
    let Some(better) = better(&before.name) else { return false };
    let named = thresholds.iter().rfind(|threshold| threshold.figure.as_ref() == Some(&before.name));
    let general = || thresholds.iter().rfind(|threshold| threshold.figure.is_none());
    let percent = named.or_else(general).map_or(PERCENT, |threshold| threshold.percent);
    let loss = if better == Ordering::Greater { before.value - value } else { value - before.value };
    let is_noise = |round: &f64| if better == Ordering::Greater { *round <= value } else { *round >= value };
    loss > before.value.abs() * percent / 100.0 && !before.rounds.iter().any(is_noise)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::{Findings, StartClocks},
        scenario::Scenario,
    };

    fn report(figures: &[(&str, &str, f64)]) -> Report {
        let scenario = Scenario::read(Path::new("start.toml"), "about = ''\n[start]", &[]).expect("a scenario");
        let mut findings = Findings::default();
        figures.iter().for_each(|(name, case, value)| findings.one(name, case, *value));
        Report::new(&scenario, StartClocks::now().expect("clocks").finish().expect("clocks"), findings)
    }

    #[test]
    fn figures_match_by_name_and_case_and_the_others_are_listed() {
        let a = report(&[("use", "1 worker", 98.0), ("use", "4 workers", 96.0), ("gone", "", 1.0)]);
        let b = report(&[("use", "4 workers", 99.0), ("use", "1 worker", 49.0), ("use", "16 workers", 1.0)]);
        let comparison = Comparison::of([&a, &b], &[]);
        let ratios: Vec<_> = comparison.figures.iter().map(|of| (of.case.as_str(), of.ratio)).collect();
        assert_eq!(ratios, [("1 worker", 0.5), ("4 workers", 1.03125)]);
        assert_eq!(comparison.only, [vec!["gone".to_owned()], vec!["use 16 workers".to_owned()]]);
        let table = comparison.table();
        assert!(table.contains("0.500") && table.contains("1.031"), "{table}");
    }

    #[test]
    fn a_figure_is_worse_beyond_its_threshold_and_outside_the_noise() {
        let figure = |name: &str, rounds: &[f64]| {
            let mut findings = Findings::default();
            findings.rounds(name, rounds.to_vec());
            findings.figures.remove(0)
        };
        let thresholds: Vec<Threshold> =
            ["5", "p99_ms=50"].map(|text| text.parse().expect("a threshold")).into_iter().collect();
        for (name, rounds, value, worse) in [
            ("messages_per_second", &[100.0][..], 96.0, false),
            ("messages_per_second", &[100.0], 94.0, true),
            ("messages_per_second", &[90.0, 100.0, 101.0], 94.0, false),
            ("messages_per_second", &[100.0], 200.0, false),
            ("cpu_us_per_message", &[20.0], 22.0, true),
            ("cpu_us_per_message", &[20.0], 10.0, false),
            ("p99_ms", &[10.0], 14.0, false),
            ("p99_ms", &[10.0], 16.0, true),
            ("worst_second_beyond", &[0.0], 1.0, true),
            ("bare_per_second", &[100.0], 1.0, false),
            ("load_p99_ms", &[1.0], 100.0, false),
        ] {
            assert_eq!(is_worse(&figure(name, rounds), value, &thresholds), worse, "{name} {rounds:?} {value}");
        }
        assert!(is_worse(&figure("ratio", &[1.0]), 0.89, &[]) && !is_worse(&figure("ratio", &[1.0]), 0.91, &[]));
        for bad in ["", "-1", "p99_ms=", "p99_ms=x", "NaN"] {
            assert!(bad.parse::<Threshold>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_that_is_not_a_report_is_an_error_with_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.json");
        for text in [None, Some("{}"), Some("no json")] {
            text.into_iter().for_each(|text| fs::write(&path, text).expect("written"));
            let failure = read(&path).expect_err("no report").to_string();
            assert!(failure.contains("a.json"), "{failure}");
        }
    }
}
