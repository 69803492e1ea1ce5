//! The chats and their agents as server-sent events, for consoles.
//!
//! A process looks for changes ten times a second while it has a stream open, and gives them to all its streams. Only a
//! stream that starts after an earlier one, or whose client is slow, asks PostgreSQL by itself.
//!
//! While PostgreSQL is unavailable, the stream stays open and silent. It ends when the server stops.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use axum::{
    extract::State,
    http::HeaderMap,
    response::{Response, sse},
};
use futures_util::stream;
use serde::Serialize;
use serde_json::json;
use tokio::{
    sync::{OwnedSemaphorePermit, broadcast},
    time::{Interval, MissedTickBehavior, interval, sleep},
};
use tracing::{debug, error};
use utoipa::ToSchema;

use super::{
    Shared, SharedState,
    access::Access,
    agents::agent_view,
    chats::{chat_view, message_view},
    events::event_stream,
    feed::{LAST_EVENT_ID, bad_position},
    stream_permit,
};
use crate::{
    api_types::ChatMessageEvent,
    config::KeyScope,
    domain::{BusinessId, GroupId, UnixMs},
    http::{page::non_empty, problem::Result},
    postgres::{
        Database, DatabaseError,
        changes::{ChatChanges, Moment, Since},
        read::Chat,
    },
    redis::clock::Clock,
};

/// How often a process looks for changes.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often a stream looks whether the session of its agent is open, and what the agent may see. The agent is present
/// while it does.
const RENEW_EVERY: Duration = Duration::from_secs(10);

/// Wait before the next attempt after PostgreSQL has failed.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Maximum number of batches that a stream may be behind before it asks PostgreSQL by itself.
const BATCHES_MAX: usize = 64;

/// An event of the stream.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its schema is used: `sse::Event` writes it")]
struct ChatStreamEvent {
    /// The position after the event. It also comes without an event, when the stream opens.
    id: Option<String>,
    /// `chat`, `message`, `gone`, `agent` or `reload`.
    event: Option<String>,
    /// JSON: a `Chat`, a `ChatMessageEvent`, an object with the `id` of a chat, an `Agent`, or an empty object.
    data: String,
}

/// Follow the chats: what changes in them, as it is then.
///
/// Server-sent events. `chat` has a chat that is new or has changed, `message` a message that is new or has changed.
/// `gone` has the id of a chat that an agent does not see any more, because it went to another group. `agent` has an agent
/// who is new, was changed or removed, or has another presence. `reload` means that too much has changed to be told: read
/// the lists again. Send the last `id` as `Last-Event-ID` to continue there; without it, the stream starts with new
/// changes. An event can be repeated. Several changes of a chat within a moment are one event. Of each chat, changes of
/// the newest 100 messages are told.
#[utoipa::path(
    get, path = "/v1/stream", tag = "chats", operation_id = "follow_chats",
    security(("api_key" = [KeyScope::Chats])),
    params((
        "Last-Event-ID" = Option<String>, Header, nullable = false,
        description = "The last `id` of an earlier stream: this one starts after it.",
    )),
    responses(
        (status = 200, description = "A stream of events.", body = ChatStreamEvent, content_type = "text/event-stream"),
    ),
    extensions(("x-problems" = json!(["no-database", "invalid-position", "too-many-streams"]))),
)]
pub(super) async fn follow(State(shared): SharedState, access: Access, headers: HeaderMap) -> Result<Response> {
    let database = shared.database()?.clone();
    let last = headers.get(LAST_EVENT_ID).map(|id| id.to_str().map_err(|_| bad_position("is not text"))).transpose()?;
    let since = non_empty(last)
        .map(|text| text.parse().map_err(|error| bad_position(&format!("is {text}; {error}"))))
        .transpose()?;
    let permit = stream_permit(&shared.chat_streams, "streams of chats")?;
    let now = database.moment().await?;
    let batches = shared.watch.follow(&database, &shared.state.clock, &now);
    let position = since.unwrap_or(now);
    let queue = VecDeque::from([sse::Event::default().id(position.to_string())]);
    // The first batch may begin after the position.
    let (shared_by_follower, renewals) = (shared.clone(), interval(RENEW_EVERY));
    let follower = Follower {
        shared: shared_by_follower,
        renewals,
        database,
        access,
        batches,
        position,
        is_behind: true,
        queue,
        _permit: permit,
    };
    let stopping = shared.state.stopping.clone();
    let events = stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok::<_, Infallible>(event), follower))
    });
    Ok(event_stream(events, stopping))
}

