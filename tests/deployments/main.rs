//! Campaigns on a single Redis server with TLS, on a cluster, and on a master with sentinels. Each test starts its own
//! servers.
#![allow(unreachable_pub, reason = "a file of tests is a crate of its own, and has no callers")]

#[path = "../support/mod.rs"]
mod support;

mod campaign;
mod cluster;
mod durable;
mod jobs;
mod login;
mod sentinel;
mod servers;
mod tls;
