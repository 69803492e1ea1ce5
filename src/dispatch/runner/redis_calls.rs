//! The Redis calls of a runner: which one is next, and what follows from its reply.

use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;
use tracing::{info, warn};

use super::{BackgroundTasks, IDLE_MAX, Runner, UnansweredClaim};
use crate::{
    dispatch::{
        backlog::Next,
        batch,
        calls::{ClaimReply, Refresh, Reply},
        message::Message,
    },
    domain::{Due, OnDoubt, PartId, Settled},
    redis::{
        StoreError,
        parts::{Claim, ClaimRequest, DoubtsEnded, ToSend},
    },
};

/// Maximum number of finished parts that are removed from the work of the line in one call.
const FINISHED_MAX: usize = 64;

/// How long a line with messages left to send gathers finished parts before it removes them.
const FINISH_WINDOW: Duration = Duration::from_millis(100);

/// Wait before the next call after Redis has failed.
const REDIS_PAUSE: Duration = Duration::from_millis(250);

/// Wait before another attempt to take over a part that cannot be taken over yet.
const TAKEOVER_RETRY: Duration = Duration::from_millis(250);

/// Minimum time between two refreshes, per campaign of the line. A refresh reads the state of every campaign, and every
/// campaign that ends calls for a refresh: a thousand campaigns would keep Redis busy with nothing else.
const REFRESH_PAUSE: Duration = Duration::from_micros(250);

