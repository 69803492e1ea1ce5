//! `POST /sim/line`: changes a line.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::optional as friendly;
use serde::Deserialize;
use serde_json::json;

use super::{Changed, problem};
use crate::{
    domain::LINE_RATE_MAX,
    sim::{announce::announce, delay::DURATION_MAX, line::SimLine, timer, world::SharedWorld},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LineChange {
    id: String,
    status: Option<String>,
    quality_rating: Option<String>,
    is_on_biz_app: Option<bool>,
    /// The new rate. A higher rate is an upgrade.
    messages_per_second: Option<u32>,
    /// How long an upgrade takes.
    #[serde(default, rename = "for", with = "friendly")]
    lasts: Option<Duration>,
}

/// The maximum duration of an upgrade according to Meta.
/// Source: developers.facebook.com/docs/whatsapp/throughput, read in a copy of 11 Sep 2026.
const UPGRADE: Duration = Duration::from_secs(60);

pub(super) fn change(world: &SharedWorld, change: &LineChange) -> Changed {
    let line = world.line(&change.id).ok_or_else(|| problem(format!("there is no line {}", change.id)))?;
    if change.messages_per_second.is_some_and(|rate| !(1.0..=LINE_RATE_MAX).contains(&f64::from(rate))) {
        return Err(problem(format!("messages_per_second: not 1..={LINE_RATE_MAX}")));
    }
    if change.lasts.is_some_and(|lasts| lasts > DURATION_MAX) {
        return Err(problem("for: is more than 24h"));
    }
    let mut state = line.state();
    if let Some(status) = &change.status {
        state.live.set_status(status.clone());
    }
    if let Some(quality_rating) = &change.quality_rating {
        state.live.quality_rating.clone_from(quality_rating);
    }
    if let Some(is_on_biz_app) = change.is_on_biz_app {
        state.live.set_on_biz_app(is_on_biz_app);
    }
    match change.messages_per_second {
        Some(rate) if rate > state.live.messages_per_second() => {
            let end = world.clock.now() + change.lasts.unwrap_or(UPGRADE);
            state.live.upgraded_at = Some(end);
            drop(state);
            upgrade(world, line, rate, end);
        }
        Some(rate) => state.live.set_rate(rate),
        None => {}
    }
    Ok(())
}

/// Sets a higher rate at `end`, and notifies the webhook.
fn upgrade(world: &SharedWorld, line: &SimLine, rate: u32, end: Duration) {
    let index = usize::from(line.index);
    timer::at(world, end, move |world| {
        let line = &world.lines[index];
        line.state().live.set_rate(rate);
        let tier = world.businesses[world.wabas[line.waba].business].limit().tier();
        let value = json!({
            "display_phone_number": line.digits(),
            "event": "THROUGHPUT_UPGRADE",
            "current_limit": tier,
            "max_daily_conversations_per_business": tier,
        });
        announce(world, line.waba, "phone_number_quality_update", value);
    });
}
