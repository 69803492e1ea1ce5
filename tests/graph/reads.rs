//! What is read from Meta besides sending.

use pregon::{
    domain::{LineId, Secret, WabaId},
    graph::GraphError,
};

use crate::server::{Server, fixture, header, http, token};

#[tokio::test]
async fn templates_are_read_to_the_last_page_and_the_token_stays_here() {
    let meta = Server::start(|mut connection| async move {
        while let Some(request) = connection.request().await {
            let first = !request.head.contains("after=");
            let page = if first { fixture!("templates_first_page.json") } else { fixture!("templates_last_page.json") };
            connection.write(&http("200 OK", page)).await;
        }
    })
    .await;
    let templates = meta.client().templates(&WabaId::from("2001"), &token()).await.expect("two pages");
    let ids: Vec<_> = templates.iter().map(|template| template["id"].as_str().expect("an id")).collect();
    assert_eq!(ids, ["9001", "9002", "9003"]);
    assert_eq!(templates[1]["components"][0]["text"], "Hola {{nombre}}");
    let received = meta.received();
    assert_eq!(received.len(), 2);
    assert!(
        received[0].head.starts_with("GET /v25.0/2001/message_templates?fields=id%2Cname%2C"),
        "{}",
        received[0].head
    );
    assert!(received[0].head.contains("&limit=100 HTTP/1.1"), "{}", received[0].head);
    assert!(received[1].head.contains("&limit=100&after=QVFI%26aft%3D%3D HTTP/1.1"), "{}", received[1].head);
    for request in received {
        assert_eq!(header(&request.head, "authorization"), Some("Bearer EAAJ-token"));
    }
}

#[tokio::test]
async fn a_list_of_templates_is_whole_or_an_error() {
    let endless = Server::answering(http("200 OK", fixture!("templates_first_page.json"))).await;
    let error = endless.client().templates(&WabaId::from("2001"), &token()).await.expect_err("no end");
    assert!(error.to_string().contains("no end after 100 pages"), "{error}");
    assert_eq!(endless.received().len(), 100);

    let lost =
        Server::answering(http("200 OK", r#"{"data":[],"paging":{"next":"https://graph.facebook.com/x"}}"#)).await;
    let error = lost.client().templates(&WabaId::from("2001"), &token()).await.expect_err("no cursor");
    assert!(matches!(error, GraphError::NotMeta { .. }), "{error}");

    let empty = Server::answering(http("200 OK", r#"{"data":[]}"#)).await;
    assert_eq!(empty.client().templates(&WabaId::from("2001"), &token()).await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_line_is_read_as_meta_sees_it() {
    let meta = Server::answering(http("200 OK", fixture!("line.json"))).await;
    let line = meta.client().line(&LineId::from("3001"), &token()).await.expect("a line");
    assert_eq!(line.display_phone_number, "+44 20 7946 0000");
    assert_eq!(line.verified_name.as_deref(), Some("Acme"));
    assert_eq!(line.status.as_deref(), Some("CONNECTED"));
    assert_eq!(line.quality_rating.as_deref(), Some("GREEN"));
    assert_eq!(line.throughput_level.as_deref(), Some("STANDARD"));
    assert_eq!(line.messaging_limit.as_deref(), Some("TIER_10K"));
    assert!(meta.received()[0].head.starts_with("GET /v25.0/3001?fields="));

    let bare = Server::answering(http("200 OK", r#"{"id":3001,"display_phone_number":"+44 1"}"#)).await;
    let line = bare.client().line(&LineId::from("3001"), &token()).await.expect("a line");
    assert_eq!((line.throughput_level, line.messaging_limit), (None, None));
}

#[tokio::test]
async fn the_apps_subscribed_to_a_waba_are_read_by_name() {
    let body = r#"{"data":[{"whatsapp_business_api_data":{"id":"67","link":"https://x","name":"Acme"}},
        {"whatsapp_business_api_data":{"id":"68"}},{}]}"#;
    let meta = Server::answering(http("200 OK", body)).await;
    let apps = meta.client().subscribed_apps(&WabaId::from("2001"), &token()).await.expect("apps");
    assert_eq!(apps, ["Acme", "68", "an app without a name"]);
    assert!(meta.received()[0].head.starts_with("GET /v25.0/2001/subscribed_apps HTTP/1.1"));
    let none = Server::answering(http("200 OK", r#"{"data":[]}"#)).await;
    assert_eq!(none.client().subscribed_apps(&WabaId::from("2001"), &token()).await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_read_that_fails_says_whose_fault_it_is() {
    let line = LineId::from("3001");
    let refusing = Server::answering(http("401 Unauthorized", fixture!("error_without_data.json"))).await;
    let error = refusing.client().line(&line, &token()).await.expect_err("refused");
    let refused = "line 3001: meta refused: code 190 (Access token expired or invalid): Error validating access token";
    assert_eq!(error.to_string(), refused);

    for (status, body) in [("502 Bad Gateway", "<html>"), ("200 OK", "<html>"), ("200 OK", "{}"), ("302 Found", "")] {
        let other = Server::answering(http(status, body)).await;
        let error = other.client().line(&line, &token()).await.expect_err("not Meta");
        assert!(matches!(error, GraphError::NotMeta { .. }), "{status} {body}: {error}");
    }

    let closing = Server::start(|mut connection| async move { drop(connection.request().await) }).await;
    let error = closing.client().line(&line, &token()).await.expect_err("no answer");
    assert!(matches!(error, GraphError::Unreachable { .. }), "{error}");

    let error = closing.client().line(&line, &Secret::new("a\nb")).await.expect_err("a bad token");
    assert!(matches!(error, GraphError::BadToken(_)), "{error}");
}
