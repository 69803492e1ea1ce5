//! Chats, their messages, and contacts.

use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    Shared, SharedState,
    access::Access,
    extract::{ChatPath, PhonePath},
};
use crate::{
    api_types::{ChatMessagePage, ChatMessageView, ChatPage, ChatView, ContactView, Page},
    config::KeyScope,
    domain::{
        LineId, UnixMs,
        chat::{Owner, window_until},
    },
    http::{
        page,
        problem::{Problem, Result},
        request::{Params, bad_query},
    },
    postgres::{
        Database, DatabaseError,
        read::{Chat, ChatFilter, ChatMessage, Contact},
    },
};

/// The query parameters of the list of chats.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ChatListParams {
    /// Which chats: `queue` (they wait for an agent), `closed`, or `all`.
    #[param(nullable = false, default = "all")]
    view: Option<String>,
    /// Only chats of this line.
    #[param(nullable = false)]
    line: Option<String>,
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
    let filter = ChatFilter {
        businesses: access.names(),
        owners: owners(page::non_empty(params.view.as_deref()).unwrap_or("all"))?,
        line: page::non_empty(params.line.as_deref()).map(LineId::from),
        id: None,
        before: before.transpose()?,
    };
    let mut chats = shared.database()?.chats(&filter, limit + 1).await?;
    let has_more = chats.len() > limit;
    chats.truncate(limit);
    let next = chats.last().filter(|_| has_more).map(|chat| format!("{}.{}", chat.last_message, chat.id));
    Ok(Json(Page { rows: chats.into_iter().map(chat_view).collect(), next }))
}

/// Get a chat.
#[utoipa::path(
    get, path = "/v1/chats/{chat}", tag = "chats", operation_id = "get_chat",
    security(("api_key" = [KeyScope::Chats])),
    params(ChatPath),
    responses((status = 200, description = "The chat.", body = ChatView)),
    extensions(("x-problems" = json!(["no-database"]))),
)]
pub(super) async fn one(ChatPath(chat): ChatPath) -> Json<ChatView> {
    Json(chat_view(chat))
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

/// The query parameters of a call about a contact.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ContactParams {
    /// The business of the contact. May be left out if the key sees only one.
    #[param(nullable = false)]
    business: Option<String>,
}

/// Get a contact by its phone number.
#[utoipa::path(
    get, path = "/v1/contacts/{phone}", tag = "chats", operation_id = "get_contact",
    security(("api_key" = [KeyScope::Contacts])),
    params(PhonePath, ContactParams),
    responses((status = 200, description = "The contact.", body = ContactView)),
    extensions(("x-problems" = json!(["no-database", "invalid-phone", "contact-not-found", "business-missing", "business-not-found"]))),
)]
pub(super) async fn contact(
    State(shared): SharedState,
    access: Access,
    PhonePath(phone): PhonePath,
    Params(params): Params<ContactParams>,
) -> Result<Json<ContactView>> {
    let business = shared.business(&access, params.business.as_deref())?;
    let contact = shared.database()?.contact_of(&business, phone.into()).await?;
    let missing = || Problem::not_found("contact-not-found", format!("{business} has no contact with this number"));
    contact.map(contact_view).map(Json).ok_or_else(missing)
}

impl Shared {
    /// Errors: 409 without a database.
    fn database(&self) -> Result<&Database> {
        self.state.database.as_ref().ok_or_else(|| {
            let detail = "this server has no database for chats: set database.url in its configuration";
            Problem::new(axum::http::StatusCode::CONFLICT, "no-database", detail)
        })
    }

    /// The chat `id`.
    ///
    /// Errors: 404 if the caller may not see it, or if it does not exist.
    pub(super) async fn chat(&self, access: &Access, id: &str) -> Result<Chat> {
        let missing = || Problem::not_found("chat-not-found", format!("there is no chat {id}"));
        let number: i64 = id.parse().map_err(|_| missing())?;
        let owners = Owner::ALL.to_vec();
        let filter = ChatFilter { businesses: access.names(), owners, id: Some(number), ..ChatFilter::default() };
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

/// The position after a chat: its newest message and its id.
fn cursor(text: &str) -> Option<(i64, i64)> {
    let (message, id) = text.split_once('.')?;
    Some((message.parse().ok()?, id.parse().ok()?))
}

fn owners(view: &str) -> Result<Vec<Owner>> {
    match view {
        "all" => Ok(Owner::ALL.to_vec()),
        "queue" => Ok(vec![Owner::Queue]),
        "closed" => Ok(vec![Owner::Nobody]),
        _ => Err(bad_query(format!("view is {view}; it is all, queue or closed"))),
    }
}

fn contact_view(contact: Contact) -> ContactView {
    let Contact { id, business, number, user_id, name, username, created_at } = contact;
    ContactView { id: id.to_string(), business, phone: number, user_id, name, username, created_at }
}

fn chat_view(chat: Chat) -> ChatView {
    ChatView {
        id: chat.id.to_string(),
        line: chat.line,
        contact: contact_view(chat.contact),
        owner: chat.owner.name().into(),
        owner_since: chat.owner_since,
        created_at: chat.created_at,
        window_until: chat.last_inbound_at.map(window_until),
        unread: chat.unread,
        updated_at: UnixMs(chat.last_message.unsigned_abs() / 1_000),
    }
}

fn message_view(message: ChatMessage) -> ChatMessageView {
    let ChatMessage { id, kind, at, wamid, body, marks } = message;
    ChatMessageView { id: id.to_string(), kind: kind.name().into(), at, wamid, body, marks }
}
