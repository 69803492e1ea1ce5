//! Contacts, as people keep them: lists, creation and changes. What people write about themselves is in `inbound`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use sqlx::{FromRow, Postgres, QueryBuilder, types::Json};

use super::{
    Database, DatabaseError, Result,
    inbound::{Author, contacts_of_numbers, resolve},
    millis,
    read::phone,
    search::{SearchWords, begin_search, people},
    statistics::ContactStatistics,
    tags::unknown,
    time,
};
use crate::domain::{BusinessId, Phone, TagId, UnixMs, chat::Identity, contact_row::ImportedContact};

/// A contact with what the business knows.
#[derive(Clone, Debug, PartialEq)]
pub struct ContactRecord {
    /// Its id.
    pub id: i64,
    /// The business that it belongs to.
    pub business: BusinessId,
    /// The number as Meta writes it.
    pub number: Option<Phone>,
    /// The id of the person in the business portfolio.
    pub user_id: Option<String>,
    /// The name that somebody gave, or that of the profile.
    pub name: Option<String>,
    /// The person's username.
    pub username: Option<String>,
    /// The values of properties.
    pub properties: Map<String, Value>,
    /// The tags.
    pub tags: Vec<TagId>,
    /// When it was created.
    pub created_at: UnixMs,
    /// What the business and the contact had to do with each other.
    pub statistics: ContactStatistics,
}

/// By what contacts are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContactOrder {
    /// The time of creation.
    Created,
    /// The name. Contacts without one come first.
    Name,
    /// A counter of their statistics.
    Statistic(Statistic),
}

/// A counter of the statistics of contacts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistic {
    /// The last interaction. Contacts without one come first.
    LastInteraction,
    /// Conversations that the contact opened.
    ConversationsByClient,
    /// Conversations that the business opened.
    ConversationsByBusiness,
    /// Messages that were not sent.
    Cancelled,
    /// Messages that reached the contact.
    Received,
    /// Answers to campaigns.
    Replies,
    /// Messages that failed.
    Failures,
}

impl Statistic {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::LastInteraction,
        Self::ConversationsByClient,
        Self::ConversationsByBusiness,
        Self::Cancelled,
        Self::Received,
        Self::Replies,
        Self::Failures,
    ];

    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LastInteraction => "last_interaction",
            Self::ConversationsByClient => "conversations_by_client",
            Self::ConversationsByBusiness => "conversations_by_business",
            Self::Cancelled => "cancelled",
            Self::Received => "received",
            Self::Replies => "replies",
            Self::Failures => "failures",
        }
    }

    const fn column(self) -> &'static str {
        match self {
            Self::LastInteraction => "last_interaction_at",
            other => other.name(),
        }
    }

    /// The value in some statistics, by which contacts are ordered.
    pub fn of(self, statistics: &ContactStatistics) -> i64 {
        let count = match self {
            Self::LastInteraction => return statistics.last_interaction.map_or(0, millis),
            Self::ConversationsByClient => statistics.conversations_by_client,
            Self::ConversationsByBusiness => statistics.conversations_by_business,
            Self::Cancelled => statistics.cancelled,
            Self::Received => statistics.received,
            Self::Replies => statistics.replies,
            Self::Failures => statistics.failures,
        };
        count.into()
    }
}

/// Which contacts are listed.
#[derive(Clone, Debug)]
pub struct ContactFilter {
    /// Of this business.
    pub business: BusinessId,
    /// With all of these words in name, username and number.
    pub search: Option<SearchWords>,
    /// With this tag.
    pub tag: Option<TagId>,
    /// With these values of properties.
    pub properties: Map<String, Value>,
    /// The order.
    pub order: ContactOrder,
    /// Whether the order is reversed.
    pub is_descending: bool,
    /// After the contact with this value of the order and this id.
    pub after: Option<(Value, i64)>,
}

/// What is changed of a contact; `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct ContactChange {
    /// The name.
    pub name: Option<String>,
    /// Values of properties; null removes one.
    pub properties: Map<String, Value>,
    /// All tags.
    pub tags: Option<Vec<TagId>>,
}

/// Why a contact is not created or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContactRefused {
    /// The business has a contact with this number: its id.
    Exists(i64),
    /// There is no such contact.
    Missing,
    /// The business has no such tag.
    NoTag(TagId),
}

#[derive(FromRow)]
struct Row {
    id: i64,
    business: String,
    number: Option<i64>,
    user_id: Option<String>,
    name: Option<String>,
    username: Option<String>,
    properties: Json<Map<String, Value>>,
    tags: Vec<String>,
    created_at: i64,
    last_interaction_at: i64,
    conversations_by_client: i32,
    conversations_by_business: i32,
    cancelled: i32,
    received: i32,
    replies: i32,
    failures: i32,
}

