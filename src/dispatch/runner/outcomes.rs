//! Outcomes of attempts: their consequences for the line, and their settlement in batches.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{Attempt, BackgroundTasks, PendingOutcomes, Runner};
use crate::{
    dispatch::{
        backlog::FailureStreak,
        batch,
        calls::OutcomesByPart,
        path::ProbeResult,
        settle::{self, Consequence},
    },
    domain::{
        CampaignId, CampaignState, Cause, ClaimedRow, Due, ErrorScope, Hold, HoldScope, Outcome, PartId, Settled,
        UnixMs, campaign::PauseReason,
    },
    graph::management::GraphError,
    redis::{StoreError, parts::SettledPart},
    telemetry::metrics,
};

/// Timeout of a probe. Meta answers reads well within a second.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The first and the longest pause of the line while Meta is unreachable.
const UNREACHABLE_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

impl Runner {
    pub(super) fn attempt_ended(
        &mut self,
        ended: Attempt<Outcome>,
        instant: Instant,
        now: UnixMs,
        background: &mut BackgroundTasks,
    ) {
        let Attempt { part, claimed, number, began, outcome } = ended;
        self.metrics.attempt(&outcome, instant - began);
        let capacity = self.setup.shard.capacity();
        self.slots.ended(instant, capacity);
        let (settled, consequence) = settle::settle(&outcome, number, now, rand::random(), &self.setup.settings);
        if let Some(Cause::Meta { code, .. }) = settle::cause(&outcome) {
            metrics::meta_error(Some(*code));
        }
        if let Some(cause @ (Cause::Meta { .. } | Cause::Unanswered(_))) = settle::cause(&outcome)
            && self.details_stored.insert((part, cause.reason()))
        {
            let (store, reason, details) = (self.setup.store.clone(), cause.reason(), cause.details().to_owned());
            background.push(Box::pin(async move {
                if let Err(error) = store.note_details(part, reason, &details).await {
                    warn!(part = %part, code = reason.code().map(|code| code.0), %error, "the error text of meta could not be stored");
                }
            }));
        }
        self.update_path(&outcome, began, instant);
        if consequence != Consequence::Unreachable {
            (self.unreachable, self.reachable_at) = (0, None);
        }
        match &consequence {
            Consequence::None => {}
            Consequence::SlowDown => self.pacer.throttled(instant),
            Consequence::Unreachable => self.unreachable_now(instant, &outcome),
            Consequence::Hold { scope, wait } => self.hold(*scope, *wait, part.campaign, &outcome, background),
            Consequence::CountFailure { pause_after } => {
                self.count_failure(part.campaign, *pause_after, &outcome, background);
            }
        }
        if matches!(settled, Settled::Accepted(_)) {
            self.accepted += 1;
            self.slots.accepted(began, instant, self.pacer.rate(), capacity);
            self.setup.shard.accepted(instant - began);
            if let Some(work) = self.backlog.campaign(part.campaign) {
                work.failing = None;
            }
        }
        self.queue_outcome(part, claimed, settled);
    }

    /// Updates the health of the path to Meta by an outcome. If the path is broken, gives all messages back.
    fn update_path(&mut self, outcome: &Outcome, began: Instant, now: Instant) {
        let line = &self.setup.line.id;
        match settle::cause(outcome) {
            None | Some(Cause::Meta { .. }) => {
                if self.path.answered(now) {
                    info!(line.id = %line, "meta answers messages again");
                    self.idle_until = None;
                }
            }
            Some(Cause::Unreachable(_)) => self.path.not_written(began),
            Some(Cause::Unanswered(cause)) => {
                if let Some(pause) = self.path.unanswered(began, now, cause, rand::random()) {
                    warn!(
                        line.id = %line,
                        cause,
                        pause_ms = pause.as_millis() as u64,
                        "the path to meta is broken: the line sends nothing until meta answers; \
                         look at the proxy and the network, and at Meta's status page"
                    );
                    self.give_back(|_| true);
                }
            }
        }
    }