/// Changes up to a moment, ready to be sent.
struct Batch {
    until: Moment,
    events: Vec<ChatEvent>,
}

/// What a client is told.
struct ChatEvent {
    about: About,
    name: &'static str,
    json: String,
}

/// Whom an event is about, which says who is told.
enum About {
    Chat(Arc<EventChat>),
    /// An agent of this business.
    Agent(BusinessId),
    Everybody,
}

/// Who is told what happens in a chat.
struct EventChat {
    id: i64,
    business: BusinessId,
    group: Option<GroupId>,
    agent: Option<String>,
    last_group: Option<String>,
    last_agent: Option<String>,
}

/// What a caller is told of an event.
#[derive(PartialEq)]
enum Told {
    Everything,
    Gone,
    Nothing,
}

impl EventChat {
    fn of(chat: &Chat) -> Self {
        Self {
            id: chat.id,
            business: chat.contact.business.clone(),
            group: chat.group.clone(),
            agent: chat.agent.clone(),
            last_group: chat.last_group.clone(),
            last_agent: chat.last_agent.clone(),
        }
    }

    fn told(&self, access: &Access) -> Told {
        if !access.allows(Some(&self.business)) {
            return Told::Nothing;
        }
        let Some(visible) = access.visibility() else { return Told::Everything };
        let of_group = |group: &str| group.is_empty() || visible.has(Some(group), None);
        if visible.has(self.group.as_ref().map(GroupId::as_str), self.agent.as_deref()) {
            Told::Everything
        } else if self.last_group.as_deref().is_some_and(of_group) || self.last_agent.as_ref() == Some(&visible.agent) {
            Told::Gone
        } else {
            Told::Nothing
        }
    }
}

impl Batch {
    fn new(until: Moment, since: Since, now: UnixMs) -> Self {
        let events = match since {
            Since::Changes(changes) => events_of(changes, now),
            Since::TooMuch => vec![ChatEvent { about: About::Everybody, name: "reload", json: "{}".to_owned() }],
        };
        Self { until, events }
    }
}

fn events_of(ChatChanges { chats, messages, agents }: ChatChanges, now: UnixMs) -> Vec<ChatEvent> {
    let known: BTreeMap<i64, Arc<EventChat>> =
        chats.iter().map(|chat| (chat.id, Arc::new(EventChat::of(chat)))).collect();
    let chats = chats.into_iter().map(|chat| ("chat", chat.id, json(&chat_view(chat, now))));
    let messages = messages.into_iter().map(|(chat, message)| {
        ("message", chat, json(&ChatMessageEvent { chat: chat.to_string(), message: message_view(message) }))
    });
    // A message whose chat is gone belongs to nobody.
    let event = |(name, chat, json)| Some(ChatEvent { about: About::Chat(known.get(&chat)?.clone()), name, json });
    let agents = agents.into_iter().map(|agent| {
        let about = About::Agent(agent.business.clone());
        ChatEvent { about, name: "agent", json: json(&agent_view(agent)) }
    });
    chats.chain(messages).filter_map(event).chain(agents).collect()
}

fn json(view: &impl Serialize) -> String {
    serde_json::to_string(view).expect("every map has string keys")
}

/// The sender of the task that looks for changes, while there is one.
type CurrentSender = Arc<Mutex<Weak<broadcast::Sender<Arc<Batch>>>>>;

/// What looks for changes while somebody follows the chats.
#[derive(Default)]
pub(super) struct Watch {
    sender: CurrentSender,
}

impl Watch {
    /// The batches of changes from now on. `now`: a moment before the call.
    fn follow(&self, database: &Database, clock: &Arc<Clock>, now: &Moment) -> broadcast::Receiver<Arc<Batch>> {
        let mut current = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = current.upgrade() {
            return sender.subscribe();
        }
        let (sender, receiver) = broadcast::channel(BATCHES_MAX);
        let sender = Arc::new(sender);
        *current = Arc::downgrade(&sender);
        tokio::spawn(look(database.clone(), clock.clone(), now.clone(), sender, self.sender.clone()));
        receiver
    }
}

