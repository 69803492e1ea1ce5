//! Discovery: what Meta has of the configured businesses, and how the configuration differs.

use pregon::{
    api_types::{DRIFT_KINDS, DiscoveredBusiness, Drift},
    discovery::{discover, read_lines},
    domain::{Line, LineId, MetaLine, Secret, WabaId},
    graph::{GraphClient, GraphClientConfig},
    sim::{
        Scenario,
        scenario::{Business, MessagingLimit, Target},
    },
};

use crate::{
    sim::kit::{SimServer, TOKEN, quiet},
    support::world,
};

/// A configured line with the token of its WABA.
fn line(id: &str, waba: &str, business: &str, token: &str) -> Line {
    Line { waba: waba.into(), business: business.into(), token: Secret::new(token), ..world::line(id, 80.0) }
}

/// A scenario whose WABA 2001 has only the line 3001, and a webhook.
fn one_line() -> Scenario {
    let mut scenario = quiet();
    scenario.lines.truncate(1);
    // Nothing is sent, so nothing is delivered to it.
    scenario.wabas[0].webhook = Some(Target { url: "http://127.0.0.1:1/".into(), app_secret: "secret".into() });
    scenario
}

async fn discovered(server: &SimServer, lines: &[Line]) -> Vec<DiscoveredBusiness> {
    let config = GraphClientConfig { base_url: server.base.clone(), ..GraphClientConfig::default() };
    discover(&GraphClient::new(config).expect("a client"), lines).await
}

/// The kinds of drift, each with what it is about.
fn drift<'a>(business: &'a DiscoveredBusiness) -> Vec<(&'a str, &'a str)> {
    for drift in &business.drift {
        assert!(!drift.detail.is_empty() && !drift.remedy.is_empty(), "{drift:?}");
        assert!(DRIFT_KINDS.contains(&&*drift.kind), "{drift:?}");
    }
    let line = |drift: &'a Drift| drift.line.as_ref().map(LineId::as_str);
    let waba = |drift: &'a Drift| drift.waba.as_ref().map(WabaId::as_str);
    business.drift.iter().map(|drift| (&*drift.kind, line(drift).or(waba(drift)).unwrap_or(""))).collect()
}

#[tokio::test]
async fn a_configuration_that_meta_agrees_with_has_no_drift() {
    let server = SimServer::start(one_line()).await;
    let found = discovered(&server, &[line("3001", "2001", "1001", TOKEN)]).await;
    let [business] = &found[..] else { panic!("{found:?}") };
    assert_eq!((business.id.as_str(), drift(business)), ("1001", vec![]), "{business:?}");
    let [waba] = &business.wabas[..] else { panic!("{business:?}") };
    assert_eq!(
        (waba.id.as_str(), waba.name.as_str(), waba.ownership.as_deref()),
        ("2001", "Pregón S.A.", Some("owned"))
    );
    assert_eq!((waba.configured, waba.subscribed), (true, Some(true)));
    assert_eq!(waba.apps.as_ref().expect("read")[0].name.as_deref(), Some("Pregón"));
    let [found] = &waba.lines[..] else { panic!("{waba:?}") };
    let text = [&found.verified_name, &found.name_status, &found.code_verification, &found.status, &found.quality];
    let text = text.map(|text| text.as_deref().unwrap_or(""));
    assert_eq!(text, ["Pregón Ventas", "APPROVED", "VERIFIED", "CONNECTED", "GREEN"]);
    assert_eq!((found.configured, found.can_send), (true, Some(true)));
    assert_eq!(found.messaging_limit.as_deref(), Some("TIER_UNLIMITED"));
}

