//! Campaigns on every kind of Redis that can be configured: real servers, started for each test.

#[path = "../support/mod.rs"]
mod support;

mod campaign;
mod servers;
mod tls;
