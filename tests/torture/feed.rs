//! Checks the event feed of a round: it has an event for everything that happened, in order, and no others, and each
//! message from people.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use deadpool_redis::redis::cmd;
use pregon::{
    domain::{CampaignId, EntryId, PartId, State},
    redis::{Store, inbound::InboundReader},
};
use serde_json::Value;

use crate::{
    check::{Truth, Verdict},
    round::{Campaign, Happened},
    stage::Stage,
};

/// How long the feed may take to catch up after the round.
const TOLD_WITHIN: Duration = Duration::from_secs(60);
/// Events of one read.
const READ_AT_ONCE: usize = 10_000;

/// Checks everything.
pub async fn check(
    verdict: &mut Verdict,
    stage: &Stage,
    truth: &Truth,
    Happened { events, campaigns, line, written, .. }: &Happened,
) {
    let store = stage.store().await;
    let (mut versions, mut parts): (Vec<(CampaignId, u64)>, Vec<PartId>) = Default::default();
    for id in campaigns.iter().filter_map(|campaign| campaign.id.as_ref()) {
        let id: CampaignId = id.parse().expect("an id");
        let record = store.campaign(id).await.expect("redis").expect("a campaign");
        versions.push((id, record.version));
        parts.extend(record.parts.into_iter().map(|(part, _)| part));
    }
    if !is_told(&store, &versions, &parts, line).await {
        verdict.problems.push(format!("the feed did not tell everything within {TOLD_WITHIN:?}"));
    }
    let told: Vec<Value> = read(&store).await.into_iter().map(|(_, event)| event).collect();
    let redis_forgot = events.iter().any(|event| event.forgotten > 0);
    recipients(verdict, &store, &parts, &told, |event| {
        redis_forgot && truth.explains(&text(event, "to").replace('+', ""), text(event, "type"))
    })
    .await;
    campaign_ends(verdict, campaigns, &told);
    let messages: Vec<String> = written.iter().map(|message| message.id.clone()).collect();
    inbound_messages(verdict, &store, line, &messages, &told, redis_forgot).await;
}

/// Waits until the feed has caught up. Returns false if it took too long.
async fn is_told(store: &Store, versions: &[(CampaignId, u64)], parts: &[PartId], line: &str) -> bool {
    let began = Instant::now();
    let ids: Vec<CampaignId> = versions.iter().map(|(id, _)| *id).collect();
    while began.elapsed() < TOLD_WITHIN {
        let untold = store.untold_changes(parts, 1).await.expect("redis");
        let messages = store.unread_inbound(InboundReader::Feed, &line.into(), 1).await.expect("redis");
        let told = store.told_versions(&ids).await.expect("redis");
        let are_told = told.iter().zip(versions).all(|(told, (_, version))| *told == Some(*version));
        if are_told && messages.is_empty() && untold.iter().all(|untold| untold.changes.is_empty()) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    false
}

/// The whole feed, in order: each event, and its id in the stream.
pub async fn read(store: &Store) -> Vec<(EntryId, Value)> {
    let (mut events, mut position) = (Vec::new(), EntryId::default());
    loop {
        let stored = store.events_after(0, position, READ_AT_ONCE).await.expect("redis");
        let Some(last) = stored.last() else { return events };
        position = last.id;
        events.extend(stored.iter().map(|stored| (stored.id, serde_json::from_str(&stored.event).expect("JSON"))));
    }
}

fn text<'e>(event: &'e Value, field: &str) -> &'e str {
    event[field].as_str().unwrap_or_default()
}

