//! The event feed has an event for everything that happens, in order and at least once, and no others.

use std::{collections::HashMap, time::Duration};

use deadpool_redis::redis::cmd;
use pregon::{
    domain::{CampaignState, ClaimedRow, EntryId, FailureReason, Hold, HoldScope, MetaCode, Settled, UnixMs},
    redis::{
        feed::{FeedLimits, skips_numbers},
        untold::Untold,
    },
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{
    hooks::{self, Hooks, Message, inbound, now, statuses},
    meta_code, until, world,
};

/// A receiver of webhooks, and a worker that writes the feed.
struct World {
    hooks: Hooks,
    limits: FeedLimits,
    feed: Option<(CancellationToken, JoinHandle<()>)>,
}

impl World {
    async fn start() -> Self {
        Self::start_with(world::FEED).await
    }

    async fn start_with(limits: FeedLimits) -> Self {
        let mut world = Self { hooks: Hooks::start_with(Some(limits)).await, limits, feed: None };
        // Changes before the feed began have no events.
        world.start_feed("w1").await;
        until("the feed begins", async || world.hooks.store.told_states().await.is_ok_and(|told| !told.is_empty()))
            .await;
        world
    }

    async fn start_feed(&mut self, name: &str) {
        let lines = ["3001", "3002", "3003"].map(|id| world::line(id, 80.0));
        let feed = world::feed(name, &self.hooks.store, &lines).await;
        let (stop, limits) = (CancellationToken::new(), self.limits);
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            feed.run(limits, &stopped).await;
        });
        self.feed = Some((stop, task));
    }

    async fn stop_feed(&mut self) {
        let (stop, task) = self.feed.take().expect("it runs");
        stop.cancel();
        task.await.expect("no panic");
    }

    /// The worker dies: it stops at once, and its lease ends.
    async fn kill_feed(&mut self) {
        let (_, task) = self.feed.take().expect("it runs");
        task.abort();
        let _ = task.await;
        let lease = cmd("DEL").arg(self.hooks.store.keys.duty_lease("feed:0")).clone();
        let _: u8 = self.hooks.store.query("DEL", &lease).await.expect("redis");
    }

    async fn stop(mut self) {
        if self.feed.is_some() {
            self.stop_feed().await;
        }
        self.hooks.stop().await;
    }

    /// All events, in the order of the feed.
    async fn events(&self) -> Vec<Value> {
        let mut events = Vec::new();
        for partition in self.limits.partitions() {
            let stored = self.hooks.store.events_after(partition, EntryId::default(), 100_000).await.expect("redis");
            events.extend(stored.into_iter().map(|stored| serde_json::from_str::<Value>(&stored.event).expect("JSON")));
        }
        events
    }

    /// The events whose type begins with `prefix`.
    async fn events_of(&self, prefix: &str) -> Vec<Value> {
        let events = self.events().await.into_iter();
        events.filter(|event| event["type"].as_str().is_some_and(|event| event.starts_with(prefix))).collect()
    }

    /// Waits until `n` events have a type that begins with `prefix`, and returns them.
    async fn wait_for(&self, n: usize, prefix: &str) -> Vec<Value> {
        until(&format!("{n} events {prefix}"), async || self.events_of(prefix).await.len() >= n).await;
        self.events_of(prefix).await
    }

    /// Waits until the feed has caught up.
    async fn wait_until_told(&self) {
        let store = &self.hooks.store;
        until("all is told", async || {
            let parts = store.stored_campaigns().await.expect("redis");
            for record in store.campaigns(&parts).await.expect("redis").into_iter().flatten() {
                let parts: Vec<_> = record.parts.iter().map(|(part, _)| *part).collect();
                let untold = store.untold_changes(&parts, 1).await.expect("redis");
                if untold.iter().any(|untold| !untold.changes.is_empty()) {
                    return false;
                }
            }
            true
        })
        .await;
    }
}

