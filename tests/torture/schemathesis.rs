//! Calls that Schemathesis generates from the OpenAPI document, against a worker and the simulator of Meta.

use std::{fs, process::Command, time::Duration};

use pregon::sim::{Scenario, Sim, scenario::Target};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::support::{
    self,
    hooks::APP_SECRET,
    redis::TestRedis,
    server::{Installation, KEY},
};

/// Run by `make schemathesis`, which installs the program and names it in `PREGON_SCHEMATHESIS`.
/// `PREGON_SCHEMATHESIS_CALLS`: how many calls to generate for each operation.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a program: make schemathesis"]
async fn generated_calls_are_answered_as_documented() {
    let program: String = crate::setting("PREGON_SCHEMATHESIS").expect("the path of the program");
    let calls: u32 = crate::setting("PREGON_SCHEMATHESIS_CALLS").unwrap_or(30);
    let redis = TestRedis::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let meta = format!("http://{}", listener.local_addr().expect("an address"));
    let installation = Installation::new(&redis, &meta, &[("3001", 1000.0), ("3002", 1000.0)], "");
    let environment =
        [("PREGON_TEST_ACCESS_TOKEN", "sim-token-2001"), ("PREGON__HTTP__KEY_FAILURES_PER_MINUTE", "100000")];
    let server = installation.serve_with("worker", "api,webhook,dispatch", &environment).await;
    let mut scenario = Scenario::named("calm").expect("it comes with the program");
    scenario.wabas[0].webhook = Some(Target { url: server.webhook(), app_secret: APP_SECRET.into() });
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let _sim = Sim::start(scenario, listener, stop).await.expect("the simulator");
    let api = server.api();
    let to = 5_491_100_000_000..5_491_100_000_020;
    let draft = api.draft(&["3001"], to.clone(), json!({})).await;
    let sent = api.campaign(&["3001", "3002"], to, json!({})).await;
    api.wait_for_state(&sent, "completed", Duration::from_secs(60)).await;
    let config = installation.dir().join("schemathesis.toml");
    fs::write(&config, settings(&[&draft, &sent])).expect("the settings");

    let ran = Command::new(program)
        .arg("--config-file")
        .arg(config)
        .arg("run")
        .arg(format!("{}/openapi.json", server.url()))
        .args(["--header", &format!("Authorization: Bearer {KEY}")])
        .args(["--max-examples", &calls.to_string(), "--seed", &(support::seed() % (1 << 32)).to_string()])
        // It writes its caches there.
        .current_dir(installation.dir())
        .status()
        .expect("a program that starts");
    assert!(ran.success(), "see above: {ran}");
    assert!(!server.log().contains("panic"), "{}", server.log());
}

/// The settings of Schemathesis. Most calls of a campaign are about one of `campaigns`.
fn settings(campaigns: &[&str]) -> String {
    format!(
        r#"
continue-on-failure = true
request-timeout = 20
# Event streams do not end.
max-stream-events = 2
hooks = "{root}/tests/torture/schemathesis.py"
[dictionaries]
campaigns = {{ values = {campaigns:?} }}
lines = {{ values = ["3001", "3002"] }}
phones = {{ values = ["+5491100000003", "5491100000004"] }}
templates = {{ values = ["order_update"] }}
languages = {{ values = ["es_AR"] }}
[parameters]
"path.campaign" = {{ dictionary = "campaigns", probability = 0.8 }}
"path.line" = {{ dictionary = "lines", probability = 0.8 }}
"path.phone" = {{ dictionary = "phones", probability = 0.5 }}
"body.template.name" = {{ dictionary = "templates", probability = 0.8 }}
"body.template.language" = {{ dictionary = "languages", probability = 0.8 }}
"body.lines[*]" = {{ dictionary = "lines", probability = 0.8 }}
"body.recipients[*].to" = {{ dictionary = "phones", probability = 0.8 }}
[checks]
# A schema can't say what makes a cursor valid, or which template exists: such calls are refused as documented.
positive_data_acceptance.expected-statuses = ["2xx", "400", "403", "404", "409", "410", "422", "429", "502"]
# An invalid recipient does not fail the call: the answer lists it in `rejected`.
[[operations]]
include-operation-id = ["create_campaign", "upload_recipients"]
[operations.checks]
negative_data_rejection.expected-statuses = ["200", "201", "400", "404", "408", "409", "413", "415", "422", "429"]
"#,
        root = env!("CARGO_MANIFEST_DIR"),
    )
}
