//! Invariant 6 in the whole: what comes faster than it can be taken is pushed back before memory grows, and who does not
//! answer keeps nobody else waiting.
//!
//! `cargo test` plays each scenario small; `make pressure` plays them large, and prints what they came to.
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
use proxy::{Network, Place, Proxy};
use support::{redis::TestRedis, server::Installation};

/// A Redis that is slow, or does not answer at all, is waited for: the machine may be busy, and silence is not what these
/// tests are about.
const PATIENT: [(&str, &str); 2] = [("PREGON__REDIS__TIMEOUT", "10s"), ("PREGON__DISPATCH__LEASE", "30s")];

/// The disk is not what these tests are about, and a busy one makes Redis stand still.
async fn keeps_no_file(redis: &TestRedis) {
    let mut connection = redis.connection().await;
    for (key, value) in [("appendonly", "no"), ("save", "")] {
        let () = cmd("CONFIG").arg("SET").arg(key).arg(value).query_async(&mut connection).await.expect("CONFIG SET");
    }
}

/// A way to Redis that can be held up, for the processes of an installation.
fn wire(network: &Network, installation: &Installation, redis: &TestRedis) -> Proxy {
    let redis = PathBuf::from(redis.url().strip_prefix("redis+unix://").expect("a socket"));
    network.unix(installation.dir().join("redis.sock"), Place::Unix(redis))
}
