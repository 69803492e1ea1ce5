//! Request bodies that are too long, too deeply nested, too slow or too many.

use std::{collections::HashMap, time::Duration};

use deadpool_redis::redis::cmd;
use futures_util::future::select_all;
use serde_json::{Value, json};

use super::kit::{Worker, csv, draft, head};
use crate::support::{hooks::signature, until};

/// Deep enough to overflow the stack of a recursive parser.
const DEEP: usize = 1_000_000;

fn nested(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

#[tokio::test]
async fn an_oversized_body_returns_413() {
    let worker = Worker::start(|config| {
        config.http.body_bytes_max = 2_000;
        config.webhook.body_bytes_max = 2_000;
    })
    .await;
    let long = draft(json!([{"to": "+5491155550001", "params": {"1": "x".repeat(2_000)}}])).to_string();
    let answer = worker.call("POST", "/campaigns", "application/json", long.as_bytes()).await;
    assert!(answer.problem(413, "body-too-large").contains("http.body_bytes_max"), "{answer:?}");
    assert_eq!(worker.webhook(&[b' '; 2_001]).await, 413);
    let campaigns = worker.call("GET", "/campaigns", "application/json", b"").await;
    assert_eq!(campaigns.body["campaigns"], json!([]));
    worker.assert_healthy().await;
    worker.stop().await;
}

#[tokio::test]
async fn deep_nesting_is_an_error_and_no_panic() {
    let worker = Worker::start(|_| ()).await;
    let campaign = worker.draft().await;
    for depth in [1_000, DEEP] {
        for deep in [nested(depth), "[".repeat(depth), r#"{"a":"#.repeat(depth / 5)] {
            let body = draft(json!([])).to_string().replace("[]", &format!("[{deep}]"));
            let answer = worker.call("POST", "/campaigns", "application/json", body.as_bytes()).await;
            if deep == nested(depth) {
                // A malformed recipient is skipped without recursion, and rejected.
                assert_eq!(
                    (answer.status, &answer.body["rejected"][0]["code"]),
                    (201, &json!("malformed")),
                    "{answer:?}"
                );
            } else {
                answer.problem(400, "malformed-body");
            }

            let row = format!("{{\"to\":\"+5491155550001\",\"params\":{{\"1\":{deep}}}}}\n");
            let upload = format!("{campaign}/recipients");
            let answer = worker.call("POST", &upload, "application/x-ndjson", row.as_bytes()).await;
            let code = if row.len() > 64 * 1024 { "line_too_long" } else { "malformed" };
            assert_eq!((answer.status, &answer.body["rejected"][0]["code"]), (200, &json!(code)), "{answer:?}");

            for body in
                [deep.clone(), format!("{{\"entry\":{deep}}}"), format!("{{\"entry\":[{{\"changes\":{deep}}}]}}")]
            {
                assert_eq!(worker.webhook(body.as_bytes()).await, 200, "it is signed, and a repeat would not help");
            }
        }
    }
    worker.assert_healthy().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_deeply_nested_job_is_a_dead_letter_and_the_next_is_read() {
    let worker = Worker::start(|_| ()).await;
    let mut redis = worker.redis.connection().await;
    let jobs = [
        nested(DEEP),
        format!(r#"{{"type":"campaign","recipients":{}}}"#, nested(DEEP)),
        format!(r#"{{"type":"recipients","external_id":"x","recipients":[{}]}}"#, nested(500)),
        format!(r#"{{"type":{}}}"#, "[".repeat(DEEP)),
    ];
    let mut good = draft(json!([]));
    good["type"] = "campaign".into();
    good["external_id"] = "x".into();
    for job in jobs.iter().chain([&good.to_string()]) {
        let () =
            cmd("XADD").arg("pregon:jobs").arg("*").arg("job").arg(job).query_async(&mut redis).await.expect("XADD");
    }
    until("the valid job is applied", async || {
        worker.store.campaign_by_external_id("x").await.expect("redis").is_some()
    })
    .await;
    let dead: Vec<(String, HashMap<String, String>)> =
        cmd("XRANGE").arg("pregon:jobs:dead").arg("-").arg("+").query_async(&mut redis).await.expect("XRANGE");
    assert_eq!(dead.len(), jobs.len());
    let codes: Vec<&str> = dead.iter().map(|(_, letter)| letter["code"].as_str()).collect();
    // Rows are parsed only if their campaign exists.
    assert_eq!(codes, ["job-unreadable", "job-unreadable", "campaign-not-found", "job-unreadable"]);
    worker.stop().await;
}

#[tokio::test]
async fn unauthenticated_bodies_take_bounded_memory() {
    let worker = Worker::start(|_| ()).await;
    // Whether the signature is valid is known only at the last byte.
    let signed = format!("x-hub-signature-256: {}", signature(b"another body"));
    let head = format!("POST /webhooks/meta HTTP/1.1\r\nhost: a\r\n{signed}\r\ncontent-length: 4000000\r\n\r\n");
    let almost = [head.as_bytes(), &[b' '; 3_999_999]].concat();
    let mut callers = Vec::new();
    for _ in 0..20 {
        callers.push(worker.connect().await);
        callers.last_mut().expect("the new one").send(&almost).await;
    }
    let answers = callers.iter_mut().map(|caller| Box::pin(caller.answer()));
    let (refused, ..) = select_all(answers).await;
    assert_eq!(refused.map(|answer| answer.status), Some(503), "503 makes Meta repeat its webhooks");
    worker.assert_healthy().await;
    drop(callers);
    until("webhooks are accepted again", async || worker.webhook(&[b' '; 1_000_000]).await == 200).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_campaign_has_at_most_recipients_max_recipients() {
    let worker = Worker::start(|config| config.intake.recipients_max = 5).await;
    let campaign = worker.draft().await;
    let upload =
        async |body: String| worker.call("POST", &format!("{campaign}/recipients"), "text/csv", body.as_bytes()).await;
    let many = upload(csv(0..6)).await;
    assert!(many.problem(409, "too-many-recipients").contains("intake.recipients_max"), "{many:?}");
    assert_eq!(upload(csv(0..5)).await.body["accepted"], 5);
    upload(csv(5..6)).await.problem(409, "too-many-recipients");
    assert_eq!(upload("to,1,2\nnobody,a,b\n".into()).await.body["rejected_count"], 1, "rejected rows do not count");

    let six: Vec<Value> =
        (0..6).map(|n| json!({"to": format!("+549115555000{n}"), "params": {"1": "a", "2": "b"}})).collect();
    let with = async |recipients: &[Value]| {
        let body = draft(json!(recipients)).to_string();
        worker.call("POST", "/campaigns", "application/json", body.as_bytes()).await
    };
    let refused = with(&six).await;
    assert!(refused.problem(422, "invalid").contains("at most 5 recipients"), "{refused:?}");
    assert_eq!(with(&six[..5]).await.body["accepted"], 5);
    let campaigns = worker.call("GET", "/campaigns", "application/json", b"").await;
    assert_eq!(
        campaigns.body["campaigns"].as_array().map(Vec::len),
        Some(2),
        "rejected submissions create no campaign"
    );
    worker.stop().await;
}

#[tokio::test]
async fn an_overlong_row_is_rejected_and_the_others_accepted() {
    let worker = Worker::start(|_| ()).await;
    let long = "x".repeat(70 * 1024);
    let row = |n: u64, value: &str| json!({"to": format!("+549115555000{n}"), "params": {"1": value, "2": "b"}});
    let ndjson = [row(1, "a"), row(2, &long), row(3, "a")].map(|row| row.to_string() + "\n").concat();
    let csv = format!("to,1,2\n+5491155550001,a,b\n+5491155550002,\"{long}\",b\n+5491155550003,a,b\n");
    for (media_type, body) in [("application/x-ndjson", ndjson), ("text/csv", csv)] {
        let upload = format!("{}/recipients", worker.draft().await);
        let answer = worker.call("POST", &upload, media_type, body.as_bytes()).await;
        assert_eq!((answer.status, &answer.body["accepted"]), (200, &json!(2)), "{answer:?}");
        let rejected = &answer.body["rejected"][0];
        assert_eq!((&rejected["row"], &rejected["code"]), (&json!(2), &json!("line_too_long")), "{answer:?}");
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_stalled_body_returns_408() {
    let worker = Worker::start(|config| config.http.stall_timeout = Duration::from_secs(1)).await;
    let campaign = worker.draft().await;
    let upload =
        |more: &str| head("POST", &format!("{campaign}/recipients"), &format!("content-type: text/csv\r\n{more}"));
    for partial in [
        head("POST", "/campaigns", "content-type: application/json\r\ncontent-length: 100\r\n") + "{\"name\"",
        upload("content-length: 100\r\n") + "to,1,2\n+54911",
        upload("transfer-encoding: chunked\r\n") + "7\r\nto,1,2\n\r\n",
        upload("transfer-encoding: chunked\r\n"),
    ] {
        let answer = worker.ask(partial.as_bytes()).await.expect("an answer");
        assert!(answer.problem(408, "body-too-slow").contains("http.stall_timeout"), "{partial}: {answer:?}");
    }
    worker.assert_healthy().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_dripping_body_returns_408_unless_it_is_an_upload() {
    let worker = Worker::start(|config| config.http.stall_timeout = Duration::from_secs(1)).await;
    let campaign = worker.draft().await;
    let drip = Duration::from_millis(250);

    let mut slow = worker.connect().await;
    slow.send(head("POST", "/campaigns", "content-type: application/json\r\ncontent-length: 100\r\n").as_bytes()).await;
    let dripping = async {
        for _ in 0..99 {
            slow.send(b" ").await;
            tokio::time::sleep(drip).await;
        }
    };
    let mut moving = worker.connect().await;
    let chunked = "content-type: text/csv\r\ntransfer-encoding: chunked\r\n";
    moving.send(head("POST", &format!("{campaign}/recipients"), chunked).as_bytes()).await;
    let uploading = async {
        // In total this takes twice the stall timeout, but no pause between two chunks is that long.
        for piece in csv(0..7).split_inclusive('\n') {
            moving.send(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await;
            tokio::time::sleep(drip).await;
        }
        moving.send(b"0\r\n\r\n").await;
        moving.answer().await.expect("an answer")
    };
    let (_, uploaded) = tokio::join!(tokio::time::timeout(8 * drip, dripping), uploading);
    assert_eq!((uploaded.status, &uploaded.body["accepted"]), (200, &json!(7)), "{uploaded:?}");
    slow.answer().await.expect("an answer").problem(408, "body-too-slow");
    worker.stop().await;
}
