//! `POST /sim/business`: changes the messaging limit of a business.

use serde::Deserialize;
use serde_json::json;

use super::{Changed, problem};
use crate::sim::{announce::announce, business::MessagingLimit, world::SharedWorld};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BusinessChange {
    id: String,
    limit: MessagingLimit,
}

pub(super) fn change(world: &SharedWorld, change: &BusinessChange) -> Changed {
    let id = &change.id;
    let index = world.business(id).ok_or_else(|| problem(format!("there is no business {id}")))?;
    let business = &world.businesses[index];
    let mut places = business.places().ok_or_else(|| {
        problem(format!("business {id} is not in the scenario, so nobody was counted: list it there"))
    })?;
    places.set_limit(change.limit);
    drop(places);
    // The documentation shows the limit as a number and as text. Text is the newer form.
    let value = json!({
        "max_daily_conversations_per_business": change.limit.tier(),
        "max_phone_numbers_per_waba": 25,
        "max_phone_numbers_per_business": 25,
    });
    for waba in world.wabas_of(index) {
        announce(world, waba, "business_capability_update", value.clone());
    }
    Ok(())
}
