//! What strangers and careless callers can do to a worker: nothing. Over real sockets, against a real Redis.
#![allow(unreachable_pub, reason = "a file of tests is a crate of its own, and has no callers")]

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod connections;
mod kit;
mod listeners;
mod secrets;
mod tls;
