//! Chats, their messages, and contacts.

use std::collections::BTreeSet;

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode, header},
};
use serde::Deserialize;
use tracing::debug;
use utoipa::IntoParams;

use super::{
    Shared, SharedState,
    access::Access,
    audit::Audit,
    extract::{ChatPath, IfMatch, JsonBody, OptionalJsonBody},
    tags::tag_id,
    values::{group_id, invalid, search},
};
use crate::{
    api_types::{
        AssignChat, ChatMessagePage, ChatMessageView, ChatPage, ChatView, ContactView, FinishChat, MediaView,
        NewChatMessage, NewNote, NewTags, Page, SnoozeChat,
    },
    config::KeyScope,
    domain::{
        GroupId, LineId, UnixMs,
        chat::{Owner, content::ReplyContent, window_until},
        tag::{DerivedTag, derived},
    },
    http::{
        page,
        problem::{Problem, Result},
        request::{Params, bad_query},
    },
    postgres::{
        Database, DatabaseError,
        chat_list::{ChatFilter, TagFilter},
        chats::{ActionDone, ActionOn, ActionRefused, ChatAction, NewMessage},
        media::FileRecord,
        read::{Chat, ChatMessage, Contact},
    },
};

/// Maximum length of a `client_id`.
const CLIENT_ID_CHARS_MAX: usize = 64;

/// The query parameters of the list of chats.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ChatListParams {
    /// Which chats: `mine` (those of the caller), `snoozed` (those that the caller has put aside), `queue` (they wait for
    /// an agent), `closed`, or `all`.
    #[param(nullable = false, default = "all")]
    view: Option<String>,
    /// Only chats of this line.
    #[param(nullable = false)]
    line: Option<String>,
    /// Only chats of this group.
    #[param(nullable = false)]
    group: Option<String>,
    /// Only chats with this tag, which may be a derived one.
    #[param(nullable = false, example = "unanswered")]
    tag: Option<String>,
    /// Only chats with a message, or of a contact, that has all of these words, or words that begin with them. A number is
    /// found by its first digits.
    #[param(nullable = false, example = "renov")]
    search: Option<String>,
    /// `next` of the page before. Without it the list begins.
    #[param(nullable = false)]
    cursor: Option<String>,
    /// The maximum number of rows.
    #[param(value_type = Option<u16>, nullable = false, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
}

/// The query parameters of the messages of a chat.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct MessageListParams {
    /// Only messages before this one, by its id; `next` of the page before. Without it the newest ones.
    #[param(nullable = false)]
    before: Option<String>,
    /// The maximum number of rows.
    #[param(value_type = Option<u16>, nullable = false, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
}

/// List chats, those with the newest message first.
#[utoipa::path(
    get, path = "/v1/chats", tag = "chats", operation_id = "list_chats",
    security(("api_key" = [KeyScope::Chats])),
    params(ChatListParams),
    responses((status = 200, description = "A page of chats.", body = ChatPage)),
    extensions(("x-problems" = json!(["no-database"]))),
)]
pub(super) async fn list(
    State(shared): SharedState,
    access: Access,
    Params(params): Params<ChatListParams>,
) -> Result<Json<ChatPage>> {
    let limit = page::limit(params.limit.as_deref())?;
    let before = page::non_empty(params.cursor.as_deref()).map(|text| cursor(text).ok_or_else(page::bad_cursor));
    let view = page::non_empty(params.view.as_deref()).unwrap_or("all");
    let filter = ChatFilter {
        businesses: access.names(),
        owners: owners(view)?,
        agent: ["mine", "snoozed"].contains(&view).then(|| access.who().to_owned()),
        is_snoozed: match view {
            "mine" => Some(false),
            "snoozed" => Some(true),
            _ => None,
        },
        group: page::non_empty(params.group.as_deref()).map(GroupId::from),
        tag: page::non_empty(params.tag.as_deref()).map(|tag| match DerivedTag::named(tag) {
            Some(derived) => TagFilter::Derived(derived, shared.now()),
            None => TagFilter::Own(tag.into()),
        }),
        visible: access.visibility(),
        line: page::non_empty(params.line.as_deref()).map(LineId::from),
        ids: None,
        before: before.transpose()?,
        search: search(params.search.as_deref())?,
    };
    let mut chats = shared.database()?.chats(&filter, limit + 1).await?;
    let has_more = chats.len() > limit;
    chats.truncate(limit);
    let next = chats.last().filter(|_| has_more).map(|chat| format!("{}.{}", chat.last_message, chat.id));
    Ok(Json(Page { rows: chats.into_iter().map(|chat| chat_view(chat, shared.now())).collect(), next }))
}

