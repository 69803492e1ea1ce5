//! `pregon load`: measures Pregón on this machine, by a scenario, and says whether its goals are reached.
//!
//! ```text
//! scenario.toml ─▶ play ─┬─▶ stage: private Redis, workers (pregon serve), Meta (pregon load meta), by the public API
//!                        ├─▶ what it is measured against: the bare loop, the handler that only checks signatures
//!                        ├─▶ generator: requests by a clock or as fast as they are answered
//!                        └─▶ findings ─▶ report: table, report.json, plots as SVG ─▶ compare
//! ```
//!
//! Whatever is measured runs in processes of their own, as in life, and so does what it is measured against; they share the
//! cores. What is counted, and what is not, stands at the head of each play and in `loadtest/README.md`.
//!
//! If this process dies: Redis, Meta and the rest end with it; a worker only where it could still be told to (not by
//! SIGKILL).
//! Never: touches a Redis, a folder or a process that it has not started.

pub mod arrivals;
pub mod bare;
pub mod baseline;
pub mod compare;
pub mod error;
pub mod generator;
pub mod measure;
pub mod meta;
pub mod plays;
pub mod plot;
pub mod recipients;
pub mod report;
pub mod scenario;
pub mod stage;

use std::{
    fs,
    path::{Path, PathBuf},
};

use tokio::signal::unix::{SignalKind, signal};

use self::{
    compare::Comparison,
    error::LoadError,
    plays::{bytes, dispatch, growth, rates, say, start, upload, webhooks},
    report::{Beginning, Findings, Report},
    scenario::{Play, Scenario},
};
use pregon::terminal::{CommandError, out};

/// Plays a scenario. `folder`: where `report.json` and the plots go. `json`: the report as JSON on standard output.
///
/// Errors: [`CommandError::Reported`] where a goal is missed; [`CommandError::Usage`] for what is no scenario.
pub async fn run(file: &Path, folder: Option<PathBuf>, json: bool) -> Result<(), CommandError> {
    let text = fs::read_to_string(file).map_err(|error| CommandError::Usage(format!("{}: {error}", file.display())))?;
    let scenario = Scenario::read(file, &text).map_err(|error| CommandError::Usage(error.to_string()))?;
    say(&format!("{}: {}", scenario.name, scenario.about));
    let beginning = Beginning::now()?;
    let mut terminate = signal(SignalKind::terminate())?;
    // What is dropped here is ended with it.
    let findings = tokio::select! {
        findings = play(&scenario) => findings?,
        _ = tokio::signal::ctrl_c() => return Err(CommandError::Failed("interrupted".into())),
        _ = terminate.recv() => return Err(CommandError::Failed("terminated".into())),
    };
    let report = Report::new(&scenario, beginning.ended()?, findings);
    if let Some(folder) = &folder {
        write(&report, folder)?;
    }
    if json {
        out::json(&report)?;
    } else {
        out::line(&report.table())?;
    }
    if report.is_good() { Ok(()) } else { Err(CommandError::Reported) }
}

async fn play(scenario: &Scenario) -> Result<Findings, LoadError> {
    let setup = &scenario.setup;
    match &scenario.play {
        Play::Dispatch { recipients, warm_up, rounds, streams } => {
            dispatch::play(setup, *recipients, *warm_up, *rounds, *streams).await
        }
        Play::Rates { warm_up, duration, cases } => rates::play(setup, *warm_up, *duration, cases).await,
        Play::Growth { cases } => growth::play(setup, cases).await,
        Play::Webhooks { recipients, batch, connections, arrival } => {
            webhooks::play(setup, *recipients, *batch, *connections, *arrival).await
        }
        Play::Upload { recipients, duplicate_every, rounds } => {
            upload::play(setup, *recipients, *duplicate_every, *rounds).await
        }
        Play::Bytes { recipients } => bytes::play(setup, *recipients).await,
        Play::Start { rounds } => start::play(setup, *rounds).await,
    }
}

fn write(report: &Report, folder: &Path) -> Result<(), LoadError> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("report.json"), serde_json::to_string_pretty(report).map_err(LoadError::of)?)?;
    fs::write(folder.join("report.txt"), report.table() + "\n")?;
    for plot in &report.plots {
        fs::write(folder.join(&plot.name).with_extension("svg"), plot.svg()?)?;
    }
    Ok(())
}

/// Compares two reports.
///
/// Errors: [`CommandError::Usage`] for what is no report.
pub fn compare(a: &Path, b: &Path, json: bool) -> Result<(), CommandError> {
    let comparison = Comparison::of([&compare::read(a)?, &compare::read(b)?]);
    if json {
        out::json(&comparison)?;
    } else {
        out::line(&comparison.table())?;
    }
    Ok(())
}
