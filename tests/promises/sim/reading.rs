//! Reads from the simulator: templates, lines and WABAs.

use pregon::sim::scenario::{Business, MessagingLimit};
use serde_json::{Value, json};

use super::kit::{SimServer, quiet};

fn names(page: &Value) -> Vec<String> {
    let rows = page["data"].as_array().expect("rows");
    rows.iter()
        .map(|row| format!("{} {}", row["name"].as_str().unwrap_or(""), row["language"].as_str().unwrap_or("")))
        .collect()
}

#[tokio::test]
async fn pages_contain_every_template_once() {
    let server = SimServer::start(quiet()).await;
    let (_, whole) = server.get("/v25.0/2001/message_templates?limit=100").await;
    assert_eq!(server.ledger().template_reads["2001"], 1);
    assert_eq!(names(&whole).len(), 8);
    assert!(whole["paging"]["next"].is_null() && whole["paging"]["cursors"]["after"].is_string());

    let mut found = Vec::new();
    let mut pages = 0;
    let mut next = Some("/v25.0/2001/message_templates?limit=3&fields=name,language".to_owned());
    while let Some(path) = next {
        let (status, page) = server.get(&path).await;
        assert_eq!(status, 200);
        found.extend(names(&page));
        pages += 1;
        next = page["paging"]["next"].as_str().map(str::to_owned);
        assert_eq!(page["data"][0].as_object().map(|row| row.len()), Some(3), "id and the requested fields");
    }
    assert_eq!((pages, found), (3, names(&whole)));

    let (_, page) = server.get("/v25.0/2001/message_templates?limit=3").await;
    let after = page["paging"]["cursors"]["after"].as_str().expect("a cursor");
    let (_, page) = server.get(&format!("/v25.0/2001/message_templates?limit=100&after={after}")).await;
    assert_eq!(names(&page), names(&whole)[3..]);
    assert_eq!(server.get("/v25.0/2001/message_templates?after=nonsense").await.0, 400);
}

#[tokio::test]
async fn filters_and_fields_select_templates() {
    let server = SimServer::start(quiet()).await;
    let (_, named) = server.get("/v25.0/2001/message_templates?name=order_update").await;
    assert_eq!(names(&named), ["order_update es_AR", "order_update en_US"]);
    let (_, paused) = server.get("/v25.0/2001/message_templates?status=PAUSED").await;
    assert_eq!(names(&paused), ["winter_sale es_AR"]);
    let first = &named["data"][0];
    assert_eq!(first["parameter_format"], "POSITIONAL");
    assert_eq!(first["components"][1]["buttons"][0], json!({"type": "QUICK_REPLY", "text": "Sí, avisame"}));
    assert!(first.get("waba").is_none());
    let (_, node) =
        server.get(&format!("/v25.0/{}?fields=status,health_status", first["id"].as_str().expect("an id"))).await;
    assert_eq!(
        (&node["status"], &node["health_status"]["can_send_message"]),
        (&json!("APPROVED"), &json!("AVAILABLE"))
    );
    let (status, wrong) = server.get("/v25.0/2001/message_templates?fields=colour").await;
    assert_eq!((status, &wrong["error"]["code"]), (400, &json!(100)));
}

