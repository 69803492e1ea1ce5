//! Lines and templates.

use std::time::Duration;

use deadpool_redis::redis::cmd;
use pregon::{
    api::UnpauseFailure,
    domain::{Hold, HoldScope, MetaCode, UnixMs},
    redis::{
        StoreError,
        lines::{LeaseTarget, LineReport},
    },
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::harness::{Answer, Api, Unpaused, answer};

const MINUTE: Duration = Duration::from_secs(60);

impl Api {
    /// Makes `worker` the owner of the line, with a report that it may send `rate` messages a second.
    pub async fn assign_line(&self, line: &str, worker: &str, rate: f64) {
        let lease = self.store.acquire(&[(LeaseTarget::Line(line.into()), None)], worker, MINUTE).await.expect("redis");
        assert!(lease[0].is_some(), "another worker has line {line}");
        let report = LineReport {
            worker: worker.into(),
            rate,
            throttled: false,
            unreachable: false,
            unreachable_because: None,
            path_broken: None,
            since: None,
            warm_up_until: None,
            in_flight: 3,
            accepted_per_second: 35.5,
            features: Vec::new(),
            at: self.now(),
        };
        self.store.put_reports(&[(line.into(), report)], MINUTE).await.expect("redis");
    }

    async fn patch(&self, line: &str, body: &Value) -> Answer {
        answer(self.request(Method::PATCH, &format!("/v1/lines/{line}")).json(body)).await
    }
}

#[tokio::test]
async fn lines_are_listed_in_configuration_order_by_page() {
    let api = Api::start().await;
    let ids = |list: &Value| {
        let lines = list["lines"].as_array().expect("a list");
        lines.iter().map(|line| line["id"].as_str().expect("an id").to_owned()).collect::<Vec<_>>()
    };
    let whole = api.read("/v1/lines").await;
    assert_eq!((ids(&whole).join(" "), &whole["next"]), ("3001 3002 3003 3004 3005 3006".into(), &Value::Null));
    let idle = json!({
        "id": "3003", "waba": "2002", "name": "line 3003", "display": "+54 9 11 5555 3003", "state": "idle",
        "messages_per_second": 80.0, "rate_source": "configuration", "configured": 80.0, "allowance": null, "allowed_now": null, "owner": null, "in_flight": 0,
        "accepted_per_second": 0.0, "throttled": false, "paused": false, "pauses": [], "holds": [], "backlog": 0
    });
    assert_eq!(whole["lines"][2], idle);
    let first = api.read("/v1/lines?limit=4").await;
    assert_eq!((ids(&first).join(" "), &first["next"]), ("3001 3002 3003 3004".into(), &json!("3004")));
    let second = api.read("/v1/lines?limit=4&cursor=3004").await;
    assert_eq!((ids(&second).join(" "), &second["next"]), ("3005 3006".into(), &Value::Null));
}

#[tokio::test]
async fn a_line_shows_its_owner_rate_and_backlog() {
    let api = Api::start().await;
    let id = api.launched("spring", &["3001"], 50).await;
    api.assign_line("3001", "w1", 36.0).await;
    let [(part, _)] = api.parts(id).await.try_into().expect("one part");
    api.claim(part, 10).await;
    let line = api.read("/v1/lines/3001").await;
    for (field, value) in [
        ("owner", json!("w1")),
        ("allowed_now", json!(36.0)),
        ("in_flight", json!(3)),
        ("accepted_per_second", json!(35.5)),
        ("state", json!("sending")),
        ("backlog", json!(50)),
    ] {
        assert_eq!(line[field], value, "{field}: {line}");
    }
}

#[tokio::test]
async fn the_rate_of_a_line_is_set_by_a_number_and_reset_by_null() {
    let api = Api::start().await;
    let rates = |line: &Value| (line["messages_per_second"].clone(), line["configured"].clone());
    let set = api.patch("3001", &json!({ "messages_per_second": 20 })).await;
    assert_eq!((set.status, rates(&set.body)), (StatusCode::OK, (json!(20.0), json!(80.0))));
    for bad in [json!(0), json!(-1), json!(1e-11), json!(0.009), json!(1_000_001)] {
        api.patch("3001", &json!({ "messages_per_second": bad })).await.problem(400, "invalid-rate");
    }
    for bad in [json!({}), json!({ "messages_per_second": "20" }), json!({ "paused": true })] {
        api.patch("3001", &bad).await.problem(400, "malformed-body");
    }
    assert_eq!(rates(&api.read("/v1/lines/3001").await), (json!(20.0), json!(80.0)));
    let controls = api.store.controls(&["3001".into()]).await.expect("redis");
    assert_eq!(controls[0].rate, Some(20.0), "the rate that workers read");
    let reset = api.patch("3001", &json!({ "messages_per_second": null })).await;
    assert_eq!((reset.status, rates(&reset.body)), (StatusCode::OK, (json!(80.0), json!(80.0))));
    api.patch("3009", &json!({ "messages_per_second": 20 })).await.problem(404, "line-not-found");
}

#[tokio::test]
async fn resuming_a_line_lifts_only_its_own_pause_and_holds() {
    let api = Api::start().await;
    api.assign_line("3001", "w1", 72.0).await;
    let hold = |code| Hold { code, reason: "locked".into(), since: UnixMs(1_000), until: None };
    let locked = hold(Some(MetaCode(131_031)));
    let others = [HoldScope::Line("3002".into()), HoldScope::Token("2002".into())];
    let template = HoldScope::Template { waba: "2001".into(), name: "order_update".into(), language: "es_AR".into() };
    for scope in
        [HoldScope::Line("3001".into()), HoldScope::Token("2001".into()), template.clone()].iter().chain(&others)
    {
        api.store.hold(scope, &locked).await.expect("redis");
    }
    let held = api.read("/v1/lines/3001").await;
    let shown = |scope| {
        json!({ "id": scope, "scope": scope, "business": "1001", "code": 131_031, "reason": "locked",
                "since": "1970-01-01T00:00:01Z", "until": null, "lifted_by": ["probe", "person"] })
    };
    assert_eq!(held["holds"], json!([shown("line:3001"), shown("token:2001")]));
    assert_eq!((&held["state"], &held["allowed_now"]), (&json!("held"), &Value::Null));

    let paused = api.post("/v1/lines/3001/pause").await;
    assert_eq!(
        (paused.status, &paused.body["state"], &paused.body["paused"]),
        (StatusCode::OK, &json!("paused"), &json!(true))
    );
    let resumed = api.post("/v1/lines/3001/resume").await.body;
    assert_eq!(
        (&resumed["holds"], &resumed["paused"], &resumed["allowed_now"]),
        (&json!([]), &json!(false), &json!(72.0))
    );
    let left = api.store.holds(api.now()).await.expect("redis");
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(others.iter().chain([&template]).all(|scope| left.contains_key(scope)), "{left:?}");
}

#[tokio::test]
async fn a_hold_of_release_0_1_0_shows_no_code_0_but_metas_does() {
    let api = Api::start().await;
    api.assign_line("3001", "w1", 72.0).await;
    let older = r#"{"code":0,"reason":"older","since":"1970-01-01T00:00:01Z"}"#;
    let hold = cmd("HSET").arg(api.store.keys.holds()).arg("line:3001").arg(older).clone();
    api.store.query::<u64>("HSET holds", &hold).await.expect("redis");
    let hold = |code| Hold { code, reason: "newer".into(), since: UnixMs(1_000), until: None };
    api.store.hold(&HoldScope::Token("2001".into()), &hold(Some(MetaCode(0)))).await.expect("redis");
    api.store.hold(&HoldScope::Waba("2001".into()), &hold(None)).await.expect("redis");
    let holds = api.read("/v1/lines/3001").await["holds"].clone();
    let shown: Vec<_> =
        holds.as_array().expect("a list").iter().map(|hold| (&hold["scope"], hold.get("code"))).collect();
    let zero = json!(0);
    let expected = [("line:3001", None), ("waba:2001", None), ("token:2001", Some(&zero))];
    assert!(
        shown.len() == 3 && shown.iter().zip(expected).all(|(shown, (scope, code))| *shown == (&json!(scope), code)),
        "{holds}"
    );
}

#[tokio::test]
async fn templates_are_listed_with_whether_they_are_usable() {
    let api = Api::start().await;
    let list = api.read("/v1/templates").await;
    let usable: Vec<(&str, bool)> = list["templates"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|template| (template["name"].as_str().expect("a name"), template["usable"] == json!(true)))
        .collect();
    assert_eq!(usable, [("hello_world", true), ("order_update", true), ("slow_week", false), ("spring_cards", false)]);
    let template = &list["templates"][1];
    assert_eq!(
        (&template["waba"], &template["language"], &template["status"]),
        (&json!("2001"), &json!("es_AR"), &json!("APPROVED"))
    );
    assert!(template.get("problem").is_none(), "{template}");
    assert!(
        list["templates"][2]["problem"].as_str().is_some_and(|problem| problem.contains("is PAUSED by Meta")),
        "{list}"
    );
    assert!(list["templates"][3]["problem"].as_str().is_some_and(|problem| problem.contains("carousel")), "{list}");

    let mut names = Vec::new();
    let mut next = String::new();
    loop {
        let page = api.read(&format!("/v1/templates?limit=3&cursor={next}")).await;
        names.extend(page["templates"].as_array().expect("a list").iter().map(|template| template["name"].clone()));
        match page["next"].as_str() {
            Some(cursor) => next = cursor.to_owned(),
            None => break,
        }
    }
    assert_eq!(names, ["hello_world", "order_update", "slow_week", "spring_cards"]);
}

#[tokio::test]
async fn a_sync_reports_templates_read_and_failures() {
    let api = Api::start().await;
    let plan = |results| *api.synced.lock().expect("no panic under the lock") = Some(results);
    plan(vec![("2001".into(), Ok(12)), ("2002".into(), Ok(0))]);
    let done = api.post("/v1/templates/sync").await;
    let expected = json!({ "wabas": [{ "waba": "2001", "templates": 12 }, { "waba": "2002", "templates": 0 }] });
    assert_eq!((done.status, done.body), (StatusCode::OK, expected));
    plan(vec![("2001".into(), Ok(12)), ("2002".into(), Err("waba 2002: code 190".into()))]);
    let failed = api.post("/v1/templates/sync").await;
    failed.problem(502, "sync-failed");
    assert_eq!(failed.body["problems"], json!(["waba 2002: code 190"]));
}

#[tokio::test]
async fn an_unpause_names_what_meta_says() {
    let api = Api::start().await;
    let unpause = async |unpaused: Unpaused, language: &str| {
        api.unpaused.lock().expect("no panic under the lock").0 = unpaused;
        api.post(&format!("/v1/templates/2001/order_update/{language}/unpause")).await
    };
    let done = unpause(|| Ok(()), "es-AR").await;
    let expected = json!({ "waba": "2001", "name": "order_update", "language": "es_AR" });
    assert_eq!((done.status, done.body), (StatusCode::OK, expected));
    assert_eq!(api.unpaused.lock().expect("no panic under the lock").1, ["2001/order_update/es_AR"]);
    let failures: [(Unpaused, u16, &str, &str); 5] = [
        (
            || Err(UnpauseFailure::Missing(String::new())),
            404,
            "template-not-found",
            "there is no template order_update in es_AR",
        ),
        (|| Err(UnpauseFailure::NotPaused("it is DISABLED".into())), 409, "template-not-paused", "it is DISABLED"),
        (|| Err(UnpauseFailure::Refused("too early".into())), 409, "unpause-refused", "too early"),
        (
            || Err(UnpauseFailure::NoAnswer("timed out".into())),
            502,
            "meta-no-answer",
            "timed out; Meta may have lifted",
        ),
        (|| Err(UnpauseFailure::Store(StoreError::NotApplied("away".into()))), 503, "unavailable", ""),
    ];
    for (failure, status, kind, start) in failures {
        let failed = unpause(failure, "es_AR").await;
        let detail = failed.problem(status, kind);
        assert!(detail.starts_with(start), "{detail}");
    }
}
