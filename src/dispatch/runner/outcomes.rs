//! What attempts end in: what follows from it for the line, and how it is gathered to be settled.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{Attempt, Chores, Gathered, Runner};
use crate::{
    dispatch::{
        batch,
        calls::OutcomesByPart,
        path::Found,
        settle::{self, Consequence},
    },
    domain::{
        CampaignId, CampaignState, Cause, ErrorScope, Hold, HoldScope, Outcome, PartId, UnixMs, campaign::PauseReason,
        policy,
    },
    graph::management::GraphError,
    redis::{
        StoreError,
        parts::{ClaimedRow, Settled},
    },
    telemetry::metrics,
};

/// A question to Meta whether the path works is given up after this time: reads are answered well within a second.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Meta out of reach: first and longest wait of the line.
const UNREACHABLE_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

impl Runner {
    pub(super) fn attempt_ended(
        &mut self,
        ended: Attempt<Outcome>,
        instant: Instant,
        now: UnixMs,
        chores: &mut Chores,
    ) {
        let Attempt { part, claimed, number, began, outcome } = ended;
        self.metrics.attempt(&outcome, instant - began);
        let room = self.setup.shard.room();
        self.slots.ended(instant, room);
        let (settled, consequence) = settle::settle(&outcome, number, now, rand::random(), &self.setup.settings);
        if let Some(Cause::Meta { code, .. }) = settle::cause(&outcome) {
            metrics::meta_error(*code, policy::rule(*code).is_some());
        }
        if let Some(cause @ (Cause::Meta { .. } | Cause::Unanswered(_))) = settle::cause(&outcome)
            && self.noted.insert((part, cause.code()))
        {
            let (store, code, details) = (self.setup.store.clone(), cause.code(), cause.details().to_owned());
            chores.push(Box::pin(async move {
                if let Err(error) = store.note_details(part, code, &details).await {
                    warn!(part = %part, code, %error, "what Meta said could not be kept");
                }
            }));
        }
        self.path_tells(&outcome, began, instant);
        if consequence != Consequence::Unreachable {
            (self.unreachable, self.reachable_at) = (0, None);
        }
        match &consequence {
            Consequence::None => {}
            Consequence::Slower => self.pacer.throttled(instant),
            Consequence::Unreachable => self.unreachable_now(instant, &outcome),
            Consequence::Hold { scope, wait } => self.hold(*scope, *wait, part.campaign, &outcome, chores),
            Consequence::CountFailure { pause_after } => {
                self.count_failure(part.campaign, *pause_after, &outcome, chores);
            }
        }
        if matches!(settled, Settled::Accepted(_)) {
            self.accepted += 1;
            self.slots.accepted(began, instant, self.pacer.rate(), room);
            self.setup.shard.accepted(instant - began);
            if let Some(work) = self.backlog.campaign(part.campaign) {
                work.failing = (0, 0);
            }
        }
        self.put(part, claimed, settled);
    }