/// Checks the events of recipients: the last event of each matches its state byte, the events are in order, and each is
/// in the history of its part or `is_explained`. Erased people have no events left, and no other event names them.
async fn recipients(
    verdict: &mut Verdict,
    store: &Store,
    parts: &[PartId],
    told: &[Value],
    is_explained: impl Fn(&Value) -> bool,
) {
    let (mut changes, mut forgotten): (HashSet<String>, HashSet<String>) = Default::default();
    let mut states: HashMap<String, &str> = HashMap::new();
    for part in parts {
        let history = cmd("LRANGE").arg(store.keys.history(*part)).arg(0).arg(-1).clone();
        let history: Vec<Vec<u8>> = store.query("LRANGE", &history).await.expect("redis");
        for [low, high, byte, ..] in history.iter().flat_map(|entry| entry.as_chunks::<7>().0) {
            let (row, state) = (u16::from_le_bytes([*low, *high]), State::of(*byte).expect("a state"));
            changes.insert(format!("{part}.{row}.{}.{}", State::send_of(*byte), state.name()));
        }
        for (row, byte) in store.state_bytes(*part).await.expect("redis").into_iter().enumerate() {
            states.extend(State::of(byte).map(|state| (format!("{part}.{row}"), state.name())));
        }
        let erased = cmd("HGET").arg(store.keys.part(*part)).arg("erased").clone();
        let erased: Option<Vec<u8>> = store.query("HGET", &erased).await.expect("redis");
        forgotten.extend(
            erased.iter().flat_map(|rows| rows.as_chunks().0).map(|row| format!("{part}.{}", u16::from_le_bytes(*row))),
        );
    }
    states.retain(|recipient, _| !forgotten.contains(recipient));
    let (mut seen, mut last): (HashSet<&str>, HashMap<&str, &Value>) = Default::default();
    let (mut disordered, mut invented) = (Vec::new(), Vec::new());
    for event in told.iter().filter(|event| text(event, "type").starts_with("recipient.")) {
        if !seen.insert(text(event, "id")) {
            continue;
        }
        let place = |event: &Value| (event["send"].as_u64(), event["rank"].as_u64());
        if let Some(before) = last.insert(text(event, "recipient"), event)
            && place(before) >= place(event)
        {
            disordered.push(format!("{} after {}", text(event, "id"), text(before, "id")));
        }
        let is_explained = |event| forgotten.contains(text(event, "recipient")) || is_explained(event);
        if !changes.contains(text(event, "id")) && !is_explained(event) {
            invented.push(text(event, "id").to_owned());
        }
    }
    let word = |recipient: &str| last.get(recipient).and_then(|event| text(event, "type").strip_prefix("recipient."));
    let untold = states.iter().filter(|(recipient, state)| word(recipient) != Some(**state));
    let untold: Vec<String> =
        untold.map(|(recipient, state)| format!("{recipient} is {state}, told {:?}", word(recipient))).collect();
    verdict.wrong("outcomes that the feed does not tell", &untold);
    verdict.wrong("events out of order", &disordered);
    verdict.wrong("events without a change", &invented);
}

/// Checks that the feed has the end of each campaign.
fn campaign_ends(verdict: &mut Verdict, campaigns: &[Campaign], told: &[Value]) {
    let completed = |id: &String| {
        let is_end = |event: &&Value| event["type"] == "campaign.state" && event["state"] == "completed";
        told.iter().filter(is_end).any(|event| text(event, "campaign") == id)
    };
    let ended = campaigns.iter().filter(|campaign| campaign.has_completed()).filter_map(|campaign| campaign.id.clone());
    let untold: Vec<String> = ended.filter(|id| !completed(id)).collect();
    verdict.wrong("ends of campaigns that the feed does not tell", &untold);
}

/// Checks that each message is on the stream of its line and in the feed, under one id.
async fn inbound_messages(
    verdict: &mut Verdict,
    store: &Store,
    line: &str,
    written: &[String],
    told: &[Value],
    redis_forgot: bool,
) {
    let range = cmd("XRANGE").arg(store.keys.inbound(&line.into())).arg("-").arg("+").clone();
    let entries: Vec<(String, Vec<String>)> = store.query("XRANGE", &range).await.expect("redis");
    let kept: Vec<String> = entries
        .iter()
        .filter_map(|(_, fields)| serde_json::from_str::<Value>(fields.get(1)?).ok())
        .map(|message| text(&message, "id").to_owned())
        .collect();
    let mut told_ids: HashMap<&str, HashSet<&str>> = HashMap::new();
    for event in told.iter().filter(|event| event["type"] == "message.received") {
        told_ids.entry(text(&event["message"], "id")).or_default().insert(text(event, "id"));
    }
    let count = |id: &String| kept.iter().filter(|kept| *kept == id).count();
    let lost: Vec<String> = written.iter().filter(|id| count(id) == 0).cloned().collect();
    // After Redis lost writes, a message is stored again. Redis may have lost only the record that it was stored.
    let twice: Vec<String> = written.iter().filter(|id| count(id) > 1 && !redis_forgot).cloned().collect();
    let untold: Vec<String> = written.iter().filter(|id| !told_ids.contains_key(id.as_str())).cloned().collect();
    let renamed = told_ids.iter().filter(|(_, ids)| ids.len() > 1).map(|(id, _)| (*id).to_owned());
    verdict.wrong("messages from people that are lost", &lost);
    verdict.wrong("messages from people that are kept twice", &twice);
    verdict.wrong("messages from people that the feed does not tell", &untold);
    verdict.wrong("messages from people that are told under two ids", &renamed.collect::<Vec<_>>());
}
