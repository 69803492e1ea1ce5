//! `health_status`: whether a line, WABA or template can send, with the reasons of each level.
//! Source: developers.facebook.com/docs/whatsapp, health status, read in a copy of 22 Oct 2025. Only the codes of
//! templates are documented. For other levels, the simulator uses the code with which a send is refused.

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    blocks::{Block, Kind, Level},
    line::SimLine,
    live_template::LiveTemplate,
    wire,
    world::World,
};

/// The id of the app that the webhooks belong to.
pub(super) const APP: &str = "4001";

/// The code of a template that is not approved. Used only in `health_status`.
const NOT_APPROVED: u32 = 141_002;

/// From best to worst.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum CanSend {
    Available,
    Limited,
    Blocked,
}

/// A level: a template, line, WABA, business or app.
struct Entity {
    entity_type: &'static str,
    id: String,
    /// Why it cannot send at all: codes with descriptions.
    errors: Vec<(u32, &'static str)>,
    /// Why it cannot send everything.
    info: Vec<&'static str>,
}

pub(super) fn of_line(world: &World, line: &SimLine) -> Value {
    let mut entity = Entity::new("PHONE_NUMBER", line.spec.id.clone());
    entity.errors.extend(line.state().live.refuses(world.clock.now()).map(|code| (code, wire::title(code))));
    overall(entity, world, line.waba)
}

pub(super) fn of_waba(world: &World, waba: usize) -> Value {
    shape(of_account(world, waba).into_iter())
}

pub(super) fn of_template(world: &World, template: &LiveTemplate) -> Value {
    let mut entity = Entity::new("MESSAGE_TEMPLATE", template.id.to_string());
    if !template.state().status_at(world.clock.now()).is_sendable() {
        entity.errors.push((NOT_APPROVED, "The template is not approved"));
    }
    overall(entity, world, template.waba)
}

fn overall(entity: Entity, world: &World, waba: usize) -> Value {
    shape(std::iter::once(entity).chain(of_account(world, waba)))
}

/// The levels above lines and templates.
fn of_account(world: &World, waba: usize) -> [Entity; 3] {
    let spec = &world.wabas[waba].spec;
    let mut account = Entity::new("WABA", spec.id.clone());
    let mut business = Entity::new("BUSINESS", spec.business.clone());
    for block in world.wabas[waba].blocks.at(world.clock.now()) {
        match block.level {
            Level::Waba => account.add(&block),
            Level::Business => business.add(&block),
        }
    }
    [account, business, Entity::new("APP", APP.to_owned())]
}

impl Entity {
    fn new(entity_type: &'static str, id: String) -> Self {
        Self { entity_type, id, errors: Vec::new(), info: Vec::new() }
    }

    /// Adds a sanction. One that refuses campaigns blocks; one that refuses only other messages limits.
    fn add(&mut self, block: &Block) {
        let refuses = |is_utility, in_service_window| block.sanction.refuses(Kind { is_utility, in_service_window });
        match (refuses(false, false), refuses(true, false).or(refuses(false, true))) {
            (Some(code), _) => self.errors.push((code, wire::title(code))),
            (None, Some(code)) => self.info.push(wire::title(code)),
            (None, None) => {}
        }
    }

    fn can_send(&self) -> CanSend {
        match (self.errors.is_empty(), self.info.is_empty()) {
            (false, _) => CanSend::Blocked,
            (true, false) => CanSend::Limited,
            (true, true) => CanSend::Available,
        }
    }

    fn node(&self) -> Value {
        let mut node = json!({"entity_type": self.entity_type, "id": self.id, "can_send_message": self.can_send()});
        if !self.errors.is_empty() {
            node["errors"] = self.errors.iter().map(|(code, description)| error(*code, description)).collect();
        }
        if !self.info.is_empty() {
            node["additional_info"] = json!(self.info);
        }
        node
    }
}

/// The levels, and the worst of their values.
fn shape(entities: impl Iterator<Item = Entity>) -> Value {
    let entities: Vec<Entity> = entities.collect();
    let worst = entities.iter().map(Entity::can_send).max().unwrap_or(CanSend::Available);
    json!({"can_send_message": worst, "entities": entities.iter().map(Entity::node).collect::<Vec<_>>()})
}

fn error(code: u32, description: &str) -> Value {
    json!({
        "error_code": code,
        "error_description": description,
        "possible_solution": "Look at this object in WhatsApp Manager.",
    })
}
