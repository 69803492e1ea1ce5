//! What a runner asks of Redis next, and what follows from the answers.

use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;
use tracing::{info, warn};

use super::{Chores, IDLE_MAX, Runner};
use crate::{
    dispatch::{
        backlog::Next,
        batch,
        calls::{Claimed, Done, Refresh},
        message::Message,
        settle,
    },
    domain::{OnDoubt, PartId},
    redis::{
        StoreError,
        parts::{Claim, ClaimWish, Settled, ToSend},
    },
};

/// Parts that are taken off the work together at most, ...
const FINISHED_MAX: usize = 64;

/// ... for which a line that still has messages to send waits so long.
const FINISH_WINDOW: Duration = Duration::from_millis(100);

/// After Redis failed, the next try is that much later.
const REDIS_PAUSE: Duration = Duration::from_millis(250);

/// A part that can't be taken over yet is looked at again after this time.
const YOUNG_PAUSE: Duration = Duration::from_millis(250);

/// A reading asks for each campaign of the line, and each that ends asks for one: from one to the next there is so long for each
/// that is known, or a thousand campaigns would keep Redis busy with nothing else.
const REFRESH_PAUSE: Duration = Duration::from_micros(250);

impl Runner {
    /// The next thing to ask of Redis, if any.
    pub(super) fn next_call(&mut self, now: Instant) -> Option<LocalBoxFuture<'static, Done>> {
        if self.redis_again_at.is_some_and(|at| now < at) {
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
        if let Some((part, _)) = self.unanswered {
            return Some(self.claim(part, 0));
        }
        if self.stopping {
            return None;
        }
        // However many wait to be sent: their campaign may have been paused, and then they go back.
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
            && self.setup.lease.holds(now);
        let holds = self.held_scopes(clock);
        match self.backlog.next(clock, may_claim, |template| holds.contains(template)) {
            Next::Look(part) => Some(self.claim(part, 0)),
            Next::Claim(part) => Some(self.claim(part, rows)),
            Next::Doubts(part) => {
                let campaign = self.backlog.campaign(part.campaign)?;
                let attempts_max = match campaign.plan.campaign.on_doubt {
                    OnDoubt::Hold => 0,
                    OnDoubt::Resend => self.setup.settings.retry.attempts_max(),
                };
                Some(self.calls.end_doubts(part, attempts_max))
            }
            Next::Wait(due) => {
                let wait = due.map_or(IDLE_MAX, |due| due.since(clock).min(IDLE_MAX)).max(Duration::from_millis(1));
                let reachable = self.reachable_at.filter(|at| *at > now);
                self.idle_until = Some(reachable.map_or(now + wait, |at| at.min(now + wait)));
                None
            }
        }
    }

    pub(super) fn redis_answered(&mut self, done: Done, chores: &mut Chores) {
        let now = self.setup.clock.now();
        (self.idle_until, self.redis_again_at) = (None, None);
        match done {
            Done::Refreshed(Ok(refresh)) => self.refreshed(refresh),
            Done::Refreshed(Err(error)) => {
                self.refresh_at = Some(Instant::now());
                self.redis_failed("the work of the line could not be read", &error);
            }
            Done::Claimed(part, Ok(Claimed::Claim(claim, messages))) => self.claimed(part, claim, messages),
            Done::Claimed(part, Ok(Claimed::Unreadable(rows, error))) => {
                self.redis_failed("recipients could not be read", &error);
                self.put_back(part, rows);
            }
            Done::Claimed(part, Err(error)) => {
                // It may have been claimed all the same.
                if !matches!(error, StoreError::NotApplied(_) | StoreError::Login(_)) {
                    self.unanswered.get_or_insert((part, self.claims));
                }
                // Where asking again mends nothing, it keeps nobody from stopping.
                if self.stopping && !error.is_transient() {
                    self.unanswered = None;
                }
                self.redis_failed("nothing could be claimed", &error);
            }
            Done::Doubts(part, Ok((next, open))) => {
                self.backlog.set_doubt(part, next);
                self.backlog.due(part, now);
                if open == 0 {
                    self.finished.insert(part);
                }
            }
            Done::Doubts(_, Err(error)) => self.redis_failed("doubts could not be ended", &error),
            Done::Expired(part, Ok(open)) => {
                self.expired.remove(&part);
                self.backlog.shut(part);
                if open == 0 {
                    self.finished.insert(part);
                }
            }
            Done::Expired(_, Err(error)) => self.redis_failed("recipients could not be expired", &error),
            Done::Finished(parts, Ok(())) => {
                self.finish_at = None;
                // The last line of the thread that ends with a campaign asks whether it is done: were it each, a thousand would ask.
                let mut ended = Vec::new();
                for part in parts {
                    self.finished.remove(&part);
                    if self.backlog.remove(part) {
                        ended.push(part.campaign);
                    }
                }
                if !ended.is_empty() {
                    chores.push(self.calls.complete(ended));
                }
            }
            Done::Finished(_, Err(error)) => self.redis_failed("parts could not be finished", &error),
        }
    }

