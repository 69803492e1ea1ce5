//! `campaign submit`: a file becomes one launched campaign, even if the submission is interrupted and repeated.

use async_compression::tokio::bufread::GzipEncoder;
use tokio::io::AsyncReadExt as _;

use super::*;
use crate::support;

#[tokio::test]
async fn a_file_is_submitted_and_launched() {
    let running = Answer::Json(200, campaign("running", statistics(0)));
    let server = Server::start([created(), (&upload_call(), uploaded()), (&launch_call(), running)]).await;
    let (_dir, file) = recipients();
    let options = [
        "--external-id",
        "crm-77",
        "--start-at",
        "2026-11-22T09:00:00-03:00",
        "--priority",
        "7",
        "--on-doubt",
        "resend",
        "--line",
        "3002",
    ];
    let ran = server.run(&submit(&file, &options)).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.out.starts_with(&format!("campaign {ID} “spring sale” is running: 2 accepted, 1 rejected\n")),
        "{ran:?}"
    );
    let rejected = ran.out.lines().find(|line| line.contains("not_e164")).expect("the rejected row");
    assert_eq!(rejected.trim(), "line 4  not_e164  `to` is not a phone number in E.164");
    assert_eq!(ran.err, "", "no progress bar without a terminal");

    assert_eq!(server.targets(), ["POST /v1/campaigns".to_owned(), upload_call(), launch_call()]);
    let [create, upload, _] = server.calls().try_into().expect("three calls");
    let wanted = json!({
        "name": "spring sale", "external_id": "crm-77", "template": { "name": "spring_sale", "language": "es_AR" },
        "lines": ["3001", "3002"], "start_at": "2026-11-22T12:00:00Z", "priority": 7, "on_doubt": "resend",
    });
    assert_eq!(create.json(), wanted);
    assert_eq!((upload.content_type.as_str(), upload.body.as_str()), ("text/csv", CSV));
    assert!((1..=128).contains(&upload.upload_id.len()), "{upload:?}");
}

#[tokio::test]
async fn json_output_is_one_object() {
    let running = Answer::Json(200, campaign("running", statistics(0)));
    let server = Server::start([created(), (&upload_call(), uploaded()), (&launch_call(), running)]).await;
    let (_dir, file) = recipients();
    let ran = server.run(&submit(&file, &["--json"])).await;
    let Answer::Json(_, mut wanted) = uploaded() else { unreachable!("it is JSON") };
    wanted["id"] = ID.into();
    wanted["state"] = "running".into();
    wanted["created"] = true.into();
    assert_eq!((ran.code, ran.json()), (0, vec![wanted]));
}

