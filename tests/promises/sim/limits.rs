//! Limits of the simulator: the rate of a line, and messages of a line to one recipient.

use futures_util::future::join_all;
use pregon::sim::scenario::Limits;

use super::kit::{SimServer, order, quiet};

#[tokio::test]
async fn a_line_accepts_its_rate_and_throttles_the_rest() {
    let mut scenario = quiet();
    scenario.limits =
        Limits { rate_tolerance: 0.0, rate_burst: 0, pair: false, refusal_status: 429, ..Limits::default() };
    scenario.lines[0].messages_per_second = 10;
    let server = SimServer::start(scenario).await;
    let messages: Vec<_> = (0..300).map(|person| order(person, "")).collect();
    let answers = join_all(messages.iter().map(|message| server.send(message))).await;
    let refused =
        answers.iter().filter(|(status, body)| (*status, body["error"]["code"].as_u64()) == (429, Some(130_429)));
    let refused = refused.count() as u64;
    let ledger = server.ledger();
    let line = &ledger.lines["3001"];
    assert!(refused > 0);
    assert_eq!((line.requests, line.accepted), (300, 300 - refused));
    assert_eq!((line.answers["130429"], line.answers["accepted"]), (refused, 300 - refused));
    let rates = line.rates.as_ref().expect("a line has rates");
    assert_eq!(rates.accepted_in_1s_max, 10);
    assert!(rates.requests_in_1s_max > 10, "throttled requests count");
    assert!(rates.requests_per_second_mean.expect("more than one request") > 0.0);
    assert_eq!(ledger.lines["3002"].requests, 0, "another line has its own rate");
    assert_eq!(server.try_send("3002", &messages[0]).await.expect("an answer").0, 200);
}

#[tokio::test]
async fn a_throttled_message_gets_the_configured_status() {
    let mut scenario = quiet();
    scenario.limits =
        Limits { rate_tolerance: 0.0, rate_burst: 0, pair: true, refusal_status: 400, ..Limits::default() };
    scenario.lines[0].messages_per_second = 1;
    let server = SimServer::start(scenario).await;
    let messages: Vec<_> = (0..50).map(|person| order(person, "")).collect();
    let answers = join_all(messages.iter().map(|message| server.send(message))).await;
    assert!(answers.iter().any(|(status, body)| (*status, &body["error"]["code"]) == (400, &130_429.into())));
    assert!(answers.iter().all(|(status, _)| *status != 429));
}

#[tokio::test]
async fn one_recipient_gets_a_burst_of_45_and_no_more() {
    let mut scenario = quiet();
    scenario.limits.pair = true;
    let server = SimServer::start(scenario).await;
    let mut codes = Vec::new();
    for _ in 0..60 {
        codes.push(server.code(&order(1, "")).await);
    }
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 45);
    assert!(codes[45..].iter().all(|code| *code == 131_056), "{codes:?}");
    assert_eq!(server.code(&order(2, "")).await, 0, "another recipient");
    assert_eq!(server.try_send("3002", &order(1, "")).await.expect("an answer").0, 200, "another line");
}
