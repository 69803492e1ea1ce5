//! Finds the contact of each person, and creates those that are missing.
//!
//! The user id decides: another id on the same number is another person, who takes the number over. The number decides
//! only where an id is missing. A contact that was known by its number only, and a contact with the id that a message
//! then names together with this number, are the same person: they are merged.
//!
//! Whatever adds or moves a key of a contact holds the lock of its business until the transaction ends. So two lines
//! that hear of a person at the same time create one contact.

use std::collections::{BTreeMap, HashMap};

use sqlx::PgConnection;

use super::{BusinessId, UnixMs, merge::merge_chats, millis, statistics};
use crate::domain::{Person, Phone, chat::Identity};

/// A person who wrote a message.
#[derive(Clone, Debug, Default)]
pub struct Author {
    /// By what the person is found.
    pub identity: Identity,
    /// The name in the person's profile.
    pub name: Option<String>,
    /// The person's username.
    pub username: Option<String>,
    /// If the message says that the person has a new number or a new id: the new ones. `identity` has the old ones.
    pub becomes: Option<Identity>,
}

/// The contacts of people.
pub(in crate::postgres) struct Resolved {
    /// The contact of each person, in their order.
    pub(in crate::postgres) contacts: Vec<i64>,
    /// How many were created.
    pub(in crate::postgres) created: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Number(String),
    UserId(String),
}

impl Key {
    fn parts(&self) -> (i16, &str) {
        match self {
            Self::Number(digits) => (1, digits),
            Self::UserId(id) => (2, id),
        }
    }

    fn of(kind: i16, value: String) -> Self {
        if kind == 1 { Self::Number(value) } else { Self::UserId(value) }
    }

    fn number(identity: &Identity) -> Option<Self> {
        identity.person().map(|person| Self::Number(person.digits().to_string()))
    }

    fn user_id(identity: &Identity) -> Option<Self> {
        identity.user_id.clone().map(Self::UserId)
    }
}

/// What is known about the keys of a batch, and what has to be written.
struct Contacts<'a> {
    connection: &'a mut PgConnection,
    business: &'a BusinessId,
    now: UnixMs,
    by_key: HashMap<Key, i64>,
    /// The user id of each contact that has one.
    user_ids: HashMap<i64, String>,
    /// Contacts that a later message of the batch merged into others.
    merged: BTreeMap<i64, i64>,
    created: usize,
}

/// Returns the contacts of people of a business.
pub(in crate::postgres) async fn resolve(
    connection: &mut PgConnection,
    business: &BusinessId,
    people: &[&Author],
    now: UnixMs,
) -> sqlx::Result<Resolved> {
    let mut contacts = Contacts {
        connection,
        business,
        now,
        by_key: HashMap::new(),
        user_ids: HashMap::new(),
        merged: BTreeMap::new(),
        created: 0,
    };
    contacts.read(people).await?;
    if !people.iter().all(|person| contacts.is_settled(person)) {
        lock_keys(&mut *contacts.connection, business).await?;
        // What another transaction has written before it released the lock.
        contacts.read(people).await?;
    }
    let mut resolved = Vec::with_capacity(people.len());
    for person in people {
        resolved.push(contacts.contact_of(person).await?);
    }
    contacts.describe(people, &resolved).await?;
    let contacts_of = resolved.into_iter().map(|contact| contacts.merged.get(&contact).copied().unwrap_or(contact));
    Ok(Resolved { contacts: contacts_of.collect(), created: contacts.created })
}

