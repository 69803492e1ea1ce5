//! The nodes of lines, WABAs, businesses and templates, with all their fields.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::{
    blocks::Sanction, health, line::SimLine, live_template::LiveTemplate, portfolio::Portfolio,
    template::TemplateStatus, world::World,
};

pub(super) fn line_node(world: &World, line: &SimLine) -> Value {
    let health = health::of_line(world, line);
    let spec = &line.spec;
    let live = line.state().live.clone();
    json!({
        "id": spec.id,
        "display_phone_number": spec.display_phone_number,
        "verified_name": spec.verified_name,
        "status": live.status(),
        "quality_rating": live.quality_rating,
        "quality_score": {"score": live.quality_rating},
        "name_status": spec.name_status,
        "new_name_status": "NONE",
        "code_verification_status": "VERIFIED",
        "account_mode": "LIVE",
        "platform_type": "CLOUD_API",
        "is_on_biz_app": live.is_on_biz_app,
        "is_official_business_account": false,
        "is_pin_enabled": true,
        "throughput": {"level": if live.messages_per_second() > 80 { "HIGH" } else { "STANDARD" }},
        "whatsapp_business_manager_messaging_limit": tier(world, line.waba),
        "webhook_configuration": {},
        "health_status": health,
        "last_onboarded_time": "2026-01-01T00:00:00+0000",
    })
}

pub(super) fn waba_node(world: &World, waba: usize) -> Value {
    let spec = &world.wabas[waba].spec;
    let blocks = world.wabas[waba].blocks.at(world.clock.now());
    let is_banned = blocks.iter().any(|block| block.sanction == Sanction::Ban);
    let onboarded = if spec.marketing_api_only { "ONBOARDED" } else { "INELIGIBLE" };
    json!({
        "id": spec.id,
        "name": spec.name,
        "status": if is_banned { "DISABLED" } else { "ACTIVE" },
        "currency": "USD",
        "country": "AR",
        "timezone_id": "1",
        "message_template_namespace": "00000000_0000_0000_0000_000000000000",
        "account_review_status": "APPROVED",
        "business_verification_status": "verified",
        "ownership_type": "SELF",
        "owner_business_info": {"id": spec.business, "name": spec.name},
        "on_behalf_of_business_info": Value::Null,
        "marketing_messages_lite_api_status": onboarded,
        "marketing_messages_onboarding_status": onboarded,
        "disable_marketing_messages_on_cloud_api": spec.marketing_api_only,
        "health_status": health::of_waba(world, waba),
        "is_enabled_for_insights": true,
        "whatsapp_business_manager_messaging_limit": tier(world, waba),
    })
}

pub(super) fn business_node(portfolio: &Portfolio, name: &str) -> Value {
    json!({
        "id": portfolio.spec.id,
        "name": name,
        "verification_status": "verified",
        "whatsapp_business_manager_messaging_limit": portfolio.limit().tier(),
    })
}

/// Meta's name of the messaging limit of the business that owns a WABA.
fn tier(world: &World, waba: usize) -> &'static str {
    world.businesses[world.wabas[waba].business].limit().tier()
}

/// The app that receives the updates of a WABA; an empty list if it is not subscribed.
pub(super) fn subscribed_apps(world: &World, waba: usize) -> Value {
    let app =
        json!({"whatsapp_business_api_data": {"id": health::APP, "name": "Pregón", "link": "https://example.com/"}});
    let subscribed = world.wabas[waba].subscribed.load(Ordering::Relaxed);
    json!({"data": subscribed.then_some(app).into_iter().collect::<Vec<_>>()})
}

pub(super) fn template_node(world: &World, template: &LiveTemplate) -> Value {
    let health = health::of_template(world, template);
    let state = template.state();
    let status = state.status_at(world.clock.now());
    let mut node = json!(template.spec);
    node["id"] = json!(template.id.to_string());
    node["status"] = json!(status);
    node["sub_category"] = json!(template.spec.sub_category);
    node["category"] = json!(state.category);
    node["previous_category"] = json!(state.previous_category);
    node["correct_category"] = json!(state.correct_category);
    node["components"] = json!(state.components);
    node["quality_score"] = json!({"score": state.quality});
    node["rejected_reason"] = json!(if status == TemplateStatus::Rejected { "INVALID_FORMAT" } else { "NONE" });
    node["message_send_ttl_seconds"] = Value::Null;
    node["health_status"] = health;
    node
}
