//! Meta's limit for a pair of a line and a person: one message in six seconds.
//!
//! A campaign sends to each person once, so a line that sends a single campaign needs no lookups and only records its
//! recipients. Recipients are looked up while messages from more than one source leave within the spacing.
//!
//! Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/messaging-limits>, pair rate
//! limits, read 2026-11-28.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::domain::{CampaignId, ErrorScope, Outcome, Person};

/// Sends of one source within this period are recorded with one time, the time of the last of them.
const SLOT: Duration = Duration::from_millis(100);

/// After *n* earlier refusals in a row, a refused pair waits for 4^*n* seconds. When *n* reaches this number, the
/// message fails instead.
const REFUSALS_MAX: u32 = 5;

/// Maximum number of pairs whose refusals are counted. Beyond it all counts are dropped, and refused pairs start with a
/// wait of one second again.
const REFUSED_MAX: usize = 10_000;

/// The recent recipients of a line.
#[derive(Debug)]
pub struct Pairs {
    spacing: Duration,
    /// The sends within the spacing, oldest first.
    slots: VecDeque<Slot>,
    /// When the last message left whose source differs from that of the newest slot.
    other_at: Option<Instant>,
    /// The time of the last send to each person in `slots`. Built while there is more than one source.
    last: Option<HashMap<Person, Instant>>,
    /// For each person, the number of consecutive refusals.
    refused: HashMap<Person, u32>,
}

/// Sends of one source.
#[derive(Debug)]
struct Slot {
    /// The campaign; `None` for messages of which a person may get several.
    source: Option<CampaignId>,
    began: Instant,
    ended: Instant,
    to: Vec<Person>,
}

impl Pairs {
    /// Starts without sends. With a `spacing` of zero, no message has to wait.
    pub fn new(spacing: Duration) -> Self {
        Self { spacing, slots: VecDeque::new(), other_at: None, last: None, refused: HashMap::new() }
    }

    /// When the next message to a person may leave, if it must not leave at `now`.
    pub fn wait_until(&mut self, to: Person, source: Option<CampaignId>, now: Instant) -> Option<Instant> {
        self.forget(now);
        let newest = self.slots.back()?.source;
        let is_only_source = newest.is_some() && newest == source && self.other_at.is_none();
        if is_only_source {
            self.last = None;
            return None;
        }
        let slots = &self.slots;
        let last = self
            .last
            .get_or_insert_with(|| slots.iter().flat_map(|slot| slot.to.iter().map(|to| (*to, slot.ended))).collect());
        Some(*last.get(&to)? + self.spacing).filter(|at| *at > now)
    }

    /// Records that a message to a person leaves at `now`.
    pub fn sent(&mut self, to: Person, source: Option<CampaignId>, now: Instant) {
        if self.spacing.is_zero() {
            return;
        }
        match self.slots.back_mut() {
            Some(slot) if slot.source == source && now - slot.began < SLOT => {
                slot.ended = now;
                slot.to.push(to);
            }
            newest => {
                if let Some(other) = newest.filter(|slot| slot.source != source) {
                    self.other_at = Some(other.ended);
                }
                self.slots.push_back(Slot { source, began: now, ended: now, to: vec![to] });
            }
        }
        if let Some(last) = &mut self.last {
            last.insert(to, now);
        }
    }

