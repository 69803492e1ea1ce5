//! Checks of the promises on the part in Redis, independent of the model.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use pregon::domain::{FailureReason, SkipReason, State};

use super::{history::Fate, real::View, spec::send};

/// A row that was handed out to be sent.
#[derive(Clone, Debug)]
pub struct HandOut {
    pub claim: u32,
    pub epoch: u64,
    pub fate: Fate,
    /// The response was lost, so the row is not sent.
    pub lost: bool,
}

/// What a step reports or does that allows the rank of a row to fall.
#[derive(Debug, Default)]
pub struct Lowering {
    /// Row and number of each claim that certainly sent nothing.
    pub negative: Vec<(u16, u32)>,
    /// Claims whose message was certainly not delivered, according to Meta.
    pub returned: Vec<(u16, u32)>,
    /// All claims that the step reports about.
    pub claims: Vec<(u16, u32)>,
    /// The step may have ended doubts with another attempt.
    pub resends: bool,
    /// The step may have reopened rows for a retry of the campaign.
    pub retries: bool,
}

/// Checks a part after each step.
pub struct Watch {
    recipients: u64,
    pub before: View,
    /// The retention of the recipients has ended, so the rows' error codes are deleted.
    pub recipients_forgotten: bool,
    pub hand_outs: BTreeMap<u16, Vec<HandOut>>,
    /// Rows with a fact about a claim that was never made.
    pub unmade: BTreeSet<u16>,
    /// The last claim of each row that certainly sent nothing. The same is true of its earlier claims.
    negative: BTreeMap<u16, u32>,
    /// Rows that were sent again after a doubt.
    resent: BTreeSet<u16>,
    /// The last claim of each row when a retry of the campaign reopened it.
    retried: BTreeMap<u16, u32>,
    /// As `retried`, without the retries that Redis lost. A part is opened for a retry once the retry is durable, but a
    /// history may cancel an unfinished retry and open the part without that.
    pub retries_in_redis: BTreeMap<u16, u32>,
    /// For each row, the last claim that was reported about, with its highest state, or `None` if Meta returned the
    /// message. Filled only if all reported facts are true.
    reported: BTreeMap<u16, (u32, Option<State>)>,
    /// The rows whose recipient certainly got a message, by any claim: delivered or read. Filled only if all reported
    /// facts are true.
    received: BTreeMap<u16, State>,
}

impl Watch {
    pub fn new(recipients: u64, before: View) -> Self {
        let (hand_outs, unmade, negative, resent, retried, retries_in_redis, reported, received) = Default::default();
        Self {
            recipients,
            before,
            recipients_forgotten: false,
            hand_outs,
            unmade,
            negative,
            resent,
            retried,
            retries_in_redis,
            reported,
            received,
        }
    }

    /// Checks the state after a step. Returns how many rows the step released to be sent again after a doubt.
    pub fn look(&mut self, view: View, lowering: &Lowering) -> Result<u64, String> {
        let mut n_resent = 0;
        self.counts_are_exact(&view)?;
        no_row_is_lost(&view)?;
        for &(row, claim) in lowering.negative.iter().chain(&lowering.returned) {
            let last = self.negative.entry(row).or_default();
            *last = claim.max(*last);
        }
        let before: BTreeMap<u16, (State, u8)> =
            self.before.states().map(|(row, state, send)| (row, (state, send))).collect();
        for (row, state, number) in view.states() {
            let Some(&(was, number_before)) = before.get(&row) else { continue };
            let reports_about =
                |claims: &[(u16, u32)], number| claims.iter().any(|&(it, claim)| it == row && send(claim) == number);
            let reported = |claims: &[(u16, u32)]| reports_about(claims, number);
            let unanswered = matches!(was, State::InFlight | State::InDoubt | State::Unknown);
            let way_back =
                unanswered && matches!(state, State::Pending | State::Retrying | State::Cancelled | State::Skipped);
            let resent = lowering.resends && was == State::InDoubt && state == State::Retrying;
            if resent {
                self.resent.insert(row);
                n_resent += 1;
            }
            // The step reported a later claim that Redis had lost: the state is now that of the later claim.
            let anew = number != number_before && reported(&lowering.claims);
            // The step reported that the known claim sent nothing, and also a later claim that Redis had lost.
            let back = unanswered && number != number_before && reports_about(&lowering.negative, number_before);
            let returned = reported(&lowering.returned);
            let has_failed = matches!(was, State::Failed | State::Refused | State::Unknown);
            let retried = lowering.retries && has_failed && state == State::Pending && number == number_before;
            let may_fall = way_back && reported(&lowering.negative) || anew || back || returned || resent || retried;
            if state.rank() < was.rank() && !may_fall {
                return Err(format!("row {row} fell from {was:?} to {state:?} ({number})"));
            }
        }
        self.before = view;
        Ok(n_resent)
    }

