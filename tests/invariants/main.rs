//! The invariants against whole processes: a hostile Meta, workers and a Redis that come and go, and the rates that Meta sees.
#![allow(unreachable_pub, reason = "a file of tests is a crate of its own, and has no callers")]

#[path = "../support/mod.rs"]
mod support;

mod hostile;
mod link;
mod rates;
mod takeover;

/// For those that measure rates.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
