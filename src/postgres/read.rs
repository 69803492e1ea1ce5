//! Chats, messages and contacts, as the API shows them.

use sqlx::types::Json;

use super::{
    Database, DatabaseError, Result,
    inbound::{MessageKind, meta_id},
    media::FileRecord,
    time,
};
use crate::domain::{BusinessId, GroupId, LineId, MediaId, Person, Phone, State, TagId, UnixMs, chat::Owner};

/// A contact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Its id.
    pub id: i64,
    /// The business that it belongs to.
    pub business: BusinessId,
    /// The number as Meta writes it.
    pub number: Option<Phone>,
    /// The id of the person in the business portfolio.
    pub user_id: Option<String>,
    /// The name in the person's profile.
    pub name: Option<String>,
    /// The person's username.
    pub username: Option<String>,
    /// When it was created.
    pub created_at: UnixMs,
}

/// A chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chat {
    /// Its id.
    pub id: i64,
    /// The line.
    pub line: LineId,
    /// The person.
    pub contact: Contact,
    /// Who is in charge.
    pub owner: Owner,
    /// The agent in charge.
    pub agent: Option<String>,
    /// Since when.
    pub owner_since: UnixMs,
    /// The group of agents whose chat it is; `None`: every agent's.
    pub group: Option<GroupId>,
    /// The group before it was moved; empty: every agent's.
    pub last_group: Option<String>,
    /// The agent before.
    pub last_agent: Option<String>,
    /// Since when the person waits for an answer.
    pub waiting_since: Option<UnixMs>,
    /// Until when it is put aside.
    pub snoozed_until: Option<UnixMs>,
    /// The tags, without the derived ones.
    pub tags: Vec<TagId>,
    /// Whether somebody has answered what the person wrote last.
    pub is_attended: bool,
    /// When it was created.
    pub created_at: UnixMs,
    /// When the person wrote last, by Meta's clock.
    pub last_inbound_at: Option<UnixMs>,
    /// The id of its newest message.
    pub last_message: i64,
    /// Messages of the person that no agent has read.
    pub unread: u32,
    /// Rises with each change.
    pub revision: i64,
}

/// A message of a chat.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatMessage {
    /// Its id: when it was stored, in µs, unique in its chat.
    pub id: i64,
    /// What kind of message.
    pub kind: MessageKind,
    /// Meta's time of a message, otherwise the time of storage.
    pub at: UnixMs,
    /// The state of a message to the contact.
    pub state: Option<State>,
    /// Who wrote it, if not the contact.
    pub author: Option<String>,
    /// Meta's id.
    pub wamid: Option<String>,
    /// What it says.
    pub body: serde_json::Value,
    /// What became of it later.
    pub marks: Option<serde_json::Value>,
    /// Its file.
    pub file: Option<FileRecord>,
}

/// A row of `messages`.
pub(super) struct MessageRow {
    pub(super) chat: i64,
    pub(super) id: i64,
    pub(super) at: i64,
    pub(super) kind: i16,
    pub(super) state: i16,
    pub(super) author: Option<String>,
    pub(super) wamid: Option<String>,
    pub(super) body: Json<serde_json::Value>,
    pub(super) marks: Option<Json<serde_json::Value>>,
}

impl From<MessageRow> for ChatMessage {
    fn from(row: MessageRow) -> Self {
        Self {
            id: row.id,
            kind: MessageKind::of(row.kind),
            at: time(row.at),
            state: u8::try_from(row.state).ok().and_then(State::of),
            author: row.author,
            wamid: meta_id(row.wamid),
            body: row.body.0,
            marks: row.marks.map(|marks| marks.0),
            file: None,
        }
    }
}

impl Database {
    /// At most `limit` messages of a chat before the message `before`, the newest first.
    pub async fn messages(&self, chat: i64, before: Option<i64>, limit: usize) -> Result<Vec<ChatMessage>> {
        let rows = sqlx::query_as!(
            MessageRow,
            r#"select chat, id, at, kind, state, author, wamid, body as "body: Json<serde_json::Value>",
                marks as "marks: Json<serde_json::Value>"
             from messages where chat = $1 and id < $2 order by id desc limit $3"#,
            chat,
            before.unwrap_or(i64::MAX),
            i64::try_from(limit).unwrap_or(i64::MAX)
        )
        .fetch_all(&self.pool)
        .await
        .map_err(DatabaseError::of("list messages"))?;
        self.with_files(rows).await
    }

    /// The messages of rows, with their files.
    pub(super) async fn with_files(&self, rows: Vec<MessageRow>) -> Result<Vec<ChatMessage>> {
        let files: Vec<MediaId> = rows.iter().filter_map(|row| file_of(&row.body.0)).collect();
        let files = self.files(&files).await?;
        let message = |row: MessageRow| {
            let file = file_of(&row.body.0).and_then(|id| files.get(&id).cloned());
            ChatMessage { file, ..row.into() }
        };
        Ok(rows.into_iter().map(message).collect())
    }

    /// The contact of a person at a business.
    pub async fn contact_of(&self, business: &BusinessId, person: Person) -> Result<Option<Contact>> {
        let row = sqlx::query!(
            "select contacts.id, number, user_id, name, username, created_at
             from contact_keys join contacts on contacts.id = contact_keys.contact
             where contact_keys.business = $1 and kind = 1 and value = $2",
            business.as_str(),
            person.digits().to_string()
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(DatabaseError::of("find a contact"))?;
        Ok(row.map(|row| Contact {
            id: row.id,
            business: business.clone(),
            number: row.number.and_then(phone),
            user_id: row.user_id,
            name: row.name,
            username: row.username,
            created_at: time(row.created_at),
        }))
    }
}

/// The file that the body of a message names.
fn file_of(body: &serde_json::Value) -> Option<MediaId> {
    let places = [
        "/content/media/media",
        "/content/edit/content/media/media",
        "/content/echo/content/media/media",
        "/content/media",
    ];
    places.into_iter().find_map(|place| body.pointer(place)?.as_str()?.parse().ok())
}

/// A number as it is stored.
pub(super) fn phone(digits: i64) -> Option<Phone> {
    Phone::from_digits(digits.try_into().ok()?)
}