/// Get a chat.
#[utoipa::path(
    get, path = "/v1/chats/{chat}", tag = "chats", operation_id = "get_chat",
    security(("api_key" = [KeyScope::Chats])),
    params(ChatPath),
    responses((status = 200, description = "The chat.", body = ChatView)),
    extensions(("x-problems" = json!(["no-database"]))),
)]
pub(super) async fn one(State(shared): SharedState, ChatPath(chat): ChatPath) -> Tagged {
    tagged(chat, shared.now())
}

/// List the messages of a chat, the newest first.
#[utoipa::path(
    get, path = "/v1/chats/{chat}/messages", tag = "chats", operation_id = "list_chat_messages",
    security(("api_key" = [KeyScope::Chats])),
    params(ChatPath, MessageListParams),
    responses((status = 200, description = "A page of messages.", body = ChatMessagePage)),
    extensions(("x-problems" = json!(["no-database"]))),
)]
pub(super) async fn messages(
    State(shared): SharedState,
    ChatPath(chat): ChatPath,
    Params(params): Params<MessageListParams>,
) -> Result<Json<ChatMessagePage>> {
    let limit = page::limit(params.limit.as_deref())?;
    let before = page::cursor::<i64>(params.before.as_deref())?;
    let mut messages = shared.database()?.messages(chat.id, before, limit + 1).await?;
    let has_more = messages.len() > limit;
    messages.truncate(limit);
    let next = messages.last().filter(|_| has_more).map(|message| message.id.to_string());
    Ok(Json(Page { rows: messages.into_iter().map(message_view).collect(), next }))
}

/// Take a chat over, from the queue or a closed one.
#[utoipa::path(
    post, path = "/v1/chats/{chat}/take", tag = "chats", operation_id = "take_chat",
    security(("api_key" = [KeyScope::Chats])),
    params(ChatPath, IfMatch),
    responses((status = 200, description = "The chat after the call.", body = ChatView)),
    extensions(("x-problems" = json!(["no-database", "invalid-if-match", "chat-changed", "chat-of-another-agent"]))),
)]
pub(super) async fn take(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    ChatPath(chat): ChatPath,
    if_match: IfMatch,
) -> Result<Tagged> {
    shared.change(&access, &audit, &chat, if_match, ChatAction::Take).await
}

/// Return a chat to the queue.
#[utoipa::path(
    post, path = "/v1/chats/{chat}/release", tag = "chats", operation_id = "release_chat",
    security(("api_key" = [KeyScope::Chats])),
    params(ChatPath, IfMatch),
    responses((status = 200, description = "The chat after the call.", body = ChatView)),
    extensions(("x-problems" = json!(["no-database", "invalid-if-match", "chat-changed", "chat-of-another-agent"]))),
)]
pub(super) async fn release(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    ChatPath(chat): ChatPath,
    if_match: IfMatch,
) -> Result<Tagged> {
    shared.change(&access, &audit, &chat, if_match, ChatAction::Release).await
}

