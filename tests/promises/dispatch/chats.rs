//! The lane of the chats: each message leaves once, in the order of its chat, ahead of the campaigns.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use pregon::{
    domain::{
        ChatMessageId, Due, LineId, OnDoubt, Settled, State, Token, UnixMs,
        chat::{ChatStatus, Outgoing},
    },
    redis::{
        Store,
        chats::{ChatClaim, ChatClaimRequest, ChatOutcome, ChatResult},
        doorbells::Doorbell,
    },
};
use serde_json::json;

use crate::support::{
    hostile::{self, Answer, Conduct, Courier, Reply, Sent, accepted, refused, wamid},
    redis::TestRedis,
    until,
    world::{self, TestWorker},
};

/// The epoch of the reader of the line.
const READER: u64 = 7;

/// Answers each person as told, at first; accepts all else.
#[derive(Clone, Default)]
struct People {
    answers: Arc<Mutex<HashMap<String, Vec<Answer>>>>,
    sent: Arc<Mutex<Vec<Sent>>>,
}

impl Conduct for People {
    fn send(&mut self, sent: Sent, _: &Courier) -> Reply {
        let answer = self.answers.lock().expect("no panic").get_mut(&sent.to).and_then(Vec::pop);
        let mut all = self.sent.lock().expect("no panic");
        let answer = answer.unwrap_or_else(|| accepted(&sent.to, &wamid(&sent.to, all.len() as u64)));
        all.push(sent);
        Reply::of(answer, Duration::ZERO)
    }
}

impl People {
    /// The messages of chats that arrived, in order.
    fn of_chats(&self, store_key: &pregon::domain::TokenKey) -> Vec<ChatMessageId> {
        let sent = self.sent.lock().expect("no panic");
        let token = |sent: &Sent| Token::read(store_key, &sent.token);
        sent.iter()
            .filter_map(|sent| match token(sent) {
                Some(Token::Chat { id, .. }) => Some(id),
                _ => None,
            })
            .collect()
    }
}

fn line() -> LineId {
    "3001".into()
}

/// The number of the person in a chat.
fn number(chat: i64) -> String {
    (5_491_155_550_000 + chat).to_string()
}

fn request(id: ChatMessageId, until: Option<UnixMs>) -> Outgoing {
    let content = json!({"type": "text", "body": format!("message {id}")});
    let reply = json!({"to": {"number": format!("+{}", number(id.chat))}, "content": content});
    Outgoing { id, until, request: json!({"message": reply}).to_string() }
}

fn ids(chat: i64, messages: std::ops::Range<i64>) -> Vec<ChatMessageId> {
    messages.map(|message| ChatMessageId { chat, message }).collect()
}

async fn put(store: &Store, messages: &[Outgoing]) -> String {
    let now = store.time().await.expect("the time");
    let owner = store.put_chats(&line(), READER, now, messages).await.expect("redis").expect("the newest reader");
    if !owner.is_empty() {
        store.ring(Doorbell::Dispatch, &owner, &line()).await.expect("redis");
    }
    owner
}

/// The last state of each message.
async fn states(store: &Store) -> HashMap<ChatMessageId, ChatStatus> {
    let results: Vec<ChatResult> = store.chat_results(&line(), 10_000).await.expect("results");
    results.into_iter().filter_map(|result| Some((result.status.id?, result.status))).collect()
}

async fn until_state(store: &Store, id: ChatMessageId, state: State) -> ChatStatus {
    until(&format!("{id} is {state:?}"), async || states(store).await.get(&id).is_some_and(|s| s.state == state)).await;
    states(store).await.remove(&id).expect("a result")
}

