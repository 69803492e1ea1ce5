//! `pregon-load`: runs a scenario that measures Pregón on this machine, and reports whether its goals are reached.
//!
//! ```text
//! scenario.toml ─▶ workload ─┬─▶ stage: private Redis, workers (pregon serve), fake Meta (pregon-load meta)
//!                            ├─▶ target: a running deployment, with a simulator beside it
//!                            ├─▶ baselines: the bare loop, the handler that only checks signatures
//!                            ├─▶ generator: requests on a fixed schedule or as fast as they are answered
//!                            └─▶ findings ─▶ report: table, report.json, HTML with plots as SVG ─▶ compare
//! ```
//!
//! The workers and the baselines run in processes of their own, as in production, and share the cores. All requests to
//! the workers use the public API. The head of each workload and `loadtest/README.md` state what is counted and what is
//! not.
//!
//! If this process dies: Redis, the fake Meta and the baselines end with it. A worker ends too, unless this process was
//! killed by SIGKILL.
//! Never: touches a Redis, a folder or a process that it has not started, except the deployment that `--target` names.

pub mod arguments;
pub mod arrivals;
pub mod bare;
pub mod baseline;
pub mod builtin;
pub mod compare;
pub mod error;
pub mod generator;
pub mod html;
pub mod measure;
pub mod meta;
pub mod plot;
pub mod recipients;
pub mod report;
pub mod scenario;
pub mod schedule;
pub mod stage;
pub mod target;
mod under_test;
pub mod workloads;

use std::{fs, path::Path};

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use self::{
    arguments::RunOptions,
    compare::{Comparison, Threshold},
    error::LoadError,
    report::{Findings, Report, StartClocks},
    scenario::{Override, Scenario, Workload},
    stage::Stage,
    target::Target,
    under_test::UnderTest,
    workloads::{
        bytes, dispatch, feed, frequency_cap, growth, inbound, latency, progress, ramp, rates, start, suppression,
        upload, webhooks,
    },
};
use pregon::terminal::{CommandError, out, table::table};

/// Runs a scenario, and writes its report.
///
/// Errors: [`CommandError::Reported`] if a goal is missed or a figure is worse than the baseline;
/// [`CommandError::Usage`] if there is no such scenario or baseline, or one of them is invalid.
pub async fn run(options: RunOptions) -> Result<(), CommandError> {
    let RunOptions { scenario, mut overrides, seed, out, baseline, save_baseline, thresholds, output, target } =
        options;
    overrides.extend(seed.map(Override::seed));
    let scenario = read_scenario(&scenario.unwrap_or_default(), &overrides).map_err(CommandError::Usage)?;
    let baseline = baseline.as_deref().map(|file| read_baseline(file, &scenario)).transpose()?;
    let is_offered = matches!(scenario.workload, Workload::Latency { .. } | Workload::Ramp(_));
    if target.target.is_some() && !is_offered {
        let name = scenario.workload.name();
        return Err(CommandError::Usage(format!("--target: only [latency] and [ramp] can use a target, not [{name}]")));
    }
    progress(&format!("{}: {} (seed {})", scenario.name, scenario.about, scenario.setup.seed));
    let start = StartClocks::now()?;
    let findings = match target.target {
        None => interruptible(run_workload(&scenario)).await?,
        Some(_) => {
            let mut target = interruptible(Target::connect(target, scenario.setup.seed)).await?;
            let findings = interruptible(run_on(&mut target, &scenario.workload)).await;
            let restored = target.restore().await;
            let mut findings = findings?;
            restored?;
            target.count(&mut findings).await?;
            findings
        }
    };
    let report = Report::new(&scenario, start.finish()?, findings);
    let comparison = baseline.map(|baseline| Comparison::of([&baseline, &report], &thresholds));
    let is_worse = comparison.as_ref().is_some_and(|comparison| comparison.worse().next().is_some());
    let document = Document { report: &report, comparison: comparison.as_ref() };
    if let Some(folder) = &out {
        document.write(folder)?;
    }
    if let Some(file) = save_baseline.filter(|_| !is_worse) {
        fs::write(&file, document.json()?)?;
    }
    if output.json {
        out::json(&document)?;
    } else {
        out::line(&document.text())?;
    }
    if report.goals_reached() && !is_worse { Ok(()) } else { Err(CommandError::Reported) }
}

/// Runs `work`, and drops it on a signal, which ends the processes that it started.
async fn interruptible<T>(work: impl Future<Output = Result<T, LoadError>>) -> Result<T, CommandError> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = Box::pin(work) => Ok(done?),
        _ = tokio::signal::ctrl_c() => Err(CommandError::Failed("interrupted".into())),
        _ = terminate.recv() => Err(CommandError::Failed("terminated".into())),
    }
}

