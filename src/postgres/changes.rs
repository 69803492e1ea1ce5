//! What changed in the chats, and of their agents, since a moment, for those who follow them.
//!
//! A moment is a snapshot of PostgreSQL: which transactions had been committed. So a change is never missed, whatever the
//! order in which transactions commit, and nothing has to be kept for readers that are away. A reader gets each chat as
//! it is now, not every state in between.

use std::{fmt, str::FromStr};

use super::{
    Database, DatabaseError, Result,
    agents::Agent,
    chat_list::ChatFilter,
    read::{Chat, ChatMessage, MessageRow},
};
use sqlx::types::Json;

use crate::domain::chat::Owner;

/// Maximum number of chats in [`ChatChanges`], and of agents.
pub const CHATS_MAX: usize = 1_000;

/// How many of the newest messages of a chat are looked at.
const MESSAGES_MAX: i64 = 100;

/// A moment in the history of the database: the oldest transaction that was running, the next one that would begin, and
/// those in between that were running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    oldest: u64,
    next: u64,
    running: Vec<u64>,
}

/// Why a text is no moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not an `id` of this stream")]
pub struct MalformedMoment;

impl FromStr for Moment {
    type Err = MalformedMoment;

    fn from_str(text: &str) -> std::result::Result<Self, MalformedMoment> {
        let mut parts = text.split(':');
        let (Some(oldest), Some(next), Some(running), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(MalformedMoment);
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| MalformedMoment);
        let running: Vec<u64> =
            running.split(',').filter(|_| !running.is_empty()).map(number).collect::<std::result::Result<_, _>>()?;
        let moment = Self { oldest: number(oldest)?, next: number(next)?, running };
        let is_ordered = moment.running.is_sorted_by(|one, other| one < other);
        let in_range = |id: &u64| (moment.oldest..moment.next).contains(id);
        let is_valid = (1..=moment.next).contains(&moment.oldest) && moment.next <= i64::MAX as u64;
        (is_valid && is_ordered && moment.running.iter().all(in_range)).then_some(moment).ok_or(MalformedMoment)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let running: Vec<String> = self.running.iter().map(u64::to_string).collect();
        write!(f, "{}:{}:{}", self.oldest, self.next, running.join(","))
    }
}

/// What changed.
#[derive(Clone, Debug)]
pub struct ChatChanges {
    /// The chats.
    pub chats: Vec<Chat>,
    /// Their messages that are new or changed, among the newest 100 of each, each with its chat, the oldest first.
    pub messages: Vec<(i64, ChatMessage)>,
    /// The agents who are new or removed, or whose presence or definition is another one.
    pub agents: Vec<Agent>,
}

/// What changed between a moment and the present.
#[derive(Clone, Debug)]
pub enum Since {
    /// These chats.
    Changes(ChatChanges),
    /// More than [`CHATS_MAX`] chats or agents, or the moment is of another database.
    TooMuch,
}

impl Database {
    /// The present moment.
    pub async fn moment(&self) -> Result<Moment> {
        let failed = DatabaseError::of("read the moment");
        let text = sqlx::query_scalar!(r#"select pg_current_snapshot()::text as "moment!""#);
        moment_of(&text.fetch_one(&self.pool).await.map_err(&failed)?)
    }

    /// What changed since a moment, in the chats of `businesses` (`None`: of all), and the moment up to which that is
    /// known. What changes while this reads can be returned again by the next call.
    pub async fn changes_since(&self, since: &Moment, businesses: Option<&[String]>) -> Result<(Moment, Since)> {
        let failed = DatabaseError::of("read the changes of chats");
        // Transactions from `next` on are those of a database that this one was copied from.
        let found = sqlx::query!(
            r#"select pg_current_snapshot()::text as "now!", array(
                select id from chats
                where changed >= pg_snapshot_xmin($1::text::pg_snapshot)
                    and changed < pg_snapshot_xmax(pg_current_snapshot())
                    and not pg_visible_in_snapshot(changed, $1::text::pg_snapshot)
                    and ($2::text[] is null or business = any($2))
                order by changed limit $3
             ) as "chats!", array(
                select id from agents
                where changed >= pg_snapshot_xmin($1::text::pg_snapshot)
                    and changed < pg_snapshot_xmax(pg_current_snapshot())
                    and not pg_visible_in_snapshot(changed, $1::text::pg_snapshot)
                    and ($2::text[] is null or business = any($2))
                order by changed limit $3
             ) as "agents!""#,
            since.to_string(),
            businesses,
            CHATS_MAX as i64 + 1
        )
        .fetch_one(&self.pool)
        .await
        .map_err(&failed)?;
        let now = moment_of(&found.now)?;
        if found.chats.len().max(found.agents.len()) > CHATS_MAX || since.next > now.next {
            return Ok((now, Since::TooMuch));
        }
        let chats = self.chats_as_they_are(&found.chats).await?;
        let messages = self.messages_changed_since(since, &found.chats).await?;
        let agents = self.agents_as_they_are(&found.agents).await?;
        Ok((now, Since::Changes(ChatChanges { chats, messages, agents })))
    }

    /// The chats with these ids that exist.
    async fn chats_as_they_are(&self, ids: &[i64]) -> Result<Vec<Chat>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let filter = ChatFilter { owners: Owner::ALL.to_vec(), ids: Some(ids.to_vec()), ..ChatFilter::default() };
        self.chats(&filter, ids.len()).await
    }

    async fn messages_changed_since(&self, since: &Moment, chats: &[i64]) -> Result<Vec<(i64, ChatMessage)>> {
        if chats.is_empty() {
            return Ok(Vec::new());
        }
        let rows = sqlx::query_as!(
            MessageRow,
            r#"select chat as "chat!", message.id as "id!", at as "at!", kind as "kind!", state as "state!", author, wamid,
                body as "body!: Json<serde_json::Value>", marks as "marks: Json<serde_json::Value>"
             from unnest($1::bigint[]) as changed_chats (id), lateral (
                select * from messages where chat = changed_chats.id order by id desc limit $3
             ) as message
             where changed >= pg_snapshot_xmin($2::text::pg_snapshot)
                and changed < pg_snapshot_xmax(pg_current_snapshot())
                and not pg_visible_in_snapshot(changed, $2::text::pg_snapshot)
             order by message.id"#,
            chats,
            since.to_string(),
            MESSAGES_MAX
        )
        .fetch_all(&self.pool)
        .await
        .map_err(DatabaseError::of("read the changes of messages"))?;
        let chats: Vec<i64> = rows.iter().map(|row| row.chat).collect();
        Ok(chats.into_iter().zip(self.with_files(rows).await?).collect())
    }
}

fn moment_of(text: &str) -> Result<Moment> {
    let unreadable =
        |error: MalformedMoment| DatabaseError::Refused { operation: "read the moment", message: error.to_string() };
    text.parse().map_err(unreadable)
}
