//! Inbound messages: throughput of signed webhooks in which people answer messages that were really sent.
//!
//! First a campaign is sent, and the fake Meta stores the callback data of each message. In each round every recipient
//! taps a button once, which carries the callback data, as fast as the taps are stored. At the end every recipient must
//! count as replied.

use super::{
    check_equal, mb, progress, us_each,
    webhooks::{body, quantile_ms, requests, send_campaign},
};
use pregon::telemetry::clock;

use crate::{
    error::LoadError,
    generator,
    meta::Message,
    plot::{Plot, Series},
    report::Findings,
    scenario::Setup,
};

/// Runs the workload.
pub async fn run(
    setup: &Setup,
    recipients: u64,
    batch: usize,
    connections: usize,
    rounds: usize,
) -> Result<Findings, LoadError> {
    let (stage, id, messages) = send_campaign(setup, recipients).await?;
    let mut findings = Findings::default();
    let (mut rates, mut p99, mut workers, mut redis) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        let now = clock::now().seconds();
        let requests = requests(&messages, batch, |messages| {
            let texts: Vec<String> = messages.iter().map(|message| tap(message, round, now)).collect();
            body(&messages[0].line, "messages", &texts.join(","))
        });
        let before = stage.usage()?;
        let answered = generator::run(stage.webhooks, requests, connections, None).await?;
        let usage = stage.usage()?.since(before);
        rates.push(recipients as f64 / answered.took.as_secs_f64());
        p99.push(quantile_ms(&answered, 0.99));
        workers.push(us_each(usage.workers, recipients));
        redis.push(us_each(usage.redis, recipients));
        progress(&format!("round {round} of {rounds}: {:.0} messages/s", rates[round - 1]));
        if round == rounds {
            findings.plots.push(Plot::latency(vec![Series::quantiles("until it is stored", &answered.latency)]));
        }
    }
    let statistics = stage.client.campaign(id).await?.statistics.clone().unwrap_or_default();
    check_equal("recipients counted as replied", statistics.funnel.replied, recipients)?;
    findings.rounds("messages_per_second", rates);
    findings.rounds("p99_ms", p99);
    findings.rounds("worker_cpu_us_per_message", workers);
    findings.rounds("redis_cpu_us_per_message", redis);
    findings.one("worker_memory_mb", "", mb(stage.worker_peak_bytes()?));
    stage.stop().await?;
    Ok(findings)
}

/// A tap on a button of a message, in Meta's format.
fn tap(Message { to, token, wamid, .. }: &Message, round: usize, now: u64) -> String {
    format!(
        r#"{{"context":{{"from":"5491155550001","id":"{wamid}"}},"from":"{to}","id":"{wamid}.{round}","timestamp":"{now}","type":"button","button":{{"payload":"{token}","text":"Sí"}}}}"#
    )
}
