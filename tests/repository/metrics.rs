//! Checks that docs/metrics.md lists every series of the program, and that the documents name no other.

use std::{fmt::Write as _, fs, path::Path};

use pregon::telemetry::metrics::series::ALL;

/// The heading after which the document is generated from the code.
const TABLE: &str = "## All series\n\n";

/// The documents that name series.
const DOCUMENTS: [&str; 11] = [
    "README.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "loadtest/README.md",
    "docs/architecture.md",
    "docs/events.md",
    "docs/jobs.md",
    "docs/metrics.md",
    "docs/runbook.md",
    "docs/walkthrough.md",
    "docs/webhooks.md",
];

fn read(root: &Path, document: &str) -> String {
    fs::read_to_string(root.join(document)).unwrap_or_else(|error| panic!("{document}: {error}"))
}

/// The table of all series.
fn table() -> String {
    let mut text = "| series | type | unit | labels | meaning |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for series in ALL {
        let labels: Vec<String> = series.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, unit) = (series.name, series.kind.name(), series.unit);
        let _ = writeln!(text, "| `{name}` | {kind} | {unit} | {} | {} |", labels.join(", "), series.help);
    }
    text
}

#[test]
fn the_list_of_series_is_that_of_the_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = read(root, "docs/metrics.md");
    let (head, committed) = document.split_once(TABLE).expect("the table");
    let generated = table();
    fs::write(root.join("target/metrics.md"), format!("{head}{TABLE}{generated}")).expect("a file in target");
    assert!(committed == generated, "docs/metrics.md is out of date: cp target/metrics.md docs/metrics.md");
}

#[test]
fn the_documents_name_only_series_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for document in DOCUMENTS {
        let text = read(root, document);
        let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '_');
        for name in words.filter(|word| word.starts_with("pregon_")) {
            assert!(ALL.iter().any(|series| series.name == name), "{document} names {name}");
        }
    }
}
