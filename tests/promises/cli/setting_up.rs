//! `pregon setup`, against the simulator: from a token to a configuration that passes the check, and a first message.

use std::{collections::BTreeMap, fs::File, io::Write as _, os::unix::fs::PermissionsExt as _, path::Path};

use axum::{extract::Query, routing::get};
use pregon::{
    config::Config,
    sim::{Scenario, scenario::Target},
};
use rustix::termios::tcgetattr;

use super::{
    screen::{Written, terminal},
    *,
};
use crate::sim::kit::{SimServer, TOKEN, Webhook, quiet};

const SECRET: &str = "the-app-secret";
const SCRIPTED: [&str; 7] = ["--business", "1001", "--lines", "3001,3002", "--to", "+5491155550009", "--yes"];

/// A scenario whose app is not subscribed.
fn unsubscribed(url: &str) -> Scenario {
    let mut scenario = quiet();
    scenario.wabas[0].webhook = Some(Target { url: url.into(), app_secret: SECRET.into() });
    scenario.wabas[0].subscribed = false;
    scenario
}

/// Runs the setup in `dir`, with the token and the app secret in variables.
async fn scripted(dir: &Path, server: &SimServer, more: &[&str]) -> Ran {
    let environment =
        [("PREGON_TOKEN", TOKEN), ("PREGON_APP_SECRET", SECRET), ("PREGON__GRAPH__BASE_URL", &server.base)];
    set_up(dir, &[&SCRIPTED[..], more].concat(), &environment, "").await
}

async fn set_up(dir: &Path, arguments: &[&str], environment: &[(&str, &str)], answers: &str) -> Ran {
    let file = dir.join("pregon.toml");
    run(&[&["setup", "--config", file.to_str().expect("text")], arguments].concat(), environment, answers).await
}