    /// While the path to Meta is broken: probes Meta when that is due, and applies the results.
    pub(super) fn probe_path(&mut self, now: Instant, background: &mut BackgroundTasks) {
        if self.stopping || !self.path.is_stopped() {
            return;
        }
        let probe = self.setup.shard.probes.get(&self.setup.line.waba);
        if let Some(result) = probe.result()
            && self.path.apply_probe(result, now, rand::random())
        {
            info!(line.id = %self.setup.line.id, "meta answers again: one message is sent before the others");
            self.idle_until = None;
        }
        if self.path.probe_at().is_some_and(|at| now >= at)
            && let Some(guard) = probe.start()
        {
            let (graph, line, stop) = (self.setup.graph.clone(), self.setup.line.clone(), self.setup.stop.clone());
            background.push(Box::pin(async move {
                let answer = tokio::time::timeout(PROBE_TIMEOUT, graph.line(&line.id, &line.token));
                // A stop does not wait for the probe.
                let Some(answer) = stop.run_until_cancelled(answer).await else { return };
                // A refusal by Meta is an answer too.
                let answered = matches!(answer, Ok(Ok(_) | Err(GraphError::Refused { .. })));
                guard.finish(ProbeResult { at: Instant::now(), answered });
            }));
        }
    }

    /// Queues an outcome to be settled.
    pub(super) fn queue_outcome(&mut self, part: PartId, claimed: ClaimedRow, settled: Settled) {
        match settled {
            Settled::Retry { at, .. } => {
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
            Settled::Accepted(_) | Settled::Refused { .. } => {}
        }
        self.pending_outcomes(part).push((claimed, settled));
    }

    /// The queued outcomes of a part.
    pub(super) fn pending_outcomes(&mut self, part: PartId) -> &mut Vec<(ClaimedRow, Settled)> {
        let (shard, pacer) = (&self.setup.shard, &self.pacer);
        let begin = || {
            let window_end = Instant::now() + batch::settle_window(pacer.rate());
            PendingOutcomes { due: shard.next_tick(window_end), outcomes: Vec::new() }
        };
        &mut self.outcomes.entry(part).or_insert_with(begin).outcomes
    }

    pub(super) fn unreachable_now(&mut self, now: Instant, outcome: &Outcome) {
        if self.reachable_at.is_some_and(|at| now < at) {
            return; // The attempt was in flight together with the one that started the pause.
        }
        let (first, longest) = UNREACHABLE_PAUSE;
        let pause = (first * 2u32.saturating_pow(self.unreachable.min(16))).min(longest);
        self.unreachable = self.unreachable.saturating_add(1);
        self.reachable_at = Some(now + pause);
        let cause = settle::cause(outcome).map_or("", |cause| cause.details());
        warn!(line.id = %self.setup.line.id, pause_ms = pause.as_millis() as u64, cause, "meta cannot be reached");
        self.give_back(|_| true);
    }

    fn hold(
        &mut self,
        scope: ErrorScope,
        wait: Option<Duration>,
        campaign: CampaignId,
        outcome: &Outcome,
        background: &mut BackgroundTasks,
    ) {
        let line = &self.setup.line;
        let held = match scope {
            ErrorScope::Line | ErrorScope::Platform => HoldScope::Line(line.id.clone()),
            ErrorScope::Waba => HoldScope::Waba(line.waba.clone()),
            ErrorScope::Token | ErrorScope::App => HoldScope::Token(line.waba.clone()),
            ErrorScope::Template => match self.backlog.campaign(campaign) {
                Some(work) => work.template.clone(),
                None => return,
            },
            ErrorScope::Campaign
            | ErrorScope::Message
            | ErrorScope::Recipient
            | ErrorScope::Pair
            | ErrorScope::None => {
                return self.pause_campaign(campaign, outcome, background);
            }
        };
        let (code, details) = settle::cause(outcome).map_or((None, ""), |cause| (cause.code(), cause.details()));
        let since = self.setup.clock.now();
        let hold = Hold { code, reason: details.to_owned(), since, until: wait.map(|wait| since.after(wait)) };
        if self.holds.add_local(held.clone(), hold.clone(), Instant::now()) {
            warn!(line.id = %line.id, scope = %held, code = code.map(|code| code.0), reason = details, "held back");
            let store = self.setup.store.clone();
            background.push(Box::pin(async move {
                // If this fails, the next attempt gets the same answer from Meta, and tries again.
                if let Err(error) = store.hold(&held, &hold).await {
                    warn!(scope = %held, %error, "the hold could not be stored");
                }
            }));
        }
        self.give_back_held();
    }

    /// Counts recipients in a row that failed with the same code, which blames the message. `pause_after` of them
    /// pause the campaign.
    fn count_failure(
        &mut self,
        campaign: CampaignId,
        pause_after: u32,
        outcome: &Outcome,
        background: &mut BackgroundTasks,
    ) {
        let Some(reason) = settle::cause(outcome).map(Cause::reason) else { return };
        let Some(work) = self.backlog.campaign(campaign) else { return };
        let before = work.failing.filter(|streak| streak.reason == reason).map_or(0, |streak| streak.count);
        work.failing = Some(FailureStreak { reason, count: before + 1 });
        if before + 1 >= pause_after {
            self.pause_campaign(campaign, outcome, background);
        }
    }

    fn pause_campaign(&mut self, id: CampaignId, outcome: &Outcome, background: &mut BackgroundTasks) {
        let Some(work) = self.backlog.campaign(id) else { return };
        if !std::mem::take(&mut work.running) {
            return;
        }
        let (code, details) = settle::cause(outcome).map_or((None, ""), |cause| (cause.code(), cause.details()));
        // The message may be corrected before the campaign is resumed, so the count starts again.
        work.failing = None;
        let reason = PauseReason { code, details: details.to_owned() };
        warn!(campaign.id = %id, code = code.map(|code| code.0), reason = details, "campaign paused: its message cannot be sent");
        let (store, now) = (self.setup.store.clone(), self.setup.clock.now());
        background.push(Box::pin(async move {
            let from = [CampaignState::Running];
            if let Err(error) = store.change_campaign(id, &from, CampaignState::Paused, now, Some(&reason)).await {
                warn!(campaign.id = %id, %error, "the pause could not be stored");
            }
        }));
        self.give_back(|ready| ready.part().campaign == id);
    }

    /// The outcomes to settle now, if any are due.
    pub(super) fn outcomes_to_settle(&mut self, now: Instant, in_flight: usize) -> Option<OutcomesByPart> {
        if self.outcomes.is_empty() || self.redis_retry_at.is_some_and(|at| now < at) {
            return None;
        }
        let many = self.outcomes.values().map(|pending| pending.outcomes.len()).sum::<usize>() >= batch::ROWS_MAX;
        let last = self.ready.is_empty() && in_flight == 0;
        let all = many || last || self.stopping;
        // Each part has its own window: the rows of a small part, claimed together, are settled together, and not
        // split by the window of another part.
        let due = self.outcomes.extract_if(.., |_, pending| all || now >= pending.due);
        let due: OutcomesByPart = due.map(|(part, pending)| (part, pending.outcomes)).collect();
        (!due.is_empty()).then_some(due)
    }

    pub(super) fn apply_settlement(&mut self, outcomes: OutcomesByPart, result: Result<Vec<SettledPart>, StoreError>) {
        match result {
            Ok(settled) => {
                (self.redis_retry_at, self.redis_failing) = (None, false);
                let finished = settled.iter().filter(|settled| settled.open == 0);
                self.finished.extend(finished.map(|settled| settled.part));
            }
            Err(error) => {
                // Settling is idempotent, so outcomes that may have been settled are settled again.
                self.redis_failed("outcomes could not be settled", &error);
                for (part, unsettled) in outcomes {
                    self.pending_outcomes(part).extend(unsettled);
                }
            }
        }
    }
}
