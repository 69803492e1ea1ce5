//! Texts that agents write often.

use std::collections::BTreeMap;

use axum::{Json, extract::State, http::StatusCode};
use ulid::Ulid;

use super::{
    Shared, SharedState,
    access::{Access, reply_not_found},
    audit::Audit,
    extract::{JsonBody, ReplyPath},
    values::{group_id, invalid, name},
};
use crate::{
    api_types::{CannedReplyChangeBody, CannedReplyPage, CannedReplyView, FillIn, FilledIn, NewCannedReply, Page},
    config::KeyScope,
    domain::{CannedReplyId, canned_reply},
    http::problem::{Problem, Result},
    postgres::canned_replies::{CannedReply, CannedReplyChange, CannedReplyRefused},
};

/// Maximum length of a shortcut, in characters.
const SHORTCUT_CHARS_MAX: usize = 32;

/// List the canned replies that the caller uses.
#[utoipa::path(
    get, path = "/v1/replies", tag = "chats", operation_id = "list_replies",
    security(("api_key" = [KeyScope::Chats])),
    responses((status = 200, description = "All canned replies.", body = CannedReplyPage)),
    extensions(("x-problems" = json!(["no-database"]))),
)]
pub(super) async fn list(State(shared): SharedState, access: Access) -> Result<Json<CannedReplyPage>> {
    let (businesses, visible) = (access.names(), access.visibility());
    let replies = shared.database()?.canned_replies(businesses.as_deref(), visible.as_ref(), None).await?;
    Ok(Json(Page { rows: replies.into_iter().map(view).collect(), next: None }))
}

/// Create a canned reply.
#[utoipa::path(
    post, path = "/v1/replies", tag = "chats", operation_id = "create_reply",
    security(("api_key" = [KeyScope::Chats])),
    request_body = NewCannedReply,
    responses((status = 201, description = "The canned reply.", body = CannedReplyView)),
    extensions(("x-problems" = json!(["no-database", "business-missing", "business-not-found", "reply-exists", "invalid"]))),
)]
pub(super) async fn create(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    JsonBody(new): JsonBody<NewCannedReply>,
) -> Result<(StatusCode, Json<CannedReplyView>)> {
    access.check_manager()?;
    let reply = CannedReply {
        id: CannedReplyId(Ulid::from_parts(shared.now().0, rand::random())),
        business: shared.business(&access, new.business.as_deref())?,
        shortcut: shortcut(&new.shortcut)?,
        title: name(&new.title)?,
        body: body(new.body)?,
        group: new.group.as_deref().map(group_id).transpose()?,
        created_at: shared.now(),
    };
    shared.database()?.create_canned_reply(&reply).await?.map_err(|refused| refusal(reply.id, refused))?;
    audit.on(reply.id);
    Ok((StatusCode::CREATED, Json(view(reply))))
}

/// Change a canned reply.
#[utoipa::path(
    patch, path = "/v1/replies/{reply}", tag = "chats", operation_id = "change_reply",
    security(("api_key" = [KeyScope::Chats])),
    params(ReplyPath),
    request_body = CannedReplyChangeBody,
    responses((status = 200, description = "The canned reply after the change.", body = CannedReplyView)),
    extensions(("x-problems" = json!(["no-database", "reply-exists", "invalid"]))),
)]
pub(super) async fn change(
    State(shared): SharedState,
    access: Access,
    ReplyPath(reply): ReplyPath,
    JsonBody(new): JsonBody<CannedReplyChangeBody>,
) -> Result<Json<CannedReplyView>> {
    access.check_manager()?;
    let change = CannedReplyChange {
        shortcut: new.shortcut.as_deref().map(shortcut).transpose()?,
        title: new.title.as_deref().map(name).transpose()?,
        body: new.body.map(body).transpose()?,
    };
    let changed = shared.database()?.change_canned_reply(reply.id, &change).await?;
    changed.map_err(|refused| refusal(reply.id, refused))?;
    shared.reply(&access, &reply.id.to_string()).await.map(view).map(Json)
}

