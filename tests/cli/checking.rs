//! `check`, and what it shares with `serve`: the configuration.

use super::*;

fn configuration(text: &str) -> (TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("pregon.toml");
    std::fs::write(&path, text).expect("written");
    let path = path.to_str().expect("text").to_owned();
    (dir, path)
}

#[tokio::test]
async fn all_problems_of_a_configuration_are_exit_code_2_for_check_and_serve() {
    let (_dir, file) = configuration("[redis]\nurl = \"spawn:\"\npool = 0\n[dispatch]\nlease = \"1h\"\n");
    for command in ["check", "serve"] {
        let ran = run(&[command, "--config", &file], &[], "").await;
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        for key in ["redis.url", "redis.pool", "dispatch.lease"] {
            assert!(ran.err.contains(key), "{command}: {ran:?}");
        }
        let ran = run(&[command], &[("PREGON_CONFIG", &file)], "").await;
        assert!(ran.code == 2 && ran.err.contains("redis.pool"), "by environment: {ran:?}");
        let ran = run(&[command], &[], "").await;
        assert!(ran.code == 2 && ran.err.contains("http.api_keys needs at least one key"), "{command}: {ran:?}");
    }
    let ran = run(&["check", "--json", "--config", &file], &[], "").await;
    let [report] = ran.json().try_into().expect("one object");
    assert_eq!((ran.code, &report["ok"], &report["checks"][0]["check"]), (2, &json!(false), &json!("configuration")));
}

fn worker(redis: &str) -> String {
    format!(
        "[redis]\nurl = \"{redis}\"\n[http]\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n\
         [webhook]\nverify_token = {{ env = \"WORD\" }}\napp_secret = {{ env = \"WORD\" }}\n"
    )
}

const WEBHOOK: [&str; 4] = ["check", "--roles", "webhook", "--config"];

#[tokio::test]
async fn a_worker_that_could_start_passes_every_check() {
    let redis = TestRedis::start().await;
    let (_dir, file) = configuration(&worker(redis.url()));
    let ran = run(&[&WEBHOOK[..], &[&file, "--json"]].concat(), &[("WORD", "secret-word")], "").await;
    let [report] = ran.json().try_into().expect("one object");
    assert_eq!((ran.code, &report["ok"]), (0, &json!(true)), "{ran:?}");
    let checks: Vec<_> = report["checks"].as_array().expect("checks").iter().map(|check| &check["check"]).collect();
    assert_eq!(checks, ["configuration", "redis", "redis keeps data", "http.listen", "ops.listen"]);
    let ran = run(&[&WEBHOOK[..], &[&file]].concat(), &[("WORD", "secret-word")], "").await;
    assert!(ran.code == 0 && ran.out.contains("redis at") && !ran.out.contains("failed"), "{ran:?}");
    assert!(!ran.out.contains("secret-word"), "{ran:?}");
}

#[tokio::test]
async fn a_redis_that_is_not_there_and_a_port_that_is_taken_fail_with_what_helps() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = taken.local_addr().expect("an address");
    let text = worker("redis://127.0.0.1:1").replacen("127.0.0.1:0", &port.to_string(), 1);
    let (_dir, file) = configuration(&text);
    let ran = run(&[&WEBHOOK[..], &[&file, "--json"]].concat(), &[("WORD", "w")], "").await;
    assert_eq!((ran.code, ran.err.as_str()), (1, "pregon: 2 checks failed\n"));
    let [report] = ran.json().try_into().expect("one object");
    let checks = report["checks"].as_array().expect("checks");
    let failed: Vec<_> = checks.iter().filter(|check| check["ok"] == false).collect();
    assert_eq!((&failed[0]["check"], &failed[1]["check"]), (&json!("redis"), &json!("http.listen")));
    assert!(failed[0]["remedy"].as_str().expect("a remedy").contains("start Redis there"), "{ran:?}");
    assert!(failed[1]["remedy"].as_str().expect("a remedy").contains("set http.listen to another port"), "{ran:?}");
}

#[tokio::test]
async fn a_redis_that_would_be_spawned_needs_only_its_program() {
    let (_dir, file) = configuration(&worker("spawn:./never-made"));
    let ran = run(&[&WEBHOOK[..], &[&file, "--json"]].concat(), &[("WORD", "w")], "").await;
    let [report] = ran.json().try_into().expect("one object");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(report["checks"][1]["found"].as_str().expect("found").contains("is installed"), "{ran:?}");
    assert!(!std::path::Path::new("never-made").exists());
}
