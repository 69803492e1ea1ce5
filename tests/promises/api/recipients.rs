//! Recipients: uploaded, then read in pages, one by one, and as a report.

use std::collections::BTreeMap;

use deadpool_redis::redis::cmd;
use pregon::domain::{CampaignId, Phone, Settled};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    harness::{Api, answer, csv, phone, wamid},
    truth::{self, Fate, Truth},
};

/// Fates and rows by phone.
async fn by_phone(api: &Api, truth: &Truth) -> BTreeMap<String, (Fate, u16)> {
    let mut fates = BTreeMap::new();
    for (&(part, row), &fate) in truth {
        let [to] = api.store.numbers(part, &[row]).await.expect("redis").try_into().expect("one");
        fates.insert(to.expect("a number").to_string(), (fate, row));
    }
    fates
}

/// Every page of a list of recipients.
async fn all(api: &Api, campaign: CampaignId, query: &str) -> Vec<Value> {
    let (mut found, mut next) = (Vec::new(), String::new());
    for _ in 0..10_000 {
        let mut page = api.read(&format!("/v1/campaigns/{campaign}/recipients?cursor={next}&{query}")).await;
        found.extend(std::mem::take(page["recipients"].as_array_mut().expect("a list")));
        match page["next"].as_str() {
            Some(cursor) => next = cursor.to_owned(),
            None => return found,
        }
    }
    panic!("the list has no end")
}

fn states(recipients: &[Value]) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let states: BTreeMap<_, _> = recipients.iter().map(|one| (text(&one["to"]), text(&one["state"]))).collect();
    assert_eq!(states.len(), recipients.len(), "every recipient is listed once");
    states
}

#[tokio::test]
async fn ndjson_and_csv_uploads_report_rejected_rows() {
    let api = Api::start().await;
    let id = api.draft("spring", &["3001"], 0).await;
    let rows = [
        json!({ "to": phone(1), "params": { "1": "Maria", "2": "A-10" } }).to_string(),
        json!({ "to": phone(1), "params": { "1": "Maria", "2": "A-10" } }).to_string(),
        json!({ "to": phone(2), "params": { "1": "Maria" } }).to_string(),
        "{".to_owned(),
        json!({ "to": phone(3), "params": { "1": "Maria", "2": "A-10" } }).to_string(),
    ];
    let answer = api.upload(id, "application/x-ndjson", rows.join("\n")).await;
    assert_eq!(
        (answer.status, &answer.body["accepted"], &answer.body["rejected_count"]),
        (StatusCode::OK, &json!(2), &json!(3))
    );
    let rejected: Vec<_> = answer.body["rejected"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| (row["row"].as_u64(), row["code"].as_str()))
        .collect();
    assert_eq!(
        rejected,
        [(Some(2), Some("duplicate")), (Some(3), Some("parameter_missing")), (Some(4), Some("malformed"))]
    );
    assert!(answer.body["rejected"].as_array().expect("a list").iter().all(|row| row["reason"].is_string()));

    api.upload(id, "text/csv", "number,1,2\n").await.problem(422, "upload-unreadable");
    api.upload(id, "application/json", "[]").await.problem(415, "unsupported-media-type");
    assert_eq!(api.upload(id, "text/csv", csv(10)).await.body["accepted"], 8, "two were already accepted");
    assert_eq!(all(&api, id, "").await.len(), 10);
}

#[tokio::test]
async fn ignored_columns_are_left_out_of_an_upload() {
    let api = Api::start().await;
    let id = api.draft("spring", &["3001"], 0).await;
    let upload = async |query: &str, media_type: &str, body: String| {
        let path = format!("/v1/campaigns/{id}/recipients{query}");
        answer(api.request(Method::POST, &path).header("content-type", media_type).body(body)).await
    };
    let table = format!("to,1,2,Email,home city\n{},Maria,A-10,m@example.com,Rosario\n", phone(1));
    let refused = upload("", "text/csv", table.clone()).await;
    assert!(refused.problem(422, "upload-unreadable").contains("?ignore=Email,home city"), "{}", refused.body);
    let taken = upload("?ignore=email,home%20city", "text/csv", table).await;
    assert_eq!((taken.status, &taken.body["accepted"]), (StatusCode::OK, &json!(1)), "{}", taken.body);
    upload("?ignore=email", "application/x-ndjson", String::new()).await.problem(400, "invalid-query");
    upload("?columns=to", "text/csv", String::new()).await.problem(400, "invalid-query");
}

