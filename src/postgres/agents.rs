//! Agents and their groups.
//!
//! An agent who is removed stays known by name, because chats and messages name the id.

use sqlx::{PgConnection, error::ErrorKind};

use super::{Database, DatabaseError, Result, millis, time};
use crate::domain::{AgentId, AgentRole, BusinessId, GroupId, Presence, UnixMs};

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// The id.
    pub id: AgentId,
    /// The business.
    pub business: BusinessId,
    /// The email address, in lower case; `None`: the agent was removed.
    pub email: Option<String>,
    /// The name.
    pub name: String,
    /// What the agent may do.
    pub role: AgentRole,
    /// How many chats the agent is given at once.
    pub capacity: u32,
    /// Whether the agent is there.
    pub presence: Presence,
    /// The groups.
    pub groups: Vec<GroupId>,
    /// How many chats the agent has.
    pub chats: u32,
    /// Whether there is a password.
    pub has_password: bool,
    /// When the agent was created.
    pub created_at: UnixMs,
    /// When the agent was removed.
    pub removed_at: Option<UnixMs>,
}

/// A new agent.
#[derive(Clone, Debug)]
pub struct NewAgent {
    /// The id.
    pub id: AgentId,
    /// The business.
    pub business: BusinessId,
    /// The email address, in lower case.
    pub email: String,
    /// The name.
    pub name: String,
    /// What the agent may do.
    pub role: AgentRole,
    /// How many chats the agent is given at once.
    pub capacity: u32,
    /// The groups.
    pub groups: Vec<GroupId>,
}

/// What is changed of an agent; `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct AgentChange {
    /// The email address, in lower case.
    pub email: Option<String>,
    /// The name.
    pub name: Option<String>,
    /// What the agent may do.
    pub role: Option<AgentRole>,
    /// How many chats the agent is given at once.
    pub capacity: Option<u32>,
    /// The groups.
    pub groups: Option<Vec<GroupId>>,
}

/// Why an agent or a group is not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentRefused {
    /// There is no such agent, or the agent was removed.
    NoAgent,
    /// Another agent has the email address.
    EmailTaken,
    /// The business has no such group.
    NoGroup(GroupId),
}

type Outcome<T> = Result<std::result::Result<T, AgentRefused>>;

/// A group of agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentGroup {
    /// The business.
    pub business: BusinessId,
    /// The id.
    pub id: GroupId,
    /// The name.
    pub name: String,
    /// How many agents are in it.
    pub agents: u32,
    /// How many of its chats wait in the queue.
    pub queued: u32,
    /// When it was created.
    pub created_at: UnixMs,
}

impl Database {
    /// Creates an agent, who is offline and has no password.
    pub async fn create_agent(&self, new: &NewAgent, now: UnixMs) -> Outcome<()> {
        let failed = DatabaseError::of("create an agent");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let inserted = sqlx::query!(
            "insert into agents (id, business, email, name, role, capacity, created_at) values ($1, $2, $3, $4, $5, $6, $7)",
            new.id.to_string(),
            new.business.as_str(),
            new.email,
            new.name,
            new.role.code(),
            stored_capacity(new.capacity),
            millis(now)
        )
        .execute(&mut *transaction)
        .await;
        if is_taken(&inserted) {
            return Ok(Err(AgentRefused::EmailTaken));
        }
        inserted.map_err(&failed)?;
        let joined = join(&mut transaction, &new.business, new.id, &new.groups).await.map_err(&failed)?;
        if joined.is_ok() {
            transaction.commit().await.map_err(&failed)?;
        }
        Ok(joined)
    }

    /// Agents of businesses (`None`: of all) after `after`, by their ids. Those who were removed come too if `all`.
    pub async fn agents(
        &self,
        businesses: Option<&[String]>,
        all: bool,
        after: Option<AgentId>,
        limit: usize,
    ) -> Result<Vec<Agent>> {
        self.agents_where(businesses, None, all, after, limit).await
    }

    /// The agent `id` of one of the businesses (`None`: of any), also if removed.
    pub async fn agent(&self, businesses: Option<&[String]>, id: AgentId) -> Result<Option<Agent>> {
        Ok(self.agents_where(businesses, Some(&[id.to_string()]), true, None, 1).await?.pop())
    }

    /// The agents with these ids, also if removed.
    pub(super) async fn agents_as_they_are(&self, ids: &[String]) -> Result<Vec<Agent>> {
        match ids.is_empty() {
            true => Ok(Vec::new()),
            false => self.agents_where(None, Some(ids), true, None, ids.len()).await,
        }
    }

