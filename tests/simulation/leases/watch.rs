//! Looks at what was written, and says which promise it breaks.

use std::{collections::VecDeque, time::Duration};

use super::{
    runner::{LOOK_TO_WRITE, Run},
    world::At,
};

/// The window in which a line's messages are counted: a second, less what a drifting clock (1e-4) and the way from
/// reading the clock to writing may take off.
const WINDOW: Duration = Duration::from_micros(1_000_000 - 100 - 200);

/// Lines of a trace that are kept.
const TRACE_MAX: usize = 400;

/// A message, written.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// When.
    pub at: At,
    /// When the clock was read by which it might go.
    pub looked: At,
    /// What the line might send each second then.
    pub rate: f64,
}

impl Write {
    /// The process was stopped between reading the clock and writing.
    fn is_held_up(&self) -> bool {
        self.at - self.looked > LOOK_TO_WRITE.as_nanos() as u64
    }
}

/// What a schedule did.
pub struct Watch {
    /// The first broken promise.
    pub broken: Option<String>,
    /// Messages in all.
    pub messages: u64,
    /// Messages written after a stop between reading the clock and writing.
    pub held_up: u64,
    /// Those of one stop: whose, when the clock was read, and how many.
    stop: Option<(Run, At, u64)>,
    /// Runs that wrote, in their order, by line, with the time of their first message.
    pub owners: Vec<Vec<(Run, At)>>,
    /// Messages written while another owner could write too, and how long after that one had the lease at most.
    pub overlaps: (u64, Duration),
    /// Already that another runner has a lease which holds breaks the promise, and not only that it has messages too.
    pub who_may_is_enough: bool,
    /// Overlaps are measured, and break no promise.
    pub overlaps_are_measured: bool,
    /// What happened last.
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
            who_may_is_enough: true,
            overlaps_are_measured: false,
            trace: VecDeque::new(),
            traced,
            windows: vec![VecDeque::new(); lines],
        }
    }

    /// Says what happens, to whoever wants to know.
    pub fn tell(&mut self, at: At, what: impl FnOnce() -> String) {
        if self.traced {
            if self.trace.len() == TRACE_MAX {
                self.trace.pop_front();
            }
            self.trace.push_back(format!("{:>12.6} {}", at as f64 / 1e9, what()));
        }
    }

    /// `run`, which had its lease at `began`, wrote. `others` may write to the same line now: their epochs, and when they had
    /// the lease.
    pub fn written(&mut self, run: Run, write: Write, began: At, others: &[(u64, At)]) {
        self.messages += 1;
        if write.is_held_up() {
            self.one_burst_a_stop(run, write);
        } else {
            self.one_owner(run, write, began, others);
        }
        self.within_the_rate(run, write);
    }

    /// What is lost to any lease: a process that is stopped after it looked at its lease, and before it wrote. What it then
    /// writes is what it might have written at once.
    fn one_burst_a_stop(&mut self, run: Run, write: Write) {
        self.held_up += 1;
        let before =
            self.stop.filter(|(whose, looked, _)| *whose == run && *looked == write.looked).map_or(0, |stop| stop.2);
        self.stop = Some((run, write.looked, before + 1));
        if (before + 1) as f64 > 2.0 + write.rate / 100.0 {
            self.broken = Some(format!("{run:?} wrote {} messages after a stop", before + 1));
        }
    }

    fn one_owner(&mut self, run: Run, write: Write, began: At, others: &[(u64, At)]) {
        let owners = &mut self.owners[run.line as usize];
        let last = owners.last().copied();
        let is_new = last.is_none_or(|(last, _)| last != run);
        let came_back = is_new && owners.iter().any(|(owner, _)| *owner == run);
        if is_new {
            owners.push((run, write.at));
        }
        if others.is_empty() && !came_back {
            return;
        }
        if self.overlaps_are_measured {
            self.overlaps.0 += 1;
            // One that came back as the newest owner, with nobody left who may write, overlaps none: those before were counted.
            let newer = last.filter(|(last, _)| last.epoch > run.epoch).map(|(_, wrote)| wrote);
            if let Some(other) = others.iter().map(|(_, began)| *began).max().or(newer) {
                let both = Duration::from_nanos(write.at.saturating_sub(began.max(other)));
                self.overlaps.1 = self.overlaps.1.max(both);
            }
        } else {
            self.broken = Some(format!("{run:?} writes while others may, or after others did: {others:?}"));
        }
    }

    /// Counted by the times at which messages might go; those of a stop between come as one burst on top.
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
