//! Webhooks: throughput and latency of signed statuses of messages that were really sent.
//!
//! First a campaign is sent, and the fake Meta stores the callback data and id of each message. Then the statuses
//! arrive in waves, all `sent`, all `delivered`, all `read`, so that each changes the state of its message. At the end
//! the statistics must include every status. Bodies are built and signed before the clock starts. Counted: from a
//! request to its response, which is sent when its effect is in Redis.
//!
//! Without a schedule, each round is one wave, in alternation with the handler that only checks the signature, with the
//! same bytes. On a fixed schedule, another campaign is sent at the same time, as in production.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::{check_equal, progress, us_each};
use pregon::{api_types::Statistics, client::ControlAction, domain::CampaignId, telemetry::clock};

use crate::{
    error::LoadError,
    generator::{self, Answered},
    meta::Message,
    plot::{Plot, Series},
    recipients::Rows,
    report::Findings,
    scenario::{Arrival, Setup},
    stage::{APP_SECRET, Helper, Stage, WABA},
};

/// The statuses of a message, in Meta's order.
const WAVES: [&str; 3] = ["sent", "delivered", "read"];

/// The factor by which the other campaign has more recipients than can be sent in the measured time.
const SPARE: f64 = 1.2;

/// Runs the workload.
pub async fn run(
    setup: &Setup,
    recipients: u64,
    batch: usize,
    connections: usize,
    arrival: Arrival,
) -> Result<Findings, LoadError> {
    let (mut stage, id, messages) = send_campaign(setup, recipients).await?;
    let mut findings = Findings::default();
    match arrival {
        Arrival::Closed { rounds } => closed(&stage, id, &messages, batch, connections, rounds, &mut findings).await?,
        Arrival::Open { per_second, duration, sending } => {
            let interval = Duration::from_secs_f64(batch as f64 / per_second);
            let statuses = (per_second * duration.as_secs_f64()) as u64;
            open(&mut stage, id, &messages, batch, connections, interval, statuses, sending, &mut findings).await?;
        }
    }
    stage.stop().await?;
    Ok(findings)
}

/// Starts a stage, sends a campaign on it, and returns the messages.
pub(super) async fn send_campaign(
    setup: &Setup,
    recipients: u64,
) -> Result<(Stage, CampaignId, Vec<Message>), LoadError> {
    let mut stage = Stage::start(setup, true).await?;
    let lines = stage.lines.clone();
    let (id, uploaded) = stage.draft(&lines, Rows::unique(recipients)).await?;
    check_equal("recipients accepted", uploaded.accepted, recipients)?;
    stage.launch(id).await?;
    stage.wait_for_arrivals(recipients).await?;
    stage.wait_for_completion(id).await?;
    let messages = stage.messages().await?;
    check_equal("messages stored", messages.len() as u64, recipients)?;
    Ok((stage, id, messages))
}

/// Sends statuses as fast as they are answered.
async fn closed(
    stage: &Stage,
    id: CampaignId,
    messages: &[Message],
    batch: usize,
    connections: usize,
    rounds: usize,
    findings: &mut Findings,
) -> Result<(), LoadError> {
    let n = messages.len() as u64;
    let mut baseline = Helper::start(vec!["baseline".into()])?;
    let baseline_at: SocketAddr = baseline.line().await?.parse().map_err(LoadError::of)?;
    let (mut rates, mut baselines, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut p50, mut p99, mut workers, mut redis) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (round, wave) in WAVES.into_iter().enumerate().take(rounds) {
        let requests = status_requests(messages, wave, batch);
        let answered = generator::run(baseline_at, requests.clone(), connections, None).await?;
        baselines.push(n as f64 / answered.took.as_secs_f64());
        let before = stage.usage()?;
        let answered = generator::run(stage.webhooks, requests, connections, None).await?;
        let usage = stage.usage()?.since(before);
        check_counted(stage, id, wave, n).await?;
        rates.push(n as f64 / answered.took.as_secs_f64());
        ratios.push(rates[round] / baselines[round]);
        p50.push(quantile_ms(&answered, 0.5));
        p99.push(quantile_ms(&answered, 0.99));
        workers.push(us_each(usage.workers, n));
        redis.push(us_each(usage.redis, n));
        progress(&format!(
            "round {} of {rounds}: baseline {:.0} statuses/s, worker {:.0} statuses/s, ratio {:.3}",
            round + 1,
            baselines[round],
            rates[round],
            ratios[round]
        ));
        if round + 1 == rounds {
            findings
                .plots
                .push(Plot::latency(vec![Series::quantiles("as fast as they are answered", &answered.latency)]));
        }
    }
    baseline.end().await?;
    findings.rounds("statuses_per_second", rates);
    findings.rounds("baseline_per_second", baselines);
    findings.rounds("ratio", ratios);
    findings.rounds("p50_ms", p50);
    findings.rounds("p99_ms", p99);
    findings.rounds("worker_cpu_us_per_status", workers);
    findings.rounds("redis_cpu_us_per_status", redis);
    Ok(())
}

