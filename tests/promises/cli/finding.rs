//! Campaigns by their external ids, and the commands that fill, launch and read them.

use super::*;

/// The search for the external id `crm-77`.
const SEARCH: &str = "GET /v1/campaigns?external_id=crm-77";

fn found() -> Answer {
    Answer::Json(200, json!({ "campaigns": [campaign("draft", Value::Null)], "next": null }))
}

#[tokio::test]
async fn an_external_id_works_wherever_the_id_of_a_campaign_does() {
    let path = format!("/v1/campaigns/{ID}");
    let view = || Answer::Json(200, campaign("completed", statistics(2)));
    let (get, report, pause) = (format!("GET {path}"), format!("GET {path}/report.csv"), format!("POST {path}/pause"));
    let (change, delete) = (format!("PATCH {path}"), format!("DELETE {path}"));
    let server = Server::start([
        (SEARCH, found()),
        (&get, view()),
        (&report, Answer::Text("text/csv", "to\n".into(), false)),
        (&pause, view()),
        (&change, view()),
        (&delete, Answer::Text("text/plain", String::new(), false)),
    ])
    .await;
    let commands = [
        (&["show"][..], &get),
        (&["watch"], &get),
        (&["report"], &report),
        (&["pause"], &pause),
        (&["change", "--priority", "7"], &change),
        (&["delete"], &delete),
    ];
    for (command, call) in commands {
        let ran = server.run(&[&["campaign"], command, &["crm-77"]].concat()).await;
        assert_eq!(ran.code, 0, "{command:?}: {ran:?}");
        let targets = server.targets();
        assert_eq!(targets[targets.len() - 2..], [SEARCH, call.as_str()].map(str::to_owned), "{command:?}");
    }
}

#[tokio::test]
async fn an_external_id_of_no_campaign_is_reported_with_a_remedy() {
    let server = Server::start([(SEARCH, Answer::Json(200, json!({ "campaigns": [], "next": null })))]).await;
    let ran = server.run(&["campaign", "show", "crm-77"]).await;
    let printed = "pregon: there is no campaign with the id or external id crm-77: `pregon campaign list` shows the \
        campaigns\n";
    assert_eq!((ran.code, ran.err.as_str()), (1, printed));
    let search = format!("GET /v1/campaigns?external_id={ID}");
    let server = Server::start([(&search, found()), (&format!("GET /v1/campaigns/{ID}"), found())]).await;
    server.run(&["campaign", "show", &format!("external:{ID}")]).await;
    assert_eq!(server.targets()[0], search, "an external id in the form of an id");
}

#[tokio::test]
async fn recipients_are_uploaded_into_a_draft_which_is_launched() {
    let launched = Answer::Json(200, campaign("running", statistics(0)));
    let server = Server::start([(SEARCH, found()), (&upload_call(), uploaded()), (&launch_call(), launched)]).await;
    let (_dir, file) = recipients();
    let ran = server.run(&["campaign", "upload", "crm-77", &file]).await;
    assert!(ran.code == 0 && ran.out.starts_with("campaign crm-77: 2 accepted, 1 rejected\n\n"), "{ran:?}");
    assert!(ran.out.contains("line 4  not_e164"), "{ran:?}");
    let upload = &server.calls()[1];
    assert_eq!((upload.body.as_str(), upload.content_type.as_str()), (CSV, "text/csv"));
    let ran = server.run(&["campaign", "upload", ID, &file, "--max-rejected", "0", "--json"]).await;
    assert_eq!((ran.code, &ran.json()[0]["accepted"]), (1, &json!(2)), "{ran:?}");
    assert_eq!(ran.err, "pregon: 1 row is rejected, more than --max-rejected 0 allows\n");
    let ran = server.run(&["campaign", "launch", "crm-77"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "campaign crm-77 “spring sale” is running\n"));
}

#[tokio::test]
async fn recipients_are_listed_by_state_and_shown_by_number() {
    let recipient = |to: &str| {
        json!({
            "to": to, "state": "failed", "code": 131_026, "reason": "undeliverable", "attempts": 1, "line": "3001",
            "updated_at": "2026-11-22T18:00:00Z",
        })
    };
    let page = |to: &str, next: Option<&str>| Answer::Json(200, json!({ "recipients": [recipient(to)], "next": next }));
    let path = format!("GET /v1/campaigns/{ID}/recipients");
    let server = Server::start([
        (&format!("{path}?state=failed"), page("+5491155550001", Some("0.7"))),
        (&format!("{path}?state=failed&cursor=0.7"), page("+5491155550002", None)),
        (&format!("{path}/+5491155550001"), Answer::Json(200, recipient("+5491155550001"))),
    ])
    .await;
    let list = ["campaign", "recipients", ID, "--state", "failed"];
    let ran = server.run(&list).await;
    let row = ran.out.lines().last().expect("a row");
    assert_eq!(row.trim(), "+5491155550002  failed  131026  undeliverable         1  3001  2026-11-22T18:00:00Z");
    let ran = server.run(&[&list[..], &["--limit", "1"]].concat()).await;
    assert!(ran.code == 0 && ran.out.contains("a larger --limit shows more"), "{ran:?}");
    let ran = server.run(&["campaign", "recipients", ID, "--to", "+5491155550001", "--json"]).await;
    assert_eq!(ran.json(), [json!({ "recipients": [recipient("+5491155550001")] })]);
}
