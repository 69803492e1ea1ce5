//! The event feed over HTTP: positions, filters, gaps, and what ends a stream.

use std::{num::NonZeroU16, time::Duration};

use futures_util::StreamExt as _;
use pregon::{domain::CampaignId, redis::feed::FeedLimits};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::harness::{Api, BUSINESSES, Block, EventStream, answer, key_of_business};

/// Two campaigns. Their events are in different partitions of a feed with two or three.
const SPRING: &str = "01J9ZK3V5T8R7Q6P5N4M3K2J1G";
const SUMMER: &str = "01J9ZK3V5T8R7Q6P5N4M3K2J1H";

fn feed(partitions: u16) -> Option<FeedLimits> {
    let partitions = NonZeroU16::new(partitions).expect("not 0");
    Some(FeedLimits { partitions, retention: Duration::from_secs(3600), length_max: 10_000 })
}

fn campaign(id: &str) -> CampaignId {
    id.parse().expect("an id")
}

fn event(id: &str, kind: &str, of: Option<&str>) -> String {
    let mut event = json!({ "id": id, "type": kind, "at": "2026-11-22T18:00:00Z" });
    if let Some(campaign) = of {
        event["campaign"] = campaign.into();
    }
    event.to_string()
}

/// Appends an event of the type to the feed.
async fn append(api: &Api, id: &str, kind: &str, of: Option<&str>) {
    api.store.append_events(of.map(campaign), &[event(id, kind, of)]).await.expect("redis");
}

/// A stream of the feed. `query`: its parameters. `last`: its Last-Event-ID.
async fn open(api: &Api, query: &str, last: Option<&str>) -> EventStream {
    let request = api.request(Method::GET, &format!("/v1/events{query}"));
    EventStream::open(last.into_iter().fold(request, |request, id| request.header("Last-Event-ID", id))).await
}

/// The next event, and the position behind it.
async fn next(stream: &mut EventStream) -> (String, Value) {
    loop {
        let Block { id, event, data } = stream.next().await.expect("the stream goes on");
        if data.is_empty() {
            continue;
        }
        let json: Value = serde_json::from_str(&data).expect("JSON");
        assert_eq!(json["type"], event);
        return (id, json);
    }
}

/// The next `n` events: their ids, and the positions behind them.
async fn take(stream: &mut EventStream, n: usize) -> Vec<(String, String)> {
    let mut taken = Vec::new();
    while taken.len() < n {
        let (position, event) = next(stream).await;
        taken.push((event["id"].as_str().expect("an id").to_owned(), position));
    }
    taken
}

#[tokio::test]
async fn a_reader_that_reconnects_anywhere_gets_exactly_the_rest() {
    for partitions in [1, 3] {
        let api = Api::start_with_feed(feed(partitions)).await;
        for n in 0..4 {
            append(&api, &format!("spring {n}"), "recipient.sent", Some(SPRING)).await;
            append(&api, &format!("summer {n}"), "recipient.read", Some(SUMMER)).await;
            append(&api, &format!("line {n}"), "line.state", None).await;
        }
        let all = take(&mut open(&api, "?after=0", None).await, 12).await;
        let stored = api.store.events_after(0, Default::default(), 1).await.expect("redis").remove(0);
        assert!(all[0].1.starts_with(&stored.id.to_string()), "a position has the ids of the Redis stream: {all:?}");
        for (n, (_, position)) in all.iter().enumerate().take(11) {
            let mut rest: Vec<_> = all[n + 1..].iter().map(|(id, _)| id.clone()).collect();
            let mut stream = open(&api, "?after=0", Some(position)).await;
            let mut got: Vec<_> = take(&mut stream, rest.len()).await.into_iter().map(|(id, _)| id).collect();
            for kind in ["spring", "summer", "line"] {
                assert!(got.iter().filter(|id| id.starts_with(kind)).is_sorted(), "in order: {got:?}");
            }
            rest.sort();
            got.sort();
            assert_eq!(got, rest, "behind {position}");
        }
    }
}

