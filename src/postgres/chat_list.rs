//! Lists of chats.
//!
//! The statement has only the conditions that a list needs, and is planned for their values, so that PostgreSQL takes the
//! index that fits them: of a million chats, a page takes a few milliseconds whatever is asked for.

use sqlx::{FromRow, Postgres, QueryBuilder};

use super::{
    Database, DatabaseError, Result, millis,
    read::{Chat, Contact, phone},
    search::{HITS_MAX, SearchWords, begin_search, people},
    time,
};
use crate::domain::{
    GroupId, LineId, TagId, UnixMs,
    agent::Visibility,
    chat::Owner,
    tag::{DerivedTag, closing},
};

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

/// A row of a list.
#[derive(FromRow)]
struct ChatRow {
    id: i64,
    business: String,
    line: String,
    contact: i64,
    owner: i16,
    agent: Option<String>,
    revision: i64,
    owner_since_at: i64,
    group_id: Option<String>,
    last_group: Option<String>,
    last_agent: Option<String>,
    tags: Vec<String>,
    attended: bool,
    waiting_since_at: Option<i64>,
    snoozed_until_at: Option<i64>,
    created_at: i64,
    last_inbound_at: Option<i64>,
    last_message: i64,
    unread: i32,
    number: Option<i64>,
    user_id: Option<String>,
    name: Option<String>,
    username: Option<String>,
    contact_created_at: i64,
}

impl From<ChatRow> for Chat {
    fn from(row: ChatRow) -> Self {
        let contact = Contact {
            id: row.contact,
            business: row.business.as_str().into(),
            number: row.number.and_then(phone),
            user_id: row.user_id,
            name: row.name,
            username: row.username,
            created_at: time(row.contact_created_at),
        };
        Self {
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
    }
}

/// What an agent sees is listed by these parts, each of which an index orders.
#[derive(Clone, Copy)]
enum Part<'a> {
    Everything,
    OfAgent(&'a str),
    OfNoGroup,
    OfGroup(&'a str),
}

/// What a search has found, if that is known before the list.
struct Found<'a> {
    chats: Option<Vec<i64>>,
    /// Words that are frequent, and so soon found in the newest chats.
    frequent: Option<&'a str>,
}

impl ChatFilter {
    fn parts(&self) -> Vec<Part<'_>> {
        match &self.visible {
            Some(all) if self.agent.as_ref() != Some(&all.agent) && self.ids.is_none() => {
                let groups = all.groups.iter().map(|group| Part::OfGroup(group));
                [Part::OfAgent(&all.agent), Part::OfNoGroup].into_iter().chain(groups).collect()
            }
            _ => vec![Part::Everything],
        }
    }