impl From<Row> for ContactRecord {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            business: row.business.as_str().into(),
            number: row.number.and_then(phone),
            user_id: row.user_id,
            name: row.name,
            username: row.username,
            properties: row.properties.0,
            tags: row.tags.iter().map(|tag| tag.as_str().into()).collect(),
            created_at: time(row.created_at),
            statistics: ContactStatistics {
                last_interaction: (row.last_interaction_at > 0).then(|| time(row.last_interaction_at)),
                conversations_by_client: row.conversations_by_client.unsigned_abs(),
                conversations_by_business: row.conversations_by_business.unsigned_abs(),
                cancelled: row.cancelled.unsigned_abs(),
                received: row.received.unsigned_abs(),
                replies: row.replies.unsigned_abs(),
                failures: row.failures.unsigned_abs(),
            },
        }
    }
}

impl ContactFilter {
    /// The statement for a page, planned for its values as that of the chats. `found`: the contacts that have the words of
    /// the search, if they are few.
    fn statement(&self, found: Option<Vec<i64>>, limit: i64) -> QueryBuilder<Postgres> {
        let mut query = QueryBuilder::new(
            "select id, contacts.business, number, user_id, name, username, properties, tags, created_at,
                last_interaction_at, conversations_by_client, conversations_by_business, cancelled, received, replies,
                failures
             from contacts join contact_statistics on contact = id where ",
        );
        // The column that the index of the order has, too.
        query.push(match self.order {
            ContactOrder::Statistic(_) => "contact_statistics.business = ",
            ContactOrder::Created | ContactOrder::Name => "contacts.business = ",
        });
        query.push_bind(self.business.as_str().to_owned());
        match (found, &self.search) {
            (Some(ids), _) => {
                query.push(" and id = any(").push_bind(ids).push(")");
            }
            (None, Some(words)) => {
                query.push(" and contact_words(name, username, number) @@ to_tsquery('simple', folded(");
                query.push_bind(words.query().to_owned()).push("))");
            }
            (None, None) => {}
        }
        if let Some(tag) = &self.tag {
            query.push(" and tags <> '{}' and tags @> array[").push_bind(tag.as_str().to_owned()).push("]");
        }
        if !self.properties.is_empty() {
            query.push(" and properties <> '{}' and properties @> ").push_bind(Json(self.properties.clone()));
        }
        let (column, id_column) = match self.order {
            ContactOrder::Created => ("created_at", "id"),
            ContactOrder::Name => ("coalesce(name, '')", "id"),
            ContactOrder::Statistic(statistic) => (statistic.column(), "contact"),
        };
        let direction = if self.is_descending { "desc" } else { "asc" };
        if let Some((value, id)) = &self.after {
            query.push(format_args!(" and ({column}, {id_column}) {} (", if self.is_descending { '<' } else { '>' }));
            match self.order {
                // A counter is compared as its index has it.
                ContactOrder::Statistic(statistic) if statistic != Statistic::LastInteraction => {
                    query.push_bind(value.as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or_default())
                }
                ContactOrder::Created | ContactOrder::Statistic(_) => {
                    query.push_bind(value.as_i64().unwrap_or_default())
                }
                ContactOrder::Name => query.push_bind(value.as_str().unwrap_or_default().to_owned()),
            };
            query.push(", ").push_bind(*id).push(")");
        }
        query.push(format_args!(" order by {column} {direction}, {id_column} {direction} limit ")).push_bind(limit);
        query
    }
}

