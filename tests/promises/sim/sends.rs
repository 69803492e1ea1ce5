//! Sends to the simulator: what it accepts, what it refuses because of the contents, and how it counts messages.

use std::time::Duration;

use pregon::sim::{
    Scenario, ScenarioError, Sim, SimError,
    scenario::{Fault, Outage},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::kit::{SimServer, body, number, order, quiet, template, text, token};

#[tokio::test]
async fn an_accepted_message_is_answered_as_by_meta() {
    let server = SimServer::start(quiet()).await;
    let (status, answer) = server.send(&order(1, "c42:r1")).await;
    assert_eq!(status, 200);
    assert_eq!(answer["messaging_product"], "whatsapp");
    assert_eq!(answer["contacts"], json!([{"input": number(1), "wa_id": number(1)[1..]}]));
    assert_eq!(answer["messages"][0]["message_status"], "accepted");
    let messages = server.sim.messages();
    assert_eq!(messages.len(), 1);
    assert_eq!(answer["messages"][0]["id"], messages[0].wamid);
    assert_eq!(messages[0].to.to_string(), number(1));
    assert_eq!((messages[0].callback_data.as_str(), messages[0].template.as_deref()), ("c42:r1", Some("order_update")));
    let rows = server.http.get(format!("{}/sim/messages", server.base)).send().await.expect("an answer");
    let rows = rows.text().await.expect("rows");
    let row: Value = serde_json::from_str(rows.trim()).expect("one row of JSON");
    assert_eq!(row["wamid"], messages[0].wamid);
    server.stop().await;
}

#[tokio::test]
async fn a_token_is_valid_only_for_its_waba() {
    let mut scenario = quiet();
    let mut other = scenario.wabas[0].clone();
    (other.id, other.token) = ("2002".into(), "another-token".into());
    scenario.wabas.push(other);
    let server = SimServer::start(scenario).await;
    let send = async |line: &str, token: Option<&str>| {
        let request = server.http.post(format!("{}/v25.0/{line}/messages", server.base)).json(&order(1, ""));
        let request = token.into_iter().fold(request, |request, token| request.bearer_auth(token));
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.expect("JSON");
        (status, body["error"]["code"].as_u64(), body["error"]["error_subcode"].as_u64())
    };
    assert_eq!(send("3001", None).await, (401, Some(190), None));
    assert_eq!(send("3001", Some("wrong")).await, (401, Some(190), None));
    assert_eq!(send("3001", Some("another-token")).await, (400, Some(100), Some(33)));
    assert_eq!(send("9999", Some("another-token")).await, (400, Some(100), Some(33)));
    assert_eq!(send("9999", Some("wrong")).await, (401, Some(190), None));
    let ledger = server.ledger();
    assert_eq!((ledger.total.requests, ledger.total.accepted, ledger.requests_elsewhere), (3, 0, 2));
    assert_eq!(ledger.lines["3001"].answers, [("100".to_owned(), 1), ("190".to_owned(), 2)].into());
}

#[tokio::test]
async fn only_parameters_that_fit_an_approved_template_are_accepted() {
    let server = SimServer::start(quiet()).await;
    let long = "x".repeat(1_024);
    let named = |pairs: &[(&str, &str)]| {
        let parameters: Vec<_> =
            pairs.iter().map(|(name, text)| json!({"type": "text", "parameter_name": name, "text": text})).collect();
        json!({"type": "body", "parameters": parameters})
    };
    let address = [("first_name", "Ana"), ("address", "Corrientes 1234"), ("time_window", "9 y las 12")];
    let day = json!({"type": "HEADER", "parameters": [{"type": "text", "parameter_name": "day", "text": "lunes"}]});
    let url =
        json!({"type": "button", "sub_type": "URL", "index": 0, "parameters": [{"type": "text", "text": "A-10"}]});
    let image = json!({"type": "header", "parameters": [{"type": "image", "image": {"id": "1"}}]});
    let code = |code: &str| json!({"type": "button", "sub_type": "copy_code", "index": "0", "parameters": [{"type": "coupon_code", "coupon_code": code}]});
    let tap = |index: &str| json!({"type": "button", "sub_type": "quick_reply", "index": index, "parameters": [{"type": "payload", "payload": "stop"}]});
    let call =
        json!({"type": "button", "sub_type": "url", "index": "1", "parameters": [{"type": "text", "text": "1"}]});
    let otp = |code: &str| json!({"type": "button", "sub_type": "url", "index": "0", "parameters": [{"type": "text", "text": code}]});
    let sale = [("first_name", "Ana")];
    let currency = json!({"type": "body", "parameters": [
        {"type": "text", "text": "Ana"},
        {"type": "currency", "currency": {"fallback_value": "$ 25", "code": "ARS", "amount_1000": 25_000}}]});

    for (name, components, code) in [
        ("order_update", json!([body(&["Ana", "A-10"])]), 0),
        ("order_update", json!([body(&["Ana", "A-10"]), tap("0"), tap("1")]), 0),
        ("order_update", json!([currency]), 0),
        ("order_update", json!([body(&["Ana"])]), 132_000),
        ("order_update", json!([body(&["Ana", "A-10", "B"])]), 132_000),
        ("order_update", json!([]), 132_000),
        ("order_update", json!([named(&[("1", "Ana"), ("2", "A-10")])]), 132_012),
        ("order_update", json!([image, body(&["Ana", "A-10"])]), 132_000),
        ("order_update", json!([body(&["", "A-10"])]), 131_008),
        ("order_update", json!([body(&["a\nb", "A-10"])]), 132_018),
        ("order_update", json!([body(&["a\tb", "A-10"])]), 132_018),
        ("order_update", json!([body(&["a     b", "A-10"])]), 132_018),
        ("order_update", json!([body(&["a    b", "A-10"])]), 0),
        ("order_update", json!([body(&[&long, "A-10"])]), 132_005),
        ("order_update", json!([body(&["Ana", "A-10"]), tap("2")]), 132_018),
        ("order_update", json!([body(&["Ana", "A-10"]), otp("1")]), 132_012),
        ("delivery_reminder", json!([day, named(&address), url]), 0),
        ("delivery_reminder", json!([named(&address), url]), 132_000),
        ("delivery_reminder", json!([day, named(&address)]), 131_008),
        ("delivery_reminder", json!([day, named(&address), url, call]), 100),
        ("delivery_reminder", json!([day, body(&["a", "b", "c"]), url]), 132_012),
        ("delivery_reminder", json!([day, named(&[address[0], address[1], address[1]]), url]), 132_012),
        ("spring_sale", json!([image, named(&sale), code("SALE20")]), 0),
        ("spring_sale", json!([named(&sale), code("SALE20")]), 132_012),
        ("spring_sale", json!([day, named(&sale), code("SALE20")]), 132_012),
        ("spring_sale", json!([image, named(&sale), code("0123456789ABCDEFGHIJK")]), 131_009),
        ("spring_sale", json!([image, named(&sale)]), 131_008),
        ("login_code", json!([body(&["482913"]), otp("482913")]), 0),
        ("login_code", json!([body(&["482913"])]), 131_008),
        ("hello_world", json!([]), 132_001),
        ("no_such_template", json!([]), 132_001),
        ("winter_sale", json!([body(&["Ana"])]), 132_015),
        ("free_money", json!([body(&["Ana"])]), 132_001),
    ] {
        assert_eq!(server.code(&template(1, "", name, &components)).await, code, "{name} {components}");
    }
}

#[tokio::test]
async fn a_malformed_message_is_rejected() {
    let server = SimServer::start(quiet()).await;
    let with = |field: &str, value: Value| {
        let mut message = order(1, "");
        message[field] = value;
        message
    };
    for (message, code) in [
        (json!([]), 100),
        (json!({}), 100),
        (with("messaging_product", json!("telegram")), 100),
        (with("to", Value::Null), 100),
        (with("to", json!("Ana")), 131_009),
        (with("type", json!("poll")), 131_051),
        (with("template", Value::Null), 131_008),
        (with("biz_opaque_callback_data", json!("ñ".repeat(513))), 100),
        (with("biz_opaque_callback_data", json!("ñ".repeat(512))), 0),
        (with("to", json!("54 9 11 (5555) 0001")), 0),
        (with("unknown", json!({"a": [1]})), 0),
        (text(1, ""), 100),
        (text(1, "hola"), 0),
        (
            json!({"messaging_product": "whatsapp", "recipient": "AR.1A2b", "type": "text", "text": {"body": "x"}}),
            131_009,
        ),
        (json!({"messaging_product": "whatsapp", "status": "read", "message_id": "wamid.x"}), 131_009),
    ] {
        assert_eq!(server.code(&message).await, code, "{message}");
    }
    let ledger = server.ledger();
    assert_eq!(ledger.total.accepted, 4);
}

#[tokio::test]
async fn a_paused_template_is_rejected_until_it_is_approved_again() {
    let server = SimServer::start(quiet()).await;
    for (status, code) in [("PAUSED", 132_015), ("DISABLED", 132_016), ("PENDING", 132_001), ("APPROVED", 0)] {
        let changed = server.control("template", &json!({"name": "order_update", "status": status})).await;
        assert_eq!(changed, (200, json!({"success": true})));
        assert_eq!(server.code(&order(1, "")).await, code, "{status}");
        let (_, listed) =
            server.get("/v25.0/2001/message_templates?name=order_update&language=es_AR&fields=status").await;
        assert_eq!(listed["data"][0]["status"], status);
    }
    let unknown = server.control("template", &json!({"name": "nothing", "status": "PAUSED"})).await;
    assert_eq!(unknown.0, 400);
}

#[tokio::test]
async fn the_ledger_counts_duplicate_messages() {
    let server = SimServer::start(quiet()).await;
    for (line, message) in [
        // Rows of a campaign: row 1 once, row 2 twice on one line, row 3 three times on two lines.
        ("3001", order(1, &token(1, 1))),
        ("3001", order(2, &token(2, 1))),
        ("3001", order(2, &token(2, 2))),
        ("3001", order(3, &token(3, 1))),
        ("3002", order(3, &token(3, 1))),
        ("3002", order(3, &token(3, 2))),
        // Without our token, recipients are counted by number and template.
        ("3002", order(1, "c42")),
        ("3002", order(1, "c43")),
        (
            "3002",
            template(
                1,
                "c42",
                "login_code",
                &json!([body(&["1"]), {"type": "button", "sub_type": "url", "index": "0", "parameters": [{"type": "text", "text": "1"}]}]),
            ),
        ),
        // Refused, so not a duplicate.
        ("3001", template(1, &token(1, 2), "winter_sale", &json!([]))),
    ] {
        server.try_send(line, &message).await.expect("an answer");
    }
    let ledger = server.ledger();
    let (total, first, second) = (&ledger.total, &ledger.lines["3001"], &ledger.lines["3002"]);
    assert_eq!((total.requests, total.accepted), (10, 9));
    assert_eq!((total.unique_recipients, total.duplicated_recipients, total.duplicate_messages), (5, 3, 4));
    assert_eq!(total.recipients_reached_twice, 3);
    assert_eq!((first.unique_recipients, first.duplicated_recipients, first.duplicate_messages), (3, 1, 1));
    assert_eq!((second.unique_recipients, second.duplicated_recipients, second.duplicate_messages), (2, 2, 3));
    let over_http = server.http.get(format!("{}/sim/ledger", server.base)).send().await.expect("an answer");
    assert_eq!(over_http.text().await.expect("text"), serde_json::to_string(&ledger).expect("JSON"));
}

#[tokio::test]
async fn a_reset_clears_the_ledger_and_restores_the_scenario() {
    let server = SimServer::start(quiet()).await;
    server.control("template", &json!({"name": "order_update", "status": "PAUSED"})).await;
    server.control("scenario", &json!({"faults": {"server_error": 1.0}})).await;
    assert_eq!(server.code(&order(1, "")).await, 131_000);
    assert_eq!(server.control("reset", &json!({})).await.0, 200);
    let (_, first) = server.send(&order(1, "")).await;
    let ledger = server.ledger();
    assert_eq!((ledger.total.requests, ledger.total.accepted, ledger.total.unique_recipients), (1, 1, 1));
    server.control("reset", &json!({})).await;
    let (_, second) = server.send(&order(1, "")).await;
    assert_ne!(first["messages"][0]["id"], second["messages"][0]["id"], "ids stay unique over a reset");
    assert_eq!(server.sim.messages().len(), 1);
}

#[tokio::test]
async fn a_contradictory_scenario_does_not_start() {
    let mut scenario = quiet();
    scenario.lines[1].id = "3001".into();
    scenario.lines[2].waba = "9".into();
    scenario.faults.throttle = 0.6;
    scenario.faults.html_502 = 0.6;
    scenario.templates[0].components.clear();
    scenario.templates[2].name = "order_update".into();
    scenario.templates[2].language = "en_US".into();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let error = Sim::start(scenario, listener, CancellationToken::new()).await.err().expect("it does not start");
    let SimError::Scenario(ScenarioError::Problems(problems)) = error else { panic!("{error}") };
    assert_eq!(problems.len(), 4, "{problems:?}");
}

#[tokio::test]
async fn a_scenario_with_values_out_of_range_does_not_start() {
    let long = Duration::from_secs(u64::MAX);
    let mut scenario = quiet();
    scenario.webhooks.posts_at_once = usize::MAX;
    scenario.webhooks.retry_for = long;
    scenario.outages = vec![Outage { at: Duration::ZERO, lasts: long, fault: Fault::Throttle }];
    scenario.faults.no_answer_for = long;
    scenario.lines[0].messages_per_second = u32::MAX;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let error = Sim::start(scenario, listener, CancellationToken::new()).await.err().expect("it does not start");
    let SimError::Scenario(ScenarioError::Problems(problems)) = error else { panic!("{error}") };
    let expected = [
        "webhooks.posts_at_once: not 1..=10000",
        "line 3001: messages_per_second: not 1..=1000000",
        "webhooks.retry_for: is more than 24h",
        "outage.for: is more than 24h",
        "faults.no_answer_for: is more than 24h",
    ];
    assert_eq!(problems, expected);
}

#[test]
fn unknown_keys_and_bad_values_in_a_scenario_are_rejected() {
    assert!(matches!(Scenario::named("wild"), Err(ScenarioError::Unknown(_))));
    for bad in ["sed = 1", "[faults]\nthrotle = 0.1", "latency = \"20\"", "[faults]\nrefuse = { rate = 0.1 }"] {
        let text = format!(
            "{bad}\n[[waba]]\nid = \"1\"\ntoken = \"t\"\n[[line]]\nid = \"2\"\nwaba = \"1\"\nmessages_per_second = 1\n"
        );
        assert!(matches!(Scenario::from_toml(&text), Err(ScenarioError::Toml(_))), "{bad}");
    }
}

#[tokio::test]
async fn every_bundled_scenario_starts() {
    for (name, lines) in [("calm", 4), ("rough", 4), ("outage", 4), ("week", 44)] {
        let server = SimServer::start(Scenario::named(name).expect(name)).await;
        assert_eq!(server.ledger().lines.len(), lines, "{name}");
        server.stop().await;
    }
}
