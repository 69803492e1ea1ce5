//! What the tests of the whole share.
#![allow(dead_code, reason = "each file of tests uses a part of it")]
#![allow(unreachable_pub, reason = "a file of tests is a crate of its own, and has no callers")]

pub mod hooks;
pub mod redis;