    async fn agents_where(
        &self,
        businesses: Option<&[String]>,
        ids: Option<&[String]>,
        all: bool,
        after: Option<AgentId>,
        limit: usize,
    ) -> Result<Vec<Agent>> {
        let rows = sqlx::query!(
            r#"select id, business, email, name, role, capacity, presence, created_at, removed_at,
                password is not null as "has_password!",
                (select count(*) from chats where agent = agents.id and owner = 2) as "chats!",
                array(select group_id from agent_group_members where agent = agents.id order by group_id) as "groups!"
             from agents
             where ($1::text[] is null or business = any($1)) and ($2::text[] is null or id = any($2))
                and ($3 or removed_at is null) and ($4::text is null or id > $4)
             order by id limit $5"#,
            businesses,
            ids,
            all,
            after.map(|id| id.to_string()),
            i64::try_from(limit).unwrap_or(i64::MAX)
        )
        .fetch_all(&self.pool)
        .await
        .map_err(DatabaseError::of("list agents"))?;
        let agents = rows.into_iter().filter_map(|row| {
            Some(Agent {
                id: row.id.parse().ok()?,
                business: row.business.as_str().into(),
                email: row.email,
                name: row.name,
                role: AgentRole::of(row.role).unwrap_or(AgentRole::Agent),
                capacity: row.capacity.unsigned_abs(),
                presence: Presence::of(row.presence).unwrap_or(Presence::Offline),
                groups: row.groups.iter().map(|group| group.as_str().into()).collect(),
                chats: row.chats.try_into().unwrap_or(u32::MAX),
                has_password: row.has_password,
                created_at: time(row.created_at),
                removed_at: row.removed_at.map(time),
            })
        });
        Ok(agents.collect())
    }

    /// Changes an agent.
    pub async fn change_agent(&self, business: &BusinessId, id: AgentId, change: &AgentChange) -> Outcome<()> {
        let failed = DatabaseError::of("change an agent");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let changed = sqlx::query!(
            "update agents set oidc_subject = case when coalesce($3, email) = email then oidc_subject end,
                email = coalesce($3, email), name = coalesce($4, name), role = coalesce($5, role),
                capacity = coalesce($6, capacity), changed = pg_current_xact_id()
             where id = $1 and business = $2 and removed_at is null",
            id.to_string(),
            business.as_str(),
            change.email,
            change.name,
            change.role.map(AgentRole::code),
            change.capacity.map(stored_capacity)
        )
        .execute(&mut *transaction)
        .await;
        if is_taken(&changed) {
            return Ok(Err(AgentRefused::EmailTaken));
        }
        if changed.map_err(&failed)?.rows_affected() == 0 {
            return Ok(Err(AgentRefused::NoAgent));
        }
        if let Some(groups) = &change.groups {
            sqlx::query!("delete from agent_group_members where agent = $1", id.to_string())
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
            if let Err(refused) = join(&mut transaction, business, id, groups).await.map_err(&failed)? {
                return Ok(Err(refused));
            }
        }
        transaction.commit().await.map_err(&failed)?;
        Ok(Ok(()))
    }

    /// Removes an agent: the sessions end, and the chats return to the queue. Returns whether there was one.
    pub async fn remove_agent(&self, business: &BusinessId, id: AgentId, now: UnixMs) -> Result<bool> {
        let failed = DatabaseError::of("remove an agent");
        let removed = sqlx::query!(
            "with removed as (
                update agents set removed_at = $3, email = null, password = null, invitation = null,
                    oidc_subject = null, presence = 0
                where id = $1 and business = $2 and removed_at is null returning id
             ), left_groups as (
                delete from agent_group_members using removed where agent = removed.id
             ), ended as (
                delete from sessions using removed where agent = removed.id
             )
             select id from removed",
            id.to_string(),
            business.as_str(),
            millis(now)
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(&failed)?;
        self.take_back_from_absent(now).await.map_err(&failed)?;
        Ok(removed.is_some())
    }

    /// Says whether an agent is there. The chats of one who goes offline return to the queue. Returns whether there is
    /// such an agent.
    pub async fn set_presence(
        &self,
        business: &BusinessId,
        id: AgentId,
        presence: Presence,
        now: UnixMs,
    ) -> Result<bool> {
        let failed = DatabaseError::of("set the presence of an agent");
        let changed = sqlx::query!(
            "update agents set presence = $3, seen_at = $4 where id = $1 and business = $2 and removed_at is null",
            id.to_string(),
            business.as_str(),
            presence.code(),
            millis(now)
        )
        .execute(&self.pool)
        .await
        .map_err(&failed)?;
        if presence == Presence::Offline {
            self.take_back_from_absent(now).await.map_err(&failed)?;
        }
        Ok(changed.rows_affected() > 0)
    }