#[tokio::test]
async fn an_upload_larger_than_the_body_limit_is_streamed() {
    let api = Api::start().await;
    let id = api.draft("spring", &["3001"], 0).await;
    let (text, n) = (csv(20_000), 20_000);
    assert!(text.len() > 4 * super::harness::BODY_BYTES_MAX);
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> =
        text.as_bytes().chunks(1_000).map(|piece| Ok(piece.to_vec())).collect();
    let answer = api.upload(id, "text/csv", reqwest::Body::wrap_stream(futures_util::stream::iter(pieces))).await;
    assert_eq!((answer.status, &answer.body["accepted"]), (StatusCode::OK, &json!(n)));
}

#[tokio::test]
async fn an_upload_with_an_id_can_be_repeated() {
    let api = Api::start().await;
    let id = api.draft("spring", &["3001"], 0).await;
    let path = format!("/v1/campaigns/{id}/recipients");
    let upload = async |upload_id: &str, body: String| {
        let request =
            api.request(Method::POST, &path).header("content-type", "text/csv").header("upload-id", upload_id);
        answer(request.body(body)).await
    };
    let first = upload("march", csv(100)).await;
    assert_eq!((first.status, &first.body["accepted"]), (StatusCode::OK, &json!(100)));
    let again = upload("march", csv(100)).await;
    assert_eq!((again.status, again.body), (StatusCode::OK, first.body));
    upload("march", csv(50)).await.problem(409, "upload-conflict");
    let other = upload("april", csv(100)).await;
    assert_eq!(other.body["rejected_count"], 100, "another id: all are duplicates");
    upload("", csv(1)).await.problem(422, "invalid");
    upload("märz", csv(1)).await.problem(400, "invalid-upload-id");
    assert_eq!(all(&api, id, "").await.len(), 100);
}

#[tokio::test]
async fn pages_of_any_size_contain_every_recipient_once() {
    let api = Api::start().await;
    let id = api.launched("spring", &["3001", "3002"], 700).await;
    let truth = truth::apply_fates(&api, id).await;
    let expected: BTreeMap<_, _> =
        by_phone(&api, &truth).await.into_iter().map(|(to, (fate, _))| (to, fate.state().to_owned())).collect();
    for limit in [7, 100, 699, 700, 1_000] {
        assert_eq!(states(&all(&api, id, &format!("limit={limit}")).await), expected, "limit {limit}");
    }
    for fate in Fate::ALL {
        let state = fate.state();
        let wanted: BTreeMap<_, _> =
            expected.iter().filter(|(_, is)| *is == state).map(|(to, is)| (to.clone(), is.clone())).collect();
        for limit in [1, 50, 1_000] {
            assert_eq!(
                states(&all(&api, id, &format!("state={state}&limit={limit}")).await),
                wanted,
                "{state}, limit {limit}"
            );
        }
    }
    assert_eq!(all(&api, id, "state=unknown").await, [Value::Null; 0]);
    let exact = api.read(&format!("/v1/campaigns/{id}/recipients?limit=700")).await;
    assert_eq!(exact["next"], Value::Null, "no page follows one with everything");
    let past = api.read(&format!("/v1/campaigns/{id}/recipients?cursor=99.0")).await;
    assert_eq!(past, json!({ "recipients": [], "next": null }));
}

