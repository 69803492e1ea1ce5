//! What agents write leaves once, through kills of readers, workers, Redis and PostgreSQL, and its state comes back.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use pregon::{
    domain::{
        State, Token,
        chat::{ChatStatus, content::ReplyContent},
    },
    postgres::{
        Database,
        chats::{ActionDone, ActionOn, ActionRefused, ChatAction, NewMessage},
        inbound::MessageKind,
    },
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{Office, Reader, chats, text};
use crate::support::{
    hostile::{Conduct, Courier, Meta, Reply, Sent, accepted, wamid},
    seed, until,
    world::{self, TestWorker},
};

/// Accepts every message, and records them.
#[derive(Clone, Default)]
pub(super) struct Accepting(pub(super) Arc<Mutex<Vec<Sent>>>);

impl Conduct for Accepting {
    fn send(&mut self, sent: Sent, _: &Courier) -> Reply {
        let mut all = self.0.lock().expect("no panic");
        let answer = accepted(&sent.to, &wamid(&sent.to, all.len() as u64));
        all.push(sent);
        Reply::of(answer, Duration::from_millis(2))
    }
}

impl Office {
    pub(super) async fn worker(&self, name: &str, meta: &Meta) -> TestWorker {
        let lines = ["3001", "3002"].map(|id| world::line(id, 200.0));
        let settings = pregon::dispatch::DispatchSettings { lease: super::LEASE, ..world::settings() };
        TestWorker::start(name, &self.redis, &meta.url(), &lines, settings).await
    }

    async fn act(&self, database: &Database, chat: i64, action: ChatAction) -> Result<ActionDone, ActionRefused> {
        let on = ActionOn { chat, agent: "ana", visible: None, revision: None, now: self.clock.now() };
        let done = database.act(on, action).await.expect("PostgreSQL");
        if let Some(line) = done.as_ref().ok().and_then(|done| done.outbox.as_ref()) {
            // A ring may be lost: the reader looks by itself.
            let _ = self.store.ring_reader(line).await;
        }
        done
    }

    /// A chat of each of `n` people with the line.
    async fn people(&self, database: &Database, line: &str, n: u64) -> Vec<i64> {
        let said: Vec<_> =
            (0..n).map(|person| text(format!("{line}.{person}"), &format!("549115555{person:04}"), "Hola")).collect();
        self.write(line, &said).await;
        let of_line = async || {
            let all = chats(database).await.into_iter();
            all.filter(|chat| chat.line.as_str() == line).map(|chat| chat.id).collect::<Vec<i64>>()
        };
        until("everybody has a chat", async || of_line().await.len() as u64 == n).await;
        of_line().await
    }
}

fn message(body: &str) -> ChatAction {
    let content = ReplyContent::Text { body: body.to_owned(), preview_url: false };
    ChatAction::Send(NewMessage { client_id: Some(body.to_owned()), context: None, content })
}

/// The states of the messages to contacts, by chat and message.
async fn states(database: &Database) -> BTreeMap<(i64, i64), State> {
    let mut states = BTreeMap::new();
    for chat in chats(database).await {
        let messages = database.messages(chat.id, None, 1_000).await.expect("messages");
        let outbound = messages.into_iter().filter(|message| message.kind == MessageKind::Outbound);
        states.extend(outbound.map(|message| ((chat.id, message.id), message.state.expect("a state"))));
    }
    states
}

/// How often each message of a chat arrived.
async fn arrivals(office: &Office, meta: &Accepting) -> HashMap<(i64, i64), usize> {
    let key = office.store.token_key().await.expect("a key").get();
    let mut arrived = HashMap::new();
    for sent in meta.0.lock().expect("no panic").iter() {
        if let Some(Token::Chat { id, .. }) = Token::read(&key, &sent.token) {
            *arrived.entry((id.chat, id.message)).or_default() += 1;
        }
    }
    arrived
}

