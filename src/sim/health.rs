//! `health_status`: whether a line, WABA or template can send, with the reasons of each level.
//! Source: developers.facebook.com/docs/whatsapp, health status, read in a copy of 22 Oct 2025. Only the codes of
//! templates are documented. Elsewhere the code is the one with which a send is refused.

use serde::Serialize;
use serde_json::{Value, json};

use super::{line::SimLine, line_status, live_template::LiveTemplate, wire, world::World};

/// The code of a template that is not approved. It occurs only here.
const NOT_APPROVED: u32 = 141_002;

/// From best to worst.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum CanSend {
    Available,
    Blocked,
}

/// A level: a template, line, WABA, business or app.
struct Entity<'a> {
    entity_type: &'static str,
    id: String,
    errors: Vec<(u32, &'a str)>,
}

pub(super) fn of_line(world: &World, line: &SimLine) -> Value {
    let refused = line_status::code(&line.spec.status).map(|code| (code, wire::title(code)));
    let line_entity =
        Entity { entity_type: "PHONE_NUMBER", id: line.spec.id.clone(), errors: refused.into_iter().collect() };
    overall(std::iter::once(line_entity).chain(of_account(world, line.waba)))
}

pub(super) fn of_waba(world: &World, waba: usize) -> Value {
    overall(of_account(world, waba))
}

pub(super) fn of_template(world: &World, template: &LiveTemplate) -> Value {
    let is_sendable = template.state().status_at(world.clock.now()).is_sendable();
    let errors = if is_sendable { Vec::new() } else { vec![(NOT_APPROVED, "The template is not approved")] };
    let entity = Entity { entity_type: "MESSAGE_TEMPLATE", id: template.id.to_string(), errors };
    overall(std::iter::once(entity).chain(of_account(world, template.waba)))
}

/// The levels above lines and templates.
fn of_account<'a>(world: &World, waba: usize) -> impl Iterator<Item = Entity<'a>> {
    let spec = &world.wabas[waba].spec;
    let entity = |entity_type, id: &str| Entity { entity_type, id: id.to_owned(), errors: Vec::new() };
    [entity("WABA", &spec.id), entity("BUSINESS", &spec.business), entity("APP", APP)].into_iter()
}

/// The id of the app that the webhooks belong to.
pub(super) const APP: &str = "4001";

/// The levels, and the worst of their values.
fn overall<'a>(entities: impl Iterator<Item = Entity<'a>>) -> Value {
    let mut worst = CanSend::Available;
    let mut nodes = Vec::new();
    for entity in entities {
        let can_send = if entity.errors.is_empty() { CanSend::Available } else { CanSend::Blocked };
        worst = worst.max(can_send);
        let mut node = json!({"entity_type": entity.entity_type, "id": entity.id, "can_send_message": can_send});
        if !entity.errors.is_empty() {
            node["errors"] = entity.errors.iter().map(|(code, description)| error(*code, description)).collect();
        }
        nodes.push(node);
    }
    json!({"can_send_message": worst, "entities": nodes})
}

fn error(code: u32, description: &str) -> Value {
    json!({
        "error_code": code,
        "error_description": description,
        "possible_solution": "Look at this object in WhatsApp Manager.",
    })
}
