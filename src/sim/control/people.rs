//! What people do: `POST /sim/inbound`.

use serde::Deserialize;

use super::{Changed, problem};
use crate::sim::{courier::Update, line::Content, validate::phone, world::SharedWorld};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InboundText {
    line: String,
    from: String,
    text: String,
}

/// Receives a text message from a person on a line, and schedules its webhook.
pub(super) fn receive(world: &SharedWorld, inbound_text: &InboundText) -> Changed {
    let line =
        world.line(&inbound_text.line).ok_or_else(|| problem(format!("there is no line {}", inbound_text.line)))?;
    let from =
        phone(&inbound_text.from).ok_or_else(|| problem(format!("{} is not a phone number", inbound_text.from)))?;
    let mut state = line.state();
    let now = world.clock.now();
    let inbound = state.receive(from, Content::Text(inbound_text.text.as_str().into()), now);
    let run = state.run;
    drop(state);
    if let Some(courier) = &world.wabas[line.waba].courier {
        courier.schedule(run, &world.counts.pending, [(now, Update::Inbound { line: line.index, inbound })]);
    }
    Ok(())
}
