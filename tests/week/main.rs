//! A week of campaigns in virtual time: workers send, the simulator plays Meta, and its referee counts every send that
//! breaks one of Meta's rules.
//!
//! The clocks of Redis and of the simulator can be moved ([`stage`]). While messages are sent, time is real, so that
//! lines have their real rates. When nothing is left to send for now, both clocks jump to the next event. A week takes
//! minutes. Workers need no virtual clock: they take from Redis every time that is longer than seconds.
//!
//! What happens in the week is drawn from a seed ([`plan`]). [`switched_off`] shows that the referee notices each rule
//! that is broken.
//!
//! Linux only, because Redis' clock can be moved only there.
#![cfg(target_os = "linux")]
#![allow(unreachable_pub, reason = "a file of tests is a crate of its own, and has no callers")]

#[path = "../support/mod.rs"]
mod support;

mod check;
mod plan;
mod play;
mod stage;
mod switched_off;

use plan::Plan;

/// Runs a small week; `make week` runs a large one. Settings: `PREGON_WEEK_SENDS`, the approximate number of messages,
/// and `PREGON_TEST_SEED`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_week_breaks_no_rule_and_loses_no_message() {
    let sends = std::env::var("PREGON_WEEK_SENDS").ok().and_then(|sends| sends.parse().ok()).unwrap_or(10_000);
    play::week(Plan::draw(support::seed(), sends)).await;
}
