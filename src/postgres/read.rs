//! Chats, messages and contacts, as the API shows them.

use sqlx::types::Json;

use super::{
    Database, DatabaseError, Result,
    inbound::{MessageKind, meta_id},
    media::FileRecord,
    millis, time,
};
use crate::domain::{
    BusinessId, GroupId, LineId, MediaId, Person, Phone, State, TagId, UnixMs,
    agent::Visibility,
    chat::Owner,
    tag::{DerivedTag, closing},
};

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

/// Which chats are listed.
#[derive(Clone, Debug, Default)]
pub struct ChatFilter {
    /// Of these businesses; `None`: of all.
    pub businesses: Option<Vec<String>>,
    /// With one of these owners.
    pub owners: Vec<Owner>,
    /// Of this agent.
    pub agent: Option<String>,
    /// Of this group.
    pub group: Option<GroupId>,
    /// With this tag.
    pub tag: Option<TagFilter>,
    /// Whether they are put aside; `None`: either.
    pub is_snoozed: Option<bool>,
    /// That an agent sees; `None`: all.
    pub visible: Option<Visibility>,
    /// On this line.
    pub line: Option<LineId>,
    /// Only these.
    pub ids: Option<Vec<i64>>,
    /// Whose newest message and id are before these.
    pub before: Option<(i64, i64)>,
    /// With a message, or of a contact, that has all of these words.
    pub search: Option<SearchWords>,
}

/// Which tag chats have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagFilter {
    /// One that the business defines.
    Own(TagId),
    /// One that follows from the chat, at this time.
    Derived(DerivedTag, UnixMs),
}

/// Number of messages or contacts from which a search looks for its words in the newest chats first.
const HITS_MAX: i64 = 30_000;

/// Maximum number of words in a search, and of characters of each. What is beyond is ignored.
const WORDS_MAX: usize = 8;
const WORD_CHARS_MAX: usize = 64;

/// Minimum number of digits in a search that is for one number, however it is written.
const DIGITS_MIN: usize = 5;

/// The words of a search, each as the beginning of a word, in the syntax of PostgreSQL's `to_tsquery`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchWords(String);

impl SearchWords {
    /// The words of a text; `None` if there are none. Digits that are written as a phone number are one word.
    pub fn of(text: &str) -> Option<Self> {
        let is_number = text.chars().all(|c| c.is_ascii_digit() || " +-.()".contains(c));
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        if is_number && digits.len() >= DIGITS_MIN {
            return Some(Self(format!("{digits}:*")));
        }
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).take(WORDS_MAX);
        let begins = |word: &str| word.chars().take(WORD_CHARS_MAX).chain(":*".chars()).collect::<String>();
        let words: Vec<String> = words.map(begins).collect();
        (!words.is_empty()).then(|| Self(words.join(" & ")))
    }
}