impl Runner {
    /// The next call to Redis, if one is due.
    pub(super) fn next_call(&mut self, now: Instant) -> Option<LocalBoxFuture<'static, Reply>> {
        if self.redis_retry_at.is_some_and(|at| now < at) {
            return None;
        }
        if !self.finished.is_empty() {
            let at = *self.finish_at.get_or_insert(now + FINISH_WINDOW);
            if now >= at || self.ready.is_empty() || self.finished.len() >= FINISHED_MAX {
                return Some(self.calls.finish(self.finished.iter().copied().take(FINISHED_MAX).collect()));
            }
        }
        if let Some(&part) = self.expired.iter().next() {
            return Some(self.calls.expire(part));
        }
        if let Some(UnansweredClaim { part, .. }) = self.unanswered_claim {
            return Some(self.claim(part, 0));
        }
        if self.stopping {
            return None;
        }
        // A refresh goes first even if many messages are ready: their campaign may have been paused, and then they
        // are given back.
        if self.refresh_at.take_if(|at| now >= *at).is_some() {
            return Some(self.calls.refresh(self.backlog.campaigns().collect()));
        }
        let rows = batch::claim_rows(self.pacer.rate());
        if self.ready.len() >= rows {
            self.claim_at = None;
            return None;
        }
        let at = *self.claim_at.get_or_insert_with(|| self.setup.shard.next_tick(now));
        if now < at && batch::can_wait(self.pacer.rate(), self.ready.len()) {
            return None;
        }
        if self.idle_until.is_some_and(|at| now < at) {
            return None;
        }
        let clock = self.setup.clock.now();
        let held = self.line_is_held(clock);
        self.held_since = (held || self.path.is_stopped()).then(|| self.held_since.unwrap_or(now));
        self.metrics.held_seconds.set(self.held_since.map_or(0.0, |since| now.duration_since(since).as_secs_f64()));
        let may_claim = !held
            && !self.path.is_stopped()
            && self.reachable_at.is_none_or(|at| now >= at)
            && self.setup.lease.is_valid(now);
        let holds = self.held_scopes(clock);
        match self.backlog.next(clock, may_claim, |template| holds.contains(template)) {
            Next::Inspect(part) => Some(self.claim(part, 0)),
            Next::Claim(part) => Some(self.claim(part, rows)),
            Next::EndDoubts(part) => {
                let campaign = self.backlog.campaign(part.campaign)?;
                let attempts_max = match campaign.plan.campaign.on_doubt {
                    OnDoubt::Hold => 0,
                    OnDoubt::Resend => self.setup.settings.retry.attempts_max(),
                };
                Some(self.calls.end_doubts(part, attempts_max))
            }
            Next::Wait(due) => {
                let wait = due.map_or(IDLE_MAX, |due| due.wait(clock).min(IDLE_MAX)).max(Duration::from_millis(1));
                let reachable = self.reachable_at.filter(|at| *at > now);
                self.idle_until = Some(reachable.map_or(now + wait, |at| at.min(now + wait)));
                None
            }
        }
    }

    pub(super) fn apply_reply(&mut self, reply: Reply, background: &mut BackgroundTasks) {
        let now = self.setup.clock.now();
        (self.idle_until, self.redis_retry_at) = (None, None);
        match reply {
            Reply::Refreshed(Ok(refresh)) => self.refreshed(refresh),
            Reply::Refreshed(Err(error)) => {
                self.refresh_at = Some(Instant::now());
                self.redis_failed("the work of the line could not be read", &error);
            }
            Reply::Claimed(part, Ok(ClaimReply::Claim(claim, messages))) => self.claimed(part, claim, messages),
            Reply::Claimed(part, Ok(ClaimReply::Unreadable(rows, error))) => {
                self.redis_failed("recipients could not be read", &error);
                self.return_rows(part, rows);
            }
            Reply::Claimed(part, Err(error)) => {
                // Redis may have made the claim all the same.
                if !matches!(error, StoreError::NotApplied(_) | StoreError::Login(_)) {
                    self.unanswered_claim.get_or_insert(UnansweredClaim { part, number: self.claims });
                }
                // An error that a retry does not fix must not delay the stop.
                if self.stopping && !error.is_transient() {
                    self.unanswered_claim = None;
                }
                self.redis_failed("rows could not be claimed", &error);
            }
            Reply::DoubtsEnded(part, Ok(DoubtsEnded { next, open })) => {
                self.backlog.set_doubt(part, next);
                self.backlog.note_due(part, Due::At(now));
                if open == 0 {
                    self.finished.insert(part);
                }
            }
            Reply::DoubtsEnded(_, Err(error)) => self.redis_failed("doubts could not be ended", &error),
            Reply::Expired(part, Ok(open)) => {
                self.expired.remove(&part);
                self.backlog.suspend(part);
                if open == 0 {
                    self.finished.insert(part);
                }
            }
            Reply::Expired(_, Err(error)) => self.redis_failed("recipients could not be expired", &error),
            Reply::Finished(parts, Ok(())) => {
                self.finish_at = None;
                // Only the last line of the shard with parts of a campaign tries to complete it. Otherwise a thousand
                // lines would try.
                let mut ended = Vec::new();
                for part in parts {
                    self.finished.remove(&part);
                    if self.backlog.remove(part) {
                        ended.push(part.campaign);
                    }
                }
                if !ended.is_empty() {
                    background.push(self.calls.complete(ended));
                }
            }
            Reply::Finished(_, Err(error)) => self.redis_failed("parts could not be finished", &error),
        }
    }

    pub(super) fn redis_failed(&mut self, what: &'static str, error: &StoreError) {
        if !std::mem::replace(&mut self.redis_failing, true) {
            warn!(line.id = %self.setup.line.id, %error, "{what}");
        }
        self.redis_retry_at = Some(Instant::now() + REDIS_PAUSE);
    }

    fn claim(&mut self, part: PartId, limit: usize) -> LocalBoxFuture<'static, Reply> {
        self.claims += 1;
        let now = self.setup.clock.now();
        let request = ClaimRequest {
            epoch: self.setup.lease.epoch,
            number: self.claims,
            now,
            limit,
            doubt_until: now.after(self.setup.settings.doubt_deadline),
            unanswered: self.unanswered_claim.map(|claim| claim.number),
            // The grace period is one lease: in that time, a worker that had the line before notices that Redis
            // restarted, or its lease ends and it stops.
            in_grace_period: self.setup.store.in_grace_period(self.setup.settings.lease),
        };
        self.calls.claim(part, request, self.backlog.plan(part.campaign))
    }

    fn claimed(&mut self, part: PartId, claim: Claim, messages: Vec<Message>) {
        match claim {
            Claim::Rows { next_due, next_doubt, fresh, open, lost, .. } => {
                self.redis_failing = false;
                self.give_back_lost(part, lost);
                self.backlog.claimed(part, messages.len(), fresh > 0, next_due, next_doubt);
                self.ready.extend(messages);
                if open == 0 {
                    self.finished.insert(part);
                }
                if self.stopping || self.path.is_stopped() {
                    self.give_back(|_| true);
                } else {
                    self.give_back_held();
                }
            }
            Claim::Held { next_doubt, open, lost } => {
                self.give_back_lost(part, lost);
                self.backlog.suspend(part);
                self.backlog.set_doubt(part, next_doubt);
                if open == 0 {
                    self.finished.insert(part);
                }
            }
            // Only this runner claims in this epoch, so this is a claim of its own that a newer one overtook. The
            // reply to the newer one counts.
            Claim::Late => {}
            Claim::InGracePeriod => {
                // Redis has no claim of this epoch in the part, so a claim without a reply left nothing in flight.
                self.unanswered_claim = None;
                self.backlog.inspect_again(part, self.setup.clock.now().after(TAKEOVER_RETRY));
            }
            Claim::Expired { lost } => {
                self.give_back_lost(part, lost);
                self.expired.insert(part);
            }
            Claim::Fenced { epoch, lost } => {
                warn!(line.id = %self.setup.line.id, epoch, "another worker has the line");
                self.give_back_lost(part, lost);
                self.setup.lease.lost();
            }
        }
    }

    /// Gives back the rows of a claim whose reply was lost. They were certainly not sent.
    fn give_back_lost(&mut self, part: PartId, lost: Vec<ToSend>) {
        self.unanswered_claim = None;
        if !lost.is_empty() {
            info!(line.id = %self.setup.line.id, part = %part, n = lost.len(), "rows of a claim without a reply were \
                given back");
        }
        self.return_rows(part, lost);
    }

    fn return_rows(&mut self, part: PartId, rows: Vec<ToSend>) {
        for ToSend { claimed, .. } in rows {
            self.queue_outcome(part, claimed, Settled::Back { at: Due::AtOnce });
        }
    }

    fn refreshed(&mut self, refresh: Refresh) {
        for plan in refresh.new {
            self.backlog.add(&self.setup.line.waba, plan);
        }
        self.backlog.set_parts(&refresh.parts);
        self.refresh_not_before = Instant::now() + REFRESH_PAUSE * self.backlog.campaigns().count() as u32;
        for (id, running) in &refresh.running {
            if let Some(work) = self.backlog.campaign(*id) {
                work.running = *running;
            }
        }
        self.give_back(|ready| refresh.running.get(&ready.part().campaign) != Some(&true));
    }
}