/// Sends statuses on a fixed schedule, while another campaign is sent.
#[expect(clippy::too_many_arguments, reason = "called once, with what the scenario says")]
async fn open(
    stage: &mut Stage,
    id: CampaignId,
    messages: &[Message],
    batch: usize,
    connections: usize,
    interval: Duration,
    statuses: u64,
    sending: f64,
    findings: &mut Findings,
) -> Result<(), LoadError> {
    let waves = WAVES.into_iter().flat_map(|wave| status_requests(messages, wave, batch));
    let requests: Vec<Bytes> = waves.take(usize::try_from(statuses).unwrap_or(usize::MAX).div_ceil(batch)).collect();
    let duration = interval.mul_f64(requests.len() as f64);
    let line = stage.lines[..1].to_vec();
    stage.client.set_rate(&line[0], Some(sending)).await?;
    let rows = Rows::unique((sending * SPARE * (duration.as_secs_f64() + 2.0)) as u64);
    let (other, _) = stage.draft(&line, rows).await?;
    stage.reset_arrivals().await?;
    stage.launch(other).await?;
    stage.wait_for_arrivals(1).await?;

    let (before, from_us) = (stage.usage()?, clock::now_us());
    let n = (requests.len() * batch) as f64;
    let answered = generator::run(stage.webhooks, requests, connections, Some(interval)).await?;
    let usage = stage.usage()?.since(before);
    let seen = stage.seen(from_us, clock::now_us()).await?;
    stage.client.change_campaign(other, ControlAction::Cancel).await?;
    // Only the last complete wave is checked: after an incomplete one, some recipients are one status behind.
    let whole = (statuses / messages.len() as u64).min(WAVES.len() as u64) as usize;
    if whole > 0 {
        check_counted(stage, id, WAVES[whole - 1], messages.len() as u64).await?;
    }
    let sent: u64 = seen.lines.values().map(|line| line.within).sum();
    findings.one("offered_per_second", "", batch as f64 / interval.as_secs_f64());
    findings.one("answered_per_second", "", n / answered.took.as_secs_f64());
    findings.one("sent_per_second", "", sent as f64 / usage.took.as_secs_f64());
    for (name, quantile) in [("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99), ("p999_ms", 0.999), ("max_ms", 1.0)] {
        findings.one(name, "", quantile_ms(&answered, quantile));
    }
    findings.one("late_p99_ms", "", answered.late.value_at_quantile(0.99) as f64 / 1e3);
    findings.one("worker_cores", "", usage.workers.as_secs_f64() / usage.took.as_secs_f64());
    findings.one("redis_cores", "", usage.redis.as_secs_f64() / usage.took.as_secs_f64());
    let latency = Series::quantiles("from due time to response", &answered.latency);
    findings.plots.push(Plot::latency(vec![latency, Series::quantiles("delay of the generator", &answered.late)]));
    findings.plots.push(Plot::throughput(vec![Series::throughput("messages sent meanwhile", &seen)]));
    Ok(())
}

/// Fails unless the statistics count all `n` recipients as `wave`.
async fn check_counted(stage: &Stage, id: CampaignId, wave: &str, n: u64) -> Result<(), LoadError> {
    let Statistics { funnel, .. } = stage.client.campaign(id).await?.statistics.clone().unwrap_or_default();
    let counted = match wave {
        "sent" => funnel.sent,
        "delivered" => funnel.delivered,
        _ => funnel.read,
    };
    check_equal(&format!("recipients counted as {wave}"), counted, n)
}

/// Complete, signed HTTP requests with the status `wave` of all messages.
fn status_requests(messages: &[Message], wave: &str, batch: usize) -> Vec<Bytes> {
    let now = clock::now().seconds();
    requests(messages, batch, |messages| statuses(messages, wave, now))
}

/// Complete, signed HTTP requests about all messages, in batches of one line.
pub(super) fn requests(messages: &[Message], batch: usize, body: impl Fn(&[&Message]) -> String) -> Vec<Bytes> {
    // As at Meta, all statuses of a request belong to one line.
    let mut by_line: Vec<&Message> = messages.iter().collect();
    if batch > 1 {
        by_line.sort_by(|a, b| a.line.cmp(&b.line));
    }
    let mac = Hmac::<Sha256>::new_from_slice(APP_SECRET.as_bytes()).expect("an HMAC takes a key of any length");
    by_line
        .chunk_by(|a, b| batch == 1 || a.line == b.line)
        .flat_map(|of_line| of_line.chunks(batch))
        .map(|messages| {
            let body = body(messages);
            let signature = hex::encode(mac.clone().chain_update(&body).finalize().into_bytes());
            let length = body.len();
            Bytes::from(format!(
                "POST /webhooks/meta HTTP/1.1\r\nhost: pregon\r\ncontent-type: application/json\r\n\
                 x-hub-signature-256: sha256={signature}\r\ncontent-length: {length}\r\n\r\n{body}"
            ))
        })
        .collect()
}

/// A webhook with the status `wave` of messages of one line.
fn statuses(messages: &[&Message], wave: &str, now: u64) -> String {
    let status = |message: &&Message| {
        let Message { to, token, wamid, .. } = message;
        format!(
            r#"{{"id":"{wamid}","status":"{wave}","timestamp":"{now}","recipient_id":"{to}","biz_opaque_callback_data":"{token}","conversation":{{"id":"1a2b3c4d5e6f7a8b9c0d1e2f3a4b5c6d","expiration_timestamp":"{now}","origin":{{"type":"utility"}}}},"pricing":{{"billable":true,"pricing_model":"PMP","type":"regular","category":"utility"}}}}"#
        )
    };
    body(&messages[0].line, "statuses", &messages.iter().map(status).collect::<Vec<_>>().join(","))
}

/// The body of a webhook with `items` of `line`, in Meta's format.
pub(super) fn body(line: &str, kind: &str, items: &str) -> String {
    format!(
        r#"{{"object":"whatsapp_business_account","entry":[{{"id":"{WABA}","changes":[{{"value":{{"messaging_product":"whatsapp","metadata":{{"display_phone_number":"5491155550001","phone_number_id":"{line}"}},"{kind}":[{items}]}},"field":"messages"}}]}}]}}"#
    )
}

pub(super) fn quantile_ms(answered: &Answered, quantile: f64) -> f64 {
    answered.latency.value_at_quantile(quantile) as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use pregon::{
        domain::Secret,
        webhook::{
            fields::{WebhookChange, messages::status::StatusKind},
            payload::Payload,
            signature::{Signature, Verifier},
        },
    };

    fn message(n: u32, line: &str) -> Message {
        let (to, token) = (format!("54911000{n:05}"), format!("p1.x.0.{n}.1.ff"));
        Message { line: line.into(), to, token, wamid: format!("wamid.{n}") }
    }

    #[test]
    fn requests_are_signed_of_one_line_and_have_each_status_once() {
        let messages: Vec<Message> = (0..10).map(|n| message(n, if n % 2 == 0 { "3001" } else { "3002" })).collect();
        for batch in [1, 3] {
            let requests = status_requests(&messages, "delivered", batch);
            assert_eq!(requests.len(), if batch == 1 { 10 } else { 4 });
            let mut seen = Vec::new();
            for request in &requests {
                let text = std::str::from_utf8(request).expect("text");
                let (head, body) = text.split_once("\r\n\r\n").expect("a head");
                let signature =
                    head.split("sha256=").nth(1).and_then(|rest| rest.split("\r\n").next()).expect("signed");
                let signature = Signature::read(format!("sha256={signature}").as_bytes()).expect("a signature");
                assert!(Verifier::new(&[Secret::new(APP_SECRET)]).accepts(&signature, body.as_bytes()));
                assert!(head.ends_with(&format!("content-length: {}", body.len())));
                let payload = Payload::read(body.as_bytes()).expect("a payload");
                let [entry] = payload.entries.as_slice() else { panic!("{payload:?}") };
                let [WebhookChange::Messages(of_line)] = entry.changes.as_slice() else { panic!("{payload:?}") };
                for status in &of_line.statuses {
                    assert_eq!((status.kind, entry.waba.as_ref()), (StatusKind::Delivered, WABA));
                    let of = messages.iter().find(|message| message.wamid == status.wamid).expect("one of them");
                    assert_eq!((of.line.as_str(), Some(of.token.as_str())), (&*of_line.line, status.token.as_deref()));
                    seen.push(of.wamid.clone());
                }
            }
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), 10);
        }
    }
}
