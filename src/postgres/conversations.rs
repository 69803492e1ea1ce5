//! The conversations of chats: stored as they follow from the messages of chats and the results of campaigns.

use std::collections::BTreeMap;

use sqlx::{FromRow, PgConnection, QueryBuilder};
use ulid::Ulid;

use super::{Database, DatabaseError, Result, millis, time};
use crate::{
    domain::{BusinessId, CampaignId, LineId, MessageFate, UnixMs},
    rules::conversations::{Conversation, Ending, OpenedBy, Turn, conversations},
};

/// Where conversations are: between a contact and a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place<'a> {
    pub(super) contact: i64,
    pub(super) line: &'a str,
}

/// How many more conversations of a contact are opened by somebody.
pub(super) type Change = (i64, OpenedBy, i32);

/// Brings the conversations up to date after turns at these times, which are stored already.
pub(super) async fn follow(
    connection: &mut PgConnection,
    business: &str,
    turns: Vec<(Place<'_>, i64, Turn)>,
) -> sqlx::Result<Vec<Change>> {
    if turns.is_empty() {
        return Ok(Vec::new());
    }
    let contacts: Vec<i64> = turns.iter().map(|(place, ..)| place.contact).collect();
    let lines: Vec<String> = turns.iter().map(|(place, ..)| place.line.to_owned()).collect();
    let times: Vec<i64> = turns.iter().map(|(_, at, _)| *at).collect();
    let last = sqlx::query_as!(
        Row,
        r#"select wanted.contact as "contact!", wanted.line as "line!", known.opened_at as "opened_at!",
            known.opened_by as "opened_by!", campaign, ended_at, ending
         from unnest($1::bigint[], $2::text[], $3::bigint[]) as wanted (contact, line, at), lateral (
            select * from conversations
            where conversations.contact = wanted.contact and conversations.line = wanted.line and opened_at <= wanted.at
            order by opened_at desc limit 1
         ) as known"#,
        &contacts,
        &lines,
        &times
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut before: BTreeMap<Place<'_>, Vec<Conversation>> = BTreeMap::new();
    for row in &last {
        before.entry(row.place()).or_default().push(row.conversation());
    }
    let mut since: BTreeMap<Place<'_>, i64> = BTreeMap::new();
    for (place, at, turn) in turns {
        let known = before.get(&place).into_iter().flatten().filter(|known| known.opened_at <= time(at));
        let from = match (known.max_by_key(|known| known.opened_at), turn) {
            (Some(last), _) if last.is_changed_by(time(at), turn) => millis(last.opened_at),
            (None, Turn::Opens { .. }) => at,
            _ => continue,
        };
        since.entry(place).and_modify(|since| *since = from.min(*since)).or_insert(from);
    }
    derive(connection, business, &since).await
}

/// Derives the conversations that were opened since these times anew.
async fn derive(
    connection: &mut PgConnection,
    business: &str,
    since: &BTreeMap<Place<'_>, i64>,
) -> sqlx::Result<Vec<Change>> {
    if since.is_empty() {
        return Ok(Vec::new());
    }
    let contacts: Vec<i64> = since.keys().map(|place| place.contact).collect();
    let lines: Vec<String> = since.keys().map(|place| place.line.to_owned()).collect();
    let times: Vec<i64> = since.values().copied().collect();
    // A message is stored no earlier than it was written, and its id is the time of storage.
    let turns = sqlx::query!(
        r#"select wanted.contact as "contact!", wanted.line as "line!", turn.at as "at!", turn.kind as "kind!",
            turn.recipient, turn.campaign
         from unnest($1::bigint[], $2::text[], $3::bigint[]) as wanted (contact, line, since), lateral (
            select messages.at, case when kind < 3 then kind when body ->> 'why' = 'closed' then 3 else 4 end as kind,
                body ->> 'recipient' as recipient, null::bytea as campaign
            from chats join messages on messages.chat = chats.id
            where chats.contact = wanted.contact and chats.line = wanted.line
                and messages.id >= wanted.since * 1000 and messages.at >= wanted.since
                and (kind = 1 or kind = 2 and state = any($4) and body #>> '{content,type}' = 'template'
                    or kind = 4 and body ->> 'why' in ('closed', 'finished'))
            union all
            select at, 2, null, campaign from campaign_results
            where campaign_results.contact = wanted.contact and campaign_results.line = wanted.line
                and at >= wanted.since and fate = 3
         ) as turn"#,
        &contacts,
        &lines,
        &times,
        &MessageFate::Received.states()
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut by_place: BTreeMap<Place<'_>, Vec<(UnixMs, Turn)>> = BTreeMap::new();
    for row in &turns {
        let answered = row.recipient.as_deref().and_then(|recipient| recipient.split('.').next()?.parse().ok());
        let turn = match row.kind {
            1 => Turn::Opens { by: OpenedBy::Client, campaign: answered },
            2 => Turn::Opens { by: OpenedBy::Business, campaign: row.campaign.as_deref().and_then(campaign) },
            3 => Turn::Ends(Ending::Closed),
            _ => Turn::Ends(Ending::Finished),
        };
        by_place.entry(Place { contact: row.contact, line: &row.line }).or_default().push((time(row.at), turn));
    }
    let removed = sqlx::query!(
        "delete from conversations using unnest($1::bigint[], $2::text[], $3::bigint[]) as wanted (contact, line, since)
         where conversations.contact = wanted.contact and conversations.line = wanted.line and opened_at >= wanted.since
         returning conversations.contact, opened_by",
        &contacts,
        &lines,
        &times
    )
    .fetch_all(&mut *connection)
    .await?;
    let derived = by_place.into_iter().flat_map(|(place, turns)| {
        let contact_of = move |conversation| (place, conversation);
        conversations(turns).into_iter().map(contact_of)
    });
    let derived: Vec<(Place<'_>, Conversation)> = derived.collect();
    insert(connection, business, &derived).await?;
    let added = derived.iter().map(|(place, conversation)| (place.contact, conversation.opened_by, 1));
    Ok(added.chain(removed.into_iter().map(|row| (row.contact, opened_by(row.opened_by), -1))).collect())
}

async fn insert(
    connection: &mut PgConnection,
    business: &str,
    derived: &[(Place<'_>, Conversation)],
) -> sqlx::Result<()> {
    let all = || derived.iter().map(|(_, conversation)| conversation);
    sqlx::query!(
        "insert into conversations (contact, line, opened_at, business, opened_by, campaign, ended_at, ending)
         select contact, line, opened_at, $8, opened_by, campaign, ended_at, ending
         from unnest($1::bigint[], $2::text[], $3::bigint[], $4::smallint[], $5::bytea[], $6::bigint[], $7::smallint[])
            as new (contact, line, opened_at, opened_by, campaign, ended_at, ending)",
        &derived.iter().map(|(place, _)| place.contact).collect::<Vec<_>>(),
        &derived.iter().map(|(place, _)| place.line.to_owned()).collect::<Vec<_>>(),
        &all().map(|one| millis(one.opened_at)).collect::<Vec<_>>(),
        &all().map(|one| one.opened_by as i16).collect::<Vec<_>>(),
        &all().map(|one| Some(one.campaign?.0.to_bytes().to_vec())).collect::<Vec<_>>() as &[Option<Vec<u8>>],
        &all().map(|one| one.ending.map(|(_, at)| millis(at))).collect::<Vec<_>>() as &[Option<i64>],
        &all().map(|one| one.ending.map(|(ending, _)| ending as i16)).collect::<Vec<_>>() as &[Option<i16>],
        business
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Derives all conversations of contacts anew.
pub(super) async fn derive_all(connection: &mut PgConnection, contacts: &[i64]) -> sqlx::Result<()> {
    let places = sqlx::query!(
        r#"select business as "business!", contact as "contact!", line as "line!" from (
            select business, contact, line from chats where contact = any($1)
            union select business, contact, line from campaign_results where contact = any($1)
         ) as places order by business"#,
        contacts
    )
    .fetch_all(&mut *connection)
    .await?;
    for of_business in places.chunk_by(|one, other| one.business == other.business) {
        let since = of_business.iter().map(|row| (Place { contact: row.contact, line: &row.line }, 0));
        derive(connection, &of_business[0].business, &since.collect()).await?;
    }
    Ok(())
}

/// Gives the conversations of the contact `from`, whose chats are those of `to` already, to `to`.
pub(super) async fn merge(connection: &mut PgConnection, business: &str, from: i64, to: i64) -> sqlx::Result<()> {
    sqlx::query!("update campaign_results set contact = $2 where contact = $1", from, to)
        .execute(&mut *connection)
        .await?;
    // Where only one of them had conversations, they stay as they are, also those whose messages are kept no longer.
    let shared = sqlx::query!(
        r#"select old.line as "line!", min(old.opened_at) as "since!", (
            select max(opened_at) from conversations where contact = $2 and line = old.line and opened_at <= min(old.opened_at)
         ) as last
         from conversations old where old.contact = $1
            and exists (select from conversations where contact = $2 and line = old.line)
         group by old.line"#,
        from,
        to
    )
    .fetch_all(&mut *connection)
    .await?;
    sqlx::query!(
        "update conversations set contact = $2 where contact = $1 and not line = any($3)",
        from,
        to,
        &shared.iter().map(|row| row.line.clone()).collect::<Vec<_>>()
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!("delete from conversations where contact = $1", from).execute(&mut *connection).await?;
    let since = shared.iter().map(|row| (Place { contact: to, line: &row.line }, row.last.unwrap_or(row.since)));
    derive(connection, business, &since.collect()).await.map(drop)
}

#[derive(FromRow)]
struct Row {
    contact: i64,
    line: String,
    opened_at: i64,
    opened_by: i16,
    campaign: Option<Vec<u8>>,
    ended_at: Option<i64>,
    ending: Option<i16>,
}

impl Row {
    fn place(&self) -> Place<'_> {
        Place { contact: self.contact, line: &self.line }
    }

    fn conversation(&self) -> Conversation {
        let ending = self.ending.map(|code| if code == 1 { Ending::Closed } else { Ending::Finished });
        Conversation {
            opened_by: opened_by(self.opened_by),
            opened_at: time(self.opened_at),
            campaign: self.campaign.as_deref().and_then(campaign),
            ending: ending.zip(self.ended_at.map(time)),
        }
    }
}

fn opened_by(code: i16) -> OpenedBy {
    if code == OpenedBy::Client as i16 { OpenedBy::Client } else { OpenedBy::Business }
}

fn campaign(bytes: &[u8]) -> Option<CampaignId> {
    Some(CampaignId(Ulid::from_bytes(bytes.try_into().ok()?)))
}

/// Which conversations are listed.
#[derive(Clone, Debug)]
pub struct ConversationFilter {
    /// Of this business.
    pub business: BusinessId,
    /// Between this contact and this line.
    pub place: Option<(i64, LineId)>,
    /// Of this contact.
    pub contact: Option<i64>,
    /// On this line.
    pub line: Option<LineId>,
    /// Of this campaign.
    pub campaign: Option<CampaignId>,
    /// Opened at this time or later.
    pub from: Option<UnixMs>,
    /// Opened before this time.
    pub to: Option<UnixMs>,
    /// After the conversation with this opening, contact and line.
    pub before: Option<(UnixMs, i64, LineId)>,
}

/// A conversation in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatConversation {
    /// The contact.
    pub contact: i64,
    /// The line.
    pub line: LineId,
    /// The chat, if there is one.
    pub chat: Option<i64>,
    /// The conversation.
    pub conversation: Conversation,
}

/// By what conversations are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountBy {
    /// By line.
    Line,
    /// By the campaign that opened them.
    Campaign,
}

/// How many conversations there were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationCount {
    /// On this line.
    pub line: Option<LineId>,
    /// Of this campaign.
    pub campaign: Option<CampaignId>,
    /// That contacts opened.
    pub by_client: u64,
    /// That the business opened.
    pub by_business: u64,
}

impl Database {
    /// At most `limit` conversations, those that were opened last first.
    pub async fn conversations(&self, filter: &ConversationFilter, limit: usize) -> Result<Vec<ChatConversation>> {
        #[derive(FromRow)]
        struct Listed {
            chat: Option<i64>,
            #[sqlx(flatten)]
            row: Row,
        }
        let mut query = QueryBuilder::new(
            "select conversations.contact, conversations.line, opened_at, opened_by, campaign, ended_at, ending,
                chats.id as chat
             from conversations left join chats
                on chats.contact = conversations.contact and chats.line = conversations.line
             where conversations.business = ",
        );
        query.push_bind(filter.business.as_str());
        let (contact, line) = match &filter.place {
            Some((contact, line)) => (Some(*contact), Some(line)),
            None => (None, None),
        };
        for contact in [contact, filter.contact].into_iter().flatten() {
            query.push(" and conversations.contact = ").push_bind(contact);
        }
        for line in [line, filter.line.as_ref()].into_iter().flatten() {
            query.push(" and conversations.line = ").push_bind(line.as_str());
        }
        if let Some(campaign) = filter.campaign {
            query.push(" and campaign = ").push_bind(campaign.0.to_bytes().to_vec());
        }
        if let Some(from) = filter.from {
            query.push(" and opened_at >= ").push_bind(millis(from));
        }
        if let Some(to) = filter.to {
            query.push(" and opened_at < ").push_bind(millis(to));
        }
        if let Some((opened_at, contact, line)) = &filter.before {
            query.push(" and (opened_at, conversations.contact, conversations.line) < (").push_bind(millis(*opened_at));
            query.push(", ").push_bind(*contact).push(", ").push_bind(line.as_str()).push(")");
        }
        query.push(" order by opened_at desc, conversations.contact desc, conversations.line desc limit ");
        query.push_bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = query.build_query_as::<Listed>().persistent(false).fetch_all(&self.pool);
        let rows = rows.await.map_err(DatabaseError::of("list conversations"))?;
        let found = rows.into_iter().map(|listed| ChatConversation {
            contact: listed.row.contact,
            line: listed.row.line.as_str().into(),
            chat: listed.chat,
            conversation: listed.row.conversation(),
        });
        Ok(found.collect())
    }

    /// How many conversations of a business were opened in a period, by line or campaign.
    pub async fn count_conversations(
        &self,
        business: &BusinessId,
        by: CountBy,
        (from, to): (Option<UnixMs>, Option<UnixMs>),
    ) -> Result<Vec<ConversationCount>> {
        let rows = sqlx::query!(
            r#"select case when $4 then line end as line, case when not $4 then campaign end as campaign,
                count(*) filter (where opened_by = 1) as "by_client!",
                count(*) filter (where opened_by = 2) as "by_business!"
             from conversations
             where business = $1 and opened_at >= $2 and opened_at < $3 and ($4 or campaign is not null)
             group by 1, 2 order by 1, 2"#,
            business.as_str(),
            from.map_or(0, millis),
            to.map_or(i64::MAX, millis),
            by == CountBy::Line
        )
        .fetch_all(&self.pool)
        .await
        .map_err(DatabaseError::of("count conversations"))?;
        let counts = rows.into_iter().map(|row| ConversationCount {
            line: row.line.as_deref().map(LineId::from),
            campaign: row.campaign.as_deref().and_then(campaign),
            by_client: row.by_client.unsigned_abs(),
            by_business: row.by_business.unsigned_abs(),
        });
        Ok(counts.collect())
    }
}
