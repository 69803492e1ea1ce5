//! `campaign submit`: a file becomes a campaign that is launched, once, whatever breaks on the way.

use async_compression::tokio::bufread::GzipEncoder;
use tokio::io::AsyncReadExt as _;

use super::*;
use crate::support;

#[tokio::test]
async fn a_file_becomes_a_campaign_that_is_launched() {
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
    assert_eq!(ran.err, "", "no bar where there is no terminal");

    assert_eq!(server.whats(), ["POST /v1/campaigns".to_owned(), upload_call(), launch_call()]);
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
async fn a_program_gets_one_object() {
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
async fn an_upload_that_was_cut_is_sent_again_under_its_name() {
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
async fn standard_input_is_sent_again_like_a_file_and_the_remedy_is_told() {
    let cut = Answer::Text("application/json", r#"{"accep"#.into(), true);
    let server = Server::start([created(), (&upload_call(), cut)]).await;
    let line = "{\"to\":\"+5491155550001\"}\n";
    let ran = server.run_with(&submit("-", &[]), line).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("broke") && ran.err.contains("the same command again goes on"), "{ran:?}");
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
async fn the_external_id_is_made_of_template_lines_and_content() {
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
async fn the_same_file_again_sends_nothing_and_says_so() {
    let known = Answer::Json(
        200,
        json!({ "id": ID, "state": "completed", "accepted": 0, "rejected_count": 0, "rejected": [] }),
    );
    let server = Server::start([("POST /v1/campaigns", known)]).await;
    let (_dir, file) = recipients();
    let ran = server.run(&submit(&file, &[])).await;
    let told = format!(
        "campaign {ID} “spring sale” was submitted before and is completed: nothing was sent again; --again submits it as a \
         new campaign\n"
    );
    assert_eq!((ran.code, ran.out, ran.err), (0, told, String::new()));
    let ran = server.run(&submit(&file, &["--json"])).await;
    let wanted = json!({
        "id": ID, "state": "completed", "created": false, "accepted": 0, "rejected_count": 0, "rejected": [],
    });
    assert_eq!((ran.code, ran.json()), (0, vec![wanted]));
    assert_eq!(server.whats(), ["POST /v1/campaigns"; 2]);
    let cancelled = json!({ "id": ID, "state": "cancelled", "accepted": 0, "rejected_count": 0, "rejected": [] });
    let server = Server::start([("POST /v1/campaigns", Answer::Json(200, cancelled))]).await;
    let ran = server.run(&submit(&file, &[])).await;
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (1, "pregon: the campaign was cancelled, so nothing will be sent\n"),
        "{ran:?}"
    );
}

#[tokio::test]
async fn the_same_file_for_a_campaign_defined_otherwise_is_refused() {
    let kind = "urn:pregon:problem:campaign-conflict";
    let conflict =
        json!({ "type": kind, "title": "campaign conflict", "status": 409, "detail": "its on_doubt is hold" });
    let server = Server::start([("POST /v1/campaigns", Answer::Json(409, conflict))]).await;
    let (_dir, file) = recipients();
    let ran = server.run(&submit(&file, &["--on-doubt", "resend"])).await;
    let told = "pregon: its on_doubt is hold (HTTP 409)\nthe same file was submitted before; --again submits it as a new \
                campaign\n";
    assert_eq!((ran.code, ran.err.as_str()), (1, told));
}

#[tokio::test]
async fn a_launch_that_is_refused_leaves_a_draft_and_says_so() {
    let refused = problem(409, "template spring_sale is paused by Meta");
    let server = Server::start([created(), (&upload_call(), uploaded()), (&launch_call(), refused)]).await;
    let (_dir, file) = recipients();
    let ran = server.run(&submit(&file, &[])).await;
    let told = format!(
        "pregon: template spring_sale is paused by Meta (HTTP 409)\ncampaign {ID} is draft, with the recipients that were \
         accepted until then: the same command again goes on where this one stopped, and `pregon campaign delete {ID}` \
         deletes it\n"
    );
    assert_eq!((ran.code, ran.err), (1, told));
}

#[tokio::test]
async fn nothing_accepted_is_a_failure_and_nothing_is_launched() {
    let nothing = Answer::Json(200, json!({ "accepted": 0, "rejected_count": 0, "rejected": [] }));
    let server = Server::start([created(), (&upload_call(), nothing)]).await;
    let (_dir, file) = recipients();
    let ran = server.run(&submit(&file, &[])).await;
    assert_eq!((ran.code, ran.err.as_str()), (1, "pregon: no recipient was accepted, so nothing will be sent\n"));
    assert!(!server.whats().contains(&launch_call()));
}

#[tokio::test]
async fn a_draft_stays_one_if_that_is_asked_for_and_a_known_campaign_is_not_launched_twice() {
    let known =
        Answer::Json(200, json!({ "id": ID, "state": "paused", "accepted": 0, "rejected_count": 0, "rejected": [] }));
    let (_dir, file) = recipients();
    let server = Server::start([created(), (&upload_call(), uploaded())]).await;
    let ran = server.run(&submit(&file, &["--no-launch"])).await;
    assert!(ran.code == 0 && ran.out.contains("is draft: 2 accepted"), "{ran:?}");
    let server = Server::start([("POST /v1/campaigns", known), (&upload_call(), uploaded())]).await;
    let ran = server.run(&submit(&file, &["--external-id", "crm-77"])).await;
    let told = "was submitted before and is paused: 2 accepted, 1 rejected; nothing was sent again";
    assert!(ran.code == 0 && ran.out.contains(told), "{ran:?}");
}

#[tokio::test]
async fn a_campaign_can_be_followed_from_its_submission_on() {
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
async fn columns_to_ignore_go_along_with_the_upload() {
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
    let told = "pregon: 1 rows are rejected, more than --max-rejected 0 lets pass: nothing is sent, and campaign";
    assert!(ran.code == 1 && ran.err.starts_with(told) && ran.out.contains("not_e164"), "{ran:?}");
    assert!(!server.whats().contains(&launch_call()));
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
        let told = "pregon: the file could not be read from line 6 on, because a closing quote is missing there: nothing is sent";
        assert!(ran.code == 1 && ran.err.starts_with(told), "{ran:?}");
    }
    assert!(!server.whats().contains(&launch_call()));
}

#[tokio::test]
async fn a_compressed_file_goes_out_as_it_is_and_is_named() {
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
async fn a_dry_run_tells_what_would_be_rejected_and_leaves_nothing() {
    let (delete, deleted) = delete_call();
    let server = Server::start([created(), (&upload_call(), uploaded()), (&delete, deleted)]).await;
    let (_dir, file) = recipients();
    let ran = server.run(&submit(&file, &["--dry-run"])).await;
    assert!(ran.out.starts_with("nothing was sent: 2 would be accepted, 1 rejected\n\n"), "{ran:?}");
    assert!(ran.code == 0 && ran.out.contains("line 4  not_e164") && ran.err.is_empty(), "{ran:?}");
    let whats = ["POST /v1/campaigns".to_owned(), upload_call(), delete.clone()];
    assert_eq!(server.whats(), whats, "it is not launched");
    assert_eq!(server.calls()[0].json().get("external_id"), None, "the real campaign is not taken for a repeated one");

    let ran = server.run(&submit(&file, &["--dry-run", "--json", "--max-rejected", "0"])).await;
    let told = ran.json();
    let expected = (&json!(true), &json!(2), &json!(1), &json!(4));
    assert_eq!(
        (&told[0]["dry_run"], &told[0]["accepted"], &told[0]["rejected_count"], &told[0]["rejected"][0]["line"]),
        expected
    );
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (1, "pregon: 1 rows are rejected, more than --max-rejected 0 lets pass\n")
    );
}

#[tokio::test]
async fn a_dry_run_that_fails_or_is_interrupted_deletes_its_draft() {
    let (delete, deleted) = delete_call();
    let (_dir, file) = recipients();
    let refused = problem(422, "the csv has no column `to`");
    let server = Server::start([created(), (&upload_call(), refused.clone()), (&delete, deleted.clone())]).await;
    let ran = server.run(&submit(&file, &["--dry-run"])).await;
    assert_eq!((ran.code, ran.err.as_str()), (1, "pregon: the csv has no column `to` (HTTP 422)\n"));
    assert_eq!(server.whats().last(), Some(&delete));

    for signal in ["-INT", "-TERM"] {
        let server = Server::start([created(), (&upload_call(), Answer::Never), (&delete, deleted.clone())]).await;
        let child =
            program(&submit(&file, &["--dry-run"]), &[("PREGON_SERVER", &server.url), ("PREGON_API_KEY", "good-key")])
                .spawn()
                .expect("the program");
        support::until("the upload is there", async || server.calls().len() == 2).await;
        let pid = child.id().expect("it runs").to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().await.expect("kill").success());
        let output = child.wait_with_output().await.expect("its end");
        let told = String::from_utf8(output.stderr).expect("text");
        assert_eq!(
            (output.status.code(), told.as_str()),
            (Some(1), "pregon: interrupted before the whole file was checked\n")
        );
        assert_eq!(server.whats().last(), Some(&delete), "{signal}");
    }

    let server =
        Server::start([created(), (&upload_call(), uploaded()), (&delete, problem(503, "redis is away"))]).await;
    let ran = server.run(&submit(&file, &["--dry-run"])).await;
    let told = format!(
        "pregon: the draft {ID} of this check could not be deleted (redis is away (HTTP 503)): delete it with `pregon campaign \
         delete {ID}`\n"
    );
    assert_eq!((ran.code, ran.err), (0, told));
}
