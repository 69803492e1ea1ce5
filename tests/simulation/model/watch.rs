//! What must hold of the part in Redis whatever the model says.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use pregon::domain::State;

use super::{history::Fate, real::View, spec::send};

/// A row was handed out to be sent.
#[derive(Clone, Debug)]
pub struct HandOut {
    pub claim: u32,
    pub epoch: u64,
    pub fate: Fate,
    /// The claim got no answer, so that nobody sends it.
    pub lost: bool,
}

/// What was told in a step, as far as it may lower a rank.
#[derive(Debug, Default)]
pub struct Lowering {
    /// Claims that certainly sent nothing.
    pub negative: Vec<(u16, u32)>,
    /// Claims whose message certainly reached nobody, as Meta said.
    pub returned: Vec<(u16, u32)>,
    /// All claims that something was told of.
    pub told: Vec<(u16, u32)>,
    /// Doubts ended by sending again.
    pub resends: bool,
}

/// Watches a part.
pub struct Watch {
    recipients: u64,
    pub before: View,
    /// The codes of rows are not known any more.
    pub recipients_forgotten: bool,
    pub hand_outs: BTreeMap<u16, Vec<HandOut>>,
    /// The last claim of each row of which it was told that nothing was sent. So it was with those before it.
    negative: BTreeMap<u16, u32>,
    /// Rows that were sent again after a doubt.
    resent: BTreeSet<u16>,
    /// Of the last claim of each row that anything was told of: the highest state, or none if Meta returned it. Where all that is
    /// told is true.
    known: BTreeMap<u16, (u32, Option<State>)>,
}

impl Watch {
    pub fn new(recipients: u64, before: View) -> Self {
        let (hand_outs, negative, resent, known) = Default::default();
        Self { recipients, before, recipients_forgotten: false, hand_outs, negative, resent, known }
    }

    /// Looks at what a step has left. Gives how many rows are sent again after a doubt.
    pub fn look(&mut self, view: View, lowering: &Lowering) -> Result<u64, String> {
        let mut n_resent = 0;
        self.counts_are_exact(&view)?;
        nobody_is_lost(&view)?;
        for &(row, claim) in lowering.negative.iter().chain(&lowering.returned) {
            let last = self.negative.entry(row).or_default();
            *last = claim.max(*last);
        }
        let before: BTreeMap<u16, (State, u8)> =
            self.before.states().map(|(row, state, send)| (row, (state, send))).collect();
        for (row, state, number) in view.states() {
            let Some(&(was, number_before)) = before.get(&row) else { continue };
            let told_of =
                |claims: &[(u16, u32)], number| claims.iter().any(|&(it, claim)| it == row && send(claim) == number);
            let told = |claims: &[(u16, u32)]| told_of(claims, number);
            let unanswered = matches!(was, State::InFlight | State::InDoubt | State::Unknown);
            let way_back = unanswered && matches!(state, State::Pending | State::Retrying | State::Cancelled);
            let resent = lowering.resends && was == State::InDoubt && state == State::Retrying;
            if resent {
                self.resent.insert(row);
                n_resent += 1;
            }
            // Redis had forgotten a later claim, and it is the later one that the row is about now.
            let anew = number != number_before && told(&lowering.told);
            // It went back, and the same call told of a later claim, which Redis had forgotten.
            let back = unanswered && number != number_before && told_of(&lowering.negative, number_before);
            let returned = told(&lowering.returned);
            let may_fall = way_back && told(&lowering.negative) || anew || back || returned || resent;
            if state.rank() < was.rank() && !may_fall {
                return Err(format!("row {row} fell from {was:?} to {state:?} ({number})"));
            }
        }
        self.before = view;
        Ok(n_resent)
    }

    /// The counters are the recounted bytes, add up to the recipients, and failures by code are those of the rows.
    fn counts_are_exact(&self, view: &View) -> Result<(), String> {
        let mut by_state: HashMap<State, u64> = State::ALL.into_iter().map(|state| (state, 0)).collect();
        let mut failures: HashMap<u32, u64> = HashMap::new();
        for (row, state, _) in view.states() {
            *by_state.entry(state).or_default() += 1;
            if matches!(state, State::Failed | State::Refused) {
                *failures.entry(view.why.get(&row).copied().unwrap_or(0)).or_default() += 1;
            }
        }
        let counts = &view.counts;
        let failures_differ = if self.recipients_forgotten {
            counts.failures.values().sum::<u64>() != failures.values().sum::<u64>()
        } else {
            counts.failures != failures
        };
        if counts.by_state != by_state || failures_differ {
            return Err(format!("a recount gives {by_state:?}, {failures:?} where the counters are {counts:?}"));
        }
        if counts.by_state.values().sum::<u64>() != self.recipients || counts.recipients != self.recipients {
            return Err(format!("{} recipients, and the counters are {counts:?}", self.recipients));
        }
        Ok(())
    }

    /// A row is handed out: nothing that was sent for it before may be with Meta, as far as anybody was told.
    pub fn hand_out(&mut self, row: u16, new: HandOut, only_truth: bool) -> Result<(), String> {
        let negative = self.negative.get(&row).copied().unwrap_or(0);
        let before = self.hand_outs.entry(row).or_default();
        let unsent = |old: &HandOut| old.claim <= negative && (old.fate.is_negative() || !only_truth);
        if let Some(old) = before.iter().find(|old| !old.lost && !unsent(old))
            && !self.resent.contains(&row)
        {
            return Err(format!("row {row} is handed out as {new:?}, and may have been sent as {old:?}"));
        }
        before.push(new);
        Ok(())
    }

    /// It was told, and is true, that a row came to `state` by its `claim`; or that Meta returned it.
    pub fn told(&mut self, row: u16, claim: u32, state: Option<State>) {
        let known = self.known.entry(row).or_insert((claim, state));
        if claim > known.0 {
            *known = (claim, state);
        } else if claim == known.0 {
            known.1 = known.1.zip(state).map(|(a, b)| if b.rank() > a.rank() { b } else { a });
        }
    }

    /// What was told, is true and has been repeated is what Redis says. Not of rows that were sent again: a status of the
    /// earlier message is not counted for the later one. Nor of rows that had failed when the recipients were forgotten: those stay so.
    pub fn truth_is_known(&self) -> Result<(), String> {
        for (row, state, _) in self.before.states().filter(|(row, ..)| !self.resent.contains(row)) {
            if self.recipients_forgotten && matches!(state, State::Failed | State::Refused) {
                continue;
            }
            if let Some((_, Some(known))) = self.known.get(&row)
                && known.rank() > state.rank()
            {
                return Err(format!("row {row} is {state:?}, and was told to be {known:?}"));
            }
        }
        Ok(())
    }
}

/// Whatever is open has something that leads on: the next claim, the schedule, a deadline. What is in flight is found by
/// its byte.
fn nobody_is_lost(view: &View) -> Result<(), String> {
    let [next, ..] = view.marks;
    for (row, state, send) in view.states() {
        let found = match state {
            State::Pending if send == 0 => u64::from(row) >= next || view.due.contains_key(&row),
            State::Pending | State::Retrying => view.due.contains_key(&row),
            State::InDoubt => view.doubt.contains_key(&row),
            _ => true,
        };
        if !found {
            return Err(format!("row {row} is {state:?} ({send}), and nothing leads to it any more"));
        }
    }
    Ok(())
}
