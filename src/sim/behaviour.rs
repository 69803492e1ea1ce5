//! The current behaviour of a line: which fault a request meets, and how an accepted message is delivered.
//!
//! A [`Behaviour`] is immutable; applying a [`Change`] returns a new one.

use std::time::Duration;

use serde::Deserialize;

use super::{
    delay::{Delay, Draws},
    scenario::{Fault, Faults, Outage, Replies, Scenario, Statuses},
};
use crate::domain::State;

/// Latency, faults, outages, statuses and replies of a line.
#[derive(Clone)]
pub(super) struct Behaviour {
    pub(super) latency: Delay,
    pub(super) faults: Faults,
    outages: Vec<Outage>,
    /// The start of the times of outages, since the start of the simulator.
    outages_since: Duration,
    statuses: Statuses,
    pub(super) replies: Replies,
}

/// The body of `POST /sim/scenario`. Each part that is present replaces the current one entirely.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Change {
    /// The id of the line to change. Without it, all lines change.
    pub line: Option<String>,
    /// As in [`Scenario::latency`].
    pub latency: Option<Delay>,
    /// As in [`Scenario::faults`].
    pub faults: Option<Faults>,
    /// As in [`Scenario::statuses`].
    pub statuses: Option<Statuses>,
    /// As in [`Scenario::replies`].
    pub replies: Option<Replies>,
    /// As in [`Scenario::outages`], with times counted from the change.
    #[serde(rename = "outage")]
    pub outages: Option<Vec<Outage>>,
}

impl Change {
    /// All problems of the change; empty if it is valid.
    pub(super) fn problems(&self) -> Vec<String> {
        let faults = self.faults.as_ref().map(Faults::problems);
        let statuses = self.statuses.as_ref().map(Statuses::problems);
        let replies = self.replies.as_ref().map(Replies::problems);
        let outages = self.outages.as_ref().map(|outages| outages.iter().flat_map(Outage::problems).collect());
        [faults, statuses, replies, outages].into_iter().flatten().flatten().collect()
    }
}

impl Behaviour {
    pub(super) fn of(scenario: &Scenario) -> Self {
        Self {
            latency: scenario.latency,
            faults: scenario.faults.clone(),
            outages: scenario.outages.clone(),
            outages_since: Duration::ZERO,
            statuses: scenario.statuses.clone(),
            replies: scenario.replies.clone(),
        }
    }

    pub(super) fn changed(&self, change: &Change, now: Duration) -> Self {
        let mut next = self.clone();
        next.latency = change.latency.unwrap_or(next.latency);
        if let Some(faults) = &change.faults {
            next.faults = faults.clone();
        }
        if let Some(statuses) = &change.statuses {
            next.statuses = statuses.clone();
        }
        if let Some(replies) = &change.replies {
            next.replies = replies.clone();
        }
        if let Some(outages) = &change.outages {
            next.outages = outages.clone();
            next.outages_since = now;
        }
        next
    }

    /// The same behaviour, with the times of outages counted from `now`.
    pub(super) fn restarted_at(&self, now: Duration) -> Self {
        Self { outages_since: now, ..self.clone() }
    }

    /// The fault of the current outage, if there is one.
    pub(super) fn outage(&self, now: Duration) -> Option<Fault> {
        let since = now.saturating_sub(self.outages_since);
        self.outages
            .iter()
            .find(|outage| (outage.at..outage.at.saturating_add(outage.lasts)).contains(&since))
            .map(|outage| outage.fault)
    }

    /// The fault that a send meets, if any: that of the current outage, otherwise a random one.
    pub(super) fn fault(&self, now: Duration, draws: &mut Draws) -> Option<Fault> {
        self.outage(now).or_else(|| draws.pick(self.faults.odds()))
    }

    /// Draws the statuses of a message whose response is sent at `answered`.
    ///
    /// `forced`: the message fails with this code instead of a random one.
    pub(super) fn plan(
        &self,
        answered: Duration,
        held: Option<Held>,
        forced: Option<u32>,
        draws: &mut Draws,
    ) -> DeliveryPlan {
        let odds = &self.statuses;
        let mut plan = DeliveryPlan {
            state: State::Accepted,
            code: 0,
            first_before_answer: false,
            updates: Vec::new(),
            reached_at: None,
        };
        if let Some(Held::Paced(HeldUntil { at, dropped: Some(code) })) = held {
            plan.code = code;
            plan.add(State::Failed, at.max(answered));
            return plan;
        }
        if !draws.chance(odds.sent) {
            return plan;
        }
        let dropped = (held == Some(Held::Drawn) && draws.chance(self.faults.held_dropped)).then_some(132_015);
        let failed = forced.or(dropped).or_else(|| draws.pick(odds.failed.0.iter().map(|(code, p)| (*code, *p))));
        let sent_after = odds.sent_after.draw(draws);
        let mut at = match held {
            None => answered,
            Some(Held::Drawn) => answered + self.faults.held_for.draw(draws),
            Some(Held::Paced(until)) => until.at.max(answered),
        } + sent_after;
        if failed.is_none() || draws.chance(odds.sent_before_failed) {
            plan.add(State::Sent, at);
            at += if failed.is_some() { odds.failed_after } else { odds.delivered_after }.draw(draws);
        }
        if let Some(code) = failed {
            plan.code = code;
            plan.add(State::Failed, at);
            if let Some(failed) = plan.updates.last_mut() {
                failed.token = !draws.chance(odds.failed_without_token);
            }
            at += odds.delivered_after.draw(draws);
        }
        if draws.chance(if failed.is_some() { odds.delivered_after_failed } else { odds.delivered }) {
            let read = draws.chance(odds.read);
            if !(read && draws.chance(odds.read_without_delivered)) {
                plan.add(State::Delivered, at);
            }
            if read {
                at += odds.read_after.draw(draws);
                plan.add(State::Read, at);
            }
            plan.reached_at = Some(at);
        }
        self.disturb(&mut plan, draws);
        plan.first_before_answer = held.is_none() && draws.chance(odds.before_answer);
        plan
    }

