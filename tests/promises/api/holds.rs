//! Holds over HTTP: the list, and lifting one by hand.

use pregon::domain::{HoldScope, UnixMs};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::harness::{Api, answer};
use crate::support::until;

const OTHER: &str = "1002";

fn template() -> HoldScope {
    HoldScope::of_template(&"2001".into(), "spring_sale", &"es_AR".into())
}

/// Stores holds of business 1001, of business 1002, of neither, and of all businesses.
async fn hold_some(api: &Api) {
    let end = UnixMs(4_102_444_800_000);
    api.hold(&HoldScope::Line("3001".into()), None).await;
    api.hold(&template(), Some(end)).await;
    api.hold(&HoldScope::Waba("2002".into()), None).await;
    api.hold(&HoldScope::Business(OTHER.into()), Some(end)).await;
    api.hold(&HoldScope::Platform, Some(end)).await;
    api.hold(&HoldScope::Waba("2999".into()), None).await;
}

fn ids(page: &Value) -> Vec<&str> {
    page["holds"].as_array().expect("a list").iter().map(|hold| hold["id"].as_str().expect("an id")).collect()
}

#[tokio::test]
async fn every_hold_is_listed_with_its_reason_and_what_lifts_it() {
    let api = Api::start().await;
    assert_eq!(api.read("/v1/holds").await, json!({ "holds": [], "next": null }));
    hold_some(&api).await;
    let page = api.read("/v1/holds").await;
    let all =
        ["business:1002", "line:3001", "platform:meta", "template:2001/spring_sale/es_AR", "waba:2002", "waba:2999"];
    assert_eq!(ids(&page), all);
    let [business, line, platform, template, ..] = &page["holds"].as_array().expect("a list")[..] else { panic!() };
    assert_eq!((&business["business"], &business["until"]), (&json!(OTHER), &json!("2100-01-01T00:00:00Z")));
    assert_eq!(line["business"], "1001");
    assert_eq!((&line["code"], &line["reason"], &line["until"]), (&json!(131_031), &json!("held"), &Value::Null));
    assert_eq!(line["lifted_by"], json!(["probe", "person"]));
    assert_eq!(platform["business"], Value::Null);
    assert_eq!(template["lifted_by"], json!(["time", "webhook", "person"]));
    let of_line = api.read("/v1/lines/3003").await["holds"].clone();
    let listed: Vec<&Value> = of_line.as_array().expect("a list").iter().map(|hold| &hold["id"]).collect();
    assert_eq!(listed, ["waba:2002", "business:1002", "platform:meta"]);

    // Page by page, and of one business.
    let (mut paged, mut next) = (Vec::new(), String::new());
    loop {
        let page = api.read(&format!("/v1/holds?limit=2&cursor={}", next.replace('/', "%2F"))).await;
        paged.extend(ids(&page).into_iter().map(str::to_owned));
        match page["next"].as_str() {
            Some(cursor) => next = cursor.to_owned(),
            None => break,
        }
    }
    assert_eq!(paged, all);
    assert_eq!(ids(&api.read("/v1/holds?business=1001").await), ["line:3001", "template:2001/spring_sale/es_AR"]);
}

#[tokio::test]
async fn a_hold_is_listed_with_the_number_of_campaigns_it_stops() {
    let api = Api::start().await;
    hold_some(&api).await;
    api.hold(&HoldScope::Country { waba: "2001".into(), code: "54".parse().expect("a code") }, None).await;
    let order_update = HoldScope::of_template(&"2001".into(), "order_update", &"es_AR".into());
    api.hold(&order_update, None).await;
    api.launched("first", &["3001", "3002"], 10).await;
    api.launched("second", &["3002"], 10).await;
    api.draft("third", &["3001"], 10).await;
    let wanted = [
        ("business:1002", Some(0)),
        ("country:2001/54", None),
        ("line:3001", Some(1)),
        ("platform:meta", Some(2)),
        ("template:2001/order_update/es_AR", Some(2)),
        ("template:2001/spring_sale/es_AR", Some(0)),
        ("waba:2002", Some(0)),
        ("waba:2999", Some(0)),
    ];
    until("the campaigns are counted", async || {
        let page = api.read("/v1/holds").await;
        let holds = page["holds"].as_array().expect("a list").iter();
        let stopped = holds.map(|hold| (hold["id"].as_str().expect("an id"), hold["campaigns"].as_u64()));
        stopped.collect::<Vec<_>>() == wanted
    })
    .await;
    let seen = api.get_of(OTHER, "/v1/holds").await;
    assert_eq!((&seen["holds"][1]["id"], &seen["holds"][1]["campaigns"]), (&json!("platform:meta"), &json!(0)));
}

#[tokio::test]
async fn a_lifted_hold_is_gone_and_lifting_it_again_changes_nothing() {
    let api = Api::start().await;
    hold_some(&api).await;
    let path = "/v1/holds/template:2001%2Fspring_sale%2Fes_AR/lift";
    let id = template().to_string();
    assert_eq!(api.post(path).await.body, json!({ "id": id, "changed": true }));
    assert_eq!(api.post(path).await.body, json!({ "id": id, "changed": false }));
    assert!(!ids(&api.read("/v1/holds").await).contains(&&*id));
    for bad in ["lines:3001", "template:2001", "country:2001%2Fx", "x"] {
        let answer = api.post(&format!("/v1/holds/{bad}/lift")).await;
        let detail = answer.problem(404, "hold-not-found");
        assert!(detail.contains("GET /v1/holds list the holds"), "{bad}: {detail}");
    }
}

#[tokio::test]
async fn a_limited_key_sees_and_lifts_only_the_holds_of_its_businesses() {
    let api = Api::start().await;
    hold_some(&api).await;
    let seen = api.get_of(OTHER, "/v1/holds").await;
    assert_eq!(ids(&seen), ["business:1002", "platform:meta", "waba:2002"]);
    let lift = async |id: &str| {
        let path = format!("/v1/holds/{id}/lift");
        answer(api.request_of(OTHER, Method::POST, &path)).await.status
    };
    assert_eq!(lift("waba:2002").await, StatusCode::OK);
    assert_eq!(lift("business:1002").await, StatusCode::OK);
    for other in ["line:3001", "waba:2999", "platform:meta"] {
        assert_eq!(lift(other).await, StatusCode::NOT_FOUND, "{other}");
    }
    assert_eq!(ids(&api.read("/v1/holds").await).len(), 4);
}
