//! The holds that concern one line: those in the signals, which all lines share, and recent ones that the line's runner
//! set itself.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{
    dispatch::RunnerSignals,
    domain::{BusinessId, CallingCode, Hold, HoldScope, Line, LineId, MetaCode, UnixMs, WabaId},
};

/// How long a runner applies a hold that it set itself. After that time the signals include the hold.
const LOCAL_TTL: Duration = Duration::from_secs(5);

/// The holds of one line.
pub struct Holds {
    line: LineId,
    waba: WabaId,
    business: BusinessId,
    /// The scopes that stop the whole line.
    whole: Vec<HoldScope>,
    local: HashMap<HoldScope, (Hold, Instant)>,
    /// The countries with a hold, shared or local, whether it is in force or not.
    countries: Vec<CallingCode>,
}

impl Holds {
    /// The holds of `line`; none is local yet.
    pub fn new(line: &Line) -> Self {
        let (id, waba, business) = (line.id.clone(), line.waba.clone(), line.business.clone());
        let (whole, local, countries) = (HoldScope::of_line(line), HashMap::new(), Vec::new());
        Self { line: id, waba, business, whole, local, countries }
    }

    /// Adds a hold on `scope` that an answer of Meta just called for. Returns whether the scope was not held before.
    pub fn add_local(&mut self, scope: HoldScope, hold: Hold, signals: &RunnerSignals, now: Instant) -> bool {
        if self.is_held(&scope, signals, hold.since) {
            return false;
        }
        if let HoldScope::Country { code, .. } = &scope {
            self.countries.push(*code);
        }
        self.local.insert(scope, (hold, now + LOCAL_TTL));
        true
    }

    /// Applies new signals. A local hold that the signals include is dropped, so that it ends when the shared one does.
    pub fn apply_signals(&mut self, signals: &RunnerSignals) {
        self.local.retain(|scope, _| !signals.holds.contains_key(scope));
        let country = |scope: &HoldScope| match scope {
            HoldScope::Country { waba, code } if *waba == self.waba => Some(*code),
            _ => None,
        };
        self.countries = signals.holds.keys().chain(self.local.keys()).filter_map(country).collect();
    }

    /// The countries that are held at `now`, each with Meta's code.
    pub fn held_countries(&self, signals: &RunnerSignals, now: UnixMs) -> HashMap<CallingCode, MetaCode> {
        let held = |&code: &CallingCode| {
            let hold = self.hold_on(&HoldScope::Country { waba: self.waba.clone(), code }, signals, now)?;
            Some((code, hold.code?))
        };
        self.countries.iter().filter_map(held).collect()
    }

    /// Whether a scope is held at `now`.
    pub fn is_held(&self, scope: &HoldScope, signals: &RunnerSignals, now: UnixMs) -> bool {
        self.hold_on(scope, signals, now).is_some()
    }

    /// The hold on a scope that is in force at `now`.
    fn hold_on<'a>(&'a self, scope: &HoldScope, signals: &'a RunnerSignals, now: UnixMs) -> Option<&'a Hold> {
        let shared = signals.holds.get(scope).filter(|hold| hold.is_active(now));
        let local = || {
            let (hold, until) = self.local.get(scope)?;
            (Instant::now() < *until && hold.is_active(now)).then_some(hold)
        };
        shared.or_else(local)
    }

    /// When an operator's pause of the line began, whether it covers the line alone or others too; `None` if the line
    /// is not paused. The inner value is `None` if the time is not known.
    pub fn line_paused(&self, signals: &RunnerSignals) -> Option<Option<UnixMs>> {
        let control = signals.controls.get(&self.line).filter(|control| control.paused);
        let own = control.map(|control| control.paused_since);
        if !signals.pauses.stop(&self.business) {
            return own;
        }
        let with_others = signals.pauses.on(Some(&self.business)).into_iter().map(|pause| pause.since);
        Some(with_others.chain(own.flatten()).min())
    }

    /// When the hold of the whole line began, if it is held at `now`.
    pub fn line_held(&self, signals: &RunnerSignals, now: UnixMs) -> Option<UnixMs> {
        self.whole.iter().filter_map(|scope| self.hold_on(scope, signals, now)).map(|hold| hold.since).min()
    }
}
