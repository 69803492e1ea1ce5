//! The audit trail.

use std::collections::BTreeSet;

use pregon::domain::{EntryId, HoldScope};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    chats,
    document::DOCUMENT,
    harness::{Api, answer, campaign, csv},
    media,
};
use crate::support::{alone::runs_alone, log::Log, postgres::TestPostgres, until};

/// Takes the lines of the audit trail since the last call.
fn audit_lines(log: &Log) -> Vec<Value> {
    let text = log.take();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    lines.filter(|line| line["target"] == "audit").collect()
}

#[tokio::test]
async fn every_change_leaves_one_line_with_who_what_and_result() {
    if !runs_alone(module_path!(), "every_change_leaves_one_line_with_who_what_and_result") {
        return;
    }
    let postgres = TestPostgres::start().await;
    let files = tempfile::tempdir().expect("a directory");
    let api = Api::start_with_media(postgres.connect(), media::store(files.path())).await;
    let database = postgres.database(api.now()).await;
    chats::write(&database, ("3001", "1001"), 1, "Hola", api.now()).await;
    let chat = api.read("/v1/chats").await["chats"][0]["id"].as_str().expect("an id").to_owned();
    let of_chat = |rest: &str| format!("/v1/chats/{chat}/{rest}");
    let group = |name: &str| Some(json!({ "business": "1001", "id": "sales", "name": name }));
    let ana = |email: &str| json!({ "business": "1001", "email": email, "name": "Ana" });
    let agent =
        api.post_json("/v1/agents", &ana("eva@example.com")).await.body["id"].as_str().expect("an id").to_owned();
    let of_agent = |rest: &str| format!("/v1/agents/{agent}{rest}");
    let tag = json!({ "business": "1001", "id": "vip", "name": "VIP", "colour": "#112233" });
    let canned = |shortcut: &str| json!({ "business": "1001", "shortcut": shortcut, "title": "T", "body": "Hola" });
    let reply = api.post_json("/v1/replies", &canned("a")).await.body["id"].as_str().expect("an id").to_owned();
    let of_reply = format!("/v1/replies/{reply}");
    let link = |opening: &str| json!({ "line": "3001", "name": "Flyer", "opening": opening });
    let link_id = api.post_json("/v1/inbound-links", &link("a")).await.body["id"].as_str().expect("an id").to_owned();
    let of_link = format!("/v1/inbound-links/{link_id}");
    let city = json!({ "business": "1001", "key": "city", "label": "City", "type": "text" });
    let person_77 = json!({ "business": "1001", "phone": "+5491155550077" });
    let away = Some(json!({ "presence": "away" }));
    let password = Some(json!({ "current": "x", "password": "y" }));
    let text = |text: &str| Some(json!({ "type": "text", "body": text, "client_id": "1" }));
    let id = api.draft("spring", &["3001"], 0).await;
    let draft = api.draft("summer", &["3001"], 0).await;
    let mut new = campaign("autumn", &["3001"]);
    new["external_id"] = "crm-1".into();
    let (of, draft_path) = (|rest: &str| format!("/v1/campaigns/{id}{rest}"), format!("/v1/campaigns/{draft}"));
    let (id, draft) = (id.to_string(), draft.to_string());
    let rate = |rate: Value| json!({ "messages_per_second": rate });
    let line = |rest: &str| format!("/v1/lines/3001{rest}");
    let business = json!({ "business": "1001" });
    let test = json!({ "to": ["+5491155550001"], "external_id": "test-1" });
    let unpause = |waba: &str| format!("/v1/templates/{waba}/order_update/es_AR/unpause");
    let person = "/v1/suppressions/+5491155550001";
    let scope = |scope: &str| json!({ "business": "1001", "scope": scope });
    let of_business = |path: &str| format!("{path}?business=1001");
    let (post, patch) = (Method::POST, Method::PATCH);
    let calls = [
        (&post, "/v1/campaigns".to_owned(), Some(new.clone()), "create_campaign", "", "changed"),
        (&post, "/v1/campaigns".into(), Some(new), "create_campaign", "", "unchanged"),
        (&post, "/v1/campaigns".into(), Some(campaign("x", &["9"])), "create_campaign", "", "refused"),
        (&post, of("/launch"), None, "launch_campaign", &*id, "refused"),
        (&post, of("/recipients"), None, "", "", ""),
        (&post, of("/test"), Some(test.clone()), "test_campaign", "", "changed"),
        (&post, of("/test"), Some(test), "test_campaign", "", "unchanged"),
        (&post, of("/test"), Some(json!({ "to": [] })), "test_campaign", &*id, "refused"),
        (&post, of("/launch"), None, "launch_campaign", &*id, "changed"),
        (&post, of("/launch"), None, "launch_campaign", &*id, "unchanged"),
        (&post, of("/pause"), None, "pause_campaign", &*id, "changed"),
        (&post, of("/pause"), None, "pause_campaign", &*id, "unchanged"),
        (&post, of("/resume"), None, "resume_campaign", &*id, "changed"),
        (&patch, of(""), Some(json!({ "priority": 4 })), "change_campaign", &*id, "changed"),
        (&patch, of(""), Some(json!({ "priority": 4 })), "change_campaign", &*id, "unchanged"),
        (&patch, of(""), Some(json!({ "priority": 40 })), "change_campaign", &*id, "refused"),
        (&post, of("/retry"), Some(json!({ "states": ["failed"] })), "retry_campaign", &*id, "refused"),
        (&Method::DELETE, of(""), None, "delete_campaign", &*id, "refused"),
        (&post, of("/cancel"), None, "cancel_campaign", &*id, "changed"),
        (&post, of("/cancel"), None, "cancel_campaign", &*id, "unchanged"),
        (&Method::GET, of(""), None, "", "", ""),
        (&Method::DELETE, draft_path, None, "delete_campaign", &*draft, "changed"),
        (&patch, line(""), Some(rate(20.into())), "set_rate", "3001", "changed"),
        (&patch, line(""), Some(rate(json!(20.0))), "set_rate", "3001", "unchanged"),
        (&patch, line(""), Some(rate(Value::Null)), "set_rate", "3001", "changed"),
        (&patch, line(""), Some(rate(Value::Null)), "set_rate", "3001", "unchanged"),
        (&patch, line(""), Some(rate(0.into())), "set_rate", "3001", "refused"),
        (&post, line("/resume"), None, "resume_line", "3001", "unchanged"),
        (&post, line("/pause"), None, "pause_line", "3001", "changed"),
        (&post, line("/pause"), None, "pause_line", "3001", "unchanged"),
        (&post, line("/resume"), None, "resume_line", "3001", "changed"),
        (&post, "/v1/lines/9/pause".into(), None, "pause_line", "9", "refused"),
        (&post, "/v1/templates/sync".into(), None, "sync_templates", "templates", "changed"),
        (&post, unpause("2001"), None, "unpause_template", "template:2001/order_update/es_AR", "changed"),
        (&post, unpause("2009"), None, "unpause_template", "2009", "refused"),
        (&post, "/v1/subscribers/crm/redeliver?from=0".into(), None, "redeliver", "crm", "changed"),
        (&post, "/v1/subscribers/crm/redeliver?from=0".into(), None, "redeliver", "crm", "unchanged"),
        (&post, "/v1/subscribers/crm/redeliver?from=x".into(), None, "redeliver", "crm", "refused"),
        (&post, "/v1/subscribers/crm/enable".into(), None, "enable_subscriber", "crm", "unchanged"),
        (&post, "/v1/jobs/dead/7-1/retry".into(), None, "retry_dead_job", "7-1", "changed"),
        (&Method::DELETE, "/v1/jobs/dead/7-1".into(), None, "delete_dead_job", "7-1", "changed"),
        (&Method::DELETE, "/v1/jobs/dead/7-1".into(), None, "delete_dead_job", "7-1", "refused"),
        (&post, "/v1/holds/business:1001/lift".into(), None, "lift_hold", "business:1001", "changed"),
        (&post, "/v1/holds/business:1001/lift".into(), None, "lift_hold", "business:1001", "unchanged"),
        (&post, "/v1/holds/line:9/lift".into(), None, "lift_hold", "line:9", "unchanged"),
        (&post, "/v1/holds/lines/lift".into(), None, "lift_hold", "lines", "refused"),
        (&Method::PUT, person.into(), Some(scope("all")), "suppress", "business:1001 …0001", "changed"),
        (&Method::PUT, person.into(), Some(scope("all")), "suppress", "business:1001 …0001", "unchanged"),
        (&Method::PUT, person.into(), Some(scope("some")), "suppress", "+…0001", "refused"),
        (&Method::DELETE, of_business(person), None, "unsuppress", "business:1001 …0001", "changed"),
        (&Method::DELETE, of_business(person), None, "unsuppress", "business:1001 …0001", "refused"),
        (&Method::DELETE, person.into(), None, "unsuppress", "+…0001", "refused"),
        (&Method::DELETE, "/v1/people/+447700900123".into(), None, "forget_person", "…0123", "unchanged"),
        (&post, of_business("/v1/suppressions"), None, "import_suppressions", "business:1001", "changed"),
        (&post, of_business("/v1/suppressions"), None, "import_suppressions", "business:1001", "unchanged"),
        (&post, of_chat("take"), None, "take_chat", &*chat, "changed"),
        (&post, of_chat("take"), None, "take_chat", &*chat, "unchanged"),
        (&post, of_chat("messages"), text("Hola"), "send_chat_message", &*chat, "changed"),
        (&post, of_chat("messages"), text("Hola"), "send_chat_message", &*chat, "unchanged"),
        (&post, of_chat("messages"), text(""), "send_chat_message", &*chat, "refused"),
        (&post, of_chat("notes"), Some(json!({ "text": "calls back" })), "write_note", &*chat, "changed"),
        (&post, of_chat("read"), None, "read_chat", &*chat, "changed"),
        (&post, of_chat("typing"), None, "type_in_chat", &*chat, "unchanged"),
        (&post, "/v1/tags".into(), Some(tag.clone()), "create_tag", "vip", "changed"),
        (&post, "/v1/tags".into(), Some(tag), "create_tag", "vip", "refused"),
        (&Method::PUT, of_chat("tags"), Some(json!({ "tags": ["vip"] })), "tag_chat", &*chat, "changed"),
        (&Method::PUT, of_chat("tags"), Some(json!({ "tags": ["vip"] })), "tag_chat", &*chat, "unchanged"),
        (&patch, of_business("/v1/tags/vip"), Some(json!({ "name": "x" })), "change_tag", "vip", "changed"),
        (&Method::DELETE, of_business("/v1/tags/vip"), None, "remove_tag", "vip", "changed"),
        (&post, "/v1/properties".into(), Some(city.clone()), "create_property", "city", "changed"),
        (&post, "/v1/properties".into(), Some(city), "create_property", "city", "refused"),
        (
            &patch,
            of_business("/v1/properties/city"),
            Some(json!({ "label": "x" })),
            "change_property",
            "city",
            "changed",
        ),
        (&Method::DELETE, of_business("/v1/properties/city"), None, "remove_property", "city", "changed"),
        (&post, of_business("/v1/contacts/import"), None, "import_contacts", "business:1001", "changed"),
        (&post, of_business("/v1/contacts/import"), None, "import_contacts", "business:1001", "unchanged"),
        (&post, "/v1/contacts".into(), Some(person_77.clone()), "create_contact", "", "changed"),
        (&post, "/v1/contacts".into(), Some(person_77), "create_contact", "", "refused"),
        (&patch, "/v1/contacts/1".into(), Some(json!({ "name": "x" })), "change_contact", "1", "changed"),
        (&post, "/v1/inbound-links".into(), Some(link("b")), "create_inbound_link", "", "changed"),
        (&patch, of_link.clone(), Some(json!({ "name": "x" })), "change_inbound_link", &*link_id, "changed"),
        (&Method::DELETE, of_link, None, "remove_inbound_link", &*link_id, "changed"),
        (&post, "/v1/replies".into(), Some(canned("b")), "create_reply", "", "changed"),
        (&post, "/v1/replies".into(), Some(canned("b")), "create_reply", "", "refused"),
        (&patch, of_reply.clone(), Some(json!({ "body": "x" })), "change_reply", &*reply, "changed"),
        (&Method::DELETE, of_reply, None, "remove_reply", &*reply, "changed"),
        (&post, of_chat("snooze"), Some(json!({ "until": "2999-01-01T00:00:00Z" })), "snooze_chat", &*chat, "changed"),
        (
            &post,
            of_chat("snooze"),
            Some(json!({ "until": "2999-01-01T00:00:00Z" })),
            "snooze_chat",
            &*chat,
            "unchanged",
        ),
        (&post, "/v1/groups".into(), group("Ventas"), "create_group", "sales", "changed"),
        (&post, "/v1/groups".into(), group("Ventas"), "create_group", "sales", "refused"),
        (&post, of_chat("assign"), Some(json!({ "group": "sales" })), "assign_chat", &*chat, "changed"),
        (&post, of_chat("assign"), Some(json!({ "group": "sales" })), "assign_chat", &*chat, "unchanged"),
        (&patch, of_business("/v1/groups/sales"), Some(json!({ "name": "x" })), "rename_group", "sales", "changed"),
        (&Method::DELETE, of_business("/v1/groups/sales"), None, "remove_group", "sales", "refused"),
        (&post, "/v1/agents".into(), Some(ana("ana@example.com")), "create_agent", "", "changed"),
        (&post, "/v1/agents".into(), Some(ana("ana")), "create_agent", "", "refused"),
        (&patch, of_agent(""), Some(json!({ "capacity": 3 })), "change_agent", &*agent, "changed"),
        (&Method::PUT, of_agent("/presence"), away.clone(), "set_presence", &*agent, "changed"),
        (&Method::PUT, of_agent("/presence"), away, "set_presence", &*agent, "unchanged"),
        (&post, of_agent("/invitation"), None, "invite_agent", &*agent, "changed"),
        (&Method::DELETE, of_agent("/sessions"), None, "end_sessions", &*agent, "unchanged"),
        (&Method::DELETE, of_agent(""), None, "remove_agent", &*agent, "changed"),
        (&Method::DELETE, of_agent(""), None, "remove_agent", &*agent, "unchanged"),
        (&Method::PUT, "/v1/session/password".into(), password, "change_password", "", "refused"),
        (&Method::DELETE, "/v1/session".into(), None, "log_out", "", "refused"),
        (&post, of_chat("take"), None, "take_chat", &*chat, "changed"),
        (&post, of_chat("release"), None, "release_chat", &*chat, "changed"),
        (&post, of_chat("close"), None, "close_chat", &*chat, "changed"),
        (&post, of_chat("finish"), None, "finish_chat", &*chat, "unchanged"),
        (&post, "/v1/chats/77/take".into(), None, "take_chat", "77", "refused"),
        (&post, of_business("/v1/media"), None, "upload_media", "", "changed"),
        (&post, "/v1/media?business=9".into(), None, "upload_media", "", "refused"),
        (&post, "/v1/pause".into(), None, "pause_all", "all", "changed"),
        (&post, "/v1/pause".into(), None, "pause_all", "all", "unchanged"),
        (&post, "/v1/pause".into(), Some(business.clone()), "pause_all", "business:1001", "changed"),
        (&post, "/v1/resume".into(), None, "resume_all", "all", "changed"),
        (&post, "/v1/resume".into(), None, "resume_all", "all", "unchanged"),
        (&post, "/v1/resume".into(), Some(business), "resume_all", "business:1001", "changed"),
    ];
    api.add_dead_letter("7-1", &[b"job", b"{}"]).await;
    api.hold(&HoldScope::Business("1001".into()), None).await;
    let log = Log::as_json();
    let (mut audited, mut changed) = (BTreeSet::new(), Vec::new());
    for (method, path, body, what, on, result) in calls {
        let request = api.request(method.clone(), &path).header("x-request-id", "r-7");
        let request = match body {
            Some(body) => request.json(&body),
            None if path.starts_with("/v1/suppressions?") => {
                request.header("content-type", "text/csv").body("phone,scope\n+5491155550002,all\n")
            }
            None if path.starts_with("/v1/contacts/import?") => {
                request.header("content-type", "text/csv").body("phone,name\n+5491155550012,Ana\n")
            }
            None if path.starts_with("/v1/media") => request.header("content-type", "image/png").body("png"),
            None if path.ends_with("/recipients") => request.header("content-type", "text/csv").body(csv(3)),
            None => request,
        };
        let given = answer(request).await;
        let call = format!("{method} {path}: {}", given.body);
        let lines = audit_lines(&log);
        if what.is_empty() {
            assert_eq!(lines, [] as [Value; 0], "{call}");
            continue;
        }
        let [line] = &lines[..] else { panic!("{call}: {lines:?}") };
        for (field, value) in [("who", "test"), ("what", what), ("result", result), ("request_id", "r-7")] {
            assert_eq!(line[field], value, "{call}: {line}");
        }
        let created = given.body["id"].as_str().unwrap_or_default();
        let on = if on.is_empty() { created } else { on };
        assert_eq!(line["on"].as_str().unwrap_or_default(), on, "{call}: {line}");
        assert_eq!(line["status"], given.status.as_u16(), "{call}: {line}");
        audited.insert(what.to_owned());
        changed.extend((result == "changed").then(|| json!([what, on])));
    }
    // Events are appended after the responses, so their order is not certain.
    let told = async || {
        let stored = api.store.events_after(0, EntryId::default(), 1_000).await.expect("redis");
        let events = stored.iter().map(|stored| serde_json::from_str::<Value>(&stored.event).expect("JSON"));
        let changes = events.filter(|event| event["type"] == "operator.changed" && event["request_id"] == "r-7");
        changes.map(|event| json!([event["what"], event["on"].as_str().unwrap_or_default()])).collect::<Vec<_>>()
    };
    until("each change is told", async || told().await.len() >= changed.len()).await;
    let sorted = |changes: Vec<Value>| changes.iter().map(Value::to_string).collect::<BTreeSet<_>>();
    assert_eq!(sorted(told().await), sorted(changed));
    assert_eq!(audited, changes(), "the calls of the document that change something");
}

/// The operation ids of all calls that are audited: those that change something, except uploads, and logins, of which `agents.rs` tests the
/// lines.
fn changes() -> BTreeSet<String> {
    let items = DOCUMENT["paths"].as_object().expect("an object").values();
    let calls = items.flat_map(|item| item.as_object().expect("an object"));
    let changes = calls.filter(|(method, _)| *method != "get").map(|(_, call)| call["operationId"].as_str());
    changes
        .map(|id| id.expect("an id").to_owned())
        .filter(|id| !["upload_recipients", "log_in", "fill_in_reply"].contains(&id.as_str()))
        .collect()
}