#[tokio::test]
async fn an_interrupted_upload_is_repeated_with_its_upload_id() {
    let running = Answer::Json(200, campaign("running", statistics(0)));
    let cut = Answer::Text("application/json", r#"{"accep"#.into(), true);
    let server =
        Server::start([created(), (&upload_call(), cut), (&upload_call(), uploaded()), (&launch_call(), running)])
            .await;
    let (_dir, file) = recipients();
    let ran = server.run(&submit(&file, &[])).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let [_, first, second, _] = server.calls().try_into().expect("four calls");
    assert_eq!((&first.upload_id, &first.body), (&second.upload_id, &second.body));
}

#[tokio::test]
async fn standard_input_is_retried_like_a_file_with_a_remedy() {
    let cut = Answer::Text("application/json", r#"{"accep"#.into(), true);
    let server = Server::start([created(), (&upload_call(), cut)]).await;
    let line = "{\"to\":\"+5491155550001\"}\n";
    let ran = server.run_with(&submit("-", &[]), line).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("broke") && ran.err.contains("the same command again continues"), "{ran:?}");
    let [_, first, second] = server.calls().try_into().expect("three calls");
    for upload in [&first, &second] {
        assert_eq!((upload.content_type.as_str(), upload.body.as_str()), ("application/x-ndjson", line));
    }
    assert_eq!(first.upload_id, second.upload_id);
}

/// The external id with which `arguments` create their campaign.
async fn external_id(arguments: &[&str], stdin: &str) -> Value {
    let running = Answer::Json(200, campaign("running", statistics(0)));
    let server = Server::start([created(), (&upload_call(), uploaded()), (&launch_call(), running)]).await;
    let ran = server.run_with(arguments, stdin).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    server.calls()[0].json()["external_id"].take()
}

#[tokio::test]
async fn the_external_id_is_derived_from_template_lines_and_content() {
    let (_dir, file) = recipients();
    let (_other_dir, copy) = recipients();
    let first = external_id(&submit(&file, &["--line", "3002"]), "").await;
    assert!(first.as_str().is_some_and(|id| (1..=200).contains(&id.len())), "{first}");
    let same = [
        external_id(&submit(&copy, &["--line", "3002", "--name", "again", "--priority", "7"]), "").await,
        external_id(&submit("-", &["--line", "3002"]), CSV).await,
        external_id(
            &[
                "campaign",
                "submit",
                &file,
                "--template",
                "spring_sale",
                "--language",
                "es-AR",
                "--line",
                "3002",
                "--line",
                "3001",
            ],
            "",
        )
        .await,
    ];
    assert_eq!(same, [&first, &first, &first].map(Value::clone));
    let others = [
        external_id(&submit(&file, &[]), "").await,
        external_id(
            &["campaign", "submit", &file, "--template", "autumn/es_AR", "--line", "3001", "--line", "3002"],
            "",
        )
        .await,
        external_id(&submit("-", &["--line", "3002"]), &format!("{CSV}+5491155550009,Eva\n")).await,
    ];
    assert!(!others.contains(&first), "{first} {others:?}");
    assert_eq!(external_id(&submit(&file, &["--again"]), "").await, Value::Null);
    assert_eq!(external_id(&submit(&file, &["--external-id", "crm-77"]), "").await, "crm-77");
}

#[tokio::test]
async fn submitting_the_same_file_again_sends_nothing() {
    let existing = Answer::Json(
        200,
        json!({ "id": ID, "state": "completed", "accepted": 0, "rejected_count": 0, "rejected": [] }),
    );
    let server = Server::start([("POST /v1/campaigns", existing)]).await;
    let (_dir, file) = recipients();
    let ran = server.run(&submit(&file, &[])).await;
    let printed = format!(
        "campaign {ID} “spring sale” was submitted before and is completed: nothing was sent again; --again submits it as a \
        new campaign\n"
    );
    assert_eq!((ran.code, ran.out, ran.err), (0, printed, String::new()));
    let ran = server.run(&submit(&file, &["--json"])).await;
    let wanted = json!({
        "id": ID, "state": "completed", "created": false, "accepted": 0, "rejected_count": 0, "rejected": [],
    });
    assert_eq!((ran.code, ran.json()), (0, vec![wanted]));
    assert_eq!(server.targets(), ["POST /v1/campaigns"; 2]);
}

#[tokio::test]
async fn a_file_whose_campaign_was_cancelled_is_not_sent() {
    let cancelled = json!({ "id": ID, "state": "cancelled", "accepted": 0, "rejected_count": 0, "rejected": [] });
    let server = Server::start([("POST /v1/campaigns", Answer::Json(200, cancelled))]).await;
    let (_dir, file) = recipients();
    for (options, whose, remedy) in [
        ([].as_slice(), "of this file", "--again"),
        (["--external-id", "crm-77"].as_slice(), "with this external id", "another --external-id"),
    ] {
        let ran = server.run(&submit(&file, options)).await;
        let printed = format!(
            "pregon: the campaign {whose}, {ID} “spring sale”, is cancelled, so nothing is sent: {remedy} submits the \
             file as a new campaign\n"
        );
        assert_eq!((ran.code, ran.out.as_str(), ran.err), (1, "", printed));
    }
    assert_eq!(server.targets(), ["POST /v1/campaigns"; 2], "nothing is uploaded");
}

#[tokio::test]
async fn a_campaign_that_is_cancelled_during_the_upload_is_not_called_a_draft() {
    let ended = problem(409, "campaign X is cancelled: it can't take recipients");
    let found = Answer::Json(200, campaign("cancelled", statistics(0)));
    let show = format!("GET /v1/campaigns/{ID}");
    let server = Server::start([created(), (&upload_call(), ended), (&show, found)]).await;
    let (_dir, file) = recipients();
    let ran = server.run(&submit(&file, &[])).await;
    let printed = "pregon: campaign X is cancelled: it can't take recipients (HTTP 409)\n--again submits the file \
        as a new campaign\n";
    assert_eq!((ran.code, ran.err.as_str()), (1, printed));
}

#[tokio::test]
async fn the_same_file_with_another_definition_is_rejected() {
    let kind = "urn:pregon:problem:campaign-conflict";
    let conflict =
        json!({ "type": kind, "title": "campaign conflict", "status": 409, "detail": "its on_doubt is hold" });
    let server = Server::start([("POST /v1/campaigns", Answer::Json(409, conflict))]).await;
    let (_dir, file) = recipients();
    let ran = server.run(&submit(&file, &["--on-doubt", "resend"])).await;
    let printed = "pregon: its on_doubt is hold (HTTP 409)\nthe same file was submitted before; --again submits it as a new \
        campaign\n";
    assert_eq!((ran.code, ran.err.as_str()), (1, printed));
}

#[tokio::test]
async fn a_rejected_launch_leaves_a_draft_and_reports_it() {
    let refused = problem(409, "template spring_sale is paused by Meta");
    let server = Server::start([created(), (&upload_call(), uploaded()), (&launch_call(), refused)]).await;
    let (_dir, file) = recipients();
    let ran = server.run(&submit(&file, &[])).await;
    let printed = format!(
        "pregon: template spring_sale is paused by Meta (HTTP 409)\ncampaign {ID} is a draft, with the recipients that \
         were accepted until then: the same command again continues where this one stopped, and `pregon campaign \
         delete {ID}` deletes it\n"
    );
    assert_eq!((ran.code, ran.err), (1, printed));
}

#[tokio::test]
async fn a_campaign_without_accepted_recipients_is_not_launched() {
    let nothing = Answer::Json(200, json!({ "accepted": 0, "rejected_count": 0, "rejected": [] }));
    let server = Server::start([created(), (&upload_call(), nothing)]).await;
    let (_dir, file) = recipients();
    let ran = server.run(&submit(&file, &[])).await;
    assert_eq!((ran.code, ran.err.as_str()), (1, "pregon: no recipient was accepted, so nothing will be sent\n"));
    assert!(!server.targets().contains(&launch_call()));
}

#[tokio::test]
async fn no_launch_leaves_a_draft_and_nothing_is_launched_twice() {
    let existing =
        Answer::Json(200, json!({ "id": ID, "state": "paused", "accepted": 0, "rejected_count": 0, "rejected": [] }));
    let (_dir, file) = recipients();
    let server = Server::start([created(), (&upload_call(), uploaded())]).await;
    let ran = server.run(&submit(&file, &["--no-launch"])).await;
    assert!(ran.code == 0 && ran.out.contains("is a draft: 2 accepted"), "{ran:?}");
    let server = Server::start([("POST /v1/campaigns", existing), (&upload_call(), uploaded())]).await;
    let ran = server.run(&submit(&file, &["--external-id", "crm-77"])).await;
    let printed = "was submitted before and is paused: 2 accepted, 1 rejected; nothing was sent again";
    assert!(ran.code == 0 && ran.out.contains(printed), "{ran:?}");
}

#[tokio::test]
async fn a_draft_that_is_found_is_launched_and_that_is_said() {
    let draft = || {
        let found = json!({ "id": ID, "state": "draft", "accepted": 0, "rejected_count": 0, "rejected": [] });
        ("POST /v1/campaigns", Answer::Json(200, found))
    };
    let running = Answer::Json(200, campaign("running", statistics(0)));
    let server = Server::start([draft(), (&upload_call(), uploaded()), (&launch_call(), running)]).await;
    let (_dir, file) = recipients();
    let ran = server.run(&submit(&file, &[])).await;
    let printed = "was a draft before; it was launched and is running: 2 accepted, 1 rejected\n";
    assert!(ran.code == 0 && ran.out.contains(printed) && !ran.out.contains("nothing was sent"), "{ran:?}");
    let ran = server.run(&submit(&file, &["--no-launch"])).await;
    assert!(ran.code == 0 && ran.out.contains("was a draft before and stays one: 2 accepted, 1 rejected\n"), "{ran:?}");
}

#[tokio::test]
async fn submit_can_watch_the_campaign() {
    let server = Server::start([
        created(),
        (&upload_call(), uploaded()),
        (&launch_call(), Answer::Json(200, campaign("running", statistics(0)))),
        (&format!("GET /v1/campaigns/{ID}"), Answer::Json(200, campaign("completed", statistics(2)))),
    ])
    .await;
    let (_dir, file) = recipients();
    let ran = server.run(&submit(&file, &["--watch", "--json"])).await;
    let [submitted, watched] = ran.json().try_into().expect("two lines");
    assert_eq!((ran.code, &submitted["state"], &watched["by_state"]["read"]), (0, &json!("running"), &json!(2)));
}

#[tokio::test]
async fn ignored_columns_are_passed_to_the_upload() {
    let call = format!("POST /v1/campaigns/{ID}/recipients?ignore=email%2Ccity");
    let running = Answer::Json(200, campaign("running", statistics(0)));
    let server = Server::start([created(), (&call, uploaded()), (&launch_call(), running)]).await;
    let (_dir, file) = recipients();
    let ran = server.run(&submit(&file, &["--ignore", "email,city"])).await;
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[tokio::test]
async fn more_rejected_rows_than_allowed_leave_a_draft() {
    let server = Server::start([created(), (&upload_call(), uploaded())]).await;
    let (_dir, file) = recipients();
    let ran = server.run(&submit(&file, &["--max-rejected", "0"])).await;
    let printed = "pregon: 1 row is rejected, more than --max-rejected 0 allows: nothing is sent, and campaign";
    assert!(ran.code == 1 && ran.err.starts_with(printed) && ran.out.contains("not_e164"), "{ran:?}");
    assert!(!server.targets().contains(&launch_call()));
    let running = Answer::Json(200, campaign("running", statistics(0)));
    let server = Server::start([created(), (&upload_call(), uploaded()), (&launch_call(), running)]).await;
    assert_eq!(server.run(&submit(&file, &["--max-rejected", "1"])).await.code, 0);
}

#[tokio::test]
async fn a_file_with_an_unclosed_quote_is_never_launched() {
    let unread = Answer::Json(
        200,
        json!({
            "accepted": 4, "rejected_count": 1,
            "rejected": [{ "row": 5, "line": 6, "code": "unclosed_quote", "reason": "a quote is not closed" }],
        }),
    );
    let server = Server::start([created(), (&upload_call(), unread)]).await;
    let (_dir, file) = recipients();
    for options in [&[][..], &["--max-rejected", "10"]] {
        let ran = server.run(&submit(&file, options)).await;
        let printed = "pregon: the file could not be read from line 6 on, because a closing quote is missing there: \
            nothing is sent";
        assert!(ran.code == 1 && ran.err.starts_with(printed), "{ran:?}");
    }
    assert!(!server.targets().contains(&launch_call()));
}

#[tokio::test]
async fn a_compressed_file_is_sent_as_is_with_its_encoding() {
    let running = Answer::Json(200, campaign("running", statistics(0)));
    let server = Server::start([created(), (&upload_call(), uploaded()), (&launch_call(), running)]).await;
    let (dir, plain) = recipients();
    let path = dir.path().join("spring sale.csv.gz");
    let mut gzipped = Vec::new();
    GzipEncoder::new(CSV.as_bytes()).read_to_end(&mut gzipped).await.expect("compressed");
    std::fs::write(&path, gzipped).expect("written");
    for file in [path.to_str().expect("text"), &plain] {
        let ran = server.run(&submit(file, &[])).await;
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    let calls = server.calls();
    let (compressed, plain) = ([&calls[0], &calls[1]], [&calls[3], &calls[4]]);
    assert_eq!(compressed[0].json(), plain[0].json(), "the same campaign");
    assert_eq!((&compressed[1].upload_id, &compressed[1].content_type), (&plain[1].upload_id, &plain[1].content_type));
    assert_eq!([compressed[1], plain[1]].map(|call| call.content_encoding.as_str()), ["gzip", ""]);
    assert_ne!(compressed[1].body, CSV);
}

#[tokio::test]
async fn a_dry_run_reports_rejections_and_leaves_nothing() {
    let (delete, deleted) = delete_call();
    let server = Server::start([created(), (&upload_call(), uploaded()), (&delete, deleted)]).await;
    let (_dir, file) = recipients();
    let ran = server.run(&submit(&file, &["--dry-run"])).await;
    assert!(ran.out.starts_with("nothing was sent: 2 would be accepted, 1 rejected\n\n"), "{ran:?}");
    assert!(ran.code == 0 && ran.out.contains("line 4  not_e164") && ran.err.is_empty(), "{ran:?}");
    let targets = ["POST /v1/campaigns".to_owned(), upload_call(), delete.clone()];
    assert_eq!(server.targets(), targets, "the draft is not launched");
    assert_eq!(
        server.calls()[0].json().get("external_id"),
        None,
        "the draft does not use the external id of the real campaign"
    );

    let ran = server.run(&submit(&file, &["--dry-run", "--json", "--max-rejected", "0"])).await;
    let printed = ran.json();
    let expected = (&json!(true), &json!(2), &json!(1), &json!(4));
    assert_eq!(
        (
            &printed[0]["dry_run"],
            &printed[0]["accepted"],
            &printed[0]["rejected_count"],
            &printed[0]["rejected"][0]["line"]
        ),
        expected
    );
    assert_eq!((ran.code, ran.err.as_str()), (1, "pregon: 1 row is rejected, more than --max-rejected 0 allows\n"));
}

#[tokio::test]
async fn a_dry_run_that_fails_or_is_interrupted_deletes_its_draft() {
    let (delete, deleted) = delete_call();
    let (_dir, file) = recipients();
    let refused = problem(422, "the csv has no column `to`");
    let server = Server::start([created(), (&upload_call(), refused.clone()), (&delete, deleted.clone())]).await;
    let ran = server.run(&submit(&file, &["--dry-run"])).await;
    assert_eq!((ran.code, ran.err.as_str()), (1, "pregon: the csv has no column `to` (HTTP 422)\n"));
    assert_eq!(server.targets().last(), Some(&delete));

    for signal in ["-INT", "-TERM"] {
        let server = Server::start([created(), (&upload_call(), Answer::Never), (&delete, deleted.clone())]).await;
        let child =
            program(&submit(&file, &["--dry-run"]), &[("PREGON_SERVER", &server.url), ("PREGON_API_KEY", "good-key")])
                .spawn()
                .expect("the program");
        support::until("the upload is there", async || server.calls().len() == 2).await;
        let pid = child.id().expect("it runs").to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().await.expect("kill").success());
        let output = child.wait_with_output().await.expect("an exit status");
        let printed = String::from_utf8(output.stderr).expect("text");
        assert_eq!(
            (output.status.code(), printed.as_str()),
            (Some(1), "pregon: interrupted before the whole file was checked\n")
        );
        assert_eq!(server.targets().last(), Some(&delete), "{signal}");
    }

    let server =
        Server::start([created(), (&upload_call(), uploaded()), (&delete, problem(503, "redis is away"))]).await;
    let ran = server.run(&submit(&file, &["--dry-run"])).await;
    let printed = format!(
        "pregon: the draft {ID} of this check could not be deleted (redis is away (HTTP 503)): delete it with `pregon campaign \
        delete {ID}`\n"
    );
    assert_eq!((ran.code, ran.err), (0, printed));
}
