//! Work on lines that no worker lists any more: nobody would end it, and nobody would know of it.
//!
//! Such a line is reported, and what its last owner left is looked after as an owner would: rows in flight become in doubt,
//! doubts end at their deadline. What was not sent waits until the line is listed again or the campaign is cancelled or expires.
//!
//! If the process dies: the next worker that keeps house does the same again.
//! Never: sends, or claims for sending.

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
        lines::Right,
        parts::ClaimWish,
        registry::{OpenPart, UNLISTED_REMEDY},
    },
    telemetry::metrics,
};

/// How often lines are looked for that no worker lists.
const EVERY: Duration = Duration::from_secs(1);

/// How often the registry of lines is tidied.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// Looks after the lines that no worker lists.
pub struct Unlisted {
    /// The worker that does it.
    pub name: String,
    /// Redis.
    pub store: Store,
    /// Redis' time.
    pub clock: Arc<Clock>,
    /// How long a line belongs to one worker without renewal.
    pub lease: Duration,
    /// How long a message may stay in doubt.
    pub doubt_deadline: Duration,
    /// Attempts at most, where a campaign wants doubtful messages sent again.
    pub attempts_max: u8,
    roster: Roster,
    /// Lines with work that nobody lists, since when, and whether that was reported.
    since: HashMap<LineId, (Instant, bool)>,
    looked_at: Option<Instant>,
    tidied_at: Option<Instant>,
}

impl Unlisted {
    /// Nothing is known yet.
    pub fn new(
        name: String,
        store: Store,
        clock: Arc<Clock>,
        lease: Duration,
        doubt_deadline: Duration,
        attempts_max: u8,
    ) -> Self {
        let (roster, since, looked_at, tidied_at) = Default::default();
        Self { name, store, clock, lease, doubt_deadline, attempts_max, roster, since, looked_at, tidied_at }
    }

    /// Looks after such lines, if it is time.
    pub async fn tend(&mut self) -> Result<()> {
        if self.looked_at.is_some_and(|at| at.elapsed() < EVERY) {
            return Ok(());
        }
        self.looked_at = Some(Instant::now());
        let now = self.clock.now();
        if self.tidied_at.is_none_or(|at| at.elapsed() >= TIDY_EVERY) {
            self.tidied_at = Some(Instant::now());
            self.store.tidy_registry(now).await?;
        }
        let workers = self.store.living_workers(now).await?;
        if !workers.contains(&self.name) {
            // Redis was away for so long that living workers count as dead. They will register again.
            return Ok(());
        }
        self.roster.read(&self.store, workers).await?;
        let work = self.store.open_parts(now, |line| !self.roster.is_listed(line)).await?;
        self.since.retain(|line, _| work.contains_key(line));
        metrics::lines_unlisted().set(work.len() as f64);
        for (line, parts) in work {
            let (since, reported) = *self.since.entry(line.clone()).or_insert((Instant::now(), false));
            // Longer than a worker can be silent and live.
            if since.elapsed() < self.lease {
                continue;
            }
            if !reported {
                self.report(&line, &parts);
                self.since.insert(line.clone(), (since, true));
            }
            self.end(&line, &parts, now).await?;
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

    /// Ends what its last owner began.
    async fn end(&self, line: &LineId, parts: &[OpenPart], now: UnixMs) -> Result<()> {
        if parts.iter().any(|open| open.count(State::InFlight) > 0) {
            self.take_over(line, parts, now).await?;
        }
        for open in parts.iter().filter(|open| open.count(State::InDoubt) > 0) {
            let attempts_max = match open.on_doubt {
                OnDoubt::Hold => 0,
                OnDoubt::Resend => self.attempts_max,
            };
            let (_, left) = self.store.end_doubts(open.part, now, attempts_max).await?;
            if left == 0 {
                self.store.work_done(line, &[open.part]).await?;
            }
        }
        Ok(())
    }

    /// Takes the lease for a moment, as the next owner would, so that what is in flight becomes in doubt.
    async fn take_over(&self, line: &LineId, parts: &[OpenPart], now: UnixMs) -> Result<()> {
        let right = Right::Line(line.clone());
        let epochs = self.store.acquire(&[(right.clone(), 0)], &self.name, self.lease).await?;
        let [Some(epoch)] = epochs[..] else { return Ok(()) };
        for open in parts.iter().filter(|open| open.count(State::InFlight) > 0) {
            let look = ClaimWish {
                epoch,
                number: 1,
                now,
                limit: 0,
                doubt_until: now.after(self.doubt_deadline),
                unanswered: 0,
                in_grace_period: self.store.in_grace_period(self.lease),
            };
            self.store.claim(open.part, &look).await?;
        }
        info!(line.id = %line, "what the last owner of an unlisted line left in flight is in doubt");
        self.store.release(&right, &self.name, epoch).await
    }
}
