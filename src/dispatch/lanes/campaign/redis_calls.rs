//! Which call to Redis is next, and what follows from its reply.

use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;
use tracing::{info, warn};

use super::{
    CampaignLane, UnansweredClaim,
    backlog::Next,
    calls::{ClaimReply, Prepared, Refresh, Reply},
    message::Message,
    places::Allowance,
};
use crate::{
    dispatch::{batch, lanes::Lane as _, line::state::LineState},
    domain::{CampaignState, Due, OnDoubt, PartId},
    redis::{
        StoreError,
        marketing::{FrequencyCaps, MarketingMessage},
        message_ids::RowRef,
        parts::{Claim, ClaimRequest, DoubtsEnded, ToSend},
    },
};

/// Maximum number of finished parts that are removed from the work of the line in one call.
const FINISHED_MAX: usize = 64;

/// How long a line with messages left to send gathers finished parts before it removes them.
const FINISH_WINDOW: Duration = Duration::from_millis(100);

/// Wait before the next call after Redis has failed.
const REDIS_PAUSE: Duration = Duration::from_millis(250);

/// An idle lane looks for work at least this often, because holds end by the clock.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// Wait before another attempt to take over a part that cannot be taken over yet.
const TAKEOVER_RETRY: Duration = Duration::from_millis(250);

/// Minimum time between two refreshes, per campaign of the line. A refresh reads the state of every campaign, and every
/// campaign that ends calls for a refresh: a thousand campaigns would keep Redis busy with nothing else.
const REFRESH_PAUSE: Duration = Duration::from_micros(250);

