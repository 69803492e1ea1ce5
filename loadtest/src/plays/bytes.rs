//! What a recipient takes of Redis: while it waits, once it was sent, and after its retention.
//!
//! By `used_memory`, which counts everything that Redis has allocated, less what it was before the recipients came; a small
//! campaign before that has loaded what is loaded once. The end of the retention is not waited for: the function that
//! housekeeping calls then is called with a later time.

use std::time::Duration;

use deadpool_redis::redis::cmd;

use super::{equal, say};
use pregon::redis::{Address, Store};

use crate::{error::LoadError, recipients::Rows, report::Findings, scenario::Setup, stage::Stage};

const WARM_UP: u64 = 10_000;

/// Redis frees what was unlinked, and its buffers, after a moment: between two looks at its memory.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Looks at most: buffers of the worker's own questions come and go all the time.
const LOOKS_MAX: usize = 20;

/// Its memory stands still where it differs by no more than this share from the look before.
const STILL: f64 = 0.005;

/// How long it may take until housekeeping has retired a campaign.
const RETIRE_WAIT: Duration = Duration::from_secs(30);

/// Plays it.
pub async fn play(setup: &Setup, recipients: u64) -> Result<Findings, LoadError> {
    let mut stage = Stage::start(setup, false).await?;
    let address = Address {
        url: stage.redis_url().to_owned(),
        certificates: Default::default(),
        namespace: "pregon".into(),
        timeout: Duration::from_secs(30),
        connections: 1,
    };
    let store = Store::connect(&address).await?;
    send(&mut stage, &store, WARM_UP, None).await?;
    let mut used = Vec::new();
    used.push(used_memory(&store).await?);
    send(&mut stage, &store, recipients, Some(&mut used)).await?;
    stage.stop().await?;
    let [before, pending, sent, kept] = used.as_slice() else {
        return Err(LoadError::Failed("not every moment was measured".into()));
    };
    let each = |from: &u64, to: &u64| (*to as f64 - *from as f64) / recipients as f64;
    let mut findings = Findings::default();
    findings.one("pending_bytes", "", each(before, pending));
    findings.one("message_id_bytes", "", each(pending, sent));
    findings.one("kept_bytes", "", each(before, kept));
    Ok(findings)
}

/// The life of a campaign. `used`: the memory when its recipients wait, when they were sent, and when they were dropped.
async fn send(
    stage: &mut Stage,
    store: &Store,
    recipients: u64,
    mut used: Option<&mut Vec<u64>>,
) -> Result<(), LoadError> {
    let lines = stage.lines.clone();
    let (id, uploaded) = stage.draft(&lines, Rows::unique(recipients)).await?;
    equal("recipients accepted", uploaded.accepted, recipients)?;
    if let Some(used) = &mut used {
        used.push(used_memory(store).await?);
    }
    stage.forget().await?;
    stage.launch(id).await?;
    stage.arrived(recipients).await?;
    stage.completed(id).await?;
    if let Some(used) = &mut used {
        used.push(used_memory(store).await?);
    }
    let retired = tokio::time::timeout(RETIRE_WAIT, async {
        // Its retention has ended as soon as the campaign has, for who asks so late.
        let later = store.time().await?.after(Duration::from_secs(1));
        while !store.ended_campaigns(later, Duration::ZERO).await?.contains(&id) {
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

/// What Redis uses, once that stands still.
async fn used_memory(store: &Store) -> Result<u64, LoadError> {
    let mut used = u64::MAX;
    for _ in 0..LOOKS_MAX {
        let info: String = store.query("INFO", cmd("INFO").arg("memory")).await?;
        let now = info.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse::<u64>().ok());
        let now = now.ok_or_else(|| LoadError::Failed("Redis does not tell its memory".into()))?;
        let still = (now.abs_diff(used) as f64) < STILL * now as f64;
        used = now;
        if still {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    say(&format!("Redis uses {used} bytes"));
    Ok(used)
}