    /// What an attempt tells of the path to Meta; where it is broken, nothing more is sent.
    fn path_tells(&mut self, outcome: &Outcome, began: Instant, now: Instant) {
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

    /// While the path to Meta is broken: asks Meta about the line from time to time, and goes on when it answers.
    pub(super) fn tend_path(&mut self, now: Instant, chores: &mut Chores) {
        if self.stopping || !self.path.is_stopped() {
            return;
        }
        let question = self.setup.shard.questions.of(&self.setup.line.waba);
        if let Some(found) = question.found()
            && self.path.learn(found, now, rand::random())
        {
            info!(line.id = %self.setup.line.id, "meta answers again: one message is sent before the others");
            self.idle_until = None;
        }
        if self.path.ask_at().is_some_and(|at| now >= at)
            && let Some(asked) = question.ask()
        {
            let (graph, line, stop) = (self.setup.graph.clone(), self.setup.line.clone(), self.setup.stop.clone());
            chores.push(Box::pin(async move {
                let answer = tokio::time::timeout(QUESTION_TIMEOUT, graph.line(&line.id, &line.token));
                // Nobody waits for it to stop.
                let Some(answer) = stop.run_until_cancelled(answer).await else { return };
                // A refusal is an answer too.
                let answers = matches!(answer, Ok(Ok(_) | Err(GraphError::Refused { .. })));
                asked.found(Found { at: Instant::now(), answers });
            }));
        }
    }

    /// Keeps an outcome until it is settled.
    pub(super) fn put(&mut self, part: PartId, claimed: ClaimedRow, settled: Settled) {
        match settled {
            Settled::Retry { at, .. } | Settled::Back { at } => {
                self.backlog.due(part, at);
                self.idle_until = None;
            }
            Settled::InDoubt { until } => {
                self.backlog.doubt(part, until);
                self.idle_until = None;
            }
            Settled::Accepted(_) | Settled::Refused { .. } => {}
        }
        self.gather(part).push((claimed, settled));
    }

    /// The outcomes of a part that are still to be settled.
    pub(super) fn gather(&mut self, part: PartId) -> &mut Vec<(ClaimedRow, Settled)> {
        let (shard, pacer) = (&self.setup.shard, &self.pacer);
        let begin = || {
            let gathered_at = Instant::now() + batch::settle_window(pacer.rate());
            Gathered { due: shard.next_tick(gathered_at), outcomes: Vec::new() }
        };
        &mut self.outcomes.entry(part).or_insert_with(begin).outcomes
    }

    pub(super) fn unreachable_now(&mut self, now: Instant, outcome: &Outcome) {
        if self.reachable_at.is_some_and(|at| now < at) {
            return; // one of those that were on their way together
        }
        let (first, longest) = UNREACHABLE_PAUSE;
        let pause = (first * 2u32.saturating_pow(self.unreachable.min(16))).min(longest);
        self.unreachable = self.unreachable.saturating_add(1);
        self.reachable_at = Some(now + pause);
        let cause = settle::cause(outcome).map_or("", |cause| cause.details());
        warn!(line.id = %self.setup.line.id, pause_ms = pause.as_millis() as u64, cause, "meta can not be reached");
        self.give_back(|_| true);
    }

    fn hold(
        &mut self,
        scope: ErrorScope,
        wait: Option<Duration>,
        campaign: CampaignId,
        outcome: &Outcome,
        chores: &mut Chores,
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
                return self.pause_campaign(campaign, outcome, chores);
            }
        };
        let (code, details) = settle::cause(outcome).map_or((0, ""), |cause| (cause.code(), cause.details()));
        let since = self.setup.clock.now();
        let hold = Hold { code, reason: details.to_owned(), since, until: wait.map(|wait| since.after(wait)) };
        if self.holds.find(held.clone(), hold.clone(), Instant::now()) {
            warn!(line.id = %line.id, scope = %held, code, reason = details, "held back");
            let store = self.setup.store.clone();
            chores.push(Box::pin(async move {
                // If Redis is away now, the next attempt meets the same answer and tries again.
                if let Err(error) = store.hold(&held, &hold).await {
                    warn!(scope = %held, %error, "the hold could not be stored");
                }
            }));
        }
        self.give_back_held();
    }

    /// Counts the recipients in a row who failed with one code that blames the message; `pause_after` of them pause the
    /// campaign.
    fn count_failure(&mut self, campaign: CampaignId, pause_after: u32, outcome: &Outcome, chores: &mut Chores) {
        let code = settle::cause(outcome).map_or(0, crate::domain::Cause::code);
        let Some(work) = self.backlog.campaign(campaign) else { return };
        let before = if work.failing.0 == code { work.failing.1 } else { 0 };
        work.failing = (code, before + 1);
        if before + 1 >= pause_after {
            self.pause_campaign(campaign, outcome, chores);
        }
    }

    fn pause_campaign(&mut self, id: CampaignId, outcome: &Outcome, chores: &mut Chores) {
        let Some(work) = self.backlog.campaign(id) else { return };
        if !std::mem::take(&mut work.running) {
            return;
        }
        let (code, details) = settle::cause(outcome).map_or((0, ""), |cause| (cause.code(), cause.details()));
        // Whoever resumes it may have mended it: counting begins anew.
        work.failing = (0, 0);
        let reason = PauseReason { code, details: details.to_owned() };
        warn!(campaign.id = %id, code, reason = details, "campaign paused: its message can not be sent");
        let (store, now) = (self.setup.store.clone(), self.setup.clock.now());
        chores.push(Box::pin(async move {
            let from = [CampaignState::Running];
            if let Err(error) = store.change_campaign(id, &from, CampaignState::Paused, now, Some(&reason)).await {
                warn!(campaign.id = %id, %error, "the pause could not be stored");
            }
        }));
        self.give_back(|ready| ready.part().campaign == id);
    }

    /// Outcomes to be settled now, if it is time.
    pub(super) fn outcomes_to_settle(&mut self, now: Instant, in_flight: usize) -> Option<OutcomesByPart> {
        if self.outcomes.is_empty() || self.redis_again_at.is_some_and(|at| now < at) {
            return None;
        }
        let many = self.outcomes.values().map(|gathered| gathered.outcomes.len()).sum::<usize>() >= batch::ROWS_MAX;
        let last = self.ready.is_empty() && in_flight == 0;
        let all = many || last || self.stopping;
        // Each part for itself: what is claimed of a small one at once is settled at once, and not cut by the window of another.
        let due = self.outcomes.extract_if(.., |_, gathered| all || now >= gathered.due);
        let due: OutcomesByPart = due.map(|(part, gathered)| (part, gathered.outcomes)).collect();
        (!due.is_empty()).then_some(due)
    }

    pub(super) fn settled(&mut self, outcomes: OutcomesByPart, result: Result<Vec<(PartId, u64)>, StoreError>) {
        match result {
            Ok(open) => {
                (self.redis_again_at, self.redis_failing) = (None, false);
                self.finished.extend(open.into_iter().filter(|(_, open)| *open == 0).map(|(part, _)| part));
            }
            Err(error) => {
                // Settling twice changes nothing, so that what may have been settled is settled again.
                self.redis_failed("outcomes could not be settled", &error);
                for (part, settled) in outcomes {
                    self.gather(part).extend(settled);
                }
            }
        }
    }
}
