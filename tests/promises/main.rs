//! The promises of the service (README.md, "What it promises"), tested on real servers. Each test starts the Redis, the
//! workers and the fake Meta that it needs.
//!
//! All tests are in one binary, because each further binary links the whole service again. `cargo test --test promises
//! webhook::` runs one folder. The tests run in parallel in one process. A test that changes something global to the
//! process starts a process of its own with `support::alone`. Tests that measure a rate are in `tests/rates`.
#![allow(unreachable_pub, reason = "a test binary is a crate of its own, and has no callers")]

#[path = "../support/mod.rs"]
mod support;

mod api;
mod cli;
mod discovery;
mod dispatch;
mod engage;
mod examples;
mod feed;
mod graph;
mod intake;
mod process;
mod redis;
mod security;
mod sim;
mod subscribers;
mod upgrade;
mod webhook;