fn read_baseline(file: &Path, scenario: &Scenario) -> Result<Report, CommandError> {
    let baseline = compare::read(file)?;
    if baseline.scenario != scenario.name {
        let what = format!("{} is a report of {}, not of {}", file.display(), baseline.scenario, scenario.name);
        return Err(CommandError::Usage(what));
    }
    Ok(baseline)
}

/// Reads a scenario: one that is built in, or a file.
///
/// Errors: a sentence about what is wrong.
fn read_scenario(name: &Path, overrides: &[Override]) -> Result<Scenario, String> {
    if let Some(text) = name.to_str().and_then(builtin::text) {
        return Scenario::read(name, text, overrides).map_err(|error| error.to_string());
    }
    let text = fs::read_to_string(name).map_err(|error| {
        format!("{}: {error}; `pregon-load list` shows the scenarios that need no file", name.display())
    })?;
    Scenario::read(name, &text, overrides).map_err(|error| error.to_string())
}

/// Prints the scenarios that are built in.
pub fn list(json: bool) -> Result<(), CommandError> {
    let read = |(name, text): &(&str, &str)| Scenario::read(Path::new(name), text, &[]);
    let scenarios: Result<Vec<Scenario>, _> = builtin::SCENARIOS.iter().map(read).collect();
    let scenarios = scenarios.map_err(|error| CommandError::Failed(error.to_string()))?;
    if json {
        let of = |scenario: &Scenario| {
            let Scenario { name, about, setup, workload, .. } = scenario;
            serde_json::json!({"name": name, "about": about, "workload": workload.name(), "seed": setup.seed})
        };
        out::json(&scenarios.iter().map(of).collect::<Vec<_>>())?;
    } else {
        let row = |of: &Scenario| [of.name.clone(), of.about.clone(), of.setup.seed.to_string()];
        out::line(&table(["=scenario", "measures", ">seed"], scenarios.iter().map(row)))?;
    }
    Ok(())
}

async fn run_workload(scenario: &Scenario) -> Result<Findings, LoadError> {
    let setup = &scenario.setup;
    match &scenario.workload {
        Workload::Dispatch { recipients, warm_up, rounds, streams } => {
            dispatch::run(setup, *recipients, *warm_up, *rounds, *streams).await
        }
        Workload::Latency { .. } | Workload::Ramp(_) => {
            let mut stage = Stage::start(setup, false).await?;
            let findings = run_on(&mut stage, &scenario.workload).await?;
            stage.stop().await.map(|()| findings)
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

/// Runs a workload that offers load.
async fn run_on(to: &mut impl UnderTest, workload: &Workload) -> Result<Findings, LoadError> {
    match workload {
        Workload::Latency { per_second, warm_up, duration } => latency::run(to, *per_second, *warm_up, *duration).await,
        Workload::Ramp(ramp) => ramp::run(to, ramp).await,
        other => Err(LoadError::Failed(format!("[{}] offers no load", other.name()))),
    }
}

/// What is printed and written: the report, and the comparison with the baseline.
#[derive(Serialize)]
struct Document<'d> {
    #[serde(flatten)]
    report: &'d Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    comparison: Option<&'d Comparison>,
}

impl Document<'_> {
    fn text(&self) -> String {
        let comparison = self.comparison.map(|comparison| format!("\n\n{}", comparison.table())).unwrap_or_default();
        self.report.table() + &comparison
    }

    fn json(&self) -> Result<String, LoadError> {
        serde_json::to_string_pretty(self).map_err(LoadError::of)
    }

    fn write(&self, folder: &Path) -> Result<(), LoadError> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("report.json"), self.json()?)?;
        fs::write(folder.join("report.txt"), self.text() + "\n")?;
        fs::write(folder.join("report.html"), html::page(self.report, self.comparison)?)?;
        for plot in &self.report.plots {
            fs::write(folder.join(&plot.name).with_extension("svg"), plot.svg()?)?;
        }
        Ok(())
    }
}

/// Compares two reports.
///
/// Errors: [`CommandError::Usage`] if a file is not a report; [`CommandError::Reported`] if there are thresholds, and a
/// figure is worse.
pub fn compare(a: &Path, b: &Path, thresholds: &[Threshold], json: bool) -> Result<(), CommandError> {
    let comparison = Comparison::of([&compare::read(a)?, &compare::read(b)?], thresholds);
    if json {
        out::json(&comparison)?;
    } else {
        out::line(&comparison.table())?;
    }
    let is_worse = !thresholds.is_empty() && comparison.worse().next().is_some();
    if is_worse { Err(CommandError::Reported) } else { Ok(()) }
}
