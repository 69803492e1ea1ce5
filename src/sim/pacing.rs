//! Pacing: Meta delivers the first messages and holds later ones until it has assessed how people react. Callers pass
//! the time.
//! Source: developers.facebook.com/docs/whatsapp, template pacing (read in a copy of 11 Sep 2026) and portfolio pacing
//! (21 May 2026). Meta publishes neither the numbers nor the times.

use std::{sync::Mutex, time::Duration};

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::Deserialize;

use super::lock;

/// How messages are paced. There is one assessment per run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pacing {
    /// The number of valid sends that are not held.
    pub after: u64,
    /// The time from the first held message to the end of the assessment.
    #[serde(with = "friendly")]
    pub release_after: Duration,
    /// The result of the assessment.
    pub outcome: PacingOutcome,
}

/// What happens to held messages at the end of an assessment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PacingOutcome {
    /// They are delivered, and no further message is held.
    Release,
    /// They fail.
    Drop,
}

/// Decides which messages are held.
pub(super) struct Pacer {
    spec: Pacing,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sends: u64,
    /// The end of the assessment, once the first message is held.
    ends_at: Option<Duration>,
    /// The consequence of dropped messages has taken effect.
    is_settled: bool,
}

/// A held message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) until: Duration,
    pub(super) outcome: PacingOutcome,
    /// It is the first held message: the assessment begins.
    pub(super) is_first: bool,
}

impl Pacer {
    pub(super) fn new(spec: Pacing) -> Self {
        Self { spec, state: Mutex::default() }
    }

    /// Counts a valid send. Returns how it is held, if it is.
    pub(super) fn hold(&self, now: Duration) -> Option<Hold> {
        let mut state = lock(&self.state);
        if state.sends < self.spec.after {
            state.sends += 1;
            return None;
        }
        let is_first = state.ends_at.is_none();
        let until = *state.ends_at.get_or_insert(now + self.spec.release_after);
        let is_over = match self.spec.outcome {
            PacingOutcome::Release => now >= until,
            // Hold until the consequence has taken effect, so that no message is delivered in between.
            PacingOutcome::Drop => state.is_settled,
        };
        (!is_over).then_some(Hold { until, outcome: self.spec.outcome, is_first })
    }

    /// Records that the template was paused, or the business blocked, because its messages were dropped.
    pub(super) fn settle(&self) {
        lock(&self.state).is_settled = true;
    }

    pub(super) fn reset(&self) {
        *lock(&self.state) = State::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_after_the_first_ones_are_held_until_the_assessment_ends() {
        let second = Duration::from_secs(1);
        let spec = Pacing { after: 2, release_after: 10 * second, outcome: PacingOutcome::Release };
        let pacer = Pacer::new(spec);
        let hold = |is_first| Some(Hold { until: 15 * second, outcome: PacingOutcome::Release, is_first });
        assert_eq!([pacer.hold(second), pacer.hold(2 * second)], [None, None]);
        assert_eq!([pacer.hold(5 * second), pacer.hold(14 * second)], [hold(true), hold(false)]);
        assert_eq!([pacer.hold(15 * second), pacer.hold(100 * second)], [None, None]);
        pacer.reset();
        assert_eq!(pacer.hold(100 * second), None);
    }

    #[test]
    fn messages_are_dropped_until_the_consequence_takes_effect() {
        let second = Duration::from_secs(1);
        let pacer = Pacer::new(Pacing { after: 0, release_after: second, outcome: PacingOutcome::Drop });
        assert!(pacer.hold(second).is_some_and(|hold| hold.is_first && hold.until == 2 * second));
        assert!(pacer.hold(3 * second).is_some_and(|hold| !hold.is_first && hold.until == 2 * second));
        pacer.settle();
        assert_eq!(pacer.hold(3 * second), None);
    }
}
