//! The HTTP API over real HTTP and a real Redis.
#![allow(unreachable_pub, reason = "a file of tests is a crate of its own, and has no callers")]

#[path = "../support/mod.rs"]
mod support;

mod campaigns;
mod encodings;
mod events;
mod guard;
mod harness;
mod lines;
mod recipients;
mod truth;
