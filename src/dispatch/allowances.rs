//! Reads from Meta the throughput of each line and the messaging limit of each business: as soon as the line or
//! business is configured, then every ten minutes, and at once after Meta reported a change of a line by webhook.
//!
//! Until the limit of a business is known, its lines send nothing. If Meta reports none, or has not answered for
//! [`ANSWER_WITHIN`], the business counts as unlimited until Meta reports one.
//!
//! One call reads all lines of a WABA, and only one worker of the installation makes it, because Meta allows an app 200
//! calls an hour for a WABA. The worker stores the answer in Redis, where all workers find it, also after a restart.
//!
//! If the process dies: its claim expires, and another worker asks.
//! Never: changes a rate that an operator or the configuration sets.

use std::{
    collections::HashSet,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    domain::{BusinessId, LineAllowance, LineId, Lines, Live, MessagingLimit, MetaCode, Outcome, WabaId, policy},
    graph::{GraphClient, GraphError, LineLimits},
    redis::{Store, StoreError, clock::Clock, messaging_limits::KnownLimit},
    rules,
};

/// How often Meta is asked about the lines of a WABA if it announces no change.
const READ_EVERY: Duration = Duration::from_secs(600);

/// How long a claim to ask Meta lasts. After a failed attempt the next one waits for its end.
const CLAIM: Duration = Duration::from_secs(60);

/// How long a business with an unknown messaging limit sends nothing. If Meta does not answer this read, sends would
/// usually fail too.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// How often a worker checks whether the limits of a WABA have to be read.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Minimum time between two checks, for each WABA in the configuration, so that thousands of WABAs do not keep Redis
/// busy.
const LOOK_EVERY_PER_WABA: Duration = Duration::from_millis(10);

/// Meta's codes for a token that is invalid or expired.
const INVALID_TOKEN: [MetaCode; 4] = [MetaCode(0), MetaCode(102), MetaCode(104), MetaCode(190)];

/// Reads from Meta the limits of the lines that this worker lists.
pub struct AllowanceReader {
    /// Redis.
    pub store: Store,
    /// The clock of Redis.
    pub clock: Arc<Clock>,
    /// Every configured line.
    pub lines: Live<Lines>,
    /// The client for Meta.
    pub graph: GraphClient,
}

impl AllowanceReader {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        let (mut lines, mut has_unasked, mut began) = (self.lines.get(), true, Instant::now());
        while !stop.is_cancelled() {
            let listed = self.lines.get();
            if !listed.is_same(&lines) {
                (lines, has_unasked, began) = (listed, true, Instant::now());
            }
            // An error is ignored: an outage of Redis is logged for the whole worker.
            if let Some(Ok(unasked)) = stop.run_until_cancelled(self.look(&lines, has_unasked, began)).await {
                has_unasked = unasked;
            }
            let n_wabas = u32::try_from(lines.wabas().len()).unwrap_or(u32::MAX);
            let pause = LOOK_EVERY.max(LOOK_EVERY_PER_WABA * n_wabas);
            stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
        Ok(())
    }

    /// Asks Meta about the WABAs that this worker has claimed. With `has_unasked`, also about WABAs with a line or
    /// business whose limits were never read. Returns whether there were any of these.
    async fn look(&self, lines: &Lines, has_unasked: bool, began: Instant) -> Result<bool, StoreError> {
        let unasked = if has_unasked { self.unasked(lines).await? } else { HashSet::new() };
        let wabas = lines.wabas();
        let ids: Vec<WabaId> = wabas.keys().map(|waba| (*waba).clone()).collect();
        let claimed = self.store.claim_allowance_reads(&ids, CLAIM).await?;
        for ((waba, token), claimed) in wabas.iter().zip(claimed) {
            if claimed || unasked.contains(waba) {
                let answer = self.graph.line_limits(waba, token).await;
                if let Err(error) = &answer
                    && claimed
                {
                    warn!(waba.id = %waba, %error, "what Meta allows on the lines of the WABA could not be read");
                }
                self.learn(lines, waba, &answer, began).await?;
            }
        }
        Ok(!unasked.is_empty())
    }

    /// The WABAs with a line, or of a business, whose limits were never read.
    async fn unasked(&self, lines: &Lines) -> Result<HashSet<WabaId>, StoreError> {
        let ids = lines.ids();
        let (controls, limits) = tokio::try_join!(self.store.controls(&ids), self.store.messaging_limits())?;
        let unasked = lines.iter().zip(controls).filter(|(line, control)| {
            control.allowance == LineAllowance::Unasked || !limits.contains_key(&line.business)
        });
        Ok(unasked.map(|(line, _)| line.waba.clone()).collect())
    }

