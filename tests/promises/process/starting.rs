//! What a process does when it starts, and which signals stop it.

use std::fs;

use deadpool_redis::redis::cmd;
use serde_json::Value;

use crate::support::{redis::TestRedis, server::Installation, until};

#[tokio::test]
async fn sighup_without_a_certificate_ends_no_process() {
    let redis = TestRedis::start().await;
    let installation = Installation::new(&redis, "http://127.0.0.1:9", &[("3001", 80.0)], "");
    let mut server = installation.serve("worker", "api").await;
    server.signal("HUP");
    server.api().get("lines").await;
    server.signal("TERM");
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn the_ready_file_is_there_while_a_process_serves() {
    let redis = TestRedis::start().await;
    let installation = Installation::new(&redis, "http://127.0.0.1:9", &[("3001", 80.0)], "");
    let file = installation.dir().join("worker.ready");
    fs::write(&file, "of a process that was killed").expect("a file");
    let mut server = installation.serve("worker", "api").await;
    let ready: Value = serde_json::from_slice(&fs::read(&file).expect("the file")).expect("JSON");
    assert_eq!(format!("http://{}", ready["http"].as_str().expect("an address")), server.url());
    assert!(!ready["ops"].as_str().expect("an address").is_empty() && ready["worker"] == server.worker, "{ready}");
    server.signal("TERM");
    assert!(server.ended().await.success());
    assert!(!file.exists());

    // The ready file cannot replace a folder.
    fs::create_dir_all(installation.dir().join("other.ready/x")).expect("a folder");
    let mut failed = installation.start("other", "api", &[]);
    assert_eq!(failed.ended().await.code(), Some(1));
    assert!(failed.log().contains("cannot write the ready file"), "{}", failed.log());
}

#[tokio::test]
async fn serve_waits_for_an_unreachable_redis_and_is_live() {
    let mut redis = TestRedis::start().await;
    redis.stop().await;
    let installation = Installation::new(&redis, "http://127.0.0.1:9", &[("3001", 80.0)], "");
    let mut waiting = installation.start("waiting", "api", &[]);
    let mut stopped = installation.start("stopped", "api", &[]);
    for server in [&waiting, &stopped] {
        until("it waits", async || server.log().contains("waiting for redis")).await;
    }
    assert_eq!(waiting.ops("healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(waiting.ops("readyz").await, (503, concat!(r#"{"ready":false,"reasons":["redis"]}"#, "\n").to_owned()));
    stopped.signal("TERM");
    assert!(stopped.ended().await.success(), "{}", stopped.log());
    redis.restart().await;
    until("it serves", async || waiting.serves()).await;
    assert_eq!(waiting.ops("readyz").await, (200, concat!(r#"{"ready":true,"reasons":[]}"#, "\n").to_owned()));
    waiting.signal("TERM");
    assert!(waiting.ended().await.success());
}

#[tokio::test]
async fn serve_with_a_start_timeout_exits_without_redis() {
    let mut redis = TestRedis::start().await;
    redis.stop().await;
    let installation = Installation::new(&redis, "http://127.0.0.1:9", &[("3001", 80.0)], "");
    let mut server = installation.start("worker", "api", &[("PREGON__REDIS__START_TIMEOUT", "0s")]);
    assert_eq!(server.ended().await.code(), Some(1));
    let log = server.log();
    assert!(log.contains("pregon: redis is not available") && !log.contains("waiting for redis"), "{log}");
    let remedy = "did not answer within 0ns (redis.start_timeout): start Redis there, or set redis.url to its address";
    assert!(log.contains(remedy), "{log}");
}

#[tokio::test]
async fn a_stopping_process_is_not_ready_while_it_still_answers() {
    let redis = TestRedis::start().await;
    let installation = Installation::new(&redis, "http://127.0.0.1:9", &[("3001", 80.0)], "");
    let mut server = installation.serve_with("worker", "api", &[("PREGON__SHUTDOWN__DRAIN", "5m")]).await;
    server.signal("TERM");
    let stopping = (503, concat!(r#"{"ready":false,"reasons":["stopping"]}"#, "\n").to_owned());
    until("it is not ready", async || server.ops("readyz").await == stopping).await;
    server.api().get("lines").await;
    // A second signal ends the drain, and the process still stops cleanly.
    server.signal("TERM");
    assert!(server.ended().await.success(), "{}", server.log());
}

#[tokio::test]
async fn a_process_that_serves_no_calls_stops_at_once() {
    let redis = TestRedis::start().await;
    let installation = Installation::new(&redis, "http://127.0.0.1:9", &[("3001", 80.0)], "");
    let mut server = installation.serve_with("worker", "dispatch", &[("PREGON__SHUTDOWN__DRAIN", "5m")]).await;
    server.signal("TERM");
    assert!(server.ended().await.success(), "{}", server.log());
}

#[tokio::test]
async fn serve_with_a_wrong_password_exits_and_names_the_cause() {
    let redis = TestRedis::start().await;
    let mut connection = redis.connection().await;
    let set = cmd("CONFIG").arg(&["SET", "requirepass", "right"]).exec_async(&mut connection).await;
    set.expect("a password");
    let installation = Installation::new(&redis, "http://127.0.0.1:9", &[("3001", 80.0)], "");
    for (name, url) in [("none", redis.url().to_owned()), ("wrong", format!("{}?pass=wrong", redis.url()))] {
        let mut server = installation.start(name, "api", &[("PREGON__REDIS__URL", &url)]);
        assert_eq!(server.ended().await.code(), Some(1), "{name}");
        let log = server.log();
        assert!(log.contains("redis does not accept the user and password of redis.url"), "{name}: {log}");
        assert!(!log.contains("waiting for redis"), "{name}: {log}");
    }
    let unset = cmd("CONFIG").arg(&["SET", "requirepass", ""]).exec_async(&mut connection).await;
    unset.expect("no password");
}

#[tokio::test]
async fn serve_warns_of_a_redis_that_can_lose_data() {
    let redis = TestRedis::start().await;
    let mut connection = redis.connection().await;
    for (key, value) in [("appendonly", "no"), ("maxmemory-policy", "allkeys-lru"), ("maxmemory", "1gb")] {
        let set = cmd("CONFIG").arg(&["SET", key, value]).exec_async(&mut connection).await;
        set.expect("a setting");
    }
    let installation = Installation::new(&redis, "http://127.0.0.1:9", &[("3001", 80.0)], "");
    let log = installation.serve("worker", "api").await.log();
    for warning in ["the append-only file is off", "maxmemory-policy is allkeys-lru", "maxmemory-policy noeviction"] {
        assert!(log.contains(warning), "{warning}: {log}");
    }
}
