//! The rates that Meta sees, measured by the clock: of whole workers, over slow links, and while a worker takes over from another.
//!
//! A binary of its own, and its tests take turns: another test beside one of these would take processor time from the worker that is
//! measured.
#![allow(unreachable_pub, reason = "a test binary is a crate of its own, and has no callers")]

#[path = "../support/mod.rs"]
mod support;

mod link;
mod sharing;
mod takeover;

/// Held by each test while it measures.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
