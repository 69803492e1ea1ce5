//! What agents do with a chat, each in one transaction that locks the chat.
//!
//! A message to the contact and its row in the outbox are written together.

use serde_json::{Value, json};
use sqlx::{PgConnection, PgTransaction};

use super::{
    Database, DatabaseError, Result,
    agents::has_group,
    inbound::{MessageKind, meta_id, micros, next_message},
    media, millis,
    statistics::{self, Deed, What},
    tags,
};
use crate::{
    domain::{
        AgentId, GroupId, LineId, MediaId, Phone, Presence, State, TagId, UnixMs,
        agent::Visibility,
        chat::{
            Owner,
            content::{ChatReply, ChatRequest, ReadMark, ReplyContent, ReplyTo},
            free_text_until,
        },
        inbound::MediaKind,
        media::{FileState, sendable},
    },
    rules::tagging::{self, Happened, TagEvent},
};

/// What an agent does.
#[derive(Clone, Debug)]
pub enum ChatAction {
    /// Takes the chat over, from the queue or from nobody.
    Take,
    /// Gives the chat to an agent.
    Assign(AgentId),
    /// Gives the chat to the queue of a group.
    AssignGroup(GroupId),
    /// Sets the tags of the chat, without the derived ones.
    Tag(Vec<TagId>),
    /// Puts the chat aside until then, or until the contact writes.
    Snooze(UnixMs),
    /// Returns the chat to the queue.
    Release,
    /// Closes the chat.
    Close,
    /// Ends the conversation, and sends a last text if there is one.
    Finish(Option<String>),
    /// Has read the messages of the contact.
    Read,
    /// Is typing.
    Typing,
    /// Writes a note, which the contact does not see.
    Note(String),
    /// Writes to the contact.
    Send(NewMessage),
}

/// A message to the contact.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// An id by which the caller can repeat the request.
    pub client_id: Option<String>,
    /// The message of the chat that it answers.
    pub context: Option<i64>,
    /// What it says.
    pub content: ReplyContent,
}

/// Who does it, and to which chat.
#[derive(Clone, Copy, Debug)]
pub struct ActionOn<'a> {
    /// The chat.
    pub chat: i64,
    /// The agent.
    pub agent: &'a str,
    /// The chats that the agent sees; `None`: all.
    pub visible: Option<&'a Visibility>,
    /// The revision that the agent has seen; `None`: any.
    pub revision: Option<i64>,
    /// The time.
    pub now: UnixMs,
}

/// Why an action is not possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionRefused {
    /// There is no such chat.
    NoChat,
    /// The chat has changed: its revision.
    Changed(i64),
    /// Another agent is in charge.
    OtherAgent(String),
    /// Free text is not possible outside the window; since when, if the contact ever wrote.
    WindowClosed(Option<UnixMs>),
    /// The business has no such agent, or the agent is offline.
    NoAgent(AgentId),
    /// The business has no such group.
    NoGroup(GroupId),
    /// The business has no such tag.
    NoTag(TagId),
    /// There is no such message in the chat, or it has no id of Meta's.
    NoMessage,
    /// The business has no such file in its store.
    NoFile(MediaId),
    /// The file has this type, which does not fit the type of the message.
    OtherFile(String),
}

/// What an action did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionDone {
    /// Whether anything changed.
    pub changed: bool,
    /// The message that was written.
    pub message: Option<i64>,
    /// The line, if there is something new in its outbox.
    pub outbox: Option<LineId>,
}

/// A chat that is locked.
struct Locked<'a> {
    on: ActionOn<'a>,
    business: String,
    line: String,
    contact: i64,
    owner: Owner,
    agent: Option<String>,
    owner_since_at: i64,
    group: Option<String>,
    last_group: Option<String>,
    waiting_since_at: Option<i64>,
    snoozed_until_at: Option<i64>,
    last_agent: Option<String>,
    last_agent_at: Option<i64>,
    avoids_last_agent: bool,
    tags: Vec<TagId>,
    is_attended: bool,
    last_message: i64,
    last_inbound_at: Option<UnixMs>,
    unread: i32,
    to: ReplyTo,
    done: ActionDone,
}

