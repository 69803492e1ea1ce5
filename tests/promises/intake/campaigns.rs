//! Submitting campaigns: validation, repeated submissions, uploads of recipients, and actions on campaigns.

use std::{convert::Infallible, fs, path::Path};

use bytes::Bytes;
use deadpool_redis::redis::{cmd, pipe};
use pregon::{
    domain::{CampaignState, FrequencyCap, Line, State, SuppressionScope, UnixMs, WabaId, campaign::OptOutButton},
    intake::{CampaignAction, Format, IntakeError, TemplateProblem},
    redis::parts::Claim,
};
use serde_json::{Value, json};

use crate::support::{
    self,
    intake::{World, body, intake, minutes_from, new_campaign, row, rows},
};

/// A template of the category marketing.
const MARKETING: &str = "spring_sale/es_AR";

#[tokio::test]
async fn an_invalid_submission_reports_all_problems_and_stores_nothing() {
    let world = World::start().await;
    let before = keys(&world).await;
    let now = world.intake.clock.now();
    let new = new_campaign(
        "nobody/es_AR",
        json!({
            "name": " ", "external_id": "a\nb", "lines": ["3001", "9999", "3001"], "priority": 11, "rate": -1, "launch": true,
            "start_at": minutes_from(now, -5), "expires_at": minutes_from(now, -10),
        }),
    );
    let Err(IntakeError::Invalid(problems)) = world.intake.submit(new).await else { panic!("not refused") };
    let expected = [
        "name is “ ”: it must have 1 to 200 characters, none of them a control character",
        "external_id is “a\\nb”: it must have 1 to 200 characters, none of them a control character",
        "priority is 11: it must be 1 to 10",
        "rate is -1: it must be 0.01 to 1000000 messages per second",
        ", which is over (it is ",
        ": expires_at must be after start_at",
        "launch needs recipients",
        "line 9999 is not configured: there are 3001, 3002, 4001",
        "line 3001 is named twice in lines: leave one out",
        "no template nobody",
    ];
    for text in expected {
        assert_eq!(problems.iter().filter(|problem| problem.contains(text)).count(), 1, "{text} in {problems:?}");
    }
    assert_eq!(problems.len(), expected.len(), "{problems:?}");
    assert_eq!(keys(&world).await, before);
}

#[tokio::test]
async fn lines_of_two_wabas_and_an_empty_list_are_rejected() {
    let world = World::start().await;
    for (lines, text) in [
        (json!([]), "lines is empty: name at least one line; there are 3001, 3002, 4001"),
        (
            json!(["3001", "4001"]),
            "of one WABA, but line 3001 is of 2001 and line 4001 of 2002: make a campaign for each",
        ),
    ] {
        let new = new_campaign("order_update/es_AR", json!({ "lines": lines }));
        let error = world.intake.submit(new).await.expect_err("refused");
        assert!(matches!(error, IntakeError::Invalid(_)) && error.to_string().contains(text), "{error}");
    }
}

#[tokio::test]
async fn a_frequency_cap_is_for_marketing_that_the_business_counts() {
    let mut world = World::start().await;
    let refuse = async |world: &World, template: &str, cap: Value| {
        let new = new_campaign(template, json!({ "frequency_cap": cap }));
        let Err(IntakeError::Invalid(problems)) = world.intake.submit(new).await else { panic!("{cap} is accepted") };
        problems.join("; ")
    };
    let cap = json!({ "messages": 2, "days": 14 });
    let text = refuse(&world, MARKETING, cap.clone()).await;
    assert!(
        text.starts_with("frequency_cap is 2 in 14 days, but the marketing of business 1001 is not counted"),
        "{text}"
    );
    let frequency_cap = Some(FrequencyCap { messages: 20, days: 7 });
    let lines = world.intake.lines.get();
    world.intake.lines = lines.iter().map(|line| Line { frequency_cap, ..line.clone() }).collect();
    let text = refuse(&world, MARKETING, cap).await;
    assert!(text.contains("is counted for 7 days (business.frequency_cap): name at most as many"), "{text}");
    let text = refuse(&world, MARKETING, json!({ "messages": 0, "days": 7 })).await;
    assert_eq!(text, "frequency_cap is 0 in 7 days: `messages` must be 1 to 20, and `days` 1 to 30");
    let cap = json!({ "messages": 2, "days": 7 });
    let text = refuse(&world, "order_update/es_AR", cap.clone()).await;
    assert_eq!(text, "frequency_cap is for marketing, and order_update (es_AR) is not: leave it out");

    let new = |cap: &Value| new_campaign(MARKETING, json!({ "external_id": "capped", "frequency_cap": cap }));
    let id = world.intake.submit(new(&cap)).await.expect("accepted").id;
    let campaign = world.store().campaign(id).await.expect("redis").expect("a campaign").campaign;
    assert_eq!(campaign.frequency_cap, Some(FrequencyCap { messages: 2, days: 7 }));
    assert_eq!(campaign.requires, ["frequency_cap"]);
    let error = world.intake.submit(new(&Value::Null)).await.expect_err("another one");
    assert!(error.to_string().contains("its frequency_cap is 2 in 7 days there and none here"), "{error}");
}

