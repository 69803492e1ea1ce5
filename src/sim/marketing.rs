//! People to whom marketing must not be sent: those with a recent 131049, those who stopped marketing, and those who
//! have reached a frequency cap. Callers pass the time.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{lock, notice::NoticeId};
use crate::domain::{FrequencyCap, Phone};

/// Meta's code for a marketing message that it withholds because the person gets many.
pub(super) const WITHHELD: u32 = 131_049;
/// How long Meta asks to wait after 131049.
/// Source: developers.facebook.com/docs/whatsapp/per-user-marketing-limits, read in a copy of 29 Apr 2026.
const WAIT: Duration = Duration::from_secs(24 * 60 * 60);
/// The sender may assume that a failure is this much older, because statuses have timestamps in whole seconds.
const ROUNDING: Duration = Duration::from_secs(1);

/// The people from whom Meta withheld marketing of one WABA (131049).
#[derive(Default)]
pub(super) struct Withheld {
    /// Whether there is anyone, so that most sends need no lock.
    any: AtomicBool,
    people: Mutex<HashMap<Phone, Wait>>,
}

#[derive(Clone, Copy)]
struct Wait {
    told_at: Duration,
    until: Duration,
}

impl Withheld {
    /// Records that the sender knows of a failure with 131049: its webhook answered 200, or the failure was the
    /// response to a send.
    pub(super) fn tell(&self, person: Phone, failed_at: Duration, told_at: Duration) {
        let until = (failed_at + WAIT).saturating_sub(ROUNDING);
        let mut people = lock(&self.people);
        let wait = people.entry(person).or_insert(Wait { told_at, until });
        if wait.until <= told_at {
            wait.told_at = told_at;
        }
        wait.until = wait.until.max(until);
        self.any.store(true, Ordering::Release);
    }

    /// Whether a message must wait because the sender has known of a 131049 for at least `grace`.
    pub(super) fn forbids(&self, person: Phone, now: Duration, grace: Duration) -> bool {
        self.any.load(Ordering::Acquire)
            && lock(&self.people).get(&person).is_some_and(|wait| wait.told_at + grace <= now && now < wait.until)
    }

    pub(super) fn reset(&self) {
        lock(&self.people).clear();
        self.any.store(false, Ordering::Release);
    }
}

/// The marketing messages of a business with a frequency cap.
pub(super) struct Capped {
    cap: FrequencyCap,
    /// When each person's messages were accepted.
    accepted: Mutex<HashMap<Phone, Vec<Duration>>>,
}

impl Capped {
    pub(super) fn new(cap: FrequencyCap) -> Self {
        Self { cap, accepted: Mutex::default() }
    }

    /// Records a message that was accepted and does not fail.
    pub(super) fn accepted(&self, person: Phone, now: Duration) {
        lock(&self.accepted).entry(person).or_default().push(now);
    }

    /// Whether the person has had as many messages as the cap allows.
    pub(super) fn forbids(&self, person: Phone, now: Duration) -> bool {
        let days = Duration::from_hours(24) * u32::from(self.cap.days);
        let accepted = lock(&self.accepted);
        let recent = accepted.get(&person).into_iter().flatten().filter(|at| **at + days > now);
        recent.count() >= usize::from(self.cap.messages)
    }

    pub(super) fn reset(&self) {
        lock(&self.accepted).clear();
    }
}

/// The people who have stopped marketing from a business, each with the notice about it if there is a webhook.
#[derive(Default)]
pub(super) struct Stops {
    any: AtomicBool,
    people: Mutex<HashMap<Phone, Option<NoticeId>>>,
}

/// A person has stopped marketing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stop {
    pub(super) notice: Option<NoticeId>,
}

impl Stops {
    pub(super) fn stop(&self, person: Phone, notice: Option<NoticeId>) {
        lock(&self.people).insert(person, notice);
        self.any.store(true, Ordering::Release);
    }

    pub(super) fn resume(&self, person: Phone) {
        lock(&self.people).remove(&person);
    }

    pub(super) fn of(&self, person: Phone) -> Option<Stop> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.people).get(&person).map(|notice| Stop { notice: *notice })
    }

    pub(super) fn reset(&self) {
        lock(&self.people).clear();
        self.any.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn after_131049_a_person_gets_no_marketing_for_a_day() {
        let person = Phone::from_digits(5_491_155_550_001).expect("a number");
        let other = Phone::from_digits(5_491_155_550_002).expect("a number");
        let withheld = Withheld::default();
        let forbids = |at: Duration| withheld.forbids(person, at, 2 * SECOND);
        assert!(!forbids(100 * SECOND));
        withheld.tell(person, 10 * SECOND, 20 * SECOND);
        assert!(!forbids(21 * SECOND), "on its way");
        assert!(forbids(22 * SECOND) && !withheld.forbids(other, 22 * SECOND, SECOND));
        let end = 10 * SECOND + WAIT - ROUNDING;
        assert!(forbids(end - SECOND) && !forbids(end));
        // A second failure during the wait extends it without a gap.
        withheld.tell(person, 50 * SECOND, 60 * SECOND);
        assert!(forbids(60 * SECOND) && forbids(end) && !forbids(end + 40 * SECOND));
        withheld.reset();
        assert!(!forbids(60 * SECOND));
    }
}
