//! The commands for existing campaigns, lines and reports.

use super::*;

#[tokio::test]
async fn campaigns_are_listed_over_all_pages() {
    let page = |state, next: Option<&str>| {
        let mut campaign = campaign(state, Value::Null);
        campaign.as_object_mut().expect("an object").remove("statistics");
        Answer::Json(200, json!({ "campaigns": [campaign], "next": next }))
    };
    let server = Server::start([
        ("GET /v1/campaigns", page("running", Some("c1"))),
        ("GET /v1/campaigns?cursor=c1", page("paused", None)),
        ("GET /v1/campaigns?state=draft", page("draft", Some("c2"))),
    ])
    .await;
    let ran = server.run(&["campaign", "list"]).await;
    assert!(ran.code == 0 && ran.out.contains("running") && ran.out.contains("paused"), "{ran:?}");
    let ran = server.run(&["campaign", "list", "--state", "draft", "--limit", "1"]).await;
    assert!(ran.code == 0 && ran.out.contains("draft") && ran.out.contains("a larger --limit shows more"), "{ran:?}");
    let ran = server.run(&["campaign", "list", "--json"]).await;
    assert_eq!(ran.json()[0]["campaigns"][1]["state"], "paused");
}

#[tokio::test]
async fn a_campaign_is_shown_as_text_or_as_complete_json() {
    let mut newer = campaign("running", statistics(1));
    newer["mood"] = "good".into();
    let server = Server::start([(&format!("GET /v1/campaigns/{ID}"), Answer::Json(200, newer.clone()))]).await;
    let ran = server.run(&["campaign", "show", ID]).await;
    assert!(ran.code == 0 && ran.out.contains("Line 3001 may send 0.5 a second."), "{ran:?}");
    let ran = server.run(&["campaign", "show", ID, "--json"]).await;
    assert_eq!(ran.json(), [newer], "fields of a newer server are included");
}

#[tokio::test]
async fn one_campaign_that_cannot_be_paused_does_not_stop_the_others() {
    let other = "01JD8Z2V3W4X5Y6Z7A8B9C0D1F";
    let server = Server::start([
        (&format!("POST /v1/campaigns/{other}/pause"), problem(409, "it is completed")),
        (&format!("POST /v1/campaigns/{ID}/pause"), Answer::Json(200, campaign("paused", statistics(1)))),
    ])
    .await;
    let ran = server.run(&["campaign", "pause", other, ID]).await;
    assert_eq!(ran.code, 1);
    assert_eq!(ran.out, format!("campaign {ID} “spring sale” is paused\n"));
    assert_eq!(ran.err, format!("pregon: {other}: it is completed (HTTP 409)\n"));
    for (verb, state) in [("resume", "running"), ("cancel", "cancelled")] {
        let call = format!("POST /v1/campaigns/{ID}/{verb}");
        let server = Server::start([(&call, Answer::Json(200, campaign(state, statistics(1))))]).await;
        let ran = server.run(&["campaign", verb, ID, "--json"]).await;
        assert_eq!((ran.code, &ran.json()[0]["state"]), (0, &json!(state)));
    }
}

#[tokio::test]
async fn a_cancelled_retry_says_what_became_of_its_recipients() {
    let call = format!("POST /v1/campaigns/{ID}/cancel");
    let mut retried = campaign("cancelled", statistics(1));
    retried["retried"] = true.into();
    let server = Server::start([
        (&*call, Answer::Json(200, campaign("cancelled", statistics(1)))),
        (&*call, Answer::Json(200, retried)),
    ])
    .await;
    let cancelled = format!("campaign {ID} “spring sale” is cancelled");
    assert_eq!(server.run(&["campaign", "cancel", ID]).await.out, format!("{cancelled}\n"));
    let ran = server.run(&["campaign", "cancel", ID]).await;
    assert!(ran.out.starts_with(&format!("{cancelled}: recipients who got no new message are failed")), "{ran:?}");
}