#[tokio::test]
async fn only_a_usable_template_is_accepted() {
    let world = World::start().await;
    let before = keys(&world).await;
    let refuse = async |template: &str, more: Value| {
        let error = world.intake.submit(new_campaign(template, more)).await.expect_err(template);
        (error.kind(), error.to_string())
    };
    let (kind, text) = refuse("order_update/pt_BR", json!({})).await;
    assert_eq!(
        (
            kind,
            text.contains("no template order_update in pt_BR; similar ones are order_update (es_AR): check the name")
        ),
        ("template-missing", true),
        "{text}"
    );
    let (kind, text) = refuse("slow_week/pt-BR", json!({})).await;
    assert_eq!((kind, text.contains("slow_week (pt_BR) is PAUSED")), ("template-not-approved", true), "{text}");
    let (kind, text) = refuse("spring_cards/es_AR", json!({})).await;
    assert_eq!((kind, text.contains("a carousel")), ("template-unsupported", true), "{text}");
    let (kind, text) = refuse("order_update/es_AR", json!({ "lines": ["4001"] })).await;
    assert_eq!((kind, text.contains("WABA 2002")), ("templates-not-synced", true), "{text}");
    assert_eq!(keys(&world).await, before);

    let submitted = world
        .intake
        .submit(new_campaign("order_update/es-AR", json!({})))
        .await
        .expect("a language as people write it");
    assert_eq!(submitted.state, CampaignState::Draft);
}

#[tokio::test]
async fn a_submission_with_recipients_is_launched_or_scheduled() {
    let world = World::start().await;
    let recipients = json!([row(5_491_155_550_001), row(5_491_155_550_002), row(5_491_155_550_001), { "to": 7 }]);
    let launched = json!({ "recipients": recipients, "launch": true });
    let submitted = world.intake.submit(new_campaign("order_update/es_AR", launched.clone())).await.expect("accepted");
    assert!(submitted.created);
    assert_eq!(submitted.state, CampaignState::Running);
    assert_eq!((submitted.upload.accepted, submitted.upload.rejected_count), (2, 2));
    let codes: Vec<_> =
        submitted.upload.rejected.iter().map(|rejection| (rejection.row, rejection.code.as_str())).collect();
    assert_eq!(codes, [(3, "duplicate"), (4, "not_e164")]);
    assert_eq!(world.numbers(submitted.id).await, [5_491_155_550_001, 5_491_155_550_002]);
    assert_eq!(world.count(submitted.id, State::Pending).await, 2);

    let mut later = launched;
    later["start_at"] = json!(minutes_from(world.intake.clock.now(), 10));
    let submitted = world.intake.submit(new_campaign("order_update/es_AR", later)).await.expect("accepted");
    assert_eq!(submitted.state, CampaignState::Scheduled);
    let more = world.upload(submitted.id, None, &rows([5_491_155_550_003])).await.expect("still takes recipients");
    assert_eq!(more.accepted, 1);
}

#[tokio::test]
async fn a_submission_with_only_rejected_recipients_stays_a_draft() {
    let world = World::start().await;
    let new = new_campaign("order_update/es_AR", json!({ "recipients": [{ "to": "12" }, 5, null], "launch": true }));
    let submitted = world.intake.submit(new).await.expect("accepted");
    assert_eq!((submitted.state, submitted.upload.accepted), (CampaignState::Draft, 0));
    let reasons: Vec<&str> = submitted.upload.rejected.iter().map(|rejection| rejection.reason.as_str()).collect();
    assert!(reasons[0].contains("E.164") && reasons[1].contains("where a recipient object is expected"), "{reasons:?}");
    let error = world.intake.act(submitted.id, CampaignAction::Launch).await.expect_err("no recipients");
    assert!(matches!(error, IntakeError::Empty(id) if id == submitted.id), "{error}");
}

