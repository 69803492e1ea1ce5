//! Merges two chats of a line, because their contacts are the same person.
//!
//! What becomes of a message to the contact is reported under the chat and the id that it had when it was written, which
//! therefore stay known, in `merged_messages`.

use std::collections::HashSet;

use serde_json::json;
use sqlx::PgConnection;

use super::{
    super::{campaign_chats, media::move_files},
    BusinessId, MessageKind, Rows, UnixMs, next_message,
};
use crate::domain::chat::Owner;

/// Moves the messages of the chat `from` to the chat `to`, and deletes `from`. Both are locked.
pub(super) async fn merge_chats(
    connection: &mut PgConnection,
    business: &BusinessId,
    (from, to): (i64, i64),
    now: UnixMs,
) -> sqlx::Result<()> {
    let moved = messages_of(connection, from).await?;
    let taken = messages_of(connection, to).await?.into_iter().collect();
    let new = new_ids(&moved, &taken);
    sqlx::query!(
        "update messages set chat = $2, id = moved.new from unnest($3::bigint[], $4::bigint[]) as moved (old, new)
         where messages.chat = $1 and messages.id = moved.old",
        from,
        to,
        &moved,
        &new
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "update merged_messages set into_chat = $2, into_message = moved.new
         from unnest($3::bigint[], $4::bigint[]) as moved (old, new)
         where into_chat = $1 and into_message = moved.old",
        from,
        to,
        &moved,
        &new
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "insert into merged_messages (chat, message, business, into_chat, into_message)
         select $1, moved.old, business, $2, moved.new from unnest($3::bigint[], $4::bigint[]) as moved (old, new)
         join messages on messages.chat = $2 and messages.id = moved.new where kind = $5",
        from,
        to,
        &moved,
        &new,
        MessageKind::Outbound as i16
    )
    .execute(&mut *connection)
    .await?;
    // A client id that both chats know stays with the message of `to`.
    sqlx::query!(
        "update client_ids set chat = $2, message = moved.new from unnest($3::bigint[], $4::bigint[]) as moved (old, new)
         where client_ids.chat = $1 and client_ids.message = moved.old
            and not exists (select from client_ids known where known.chat = $2 and known.client_id = client_ids.client_id)",
        from,
        to,
        &moved,
        &new
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!("delete from client_ids where chat = $1", from).execute(&mut *connection).await?;
    let merged = sqlx::query!(
        r#"update chats set unread = chats.unread + old.unread, revision = chats.revision + 1,
            last_inbound_at = greatest(chats.last_inbound_at, old.last_inbound_at),
            owner = greatest(chats.owner, old.owner),
            agent = case when old.owner > chats.owner then old.agent else chats.agent end,
            owner_since_at = case when old.owner > chats.owner then old.owner_since_at else chats.owner_since_at end,
            group_id = case when old.owner > chats.owner then old.group_id else chats.group_id end,
            waiting_since_at = least(chats.waiting_since_at, old.waiting_since_at),
            snoozed_until_at = null, attended = chats.attended and old.attended,
            tags = array(select distinct tag from unnest(chats.tags || old.tags) as tag order by tag),
            last_message = greatest(chats.last_message, old.last_message, $3)
         from chats old where old.id = $1 and chats.id = $2
         returning chats.owner as "owner!", chats.agent, chats.last_message as "last_message!""#,
        from,
        to,
        new.last().copied().unwrap_or(0)
    )
    .fetch_one(&mut *connection)
    .await?;
    let id = next_message(merged.last_message, now);
    let owner = Owner::of(merged.owner).unwrap_or(Owner::Queue);
    let activity = json!({ "owner": owner.name(), "agent": merged.agent, "why": "merged" }).to_string();
    let mut rows = Rows::default();
    rows.push(id, to, now, MessageKind::Activity, None, activity);
    rows.insert(&mut *connection, business).await?;
    sqlx::query!("update chats set last_message = $2 where id = $1", to, id).execute(&mut *connection).await?;
    move_files(&mut *connection, from, to).await?;
    campaign_chats::merge(&mut *connection, from, to).await?;
    sqlx::query!("delete from chats where id = $1", from).execute(&mut *connection).await.map(drop)
}

/// The ids of the messages of a chat, in their order.
async fn messages_of(connection: &mut PgConnection, chat: i64) -> sqlx::Result<Vec<i64>> {
    sqlx::query_scalar!("select id from messages where chat = $1 order by id", chat).fetch_all(connection).await
}

/// The ids of messages in the chat to which they move: their own, or the next ones that are not `taken`, in the same
/// order.
fn new_ids(moved: &[i64], taken: &HashSet<i64>) -> Vec<i64> {
    let mut last = i64::MIN;
    let mut new_id = |id: &i64| {
        last = (*id).max(last.saturating_add(1));
        while taken.contains(&last) {
            last += 1;
        }
        last
    };
    moved.iter().map(&mut new_id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_move_keep_their_order_and_take_no_id_of_another() {
        let new = |moved: &[i64], taken: &[i64]| new_ids(moved, &taken.iter().copied().collect());
        assert_eq!(new(&[1, 5, 9], &[2, 6]), [1, 5, 9]);
        assert_eq!(new(&[5, 6, 9], &[5]), [6, 7, 9]);
        assert_eq!(new(&[5, 6, 7], &[5, 6, 8]), [7, 9, 10]);
        assert_eq!(new(&[], &[5]), Vec::<i64>::new());
    }
}
