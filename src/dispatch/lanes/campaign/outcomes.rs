//! Outcomes of attempts: their consequences for the campaign, and their settlement in batches.

use std::time::Instant;

use tracing::warn;

use super::{
    CampaignLane, CampaignUnit,
    backlog::FailureStreak,
    calls::{OfPeople, OutcomesByPart, Settlement},
};
use crate::{
    dispatch::{
        batch,
        lanes::settle::{self, SettleContext},
        line::state::LineState,
    },
    domain::{
        CampaignId, CampaignState, Cause, ClaimedRow, Due, ErrorScope, Outcome, PartId, PersonHash, Settled,
        campaign::PauseReason, policy,
    },
};

/// Outcomes of one part that are yet to be settled.
pub(super) struct PendingOutcomes {
    /// The tick at which they are settled at the latest.
    pub(super) due: Instant,
    outcomes: Vec<(ClaimedRow, Settled)>,
}

impl CampaignLane {
    /// Records the outcome of an attempt. Returns whether it paused the campaign.
    pub(super) fn attempt_ended(&mut self, unit: CampaignUnit, outcome: &Outcome, line: &LineState) -> bool {
        let CampaignUnit { part, claimed, attempt, to, trace, .. } = unit;
        if let Some(trace) = trace {
            trace.ended(outcome);
        }
        let now = line.clock.now();
        if outcome.cause().is_some_and(|cause| policy::stops_marketing(cause.reason())) {
            self.background.push(self.calls.stop_marketing(to, &self.token_key.get(), line));
        }
        if matches!(outcome, Outcome::Withheld(_)) {
            let person = PersonHash::of(to.into(), &self.token_key.get());
            self.withheld.push((person, now.after(policy::WITHHELD_FOR)));
        }
        let on_withheld = self.backlog.campaign(part.campaign).map(|work| work.plan.campaign.on_withheld);
        let on_withheld = on_withheld.unwrap_or_default();
        let context = SettleContext { attempt, on_withheld, now, jitter: rand::random() };
        let settled = settle::settled(outcome, context, &line.settings);
        self.store_details(part, outcome);
        self.queue_outcome(part, claimed, settled, line);
        match outcome {
            Outcome::Accepted { .. } => {
                if let Some(work) = self.backlog.campaign(part.campaign) {
                    work.failing = None;
                }
                false
            }
            Outcome::Failed { pause_after: Some(pause_after), .. } => {
                self.count_failure(part.campaign, *pause_after, outcome, line)
            }
            Outcome::Blocked { scope, .. } if concerns_campaign(*scope) => {
                self.pause_campaign(part.campaign, outcome, line)
            }
            Outcome::Blocked { .. }
            | Outcome::Failed { pause_after: None, .. }
            | Outcome::Throttled { .. }
            | Outcome::Retry { .. }
            | Outcome::Withheld(_)
            | Outcome::Rerouted(_)
            | Outcome::InDoubt(_) => false,
        }
    }

    /// Stores Meta's error text, once for each part and code.
    fn store_details(&mut self, part: PartId, outcome: &Outcome) {
        let Some(cause @ (Cause::Meta { .. } | Cause::Unanswered(_))) = outcome.cause() else { return };
        if !self.details_stored.insert((part, cause.reason())) {
            return;
        }
        let (store, reason, details) = (self.calls.store.clone(), cause.reason(), cause.details().to_owned());
        self.background.push(Box::pin(async move {
            if let Err(error) = store.note_details(part, reason, &details).await {
                warn!(part = %part, code = reason.code().map(|code| code.0), %error, "the error text of Meta could not be stored");
            }
        }));
    }

    /// Counts consecutive failures with the same code, which shows that the message is at fault. `pause_after` of them
    /// pause the campaign. Returns whether this one did.
    fn count_failure(&mut self, campaign: CampaignId, pause_after: u32, outcome: &Outcome, line: &LineState) -> bool {
        let Some(reason) = outcome.cause().map(Cause::reason) else { return false };
        let Some(work) = self.backlog.campaign(campaign) else { return false };
        let before = work.failing.filter(|streak| streak.reason == reason).map_or(0, |streak| streak.count);
        work.failing = Some(FailureStreak { reason, count: before + 1 });
        before + 1 >= pause_after && self.pause_campaign(campaign, outcome, line)
    }