#[tokio::test]
async fn a_campaign_is_changed_in_the_values_that_are_named() {
    let call = format!("PATCH /v1/campaigns/{ID}");
    let server = Server::start([(&call, Answer::Json(200, campaign("scheduled", statistics(1))))]).await;
    let ran = server.run(&["campaign", "change", ID, "--start-at", "none", "--priority", "7", "--json"]).await;
    assert_eq!((ran.code, &ran.json()[0]["state"]), (0, &json!("scheduled")), "{ran:?}");
    assert_eq!(server.calls()[0].json(), json!({ "start_at": null, "priority": 7 }));
    let window = "09:00-20:00 America/Bogota mon,sat";
    server.run(&["campaign", "change", ID, "--send-window", window, "--rate", "none"]).await;
    let window = json!({ "from": "09:00", "to": "20:00", "days": ["mon", "sat"], "zone": "America/Bogota" });
    assert_eq!(server.calls()[1].json(), json!({ "send_window": window, "rate": null }));
    let ran = server.run(&["campaign", "change", ID, "--send-window", "9-20"]).await;
    assert!(ran.code == 2 && ran.err.contains("09:00-20:00 America/Bogota"), "{ran:?}");
    let ran = server.run(&["campaign", "change", ID]).await;
    assert!(ran.code == 2 && ran.err.contains("--start-at"), "nothing to change: {ran:?}");
}

