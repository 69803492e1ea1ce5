//! Suppression: the cost of suppressed people for dispatch and Redis.
//!
//! Cost: a campaign while many people are suppressed, in alternation with one while nobody is, each on a stage of its
//! own. No recipient is suppressed, so that both send the same messages. Memory: the growth of `used_memory` by the
//! import.

use std::time::Instant;

use reqwest::Body;

use pregon::{client::ImportTarget, domain::SuppressionScope, intake::Format};

use super::{alternation, bytes::used_memory, check_equal, dispatch::send};
use crate::{error::LoadError, recipients, report::Findings, scenario::Setup, stage::Stage};

const WARM_UP: u64 = 10_000;

/// Runs the workload.
pub async fn run(setup: &Setup, people: u64, recipients: u64, rounds: usize) -> Result<Findings, LoadError> {
    let mut findings = Findings::default();
    let mut without = Stage::start(setup, false).await?;
    let mut with = Stage::start(setup, false).await?;
    send(&mut without, WARM_UP).await?;
    send(&mut with, WARM_UP).await?;
    let store = with.store().await?;
    let before = used_memory(&store).await?;
    let began = Instant::now();
    import(&with, people).await?;
    findings.one("imported_per_second", "", people as f64 / began.elapsed().as_secs_f64());
    let after = used_memory(&store).await?;
    findings.one("bytes_per_person", "", (after as f64 - before as f64) / people as f64);
    alternation::compare(
        (&mut without, "with nobody suppressed"),
        (&mut with, "with them suppressed"),
        recipients,
        rounds,
        &mut findings,
    )
    .await?;
    without.stop().await?;
    with.stop().await?;
    Ok(findings)
}

/// Suppresses people through the API, none of whom is a recipient.
async fn import(stage: &Stage, people: u64) -> Result<(), LoadError> {
    let target = ImportTarget { scope: Some(SuppressionScope::All), ..ImportTarget::default() };
    let rows = Body::wrap_stream(recipients::suppressed(people));
    let imported = stage.client.import_suppressions(&target, "load", &Format::Ndjson.into(), None, rows).await?;
    check_equal("people suppressed", imported.accepted, people)
}