#[tokio::test]
async fn a_stream_without_a_position_begins_with_new_events() {
    let api = Api::start_with_feed(feed(1)).await;
    append(&api, "old", "recipient.sent", Some(SPRING)).await;
    let mut stream = open(&api, "", None).await;
    let newest = api.store.newest_event(0).await.expect("redis").to_string();
    let first = stream.next().await.expect("a block");
    assert_eq!(first, Block { id: newest, ..Block::default() }, "a reader that is cut off now loses nothing");
    append(&api, "new", "recipient.sent", Some(SPRING)).await;
    assert_eq!(next(&mut stream).await.1["id"], "new");
}

#[tokio::test]
async fn an_event_is_sent_as_it_is_stored() {
    let api = Api::start_with_feed(feed(1)).await;
    let of_later_release = r#"{"id":"a","type":"sky.fell","at":"2026-11-22T18:00:00Z","b":{"c":1.50},"é":"\u001b"}"#;
    api.store.append_events(None, &["no event".into(), of_later_release.into()]).await.expect("redis");
    let mut stream = open(&api, "?after=0", None).await;
    let block = loop {
        let block = stream.next().await.expect("a block");
        if !block.data.is_empty() {
            break block;
        }
    };
    assert_eq!((block.event.as_str(), block.data.as_str()), ("", of_later_release));
}

#[tokio::test]
async fn a_filtered_reader_gets_its_events_and_every_position() {
    let api = Api::start_with_feed(feed(2)).await;
    for (id, kind, of) in [
        ("a", "recipient.sent", Some(SPRING)),
        ("b", "recipient.read", Some(SPRING)),
        ("c", "recipient.read", Some(SUMMER)),
        ("d", "message.received", Some(SPRING)),
        ("e", "line.state", None),
    ] {
        append(&api, id, kind, of).await;
    }
    let query = format!("?after=0&types=recipient.read,message.received&campaign={SPRING}");
    let mut stream = open(&api, &query, None).await;
    let ids: Vec<_> = take(&mut stream, 2).await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["b", "d"]);

    append(&api, "f", "recipient.delivered", Some(SPRING)).await;
    append(&api, "g", "recipient.delivered", Some(SUMMER)).await;
    let newest: Vec<_> = futures_util::stream::iter(0..2)
        .then(async |partition| api.store.newest_event(partition).await.expect("redis").to_string())
        .collect()
        .await;
    let position = loop {
        let block = stream.next().await.expect("a block");
        assert_eq!(block.data, "", "no further event is selected");
        if block.id == newest.join(",") {
            break block.id;
        }
    };
    append(&api, "h", "recipient.failed", Some(SUMMER)).await;
    assert_eq!(next(&mut open(&api, "", Some(&position)).await).await.1["id"], "h");
}

#[tokio::test]
async fn a_limited_key_gets_only_the_events_of_its_businesses() {
    let api = Api::start_with_feed(feed(1)).await;
    let [own, other] = BUSINESSES;
    let of = |id: &str, business: &str| {
        json!({ "id": id, "type": "line.state", "at": "2026-11-22T18:00:00Z", "business": business }).to_string()
    };
    let events = [of("a", other), event("b", "job.dead", None), of("c", own), of("d", other), of("e", own)];
    api.store.append_events(None, &events).await.expect("redis");
    let request = api.http.get(format!("{}/v1/events?after=0", api.base)).bearer_auth(key_of_business(own));
    let ids: Vec<_> = take(&mut EventStream::open(request).await, 2).await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["c", "e"]);
}