/// Looks for changes since a moment, as long as there is a receiver.
async fn look(
    database: Database,
    clock: Arc<Clock>,
    mut since: Moment,
    sender: Arc<broadcast::Sender<Arc<Batch>>>,
    current: CurrentSender,
) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        {
            // Nobody can begin to follow in between.
            let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
            if sender.receiver_count() == 0 {
                *current = Weak::new();
                return;
            }
        }
        match next_batch((&database, &clock), &since, None).await {
            Ok(batch) => {
                since = batch.until.clone();
                if !batch.events.is_empty() {
                    // A receiver that has gone needs nothing.
                    let _ = sender.send(Arc::new(batch));
                }
            }
            Err(error) => failed(&error).await,
        }
    }
}

/// What changed since a moment.
async fn next_batch(
    (database, clock): (&Database, &Clock),
    since: &Moment,
    businesses: Option<&[String]>,
) -> std::result::Result<Batch, DatabaseError> {
    let (until, since) = database.changes_since(since, businesses).await?;
    Ok(Batch::new(until, since, clock.now()))
}

/// Reports a failure, and waits before the next attempt.
async fn failed(error: &DatabaseError) {
    if error.is_transient() {
        debug!(%error, "the changes of chats cannot be read");
    } else {
        error!(%error, "the changes of chats cannot be read");
    }
    sleep(RETRY_AFTER).await;
}

/// An open stream.
struct Follower {
    shared: Arc<Shared>,
    database: Database,
    access: Access,
    renewals: Interval,
    batches: broadcast::Receiver<Arc<Batch>>,
    /// Behind the last event that was sent.
    position: Moment,
    /// Whether there may be changes after the position that no batch will have.
    is_behind: bool,
    /// Events not sent yet.
    queue: VecDeque<sse::Event>,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    /// Waits for the next event. `None` ends the stream.
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(event);
            }
            if self.is_behind {
                let businesses = self.access.names();
                let source = (&self.database, &*self.shared.state.clock);
                match next_batch(source, &self.position, businesses.as_deref()).await {
                    Ok(batch) => {
                        self.is_behind = false;
                        self.enqueue(&batch);
                    }
                    Err(error) => failed(&error).await,
                }
                continue;
            }
            tokio::select! {
                batch = self.batches.recv() => match batch {
                    Ok(batch) => self.enqueue(&batch),
                    Err(broadcast::error::RecvError::Lagged(_)) => self.is_behind = true,
                    Err(broadcast::error::RecvError::Closed) => return None,
                },
                _ = self.renewals.tick() => if !self.renew().await { return None },
            }
        }
    }

    /// Queues the events that the caller may see. The last one has the position after the batch.
    fn enqueue(&mut self, batch: &Batch) {
        self.position = batch.until.clone();
        let told = batch.events.iter().filter_map(|event| {
            let whole = || (event.name, event.json.clone());
            match &event.about {
                About::Chat(chat) => match chat.told(&self.access) {
                    Told::Everything => Some(whole()),
                    Told::Gone if event.name == "chat" => Some(("gone", json(&json!({ "id": chat.id.to_string() })))),
                    Told::Gone | Told::Nothing => None,
                },
                About::Agent(business) => self.access.allows(Some(business)).then(whole),
                About::Everybody => Some(whole()),
            }
        });
        let mut told = told.peekable();
        while let Some((name, json)) = told.next() {
            let event = sse::Event::default().event(name).data(json);
            self.queue.push_back(match told.peek() {
                Some(_) => event,
                None => event.id(self.position.to_string()),
            });
        }
    }

    /// Reads again what the agent may see, which may have changed. Returns false if the session has ended.
    async fn renew(&mut self) -> bool {
        let Some(token) = self.access.token().cloned() else { return true };
        match self.shared.session_of(&token, false).await {
            Ok(Some(session)) => {
                self.access = Access::of_session(session, token);
                true
            }
            Ok(None) => false,
            // Without PostgreSQL there is nothing to tell.
            Err(_) => true,
        }
    }
}