/// Give a chat to an agent, or to the queue of a group.
///
/// An agent gives away the own chats and those of the queue; managers and keys give away every chat. An agent who is
/// offline gets none.
#[utoipa::path(
    post, path = "/v1/chats/{chat}/assign", tag = "chats", operation_id = "assign_chat",
    security(("api_key" = [KeyScope::Chats])),
    params(ChatPath, IfMatch),
    request_body = AssignChat,
    responses((status = 200, description = "The chat after the call.", body = ChatView)),
    extensions(("x-problems" = json!(["no-database", "invalid-if-match", "chat-changed", "chat-of-another-agent", "agent-offline", "invalid"]))),
)]
pub(super) async fn assign(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    ChatPath(chat): ChatPath,
    if_match: IfMatch,
    JsonBody(to): JsonBody<AssignChat>,
) -> Result<Tagged> {
    let action = match (to.agent, to.group) {
        (Some(agent), None) => {
            let agent = agent.parse().map_err(|_| invalid("agent is the id of an agent: GET /v1/agents"))?;
            ChatAction::Assign(agent)
        }
        (None, Some(group)) => ChatAction::AssignGroup(group_id(&group)?),
        _ => return Err(invalid("send either `agent` or `group`")),
    };
    shared.act(&access, &audit, &chat, if_match, action).await?;
    // The agent who gave it away may not see it any more.
    shared.any_chat(chat.id).await.map(|chat| tagged(chat, shared.now()))
}

/// Put a chat aside until a time, or until the contact writes.
///
/// The chat becomes the caller's. It is in `view=snoozed` instead of `view=mine`, and leaves room for another chat.
#[utoipa::path(
    post, path = "/v1/chats/{chat}/snooze", tag = "chats", operation_id = "snooze_chat",
    security(("api_key" = [KeyScope::Chats])),
    params(ChatPath, IfMatch),
    request_body = SnoozeChat,
    responses((status = 200, description = "The chat after the call.", body = ChatView)),
    extensions(("x-problems" = json!(["no-database", "invalid-if-match", "chat-changed", "chat-of-another-agent", "invalid"]))),
)]
pub(super) async fn snooze(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    ChatPath(chat): ChatPath,
    if_match: IfMatch,
    JsonBody(SnoozeChat { until }): JsonBody<SnoozeChat>,
) -> Result<Tagged> {
    if until <= shared.now() {
        return Err(invalid("until is a time in the future"));
    }
    shared.change(&access, &audit, &chat, if_match, ChatAction::Snooze(until)).await
}

/// Close a chat.
///
/// A message of the contact opens it again, for the queue.
#[utoipa::path(
    post, path = "/v1/chats/{chat}/close", tag = "chats", operation_id = "close_chat",
    security(("api_key" = [KeyScope::Chats])),
    params(ChatPath, IfMatch),
    responses((status = 200, description = "The chat after the call.", body = ChatView)),
    extensions(("x-problems" = json!(["no-database", "invalid-if-match", "chat-changed", "chat-of-another-agent"]))),
)]
pub(super) async fn close(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    ChatPath(chat): ChatPath,
    if_match: IfMatch,
) -> Result<Tagged> {
    shared.change(&access, &audit, &chat, if_match, ChatAction::Close).await
}

/// Finish a conversation: close the chat, after a last text to the contact if there is one.
#[utoipa::path(
    post, path = "/v1/chats/{chat}/finish", tag = "chats", operation_id = "finish_chat",
    security(("api_key" = [KeyScope::Chats])),
    params(ChatPath, IfMatch),
    request_body = FinishChat,
    responses((status = 200, description = "The chat after the call.", body = ChatView)),
    extensions(("x-problems" = json!(["no-database", "invalid-if-match", "chat-changed", "chat-of-another-agent", "window-closed", "invalid"]))),
)]
pub(super) async fn finish(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    ChatPath(chat): ChatPath,
    if_match: IfMatch,
    OptionalJsonBody(finish): OptionalJsonBody<FinishChat>,
) -> Result<Tagged> {
    if let Some(body) = &finish.text {
        check(&ReplyContent::Text { body: body.clone(), preview_url: false })?;
    }
    shared.change(&access, &audit, &chat, if_match, ChatAction::Finish(finish.text)).await
}

/// Set the tags of a chat.
#[utoipa::path(
    put, path = "/v1/chats/{chat}/tags", tag = "chats", operation_id = "tag_chat",
    security(("api_key" = [KeyScope::Chats])),
    params(ChatPath, IfMatch),
    request_body = NewTags,
    responses((status = 200, description = "The chat after the call.", body = ChatView)),
    extensions(("x-problems" = json!(["no-database", "invalid-if-match", "chat-changed", "invalid"]))),
)]
pub(super) async fn tag(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    ChatPath(chat): ChatPath,
    if_match: IfMatch,
    JsonBody(new): JsonBody<NewTags>,
) -> Result<Tagged> {
    let tags = new.tags.iter().map(|tag| tag_id(tag)).collect::<Result<BTreeSet<_>>>()?;
    shared.change(&access, &audit, &chat, if_match, ChatAction::Tag(tags.into_iter().collect())).await
}

