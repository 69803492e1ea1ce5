//! Compressed uploads, and bodies that do not match their `Content-Encoding`.

use async_compression::{
    tokio::bufread::{BrotliEncoder, GzipEncoder, ZstdEncoder},
    zstd::CParameter,
};
use pregon::domain::CampaignId;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::harness::{Answer, Api, answer, campaign, csv, phone};

async fn all(mut encoder: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    encoder.read_to_end(&mut bytes).await.expect("compressed");
    bytes
}

async fn gzip(text: &[u8]) -> Vec<u8> {
    all(GzipEncoder::new(text)).await
}

async fn zstd(text: &[u8]) -> Vec<u8> {
    all(ZstdEncoder::new(text)).await
}

async fn brotli(text: &[u8]) -> Vec<u8> {
    all(BrotliEncoder::with_quality(text, async_compression::Level::Fastest)).await
}

async fn upload(api: &Api, id: CampaignId, kind: &str, coding: &str, body: Vec<u8>) -> Answer {
    let path = format!("/v1/campaigns/{id}/recipients");
    let request = api.request(Method::POST, &path).header("content-type", kind).header("upload-id", "march");
    answer(request.header("content-encoding", coding).body(body)).await
}

#[tokio::test]
async fn a_compressed_upload_is_accepted_like_a_plain_one() {
    let api = Api::start().await;
    let n = 5_000;
    let csv = csv(n);
    let row = |n: u64| format!("{}\n", json!({ "to": phone(n), "params": { "1": "Maria", "2": format!("A-{n}") } }));
    let ndjson: String = (0..n).map(row).collect();
    for (kind, text) in [("text/csv", csv.as_bytes()), ("application/x-ndjson", ndjson.as_bytes())] {
        let (first, second) = text.split_at(text.len() / 3);
        let uploads = [
            ("gzip", gzip(text).await),
            ("GZip", [gzip(first).await, gzip(second).await].concat()),
            ("zstd", zstd(text).await),
            ("zstd", [zstd(first).await, zstd(second).await].concat()),
            ("br", brotli(text).await),
            ("BR, identity", [brotli(first).await, brotli(second).await].concat()),
            ("identity", text.to_vec()),
            ("", text.to_vec()),
        ];
        for (coding, body) in uploads {
            let id = api.draft("spring", &["3001"], 0).await;
            let taken = upload(&api, id, kind, coding, body).await;
            let expected = json!({ "accepted": n, "rejected_count": 0, "rejected": [] });
            assert_eq!((taken.status, taken.body), (StatusCode::OK, expected), "{kind} {coding}");
            // The same rows in another coding are the same upload.
            assert_eq!(upload(&api, id, kind, "identity", text.to_vec()).await.body["accepted"], n, "{kind} {coding}");
        }
    }
}

#[tokio::test]
async fn a_truncated_or_corrupt_compressed_upload_can_be_repeated() {
    let api = Api::start().await;
    let text = csv(9_000);
    for (coding, body) in [
        ("gzip", gzip(text.as_bytes()).await),
        ("zstd", zstd(text.as_bytes()).await),
        ("br", brotli(text.as_bytes()).await),
    ] {
        let id = api.draft("spring", &["3001"], 0).await;
        let mut corrupt = body.clone();
        let middle = corrupt.len() / 2;
        corrupt[middle..].fill(0xff);
        let bad = [
            ("cut in the middle", body[..middle].to_vec()),
            ("cut by one byte", body[..body.len() - 1].to_vec()),
            ("corrupt", corrupt),
            ("plain", text.as_bytes().to_vec()),
            ("with trailing bytes", [&body[..], b"to,1,2\n"].concat()),
        ];
        for (what, body) in bad {
            let refused = upload(&api, id, "text/csv", coding, body).await;
            let detail = refused.problem(400, "upload-undecodable");
            let expected =
                format!("the header Content-Encoding says {coding}, but the body is not {coding}, or breaks off (");
            assert!(detail.starts_with(&expected), "{coding} {what}: {detail}");
        }
        assert_eq!(upload(&api, id, "text/csv", coding, body).await.body["accepted"], 9_000, "{coding}");
    }
}

#[tokio::test]
async fn an_upload_that_expands_too_far_is_rejected() {
    let api = Api::start().await;
    let id = api.draft("spring", &["3001"], 0).await;
    let zeros = vec![0; 64 << 20];
    for (coding, body) in [("zstd", zstd(&zeros).await), ("br", brotli(&zeros).await)] {
        let refused = upload(&api, id, "application/x-ndjson", coding, body).await;
        let detail = refused.problem(413, "upload-expands-too-far");
        assert!(detail.starts_with("the body expands to more than 1000 times its bytes"), "{detail}");
    }
    // A window of 128 MiB would let a caller allocate that much memory with a few bytes.
    let text = csv(100);
    let level = async_compression::Level::Fastest;
    let params = [CParameter::window_log(27)];
    let wide = all(ZstdEncoder::with_quality_and_params(text.as_bytes(), level, &params)).await;
    upload(&api, id, "text/csv", "zstd", wide).await.problem(400, "upload-undecodable");
}

#[tokio::test]
async fn an_unknown_encoding_is_rejected_with_the_supported_ones() {
    let api = Api::start().await;
    let id = api.draft("spring", &["3001"], 0).await;
    for coding in ["deflate", "gzip, zstd", "gzip,gzip", "x-pack"] {
        let refused = upload(&api, id, "text/csv", coding, Vec::new()).await;
        let detail = refused.problem(415, "unsupported-encoding");
        let names = coding.replace(",gzip", ", gzip");
        assert_eq!(
            detail,
            format!("the header Content-Encoding is {names}; this call accepts one of gzip, zstd, br, or none")
        );
        assert_eq!(refused.headers["accept-encoding"], "gzip, zstd, br");
    }
    let json = gzip(campaign("spring", &["3001"]).to_string().as_bytes()).await;
    for (method, path) in [(Method::POST, "/v1/campaigns"), (Method::PATCH, "/v1/lines/3001")] {
        let request = api.request(method, path).header("content-type", "application/json");
        let refused = answer(request.header("content-encoding", "gzip").body(json.clone())).await;
        let detail = refused.problem(415, "unsupported-encoding");
        assert!(detail.ends_with("this call accepts a body that is not compressed: leave the header out"), "{detail}");
        assert_eq!(refused.headers["accept-encoding"], "identity");
    }
}
