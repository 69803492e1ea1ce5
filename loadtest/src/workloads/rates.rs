//! Rates: whether each line sends at its full rate while all lines have work, and whether any line is too fast.
//!
//! Counted at the fake Meta, by arrival. The use of a line is the number of arrivals in `duration`, in percent of what
//! its rate allows; the `warm_up` before does not count. The worst second is the most arrivals in any one-second
//! window, warm-up included.

use std::time::Duration;

use super::{check_equal, mb, progress};
use pregon::telemetry::clock::now_us;

use crate::{
    error::LoadError,
    plot::{Plot, Series},
    recipients::Rows,
    report::Findings,
    scenario::{RatesCase, Setup},
    stage::Stage,
};

/// Additional recipients of each line, in seconds at its rate, so that no line runs out of work before the end.
const SPARE_SECONDS: f64 = 2.0;
/// Additional recipients of each line, because recipients are assigned to lines in chunks.
const SPARE_RECIPIENTS: f64 = 512.0;

/// Runs the workload.
pub async fn run(
    setup: &Setup,
    warm_up: Duration,
    duration: Duration,
    cases: &[RatesCase],
) -> Result<Findings, LoadError> {
    let mut findings = Findings::default();
    if cases.is_empty() {
        run_on(setup, warm_up, duration, "", &mut findings).await?;
    }
    for case in cases {
        let RatesCase { workers, lines, messages_per_second } = *case;
        let setup = Setup { workers, lines, messages_per_second, ..setup.clone() };
        let name = format!("{messages_per_second}/s, {workers} workers, {lines} lines");
        run_on(&setup, warm_up, duration, &name, &mut findings).await?;
    }
    Ok(findings)
}

async fn run_on(
    setup: &Setup,
    warm_up: Duration,
    duration: Duration,
    case: &str,
    findings: &mut Findings,
) -> Result<(), LoadError> {
    let mut stage = Stage::start(setup, false).await?;
    let (lines, rate) = (stage.lines.clone(), setup.messages_per_second);
    let seconds = (warm_up + duration).as_secs_f64() + SPARE_SECONDS;
    let recipients = ((rate * seconds + SPARE_RECIPIENTS) * lines.len() as f64) as u64;
    let (id, uploaded) = stage.draft(&lines, Rows::unique(recipients)).await?;
    check_equal("recipients accepted", uploaded.accepted, recipients)?;
    stage.launch(id).await?;
    stage.wait_for_arrivals(1).await?;
    tokio::time::sleep(warm_up).await;
    let (before, from_us) = (stage.usage()?, now_us());
    tokio::time::sleep(duration).await;
    let (usage, until_us) = (stage.usage()?.since(before), now_us());
    let seen = stage.seen(from_us, until_us).await?;
    let peak = stage.worker_peak_bytes()?;
    stage.client.change_campaign(id, pregon::client::ControlAction::Cancel).await?;
    stage.stop().await?;

    let counted = (until_us - from_us) as f64 / 1e6;
    // A line without arrivals is not in the map.
    let of = |line: &pregon::domain::LineId| seen.lines.get(line.as_str()).copied().unwrap_or_default();
    let uses: Vec<f64> = lines.iter().map(|line| 100.0 * of(line).within as f64 / (rate * counted)).collect();
    let worst: Vec<f64> = lines.iter().map(|line| of(line).worst_second as f64).collect();
    let within: u64 = lines.iter().map(|line| of(line).within).sum();
    let use_min = uses.iter().copied().fold(f64::INFINITY, f64::min);
    let worst_max = worst.iter().copied().fold(0.0, f64::max);
    findings.one("use_percent", case, use_min);
    findings.one("worst_second_percent", case, 100.0 * worst_max / rate);
    // The guaranteed maximum is the rate, plus one percent, plus one message, rounded down.
    findings.one("worst_second_beyond", case, (worst_max - (rate * 1.01 + 1.0).floor()).max(0.0));
    findings.one("messages_per_second", case, within as f64 / counted);
    let cores = |time: Duration| time.as_secs_f64() / usage.took.as_secs_f64();
    findings.one("worker_cores", case, cores(usage.workers));
    findings.one("redis_cores", case, cores(usage.redis));
    findings.one("meta_cores", case, cores(usage.meta));
    findings.one("worker_memory_mb", case, mb(peak));
    let stage = if case.is_empty() { String::new() } else { format!(": {case}") };
    progress(&format!("{} lines{stage}: use {use_min:.2} %, worst second {worst_max} of {rate}", lines.len()));
    let series = vec![
        Series::by_line("use", uses.into_iter()),
        Series::by_line("worst second", worst.into_iter().map(|worst| 100.0 * worst / rate)),
    ];
    let slug: String = case.chars().filter(|c| c.is_ascii_alphanumeric() || *c == ' ').collect();
    let name = format!("lines {slug}").trim().replace(' ', "-");
    findings.plots.push(Plot::lines(&name, format!("each line, in percent of its rate{stage}"), series));
    if case.is_empty() {
        findings.plots.push(Plot::throughput(vec![Series::throughput("all lines", &seen)]));
    }
    Ok(())
}