#[tokio::test]
async fn a_page_reads_a_few_parts_and_the_next_one_continues() {
    let api = Api::start().await;
    let id = api.draft("spring", &["3001", "3002", "3004", "3005", "3006"], 500).await;
    assert_eq!(api.parts(id).await.len(), 5);
    for query in ["limit=1000", "limit=1000&state=pending"] {
        let first = api.read(&format!("/v1/campaigns/{id}/recipients?{query}")).await;
        let n = first["recipients"].as_array().map_or(0, Vec::len);
        assert!(n < 500 && first["next"] == "4.0", "{n} of four parts, then {}", first["next"]);
        assert_eq!(states(&all(&api, id, query).await).len(), 500);
    }
}

#[tokio::test]
async fn a_recipient_is_found_by_phone_with_its_history() {
    let api = Api::start().await;
    let id = api.launched("spring", &["3001", "3002"], 300).await;
    let truth = truth::apply_fates(&api, id).await;
    for (to, (fate, row)) in by_phone(&api, &truth).await {
        let digits = to.trim_start_matches('+');
        let path = format!("/v1/campaigns/{id}/recipients");
        let found = api.read(&format!("{path}/{to}")).await;
        assert_eq!(found, api.read(&format!("{path}/{digits}")).await);
        assert_eq!(found, api.read(&format!("{path}/%2B{digits}")).await);
        // WhatsApp writes some numbers in Argentina without the 9.
        assert_eq!(found, api.read(&format!("{path}/{}", digits.replacen("549", "54", 1))).await);
        assert_eq!((&found["to"], &found["state"]), (&json!(to), &json!(fate.state())));
        assert_eq!(found.get("code").and_then(Value::as_u64), fate.code().map(u64::from), "{found}");
        let why = [Fate::Retrying, Fate::InDoubt, Fate::Refused, Fate::FailedLater].contains(&fate);
        assert_eq!(found["reason"].is_string(), why, "{found}");
        assert_eq!(found["attempts"], u8::from(fate != Fate::Pending), "{found}");
        assert!(["3001", "3002"].map(Value::from).contains(&found["line"]), "{found}");
        let times: Vec<&str> = ["accepted_at", "sent_at", "delivered_at", "read_at", "failed_at", "updated_at"]
            .into_iter()
            .filter(|&time| found[time].is_string())
            .collect();
        let expected: &[&str] = match fate {
            Fate::Pending | Fate::InFlight => &[],
            Fate::Retrying | Fate::InDoubt => &["updated_at"],
            Fate::Refused => &["failed_at", "updated_at"],
            Fate::Accepted => &["accepted_at", "updated_at"],
            Fate::Sent => &["accepted_at", "sent_at", "updated_at"],
            Fate::FailedLater => &["accepted_at", "sent_at", "failed_at", "updated_at"],
            Fate::Delivered => &["accepted_at", "delivered_at", "updated_at"],
            Fate::Read => &["accepted_at", "read_at", "updated_at"],
            Fate::ReadAndReplied => &["accepted_at", "sent_at", "read_at", "updated_at"],
        };
        assert_eq!(times, expected, "{fate:?}: {found}");
        let wamid = expected.contains(&"accepted_at").then(|| wamid(row.into()));
        assert_eq!(found.get("wamid"), wamid.map(|wamid| json!(wamid)).as_ref(), "{fate:?}: {found}");
    }
    api.get(&format!("/v1/campaigns/{id}/recipients/{}", phone(300))).await.problem(404, "recipient-not-found");
    for bad in ["maria", "+0123456789", "123", "+54%20911"] {
        api.get(&format!("/v1/campaigns/{id}/recipients/{bad}")).await.problem(400, "invalid-phone");
    }
}