    /// The statement for a page of chats.
    fn statement(&self, found: &Found<'_>, limit: i64) -> QueryBuilder<Postgres> {
        let mut query = QueryBuilder::new(
            "select chats.id, chats.business, chats.line, chats.contact, chats.owner, chats.agent, chats.revision,
                chats.owner_since_at, chats.group_id, chats.last_group, chats.last_agent, chats.tags, chats.attended,
                chats.waiting_since_at, chats.snoozed_until_at, chats.created_at, chats.last_inbound_at,
                chats.last_message, chats.unread, contacts.number, contacts.user_id, contacts.name, contacts.username,
                contacts.created_at as contact_created_at
             from (",
        );
        for (n, part) in self.parts().into_iter().enumerate() {
            query.push(if n > 0 { " union " } else { "" });
            query.push("(select chats.id from chats where true");
            self.conditions(&mut query, part, found);
            query.push(" order by last_message desc, chats.id desc limit ").push_bind(limit).push(")");
        }
        query.push(
            ") as page join chats on chats.id = page.id join contacts on contacts.id = chats.contact
             order by chats.last_message desc, chats.id desc limit ",
        );
        query.push_bind(limit);
        query
    }

    fn conditions(&self, query: &mut QueryBuilder<Postgres>, part: Part<'_>, found: &Found<'_>) {
        match self.businesses.as_deref() {
            None => {}
            Some([business]) => {
                query.push(" and business = ").push_bind(business.clone());
            }
            Some(all) => {
                query.push(" and business = any(").push_bind(all.to_vec()).push(")");
            }
        }
        match &self.owners[..] {
            [owner] => {
                query.push(" and owner = ").push_bind(owner.code());
            }
            all if all.len() == Owner::ALL.len() => {}
            all => {
                let codes: Vec<i16> = all.iter().map(|owner| owner.code()).collect();
                query.push(" and owner = any(").push_bind(codes).push(")");
            }
        }
        match part {
            Part::Everything => {}
            Part::OfAgent(agent) => {
                query.push(" and agent = ").push_bind(agent.to_owned());
            }
            Part::OfNoGroup => {
                query.push(" and group_id is null");
            }
            Part::OfGroup(group) => {
                query.push(" and group_id = ").push_bind(group.to_owned());
            }
        }
        // A call on one chat.
        if let (Some(all), Some(_)) = (&self.visible, &self.ids) {
            query.push(" and (group_id is null or agent = ").push_bind(all.agent.clone());
            query.push(" or group_id = any(").push_bind(all.groups.clone()).push("))");
        }
        if let Some(agent) = &self.agent {
            query.push(" and agent = ").push_bind(agent.clone());
        }
        if let Some(line) = &self.line {
            query.push(" and line = ").push_bind(line.as_str().to_owned());
        }
        if let Some(group) = &self.group {
            query.push(" and group_id = ").push_bind(group.as_str().to_owned());
        }
        match self.is_snoozed {
            None => {}
            Some(true) => {
                query.push(" and snoozed_until_at is not null");
            }
            Some(false) => {
                query.push(" and snoozed_until_at is null");
            }
        }
        match &self.tag {
            None => {}
            Some(TagFilter::Own(tag)) => {
                query.push(" and tags <> '{}' and tags @> array[").push_bind(tag.as_str().to_owned()).push("]");
            }
            Some(TagFilter::Derived(DerivedTag::Unanswered, _)) => {
                query.push(" and waiting_since_at is not null");
            }
            Some(TagFilter::Derived(DerivedTag::Attended, _)) => {
                query.push(" and attended");
            }
            Some(TagFilter::Derived(DerivedTag::WindowClosing, now)) => {
                let [from, to] = closing(*now).map(millis);
                query
                    .push(" and owner > 0 and last_inbound_at >= ")
                    .push_bind(from)
                    .push(" and last_inbound_at < ")
                    .push_bind(to);
            }
        }
        for ids in [&self.ids, &found.chats].into_iter().flatten() {
            query.push(" and chats.id = any(").push_bind(ids.clone()).push(")");
        }
        if let Some((message, id)) = self.before {
            query.push(" and (last_message, chats.id) < (").push_bind(message).push(", ").push_bind(id).push(")");
        }
        if let Some(words) = found.frequent {
            query.push(
                " and (exists (select from contacts where contacts.id = contact
                    and contact_words(name, username, number) @@ to_tsquery('simple', folded(",
            );
            query
                .push_bind(words.to_owned())
                .push("))) or exists (select from messages where messages.chat = chats.id");
            query.push(" and kind <> 4 and message_words(body) @@ to_tsquery('simple', folded(");
            query.push_bind(words.to_owned()).push(")) offset 0))");
        }
    }
}

impl Database {
    /// At most `limit` chats, those with the newest message first.
    pub async fn chats(&self, filter: &ChatFilter, limit: usize) -> Result<Vec<Chat>> {
        let failed = DatabaseError::of("list chats");
        let chats = match &filter.search {
            Some(words) => self.find_chats(filter, words).await.map_err(&failed)?,
            None => None,
        };
        let frequent = filter.search.as_ref().filter(|_| chats.is_none()).map(|words| words.query());
        let mut query = filter.statement(&Found { chats, frequent }, i64::try_from(limit).unwrap_or(i64::MAX));
        // A plan for any values would be a bad one for most.
        let rows = query.build_query_as::<ChatRow>().persistent(false).fetch_all(&self.pool);
        Ok(rows.await.map_err(failed)?.into_iter().map(Chat::from).collect())
    }

    /// All chats with a message, or of a contact, that has the words; `None` if there are too many messages or contacts to
    /// read them all.
    async fn find_chats(&self, filter: &ChatFilter, words: &SearchWords) -> sqlx::Result<Option<Vec<i64>>> {
        let mut transaction = begin_search(&self.pool).await?;
        let hits = sqlx::query!(
            r#"select count(*) as "n!", array_agg(distinct chat) as chats from (
                select chat from messages
                where kind <> 4 and message_words(body) @@ to_tsquery('simple', folded($2))
                    and ($1::text[] is null or business = any($1))
                limit $3) as hits"#,
            filter.businesses.as_deref(),
            words.query(),
            HITS_MAX
        )
        .fetch_one(&mut *transaction)
        .await?;
        let people = people(&mut transaction, filter.businesses.as_deref(), words).await?;
        let Some(people) = people.filter(|_| hits.n < HITS_MAX) else { return Ok(None) };
        let of_people = sqlx::query_scalar!("select id from chats where contact = any($1)", &people)
            .fetch_all(&mut *transaction)
            .await?;
        let mut chats = hits.chats.unwrap_or_default();
        chats.extend(of_people);
        Ok(Some(chats))
    }
}
