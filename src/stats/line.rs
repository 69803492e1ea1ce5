//! A snapshot of a line: what its owner reports, what operators set, and what holds it.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use super::share::LineShare;
use crate::{
    domain::{BusinessId, Campaign, Hold, HoldScope, Line, LineId, Pause, Pauses, UnixMs},
    redis::{
        lines::{LeaseHolder, LineControl, LineReport},
        memory::Memory,
        pages::Schedule,
        places::LimitedPlaces,
    },
    rules::{
        ceiling,
        windows::{Closed, Windows},
    },
};

/// A snapshot of a line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LineSnapshot {
    /// The settings of operators.
    pub control: LineControl,
    /// The pauses of everything that stop the line, the widest first.
    pub pauses: Vec<Pause>,
    /// The worker that has the line's lease.
    pub owner: Option<LeaseHolder>,
    /// When the line was last served, if that is known.
    pub served_at: Option<UnixMs>,
    /// If the worker that has the lease is silent: since when.
    pub silence: Option<Silence>,
    /// Whether workers are alive and none of them lists the line.
    pub unlisted: bool,
    /// The owner's last report; `None` if it has not reported.
    pub report: Option<LineReport>,
    /// The holds in force on the line, on its WABA and on the WABA's token.
    pub holds: Vec<(HoldScope, Hold)>,
    /// Whether the messaging limit of its business is not known yet.
    pub limit_unknown: bool,
}

/// A worker without recent heartbeats: it was killed or cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// The time of its last heartbeat.
    pub since: UnixMs,
    /// When its lease ends. Then another worker can take the line over.
    pub until: UnixMs,
}

/// Why a line sends nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stop<'a> {
    /// An operator paused the line, or all lines of its business or of the installation.
    Paused,
    /// The line, its WABA or the WABA's token is held.
    Held(&'a HoldScope, &'a Hold),
    /// No worker has the line's lease.
    NoWorker,
    /// The worker that has the line's lease is silent.
    Silent(Silence),
    /// No worker has the line's lease, and none will take it, because no live worker lists the line.
    Unlisted,
    /// The owner can't reach Meta. The text says why; empty if that is not known.
    Unreachable(&'a str),
    /// The path to Meta is broken. The text describes what comes instead of Meta's responses.
    PathBroken(&'a str),
    /// The messaging limit of the business is not known yet.
    LimitUnknown,
    /// The day's share of the line's warm-up is spent. The next day begins at this time.
    WarmUp(UnixMs),
}

impl LineSnapshot {
    /// Why the line sends nothing; `None` if it may send. A reason that a person has to end comes before one that
    /// ends by itself.
    pub fn stop(&self) -> Option<Stop<'_>> {
        if self.control.paused || !self.pauses.is_empty() {
            Some(Stop::Paused)
        } else if let Some((scope, hold)) = self.holds.first() {
            Some(Stop::Held(scope, hold))
        } else if self.owner.is_none() {
            Some(if self.unlisted { Stop::Unlisted } else { Stop::NoWorker })
        } else if let Some(silence) = self.silence {
            Some(Stop::Silent(silence))
        } else {
            let report = self.report.as_ref()?;
            let broken = report.path_broken.as_deref().map(Stop::PathBroken);
            let because = report.unreachable_because.as_deref().unwrap_or_default();
            let unreachable = report.unreachable.then_some(Stop::Unreachable(because));
            let limit_unknown = self.limit_unknown.then_some(Stop::LimitUnknown);
            broken.or(unreachable).or(limit_unknown).or(report.warm_up_until.map(Stop::WarmUp))
        }
    }

    /// When the line may send next, as of `now`; `None` if that is unknown.
    pub fn sends_from(&self, now: UnixMs) -> Option<UnixMs> {
        match self.stop() {
            None => Some(now),
            Some(Stop::Held(..)) => {
                self.holds.iter().map(|(_, hold)| hold.until).try_fold(now, |latest, until| Some(latest.max(until?)))
            }
            Some(Stop::Silent(Silence { until, .. })) => Some(until),
            Some(
                Stop::Paused
                | Stop::NoWorker
                | Stop::Unlisted
                | Stop::Unreachable(_)
                | Stop::PathBroken(_)
                | Stop::LimitUnknown
                // Unknown, because the shares of the next days may be too small for all messages that are left.
                | Stop::WarmUp(_),
            ) => None,
        }
    }

    /// Messages per second that campaigns may send on the line once it may send; `None` if that is unknown.
    pub fn nominal_rate(&self) -> Option<f64> {
        self.report.as_ref().map(|report| report.rate).filter(|rate| *rate > 0.0)
    }

    /// Messages per second that campaigns may send on the line now; `None` if that is unknown or the line sends
    /// nothing.
    pub fn rate(&self) -> Option<f64> {
        self.nominal_rate().filter(|_| self.stop().is_none())
    }
}

