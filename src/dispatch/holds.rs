//! What holds a line back, or templates on it: what everyone was told, and what this runner found out a moment ago.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use super::RunnerSignals;
use crate::domain::{Hold, HoldScope, Line, LineId, UnixMs};

/// A hold that a runner asked for counts for it at once, until the signals carry it.
const FOUND_FOR: Duration = Duration::from_secs(5);

/// The holds of one line.
pub struct Holds {
    line: LineId,
    /// Scopes that stop all of the line.
    whole: [HoldScope; 3],
    found: HashMap<HoldScope, (Hold, Instant)>,
}

impl Holds {
    /// Of `line`, with nothing found yet.
    pub fn new(line: &Line) -> Self {
        let whole =
            [HoldScope::Line(line.id.clone()), HoldScope::Waba(line.waba.clone()), HoldScope::Token(line.waba.clone())];
        Self { line: line.id.clone(), whole, found: HashMap::new() }
    }

    /// Meta's answer of this moment holds `scope` back. Gives whether that is news here.
    pub fn find(&mut self, scope: HoldScope, hold: Hold, now: Instant) -> bool {
        let known = self.found.insert(scope, (hold, now + FOUND_FOR));
        known.is_none_or(|(_, until)| until < now)
    }

    /// Every scope that is held back at `now`.
    pub fn scopes(&self, signals: &RunnerSignals, now: UnixMs) -> HashSet<HoldScope> {
        let instant = Instant::now();
        let told = signals.holds.iter().filter(|(_, hold)| hold.holds(now)).map(|(scope, _)| scope);
        let found = self.found.iter().filter(|(_, (hold, until))| instant < *until && hold.holds(now));
        told.chain(found.map(|(scope, _)| scope)).cloned().collect()
    }

    /// All of the line is held back at `now`, or paused.
    pub fn stop_the_line(&self, signals: &RunnerSignals, now: UnixMs) -> bool {
        let scopes = self.scopes(signals, now);
        signals.controls.get(&self.line).is_some_and(|control| control.paused)
            || self.whole.iter().any(|scope| scopes.contains(scope))
    }
}
