//! Conversations: the chats as interactions of at most 24 hours.

use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{SharedState, access::Access};
use crate::{
    api_types::{ConversationCountPage, ConversationCountView, ConversationPage, ConversationView, Page},
    config::KeyScope,
    domain::{BusinessId, LineId, UnixMs},
    http::{
        page,
        problem::Result,
        request::{Params, bad_query},
    },
    postgres::conversations::{ChatConversation, ConversationFilter, CountBy},
};

/// The query parameters of the list of conversations.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ConversationListParams {
    /// The business. May be left out if the caller sees only one, or with `chat`.
    #[param(nullable = false)]
    business: Option<String>,
    /// Only those of this chat. Agents who see only the chats of their groups name one.
    #[param(nullable = false)]
    chat: Option<String>,
    /// Only those of this contact: its id.
    #[param(nullable = false)]
    contact: Option<String>,
    /// Only those on this line.
    #[param(nullable = false)]
    line: Option<String>,
    /// Only those that this campaign opened, or answers to it.
    #[param(nullable = false)]
    campaign: Option<String>,
    /// Only those that were opened at this time or later, such as `2026-12-01T00:00:00Z`.
    #[param(nullable = false)]
    from: Option<String>,
    /// Only those that were opened before this time.
    #[param(nullable = false)]
    to: Option<String>,
    /// `next` of the page before. Without it the list begins.
    #[param(nullable = false)]
    cursor: Option<String>,
    /// The maximum number of rows.
    #[param(value_type = Option<u16>, nullable = false, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
}

/// The query parameters of the numbers of conversations.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ConversationCountParams {
    /// The business. May be left out if the caller sees only one.
    #[param(nullable = false)]
    business: Option<String>,
    /// By what they are counted: `line` or `campaign`.
    #[param(nullable = false, default = "line")]
    by: Option<String>,
    /// Only those that were opened at this time or later.
    #[param(nullable = false)]
    from: Option<String>,
    /// Only those that were opened before this time.
    #[param(nullable = false)]
    to: Option<String>,
}

/// List conversations, those that were opened last first.
///
/// A conversation is an interaction of at most 24 hours. The contact opens one by writing, the business by a template that
/// reaches the contact. It ends when an agent closes or finishes the chat, otherwise after 24 hours.
#[utoipa::path(
    get, path = "/v1/conversations", tag = "chats", operation_id = "list_conversations",
    security(("api_key" = [KeyScope::Chats])),
    params(ConversationListParams),
    responses((status = 200, description = "A page of conversations.", body = ConversationPage)),
    extensions(("x-problems" = json!(["no-database", "business-missing", "business-not-found", "chat-not-found"]))),
)]
pub(super) async fn list(
    State(shared): SharedState,
    access: Access,
    Params(params): Params<ConversationListParams>,
) -> Result<Json<ConversationPage>> {
    let limit = page::limit(params.limit.as_deref())?;
    let chat = match page::non_empty(params.chat.as_deref()) {
        Some(id) => Some(shared.chat(&access, id).await?),
        None => {
            access.check_manager()?;
            None
        }
    };
    let business = match &chat {
        Some(chat) => chat.contact.business.clone(),
        None => shared.business(&access, params.business.as_deref())?,
    };
    let contact = page::non_empty(params.contact.as_deref());
    let contact =
        contact.map(|id| id.parse().map_err(|_| bad_query("contact is not the id of a contact"))).transpose()?;
    let campaign = page::non_empty(params.campaign.as_deref());
    let campaign = campaign.map(|id| id.parse().map_err(|_| bad_query("campaign is not the id of a campaign")));
    let (line, place) =
        (page::non_empty(params.line.as_deref()).map(LineId::from), chat.map(|chat| (chat.contact.id, chat.line)));
    let filter = ConversationFilter {
        business,
        place,
        contact,
        line,
        campaign: campaign.transpose()?,
        from: instant("from", params.from.as_deref())?,
        to: instant("to", params.to.as_deref())?,
        before: page::non_empty(params.cursor.as_deref())
            .map(|text| cursor(text).ok_or_else(page::bad_cursor))
            .transpose()?,
    };
    let mut found = shared.database()?.conversations(&filter, limit + 1).await?;
    let has_more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| has_more);
    let next = next.map(|last| format!("{}.{}.{}", last.conversation.opened_at.0, last.contact, last.line));
    let now = shared.now();
    Ok(Json(Page { rows: found.into_iter().map(|found| view(&filter.business, found, now)).collect(), next }))
}

/// Count conversations, by line or campaign.
///
/// Conversations that no campaign opened are not counted by campaign. A contact has those of its own in `statistics`.
#[utoipa::path(
    get, path = "/v1/conversations/counts", tag = "chats", operation_id = "count_conversations",
    security(("api_key" = [KeyScope::Chats])),
    params(ConversationCountParams),
    responses((status = 200, description = "The numbers of conversations.", body = ConversationCountPage)),
    extensions(("x-problems" = json!(["no-database", "business-missing", "business-not-found"]))),
)]
pub(super) async fn counts(
    State(shared): SharedState,
    access: Access,
    Params(params): Params<ConversationCountParams>,
) -> Result<Json<ConversationCountPage>> {
    access.check_manager()?;
    let by = match page::non_empty(params.by.as_deref()) {
        None | Some("line") => CountBy::Line,
        Some("campaign") => CountBy::Campaign,
        Some(other) => return Err(bad_query(format!("by is {other}; it is line or campaign"))),
    };
    let business = shared.business(&access, params.business.as_deref())?;
    let period = (instant("from", params.from.as_deref())?, instant("to", params.to.as_deref())?);
    let rows = shared.database()?.count_conversations(&business, by, period).await?.into_iter();
    let rows = rows.map(|count| ConversationCountView {
        line: count.line,
        campaign: count.campaign,
        client: count.by_client,
        business: count.by_business,
    });
    Ok(Json(Page { rows: rows.collect(), next: None }))
}

/// A time in a parameter.
fn instant(parameter: &str, text: Option<&str>) -> Result<Option<UnixMs>> {
    let Some(text) = page::non_empty(text) else { return Ok(None) };
    let at = UnixMs::parse(text);
    at.map(Some).ok_or_else(|| bad_query(format!("{parameter} is {text}; it is a time, such as 2026-12-01T00:00:00Z")))
}

/// The position after a conversation: its opening, its contact and its line.
fn cursor(text: &str) -> Option<(UnixMs, i64, LineId)> {
    let (opened_at, rest) = text.split_once('.')?;
    let (contact, line) = rest.split_once('.')?;
    Some((UnixMs(opened_at.parse().ok()?), contact.parse().ok()?, line.into()))
}

fn view(business: &BusinessId, found: ChatConversation, now: UnixMs) -> ConversationView {
    let conversation = found.conversation;
    let ended_by = match conversation.ending {
        Some((ending, _)) => Some(ending.name()),
        None => (conversation.ends_at() <= now).then_some("expired"),
    };
    ConversationView {
        business: business.clone(),
        line: found.line,
        contact: found.contact.to_string(),
        chat: found.chat.map(|chat| chat.to_string()),
        opened_by: conversation.opened_by.name().to_owned(),
        opened_at: conversation.opened_at,
        campaign: conversation.campaign,
        ended_at: ended_by.map(|_| conversation.ends_at()),
        ended_by: ended_by.map(str::to_owned),
    }
}
