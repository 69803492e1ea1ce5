//! Frequency caps: the cost of counting marketing messages for dispatch and Redis.
//!
//! Cost: a marketing campaign of a business with a cap whose people have had messages before, in alternation with one
//! of a business without a cap, each on a stage of its own. Nobody is at the cap, so that both send the same messages.
//! Memory: the growth of `used_memory` by the earlier messages.

use pregon::{
    domain::{ClaimedRow, FrequencyCap, PartId, PersonHash},
    redis::{
        Store,
        marketing::{FrequencyCaps, MarketingMessage},
    },
};

use super::{alternation, bytes::used_memory, dispatch::send};
use crate::{error::LoadError, meta::MARKETING_TEMPLATE, report::Findings, scenario::Setup, stage::Stage};

const WARM_UP: u64 = 10_000;
const CAP: FrequencyCap = FrequencyCap { messages: 3, days: 7 };
/// The number of earlier messages to each person.
const MESSAGES: u16 = 2;
/// The number of people in one call.
const PEOPLE_AT_ONCE: u64 = 250;

/// Runs the workload.
pub async fn run(setup: &Setup, people: u64, recipients: u64, rounds: usize) -> Result<Findings, LoadError> {
    let mut findings = Findings::default();
    let mut without = Stage::start(setup, false).await?;
    let mut with = Stage::start(&capped(setup), false).await?;
    for stage in [&mut without, &mut with] {
        stage.template = MARKETING_TEMPLATE;
        send(stage, WARM_UP).await?;
    }
    let store = with.store().await?;
    let before = used_memory(&store).await?;
    count(&store, people).await?;
    let after = used_memory(&store).await?;
    findings.one("bytes_per_person", "", (after as f64 - before as f64) / people as f64);
    alternation::compare((&mut without, "without a cap"), (&mut with, "with one"), recipients, rounds, &mut findings)
        .await?;
    without.stop().await?;
    with.stop().await?;
    Ok(findings)
}

/// The same stage, with a frequency cap for its business.
fn capped(setup: &Setup) -> Setup {
    let mut setup = setup.clone();
    for (key, value) in [("MESSAGES", CAP.messages), ("DAYS", CAP.days)] {
        setup.environment.insert(format!("PREGON__BUSINESS__0__FREQUENCY_CAP__{key}"), value.to_string());
    }
    setup
}

/// Records two earlier messages to each of `people` people, none of whom is a recipient.
async fn count(store: &Store, people: u64) -> Result<(), LoadError> {
    let caps = FrequencyCaps::of(Some(CAP), None).ok_or_else(|| LoadError::Failed("no cap".into()))?;
    let campaign = "01J9ZK3V5T8R7Q6P5N4M3K2J1H".parse().map_err(|_| LoadError::Failed("no id".into()))?;
    let (part, now) = (PartId { campaign, number: 0 }, store.time().await?);
    for row in 0..MESSAGES {
        for from in (0..people).step_by(PEOPLE_AT_ONCE as usize) {
            let people = from..people.min(from + PEOPLE_AT_ONCE);
            // Spread evenly, like hashes. The multiplication gives each person a different value.
            let hash = |n: u64| PersonHash(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let message = |n| MarketingMessage::new(hash(n), (part, ClaimedRow { row, send: 1 }));
            let messages: Vec<MarketingMessage> = people.map(message).collect();
            store.count_marketing(&"1001".into(), caps, &messages, now).await?;
        }
    }
    Ok(())
}
