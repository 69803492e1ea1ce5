//! A running business: the people whom its lines have reached outside service windows in the last 24 hours. Pure:
//! callers pass the time.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use super::{
    business::{Business, MessagingLimit},
    lock,
    marketing::{Capped, Stops},
    millis,
    pacing::Pacer,
};
use crate::domain::Phone;

/// How long a delivered message occupies a place of the limit.
const WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) struct Portfolio {
    pub(super) spec: Business,
    /// `None` if the scenario does not list the business: it is unlimited, and sends of its lines cost no lock.
    places: Option<Mutex<Places>>,
    pub(super) pacer: Option<Pacer>,
    pub(super) stops: Stops,
    pub(super) capped: Option<Capped>,
}

/// The messaging limit of a business, and the people who occupy its places.
pub(super) struct Places {
    limit: MessagingLimit,
    people: People,
}

impl Portfolio {
    /// `listed`: the scenario lists the business.
    pub(super) fn new(spec: Business, listed: bool) -> Self {
        let places = listed.then(|| Mutex::new(Places::new(spec.limit)));
        let (pacer, capped) = (spec.pacing.clone().map(Pacer::new), spec.frequency_cap.map(Capped::new));
        Self { pacer, spec, places, stops: Stops::default(), capped }
    }

    pub(super) fn places(&self) -> Option<MutexGuard<'_, Places>> {
        self.places.as_ref().map(lock)
    }

    pub(super) fn limit(&self) -> MessagingLimit {
        self.places().map_or(self.spec.limit, |places| places.limit)
    }

    /// Restores the limit of the scenario. Clears the occupied places, the stops and the counts of the frequency cap.
    pub(super) fn reset(&self) {
        self.stops.reset();
        self.pacer.iter().for_each(Pacer::reset);
        self.capped.iter().for_each(Capped::reset);
        if let Some(mut places) = self.places() {
            *places = Places::new(self.spec.limit);
        }
    }
}

impl Places {
    fn new(limit: MessagingLimit) -> Self {
        Self { limit, people: People::default() }
    }

    /// Sets the limit. The people who occupy places keep them.
    pub(super) fn set_limit(&mut self, limit: MessagingLimit) {
        self.limit = limit;
    }

    /// Whether a message may be sent to this person outside a service window: the person has a place, or one is free.
    pub(super) fn admits(&mut self, person: Phone, now: Duration) -> bool {
        let Some(limit) = self.limit.people() else { return true };
        self.people.release(millis(now));
        self.people.until_ms.contains_key(&person) || self.people.until_ms.len() < limit
    }

    /// Reserves a place for the recipient of an accepted message, until 24 hours after its delivery.
    ///
    /// The place is taken at once, because more messages than the limit would be delivered otherwise. A message that is
    /// never delivered takes no place.
    pub(super) fn occupy(&mut self, person: Phone, delivered_at: Duration) {
        self.people.keep(person, millis(delivered_at + WINDOW));
    }
}

/// A set of people. Each stays in it until a time in milliseconds.
#[derive(Default)]
struct People {
    until_ms: HashMap<Phone, u64>,
    by_end: BTreeSet<(u64, Phone)>,
}

impl People {
    /// Keeps the person until this time, or until a later one that was given before.
    fn keep(&mut self, person: Phone, until_ms: u64) {
        let kept = self.until_ms.entry(person).or_insert(0);
        if *kept < until_ms {
            self.by_end.remove(&(*kept, person));
            self.by_end.insert((until_ms, person));
            *kept = until_ms;
        }
    }

    /// Removes the people whose time is over.
    fn release(&mut self, now_ms: u64) {
        while let Some((until_ms, person)) = self.by_end.first().copied().filter(|(until_ms, _)| *until_ms <= now_ms) {
            self.by_end.remove(&(until_ms, person));
            self.until_ms.remove(&person);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(60 * 60);

    fn person(number: u64) -> Phone {
        Phone::from_digits(5_491_100_000_000 + number).expect("a number")
    }

    #[test]
    fn a_place_frees_24_hours_after_the_last_delivery() {
        let mut places = Places::new(MessagingLimit::Tier250);
        (0..250).for_each(|number| places.occupy(person(number), HOUR));
        assert!(!places.admits(person(250), HOUR * 2));
        assert!(places.admits(person(7), HOUR * 2), "a person who has a place costs no other");
        places.occupy(person(7), HOUR * 3);
        assert!(!places.admits(person(250), HOUR * 25 - Duration::from_millis(1)));
        assert!(places.admits(person(250), HOUR * 25));
        assert_eq!(places.people.until_ms.len(), 1, "only person 7 is left");
        assert!(places.admits(person(250), HOUR * 27) && places.people.until_ms.is_empty());
    }

    #[test]
    fn another_limit_keeps_the_people_who_have_places() {
        let mut places = Places::new(MessagingLimit::Unlimited);
        (0..250).for_each(|number| places.occupy(person(number), HOUR));
        assert!(places.admits(person(250), HOUR));
        places.set_limit(MessagingLimit::Tier250);
        assert!(!places.admits(person(250), HOUR));
        places.set_limit(MessagingLimit::Tier2K);
        assert!(places.admits(person(250), HOUR));
    }

    proptest! {
        #[test]
        fn the_people_with_places_are_those_of_the_last_24_hours(
            deliveries in prop::collection::vec((0u64..20, 0u64..100), 1..200),
            now in 0u64..150,
        ) {
            let mut places = Places::new(MessagingLimit::Tier250);
            for (number, hour) in &deliveries {
                places.occupy(person(*number), HOUR * u32::try_from(*hour).expect("small"));
            }
            places.admits(person(0), HOUR * u32::try_from(now).expect("small"));
            let reached = |number: u64| deliveries.iter().any(|(other, hour)| *other == number && hour + 24 > now);
            let expected = (0..20).filter(|number| reached(*number)).count();
            prop_assert_eq!(places.people.until_ms.len(), expected);
        }
    }
}
