//! Notifies the webhook of a WABA about changes.

use serde_json::Value;

use super::{
    courier::Update,
    notice::{Notice, NoticeId},
    world::World,
};

/// Schedules a webhook with this field and value. Returns `None` if the WABA has no webhook.
pub(super) fn announce(world: &World, waba: usize, field: &'static str, value: Value) -> Option<NoticeId> {
    let courier = world.wabas[waba].webhook()?;
    let (run, now) = (world.run(), world.clock.now());
    let id = world.notices.add(run, Notice::new(field, value, now))?;
    courier.schedule(run, &world.counts.pending, [(now, Update::Notice(id))]);
    Some(id)
}