#[tokio::test]
async fn events_removed_unread_are_told_once_as_a_gap() {
    let api = Api::start_with_feed(feed(1)).await;
    let mut beginning = open(&api, "", None).await;
    let beginning = beginning.next().await.expect("a position").id;
    assert_eq!(beginning, "0-0", "the feed is empty");
    for n in 1..=5 {
        append(&api, &n.to_string(), "recipient.sent", Some(SPRING)).await;
    }
    let read = take(&mut open(&api, "?after=0", None).await, 5).await;
    let mut trim = deadpool_redis::redis::cmd("XTRIM");
    trim.arg("test:events").arg("MAXLEN").arg(2);
    trim.query_async::<()>(&mut api.redis.connection().await).await.expect("redis");

    let position = |n: usize| read[n - 1].1.clone();
    for after in [beginning, position(1), position(2)] {
        let mut stream = open(&api, "?types=recipient.read,recipient.sent", Some(&after)).await;
        let (at_gap, gap) = next(&mut stream).await;
        let at = gap["at"].clone();
        assert!(at.is_string());
        let expected = json!({
            "id": format!("gap:0:{after}:{}", position(4)), "type": "feed.gap", "at": at, "after": after, "next": position(4),
        });
        assert_eq!(gap, expected);
        assert_eq!(next(&mut stream).await.1["id"], "4");
        let mut again = open(&api, "", Some(&at_gap)).await;
        assert_eq!(next(&mut again).await.1["id"], "4", "the gap is not told twice");
    }
    for after in [position(3), "0".into()] {
        assert_eq!(next(&mut open(&api, "", Some(&after)).await).await.1["id"], "4", "nothing was missed");
    }
}

#[tokio::test]
async fn a_stream_continues_after_a_redis_outage_and_ends_with_the_server() {
    let mut api = Api::start_with_feed(feed(1)).await;
    append(&api, "before", "line.state", None).await;
    let mut stream = open(&api, "?after=0", None).await;
    assert_eq!(next(&mut stream).await.1["id"], "before");
    api.redis.kill_hard().await;
    answer(api.request(Method::GET, "/v1/events")).await.problem(503, "unavailable");
    api.redis.restart().await;
    append(&api, "after", "line.state", None).await;
    assert_eq!(next(&mut stream).await.1["id"], "after");
    api.stopping.cancel();
    while stream.next().await.is_some() {}
}

#[tokio::test]
async fn a_bad_filter_or_position_is_refused_with_the_remedy() {
    let api = Api::start_with_feed(feed(1)).await;
    let refused = async |query: &str| answer(api.request(Method::GET, &format!("/v1/events?{query}"))).await;
    let answered = refused("types=recipient.read,recipient.opened").await;
    let detail = answered.problem(400, "invalid-query");
    assert!(detail.starts_with("types has recipient.opened; ") && detail.contains("message.received"), "{detail}");
    for bad in ["campaign=1", "since=0", "types=recipient.read,"] {
        refused(bad).await.problem(400, "invalid-query");
    }
    let answered = refused("after=yesterday").await;
    assert!(answered.problem(400, "invalid-position").contains("0 for the oldest event"), "{answered:?}");
    let answered = answer(api.request(Method::GET, "/v1/events").header("Last-Event-ID", "5-1,5-2")).await;
    assert!(answered.problem(400, "invalid-position").contains("feed.partitions is 1 now"), "{answered:?}");

    let api = Api::start_with_feed(None).await;
    let answered = api.get("/v1/events").await;
    assert!(answered.problem(409, "feed-disabled").contains("feed.enabled"), "{answered:?}");
}

#[tokio::test]
async fn feed_streams_are_limited() {
    let api = Api::start_with_feed(feed(1)).await;
    let open: Vec<_> = futures_util::stream::iter(0..64).then(|_| open(&api, "", None)).collect().await;
    answer(api.request(Method::GET, "/v1/events")).await.problem(429, "too-many-streams");
    let id = api.draft("spring", &["3001"], 0).await;
    let other = api.request(Method::GET, &format!("/v1/campaigns/{id}/events")).send().await.expect("an answer");
    assert_eq!(other.status(), StatusCode::OK, "streams of campaigns have a limit of their own");
    drop(open);
}
