//! Businesses over HTTP: their messaging limits, how much of them is used, and what they have at Meta.

use pregon::{
    domain::{ClaimedRow, HoldScope, MessagingLimit, PartId, Phone},
    redis::messaging_limits::KnownLimit,
};
use serde_json::{Value, json};

use super::harness::Api;

#[tokio::test]
async fn a_business_shows_its_limit_and_what_is_left_of_it() {
    let api = Api::start().await;
    let unlimited = |id: &str, wabas: &[&str]| {
        json!({ "id": id, "limit": null, "limit_known": true, "used_24h": null, "remaining": null, "frees_at": null,
            "wabas": wabas, "holds": [] })
    };
    let page = api.read("/v1/businesses").await;
    let wabas = |n: usize| -> Vec<&str> {
        let list = page["businesses"][n]["wabas"].as_array().expect("a list");
        list.iter().map(|waba| waba.as_str().expect("an id")).collect()
    };
    let (first, second) = (unlimited("1001", &wabas(0)), unlimited("1002", &wabas(1)));
    assert!(wabas(0).contains(&"2001") && wabas(1) == ["2002"], "{page}");
    assert_eq!(page, json!({ "businesses": [first, second], "next": null }));

    let limit = KnownLimit { limit: MessagingLimit::People(250), since: api.now() };
    api.store.set_messaging_limit(&"1002".into(), limit).await.expect("redis");
    api.hold(&HoldScope::Business("1002".into()), None).await;
    let part = PartId { campaign: "01J9ZK3V5T8R7Q6P5N4M3K2J1H".parse().expect("an id"), number: 0 };
    let message = |n: u16| {
        let person = Phone::from_digits(5_491_100_000_000 + u64::from(n)).expect("a number").into();
        (person, (part, ClaimedRow { row: n, send: 1 }))
    };
    let sent: Vec<_> = (0..3).map(message).collect();
    api.store.take_places(&"1002".into(), 250, &"3003".into(), &sent, api.now()).await.expect("redis");

    let page = api.read("/v1/businesses?limit=1").await;
    assert_eq!((&page["businesses"], &page["next"]), (&json!([first]), &json!("1001")));
    let page = api.read("/v1/businesses?limit=1&cursor=1001").await;
    let limited = &page["businesses"][0];
    assert_eq!(
        (&limited["limit"], &limited["limit_known"], &limited["used_24h"], &limited["remaining"], &page["next"]),
        (&json!(250), &json!(true), &json!(3), &json!(247), &Value::Null)
    );
    assert_eq!(limited["holds"][0]["id"], "business:1002");
    assert!(limited["frees_at"].is_string(), "{limited}");
    let of_one = api.get_of("1002", "/v1/businesses").await;
    assert_eq!(of_one["businesses"], json!([limited]), "a limited key sees its own business only");
}

#[tokio::test]
async fn a_limited_key_discovers_its_own_businesses_only() {
    let api = Api::start().await;
    let ids = |found: &Value| -> Vec<Value> {
        found["businesses"].as_array().expect("a list").iter().map(|business| business["id"].clone()).collect()
    };
    assert_eq!(ids(&api.read("/v1/discovery").await), ["1001", "1002"]);
    assert_eq!(ids(&api.get_of("1002", "/v1/discovery").await), ["1002"]);
}
