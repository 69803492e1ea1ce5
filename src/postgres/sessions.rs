//! Logins and sessions of agents. The tokens are not stored, only their digests.

use std::time::Duration;

use super::{Database, DatabaseError, Result, millis, time};
use crate::domain::{AgentId, AgentRole, BusinessId, SecretDigest, UnixMs, agent::SessionLimits};

/// How long an invitation can be used.
const INVITATION: Duration = Duration::from_hours(72);

/// How often the time of the last call is stored.
const SEEN_EVERY: Duration = Duration::from_secs(15);

/// How long a login at the provider may take, until the browser is back.
pub const PROVIDER_LOGIN: Duration = Duration::from_mins(10);

/// What is needed to check a login.
#[derive(Clone)]
pub struct Login {
    /// The agent.
    pub agent: AgentId,
    /// The email address and the name.
    pub names: [String; 2],
    /// The hash of the password, as a PHC string; `None`: there is none.
    pub password: Option<String>,
    /// Logins with a wrong password in a row, and the time of the last one.
    pub failures: u32,
    /// The time of the last one.
    pub failed_at: UnixMs,
}

/// An open session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The agent.
    pub agent: AgentId,
    /// The name of the agent.
    pub name: String,
    /// The business.
    pub business: BusinessId,
    /// What the agent may do.
    pub role: AgentRole,
    /// The groups.
    pub groups: Vec<String>,
    /// When it ends, unless it is idle before.
    pub until: UnixMs,
}

impl Database {
    /// What is needed to check the login of an email address, which is in lower case.
    pub async fn login(&self, email: &str) -> Result<Option<Login>> {
        let row = sqlx::query!("select id, name, password, failures, failed_at from agents where email = $1", email)
            .fetch_optional(&self.pool)
            .await
            .map_err(DatabaseError::of("read a login"))?;
        Ok(row.and_then(|row| {
            Some(Login {
                agent: row.id.parse().ok()?,
                names: [email.to_owned(), row.name],
                password: row.password,
                failures: row.failures.unsigned_abs(),
                failed_at: time(row.failed_at),
            })
        }))
    }

    /// What is needed to check an invitation.
    pub async fn invited(&self, invitation: &SecretDigest, now: UnixMs) -> Result<Option<Login>> {
        let email = sqlx::query_scalar!(
            "select email from agents where invitation = $1 and invitation_until_at > $2",
            invitation.as_bytes(),
            millis(now)
        );
        let email = email.fetch_optional(&self.pool).await.map_err(DatabaseError::of("read an invitation"))?;
        match email.flatten() {
            Some(email) => self.login(&email).await,
            None => Ok(None),
        }
    }

    /// Counts a login with a wrong password.
    pub async fn login_failed(&self, agent: AgentId, now: UnixMs) -> Result<()> {
        sqlx::query!(
            "update agents set failures = failures + 1, failed_at = $2 where id = $1",
            agent.to_string(),
            millis(now)
        )
        .execute(&self.pool)
        .await
        .map_err(DatabaseError::of("count a failed login"))
        .map(drop)
    }

    /// Stores that a login at the provider has begun, and deletes those that took too long.
    pub async fn begin_provider_login(&self, token: &SecretDigest, now: UnixMs) -> Result<()> {
        let failed = DatabaseError::of("begin a login");
        sqlx::query!("delete from oidc_logins where created_at < $1", begun_since(now))
            .execute(&self.pool)
            .await
            .map_err(&failed)?;
        sqlx::query!("insert into oidc_logins (digest, created_at) values ($1, $2)", token.as_bytes(), millis(now))
            .execute(&self.pool)
            .await
            .map_err(&failed)
            .map(drop)
    }

    /// Ends a login at the provider. Returns whether it had begun, in time, and not ended before.
    pub async fn end_provider_login(&self, token: &SecretDigest, now: UnixMs) -> Result<bool> {
        let ended = sqlx::query!(
            "delete from oidc_logins where digest = $1 returning created_at >= $2 as \"is_in_time!\"",
            token.as_bytes(),
            begun_since(now)
        );
        let ended = ended.fetch_optional(&self.pool).await.map_err(DatabaseError::of("end a login"))?;
        Ok(ended.is_some_and(|ended| ended.is_in_time))
    }

    /// The agent with an email address, which is in lower case, who is `subject` at the provider of logins. An agent
    /// who has not logged in there before becomes this subject.
    pub async fn agent_at_provider(&self, email: &str, subject: &str) -> Result<Option<AgentId>> {
        let agent = sqlx::query_scalar!(
            "update agents set oidc_subject = $2
             where email = $1 and removed_at is null and (oidc_subject is null or oidc_subject = $2) returning id",
            email,
            subject
        );
        let agent = agent.fetch_optional(&self.pool).await.map_err(DatabaseError::of("find who logs in"))?;
        Ok(agent.and_then(|agent| agent.parse().ok()))
    }

