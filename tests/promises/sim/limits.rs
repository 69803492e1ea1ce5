//! Rates and pairs.

use futures_util::future::join_all;
use pregon::sim::scenario::Limits;

use super::kit::{Stand, order, quiet};

#[tokio::test]
async fn a_line_takes_its_rate_and_refuses_the_rest() {
    let mut scenario = quiet();
    scenario.limits = Limits { rate_tolerance: 0.0, rate_burst: 0, pair: false, refusal_status: 429 };
    scenario.lines[0].messages_per_second = 10;
    let stand = Stand::start(scenario).await;
    let messages: Vec<_> = (0..300).map(|person| order(person, "")).collect();
    let answers = join_all(messages.iter().map(|message| stand.send(message))).await;
    let refused =
        answers.iter().filter(|(status, body)| (*status, body["error"]["code"].as_u64()) == (429, Some(130_429)));
    let refused = refused.count() as u64;
    let ledger = stand.ledger();
    let line = &ledger.lines["3001"];
    assert!(refused > 0);
    assert_eq!((line.requests, line.accepted), (300, 300 - refused));
    assert_eq!((line.answers["130429"], line.answers["accepted"]), (refused, 300 - refused));
    let rates = line.rates.as_ref().expect("a line has rates");
    assert_eq!(rates.accepted_in_1s_max, 10);
    assert!(rates.requests_in_1s_max > 10, "requests count before they are refused");
    assert!(rates.requests_per_second_mean.expect("more than one request") > 0.0);
    assert_eq!(ledger.lines["3002"].requests, 0, "another line has its own rate");
    assert_eq!(stand.try_send("3002", &messages[0]).await.expect("an answer").0, 200);
}

#[tokio::test]
async fn a_refusal_for_speed_has_the_status_of_the_scenario() {
    let mut scenario = quiet();
    scenario.limits = Limits { rate_tolerance: 0.0, rate_burst: 0, pair: true, refusal_status: 400 };
    scenario.lines[0].messages_per_second = 1;
    let stand = Stand::start(scenario).await;
    let messages: Vec<_> = (0..50).map(|person| order(person, "")).collect();
    let answers = join_all(messages.iter().map(|message| stand.send(message))).await;
    assert!(answers.iter().any(|(status, body)| (*status, &body["error"]["code"]) == (400, &130_429.into())));
    assert!(answers.iter().all(|(status, _)| *status != 429));
}

#[tokio::test]
async fn one_person_gets_a_burst_of_45_and_no_more() {
    let mut scenario = quiet();
    scenario.limits.pair = true;
    let stand = Stand::start(scenario).await;
    let mut codes = Vec::new();
    for _ in 0..60 {
        codes.push(stand.code(&order(1, "")).await);
    }
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 45);
    assert!(codes[45..].iter().all(|code| *code == 131_056), "{codes:?}");
    assert_eq!(stand.code(&order(2, "")).await, 0, "somebody else");
    assert_eq!(stand.try_send("3002", &order(1, "")).await.expect("an answer").0, 200, "another line");
}