/// The messages that a campaign has left to send on a line.
#[derive(Clone, Debug, PartialEq)]
pub struct LineWork {
    /// The line.
    pub line: LineId,
    /// Recipients in the state pending.
    pub pending: u64,
    /// Recipients waiting for their next attempt.
    pub retrying: u64,
    /// The rows, pending or retrying, that must wait for a time.
    pub schedule: Schedule,
    /// Whether a message may be sent in the grace period: one that was never claimed, in a part that the owner of the
    /// line has begun.
    pub sends_in_grace_period: bool,
    /// The snapshot of the line.
    pub now: LineSnapshot,
    /// The shares of other running campaigns.
    pub others: Vec<LineShare>,
    /// The distinct windows of the parts with work. `None` stands for parts whose messages leave at all hours.
    pub windows: Vec<Option<Windows>>,
}

/// A closed window or closed contact hours, which keep messages from leaving for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing<'w> {
    /// What is closed.
    pub by: Closed<'w>,
    /// When messages may leave; `None` if that is not within five weeks.
    pub until: Option<UnixMs>,
}

impl<'w> Closing<'w> {
    /// What keeps the `windows` closed at `now`, if they are closed.
    fn of(windows: &'w Windows, now: UnixMs) -> Option<Self> {
        Some(Self { by: windows.closed_by(now)?, until: windows.at(now).until })
    }

    /// The closing that ends first, if there is one.
    pub fn first(closings: impl IntoIterator<Item = Self>) -> Option<Self> {
        closings.into_iter().min_by_key(|closing| closing.until.unwrap_or(UnixMs(u64::MAX)))
    }
}

impl LineWork {
    /// Messages left to send.
    pub fn to_send(&self) -> u64 {
        self.pending + self.retrying
    }

    /// How many other running campaigns have messages left on the line; `None` if there are none.
    pub fn other_campaigns(&self) -> Option<usize> {
        Some(self.others.iter().filter(|other| other.work > 0).count()).filter(|n| *n > 0)
    }

    /// The campaign's share of the line, with this priority.
    pub fn ours(&self, weight: u8) -> LineShare {
        LineShare { work: self.to_send(), weight }
    }

    /// If all windows are closed at `now`: what closes each of them.
    pub fn closings(&self, now: UnixMs) -> Option<Vec<Closing<'_>>> {
        self.windows.iter().map(|windows| Closing::of(windows.as_ref()?, now)).collect()
    }

    /// The first of [`LineWork::closings`] to end.
    pub fn closing(&self, now: UnixMs) -> Option<Closing<'_>> {
        Closing::first(self.closings(now)?)
    }

    /// When the first message that is left at `now` may leave, by the retry schedule alone.
    pub fn due_from(&self, now: UnixMs) -> UnixMs {
        match self.schedule.next_due {
            Some(due) if self.to_send() <= self.schedule.rows => due.max(now),
            _ => now,
        }
    }

    /// When sending ends that begins at `from` and takes `time` of open windows; `None` if that is years away.
    pub fn elapse(&self, from: UnixMs, time: Duration) -> Option<UnixMs> {
        let end = |windows: &Option<Windows>| match windows {
            Some(windows) => windows.elapse(from, time),
            None => Some(from.after(time)),
        };
        self.windows.iter().map(end).try_fold(from.after(time), |latest, end| Some(latest.max(end?)))
    }

    /// Whether at least one message may be sent at `now`.
    pub fn is_due(&self, now: UnixMs) -> bool {
        self.to_send() > self.schedule.rows || self.schedule.next_due.is_some_and(|due| due <= now)
    }
}

