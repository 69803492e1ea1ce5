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
/// still sent. The call can be repeated; if it fails, a worker finishes it. The key must not be limited to
/// `businesses`.
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
    let store = &shared.state.store;
    let around = store.surroundings(&shared.state.lines.get(), &shared.state.businesses.get()).await?;
    let forgotten = store.forget(phone.into(), &around, shared.now()).await?;
    // After Redis, from which the messages would otherwise be read again.
    let chat_messages = match &shared.state.database {
        Some(database) => {
            let forgotten = database.forget(&shared.state.businesses.get(), phone.into()).await?;
            for (line, message) in forgotten.outbox {
                store.drop_chat(&line, message).await?;
            }
            forgotten.messages
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
