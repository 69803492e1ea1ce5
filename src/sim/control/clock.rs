//! `POST /sim/clock`: advances the clock.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::Deserialize;

use super::{Changed, problem};
use crate::sim::{delay::DURATION_MAX, world::SharedWorld};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClockChange {
    #[serde(with = "friendly")]
    advance: Duration,
}

pub(super) async fn change(world: &SharedWorld, change: &ClockChange) -> Changed {
    if change.advance > DURATION_MAX {
        return Err(problem("advance: is more than 24h"));
    }
    world.clock.advance(change.advance).await;
    Ok(())
}
