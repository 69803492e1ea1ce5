//! A week of campaigns in virtual time: a sender that keeps Meta's rules, a simulator that plays them, and a referee that
//! counts every send that breaks one.
//!
//! Redis and the simulator have clocks that can be moved ([`stage`]). Real time passes while messages are sent, so that
//! lines have their real rates. When nothing is left to do for now, both clocks jump to the next event. So a week takes
//! minutes. Workers need no virtual clock: whatever takes them longer than seconds is by Redis' time.
//!
//! What happens in the week is drawn from a seed ([`plan`]). [`switched_off`] shows that the referee notices each rule that
//! is not kept.
//!
//! Linux only, like the clock of Redis.
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

/// A small week; `make week` plays a large one. Settings: `PREGON_WEEK_SENDS`, about how many messages, and
/// `PREGON_TEST_SEED`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_week_breaks_no_rule_and_loses_no_message() {
    let sends = std::env::var("PREGON_WEEK_SENDS").ok().and_then(|sends| sends.parse().ok()).unwrap_or(10_000);
    play::week(Plan::draw(support::seed(), sends)).await;
}
