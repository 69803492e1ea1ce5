//! Helpers shared by the integration tests.
#![allow(dead_code, reason = "each file of tests uses a part of it")]
#![allow(unreachable_pub, reason = "a file of tests is a crate of its own, and has no callers")]

pub mod alone;
pub mod clock;
pub mod collector;
pub mod cutter;
pub mod hooks;
pub mod hostile;
pub mod intake;
pub mod link;
pub mod log;
pub mod postgres;
pub mod receiver;
pub mod redis;
pub mod serve;
pub mod server;
pub mod traces;
pub mod world;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use pregon::{
    domain::{CampaignId, FailureReason, MetaCode, UnixMs},
    redis::{Store, parts::ClaimRequest},
};

/// An HTTP client, without the environment's proxy.
pub fn http_client() -> reqwest::Client {
    // reqwest needs a provider even without TLS. An error means that one is already installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

/// The seed of a test, printed. `PREGON_TEST_SEED=7` runs the test again with seed 7.
pub fn seed() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "any number will do")]
    let any = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    let seed = std::env::var("PREGON_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(any);
    println!("PREGON_TEST_SEED={seed}");
    seed
}

/// The reason with Meta's code.
pub const fn meta_code(code: u32) -> FailureReason {
    FailureReason::Meta(MetaCode(code))
}

/// A claim by the owner in `epoch`, with a higher number than every earlier one of this process.
pub fn claim_request(epoch: u64, now: UnixMs, limit: usize, doubt_until: UnixMs) -> ClaimRequest {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed) + 1;
    ClaimRequest { epoch, number, now, limit, doubt_until, unanswered: None, in_grace_period: false }
}

/// Retires an ended campaign, as housekeeping does.
pub async fn retire(store: &Store, id: CampaignId, now: UnixMs) {
    let active = store.active_campaigns(now).await.expect("redis");
    let since = active.into_iter().find_map(|(active, since)| (active == id).then_some(since)).expect("it is listed");
    store.retire_campaign(id, now, since).await.expect("redis");
}

/// Waits until `condition` returns true. Panics with `what` after a minute, far longer than any condition may take.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let timeout = Duration::from_secs(60);
    let waited = tokio::time::timeout(timeout, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited {timeout:?} until {what}");
}