/// An agent answers a person who wrote to line 3001, and Meta accepts the answer. Returns who does that, the chat and the
/// message.
async fn answered(office: &Office, database: &Database, meta: &Meta) -> (Reader, TestWorker, i64, i64) {
    let (reader, worker) = (office.reader("r"), office.worker("w", meta).await);
    let chat = office.people(database, "3001", 1).await[0];
    let done = office.act(database, chat, message(QUESTION)).await.expect("a message");
    let id = done.message.expect("a message");
    until("Meta has accepted it", async || states(database).await[&(chat, id)] == State::Accepted).await;
    (reader, worker, chat, id)
}

const QUESTION: &str = "¿En qué puedo ayudar?";

#[tokio::test]
async fn a_reply_leaves_and_its_statuses_come_back() {
    let office = Office::start().await;
    let database = office.database().await;
    let conduct = Accepting::default();
    let meta = Meta::start(conduct.clone(), 0);
    let (reader, worker, chat, id) = answered(&office, &database, &meta).await;
    let repeated = office.act(&database, chat, message(QUESTION)).await.expect("the same message");
    assert_eq!((repeated.message, repeated.changed), (Some(id), false));
    let state = async || states(&database).await[&(chat, id)];
    let news = |state, at: u64| ChatStatus {
        id: Some(pregon::domain::ChatMessageId { chat, message: id }),
        send: 1,
        state,
        at: pregon::domain::UnixMs(at),
        wamid: Some("wamid.reply".into()),
        code: None,
        details: String::new(),
    };
    // Out of order, and twice.
    let reported = [news(State::Read, 3_000), news(State::Sent, 1_000), news(State::Read, 3_000)];
    assert!(office.store.note_chat_statuses(&"3001".into(), &reported, 100).await.expect("redis"));
    until("it is read", async || state().await == State::Read).await;
    let written = database.messages(chat, None, 10).await.expect("messages");
    let written = written.into_iter().find(|message| message.id == id).expect("the message");
    let marks = written.marks.expect("marks");
    assert_eq!(
        (&marks["sent_at"], &marks["read_at"]),
        (&"1970-01-01T00:00:01Z".into(), &"1970-01-01T00:00:03Z".into())
    );
    assert_eq!(arrivals(&office, &conduct).await[&(chat, id)], 1);
    // A read mark is sent without being a message.
    office.act(&database, chat, ChatAction::Read).await.expect("read");
    until("the mark arrives", async || meta.marks() == ["wamid.3001.0"]).await;
    until("the outbox is empty", async || {
        database.outbox(&"3001".into(), &HashSet::new(), 10).await.expect("the outbox").is_empty()
    })
    .await;
    worker.stop().await;
    reader.stop().await;
}

#[tokio::test]
async fn a_status_without_our_token_finds_its_message_by_metas_id() {
    let office = Office::start().await;
    let database = office.database().await;
    let conduct = Accepting::default();
    let meta = Meta::start(conduct.clone(), 0);
    let (reader, worker, chat, id) = answered(&office, &database, &meta).await;
    let state = async || states(&database).await[&(chat, id)];
    let failed = |wamid: &str| ChatStatus {
        id: None,
        send: 0,
        state: State::Failed,
        at: office.clock.now(),
        wamid: Some(wamid.into()),
        code: Some(pregon::domain::MetaCode(131_026)),
        details: "not deliverable".to_owned(),
    };
    let ours = database.messages(chat, None, 10).await.expect("messages").into_iter().find(|one| one.id == id);
    let ours = ours.and_then(|message| message.wamid).expect("Meta's id");
    let reported = [failed("wamid.of-another-app"), failed(&ours)];
    office.store.note_unnamed_statuses(&"3001".into(), &reported).await.expect("redis");
    until("it has failed", async || state().await == State::Failed).await;
    until("all statuses are read", async || {
        office.store.chat_results(&"3001".into(), 1).await.expect("results").is_empty()
    })
    .await;
    worker.stop().await;
    reader.stop().await;
}

