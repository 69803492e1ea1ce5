//! Campaigns on every kind of Redis that can be configured, on real servers that are started for each test.
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
