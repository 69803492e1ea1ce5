//! `health_status` of lines, WABAs and templates.

use serde_json::{Value, json};

use super::kit::{SimServer, quiet};

/// Reads the `health_status` of a node.
async fn health(server: &SimServer, node: &str) -> Value {
    let (status, read) = server.get(&format!("/v25.0/{node}?fields=health_status")).await;
    assert_eq!((status, &read["id"]), (200, &json!(node)));
    read["health_status"].clone()
}

/// The types and values of the levels in a `health_status`, after the overall value.
fn levels(health: &Value) -> Vec<(&str, &str)> {
    let entities = health["entities"].as_array().expect("entities");
    assert!(entities.iter().all(|entity| entity["id"].is_string()));
    let levels = entities.iter().map(|entity| (&entity["entity_type"], &entity["can_send_message"]));
    let levels = levels.map(|(level, value)| (level.as_str().unwrap_or(""), value.as_str().unwrap_or("")));
    std::iter::once(("", health["can_send_message"].as_str().unwrap_or(""))).chain(levels).collect()
}

#[tokio::test]
async fn a_node_shows_its_levels_and_the_worst_of_them() {
    let mut scenario = quiet();
    scenario.lines[1].status = "DISCONNECTED".into();
    let server = SimServer::start(scenario).await;
    let account = [("WABA", "AVAILABLE"), ("BUSINESS", "AVAILABLE"), ("APP", "AVAILABLE")];
    assert_eq!(levels(&health(&server, "2001").await), [&[("", "AVAILABLE")][..], &account].concat());
    assert_eq!(
        levels(&health(&server, "3001").await),
        [&[("", "AVAILABLE"), ("PHONE_NUMBER", "AVAILABLE")][..], &account].concat()
    );
    let disconnected = health(&server, "3002").await;
    assert_eq!(levels(&disconnected), [&[("", "BLOCKED"), ("PHONE_NUMBER", "BLOCKED")][..], &account].concat());
    let errors = &disconnected["entities"][0]["errors"];
    assert_eq!(errors[0]["error_code"], 133_010);
    assert!(errors[0]["error_description"].is_string() && errors[0]["possible_solution"].is_string());
}

#[tokio::test]
async fn the_health_of_a_template_follows_its_status() {
    let server = SimServer::start(quiet()).await;
    let (_, listed) = server.get("/v25.0/2001/message_templates?name=spring_sale&fields=id").await;
    let id = listed["data"][0]["id"].as_str().expect("an id");
    assert_eq!(levels(&health(&server, id).await)[..2], [("", "AVAILABLE"), ("MESSAGE_TEMPLATE", "AVAILABLE")]);
    server.control("template", &json!({"name": "spring_sale", "status": "PAUSED"})).await;
    let paused = health(&server, id).await;
    assert_eq!(levels(&paused)[..2], [("", "BLOCKED"), ("MESSAGE_TEMPLATE", "BLOCKED")]);
    assert_eq!(paused["entities"][0]["errors"][0]["error_code"], 141_002);
    assert_eq!(paused["entities"][1]["entity_type"], "WABA");
    let (_, unpaused) = server.post(&format!("/v25.0/{id}/unpause")).await;
    assert_eq!(unpaused["success"], true);
    assert_eq!(levels(&health(&server, id).await)[0], ("", "AVAILABLE"));
}
