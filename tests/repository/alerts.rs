//! Checks that alerts name only series that docs/metrics.md lists, and that each alert has its section in
//! docs/runbook.md. [`super::dashboards`] checks the same of the dashboards.
//!
//! Whether the rules are valid, and fire when they should, is tested by promtool: `make package-check`.

use std::{collections::BTreeSet, fs, path::Path};

pub(super) const ALERTS: &str = "config/prometheus/alerts.yml";

pub(super) fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The words of `text` that look like the names of series.
fn series(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("pregon_")).collect()
}

/// Each series in the table of docs/metrics.md, without the prefix of its name, and its type.
fn listed(document: &str) -> Vec<(&str, &str)> {
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `pregon_"));
    let cells = |row| {
        let (name, rest) = str::split_once(row, "` | ").expect("the end of a name");
        (name, rest.split(" | ").next().expect("a type"))
    };
    rows.map(cells).collect()
}

/// Checks that `text`, which is in `file`, names at least one series, and only series that docs/metrics.md lists.
pub(super) fn assert_names_listed_series(file: &str, text: &str) {
    let document = read("docs/metrics.md");
    let (_, table) = document.split_once("## All series").expect("the table");
    let listed = listed(table);
    assert!(listed.len() > 40, "{} series", listed.len());
    let is_listed = |name: &str| {
        let name = name.strip_prefix("pregon_").expect("series() filters by it");
        let of_histogram = ["_bucket", "_sum", "_count"].into_iter().find_map(|part| name.strip_suffix(part));
        listed.iter().any(|(known, kind)| *known == name || (*kind == "histogram" && of_histogram == Some(*known)))
    };
    let named = series(text);
    assert!(!named.is_empty(), "{file} names no series: {text}");
    for name in named {
        assert!(is_listed(name), "{file} names {name}, which docs/metrics.md does not list");
    }
}

/// Each alert with the text of its rule.
pub(super) fn alerts(rules: &str) -> Vec<(&str, &str)> {
    rules.split("- alert: ").skip(1).map(|rule| rule.split_once('\n').expect("a rule")).collect()
}

#[test]
fn alerts_name_only_listed_series() {
    for file in [ALERTS, "config/prometheus/alerts_test.yml"] {
        assert_names_listed_series(file, &read(file));
    }
}

#[test]
fn each_alert_has_a_severity_a_test_and_a_section_in_the_runbook() {
    let (rules, tests, runbook) = (read(ALERTS), read("config/prometheus/alerts_test.yml"), read("docs/runbook.md"));
    let alerts = alerts(&rules);
    assert!(alerts.len() >= 12, "{} alerts", alerts.len());
    for (name, rule) in &alerts {
        assert!(["page", "ticket"].iter().any(|level| rule.contains(&format!("severity: {level}\n"))), "{name}");
        for annotation in ["summary: ", "description: "] {
            assert!(rule.contains(annotation), "{name} has no {annotation}");
        }
        let link = format!("runbook: docs/runbook.md#{}\n", name.to_lowercase());
        assert!(rule.contains(&link), "{name} has not {link}");
        assert!(runbook.contains(&format!("\n## {name}\n")), "docs/runbook.md has no section {name}");
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "no test expects {name}");
    }
    for section in runbook.lines().filter_map(|line| line.strip_prefix("## Pregon")) {
        let name = format!("Pregon{section}");
        assert!(alerts.iter().any(|(alert, _)| *alert == name), "docs/runbook.md describes {name}, which is no alert");
    }
}
