//! Checks that the packages match the program: the time that a stop may take, the names of metrics, and the
//! configurations.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use pregon::config::Config;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// The text of every file below `folder`.
fn texts(folder: PathBuf) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries
        .flat_map(|path| if path.is_dir() { texts(path) } else { fs::read_to_string(path).into_iter().collect() })
        .collect()
}

#[test]
fn a_stop_fits_into_the_time_that_each_package_gives_it() {
    let stop = Config::from_toml("").expect("the defaults").shutdown;
    let given = Duration::from_secs(30);
    assert!(stop.drain + stop.grace + Duration::from_secs(2) <= given, "{stop:?}");
    for (file, text) in [
        ("packages/kubernetes/http.yaml", "terminationGracePeriodSeconds: 30"),
        ("packages/kubernetes/dispatch.yaml", "terminationGracePeriodSeconds: 30"),
        ("packages/systemd/pregon.service", "TimeoutStopSec=30s"),
        ("config/compose.yaml", "stop_grace_period: 30s"),
    ] {
        assert!(read(file).contains(text), "{file}: {text}");
    }
}

#[test]
fn packages_name_only_metrics_that_exist() {
    let source = texts(root().join("src/telemetry")).concat();
    // Not a series of Pregón: a rule of prometheus-adapter in docs/running.md computes it.
    let derived = "pregon_attempts_per_second";
    let mut n = 0;
    for text in ["config/compose", "packages"].into_iter().flat_map(|folder| texts(root().join(folder))) {
        for (start, _) in text.match_indices("pregon_") {
            let name: String = text[start..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            n += 1;
            assert!(name == derived || source.contains(&format!("\"{name}\"")), "{name} is no metric");
        }
    }
    assert!(n > 0);
    assert!(read("docs/running.md").contains(derived));
}

#[test]
fn the_configurations_of_packages_are_valid() {
    for file in ["config/compose/pregon.toml", "packages/kubernetes/pregon.toml", "packages/debian/pregon.toml"] {
        let text = read(file);
        // The packages read secrets from environment variables, which this test does not set.
        let problems = Config::from_toml(&text).err().map(|error| error.problems).unwrap_or_default();
        let others: Vec<_> = problems.iter().filter(|problem| !problem.contains("is not set")).collect();
        assert!(others.is_empty(), "{file}: {others:?}");
    }
}