#[tokio::test]
async fn the_report_matches_the_recipients_of_the_api() {
    let api = Api::start().await;
    let id = api.launched("spring", &["3001", "3002"], 3_000).await;
    truth::apply_fates(&api, id).await;
    let response = api.request(Method::GET, &format!("/v1/campaigns/{id}/report.csv")).send().await.expect("an answer");
    assert_eq!(response.headers()["content-type"], "text/csv; charset=utf-8");
    assert_eq!(response.headers()["content-disposition"], format!("attachment; filename=\"campaign-{id}.csv\""));
    let report = response.text().await.expect("the whole body");

    let mut lines = report.split_terminator("\r\n");
    let columns: Vec<&str> = lines.next().expect("a header row").split(',').collect();
    assert_eq!(
        columns,
        [
            "to",
            "state",
            "code",
            "reason",
            "attempts",
            "line",
            "accepted_at",
            "sent_at",
            "delivered_at",
            "read_at",
            "failed_at",
            "updated_at",
            "wamid"
        ]
    );
    let rows: BTreeMap<String, Vec<String>> = lines.map(parse).map(|fields| (fields[0].clone(), fields)).collect();
    let listed = all(&api, id, "limit=1000").await;
    assert_eq!((rows.len(), listed.len()), (3_000, 3_000));
    for recipient in listed {
        let shown: Vec<String> = columns
            .iter()
            .map(|&column| match &recipient[column] {
                Value::String(text) => text.clone(),
                Value::Null => String::new(),
                number => number.to_string(),
            })
            .collect();
        assert_eq!(rows[recipient["to"].as_str().expect("a number")], shown);
    }

    let empty = api.draft("empty", &["3001"], 0).await;
    let request = api.request(Method::GET, &format!("/v1/campaigns/{empty}/report.csv"));
    let report = request.send().await.expect("an answer").text().await.expect("a body");
    assert_eq!(report, format!("{}\r\n", columns.join(",")));
}

#[tokio::test]
async fn the_report_has_no_id_that_a_spreadsheet_would_run() {
    let api = Api::start().await;
    let id = api.launched("spring", &["3001"], 1).await;
    let (part, _) = api.parts(id).await[0];
    let row = api.claim(part, 1).await[0];
    api.settle(part, vec![(row, Settled::Accepted("=1+1".into()))]).await;
    let recipients = all(&api, id, "").await;
    assert_eq!(recipients[0]["wamid"], "=1+1");
    let request = api.request(Method::GET, &format!("/v1/campaigns/{id}/report.csv"));
    let report = request.send().await.expect("an answer").text().await.expect("a body");
    assert!(report.contains(&phone(0)) && !report.contains("=1+1"), "{report}");
}

/// The fields of a CSV row, by a standard CSV parser.
fn parse(row: &str) -> Vec<String> {
    let (mut reader, mut out, mut ends) = (csv_core::Reader::new(), vec![0; 2 * row.len() + 2], vec![0; 32]);
    let (mut input, mut written, mut n) = (row.as_bytes(), 0, 0);
    loop {
        let (result, read, wrote, ended) = reader.read_record(input, &mut out[written..], &mut ends[n..]);
        (input, written, n) = (&input[read..], written + wrote, n + ended);
        match result {
            csv_core::ReadRecordResult::InputEmpty => {}
            csv_core::ReadRecordResult::Record | csv_core::ReadRecordResult::End => break,
            full => panic!("{full:?}"),
        }
    }
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let fields = starts.zip(&ends[..n]).map(|(start, &end)| String::from_utf8_lossy(&out[start..end]).into_owned());
    fields.collect()
}

#[tokio::test]
async fn dropped_recipients_are_gone_and_their_statistics_stay() {
    let api = Api::start().await;
    let id = api.launched("spring", &["3001"], 50).await;
    let truth = truth::apply_fates(&api, id).await;
    api.store.forget_recipients(id).await.expect("redis");
    for path in ["recipients".to_owned(), format!("recipients/{}", phone(1)), "report.csv".into()] {
        api.get(&format!("/v1/campaigns/{id}/{path}")).await.problem(410, "recipients-dropped");
    }
    let campaign = api.read(&format!("/v1/campaigns/{id}")).await;
    assert_eq!(truth::counts_of(&campaign["statistics"]), truth::counts(&truth));
}

