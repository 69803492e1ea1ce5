//! What a business and its contacts had to do with each other: the counters of each contact, and the conversations of its
//! chats.
//!
//! Both follow from the messages of chats and the results of campaigns, and change in the transaction that stores those.
//! Whoever changes them holds the rows of the contacts in `contact_statistics` until then, after those of the chats.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::{
    Database, DatabaseError, Result,
    conversations::{self, Place},
};
use crate::{
    domain::{MessageFate, UnixMs},
    rules::conversations::{Ending, OpenedBy, Turn},
};

/// How many contacts are counted in a transaction.
const CONTACTS_MAX: i64 = 500;

/// The counters of a contact, from its creation on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContactStatistics {
    /// When a message last came from the contact, or reached it.
    pub last_interaction: Option<UnixMs>,
    /// Conversations that the contact opened.
    pub conversations_by_client: u32,
    /// Conversations that the business opened.
    pub conversations_by_business: u32,
    /// Messages that were not sent, because they were cancelled, skipped or too late.
    pub cancelled: u32,
    /// Messages that reached the contact.
    pub received: u32,
    /// Messages from the contact that answer a campaign.
    pub replies: u32,
    /// Messages that failed.
    pub failures: u32,
}

/// Something that counts.
pub(super) struct Deed<'a> {
    pub(super) contact: i64,
    pub(super) line: &'a str,
    /// When, as it is stored.
    pub(super) at: i64,
    pub(super) what: What,
}

/// What happened between a contact and a business.
#[derive(Clone, Copy)]
pub(super) enum What {
    /// The contact wrote.
    Wrote { is_reply: bool },
    /// A message to the contact has another fate than before.
    Became { before: Option<MessageFate>, now: Option<MessageFate>, is_template: bool },
    /// An agent closed or finished the chat.
    Ended,
}

/// Changes of the counters of a contact.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    last_interaction: i64,
    by_client: i32,
    by_business: i32,
    cancelled: i32,
    received: i32,
    replies: i32,
    failures: i32,
}

impl Counts {
    fn add(&mut self, deed: &Deed<'_>) {
        match deed.what {
            What::Wrote { is_reply } => {
                self.replies += i32::from(is_reply);
                self.last_interaction = self.last_interaction.max(deed.at);
            }
            What::Became { before, now, .. } => {
                now.into_iter().for_each(|now| *self.of(now) += 1);
                before.into_iter().for_each(|before| *self.of(before) -= 1);
                if now == Some(MessageFate::Received) {
                    self.last_interaction = self.last_interaction.max(deed.at);
                }
            }
            What::Ended => {}
        }
    }

    fn of(&mut self, fate: MessageFate) -> &mut i32 {
        match fate {
            MessageFate::NotSent => &mut self.cancelled,
            MessageFate::Failed => &mut self.failures,
            MessageFate::Received => &mut self.received,
        }
    }
}