/// The types of each recipient's events, without the prefix `recipient.`, each event once, in order.
fn told(events: &[Value]) -> HashMap<String, Vec<String>> {
    let mut by_recipient: HashMap<String, Vec<String>> = HashMap::new();
    let mut ids = std::collections::HashSet::new();
    for event in events {
        if !ids.insert(event["id"].as_str().expect("an id").to_owned()) {
            continue;
        }
        let recipient = event["recipient"].as_str().expect("a recipient").to_owned();
        let word = event["type"].as_str().and_then(|word| word.strip_prefix("recipient.")).expect("a type");
        by_recipient.entry(recipient).or_default().push(word.to_owned());
    }
    by_recipient
}

fn claimed(message: &Message) -> ClaimedRow {
    ClaimedRow { row: message.row, send: message.send }
}

fn recipient(message: &Message) -> String {
    format!("{}.{}", message.part, message.row)
}

#[tokio::test]
async fn what_becomes_of_each_recipient_is_told_in_order() {
    let world = World::start().await;
    let hooks = &world.hooks;
    let (id, messages) = hooks.campaign(&["3001"], 4).await;
    let all = &messages[&"3001".into()];
    let refused = Settled::Refused { reason: meta_code(131_026) };
    hooks.accept(&all[..3]).await;
    hooks.settle([(all[3], refused)]).await;
    for (message, words) in [(0, &["sent", "delivered", "read"][..]), (1, &["sent", "failed 131049"])] {
        for word in words {
            assert_eq!(hooks.deliver(&statuses("3001", &[hooks.status(&all[message], word)])).await, 200);
        }
    }
    let events = world.wait_for(8, "recipient.").await;
    let told = told(&events);
    let words = |message: usize| told[&recipient(&all[message])].clone();
    assert_eq!(words(0), ["accepted", "sent", "delivered", "read"]);
    assert_eq!(words(1), ["accepted", "sent", "failed"]);
    assert_eq!((words(2), words(3)), (vec!["accepted".to_owned()], vec!["failed".to_owned()]));

    let first = &events.iter().find(|event| event["type"] == "recipient.read").expect("an event");
    let at: UnixMs = serde_json::from_value(first["at"].clone()).expect("a time");
    assert!(now().since(at) < Duration::from_secs(600), "{at}");
    let row = u64::from(all[0].row);
    assert!(first["to"].as_str().is_some_and(|to| to.starts_with("+549110000000")), "{first}");
    let expected = json!({
        "id": format!("{}.{row}.1.read", all[0].part), "type": "recipient.read", "at": first["at"], "business": "1001",
        "line": "3001", "campaign": id.to_string(), "recipient": recipient(&all[0]), "to": first["to"], "wamid": all[0].wamid(), "send": 1, "rank": 11,
    });
    assert_eq!(**first, expected);
    let failed = events.iter().find(|event| event["code"] == 131_026).expect("the refusal");
    assert_eq!(failed["reason"], FailureReason::Meta(MetaCode(131_026)).title());
    world.stop().await;
}

#[tokio::test]
async fn a_status_that_changes_nothing_is_not_told() {
    let world = World::start().await;
    let hooks = &world.hooks;
    let (_, messages) = hooks.campaign(&["3001"], 1).await;
    let message = messages[&"3001".into()][0];
    hooks.accept([&message]).await;
    for word in ["read", "delivered", "read", "sent"] {
        assert_eq!(hooks.deliver(&statuses("3001", &[hooks.status(&message, word)])).await, 200);
    }
    world.wait_until_told().await;
    assert_eq!(told(&world.events_of("recipient.").await)[&recipient(&message)], ["accepted", "read"]);
    world.stop().await;
}

#[tokio::test]
async fn what_is_noted_again_while_it_is_told_is_told_once() {
    // More recipients than the relay reads in one round.
    const RECIPIENTS: usize = 30_000;
    let mut world = World::start().await;
    world.stop_feed().await;
    let (_, messages) = world.hooks.campaign(&["3001"], RECIPIENTS as u64).await;
    let messages = &messages[&"3001".into()];
    for messages in messages.chunks(256) {
        world.hooks.accept(messages).await;
    }
    world.start_feed("w2").await;
    let store = &world.hooks.store;
    while world.events_of("recipient.").await.len() < RECIPIENTS {
        store.note_changed([Untold::Part(messages[0].part)]).await.expect("redis");
    }
    world.wait_until_told().await;
    let events = world.events_of("recipient.").await;
    let ids: std::collections::HashSet<&str> = events.iter().filter_map(|event| event["id"].as_str()).collect();
    assert_eq!((events.len(), ids.len()), (RECIPIENTS, RECIPIENTS));
    world.stop().await;
}

