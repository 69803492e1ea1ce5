//! What this service promises, checked on real servers: every test starts the Redis, the workers and the Meta that it needs.
//!
//! One test binary, because linking is most of what a further one costs. `cargo test --test promises webhook::` runs one folder.
//! Tests run side by side in one process, so a test that needs a process of its own starts one, with `support::alone`. Tests that
//! measure a rate are in `tests/rates`, which runs them one at a time.
#![allow(unreachable_pub, reason = "a test binary is a crate of its own, and has no callers")]

#[path = "../support/mod.rs"]
mod support;

mod api;
mod cli;
mod dispatch;
mod graph;
mod intake;
mod process;
mod redis;
mod security;
mod sim;
mod webhook;
