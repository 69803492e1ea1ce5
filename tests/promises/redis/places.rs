//! The places of a messaging limit, compared with a model of what Meta counts.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use pregon::{
    domain::{BusinessId, ClaimedRow, LineId, PartId, Person, Phone, UnixMs},
    redis::{
        Store,
        message_ids::RowRef,
        places::{Fate, PlaceNews},
    },
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::support::{redis::TestRedis, seed, world};

const LIMIT: u32 = 20;
const DAY: Duration = Duration::from_hours(24);
/// Meta gives the time of a delivery in whole seconds, rounded down.
const SECOND: Duration = Duration::from_secs(1);
const START: UnixMs = UnixMs(1_795_000_000_000);

fn business() -> BusinessId {
    "1001".into()
}

fn line() -> LineId {
    "3001".into()
}

fn person(n: u64) -> Person {
    Phone::from_digits(5_491_100_000_000 + n).expect("a number").into()
}

fn message(row: u16, send: u8) -> RowRef {
    let campaign = "01J9ZK3V5T8R7Q6P5N4M3K2J1H".parse().expect("an id");
    (PartId { campaign, number: 0 }, ClaimedRow { row, send })
}

async fn take(store: &Store, messages: &[(Person, RowRef)], now: UnixMs) -> Vec<bool> {
    store.take_places(&business(), LIMIT, &line(), messages, now).await.expect("redis").1
}

async fn note(store: &Store, person: Person, message: RowRef, fate: Fate, now: UnixMs) {
    store.note_places(&business(), &line(), &[PlaceNews { person, message, fate }], now).await.expect("redis");
}

async fn used(store: &Store, now: UnixMs) -> u64 {
    store.places(&business(), LIMIT, now).await.expect("redis").used
}

/// A message that may have been sent and whose fate is not known yet.
struct Open {
    person: u64,
    message: RowRef,
    sent: UnixMs,
}

#[tokio::test]
async fn whatever_meta_counts_is_counted_and_never_above_the_limit() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let mut rng = StdRng::seed_from_u64(seed());
    let (mut now, mut open, mut row) = (START, Vec::<Open>::new(), 0_u16);
    // The last delivery to each person.
    let mut delivered: HashMap<u64, UnixMs> = HashMap::new();
    for _ in 0..1_500 {
        now = now.after(Duration::from_secs(rng.random_range(0..1_800)));
        match rng.random_range(0..10) {
            0..4 => {
                let messages: Vec<(u64, RowRef)> = (0..rng.random_range(1..6))
                    .map(|_| {
                        row += 1;
                        (rng.random_range(0..60), message(row, 1))
                    })
                    .collect();
                let asked: Vec<(Person, RowRef)> = messages.iter().map(|(n, message)| (person(*n), *message)).collect();
                let may_be_sent = take(&store, &asked, now).await;
                let sent = messages.into_iter().zip(may_be_sent).filter(|(_, may)| *may);
                open.extend(sent.map(|((person, message), _)| Open { person, message, sent: now }));
            }
            _ if open.is_empty() => {}
            kind => {
                let ended = open.swap_remove(rng.random_range(0..open.len()));
                let fate = match kind {
                    4..6 => Fate::NotDelivered,
                    // Meta's times are in whole seconds.
                    6..9 => Fate::Delivered(UnixMs(now.seconds() * 1_000)),
                    _ => Fate::Read(now),
                };
                if fate != Fate::NotDelivered {
                    delivered.insert(ended.person, now);
                    // A phone that gets a message also gets the earlier ones.
                    open.retain(|other| other.person != ended.person || other.sent > now);
                }
                note(&store, person(ended.person), ended.message, fate, now).await;
                if rng.random_bool(0.3) {
                    note(&store, person(ended.person), ended.message, fate, now).await;
                }
            }
        }
        // After three days, an open message counts as not delivered.
        open.retain(|open| now.since(open.sent) < 3 * DAY);
        let counted: HashSet<u64> =
            delivered.iter().filter(|(_, at)| now.since(**at) < DAY).map(|(person, _)| *person).collect();
        let may_count: HashSet<u64> = counted.iter().copied().chain(open.iter().map(|open| open.person)).collect();
        let used = used(&store, now).await;
        assert!(used >= may_count.len() as u64, "{used} are counted, and {} may be", may_count.len());
        assert!(used <= u64::from(LIMIT), "{used}");
    }
    assert!(delivered.len() > 50, "the history is too quiet: {}", delivered.len());
    assert_eq!(used(&store, now.after(3 * DAY)).await, 0);
}

