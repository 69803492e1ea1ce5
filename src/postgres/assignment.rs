//! Gives the chats of the queue to agents, and takes them back.
//!
//! Whatever makes a chat or an agent free calls [`Database::assign`], and the role `engage` calls
//! [`Database::tend_chats`] every second, so nothing is lost if a process dies in between. One transaction at a time
//! assigns the chats of a business.

use std::time::Duration;

use serde_json::json;
use sqlx::PgConnection;

use super::{
    Database, DatabaseError, Result,
    inbound::{MessageKind, micros},
    millis,
};
use crate::{
    domain::{AgentId, BusinessId, GroupId, Presence, UnixMs, agent::AgentLimits, chat::Owner},
    rules::assignment::{AvailableAgent, QueuedChat, assign},
};

/// Maximum number of chats that a transaction assigns or takes back.
const CHATS_MAX: i64 = 200;

/// How long after a chat was closed its agent gets it again.
const RETURNS_WITHIN: Duration = Duration::from_hours(24);

/// Why a chat is taken back from its agent. The name is in the activity.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TakenBack {
    /// The agent has gone.
    Offline,
    /// The agent did not answer.
    Silence,
}

impl TakenBack {
    const fn name(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Silence => "silence",
        }
    }
}

impl Database {
    /// Gives chats of the queue of a business to its agents, until no agent with room may have one that waits. Chats that
    /// another transaction has locked are left to it.
    pub async fn assign(&self, business: &BusinessId, now: UnixMs) -> Result<()> {
        while self.assign_some(business, now).await.map_err(DatabaseError::of("assign chats"))? {}
        Ok(())
    }

    /// Gives some chats. Returns whether it gave any.
    async fn assign_some(&self, business: &BusinessId, now: UnixMs) -> sqlx::Result<bool> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query!("select pg_advisory_xact_lock(hashtext('pregon.assign'), hashtext($1))", business.as_str())
            .fetch_one(&mut *transaction)
            .await?;
        let mut agents = available(&mut transaction, business).await?;
        if agents.is_empty() {
            return Ok(false);
        }
        let groups: Vec<String> = agents.iter().flat_map(|agent| &agent.groups).map(ToString::to_string).collect();
        let queue = sqlx::query!(
            "select id, group_id, last_agent, last_agent_at, avoids_last_agent from chats
             where business = $1 and owner = 1 and (group_id is null or group_id = any($2))
             order by coalesce(waiting_since_at, owner_since_at), id limit $3 for update skip locked",
            business.as_str(),
            &groups,
            CHATS_MAX
        )
        .fetch_all(&mut *transaction)
        .await?;
        let returns_since = millis(now) - i64::try_from(RETURNS_WITHIN.as_millis()).unwrap_or(i64::MAX);
        let queue: Vec<QueuedChat> = queue
            .into_iter()
            .map(|row| {
                let last: Option<AgentId> = row.last_agent.and_then(|agent| agent.parse().ok());
                let is_recent = row.last_agent_at.is_some_and(|at| at >= returns_since);
                QueuedChat {
                    id: row.id,
                    group: row.group_id.as_deref().map(GroupId::from),
                    prefers: last.filter(|_| is_recent && !row.avoids_last_agent),
                    avoids: last.filter(|_| row.avoids_last_agent),
                }
            })
            .collect();
        let given = assign(&queue, &mut agents);
        if given.is_empty() {
            return Ok(false);
        }
        give(&mut transaction, &given, now).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Ends what is put aside, takes chats back from agents who have gone or are silent, and assigns the queues of all
    /// businesses.
    pub async fn tend_chats(&self, limits: AgentLimits, now: UnixMs) -> Result<()> {
        let failed = DatabaseError::of("tend chats");
        sqlx::query!(
            "update chats set snoozed_until_at = null, revision = revision + 1
             where id in (select id from chats where snoozed_until_at <= $1 for update skip locked)",
            millis(now)
        )
        .execute(&self.pool)
        .await
        .map_err(&failed)?;
        let before = |limit: Duration| millis(now) - i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        sqlx::query!(
            "update agents set presence = 0 where presence <> 0 and seen_at < $1",
            before(limits.offline_after)
        )
        .execute(&self.pool)
        .await
        .map_err(&failed)?;
        self.take_back_from_absent(now).await.map_err(&failed)?;
        if let Some(silence) = limits.silence {
            self.take_back_from_silent(before(silence), now).await.map_err(&failed)?;
        }
        let waiting = sqlx::query_scalar!(
            "select distinct business from agents where presence = 2 and exists
                (select from chats where chats.business = agents.business and owner = 1)"
        )
        .fetch_all(&self.pool)
        .await
        .map_err(&failed)?;
        for business in waiting {
            self.assign(&business.as_str().into(), now).await?;
        }
        Ok(())
    }

