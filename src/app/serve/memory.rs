//! Watches how full Redis is: a full one stops sending. `/readyz` then has a warning, and the log has a line.
//!
//! If the process dies: nothing is lost; the next one reads the memory again.
//! Never: refuses recipients. The API does ([`crate::intake::MemoryGuard`]).

use std::{convert::Infallible, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    redis::{Store, memory::FULL_REMEDY},
    telemetry::health::{Health, Warning},
};

/// How often the memory is read.
const EVERY: Duration = Duration::from_secs(5);

/// What the log last said about the memory.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Told {
    Room,
    NearlyFull,
    Full,
}

/// Warns while Redis uses more than `share_max` of its `maxmemory`, or is full, until `stopping`. While Redis does not
/// answer, the last reading stays.
pub(super) async fn watch(
    store: Store,
    share_max: f64,
    health: Health,
    stopping: CancellationToken,
) -> Result<(), Infallible> {
    let mut told = Told::Room;
    while !stopping.is_cancelled() {
        if let Ok(memory) = store.memory().await {
            match memory {
                // A full Redis gets a little room again and again, so this is told once until it has room for
                // recipients.
                Some(memory) if memory.is_full() && told < Told::Full => {
                    told = Told::Full;
                    health.warn(Warning::RedisFull);
                    error!(%memory, remedy = FULL_REMEDY, "redis is full: nothing is sent or accepted");
                }
                Some(memory) if memory.share() > share_max && told < Told::NearlyFull => {
                    told = Told::NearlyFull;
                    health.warn(Warning::RedisFull);
                    warn!(%memory, share_max, "redis is nearly full: recipients are refused; at 100 % sending stops");
                }
                memory if told > Told::Room && !memory.is_some_and(|m| m.is_full() || m.share() > share_max) => {
                    told = Told::Room;
                    health.clear_warning(Warning::RedisFull);
                    info!("redis has room for recipients again");
                }
                _ => {}
            }
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stopping.cancelled() => {}
        }
    }
    Ok(())
}
