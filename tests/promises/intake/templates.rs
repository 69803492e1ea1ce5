//! Templates as Meta lists them: which are stored, which are usable, and when the list is read again.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Json, Router, extract::State, routing::get};
use pregon::{
    domain::{CampaignState, HoldScope, Lines, OnDoubt, Secret, Template},
    graph::{GraphClient, GraphClientConfig},
    redis::Store,
    templates,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{
    hooks::{Hooks, payload},
    redis::TestRedis,
    serve::serve,
    until, world,
};

/// The templates that the fake Meta lists, and how many times the list was read. It is separate from
/// `support::hostile`, which always lists the same template.
#[derive(Clone, Default)]
struct Listed(Arc<Mutex<(Vec<Value>, usize)>>);

impl Listed {
    fn set(&self, templates: &[Value]) {
        self.0.lock().expect("no panic under the lock").0 = templates.to_vec();
    }
}

async fn list(State(listed): State<Listed>) -> Json<Value> {
    let mut listed = listed.0.lock().expect("no panic under the lock");
    listed.1 += 1;
    Json(json!({ "data": listed.0 }))
}

/// A client of a fake Meta that lists the same templates for every WABA.
async fn meta(listed: &Listed) -> GraphClient {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let router = Router::new().route("/{version}/{waba}/message_templates", get(list)).with_state(listed.clone());
    let base_url = serve(router).await;
    GraphClient::new(GraphClientConfig { base_url, ..GraphClientConfig::default() }).expect("a client")
}

fn item(name: &str) -> Value {
    let path = format!("{}/tests/fixtures/templates/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).expect("the fixture")).expect("JSON")
}

async fn store(redis: &TestRedis) -> Store {
    Store::connect(&world::address(redis)).await.expect("a store")
}

/// Starts housekeeping for line 3001 of WABA 2001. Returns the token that stops it, and its task.
async fn start_housekeeping(store: &Store, graph: GraphClient) -> (CancellationToken, tokio::task::JoinHandle<()>) {
    let housekeeping = world::housekeeping(store, &[world::line("3001", 80.0)], graph).await;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    (stop, tokio::spawn(async move { housekeeping.run(stopped).await.expect("it never fails") }))
}

async fn stored_templates(store: &Store) -> Vec<Template> {
    let (mut templates, _) = store.templates(&"2001".into()).await.expect("redis").expect("they were read");
    templates.sort_by(|a, b| a.name.cmp(&b.name));
    templates
}

#[tokio::test]
async fn an_unreadable_template_is_stored_with_its_problem() {
    let (redis, listed) = (TestRedis::start().await, Listed::default());
    let (store, graph) = (store(&redis).await, meta(&listed).await);
    let mut odd = item("static");
    odd["components"] = json!("none");
    listed.set(&[item("positional"), odd]);
    let now = store.time().await.expect("redis");
    let n = templates::sync(&store, &graph, &"2001".into(), &Secret::new("EAAG"), now).await.expect("read");
    assert_eq!(n, 2);
    let stored = stored_templates(&store).await;
    let problems: Vec<_> = stored.iter().map(|template| (template.name.as_str(), template.problem())).collect();
    let [("hello_world", Some(problem)), ("order_update", None)] = &problems[..] else { panic!("{problems:?}") };
    assert!(problem.contains("cannot be read as Meta lists it (components: invalid type: string"), "{problem}");
}

#[tokio::test]
async fn templates_are_read_again_after_a_change_webhook() {
    let edited = json!({"field": "message_template_components_update", "value": {
        "message_template_id": 1, "message_template_name": "order_update", "message_template_language": "es_AR",
        "message_template_element": "{{1}}, {{2}} and {{3}}",
    }});
    let status = json!({"field": "message_template_status_update", "value": {
        "event": "PENDING", "message_template_name": "order_update", "message_template_language": "es_AR",
    }});
    for change in [edited, status] {
        let (hooks, listed) = (Hooks::start().await, Listed::default());
        listed.set(&[item("positional")]);
        let (stop, housekeeping) = start_housekeeping(&hooks.store, meta(&listed).await).await;
        until("they are read at the start", async || {
            hooks.store.templates(&"2001".into()).await.expect("redis").is_some()
        })
        .await;
        let mut now = item("positional");
        now["components"][0]["text"] = json!("{{1}}, {{2}} and {{3}}");
        listed.set(&[now]);
        assert_eq!(hooks.deliver(&payload(&[change])).await, 200);
        until("they are read again", async || {
            stored_templates(&hooks.store).await[0].components[0].text.ends_with("{{3}}")
        })
        .await;
        stop.cancel();
        housekeeping.await.expect("no panic");
        hooks.stop().await;
    }
}

#[tokio::test]
async fn an_outdated_list_does_not_lift_a_hold_from_a_webhook() {
    let (hooks, listed) = (Hooks::start().await, Listed::default());
    listed.set(&[item("positional")]);
    let paused = json!({"field": "message_template_status_update", "value": {
        "event": "PAUSED", "message_template_name": "order_update", "message_template_language": "es_AR",
    }});
    assert_eq!(hooks.deliver(&payload(&[paused])).await, 200);
    let graph = meta(&listed).await;
    let scope = HoldScope::Template { waba: "2001".into(), name: "order_update".into(), language: "es_AR".into() };
    let now = hooks.clock.now();
    for (after, is_held) in [(0, true), (60, false)] {
        let at = now.after(Duration::from_secs(after));
        templates::sync(&hooks.store, &graph, &"2001".into(), &Secret::new("EAAG"), at).await.expect("read");
        assert_eq!(hooks.store.holds(now).await.expect("redis").contains_key(&scope), is_held, "after {after} s");
    }
    hooks.stop().await;
}

#[tokio::test]
async fn a_template_hold_names_metas_status_and_a_remedy() {
    let (redis, listed) = (TestRedis::start().await, Listed::default());
    let (store, graph) = (store(&redis).await, meta(&listed).await);
    let scope = HoldScope::Template { waba: "2001".into(), name: "order_update".into(), language: "es_AR".into() };
    let now = store.time().await.expect("redis");
    for (status, message) in [
        ("PENDING", "Meta lists it as PENDING, under review by Meta: wait until it is approved"),
        ("REJECTED", "Meta lists it as REJECTED by Meta (INVALID_FORMAT): edit it in WhatsApp Manager"),
    ] {
        let mut template = item("positional");
        template["status"] = json!(status);
        template["rejected_reason"] = json!(if status == "REJECTED" { "INVALID_FORMAT" } else { "NONE" });
        listed.set(&[template]);
        templates::sync(&store, &graph, &"2001".into(), &Secret::new("EAAG"), now).await.expect("read");
        let hold = store.holds(now).await.expect("redis").remove(&scope).expect("a hold");
        assert!(hold.reason.starts_with(message), "{}", hold.reason);
    }
}

#[tokio::test]
async fn a_sync_rejected_by_meta_names_a_remedy() {
    let redis = TestRedis::start().await;
    let store = store(&redis).await;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let refusal = json!({"error": {"code": 190, "message": "Error validating access token"}});
    let base_url = serve(Router::new().fallback(async move || Json(refusal.clone()))).await;
    let graph = GraphClient::new(GraphClientConfig { base_url, ..GraphClientConfig::default() }).expect("a client");
    let now = store.time().await.expect("redis");
    let lines = Lines::from_iter([world::line("3001", 80.0)]);
    let results = templates::sync_all(&store, &graph, &lines, lines.wabas(), now).await;
    let [(waba, Err(message))] = &results[..] else { panic!("{results:?}") };
    assert_eq!(waba.as_str(), "2001");
    assert!(message.contains("code 190") && message.ends_with("and may use whatsapp_business_management"), "{message}");
}

#[tokio::test]
async fn a_scheduled_campaign_with_an_edited_template_is_paused() {
    let (redis, listed) = (TestRedis::start().await, Listed::default());
    let store = store(&redis).await;
    let mut edited = item("positional");
    edited["components"][0]["text"] = json!("{{1}}");
    listed.set(&[edited]);
    let id = world::campaign(&store, &["3001"], 2, OnDoubt::Hold).await;
    let now = store.time().await.expect("redis");
    let from = [CampaignState::Draft];
    store.change_campaign(id, &from, CampaignState::Scheduled, now, None).await.expect("scheduled");
    let (stop, housekeeping) = start_housekeeping(&store, meta(&listed).await).await;
    let record = async || store.campaign(id).await.expect("redis").expect("a campaign");
    until("it is paused", async || record().await.state == CampaignState::Paused).await;
    let reason = record().await.reason.expect("a reason");
    assert!(reason.code.is_none() && reason.details.contains("the body takes 1 value now, and took 2"), "{reason:?}");
    stop.cancel();
    housekeeping.await.expect("no panic");
}
