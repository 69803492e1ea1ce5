//! The examples in `pregon --help` do what they say, one after the other in one directory.

use pregon::sim::Scenario;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
};

use super::*;
use crate::{
    sim::kit::SimServer,
    support::{
        hooks::{APP_SECRET, VERIFY_TOKEN},
        until,
    },
};

/// A file for the template `order_update` of the simulator.
const CUSTOMERS: &str = "to,1,2\n+5491155550001,Maria,4711\n+5491155550002,Juan,4712\n";

/// The examples of `pregon --help`, each as its arguments.
async fn examples() -> Vec<Vec<String>> {
    let help = run(&["--help"], &[], "").await.out;
    let (_, examples) = help.split_once("Examples:\n").expect("examples");
    let arguments = |line: &str| line.split_whitespace().skip(1).map(str::to_owned).collect();
    examples.lines().map(arguments).collect()
}

/// Waits until `server` serves, and returns its address. Discards the rest of its log, so that the server never blocks
/// on a full pipe.
async fn address(server: &mut Child) -> String {
    let mut log = BufReader::new(server.stderr.take().expect("piped")).lines();
    let address = loop {
        let line = log.next_line().await.expect("a log").expect("it serves before it ends");
        let entry: Value = serde_json::from_str(&line).expect("JSON");
        if entry["message"] == "serving" {
            break entry["http"].as_str().expect("an address").to_owned();
        }
    };
    tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
    address
}

#[tokio::test]
async fn the_examples_of_the_help_run() {
    let redis = TestRedis::start().await;
    let meta = SimServer::start(Scenario::named("calm").expect("it comes with the program")).await;
    let dir = tempfile::tempdir().expect("a directory");
    let config = include_str!("../../../examples/pregon.toml");
    std::fs::write(dir.path().join("pregon.toml"), config).expect("written");
    std::fs::write(dir.path().join("customers.csv"), CUSTOMERS).expect("written");
    let settings = [
        ("PREGON_API_KEY", "key-of-the-help"),
        ("PREGON_VERIFY_TOKEN", VERIFY_TOKEN),
        ("PREGON_APP_SECRET", APP_SECRET),
        ("PREGON_TOKEN", "sim-token-2001"),
        ("PREGON__REDIS__URL", redis.url()),
        ("PREGON__GRAPH__BASE_URL", &meta.base),
        ("PREGON__HTTP__LISTEN", "127.0.0.1:0"),
        ("PREGON__OPS__LISTEN", "127.0.0.1:0"),
        ("PREGON__LOG__FORMAT", "json"),
    ];
    let (mut server, mut url): (Option<Child>, String) = (None, String::new());
    for example in examples().await {
        let arguments: Vec<&str> = example.iter().map(String::as_str).collect();
        let environment = [&settings[..], &[("PREGON_SERVER", url.as_str())][..usize::from(server.is_some())]].concat();
        let mut child = program(&arguments, &environment).current_dir(dir.path()).spawn().expect("the program");
        if arguments[0] == "serve" {
            url = format!("http://{}", address(&mut child).await);
            server = Some(child);
            let environment = [&settings[..], &[("PREGON_SERVER", url.as_str())]].concat();
            until("the templates are read", async || {
                run(&["template", "list"], &environment, "").await.out.contains("2001/order_update/es_AR")
            })
            .await;
            continue;
        }
        drop(child.stdin.take());
        let output = child.wait_with_output().await.expect("an exit status");
        assert!(output.status.success(), "pregon {}: {output:?}", arguments.join(" "));
    }
    assert!(server.is_some(), "one of the examples is the server");
}
