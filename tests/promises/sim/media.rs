//! Files: uploaded by the business and sent by id, and downloaded with the token.

use std::time::Duration;

use pregon::sim::scenario::Statuses;
use serde_json::{Value, json};

use super::kit::{SimServer, TOKEN, Webhook, number, quiet, with_webhook};

impl SimServer {
    /// Status and body of an upload on line 3001.
    async fn upload(&self, mime_type: &str, bytes: &[u8]) -> (u16, Value) {
        let file = format!("form-data; name=\"file\"; filename=\"a\"\r\nContent-Type: {mime_type}");
        let parts = [(&*file, bytes), ("form-data; name=\"messaging_product\"", b"whatsapp")];
        self.upload_form(&parts).await
    }

    async fn upload_form(&self, parts: &[(&str, &[u8])]) -> (u16, Value) {
        let mut form = Vec::new();
        for (disposition, value) in parts {
            form.extend(format!("--limit\r\nContent-Disposition: {disposition}\r\n\r\n").bytes());
            form.extend(*value);
            form.extend(b"\r\n");
        }
        form.extend(b"--limit--\r\n");
        let request = self.http.post(format!("{}/v25.0/3001/media", self.base)).bearer_auth(TOKEN);
        let request = request.header("content-type", "multipart/form-data; boundary=limit").body(form);
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), serde_json::from_slice(&answer.bytes().await.expect("a body")).expect("JSON"))
    }

    async fn send_image(&self, id: &Value) -> u64 {
        let message = json!({"messaging_product": "whatsapp", "to": number(1), "type": "image", "image": {"id": id}});
        self.code(&message).await
    }

    /// Status, type and bytes of a download.
    async fn download(&self, url: &str, token: &str) -> (u16, String, Vec<u8>) {
        let answer = self.http.get(url).bearer_auth(token).send().await.expect("an answer");
        let mime_type = answer.headers()["content-type"].to_str().expect("text").to_owned();
        (answer.status().as_u16(), mime_type, answer.bytes().await.expect("a body").to_vec())
    }
}

#[tokio::test]
async fn an_uploaded_file_can_be_sent_and_downloaded_for_as_long_as_meta_keeps_it() {
    let mut scenario = quiet();
    let mut other = scenario.wabas[0].clone();
    (other.id, other.token) = ("2002".into(), "another-token".into());
    scenario.wabas.push(other);
    let server = SimServer::start(scenario).await;
    let bytes = b"\x89PNG\r\n\r\n--limi\r\n";
    let (status, uploaded) = server.upload("image/png", bytes).await;
    assert_eq!(status, 200, "{uploaded}");
    let id = &uploaded["id"];
    assert_eq!(server.send_image(id).await, 0);
    let path = format!("/v25.0/{}", id.as_str().expect("an id"));
    let (_, node) = server.get(&path).await;
    assert_eq!((&node["mime_type"], &node["file_size"]), (&json!("image/png"), &json!(bytes.len())));
    let url = node["url"].as_str().expect("a URL");
    assert_eq!(server.download(url, TOKEN).await, (200, "image/png".to_owned(), bytes.to_vec()));
    assert_eq!(server.download(url, "wrong").await.0, 401);
    assert_eq!(server.download(url, "another-token").await.0, 400);
    server.sim.advance(Duration::from_secs(6 * 60)).await;
    assert_eq!(server.download(url, TOKEN).await.0, 400, "a URL is valid for 5 minutes");
    let (_, node) = server.get(&path).await;
    assert_eq!(server.download(node["url"].as_str().expect("a URL"), TOKEN).await.0, 200);
    server.sim.advance(Duration::from_secs(30 * 24 * 3_600)).await;
    assert_eq!(server.send_image(id).await, 100, "an id is valid for 30 days");
    assert_eq!(server.get(&path).await.1["error"]["error_subcode"], 33);
}

#[tokio::test]
async fn a_file_that_a_person_sends_is_kept_for_seven_days() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(with_webhook(&webhook, Statuses::default())).await;
    let sent = |media: &str| json!({"line": "3001", "from": number(1), "media": media});
    assert_eq!(server.control("inbound", &sent("document")).await.0, 200);
    assert_eq!(server.control("inbound", &sent("poll")).await.0, 400);
    assert_eq!(server.control("inbound", &json!({"line": "3001", "from": number(1)})).await.0, 400);
    server.sim.idle().await;
    let messages = webhook.messages();
    assert_eq!((messages.len(), &messages[0]["document"]["mime_type"]), (1, &json!("application/pdf")));
    let path = format!("/v25.0/{}", messages[0]["document"]["id"].as_str().expect("an id"));
    server.sim.advance(Duration::from_secs(7 * 24 * 3_600 - 60)).await;
    assert_eq!(server.get(&path).await.0, 200);
    server.sim.advance(Duration::from_secs(60)).await;
    assert_eq!(server.get(&path).await.0, 400);
}

#[tokio::test]
async fn a_file_that_meta_does_not_take_is_refused() {
    let server = SimServer::start(quiet()).await;
    const MIB: usize = 1 << 20;
    for (mime_type, len, code) in [
        ("image/jpeg", 5 * MIB, 0),
        ("image/jpeg", 5 * MIB + 1, 131_053),
        ("audio/ogg; codecs=opus", 16 * MIB, 0),
        ("video/mp4", 16 * MIB + 1, 131_053),
        ("application/pdf", 17 * MIB, 0),
        ("image/webp", 100 * 1024, 0),
        ("image/webp", 100 * 1024 + 1, 131_053),
        ("image/gif", 10, 100),
        ("application/zip", 10, 100),
    ] {
        let (_, answer) = server.upload(mime_type, &vec![0; len]).await;
        assert_eq!(answer["error"]["code"].as_u64().unwrap_or(0), code, "{mime_type} {len} {answer}");
    }
    let mut animated = b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0ANIM".to_vec();
    animated.resize(500 * 1024, 0);
    assert_eq!(server.upload("image/webp", &animated).await.0, 200);
    animated.push(0);
    assert_eq!(server.upload("image/webp", &animated).await.1["error"]["code"], 131_053);

    let file: (&str, &[u8]) = ("form-data; name=\"file\"; filename=\"a\"", b"hola");
    let product: (&str, &[u8]) = ("form-data; name=\"messaging_product\"", b"whatsapp");
    let kind: (&str, &[u8]) = ("form-data; name=\"type\"", b"text/plain");
    for (form, code) in [
        (vec![file, kind, product], 0),
        (vec![file, product], 100),
        (vec![file, kind], 100),
        (vec![kind, product], 100),
        (vec![], 100),
    ] {
        let answer = server.upload_form(&form).await.1;
        assert_eq!(answer["error"]["code"].as_u64().unwrap_or(0), code, "{answer}");
    }
}