impl Database {
    /// Does what an agent does with a chat.
    pub async fn act(
        &self,
        on: ActionOn<'_>,
        action: ChatAction,
    ) -> Result<std::result::Result<ActionDone, ActionRefused>> {
        let failed = DatabaseError::of("change a chat");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let Some((mut chat, revision)) = lock(&mut transaction, on).await.map_err(&failed)? else {
            return Ok(Err(ActionRefused::NoChat));
        };
        if let ChatAction::Send(NewMessage { client_id: Some(client_id), .. }) = &action
            && let Some(known) = chat.known(&mut transaction, client_id).await.map_err(&failed)?
        {
            chat.done.message = Some(known);
            return Ok(Ok(chat.done));
        }
        if on.revision.is_some_and(|seen| seen != revision) {
            return Ok(Err(ActionRefused::Changed(revision)));
        }
        if let Err(refused) = chat.act(&mut transaction, action).await.map_err(&failed)? {
            return Ok(Err(refused));
        }
        if chat.done.changed {
            chat.store(&mut transaction).await.map_err(&failed)?;
        }
        transaction.commit().await.map_err(&failed)?;
        Ok(Ok(chat.done))
    }
}

async fn lock<'a>(transaction: &mut PgTransaction<'_>, on: ActionOn<'a>) -> sqlx::Result<Option<(Locked<'a>, i64)>> {
    let row = sqlx::query!(
        "select chats.business, chats.line, chats.contact, chats.owner, chats.agent, chats.owner_since_at, chats.group_id, chats.last_group,
            chats.waiting_since_at, chats.snoozed_until_at, chats.last_agent, chats.last_agent_at,
            chats.avoids_last_agent, chats.tags, chats.attended, chats.last_message, chats.last_inbound_at,
            chats.unread, chats.revision, contacts.number, contacts.user_id
         from chats join contacts on contacts.id = contact where chats.id = $1 for update of chats",
        on.chat
    )
    .fetch_optional(&mut **transaction)
    .await?;
    let row = row.filter(|row| on.visible.is_none_or(|all| all.has(row.group_id.as_deref(), row.agent.as_deref())));
    Ok(row.map(|row| {
        let number = row.number.and_then(|digits| Phone::from_digits(digits.unsigned_abs()));
        let locked = Locked {
            on,
            business: row.business,
            line: row.line,
            contact: row.contact,
            owner: Owner::of(row.owner).unwrap_or(Owner::Queue),
            agent: row.agent,
            owner_since_at: row.owner_since_at,
            group: row.group_id,
            last_group: row.last_group,
            waiting_since_at: row.waiting_since_at,
            snoozed_until_at: row.snoozed_until_at,
            last_agent: row.last_agent,
            last_agent_at: row.last_agent_at,
            avoids_last_agent: row.avoids_last_agent,
            tags: row.tags.iter().map(|tag| tag.as_str().into()).collect(),
            is_attended: row.attended,
            last_message: row.last_message,
            last_inbound_at: row.last_inbound_at.map(|at| UnixMs(at.unsigned_abs())),
            unread: row.unread,
            to: ReplyTo { number, user_id: row.user_id },
            done: ActionDone { changed: false, message: None, outbox: None },
        };
        (locked, row.revision)
    }))
}

type Acted = std::result::Result<(), ActionRefused>;

