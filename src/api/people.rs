//! People: forget one.

use axum::{Json, extract::State, http::StatusCode};

use super::{SharedState, access::Access, audit::Audit, extract::PhonePath};
use crate::{
    api_types::ForgottenView,
    config::KeyScope,
    http::problem::{Problem, Result},
    redis::forgetting::Forgotten,
};

/// Forget a person.
///
/// Removes the number, the values and the messages of the person from all campaigns and chats of all businesses. The
/// statistics stay. Messages that are not sent yet are skipped, and suppressions of the person stay in force. When the response
/// arrives, all of this is durable, and no further message to the person is claimed. Requests already in flight are
/// still sent. The call can be repeated; if it fails, a worker finishes all but the chats. The key must not be limited
/// to `businesses`.
#[utoipa::path(
    delete, path = "/v1/people/{phone}", tag = "people", operation_id = "forget_person",
    security(("api_key" = [KeyScope::Submit])),
    params(PhonePath),
    responses((status = 200, description = "The person is forgotten.", body = ForgottenView)),
    extensions(("x-problems" = json!(["invalid-phone"]))),
)]
pub(super) async fn forget(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    PhonePath(phone): PhonePath,
) -> Result<Json<ForgottenView>> {
    audit.on(format_args!("{phone:?}"));
    if access.is_limited() {
        let detail = "a person is forgotten by all businesses, and this key is limited to some: use another key";
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail));
    }
    let (store, businesses) = (&shared.state.store, shared.state.businesses.get());
    let mut around = store.surroundings(&shared.state.lines.get(), &businesses).await?;
    let user_ids = match &shared.state.database {
        Some(database) => database.user_ids(&businesses, phone.into()).await,
        None => Ok(Vec::new()),
    };
    // Campaigns do not wait for PostgreSQL: if it does not answer, the call fails after this.
    around.user_ids = user_ids.as_ref().cloned().unwrap_or_default();
    let forgotten = store.forget(phone.into(), &around, shared.now()).await?;
    user_ids?;
    // After Redis, from which the messages would otherwise be read again.
    let chat_messages = match &shared.state.database {
        Some(database) => {
            let forgetting = database.forget(&businesses, phone.into()).await?;
            for (line, messages) in forgetting.outbox() {
                store.drop_chats(line, shared.now(), messages).await?;
            }
            if !forgetting.outbox().is_empty() {
                store.make_durable().await?;
            }
            let (messages, files) = forgetting.commit().await?;
            shared.remove_files(&files).await?;
            messages
        }
        None => 0,
    };
    let Forgotten { campaigns, recipients, skipped, messages, events, suppressions, suppressed_numbers, dead_letters } =
        forgotten;
    audit.changed(recipients + messages + chat_messages + events + suppressed_numbers > 0);
    Ok(Json(ForgottenView {
        campaigns,
        recipients,
        skipped,
        messages,
        chat_messages,
        events,
        suppressions,
        dead_letters,
    }))
}