/// Remove a canned reply.
#[utoipa::path(
    delete, path = "/v1/replies/{reply}", tag = "chats", operation_id = "remove_reply",
    security(("api_key" = [KeyScope::Chats])),
    params(ReplyPath),
    responses((status = 204, description = "The canned reply is removed.")),
    extensions(("x-problems" = json!(["no-database"]))),
)]
pub(super) async fn remove(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    ReplyPath(reply): ReplyPath,
) -> Result<StatusCode> {
    access.check_manager()?;
    audit.changed(shared.database()?.remove_canned_reply(reply.id).await?);
    Ok(StatusCode::NO_CONTENT)
}

/// Fill in a canned reply for the contact of a chat.
///
/// Nothing is sent: the text is for `POST /v1/chats/{chat}/messages`, which an agent may change before.
#[utoipa::path(
    post, path = "/v1/replies/{reply}/fill-in", tag = "chats", operation_id = "fill_in_reply",
    security(("api_key" = [KeyScope::Chats])),
    params(ReplyPath),
    request_body = FillIn,
    responses((status = 200, description = "The text.", body = FilledIn)),
    extensions(("x-problems" = json!(["no-database", "chat-not-found"])), ("x-unaudited" = json!(true))),
)]
pub(super) async fn fill_in(
    State(shared): SharedState,
    access: Access,
    ReplyPath(reply): ReplyPath,
    JsonBody(FillIn { chat }): JsonBody<FillIn>,
) -> Result<Json<FilledIn>> {
    let contact = shared.chat(&access, &chat).await?.contact;
    let values = [
        ("contact.name", contact.name),
        ("contact.phone", contact.number.map(|number| number.to_string())),
        ("contact.username", contact.username),
        ("agent.name", Some(access.name().to_owned())),
    ];
    let values: BTreeMap<&str, String> =
        values.into_iter().filter_map(|(place, value)| Some((place, value?))).collect();
    let text = canned_reply::fill_in(&reply.body, &values);
    text.map(|text| Json(FilledIn { text })).map_err(|error| Problem::internal(&error.to_string()))
}

impl Shared {
    /// The canned reply `id`.
    ///
    /// Errors: 404 if the caller does not use it, or if it does not exist.
    pub(super) async fn reply(&self, access: &Access, id: &str) -> Result<CannedReply> {
        let missing = || reply_not_found(id);
        let known: CannedReplyId = id.parse().map_err(|_| missing())?;
        let (businesses, visible) = (access.names(), access.visibility());
        let found = self.database()?.canned_replies(businesses.as_deref(), visible.as_ref(), Some(known)).await?;
        found.into_iter().next().ok_or_else(missing)
    }
}

fn refusal(id: CannedReplyId, refused: CannedReplyRefused) -> Problem {
    match refused {
        CannedReplyRefused::Missing => reply_not_found(id),
        CannedReplyRefused::ShortcutTaken => {
            Problem::new(StatusCode::CONFLICT, "reply-exists", "the business has a canned reply with this shortcut")
        }
        CannedReplyRefused::NoGroup(group) => invalid(format!("the business has no group {group}")),
    }
}

fn shortcut(text: &str) -> Result<String> {
    let is_valid = (1..=SHORTCUT_CHARS_MAX).contains(&text.chars().count()) && !text.contains(char::is_whitespace);
    is_valid.then(|| text.to_owned()).ok_or_else(|| invalid("shortcut has 1 to 32 characters, without spaces"))
}

fn body(text: String) -> Result<String> {
    canned_reply::check(&text).map_err(|error| invalid(error.to_string()))?;
    Ok(text)
}

fn view(reply: CannedReply) -> CannedReplyView {
    let CannedReply { id, business, shortcut, title, body, group, created_at } = reply;
    CannedReplyView { id, business, shortcut, title, body, group, created_at }
}