#[tokio::test]
async fn each_difference_between_meta_and_the_configuration_is_named() {
    let mut scenario = quiet();
    scenario.lines.truncate(2);
    scenario.businesses =
        vec![Business { id: "1002".into(), limit: MessagingLimit::Unlimited, pacing: None, frequency_cap: None }];
    let (mut own, mut others) = (scenario.wabas[0].clone(), scenario.wabas[0].clone());
    (own.id, own.token) = ("2002".into(), TOKEN.into());
    (others.id, others.business, others.shared_with) = ("2003".into(), "1002".into(), vec!["1001".into()]);
    others.token = "another-token".into();
    scenario.wabas.extend([own, others]);
    let mut moved = scenario.lines[0].clone();
    (moved.id, moved.waba) = ("3009".into(), "2002".into());
    scenario.lines.push(moved);
    scenario.lines[0].name_status = "DECLINED".into();
    scenario.lines[0].status = "BANNED".into();
    let server = SimServer::start(scenario).await;

    let lines = ["3001", "3009", "9999"].map(|id| line(id, "2001", "1001", TOKEN));
    let found = discovered(&server, &lines).await;
    let [business] = &found[..] else { panic!("{found:?}") };
    let expected = [
        ("app_not_subscribed", "2001"),
        ("name_not_approved", "3001"),
        ("line_blocked", "3001"),
        ("line_of_other_waba", "3009"),
        ("line_missing", "9999"),
        ("line_not_configured", "3002"),
        ("waba_not_configured", "2002"),
        ("unreadable", "2003"),
        ("unreadable", "2003"),
        ("waba_not_configured", "2003"),
    ];
    assert_eq!(drift(business), expected, "{business:?}");
    let shared = &business.wabas[2];
    assert_eq!((shared.ownership.as_deref(), &shared.apps, shared.subscribed), (Some("client"), &None, None));

    let found = discovered(&server, &[line("3001", "2001", "1002", TOKEN)]).await;
    let kinds = drift(&found[0]);
    assert_eq!(kinds[..2], [("unreadable", ""), ("unreadable", "")], "a token that may not read the business");
    let lines = [line("3001", "2001", "1002", TOKEN), line("3005", "2003", "1002", "another-token")];
    let found = discovered(&server, &lines).await;
    let kinds = drift(&found[0]);
    assert!(kinds.contains(&("waba_not_of_business", "2001")), "{kinds:?}");
    assert!(!kinds.contains(&("waba_not_of_business", "2003")), "{kinds:?}");
}

#[tokio::test]
async fn what_meta_does_not_answer_is_unreadable_and_not_missing() {
    let server = SimServer::start(one_line()).await;
    for (base, token) in [("http://127.0.0.1:1".to_owned(), TOKEN), (server.base.clone(), "a-token-that-expired")] {
        let config = GraphClientConfig { base_url: base, ..GraphClientConfig::default() };
        let graph = GraphClient::new(config).expect("a client");
        let found = discover(&graph, &[line("3001", "2001", "1001", token)]).await;
        let kinds = drift(&found[0]);
        assert_eq!(kinds, [("unreadable", ""), ("unreadable", ""), ("unreadable", "2001"), ("unreadable", "2001")]);
        assert_eq!((found[0].wabas[0].subscribed, found[0].wabas[0].configured), (None, true));
    }
}

#[tokio::test]
async fn lines_of_a_business_go_only_if_meta_says_so() {
    let mut scenario = quiet();
    scenario.lines.truncate(2);
    scenario.businesses =
        vec![Business { id: "1002".into(), limit: MessagingLimit::Unlimited, pacing: None, frequency_cap: None }];
    let mut shared = scenario.wabas[0].clone();
    (shared.id, shared.business, shared.shared_with) = ("2003".into(), "1002".into(), vec!["1001".into()]);
    shared.token = "another-token".into();
    scenario.wabas.push(shared);
    let server = SimServer::start(scenario).await;
    let line = |id: &str, waba: &str| MetaLine {
        id: id.into(),
        waba: waba.into(),
        is_owned: true,
        display: "+54 9 11 5555 0001".into(),
        verified_name: "before".into(),
    };
    let last =
        [line("3001", "2001"), line("3002", "2003"), line("3003", "2001"), line("3007", "2003"), line("3008", "2004")];
    let read = async |base: &str, token: &str| {
        let config = GraphClientConfig { base_url: base.to_owned(), ..GraphClientConfig::default() };
        read_lines(&GraphClient::new(config).expect("a client"), &"1001".into(), &Secret::new(token), &last).await
    };
    let found = read(&server.base, TOKEN).await;
    let ids: Vec<_> = found.lines.iter().flatten().map(|line| (line.id.as_str(), line.waba.as_str())).collect();
    // 3003 and WABA 2004 are gone; 3002 was in another WABA; WABA 2003 may not be read.
    assert_eq!(ids, [("3001", "2001"), ("3002", "2001"), ("3007", "2003")], "{found:?}");
    assert_eq!(found.lines.as_ref().expect("lines")[0].verified_name, "Pregón Ventas");
    assert_eq!(found.unreadable.len(), 1, "{found:?}");
    for (base, token) in [("http://127.0.0.1:1", TOKEN), (&server.base, "a-token-that-expired")] {
        let found = read(base, token).await;
        assert!(found.lines.is_none() && found.unreadable.len() == 2, "{found:?}");
    }
}