    /// Records the outcome of a message to a person, and returns the outcome. If Meta refused the message because of
    /// the pair limit, the returned outcome has the wait for the pair, or is a failure if the pair was refused too
    /// often.
    pub fn judge(&mut self, to: Person, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Throttled { scope: scope @ ErrorScope::Pair, cause, .. } => match self.refused(to) {
                Some(wait) => Outcome::Throttled { scope, wait, cause },
                None => Outcome::Failed { pause_after: None, cause },
            },
            Outcome::Accepted { .. } => {
                if !self.refused.is_empty() {
                    self.refused.remove(&to);
                }
                outcome
            }
            outcome => outcome,
        }
    }

    /// How long the pair has to wait; `None` if it was refused too often.
    fn refused(&mut self, to: Person) -> Option<Duration> {
        if self.refused.len() >= REFUSED_MAX && !self.refused.contains_key(&to) {
            self.refused.clear();
        }
        let refusals = self.refused.entry(to).or_default();
        let wait = (*refusals < REFUSALS_MAX).then(|| Duration::from_secs(4_u64.pow(*refusals)));
        *refusals += 1;
        if wait.is_none() {
            self.refused.remove(&to);
        }
        wait
    }

    /// The sends within the spacing, each with its age, for the next owner of the line.
    pub fn recent(&mut self, now: Instant) -> Vec<(Person, Duration)> {
        self.forget(now);
        let ages = self.slots.iter().flat_map(|slot| slot.to.iter().map(|to| (*to, now - slot.ended)));
        ages.collect()
    }

    /// Takes over the sends of the line's last owner, which [`Pairs::recent`] returned to that owner `since` ago.
    pub fn take_over(&mut self, recent: &[(Person, Duration)], since: Duration, now: Instant) {
        for sends in recent.chunk_by(|(_, a), (_, b)| a == b) {
            let Some(ended) = now.checked_sub(sends[0].1 + since) else { continue };
            let to = sends.iter().map(|(to, _)| *to).collect();
            self.slots.push_back(Slot { source: None, began: ended, ended, to });
        }
    }

    fn forget(&mut self, now: Instant) {
        let is_over = |at: Instant| now.saturating_duration_since(at) >= self.spacing;
        self.other_at = self.other_at.filter(|at| !is_over(*at));
        while let Some(slot) = self.slots.pop_front_if(|slot| is_over(slot.ended)) {
            if let Some(last) = &mut self.last {
                for to in &slot.to {
                    if last.get(to).is_some_and(|at| *at <= slot.ended) {
                        last.remove(to);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ulid::Ulid;

    use super::*;
    use crate::domain::{MetaCode, Phone, policy};

    const SPACING: Duration = Duration::from_secs(6);

    fn person(n: u64) -> Person {
        Phone::from_digits(5_491_155_550_000 + n).expect("a number").into()
    }

    fn campaign(n: u128) -> Option<CampaignId> {
        Some(CampaignId(Ulid::from(n)))
    }

    #[test]
    fn a_person_waits_six_seconds_between_messages_of_two_campaigns() {
        let (mut pairs, now) = (Pairs::new(SPACING), Instant::now());
        pairs.sent(person(1), campaign(1), now);
        let later = now + Duration::from_secs(2);
        assert_eq!(pairs.wait_until(person(2), campaign(1), later), None, "the same campaign");
        assert_eq!(pairs.wait_until(person(2), campaign(2), later), None, "another person");
        assert_eq!(pairs.wait_until(person(1), campaign(2), later), Some(now + SPACING));
        assert_eq!(pairs.wait_until(person(1), None, later), Some(now + SPACING));
        assert_eq!(pairs.wait_until(person(1), campaign(2), now + SPACING), None);
        let [with, without] = ["+5491155550009", "+541155550009"].map(|to| to.parse::<Phone>().expect(to));
        pairs.sent(with.into(), campaign(1), later);
        assert_eq!(pairs.wait_until(without.into(), campaign(2), later), Some(later + SPACING), "another form");
        let mut off = Pairs::new(Duration::ZERO);
        off.sent(person(1), campaign(1), now);
        assert_eq!(off.wait_until(person(1), campaign(2), now), None);
    }

    #[test]
    fn the_next_owner_of_the_line_knows_the_last_sends() {
        let (mut pairs, now) = (Pairs::new(SPACING), Instant::now());
        for (n, ms) in [(1, 0), (2, 3_000), (3, 4_000)] {
            pairs.sent(person(n), campaign(1), now + Duration::from_millis(ms));
        }
        let released = now + Duration::from_secs(7);
        let recent = pairs.recent(released);
        assert_eq!(recent.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [person(2), person(3)]);
        let mut next = Pairs::new(SPACING);
        let taken = released + Duration::from_secs(1);
        next.take_over(&recent, Duration::from_secs(1), taken);
        assert_eq!(next.wait_until(person(2), campaign(1), taken), Some(now + Duration::from_secs(9)));
        assert_eq!(next.wait_until(person(1), campaign(1), taken), None);
    }

    #[test]
    fn a_refused_pair_waits_four_times_as_long_each_time_and_then_fails() {
        let mut pairs = Pairs::new(SPACING);
        let mut refuse = |n| match pairs.judge(person(n), policy::outcome(400, MetaCode(131_056), String::new())) {
            Outcome::Throttled { scope: ErrorScope::Pair, wait, .. } => Some(wait.as_secs()),
            Outcome::Failed { pause_after: None, .. } => None,
            other => panic!("{other:?}"),
        };
        assert_eq!([1; 6].map(&mut refuse), [Some(1), Some(4), Some(16), Some(64), Some(256), None]);
        assert_eq!(refuse(1), Some(1), "the next message");
        assert_eq!([2; 2].map(&mut refuse), [Some(1), Some(4)], "another pair");
        let accepted = Outcome::Accepted { wamid: "wamid.1".into(), held: false };
        assert_eq!(pairs.judge(person(2), accepted.clone()), accepted);
        let again = pairs.judge(person(2), policy::outcome(400, MetaCode(131_056), String::new()));
        assert!(matches!(again, Outcome::Throttled { wait, .. } if wait.as_secs() == 1), "after a success: {again:?}");
    }

    proptest! {
        /// Sends messages of several campaigns and a conversation at random times. Every allowed send keeps the
        /// spacing, and every send that keeps the spacing by more than a slot is allowed.
        #[test]
        fn no_person_gets_two_messages_within_the_spacing(
            sends in prop::collection::vec((0..40_u64, 0..4_u128, 0..800_u64), 1..400),
        ) {
            let (mut pairs, mut now) = (Pairs::new(SPACING), Instant::now());
            let (mut last, mut had) = (HashMap::<u64, Instant>::new(), std::collections::HashSet::new());
            for (n, source, ms) in sends {
                now += Duration::from_millis(ms);
                let campaign = campaign(source).filter(|_| source > 0);
                if campaign.is_some() && !had.insert((n, source)) {
                    continue;
                }
                let elapsed = last.get(&n).map(|at| now - *at);
                match pairs.wait_until(person(n), campaign, now) {
                    None => {
                        prop_assert!(elapsed.is_none_or(|elapsed| elapsed >= SPACING), "{elapsed:?}");
                        pairs.sent(person(n), campaign, now);
                        last.insert(n, now);
                    }
                    Some(at) => {
                        prop_assert!(at > now && at <= now + SPACING);
                        prop_assert!(elapsed.is_some_and(|elapsed| elapsed < SPACING + SLOT), "{elapsed:?}");
                    }
                }
            }
            now += SPACING;
            prop_assert_eq!(pairs.wait_until(person(0), None, now), None);
            prop_assert!(pairs.slots.is_empty() && pairs.last.as_ref().is_none_or(HashMap::is_empty));
        }
    }
}
