//! `pregon-load`: runs a scenario that measures Pregón on this machine, and reports whether its goals are reached.
//!
//! ```text
//! scenario.toml ─▶ workload ─┬─▶ stage: private Redis, workers (pregon serve), fake Meta (pregon-load meta)
//!                            ├─▶ baselines: the bare loop, the handler that only checks signatures
//!                            ├─▶ generator: requests on a fixed schedule or as fast as they are answered
//!                            └─▶ findings ─▶ report: table, report.json, plots as SVG ─▶ compare
//! ```
//!
//! The workers and the baselines run in processes of their own, as in production, and share the cores. All requests to
//! the workers use the public API. The head of each workload and `loadtest/README.md` state what is counted and what is
//! not.
//!
//! If this process dies: Redis, the fake Meta and the baselines end with it. A worker ends too, unless this process was
//! killed by SIGKILL.
//! Never: touches a Redis, a folder or a process that it has not started.

pub mod arrivals;
pub mod bare;
pub mod baseline;
pub mod compare;
pub mod error;
pub mod generator;
pub mod measure;
pub mod meta;
pub mod plot;
pub mod recipients;
pub mod report;
pub mod scenario;
pub mod stage;
pub mod workloads;

use std::{
    fs,
    path::{Path, PathBuf},
};

use tokio::signal::unix::{SignalKind, signal};

use self::{
    compare::Comparison,
    error::LoadError,
    report::{Findings, Report, StartClocks},
    scenario::{Scenario, Workload},
    workloads::{
        bytes, dispatch, feed, frequency_cap, growth, inbound, progress, rates, start, suppression, upload, webhooks,
    },
};
use pregon::terminal::{CommandError, out};

/// Runs a scenario. `folder`: where to write `report.json`, `report.txt` and the plots. `json`: print the report as
/// JSON instead of a table.
///
/// Errors: [`CommandError::Reported`] if a goal is missed; [`CommandError::Usage`] if the file is not a valid scenario.
pub async fn run(file: &Path, folder: Option<PathBuf>, json: bool) -> Result<(), CommandError> {
    let text = fs::read_to_string(file).map_err(|error| CommandError::Usage(format!("{}: {error}", file.display())))?;
    let scenario = Scenario::read(file, &text).map_err(|error| CommandError::Usage(error.to_string()))?;
    progress(&format!("{}: {}", scenario.name, scenario.about));
    let start = StartClocks::now()?;
    let mut terminate = signal(SignalKind::terminate())?;
    // On a signal the future is dropped, which ends the processes that it started.
    let findings = tokio::select! {
        findings = run_workload(&scenario) => findings?,
        _ = tokio::signal::ctrl_c() => return Err(CommandError::Failed("interrupted".into())),
        _ = terminate.recv() => return Err(CommandError::Failed("terminated".into())),
    };
    let report = Report::new(&scenario, start.finish()?, findings);
    if let Some(folder) = &folder {
        write(&report, folder)?;
    }
    if json {
        out::json(&report)?;
    } else {
        out::line(&report.table())?;
    }
    if report.goals_reached() { Ok(()) } else { Err(CommandError::Reported) }
}

async fn run_workload(scenario: &Scenario) -> Result<Findings, LoadError> {
    let setup = &scenario.setup;
    match &scenario.workload {
        Workload::Dispatch { recipients, warm_up, rounds, streams } => {
            dispatch::run(setup, *recipients, *warm_up, *rounds, *streams).await
        }
        Workload::Rates { warm_up, duration, cases } => rates::run(setup, *warm_up, *duration, cases).await,
        Workload::Growth { cases } => growth::run(setup, cases).await,
        Workload::Webhooks { recipients, batch, connections, arrival } => {
            webhooks::run(setup, *recipients, *batch, *connections, *arrival).await
        }
        Workload::Suppression { people, recipients, rounds } => {
            suppression::run(setup, *people, *recipients, *rounds).await
        }
        Workload::FrequencyCap { people, recipients, rounds } => {
            frequency_cap::run(setup, *people, *recipients, *rounds).await
        }
        Workload::Feed { recipients, rounds, duration } => feed::run(setup, *recipients, *rounds, *duration).await,
        Workload::Inbound { recipients, batch, connections, rounds } => {
            inbound::run(setup, *recipients, *batch, *connections, *rounds).await
        }
        Workload::Upload { recipients, duplicate_every, rounds } => {
            upload::run(setup, *recipients, *duplicate_every, *rounds).await
        }
        Workload::Bytes { recipients } => bytes::run(setup, *recipients).await,
        Workload::Start { rounds } => start::run(setup, *rounds).await,
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
/// Errors: [`CommandError::Usage`] if a file is not a report.
pub fn compare(a: &Path, b: &Path, json: bool) -> Result<(), CommandError> {
    let comparison = Comparison::of([&compare::read(a)?, &compare::read(b)?]);
    if json {
        out::json(&comparison)?;
    } else {
        out::line(&comparison.table())?;
    }
    Ok(())
}
