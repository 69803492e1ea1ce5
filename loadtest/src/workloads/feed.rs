//! The event feed: its cost for dispatch, its speed alone, and its lag under normal load.
//!
//! Cost: a campaign with the feed, in alternation with one without it, each on a stage of its own. The feed lags while
//! the campaign is sent at full speed.
//! Speed alone: from the campaign's end until every message has an event.
//! Lag: a campaign at a limited rate; the time from the arrival of the nth message at the fake Meta until n messages
//! have an event.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use pregon::{
    domain::EntryId,
    redis::{Store, feed::FeedLimits},
};

use super::{check_equal, dispatch::send, mb, progress, us_each};
use crate::{error::LoadError, recipients::Rows, report::Findings, scenario::Setup, stage::Stage};

const WARM_UP: u64 = 10_000;

/// The minimum number of messages for measuring the speed of the feed alone.
const LEFT_MIN: u64 = 10_000;

/// The pause between two polls of the feed.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How long to wait until every message has an event.
const TOLD_WAIT: Duration = Duration::from_secs(300);

/// The maximum number of events in one read.
const READ_AT_ONCE: usize = 1_000;

/// The lines and their rate on the stage for the lag: four lines with Meta's rate after an upgrade.
const LAG_LINES: usize = 4;
const LAG_LINE_RATE: f64 = 1_000.0;

/// Runs the workload.
pub async fn run(setup: &Setup, recipients: u64, rounds: usize, duration: Duration) -> Result<Findings, LoadError> {
    let mut findings = Findings::default();
    let mut without = Stage::start(&Setup { feed: false, ..setup.clone() }, false).await?;
    let mut with = FeedStage::start(&Setup { feed: true, ..setup.clone() }).await?;
    send(&mut without, WARM_UP).await?;
    send(&mut with.stage, WARM_UP).await?;
    with.wait_until_told(WARM_UP).await?;
    let (mut rates, mut plain, mut ratios, mut told, mut cost) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let (took, _) = send(&mut without, recipients).await?;
        plain.push(recipients as f64 / took);
        let told_before = with.told;
        let (took, usage) = send(&mut with.stage, recipients).await?;
        rates.push(recipients as f64 / took);
        ratios.push(rates[round] / plain[round]);
        cost.push(us_each(usage.workers + usage.redis, recipients));
        with.read().await?;
        let (left, began) = ((told_before + recipients).saturating_sub(with.told), Instant::now());
        if left < LEFT_MIN {
            let left = format!("only {left} messages were left to tell after the campaign: too few to be measured");
            return Err(LoadError::Failed(left));
        }
        with.wait_until_told(told_before + recipients).await?;
        check_equal("messages told", with.told - told_before, recipients)?;
        told.push(left as f64 / began.elapsed().as_secs_f64());
        progress(&format!(
            "round {} of {rounds}: {:.0}/s without the feed, {:.0}/s with it, ratio {:.3}; then {:.0} events/s",
            round + 1,
            plain[round],
            rates[round],
            ratios[round],
            told[round]
        ));
    }
    findings.one("worker_memory_mb", "", mb(with.stage.worker_peak_bytes()?));
    without.stop().await?;
    with.stage.stop().await?;
    findings.rounds("messages_per_second", rates);
    findings.rounds("plain_per_second", plain);
    findings.rounds("ratio", ratios);
    findings.rounds("events_per_second", told);
    findings.rounds("cpu_us_per_message", cost);
    let lag = lag(setup, duration).await?;
    findings.one("lag_p50_ms", "", quantile(&lag, 0.5));
    findings.one("lag_p99_ms", "", quantile(&lag, 0.99));
    Ok(findings)
}

/// The lags of the messages of a campaign at a limited rate, in ms, sorted.
async fn lag(setup: &Setup, duration: Duration) -> Result<Vec<f64>, LoadError> {
    let slow = Setup { feed: true, lines: LAG_LINES, messages_per_second: LAG_LINE_RATE, ..setup.clone() };
    let mut with = FeedStage::start(&slow).await?;
    let recipients = (LAG_LINES as f64 * LAG_LINE_RATE * duration.as_secs_f64()) as u64;
    let lines = with.stage.lines.clone();
    let (id, _) = with.stage.draft(&lines, Rows::unique(recipients)).await?;
    with.stage.reset_arrivals().await?;
    with.stage.launch(id).await?;
    // Pairs of a time and how many messages had arrived by then, and how many had an event.
    let (mut arrived, mut told) = (Vec::new(), Vec::new());
    let began = Instant::now();
    while with.told < recipients {
        let at = began.elapsed();
        arrived.push((at, with.stage.arrived().await?));
        with.read().await?;
        told.push((began.elapsed(), with.told));
        if at > duration + TOLD_WAIT {
            return Err(LoadError::Failed(format!("only {} of {recipients} messages are told", with.told)));
        }
        sleep(POLL_INTERVAL).await;
    }
    with.stage.stop().await?;
    let reached = |curve: &[(Duration, u64)], n: u64| {
        curve.get(curve.partition_point(|(_, count)| *count < n)).map_or(began.elapsed(), |(at, _)| *at)
    };
    let lag = |n: u64| reached(&told, n).saturating_sub(reached(&arrived, n)).as_secs_f64() * 1e3;
    let mut lags: Vec<f64> = (1..=recipients).map(lag).collect();
    lags.sort_by(f64::total_cmp);
    Ok(lags)
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted.get((sorted.len() as f64 * share) as usize).copied().unwrap_or(0.0)
}

/// A stage on which the feed is read.
struct FeedStage {
    stage: Stage,
    store: Store,
    position: EntryId,
    /// The number of messages with an accepted event.
    told: u64,
}

impl FeedStage {
    async fn start(setup: &Setup) -> Result<Self, LoadError> {
        let stage = Stage::start(setup, false).await?;
        let one = 1.try_into().map_err(LoadError::of)?;
        let limits = FeedLimits { partitions: one, retention: Duration::from_secs(3_600), length_max: 1_000 };
        let store = stage.store().await?.with_feed(Some(limits));
        Ok(Self { stage, store, position: EntryId::default(), told: 0 })
    }

    /// Reads the events since the last call.
    async fn read(&mut self) -> Result<(), LoadError> {
        loop {
            let events = self.store.events_after(0, self.position, READ_AT_ONCE).await?;
            let Some(last) = events.last() else { return Ok(()) };
            if last.id.number - events.len() as u64 > self.position.number {
                return Err(LoadError::Failed("events were removed before they were read".into()));
            }
            self.position = last.id;
            self.told +=
                events.iter().filter(|event| event.event.contains(r#""type":"recipient.accepted""#)).count() as u64;
        }
    }

    async fn wait_until_told(&mut self, n: u64) -> Result<(), LoadError> {
        let deadline = Instant::now() + TOLD_WAIT;
        loop {
            self.read().await?;
            if self.told >= n {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(LoadError::Failed(format!("only {} of {n} messages are told", self.told)));
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}
