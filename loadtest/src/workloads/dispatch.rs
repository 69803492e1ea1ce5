//! Dispatch: a campaign with everything on, in alternation with the bare loop, so that both run under the same
//! conditions.
//!
//! Counted for dispatch: from the launch through the API until the campaign is completed, with every outcome in Redis.
//! Counted for the bare loop: from the first request to the last response. Not counted: the upload, and the warm-up of
//! each, which opens the connections.

use super::{check_equal, mb, progress, us_each};
use crate::{
    bare::Sent,
    error::LoadError,
    plot::{Plot, Series},
    recipients::Rows,
    report::Findings,
    scenario::Setup,
    stage::{Helper, Stage},
};

/// Runs the workload.
pub async fn run(
    setup: &Setup,
    recipients: u64,
    warm_up: u64,
    rounds: usize,
    streams: usize,
) -> Result<Findings, LoadError> {
    let mut stage = Stage::start(setup, false).await?;
    send(&mut stage, warm_up).await?;
    let mut findings = Findings::default();
    let (mut rates, mut bares, mut ratios, mut throughput) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut all, mut workers, mut redis, mut meta, mut bare_cpu) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        stage.reset_arrivals().await?;
        let sent = bare(&mut stage, recipients, warm_up, streams).await?;
        throughput.push(Series::throughput(format!("bare loop, round {round}"), &stage.seen(0, 0).await?));
        bares.push(recipients as f64 / sent.took.as_secs_f64());
        bare_cpu.push(us_each(sent.cpu, recipients));

        let (took, usage) = send(&mut stage, recipients).await?;
        throughput.push(Series::throughput(format!("dispatch, round {round}"), &stage.seen(0, 0).await?));
        rates.push(recipients as f64 / took);
        ratios.push(rates[round - 1] / bares[round - 1]);
        workers.push(us_each(usage.workers, recipients));
        redis.push(us_each(usage.redis, recipients));
        meta.push(us_each(usage.meta, recipients));
        all.push(us_each(usage.workers + usage.redis, recipients));
        progress(&format!(
            "round {round} of {rounds}: bare loop {:.0}/s, dispatch {:.0}/s, ratio {:.3}",
            bares[round - 1],
            rates[round - 1],
            ratios[round - 1]
        ));
    }
    findings.one("worker_memory_mb", "", mb(stage.worker_peak_bytes()?));
    stage.stop().await?;
    findings.rounds("messages_per_second", rates);
    findings.rounds("bare_per_second", bares);
    findings.rounds("ratio", ratios);
    findings.rounds("cpu_us_per_message", all);
    findings.rounds("worker_cpu_us_per_message", workers);
    findings.rounds("redis_cpu_us_per_message", redis);
    findings.rounds("meta_cpu_us_per_message", meta);
    findings.rounds("bare_cpu_us_per_message", bare_cpu);
    // Plot only the last round of each: more curves would be unreadable.
    findings.plots.push(Plot::throughput(throughput.split_off(throughput.len() - 2)));
    Ok(findings)
}

async fn bare(stage: &mut Stage, messages: u64, warm_up: u64, streams: usize) -> Result<Sent, LoadError> {
    let (lines, numbers) = (stage.lines.len().to_string(), [messages, warm_up].map(|n| n.to_string()));
    let streams = streams.to_string();
    let [messages_text, warm_up_text] = &numbers;
    let words = ["bare", &stage.meta_url, "--messages", messages_text, "--warm-up", warm_up_text];
    let mut arguments: Vec<_> =
        words.into_iter().chain(["--streams", &streams, "--lines", &lines]).map(Into::into).collect();
    arguments.extend(stage.ca.iter().flat_map(|ca| ["--ca".into(), ca.into()]));
    let mut bare = Helper::start(arguments)?;
    let sent = serde_json::from_str(&bare.line().await?).map_err(LoadError::of)?;
    bare.end().await?;
    check_equal("messages of the bare loop", stage.seen(0, 0).await?.total, messages + warm_up)?;
    Ok(sent)
}

/// Sends a campaign. Returns the seconds from its launch to its completion, and the CPU time used.
pub(super) async fn send(stage: &mut Stage, recipients: u64) -> Result<(f64, crate::stage::Usage), LoadError> {
    let lines = stage.lines.clone();
    let (id, uploaded) = stage.draft(&lines, Rows::unique(recipients)).await?;
    check_equal("recipients accepted", uploaded.accepted, recipients)?;
    stage.reset_arrivals().await?;
    let before = stage.usage()?;
    stage.launch(id).await?;
    stage.wait_for_arrivals(recipients).await?;
    stage.wait_for_completion(id).await?;
    let usage = stage.usage()?.since(before);
    check_equal("messages that arrived", stage.seen(0, 0).await?.total, recipients)?;
    Ok((usage.took.as_secs_f64(), usage))
}
