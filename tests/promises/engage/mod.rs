//! What people write becomes contacts and chats.

mod assignment;
mod campaign_replies;
mod chats;
mod files;
mod forgetting;
mod histories;
mod identity;
mod killed;
mod replies;
mod retention;
mod statistics;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use pregon::{
    domain::{Fingerprint, Inbound, Line, Secret, Wamid, agent::AgentLimits, chat::Owner, inbound::Content},
    engage::{Engage, FileTransfers},
    postgres::{
        Database, DatabaseError,
        chat_list::ChatFilter,
        inbound::MessageKind,
        read::{Chat, ChatMessage},
    },
    redis::{
        Store,
        clock::Clock,
        inbound::{Kept, NewInbound},
    },
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{postgres::TestPostgres, redis::TestRedis, until, world};

/// Short, so that another reader takes over soon.
const LEASE: Duration = Duration::from_secs(1);

/// Redis and PostgreSQL, without readers.
struct Office {
    redis: TestRedis,
    postgres: TestPostgres,
    store: Store,
    clock: Arc<Clock>,
}

impl Office {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (redis, postgres) = tokio::join!(TestRedis::start(), TestPostgres::start());
        let store = Store::connect(&world::address(&redis)).await.expect("a store");
        let clock = Arc::new(Clock::start(&store).await.expect("a clock"));
        Self { redis, postgres, store, clock }
    }

    async fn database(&self) -> Database {
        self.postgres.database(self.clock.now()).await
    }

    fn reader(&self, name: &str) -> Reader {
        Reader::start(name, &self.store, self.postgres.connect(), &self.clock)
    }

    /// A reader that uses this token, and fetches and uploads files if it can.
    fn reader_with(&self, name: &str, token: Secret, files: Option<FileTransfers>) -> Reader {
        Reader::start_with(name, &self.store, self.postgres.connect(), &self.clock, token, files)
    }

    /// Puts messages on the stream of a line, as the webhook does. While the stream is full, or Redis away, it tries
    /// again, as Meta does.
    async fn write(&self, line: &str, messages: &[Inbound]) {
        let new: Vec<NewInbound> = messages
            .iter()
            .map(|message| NewInbound {
                fingerprint: Fingerprint::of(message.id.as_ref().expect("an id").as_str()),
                message: serde_json::to_string(message).expect("JSON"),
                answers: None,
            })
            .collect();
        let batch = [(line.into(), new)];
        until("the messages are on the stream", async || {
            let kept = self.store.keep_inbound(&batch, world::INBOUND).await.map(|mut lines| lines.remove(0));
            matches!(kept, Ok(Ok(kept)) if !kept.contains(&Kept::Full))
        })
        .await;
    }
}

const RETENTION: Duration = Duration::from_hours(24);
const AGENTS: AgentLimits = AgentLimits { offline_after: Duration::from_mins(1), silence: None };

/// A process that reads the lines.
struct Reader {
    stop: CancellationToken,
    task: JoinHandle<Result<(), DatabaseError>>,
}

impl Reader {
    /// Reads the lines 3001 and 3002.
    fn start(name: &str, store: &Store, database: Database, clock: &Arc<Clock>) -> Self {
        Self::start_with(name, store, database, clock, world::line("", 80.0).token, None)
    }

    fn start_with(
        name: &str,
        store: &Store,
        database: Database,
        clock: &Arc<Clock>,
        token: Secret,
        files: Option<FileTransfers>,
    ) -> Self {
        let line = |id| Line { business: "1001".into(), token: token.clone(), ..world::line(id, 80.0) };
        let lines = ["3001", "3002"].map(line).into_iter().collect();
        let (worker, store, clock) = (name.to_owned(), store.clone(), clock.clone());
        let engage = Engage {
            worker,
            store,
            database,
            clock,
            lines,
            lease: LEASE,
            retention: RETENTION,
            keep_messages: None,
            files,
            agents: AGENTS,
        };
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        Self { stop, task: tokio::spawn(async move { engage.run(stopping).await }) }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("no panic").expect("a clean end");
    }

    /// Ends at any point, like a killed process.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.expect_err("aborted").is_cancelled());
    }
}

/// A text from a number.
fn text(id: impl std::fmt::Display, number: &str, text: &str) -> Inbound {
    message(id, number, Content::Text(text.to_owned()))
}

fn message(id: impl std::fmt::Display, number: &str, content: Content) -> Inbound {
    let mut inbound = Inbound { id: Some(Wamid::from(format!("wamid.{id}").as_str())), content, ..Inbound::default() };
    inbound.at = Some(crate::support::hooks::now());
    inbound.sender.number = Some(number.to_owned());
    inbound
}

async fn chats(database: &Database) -> Vec<Chat> {
    let filter = ChatFilter { owners: Owner::ALL.to_vec(), ..ChatFilter::default() };
    database.chats(&filter, 10_000).await.expect("chats")
}

/// The messages of a chat from the person, the oldest first.
async fn inbound_of(database: &Database, chat: i64) -> Vec<ChatMessage> {
    let mut messages = database.messages(chat, None, 100_000).await.expect("messages");
    messages.retain(|message| message.kind == MessageKind::Inbound);
    messages.reverse();
    messages
}

/// What people wrote, by line and number, the oldest first.
async fn texts(database: &Database) -> BTreeMap<(String, String), Vec<String>> {
    let mut texts = BTreeMap::new();
    for chat in chats(database).await {
        let written = inbound_of(database, chat.id).await.into_iter();
        let written = written.map(|message| message.body["content"]["text"].as_str().unwrap_or_default().to_owned());
        let number = chat.contact.number.map(|number| number.to_string()).unwrap_or_default();
        let before = texts.insert((chat.line.to_string(), number), written.collect());
        assert_eq!(before, None, "one chat for each contact and line");
    }
    texts
}