#[tokio::test]
async fn a_preflight_is_shown_as_text_or_as_complete_json() {
    let line = json!({ "id": "3001", "waba": "2001", "name": "sales", "state": "held", "messages_per_second": 80.0 });
    let row = json!({ "country": "AR", "category": "MARKETING", "messages": 1_188, "price": 0.06, "cost": 71.28 });
    let preflight = json!({
        "campaign": ID, "state": "draft", "ready": false, "recipients": 1_200, "left": 1_200,
        "skips": { "suppressed": 12, "marketing_us": 0 }, "to_send": 1_188, "estimated": false,
        "problems": [
            { "code": "line_held", "blocking": true, "line": "3001", "text": "line 3001 is held: locked" },
            { "code": "rows_rejected", "blocking": false, "text": "3 rows were rejected by uploads, and are no recipients" },
        ],
        "rejects": { "count": 3, "by_reason": { "not_e164": 3 }, "complete": true },
        "template": { "name": "spring", "language": "es_AR", "category": "MARKETING", "status": "APPROVED", "quality": "GREEN" },
        "lines": [line], "rate": null, "send_window": null, "late": "send", "starts_at": null, "ends_at": null, "waiting_for": [],
        "budget": { "business": "1001", "limit": 2_000, "used_24h": 500, "remaining": 1_500, "needed": 1_188 },
        "cost": { "currency": "USD", "valid_from": "2026-10-01", "total": 71.28, "by_country": [row], "without_price": 0 },
    });
    let call = format!("GET /v1/campaigns/{ID}/preflight");
    let server = Server::start([(&call, Answer::Json(200, preflight.clone()))]).await;
    let ran = server.run(&["campaign", "preflight", ID]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    for part in [
        &format!("Campaign {ID} is not ready.\n problem: line 3001 is held: locked\n warning: 3 rows were rejected"),
        "would be skipped  suppressed 12",
        "would be sent     1,188",
        "business 1001: 2,000 people in 24 hours, 1,500 more now",
        "not_e164             3",
        "71.28 by the prices of 2026-10-01",
        "3001  sales  held   up to 80/s",
    ] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    let ran = server.run(&["campaign", "preflight", ID, "--json"]).await;
    assert_eq!(ran.json(), [preflight]);
}

#[tokio::test]
async fn a_campaign_is_tested_with_a_few_numbers() {
    let test = "01JD8Z2V3W4X5Y6Z7A8B9C0D1F";
    let created = json!({ "id": test, "state": "running", "accepted": 2, "rejected_count": 0, "rejected": [] });
    let call = format!("POST /v1/campaigns/{ID}/test");
    let server = Server::start([(&call, Answer::Json(201, created.clone()))]).await;
    let ran = server.run(&["campaign", "test", ID, "+5491155550001", "+5491155550002"]).await;
    let wanted = format!("the test of campaign {ID} goes to 2 numbers; pregon campaign show {test} shows its result\n");
    assert_eq!((ran.code, ran.out), (0, wanted));
    assert_eq!(server.calls()[0].json(), json!({ "to": ["+5491155550001", "+5491155550002"] }));
    let ran = server.run(&["campaign", "test", ID, "+5491155550001", "--external-id", "t", "--json"]).await;
    assert_eq!(ran.json(), [created]);
    assert_eq!(server.calls()[1].json(), json!({ "to": ["+5491155550001"], "external_id": "t" }));
    let ran = server.run(&["campaign", "test", ID, "5491155550001"]).await;
    assert!(ran.code == 2 && ran.err.contains("+5491155550001"), "{ran:?}");
}

#[tokio::test]
async fn campaigns_are_deleted_individually() {
    let other = "01JD8Z2V3W4X5Y6Z7A8B9C0D1F";
    let (refused, deleted) = (format!("DELETE /v1/campaigns/{other}"), format!("DELETE /v1/campaigns/{ID}"));
    let empty = Answer::Text("text/plain", String::new(), false);
    let server = Server::start([(&refused, problem(409, "it has started")), (&deleted, empty)]).await;
    let ran = server.run(&["campaign", "delete", other, ID]).await;
    assert_eq!((ran.code, ran.out), (1, format!("campaign {ID} is deleted\n")));
    assert_eq!(ran.err, format!("pregon: {other}: it has started (HTTP 409)\n"));
    let ran = server.run(&["campaign", "delete", "--json", ID]).await;
    assert_eq!((ran.code, ran.json()), (0, vec![json!({ "id": ID, "deleted": true })]));
}

#[tokio::test]
async fn a_report_file_is_written_only_when_complete() {
    let call = format!("GET /v1/campaigns/{ID}/report.csv");
    let rows = "to,state\n+5491155550001,read\n".repeat(5_000);
    let server = Server::start([
        (&call, Answer::Text("text/csv", rows.clone(), false)),
        (&call, Answer::Text("text/csv", rows.clone(), true)),
        (&call, Answer::Text("text/csv", rows.clone(), false)),
    ])
    .await;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("report.csv");
    let to_file = ["campaign", "report", ID, "-o", path.to_str().expect("text")];

    let ran = server.run(&to_file).await;
    assert_eq!((ran.code, std::fs::read_to_string(&path).expect("the report")), (0, rows.clone()), "{ran:?}");
    std::fs::remove_file(&path).expect("removed");
    let ran = server.run(&to_file).await;
    assert!(ran.code == 1 && ran.err.contains("broke"), "{ran:?}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("the directory").count(), 0, "half a report leaves no file");
    let ran = server.run(&["campaign", "report", ID]).await;
    assert_eq!((ran.code, ran.out), (0, rows));
}

/// A dead letter, as the API returns it.
fn dead_job(id: &str) -> Value {
    json!({
        "id": id, "entry": "7-0", "at": "2026-11-22T09:26:47.894Z", "code": "campaign-not-found",
        "reason": "there is no campaign with the external_id spring", "rejected": [], "type": "launch",
        "external_id": "spring", "job": r#"{"type":"launch","external_id":"spring"}"#, "job_bytes": 40,
    })
}

#[tokio::test]
async fn dead_letters_are_listed_over_all_pages_and_shown() {
    let page = |id, next: Option<&str>| Answer::Json(200, json!({ "jobs": [dead_job(id)], "next": next }));
    let server = Server::start([
        ("GET /v1/jobs/dead", page("9-0", Some("9-0"))),
        ("GET /v1/jobs/dead?cursor=9-0", page("8-0", None)),
        ("GET /v1/jobs/dead/9-0", Answer::Json(200, dead_job("9-0"))),
    ])
    .await;
    let ran = server.run(&["job", "list"]).await;
    let row = ran.out.lines().last().expect("a row");
    assert_eq!(
        row.trim(),
        "8-0  2026-11-22T09:26:47Z  launch spring  there is no campaign with the external_id spring"
    );
    let ran = server.run(&["job", "list", "--limit", "1"]).await;
    assert!(ran.code == 0 && !ran.out.contains("8-0") && ran.out.contains("a larger --limit shows more"), "{ran:?}");
    let ran = server.run(&["job", "list", "--json"]).await;
    assert_eq!(ran.json(), [json!({ "jobs": [dead_job("9-0"), dead_job("8-0")] })]);
    let ran = server.run(&["job", "show", "9-0"]).await;
    assert!(ran.code == 0 && ran.out.ends_with("\n\n{\"type\":\"launch\",\"external_id\":\"spring\"}\n"), "{ran:?}");
    assert_eq!(server.run(&["job", "show", "9-0", "--json"]).await.json(), [dead_job("9-0")]);
    let ran = server.run(&["job", "show", "9"]).await;
    assert!(ran.code == 2 && ran.err.contains("not the id of an entry, such as 1795339607791-0"), "{ran:?}");
}

#[tokio::test]
async fn dead_letters_are_retried_and_deleted_individually() {
    let retried = json!({ "dead_letter": "9-0", "entry": "12-0" });
    let server = Server::start([
        ("POST /v1/jobs/dead/8-0/retry", problem(404, "there is no dead letter 8-0")),
        ("POST /v1/jobs/dead/9-0/retry", Answer::Json(202, retried.clone())),
        ("DELETE /v1/jobs/dead/8-0", problem(404, "there is no dead letter 8-0")),
        ("DELETE /v1/jobs/dead/9-0", Answer::Text("text/plain", String::new(), false)),
    ])
    .await;
    let missing = "pregon: 8-0: there is no dead letter 8-0 (HTTP 404)\n";
    let ran = server.run(&["job", "retry", "8-0", "9-0"]).await;
    let wanted = "dead letter 9-0 is being retried; if it fails again, it becomes dead letter 12-0\n";
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (1, wanted, missing));
    let ran = server.run(&["job", "retry", "--json", "9-0"]).await;
    assert_eq!((ran.code, ran.json()), (0, vec![retried]));
    let ran = server.run(&["job", "delete", "8-0", "9-0"]).await;
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (1, "dead letter 9-0 is deleted\n", missing));
    let ran = server.run(&["job", "delete", "--json", "9-0"]).await;
    assert_eq!((ran.code, ran.json()), (0, vec![json!({ "id": "9-0", "deleted": true })]));
}

