//! How soon the first message goes out: of a worker that is started while work waits for it, and of a campaign that is
//! launched while a worker runs.
//!
//! Counted: from just before the process is started, or the launch is called, to the arrival at Meta.

use super::{equal, now_us, say};
use pregon::client::ControlAction;

use crate::{error::LoadError, recipients::Rows, report::Findings, scenario::Setup, stage::Stage};

/// Recipients of each campaign for each line: more than go out before the measurement ends.
const RECIPIENTS: u64 = 2_000;

/// Messages after which the worker is stopped.
const SENT: u64 = 20;

/// Plays it.
pub async fn play(setup: &Setup, rounds: usize) -> Result<Findings, LoadError> {
    let mut stage = Stage::start(&Setup { workers: 1, ..setup.clone() }, false).await?;
    let lines = stage.lines.clone();
    let (mut starts, mut launches) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let recipients = RECIPIENTS * lines.len() as u64;
        let (id, uploaded) = stage.draft(&lines, Rows::unique(recipients)).await?;
        equal("recipients accepted", uploaded.accepted, recipients)?;
        stage.forget().await?;
        let launched = now_us();
        stage.launch(id).await?;
        stage.arrived(SENT).await?;
        launches.push((stage.seen(0, 0).await?.first_us.saturating_sub(launched)) as f64 / 1e3);
        // Stopped cleanly, so that its leases are free: what a killed worker's take is a matter of `dispatch.lease`.
        stage.stop_workers().await?;
        stage.forget().await?;
        let started = now_us();
        stage.start_worker()?;
        stage.arrived(SENT).await?;
        starts.push((stage.seen(0, 0).await?.first_us.saturating_sub(started)) as f64 / 1e3);
        stage.serves().await?;
        stage.client.change_campaign(id, ControlAction::Cancel).await?;
        say(&format!(
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