fn read(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

async fn subscribed_apps(server: &SimServer) -> usize {
    server.get("/v25.0/2001/subscribed_apps").await.1["data"].as_array().expect("a list").len()
}

#[tokio::test]
async fn a_script_goes_from_a_token_to_a_first_message() {
    let (redis, webhook) = (TestRedis::start().await, Webhook::start().await);
    let server = SimServer::start(unsubscribed(&webhook.url)).await;
    let dir = tempfile::tempdir().expect("a directory");
    let ran = scripted(dir.path(), &server, &["--redis", redis.url()]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!((subscribed_apps(&server).await, server.ledger().total.accepted), (1, 1), "{ran:?}");
    webhook.wait_for("messages", 1).await;

    let written = read(dir.path(), "pregon.toml");
    let (api_key, verify_token) =
        (read(dir.path(), "pregon-secrets/api-key"), read(dir.path(), "pregon-secrets/verify-token"));
    for secret in [TOKEN, SECRET, &api_key, &verify_token] {
        assert!(secret.len() >= 14 && !written.contains(secret), "{written}");
        assert!(!ran.out.contains(secret) && !ran.err.contains(secret), "{ran:?}");
    }
    for name in ["pregon.toml", "pregon-secrets/api-key", "pregon-secrets/verify-token"] {
        let mode = std::fs::metadata(dir.path().join(name)).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let names = std::fs::read_dir(dir.path().join("pregon-secrets")).expect("a folder").count();
    assert_eq!(names, 2, "what is in a variable is not copied");

    let file = dir.path().join("pregon.toml");
    let environment = [
        ("PREGON_TOKEN", TOKEN),
        ("PREGON_APP_SECRET", SECRET),
        ("PREGON__HTTP__LISTEN", "127.0.0.1:0"),
        ("PREGON__OPS__LISTEN", "127.0.0.1:0"),
    ];
    let checked = run(&["check", "--config", file.to_str().expect("text")], &environment, "").await;
    assert_eq!(checked.code, 0, "{checked:?}");
    assert!(checked.out.contains("lines: 2, WABAs: 1"), "{checked:?}");

    let again = scripted(dir.path(), &server, &[]).await;
    assert_eq!((again.code, read(dir.path(), "pregon.toml")), (2, written), "{again:?}");
    assert!(again.err.contains("--force"), "{again:?}");
    let forced = scripted(dir.path(), &server, &["--force", "--lines", "3003"]).await;
    assert_eq!(forced.code, 0, "{forced:?}");
    assert!(read(dir.path(), "pregon.toml").contains("3003"), "it is replaced");
    assert_eq!(read(dir.path(), "pregon-secrets/api-key"), api_key, "callers keep their key");
    assert_eq!(read(dir.path(), "pregon-secrets/verify-token"), verify_token, "Meta has it");
}

#[tokio::test]
async fn a_person_is_asked_and_nothing_happens_without_a_yes() {
    let server = SimServer::start(unsubscribed("http://127.0.0.1:1/")).await;
    let environment = [("PREGON__GRAPH__BASE_URL", server.base.as_str())];
    for (agrees, subscribed, accepted) in [("n", 0, 0), ("y", 1, 1)] {
        let dir = tempfile::tempdir().expect("a directory");
        let answers = format!("{TOKEN}\n{SECRET}\n1001\n3001, 3002\n{agrees}\n+54x\n+5491155550009\n{agrees}\n");
        let ran = set_up(dir.path(), &[], &environment, &answers).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!((subscribed_apps(&server).await, server.ledger().total.accepted), (subscribed, accepted), "{ran:?}");
        assert!(ran.err.contains("+54x: not a phone number"), "it asks again: {ran:?}");
        let file = dir.path().join("pregon.toml");
        let config = Config::load(Some(&file)).expect("a configuration");
        assert_eq!(config.lines.iter().map(|line| line.id.as_str()).collect::<Vec<_>>(), ["3001", "3002"]);
        assert_eq!(config.wabas[0].access_token.expose(), TOKEN);
        assert_eq!(config.webhook.app_secret.expect("one").expose(), SECRET);
        let mode = std::fs::metadata(dir.path().join("pregon-secrets/token")).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!read(dir.path(), "pregon.toml").contains(TOKEN));
    }
}

#[tokio::test]
async fn a_secret_is_not_shown_on_the_terminal() {
    let server = SimServer::start(unsubscribed("http://127.0.0.1:1/")).await;
    let environment = [("PREGON_APP_SECRET", SECRET), ("PREGON__GRAPH__BASE_URL", &server.base)];
    for is_given in [true, false] {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("pregon.toml");
        let arguments = ["setup", "--business", "1001", "--lines", "3001", "--config", file.to_str().expect("text")];
        let (own, other) = terminal();
        let modes = tcgetattr(&own).expect("modes").local_modes;
        let mut written = Written::on(&own);
        let mut keys = File::from(own.try_clone().expect("another handle"));
        let mut command = program(&arguments, &environment);
        let end = || other.try_clone().expect("another handle");
        let mut child = command.stdin(end()).stderr(end()).spawn().expect("the program");
        written.until("(PREGON_TOKEN): ").await;
        if is_given {
            // With a key too many, which Backspace deletes.
            write!(keys, "{TOKEN}x\x7f\r").expect("typed");
            for (question, answer) in [("Subscribe the app to WABA 2001? [y/N]: ", "n\r"), ("(empty: none): ", "\r")] {
                written.until(question).await;
                keys.write_all(answer.as_bytes()).expect("typed");
            }
        } else {
            keys.write_all(b"sim-\x03").expect("Ctrl-C");
        }
        let ended = child.wait().await.expect("an exit status");
        assert_eq!(ended.code(), Some(if is_given { 0 } else { 2 }), "{:?}", written.text);
        assert!(!written.text.contains("sim-"), "{:?}", written.text);
        assert_eq!(tcgetattr(&own).expect("modes").local_modes, modes, "the terminal is as before");
        assert_eq!(file.exists(), is_given);
        if is_given {
            assert_eq!(read(dir.path(), "pregon-secrets/token"), TOKEN);
        }
    }
}

#[tokio::test]
async fn a_setup_that_cannot_go_on_writes_nothing_and_says_why() {
    let server = SimServer::start(unsubscribed("http://127.0.0.1:1/")).await;
    let base = ("PREGON__GRAPH__BASE_URL", server.base.as_str());
    let dead = ("PREGON__GRAPH__BASE_URL", "http://127.0.0.1:1");
    let (token, secret) = (("PREGON_TOKEN", TOKEN), ("PREGON_APP_SECRET", SECRET));
    let of = |business, lines| ["--business", business, "--lines", lines, "--yes"];
    let cases = [
        (of("1001", "3001"), [base, ("PREGON_TOKEN", "a-token-that-expired"), secret], 1, "business 1001 has no line"),
        (of("1001", "3001"), [dead, token, secret], 1, "Meta is not reachable"),
        (of("1001", "3099"), [base, token, secret], 2, "the business has no line 3099"),
        (of("1009", "all"), [base, token, secret], 1, "business 1009 has no line"),
        (of("1001", "3001"), [base, ("PREGON_TOKEN", "two words"), secret], 2, "PREGON_TOKEN contains a blank"),
        (of("1001", "3001"), [base, token, ("PREGON_APP_SECRET", "")], 2, "PREGON_APP_SECRET"),
    ];
    for (arguments, environment, code, why) in cases {
        let dir = tempfile::tempdir().expect("a directory");
        let ran = set_up(dir.path(), &arguments, &environment, "").await;
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.err.contains(why), "{why}: {ran:?}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0, "{ran:?}");
    }
    assert_eq!((subscribed_apps(&server).await, server.ledger().total.accepted), (0, 0));
}

#[tokio::test]
async fn a_message_that_is_not_accepted_fails_the_setup_and_keeps_the_file() {
    let mut scenario = unsubscribed("http://127.0.0.1:1/");
    scenario.lines[0].status = "BANNED".into();
    let server = SimServer::start(scenario).await;
    for (more, why) in [
        (&[][..], "Meta did not accept the message"),
        (&["--template", "no_such_template/es_AR"], "no template no_such_template/es_AR"),
        (&["--template", "order_update/es_AR"], "has parameters"),
        (&["--template", "free_money/es_AR"], "REJECTED"),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let ran = scripted(dir.path(), &server, more).await;
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains(why) && ran.out.contains("Next:"), "{why}: {ran:?}");
        assert!(dir.path().join("pregon.toml").exists(), "{ran:?}");
    }
    assert_eq!(server.ledger().total.accepted, 0);
}

#[tokio::test]
async fn a_callback_of_its_own_is_verified_and_then_gets_the_webhooks() {
    let server = SimServer::start(unsubscribed("http://127.0.0.1:1/")).await;
    let (webhook, dir) = (Webhook::start().await, tempfile::tempdir().expect("a directory"));
    let ran = scripted(dir.path(), &server, &["--callback", &webhook.url]).await;
    assert_eq!((ran.code, subscribed_apps(&server).await), (1, 0), "it does not answer the challenge: {ran:?}");
    assert!(ran.err.contains("pregon serve must answer at the callback"), "{ran:?}");

    let verify_token = read(dir.path(), "pregon-secrets/verify-token");
    let challenge = move |Query(query): Query<BTreeMap<String, String>>| async move {
        if query["hub.verify_token"] == verify_token { query["hub.challenge"].clone() } else { "no".to_owned() }
    };
    let (received, mut receives) = tokio::sync::mpsc::unbounded_channel();
    let record = async move |body: String| received.send(body).expect("the test receives");
    let url = format!("{}/hook", serve(Router::new().route("/hook", get(challenge).post(record))).await);
    let ran = scripted(dir.path(), &server, &["--callback", &url, "--force"]).await;
    assert_eq!((ran.code, subscribed_apps(&server).await), (0, 1), "{ran:?}");
    let body = receives.recv().await.expect("an update of the first message");
    assert!(body.contains("\"statuses\""), "{body}");
}
