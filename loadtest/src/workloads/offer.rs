//! Offers a constant load: the lines get rates that add up to it, and a campaign that outlasts the measured time is
//! launched on them.
//!
//! Counted: the messages that are due in `duration`, after the `warm_up`, from due to their arrival at the stand-in for
//! Meta, as [`crate::schedule`] defines it. The warm-up is part of the schedule: what is late at its end stays late.
//! Not counted: the upload.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use pregon::{client::ControlAction, domain::CampaignId, telemetry::clock};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    error::LoadError,
    schedule::{Lateness, Schedule},
    stage::Usage,
    under_test::UnderTest,
};

/// More recipients than are due: seconds of the load, so that no line runs out of work before the end.
const SPARE_SECONDS: f64 = 1.0;
/// Additional recipients of each line, because recipients are assigned to lines in chunks.
const SPARE_RECIPIENTS: f64 = 512.0;

/// By how much the rate that a worker reports may differ from the one that is expected, as a share.
const TOLERANCE: f64 = 0.001;

/// How long to wait until new rates are in force, and until the messages in flight are answered.
const TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A load and what became of it.
pub(crate) struct Offered {
    /// Messages per second that were due.
    pub per_second: f64,
    /// Messages per second that arrived.
    pub achieved: f64,
    /// From the request of the launch to the first arrival, in milliseconds; NaN if nothing arrived.
    pub first_ms: f64,
    /// Microseconds from due to arrival.
    pub late: Histogram<u64>,
    /// CPU time, if the processes are ours.
    pub usage: Option<Usage>,
}

impl Offered {
    /// What arrived, in percent of what was due.
    pub(crate) fn achieved_percent(&self) -> f64 {
        100.0 * self.achieved / self.per_second
    }

    /// The cores that workers, Redis and the fake Meta used, by the names of their figures; empty if they are not ours.
    pub(crate) fn cores(&self) -> Vec<(&'static str, f64)> {
        let Some(Usage { took, workers, redis, meta, .. }) = self.usage else { return Vec::new() };
        let cores = |time: Duration| time.as_secs_f64() / took.as_secs_f64();
        vec![("worker_cores", cores(workers)), ("redis_cores", cores(redis)), ("meta_cores", cores(meta))]
    }

    /// A quantile of the time from due to arrival, in milliseconds.
    pub(crate) fn late_ms(&self, quantile: f64) -> f64 {
        self.late.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// Offers `per_second` messages per second, over all lines, and waits until nothing is in flight any more.
pub(crate) async fn offer(
    to: &mut impl UnderTest,
    per_second: f64,
    warm_up: Duration,
    duration: Duration,
) -> Result<Offered, LoadError> {
    let lines = to.lines().to_vec();
    let seconds = (warm_up + duration).as_secs_f64() + SPARE_SECONDS;
    let recipients = (per_second * seconds + SPARE_RECIPIENTS * lines.len() as f64) as u64;
    let paces = set_rates(to, per_second).await?;
    let id = to.draft(&lines, recipients).await?;
    to.forget().await?;

    let (launched, launched_us) = (Instant::now(), clock::now_us());
    to.client().change_campaign(id, ControlAction::Launch).await?;
    sleep_until(launched + warm_up).await;
    let before = to.usage()?;
    sleep_until(launched + warm_up + duration).await;
    let usage = to.usage()?;
    let from_us = launched_us + warm_up.as_micros() as u64;
    let until_us = from_us + duration.as_micros() as u64;
    let schedule = Schedule { launched_us, per_second: paces, from_us, until_us };
    let lateness = to.lateness(id, &schedule).await?;
    end(to, id).await?;

    let Lateness { due, arrived, first_us, .. } = lateness;
    Ok(Offered {
        per_second: due as f64 / duration.as_secs_f64(),
        achieved: arrived as f64 / duration.as_secs_f64(),
        first_ms: first_us.map_or(f64::NAN, |first_us| first_us.saturating_sub(launched_us) as f64 / 1e3),
        late: lateness.histogram(),
        usage: usage.zip(before).map(|(usage, before)| usage.since(before)),
    })
}

/// Sets the rates of the lines so that campaigns may send `per_second` on all of them together. Returns what campaigns may
/// send on each line, by its id.
async fn set_rates(to: &impl UnderTest, per_second: f64) -> Result<BTreeMap<String, f64>, LoadError> {
    let each = per_second / to.lines().len() as f64;
    let mut paces = BTreeMap::new();
    for line in to.lines() {
        let rate = each / (1.0 - to.headroom());
        to.client().set_rate(line, Some(rate)).await?;
        paces.insert(line.to_string(), each);
    }
    for line in to.lines() {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let view = to.client().line(line).await?;
            if view.allowed_now.is_some_and(|allowed| (allowed / each - 1.0).abs() <= TOLERANCE) {
                break;
            }
            if Instant::now() > deadline {
                let allowed = view.allowed_now.map_or("nothing".into(), |allowed| format!("{allowed:.1}"));
                let what = format!("campaigns may send {allowed} a second instead of {each:.1}");
                return Err(LoadError::Failed(format!("line {line} is {}: {what}", view.state)));
            }
            sleep(POLL_INTERVAL).await;
        }
    }
    Ok(paces)
}

/// Cancels a campaign, and waits until none of its messages is in flight.
async fn end(to: &impl UnderTest, id: CampaignId) -> Result<(), LoadError> {
    to.client().change_campaign(id, ControlAction::Cancel).await?;
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let statistics = to.client().campaign(id).await?.statistics.clone().unwrap_or_default();
        if statistics.by_state.in_flight == 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            let n = statistics.by_state.in_flight;
            return Err(LoadError::Failed(format!("campaign {id} is cancelled and still has {n} messages in flight")));
        }
        sleep(POLL_INTERVAL).await;
    }
}
