//! Templates, lines and WABAs, as they are read.

use serde_json::{Value, json};

use super::kit::{Stand, quiet};

fn names(page: &Value) -> Vec<String> {
    let rows = page["data"].as_array().expect("rows");
    rows.iter()
        .map(|row| format!("{} {}", row["name"].as_str().unwrap_or(""), row["language"].as_str().unwrap_or("")))
        .collect()
}

#[tokio::test]
async fn pages_lead_to_every_template_once() {
    let stand = Stand::start(quiet()).await;
    let (_, whole) = stand.get("/v25.0/2001/message_templates?limit=100").await;
    assert_eq!(names(&whole).len(), 8);
    assert!(whole["paging"]["next"].is_null() && whole["paging"]["cursors"]["after"].is_string());

    let mut found = Vec::new();
    let mut pages = 0;
    let mut next = Some("/v25.0/2001/message_templates?limit=3&fields=name,language".to_owned());
    while let Some(path) = next {
        let (status, page) = stand.get(&path).await;
        assert_eq!(status, 200);
        found.extend(names(&page));
        pages += 1;
        next = page["paging"]["next"].as_str().map(str::to_owned);
        assert_eq!(page["data"][0].as_object().map(|row| row.len()), Some(3), "id and what was asked for");
    }
    assert_eq!((pages, found), (3, names(&whole)));

    let (_, page) = stand.get("/v25.0/2001/message_templates?limit=3").await;
    let after = page["paging"]["cursors"]["after"].as_str().expect("a cursor");
    let (_, page) = stand.get(&format!("/v25.0/2001/message_templates?limit=100&after={after}")).await;
    assert_eq!(names(&page), names(&whole)[3..]);
    assert_eq!(stand.get("/v25.0/2001/message_templates?after=nonsense").await.0, 400);
}

#[tokio::test]
async fn filters_and_fields_choose() {
    let stand = Stand::start(quiet()).await;
    let (_, named) = stand.get("/v25.0/2001/message_templates?name=order_update").await;
    assert_eq!(names(&named), ["order_update es_AR", "order_update en_US"]);
    let (_, paused) = stand.get("/v25.0/2001/message_templates?status=PAUSED").await;
    assert_eq!(names(&paused), ["winter_sale es_AR"]);
    let first = &named["data"][0];
    assert_eq!(first["parameter_format"], "POSITIONAL");
    assert_eq!(first["components"][1]["buttons"][0], json!({"type": "QUICK_REPLY", "text": "Sí, avisame"}));
    assert!(first.get("waba").is_none());
    let (_, node) =
        stand.get(&format!("/v25.0/{}?fields=status,health_status", first["id"].as_str().expect("an id"))).await;
    assert_eq!(
        (&node["status"], &node["health_status"]["can_send_message"]),
        (&json!("APPROVED"), &json!("AVAILABLE"))
    );
    let (status, wrong) = stand.get("/v25.0/2001/message_templates?fields=colour").await;
    assert_eq!((status, &wrong["error"]["code"]), (400, &json!(100)));
}

#[tokio::test]
async fn lines_and_wabas_are_read_as_meta_has_them() {
    let stand = Stand::start(quiet()).await;
    let (_, lines) = stand.get("/v25.0/2001/phone_numbers?fields=id,status,throughput{level}&limit=2").await;
    assert_eq!(lines["data"].as_array().map(Vec::len), Some(2));
    assert!(lines["paging"]["next"].is_string());
    let everything = "id,display_phone_number,verified_name,status,quality_rating,quality_score,name_status,new_name_status,\
        code_verification_status,account_mode,platform_type,is_on_biz_app,is_official_business_account,is_pin_enabled,throughput,\
        whatsapp_business_manager_messaging_limit,webhook_configuration,health_status,last_onboarded_time";
    let (status, line) = stand.get(&format!("/v25.0/3001?fields={everything}")).await;
    assert_eq!((status, &line["status"], &line["quality_rating"]), (200, &json!("CONNECTED"), &json!("GREEN")));
    assert_eq!(line["health_status"]["entities"][0]["id"], "3001");
    let (_, waba) = stand.get("/v25.0/2001?fields=id,name,disable_marketing_messages_on_cloud_api").await;
    assert_eq!(waba, json!({"id": "2001", "name": "Pregón S.A.", "disable_marketing_messages_on_cloud_api": false}));
    let raw = stand.http.get(format!("{}/v25.0/2001", stand.base)).bearer_auth(super::kit::TOKEN).send().await;
    let raw = raw.expect("an answer").bytes().await.expect("a body");
    assert!(raw.windows(6).any(|bytes| bytes == br"\u00f3"), "escaped as Meta escapes");
}

#[tokio::test]
async fn what_is_not_there_is_refused() {
    let stand = Stand::start(quiet()).await;
    for (path, status, code) in [
        ("/v25.0/9999", 400, 100),
        ("/v25.0/9999/message_templates", 400, 100),
        ("/v25.0/2001/nothing", 400, 100),
        ("/v25.0/3001/message_templates", 400, 100),
        ("/2001/message_templates", 400, 2500),
        ("/", 400, 2500),
    ] {
        let (found, body) = stand.get(path).await;
        assert_eq!((found, &body["error"]["code"]), (status, &json!(code)), "{path}");
    }
    let unauthorized = stand.http.get(format!("{}/v25.0/2001/message_templates", stand.base)).send().await;
    assert_eq!(unauthorized.expect("an answer").status().as_u16(), 401);
}
