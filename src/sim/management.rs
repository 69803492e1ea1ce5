//! Reads of templates, lines and WABAs, with `fields` and paging as at Meta.

use std::sync::PoisonError;

use serde_json::{Map, Value, json};

use super::{
    line::SimLine,
    reply::Reply,
    scenario::Fault,
    template::TemplateStatus,
    wire::{self, Refusal},
    world::{LiveTemplate, SharedWorld, World},
};

/// Rows on a page without `limit`.
const PAGE_LEN: usize = 25;
const PAGE_LEN_MAX: usize = 100;

/// The query parameters of a request, with its host and path for `next` URLs.
pub(super) struct Query<'a> {
    host: &'a str,
    path: &'a str,
    pairs: Vec<(String, String)>,
}

impl<'a> Query<'a> {
    pub(super) fn new(host: &'a str, path: &'a str, query: &str) -> Self {
        let base = reqwest::Url::parse(&format!("http://localhost/?{query}"));
        let pairs = base.map(|url| url.query_pairs().into_owned().collect()).unwrap_or_default();
        Self { host, path, pairs }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The top-level names in `fields`, without nested fields; `None` if the parameter is absent.
    fn fields(&self) -> Option<Vec<&str>> {
        let mut depth = 0;
        let top_level = self.get("fields")?.split(|c: char| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        });
        Some(top_level.map(|field| field.split(['{', '.']).next().unwrap_or(field).trim()).collect())
    }
}

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
    let line = world.line(id);
    let waba = world.waba(id);
    let template = world.templates.iter().find(|template| id.parse() == Ok(template.id));
    let owner = line.map(|line| line.waba).or(template.map(|template| template.waba)).or(waba);
    let owner = world.authorize(token, owner, id)?;
    match (edge, line, template) {
        (None, Some(line), _) => select(line_node(world, line), LINE_FIELDS, query, "WhatsAppBusinessPhoneNumber"),
        (None, None, Some(template)) => {
            select(template_node(template), TEMPLATE_FIELDS, query, "WhatsAppMessageTemplate")
        }
        (None, None, None) => select(waba_node(world, owner), "id,name,timezone_id", query, "WhatsAppBusinessAccount"),
        (Some("message_templates"), None, None) => {
            let fits = |template: &&LiveTemplate| template.waba == owner && matches_filters(template, query);
            let rows = world.templates.iter().filter(fits).map(template_node);
            page(rows.collect(), TEMPLATE_FIELDS, query, "WhatsAppMessageTemplate")
        }
        (Some("phone_numbers"), None, None) => {
            let rows = world.lines.iter().filter(|line| line.waba == owner).map(|line| line_node(world, line));
            page(rows.collect(), LINE_FIELDS, query, "WhatsAppBusinessPhoneNumber")
        }
        (Some("subscribed_apps"), None, None) => Ok(subscribed_apps(world, owner)),
        (Some(edge), ..) => Err(Refusal::new(100, format!("Tried accessing nonexisting field ({edge})"))),
    }
}

/// Fields that a response contains when the request has no `fields`.
const LINE_FIELDS: &str =
    "id,verified_name,code_verification_status,display_phone_number,quality_rating,platform_type,throughput";
const TEMPLATE_FIELDS: &str = "id,name,parameter_format,components,language,status,category";

fn matches_filters(template: &LiveTemplate, query: &Query<'_>) -> bool {
    let node = template_node(template);
    ["name", "language", "status", "category"]
        .iter()
        .all(|field| query.get(field).is_none_or(|wanted| node[*field].as_str() == Some(wanted)))
}

fn line_node(world: &World, line: &SimLine) -> Value {
    let spec = &line.spec;
    let available = if matches!(spec.status.as_str(), "CONNECTED" | "FLAGGED") { "AVAILABLE" } else { "BLOCKED" };
    let waba = &world.wabas[line.waba].spec.id;
    json!({
        "id": spec.id,
        "display_phone_number": spec.display_phone_number,
        "verified_name": spec.verified_name,
        "status": spec.status,
        "quality_rating": spec.quality_rating,
        "quality_score": {"score": spec.quality_rating},
        "name_status": "APPROVED",
        "new_name_status": "NONE",
        "code_verification_status": "VERIFIED",
        "account_mode": "LIVE",
        "platform_type": "CLOUD_API",
        "is_on_biz_app": false,
        "is_official_business_account": false,
        "is_pin_enabled": true,
        "throughput": {"level": if spec.messages_per_second > 80 { "HIGH" } else { "STANDARD" }},
        "whatsapp_business_manager_messaging_limit": "TIER_UNLIMITED",
        "webhook_configuration": {},
        "health_status": health(available, &[("PHONE_NUMBER", &spec.id, available), ("WABA", waba, "AVAILABLE")]),
        "last_onboarded_time": "2026-01-01T00:00:00+0000",
    })
}

