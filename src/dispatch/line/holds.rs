//! The holds that concern one line: those in the signals, which all lines share, and those that the line's runner
//! found a moment ago.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{
    dispatch::RunnerSignals,
    domain::{BusinessId, Hold, HoldScope, Line, LineId, UnixMs},
};

/// How long a runner applies a hold that it found itself. After that time the signals include the hold.
const LOCAL_TTL: Duration = Duration::from_secs(5);

/// The holds of one line.
pub struct Holds {
    line: LineId,
    business: BusinessId,
    /// The scopes that stop the whole line.
    whole: Vec<HoldScope>,
    local: HashMap<HoldScope, (Hold, Instant)>,
}

impl Holds {
    /// The holds of `line`; none is local yet.
    pub fn new(line: &Line) -> Self {
        let (id, business) = (line.id.clone(), line.business.clone());
        Self { line: id, business, whole: HoldScope::of_line(line), local: HashMap::new() }
    }

    /// Adds a hold on `scope` that an answer of Meta just called for. Returns whether it is new to this runner.
    pub fn add_local(&mut self, scope: HoldScope, hold: Hold, now: Instant) -> bool {
        let known = self.local.insert(scope, (hold, now + LOCAL_TTL));
        known.is_none_or(|(_, until)| until < now)
    }

    /// Whether a scope is held at `now`.
    pub fn is_held(&self, scope: &HoldScope, signals: &RunnerSignals, now: UnixMs) -> bool {
        let shared = signals.holds.get(scope).is_some_and(|hold| hold.is_active(now));
        let is_local = |(hold, until): &(Hold, Instant)| Instant::now() < *until && hold.is_active(now);
        shared || self.local.get(scope).is_some_and(is_local)
    }

    /// Whether the whole line is held or paused at `now`, by itself or with all others.
    pub fn line_is_held(&self, signals: &RunnerSignals, now: UnixMs) -> bool {
        signals.pauses.stop(&self.business)
            || signals.controls.get(&self.line).is_some_and(|control| control.paused)
            || self.whole.iter().any(|scope| self.is_held(scope, signals, now))
    }
}