#[tokio::test]
async fn lines_and_wabas_have_metas_fields() {
    let server = SimServer::start(quiet()).await;
    let (_, lines) = server.get("/v25.0/2001/phone_numbers?fields=id,status,throughput{level}&limit=2").await;
    assert_eq!(lines["data"].as_array().map(Vec::len), Some(2));
    assert!(lines["paging"]["next"].is_string());
    let everything = "id,display_phone_number,verified_name,status,quality_rating,quality_score,name_status,new_name_status,\
        code_verification_status,account_mode,platform_type,is_on_biz_app,is_official_business_account,is_pin_enabled,throughput,\
        whatsapp_business_manager_messaging_limit,webhook_configuration,health_status,last_onboarded_time";
    let (status, line) = server.get(&format!("/v25.0/3001?fields={everything}")).await;
    assert_eq!((status, &line["status"], &line["quality_rating"]), (200, &json!("CONNECTED"), &json!("GREEN")));
    assert_eq!(line["health_status"]["entities"][0]["id"], "3001");
    let (_, waba) = server.get("/v25.0/2001?fields=id,name,disable_marketing_messages_on_cloud_api").await;
    assert_eq!(waba, json!({"id": "2001", "name": "Pregón S.A.", "disable_marketing_messages_on_cloud_api": false}));
    let raw = server.http.get(format!("{}/v25.0/2001", server.base)).bearer_auth(super::kit::TOKEN).send().await;
    let raw = raw.expect("an answer").bytes().await.expect("a body");
    assert!(raw.windows(6).any(|bytes| bytes == br"\u00f3"), "escaped as by Meta");
}

#[tokio::test]
async fn unknown_paths_return_metas_errors() {
    let server = SimServer::start(quiet()).await;
    for (path, status, code) in [
        ("/v25.0/9999", 400, 100),
        ("/v25.0/9999/message_templates", 400, 100),
        ("/v25.0/2001/nothing", 400, 100),
        ("/v25.0/3001/message_templates", 400, 100),
        ("/2001/message_templates", 400, 2500),
        ("/", 400, 2500),
    ] {
        let (found, body) = server.get(path).await;
        assert_eq!((found, &body["error"]["code"]), (status, &json!(code)), "{path}");
    }
    let unauthorized = server.http.get(format!("{}/v25.0/2001/message_templates", server.base)).send().await;
    assert_eq!(unauthorized.expect("an answer").status().as_u16(), 401);
}

#[tokio::test]
async fn a_business_lists_the_wabas_that_it_owns_and_those_shared_with_it() {
    let mut scenario = quiet();
    let waba = |id: &str, business: &str, shared: &[&str]| {
        let mut waba = quiet().wabas.remove(0);
        (waba.id, waba.business, waba.token) = (id.into(), business.into(), format!("token-{id}"));
        waba.shared_with = shared.iter().map(|id| (*id).to_owned()).collect();
        waba
    };
    scenario.businesses = vec![business("1002")];
    scenario.wabas.extend([waba("2002", "1001", &[]), waba("2003", "1002", &["1001"])]);
    let server = SimServer::start(scenario).await;
    let ids = |page: &Value| -> Vec<Value> {
        page["data"].as_array().expect("rows").iter().map(|row| row["id"].clone()).collect()
    };

    let (_, first) = server.get("/v25.0/1001/owned_whatsapp_business_accounts?limit=1").await;
    assert_eq!((ids(&first), first["paging"]["next"].is_string()), (vec![json!("2001")], true));
    let after = first["paging"]["cursors"]["after"].as_str().expect("a cursor");
    let (_, last) = server.get(&format!("/v25.0/1001/owned_whatsapp_business_accounts?after={after}")).await;
    assert_eq!((ids(&last), &last["paging"]["next"]), (vec![json!("2002")], &Value::Null), "also one of another token");
    let (_, shared) = server.get("/v25.0/1001/client_whatsapp_business_accounts?fields=name").await;
    assert_eq!(shared["data"], json!([{"id": "2003", "name": "Pregón S.A."}]));

    let (status, refused) = server.get("/v25.0/1002/owned_whatsapp_business_accounts").await;
    assert_eq!((status, &refused["error"]["code"]), (400, &json!(100)), "a token of another business");
    let (status, refused) = server.get("/v25.0/2002/phone_numbers").await;
    assert_eq!((status, &refused["error"]["error_subcode"]), (400, &json!(33)), "a WABA of another token");
}

fn business(id: &str) -> Business {
    Business { id: id.into(), limit: MessagingLimit::Unlimited, pacing: None, frequency_cap: None }
}
