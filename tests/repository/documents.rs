//! Checks that every file and heading to which the documents link exists, that docs/api.md lists its sections, that
//! every test that README.md, SECURITY.md and docs/meta-rules.md name exists, and that every claim in SECURITY.md names
//! a test.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The folders whose documents are checked.
const FOLDERS: [&str; 6] = ["", "docs", "docs/decisions", "examples", "loadtest", "loadtest/peers"];

fn documents(root: &Path) -> Vec<PathBuf> {
    let entries = FOLDERS.into_iter().flat_map(|folder| fs::read_dir(root.join(folder)).expect("a folder"));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `text` without its fenced code blocks, which contain no links.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// The anchor of a heading, as GitHub forms it: the part of a link after `#`.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for path in documents(root) {
        let document = path.display();
        let text = prose(&read(&path));
        let links = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
        for link in links.filter(|link| !link.starts_with("https://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            assert!(target.exists(), "{document}: {link}");
            if !heading.is_empty() {
                let text = prose(&read(&target));
                let mut headings = text.lines().filter_map(|line| line.split_once("# ")).map(|(_, text)| anchor(text));
                assert!(headings.any(|found| found == heading), "{document}: {link}");
            }
        }
    }
}

#[test]
fn every_section_of_the_api_is_in_its_table_of_contents() {
    let text = prose(&read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/api.md")));
    let (contents, sections) = text.split_once("\n## ").expect("sections");
    let headings = format!("## {sections}");
    let headings = headings.lines().filter_map(|line| line.strip_prefix("## ").or(line.strip_prefix("### ")));
    for heading in headings {
        assert!(contents.contains(&format!("](#{})", anchor(heading))), "docs/api.md does not list {heading}");
    }
}

#[test]
fn every_test_that_a_promise_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (document, promises) in [("README.md", 8), ("SECURITY.md", 20), ("docs/meta-rules.md", 12)] {
        let text = read(&root.join(document));
        let mut named = 0;
        let code = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
        for (file, test) in code.filter_map(|code| code.split_once(".rs::")) {
            let source = read(&root.join(file).with_extension("rs"));
            assert!(source.contains(&format!("fn {test}(")), "{document}: {file}.rs has no test {test}");
            named += 1;
        }
        assert!(named >= promises, "{document}: a test for each promise");
    }
}

#[test]
fn every_claim_of_what_is_defended_names_a_test() {
    let text = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("SECURITY.md"));
    let (_, rest) = text.split_once("## What is defended\n").expect("the claims");
    let (claims, _) = rest.split_once("\n## ").expect("their end");
    let claims: Vec<&str> = claims.split("\n* **").skip(1).collect();
    assert!(claims.len() >= 20, "{} claims", claims.len());
    for claim in claims {
        let claim = claim.split("\n#").next().unwrap_or_default();
        assert!(claim.contains(".rs::"), "nothing shows that {claim}");
    }
}