    /// Takes back the chats of all agents who are offline or removed.
    pub(super) async fn take_back_from_absent(&self, now: UnixMs) -> sqlx::Result<()> {
        loop {
            let mut transaction = self.pool.begin().await?;
            let chats = sqlx::query_scalar!(
                "select chats.id from agents join chats on chats.agent = agents.id
                 where (agents.presence = 0 or agents.removed_at is not null) and chats.owner = 2
                 order by chats.id limit $1 for update of chats skip locked",
                CHATS_MAX
            )
            .fetch_all(&mut *transaction)
            .await?;
            take_back(&mut transaction, &chats, TakenBack::Offline, now).await?;
            transaction.commit().await?;
            if chats.len() < CHATS_MAX as usize {
                return Ok(());
            }
        }
    }

    async fn take_back_from_silent(&self, since: i64, now: UnixMs) -> sqlx::Result<()> {
        let mut transaction = self.pool.begin().await?;
        let chats = sqlx::query_scalar!(
            "select chats.id from chats join agents on agents.id = chats.agent
             where owner = 2 and waiting_since_at < $1 and owner_since_at < $1 and snoozed_until_at is null
             order by chats.id limit $2 for update of chats skip locked",
            since,
            CHATS_MAX
        )
        .fetch_all(&mut *transaction)
        .await?;
        take_back(&mut transaction, &chats, TakenBack::Silence, now).await?;
        transaction.commit().await
    }
}

/// The agents of a business who have room.
async fn available(connection: &mut PgConnection, business: &BusinessId) -> sqlx::Result<Vec<AvailableAgent>> {
    let agents = sqlx::query!(
        r#"select id, capacity, assigned_at,
            (select count(*) from chats where agent = agents.id and owner = 2 and snoozed_until_at is null) as "chats!",
            array(select group_id from agent_group_members where agent = agents.id) as "groups!"
         from agents where business = $1 and presence = $2"#,
        business.as_str(),
        Presence::Available.code()
    )
    .fetch_all(connection)
    .await?;
    let agents = agents.into_iter().filter_map(|row| {
        Some(AvailableAgent {
            id: row.id.parse().ok()?,
            capacity: row.capacity.unsigned_abs(),
            chats: row.chats.try_into().unwrap_or(u32::MAX),
            assigned_at: row.assigned_at,
            groups: row.groups.iter().map(|group| group.as_str().into()).collect(),
        })
    });
    Ok(agents.filter(AvailableAgent::has_room).collect())
}

/// Gives chats, which are locked, to agents.
async fn give(connection: &mut PgConnection, given: &[(i64, AgentId)], now: UnixMs) -> sqlx::Result<()> {
    let chats: Vec<i64> = given.iter().map(|(chat, _)| *chat).collect();
    let agents: Vec<String> = given.iter().map(|(_, agent)| agent.to_string()).collect();
    sqlx::query!(
        "with given as (
            update chats set owner = $1, agent = new.agent, owner_since_at = $2, revision = revision + 1,
                last_message = greatest(last_message + 1, $3)
            from unnest($4::bigint[], $5::text[]) as new (id, agent) where chats.id = new.id
            returning chats.id, business, chats.agent, group_id, last_message
         )
         insert into messages (id, chat, at, kind, business, body)
         select last_message, id, $2, $6, business,
            jsonb_strip_nulls(
                jsonb_build_object('owner', 'agent', 'agent', agent, 'group', group_id, 'why', 'assigned'))
         from given",
        Owner::Agent.code(),
        millis(now),
        micros(now),
        &chats,
        &agents,
        MessageKind::Activity as i16
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!("update agents set assigned_at = $2 where id = any($1)", &agents, micros(now))
        .execute(connection)
        .await
        .map(drop)
}

/// Takes chats, which are locked, back to the queue.
async fn take_back(connection: &mut PgConnection, chats: &[i64], why: TakenBack, now: UnixMs) -> sqlx::Result<()> {
    let activity = json!({ "owner": Owner::Queue.name(), "why": why.name() });
    sqlx::query!(
        "with taken as (
            update chats set owner = $1, agent = null, last_agent = agent, last_agent_at = $2, avoids_last_agent = $3,
                owner_since_at = $2, snoozed_until_at = null, revision = revision + 1,
                last_message = greatest(last_message + 1, $4)
            where id = any($5)
            returning id, business, last_agent, group_id, last_message
         )
         insert into messages (id, chat, at, kind, business, body)
         select last_message, id, $2, $6, business,
            $7::jsonb || jsonb_strip_nulls(jsonb_build_object('from', last_agent, 'group', group_id))
         from taken",
        Owner::Queue.code(),
        millis(now),
        why == TakenBack::Silence,
        micros(now),
        chats,
        MessageKind::Activity as i16,
        activity
    )
    .execute(connection)
    .await
    .map(drop)
}