/// Mark the messages of a chat as read, for the contact too.
#[utoipa::path(
    post, path = "/v1/chats/{chat}/read", tag = "chats", operation_id = "read_chat",
    security(("api_key" = [KeyScope::Chats])),
    params(ChatPath),
    responses((status = 200, description = "The chat after the call.", body = ChatView)),
    extensions(("x-problems" = json!(["no-database"]))),
)]
pub(super) async fn read(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    ChatPath(chat): ChatPath,
) -> Result<Tagged> {
    shared.change(&access, &audit, &chat, IfMatch::default(), ChatAction::Read).await
}

/// Show the contact that somebody is typing, for some 25 seconds.
#[utoipa::path(
    post, path = "/v1/chats/{chat}/typing", tag = "chats", operation_id = "type_in_chat",
    security(("api_key" = [KeyScope::Chats])),
    params(ChatPath),
    responses((status = 200, description = "The chat.", body = ChatView)),
    extensions(("x-problems" = json!(["no-database"]))),
)]
pub(super) async fn typing(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    ChatPath(chat): ChatPath,
) -> Result<Tagged> {
    shared.change(&access, &audit, &chat, IfMatch::default(), ChatAction::Typing).await
}

/// Write a note, which the contact does not see.
#[utoipa::path(
    post, path = "/v1/chats/{chat}/notes", tag = "chats", operation_id = "write_note",
    security(("api_key" = [KeyScope::Chats])),
    params(ChatPath),
    request_body = NewNote,
    responses((status = 200, description = "The chat after the call.", body = ChatView)),
    extensions(("x-problems" = json!(["no-database", "invalid"]))),
)]
pub(super) async fn note(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    ChatPath(chat): ChatPath,
    JsonBody(note): JsonBody<NewNote>,
) -> Result<Tagged> {
    check(&ReplyContent::Text { body: note.text.clone(), preview_url: false })?;
    shared.change(&access, &audit, &chat, IfMatch::default(), ChatAction::Note(note.text)).await
}

/// Write to the contact.
///
/// The message leaves ahead of the campaigns of its line. The chat becomes the caller's. Free text, and everything but
/// a template, is possible until 24 hours after the contact's last message. With a `client_id` the call can be repeated:
/// the message is sent once.
#[utoipa::path(
    post, path = "/v1/chats/{chat}/messages", tag = "chats", operation_id = "send_chat_message",
    security(("api_key" = [KeyScope::Chats])),
    params(ChatPath, IfMatch),
    request_body = NewChatMessage,
    responses(
        (status = 200, description = "The message that was written with this `client_id` before.", body = ChatMessageView),
        (status = 201, description = "The message.", body = ChatMessageView),
    ),
    extensions(("x-problems" = json!(["no-database", "invalid-if-match", "chat-changed", "chat-of-another-agent", "window-closed", "no-media-store", "invalid"]))),
)]
pub(super) async fn send(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    ChatPath(chat): ChatPath,
    if_match: IfMatch,
    JsonBody(new): JsonBody<NewChatMessage>,
) -> Result<(StatusCode, Json<ChatMessageView>)> {
    check(&new.content)?;
    if new.content.file().is_some_and(|(_, file)| file.media.is_some()) {
        shared.media()?;
    }
    let problem = |text: &str| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", text.to_owned());
    let context = new.context.map(|id| id.parse()).transpose();
    let context = context.map_err(|_| problem("context is not the id of a message of this chat"))?;
    if new.client_id.as_ref().is_some_and(|id| !(1..=CLIENT_ID_CHARS_MAX).contains(&id.chars().count())) {
        return Err(problem("client_id has 1 to 64 characters"));
    }
    let message = NewMessage { client_id: new.client_id, context, content: new.content };
    let done = shared.act(&access, &audit, &chat, if_match, ChatAction::Send(message)).await?;
    let id = done.message.ok_or_else(|| Problem::internal("a message without an id"))?;
    let message = shared.database()?.messages(chat.id, Some(id + 1), 1).await?.pop();
    let message = message.ok_or_else(|| Problem::internal("a message that was written is gone"))?;
    let status = if done.changed { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(message_view(message))))
}

