//! Memory of Redis for each recipient: while it is pending, after it was sent, and after its retention.
//!
//! Measured as the growth of `used_memory`, which counts everything that Redis has allocated, without the buffers of its
//! clients. A small campaign runs first, so that memory that Redis allocates only once, such as for scripts, is not
//! counted. The workload does not wait for the end of the retention: it calls the housekeeping function with a later
//! time.

use std::time::Duration;

use deadpool_redis::redis::cmd;

use super::{check_equal, progress};
use pregon::redis::Store;

use crate::{error::LoadError, recipients::Rows, report::Findings, scenario::Setup, stage::Stage};

const WARM_UP: u64 = 10_000;

/// The pause between two polls of the memory. Redis frees unlinked keys with some delay.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The most polls.
const POLLS_MAX: usize = 40;

/// What `INFO memory` names the buffers that Redis allocates for its clients and for its append-only file.
const BUFFERS: [&str; 3] = ["mem_clients_normal", "mem_clients_slaves", "mem_aof_buffer"];

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

/// The memory that Redis uses without buffers, once nothing is left to free and it is stable.
pub(super) async fn used_memory(store: &Store) -> Result<u64, LoadError> {
    let mut used = u64::MAX;
    for _ in 0..POLLS_MAX {
        let info: String = store.query("INFO", cmd("INFO").arg("memory")).await?;
        let (now, is_freeing) = Memory(&info).used()?;
        let stable = !is_freeing && (now.abs_diff(used) as f64) < STABLE_SHARE * now as f64;
        used = now;
        if stable {
            break;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    progress(&format!("Redis uses {used} bytes"));
    Ok(used)
}

/// The reply to `INFO memory`.
struct Memory<'a>(&'a str);

impl Memory<'_> {
    /// The memory that is used without buffers, in bytes, and whether Redis still frees some.
    fn used(&self) -> Result<(u64, bool), LoadError> {
        let missing = || LoadError::Failed("INFO memory has no used_memory".into());
        let used = self.field("used_memory").ok_or_else(missing)?;
        let buffers: u64 = BUFFERS.iter().filter_map(|name| self.field(name)).sum();
        Ok((used.saturating_sub(buffers), self.field("lazyfree_pending_objects").is_some_and(|n| n > 0)))
    }

    fn field(&self, name: &str) -> Option<u64> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_clients_do_not_count_and_pending_frees_do() {
        let info = "# Memory\r\nused_memory:5000\r\nused_memory_rss:9000\r\nmem_clients_slaves:0\r\n\
            mem_clients_normal:1200\r\nmem_aof_buffer:300\r\nlazyfree_pending_objects:2\r\n";
        assert_eq!(Memory(info).used().expect("memory"), (3_500, true));
        assert_eq!(
            Memory("used_memory:5000\r\nlazyfree_pending_objects:0\r\n").used().expect("memory"),
            (5_000, false)
        );
        assert!(Memory("used_memory_rss:9000\r\n").used().is_err());
    }
}
