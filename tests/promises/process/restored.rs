//! A Redis that was restored from an older copy: messages that the copy or a webhook shows as sent are not sent again.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use reqwest::Method;
use serde_json::json;

use crate::support::{
    hostile::{Conduct, Courier, Meta, Reply, Sent, Status, accepted, wamid},
    redis::TestRedis,
    seed,
    server::Installation,
    until,
};

const FIRST: u64 = 5_491_100_000_000;

/// Accepts every message, and reports the delivery of those to odd numbers.
struct OddAreDelivered;

fn is_odd(to: &str) -> bool {
    to.ends_with(['1', '3', '5', '7', '9'])
}

impl Conduct for OddAreDelivered {
    fn send(&mut self, sent: Sent, courier: &Courier) -> Reply {
        let id = wamid(&sent.to, 1);
        let answer = accepted(&sent.to, &id);
        if is_odd(&sent.to) {
            let (line, to, token) = (sent.line, sent.to, Some(sent.token));
            courier.report(Duration::ZERO, Status { line, to, wamid: id, token, word: "delivered".into() });
        }
        Reply::of(answer, Duration::from_millis(2))
    }
}

fn people(meta: &Meta) -> Vec<String> {
    meta.arrivals().into_iter().map(|arrival| arrival.to).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_copy_repeats_only_what_neither_it_nor_a_webhook_knows() {
    let mut redis = TestRedis::start().await;
    let meta = Meta::start(OddAreDelivered, seed());
    let installation = Installation::new(&redis, &meta.url(), &[("3001", 40.0)], "doubt_deadline = \"6s\"");
    let first = installation.serve("first", "api,dispatch").await;
    let api = first.api();
    let done = api.campaign(&["3001"], FIRST..FIRST + 20, json!({"external_id": "done"})).await;
    api.wait_for_state(&done, "completed", Duration::from_secs(60)).await;
    let running = api.campaign(&["3001"], FIRST + 100..FIRST + 240, json!({"external_id": "running"})).await;
    until("some are sent", async || meta.requests() >= 50).await;
    let in_copy: HashSet<String> = people(&meta).into_iter().collect();
    let copy = installation.dir().join("copy.rdb");
    redis.copy_to(&copy).await;
    until("more are sent", async || meta.requests() >= 110).await;
    first.signal("KILL");
    redis.kill_hard().await;
    let before = people(&meta).len();

    redis.restore(&copy).await;
    // As docs/running.md says: everything stays paused until Meta's webhooks have reported what they can, and the
    // operator resumes.
    let receiving = installation.serve("receiving", "api,webhook").await;
    let api = receiving.api();
    api.post("pause").await;
    meta.set_webhook(receiving.webhook());
    let _sending = installation.serve("sending", "dispatch").await;
    until("Meta has reported everything", async || meta.is_idle()).await;
    // A backend that does not know what was lost repeats its calls.
    let again = json!({"external_id": "done", "name": "test", "lines": ["3001"], "launch": true,
                       "template": {"name": "order_update", "language": "es_AR"}});
    let (status, repeated) = api.call(Method::POST, "campaigns", Some(again)).await;
    assert_eq!((status, &repeated["id"], &repeated["state"]), (200, &json!(done), &json!("completed")), "{repeated}");
    assert_eq!(people(&meta).len(), before, "nothing is sent while everything is paused");
    api.post("resume").await;
    api.wait_for_state(&running, "completed", Duration::from_secs(90)).await;

    let mut messages: HashMap<String, u32> = HashMap::new();
    people(&meta).into_iter().for_each(|to| *messages.entry(to).or_default() += 1);
    assert_eq!(messages.len(), 160, "nobody is lost");
    let twice: Vec<&String> = messages.iter().filter(|(_, n)| **n > 1).map(|(to, _)| to).collect();
    assert!(!twice.is_empty(), "what was sent after the copy, and not reported, is sent again");
    for to in twice {
        assert!(!in_copy.contains(to) && !is_odd(to) && messages[to] == 2, "{to}: {} messages", messages[to]);
    }
}
