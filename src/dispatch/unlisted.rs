//! Unlisted lines: lines with work that no live worker lists. No runner finishes their work, so housekeeping does.
//!
//! It logs such a line once, puts the rows that the last owner left in flight in doubt, and ends doubts at their
//! deadline. Unsent rows wait until the line is listed again, or the campaign is cancelled or expires.
//!
//! If the process dies: the next worker with the duty of housekeeping starts again.
//! Never: sends, or claims rows.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::roster::Roster;
use crate::{
    domain::{LineId, OnDoubt, State, UnixMs},
    redis::{
        Result, Store,
        clock::Clock,
        lines::LeaseTarget,
        parts::ClaimRequest,
        registry::{OpenPart, UNLISTED_REMEDY},
    },
    telemetry::metrics::HousekeepingMetrics,
};

/// How often unlisted lines are looked for.
const EVERY: Duration = Duration::from_secs(1);

/// How often the registry of lines is cleaned up.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// The maintenance of unlisted lines.
pub struct UnlistedLines {
    /// The name of the worker.
    pub name: String,
    /// Redis.
    pub store: Store,
    /// The clock of Redis.
    pub clock: Arc<Clock>,
    /// How long a line belongs to one worker without renewal.
    pub lease: Duration,
    /// How long a message may stay in doubt.
    pub doubt_deadline: Duration,
    /// Maximum number of attempts for a message in doubt, if its campaign wants such messages sent again.
    pub attempts_max: u8,
    /// Where the number of unlisted lines is published.
    pub metrics: HousekeepingMetrics,
    roster: Roster,
    /// Unlisted lines: since when, and whether they were logged.
    since: HashMap<LineId, (Instant, bool)>,
    checked_at: Option<Instant>,
    tidied_at: Option<Instant>,
}

impl UnlistedLines {
    /// Starts without any line.
    pub fn new(
        name: String,
        store: Store,
        clock: Arc<Clock>,
        lease: Duration,
        doubt_deadline: Duration,
        attempts_max: u8,
        metrics: HousekeepingMetrics,
    ) -> Self {
        let (roster, since, checked_at, tidied_at) = Default::default();
        Self { name, store, clock, lease, doubt_deadline, attempts_max, metrics, roster, since, checked_at, tidied_at }
    }

    /// Maintains the unlisted lines, if that is due.
    pub async fn maintain(&mut self) -> Result<()> {
        if self.checked_at.is_some_and(|at| at.elapsed() < EVERY) {
            return Ok(());
        }
        self.checked_at = Some(Instant::now());
        let now = self.clock.now();
        if self.tidied_at.is_none_or(|at| at.elapsed() >= TIDY_EVERY) {
            self.tidied_at = Some(Instant::now());
            self.store.tidy_registry(now).await?;
        }
        let workers = self.store.live_workers(now).await?;
        if !workers.contains(&self.name) {
            // Redis was unavailable for so long that heartbeats have expired: live workers are missing until their next
            // one.
            return Ok(());
        }
        self.roster.refresh(&self.store, workers).await?;
        let work = self.store.open_parts(now, |line| !self.roster.is_listed(line)).await?;
        self.since.retain(|line, _| work.contains_key(line));
        self.metrics.publish_unlisted(work.len());
        for (line, parts) in work {
            let (since, reported) = *self.since.entry(line.clone()).or_insert((Instant::now(), false));
            // A live worker may be missing for up to a lease.
            if since.elapsed() < self.lease {
                continue;
            }
            if !reported {
                self.report(&line, &parts);
                self.since.insert(line.clone(), (since, true));
            }
            self.end_leftovers(&line, &parts, now).await?;
        }
        Ok(())
    }

    fn report(&self, line: &LineId, parts: &[OpenPart]) {
        let campaigns: BTreeSet<_> = parts.iter().map(|open| open.part.campaign).collect();
        let open: u64 = parts.iter().map(OpenPart::open).sum();
        warn!(
            line.id = %line,
            campaigns = campaigns.len(),
            recipients = open,
            remedy = UNLISTED_REMEDY,
            "no process lists a line that has work"
        );
    }

    /// Finishes what the last owner left in flight or in doubt.
    async fn end_leftovers(&self, line: &LineId, parts: &[OpenPart], now: UnixMs) -> Result<()> {
        if parts.iter().any(|open| open.count(State::InFlight) > 0) {
            self.take_over(line, parts, now).await?;
        }
        for open in parts.iter().filter(|open| open.count(State::InDoubt) > 0) {
            let attempts_max = match open.on_doubt {
                OnDoubt::Hold => 0,
                OnDoubt::Resend => self.attempts_max,
            };
            if self.store.end_doubts(open.part, now, attempts_max).await?.open == 0 {
                self.store.work_done(line, &[open.part]).await?;
            }
        }
        Ok(())
    }

    /// Acquires the lease for a short time, and takes over the parts as the next owner would, which puts the rows in
    /// flight in doubt.
    async fn take_over(&self, line: &LineId, parts: &[OpenPart], now: UnixMs) -> Result<()> {
        let right = LeaseTarget::Line(line.clone());
        let epochs = self.store.acquire(&[(right.clone(), None)], &self.name, self.lease).await?;
        let [Some(epoch)] = epochs[..] else { return Ok(()) };
        for open in parts.iter().filter(|open| open.count(State::InFlight) > 0) {
            let look = ClaimRequest {
                epoch,
                number: 1,
                now,
                limit: 0,
                doubt_until: now.after(self.doubt_deadline),
                unanswered: None,
                in_grace_period: self.store.in_grace_period(self.lease),
            };
            self.store.claim(open.part, &look).await?;
        }
        info!(line.id = %line, "rows that the last owner of an unlisted line left in flight are in doubt");
        self.store.release(&right, &self.name, epoch).await
    }
}
