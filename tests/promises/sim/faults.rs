//! Faults of the simulator, and that its ledger records what really happened.

use std::time::Duration;

use pregon::sim::scenario::{Fault, Faults, Odds, Outage};
use serde_json::json;

use super::kit::{SimServer, order, quiet};

async fn with(faults: Faults) -> SimServer {
    let mut scenario = quiet();
    scenario.faults = faults;
    SimServer::start(scenario).await
}

#[tokio::test]
async fn a_random_refusal_accepts_no_message() {
    for (faults, expected) in [
        (Faults { server_error: 1.0, ..Faults::default() }, (500, 131_000)),
        (Faults { unavailable: 1.0, ..Faults::default() }, (503, 2)),
        (Faults { throttle: 1.0, ..Faults::default() }, (429, 130_429)),
        (Faults { refuse: Odds([(131_016, 1.0)].into()), ..Faults::default() }, (503, 131_016)),
    ] {
        let server = with(faults).await;
        let (status, answer) = server.send(&order(1, "")).await;
        assert_eq!((status, answer["error"]["code"].as_u64()), (expected.0, Some(expected.1)));
        assert!(answer["error"]["fbtrace_id"].is_string());
        let total = server.ledger().total;
        assert_eq!((total.accepted, &total.answers), (0, &[(expected.1.to_string(), 1)].into()));
    }
}

#[tokio::test]
async fn the_ledger_records_messages_answered_with_html() {
    for (faults, name, accepted) in [
        (Faults { html_502: 1.0, ..Faults::default() }, "html_502", 0),
        (Faults { html_502_after_accept: 1.0, ..Faults::default() }, "html_502_after_accept", 1),
    ] {
        let server = with(faults).await;
        let (status, body) = server.send(&order(1, "")).await;
        assert_eq!(status, 502);
        assert!(body.as_str().is_some_and(|page| page.starts_with("<html>")), "{body}");
        let total = server.ledger().total;
        assert_eq!((total.accepted, total.answers[name]), (accepted, 1));
    }
}

#[tokio::test]
async fn the_ledger_records_messages_whose_connection_was_reset() {
    for (faults, name, accepted) in [
        (Faults { reset_before: 1.0, ..Faults::default() }, "reset_before", 0),
        (Faults { reset_after_accept: 1.0, ..Faults::default() }, "reset_after_accept", 1),
    ] {
        let server = with(faults).await;
        let error = server.try_send("3001", &order(1, "")).await.expect_err("no answer");
        assert!(!error.is_connect() && !error.is_timeout(), "{error:?}");
        let total = server.ledger().total;
        assert_eq!((total.requests, total.accepted, total.answers[name]), (1, accepted, 1));
        assert_eq!(server.sim.messages().len() as u64, accepted);
    }
}

#[tokio::test]
async fn the_ledger_records_messages_without_a_response() {
    for (faults, name, accepted) in [
        (Faults { no_answer_lost: 1.0, ..Faults::default() }, "no_answer_lost", 0),
        (Faults { no_answer_after_accept: 1.0, ..Faults::default() }, "no_answer_after_accept", 1),
    ] {
        let mut server = with(faults).await;
        server.http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(1)).build().expect("a client");
        let error = server.try_send("3001", &order(1, "")).await.expect_err("no answer");
        assert!(error.is_timeout(), "{error:?}");
        let total = server.ledger().total;
        assert_eq!((total.accepted, total.answers[name]), (accepted, 1));
        server.stop().await;
    }
}

#[tokio::test]
async fn a_refusal_takes_precedence_over_faults_after_acceptance() {
    let server = with(Faults { reset_after_accept: 1.0, ..Faults::default() }).await;
    let mut message = order(1, "");
    message["template"]["name"] = json!("winter_sale");
    assert_eq!(server.code(&message).await, 132_015);
}

#[tokio::test]
async fn a_held_message_is_reported_as_held() {
    let server = with(Faults { held: 1.0, ..Faults::default() }).await;
    let (status, answer) = server.send(&order(1, "")).await;
    assert_eq!((status, &answer["messages"][0]["message_status"]), (200, &json!("held_for_quality_assessment")));
    let total = server.ledger().total;
    assert_eq!((total.accepted, total.answers["held"]), (1, 1));
}

#[tokio::test]
async fn the_same_seed_yields_the_same_faults() {
    let mixed = Faults { server_error: 0.2, throttle: 0.2, html_502: 0.2, held: 0.2, ..Faults::default() };
    let mut runs = Vec::new();
    for seed in [7, 7, 8] {
        let mut scenario = quiet();
        (scenario.seed, scenario.faults) = (seed, mixed.clone());
        let server = SimServer::start(scenario).await;
        let mut answers = Vec::new();
        for person in 0..50 {
            let (status, body) = server.send(&order(person, "")).await;
            answers.push((status, body["messages"][0]["message_status"].clone()));
        }
        runs.push(answers);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}

#[tokio::test]
async fn an_outage_affects_sends_and_reads() {
    let mut scenario = quiet();
    let always = Duration::from_secs(3600);
    scenario.outages = vec![Outage { at: Duration::ZERO, lasts: always, fault: Fault::Unavailable }];
    let server = SimServer::start(scenario).await;
    assert_eq!(server.send(&order(1, "")).await.0, 503);
    assert_eq!(server.get("/v25.0/2001/message_templates").await.0, 503);

    // An outage that has not started yet replaces the current one.
    let later = json!({"outage": [{"at": "1h", "for": "1h", "fault": "reset_before"}]});
    assert_eq!(server.control("scenario", &later).await.0, 200);
    assert_eq!(server.send(&order(1, "")).await.0, 200);
    assert_eq!(server.get("/v25.0/2001/message_templates").await.0, 200);

    let now = json!({"outage": [{"at": "0s", "for": "1h", "fault": "reset_before"}]});
    assert_eq!(server.control("scenario", &now).await.0, 200);
    server.try_send("3001", &order(1, "")).await.expect_err("a reset");

    server.control("reset", &json!({})).await;
    assert_eq!(server.send(&order(1, "")).await.0, 503, "the outage of the scenario is back");
    assert_eq!(server.get("/v25.0/2001/message_templates").await.0, 503);
}

#[tokio::test]
async fn faults_can_be_changed_live_for_one_or_all_lines() {
    let server = SimServer::start(quiet()).await;
    let both = async || {
        let mut statuses = Vec::new();
        for line in ["3001", "3002"] {
            statuses.push(server.try_send(line, &order(1, "")).await.expect("an answer").0);
        }
        statuses
    };
    assert_eq!(both().await, [200, 200]);
    assert_eq!(server.control("scenario", &json!({"line": "3002", "faults": {"server_error": 1.0}})).await.0, 200);
    assert_eq!(both().await, [200, 500]);
    assert_eq!(
        server.control("scenario", &json!({"faults": {"unavailable": 1.0}, "latency": "1ms..2ms"})).await.0,
        200
    );
    assert_eq!(both().await, [503, 503]);
    for bad in [
        json!({"line": "9"}),
        json!({"faults": {"unavailable": 1.5}}),
        json!({"faults": {"unavailible": 0.5}}),
        json!({"latency": "fast"}),
    ] {
        assert_eq!(server.control("scenario", &bad).await.0, 400, "{bad}");
    }
    assert_eq!(both().await, [503, 503], "a rejected change has no effect");
}