#[tokio::test]
async fn replies_are_sent_once_through_kills_of_readers_workers_redis_and_postgresql() {
    let mut random = StdRng::seed_from_u64(seed());
    let mut office = Office::start().await;
    let database = office.database().await;
    let conduct = Accepting::default();
    let meta = Meta::start(conduct.clone(), 0);
    let mut readers = vec![office.reader("r0"), office.reader("r1")];
    let mut worker = office.worker("w0", &meta).await;
    let mut all = Vec::new();
    for line in ["3001", "3002"] {
        all.extend(office.people(&database, line, 4).await);
    }
    for round in 0..8 {
        for n in 0..random.random_range(1..30) {
            let chat = all[random.random_range(0..all.len())];
            office.act(&database, chat, message(&format!("{round}.{n}"))).await.expect("a message");
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..80))).await;
        match random.random_range(0..4) {
            0 => {
                office.postgres.kill_hard().await;
                office.postgres.restart().await;
                until("PostgreSQL answers", async || database.version().await.is_ok()).await;
            }
            1 => {
                office.redis.kill_hard().await;
                office.redis.restart().await;
            }
            2 => {
                worker.stop().await;
                worker = office.worker(&format!("w{}", round + 1), &meta).await;
            }
            _ => {
                readers.swap_remove(random.random_range(0..readers.len())).kill().await;
                readers.push(office.reader(&format!("after {round}")));
            }
        }
    }
    until("every message has ended", async || states(&database).await.values().all(|state| !state.is_open())).await;
    let (states, arrivals) = (states(&database).await, arrivals(&office, &conduct).await);
    let twice: Vec<_> = arrivals.iter().filter(|(_, n)| **n > 1).collect();
    assert!(twice.is_empty(), "sent twice: {twice:?}");
    for (id, state) in &states {
        let is_sent = arrivals.contains_key(id);
        assert!(is_sent || *state == State::Unknown, "{id:?} is {state:?}, and did not arrive");
    }
    assert!(arrivals.keys().all(|id| states.contains_key(id)), "what arrived was written");
    worker.stop().await;
    for reader in readers {
        reader.stop().await;
    }
}

#[tokio::test]
async fn a_reply_on_its_way_gets_its_state_after_its_chat_was_merged() {
    let office = Office::start().await;
    let database = office.database().await;
    let conduct = Accepting::default();
    let meta = Meta::start(conduct.clone(), 0);
    let reader = office.reader("r");
    let old = office.people(&database, "3001", 1).await[0];
    let reply = office.act(&database, old, message("1")).await.expect("a message").message.expect("an id");
    let number = "5491155550000";
    let mut by_id = text("by id", number, "Hola");
    (by_id.sender.number, by_id.sender.user_id) = (None, Some("AR.1".to_owned()));
    let mut by_both = text("by both", number, "Hola");
    by_both.sender.user_id = Some("AR.1".to_owned());
    office.write("3001", &[by_id]).await;
    until("there are two chats", async || chats(&database).await.len() == 2).await;
    office.write("3001", &[by_both]).await;
    until("they are one", async || chats(&database).await.len() == 1).await;
    let chat = chats(&database).await.remove(0);
    assert_ne!(chat.id, old);
    assert_eq!((chat.owner.name(), chat.agent.as_deref()), ("agent", Some("ana")));
    let worker = office.worker("w", &meta).await;
    let id = pregon::domain::ChatMessageId { chat: old, message: reply };
    until("Meta has accepted the reply", async || states(&database).await.values().eq([&State::Accepted])).await;
    assert_eq!(arrivals(&office, &conduct).await, HashMap::from([((id.chat, id.message), 1)]));
    until("the outbox is empty", async || {
        database.outbox(&"3001".into(), &HashSet::new(), 10).await.expect("the outbox").is_empty()
    })
    .await;
    let repeated = office.act(&database, chat.id, message("1")).await.expect("the same message");
    assert!(!repeated.changed && states(&database).await.contains_key(&(chat.id, repeated.message.expect("an id"))));
    worker.stop().await;
    reader.stop().await;
}

