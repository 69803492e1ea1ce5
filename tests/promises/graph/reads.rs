//! Reads from Meta: templates, lines and subscribed apps.

use pregon::{
    domain::{BusinessId, LineId, MetaCode, Secret, WabaId},
    graph::{GraphError, Ownership, SendHealth, management::Unpaused},
};

use super::server::{Server, fixture, header, http, token};

#[tokio::test]
async fn templates_are_paged_without_sending_the_token_elsewhere() {
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
async fn an_incomplete_list_of_templates_is_an_error() {
    let endless = Server::answering(http("200 OK", fixture!("templates_first_page.json"))).await;
    let error = endless.client().templates(&WabaId::from("2001"), &token()).await.expect_err("no end");
    assert!(error.to_string().contains("the list has no end"), "{error}");
    assert_eq!(endless.received().len(), 2, "the cursor was repeated");

    let lost =
        Server::answering(http("200 OK", r#"{"data":[],"paging":{"next":"https://graph.facebook.com/x"}}"#)).await;
    let error = lost.client().templates(&WabaId::from("2001"), &token()).await.expect_err("no cursor");
    assert!(matches!(error, GraphError::NotMeta { .. }), "{error}");

    let empty = Server::answering(http("200 OK", r#"{"data":[]}"#)).await;
    assert_eq!(empty.client().templates(&WabaId::from("2001"), &token()).await, Ok(Vec::new()));
}

#[tokio::test]
async fn the_limits_of_each_line_of_a_waba_are_read() {
    let page = r#"{"data":[
        {"id":"3001","throughput":{"level":"HIGH"},"whatsapp_business_manager_messaging_limit":"TIER_10K"},
        {"id":"3002","throughput":{"level":"STANDARD"},"is_on_biz_app":true,"more":1},
        {"id":"3003","throughput":null,"is_on_biz_app":null}]}"#;
    let meta = Server::answering(http("200 OK", page)).await;
    let lines = meta.client().line_limits(&WabaId::from("2001"), &token()).await.expect("three lines");
    let found: Vec<_> =
        lines.iter().map(|line| (line.id.as_str(), line.level.as_deref(), line.is_on_biz_app)).collect();
    let expected = [("3001", Some("HIGH"), false), ("3002", Some("STANDARD"), true), ("3003", None, false)];
    assert_eq!(found, expected);
    let limits: Vec<_> = lines.iter().map(|line| line.messaging_limit.as_deref()).collect();
    assert_eq!(limits, [Some("TIER_10K"), None, None]);
    let head = &meta.received()[0].head;
    let fields = "id%2Cthroughput%2Cis_on_biz_app%2Cwhatsapp_business_manager_messaging_limit";
    let expected = format!("GET /v25.0/2001/phone_numbers?fields={fields}&limit=100 ");
    assert!(head.starts_with(&expected), "{head}");
}

/// The value of the query parameter `name`.
fn asked(head: &str, name: &str) -> Option<usize> {
    let query = head.split_whitespace().nth(1)?.split_once('?')?.1;
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// The page of a list of `n` templates that `head` requests. A cursor is the number of the next template.
fn page_of(n: usize, head: &str) -> String {
    let from = asked(head, "after").unwrap_or(0);
    let to = n.min(from + asked(head, "limit").expect("a limit"));
    let data: Vec<String> = (from..to).map(|id| format!(r#"{{"id":"{id}"}}"#)).collect();
    let next = if to < n { r#","next":"https://graph.facebook.com/x""# } else { "" };
    let body = format!(r#"{{"data":[{}],"paging":{{"cursors":{{"after":"{to}"}}{next}}}}}"#, data.join(","));
    http("200 OK", &body)
}

#[tokio::test]
async fn a_list_of_121_pages_is_read_completely() {
    let n = 120 * 100 + 7;
    let meta = Server::start(move |mut connection| async move {
        while let Some(request) = connection.request().await {
            connection.write(&page_of(n, &request.head)).await;
        }
    })
    .await;
    let templates = meta.client().templates(&WabaId::from("2001"), &token()).await.expect("121 pages");
    assert_eq!((templates.len(), meta.received().len()), (n, 121));
}

#[tokio::test]
async fn a_page_too_large_for_meta_is_requested_in_smaller_ones() {
    let too_much = r#"{"error":{"code":1,"message":"Please reduce the amount of data you're asking for"}}"#;
    let picky = |limit_max: usize| {
        Server::start(move |mut connection| async move {
            while let Some(request) = connection.request().await {
                let fits = asked(&request.head, "limit").expect("a limit") <= limit_max;
                let answer =
                    if fits { page_of(60, &request.head) } else { http("500 Internal Server Error", too_much) };
                connection.write(&answer).await;
            }
        })
    };
    let meta = picky(30).await;
    let templates = meta.client().templates(&WabaId::from("2001"), &token()).await.expect("smaller pages");
    assert_eq!(templates.len(), 60);
    let limits: Vec<_> = meta.received().iter().map(|request| asked(&request.head, "limit")).collect();
    assert_eq!(limits, [100, 50, 25, 25, 25].map(Some));

    let meta = picky(0).await;
    let error = meta.client().templates(&WabaId::from("2001"), &token()).await.expect_err("not even one");
    assert!(matches!(error, GraphError::Refused { code: MetaCode(1), .. }), "{error}");
    assert_eq!(meta.received().len(), 7);
}

#[tokio::test]
async fn a_stale_cursor_restarts_the_list() {
    let meta = Server::start(|mut connection| async move {
        let mut is_stale = true;
        while let Some(request) = connection.request().await {
            let stale = r#"{"error":{"code":131059,"message":"Invalid cursor"}}"#;
            let answer = if is_stale && request.head.contains("after=") {
                is_stale = false;
                http("400 Bad Request", stale)
            } else {
                page_of(150, &request.head)
            };
            connection.write(&answer).await;
        }
    })
    .await;
    let templates = meta.client().templates(&WabaId::from("2001"), &token()).await.expect("from the start");
    assert_eq!((templates.len(), meta.received().len()), (150, 4));
}

#[tokio::test]
async fn a_line_is_read_with_its_quality_and_limits() {
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
async fn the_apps_subscribed_to_a_waba_are_read_with_their_names() {
    let body = r#"{"data":[{"whatsapp_business_api_data":{"id":"67","link":"https://x","name":"Acme"}},
        {"whatsapp_business_api_data":{"id":"68"}},{}]}"#;
    let meta = Server::answering(http("200 OK", body)).await;
    let apps = meta.client().subscribed_apps(&WabaId::from("2001"), &token()).await.expect("apps");
    let names: Vec<String> = apps.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["Acme", "68", "an app without a name"]);
    assert_eq!(apps[0].id.as_deref(), Some("67"));
    assert!(meta.received()[0].head.starts_with("GET /v25.0/2001/subscribed_apps HTTP/1.1"));
    let none = Server::answering(http("200 OK", r#"{"data":[]}"#)).await;
    assert_eq!(none.client().subscribed_apps(&WabaId::from("2001"), &token()).await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_failed_read_is_classified_by_its_cause() {
    let line = LineId::from("3001");
    let refusing = Server::answering(http("401 Unauthorized", fixture!("error_without_data.json"))).await;
    let error = refusing.client().line(&line, &token()).await.expect_err("refused");
    let refused = "line 3001: Meta refused: code 190 (Access token expired or invalid): Error validating access token";
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

#[tokio::test]
async fn an_unpause_returns_what_meta_says() {
    for (body, expected) in [
        (r#"{"success":true}"#, Unpaused::Done),
        (
            r#"{"success":false,"reason":"The template is not paused."}"#,
            Unpaused::Refused("The template is not paused.".into()),
        ),
        (r#"{"success":false}"#, Unpaused::Refused(String::new())),
    ] {
        let meta = Server::answering(http("200 OK", body)).await;
        assert_eq!(meta.client().unpause_template("9001", &token()).await, Ok(expected), "{body}");
        let head = &meta.received()[0].head;
        assert!(head.starts_with("POST /v25.0/9001/unpause HTTP/1.1"), "{head}");
        assert_eq!(header(head, "authorization"), Some("Bearer EAAJ-token"));
    }
    let refused = Server::answering(http("400 Bad Request", r#"{"error":{"code":100,"message":"too early"}}"#)).await;
    let error = refused.client().unpause_template("9001", &token()).await.expect_err("a refusal");
    assert!(error.to_string().starts_with("template 9001: Meta refused: code 100"), "{error}");
}

#[tokio::test]
async fn the_wabas_of_a_business_and_their_lines_are_read() {
    let wabas = Server::answering(http("200 OK", r#"{"data":[{"id":"2001","name":"Acme"},{"id":"2002"}]}"#)).await;
    let owned = wabas.client().wabas(&BusinessId::from("1001"), Ownership::Owned, &token()).await.expect("two wabas");
    let listed = owned.iter().map(|waba| (waba.id.as_str(), waba.name.as_str()));
    assert_eq!(listed.collect::<Vec<_>>(), [("2001", "Acme"), ("2002", "")]);
    wabas.client().wabas(&BusinessId::from("1001"), Ownership::Client, &token()).await.expect("two wabas");
    for (request, edge) in wabas.received().iter().zip(["owned", "client"]) {
        let path = format!("GET /v25.0/1001/{edge}_whatsapp_business_accounts?fields=id%2Cname&limit=100 HTTP/1.1");
        assert!(request.head.starts_with(&path), "{}", request.head);
    }

    let page = r#"{"data":[{"id":"3001","display_phone_number":"+44 1","verified_name":"Acme","name_status":"DECLINED",
        "code_verification_status":"VERIFIED","health_status":{"can_send_message":"BLOCKED","entities":[
        {"entity_type":"PHONE_NUMBER","id":"3001","can_send_message":"BLOCKED"},
        {"entity_type":"APP","id":"67","can_send_message":"AVAILABLE"}]}},{"id":"3002","display_phone_number":"+44 2"}]}"#;
    let lines = Server::answering(http("200 OK", page)).await;
    let lines = lines.client().lines(&WabaId::from("2001"), &token()).await.expect("two lines");
    assert_eq!((lines[0].name_status.as_deref(), lines[0].app.as_deref()), (Some("DECLINED"), Some("67")));
    assert_eq!((lines[0].code_verification.as_deref(), lines[0].info.health), (Some("VERIFIED"), SendHealth::Blocked));
    assert_eq!((lines[1].id.as_str(), &lines[1].name_status, &lines[1].app), ("3002", &None, &None));
}