    pub(super) fn redis_failed(&mut self, what: &'static str, error: &StoreError) {
        if !std::mem::replace(&mut self.redis_failing, true) {
            warn!(line.id = %self.setup.line.id, %error, "{what}");
        }
        self.redis_again_at = Some(Instant::now() + REDIS_PAUSE);
    }

    fn claim(&mut self, part: PartId, limit: usize) -> LocalBoxFuture<'static, Done> {
        self.claims += 1;
        let now = self.setup.clock.now();
        let wish = ClaimWish {
            epoch: self.setup.lease.epoch,
            number: self.claims,
            now,
            limit,
            doubt_until: now.after(self.setup.settings.doubt_deadline),
            unanswered: self.unanswered.map_or(0, |(_, number)| number),
            // Another worker that had the line notices within a lease that Redis restarted, or stops.
            in_grace_period: self.setup.store.in_grace_period(self.setup.settings.lease),
        };
        self.calls.claim(part, wish, self.backlog.plan(part.campaign))
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
                self.backlog.shut(part);
                self.backlog.set_doubt(part, next_doubt);
                if open == 0 {
                    self.finished.insert(part);
                }
            }
            // Nobody else claims in this epoch: an older claim of this runner was still on its way, and a newer one is asked for.
            Claim::Late => {}
            Claim::Young => {
                // Redis knows of no claim of this epoch in the part: one without an answer left nothing in flight.
                self.unanswered = None;
                self.backlog.look_again(part, self.setup.clock.now().after(YOUNG_PAUSE));
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

    /// Gives back what a claim brought whose answer was lost: it was certainly not sent.
    fn give_back_lost(&mut self, part: PartId, lost: Vec<ToSend>) {
        self.unanswered = None;
        if !lost.is_empty() {
            info!(line.id = %self.setup.line.id, part = %part, n = lost.len(), "rows of a claim without an answer were given back");
        }
        self.put_back(part, lost);
    }

    fn put_back(&mut self, part: PartId, rows: Vec<ToSend>) {
        for ToSend { claimed, .. } in rows {
            self.put(part, claimed, Settled::Back { at: settle::AT_ONCE });
        }
    }

    fn refreshed(&mut self, refresh: Refresh) {
        for plan in refresh.new {
            self.backlog.add(&self.setup.line.waba, plan);
        }
        self.backlog.set_parts(&refresh.parts);
        self.refresh_from = Instant::now() + REFRESH_PAUSE * self.backlog.campaigns().count() as u32;
        for (id, running) in &refresh.running {
            if let Some(work) = self.backlog.campaign(*id) {
                work.running = *running;
            }
        }
        self.give_back(|ready| refresh.running.get(&ready.part().campaign) != Some(&true));
    }
}