#[tokio::test]
async fn the_same_external_id_is_the_same_campaign() {
    let world = World::start().await;
    let new = |numbers: std::ops::Range<u64>| {
        let recipients: Vec<Value> = numbers.map(row).collect();
        new_campaign("order_update/es_AR", json!({ "external_id": "spring", "recipients": recipients, "launch": true }))
    };
    let first = world.intake.submit(new(5_491_100_000_000..5_491_100_000_300)).await.expect("accepted");
    let again = world.intake.submit(new(5_491_100_000_000..5_491_100_000_300)).await.expect("the stored campaign");
    assert_eq!((first.created, again.created), (true, false));
    assert_eq!((first.id, first.state, first.upload), (again.id, again.state, again.upload));
    assert_eq!(world.numbers(first.id).await.len(), 300);

    // The campaign is looked up before its template is checked: Meta may have deleted the template since.
    let (now, waba) = (world.intake.clock.now(), WabaId::from("2001"));
    world.store().put_templates(&waba, &[], now).await.expect("no templates");
    let bare = new_campaign("order_update/es-AR", json!({ "external_id": "spring", "lines": ["3002", "3001"] }));
    assert_eq!(world.intake.submit(bare).await.expect("the stored campaign").id, first.id);

    let error = world.intake.submit(new(0..0)).await;
    assert!(error.is_ok_and(|stored| stored.id == first.id));
    let error = world
        .intake
        .submit(new(5_491_100_000_300..5_491_100_000_400))
        .await
        .expect_err("other rows are not dropped silently");
    assert!(matches!(error, IntakeError::UploadConflict), "{error}");
}

#[tokio::test]
async fn a_stored_external_id_with_another_definition_is_a_conflict() {
    let world = World::start().await;
    let expires_at = minutes_from(world.intake.clock.now(), 60);
    let first = json!({ "external_id": "spring", "expires_at": expires_at });
    let id = world.intake.submit(new_campaign("order_update/es_AR", first.clone())).await.expect("accepted").id;
    let before = keys(&world).await;
    let with = |field: &str, value: Value| {
        let mut other = first.clone();
        other[field] = value;
        other
    };
    let cases = [
        ("welcome/en_GB", first.clone(), "template is order_update (es_AR) there and welcome (en_GB) here"),
        ("order_update/es_AR", with("lines", json!(["3001"])), "lines are 3001, 3002 there and 3001 here"),
        ("order_update/es_AR", with("on_doubt", json!("resend")), "on_doubt is hold there and resend here"),
        (
            "order_update/es_AR",
            with("opt_out_buttons", json!([{"text": "Basta"}])),
            "opt_out_buttons are none there and “Basta” (marketing) here",
        ),
        (
            "order_update/es_AR",
            with("expires_at", Value::Null),
            &format!("expires_at is {expires_at} there and none here"),
        ),
    ];
    for (template, more, difference) in cases {
        let error = world.intake.submit(new_campaign(template, more)).await.expect_err(difference);
        assert_eq!(error.kind(), "campaign-conflict", "{error}");
        let message = error.to_string();
        assert!(
            message.contains(difference) && message.contains("spring") && message.contains(&id.to_string()),
            "{message}"
        );
    }
    assert_eq!(keys(&world).await, before);
}

#[tokio::test]
async fn of_many_problems_the_first_are_named_and_the_others_counted() {
    let world = World::start().await;
    let buttons: Vec<Value> = (0..50_000).map(|n| json!({ "text": format!("No {n}") })).collect();
    let lines: Vec<String> = (0..50_000).map(|n| format!("line-{n}")).chain(["3001".to_owned()]).collect();
    for more in [json!({ "opt_out_buttons": buttons }), json!({ "lines": lines })] {
        let error = world.intake.submit(new_campaign("survey/es_AR", more)).await.expect_err("problems");
        let IntakeError::Invalid(problems) = &error else { panic!("{error}") };
        assert_eq!((problems.len(), problems[20].as_str()), (21, "there are 49980 more problems"));
    }
    let first = json!({ "external_id": "survey" });
    world.intake.submit(new_campaign("survey/es_AR", first)).await.expect("accepted");
    let other = json!({ "external_id": "survey", "opt_out_buttons": buttons, "lines": lines });
    let error = world.intake.submit(new_campaign("survey/es_AR", other)).await.expect_err("another definition");
    let text = error.to_string();
    assert!(text.contains("and 49981 more here, its opt_out_buttons are none there") && text.len() < 4_000, "{text}");
}

