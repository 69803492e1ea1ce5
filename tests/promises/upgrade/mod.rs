//! Data of earlier and later releases: this release continues the data of earlier ones, workers of different releases
//! work side by side, and a process sends nothing from data that it cannot read.
//!
//! `tests/fixtures/VERSION` has the data of a release: `data.redis`, the commands that restore it; `expected.json`,
//! what the API showed of it; `scripts`, the Lua scripts as that release loaded them. A release adds its own with
//! `cargo test --test promises upgrade::record -- --ignored`.

mod beside;
mod dump;
mod features;
mod later;
mod record;
mod version;

use std::{fs, path::PathBuf};

use serde_json::Value;

/// The recorded data of a release.
struct Recorded {
    dir: PathBuf,
}

impl Recorded {
    /// Each recorded release.
    fn all() -> Vec<Self> {
        let fixtures = fs::read_dir(fixtures()).expect("the fixtures").map(|entry| entry.expect("an entry").path());
        let is_release = |dir: &PathBuf| dir.join("data.redis").exists();
        let all: Vec<Self> = fixtures.filter(is_release).map(|dir| Self { dir }).collect();
        assert!(!all.is_empty(), "no release is recorded");
        all
    }

    /// The data of `release`.
    fn of(release: &str) -> Self {
        Self { dir: fixtures().join(release) }
    }

    fn data(&self) -> String {
        self.read("data.redis")
    }

    /// A script, as the release loaded it.
    fn script(&self, name: &str) -> String {
        self.read(&format!("scripts/{name}.lua"))
    }

    fn expected(&self) -> Value {
        serde_json::from_str(&self.read("expected.json")).expect("JSON")
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.dir.join(file)).unwrap_or_else(|error| panic!("{}/{file}: {error}", self.dir.display()))
    }
}

fn fixtures() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"))
}