#[tokio::test]
async fn messages_leave_in_the_order_of_their_chat_ahead_of_a_campaign() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let campaign = world::campaign(&store, &["3001"], 400, OnDoubt::Hold).await;
    world::launch(&store, campaign).await;
    let people = People::default();
    // The first message of chat 2 is to be tried again, and the second waits for it. Chat 3 is refused.
    people
        .answers
        .lock()
        .expect("no panic")
        .extend([(number(2), vec![refused(400, 131_056)]), (number(3), vec![refused(400, 131_026)])]);
    let meta = hostile::Meta::start(people.clone(), 0);
    let lines = [world::line("3001", 200.0)];
    let worker = TestWorker::start("w", &redis, &meta.url(), &lines, world::settings()).await;
    until("the campaign sends", async || meta.requests() >= 50).await;
    let before = meta.requests();
    let all: Vec<ChatMessageId> = (1..=3).flat_map(|chat| ids(chat, 1..4)).collect();
    let messages: Vec<_> = all.iter().map(|id| request(*id, None)).collect();
    assert_eq!(put(&store, &messages).await, "w");
    until("every message has a result", async || {
        let states = states(&store).await;
        all.iter().all(|id| states.get(id).is_some_and(|status| !status.state.is_open()))
    })
    .await;
    let key = store.token_key().await.expect("a key").get();
    let arrived = people.of_chats(&key);
    for chat in 1..=3 {
        let mut of_chat: Vec<i64> = arrived.iter().filter(|id| id.chat == chat).map(|id| id.message).collect();
        assert_eq!(of_chat.len(), if chat == 2 { 4 } else { 3 }, "{arrived:?}");
        of_chat.dedup();
        assert_eq!(of_chat, [1, 2, 3], "the order of chat {chat}");
    }
    let states = states(&store).await;
    let refused = &states[&ChatMessageId { chat: 3, message: 1 }];
    assert_eq!((refused.state, refused.code.map(|code| code.0)), (State::Refused, Some(131_026)));
    let accepted = &states[&ChatMessageId { chat: 1, message: 3 }];
    assert!(accepted.state == State::Accepted && accepted.wamid.is_some());
    // The chats did not wait for the rest of the campaign.
    let first = meta.arrivals().len();
    assert!(first >= before, "{first} arrivals");
    until("the campaign ends", async || world::count(&store, campaign, State::Accepted).await == 400).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_message_is_put_once_until_it_is_acknowledged_and_an_old_reader_puts_none() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let people = People::default();
    let meta = hostile::Meta::start(people.clone(), 0);
    let lines = [world::line("3001", 200.0)];
    let worker = TestWorker::start("w", &redis, &meta.url(), &lines, world::settings()).await;
    let id = ChatMessageId { chat: 1, message: 1 };
    until("the worker has the line", async || !put(&store, &[]).await.is_empty()).await;
    for _ in 0..3 {
        put(&store, &[request(id, None)]).await;
    }
    until_state(&store, id, State::Accepted).await;
    put(&store, &[request(id, None)]).await;
    // Each message that is put later is claimed later.
    let later = ChatMessageId { chat: 2, message: 1 };
    put(&store, &[request(later, None)]).await;
    until_state(&store, later, State::Accepted).await;
    assert_eq!(meta.requests(), 2);
    let last = store.chat_results(&line(), 10).await.expect("results").last().expect("a result").entry;
    let now = store.time().await.expect("the time");
    assert_eq!(store.put_chats(&line(), READER - 1, now, &[request(id, None)]).await.expect("redis"), None);
    assert!(!store.ack_chats(&line(), READER - 1, last, &[id, later]).await.expect("redis"));
    assert!(store.ack_chats(&line(), READER, last, &[id, later]).await.expect("redis"));
    assert_eq!(store.chat_results(&line(), 10).await.expect("results"), []);
    let left: u64 = store
        .query("HLEN", deadpool_redis::redis::cmd("HLEN").arg(store.keys.chat_states(&line())))
        .await
        .expect("redis");
    assert_eq!(left, 0, "nothing is left of messages that have ended");
    worker.stop().await;
}