#[tokio::test]
async fn lists_that_may_be_left_out_may_be_null() {
    let world = World::start().await;
    let nulls = json!({ "opt_out_buttons": null, "recipients": null });
    let id = world.intake.submit(new_campaign("survey/es_AR", nulls)).await.expect("accepted").id;
    let record = world.store().campaign(id).await.expect("redis").expect("the campaign");
    assert!(record.campaign.opt_out_buttons.is_empty() && record.numbers == 0);
}

#[tokio::test]
async fn people_opt_out_with_quick_reply_buttons_of_the_template() {
    let world = World::start().await;
    let submit = async |template: &str, buttons: Value| {
        world.intake.submit(new_campaign(template, json!({ "opt_out_buttons": buttons }))).await
    };
    let marked = submit("survey/es_AR", json!([{"text": "No", "scope": "all"}])).await.expect("a campaign").id;
    let record = world.store().campaign(marked).await.expect("redis").expect("the campaign");
    let button = OptOutButton { text: "No".into(), scope: SuppressionScope::All };
    assert_eq!(record.campaign.opt_out_buttons, [button]);
    for (template, buttons, problem) in [
        (
            "survey/es_AR",
            json!([{"text": "no"}]),
            "“no”, which is no quick-reply button of template survey (es_AR): it has “Sí”, “No”",
        ),
        ("survey/es_AR", json!([{"text": "No"}, {"text": "No"}]), "opt_out_buttons has “No” twice"),
        ("order_update/es_AR", json!([{"text": "No"}]), "it has none"),
        ("survey/es_AR", json!([{"text": " No "}]), "opt_out_buttons has “ No ”, which is no quick-reply button"),
    ] {
        let error = submit(template, buttons).await.expect_err(problem).to_string();
        assert!(error.contains(problem), "{error}");
    }
}

#[tokio::test]
async fn concurrent_submissions_with_other_definitions_conflict() {
    let world = World::start().await;
    for round in 0..10 {
        let other = intake(world.redis.url()).await;
        let submissions = ["order_update/es_AR", "welcome/en_GB"]
            .map(|template| other.submit(new_campaign(template, json!({ "external_id": format!("x{round}") }))));
        let answers = futures_util::future::join_all(submissions).await;
        let conflicts = answers.iter().filter_map(|answer| answer.as_ref().err()).map(IntakeError::kind);
        assert_eq!(conflicts.collect::<Vec<_>>(), ["campaign-conflict"]);
    }
}

#[tokio::test]
async fn concurrent_submissions_of_an_external_id_make_one_campaign() {
    let world = World::start().await;
    let submissions = (0..8).map(|_| async {
        let other = intake(world.redis.url()).await;
        let recipients: Vec<Value> = (5_491_100_000_000..5_491_100_000_050).map(row).collect();
        let more = json!({ "external_id": "x", "recipients": recipients, "launch": true });
        other.submit(new_campaign("order_update/es_AR", more)).await.expect("accepted")
    });
    let submitted = futures_util::future::join_all(submissions).await;
    assert_eq!(submitted.iter().filter(|submitted| submitted.created).count(), 1);
    assert!(submitted.iter().all(|one| one.id == submitted[0].id && one.upload.accepted == 50));
    assert_eq!(world.store().newest_campaigns(None, 10).await.expect("campaigns"), [submitted[0].id]);
    assert_eq!(world.numbers(submitted[0].id).await.len(), 50);
}

#[tokio::test]
async fn an_interrupted_submission_is_completed_by_a_repeat() {
    let world = World::start().await;
    let recipients: Vec<Value> = (5_491_100_000_000..5_491_100_000_010).map(row).collect();
    // Interrupted after the campaign was stored and before its recipients were.
    let cut =
        world.intake.submit(new_campaign("order_update/es_AR", json!({ "external_id": "x" }))).await.expect("stored");
    let whole = json!({ "external_id": "x", "recipients": recipients, "launch": true });
    let again = world.intake.submit(new_campaign("order_update/es_AR", whole.clone())).await.expect("continued");
    assert_eq!(
        (again.id, again.created, again.state, again.upload.accepted),
        (cut.id, false, CampaignState::Running, 10)
    );
    // A further repeat leaves the operator's pause in place.
    world.intake.act(cut.id, CampaignAction::Pause).await.expect("paused");
    let again = world.intake.submit(new_campaign("order_update/es_AR", whole)).await.expect("the stored campaign");
    assert_eq!((again.state, again.upload.accepted), (CampaignState::Paused, 10));
}

