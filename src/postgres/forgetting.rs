//! Forgets a person: everything that a business stores about a contact.

use std::collections::BTreeMap;

use sqlx::PgTransaction;

use super::{Database, DatabaseError, Result, media::remove_of_chats};
use crate::domain::{BusinessId, ChatMessageId, LineId, MediaId, Person};

/// A person who is deleted once this is committed.
pub struct Forgetting {
    transaction: PgTransaction<'static>,
    messages: u64,
    outbox: BTreeMap<LineId, Vec<ChatMessageId>>,
    files: Vec<MediaId>,
}

impl Database {
    /// The ids that the contacts of a person at `businesses` have in the business portfolio.
    pub async fn user_ids(&self, businesses: &[BusinessId], person: Person) -> Result<Vec<String>> {
        let businesses: Vec<String> = businesses.iter().map(ToString::to_string).collect();
        let ids = sqlx::query_scalar!(
            "select ids.value from contact_keys number join contact_keys ids on ids.contact = number.contact
             where number.business = any($1) and number.kind = 1 and number.value = $2 and ids.kind = 2",
            &businesses,
            person.digits().to_string()
        );
        ids.fetch_all(&self.pool).await.map_err(DatabaseError::of("find the ids of a person"))
    }

    /// Deletes the contacts of a person at `businesses`, with their chats, once it is committed. Until then no reader
    /// stores a message. What a reader has read from the stream of a line is read again.
    ///
    /// Can be repeated.
    pub async fn forget(&self, businesses: &[BusinessId], person: Person) -> Result<Forgetting> {
        let failed = DatabaseError::of("forget a person");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        // In this order, so that two calls do not wait for each other.
        sqlx::query!("select line from line_readers order by line for update")
            .fetch_all(&mut *transaction)
            .await
            .map_err(&failed)?;
        sqlx::query!("update line_readers set forgotten = forgotten + 1")
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
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
        // A message that was written in a chat which is now part of another one is in the outbox under the former.
        let waiting = sqlx::query!(
            "delete from outbox where chat = any($1)
                or (chat, message) in (select chat, message from merged_messages where into_chat = any($1))
             returning line, chat, message",
            &chats
        )
        .fetch_all(&mut *transaction)
        .await
        .map_err(&failed)?;
        let files = remove_of_chats(&mut transaction, &chats).await.map_err(&failed)?;
        for delete in [
            sqlx::query!("delete from client_ids where chat = any($1)", &chats),
            sqlx::query!("delete from merged_messages where into_chat = any($1)", &chats),
            sqlx::query!("delete from chats where id = any($1)", &chats),
            sqlx::query!("delete from contact_keys where contact = any($1)", &contacts),
            sqlx::query!("delete from contacts where id = any($1)", &contacts),
        ] {
            delete.execute(&mut *transaction).await.map_err(&failed)?;
        }
        let mut outbox: BTreeMap<LineId, Vec<ChatMessageId>> = BTreeMap::new();
        for row in waiting {
            let id = ChatMessageId { chat: row.chat, message: row.message };
            outbox.entry(row.line.as_str().into()).or_default().push(id);
        }
        Ok(Forgetting { transaction, messages: messages.rows_affected(), outbox, files })
    }
}

impl Forgetting {
    /// The messages of the outbox, which may be in the lanes of their lines. They have to be ended there before the
    /// commit, after which nobody knows them.
    pub fn outbox(&self) -> &BTreeMap<LineId, Vec<ChatMessageId>> {
        &self.outbox
    }

    /// Returns the number of deleted messages, and the files that are only to be removed from the store now.
    pub async fn commit(self) -> Result<(u64, Vec<MediaId>)> {
        self.transaction.commit().await.map_err(DatabaseError::of("forget a person"))?;
        Ok((self.messages, self.files))
    }
}
