//! Compares two reports figure by figure.

use std::{fs, path::Path};

use serde::Serialize;

use super::report::{Figure, Report, format_value};
use pregon::terminal::{
    CommandError,
    table::{fields, table},
};

/// The comparison of two reports.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// Scenario, commit, time and cores of each report.
    of: [String; 2],
    /// Figures that are in both reports.
    figures: Vec<Compared>,
    /// Figures, with their cases, that are in only one of the reports.
    only: [Vec<String>; 2],
}

#[derive(Debug, PartialEq, Serialize)]
struct Compared {
    name: String,
    case: String,
    values: [f64; 2],
    /// The second value divided by the first.
    ratio: f64,
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
    pub fn of(reports: [&Report; 2]) -> Self {
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
            Some(Compared { name, case, values: [figure.value, value], ratio: value / figure.value })
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
            figures: reports[0].figures.iter().filter_map(compared).collect(),
            only: [only(0), only(1)],
        }
    }

    /// The comparison as a table.
    pub fn table(&self) -> String {
        let head = fields([
            ("a", self.of[0].clone()),
            ("b", self.of[1].clone()),
            ("only in a", self.only[0].join(", ")),
            ("only in b", self.only[1].join(", ")),
        ]);
        let row = |of: &Compared| {
            let [a, b] = of.values.map(format_value);
            [of.name.clone(), of.case.clone(), a, b, format!("{:.3}", of.ratio)]
        };
        format!("{head}\n\n{}", table(["=figure", "case", ">a", ">b", ">b/a"], self.figures.iter().map(row)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::{Findings, StartClocks},
        scenario::Scenario,
    };

    fn report(figures: &[(&str, &str, f64)]) -> Report {
        let scenario = Scenario::read(Path::new("start.toml"), "about = ''\n[start]").expect("a scenario");
        let mut findings = Findings::default();
        figures.iter().for_each(|(name, case, value)| findings.one(name, case, *value));
        Report::new(&scenario, StartClocks::now().expect("clocks").finish().expect("clocks"), findings)
    }

    #[test]
    fn figures_match_by_name_and_case_and_the_others_are_listed() {
        let a = report(&[("use", "1 worker", 98.0), ("use", "4 workers", 96.0), ("gone", "", 1.0)]);
        let b = report(&[("use", "4 workers", 99.0), ("use", "1 worker", 49.0), ("use", "16 workers", 1.0)]);
        let comparison = Comparison::of([&a, &b]);
        let ratios: Vec<_> = comparison.figures.iter().map(|of| (of.case.as_str(), of.ratio)).collect();
        assert_eq!(ratios, [("1 worker", 0.5), ("4 workers", 1.03125)]);
        assert_eq!(comparison.only, [vec!["gone".to_owned()], vec!["use 16 workers".to_owned()]]);
        let table = comparison.table();
        assert!(table.contains("0.500") && table.contains("1.031"), "{table}");
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
