//! Growth: the cost of a message and the memory of a worker, by the number of recipients and campaigns. Both should
//! stay constant.
//!
//! Each size runs on a stage of its own. A size that is listed again adds a round. Counted: from the launch of a
//! campaign until it is completed. Several campaigns are launched while the lines are paused, and are counted from the
//! resume of the lines until all campaigns are completed. Memory is the peak of the worker in that time.
//!
//! The speed of a shared machine varies from minute to minute, and the largest size takes many minutes. The fake Meta
//! does the same work for every message, so its cost varies only with the machine. Goals therefore use `cpu_by_meta`:
//! the cost of worker and Redis as a multiple of the cost of the fake Meta.

use std::time::Duration;

use super::{check_equal, mb, progress, us_each};
use pregon::{client::ControlAction, domain::CampaignState, terminal::words};

use crate::{
    error::LoadError,
    measure,
    plot::{Plot, Series},
    recipients::Rows,
    report::Findings,
    scenario::{GrowthCase, Setup},
    stage::{Stage, Usage},
};

/// Warm-up messages before each size, over some seconds. They open the connections and load everything that is loaded
/// once. With a hundred lines, 10,000 messages are too few: connections opened later would count as growth.
const WARM_UP: u64 = 100_000;

/// Runs the workload.
pub async fn run(setup: &Setup, cases: &[GrowthCase]) -> Result<Findings, LoadError> {
    let mut measured: Vec<(String, [Vec<f64>; 5])> = Vec::new();
    let mut throughput = Vec::new();
    for case in cases {
        let GrowthCase { recipients, campaigns, times } = *case;
        let mut stage = Stage::start(setup, false).await?;
        send(&mut stage, WARM_UP, 1).await?;
        stage.reset_worker_peak()?;
        let all = recipients * campaigns as u64 * times as u64;
        let (mut took, mut cpu, mut meta) = (0.0, Duration::ZERO, Duration::ZERO);
        let mut peak = 0;
        for _ in 0..times {
            let usage = send(&mut stage, recipients, campaigns).await?;
            took += usage.took.as_secs_f64();
            cpu += usage.workers + usage.redis;
            meta += usage.meta;
            peak = peak.max(stage.worker_peak_bytes()?);
        }
        let mut name = format!("{} recipients", words::count(recipients));
        if campaigns > 1 {
            name = format!("{} campaigns of {name}", words::count(campaigns as u64));
        }
        throughput.push(Series::throughput(&name, &stage.seen(0, 0).await?));
        stage.stop().await?;
        // The fake Meta may use less than one tick for a few messages.
        let (cpu, meta) = (us_each(cpu, all), us_each(meta.max(measure::TICK), all));
        let (by_meta, memory) = (cpu / meta, mb(peak));
        progress(&format!(
            "{name}: {cpu:.2} us of worker and Redis per message, {by_meta:.2} times that of the fake Meta; \
            {memory:.1} MB"
        ));
        let values = [cpu, meta, by_meta, all as f64 / took, memory];
        match measured.iter_mut().find(|(case, _)| *case == name) {
            Some((_, rounds)) => rounds.iter_mut().zip(values).for_each(|(rounds, value)| rounds.push(value)),
            None => measured.push((name, values.map(|value| vec![value]))),
        }
    }
    let mut findings = Findings::default();
    for (name, [cpu, meta, by_meta, rate, memory]) in measured {
        findings.case("cpu_us_per_message", &name, cpu);
        findings.case("meta_cpu_us_per_message", &name, meta);
        findings.case("cpu_by_meta", &name, by_meta);
        findings.case("messages_per_second", &name, rate);
        findings.case("worker_memory_mb", &name, memory);
    }
    for (figure, of) in [("cpu_spread_percent", "cpu_us_per_message"), ("cpu_by_meta_spread_percent", "cpu_by_meta")] {
        let (least, most) = spread(findings.values(of));
        findings.one(figure, "", 100.0 * (most - least) / (most + least));
    }
    let (memory_least, memory_most) = spread(findings.values("worker_memory_mb"));
    findings.one("memory_growth_mb", "", memory_most - memory_least);
    findings.plots.push(Plot::throughput(throughput));
    Ok(findings)
}

fn spread(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| (least.min(value), most.max(value)))
}

/// Sends concurrent campaigns. Returns the CPU time used.
async fn send(stage: &mut Stage, recipients: u64, campaigns: usize) -> Result<Usage, LoadError> {
    let lines = stage.lines.clone();
    let mut ids = Vec::with_capacity(campaigns);
    for _ in 0..campaigns {
        let (id, uploaded) = stage.draft(&lines, Rows::unique(recipients)).await?;
        check_equal("recipients accepted", uploaded.accepted, recipients)?;
        ids.push(id);
    }
    stage.reset_arrivals().await?;
    let all = recipients * campaigns as u64;
    let before;
    if let [id] = ids.as_slice() {
        before = stage.usage()?;
        stage.launch(*id).await?;
        stage.wait_for_arrivals(all).await?;
        stage.wait_for_completion(*id).await?;
    } else {
        for line in &lines {
            stage.client.change_line(line, ControlAction::Pause).await?;
        }
        for id in &ids {
            stage.launch(*id).await?;
        }
        before = stage.usage()?;
        for line in &lines {
            stage.client.change_line(line, ControlAction::Resume).await?;
        }
        stage.wait_for_arrivals(all).await?;
        while !stage.client.campaigns(Some(CampaignState::Running), None).await?.rows.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let usage = stage.usage()?.since(before);
    check_equal("messages that arrived", stage.seen(0, 0).await?.total, all)?;
    Ok(usage)
}
