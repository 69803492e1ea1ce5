//! Reads of templates, lines, WABAs and businesses; the end of a pause, and the subscription of the app.

use std::sync::{PoisonError, atomic::Ordering};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    live_template::LiveTemplate,
    nodes::{business_node, line_node, subscribed_apps, template_node, waba_node},
    query::{Query, page, select},
    reply::Reply,
    scenario::Fault,
    template_change, transfer,
    wire::{self, Refusal},
    world::{SharedWorld, World},
};

/// Responds to a `GET`. Only outages apply to it; other faults apply to sends.
pub(super) async fn answer(
    world: &SharedWorld,
    token: Option<&str>,
    id: &str,
    edge: Option<&str>,
    query: &Query<'_>,
) -> Reply {
    let (outage, silence) = {
        let behaviour = world.read_behaviour.read().unwrap_or_else(PoisonError::into_inner);
        (behaviour.outage(world.clock.now()), behaviour.faults.no_answer_for)
    };
    if let Some(fault) = outage.filter(|fault| *fault != Fault::Held) {
        let reply = Reply::of_fault(world, fault);
        if matches!(reply, Reply::Silence) {
            world.clock.sleep_until(world.clock.now() + silence).await;
        }
        return reply;
    }
    match read(world, token, id, edge, query) {
        Ok(value) => Reply::Json(200, wire::to_json(&value)),
        Err(refusal) => Reply::refusal(world, &refusal),
    }
}

fn read(world: &World, token: Option<&str>, id: &str, edge: Option<&str>, query: &Query<'_>) -> Result<Value, Refusal> {
    if let Some(owner) = world.files.owner(id, world.clock.now()) {
        world.authorize(token, Some(owner), id)?;
        let node = transfer::node(world, query.host(), id).filter(|_| edge.is_none());
        return node.ok_or_else(|| no_such_edge(edge.unwrap_or("")));
    }
    let line = world.line(id);
    let waba = world.waba(id);
    let template = world.templates.iter().find(|template| id.parse() == Ok(template.id));
    if let (None, None, None, Some(business)) = (line, waba, template, world.business(id)) {
        return read_business(world, token, id, business, edge, query);
    }
    let owner = line.map(|line| line.waba).or(template.map(|template| template.waba)).or(waba);
    let owner = world.authorize(token, owner, id)?;
    match (edge, line, template) {
        (None, Some(line), _) => select(line_node(world, line), LINE_FIELDS, query, "WhatsAppBusinessPhoneNumber"),
        (None, None, Some(template)) => {
            select(template_node(world, template), TEMPLATE_FIELDS, query, "WhatsAppMessageTemplate")
        }
        (None, None, None) => select(waba_node(world, owner), WABA_FIELDS, query, "WhatsAppBusinessAccount"),
        (Some("message_templates"), None, None) => {
            world.wabas[owner].template_reads.fetch_add(1, Ordering::Relaxed);
            let fits = |template: &&LiveTemplate| template.waba == owner && matches_filters(world, template, query);
            let rows = world.templates.iter().filter(fits).map(|template| template_node(world, template));
            page(rows.collect(), TEMPLATE_FIELDS, query, "WhatsAppMessageTemplate")
        }
        (Some("phone_numbers"), None, None) => {
            let rows = world.lines.iter().filter(|line| line.waba == owner).map(|line| line_node(world, line));
            page(rows.collect(), LINE_FIELDS, query, "WhatsAppBusinessPhoneNumber")
        }
        (Some("subscribed_apps"), None, None) => Ok(subscribed_apps(world, owner)),
        (Some(edge), ..) => Err(no_such_edge(edge)),
    }
}