impl Database {
    /// At most `limit` chats, those with the newest message first.
    pub async fn chats(&self, filter: &ChatFilter, limit: usize) -> Result<Vec<Chat>> {
        let owners: Vec<i16> = filter.owners.iter().map(|owner| owner.code()).collect();
        let (message, id) = filter.before.unwrap_or((i64::MAX, i64::MAX));
        let failed = DatabaseError::of("list chats");
        let found = match &filter.search {
            Some(words) => self.find_chats(filter, words).await.map_err(&failed)?,
            None => None,
        };
        let (own_tag, derived, closing) = match &filter.tag {
            None => (None, None, None),
            Some(TagFilter::Own(tag)) => (Some(tag.as_str()), None, None),
            Some(TagFilter::Derived(DerivedTag::WindowClosing, now)) => (None, None, Some(closing(*now).map(millis))),
            Some(TagFilter::Derived(tag, _)) => (None, Some(*tag), None),
        };
        // Words that are frequent are soon found in the newest chats.
        let frequent = filter.search.as_ref().filter(|_| found.is_none()).map(|words| words.0.as_str());
        let rows = sqlx::query!(
            "select chats.id, chats.business, chats.line, chats.contact, chats.owner, chats.agent, chats.revision, chats.owner_since_at,
                chats.group_id, chats.last_group, chats.last_agent, chats.tags, chats.attended, chats.waiting_since_at, chats.snoozed_until_at, chats.created_at, chats.last_inbound_at, chats.last_message, chats.unread, contacts.number,
                contacts.user_id, contacts.name, contacts.username, contacts.created_at as contact_created_at
             from chats join contacts on contacts.id = chats.contact
             where ($1::text[] is null or chats.business = any($1)) and chats.owner = any($2)
                and ($3::text is null or chats.line = $3) and ($4::bigint[] is null or chats.id = any($4))
                and (chats.last_message, chats.id) < ($5, $6) and ($8::text is null or chats.agent = $8)
                and ($9::bigint[] is null or chats.id = any($9))
                and ($11::text is null or chats.group_id = $11)
                and ($12::bool is null or (chats.snoozed_until_at is not null) = $12)
                and ($15::text is null or (chats.tags <> '{}' and chats.tags @> array[$15]))
                and ($16::bool is not true or chats.waiting_since_at is not null)
                and ($17::bool is not true or chats.attended)
                and ($18::bigint is null or (chats.last_inbound_at >= $18 and chats.last_inbound_at < $19))
                and ($13::text is null or chats.agent = $13 or chats.group_id is null or chats.group_id = any($14))
                and ($10::text is null
                    or contact_words(contacts.name, contacts.username, contacts.number) @@
                        to_tsquery('simple', folded($10))
                    or exists (select from messages where messages.chat = chats.id and kind <> 4
                        and message_words(body) @@ to_tsquery('simple', folded($10)) offset 0))
             order by chats.last_message desc, chats.id desc limit $7",
            filter.businesses.as_deref(),
            &owners,
            filter.line.as_ref().map(LineId::as_str),
            filter.ids.as_deref(),
            message,
            id,
            i64::try_from(limit).unwrap_or(i64::MAX),
            filter.agent,
            found.as_deref(),
            frequent,
            filter.group.as_ref().map(GroupId::as_str),
            filter.is_snoozed,
            filter.visible.as_ref().map(|all| all.agent.as_str()),
            filter.visible.as_ref().map(|all| all.groups.as_slice()),
            own_tag,
            derived == Some(DerivedTag::Unanswered),
            derived == Some(DerivedTag::Attended),
            closing.map(|[from, _]| from),
            closing.map(|[_, to]| to)
        )
        .fetch_all(&self.pool)
        .await
        .map_err(&failed)?;
        let chats = rows.into_iter().map(|row| {
            let contact = Contact {
                id: row.contact,
                business: row.business.as_str().into(),
                number: row.number.and_then(phone),
                user_id: row.user_id,
                name: row.name,
                username: row.username,
                created_at: time(row.contact_created_at),
            };
            Chat {
                id: row.id,
                line: row.line.as_str().into(),
                contact,
                owner: Owner::of(row.owner).unwrap_or(Owner::Queue),
                agent: row.agent,
                owner_since: time(row.owner_since_at),
                group: row.group_id.as_deref().map(GroupId::from),
                last_group: row.last_group,
                last_agent: row.last_agent,
                waiting_since: row.waiting_since_at.map(time),
                tags: row.tags.iter().map(|tag| tag.as_str().into()).collect(),
                is_attended: row.attended,
                snoozed_until: row.snoozed_until_at.map(time),
                created_at: time(row.created_at),
                last_inbound_at: row.last_inbound_at.map(time),
                last_message: row.last_message,
                unread: row.unread.unsigned_abs(),
                revision: row.revision,
            }
        });
        Ok(chats.collect())
    }

    /// All chats with a message, or of a contact, that has the words; `None` if there are too many messages or contacts to
    /// read them all.
    async fn find_chats(&self, filter: &ChatFilter, words: &SearchWords) -> sqlx::Result<Option<Vec<i64>>> {
        let mut transaction = self.pool.begin().await?;
        // A plan for any words would be a bad one for most.
        sqlx::query!("set local plan_cache_mode = force_custom_plan").execute(&mut *transaction).await?;
        // The planner underrates what the words of a row cost, and prefers to compute them for all rows.
        sqlx::query!("set local enable_seqscan = off").execute(&mut *transaction).await?;
        let hits = sqlx::query!(
            r#"select count(*) as "n!", array_agg(distinct chat) as chats from (
                select chat from messages
                where kind <> 4 and message_words(body) @@ to_tsquery('simple', folded($2))
                    and ($1::text[] is null or business = any($1))
                limit $3) as hits"#,
            filter.businesses.as_deref(),
            words.0,
            HITS_MAX
        )
        .fetch_one(&mut *transaction)
        .await?;
        let people = sqlx::query!(
            r#"select count(*) as "n!", array_agg(id) as ids from (
                select id from contacts
                where contact_words(name, username, number) @@ to_tsquery('simple', folded($2))
                    and ($1::text[] is null or business = any($1))
                limit $3) as people"#,
            filter.businesses.as_deref(),
            words.0,
            HITS_MAX
        )
        .fetch_one(&mut *transaction)
        .await?;
        if hits.n.max(people.n) == HITS_MAX {
            return Ok(None);
        }
        let of_people =
            sqlx::query_scalar!("select id from chats where contact = any($1)", &people.ids.unwrap_or_default())
                .fetch_all(&mut *transaction)
                .await?;
        let mut chats = hits.chats.unwrap_or_default();
        chats.extend(of_people);
        Ok(Some(chats))
    }

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

fn phone(digits: i64) -> Option<Phone> {
    Phone::from_digits(digits.try_into().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_is_for_words_that_begin_so_or_for_one_number() {
        for (text, query) in [
            ("María gonz", Some("María:* & gonz:*")),
            ("+54 9 11 5555-0001", Some("5491155550001:*")),
            ("4711", Some("4711:*")),
            ("12 34", Some("12:* & 34:*")),
            ("a' | !b:C\\", Some("a:* & b:* & C:*")),
            (" ¿? ", None),
        ] {
            assert_eq!(SearchWords::of(text), query.map(|query| SearchWords(query.to_owned())), "{text}");
        }
    }
}
