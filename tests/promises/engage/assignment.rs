//! The queue and the agents, whatever happens to either: a chat has one agent at most, and none waits that an agent with
//! room may have.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use pregon::{
    domain::{
        AgentId, AgentRole, GroupId, Presence, UnixMs,
        agent::{AgentLimits, Visibility},
        chat::{Identity, Owner, content::ReplyContent},
    },
    postgres::{
        Database,
        agents::{Agent, AgentChange, NewAgent},
        chats::{ActionOn, ChatAction, NewMessage},
        inbound::{Author, MessageKind, ReceivedMessage},
        read::Chat,
    },
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Value, json};
use ulid::Ulid;

use super::chats;
use crate::support::{postgres::TestPostgres, seed};

const BUSINESS: &str = "1001";
const GROUPS: [&str; 2] = ["sales", "help"];
const AGENTS: u128 = 4;
const PEOPLE: u64 = 9;
const LIMITS: AgentLimits =
    AgentLimits { offline_after: Duration::from_mins(10), silence: Some(Duration::from_mins(2)) };

/// Agents of two groups, and people who write to one line.
#[derive(Clone)]
struct Desk {
    database: Database,
    began: UnixMs,
    /// Who has written, or was written to in the app.
    writers: Arc<Mutex<BTreeSet<u64>>>,
}

impl Desk {
    async fn open(postgres: &TestPostgres) -> Self {
        let began = UnixMs(1_796_000_000_000);
        let desk = Self { database: postgres.database(began).await, began, writers: Arc::default() };
        for group in GROUPS {
            desk.database.create_group(&BUSINESS.into(), &group.into(), group, began).await.expect("PostgreSQL");
        }
        for n in 1..=AGENTS {
            let new = NewAgent {
                id: AgentId(Ulid(n)),
                business: BUSINESS.into(),
                email: format!("{n}@example.com"),
                name: n.to_string(),
                role: AgentRole::Agent,
                capacity: 2,
                groups: Vec::new(),
            };
            desk.database.create_agent(&new, began).await.expect("PostgreSQL").expect("a new agent");
        }
        desk
    }

    async fn assign(&self, now: UnixMs) {
        self.database.assign(&BUSINESS.into(), now).await.expect("PostgreSQL");
    }

    async fn agents(&self) -> Vec<Agent> {
        self.database.agents(None, true, None, 100).await.expect("PostgreSQL")
    }

    /// One thing that happens, drawn from `draw`.
    async fn step(&self, draw: &mut StdRng, now: UnixMs) {
        let agent = AgentId(Ulid(draw.random_range(1..=AGENTS)));
        let business = BUSINESS.into();
        match draw.random_range(0..10) {
            0..3 => {
                let n = draw.random_range(0..PEOPLE);
                self.writers.lock().expect("no panic").insert(n);
                let person =
                    Author { identity: Identity::new(Some(&format!("549115555000{n}")), None), ..Author::default() };
                let message = ReceivedMessage {
                    wamid: format!("wamid.{}", draw.random::<u64>()),
                    at: now,
                    person,
                    body: json!({ "content": { "text": "hola" } }).to_string(),
                    is_echo: draw.random_ratio(1, 8),
                    answers: None,
                    mark: None,
                    file: None,
                };
                let stored = self.database.store_inbound(&"3001".into(), &business, &[message], None, now).await;
                if stored.expect("PostgreSQL").expect("nobody is forgotten").queued > 0 {
                    self.assign(now).await;
                }
            }
            3 => {
                let presence = *Presence::ALL.choose(draw).expect("three");
                assert!(self.database.set_presence(&business, agent, presence, now).await.expect("PostgreSQL"));
                self.assign(now).await;
            }
            4 => {
                let groups: Vec<GroupId> = GROUPS.into_iter().filter(|_| draw.random()).map(GroupId::from).collect();
                let capacity = Some(draw.random_range(0..4));
                let change = AgentChange { capacity, groups: Some(groups), ..AgentChange::default() };
                let changed = self.database.change_agent(&business, agent, &change).await;
                changed.expect("PostgreSQL").expect("a known agent");
                self.assign(now).await;
            }
            5 => {
                self.database.tend_chats(LIMITS, now).await.expect("PostgreSQL");
            }
            _ => self.act(draw, agent, now).await,
        }
    }