    /// The counters equal a recount of the state bytes and add up to the number of recipients, and the failures by
    /// code equal those of the rows.
    fn counts_are_exact(&self, view: &View) -> Result<(), String> {
        let mut by_state: HashMap<State, u64> = State::ALL.into_iter().map(|state| (state, 0)).collect();
        let mut failures: HashMap<FailureReason, u64> = HashMap::new();
        let mut skips: HashMap<SkipReason, u64> = HashMap::new();
        for (row, state, _) in view.states() {
            if state == State::Skipped {
                let reason = view.skips.get(&row).ok_or_else(|| format!("row {row} is skipped without a reason"))?;
                *skips.entry(*reason).or_default() += 1;
            }
            *by_state.entry(state).or_default() += 1;
            if matches!(state, State::Failed | State::Refused) {
                *failures.entry(view.why.get(&row).copied().unwrap_or(FailureReason::NoAnswer)).or_default() += 1;
            }
        }
        let counts = &view.counts;
        let failures_differ = if self.recipients_forgotten {
            counts.failures.values().sum::<u64>() != failures.values().sum::<u64>()
        } else {
            counts.failures != failures
        };
        if counts.by_state != by_state || failures_differ || counts.skips != skips {
            return Err(format!(
                "a recount returns {by_state:?}, {failures:?}, {skips:?}, but the counters are {counts:?}"
            ));
        }
        let accepted: BTreeSet<u16> =
            view.states().filter(|(_, state, _)| *state == State::Accepted).map(|(row, ..)| row).collect();
        if counts.held != view.held.len() as u64 || !view.held.is_subset(&accepted) {
            return Err(format!("{} are held, but {:?} are marked and {accepted:?} accepted", counts.held, view.held));
        }
        if counts.by_state.values().sum::<u64>() != self.recipients || counts.recipients != self.recipients {
            return Err(format!("{} recipients, but the counters are {counts:?}", self.recipients));
        }
        Ok(())
    }

    /// Checks a hand-out. The reported facts must say that no earlier message of the row arrived, unless the row is
    /// sent again after a doubt or by a retry of the campaign. A recipient who is reported to have a message gets no
    /// other. Rows with a fact about a claim that was never made are not checked: if Redis loses writes, such a fact hides
    /// which claims were lost.
    pub fn hand_out(&mut self, row: u16, new: HandOut, only_true_facts: bool) -> Result<(), String> {
        if let Some(state) = self.received.get(&row) {
            return Err(format!("row {row} is handed out as {new:?}, and was reported as {state:?}"));
        }
        let negative = self.negative.get(&row).copied().unwrap_or(0);
        let retried = self.retried.get(&row).copied().unwrap_or(0);
        let before = self.hand_outs.entry(row).or_default();
        let unsent = |old: &HandOut| old.claim <= negative && (old.fate.is_negative() || !only_true_facts);
        if let Some(old) = before.iter().find(|old| !old.lost && !unsent(old) && old.claim > retried)
            && !self.resent.contains(&row)
            && (only_true_facts || !self.unmade.contains(&row))
        {
            return Err(format!("row {row} is handed out as {new:?}, and may have been sent as {old:?}"));
        }
        before.push(new);
        Ok(())
    }

    /// Records that a retry of the campaign reopened a row, whose last claim was `claim`.
    pub fn retried(&mut self, row: u16, claim: u32) {
        self.retried.insert(row, claim);
        self.retries_in_redis.insert(row, claim);
        self.reported.remove(&row);
    }

    /// Records a true fact: the row reached `state` by its `claim`, or `None` if Meta returned the message.
    pub fn reported(&mut self, row: u16, claim: u32, state: Option<State>) {
        if let Some(state @ (State::Delivered | State::Read)) = state {
            let known = self.received.entry(row).or_insert(state);
            *known = if state.rank() > known.rank() { state } else { *known };
        }
        if self.retried.get(&row).is_some_and(|retried| claim <= *retried) {
            return;
        }
        let known = self.reported.entry(row).or_insert((claim, state));
        if claim > known.0 {
            *known = (claim, state);
        } else if claim == known.0 {
            known.1 = known.1.zip(state).map(|(a, b)| if b.rank() > a.rank() { b } else { a });
        }
    }

    /// A row that a retry of the campaign sent again never counts as unsent: an earlier message of it was sent.
    pub fn retried_rows_count_as_sent(&self) -> Result<(), String> {
        for (row, state, number) in self.before.states() {
            let is_claimed_again = self.retries_in_redis.get(&row).is_some_and(|claim| send(*claim) != number);
            if is_claimed_again && matches!(state, State::Cancelled | State::Expired | State::Skipped) {
                return Err(format!("row {row} is {state:?} after a retry, and was failed or unknown before"));
            }
        }
        Ok(())
    }

    /// Checks that the state of each row is at least the highest true fact that was reported about it. Of a row that
    /// was sent again, only facts about its last message count, and deliveries. Rows that had failed when the retention
    /// of the recipients ended are not checked, because they no longer change.
    pub fn facts_are_stored(&self) -> Result<(), String> {
        for (row, state, _) in self.before.states() {
            if self.recipients_forgotten && matches!(state, State::Failed | State::Refused) {
                continue;
            }
            let of_last = self.reported.get(&row).filter(|_| !self.resent.contains(&row)).and_then(|(_, state)| *state);
            if let Some(known) = self.received.get(&row).copied().or(of_last)
                && known.rank() > state.rank()
            {
                return Err(format!("row {row} is {state:?}, but was reported as {known:?}"));
            }
        }
        Ok(())
    }
}

/// Checks that Pregón will find every open row again: rows never claimed by a later claim, rows that wait for a retry
/// in the schedule, rows in doubt by their deadline. Rows in flight are found by their state byte.
fn no_row_is_lost(view: &View) -> Result<(), String> {
    let [next, ..] = view.marks;
    for (row, state, send) in view.states() {
        let found = match state {
            State::Pending if send == 0 => u64::from(row) >= next || view.due.contains_key(&row),
            State::Pending | State::Retrying => view.due.contains_key(&row),
            State::InDoubt => view.doubt.contains_key(&row),
            _ => true,
        };
        if !found {
            return Err(format!("row {row} is {state:?} ({send}), and no claim, schedule or deadline finds it"));
        }
    }
    Ok(())
}
