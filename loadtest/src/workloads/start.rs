//! Start: time to the first message, of a worker that starts with pending work, and of a campaign that is launched on a
//! running worker.
//!
//! Counted: from just before the process is started, or the launch is requested, to the arrival at the fake Meta.

use super::{check_equal, progress};
use pregon::{client::ControlAction, telemetry::clock::now_us};

use crate::{error::LoadError, recipients::Rows, report::Findings, scenario::Setup, stage::Stage};

/// Recipients of each campaign for each line: more than are sent before the measurement ends.
const RECIPIENTS: u64 = 2_000;

/// Messages after which the worker is stopped.
const SENT: u64 = 20;

/// Runs the workload.
pub async fn run(setup: &Setup, rounds: usize) -> Result<Findings, LoadError> {
    let mut stage = Stage::start(&Setup { workers: 1, ..setup.clone() }, false).await?;
    let lines = stage.lines.clone();
    let (mut starts, mut launches) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let recipients = RECIPIENTS * lines.len() as u64;
        let (id, uploaded) = stage.draft(&lines, Rows::unique(recipients)).await?;
        check_equal("recipients accepted", uploaded.accepted, recipients)?;
        stage.reset_arrivals().await?;
        let launched = now_us();
        stage.launch(id).await?;
        stage.wait_for_arrivals(SENT).await?;
        launches.push((stage.seen(0, 0).await?.first_us.saturating_sub(launched)) as f64 / 1e3);
        // A clean stop releases the leases. After a kill, the next worker would have to wait for `dispatch.lease`.
        stage.stop_workers().await?;
        stage.reset_arrivals().await?;
        let started = now_us();
        stage.start_worker()?;
        stage.wait_for_arrivals(SENT).await?;
        starts.push((stage.seen(0, 0).await?.first_us.saturating_sub(started)) as f64 / 1e3);
        stage.wait_until_ready().await?;
        stage.client.change_campaign(id, ControlAction::Cancel).await?;
        progress(&format!(
            "round {round} of {rounds}: {:.0} ms from the start, {:.0} ms from the launch",
            starts[round - 1],
            launches[round - 1]
        ));
    }
    stage.stop().await?;
    let mut findings = Findings::default();
    findings.rounds("start_to_first_send_ms", starts);
    findings.rounds("launch_to_first_send_ms", launches);
    Ok(findings)
}
