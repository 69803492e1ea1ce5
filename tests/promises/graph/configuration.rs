//! The configuration of the Graph client: what it uses, and which values it rejects.

use std::time::Duration;

use pregon::{
    domain::{LineId, Secret},
    graph::{BadGraphConfig, GraphClient, GraphClientConfig},
};

use super::server::{Server, accepted, client, deliver, fixture, http, patient, sender, token};

#[tokio::test]
async fn only_the_configured_proxy_is_used() {
    let proxy = Server::answering(http("200 OK", fixture!("accepted.json"))).await;
    let config = GraphClientConfig {
        base_url: "http://graph.invalid/mounted/".to_owned(),
        proxy: Some(proxy.base_url.clone()),
        ..patient()
    };
    assert_eq!(deliver(&sender(&client(config)), "{}".into()).await, accepted(false));
    let [request] = proxy.received().try_into().expect("one request");
    let line = "POST http://graph.invalid/mounted/v25.0/3001/messages HTTP/1.1\r\n";
    assert!(request.head.starts_with(line), "{}", request.head);
}

#[tokio::test]
async fn an_invalid_configuration_is_rejected_with_the_reason() {
    let new = |change: fn(&mut GraphClientConfig)| {
        let mut config = GraphClientConfig::default();
        change(&mut config);
        GraphClient::new(config).expect_err("a bad configuration")
    };
    for base_url in ["graph.facebook.com", "ftp://graph.facebook.com", "https://", "http://x/?a=b", "mailto:a@b"] {
        let error = GraphClient::new(GraphClientConfig { base_url: base_url.to_owned(), ..patient() });
        assert!(matches!(error, Err(BadGraphConfig::BaseUrl(named)) if named == base_url), "{base_url}");
    }
    assert!(matches!(new(|config| config.version.clear()), BadGraphConfig::Version));
    assert!(matches!(new(|config| config.connect_timeout = config.timeout), BadGraphConfig::Timeouts { .. }));
    assert!(matches!(new(|config| config.connect_timeout = Duration::ZERO), BadGraphConfig::Timeouts { .. }));
    assert!(matches!(new(|config| config.proxy = Some("http://".to_owned())), BadGraphConfig::Proxy(_)));
}

#[tokio::test]
async fn a_token_invalid_in_a_header_is_rejected_and_not_shown() {
    let client = client(patient());
    let error = client.sender(&LineId::from("3001"), &Secret::new("EAAJ\ntoken")).expect_err("a line break");
    assert!(!error.to_string().contains("EAAJ"), "{error}");
}

#[tokio::test]
async fn an_id_in_the_url_is_percent_encoded() {
    let meta = Server::answering(http("200 OK", fixture!("accepted.json"))).await;
    let line = LineId::from("../me?x=1#");
    deliver(&meta.client().sender(&line, &token()).expect("a good token"), "{}".into()).await;
    let [request] = meta.received().try_into().expect("one request");
    assert!(request.head.starts_with("POST /v25.0/..%2Fme%3Fx=1%23/messages HTTP/1.1"), "{}", request.head);
}
