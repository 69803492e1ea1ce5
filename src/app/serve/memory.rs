//! Watches how full Redis is: a full one stops sending. `/readyz` then has a warning, and the log has a line.
//!
//! If the process dies: nothing is lost; the next one reads the memory again.
//! Never: refuses recipients. The API does ([`crate::intake::MemoryGuard`]).

use std::{convert::Infallible, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    redis::Store,
    telemetry::health::{Health, Warning},
};

/// How often the memory is read.
const EVERY: Duration = Duration::from_secs(5);

/// Warns while Redis uses more than `share_max` of its `maxmemory`, until `stopping`. While Redis does not answer, the
/// last reading stays.
pub(super) async fn watch(
    store: Store,
    share_max: f64,
    health: Health,
    stopping: CancellationToken,
) -> Result<(), Infallible> {
    let mut was_full = false;
    while !stopping.is_cancelled() {
        if let Ok(memory) = store.memory().await {
            let full = memory.filter(|memory| memory.share() > share_max);
            match full {
                Some(memory) if !was_full => {
                    health.warn(Warning::RedisFull);
                    warn!(%memory, share_max, "redis is nearly full: recipients are refused; at 100 % sending stops");
                }
                None if was_full => {
                    health.clear_warning(Warning::RedisFull);
                    info!("redis has room for recipients again");
                }
                _ => {}
            }
            was_full = full.is_some();
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stopping.cancelled() => {}
        }
    }
    Ok(())
}