impl Database {
    /// At most `limit` contacts.
    pub async fn contacts(&self, filter: &ContactFilter, limit: usize) -> Result<Vec<ContactRecord>> {
        let failed = DatabaseError::of("list contacts");
        let found = match &filter.search {
            Some(words) => {
                let mut search = begin_search(&self.pool).await.map_err(&failed)?;
                people(&mut search, Some(&[filter.business.to_string()]), words).await.map_err(&failed)?
            }
            None => None,
        };
        let mut query = filter.statement(found, i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = query.build_query_as::<Row>().persistent(false).fetch_all(&self.pool);
        Ok(rows.await.map_err(failed)?.into_iter().map(ContactRecord::from).collect())
    }

    /// The contact `id` of one of the businesses (`None`: of any).
    pub async fn contact(&self, businesses: Option<&[String]>, id: i64) -> Result<Option<ContactRecord>> {
        let row = sqlx::query_as!(
            Row,
            r#"select id, contacts.business, number, user_id, name, username,
                properties as "properties: Json<Map<String, Value>>", tags, created_at, last_interaction_at,
                conversations_by_client, conversations_by_business, cancelled, received, replies, failures
             from contacts join contact_statistics on contact = id
             where id = $1 and ($2::text[] is null or contacts.business = any($2))"#,
            id,
            businesses
        );
        let row = row.fetch_optional(&self.pool).await.map_err(DatabaseError::of("read a contact"))?;
        Ok(row.map(ContactRecord::from))
    }

    /// Creates a contact with a number. A message of the person that is stored at the same time creates no second one.
    pub async fn create_contact(
        &self,
        business: &BusinessId,
        number: Phone,
        given: &ContactChange,
        now: UnixMs,
    ) -> Result<std::result::Result<i64, ContactRefused>> {
        let failed = DatabaseError::of("create a contact");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let identity = Identity { number: Some(number), user_id: None };
        let person = Author { identity, ..Author::default() };
        let resolved = resolve(&mut transaction, business, &[&person], now).await.map_err(&failed)?;
        let id = resolved.contacts[0];
        if resolved.created == 0 {
            return Ok(Err(ContactRefused::Exists(id)));
        }
        if let Err(refused) = change(&mut transaction, business, id, given).await.map_err(&failed)? {
            return Ok(Err(refused));
        }
        transaction.commit().await.map_err(&failed)?;
        Ok(Ok(id))
    }

    /// Creates or changes the contacts of an import, in one transaction. What a row gives wins over what is known, and its
    /// tags are added. Can be repeated. Returns how many contacts were created or changed.
    pub async fn import_contacts(&self, business: &BusinessId, rows: &[ImportedContact], now: UnixMs) -> Result<u64> {
        let failed = DatabaseError::of("import contacts");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let numbers: Vec<Phone> = rows.iter().map(|row| row.phone).collect();
        let ids = contacts_of_numbers(&mut transaction, business, &numbers, now).await.map_err(&failed)?;
        // Of several rows about a person, the last one wins.
        let mut given: BTreeMap<i64, ContactChange> = BTreeMap::new();
        for (row, id) in rows.iter().zip(ids) {
            let change = given.entry(id).or_default();
            change.name = row.name.clone().or(change.name.take());
            change.properties.extend(row.properties.clone());
            change.tags.get_or_insert_default().extend(row.tags.iter().cloned());
        }
        let tags = |change: &ContactChange| {
            let tags = change.tags.iter().flatten().map(TagId::as_str);
            tags.collect::<BTreeSet<&str>>().into_iter().collect::<Vec<_>>().join(" ")
        };
        let changed = sqlx::query!(
            "update contacts set name = coalesce(new.name, contacts.name), is_named = is_named or new.name is not null,
                properties = jsonb_strip_nulls(contacts.properties || new.properties::jsonb),
                tags = array(select distinct tag from unnest(contacts.tags || string_to_array(new.tags, ' ')) as tag
                    order by tag)
             from unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) as new (id, name, properties, tags)
             where contacts.id = new.id
                and (new.name is not null and (contacts.name is distinct from new.name or not is_named)
                    or jsonb_strip_nulls(contacts.properties || new.properties::jsonb) <> contacts.properties
                    or not contacts.tags @> string_to_array(new.tags, ' '))",
            &given.keys().copied().collect::<Vec<_>>(),
            &given.values().map(|change| change.name.clone()).collect::<Vec<_>>() as &[Option<String>],
            &given.values().map(|change| Value::from(change.properties.clone()).to_string()).collect::<Vec<_>>(),
            &given.values().map(tags).collect::<Vec<_>>()
        )
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(changed.rows_affected())
    }

    /// Changes a contact.
    pub async fn change_contact(
        &self,
        business: &BusinessId,
        id: i64,
        new: &ContactChange,
    ) -> Result<std::result::Result<(), ContactRefused>> {
        let failed = DatabaseError::of("change a contact");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let changed = change(&mut transaction, business, id, new).await.map_err(&failed)?;
        if changed.is_ok() {
            transaction.commit().await.map_err(&failed)?;
        }
        Ok(changed)
    }
}

async fn change(
    connection: &mut sqlx::PgConnection,
    business: &BusinessId,
    id: i64,
    new: &ContactChange,
) -> sqlx::Result<std::result::Result<(), ContactRefused>> {
    if let Some(tag) = unknown(&mut *connection, business.as_str(), new.tags.as_deref().unwrap_or_default()).await? {
        return Ok(Err(ContactRefused::NoTag(tag)));
    }
    let tags: Option<Vec<String>> = new.tags.as_ref().map(|tags| tags.iter().map(ToString::to_string).collect());
    let changed = sqlx::query!(
        "update contacts set name = coalesce($3, name), is_named = is_named or $3 is not null,
            properties = jsonb_strip_nulls(properties || $4), tags = coalesce($5, tags)
         where id = $1 and business = $2",
        id,
        business.as_str(),
        new.name,
        Json(&new.properties) as Json<&Map<String, Value>>,
        tags.as_deref()
    )
    .execute(connection)
    .await?;
    Ok(if changed.rows_affected() > 0 { Ok(()) } else { Err(ContactRefused::Missing) })
}
