//! Upload: recipients as NDJSON over one connection, with duplicates.
//!
//! Counted: from the request to its response, which is sent when all rows are in Redis. This process generates the rows
//! while it sends them, and shares the cores. Memory: the peak of the worker in a small upload and in the large ones.

use std::time::Instant;

use super::{check_equal, mb, progress, us_each};
use crate::{error::LoadError, recipients::Rows, report::Findings, scenario::Setup, stage::Stage};

/// Rows of the first upload, which warms up the worker and measures its base memory.
const WARM_UP: u64 = 20_000;

/// Runs the workload.
pub async fn run(setup: &Setup, recipients: u64, duplicate_every: u64, rounds: usize) -> Result<Findings, LoadError> {
    let stage = Stage::start(setup, false).await?;
    stage.draft(&stage.lines, Rows::unique(WARM_UP)).await?;
    let small = stage.worker_peak_bytes()?;
    stage.reset_worker_peak()?;
    let (mut rates, mut workers, mut redis) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        let rows = Rows { duplicate_every, ..Rows::unique(recipients) };
        let id = stage.create(&stage.lines).await?;
        let (before, began) = (stage.usage()?, Instant::now());
        let body = reqwest::Body::wrap_stream(rows.ndjson());
        let uploaded = stage.client.upload(id, "load", &pregon::intake::Format::Ndjson.into(), None, body).await?;
        let (took, usage) = (began.elapsed(), stage.usage()?.since(before));
        check_equal("duplicates found", uploaded.rejected_count, rows.duplicates())?;
        check_equal("recipients accepted", uploaded.accepted, recipients - rows.duplicates())?;
        rates.push(recipients as f64 / took.as_secs_f64());
        workers.push(us_each(usage.workers, recipients));
        redis.push(us_each(usage.redis, recipients));
        progress(&format!("round {round} of {rounds}: {:.0} recipients/s", rates[round - 1]));
    }
    let peak = stage.worker_peak_bytes()?;
    stage.stop().await?;
    let mut findings = Findings::default();
    findings.rounds("recipients_per_second", rates);
    findings.rounds("worker_cpu_us_per_recipient", workers);
    findings.rounds("redis_cpu_us_per_recipient", redis);
    findings.one("worker_memory_mb", "", mb(peak));
    findings.one("memory_growth_mb", "", mb(peak.max(small)) - mb(small));
    Ok(findings)
}
