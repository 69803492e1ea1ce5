//! Memory of Redis for each recipient: while it is pending, after it was sent, and after its retention.
//!
//! Measured as the growth of `used_memory`, which counts everything that Redis has allocated. A small campaign runs
//! first, so that memory that Redis allocates only once, such as for scripts, is not counted. The workload does not
//! wait for the end of the retention: it calls the housekeeping function with a later time.

use std::time::Duration;

use deadpool_redis::redis::cmd;

use super::{check_equal, progress};
use pregon::redis::Store;

use crate::{error::LoadError, recipients::Rows, report::Findings, scenario::Setup, stage::Stage};

const WARM_UP: u64 = 10_000;

/// The pause between two polls of the memory. Redis frees unlinked keys and buffers with some delay.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The most polls. Buffers of the worker's own commands change the memory all the time.
const POLLS_MAX: usize = 20;

/// The memory is stable if it differs by less than this share from the poll before.
const STABLE_SHARE: f64 = 0.005;

/// How long to wait until the campaign is retired.
const RETIRE_WAIT: Duration = Duration::from_secs(30);

/// Runs the workload.
pub async fn run(setup: &Setup, recipients: u64) -> Result<Findings, LoadError> {
    let mut stage = Stage::start(setup, false).await?;
    let store = stage.store().await?;
    send(&mut stage, &store, WARM_UP, None).await?;
    let mut used = Vec::new();
    used.push(used_memory(&store).await?);
    send(&mut stage, &store, recipients, Some(&mut used)).await?;
    stage.stop().await?;
    let [before, pending, sent, kept] = used.as_slice() else {
        return Err(LoadError::Failed("a measurement is missing".into()));
    };
    let each = |from: &u64, to: &u64| (*to as f64 - *from as f64) / recipients as f64;
    let mut findings = Findings::default();
    findings.one("pending_bytes", "", each(before, pending));
    findings.one("message_id_bytes", "", each(pending, sent));
    findings.one("kept_bytes", "", each(before, kept));
    Ok(findings)
}

/// Runs a campaign from its upload to its retirement. Appends to `used` the memory while the recipients are pending,
/// after they were sent, and after they were dropped.
async fn send(
    stage: &mut Stage,
    store: &Store,
    recipients: u64,
    mut used: Option<&mut Vec<u64>>,
) -> Result<(), LoadError> {
    let lines = stage.lines.clone();
    let (id, uploaded) = stage.draft(&lines, Rows::unique(recipients)).await?;
    check_equal("recipients accepted", uploaded.accepted, recipients)?;
    if let Some(used) = &mut used {
        used.push(used_memory(store).await?);
    }
    stage.reset_arrivals().await?;
    stage.launch(id).await?;
    stage.wait_for_arrivals(recipients).await?;
    stage.wait_for_completion(id).await?;
    if let Some(used) = &mut used {
        used.push(used_memory(store).await?);
    }
    let retired = tokio::time::timeout(RETIRE_WAIT, async {
        // A time one second later: the campaign is due as soon as it has ended.
        let later = store.time().await?.after(Duration::from_secs(1));
        while !store.ended_campaigns(later).await?.iter().any(|(ended, _)| *ended == id) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        store.forget_recipients(id).await
    });
    retired.await.map_err(|_| LoadError::Failed("the campaign was not retired".into()))?.map_err(LoadError::of)?;
    if let Some(used) = &mut used {
        used.push(used_memory(store).await?);
    }
    Ok(())
}

/// The memory that Redis uses, once it is stable.
pub(super) async fn used_memory(store: &Store) -> Result<u64, LoadError> {
    let mut used = u64::MAX;
    for _ in 0..POLLS_MAX {
        let info: String = store.query("INFO", cmd("INFO").arg("memory")).await?;
        let now = info.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse::<u64>().ok());
        let now = now.ok_or_else(|| LoadError::Failed("INFO memory has no used_memory".into()))?;
        let stable = (now.abs_diff(used) as f64) < STABLE_SHARE * now as f64;
        used = now;
        if stable {
            break;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    progress(&format!("Redis uses {used} bytes"));
    Ok(used)
}
