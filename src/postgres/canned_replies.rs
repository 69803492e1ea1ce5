//! Texts that agents write often.

use sqlx::error::ErrorKind;

use super::{Database, DatabaseError, Result, agents::has_group, millis, time};
use crate::domain::{BusinessId, CannedReplyId, GroupId, UnixMs, agent::Visibility};

/// A text that agents write often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CannedReply {
    /// The id.
    pub id: CannedReplyId,
    /// The business.
    pub business: BusinessId,
    /// What an agent types to find it.
    pub shortcut: String,
    /// What it is about.
    pub title: String,
    /// The text, with places: [`crate::domain::canned_reply`].
    pub body: String,
    /// The group whose agents use it; `None`: all do.
    pub group: Option<GroupId>,
    /// When it was created.
    pub created_at: UnixMs,
}

/// What is changed of a canned reply; `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct CannedReplyChange {
    /// What an agent types to find it.
    pub shortcut: Option<String>,
    /// What it is about.
    pub title: Option<String>,
    /// The text.
    pub body: Option<String>,
}

/// Why a canned reply was not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CannedReplyRefused {
    /// The business has no such reply.
    Missing,
    /// The business has a reply with this shortcut.
    ShortcutTaken,
    /// The business has no such group.
    NoGroup(GroupId),
}

type Outcome = Result<std::result::Result<(), CannedReplyRefused>>;

impl Database {
    /// The canned replies of businesses (`None`: of all) that an agent uses (`None`: all), by business and shortcut, or
    /// only the one with this id.
    pub async fn canned_replies(
        &self,
        businesses: Option<&[String]>,
        visible: Option<&Visibility>,
        id: Option<CannedReplyId>,
    ) -> Result<Vec<CannedReply>> {
        let rows = sqlx::query!(
            "select id, business, shortcut, title, body, group_id, created_at from canned_replies
             where ($1::text[] is null or business = any($1)) and ($2::text is null or id = $2)
                and ($3::text[] is null or group_id is null or group_id = any($3))
             order by business, shortcut",
            businesses,
            id.map(|id| id.to_string()),
            visible.map(|all| all.groups.as_slice())
        )
        .fetch_all(&self.pool)
        .await
        .map_err(DatabaseError::of("list canned replies"))?;
        let replies = rows.into_iter().filter_map(|row| {
            Some(CannedReply {
                id: row.id.parse().ok()?,
                business: row.business.as_str().into(),
                shortcut: row.shortcut,
                title: row.title,
                body: row.body,
                group: row.group_id.as_deref().map(GroupId::from),
                created_at: time(row.created_at),
            })
        });
        Ok(replies.collect())
    }

    /// Creates a canned reply.
    pub async fn create_canned_reply(&self, reply: &CannedReply) -> Outcome {
        let failed = DatabaseError::of("create a canned reply");
        let mut connection = self.pool.acquire().await.map_err(&failed)?;
        if let Some(group) = &reply.group
            && !has_group(&mut connection, reply.business.as_str(), group).await.map_err(&failed)?
        {
            return Ok(Err(CannedReplyRefused::NoGroup(group.clone())));
        }
        let created = sqlx::query!(
            "insert into canned_replies (id, business, shortcut, title, body, group_id, created_at)
             values ($1, $2, $3, $4, $5, $6, $7)",
            reply.id.to_string(),
            reply.business.as_str(),
            reply.shortcut,
            reply.title,
            reply.body,
            reply.group.as_ref().map(GroupId::as_str),
            millis(reply.created_at)
        );
        stored(created.execute(&mut *connection).await.map(|done| done.rows_affected())).map_err(failed)
    }

    /// Changes a canned reply.
    pub async fn change_canned_reply(&self, id: CannedReplyId, change: &CannedReplyChange) -> Outcome {
        let changed = sqlx::query!(
            "update canned_replies set shortcut = coalesce($2, shortcut), title = coalesce($3, title),
                body = coalesce($4, body) where id = $1",
            id.to_string(),
            change.shortcut,
            change.title,
            change.body
        );
        let changed = changed.execute(&self.pool).await.map(|done| done.rows_affected());
        stored(changed).map_err(DatabaseError::of("change a canned reply"))
    }

    /// Removes a canned reply. Returns whether there was one.
    pub async fn remove_canned_reply(&self, id: CannedReplyId) -> Result<bool> {
        let removed = sqlx::query!("delete from canned_replies where id = $1", id.to_string());
        let removed = removed.execute(&self.pool).await.map_err(DatabaseError::of("remove a canned reply"))?;
        Ok(removed.rows_affected() > 0)
    }
}

/// What became of a statement that stores one row.
fn stored(rows: sqlx::Result<u64>) -> sqlx::Result<std::result::Result<(), CannedReplyRefused>> {
    match rows {
        Ok(0) => Ok(Err(CannedReplyRefused::Missing)),
        Ok(_) => Ok(Ok(())),
        Err(sqlx::Error::Database(error)) if error.kind() == ErrorKind::UniqueViolation => {
            Ok(Err(CannedReplyRefused::ShortcutTaken))
        }
        Err(error) => Err(error),
    }
}