/// Counts what happened, which is stored already.
pub(super) async fn count(connection: &mut PgConnection, business: &str, deeds: &[Deed<'_>]) -> sqlx::Result<()> {
    let mut counts: BTreeMap<i64, Counts> = BTreeMap::new();
    for deed in deeds {
        counts.entry(deed.contact).or_default().add(deed);
    }
    lock(connection, &counts.keys().copied().collect::<Vec<_>>()).await?;
    let places = deeds.iter().filter_map(|deed| {
        let turn = match deed.what {
            What::Wrote { .. } => Turn::Opens { by: OpenedBy::Client, campaign: None },
            What::Became { now: Some(MessageFate::Received), is_template: true, .. } => {
                Turn::Opens { by: OpenedBy::Business, campaign: None }
            }
            What::Became { .. } => return None,
            What::Ended => Turn::Ends(Ending::Closed),
        };
        Some((Place { contact: deed.contact, line: deed.line }, deed.at, turn))
    });
    for (contact, opened_by, change) in conversations::follow(connection, business, places.collect()).await? {
        let counts = counts.entry(contact).or_default();
        match opened_by {
            OpenedBy::Client => counts.by_client += change,
            OpenedBy::Business => counts.by_business += change,
        }
    }
    store(connection, &counts).await
}

/// Locks the statistics of contacts until the end of the transaction.
async fn lock(connection: &mut PgConnection, contacts: &[i64]) -> sqlx::Result<()> {
    sqlx::query!(
        "select contact from contact_statistics where contact = any($1) order by contact for no key update",
        contacts
    )
    .fetch_all(connection)
    .await
    .map(drop)
}

async fn store(connection: &mut PgConnection, counts: &BTreeMap<i64, Counts>) -> sqlx::Result<()> {
    let changed = counts.iter().filter(|(_, counts)| **counts != Counts::default());
    let (contacts, changed): (Vec<i64>, Vec<Counts>) = changed.map(|(contact, counts)| (*contact, *counts)).unzip();
    let column = |of: fn(&Counts) -> i32| changed.iter().map(of).collect::<Vec<i32>>();
    sqlx::query!(
        "update contact_statistics known set last_interaction_at = greatest(known.last_interaction_at, new.last_at),
            conversations_by_client = conversations_by_client + new.by_client,
            conversations_by_business = conversations_by_business + new.by_business,
            cancelled = known.cancelled + new.cancelled, received = known.received + new.received,
            replies = known.replies + new.replies, failures = known.failures + new.failures
         from unnest($1::bigint[], $2::bigint[], $3::int[], $4::int[], $5::int[], $6::int[], $7::int[], $8::int[])
            as new (contact, last_at, by_client, by_business, cancelled, received, replies, failures)
         where known.contact = new.contact",
        &contacts,
        &changed.iter().map(|counts| counts.last_interaction).collect::<Vec<i64>>(),
        &column(|counts| counts.by_client),
        &column(|counts| counts.by_business),
        &column(|counts| counts.cancelled),
        &column(|counts| counts.received),
        &column(|counts| counts.replies),
        &column(|counts| counts.failures)
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Gives the statistics of the contact `from`, whose chats are those of `to` already, to `to`.
pub(super) async fn merge(connection: &mut PgConnection, business: &str, from: i64, to: i64) -> sqlx::Result<()> {
    lock(connection, &[from, to]).await?;
    conversations::merge(connection, business, from, to).await?;
    sqlx::query!(
        "update contact_statistics known
         set last_interaction_at = greatest(known.last_interaction_at, old.last_interaction_at),
            conversations_by_client =
                (select count(*) from conversations where conversations.contact = $2 and opened_by = 1),
            conversations_by_business =
                (select count(*) from conversations where conversations.contact = $2 and opened_by = 2),
            cancelled = known.cancelled + old.cancelled, received = known.received + old.received,
            replies = known.replies + old.replies, failures = known.failures + old.failures,
            is_counted = known.is_counted and old.is_counted
         from contact_statistics old where old.contact = $1 and known.contact = $2",
        from,
        to
    )
    .execute(connection)
    .await
    .map(drop)
}

impl Database {
    /// Counts what was stored before the counters existed, for some contacts. Returns whether there may be more.
    pub async fn count_earlier(&self) -> Result<bool> {
        let failed = DatabaseError::of("count what was stored before");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let contacts = sqlx::query_scalar!(
            "select contact from contact_statistics where not is_counted order by contact limit $1
             for no key update skip locked",
            CONTACTS_MAX
        )
        .fetch_all(&mut *transaction)
        .await
        .map_err(&failed)?;
        recount(&mut transaction, &contacts).await.map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(contacts.len() == CONTACTS_MAX as usize)
    }
}

/// Counts everything that is stored about contacts, whose statistics are locked.
async fn recount(connection: &mut PgConnection, contacts: &[i64]) -> sqlx::Result<()> {
    if contacts.is_empty() {
        return Ok(());
    }
    conversations::derive_all(connection, contacts).await?;
    sqlx::query!(
        "update contact_statistics known set is_counted = true,
            last_interaction_at = greatest(in_chats.last_at, in_campaigns.last_at, 0),
            conversations_by_client = opened.by_client, conversations_by_business = opened.by_business,
            cancelled = in_chats.cancelled + in_campaigns.cancelled,
            received = in_chats.received + in_campaigns.received,
            replies = in_chats.replies, failures = in_chats.failures + in_campaigns.failures
         from unnest($1::bigint[]) as wanted (id), lateral (
            select max(at) filter (where kind = 1 or state = any($4)) as last_at,
                count(*) filter (where kind = 1 and body ? 'recipient') as replies,
                count(*) filter (where kind = 2 and state = any($2)) as cancelled,
                count(*) filter (where kind = 2 and state = any($3)) as failures,
                count(*) filter (where kind = 2 and state = any($4)) as received
            from chats join messages on messages.chat = chats.id where chats.contact = wanted.id
         ) as in_chats, lateral (
            select max(at) filter (where fate = 3) as last_at, count(*) filter (where fate = 1) as cancelled,
                count(*) filter (where fate = 2) as failures, count(*) filter (where fate = 3) as received
            from campaign_results where campaign_results.contact = wanted.id
         ) as in_campaigns, lateral (
            select count(*) filter (where opened_by = 1) as by_client, count(*) filter (where opened_by = 2) as by_business
            from conversations where conversations.contact = wanted.id
         ) as opened
         where known.contact = wanted.id",
        contacts,
        &MessageFate::NotSent.states(),
        &MessageFate::Failed.states(),
        &MessageFate::Received.states()
    )
    .execute(connection)
    .await
    .map(drop)
}
