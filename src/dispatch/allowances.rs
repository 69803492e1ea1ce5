//! Learns what Meta allows on each line: when the line is new, every [`READ_EVERY`], and at once after Meta announced a
//! change by webhook.
//!
//! One call reads all lines of a WABA, and one worker of the installation makes it, because Meta allows an app 200 calls
//! an hour for a WABA. What a worker learns is in Redis, so it is there after a restart, for all workers.
//!
//! If the process dies: its claim expires, and another worker asks.
//! Never: changes a rate that an operator or the configuration sets.

use std::{
    collections::{BTreeMap, HashSet},
    convert::Infallible,
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    domain::{LineAllowance, LineId, Lines, Secret, WabaId},
    graph::{GraphClient, LineThroughput},
    redis::{Store, StoreError},
    rules,
};

/// How often Meta is asked about the lines of a WABA if it announces no change.
const READ_EVERY: Duration = Duration::from_secs(600);

/// How long a claim to ask Meta lasts: how soon another attempt follows one that failed.
const CLAIM: Duration = Duration::from_secs(60);

/// How often a worker looks for WABAs about which Meta has to be asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The least time between two looks, per WABA, so that thousands of WABAs do not keep Redis busy.
const LOOK_EVERY_PER_WABA: Duration = Duration::from_millis(10);

/// Learns what Meta allows on the lines that this worker lists.
pub struct AllowanceReader {
    /// Redis.
    pub store: Store,
    /// Every configured line.
    pub lines: Lines,
    /// How Meta is reached.
    pub graph: GraphClient,
}

impl AllowanceReader {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        let wabas = self.lines.wabas();
        let pause = LOOK_EVERY.max(LOOK_EVERY_PER_WABA * u32::try_from(wabas.len()).unwrap_or(u32::MAX));
        let mut has_unasked = true;
        while !stop.is_cancelled() {
            // While Redis is away, which is logged for the whole worker, nothing is learned.
            if let Some(Ok(unasked)) = stop.run_until_cancelled(self.look(&wabas, has_unasked)).await {
                has_unasked = unasked;
            }
            stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
        Ok(())
    }

    /// Asks Meta about the WABAs whose turn it is. With `has_unasked`, also about those with a line about which Meta was
    /// never asked. Returns whether there was one.
    async fn look(&self, wabas: &BTreeMap<&WabaId, &Secret>, has_unasked: bool) -> Result<bool, StoreError> {
        let unasked = if has_unasked { self.unasked().await? } else { HashSet::new() };
        let ids: Vec<WabaId> = wabas.keys().map(|waba| (*waba).clone()).collect();
        let claimed = self.store.claim_allowance_reads(&ids, CLAIM).await?;
        for ((waba, token), claimed) in wabas.iter().zip(claimed) {
            if claimed || unasked.contains(waba) {
                self.learn(waba, token).await?;
            }
        }
        Ok(!unasked.is_empty())
    }

    /// The WABAs with a line about which Meta was never asked.
    async fn unasked(&self) -> Result<HashSet<WabaId>, StoreError> {
        let controls = self.store.controls(&self.lines.ids()).await?;
        let unasked =
            self.lines.iter().zip(controls).filter(|(_, control)| control.allowance == LineAllowance::Unasked);
        Ok(unasked.map(|(line, _)| line.waba.clone()).collect())
    }

    /// Asks Meta about the lines of a WABA, and stores the answer.
    async fn learn(&self, waba: &WabaId, token: &Secret) -> Result<(), StoreError> {
        let lines = self.lines_of(waba).await?;
        let answer = self.graph.line_throughputs(waba, token).await;
        let learned: Vec<(LineId, LineAllowance)> = match &answer {
            Ok(throughputs) => lines.into_iter().map(|line| (line.clone(), allowance_of(&line, throughputs))).collect(),
            Err(error) => {
                warn!(waba.id = %waba, %error, "what meta allows on the lines of the WABA could not be read");
                // What was learned before stays.
                let controls = self.store.controls(&lines).await?;
                let unasked =
                    lines.into_iter().zip(controls).filter(|(_, now)| now.allowance == LineAllowance::Unasked);
                unasked.map(|(line, _)| (line, LineAllowance::Unknown)).collect()
            }
        };
        let changed = self.store.put_allowances(&learned).await?;
        for ((line, allowance), _) in learned.iter().zip(changed).filter(|(_, changed)| *changed) {
            self.report(line, *allowance);
        }
        if answer.is_ok() {
            self.store.allowances_were_read(waba, READ_EVERY).await?;
        }
        Ok(())
    }

    /// The lines of a WABA that any process lists.
    async fn lines_of(&self, waba: &WabaId) -> Result<Vec<LineId>, StoreError> {
        let known = self.store.known_lines().await?.into_iter().filter(|(_, owner)| owner == waba);
        let own = self.lines.of_waba(waba).map(|line| line.id.clone());
        let lines: HashSet<LineId> = own.chain(known.map(|(line, _)| line)).collect();
        Ok(lines.into_iter().collect())
    }

    fn report(&self, line: &LineId, allowance: LineAllowance) {
        let LineAllowance::Known(allowed) = allowance else { return };
        let configured = self.lines.by_id(line).and_then(|line| line.messages_per_second);
        match configured.filter(|configured| *configured > allowed) {
            Some(configured) => warn!(
                line.id = %line, allowed, configured,
                "meta allows less on the line than its messages_per_second: lower it, or remove it so that the line follows meta"
            ),
            None => info!(line.id = %line, allowed, "what meta allows on the line"),
        }
    }
}

/// What Meta allows on a line, by its answer about the WABA.
fn allowance_of(line: &LineId, throughputs: &[LineThroughput]) -> LineAllowance {
    let of_line = throughputs.iter().find(|throughput| throughput.id == *line);
    of_line.map_or(LineAllowance::Unknown, |LineThroughput { level, is_on_biz_app, .. }| {
        rules::rate::allowance(level.as_deref(), *is_on_biz_app)
    })
}
