//! Messages from people: each is on the stream of its line once, with the recipient of the message that it answers,
//! until it is acknowledged or its retention ends.

use std::{collections::HashMap, time::Duration};

use deadpool_redis::redis::{FromRedisValue, cmd};
use pregon::{
    domain::{CampaignId, Inbound, OnDoubt, Settled, State, inbound::Content},
    redis::inbound::{InboundLimits, Kept, NewInbound},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{
    self,
    hooks::{self, Hooks, Message, inbound, now},
    seed, until, world,
};

const STREAM: &str = "pregon:{l:3001}:inbound";
const SEEN: &str = "pregon:{l:3001}:seen";

async fn redis<T: FromRedisValue>(hooks: &Hooks, command: &[&str]) -> T {
    let (name, arguments) = command.split_first().expect("a command");
    hooks.store.query("test", cmd(name).arg(arguments)).await.expect(name)
}

/// The messages on the stream of line 3001, oldest first, with the recipients that they name.
async fn kept(hooks: &Hooks) -> Vec<(Inbound, Option<String>)> {
    kept_in(hooks, STREAM).await
}

async fn kept_in(hooks: &Hooks, stream: &str) -> Vec<(Inbound, Option<String>)> {
    let entries: Vec<(String, HashMap<String, String>)> = redis(hooks, &["XRANGE", stream, "-", "+"]).await;
    let read = |(_, fields): (String, HashMap<String, String>)| {
        let message = serde_json::from_str(&fields["message"]).expect("an inbound message");
        (message, fields.get("recipient").cloned())
    };
    entries.into_iter().map(read).collect()
}

async fn kept_texts(hooks: &Hooks) -> Vec<String> {
    let text = |(message, _): (Inbound, _)| match message.content {
        Content::Text(text) => text,
        other => panic!("{other:?}"),
    };
    kept(hooks).await.into_iter().map(text).collect()
}

fn text(id: u32) -> Value {
    text_from("5491155550001", id)
}

fn text_from(number: &str, id: u32) -> Value {
    let (id, at) = (format!("wamid.IN{id}"), now().seconds().to_string());
    json!({"type": "text", "text": {"body": id}, "id": id, "from": number, "timestamp": at})
}

fn texts(ids: std::ops::Range<u32>) -> Value {
    inbound("3001", &ids.map(text).collect::<Vec<_>>())
}

fn ids(ids: std::ops::Range<u32>) -> Vec<String> {
    ids.map(|id| format!("wamid.IN{id}")).collect()
}

fn recipient(message: &Message) -> String {
    format!("{}.{}.{}", message.part, message.row, message.send)
}

#[tokio::test]
async fn every_message_is_kept_once_and_in_order() {
    let hooks = Hooks::start().await;
    // More messages than one call of the script stores.
    assert_eq!(hooks.deliver(&texts(0..300)).await, 200);
    assert_eq!(hooks.deliver(&texts(0..300)).await, 200);
    let (first, second) = (texts(298..302), texts(298..302));
    assert_eq!(tokio::join!(hooks.deliver(&first), hooks.deliver(&second)), (200, 200));
    assert_eq!(kept_texts(&hooks).await, ids(0..302));
    let without_id = inbound("3001", &[json!({"type": "text", "text": {"body": "hola"}, "from": "5491155550001"})]);
    for _ in 0..2 {
        assert_eq!(hooks.deliver(&without_id).await, 200);
    }
    assert_eq!(kept(&hooks).await.len(), 303, "a message without an id is known by its content");
    hooks.stop().await;
}

#[tokio::test]
async fn messages_of_foreign_lines_are_not_kept() {
    let hooks = Hooks::start().await;
    assert_eq!(hooks.deliver(&inbound("9999", &[text(1)])).await, 200);
    let mut foreign = texts(2..3);
    foreign["entry"][0]["id"] = "9001".into();
    assert_eq!(hooks.deliver(&foreign).await, 200);
    assert_eq!(redis::<Vec<String>>(&hooks, &["KEYS", "*inbound*"]).await, Vec::<String>::new());
    hooks.stop().await;
}

#[tokio::test]
async fn a_message_names_the_recipient_that_it_answers() {
    let hooks = Hooks::start().await;
    let (_, messages) = hooks.campaign(&["3001"], 3).await;
    let ours = &messages[&"3001".into()];
    hooks.accept(ours).await;
    let tap = json!({"type": "button", "button": {"payload": hooks.token(&ours[0])}, "id": "a", "from": "1"});
    let reply = json!({"type": "text", "context": {"id": ours[1].wamid()}, "id": "b", "from": "1"});
    let stranger = json!({"type": "text", "text": {"body": "hola"}, "id": "c", "from": "5491199999999"});
    assert_eq!(hooks.deliver(&inbound("3001", &[tap, reply, stranger])).await, 200);
    let recipients: Vec<Option<String>> = kept(&hooks).await.into_iter().map(|(_, recipient)| recipient).collect();
    assert_eq!(recipients, [Some(recipient(&ours[0])), Some(recipient(&ours[1])), None]);
    hooks.stop().await;
}

#[tokio::test]
async fn what_the_business_writes_in_its_app_is_kept_and_is_no_reply() {
    let hooks = Hooks::start().await;
    let (campaign, message) = sent(&hooks).await;
    let echo = json!({"from": "5491100000001", "to": NUMBER, "id": "wamid.E1", "timestamp": now().seconds().to_string(),
        "type": "text", "text": {"body": "STOP"}, "context": {"id": message.wamid()}});
    let value = json!({"metadata": {"phone_number_id": "3001"}, "message_echoes": [echo]});
    let payload = hooks::payload(&[json!({"field": "smb_message_echoes", "value": value})]);
    for _ in 0..2 {
        assert_eq!(hooks.deliver(&payload).await, 200);
    }
    let kept = kept(&hooks).await;
    let [(echo, None)] = kept.as_slice() else { panic!("one message that answers nothing: {kept:?}") };
    assert_eq!(echo.content, Content::Echo { content: Box::new(Content::Text("STOP".into())) });
    assert_eq!(echo.sender.number.as_deref(), Some(NUMBER));
    assert_eq!(hooks.counts(campaign).await.replied, 0);
    hooks.stop().await;
}

/// A campaign on line 3001 with one recipient, [`NUMBER`], whose message Meta accepted.
async fn sent(hooks: &Hooks) -> (CampaignId, Message) {
    let (id, messages) = hooks.campaign(&["3001"], 1).await;
    let message = messages[&"3001".into()][0];
    hooks.accept([&message]).await;
    (id, message)
}

/// The number of the first recipient of any campaign.
const NUMBER: &str = "5491100000000";

/// The same person, as Meta may write the number.
const OTHER_FORM: &str = "541100000000";

#[tokio::test]
async fn a_plain_message_answers_the_last_campaign_that_sent_to_the_person() {
    let hooks = Hooks::start().await;
    let (first, _) = sent(&hooks).await;
    let (second, message) = sent(&hooks).await;
    // This campaign has not sent to the person.
    let third = world::campaign(&hooks.store, &["3001"], 1, OnDoubt::Hold).await;
    world::launch(&hooks.store, third).await;
    let late = json!({"type": "text", "id": "late", "from": NUMBER,
                      "timestamp": (now().seconds() + 73 * 3_600).to_string()});
    let early = json!({"type": "text", "id": "early", "from": NUMBER,
                       "timestamp": (now().seconds() - 3_600).to_string()});
    let grouped = json!({"type": "text", "id": "grouped", "from": NUMBER, "group_id": "g1"});
    let changed = json!({"type": "system", "id": "changed", "from": NUMBER,
                         "system": {"type": "user_changed_number"}});
    let answers = [text_from(NUMBER, 1), text_from(OTHER_FORM, 2)];
    let unrelated = [late, early, grouped, changed];
    assert_eq!(hooks.deliver(&inbound("3001", &[&unrelated[..], &answers[..]].concat())).await, 200);
    let expected = Some(format!("{}.{}.0", message.part, message.row));
    let recipients: Vec<Option<String>> = kept(&hooks).await.into_iter().map(|(_, recipient)| recipient).collect();
    assert_eq!(recipients, [None, None, None, None, expected.clone(), expected]);
    let mut replied = Vec::new();
    for id in [first, second, third] {
        replied.push(hooks.counts(id).await.replied);
    }
    assert_eq!(replied, [0, 1, 0]);
    assert_eq!(hooks.by_state(second).await, HashMap::from([(State::Accepted, 1)]));
    hooks.stop().await;
}

#[tokio::test]
async fn any_answer_names_the_recipient_of_its_button_then_of_its_context_then_of_the_last_campaign() {
    const LINES: [&str; 2] = ["3001", "3002"];
    let mut random = StdRng::seed_from_u64(seed());
    let hooks = Hooks::start().await;
    let mut sent: Vec<(&str, Message)> = Vec::new();
    // By line and number: the message of the last campaign on that line that the person got.
    let mut last: HashMap<(&str, u64), Message> = HashMap::new();
    for _ in 0..4 {
        let lines = [&LINES[..1], &LINES[1..], &LINES[..]][random.random_range(0..3)];
        let (_, by_line) = hooks.campaign(lines, 8).await;
        for line in LINES {
            for message in by_line.get(&line.into()).into_iter().flatten() {
                if random.random_bool(0.3) {
                    hooks.settle([(*message, Settled::Refused { reason: support::meta_code(131_026) })]).await;
                    continue;
                }
                hooks.accept([message]).await;
                sent.push((line, *message));
                let number = hooks.store.number(message.part, message.row).await.expect("redis").expect("a number");
                last.extend(lines.iter().map(|line| ((*line, number.digits()), *message)));
            }
        }
    }
    let mut expected: HashMap<String, Option<String>> = HashMap::new();
    for n in 0..80 {
        let (line, ours) = sent[random.random_range(0..sent.len())];
        let number = NUMBER.parse::<u64>().expect("a number") + random.random_range(0..10);
        let (mut payload, mut context, mut at) =
            ("forged".to_owned(), "wamid.of-another-app".to_owned(), now().seconds());
        let of_last = last.get(&(line, number)).map(|last| format!("{}.{}.0", last.part, last.row));
        let answered = match random.random_range(0..4) {
            0 => {
                payload = hooks.token(&ours);
                context = sent[random.random_range(0..sent.len())].1.wamid();
                Some(recipient(&ours))
            }
            1 => {
                context = ours.wamid();
                Some(recipient(&ours))
            }
            2 => of_last,
            _ => {
                at -= 73 * 3_600;
                None
            }
        };
        let id = format!("wamid.IN{n}");
        let tap = json!({"type": "button", "button": {"payload": payload}, "context": {"id": context}, "id": id,
                         "from": number.to_string(), "timestamp": at.to_string()});
        assert_eq!(hooks.deliver(&inbound(line, &[tap])).await, 200);
        expected.insert(id, answered);
    }
    let mut found = HashMap::new();
    for line in LINES {
        let kept = kept_in(&hooks, &format!("pregon:{{l:{line}}}:inbound")).await.into_iter();
        found.extend(kept.map(|(message, recipient)| (message.id.expect("an id").as_str().to_owned(), recipient)));
    }
    assert_eq!(found, expected);
    hooks.stop().await;
}

#[tokio::test]
async fn without_a_reader_only_the_newest_messages_are_kept_and_they_expire() {
    let hooks = Hooks::start().await;
    let most = u32::try_from(world::INBOUND.length_max).expect("a small number");
    for from in (0..most + 200).step_by(100) {
        assert_eq!(hooks.deliver(&texts(from..from + 100)).await, 200);
    }
    assert_eq!(kept_texts(&hooks).await, ids(200..most + 200));
    let (expiry, retention): (i64, i64) =
        (redis(&hooks, &["PTTL", STREAM]).await, world::INBOUND.retention.as_millis() as i64);
    assert!((1..=retention).contains(&expiry), "{expiry}");
    hooks.stop().await;
}

#[tokio::test]
async fn what_a_reader_has_not_acknowledged_is_kept_and_a_full_stream_is_answered_503() {
    let hooks = Hooks::start().await;
    let most = u32::try_from(world::INBOUND.length_max).expect("a small number");
    assert_eq!(hooks.deliver(&texts(0..10)).await, 200);
    let () = redis(&hooks, &["XGROUP", "CREATE", STREAM, "engage", "0"]).await;
    for from in (10..most).step_by(90) {
        assert_eq!(hooks.deliver(&texts(from..from + 90)).await, 200);
    }
    assert_eq!(hooks.deliver(&texts(most..most + 1)).await, 503);
    assert_eq!(hooks.deliver(&inbound("3002", &[text(0)])).await, 200, "another line");
    assert_eq!(kept_texts(&hooks).await, ids(0..most));
    assert_eq!(redis::<i64>(&hooks, &["PTTL", STREAM]).await, -1, "no expiry");

    // Delivered to a consumer, but not acknowledged.
    let read = ["XREADGROUP", "GROUP", "engage", "c", "COUNT", "5", "STREAMS", STREAM, ">"];
    let () = redis(&hooks, &read).await;
    assert_eq!(hooks.deliver(&texts(most..most + 1)).await, 503);
    let entries: Vec<(String, Vec<String>)> = redis(&hooks, &["XRANGE", STREAM, "-", "+", "COUNT", "5"]).await;
    for (id, _) in entries.iter().take(3) {
        let () = redis(&hooks, &["XACK", STREAM, "engage", id]).await;
    }
    // The stream has room for three messages. Meta delivers the webhook with the others again.
    assert_eq!(hooks.deliver(&texts(most..most + 5)).await, 503);
    assert_eq!(kept_texts(&hooks).await, ids(3..most + 3));
    let () = redis(&hooks, &["XGROUP", "DESTROY", STREAM, "engage"]).await;
    assert_eq!(hooks.deliver(&texts(most..most + 5)).await, 200);
    assert_eq!(kept_texts(&hooks).await, ids(5..most + 5));
    hooks.stop().await;
}

#[tokio::test]
async fn a_message_is_known_for_an_hour_and_longer() {
    let hooks = Hooks::start().await;
    assert_eq!(hooks.deliver(&texts(0..2)).await, 200);
    let an_hour_old = (now().0 - 3_600_001).to_string();
    let () = redis(&hooks, &["HSET", SEEN, "since", &an_hour_old]).await;
    assert_eq!(hooks.deliver(&texts(0..3)).await, 200);
    assert_eq!(kept_texts(&hooks).await, ids(0..3), "known after the end of its generation");
    let () = redis(&hooks, &["HSET", SEEN, "since", &an_hour_old]).await;
    assert_eq!(hooks.deliver(&texts(2..4)).await, 200);
    assert_eq!(kept_texts(&hooks).await, ids(0..4));
    assert_eq!(hooks.deliver(&texts(0..1)).await, 200);
    assert_eq!(kept_texts(&hooks).await.len(), 5, "forgotten with the generation before the last");
    for key in [SEEN, "pregon:{l:3001}:seen:before"] {
        assert!(redis::<i64>(&hooks, &["PTTL", key]).await > 3_600_000, "{key} expires");
    }
    hooks.stop().await;
}

#[tokio::test]
async fn messages_that_redis_forgets_are_kept_again() {
    let mut hooks = Hooks::start().await;
    assert_eq!(hooks.deliver(&texts(0..3)).await, 200);
    until("all is written", async || {
        let info: String = redis(&hooks, &["INFO", "persistence"]).await;
        info.contains("aof_buffer_length:0\r\n")
    })
    .await;
    let written = hooks.redis.written();
    assert_eq!(hooks.deliver(&texts(3..6)).await, 200);
    hooks.redis.lose_power(written).await;
    hooks.redis.restart().await;
    assert_eq!(kept_texts(&hooks).await, ids(0..6));
    assert_eq!(hooks.deliver(&texts(2..7)).await, 200);
    assert_eq!(kept_texts(&hooks).await, ids(0..7));
    hooks.stop().await;
}

#[tokio::test]
async fn housekeeping_removes_what_was_read_when_its_time_is_over() {
    let hooks = Hooks::start().await;
    let lines = [world::line("3001", 80.0)];
    hooks.store.register_lines("w1", &lines, hooks.clock.now().after(hooks::ID_RETENTION)).await.expect("registered");
    for id in 1..=3 {
        let () = redis(&hooks, &["XADD", STREAM, &format!("{id}-0"), "message", "{}"]).await;
    }
    let () = redis(&hooks, &["XGROUP", "CREATE", STREAM, "engage", "0"]).await;
    let read = ["XREADGROUP", "GROUP", "engage", "c", "COUNT", "2", "STREAMS", STREAM, ">"];
    let () = redis(&hooks, &read).await;
    let () = redis(&hooks, &["XACK", STREAM, "engage", "1-0", "2-0"]).await;
    let graph = pregon::graph::client::GraphClient::new(world::graph("http://127.0.0.1:9")).expect("a client");
    let housekeeping = world::housekeeping(&hooks.store, &lines, graph).await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(housekeeping.run(stop.clone()));
    until("only the unread message is left", async || redis::<u64>(&hooks, &["XLEN", STREAM]).await == 1).await;
    stop.cancel();
    let Ok(()) = running.await.expect("no panic");
    assert_eq!(redis::<Vec<(String, Vec<String>)>>(&hooks, &["XRANGE", STREAM, "-", "+"]).await[0].0, "3-0");
    hooks.stop().await;
}

#[tokio::test]
async fn fingerprints_that_overlap_in_a_bucket_are_told_apart() {
    let hooks = Hooks::start().await;
    // All these fingerprints are in one bucket. Each also occurs in the others' bytes, but across the boundaries of
    // entries.
    let prints =
        [[7, 0, 1, 2, 7, 0, 1, 2], [7, 0, 1, 2, 3, 4, 5, 6], [7, 0, 1, 2, 7, 0, 1, 3], [7, 0, 3, 4, 5, 6, 7, 0]];
    let limits = InboundLimits { retention: Duration::from_secs(60), length_max: 100 };
    let message =
        |print| NewInbound { fingerprint: pregon::domain::Fingerprint(print), message: "{}".to_owned(), answers: None };
    for expected in [Kept::Stored, Kept::Repeated] {
        let lines = [("3001".into(), prints.map(message).to_vec())];
        let kept = hooks.store.keep_inbound(&lines, limits).await.expect("redis").remove(0).expect("kept");
        assert_eq!(kept, [expected; 4]);
    }
    hooks.stop().await;
}

#[tokio::test]
async fn messages_are_counted_for_the_rate_of_their_line_while_they_are_new() {
    let hooks = Hooks::start().await;
    let mut old = text(0);
    old["timestamp"] = (now().seconds() - 3_600).to_string().into();
    assert_eq!(hooks.deliver(&inbound("3001", &[old, text(1), text(2)])).await, 200);
    assert_eq!(hooks.deliver(&inbound("3002", &[text(3)])).await, 200);
    assert_eq!(hooks.deliver(&inbound("3009", &[text(4)])).await, 200);
    let expected = HashMap::from([("3001".into(), 2), ("3002".into(), 1)]);
    until("the messages are counted", async || hooks.store.inbound_counts().await.expect("redis") == expected).await;
    hooks.stop().await;
}

#[tokio::test]
async fn a_change_of_throughput_lets_workers_ask_meta_again() {
    let hooks = Hooks::start().await;
    let wabas = ["2001".into()];
    let claim = async || hooks.store.claim_allowance_reads(&wabas, Duration::from_secs(60)).await.expect("redis");
    assert_eq!([claim().await, claim().await], [[true], [false]]);
    let value = json!({"display_phone_number": "5491155550001", "event": "THROUGHPUT_UPGRADE"});
    let change = json!({"field": "phone_number_quality_update", "value": value});
    assert_eq!(hooks.deliver(&hooks::payload(&[change])).await, 200);
    assert_eq!(claim().await, [true]);
    hooks.stop().await;
}