impl CampaignLane {
    /// The next call to Redis, if one is due.
    pub(super) fn next_call(&mut self, now: Instant, line: &LineState) -> Option<LocalBoxFuture<'static, Reply>> {
        if !self.finished.is_empty() {
            let at = *self.finish_at.get_or_insert(now + FINISH_WINDOW);
            if now >= at || self.ready.is_empty() || self.finished.len() >= FINISHED_MAX {
                return Some(self.calls.finish(self.finished.iter().copied().take(FINISHED_MAX).collect(), line));
            }
        }
        if let Some(&part) = self.expired.iter().next() {
            return Some(self.calls.expire(part, line));
        }
        if let Some(UnansweredClaim { part, .. }) = self.unanswered_claim {
            return Some(self.claim(part, 0, None, line));
        }
        if line.clearance.is_stopping() {
            return None;
        }
        // A refresh goes first even if many messages are ready: their campaign may have been paused, and then they
        // are given back.
        if self.refresh_at.take_if(|at| now >= *at).is_some() {
            return Some(self.calls.refresh(self.backlog.plans_by(&line.settings.contact_hours.get()), line));
        }
        let rows = batch::claim_rows(line.rate());
        if self.ready.len() >= rows {
            self.claim_at = None;
            return None;
        }
        let at = *self.claim_at.get_or_insert_with(|| line.shard.next_tick(now));
        if now < at && batch::can_wait(line.rate(), self.ready.len()) {
            return None;
        }
        if self.idle_until.is_some_and(|at| now < at) {
            return None;
        }
        let clock = line.clock.now();
        if self.backlog.has_ceilings() {
            self.backlog.measure_room(self.ready.iter().map(|message| message.part().campaign), now, clock);
        }
        match self.backlog.next(clock, line.may_claim(now), |template| line.is_held(template, clock)) {
            Next::Inspect(part) => Some(self.claim(part, 0, None, line)),
            // Other processes may not have replayed yet which people got marketing, and from which Meta withheld it.
            Next::Claim(part)
                if self.backlog.is_marketing(part.campaign)
                    && self.calls.store.in_grace_period(line.settings.lease) =>
            {
                self.idle_until = Some(now + TAKEOVER_RETRY);
                None
            }
            Next::Claim(part) => {
                let rows = self.backlog.room(part.campaign).map_or(rows, |room| rows.min(room));
                match self.allowance(now, line) {
                    Allowance::Unlimited => Some(self.claim(part, rows, None, line)),
                    Allowance::Limited { messages, limit } => {
                        Some(self.claim(part, rows.min(messages), Some(limit), line))
                    }
                    Allowance::Ask { limit } => Some(self.calls.ask_places(limit, line)),
                    Allowance::None(until) => {
                        self.idle_until = Some(until.min(now + IDLE_MAX));
                        None
                    }
                }
            }
            Next::EndDoubts(part) => {
                let campaign = self.backlog.campaign(part.campaign)?;
                let attempts_max = match campaign.plan.campaign.on_doubt {
                    OnDoubt::Hold => 0,
                    OnDoubt::Resend => line.settings.retry.attempts_max(),
                };
                Some(self.calls.end_doubts(part, attempts_max, line))
            }
            Next::Wait(due) => {
                let wait = due.map_or(IDLE_MAX, |due| due.wait(clock).min(IDLE_MAX)).max(Duration::from_millis(1));
                self.idle_until = Some(line.paused_until(now).map_or(now + wait, |until| until.min(now + wait)));
                None
            }
        }
    }

    pub(super) fn apply_reply(&mut self, reply: Reply, line: &LineState) {
        let now = line.clock.now();
        (self.idle_until, self.redis_retry_at) = (None, None);
        match reply {
            Reply::Refreshed(Ok(refresh)) => self.refreshed(refresh, line),
            Reply::Refreshed(Err(error)) => {
                self.refresh_at = Some(Instant::now());
                self.redis_failed("the work of the line could not be read", &error, line);
            }
            Reply::Claimed(part, Ok(ClaimReply::Prepared(claim, prepared))) => {
                let Prepared { messages, barred, refused, places, counted } = prepared;
                self.note_counted(counted);
                if let Some(places) = places {
                    self.places.learned(places, Instant::now(), now);
                    for message in &messages {
                        self.places.took(message.row(), message.to.into());
                    }
                }
                self.claimed(part, claim, messages, line);
                for (claimed, settled) in barred {
                    self.queue_outcome(part, claimed, settled, line);
                }
                self.return_rows(part, refused, line);
            }
            Reply::Claimed(part, Ok(ClaimReply::Unprepared { rows, counted, error })) => {
                self.note_counted(counted);
                self.redis_failed("messages could not be prepared", &error, line);
                self.return_rows(part, rows, line);
            }
            Reply::Claimed(part, Err(error)) => {
                // Redis may have executed the claim.
                if !error.is_not_applied() {
                    self.unanswered_claim.get_or_insert(UnansweredClaim { part, number: self.claims });
                }
                // An error that a retry does not fix must not delay the stop.
                if line.clearance.is_stopping() && !error.is_transient() {
                    self.unanswered_claim = None;
                }
                self.redis_failed("rows could not be claimed", &error, line);
            }
            Reply::DoubtsEnded(part, Ok(DoubtsEnded { next, open })) => {
                self.backlog.set_doubt(part, next);
                self.backlog.note_due(part, Due::At(now));
                if open == 0 {
                    self.finished.insert(part);
                }
            }
            Reply::DoubtsEnded(_, Err(error)) => self.redis_failed("doubts could not be ended", &error, line),
            Reply::Expired(part, Ok(open)) => {
                self.expired.remove(&part);
                self.backlog.suspend(part);
                if open == 0 {
                    self.finished.insert(part);
                }
            }
            Reply::Expired(_, Err(error)) => self.redis_failed("recipients could not be expired", &error, line),
            Reply::Finished(parts, Ok(())) => {
                self.finish_at = None;
                // Only the last line of the shard with parts of a campaign tries to complete the campaign. Otherwise a
                // thousand lines would try.
                let mut ended = Vec::new();
                for part in parts {
                    self.finished.remove(&part);
                    if self.backlog.remove(part) {
                        ended.push(part.campaign);
                    }
                }
                if !ended.is_empty() {
                    self.background.push(self.calls.complete(ended, line));
                }
            }
            Reply::Finished(_, Err(error)) => self.redis_failed("parts could not be finished", &error, line),
            Reply::Places(Ok(places)) => self.places.learned(places, Instant::now(), now),
            Reply::Places(Err(error)) => self.redis_failed("the messaging limit could not be read", &error, line),
        }
    }

    pub(super) fn redis_failed(&mut self, what: &'static str, error: &StoreError, line: &LineState) {
        let is_new = !std::mem::replace(&mut self.redis_failing, true);
        if is_new && error.is_transient() {
            error.report(what);
        } else if is_new {
            warn!(line.id = %line.line.id, %error, "{what}");
        }
        self.redis_retry_at = Some(Instant::now() + REDIS_PAUSE);
    }

    fn note_counted(&mut self, counted: Vec<(RowRef, MarketingMessage)>) {
        for (row, message) in counted {
            self.caps.counted(row, message);
        }
    }

    /// The frequency caps that apply to the messages of a part.
    fn frequency_caps(&self, part: PartId, line: &LineState) -> Option<FrequencyCaps> {
        self.backlog.frequency_caps(part.campaign, line.line.frequency_cap)
    }

    /// How many messages may be claimed, as far as the messaging limit of the business goes.
    fn allowance(&self, now: Instant, line: &LineState) -> Allowance {
        match self.places.allowance(line.messaging_limit(), now) {
            Allowance::Unlimited => Allowance::Unlimited,
            // Other workers may not have replayed yet to which people they have sent.
            _ if self.calls.store.in_grace_period(line.settings.lease) => Allowance::None(now + TAKEOVER_RETRY),
            allowance => allowance,
        }
    }

    /// Claims at most `rows` rows. `limit`: the messaging limit of the business in people, if it has one.
    fn claim(
        &mut self,
        part: PartId,
        rows: usize,
        limit: Option<u32>,
        line: &LineState,
    ) -> LocalBoxFuture<'static, Reply> {
        self.claims += 1;
        let now = line.clock.now();
        let request = ClaimRequest {
            epoch: line.clearance.lease.epoch,
            number: self.claims,
            now,
            limit: rows,
            doubt_until: now.after(line.settings.doubt_deadline),
            unanswered: self.unanswered_claim.map(|claim| claim.number),
            // The grace period is one lease: in that time, a worker that had the line before notices that Redis
            // restarted, or its lease ends and it stops.
            in_grace_period: self.calls.store.in_grace_period(line.settings.lease),
        };
        let caps = self.frequency_caps(part, line);
        self.calls.claim(part, request, self.backlog.plan(part.campaign), caps, limit, line)
    }

    fn claimed(&mut self, part: PartId, claim: Claim, messages: Vec<Message>, line: &LineState) {
        match claim {
            Claim::Rows { next_due, next_doubt, fresh, open, lost, .. } => {
                self.redis_failing = false;
                self.give_back_lost(part, lost, line);
                self.backlog.claimed(part, messages.len(), fresh > 0, next_due, next_doubt);
                self.ready.extend(messages);
                if open == 0 {
                    self.finished.insert(part);
                }
                if line.keeps_claimed() {
                    self.give_back_stopped(line);
                } else {
                    self.give_back_ready(line);
                }
            }
            Claim::Held { next_doubt, open, lost } => {
                self.give_back_lost(part, lost, line);
                self.backlog.suspend(part);
                self.backlog.set_doubt(part, next_doubt);
                if open == 0 {
                    self.finished.insert(part);
                }
            }
            // Only this lane claims in this epoch, so a newer claim of this lane has overtaken this one. The reply to
            // the newer claim counts.
            Claim::Late => {}
            Claim::InGracePeriod => {
                // Redis has no claim of this epoch in the part, so a claim without a reply left nothing in flight.
                self.unanswered_claim = None;
                self.backlog.inspect_again(part, line.clock.now().after(TAKEOVER_RETRY));
            }
            Claim::Expired { lost } => {
                self.give_back_lost(part, lost, line);
                self.expired.insert(part);
            }
            Claim::Fenced { epoch, lost } => {
                warn!(line.id = %line.line.id, epoch, "another worker has the line");
                self.give_back_lost(part, lost, line);
                line.clearance.lease.lost();
            }
        }
    }

    /// Gives back the rows of a claim whose reply was lost. They were certainly not sent.
    fn give_back_lost(&mut self, part: PartId, lost: Vec<ToSend>, line: &LineState) {
        self.unanswered_claim = None;
        if !lost.is_empty() {
            info!(line.id = %line.line.id, part = %part, n = lost.len(), "rows of a claim without a reply were \
                given back");
        }
        self.return_rows(part, lost, line);
    }

    fn return_rows(&mut self, part: PartId, rows: Vec<ToSend>, line: &LineState) {
        for ToSend { claimed, .. } in rows {
            self.return_row(part, claimed, line);
        }
    }

    fn refreshed(&mut self, refresh: Refresh, line: &LineState) {
        for plan in refresh.new {
            self.backlog.add(&line.line.waba, plan, Instant::now());
        }
        self.backlog.set_parts(&refresh.parts);
        self.refresh_not_before = Instant::now() + REFRESH_PAUSE * self.backlog.n_campaigns() as u32;
        for (id, progress) in &refresh.progress {
            if let Some(work) = self.backlog.campaign(*id) {
                work.running = progress.state == Some(CampaignState::Running) && work.plan.is_supported;
            }
            if let Some(category) = &progress.category {
                self.backlog.set_category(*id, &line.line.waba, category);
            }
        }
        self.give_back_stopped(line);
    }
}
