//! What the lines of a thread share: its time, and the plans of their campaigns.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use super::plans::Plans;

/// A thread is busy that works for this share of the time, ...
const BUSY: f64 = 0.85;

/// ... which is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Attempts in flight with which a thread has enough to do if answers come at once: with fewer it waits, with more each costs
/// more, for what belongs to it is no longer in the processor's cache.
const ENOUGH: usize = 32;

/// What each of few lines may have of them, and each of many.
const EACH: (usize, usize) = (2, 8);

/// A thread of runners.
#[derive(Debug, Default)]
pub struct Thread {
    /// The campaigns that its lines work on.
    pub plans: Plans,
    busy: Cell<bool>,
    sending: Cell<usize>,
}

/// A line sends, as long as this is kept.
#[derive(Debug)]
pub struct Sending(Rc<Thread>);

impl Thread {
    /// A line begins to send.
    pub fn line_sends(self: &Rc<Self>) -> Sending {
        self.sending.set(self.sending.get() + 1);
        Sending(self.clone())
    }

    /// What there is for each line.
    pub fn room(&self) -> Room {
        let (least, most) = EACH;
        Room { each: (ENOUGH / self.sending.get().max(1)).clamp(least, most), busy: self.busy.get() }
    }

    /// Looks whether it is busy, for ever; the time in which others had its processor counts too. Runs on it.
    pub async fn watch(self: Rc<Self>) {
        let metrics = tokio::runtime::Handle::current().metrics();
        let mut before = (Instant::now(), metrics.worker_total_busy_duration(0));
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = (Instant::now(), metrics.worker_total_busy_duration(0));
            let (passed, worked) = (now.0 - before.0, now.1.saturating_sub(before.1));
            self.busy.set(worked.as_secs_f64() > BUSY * passed.as_secs_f64());
            before = now;
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.sending.set(self.0.sending.get() - 1);
    }
}

/// What a thread has for each of its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Attempts in flight that a line may have in any case.
    pub each: usize,
    /// The thread has hardly a moment without work.
    pub busy: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_lines_may_have_more_in_flight_each_than_many() {
        let thread = Rc::new(Thread::default());
        let each = |lines: usize| {
            let _sending: Vec<Sending> = (0..lines).map(|_| thread.line_sends()).collect();
            thread.room().each
        };
        assert_eq!([0, 1, 4, 8, 16, 1_000].map(each), [8, 8, 8, 4, 2, 2]);
        assert_eq!(each(0), 8, "who sends no more does not count");
    }
}