impl Shared {
    /// Errors: 409 without a database.
    pub(super) fn database(&self) -> Result<&Database> {
        self.state.database.as_ref().ok_or_else(|| {
            let detail = "this server has no database for chats: set database.url in its configuration";
            Problem::new(StatusCode::CONFLICT, "no-database", detail)
        })
    }

    /// Does what the caller does with a chat. Returns the chat after it.
    async fn change(
        &self,
        access: &Access,
        audit: &Audit,
        chat: &Chat,
        if_match: IfMatch,
        action: ChatAction,
    ) -> Result<Tagged> {
        self.act(access, audit, chat, if_match, action).await?;
        self.chat(access, &chat.id.to_string()).await.map(|chat| tagged(chat, self.now()))
    }

    async fn act(
        &self,
        access: &Access,
        audit: &Audit,
        chat: &Chat,
        IfMatch(revision): IfMatch,
        action: ChatAction,
    ) -> Result<ActionDone> {
        let visible = access.visibility();
        let on = ActionOn { chat: chat.id, agent: access.who(), visible: visible.as_ref(), revision, now: self.now() };
        let done = self.database()?.act(on, action).await?.map_err(|refused| refusal(chat.id, refused))?;
        audit.changed(done.changed);
        if done.changed {
            self.assign(&chat.contact.business).await;
        }
        if let Some(line) = &done.outbox
            && let Err(error) = self.state.store.ring_reader(line).await
        {
            // The reader looks once a second by itself.
            debug!(%error, line.id = %line, "the reader of the line is not told of its outbox");
        }
        Ok(done)
    }

    /// The chat `id`, whoever asks.
    async fn any_chat(&self, id: i64) -> Result<Chat> {
        let filter = ChatFilter { owners: Owner::ALL.to_vec(), ids: Some(vec![id]), ..ChatFilter::default() };
        let chat = self.database()?.chats(&filter, 1).await?.pop();
        chat.ok_or_else(|| Problem::not_found("chat-not-found", format!("there is no chat {id}")))
    }

    /// The chat `id`.
    ///
    /// Errors: 404 if the caller may not see it, or if it does not exist.
    pub(super) async fn chat(&self, access: &Access, id: &str) -> Result<Chat> {
        let missing = || Problem::not_found("chat-not-found", format!("there is no chat {id}"));
        let number: i64 = id.parse().map_err(|_| missing())?;
        let owners = Owner::ALL.to_vec();
        let (businesses, visible) = (access.names(), access.visibility());
        let filter = ChatFilter { businesses, visible, owners, ids: Some(vec![number]), ..ChatFilter::default() };
        self.database()?.chats(&filter, 1).await?.pop().ok_or_else(missing)
    }
}

impl From<DatabaseError> for Problem {
    fn from(error: DatabaseError) -> Self {
        if error.is_transient() {
            Self::unavailable("unavailable", "PostgreSQL is not available")
        } else {
            Self::internal(&error.to_string())
        }
    }
}

/// A chat, and its revision as an entity tag.
type Tagged = ([(HeaderName, String); 1], Json<ChatView>);

fn tagged(chat: Chat, now: UnixMs) -> Tagged {
    ([(header::ETAG, format!("\"{}\"", chat.revision))], Json(chat_view(chat, now)))
}

/// Errors: 422 if Meta would refuse the content.
fn check(content: &ReplyContent) -> Result<()> {
    let problems = content.problems();
    if problems.is_empty() {
        return Ok(());
    }
    let detail = "Meta would refuse this message; `problems` has the reasons";
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail).with_problems(problems))
}

