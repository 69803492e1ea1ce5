//! End-to-end tests of the promise "Bounded": load above capacity is pushed back before memory grows, and a slow or
//! dead peer does not delay the others.
//!
//! `cargo test` runs each scenario in a small size; `make pressure` runs them in a large size and prints the
//! results.
#![allow(unreachable_pub, reason = "a file of tests is a crate of its own, and has no callers")]

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "only the rounds of tests/torture cut connections")]
#[path = "../torture/proxy.rs"]
mod proxy;

mod dead_line;
mod figures;
mod memory;
mod slow_meta;
mod uploads;
mod webhooks;

use std::path::PathBuf;

use deadpool_redis::redis::cmd;
use proxy::{Endpoint, Network, Proxy};
use support::{redis::TestRedis, server::Installation};

/// A long timeout for Redis and a long lease: the machine may be busy, and these tests are not about timeouts.
const LONG_TIMEOUTS: [(&str, &str); 2] = [("PREGON__REDIS__TIMEOUT", "10s"), ("PREGON__DISPATCH__LEASE", "30s")];

/// Turns persistence off: a busy disk blocks Redis, and these tests are not about the disk.
async fn disable_persistence(redis: &TestRedis) {
    let mut connection = redis.connection().await;
    for (key, value) in [("appendonly", "no"), ("save", "")] {
        let () = cmd("CONFIG").arg("SET").arg(key).arg(value).query_async(&mut connection).await.expect("CONFIG SET");
    }
}

/// Starts a proxy in front of Redis, at a socket in the directory of `installation`.
fn redis_proxy(network: &Network, installation: &Installation, redis: &TestRedis) -> Proxy {
    let redis = PathBuf::from(redis.url().strip_prefix("redis+unix://").expect("a socket"));
    network.unix(installation.dir().join("redis.sock"), Endpoint::Unix(redis))
}