/// Returns the contacts of numbers, in their order. Creates those that are missing.
pub(in crate::postgres) async fn contacts_of_numbers(
    connection: &mut PgConnection,
    business: &BusinessId,
    numbers: &[Phone],
    now: UnixMs,
) -> sqlx::Result<Vec<i64>> {
    let digits = |number: Phone| number.digits().to_string();
    let people: Vec<String> = numbers.iter().map(|number| digits(Person::from(*number).phone())).collect();
    let mut known = contacts_of_people(connection, business, &people).await?;
    if people.iter().any(|person| !known.contains_key(person)) {
        lock_keys(connection, business).await?;
        // What another transaction has written before it released the lock.
        known = contacts_of_people(connection, business, &people).await?;
        let missing: BTreeMap<i64, &String> = numbers
            .iter()
            .zip(&people)
            .filter(|(_, person)| !known.contains_key(*person))
            .filter_map(|(number, person)| Some((number.digits().try_into().ok()?, person)))
            .collect();
        // A person whose number is written in two forms is created once.
        let by_person: BTreeMap<&String, i64> = missing.into_iter().map(|(number, person)| (person, number)).collect();
        let created = sqlx::query!(
            r#"with created as (
                insert into contacts (business, number, created_at)
                select $1, number, $4 from unnest($2::bigint[]) as new (number) returning id, number
             ), keys as (
                insert into contact_keys (business, kind, value, contact)
                select $1, 1, new.person, created.id
                from unnest($2::bigint[], $3::text[]) as new (number, person) join created using (number)
                returning value, contact
             )
             select value as "value!", contact as "contact!" from keys"#,
            business.as_str(),
            &by_person.values().copied().collect::<Vec<_>>(),
            &by_person.keys().map(ToString::to_string).collect::<Vec<_>>(),
            millis(now)
        )
        .fetch_all(&mut *connection)
        .await?;
        known.extend(created.into_iter().map(|row| (row.value, row.contact)));
    }
    people.iter().map(|person| known.get(person).copied().ok_or(sqlx::Error::RowNotFound)).collect()
}

/// The contacts of people that there are, by the canonical digits of their numbers.
async fn contacts_of_people(
    connection: &mut PgConnection,
    business: &BusinessId,
    people: &[String],
) -> sqlx::Result<HashMap<String, i64>> {
    // The plan may be as old as the empty table, and still has to use the index.
    let rows = sqlx::query!(
        r#"select wanted.value as "value!", known.contact from unnest($2::text[]) as wanted (value), lateral (
            select contact from contact_keys
            where contact_keys.business = $1 and kind = 1 and contact_keys.value = wanted.value limit 1
         ) as known"#,
        business.as_str(),
        people
    );
    let rows = rows.fetch_all(connection).await?;
    Ok(rows.into_iter().map(|row| (row.value, row.contact)).collect())
}

/// Until the end of the transaction, no other one changes keys of the business.
async fn lock_keys(connection: &mut PgConnection, business: &BusinessId) -> sqlx::Result<()> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended($1, 0))", business.as_str())
        .execute(connection)
        .await
        .map(drop)
}

