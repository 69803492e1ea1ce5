//! What agents do with a chat, each in one transaction that locks the chat.
//!
//! A message to the contact and its row in the outbox are written together.

use serde_json::{Value, json};
use sqlx::{PgConnection, PgTransaction};

use super::{
    Database, DatabaseError, Result,
    inbound::{MessageKind, meta_id, micros, next_message},
    media, millis,
};
use crate::domain::{
    LineId, MediaId, Phone, State, UnixMs,
    chat::{
        Owner,
        content::{ChatReply, ChatRequest, ReadMark, ReplyContent, ReplyTo},
        free_text_until,
    },
    inbound::MediaKind,
    media::{FileState, sendable},
};

/// What an agent does.
#[derive(Clone, Debug)]
pub enum ChatAction {
    /// Takes the chat over, from the queue or from nobody.
    Take,
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
    owner: Owner,
    agent: Option<String>,
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
        "select chats.business, line, owner, agent, last_message, last_inbound_at, unread, revision, number, user_id
         from chats join contacts on contacts.id = contact where chats.id = $1 for update of chats",
        on.chat
    )
    .fetch_optional(&mut **transaction)
    .await?;
    Ok(row.map(|row| {
        let number = row.number.and_then(|digits| Phone::from_digits(digits.unsigned_abs()));
        let locked = Locked {
            on,
            business: row.business,
            line: row.line,
            owner: Owner::of(row.owner).unwrap_or(Owner::Queue),
            agent: row.agent,
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
            ChatAction::Read | ChatAction::Typing | ChatAction::Note(_) => true,
            _ => self.owner != Owner::Agent || self.agent.as_deref() == Some(self.on.agent),
        };
        if !is_free {
            return Ok(Err(ActionRefused::OtherAgent(self.agent.clone().unwrap_or_default())));
        }
        match action {
            ChatAction::Take => self.give_to(connection, Owner::Agent, "taken").await?,
            ChatAction::Release => self.give_to(connection, Owner::Queue, "released").await?,
            ChatAction::Close => self.give_to(connection, Owner::Nobody, "closed").await?,
            ChatAction::Finish(text) => {
                if let Some(body) = text {
                    let content = ReplyContent::Text { body, preview_url: false };
                    let message = NewMessage { client_id: None, context: None, content };
                    if let Err(refused) = self.send(connection, message).await? {
                        return Ok(Err(refused));
                    }
                }
                self.give_to(connection, Owner::Nobody, "finished").await?;
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
    async fn give_to(&mut self, connection: &mut PgConnection, owner: Owner, why: &str) -> sqlx::Result<()> {
        let agent = (owner == Owner::Agent).then(|| self.on.agent.to_owned());
        if owner == self.owner && agent == self.agent {
            return Ok(());
        }
        (self.owner, self.agent) = (owner, agent);
        let activity = json!({ "owner": owner.name(), "agent": self.agent, "why": why });
        self.write(connection, MessageKind::Activity, 0, activity).await?;
        sqlx::query!("update chats set owner_since_at = $2 where id = $1", self.on.chat, millis(self.on.now))
            .execute(connection)
            .await
            .map(drop)
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
            Some((kind, id)) => match media::named(&mut *connection, &self.business, id).await? {
                Some(file) if file.state == FileState::Stored && fits(kind, &file.mime_type) => Some(id),
                Some(file) if file.state == FileState::Stored => {
                    return Ok(Err(ActionRefused::OtherFile(file.mime_type)));
                }
                _ => return Ok(Err(ActionRefused::NoFile(id))),
            },
        };
        self.give_to(&mut *connection, Owner::Agent, "reply").await?;
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
            "update chats set owner = $2, agent = $3, last_message = $4, unread = $5, revision = revision + 1
             where id = $1",
            self.on.chat,
            self.owner.code(),
            self.agent,
            self.last_message,
            self.unread
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
