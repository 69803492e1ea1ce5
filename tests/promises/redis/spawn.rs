//! `spawn:DIR`: the data survives the server, and the server stops with the process that started it.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use deadpool_redis::redis::{AsyncCommands as _, Client, IntoConnectionInfo as _, aio::MultiplexedConnection, cmd};
use pregon::redis::spawn::{PrivateRedis, SpawnError};
use tokio::{io::AsyncReadExt as _, net::UnixStream};

use crate::support::{alone, redis::TestRedis};

async fn connect(url: &str) -> MultiplexedConnection {
    let client = Client::open(url).expect("a URL of the redis crate");
    client.get_multiplexed_async_connection().await.expect("a connection")
}

async fn info(url: &str, field: &str) -> String {
    let info: String = cmd("INFO").arg("server").query_async(&mut connect(url).await).await.expect("INFO");
    let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("no {field} in {info}")).to_owned()
}

#[tokio::test]
async fn data_survives_a_stop() {
    let mut redis = TestRedis::start().await;
    let () = redis.connection().await.set("key", "value").await.expect("SET");
    redis.stop().await;
    redis.restart().await;
    let value: String = redis.connection().await.get("key").await.expect("GET");
    assert_eq!(value, "value");
}

#[tokio::test]
async fn a_killed_server_restarts_with_a_new_run_id() {
    let mut redis = TestRedis::start().await;
    let before = info(redis.url(), "run_id").await;
    redis.kill_hard().await;
    let client = Client::open(redis.url()).expect("a URL");
    assert!(client.get_multiplexed_async_connection().await.is_err(), "the server is down");
    redis.restart().await;
    assert_ne!(info(redis.url(), "run_id").await, before);
}

#[tokio::test]
async fn the_server_writes_an_aof_and_listens_only_on_a_socket() {
    let dir = tempfile::tempdir().expect("a directory");
    let redis = PrivateRedis::start(dir.path()).await.expect("a server");
    let mut connection = connect(redis.url()).await;
    for (setting, value) in [("appendonly", "yes"), ("save", ""), ("port", "0")] {
        let (_, shown): (String, String) =
            cmd("CONFIG").arg("GET").arg(setting).query_async(&mut connection).await.expect("CONFIG GET");
        assert_eq!(shown, value, "{setting}");
    }
    assert_eq!(info(redis.url(), "process_id").await, redis.pid().to_string());
    redis.stop().await.expect("a clean stop");
}

#[tokio::test]
async fn a_directory_name_with_blanks_and_symbols_works() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("a %41 b?c#d ñ");
    let redis = PrivateRedis::start(&dir).await.expect("a server");
    let () = connect(redis.url()).await.set("key", 1).await.expect("SET");
    let mode = std::fs::metadata(&dir).expect("the directory").permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "only this user may read the data");
    redis.stop().await.expect("a clean stop");
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_uses_a_port() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("x".repeat(100));
    let redis = PrivateRedis::start(&dir).await.expect("a server");
    assert!(redis.url().starts_with("redis://127.0.0.1:"), "{}", redis.url());
    let () = connect(redis.url()).await.set("key", 1).await.expect("SET");
    redis.stop().await.expect("a clean stop");
}

#[tokio::test]
async fn a_second_process_on_the_same_data_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let redis = PrivateRedis::start(dir.path()).await.expect("a server");
    let error = PrivateRedis::start(dir.path()).await.expect_err("the first one runs");
    assert!(matches!(error, SpawnError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("another process runs its Redis there"), "{error}");
    let () = connect(redis.url()).await.set("key", 1).await.expect("the first one still serves");
    redis.stop().await.expect("a clean stop");
    PrivateRedis::start(dir.path()).await.expect("the directory is free again").stop().await.expect("a clean stop");
}

/// The environment variable with the directory in which [`parent_process`] starts a Redis.
const DIR_OF_PARENT: &str = "PREGON_TEST_SPAWN_DIR";

/// As a test, does nothing. If the variable is set, starts a Redis and waits until
/// [`the_server_stops_when_its_process_is_killed`] kills its process.
#[tokio::test]
async fn parent_process() {
    let Ok(dir) = std::env::var(DIR_OF_PARENT) else { return };
    let redis = PrivateRedis::start(Path::new(&dir)).await.expect("a server");
    let () = connect(redis.url()).await.set("key", "value").await.expect("SET");
    println!("\nURL {}", redis.url());
    std::future::pending().await
}

#[tokio::test]
async fn the_server_stops_when_its_process_is_killed() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut parent = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", &alone::name(module_path!(), "parent_process"), "--nocapture"])
        .env(DIR_OF_PARENT, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a second process of these tests");
    let url = BufReader::new(parent.stdout.take().expect("piped"))
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("URL ").map(str::to_owned))
        .expect("the URL of its Redis");

    let info = url.as_str().into_connection_info().expect("a URL of the redis crate");
    let mut watch = UnixStream::connect(info.addr().to_string()).await.expect("a connection");
    parent.kill().expect("SIGKILL");
    parent.wait().expect("an exit status");
    // Redis sends nothing on an idle connection, so the read returns only when the connection ends.
    assert_eq!(watch.read(&mut [0]).await.expect("the end of the connection"), 0);

    let redis = PrivateRedis::start(dir.path()).await.expect("the directory is free again");
    let value: String = connect(redis.url()).await.get("key").await.expect("GET");
    assert_eq!(value, "value");
    redis.stop().await.expect("a clean stop");
}