#[tokio::test]
async fn everything_is_paused_and_resumed() {
    let since = "2026-11-22T17:00:00Z";
    let all = json!({ "changed": true, "pauses": [{ "since": since }, { "business": "1001", "since": since }] });
    let none = json!({ "changed": false, "pauses": [] });
    let server = Server::start([
        ("POST /v1/pause", Answer::Json(200, all.clone())),
        ("POST /v1/pause", Answer::Json(200, all.clone())),
        ("POST /v1/resume", Answer::Json(200, none)),
    ])
    .await;
    let ran = server.run(&["pause"]).await;
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines[0].starts_with("all sending is paused since "), "{ran:?}");
    assert!(lines[1].starts_with("all sending of business 1001 is paused since "), "{ran:?}");
    assert_eq!(server.run(&["pause", "--business", "1001", "--json"]).await.json(), [all]);
    assert_eq!(
        server.run(&["resume"]).await.out,
        "all sending is resumed; lines and campaigns with a pause of their own stay paused\n"
    );
    let bodies: Vec<_> = server.calls().iter().map(|call| call.json()).collect();
    assert_eq!(bodies, [json!({}), json!({ "business": "1001" }), json!({})]);
}

/// The line 3001, at `rate`.
fn line(rate: f64, state: &str) -> Value {
    json!({
        "id": "3001", "waba": "2001", "name": "sales", "display": "+54 9 11 5555 0001", "state": state,
        "messages_per_second": rate, "configured": 80.0, "allowed_now": 72.0, "owner": "w1", "in_flight": 3,
        "accepted_per_second": 71.9, "throttled": false, "paused": false, "holds": [], "backlog": 1200,
    })
}