    /// An agent does something with a chat.
    async fn act(&self, draw: &mut StdRng, agent: AgentId, now: UnixMs) {
        let Some(chat) = chats(&self.database).await.choose(draw).map(|chat| chat.id) else { return };
        let other = AgentId(Ulid(draw.random_range(1..=AGENTS)));
        let text = ReplyContent::Text { body: "¿En qué puedo ayudar?".to_owned(), preview_url: false };
        let action = match draw.random_range(0..7) {
            0 => ChatAction::Take,
            1 => ChatAction::Release,
            2 => ChatAction::Close,
            3 => ChatAction::Assign(other),
            4 => ChatAction::AssignGroup((*GROUPS.choose(draw).expect("two")).into()),
            5 => ChatAction::Snooze(now.after(Duration::from_mins(3))),
            _ => ChatAction::Send(NewMessage { client_id: None, context: None, content: text }),
        };
        let known = self.agents().await.into_iter().find(|known| known.id == agent).expect("a known agent");
        let groups = known.groups.iter().map(ToString::to_string).collect();
        let visible = Visibility { agent: agent.to_string(), groups };
        let on = ActionOn { chat, agent: &agent.to_string(), visible: Some(&visible), revision: None, now };
        // A refusal changes nothing.
        if self.database.act(on, action).await.expect("PostgreSQL").is_ok_and(|done| done.changed) {
            self.assign(now).await;
        }
    }

    /// Checks what always holds between two steps.
    async fn check(&self, now: UnixMs) {
        let (agents, chats) = (self.agents().await, chats(&self.database).await);
        for chat in &chats {
            assert_eq!(chat.agent.is_some(), chat.owner == Owner::Agent, "{chat:?}");
            assert_eq!(self.told(chat).await, (chat.owner.name().to_owned(), chat.agent.clone()), "{chat:?}");
            let able = agents.iter().find(|agent| chat.owner == Owner::Queue && may_take(agent, chat, &chats));
            assert_eq!(able, None, "has room at {now:?}, and {chat:?} waits");
        }
        for agent in agents.iter().filter(|agent| agent.presence == Presence::Offline) {
            let id = agent.id.to_string();
            assert!(!chats.iter().any(|chat| chat.agent.as_ref() == Some(&id)), "{agent:?} has chats");
        }
    }

    /// The owner and the agent of a chat, as its newest activity tells them.
    async fn told(&self, chat: &Chat) -> (String, Option<String>) {
        let messages = self.database.messages(chat.id, None, 10_000).await.expect("PostgreSQL");
        let mut told = messages.iter().filter(|message| message.kind == MessageKind::Activity);
        let newest = told.next().map(|activity| activity.body.clone()).unwrap_or(json!({ "owner": "nobody" }));
        let text = |field: &str| newest[field].as_str().map(str::to_owned);
        (text("owner").expect("an owner"), text("agent"))
    }
}

/// Whether an agent has room for a chat of the queue.
fn may_take(agent: &Agent, chat: &Chat, chats: &[Chat]) -> bool {
    let id = agent.id.to_string();
    let busy = chats.iter().filter(|chat| chat.agent.as_ref() == Some(&id) && chat.snoozed_until.is_none()).count();
    agent.presence == Presence::Available
        && busy < agent.capacity as usize
        && chat.group.as_ref().is_none_or(|group| agent.groups.contains(group))
}

#[tokio::test]
async fn no_chat_waits_that_an_agent_with_room_may_have() {
    let postgres = TestPostgres::start().await;
    let desk = Desk::open(&postgres).await;
    let mut draw = StdRng::seed_from_u64(seed());
    let mut now = desk.began;
    for _ in 0..300 {
        now = now.after(Duration::from_secs(draw.random_range(1..60)));
        desk.step(&mut draw, now).await;
        desk.check(now).await;
    }
    let owners: BTreeMap<&str, usize> = chats(&desk.database).await.iter().fold(BTreeMap::new(), |mut all, chat| {
        *all.entry(chat.owner.name()).or_default() += 1;
        all
    });
    let writers = desk.writers.lock().expect("no panic").len();
    assert_eq!(owners.values().sum::<usize>(), writers, "{owners:?}");
}