    /// The groups of businesses (`None`: of all), by business and id.
    pub async fn groups(&self, businesses: Option<&[String]>) -> Result<Vec<AgentGroup>> {
        let rows = sqlx::query!(
            r#"with queues as (
                select business, group_id, count(*) as queued from chats
                where owner = 1 and ($1::text[] is null or business = any($1)) group by business, group_id
             )
             select agent_groups.business, id, name, created_at, coalesce(queued, 0) as "queued!",
                (select count(*) from agent_group_members members
                    where members.business = agent_groups.business and members.group_id = id) as "agents!"
             from agent_groups left join queues on queues.business = agent_groups.business and queues.group_id = id
             where $1::text[] is null or agent_groups.business = any($1) order by agent_groups.business, id"#,
            businesses
        )
        .fetch_all(&self.pool)
        .await
        .map_err(DatabaseError::of("list groups"))?;
        let groups = rows.into_iter().map(|row| AgentGroup {
            business: row.business.as_str().into(),
            id: row.id.as_str().into(),
            name: row.name,
            agents: row.agents.try_into().unwrap_or(u32::MAX),
            queued: row.queued.try_into().unwrap_or(u32::MAX),
            created_at: time(row.created_at),
        });
        Ok(groups.collect())
    }

    /// Creates a group. Returns whether the business had none with this id.
    pub async fn create_group(&self, business: &BusinessId, id: &GroupId, name: &str, now: UnixMs) -> Result<bool> {
        let created = sqlx::query!(
            "insert into agent_groups (business, id, name, created_at) values ($1, $2, $3, $4) on conflict do nothing",
            business.as_str(),
            id.as_str(),
            name,
            millis(now)
        );
        let created = created.execute(&self.pool).await.map_err(DatabaseError::of("create a group"))?;
        Ok(created.rows_affected() > 0)
    }

    /// Renames a group. Returns whether there is one.
    pub async fn rename_group(&self, business: &BusinessId, id: &GroupId, name: &str) -> Result<bool> {
        let renamed = sqlx::query!(
            "update agent_groups set name = $3 where business = $1 and id = $2",
            business.as_str(),
            id.as_str(),
            name
        );
        let renamed = renamed.execute(&self.pool).await.map_err(DatabaseError::of("rename a group"))?;
        Ok(renamed.rows_affected() > 0)
    }

    /// Removes a group. Returns `None` if there is none, otherwise how many chats it has: it stays if it has any.
    pub async fn remove_group(&self, business: &BusinessId, id: &GroupId) -> Result<Option<u64>> {
        let failed = DatabaseError::of("remove a group");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        // Whoever gives a chat to the group waits for this.
        let locked = sqlx::query!(
            "select id from agent_groups where business = $1 and id = $2 for update",
            business.as_str(),
            id.as_str()
        );
        if locked.fetch_optional(&mut *transaction).await.map_err(&failed)?.is_none() {
            return Ok(None);
        }
        let chats = sqlx::query_scalar!(
            r#"select count(*) as "chats!" from chats where business = $1 and group_id = $2"#,
            business.as_str(),
            id.as_str()
        );
        let chats = chats.fetch_one(&mut *transaction).await.map_err(&failed)?.unsigned_abs();
        if chats == 0 {
            sqlx::query!("delete from agent_groups where business = $1 and id = $2", business.as_str(), id.as_str())
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
            transaction.commit().await.map_err(&failed)?;
        }
        Ok(Some(chats))
    }
}

/// Adds an agent to groups.
async fn join(
    connection: &mut PgConnection,
    business: &BusinessId,
    agent: AgentId,
    groups: &[GroupId],
) -> sqlx::Result<std::result::Result<(), AgentRefused>> {
    for group in groups {
        let joined = sqlx::query!(
            "insert into agent_group_members (business, group_id, agent)
             select business, id, $3 from agent_groups where business = $1 and id = $2 on conflict do nothing",
            business.as_str(),
            group.as_str(),
            agent.to_string()
        );
        if !has_group(&mut *connection, business.as_str(), group).await? {
            return Ok(Err(AgentRefused::NoGroup(group.clone())));
        }
        joined.execute(&mut *connection).await?;
    }
    Ok(Ok(()))
}

/// Whether a business has a group.
pub(super) async fn has_group(connection: &mut PgConnection, business: &str, group: &GroupId) -> sqlx::Result<bool> {
    let found = sqlx::query!("select id from agent_groups where business = $1 and id = $2", business, group.as_str());
    Ok(found.fetch_optional(connection).await?.is_some())
}

fn stored_capacity(capacity: u32) -> i32 {
    capacity.try_into().unwrap_or(i32::MAX)
}

/// Whether a statement failed because of a value that must be unique.
fn is_taken<T>(result: &sqlx::Result<T>) -> bool {
    matches!(result, Err(sqlx::Error::Database(error)) if error.kind() == ErrorKind::UniqueViolation)
}
