//! Compares dispatch on two stages in alternation, to measure the cost of a feature that only one of them uses.

use super::{dispatch::send, progress, us_each};
use crate::{error::LoadError, report::Findings, stage::Stage};

/// The figures of [`compare`].
pub const FIGURES: [&str; 5] =
    ["messages_per_second", "plain_per_second", "ratio", "cpu_us_per_message", "redis_cpu_us_per_message"];

/// A stage, and its label in progress messages.
pub type Side<'s> = (&'s mut Stage, &'static str);

/// Sends a campaign of this many recipients on each stage in each round. Adds the rates, their ratio, and the cost of a
/// message on the stage `with`.
pub async fn compare(
    (without, plainly): Side<'_>,
    (with, fully): Side<'_>,
    recipients: u64,
    rounds: usize,
    findings: &mut Findings,
) -> Result<(), LoadError> {
    let mut values: [Vec<f64>; FIGURES.len()] = Default::default();
    for round in 1..=rounds {
        let (took, _) = send(without, recipients).await?;
        let plain = recipients as f64 / took;
        let (took, usage) = send(with, recipients).await?;
        let rate = recipients as f64 / took;
        let ratio = rate / plain;
        let (all, redis) = (us_each(usage.workers + usage.redis, recipients), us_each(usage.redis, recipients));
        for (of_figure, value) in values.iter_mut().zip([rate, plain, ratio, all, redis]) {
            of_figure.push(value);
        }
        progress(&format!("round {round} of {rounds}: {plain:.0}/s {plainly}, {rate:.0}/s {fully}, ratio {ratio:.3}"));
    }
    for (figure, of_figure) in FIGURES.into_iter().zip(values) {
        findings.rounds(figure, of_figure);
    }
    Ok(())
}