#[tokio::test]
async fn agents_and_contacts_who_act_at_the_same_time_leave_no_chat_with_two_agents_or_none() {
    let postgres = TestPostgres::start().await;
    let desk = Arc::new(Desk::open(&postgres).await);
    let seed = seed();
    for round in 0..6_u64 {
        let tasks = (0..6_u64).map(|task| {
            let desk = desk.clone();
            tokio::spawn(async move {
                let mut draw = StdRng::seed_from_u64(seed ^ (round * 100 + task));
                for n in 0..12 {
                    desk.step(&mut draw, desk.began.after(Duration::from_secs(round * 300 + n))).await;
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.expect("no panic");
        }
        // What one transaction left because another had locked it is done a second later.
        let now = desk.began.after(Duration::from_secs(round * 300 + 299));
        desk.database.tend_chats(LIMITS, now).await.expect("PostgreSQL");
        desk.check(now).await;
    }
}

#[tokio::test]
async fn the_chat_of_a_silent_agent_goes_to_another_one() {
    let postgres = TestPostgres::start().await;
    let desk = Desk::open(&postgres).await;
    let [first, second] = [AgentId(Ulid(1)), AgentId(Ulid(2))];
    let available = async |agent, now| {
        desk.database.set_presence(&BUSINESS.into(), agent, Presence::Available, now).await.expect("PostgreSQL");
    };
    available(first, desk.began).await;
    write(&desk, "a", desk.began).await;
    let agent_at = async |now: UnixMs| {
        desk.database.tend_chats(LIMITS, now).await.expect("PostgreSQL");
        chats(&desk.database).await[0].agent.clone()
    };
    let at = |seconds| desk.began.after(Duration::from_secs(seconds));
    assert_eq!(agent_at(at(119)).await, Some(first.to_string()));
    available(second, at(119)).await;
    assert_eq!(agent_at(at(121)).await, Some(second.to_string()), "two minutes without an answer");
    assert_eq!(agent_at(at(240)).await, Some(second.to_string()), "who has two minutes too");
    let chat = chats(&desk.database).await[0].id;
    let text = ReplyContent::Text { body: "Hola".to_owned(), preview_url: false };
    let answer = ChatAction::Send(NewMessage { client_id: None, context: None, content: text });
    let on = ActionOn { chat, agent: &second.to_string(), visible: None, revision: None, now: at(240) };
    desk.database.act(on, answer).await.expect("PostgreSQL").expect("an answer");
    assert_eq!(agent_at(at(500)).await, Some(second.to_string()), "who answers keeps the chat");
    assert_eq!(agent_at(at(800)).await, None, "nothing was heard of either for ten minutes");
    let why: Vec<Value> = desk
        .database
        .messages(chat, None, 100)
        .await
        .expect("PostgreSQL")
        .iter()
        .rev()
        .filter(|message| message.kind == MessageKind::Activity)
        .map(|message| message.body["why"].clone())
        .collect();
    assert_eq!(why, ["inbound", "assigned", "silence", "assigned", "offline"].map(Value::from));
}

#[tokio::test]
async fn a_closed_chat_returns_to_its_agent_if_there_and_to_the_queue_otherwise() {
    let postgres = TestPostgres::start().await;
    let desk = Desk::open(&postgres).await;
    let [first, second] = [AgentId(Ulid(1)), AgentId(Ulid(2))];
    let is = async |agent, presence, now| {
        desk.database.set_presence(&BUSINESS.into(), agent, presence, now).await.expect("PostgreSQL");
        desk.assign(now).await;
    };
    let at = |seconds| desk.began.after(Duration::from_secs(seconds));
    is(first, Presence::Available, at(0)).await;
    write(&desk, "a", at(1)).await;
    let chat = chats(&desk.database).await[0].id;
    let close = async |agent: AgentId, now| {
        let on = ActionOn { chat, agent: &agent.to_string(), visible: None, revision: None, now };
        desk.database.act(on, ChatAction::Close).await.expect("PostgreSQL").expect("closed");
    };
    close(first, at(2)).await;
    is(second, Presence::Available, at(3)).await;
    let agent = async || chats(&desk.database).await[0].agent.clone();
    write(&desk, "b", at(4)).await;
    assert_eq!(agent().await, Some(first.to_string()), "although the other one was never given a chat");
    close(first, at(5)).await;
    is(first, Presence::Away, at(6)).await;
    write(&desk, "c", at(7)).await;
    assert_eq!(agent().await, Some(second.to_string()));
}

/// The first person writes.
async fn write(desk: &Desk, wamid: &str, now: UnixMs) {
    let message = ReceivedMessage {
        wamid: format!("wamid.{wamid}"),
        at: now,
        person: Author { identity: Identity::new(Some("5491155550001"), None), ..Author::default() },
        body: json!({ "content": { "text": "hola" } }).to_string(),
        is_echo: false,
        answers: None,
        mark: None,
        file: None,
    };
    desk.database.store_inbound(&"3001".into(), &BUSINESS.into(), &[message], None, now).await.expect("PostgreSQL");
    desk.assign(now).await;
}
