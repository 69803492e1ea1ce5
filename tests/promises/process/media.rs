//! `media.url = "s3://…"`: files are in a bucket, with the credentials of the environment.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use reqwest::Client;
use serde_json::{Value, json};

use crate::{
    api::chats,
    support::{
        hooks, http_client,
        postgres::TestPostgres,
        redis::TestRedis,
        serve::serve,
        server::{Installation, KEY},
        until,
    },
};

/// A bucket, as far as this test needs it.
#[derive(Clone, Default)]
struct Bucket(Arc<Mutex<Objects>>);

#[derive(Default)]
struct Objects {
    stored: BTreeMap<String, Bytes>,
    parts: BTreeMap<String, BTreeMap<u32, Bytes>>,
}

impl Bucket {
    fn names(&self) -> Vec<String> {
        self.0.lock().expect("no panic").stored.keys().cloned().collect()
    }
}

async fn s3(State(bucket): State<Bucket>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let signed = headers[header::AUTHORIZATION].to_str().expect("text");
    assert!(signed.starts_with("AWS4-HMAC-SHA256 Credential=key-of-the-test/"), "{signed}");
    let (name, query) = (uri.path().to_owned(), uri.query().unwrap_or_default());
    let value = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    let mut objects = bucket.0.lock().expect("no panic");
    let xml = |name: &str, content: &str| format!("<{name}>{content}</{name}>").into_response();
    let tag = [(header::ETAG, "\"1\"")];
    match (method.as_str(), value("uploadId"), value("partNumber")) {
        ("POST", None, _) => {
            let content = format!("<Bucket>files</Bucket><Key>{name}</Key><UploadId>1</UploadId>");
            xml("InitiateMultipartUploadResult", &content)
        }
        ("PUT", Some(_), Some(part)) => {
            objects.parts.entry(name).or_default().insert(part.parse().expect("a number"), body);
            tag.into_response()
        }
        ("POST", Some(_), _) => {
            let parts: Vec<Bytes> = objects.parts.remove(&name).unwrap_or_default().into_values().collect();
            objects.stored.insert(name, parts.concat().into());
            xml("CompleteMultipartUploadResult", "<ETag>\"1\"</ETag>")
        }
        ("PUT", ..) => {
            objects.stored.insert(name, body);
            tag.into_response()
        }
        ("GET", ..) => {
            let Some(object) = objects.stored.get(&name).cloned() else { return StatusCode::NOT_FOUND.into_response() };
            let range = headers.get(header::RANGE).map(|range| range.to_str().expect("text").to_owned());
            let Some(range) = range else { return (tag, object).into_response() };
            let (from, to) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).expect("a range");
            let (from, to): (usize, usize) = (from.parse().expect("a number"), to.parse().expect("a number"));
            let content_range = format!("bytes {from}-{to}/{}", object.len());
            let headers = [(header::CONTENT_RANGE, content_range), (header::ETAG, "\"1\"".to_owned())];
            (StatusCode::PARTIAL_CONTENT, headers, Body::from(object.slice(from..=to))).into_response()
        }
        ("DELETE", ..) => {
            objects.stored.remove(&name);
            StatusCode::NO_CONTENT.into_response()
        }
        (method, ..) => panic!("{method} {uri}"),
    }
}

async fn upload(http: &Client, url: &str, bytes: Vec<u8>) -> String {
    let request = http.post(format!("{url}/v1/media")).bearer_auth(KEY).header("content-type", "application/pdf");
    let answer = request.body(bytes).send().await.expect("an answer");
    let file: Value = answer.json().await.expect("JSON");
    file["id"].as_str().unwrap_or_else(|| panic!("{file}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_in_a_bucket_with_the_credentials_of_the_environment() {
    let (redis, postgres, bucket) = (TestRedis::start().await, TestPostgres::start().await, Bucket::default());
    let router = Router::new().fallback(s3).layer(DefaultBodyLimit::disable()).with_state(bucket.clone());
    let endpoint = serve(router).await;
    let tables = format!(
        "[database]\nurl = \"{}\"\n[media]\nurl = \"s3://files/chats\"\nendpoint = \"{endpoint}\"\n",
        postgres.url()
    );
    let installation = Installation::new(&redis, "http://127.0.0.1:9", &[("3001", 10.0)], "").with(&tables);
    let environment =
        [("AWS_ACCESS_KEY_ID", "key-of-the-test"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_REGION", "eu-west-1")];
    let server = installation.serve_with("all", "api,engage", &environment).await;
    let (http, url, database) = (http_client(), server.url(), postgres.connect());
    until("the tables exist", async || {
        database.files(&["01KBCNYG3T8R7Q6P5N4M3K2J1H".parse().expect("an id")]).await.is_ok()
    })
    .await;
    let large: Vec<u8> = (0..12_000_000_u32).map(|n| (n % 251) as u8).collect();
    for bytes in [large, b"%PDF".to_vec()] {
        let id = upload(&http, url, bytes.clone()).await;
        let stored = bucket.names();
        assert!(stored.iter().any(|name| *name == format!("/files/chats/{}/{id}", &id[24..])), "{stored:?}");
        let get = || http.get(format!("{url}/v1/media/{id}")).bearer_auth(KEY);
        let whole = get().send().await.expect("an answer").bytes().await.expect("a body");
        assert!(whole == bytes, "the same bytes");
        let part = get().header("range", "bytes=1-2").send().await.expect("an answer");
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(part.bytes().await.expect("a body"), bytes[1..3]);
        if bytes.len() > 4 {
            continue;
        }
        chats::write(&database, ("3001", "1001"), 1, "Hola", hooks::now()).await;
        let chat = server.api().get("chats").await["chats"][0]["id"].take();
        let path = format!("chats/{}/messages", chat.as_str().expect("an id"));
        let message = json!({"type": "document", "media": id});
        assert_eq!(server.api().call(Method::POST, &path, Some(message)).await.0, 201);
        server.api().try_delete("people/5491155550001").await.expect("forgotten");
    }
    assert_eq!(bucket.names().len(), 1, "the file of the forgotten person is removed");
}
