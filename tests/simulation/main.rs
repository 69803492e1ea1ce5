//! Random histories from a seed, beside a model of what has to be true: of leases and pacing in virtual time, and of the state machine.
#![allow(unreachable_pub, reason = "a test binary is a crate of its own, and has no callers")]

#[path = "../support/mod.rs"]
mod support;

mod leases;
mod model;