impl Locked<'_> {
    async fn act(&mut self, connection: &mut PgConnection, action: ChatAction) -> sqlx::Result<Acted> {
        let is_free = match &action {
            ChatAction::Read | ChatAction::Typing | ChatAction::Note(_) | ChatAction::Tag(_) => true,
            // Whoever sees all chats shares them out.
            ChatAction::Assign(_) | ChatAction::AssignGroup(_) if self.on.visible.is_none() => true,
            _ => self.owner != Owner::Agent || self.agent.as_deref() == Some(self.on.agent),
        };
        if !is_free {
            return Ok(Err(ActionRefused::OtherAgent(self.agent.clone().unwrap_or_default())));
        }
        match action {
            ChatAction::Take => self.take(connection, "taken").await?,
            ChatAction::Assign(agent) => {
                let presence = sqlx::query_scalar!(
                    "select presence from agents where id = $1 and business = $2 and removed_at is null",
                    agent.to_string(),
                    self.business
                );
                let presence = presence.fetch_optional(&mut *connection).await?.and_then(Presence::of);
                if presence.is_none_or(|presence| presence == Presence::Offline) {
                    return Ok(Err(ActionRefused::NoAgent(agent)));
                }
                self.give_to(connection, Owner::Agent, Some(agent.to_string()), "assigned").await?;
            }
            ChatAction::AssignGroup(group) => {
                if !has_group(&mut *connection, &self.business, &group).await? {
                    return Ok(Err(ActionRefused::NoGroup(group)));
                }
                self.move_to(connection, group).await?;
            }
            ChatAction::Tag(tags) => {
                if let Some(tag) = tags::unknown(&mut *connection, &self.business, &tags).await? {
                    return Ok(Err(ActionRefused::NoTag(tag)));
                }
                self.retag(connection, tags).await?;
            }
            ChatAction::Snooze(until) => {
                self.take(&mut *connection, "taken").await?;
                self.done.changed |= self.snoozed_until_at.replace(millis(until)) != Some(millis(until));
            }
            ChatAction::Release => {
                self.give_to(connection, Owner::Queue, None, "released").await?;
                self.avoids_last_agent = true;
            }
            ChatAction::Close => self.close(connection, "closed").await?,
            ChatAction::Finish(text) => {
                if let Some(body) = text {
                    let content = ReplyContent::Text { body, preview_url: false };
                    let message = NewMessage { client_id: None, context: None, content };
                    if let Err(refused) = self.send(connection, message).await? {
                        return Ok(Err(refused));
                    }
                }
                self.close(connection, "finished").await?;
            }
            ChatAction::Read => {
                if std::mem::take(&mut self.unread) > 0 {
                    self.done.changed = true;
                    self.mark(connection, false).await?;
                }
            }
            ChatAction::Typing => self.mark(connection, true).await?,
            ChatAction::Note(text) => {
                let id = self.write(connection, MessageKind::Note, 0, json!({ "text": text })).await?;
                self.done.message = Some(id);
            }
            ChatAction::Send(message) => return self.send(connection, message).await,
        }
        Ok(Ok(()))
    }

    /// Changes the owner, with an activity, unless it is the owner already.
    async fn give_to(
        &mut self,
        connection: &mut PgConnection,
        owner: Owner,
        agent: Option<String>,
        why: &str,
    ) -> sqlx::Result<()> {
        if owner == self.owner && agent == self.agent {
            return Ok(());
        }
        let mut activity = json!({ "owner": owner.name(), "agent": agent, "why": why });
        if let Some(group) = &self.group {
            activity["group"] = group.as_str().into();
        }
        self.owner = owner;
        if let Some(agent) = std::mem::replace(&mut self.agent, agent) {
            (self.last_agent, self.last_agent_at) = (Some(agent), Some(millis(self.on.now)));
            self.avoids_last_agent = false;
        }
        (self.owner_since_at, self.snoozed_until_at) = (millis(self.on.now), None);
        self.write(connection, MessageKind::Activity, 0, activity).await.map(drop)
    }

    /// Gives the chat to whoever acts, and is therefore there.
    async fn take(&mut self, connection: &mut PgConnection, why: &str) -> sqlx::Result<()> {
        sqlx::query!(
            "update agents set presence = $2, seen_at = $3 where id = $1 and presence = $4",
            self.on.agent,
            Presence::Away.code(),
            millis(self.on.now),
            Presence::Offline.code()
        )
        .execute(&mut *connection)
        .await?;
        self.give_to(connection, Owner::Agent, Some(self.on.agent.to_owned()), why).await
    }

    async fn close(&mut self, connection: &mut PgConnection, why: &str) -> sqlx::Result<()> {
        if self.owner == Owner::Nobody {
            return Ok(());
        }
        self.waiting_since_at = None;
        self.give_to(&mut *connection, Owner::Nobody, None, why).await?;
        let ended = Deed { contact: self.contact, line: &self.line, at: millis(self.on.now), what: What::Ended };
        statistics::count(&mut *connection, &self.business, &[ended]).await?;
        let rules = tags::rules_of(&mut *connection, &self.business).await?;
        let (mut tags, line) = (self.tags.clone(), self.line.as_str().into());
        tagging::retag(&mut tags, &rules, Happened { event: TagEvent::Closed, line: &line, text: "" });
        self.retag(connection, tags).await
    }

    /// Sets the tags, with an activity, unless the chat has them already.
    async fn retag(&mut self, connection: &mut PgConnection, tags: Vec<TagId>) -> sqlx::Result<()> {
        let before = std::mem::replace(&mut self.tags, tags);
        match tags::activity(&before, &self.tags, self.owner, self.agent.as_deref()) {
            Some(activity) => self.write(connection, MessageKind::Activity, 0, activity).await.map(drop),
            None => Ok(()),
        }
    }

    /// Gives the chat to the queue of a group.
    async fn move_to(&mut self, connection: &mut PgConnection, group: GroupId) -> sqlx::Result<()> {
        let is_moved = self.group.as_deref() != Some(group.as_str());
        if is_moved {
            self.last_group = Some(self.group.replace(group.as_str().to_owned()).unwrap_or_default());
        }
        if self.owner != Owner::Queue {
            return self.give_to(connection, Owner::Queue, None, "moved").await;
        }
        if is_moved {
            let activity = json!({ "owner": self.owner.name(), "group": self.group, "why": "moved" });
            self.write(connection, MessageKind::Activity, 0, activity).await?;
        }
        Ok(())
    }

    /// Writes a message to the contact. The chat is the agent's from then on.
    async fn send(&mut self, connection: &mut PgConnection, message: NewMessage) -> sqlx::Result<Acted> {
        let NewMessage { client_id, context, content } = message;
        let until = self.last_inbound_at.map(free_text_until);
        if content.is_free() && until.is_none_or(|until| self.on.now >= until) {
            return Ok(Err(ActionRefused::WindowClosed(until)));
        }
        let answered = match context {
            None => None,
            Some(id) => {
                let answered = self.wamid(&mut *connection, id).await?;
                if answered.is_none() {
                    return Ok(Err(ActionRefused::NoMessage));
                }
                answered
            }
        };
        let file = match content.file().and_then(|(kind, file)| Some((kind, file.media?))) {
            None => None,
            Some((_, id)) if !media::is_seen(&mut *connection, id, self.on.visible).await? => {
                return Ok(Err(ActionRefused::NoFile(id)));
            }
            Some((kind, id)) => match media::named(&mut *connection, &self.business, id).await? {
                Some(file) if file.state == FileState::Stored && fits(kind, &file.mime_type) => Some(id),
                Some(file) if file.state == FileState::Stored => {
                    return Ok(Err(ActionRefused::OtherFile(file.mime_type)));
                }
                _ => return Ok(Err(ActionRefused::NoFile(id))),
            },
        };
        self.take(&mut *connection, "reply").await?;
        (self.waiting_since_at, self.snoozed_until_at, self.is_attended) = (None, None, true);
        let until = until.filter(|_| content.is_free());
        let mut body = json!({ "content": content });
        if let Some(id) = context {
            body["context"] = id.to_string().into();
        }
        let state = i16::from(State::Pending.code());
        let id = self.write(&mut *connection, MessageKind::Outbound, state, body).await?;
        let mut reply = ChatReply { to: self.to.clone(), context: answered, content };
        let mut waits_for = None;
        if let Some(file) = file {
            let wanted_by = (self.business.as_str(), self.line.as_str(), self.on.chat);
            match media::wanted(&mut *connection, wanted_by, file, self.on.now).await? {
                Some(meta_id) => reply.content = reply.content.with_meta_id(meta_id),
                None => waits_for = Some(file),
            }
        }
        self.put(&mut *connection, id, &ChatRequest::Message(reply), until, waits_for).await?;
        if let Some(client_id) = client_id {
            sqlx::query!(
                "insert into client_ids (chat, client_id, business, message) values ($1, $2, $3, $4)",
                self.on.chat,
                client_id,
                self.business,
                id
            )
            .execute(connection)
            .await?;
        }
        self.done.message = Some(id);
        Ok(Ok(()))
    }

    /// The message that was written with this client id before.
    async fn known(&self, connection: &mut PgConnection, client_id: &str) -> sqlx::Result<Option<i64>> {
        sqlx::query_scalar!(
            "select message from client_ids where chat = $1 and client_id = $2",
            self.on.chat,
            client_id
        )
        .fetch_optional(connection)
        .await
    }

    /// Meta's id of a message of the chat.
    async fn wamid(&self, connection: &mut PgConnection, id: i64) -> sqlx::Result<Option<String>> {
        let wamid = sqlx::query_scalar!("select wamid from messages where chat = $1 and id = $2", self.on.chat, id)
            .fetch_optional(connection)
            .await?;
        Ok(meta_id(wamid.flatten()))
    }

    /// Shows the contact that the newest message was read, and `typing` that somebody answers. Does nothing if Meta has
    /// not told the id of that message.
    async fn mark(&mut self, connection: &mut PgConnection, typing: bool) -> sqlx::Result<()> {
        let newest = sqlx::query_scalar!(
            "select wamid from messages where chat = $1 and kind = 1 order by id desc limit 1",
            self.on.chat
        )
        .fetch_optional(&mut *connection)
        .await?;
        if let Some(message_id) = meta_id(newest.flatten()) {
            let id = -micros(self.on.now);
            self.put(connection, id, &ChatRequest::Mark(ReadMark { message_id, typing }), None, None).await?;
        }
        Ok(())
    }

    /// Writes a row of the chat.
    async fn write(
        &mut self,
        connection: &mut PgConnection,
        kind: MessageKind,
        state: i16,
        body: Value,
    ) -> sqlx::Result<i64> {
        self.last_message = next_message(self.last_message, self.on.now);
        self.done.changed = true;
        sqlx::query!(
            "insert into messages (id, chat, at, kind, state, business, author, body)
             values ($1, $2, $3, $4, $5, $6, $7, $8)",
            self.last_message,
            self.on.chat,
            millis(self.on.now),
            kind as i16,
            state,
            self.business,
            self.on.agent,
            body
        )
        .execute(connection)
        .await?;
        Ok(self.last_message)
    }

    /// Puts a request into the outbox. `file`: the one that has to be at Meta first.
    async fn put(
        &mut self,
        connection: &mut PgConnection,
        id: i64,
        request: &ChatRequest,
        until: Option<UnixMs>,
        file: Option<MediaId>,
    ) -> sqlx::Result<()> {
        let request = serde_json::to_value(request).expect("a request has only texts, numbers and JSON");
        sqlx::query!(
            "insert into outbox (line, message, chat, business, request, until_at, media)
             values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing",
            self.line,
            id,
            self.on.chat,
            self.business,
            request,
            until.map(millis),
            file.map(|id| id.to_string())
        )
        .execute(connection)
        .await?;
        self.done.outbox = Some(self.line.as_str().into());
        Ok(())
    }

    async fn store(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        sqlx::query!(
            "update chats set owner = $2, agent = $3, last_message = $4, unread = $5, owner_since_at = $6, group_id = $7,
                waiting_since_at = $8, snoozed_until_at = $9, last_agent = $10, last_agent_at = $11,
                avoids_last_agent = $12, last_group = $13, tags = $14, attended = $15, revision = revision + 1
             where id = $1",
            self.on.chat,
            self.owner.code(),
            self.agent,
            self.last_message,
            self.unread,
            self.owner_since_at,
            self.group,
            self.waiting_since_at,
            self.snoozed_until_at,
            self.last_agent,
            self.last_agent_at,
            self.avoids_last_agent,
            self.last_group,
            &self.tags.iter().map(ToString::to_string).collect::<Vec<_>>(),
            self.is_attended
        )
        .execute(connection)
        .await
        .map(drop)
    }
}

/// Whether a message with a file of this kind can carry a file of this type. A document can be any that Meta takes.
fn fits(kind: MediaKind, mime_type: &str) -> bool {
    sendable(mime_type).is_some_and(|(of_file, _)| kind == of_file || kind == MediaKind::Document)
}