#[tokio::test]
async fn a_worker_that_takes_over_tells_what_was_not_told() {
    let mut world = World::start().await;
    let (_, messages) = world.hooks.campaign(&["3001"], 300).await;
    let messages = &messages[&"3001".into()];
    world.hooks.accept(&messages[..100]).await;
    world.wait_until_told().await;
    world.kill_feed().await;
    world.hooks.accept(&messages[100..]).await;
    // The worker's notes of what changed are lost with it.
    let notes = cmd("DEL").arg(world.hooks.store.keys.changed(0, 1)).clone();
    assert_eq!(world.hooks.store.query::<u8>("DEL", &notes).await.expect("redis"), 1);
    world.start_feed("w2").await;
    world.wait_until_told().await;
    let told = told(&world.events_of("recipient.").await);
    assert!(messages.iter().all(|message| told[&recipient(message)] == ["accepted"]));
    world.stop().await;
}

#[tokio::test]
async fn what_redis_forgets_is_told_again() {
    let mut world = World::start().await;
    let (_, messages) = world.hooks.campaign(&["3001"], 20).await;
    let messages = &messages[&"3001".into()];
    world.hooks.accept(&messages[..10]).await;
    world.wait_until_told().await;
    let info = cmd("INFO").arg("persistence").clone();
    until("all is written", async || {
        world
            .hooks
            .store
            .query::<String>("INFO", &info)
            .await
            .is_ok_and(|info| info.contains("aof_buffer_length:0\r\n"))
    })
    .await;
    let written = world.hooks.redis.written();
    world.hooks.accept(&messages[10..]).await;
    let delivered: Vec<Value> = messages.iter().map(|message| world.hooks.status(message, "delivered")).collect();
    assert_eq!(world.hooks.deliver(&statuses("3001", &delivered)).await, 200);
    world.wait_until_told().await;
    world.hooks.redis.lose_power(written).await;
    world.hooks.redis.restart().await;
    world.wait_until_told().await;
    let told = told(&world.wait_for(40, "recipient.").await);
    for message in messages {
        assert_eq!(told[&recipient(message)], ["accepted", "delivered"]);
    }
    world.stop().await;
}

#[tokio::test]
async fn a_campaign_and_its_unsent_recipients_are_told_to_their_end() {
    let world = World::start().await;
    let hooks = &world.hooks;
    let (id, messages) = hooks.campaign(&["3001"], 3).await;
    let messages = &messages[&"3001".into()];
    world.wait_for(1, "campaign.state").await;
    hooks.accept(&messages[..1]).await;
    let back = |message: &Message| (*message, Settled::Back { at: pregon::domain::Due::AtOnce });
    hooks.settle(messages[1..].iter().map(back)).await;
    let change =
        hooks.store.change_campaign(id, &[CampaignState::Running], CampaignState::Cancelled, hooks.clock.now(), None);
    change.await.expect("cancelled");
    let told = told(&world.wait_for(3, "recipient.").await);
    let words: Vec<&[String]> = messages.iter().map(|message| told[&recipient(message)].as_slice()).collect();
    assert_eq!(words, [["accepted".to_owned()], ["cancelled".to_owned()], ["cancelled".to_owned()]]);
    let states = world.wait_for(2, "campaign.state").await;
    let last = states.last().expect("an event");
    let record = hooks.record(id).await;
    assert_eq!(last["id"], format!("{id}.state.{}", record.version));
    assert_eq!(
        (&last["state"], &last["campaign"], &last["business"]),
        (&json!("cancelled"), &json!(id.to_string()), &json!("1001"))
    );
    assert_eq!(last["at"], serde_json::to_value(record.ended_at).expect("JSON"));
    world.stop().await;
}