    fn pause_campaign(&mut self, id: CampaignId, outcome: &Outcome, line: &LineState) -> bool {
        let Some(work) = self.backlog.campaign(id) else { return false };
        if !std::mem::take(&mut work.running) {
            return false;
        }
        let (code, details) = outcome.cause().map_or((None, ""), |cause| (cause.code(), cause.details()));
        // The message may be corrected before the campaign is resumed, so the count starts again.
        work.failing = None;
        let reason = PauseReason { code, details: details.to_owned() };
        warn!(campaign.id = %id, code = code.map(|code| code.0), reason = details, "campaign paused: its message cannot be sent");
        let (store, now) = (self.calls.store.clone(), line.clock.now());
        self.background.push(Box::pin(async move {
            let from = [CampaignState::Running];
            if let Err(error) = store.change_campaign(id, &from, CampaignState::Paused, now, Some(&reason)).await {
                warn!(campaign.id = %id, %error, "the pause could not be stored");
            }
        }));
        true
    }

    /// Returns a row that was certainly not sent, as if it had not been claimed.
    pub(super) fn return_row(&mut self, part: PartId, claimed: ClaimedRow, line: &LineState) {
        self.queue_outcome(part, claimed, Settled::Back { at: Due::AtOnce }, line);
    }

    /// Queues an outcome to be settled.
    pub(super) fn queue_outcome(&mut self, part: PartId, claimed: ClaimedRow, settled: Settled, line: &LineState) {
        self.places.ended((part, claimed), &settled);
        self.caps.ended((part, claimed), &settled);
        match settled {
            Settled::Retry { at, .. } | Settled::Withheld { at, .. } => {
                self.backlog.note_due(part, Due::At(at));
                self.idle_until = None;
            }
            Settled::Back { at } => {
                self.backlog.note_due(part, at);
                self.idle_until = None;
            }
            Settled::InDoubt { until } => {
                self.backlog.note_doubt(part, until);
                self.idle_until = None;
            }
            Settled::Accepted(_) | Settled::Held(_) | Settled::Refused { .. } | Settled::Skipped { .. } => {}
        }
        self.pending_outcomes(part, line).push((claimed, settled));
    }

    /// The queued outcomes of a part.
    fn pending_outcomes(&mut self, part: PartId, line: &LineState) -> &mut Vec<(ClaimedRow, Settled)> {
        let begin = || {
            let window_end = Instant::now() + batch::settle_window(line.rate());
            PendingOutcomes { due: line.shard.next_tick(window_end), outcomes: Vec::new() }
        };
        &mut self.outcomes.entry(part).or_insert_with(begin).outcomes
    }

    /// The number of queued outcomes.
    pub(super) fn queued_outcomes(&self) -> usize {
        self.outcomes.values().map(|pending| pending.outcomes.len()).sum()
    }

    /// The outcomes to settle now, if any are due.
    pub(super) fn outcomes_to_settle(&mut self, now: Instant, line: &LineState) -> Option<OutcomesByPart> {
        if self.outcomes.is_empty() {
            return None;
        }
        let many = self.queued_outcomes() >= batch::ROWS_MAX;
        let last = self.ready.is_empty() && self.in_flight == 0;
        let all = many || last || line.clearance.is_stopping();
        // Each part has its own window: the rows of a small part, claimed together, are settled together, and not
        // split by the window of another part.
        let due = self.outcomes.extract_if(.., |_, pending| all || now >= pending.due);
        let due: OutcomesByPart = due.map(|(part, pending)| (part, pending.outcomes)).collect();
        (!due.is_empty()).then_some(due)
    }

    /// Returns what ended attempts revealed about people, each fact once.
    pub(super) fn take_of_people(&mut self) -> OfPeople {
        OfPeople { unsent: self.caps.take_unsent(), withheld: std::mem::take(&mut self.withheld) }
    }

    pub(super) fn apply_settlement(&mut self, settlement: Settlement, line: &LineState) {
        let Settlement { outcomes, of_people, result } = settlement;
        match result {
            Ok(settled) => {
                (self.redis_retry_at, self.redis_failing) = (None, false);
                let finished = settled.iter().filter(|settled| settled.open == 0);
                self.finished.extend(finished.map(|settled| settled.part));
            }
            Err(error) => {
                // Settling is idempotent, so outcomes that may have been settled are settled again.
                self.redis_failed("outcomes could not be settled", &error, line);
                self.caps.not_given_back(of_people.unsent);
                self.withheld.extend(of_people.withheld);
                for (part, unsettled) in outcomes {
                    self.pending_outcomes(part, line).extend(unsettled);
                }
            }
        }
    }
}

/// Whether an error of this scope stops only the campaign. Errors of wider scopes set a hold.
fn concerns_campaign(scope: ErrorScope) -> bool {
    match scope {
        ErrorScope::Campaign | ErrorScope::Message | ErrorScope::Recipient | ErrorScope::Pair | ErrorScope::None => {
            true
        }
        ErrorScope::Template
        | ErrorScope::Line
        | ErrorScope::Waba
        | ErrorScope::Utility
        | ErrorScope::Country
        | ErrorScope::Business
        | ErrorScope::Token
        | ErrorScope::App
        | ErrorScope::Platform => false,
    }
}