    /// Stores what Meta answered about the lines of a WABA. Workers began to ask at `began`.
    async fn learn(
        &self,
        listed: &Lines,
        waba: &WabaId,
        answer: &Result<Vec<LineLimits>, GraphError>,
        began: Instant,
    ) -> Result<(), StoreError> {
        let lines = self.lines_of(listed, waba).await?;
        let learned: Vec<(LineId, LineAllowance)> = match answer {
            Ok(limits) => lines.into_iter().map(|line| (line.clone(), allowance_of(&line, limits))).collect(),
            Err(_) => {
                // The stored limits stay.
                let controls = self.store.controls(&lines).await?;
                let unasked =
                    lines.into_iter().zip(controls).filter(|(_, now)| now.allowance == LineAllowance::Unasked);
                unasked.map(|(line, _)| (line, LineAllowance::Unknown)).collect()
            }
        };
        let changed = self.store.put_allowances(&learned).await?;
        for ((line, allowance), _) in learned.iter().zip(changed).filter(|(_, changed)| *changed) {
            report(listed, line, *allowance);
        }
        if let Some(line) = listed.of_waba(waba).next() {
            self.learn_messaging_limit(&line.business, answer, began).await?;
        }
        if answer.is_ok() {
            self.store.allowances_were_read(waba, READ_EVERY).await?;
        }
        Ok(())
    }

    /// Stores the messaging limit of a business, as Meta answered about the lines of one of its WABAs.
    async fn learn_messaging_limit(
        &self,
        business: &BusinessId,
        answer: &Result<Vec<LineLimits>, GraphError>,
        began: Instant,
    ) -> Result<(), StoreError> {
        let reported = match answer {
            Ok(limits) => limits.iter().find_map(|line| line.messaging_limit.as_ref()?.parse().ok()),
            Err(error) if may_answer_later(error) && began.elapsed() < ANSWER_WITHIN => return Ok(()),
            Err(_) => None,
        };
        let known = self.store.messaging_limits().await?.remove(business);
        let limit = match (reported, known) {
            (Some(limit), Some(known)) if limit == known.limit => return Ok(()),
            (None, Some(_)) => return Ok(()),
            (Some(limit), _) => limit,
            (None, None) => {
                warn!(business.id = %business, "Meta reports no messaging limit for the business: it counts as unlimited");
                MessagingLimit::Unlimited
            }
        };
        info!(business.id = %business, %limit, "messaging limit");
        self.store.set_messaging_limit(business, KnownLimit { limit, since: self.clock.now() }).await
    }

    /// The lines of a WABA that any process lists.
    async fn lines_of(&self, listed: &Lines, waba: &WabaId) -> Result<Vec<LineId>, StoreError> {
        let known = self.store.known_lines().await?.into_iter().filter(|(_, owner)| owner == waba);
        let own = listed.of_waba(waba).map(|line| line.id.clone());
        let lines: HashSet<LineId> = own.chain(known.map(|(line, _)| line)).collect();
        Ok(lines.into_iter().collect())
    }
}

/// Whether a later attempt may succeed. It cannot if the token lacks the permission, or if the answer is not from Meta.
fn may_answer_later(error: &GraphError) -> bool {
    match error {
        GraphError::Unreachable { .. } => true,
        // With an invalid token nothing can be sent either, so the limit may stay unknown until the token is replaced.
        GraphError::Refused { code, .. } if INVALID_TOKEN.contains(code) => true,
        GraphError::Refused { code, details, .. } => {
            matches!(policy::outcome(400, *code, details.clone()), Outcome::Throttled { .. } | Outcome::Retry { .. })
        }
        GraphError::NotMeta { .. } | GraphError::BadToken(_) => false,
    }
}

/// Logs what Meta allows on a line.
fn report(lines: &Lines, line: &LineId, allowance: LineAllowance) {
    let LineAllowance::Known(allowed) = allowance else { return };
    let configured = lines.by_id(line).and_then(|line| line.messages_per_second);
    match configured.filter(|configured| *configured > allowed) {
        Some(configured) => warn!(
            line.id = %line, allowed, configured,
            "Meta allows less on the line than its messages_per_second: lower it, or remove it so that the line follows Meta"
        ),
        None => info!(line.id = %line, allowed, "what Meta allows on the line"),
    }
}

/// What Meta allows on a line, by its answer about the WABA.
fn allowance_of(line: &LineId, limits: &[LineLimits]) -> LineAllowance {
    let of_line = limits.iter().find(|limits| limits.id == *line);
    of_line.map_or(LineAllowance::Unknown, |LineLimits { level, is_on_biz_app, .. }| {
        rules::rate::allowance(level.as_deref(), *is_on_biz_app)
    })
}