#[tokio::test]
async fn messages_from_people_are_told_and_kept_until_then() {
    let mut world = World::start().await;
    world.stop_feed().await;
    let (id, messages) = world.hooks.campaign(&["3001"], 1).await;
    let message = messages[&"3001".into()][0];
    world.hooks.accept([&message]).await;
    let tap = json!({"type": "button", "button": {"payload": world.hooks.token(&message), "text": "Yes"}, "id": "wamid.IN0", "from": "5491155550001"});
    assert_eq!(world.hooks.deliver(&inbound("3001", &[tap])).await, 200);
    world.start_feed("w2").await;
    let told = world.wait_for(1, "message.received").await.remove(0);
    assert_eq!((&told["id"], &told["recipient"]), (&json!("message:3001:wamid.IN0"), &json!(recipient(&message))));
    assert_eq!((&told["campaign"], &told["send"]), (&json!(id.to_string()), &json!(1)));
    assert_eq!(told["message"]["sender"]["number"], "5491155550001");
    assert!(told["message"]["content"]["tap"].is_object(), "{told}");
    // Messages stay on the stream while no feed runs.
    world.stop_feed().await;
    let text = |n: u32| json!({"type": "text", "text": {"body": "hola"}, "id": format!("wamid.IN{n}"), "from": "5491155550001"});
    let texts: Vec<Value> = (1..1_100).map(text).collect();
    assert_eq!(world.hooks.deliver(&inbound("3001", &texts)).await, 503, "the stream is full");
    world.start_feed("w3").await;
    until("all are taken", async || world.hooks.deliver(&inbound("3001", &texts)).await == 200).await;
    let told = world.wait_for(1_100, "message.received").await;
    let ids: std::collections::HashSet<&str> = told.iter().filter_map(|event| event["id"].as_str()).collect();
    assert_eq!((ids.len(), told.len()), (1_100, 1_100));
    world.stop().await;
}

#[tokio::test]
async fn holds_lines_and_templates_are_told() {
    let world = World::start().await;
    let store = &world.hooks.store;
    let lines = world.wait_for(3, "line.state").await;
    assert!(lines.iter().all(|event| event["state"] == "no_worker"), "{lines:?}");
    let scope = HoldScope::Line("3002".into());
    let hold = Hold { code: Some(MetaCode(131_031)), reason: "locked".into(), since: UnixMs(1_000), until: None };
    store.hold(&scope, &hold).await.expect("held");
    let began = world.wait_for(1, "hold.began").await.remove(0);
    let expected = json!({
        "id": "hold:line:3002:1000:began", "type": "hold.began", "at": "1970-01-01T00:00:01Z", "business": "1001", "line": "3002",
        "scope": "line:3002", "code": 131_031, "reason": "locked", "since": "1970-01-01T00:00:01Z",
    });
    assert_eq!(began, expected);
    store.reword_hold(&scope, "account locked").await.expect("reworded");
    store.set_paused(&"3001".into(), true).await.expect("paused");
    let changed = world.wait_for(5, "line.state").await;
    let states: std::collections::HashSet<(&str, &str)> =
        changed[3..].iter().filter_map(|event| Some((event["line"].as_str()?, event["state"].as_str()?))).collect();
    assert_eq!(states, [("3002", "held"), ("3001", "paused")].into());
    store.unhold(&scope).await.expect("lifted");
    let ended = world.wait_for(1, "hold.ended").await.remove(0);
    assert_eq!((&ended["id"], &ended["reason"]), (&json!("hold:line:3002:1000:ended"), &json!("account locked")));
    assert_eq!(world.events_of("hold.began").await.len(), 1, "a hold that was reworded is the same hold");

    let template = world::template();
    store.put_templates(&"2001".into(), std::slice::from_ref(&template), now()).await.expect("stored");
    let told = world.wait_for(1, "template.state").await.remove(0);
    assert_eq!(
        (&told["waba"], &told["template"], &told["status"]),
        (&json!("2001"), &json!(template.name), &json!("APPROVED"))
    );
    world.stop().await;
}