/// Responds to `POST {template}/unpause`.
pub(super) fn unpause(world: &SharedWorld, token: Option<&str>, id: &str) -> Reply {
    let found = world.templates.iter().position(|template| id.parse() == Ok(template.id));
    let authorized = world.authorize(token, found.map(|template| world.templates[template].waba), id);
    let unpaused = match (authorized, found) {
        (Ok(_), Some(template)) => template_change::unpause(world, template),
        (Ok(_), None) => return Reply::refusal(world, &Refusal::no_such_object(id)),
        (Err(refusal), _) => return Reply::refusal(world, &refusal),
    };
    let answer = match unpaused {
        Ok(()) => json!({"success": true}),
        Err(reason) => json!({"success": false, "reason": reason}),
    };
    Reply::Json(200, wire::to_json(&answer))
}

/// Responds to `POST {waba}/subscribed_apps`. A callback in `body` is called with a challenge, and takes the place of
/// that of the scenario only if it returns it.
pub(super) async fn subscribe(
    world: &SharedWorld,
    token: Option<&str>,
    id: &str,
    body: &[u8],
) -> Result<Reply, Refusal> {
    #[derive(Default, Deserialize)]
    struct Override {
        override_callback_uri: Option<String>,
        verify_token: Option<String>,
    }
    let account = &world.wabas[world.authorize(token, world.waba(id), id)?];
    let given: Override = match body {
        [] => Override::default(),
        body => serde_json::from_slice(body).map_err(|error| Refusal::new(100, error.to_string()))?,
    };
    match (given.override_callback_uri, given.verify_token, &account.courier) {
        (None, ..) => {}
        (Some(url), Some(verify_token), Some(courier)) if courier.verify(&url, &verify_token).await => {
            courier.redirect(url);
        }
        (Some(url), ..) => return Err(Refusal::new(2200, format!("Callback verification failed: {url}"))),
    }
    // Without a webhook in the scenario, the app has no callback, and is subscribed all the same.
    account.subscribed.store(true, Ordering::Relaxed);
    Ok(Reply::Json(200, wire::to_json(&json!({"success": true}))))
}

/// A business can be read with the token of any WABA that it owns or that is shared with it. Its lists have all of them,
/// also those that the token may not access.
fn read_business(
    world: &World,
    token: Option<&str>,
    id: &str,
    business: usize,
    edge: Option<&str>,
    query: &Query<'_>,
) -> Result<Value, Refusal> {
    let opens = |waba: &usize| world.authorize(token, Some(*waba), id).is_ok();
    let Some(waba) = world.wabas_of(business).chain(world.wabas_shared_with(business)).find(opens) else {
        return Err(world.authorize(token, None, id).err().unwrap_or_else(|| Refusal::no_such_object(id)));
    };
    match edge {
        None => {
            let node = business_node(&world.businesses[business], &world.wabas[waba].spec.name);
            select(node, "id,name", query, "Business")
        }
        Some("owned_whatsapp_business_accounts") => wabas(world, world.wabas_of(business), query),
        Some("client_whatsapp_business_accounts") => wabas(world, world.wabas_shared_with(business), query),
        Some(edge) => Err(no_such_edge(edge)),
    }
}

fn wabas(world: &World, wabas: impl Iterator<Item = usize>, query: &Query<'_>) -> Result<Value, Refusal> {
    page(wabas.map(|waba| waba_node(world, waba)).collect(), WABA_FIELDS, query, "WhatsAppBusinessAccount")
}

fn no_such_edge(edge: &str) -> Refusal {
    Refusal::new(100, format!("Tried accessing nonexisting field ({edge})"))
}

/// Fields that a response contains when the request has no `fields`.
const LINE_FIELDS: &str =
    "id,verified_name,code_verification_status,display_phone_number,quality_rating,platform_type,throughput";
const WABA_FIELDS: &str = "id,name,timezone_id";
const TEMPLATE_FIELDS: &str = "id,name,parameter_format,components,language,status,category";

fn matches_filters(world: &World, template: &LiveTemplate, query: &Query<'_>) -> bool {
    let node = template_node(world, template);
    ["name", "language", "status", "category"]
        .iter()
        .all(|field| query.get(field).is_none_or(|wanted| node[*field].as_str() == Some(wanted)))
}