/// The maximum rate of a campaign on each of its lines in messages per second, if it sets a rate.
pub fn ceiling(campaign: &Campaign) -> Option<f64> {
    campaign.rate.map(|rate| ceiling::share(rate, campaign.lines.len()))
}

/// The time after a restart of Redis in which other processes may not have repeated what it lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracePeriod {
    /// When Redis restarted.
    pub since: UnixMs,
    /// When the period ends.
    pub until: UnixMs,
}

/// The stops that can apply to several lines at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stops {
    /// The grace period, if Redis has restarted.
    pub grace_period: Option<GracePeriod>,
    /// The memory of Redis, if it is full.
    pub full_redis: Option<Memory>,
    /// The holds in force, by scope.
    pub holds: HashMap<HoldScope, Hold>,
    /// The pauses of everything.
    pub pauses: Pauses,
    /// The businesses with configured lines whose messaging limit is not known yet.
    pub limit_unknown: HashSet<BusinessId>,
    /// The businesses that have a messaging limit.
    pub limited: HashMap<BusinessId, LimitedPlaces>,
}

/// The `holds` that stop a line, the narrowest first.
pub fn holds_on(line: &Line, holds: &HashMap<HoldScope, Hold>) -> Vec<(HoldScope, Hold)> {
    let held = |scope: HoldScope| holds.get(&scope).map(|hold| (scope, hold.clone()));
    HoldScope::of_line(line).into_iter().filter_map(held).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::domain::{MetaCode, PauseScope, line::tests::line};

    /// A snapshot of a line that sends at `rate`.
    pub(crate) fn sending(rate: f64) -> LineSnapshot {
        let report = LineReport {
            worker: "w1".into(),
            rate,
            throttled: false,
            unreachable: false,
            unreachable_because: None,
            path_broken: None,
            since: None,
            warm_up_until: None,
            in_flight: 3,
            accepted_per_second: rate,
            features: Vec::new(),
            at: UnixMs(0),
        };
        let owner = LeaseHolder { worker: "w1".into(), epoch: 1 };
        LineSnapshot { owner: Some(owner), report: Some(report), ..LineSnapshot::default() }
    }

    pub(crate) fn hold(code: Option<u32>, until: Option<UnixMs>) -> Hold {
        Hold { code: code.map(MetaCode), reason: "because".into(), since: UnixMs(0), until }
    }

    #[test]
    fn a_stopped_line_has_no_rate_and_a_reason() {
        assert_eq!((sending(72.0).stop(), sending(72.0).rate()), (None, Some(72.0)));
        let held = (HoldScope::Line("3001".into()), hold(Some(131_045), None));
        let mut line = LineSnapshot { holds: vec![held.clone()], ..sending(72.0) };
        line.control.paused = true;
        assert_eq!((line.stop(), line.rate()), (Some(Stop::Paused), None));
        line.control.paused = false;
        line.pauses = vec![Pause { scope: PauseScope::Installation, since: UnixMs(0) }];
        assert_eq!((line.stop(), line.rate()), (Some(Stop::Paused), None));
        line.pauses.clear();
        assert_eq!((line.stop(), line.rate()), (Some(Stop::Held(&held.0, &held.1)), None));
        let unowned = LineSnapshot { owner: None, ..sending(72.0) };
        assert_eq!((unowned.stop(), unowned.rate()), (Some(Stop::NoWorker), None));
        let silent = LineSnapshot { report: None, ..sending(72.0) };
        assert_eq!((silent.stop(), silent.rate()), (None, None), "its owner has not reported yet");
    }

    #[test]
    fn a_line_is_held_by_its_own_waba_and_token_holds() {
        let scopes = [
            HoldScope::Token("2001".into()),
            HoldScope::Line("3001".into()),
            HoldScope::Line("3002".into()),
            HoldScope::Waba("2002".into()),
            HoldScope::of_template(&"2001".into(), "spring", &"es_AR".into()),
        ];
        let holds = scopes.into_iter().map(|scope| (scope, hold(None, None))).collect();
        let on = |id: &str| {
            holds_on(&line(id, "2001"), &holds).into_iter().map(|(scope, _)| scope.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(on("3001"), ["line:3001", "token:2001"]);
        assert_eq!(on("3003"), ["token:2001"]);
    }
}
