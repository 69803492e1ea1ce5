//! The marketing messages that frequency caps count, compared with a model that stores each message.

use std::time::Duration;

use deadpool_redis::redis::cmd;
use pregon::{
    domain::{BusinessId, ClaimedRow, FrequencyCap, PartId, PersonHash, UnixMs, frequency_cap::hour_of},
    redis::{
        Store,
        marketing::{FrequencyCaps, MarketingMessage},
    },
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::support::{redis::TestRedis, seed, until, world};

const START: UnixMs = UnixMs(1_795_000_000_000);
const HOUR: Duration = Duration::from_hours(1);

fn business() -> BusinessId {
    "1001".into()
}

fn cap(messages: u8, days: u8) -> FrequencyCap {
    FrequencyCap { messages, days }
}

/// The hash of a person. A hundred people share a field.
fn hash(person: u64) -> PersonHash {
    PersonHash(((person / 100) << 50) | ((person % 100) << 18))
}

/// The message to a person, identified by its row.
fn message(person: u64, row: u16) -> MarketingMessage {
    let campaign = "01J9ZK3V5T8R7Q6P5N4M3K2J1H".parse().expect("an id");
    MarketingMessage::new(hash(person), (PartId { campaign, number: 0 }, ClaimedRow { row, send: 1 }))
}

async fn count(store: &Store, caps: FrequencyCaps, messages: &[MarketingMessage], now: UnixMs) -> Vec<bool> {
    store.count_marketing(&business(), caps, messages, now).await.expect("redis")
}

/// The bytes that all counted messages take.
async fn counted_bytes(store: &Store) -> usize {
    let key = store.keys.marketing(&business());
    let values: Vec<Vec<u8>> = store.query("HVALS", cmd("HVALS").arg(key)).await.expect("redis");
    values.iter().map(Vec::len).sum()
}

#[tokio::test]
async fn asking_who_has_had_enough_counts_nothing() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let caps = FrequencyCaps::of(Some(cap(2, 7)), None).expect("a cap");
    count(&store, caps, &[message(1, 1), message(1, 2), message(2, 3)], START).await;
    let people: Vec<PersonHash> = (0..1_200).map(hash).collect();
    let counted = counted_bytes(&store).await;
    for _ in 0..3 {
        let capped = store.capped(&business(), caps, &people, START.after(HOUR)).await.expect("redis");
        let capped: Vec<usize> = (0..people.len()).filter(|person| capped[*person]).collect();
        assert_eq!(capped, [1]);
    }
    assert_eq!(counted_bytes(&store).await, counted);
    let later = START.after(HOUR * 24 * 8);
    assert!(!store.capped(&business(), caps, &people[..2], later).await.expect("redis").contains(&true));
}

#[tokio::test]
async fn a_person_gets_what_the_caps_allow_and_not_one_more() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let mut rng = StdRng::seed_from_u64(seed());
    let (mut row, mut n_sent) = (0, 0);
    for round in 0..20 {
        let (first, second) = (cap(rng.random_range(1..5), 3), cap(rng.random_range(1..5), rng.random_range(1..4)));
        let caps = FrequencyCaps::of(Some(first), rng.random_bool(0.5).then_some(second)).expect("a cap");
        let both = if caps == FrequencyCaps::of(Some(first), None).expect("a cap") {
            vec![first]
        } else {
            vec![first, second]
        };
        let mut now = START.after(HOUR * 24 * 40 * round);
        let mut sent: Vec<(u64, MarketingMessage, u64)> = Vec::new();
        for _ in 0..40 {
            now = now.after(HOUR.mul_f64(rng.random_range(0.0..12.0)));
            let hour = hour_of(now);
            let people: Vec<(u64, MarketingMessage)> = (0..rng.random_range(1..8))
                .map(|_| {
                    row += 1;
                    let person = rng.random_range(0..300) / 50;
                    (person, message(person * 60, row))
                })
                .collect();
            let messages: Vec<MarketingMessage> = people.iter().map(|(_, message)| *message).collect();
            let answers = count(&store, caps, &messages, now).await;
            for ((person, message), may_be_sent) in people.into_iter().zip(answers) {
                let n = |cap: &FrequencyCap| {
                    let counts = |at: u64| hour - at <= u64::from(cap.hours());
                    sent.iter().filter(|(other, _, at)| *other == person && counts(*at)).count()
                };
                let is_allowed = both.iter().all(|cap| n(cap) < usize::from(cap.messages));
                assert_eq!(may_be_sent, is_allowed, "person {person} at {hour}");
                if may_be_sent {
                    n_sent += 1;
                    sent.push((person, message, hour));
                }
            }
            if rng.random_bool(0.5) && !sent.is_empty() {
                let (_, unsent, _) = sent.swap_remove(rng.random_range(0..sent.len()));
                for _ in 0..2 {
                    store.uncount_marketing(&business(), &[unsent]).await.expect("redis");
                }
            }
        }
    }
    assert!(n_sent > 200 && n_sent < row, "the history is too quiet: {n_sent} of {row}");
}

#[tokio::test]
async fn messages_that_no_cap_counts_any_more_are_dropped() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let week = FrequencyCaps::of(Some(cap(2, 7)), None).expect("a cap");
    let messages: Vec<MarketingMessage> = (0..150).map(|n| message(n.into(), n)).collect();
    assert_eq!(count(&store, week, &messages, START).await, [true; 150]);
    let later = START.after(HOUR * 24 * 5);
    assert_eq!(count(&store, week, &messages[..10], later).await, [true; 10]);
    assert_eq!(counted_bytes(&store).await, 160 * 9);
    store.drop_old_marketing(&business(), cap(2, 7), later).await.expect("redis");
    assert_eq!(counted_bytes(&store).await, 160 * 9);
    store.drop_old_marketing(&business(), cap(2, 7), START.after(HOUR * 24 * 8)).await.expect("redis");
    assert_eq!(counted_bytes(&store).await, 10 * 9);
    store.drop_old_marketing(&business(), cap(2, 7), later.after(HOUR * 24 * 8)).await.expect("redis");
    assert_eq!(counted_bytes(&store).await, 0);
}

#[tokio::test]
async fn what_redis_forgets_is_counted_and_given_back_again() {
    let mut redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let kept = redis.written();
    let once = FrequencyCaps::of(Some(cap(1, 7)), None).expect("a cap");
    let now = store.time().await.expect("redis");
    let messages: Vec<MarketingMessage> = (0..20).map(|n| message(n.into(), n)).collect();
    assert_eq!(count(&store, once, &messages, now).await, [true; 20]);
    store.uncount_marketing(&business(), &messages[..5]).await.expect("redis");
    redis.lose_power(kept).await;
    redis.restart().await;
    until("the journal is replayed", async || store.time().await.is_ok()).await;
    let others: Vec<MarketingMessage> = (0..20).map(|n| message(n.into(), 100 + n)).collect();
    let expected: Vec<bool> = (0..20).map(|n| n < 5).collect();
    assert_eq!(count(&store, once, &others, now).await, expected);
    assert_eq!(counted_bytes(&store).await, 20 * 9, "nothing is counted twice");
}
