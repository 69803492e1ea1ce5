//! A line as it stands: what its owner reports, what operators set, what holds it.

use std::collections::HashMap;

use super::eta::LineShare;
use crate::{
    domain::{Hold, HoldScope, LineId, UnixMs, WabaId},
    redis::{
        lines::{LineControl, LineReport},
        pages::Schedule,
    },
};

/// What is known of a line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LineNow {
    /// What an operator set.
    pub control: LineControl,
    /// The worker that has its lease.
    pub owner: Option<String>,
    /// Workers live, and none of them lists it.
    pub unlisted: bool,
    /// What that worker said last; `None` if it is silent.
    pub report: Option<LineReport>,
    /// What holds it: holds on the line, on its WABA, and on the WABA's token.
    pub holds: Vec<(HoldScope, Hold)>,
}

/// Why nothing goes out on a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stop<'a> {
    /// An operator paused it.
    Paused,
    /// It is held, or its WABA, or the token.
    Held(&'a HoldScope, &'a Hold),
    /// No worker has its lease.
    NoWorker,
    /// No worker has its lease, nor will one: no process lists it.
    Unlisted,
    /// Its worker can't reach Meta.
    Unreachable,
    /// Its worker gets no answers of Meta's: what comes in their place.
    PathBroken(&'a str),
}

impl LineNow {
    /// Why nothing goes out, if so: what a person has to end comes before what ends by itself.
    pub fn stop(&self) -> Option<Stop<'_>> {
        if self.control.paused {
            Some(Stop::Paused)
        } else if let Some((scope, hold)) = self.holds.first() {
            Some(Stop::Held(scope, hold))
        } else if self.owner.is_none() {
            Some(if self.unlisted { Stop::Unlisted } else { Stop::NoWorker })
        } else {
            let report = self.report.as_ref()?;
            let broken = report.path_broken.as_deref().map(Stop::PathBroken);
            broken.or(report.unreachable.then_some(Stop::Unreachable))
        }
    }

    /// Messages a second that campaigns may send on it now; `None` while that is not known, or nothing may go.
    pub fn rate(&self) -> Option<f64> {
        let report = self.report.as_ref().filter(|_| self.stop().is_none())?;
        Some(report.rate).filter(|rate| *rate > 0.0)
    }
}

/// What a campaign still has to send on a line.
#[derive(Clone, Debug, PartialEq)]
pub struct LineWork {
    /// The line.
    pub line: LineId,
    /// Recipients never attempted, as far as they count.
    pub pending: u64,
    /// Recipients that wait for their next attempt.
    pub retrying: u64,
    /// Which of both wait for a time.
    pub schedule: Schedule,
    /// How the line stands.
    pub now: LineNow,
    /// What other running campaigns have on it.
    pub others: Vec<LineShare>,
}

impl LineWork {
    /// Messages still to be sent.
    pub fn to_send(&self) -> u64 {
        self.pending + self.retrying
    }

    /// Some of them may go at `now`.
    pub fn is_due(&self, now: UnixMs) -> bool {
        self.to_send() > self.schedule.rows || self.schedule.next_due.is_some_and(|due| due <= now)
    }
}

/// The scopes that can hold a line of `waba`, from the narrowest.
pub fn scopes(line: &LineId, waba: &WabaId) -> [HoldScope; 3] {
    [HoldScope::Line(line.clone()), HoldScope::Waba(waba.clone()), HoldScope::Token(waba.clone())]
}

/// Those of `holds` that hold a line of `waba`.
pub fn holds_on(line: &LineId, waba: &WabaId, holds: &HashMap<HoldScope, Hold>) -> Vec<(HoldScope, Hold)> {
    let held = |scope: HoldScope| holds.get(&scope).map(|hold| (scope, hold.clone()));
    scopes(line, waba).into_iter().filter_map(held).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A line that sends at `rate`.
    pub(crate) fn sending(rate: f64) -> LineNow {
        let report = LineReport {
            worker: "w1".into(),
            rate,
            throttled: false,
            unreachable: false,
            path_broken: None,
            in_flight: 3,
            accepted_per_second: rate,
            at: UnixMs(0),
        };
        LineNow { owner: Some("w1".into()), report: Some(report), ..LineNow::default() }
    }

    pub(crate) fn hold(code: u32, until: Option<UnixMs>) -> Hold {
        Hold { code, reason: "because".into(), since: UnixMs(0), until }
    }

    #[test]
    fn a_line_that_may_not_send_has_no_rate_and_says_why() {
        assert_eq!((sending(72.0).stop(), sending(72.0).rate()), (None, Some(72.0)));
        let held = (HoldScope::Line("3001".into()), hold(131_045, None));
        let mut line = LineNow { holds: vec![held.clone()], ..sending(72.0) };
        line.control.paused = true;
        assert_eq!((line.stop(), line.rate()), (Some(Stop::Paused), None));
        line.control.paused = false;
        assert_eq!((line.stop(), line.rate()), (Some(Stop::Held(&held.0, &held.1)), None));
        let nobody = LineNow { owner: None, ..sending(72.0) };
        assert_eq!((nobody.stop(), nobody.rate()), (Some(Stop::NoWorker), None));
        let silent = LineNow { report: None, ..sending(72.0) };
        assert_eq!((silent.stop(), silent.rate()), (None, None), "a worker that has just taken it");
    }

    #[test]
    fn a_line_is_held_with_its_waba_and_its_token_but_not_with_another_line() {
        let waba = WabaId::from("2001");
        let scopes = [
            HoldScope::Token(waba.clone()),
            HoldScope::Line("3001".into()),
            HoldScope::Line("3002".into()),
            HoldScope::Waba("2002".into()),
            HoldScope::Template { waba: waba.clone(), name: "spring".into(), language: "es_AR".into() },
        ];
        let holds = scopes.into_iter().map(|scope| (scope, hold(0, None))).collect();
        let on = |line: &str| {
            holds_on(&line.into(), &waba, &holds).into_iter().map(|(scope, _)| scope.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(on("3001"), ["line:3001", "token:2001"]);
        assert_eq!(on("3003"), ["token:2001"]);
    }
}
