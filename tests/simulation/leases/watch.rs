//! Checks that each message that a runner writes keeps the promises.

use std::{collections::VecDeque, time::Duration};

use super::{
    runner::{LOOK_TO_WRITE, Run},
    world::At,
};

/// The window in which a line's messages are counted: one second, less the error of a drifting clock (1e-4) and the
/// time from reading the clock to writing.
const WINDOW: Duration = Duration::from_micros(1_000_000 - 100 - 200);

/// The most lines of a trace; older ones are dropped.
const TRACE_MAX: usize = 400;

/// A message that was written.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// When it was written.
    pub at: At,
    /// When the runner read the clock that allowed the message.
    pub looked: At,
    /// The line's rate at that time, in messages per second.
    pub rate: f64,
}

impl Write {
    /// Whether the process was suspended between reading the clock and writing.
    fn is_held_up(&self) -> bool {
        self.at - self.looked > LOOK_TO_WRITE.as_nanos() as u64
    }
}

/// The result of a schedule.
pub struct Watch {
    /// The first broken promise.
    pub broken: Option<String>,
    /// Messages in all.
    pub messages: u64,
    /// Messages written after a suspension between reading the clock and writing.
    pub held_up: u64,
    /// The messages of the last such suspension: the runner, when it read the clock, and how many.
    stop: Option<(Run, At, u64)>,
    /// By line: the runners that wrote messages, in order, each with the time of its first one.
    pub owners: Vec<Vec<(Run, At)>>,
    /// Messages written while another owner could write too, and the longest time that both had the lease.
    pub overlaps: (u64, Duration),
    /// Whether a message breaks the promise as soon as another runner has a valid lease. If false, only if that other
    /// runner also has claimed messages to send.
    pub valid_lease_is_overlap: bool,
    /// Overlaps of owners are measured and break no promise.
    pub overlaps_are_measured: bool,
    /// The last events.
    pub trace: VecDeque<String>,
    traced: bool,
    windows: Vec<VecDeque<Write>>,
}

impl Watch {
    pub fn new(lines: usize, traced: bool) -> Self {
        Self {
            broken: None,
            messages: 0,
            held_up: 0,
            stop: None,
            owners: vec![Vec::new(); lines],
            overlaps: (0, Duration::ZERO),
            valid_lease_is_overlap: true,
            overlaps_are_measured: false,
            trace: VecDeque::new(),
            traced,
            windows: vec![VecDeque::new(); lines],
        }
    }

    /// Adds an event to the trace, if there is one.
    pub fn log(&mut self, at: At, what: impl FnOnce() -> String) {
        if self.traced {
            if self.trace.len() == TRACE_MAX {
                self.trace.pop_front();
            }
            self.trace.push_back(format!("{:>12.6} {}", at as f64 / 1e9, what()));
        }
    }

    /// Checks a message. `began`: when `run` acquired its lease. `others`: the epochs of runners that may write to
    /// the same line now, and when they acquired their leases.
    pub fn written(&mut self, run: Run, write: Write, began: At, others: &[(u64, At)]) {
        self.messages += 1;
        if write.is_held_up() {
            self.one_burst_a_stop(run, write);
        } else {
            self.one_owner(run, write, began, others);
        }
        self.within_the_rate(run, write);
    }

    /// A lease cannot stop a process that is suspended between checking the lease and writing. When such a process
    /// resumes, it may write what the pacer allowed before: at most 2 messages and 1 % of the line's rate.
    fn one_burst_a_stop(&mut self, run: Run, write: Write) {
        self.held_up += 1;
        let before = self
            .stop
            .filter(|(stopped, looked, _)| *stopped == run && *looked == write.looked)
            .map_or(0, |stop| stop.2);
        self.stop = Some((run, write.looked, before + 1));
        if (before + 1) as f64 > 2.0 + write.rate / 100.0 {
            self.broken = Some(format!("{run:?} wrote {} messages after a stop", before + 1));
        }
    }

    fn one_owner(&mut self, run: Run, write: Write, began: At, others: &[(u64, At)]) {
        let owners = &mut self.owners[run.line as usize];
        let last = owners.last().copied();
        let is_new = last.is_none_or(|(last, _)| last != run);
        let returned = is_new && owners.iter().any(|(owner, _)| *owner == run);
        if is_new {
            owners.push((run, write.at));
        }
        if others.is_empty() && !returned {
            return;
        }
        if self.overlaps_are_measured {
            self.overlaps.0 += 1;
            // The newest owner may write again after an older one did. While no other runner may write, that adds
            // nothing to the overlap: the older owner's messages were counted when they were written.
            let newer = last.filter(|(last, _)| last.epoch > run.epoch).map(|(_, wrote)| wrote);
            if let Some(other) = others.iter().map(|(_, began)| *began).max().or(newer) {
                let both = Duration::from_nanos(write.at.saturating_sub(began.max(other)));
                self.overlaps.1 = self.overlaps.1.max(both);
            }
        } else {
            self.broken = Some(format!("{run:?} writes while others may, or after others did: {others:?}"));
        }
    }

    /// Counts messages by the time at which they were allowed, not written: a suspended process writes later, as one
    /// burst, what was allowed before.
    fn within_the_rate(&mut self, run: Run, write: Write) {
        let window = &mut self.windows[run.line as usize];
        let place = window.partition_point(|other| other.looked <= write.looked);
        window.insert(place, write);
        let newest = window.back().map_or(0, |last| last.looked);
        while window.front().is_some_and(|first| first.looked + WINDOW.as_nanos() as u64 <= newest) {
            window.pop_front();
        }
        let rate = window.iter().map(|write| write.rate).fold(0.0, f64::max);
        if !self.overlaps_are_measured && window.len() as f64 > rate.ceil() + 1.0 + rate / 100.0 {
            self.broken = Some(format!("line {} got {} messages in a second at {rate}/s", run.line, window.len()));
        }
    }
}