#[tokio::test]
async fn free_text_of_a_slow_line_leaves_before_the_window_closes_or_not_at_all() {
    let office = Office::start().await;
    let database = office.database().await;
    let conduct = Accepting::default();
    let meta = Meta::start(conduct.clone(), 0);
    let reader = office.reader("r");
    // Free text is possible for some seconds more.
    let until_at = office.clock.now().after(Duration::from_secs(6));
    let at = pregon::domain::UnixMs(until_at.0 - (24 * 3_600 - 60) * 1_000);
    let said = (0..15).map(|n| {
        let mut said = text(n, &format!("549115555{n:04}"), "Hola");
        said.at = Some(at);
        said
    });
    office.write("3001", &said.collect::<Vec<_>>()).await;
    until("everybody has a chat", async || chats(&database).await.len() == 15).await;
    for chat in chats(&database).await {
        office.act(&database, chat.id, message("hello")).await.expect("the window is open");
    }
    let settings = pregon::dispatch::DispatchSettings {
        lease: super::LEASE,
        doubt_deadline: Duration::from_secs(600),
        ..world::settings()
    };
    let worker = TestWorker::start("w", &office.redis, &meta.url(), &[world::line("3001", 1.0)], settings).await;
    until("every message has ended", async || states(&database).await.values().all(|state| !state.is_open())).await;
    let sent = meta.arrivals();
    let states: Vec<State> = states(&database).await.into_values().collect();
    let of = |state| states.iter().filter(|found| **found == state).count();
    assert_eq!((of(State::Accepted), of(State::Refused)), (sent.len(), 15 - sent.len()), "{states:?}");
    assert!(!sent.is_empty() && sent.len() < 15, "{}", sent.len());
    for arrival in sent {
        assert!(arrival.at < until_at.after(Duration::from_secs(3)), "{arrival:?} after {until_at}");
    }
    worker.stop().await;
    reader.stop().await;
}

#[tokio::test]
async fn two_agents_cannot_have_a_chat_and_free_text_needs_the_window() {
    let office = Office::start().await;
    let database = office.database().await;
    let reader = office.reader("r");
    let chat = office.people(&database, "3001", 1).await[0];
    let act = async |agent: &str, revision, action, now| {
        database.act(ActionOn { chat, agent, visible: None, revision, now }, action).await.expect("PostgreSQL")
    };
    let now = office.clock.now();
    let (one, other) = tokio::join!(act("ana", None, ChatAction::Take, now), act("luis", None, ChatAction::Take, now));
    let winner = if one.is_ok() { "ana" } else { "luis" };
    assert_ne!(one.is_ok(), other.is_ok(), "one of them wins");
    let loser = if winner == "ana" { "luis" } else { "ana" };
    let refused = act(loser, None, message("me too"), now).await.expect_err("a conflict");
    assert_eq!(refused, ActionRefused::OtherAgent(winner.to_owned()));
    let revision = chats(&database).await[0].revision;
    let stale = act(winner, Some(revision - 1), ChatAction::Close, now).await.expect_err("another revision");
    assert_eq!(stale, ActionRefused::Changed(revision));
    act(winner, Some(revision), ChatAction::Note("calls back".to_owned()), now).await.expect("a note");
    let late = now.after(Duration::from_hours(24));
    let closed = act(winner, None, message("late"), late).await.expect_err("no window");
    assert!(matches!(closed, ActionRefused::WindowClosed(Some(_))), "{closed:?}");
    let template = ReplyContent::Template { name: "order_update".into(), language: "es_AR".into(), components: vec![] };
    let template = ChatAction::Send(NewMessage { client_id: None, context: None, content: template });
    act(winner, None, template, late).await.expect("a template");
    act(winner, None, ChatAction::Finish(None), late).await.expect("the end");
    office.write("3001", &[text("again", "5491155550000", "¿Siguen ahí?")]).await;
    until("the chat is in the queue again", async || chats(&database).await[0].owner.name() == "queue").await;
    reader.stop().await;
}