    /// Opens a session, and deletes those that have ended.
    pub async fn open_session(
        &self,
        agent: AgentId,
        token: &SecretDigest,
        limits: SessionLimits,
        now: UnixMs,
    ) -> Result<()> {
        let failed = DatabaseError::of("open a session");
        let [idle, age] = ended_before(limits, now);
        sqlx::query!("delete from sessions where seen_at < $1 or created_at < $2", idle, age)
            .execute(&self.pool)
            .await
            .map_err(&failed)?;
        sqlx::query!(
            "with logged_in as (update agents set failures = 0, seen_at = $3 where id = $2 returning id, business)
             insert into sessions (digest, business, agent, created_at, seen_at)
             select $1, business, id, $3, $3 from logged_in",
            token.as_bytes(),
            agent.to_string(),
            millis(now)
        )
        .execute(&self.pool)
        .await
        .map_err(&failed)
        .map(drop)
    }

    /// The open session with this token. `is_used`: by the agent, and not only by an open stream.
    pub async fn session(
        &self,
        token: &SecretDigest,
        limits: SessionLimits,
        is_used: bool,
        now: UnixMs,
    ) -> Result<Option<Session>> {
        let failed = DatabaseError::of("read a session");
        let [idle, age] = ended_before(limits, now);
        let row = sqlx::query!(
            r#"select agents.id, agents.name, agents.business, role, sessions.created_at,
                sessions.seen_at as session_seen_at, agents.seen_at as agent_seen_at,
                array(select group_id from agent_group_members where agent = agents.id) as "groups!"
             from sessions join agents on agents.id = sessions.agent
             where digest = $1 and sessions.seen_at >= $2 and sessions.created_at >= $3 and removed_at is null"#,
            token.as_bytes(),
            idle,
            age
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(&failed)?;
        let Some(row) = row else { return Ok(None) };
        let stale = millis(now) - i64::try_from(SEEN_EVERY.as_millis()).unwrap_or(i64::MAX);
        if is_used && row.session_seen_at < stale {
            sqlx::query!("update sessions set seen_at = $2 where digest = $1", token.as_bytes(), millis(now))
                .execute(&self.pool)
                .await
                .map_err(&failed)?;
        }
        if row.agent_seen_at < stale {
            sqlx::query!("update agents set seen_at = $2 where id = $1", row.id, millis(now))
                .execute(&self.pool)
                .await
                .map_err(&failed)?;
        }
        Ok(row.id.parse().ok().map(|agent| Session {
            agent,
            name: row.name,
            business: row.business.as_str().into(),
            role: AgentRole::of(row.role).unwrap_or(AgentRole::Agent),
            groups: row.groups,
            until: time(row.created_at).after(limits.age),
        }))
    }

    /// Ends a session.
    pub async fn end_session(&self, token: &SecretDigest) -> Result<()> {
        let ended = sqlx::query!("delete from sessions where digest = $1", token.as_bytes());
        ended.execute(&self.pool).await.map_err(DatabaseError::of("end a session")).map(drop)
    }

    /// Ends the sessions of an agent but `kept`. Returns how many.
    pub async fn end_sessions(&self, agent: AgentId, kept: Option<&SecretDigest>) -> Result<u64> {
        let ended = sqlx::query!(
            "delete from sessions where agent = $1 and ($2::bytea is null or digest <> $2)",
            agent.to_string(),
            kept.map(SecretDigest::as_bytes)
        );
        let ended = ended.execute(&self.pool).await.map_err(DatabaseError::of("end sessions"))?;
        Ok(ended.rows_affected())
    }

    /// Sets the password of an agent, as a PHC string. The invitation is used up, and the sessions but `kept` end.
    pub async fn set_password(&self, agent: AgentId, hash: &str, kept: Option<&SecretDigest>) -> Result<()> {
        sqlx::query!(
            "update agents set password = $2, invitation = null, failures = 0 where id = $1 and removed_at is null",
            agent.to_string(),
            hash
        )
        .execute(&self.pool)
        .await
        .map_err(DatabaseError::of("set a password"))?;
        self.end_sessions(agent, kept).await.map(drop)
    }

    /// Stores the invitation of an agent, in place of an earlier one. Returns until when it can be used; `None` if there
    /// is no such agent.
    pub async fn invite(
        &self,
        business: &BusinessId,
        agent: AgentId,
        invitation: &SecretDigest,
        now: UnixMs,
    ) -> Result<Option<UnixMs>> {
        let until = now.after(INVITATION);
        let invited = sqlx::query!(
            "update agents set invitation = $3, invitation_until_at = $4
             where id = $1 and business = $2 and removed_at is null",
            agent.to_string(),
            business.as_str(),
            invitation.as_bytes(),
            millis(until)
        );
        let invited = invited.execute(&self.pool).await.map_err(DatabaseError::of("invite an agent"))?;
        Ok((invited.rows_affected() > 0).then_some(until))
    }
}

/// Since when a login at the provider must have begun.
fn begun_since(now: UnixMs) -> i64 {
    millis(now) - i64::try_from(PROVIDER_LOGIN.as_millis()).unwrap_or(i64::MAX)
}

/// Before when the last call of a session, and its beginning, must be if it has ended.
fn ended_before(limits: SessionLimits, now: UnixMs) -> [i64; 2] {
    [limits.idle, limits.age].map(|limit| millis(now) - i64::try_from(limit.as_millis()).unwrap_or(i64::MAX))
}
