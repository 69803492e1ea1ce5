//! Forgets a person: everything that a business stores about a contact.

use super::{Database, DatabaseError, Result};
use crate::domain::{BusinessId, ChatMessageId, LineId, Person};

/// What was deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForgottenChats {
    /// The number of messages.
    pub messages: u64,
    /// Messages of the outbox, which may be in the lanes of their lines.
    pub outbox: Vec<(LineId, ChatMessageId)>,
}

impl Database {
    /// Deletes the contacts of a person at `businesses`, with their chats.
    ///
    /// Can be repeated. A message that is stored at the same time is deleted only by the next call.
    pub async fn forget(&self, businesses: &[BusinessId], person: Person) -> Result<ForgottenChats> {
        let failed = DatabaseError::of("forget a person");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let businesses: Vec<String> = businesses.iter().map(ToString::to_string).collect();
        let contacts = sqlx::query_scalar!(
            "select contacts.id from contacts join contact_keys on contact_keys.contact = contacts.id
             where contact_keys.business = any($1) and kind = 1 and value = $2 order by contacts.id for update of contacts",
            &businesses,
            person.digits().to_string()
        )
        .fetch_all(&mut *transaction)
        .await
        .map_err(&failed)?;
        let chats =
            sqlx::query_scalar!("select id from chats where contact = any($1) order by id for update", &contacts)
                .fetch_all(&mut *transaction)
                .await
                .map_err(&failed)?;
        let messages = sqlx::query!("delete from messages where chat = any($1)", &chats)
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
        let outbox = sqlx::query!("delete from outbox where chat = any($1) returning line, chat, message", &chats)
            .fetch_all(&mut *transaction)
            .await
            .map_err(&failed)?;
        for delete in [
            sqlx::query!("delete from client_ids where chat = any($1)", &chats),
            sqlx::query!("delete from chats where id = any($1)", &chats),
            sqlx::query!("delete from contact_keys where contact = any($1)", &contacts),
            sqlx::query!("delete from contacts where id = any($1)", &contacts),
        ] {
            delete.execute(&mut *transaction).await.map_err(&failed)?;
        }
        transaction.commit().await.map_err(&failed)?;
        let outbox = outbox
            .into_iter()
            .map(|row| (row.line.as_str().into(), ChatMessageId { chat: row.chat, message: row.message }));
        Ok(ForgottenChats { messages: messages.rows_affected(), outbox: outbox.collect() })
    }
}