#[tokio::test]
async fn an_invalid_row_is_rejected_with_its_number_and_reason() {
    let world = World::start().await;
    let cases: &[(&str, &str, &str)] = &[
        ("order_update/es_AR", r#"{"to":"5491155550001","params":{"1":"a","2":"b"}}"#, "not_e164"),
        ("order_update/es_AR", r#"{"to":"+5491155550000","params":{"1":"a","2":"b"}}"#, "duplicate"),
        ("order_update/es_AR", r#"{"to":"+5491155550001","params":{"1":"a"}}"#, "parameter_missing"),
        ("order_update/es_AR", r#"{"to":"+5491155550001","params":{"1":"a","2":"b","3":"c"}}"#, "parameter_unknown"),
        ("order_update/es_AR", r#"{"to":"+5491155550001","params":{"1":"a","1":"b","2":"c"}}"#, "given_twice"),
        ("order_update/es_AR", r#"{"to":"+5491155550001","params":{"1":"","2":"b"}}"#, "empty"),
        ("order_update/es_AR", r#"{"to":"+5491155550001","params":{"1":"a\nb","2":"b"}}"#, "whitespace"),
        ("order_update/es_AR", r#"{"to":"+5491155550001","params":{"1":"a\tb","2":"b"}}"#, "whitespace"),
        ("order_update/es_AR", r#"{"to":"+5491155550001","params":{"1":"a     b","2":"b"}}"#, "whitespace"),
        (
            "order_update/es_AR",
            r#"{"to":"+5491155550001","params":{"1":"a","2":"b"},"header":"x"}"#,
            "header_unexpected",
        ),
        (
            "order_update/es_AR",
            r#"{"to":"+5491155550001","params":{"1":"a","2":"b"},"buttons":{"0":"x"}}"#,
            "button_unknown",
        ),
        ("order_update/es_AR", "not json", "malformed"),
        ("order_update/es_AR", r#"{"to":"+5491155550001","params":{"1":"TOO LONG","2":"b"}}"#, "too_long"),
        ("order_update/es_AR", r#"{"to":"+5491155550001","params":{"1":"OVERLONG","2":"b"}}"#, "line_too_long"),
        ("spring_title/es_AR", r#"{"to":"+5491155550001","params":{"1":"a"}}"#, "header_missing"),
        ("store_opening/es_AR", r#"{"to":"+5491155550001","params":{"1":"a"},"header":"here"}"#, "header_form"),
        ("coupon/es_AR", r#"{"to":"+5491155550001"}"#, "button_missing"),
    ];
    for &(template, row, code) in cases {
        let id = world.draft(template).await;
        if template.starts_with("order") {
            world.upload(id, None, &rows([5_491_155_550_000])).await.expect("the first");
        }
        let row = row.replace("TOO LONG", &"x".repeat(1_000)).replace("OVERLONG", &"x".repeat(70_000));
        let result = world.upload(id, None, &format!("\n{row}\n")).await.expect("answered");
        assert_eq!((result.accepted, result.rejected_count), (0, 1), "{code}");
        let rejection = &result.rejected[0];
        assert_eq!((rejection.row, rejection.code.as_str()), (1, code), "{}", rejection.reason);
        assert!(rejection.reason.len() > 10, "{}", rejection.reason);
    }
}

#[tokio::test]
async fn csv_and_ndjson_yield_the_same_recipients() {
    let world = World::start().await;
    let (csv, ndjson) = (world.draft("welcome/en_GB").await, world.draft("welcome/en_GB").await);
    let table = "header;first_name;to;order_number\nAcme;\"Ana; \
                María\";+5491155550001;A-1\n;Bo;+5491155550002;A-2\nAcme;Bo;+5491155550002;A-2\n";
    let result = world.intake.upload(csv, None, Format::Csv, body(table)).await.expect("accepted");
    let codes: Vec<_> = result.rejected.iter().map(|rejection| (rejection.row, rejection.code.as_str())).collect();
    assert_eq!((result.accepted, codes), (2, vec![(2, "header_missing")]));
    let lines = [
        json!({ "to": "+5491155550001", "header": "Acme", "params": { "first_name": "Ana; María", "order_number": "A-1" } }),
        json!({ "to": "+5491155550002", "header": "Acme", "params": { "first_name": "Bo", "order_number": "A-2" } }),
    ];
    world.upload(ndjson, None, &format!("{}\n{}", lines[0], lines[1])).await.expect("accepted");
    assert_eq!(world.recipients(csv).await, world.recipients(ndjson).await);

    let before = keys(&world).await;
    let error = world
        .intake
        .upload(csv, None, Format::Csv, body("phone,name\n+5491155550003,x\n"))
        .await
        .expect_err("no column to");
    assert_eq!(error.kind(), "upload-unreadable");
    assert_eq!(keys(&world).await, before);
}

#[tokio::test]
async fn spreadsheet_files_are_accepted_or_rejected_with_a_reason() {
    let rounded = "a spreadsheet has rounded the number, and its last digits are lost; format the column as text and \
        put the numbers in again";
    let not_utf8 = "the header row of the csv is not UTF-8: save the file as \"CSV UTF-8\" (in Excel: File, Save As)";
    // The file, the number of accepted recipients, and the reasons for rejecting the file or its rows.
    let cases: &[(&str, u64, &[&str])] = &[
        ("excel_csv_utf8.csv", 2, &[]),
        ("excel_sep_semicolon.csv", 2, &[]),
        (
            "excel_ansi.csv",
            1,
            &["the row cannot be read: it is not UTF-8; save the file as \"CSV UTF-8\" (in Excel: File, Save As)"],
        ),
        ("excel_unicode_text.txt", 0, &[not_utf8]),
        ("excel_tabs.txt", 2, &[]),
        (
            "excel_rounded.csv",
            0,
            &[&format!("`to` is 5,49116E+12: {rounded}"), &format!("`to` is 5.49116E+12: {rounded}")],
        ),
        (
            "excel_workbook.csv",
            0,
            &["the file is an Excel workbook and not a csv: open it and save it as \"CSV UTF-8\" (in Excel: File, \
                Save As)"],
        ),
        ("google_sheets.csv", 2, &[]),
        (
            "google_sheets_apostrophe.csv",
            1,
            &[
                "`to` is '+…0001: the apostrophe in front is a spreadsheet's mark of text and not part of the number; remove it, so that \
                the number begins with its plus",
            ],
        ),
        ("libreoffice.csv", 2, &[]),
        (
            "crm_extra_columns.csv",
            0,
            &[
                "the csv has `Email`, `City`, which the template does not use; it uses `to`, `1`, `2`, `zone`: rename or delete them, or leave \
                them out with ?ignore=Email,City (on the command line --ignore Email,City)",
            ],
        ),
        (
            "crm_phone_column.csv",
            0,
            &[
                "the first row of the csv names no column `to` for the phone numbers, but `Contact ID`, `Phone`, `First Name`: rename \
                the column with the numbers to `to`, or put a row with the names of the columns on top",
            ],
        ),
        (
            "crm_numbers.csv",
            0,
            &[
                "`to` is …0001: the plus in front is missing, which spreadsheets drop from numbers; format the column as text and \
                write the number in E.164, such as +5491155550001",
                "`to` is +…-0002: it has blanks, dashes or other marks between its digits; write only the plus and the digits, such \
                as +5491155550001",
                "`to` is =\"+…0003\": that is a spreadsheet's formula; write the number itself, such as +5491155550001",
            ],
        ),
        (
            "crm_unclosed_quote.csv",
            1,
            &[
                "a quote that opens in this row is not closed by the end of the file, so that everything after it was read as part of \
                this row: is a closing quote missing?",
            ],
        ),
    ];
    let world = World::start().await;
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/uploads");
    assert_eq!(fs::read_dir(&dir).expect("the files").count(), cases.len());
    for &(name, accepted, sentences) in cases {
        let id = world.draft("order_update/es_AR").await;
        let bytes = fs::read(dir.join(name)).expect("a file");
        let pieces = bytes.chunks(7).map(|piece| Ok::<_, Infallible>(Bytes::copy_from_slice(piece)));
        let pieces = futures_util::stream::iter(pieces.collect::<Vec<_>>());
        let (taken, message) = match world.intake.upload(id, None, Format::Csv, pieces).await {
            Ok(result) => (result.accepted, result.rejected.into_iter().map(|rejection| rejection.reason).collect()),
            Err(error) => (0, vec![error.to_string()]),
        };
        assert_eq!((taken, message), (accepted, sentences.iter().map(|text| (*text).to_owned()).collect()), "{name}");
    }
}

#[tokio::test]
async fn an_upload_ending_inside_a_quote_accepts_only_earlier_rows() {
    let world = World::start().await;
    let id = world.draft("survey/es_AR").await;
    let table = "to,1,button.0\n+5491155550001,Ana,\"a\n+5491155550002,Bo,b\n+5491155550003,Cy,c\n";
    let result = world.intake.upload(id, None, Format::Csv, body(table)).await.expect("answered");
    let codes: Vec<_> = result.rejected.iter().map(|rejection| (rejection.row, rejection.code.as_str())).collect();
    assert_eq!((result.accepted, codes), (0, vec![(1, "unclosed_quote")]));
    assert!(result.rejected[0].reason.contains("is a closing quote missing?"), "{}", result.rejected[0].reason);
}

#[tokio::test]
async fn every_action_is_applied_idempotent_or_rejected_by_state() {
    use CampaignState::{Cancelled, Completed, Draft, Paused, Running, Scheduled};
    let world = World::start().await;
    let now = world.intake.clock.now();
    let actions = [CampaignAction::Launch, CampaignAction::Pause, CampaignAction::Resume, CampaignAction::Cancel];
    // The state after each action; `None` if the action is rejected.
    let table = [
        (Draft, [Some(Running), None, None, Some(Cancelled)]),
        (Scheduled, [Some(Scheduled), Some(Paused), Some(Scheduled), Some(Cancelled)]),
        (Running, [Some(Running), Some(Paused), Some(Running), Some(Cancelled)]),
        (Paused, [None, Some(Paused), Some(Running), Some(Cancelled)]),
        (Completed, [Some(Completed), None, Some(Completed), None]),
        (Cancelled, [None, None, None, Some(Cancelled)]),
    ];
    for (state, ends) in table {
        for (action, end) in actions.into_iter().zip(ends) {
            let id = world.draft("order_update/es_AR").await;
            world.upload(id, None, &rows([5_491_155_550_001])).await.expect("a recipient");
            if state != Draft {
                world.store().change_campaign(id, &[Draft], state, now, None).await.expect("changed");
            }
            // Twice, because callers repeat an action whose response was lost.
            for _ in 0..2 {
                match (world.intake.act(id, action).await, end) {
                    (Ok((record, _)), Some(end)) => {
                        assert_eq!((record.state, record.applied), (end, record.version), "{action:?} of {state}")
                    }
                    (Err(IntakeError::State { id: named, state: at, .. }), None) => {
                        assert_eq!((named, at), (id, state))
                    }
                    (result, _) => panic!("{action:?} of a campaign that is {state}: {result:?}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn an_expired_campaign_can_only_be_cancelled() {
    let world = World::start().await;
    let now = world.intake.clock.now();
    let soon = json!({ "expires_at": UnixMs(now.0 + 400), "recipients": [row(5_491_155_550_001)] });
    let id = world.intake.submit(new_campaign("order_update/es_AR", soon)).await.expect("accepted").id;
    support::until("it expired", async || world.intake.clock.now().0 > now.0 + 400).await;
    let error = world.intake.act(id, CampaignAction::Launch).await.expect_err("over");
    assert!(matches!(error, IntakeError::Expired { .. }), "{error}");
    let (record, _) = world.intake.act(id, CampaignAction::Cancel).await.expect("cancelled");
    assert_eq!((record.state, world.count(id, State::Cancelled).await), (CampaignState::Cancelled, 1));
}

#[tokio::test]
async fn an_edited_template_is_rejected_at_launch_and_resume() {
    let world = World::start().await;
    let waba = WabaId::from("2001");
    let listed = |text: Option<&str>| {
        let mut templates = support::intake::templates();
        match text {
            Some(text) => {
                let ours = templates.iter_mut().find(|template| template.name == "order_update").expect("the template");
                ours.components[0].text = text.to_owned();
            }
            None => templates.retain(|template| template.name != "order_update"),
        }
        templates
    };
    let sync = async |text: Option<&str>| {
        world.store().put_templates(&waba, &listed(text), world.intake.clock.now()).await.expect("templates");
    };
    let (edited, reworded) = ("{{1}}, {{2}} and {{3}}", "{{2}} is here, {{1}}");
    let id = world.draft("order_update/es_AR").await;
    world.upload(id, None, &rows([5_491_155_550_001])).await.expect("a recipient");

    sync(Some(edited)).await;
    let error = world.intake.act(id, CampaignAction::Launch).await.expect_err("the recipients do not fit");
    assert_eq!(error.kind(), "template-changed");
    let message = error.to_string();
    assert!(message.contains("after the campaign was created: the body takes 3 values now, and took 2; "), "{message}");
    sync(None).await;
    assert_eq!(
        world.intake.act(id, CampaignAction::Launch).await.expect_err("the template is gone").kind(),
        "template-missing"
    );
    assert_eq!(world.store().campaign_states(&[id]).await.expect("redis"), [Some(CampaignState::Draft)]);

    sync(Some(reworded)).await;
    world.intake.act(id, CampaignAction::Launch).await.expect("a text may change");
    world.intake.act(id, CampaignAction::Pause).await.expect("paused");
    sync(Some(edited)).await;
    assert_eq!(world.intake.act(id, CampaignAction::Launch).await.expect_err("it is paused").kind(), "campaign-state");
    assert_eq!(world.intake.act(id, CampaignAction::Resume).await.expect_err("edited").kind(), "template-changed");
    sync(Some(reworded)).await;
    assert_eq!(world.intake.act(id, CampaignAction::Resume).await.expect("resumed").0.state, CampaignState::Running);
    sync(Some(edited)).await;
    world.intake.act(id, CampaignAction::Resume).await.expect("the answer of the first may have been lost");
    world.intake.act(id, CampaignAction::Cancel).await.expect("it can be cancelled");
}

#[tokio::test]
async fn an_interrupted_action_is_completed_by_its_repeat() {
    let world = World::start().await;
    let id = world.draft("order_update/es_AR").await;
    world.upload(id, None, &rows([5_491_155_550_001])).await.expect("a recipient");
    world.intake.act(id, CampaignAction::Launch).await.expect("launched");
    // The state that a pause leaves if its process dies after changing the campaign and before changing its parts.
    let mut redis = world.redis.connection().await;
    let key = world.store().keys.campaign(id);
    let () = pipe()
        .hset(&key, "state", "paused")
        .ignore()
        .hincr(&key, "version", 1)
        .ignore()
        .query_async(&mut redis)
        .await
        .expect("a cut pause");
    let (record, _) = world.intake.act(id, CampaignAction::Pause).await.expect("paused");
    let part = record.parts[0].0;
    let now = world.intake.clock.now();
    let claim = world.store().claim(part, &support::claim_request(1, now, 10, now)).await.expect("a claim");
    assert!(matches!(claim, Claim::Held { .. }), "{claim:?}");
}

#[tokio::test]
async fn an_unknown_campaign_is_not_found() {
    let world = World::start().await;
    let id = "01J9ZK3V5T8R7Q6P5N4M3K2J1H".parse().expect("an id");
    assert_eq!(world.intake.act(id, CampaignAction::Launch).await.expect_err("unknown").kind(), "campaign-not-found");
    assert_eq!(world.upload(id, None, "").await.expect_err("unknown").kind(), "campaign-not-found");
}

#[tokio::test]
async fn a_template_problem_names_a_remedy() {
    let world = World::start().await;
    let error = world.intake.submit(new_campaign("order_update/en_US", json!({}))).await.expect_err("missing");
    let text = "WABA 2001 has no template order_update in en_US; similar ones are order_update (es_AR): check the name and \
        the language, or, if it is new at Meta, read the templates again (`pregon template sync`, or POST /v1/templates/sync)";
    assert_eq!(error.to_string(), text);
    for (wanted, similar) in [("Order-Updates/es_AR", &["order_update (es_AR)"][..]), ("nobody_knows/es_AR", &[])] {
        let error = world.intake.submit(new_campaign(wanted, json!({}))).await.expect_err("missing");
        let IntakeError::Template(TemplateProblem::Missing { similar: found, .. }) = error else { panic!("{error}") };
        assert_eq!(found, similar, "{wanted}");
    }
}

#[tokio::test]
async fn replies_of_a_transaction_never_reach_another_command() {
    let world = World::start().await;
    let one = &world.store().with_pinned_connection();
    let waba = WabaId::from("2003");
    let key = |n: u64| format!("key:{n}");
    let reading = (0..8).map(|n| async move {
        let set = cmd("SET").arg(key(n)).arg(n).take();
        one.query::<String>("SET", &set).await.expect("SET");
        for _ in 0..100 {
            assert_eq!(one.query::<u64>("GET", cmd("GET").arg(key(n))).await.expect("GET"), n);
        }
    });
    let putting = async {
        for n in 0..100 {
            one.put_templates(&waba, &[], UnixMs(n)).await.expect("put");
        }
    };
    tokio::join!(putting, futures_util::future::join_all(reading));
    assert_eq!(one.templates(&waba).await.expect("read"), Some((Vec::new(), UnixMs(99))));
}

/// All keys in Redis, sorted.
async fn keys(world: &World) -> Vec<String> {
    let mut redis = world.redis.connection().await;
    let mut keys: Vec<String> = cmd("KEYS").arg("*").query_async(&mut redis).await.expect("KEYS");
    keys.sort_unstable();
    keys
}