    /// Swaps the delivery times of two adjacent statuses and adds duplicates. Timestamps stay correct.
    fn disturb(&self, plan: &mut DeliveryPlan, draws: &mut Draws) {
        let odds = &self.statuses;
        let updates = &mut plan.updates;
        if updates.len() > 1 && draws.chance(odds.disordered) {
            let first = draws.below(updates.len() - 1);
            (updates[first].due, updates[first + 1].due) = (updates[first + 1].due, updates[first].due);
            updates.swap(first, first + 1);
        }
        for index in 0..updates.len() {
            if draws.chance(odds.duplicated) {
                let due = updates[index].due + odds.duplicated_after.draw(draws);
                updates.push(Planned { due, duplicate: true, ..updates[index] });
            }
        }
    }
}

/// Why a message is held before Meta delivers or drops it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// By [`Fault::Held`].
    Drawn,
    /// By pacing.
    Paced(HeldUntil),
}

/// The end of a hold, since the start of the simulator.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct HeldUntil {
    pub(super) at: Duration,
    /// The code with which the message fails at that time; `None` if it is delivered.
    pub(super) dropped: Option<u32>,
}

/// The planned statuses of one accepted message. Times count from the start of the simulator.
pub(super) struct DeliveryPlan {
    /// The final state.
    pub(super) state: State,
    /// The code of the failure; 0 if there is none.
    pub(super) code: u32,
    /// The first update is delivered before the response to the send.
    pub(super) first_before_answer: bool,
    pub(super) updates: Vec<Planned>,
    /// The last status of a message that reaches the person.
    pub(super) reached_at: Option<Duration>,
}

/// One planned status of a message.
#[derive(Clone, Copy)]
pub(super) struct Planned {
    pub(super) status: State,
    /// The timestamp in the status.
    pub(super) at: Duration,
    /// When the status is delivered.
    pub(super) due: Duration,
    /// The status carries the callback data of its send.
    pub(super) token: bool,
    /// A duplicate of an earlier status.
    pub(super) duplicate: bool,
}

impl DeliveryPlan {
    /// When the message is delivered or read for the first time; `None` if it never is.
    pub(super) fn delivered_at(&self) -> Option<Duration> {
        let reaching = self.updates.iter().filter(|update| matches!(update.status, State::Delivered | State::Read));
        reaching.map(|update| update.at).min()
    }

    fn add(&mut self, status: State, at: Duration) {
        if status.rank() > self.state.rank() {
            self.state = status;
        }
        self.updates.push(Planned { status, at, due: at, token: true, duplicate: false });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plans(statuses: Statuses) -> Vec<DeliveryPlan> {
        let mut scenario = Scenario::named("calm").expect("it comes with the program");
        scenario.statuses = statuses;
        let behaviour = Behaviour::of(&scenario);
        (0..1_000)
            .map(|request| behaviour.plan(Duration::from_secs(1), None, None, &mut Draws::new(1, 0, request)))
            .collect()
    }

    fn statuses(plan: &DeliveryPlan) -> Vec<State> {
        plan.updates.iter().map(|update| update.status).collect()
    }

    #[test]
    fn a_plan_follows_the_odds_from_sent_to_read() {
        let all = plans(Statuses { delivered: 0.8, read: 0.5, ..Statuses::default() });
        let ended = |state| all.iter().filter(|plan| plan.state == state).count();
        assert!((150..250).contains(&ended(State::Sent)), "{}", ended(State::Sent));
        assert!((350..450).contains(&ended(State::Delivered)), "{}", ended(State::Delivered));
        assert!((350..450).contains(&ended(State::Read)), "{}", ended(State::Read));
        for plan in &all {
            assert!(plan.updates.windows(2).all(|pair| pair[0].due < pair[1].due && pair[0].at < pair[1].at));
        }
    }

    #[test]
    fn disorder_changes_when_statuses_travel_and_not_what_they_say() {
        for plan in plans(Statuses { disordered: 1.0, ..Statuses::default() }) {
            assert_eq!(statuses(&plan), [State::Delivered, State::Sent]);
            assert!(plan.updates[0].due < plan.updates[1].due);
            assert!(plan.updates[0].at > plan.updates[1].at);
        }
    }

    #[test]
    fn a_failed_message_may_be_delivered_after_all() {
        let failed = super::super::scenario::Odds([(131_026, 1.0)].into());
        for plan in plans(Statuses { failed: failed.clone(), ..Statuses::default() }) {
            assert_eq!(
                (plan.state, plan.code, statuses(&plan)),
                (State::Failed, 131_026, vec![State::Sent, State::Failed])
            );
        }
        let statuses_of_late = Statuses { failed, delivered_after_failed: 1.0, ..Statuses::default() };
        assert!(plans(statuses_of_late).iter().all(|plan| plan.state == State::Delivered));
    }

    #[test]
    fn a_duplicate_is_the_same_status_later() {
        for plan in plans(Statuses { duplicated: 1.0, ..Statuses::default() }) {
            let (first, duplicate) = plan.updates.split_at(2);
            for (first, duplicate) in first.iter().zip(duplicate) {
                assert_eq!((first.status, first.at, duplicate.duplicate), (duplicate.status, duplicate.at, true));
                assert!(duplicate.due > first.due);
            }
        }
    }
}