#[tokio::test]
async fn a_place_frees_a_day_after_the_delivery() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let everyone: Vec<(Person, RowRef)> = (0..25).map(|n| (person(n.into()), message(n, 1))).collect();
    let may_be_sent = take(&store, &everyone, START).await;
    assert_eq!(may_be_sent.iter().filter(|may| **may).count(), 20);
    assert!(may_be_sent[..20].iter().all(|may| *may), "those who come first");
    assert_eq!(take(&store, &everyone[..20], START).await, [true; 20], "the same messages again");
    assert_eq!(take(&store, &everyone[20..], START).await, [false; 5]);

    let at = START.after(Duration::from_hours(2));
    note(&store, person(0), message(0, 1), Fate::Delivered(at), at).await;
    note(&store, person(1), message(1, 1), Fate::NotDelivered, at).await;
    assert_eq!(used(&store, at).await, 19);
    note(&store, person(0), message(0, 1), Fate::Read(at.after(DAY)), at.after(DAY / 2)).await;
    let places = store.places(&business(), LIMIT, at.after(DAY / 2)).await.expect("redis");
    assert_eq!(places.frees_at, Some(at.after(DAY + SECOND)), "a later read changes nothing");
    assert_eq!(used(&store, at.after(DAY)).await, 19);
    assert_eq!(used(&store, at.after(DAY + SECOND)).await, 18);
    let frees_at = store.places(&business(), LIMIT, at.after(DAY + SECOND)).await.expect("redis").frees_at;
    assert_eq!(
        frees_at,
        Some(START.after(3 * DAY)),
        "a message that is not known to be delivered keeps it for three days"
    );
    assert_eq!(used(&store, START.after(3 * DAY)).await, 0);
}

#[tokio::test]
async fn a_person_with_an_open_window_does_not_count_when_the_message_is_delivered() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    store.open_windows(&business(), &line(), &[(person(1), START)], START).await.expect("redis");
    let later = START.after(Duration::from_hours(23));
    assert_eq!(take(&store, &[(person(1), message(1, 1)), (person(2), message(2, 1))], later).await, [true, true]);
    assert_eq!(used(&store, later).await, 1, "only the other one");
    note(&store, person(1), message(1, 1), Fate::Delivered(later), later).await;
    assert_eq!(used(&store, later).await, 1);
    let closed = START.after(DAY);
    assert_eq!(take(&store, &[(person(1), message(1, 2))], closed).await, [true]);
    assert_eq!(used(&store, closed).await, 2, "the window is closed");
    // A message that counted as not delivered arrives after all.
    note(&store, person(3), message(3, 1), Fate::Delivered(closed), closed).await;
    assert_eq!(used(&store, closed).await, 3);
}

#[tokio::test]
async fn a_message_that_is_sent_again_keeps_one_place() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    assert_eq!(take(&store, &[(person(1), message(1, 1))], START).await, [true]);
    let later = START.after(Duration::from_secs(60));
    assert_eq!(take(&store, &[(person(1), message(1, 2))], later).await, [true]);
    note(&store, person(1), message(1, 1), Fate::NotDelivered, later).await;
    assert_eq!(used(&store, later).await, 1, "the end of the first send says nothing about the second");
    note(&store, person(1), message(1, 2), Fate::NotDelivered, later).await;
    assert_eq!(used(&store, later).await, 0);
}

#[tokio::test]
async fn what_redis_forgets_is_counted_again() {
    let mut redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let kept = redis.written();
    let everyone: Vec<(Person, RowRef)> = (0..20).map(|n| (person(n.into()), message(n, 1))).collect();
    let now = store.time().await.expect("redis");
    assert_eq!(take(&store, &everyone, now).await, [true; 20]);
    redis.lose_power(kept).await;
    redis.restart().await;
    crate::support::until("the journal is replayed", async || {
        store.places(&business(), LIMIT, now).await.is_ok_and(|places| places.left == 0)
    })
    .await;
    assert_eq!(take(&store, &[(person(99), message(99, 1))], now).await, [false]);
}