fn waba_node(world: &World, waba: usize) -> Value {
    let spec = &world.wabas[waba].spec;
    json!({
        "id": spec.id,
        "name": spec.name,
        "status": "ACTIVE",
        "currency": "USD",
        "country": "AR",
        "timezone_id": "1",
        "message_template_namespace": "00000000_0000_0000_0000_000000000000",
        "account_review_status": "APPROVED",
        "business_verification_status": "verified",
        "ownership_type": "SELF",
        "owner_business_info": {"id": "1001", "name": spec.name},
        "on_behalf_of_business_info": Value::Null,
        "marketing_messages_lite_api_status": "INELIGIBLE",
        "marketing_messages_onboarding_status": "INELIGIBLE",
        "disable_marketing_messages_on_cloud_api": false,
        "health_status": health("AVAILABLE", &[("WABA", &spec.id, "AVAILABLE")]),
        "is_enabled_for_insights": true,
    })
}

/// The app that receives the updates of a WABA; an empty list if the WABA has no webhook.
fn subscribed_apps(world: &World, waba: usize) -> Value {
    let app = json!({"whatsapp_business_api_data": {"id": "4001", "name": "Pregón", "link": "https://example.com/"}});
    json!({"data": world.wabas[waba].courier.iter().map(|_| &app).collect::<Vec<_>>()})
}

fn template_node(template: &LiveTemplate) -> Value {
    let status = template.status();
    let can_send = if status == TemplateStatus::Approved { "AVAILABLE" } else { "BLOCKED" };
    let mut node = json!(template.spec);
    node["id"] = json!(template.id.to_string());
    node["status"] = json!(status);
    node["sub_category"] = json!(template.spec.sub_category);
    node["previous_category"] = Value::Null;
    node["correct_category"] = Value::Null;
    node["quality_score"] = json!({"score": "GREEN"});
    node["rejected_reason"] = json!(if status == TemplateStatus::Rejected { "INVALID_FORMAT" } else { "NONE" });
    node["message_send_ttl_seconds"] = Value::Null;
    node["health_status"] = health(can_send, &[("MESSAGE_TEMPLATE", &template.id.to_string(), can_send)]);
    node
}

fn health(can_send_message: &str, entities: &[(&str, &str, &str)]) -> Value {
    let entity = |(entity_type, id, can_send): &(&str, &str, &str)| json!({"entity_type": entity_type, "id": id, "can_send_message": can_send});
    json!({"can_send_message": can_send_message, "entities": entities.iter().map(entity).collect::<Vec<_>>()})
}

/// Selects the requested fields and `id`. Fields without a value are omitted.
fn select(node: Value, default_fields: &str, query: &Query<'_>, kind: &str) -> Result<Value, Refusal> {
    let fields = query.fields().unwrap_or_else(|| default_fields.split(',').collect());
    let mut chosen = Map::new();
    for field in std::iter::once("id").chain(fields) {
        match node.get(field) {
            Some(Value::Null) => {}
            Some(value) => drop(chosen.insert(field.into(), value.clone())),
            None => {
                let details = format!("Tried accessing nonexisting field ({field}) on node type ({kind})");
                return Err(Refusal::new(100, details));
            }
        }
    }
    Ok(Value::Object(chosen))
}

/// One page of the rows, with cursors, and with `next` if there are more rows.
fn page(rows: Vec<Value>, default_fields: &str, query: &Query<'_>, kind: &str) -> Result<Value, Refusal> {
    let number = |name: &str| query.get(name).map(str::parse::<usize>).transpose();
    let limit = number("limit").map_err(|_| Refusal::new(100, "limit must be a number"))?.unwrap_or(PAGE_LEN);
    let limit = limit.clamp(1, PAGE_LEN_MAX);
    let begin = match query.get("after") {
        None => 0,
        Some(cursor) => after(cursor).ok_or_else(|| Refusal::new(100, "Invalid cursors values"))?,
    };
    let end = rows.len().min(begin.saturating_add(limit));
    let data: Vec<Value> = rows
        .get(begin..end)
        .unwrap_or_default()
        .iter()
        .map(|node| select(node.clone(), default_fields, query, kind))
        .collect::<Result<_, _>>()?;
    if data.is_empty() {
        return Ok(json!({"data": []}));
    }
    let mut paging = json!({"cursors": {"before": cursor(begin), "after": cursor(end)}});
    if end < rows.len() {
        paging["next"] = json!(next_url(query, limit, &cursor(end)));
    }
    Ok(json!({"data": data, "paging": paging}))
}

/// The cursor before `row`; opaque to clients.
fn cursor(row: usize) -> String {
    format!("QVFIU{row:08x}ZD")
}

fn after(cursor: &str) -> Option<usize> {
    usize::from_str_radix(cursor.strip_prefix("QVFIU")?.strip_suffix("ZD")?, 16).ok()
}

fn next_url(query: &Query<'_>, limit: usize, after: &str) -> String {
    let unchanged = query.pairs.iter().filter(|(name, _)| name != "after" && name != "limit");
    let limit = limit.to_string();
    let added = [("limit", limit.as_str()), ("after", after)];
    let pairs = unchanged.map(|(name, value)| (name.as_str(), value.as_str())).chain(added);
    let url = format!("http://{}{}", query.host, query.path);
    reqwest::Url::parse_with_params(&url, pairs).map(String::from).unwrap_or(url)
}