fn refusal(chat: i64, refused: ActionRefused) -> Problem {
    let conflict = |kind, detail: String| Problem::new(StatusCode::CONFLICT, kind, detail);
    match refused {
        ActionRefused::NoChat => Problem::not_found("chat-not-found", format!("there is no chat {chat}")),
        ActionRefused::Changed(revision) => {
            let detail = format!("chat {chat} has changed since: its revision is {revision}; read it again");
            Problem::new(StatusCode::PRECONDITION_FAILED, "chat-changed", detail)
        }
        ActionRefused::OtherAgent(agent) => {
            conflict("chat-of-another-agent", format!("{agent} is in charge of chat {chat}, and can release it"))
        }
        ActionRefused::WindowClosed(Some(until)) => conflict(
            "window-closed",
            format!("free text was possible until {until}, because the contact has not written since: send a template"),
        ),
        ActionRefused::WindowClosed(None) => {
            conflict("window-closed", "the contact has not written to this line: send a template".to_owned())
        }
        ActionRefused::NoAgent(agent) => {
            conflict("agent-offline", format!("the business has no agent {agent} who is there"))
        }
        ActionRefused::NoGroup(group) => invalid(format!("the business has no group {group}")),
        ActionRefused::NoTag(tag) => invalid(format!("the business has no tag {tag}: GET /v1/tags lists the tags")),
        ActionRefused::NoMessage => {
            let detail = format!("context names no message of chat {chat} that has an id at Meta");
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail)
        }
        ActionRefused::NoFile(media) => {
            let detail = format!("the business has no file {media}, or it is not stored");
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail)
        }
        ActionRefused::OtherFile(mime_type) => {
            let detail = format!("a file of the type {mime_type} cannot be sent as this type of message");
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail)
        }
    }
}

/// The position after a chat: its newest message and its id.
fn cursor(text: &str) -> Option<(i64, i64)> {
    let (message, id) = text.split_once('.')?;
    Some((message.parse().ok()?, id.parse().ok()?))
}

fn owners(view: &str) -> Result<Vec<Owner>> {
    match view {
        "all" => Ok(Owner::ALL.to_vec()),
        "mine" | "snoozed" => Ok(vec![Owner::Agent]),
        "queue" => Ok(vec![Owner::Queue]),
        "closed" => Ok(vec![Owner::Nobody]),
        _ => Err(bad_query(format!("view is {view}; it is all, mine, snoozed, queue or closed"))),
    }
}

pub(super) fn contact_view(contact: Contact) -> ContactView {
    let Contact { id, business, number, user_id, name, username, created_at } = contact;
    ContactView { id: id.to_string(), business, phone: number, user_id, name, username, created_at }
}

pub(super) fn chat_view(chat: Chat, now: UnixMs) -> ChatView {
    let is_open = chat.owner != Owner::Nobody;
    let derived = derived(is_open, chat.waiting_since.is_some(), chat.is_attended, chat.last_inbound_at, now);
    let derived: Vec<String> = derived.map(|tag| tag.name().to_owned()).collect();
    ChatView {
        tags: chat.tags.iter().map(ToString::to_string).chain(derived).collect(),
        id: chat.id.to_string(),
        line: chat.line,
        contact: contact_view(chat.contact),
        owner: chat.owner.name().into(),
        agent: chat.agent,
        revision: chat.revision,
        owner_since: chat.owner_since,
        group: chat.group,
        waiting_since: chat.waiting_since,
        snoozed_until: chat.snoozed_until,
        created_at: chat.created_at,
        window_until: chat.last_inbound_at.map(window_until),
        unread: chat.unread,
        updated_at: UnixMs(chat.last_message.unsigned_abs() / 1_000),
    }
}

pub(super) fn message_view(message: ChatMessage) -> ChatMessageView {
    let ChatMessage { id, kind, at, state, author, wamid, body, marks, file } = message;
    let (id, kind, state) = (id.to_string(), kind.name().into(), state.map(|state| state.name().to_owned()));
    ChatMessageView { id, kind, at, state, author, wamid, body, marks, media: file.map(media_view) }
}

fn media_view(file: FileRecord) -> MediaView {
    let FileRecord { id, state, mime_type, filename, size, reason, business: _ } = file;
    MediaView { id, state: state.name().into(), mime_type, filename, size, reason }
}
