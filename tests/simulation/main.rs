//! Random histories drawn from a seed, checked against a model: leases and pacing in virtual time ([`leases`]), and
//! the state machine of a part on a real Redis ([`model`]).
#![allow(unreachable_pub, reason = "a test binary is a crate of its own, and has no callers")]

#[path = "../support/mod.rs"]
mod support;

mod leases;
mod model;