#[tokio::test]
async fn what_happened_before_there_was_a_feed_is_not_told() {
    let mut world = World { hooks: Hooks::start_with(Some(world::FEED)).await, limits: world::FEED, feed: None };
    let (_, messages) = world.hooks.campaign(&["3001"], 2).await;
    let messages = &messages[&"3001".into()];
    world.hooks.accept(&messages[..1]).await;
    world.hooks.store.begin_feed().await.expect("redis");
    world.start_feed("w1").await;
    world.wait_for(3, "line.state").await;
    world.wait_until_told().await;
    assert_eq!(world.events_of("recipient.").await, [] as [Value; 0]);
    assert_eq!(world.events_of("campaign.").await, [] as [Value; 0]);
    // Changes after the feed began have events, even if the clock was set back.
    let settled = [(messages[1].part, vec![(claimed(&messages[1]), hooks::accepted(&messages[1]))])];
    let (earlier, kept) = (UnixMs(world.hooks.clock.now().0 - 60_000), hooks::ID_RETENTION);
    world.hooks.store.settle(&settled.into(), 1, earlier, kept).await.expect("settled");
    let told = told(&world.wait_for(1, "recipient.").await);
    assert_eq!(told.into_keys().collect::<Vec<_>>(), [recipient(&messages[1])]);
    world.stop().await;
}

#[tokio::test]
async fn events_of_a_campaign_stay_together_and_numbers_show_gaps() {
    let limits = FeedLimits { partitions: 3.try_into().expect("not 0"), length_max: 1_000, ..world::FEED };
    let world = World::start_with(limits).await;
    let (id, messages) = world.hooks.campaign(&["3001"], 10).await;
    let messages = &messages[&"3001".into()];
    world.hooks.accept(messages).await;
    world.wait_for(10, "recipient.").await;
    let store = &world.hooks.store;
    let key = format!("pregon:events:{{{}}}", limits.partition(Some(id)));
    let length = cmd("XLEN").arg(&key).clone();
    assert!(store.query::<u64>("XLEN", &length).await.expect("redis") >= 10);
    let filler: Vec<String> = (0..3_000).map(|n| format!(r#"{{"id":"{n}"}}"#)).collect();
    store.append_events(Some(id), &filler).await.expect("appended");
    let kept = store.events_after(limits.partition(Some(id)), EntryId::default(), 10_000).await.expect("redis");
    assert!((1_000..1_200).contains(&kept.len()), "{}", kept.len());
    let numbers: Vec<u64> = kept.iter().map(|stored| stored.id.number).collect();
    assert!(numbers.is_sorted() && numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
    let newest = store.newest_event(limits.partition(Some(id))).await.expect("redis");
    assert_eq!(newest, kept.last().expect("events").id);
    let read_before = EntryId { ms: 1, number: 5 };
    assert!(skips_numbers(read_before, kept[0].id) && !skips_numbers(kept[0].id, kept[1].id));
    world.stop().await;
}

#[tokio::test]
async fn events_name_nobody_whose_data_would_end_before_them() {
    let world = World::start().await;
    let hooks = &world.hooks;
    let (id, messages) = hooks.campaign(&["3001"], 1).await;
    let message = messages[&"3001".into()][0];
    hooks.accept([&message]).await;
    world.wait_for(1, "recipient.").await;
    hooks.store.complete_if_done(id, hooks.clock.now()).await.expect("completed");
    // The campaign ended almost an hour ago. Its recipients are stored for an hour, events for ten minutes.
    let long_ago = hooks.clock.now().0 - 3_500_000;
    let end = cmd("HSET").arg(hooks.store.keys.campaign(id)).arg("ended").arg(long_ago).clone();
    let _: u8 = hooks.store.query("HSET", &end).await.expect("redis");
    let mut world = world;
    world.stop_feed().await;
    world.start_feed("w2").await;
    assert_eq!(world.hooks.deliver(&statuses("3001", &[world.hooks.status(&message, "read")])).await, 200);
    let events = world.wait_for(2, "recipient.").await;
    assert!(events[0]["to"].is_string() && events[1]["to"].is_null(), "{events:?}");
    world.stop().await;
}