#[tokio::test]
async fn a_page_of_a_large_campaign_continues_across_parts() {
    let api = Api::start().await;
    // More than the 65,536 rows of a part, so that the page continues in the next part.
    let n = 70_000;
    let id = api.draft("large", &["3001"], n).await;
    assert_eq!(api.parts(id).await.len(), 2);
    let page = api.read(&format!("/v1/campaigns/{id}/recipients?cursor=0.65500&limit=100")).await;
    assert_eq!((page["recipients"].as_array().map(Vec::len), &page["next"]), (Some(100), &json!("1.64")));
    let numbers: Vec<Phone> = page["recipients"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["to"].as_str().expect("a number").parse().expect("E.164"))
        .collect();
    assert!(numbers.is_sorted(), "in upload order across parts");
    let last = api.read(&format!("/v1/campaigns/{id}/recipients?state=pending&cursor=1.{}", n - 65_536 - 5)).await;
    assert_eq!((last["recipients"].as_array().map(Vec::len), &last["next"]), (Some(5), &Value::Null));
}

#[tokio::test]
async fn a_rejected_row_names_its_line_in_the_file() {
    let api = Api::start().await;
    let id = api.draft("spring", &["3001"], 0).await;
    let (one, two) = (phone(1), phone(2));
    let text = format!("sep=;\nto;1;2\n{one};Maria;A\n\n{two};\"two\nlines\";B\n{one};Maria;C\nnobody;Maria;D\n");
    let answer = api.upload(id, "text/csv", text).await;
    let rejections = |answer: &Value| -> Vec<(Value, Value, Value)> {
        let rejected = answer["rejected"].as_array().expect("a list").iter();
        rejected.map(|row| (row["row"].clone(), row["line"].clone(), row["code"].clone())).collect()
    };
    let rejection = |row: u64, line: u64, code: &str| (json!(row), json!(line), json!(code));
    let expected = [rejection(2, 5, "whitespace"), rejection(3, 7, "duplicate"), rejection(4, 8, "not_e164")];
    assert_eq!(rejections(&answer.body), expected, "{}", answer.body);
    assert_eq!(
        answer.body["rejected"][1]["reason"],
        "the number …0001 is already in the campaign: it gets one message, so leave this row out"
    );
    let row = json!({ "to": one, "params": { "1": "Maria", "2": "A" } });
    let answer = api.upload(id, "application/x-ndjson", format!("\n{row}\n\n{{")).await;
    assert_eq!(rejections(&answer.body), [rejection(1, 2, "duplicate"), rejection(2, 4, "malformed")]);
    // Rows of a JSON list have no line numbers.
    let mut new = super::harness::campaign("autumn", &["3001"]);
    new["recipients"] = json!([row, row]);
    let created = api.post_json("/v1/campaigns", &new).await;
    assert_eq!(rejections(&created.body), [(json!(2), Value::Null, json!("duplicate"))], "{}", created.body);
}

#[tokio::test]
async fn a_stored_rejection_without_a_line_is_still_readable() {
    let api = Api::start().await;
    let id = api.draft("spring", &["3001"], 0).await;
    let upload = async || {
        let path = format!("/v1/campaigns/{id}/recipients");
        let request = api.request(Method::POST, &path).header("content-type", "text/csv").header("upload-id", "march");
        answer(request.body("to,1,2\nnobody,Maria,A\n")).await.body["rejected"].clone()
    };
    assert_eq!(upload().await[0]["line"], 2);
    let old = json!({ "row": 1, "code": "not_e164", "reason": "`to` is nobody" });
    let mut set = cmd("LSET");
    set.arg(api.store.keys.rejections(id, "id:march")).arg(0).arg(old.to_string());
    let () = api.store.query("LSET", &set).await.expect("redis");
    assert_eq!(upload().await, json!([old]));
}
