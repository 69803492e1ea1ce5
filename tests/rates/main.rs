//! The rates that Meta sees, measured by the wall clock: of whole workers, over slow links, and during a takeover.
//!
//! These tests are a binary of their own and run one at a time, because any other test would take processor time from
//! the worker that is measured.
#![allow(unreachable_pub, reason = "a test binary is a crate of its own, and has no callers")]

#[path = "../support/mod.rs"]
mod support;

mod allowance;
mod link;
mod sharing;
mod takeover;

/// Held by each test while it measures.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