#[tokio::test]
async fn lines_are_listed_and_changed() {
    let server = Server::start([
        ("GET /v1/lines", Answer::Json(200, json!({ "lines": [line(80.0, "sending")], "next": null }))),
        ("GET /v1/lines/3001", Answer::Json(200, line(80.0, "sending"))),
        ("PATCH /v1/lines/3001", Answer::Json(200, line(20.0, "sending"))),
        ("PATCH /v1/lines/3001", Answer::Json(200, line(80.0, "sending"))),
        ("POST /v1/lines/3001/pause", Answer::Json(200, line(80.0, "paused"))),
        ("POST /v1/lines/3001/resume", Answer::Json(200, line(80.0, "sending"))),
    ])
    .await;
    let ran = server.run(&["line", "list"]).await;
    let row = ran.out.lines().last().expect("a row");
    assert_eq!(row.trim(), "3001  sales  +54 9 11 5555 0001  sending  80/s  71.9/s    1,200");
    assert_eq!(server.run(&["line", "show", "3001", "--json"]).await.json(), [line(80.0, "sending")]);
    let ran = server.run(&["line", "rate", "3001", "20"]).await;
    assert!(ran.code == 0 && ran.out.contains("20/s (configured: 80/s)"), "{ran:?}");
    assert_eq!(server.run(&["line", "rate", "3001", "--default"]).await.code, 0);
    assert_eq!(server.run(&["line", "pause", "3001"]).await.out, "line 3001 “sales” is paused\n");
    assert_eq!(server.run(&["line", "resume", "3001"]).await.out, "line 3001 “sales” is sending\n");
    let ran = server.run(&["line", "rate", "3001", "none"]).await;
    assert!(ran.code == 2 && ran.err.contains("--default"), "{ran:?}");
    let rates = server.calls().into_iter().filter(|call| call.target.starts_with("PATCH")).map(|call| call.json());
    assert_eq!(
        rates.collect::<Vec<_>>(),
        [json!({ "messages_per_second": 20.0 }), json!({ "messages_per_second": null })]
    );
}

fn hold(id: &str) -> Value {
    json!({ "id": id, "scope": id, "business": "1001", "code": 131_048, "reason": "restricted",
            "since": "2026-11-22T17:40:00Z", "until": null, "lifted_by": ["probe", "person"], "campaigns": 2 })
}

