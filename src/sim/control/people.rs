//! Actions of people: `POST /sim/inbound` and `POST /sim/preference`.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Changed, problem};
use crate::{
    domain::Phone,
    sim::{
        announce::announce, courier::Update, inbound::Content, line::SimLine, media::Medium, validate::phone,
        world::SharedWorld,
    },
};

/// `POST /sim/inbound`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InboundMessage {
    line: String,
    from: String,
    text: Option<String>,
    /// A file of this type, in place of a text.
    media: Option<Medium>,
}

/// `POST /sim/preference`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Preference {
    line: String,
    from: String,
    value: Wish,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wish {
    Stop,
    Resume,
}

/// Receives a message from a person on a line, and schedules its webhook.
pub(super) fn receive(world: &SharedWorld, message: &InboundMessage) -> Changed {
    let (line, from) = find(world, &message.line, &message.from)?;
    let content = match (&message.text, message.media) {
        (Some(text), None) => Content::Text(text.as_str().into()),
        (None, Some(medium)) => Content::File(medium, world.files.receive(line.waba, medium, world.clock.now())),
        _ => return Err(problem("give either text or media")),
    };
    let mut state = line.state();
    let now = world.clock.now();
    state.begin_conversation(from);
    let inbound = state.receive(from, content, None, now);
    let run = state.run;
    drop(state);
    if let Some(courier) = world.wabas[line.waba].webhook() {
        courier.schedule(run, &world.counts.pending, [(now, Update::Inbound { line: line.index, inbound })]);
    }
    Ok(())
}

/// Records that a person stops or resumes marketing from the business of a line.
pub(super) fn prefer(world: &SharedWorld, preference: &Preference) -> Changed {
    let (line, from) = find(world, &preference.line, &preference.from)?;
    let wa_id = from.digits().to_string();
    let value = json!({
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": line.digits(), "phone_number_id": line.spec.id},
        "contacts": [{"profile": {"name": "José"}, "wa_id": wa_id}],
        "user_preferences": [{
            "wa_id": wa_id,
            "category": "marketing_messages",
            "value": preference.value,
            "detail": match preference.value {
                Wish::Stop => "User requested to stop marketing messages",
                Wish::Resume => "User requested to resume marketing messages",
            },
            "timestamp": world.clock.unix(world.clock.now()).seconds(),
        }],
    });
    let notice = announce(world, line.waba, "user_preferences", value);
    let stops = &world.businesses[world.wabas[line.waba].business].stops;
    match preference.value {
        Wish::Stop => stops.stop(from, notice),
        Wish::Resume => stops.resume(from),
    }
    Ok(())
}

fn find<'w>(world: &'w SharedWorld, line: &str, from: &str) -> Result<(&'w SimLine, Phone), Vec<String>> {
    let line = world.line(line).ok_or_else(|| problem(format!("there is no line {line}")))?;
    let from = phone(from).ok_or_else(|| problem(format!("{from} is not a phone number")))?;
    Ok((line, from))
}