#[tokio::test]
async fn a_message_without_a_usable_answer_is_in_doubt_then_unknown_and_never_sent_again() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let people = People::default();
    people
        .answers
        .lock()
        .expect("no panic")
        .extend([(number(1), vec![Answer::Html(502)]), (number(2), vec![Answer::Html(502)])]);
    let meta = hostile::Meta::start(people.clone(), 0);
    let lines = [world::line("3001", 200.0)];
    let settings = pregon::dispatch::DispatchSettings { doubt_deadline: Duration::from_secs(2), ..world::settings() };
    let worker = TestWorker::start("w", &redis, &meta.url(), &lines, settings).await;
    let [lost, found] = [1, 2].map(|chat| ChatMessageId { chat, message: 1 });
    put(&store, &[request(lost, None), request(found, None)]).await;
    until_state(&store, lost, State::InDoubt).await;
    until_state(&store, found, State::InDoubt).await;
    // A status shows that Meta has one of them.
    let now = store.time().await.expect("the time");
    let delivered = ChatStatus {
        id: Some(found),
        send: 1,
        state: State::Delivered,
        at: now,
        wamid: Some("wamid.found".into()),
        code: None,
        details: String::new(),
    };
    assert!(store.note_chat_statuses(&line(), std::slice::from_ref(&delivered), 1_000).await.expect("redis"));
    until_state(&store, lost, State::Unknown).await;
    assert_eq!(states(&store).await[&found], delivered, "the doubt has ended with the status");
    put(&store, &[request(lost, None), request(found, None)]).await;
    let later = ChatMessageId { chat: 3, message: 1 };
    put(&store, &[request(later, None)]).await;
    until_state(&store, later, State::Accepted).await;
    assert_eq!(meta.requests(), 3);
    worker.stop().await;
}

#[tokio::test]
async fn free_text_does_not_leave_after_its_window_has_closed() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let meta = hostile::Meta::start(People::default(), 0);
    let now = store.time().await.expect("the time");
    let [late, template] = [1, 2].map(|chat| ChatMessageId { chat, message: 1 });
    put(&store, &[request(late, Some(now)), request(template, None)]).await;
    let lines = [world::line("3001", 200.0)];
    let worker = TestWorker::start("w", &redis, &meta.url(), &lines, world::settings()).await;
    until_state(&store, template, State::Accepted).await;
    let late = until_state(&store, late, State::Refused).await;
    assert_eq!(late.code.map(|code| code.0), Some(131_047));
    assert_eq!(meta.requests(), 1);
    worker.stop().await;
}

#[tokio::test]
async fn a_message_that_is_given_back_stays_ahead_of_later_ones_of_its_chat() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let [first, second] = [1, 2].map(|message| ChatMessageId { chat: 1, message });
    put(&store, &[request(first, None)]).await;
    let claim = async |number, unanswered: Option<u64>| {
        let now = store.time().await.expect("the time");
        let limit = if unanswered.is_none() { 1 } else { 0 };
        let request = ChatClaimRequest {
            epoch: 1,
            number,
            now,
            limit,
            doubt_until: now.after(Duration::from_secs(60)),
            unanswered,
        };
        match store.claim_chats(&line(), request).await.expect("redis") {
            ChatClaim::Claimed { messages, .. } => messages.into_iter().map(|claimed| claimed.id).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(claim(1, None).await, [first]);
    put(&store, &[request(second, None)]).await;
    let now = store.time().await.expect("the time");
    let settled = Settled::Back { at: Due::AtOnce };
    let back = ChatOutcome { id: first, send: 1, settled, details: String::new() };
    store.settle_chats(&line(), now, &[back]).await.expect("redis");
    assert_eq!(claim(2, None).await, [first]);
    // The response to this claim is lost.
    assert_eq!(claim(3, Some(2)).await, Vec::<ChatMessageId>::new());
    assert_eq!(claim(4, None).await, [first]);
}