impl Contacts<'_> {
    async fn read(&mut self, people: &[&Author]) -> sqlx::Result<()> {
        let identities = people.iter().flat_map(|person| [Some(&person.identity), person.becomes.as_ref()]).flatten();
        let keys = identities.flat_map(|identity| [Key::number(identity), Key::user_id(identity)]).flatten();
        let (kinds, values): (Vec<i16>, Vec<String>) =
            keys.map(|key| (key.parts().0, key.parts().1.to_owned())).unzip();
        let rows = sqlx::query!(
            r#"select keys.kind, keys.value, keys.contact, contacts.user_id
               from unnest($2::smallint[], $3::text[]) as wanted (kind, value)
               join contact_keys keys on keys.business = $1 and keys.kind = wanted.kind and keys.value = wanted.value
               join contacts on contacts.id = keys.contact"#,
            self.business.as_str(),
            &kinds,
            &values
        )
        .fetch_all(&mut *self.connection)
        .await?;
        for row in rows {
            self.user_ids.extend(row.user_id.map(|id| (row.contact, id)));
            self.by_key.insert(Key::of(row.kind, row.value), row.contact);
        }
        Ok(())
    }

    /// Whether the contact of the person is known by every key, so that nothing has to be written.
    fn is_settled(&self, person: &Author) -> bool {
        let keys = [Key::number(&person.identity), Key::user_id(&person.identity)];
        let mut found = keys.into_iter().flatten().map(|key| self.by_key.get(&key));
        let first = found.next().flatten();
        person.becomes.is_none() && first.is_some() && found.all(|contact| contact == first)
    }

    async fn contact_of(&mut self, person: &Author) -> sqlx::Result<i64> {
        let contact = self.find(&person.identity).await?;
        let Some(becomes) = &person.becomes else { return Ok(contact) };
        // The old number may be given to somebody else, and the old id is no longer used.
        for key in [Key::number(&person.identity), Key::user_id(&person.identity)].into_iter().flatten() {
            let is_kept = Key::number(becomes).as_ref() == Some(&key) || Key::user_id(becomes).as_ref() == Some(&key);
            let is_replaced = match key {
                Key::Number(_) => becomes.number.is_some(),
                Key::UserId(_) => becomes.user_id.is_some(),
            };
            if !is_kept && is_replaced {
                self.unset(&key).await?;
            }
        }
        self.adopt(contact, becomes).await
    }

    /// The contact with this identity. Creates it if it is missing.
    async fn find(&mut self, identity: &Identity) -> sqlx::Result<i64> {
        let by_id = Key::user_id(identity).and_then(|key| self.by_key.get(&key).copied());
        let by_number = Key::number(identity).and_then(|key| self.by_key.get(&key).copied());
        match (by_id, by_number) {
            (Some(contact), _) => self.adopt(contact, identity).await,
            // The contact is known by its number only.
            (None, Some(contact)) if identity.user_id.is_none() || !self.user_ids.contains_key(&contact) => {
                self.adopt(contact, identity).await
            }
            _ => {
                let contact = self.create().await?;
                self.adopt(contact, identity).await
            }
        }
    }

    /// Gives an identity to a contact. A contact that had the same number and no id is merged into it. Returns the
    /// contact.
    async fn adopt(&mut self, contact: i64, identity: &Identity) -> sqlx::Result<i64> {
        if let Some(key) = Key::user_id(identity) {
            match self.by_key.get(&key).copied() {
                Some(other) if other != contact => self.merge(other, contact).await?,
                _ => {}
            }
            self.set(key, contact).await?;
            self.user_ids.extend(identity.user_id.clone().map(|id| (contact, id)));
        }
        if let Some(key) = Key::number(identity) {
            match self.by_key.get(&key).copied() {
                Some(other) if other != contact && !self.user_ids.contains_key(&other) => {
                    self.merge(other, contact).await?;
                }
                _ => {}
            }
            self.set(key, contact).await?;
        }
        Ok(contact)
    }

    async fn create(&mut self) -> sqlx::Result<i64> {
        self.created += 1;
        sqlx::query_scalar!(
            "insert into contacts (business, created_at) values ($1, $2) returning id",
            self.business.as_str(),
            millis(self.now)
        )
        .fetch_one(&mut *self.connection)
        .await
    }

    async fn set(&mut self, key: Key, contact: i64) -> sqlx::Result<()> {
        let before = self.by_key.get(&key).copied();
        if before == Some(contact) {
            return Ok(());
        }
        if let (Key::Number(_), Some(before)) = (&key, before) {
            sqlx::query!("update contacts set number = null where id = $1", before)
                .execute(&mut *self.connection)
                .await?;
        }
        let (kind, value) = key.parts();
        sqlx::query!(
            "insert into contact_keys (business, kind, value, contact) values ($1, $2, $3, $4)
             on conflict (business, kind, value) do update set contact = excluded.contact",
            self.business.as_str(),
            kind,
            value,
            contact
        )
        .execute(&mut *self.connection)
        .await?;
        self.by_key.insert(key, contact);
        Ok(())
    }

    async fn unset(&mut self, key: &Key) -> sqlx::Result<()> {
        let (kind, value) = key.parts();
        sqlx::query!(
            "delete from contact_keys where business = $1 and kind = $2 and value = $3",
            self.business.as_str(),
            kind,
            value
        )
        .execute(&mut *self.connection)
        .await?;
        self.by_key.remove(key);
        Ok(())
    }

    /// Moves everything that the contact `from` has to the contact `to`, and deletes `from`.
    async fn merge(&mut self, from: i64, to: i64) -> sqlx::Result<()> {
        let shared = sqlx::query!(
            r#"select old.id as "from!", new.id as "to!" from chats old join chats new on new.line = old.line
               where old.contact = $1 and new.contact = $2 order by old.id for update"#,
            from,
            to
        )
        .fetch_all(&mut *self.connection)
        .await?;
        for chats in shared {
            merge_chats(&mut *self.connection, self.business, (chats.from, chats.to), self.now).await?;
        }
        sqlx::query!("update chats set contact = $2 where contact = $1", from, to)
            .execute(&mut *self.connection)
            .await?;
        sqlx::query!("update contact_keys set contact = $2 where contact = $1", from, to)
            .execute(&mut *self.connection)
            .await?;
        // What is known about the contact that stays wins.
        sqlx::query!(
            "update contacts set properties = old.properties || contacts.properties,
                tags = array(select distinct tag from unnest(contacts.tags || old.tags) as tag order by tag),
                name = case when old.is_named and not contacts.is_named then old.name else contacts.name end,
                is_named = contacts.is_named or old.is_named
             from contacts old where old.id = $1 and contacts.id = $2",
            from,
            to
        )
        .execute(&mut *self.connection)
        .await?;
        statistics::merge(&mut *self.connection, self.business.as_str(), from, to).await?;
        sqlx::query!("delete from contacts where id = $1", from).execute(&mut *self.connection).await?;
        self.by_key.values_mut().filter(|contact| **contact == from).for_each(|contact| *contact = to);
        self.merged.values_mut().filter(|contact| **contact == from).for_each(|contact| *contact = to);
        self.merged.insert(from, to);
        self.user_ids.remove(&from);
        Ok(())
    }

    /// Stores the names and numbers of people as their messages tell them, the last one that does.
    async fn describe(&mut self, people: &[&Author], contacts: &[i64]) -> sqlx::Result<()> {
        let mut told: BTreeMap<i64, Author> = BTreeMap::new();
        for (person, contact) in people.iter().zip(contacts) {
            let contact = self.merged.get(contact).copied().unwrap_or(*contact);
            let told = told.entry(contact).or_default();
            let identity = person.becomes.as_ref().unwrap_or(&person.identity);
            // A later message may have given the number to somebody else.
            let is_of_contact = |key: Option<Key>| key.is_some_and(|key| self.by_key.get(&key) == Some(&contact));
            if is_of_contact(Key::number(identity)) {
                told.identity.number = identity.number;
            }
            if is_of_contact(Key::user_id(identity)) {
                told.identity.user_id.clone_from(&identity.user_id);
            }
            told.name = person.name.clone().or(told.name.take());
            told.username = person.username.clone().or(told.username.take());
        }
        let ids: Vec<i64> = told.keys().copied().collect();
        let number = |person: &Author| person.identity.number.and_then(|number| number.digits().try_into().ok());
        let numbers: Vec<Option<i64>> = told.values().map(number).collect();
        let user_ids: Vec<Option<String>> = told.values().map(|person| person.identity.user_id.clone()).collect();
        let names: Vec<Option<String>> = told.values().map(|person| person.name.clone()).collect();
        let usernames: Vec<Option<String>> = told.values().map(|person| person.username.clone()).collect();
        sqlx::query!(
            "update contacts set number = coalesce(new.number, contacts.number),
                user_id = coalesce(new.user_id, contacts.user_id),
                name = case when contacts.is_named then contacts.name else coalesce(new.name, contacts.name) end,
                username = coalesce(new.username, contacts.username)
             from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[])
                as new (id, number, user_id, name, username)
             where contacts.id = new.id
                and (new.number <> coalesce(contacts.number, 0) or new.user_id <> coalesce(contacts.user_id, '')
                    or (new.name <> coalesce(contacts.name, '') and not contacts.is_named)
                    or new.username <> coalesce(contacts.username, ''))",
            &ids,
            &numbers as &[Option<i64>],
            &user_ids as &[Option<String>],
            &names as &[Option<String>],
            &usernames as &[Option<String>]
        )
        .execute(&mut *self.connection)
        .await
        .map(drop)
    }
}