#[tokio::test]
async fn businesses_are_listed_with_what_is_left_of_their_limits() {
    let limited = json!({ "id": "1001", "limit": 2000, "limit_known": true, "used_24h": 1900, "remaining": 100,
        "frees_at": "2026-11-22T17:40:00Z", "wabas": ["2001", "2002"], "holds": [hold("business:1001")] });
    let without = |id: &str, known: bool| {
        json!({ "id": id, "limit": null, "limit_known": known, "used_24h": null, "remaining": null, "frees_at": null,
            "wabas": ["2003"], "holds": [] })
    };
    let (unlimited, unasked) = (without("1002", true), without("1003", false));
    let page = |rows: &[&Value], next: Option<&str>| Answer::Json(200, json!({ "businesses": rows, "next": next }));
    let server = Server::start([
        ("GET /v1/businesses", page(&[&limited], Some("1001"))),
        ("GET /v1/businesses?cursor=1001", page(&[&unlimited, &unasked], None)),
    ])
    .await;
    let ran = server.run(&["business", "list"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    for text in ["1001", "2001, 2002", "2,000", "1,900", "100", "restricted", "no limit", "not known yet"] {
        assert!(ran.out.contains(text), "{text}: {ran:?}");
    }
    let listed = server.run(&["business", "list", "--json"]).await.json();
    assert_eq!(listed, [json!({ "businesses": [limited, unlimited, unasked] })]);
}

#[tokio::test]
async fn holds_are_listed_by_pages_and_lifted_one_by_one() {
    let page = |id: &str, next: Option<&str>| Answer::Json(200, json!({ "holds": [hold(id)], "next": next }));
    let template = "template:2001/spring_sale/es_AR";
    let mut broken = line(80.0, "path_broken");
    (broken["path_broken"], broken["since"]) = (json!("HTTP 503"), json!("2026-11-22T17:00:00Z"));
    let (mut idle, mut idle_line) = (hold("template:2001/free_money/es_AR"), hold("line:3002"));
    (idle["campaigns"], idle_line["campaigns"]) = (0.into(), 0.into());
    let last = Answer::Json(200, json!({ "holds": [idle_line, hold(template), idle], "next": null }));
    let lifted = |id: &str, changed| Answer::Json(200, json!({ "id": id, "changed": changed }));
    let server = Server::start([
        ("GET /v1/holds", page("line:3001", Some("line:3001"))),
        ("GET /v1/holds?cursor=line%3A3001", last),
        ("GET /v1/lines", Answer::Json(200, json!({ "lines": [broken], "next": null }))),
        ("POST /v1/holds/line:3001/lift", lifted("line:3001", true)),
        ("POST /v1/holds/template:2001%2Fspring_sale%2Fes_AR/lift", lifted(template, false)),
    ])
    .await;
    let ran = server.run(&["hold", "list"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let outage = "On line 3001: the path to Meta is broken: HTTP 503 (since 2026-11-22T17:00:00Z)";
    for text in ["line:3001", template, "131048", "restricted", "probe, person", outage] {
        assert!(ran.out.contains(text), "{text}: {ran:?}");
    }
    assert_eq!(
        server.run(&["hold", "list", "--json"]).await.json(),
        [json!({ "holds": [hold("line:3001"), idle_line, hold(template), idle] })]
    );
    let (rows, named) = ran.out.split_once("\n\nHeld too, ").expect("a sentence");
    assert!(rows.contains("line:3002") && !rows.contains("free_money"), "{ran:?}");
    assert!(named.starts_with("but needed by no running campaign: template:2001/free_money/es_AR. "), "{ran:?}");
    let ran = server.run(&["hold", "lift", "line:3001", template, "line:9"]).await;
    assert_eq!(ran.code, 1, "an unknown hold does not keep the others: {ran:?}");
    assert_eq!(ran.out, format!("the hold line:3001 is lifted\n{template} is not held\n"));
    assert!(ran.err.contains("pregon: line:9: "), "{ran:?}");
}

#[tokio::test]
async fn templates_are_listed_and_shown_with_their_columns() {
    let template = json!({
        "waba": "2001", "id": "7", "name": "spring_sale", "language": "es_AR", "status": "APPROVED", "category": "MARKETING",
        "quality_score": "GREEN", "parameter_format": "POSITIONAL",
        "components": [
            { "type": "HEADER", "format": "IMAGE" },
            { "type": "BODY", "text": "Hola {{1}},\nhoy {{2}} menos." },
            { "type": "BUTTONS", "buttons": [{ "type": "QUICK_REPLY", "text": "No más" }] },
        ],
        "usable": true, "synced_at": "2026-11-22T17:35:00Z",
    });
    let list = Answer::Json(200, json!({ "templates": [template.clone()], "next": null }));
    let server = Server::start([
        ("GET /v1/templates", list),
        ("GET /v1/templates/2001/spring_sale/es_AR", Answer::Json(200, template.clone())),
    ])
    .await;
    let ran = server.run(&["template", "list"]).await;
    let row = ran.out.lines().last().expect("a row");
    assert_eq!(row.trim(), "2001/spring_sale/es_AR  MARKETING  APPROVED  GREEN    yes");
    assert_eq!(server.run(&["template", "list", "--json"]).await.json(), [json!({ "templates": [template.clone()] })]);
    let ran = server.run(&["template", "show", "2001/spring_sale/es_AR"]).await;
    for text in
        ["MARKETING", "APPROVED", "GREEN", "to, header", "1, 2", "(image)", "Hola {{1}},\n hoy {{2}}", "[No más]"]
    {
        assert!(ran.code == 0 && ran.out.contains(text), "{text}: {}", ran.out);
    }
    assert_eq!(server.run(&["template", "show", "2001/spring_sale/es_AR", "--json"]).await.json(), [template]);
}

#[tokio::test]
async fn templates_are_read_from_meta() {
    let synced = json!({ "wabas": [{ "waba": "2001", "templates": 12 }, { "waba": "2002", "templates": 1 }] });
    let server = Server::start([("POST /v1/templates/sync", Answer::Json(200, synced.clone()))]).await;
    let ran = server.run(&["template", "sync"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "WABA 2001: 12 templates\nWABA 2002: 1 template\n"), "{ran:?}");
    assert_eq!(server.run(&["template", "sync", "--json"]).await.json(), [synced]);
}

#[tokio::test]
async fn workers_are_listed_over_all_pages() {
    let worker = json!({
        "id": "pregon-0-17-0a1b2c3d", "name": "pregon-0", "version": "0.2.0", "roles": ["dispatch"],
        "lines": ["3001", "3002", "3003", "3004", "3005"], "since": "2026-11-22T17:00:00Z",
    });
    let old = json!({ "id": "4711-0a1b2c3d", "name": "4711-0a1b2c3d", "version": null, "roles": ["dispatch"], "lines": [],
        "since": null });
    let page = |worker: &Value, next: Option<&str>| Answer::Json(200, json!({ "workers": [worker], "next": next }));
    let server = Server::start([
        ("GET /v1/workers", page(&old, Some("4711-0a1b2c3d"))),
        ("GET /v1/workers?cursor=4711-0a1b2c3d", page(&worker, None)),
    ])
    .await;
    let ran = server.run(&["worker", "list"]).await;
    let rows: Vec<&str> = ran.out.lines().skip(2).map(str::trim).collect();
    let first = "4711-0a1b2c3d         0.1.0    dispatch";
    let second = "pregon-0-17-0a1b2c3d  0.2.0    dispatch  3001, 3002, 3003, 3004 and 1 more  2026-11-22T17:00:00Z";
    assert_eq!(rows, [first, second], "{ran:?}");
    assert_eq!(server.run(&["worker", "list", "--json"]).await.json(), [json!({ "workers": [old, worker] })]);
}

#[tokio::test]
async fn templates_are_unpaused_one_by_one() {
    let unpaused = json!({ "waba": "2001", "name": "spring_sale", "language": "es_AR" });
    let refused = json!({ "type": "urn:pregon:problem:unpause-refused", "title": "Conflict", "status": 409, "detail": "meta \
        does not lift the pause: too early" });
    let server = Server::start([
        ("POST /v1/templates/2001/spring_sale/es_AR/unpause", Answer::Json(200, unpaused.clone())),
        ("POST /v1/templates/2001/autumn_sale/es_AR/unpause", Answer::Json(409, refused)),
    ])
    .await;
    let ran = server.run(&["template", "unpause", "2001/autumn_sale/es_AR", "template:2001/spring_sale/es_AR"]).await;
    assert_eq!(ran.code, 1, "a refusal does not keep the others: {ran:?}");
    assert_eq!(ran.out, "Meta has lifted the pause of 2001/spring_sale/es_AR\n");
    assert!(ran.err.contains("pregon: 2001/autumn_sale/es_AR: ") && ran.err.contains("too early"), "{ran:?}");
    assert_eq!(server.run(&["template", "unpause", "2001/spring_sale/es_AR", "--json"]).await.json(), [unpaused]);
    assert_eq!(server.run(&["template", "unpause", "spring_sale"]).await.code, 2);
}

#[tokio::test]
async fn a_discovery_shows_each_line_at_meta_and_each_difference_with_its_remedy() {
    let line = json!({ "id": "3001", "display": "+54 9 11 5555 0001", "verified_name": "Acme", "name_status": "DECLINED",
        "code_verification": null, "status": "CONNECTED", "quality": "GREEN", "throughput": null,
        "messaging_limit": "TIER_10K", "can_send": true, "configured": true });
    let waba = |id: &str, lines: &[&Value], subscribed: Value| {
        json!({ "id": id, "name": "Acme", "ownership": "owned", "configured": !lines.is_empty(), "apps": null,
            "subscribed": subscribed, "lines": lines })
    };
    let drift = json!({ "kind": "name_not_approved", "waba": "2001", "line": "3001", "detail": "it was declined",
        "remedy": "enter another name" });
    let found = json!({ "businesses": [{ "id": "1001", "drift": [drift],
        "wabas": [waba("2001", &[&line], json!(true)), waba("2002", &[], Value::Null)] }] });
    let server = Server::start([("GET /v1/discovery", Answer::Json(200, found.clone()))]).await;

    let ran = server.run(&["business", "discover"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let row = |id: &str| ran.out.lines().find(|row| row.contains(id)).expect("a row").to_owned();
    for text in ["2001", "+54 9 11 5555 0001", "Acme", "CONNECTED", "GREEN", "TIER_10K", "yes"] {
        assert!(row("3001").contains(text), "{text}: {}", ran.out);
    }
    assert!(row("2002").ends_with("no"), "a WABA without lines: {}", ran.out);
    assert!(ran.out.ends_with("\n\nit was declined\n→ enter another name\n"), "{}", ran.out);
    assert_eq!(server.run(&["business", "discover", "--json"]).await.json(), [found]);
    assert_eq!(server.targets(), ["GET /v1/discovery", "GET /v1/discovery"]);
}
