//! `Store::make_durable` waits for a replica to have the earlier writes, if there is a replica, and for them to be on
//! disk, if Redis supports `WAITAOF`. So an acknowledged write survives a crash of the server that accepted it.

use std::time::Duration;

use deadpool_redis::redis::cmd;
use pregon::redis::{Store, StoreError};

use crate::{campaign::address, servers::RedisServer};

/// How many calls of `command` the server has counted.
async fn calls(server: &RedisServer, command: &str) -> u64 {
    let info: String = server.query("INFO commandstats").await;
    let prefix = format!("cmdstat_{command}:calls=");
    let line = info.lines().find_map(|line| line.strip_prefix(&prefix));
    line.and_then(|line| line.split(',').next()).map_or(0, |n| n.parse().expect("a number"))
}

#[tokio::test]
async fn an_acknowledgement_waits_for_a_replica() {
    let master = RedisServer::plain(&[]).await;
    let replica = RedisServer::plain(&["--replicaof", "127.0.0.1", &master.port.to_string()]).await;
    master.wait_for("INFO replication", "state=online").await;
    let mut address = address(format!("redis://{}", master.address()));
    address.timeout = Duration::from_millis(500);
    let store = Store::connect(&address).await.expect("a store");
    store.make_durable().await.expect("the replica has it");
    assert!(calls(&master, "wait").await > 0);

    replica.signal("STOP").await;
    let error = store.make_durable().await.expect_err("the replica is stopped");
    assert!(matches!(&error, StoreError::OutcomeUnknown(text) if text.contains("a replica of redis")), "{error}");
    replica.signal("CONT").await;
    store.make_durable().await.expect("the replica has it");
}

#[tokio::test]
async fn an_acknowledgement_waits_for_the_disk_if_redis_has_waitaof() {
    let server = RedisServer::plain(&[]).await;
    let store = Store::connect(&address(format!("redis://{}", server.address()))).await.expect("a store");
    let waits = server.try_query::<Vec<u64>>(cmd("WAITAOF").arg(0).arg(0).arg(1)).await.is_ok();
    let before = calls(&server, "waitaof").await;
    store.make_durable().await.expect("as safe as it can be");
    assert_eq!(calls(&server, "waitaof").await > before, waits, "WAITAOF is called exactly if the server has it");
    // Without an append-only file, nothing is written to disk that a call could wait for.
    let () = server.query("CONFIG SET appendonly no").await;
    let before = calls(&server, "waitaof").await;
    store.make_durable().await.expect("as safe as it can be");
    assert_eq!(calls(&server, "waitaof").await, before);
}
