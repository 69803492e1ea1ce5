//! Links with an opening text.

use sqlx::PgConnection;

use super::{Database, DatabaseError, Result, agents::has_group, millis, tags, time};
use crate::domain::{BusinessId, GroupId, InboundLinkId, LineId, TagId, UnixMs};

/// Maximum number of links of a business.
pub const LINKS_MAX: usize = 500;

/// A link with an opening text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundLink {
    /// The id.
    pub id: InboundLinkId,
    /// The business.
    pub business: BusinessId,
    /// The line to which it leads.
    pub line: LineId,
    /// The name.
    pub name: String,
    /// What people send who follow it.
    pub opening: String,
    /// Whose its chats are; `None`: every agent's.
    pub group: Option<GroupId>,
    /// The tags of its chats.
    pub tags: Vec<TagId>,
    /// How many chats it has opened.
    pub opened: u64,
    /// When it was created.
    pub created_at: UnixMs,
}

/// What is changed of a link; `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct InboundLinkChange {
    /// The name.
    pub name: Option<String>,
    /// What people send who follow it.
    pub opening: Option<String>,
    /// Whose its chats are.
    pub group: Option<GroupId>,
    /// The tags of its chats.
    pub tags: Option<Vec<TagId>>,
}

/// Why a link was not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InboundLinkRefused {
    /// There is no such link.
    Missing,
    /// The business has no such group.
    NoGroup(GroupId),
    /// The business has no such tag.
    NoTag(TagId),
    /// The business has [`LINKS_MAX`] links.
    TooMany,
}

type Outcome = Result<std::result::Result<(), InboundLinkRefused>>;

impl Database {
    /// The links of businesses (`None`: of all), in the order of their creation, or only the one with this id.
    pub async fn inbound_links(
        &self,
        businesses: Option<&[String]>,
        id: Option<InboundLinkId>,
    ) -> Result<Vec<InboundLink>> {
        let rows = sqlx::query!(
            "select id, business, line, name, opening, group_id, tags, opened, created_at from inbound_links
             where ($1::text[] is null or business = any($1)) and ($2::text is null or id = $2) order by id",
            businesses,
            id.map(|id| id.to_string())
        )
        .fetch_all(&self.pool)
        .await
        .map_err(DatabaseError::of("list inbound links"))?;
        let links = rows.into_iter().filter_map(|row| {
            Some(InboundLink {
                id: row.id.parse().ok()?,
                business: row.business.as_str().into(),
                line: row.line.as_str().into(),
                name: row.name,
                opening: row.opening,
                group: row.group_id.as_deref().map(GroupId::from),
                tags: row.tags.iter().map(|tag| tag.as_str().into()).collect(),
                opened: row.opened.unsigned_abs(),
                created_at: time(row.created_at),
            })
        });
        Ok(links.collect())
    }

    /// Creates a link.
    pub async fn create_inbound_link(&self, link: &InboundLink) -> Outcome {
        let failed = DatabaseError::of("create an inbound link");
        let mut connection = self.pool.acquire().await.map_err(&failed)?;
        let known = sqlx::query_scalar!(
            r#"select count(*) as "n!" from inbound_links where business = $1"#,
            link.business.as_str()
        );
        if known.fetch_one(&mut *connection).await.map_err(&failed)? >= LINKS_MAX as i64 {
            return Ok(Err(InboundLinkRefused::TooMany));
        }
        let (group, tags) = (link.group.as_ref(), &link.tags);
        if let Err(refused) = check(&mut connection, &link.business, group, tags).await.map_err(&failed)? {
            return Ok(Err(refused));
        }
        sqlx::query!(
            "insert into inbound_links (id, business, line, name, opening, group_id, tags, created_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8)",
            link.id.to_string(),
            link.business.as_str(),
            link.line.as_str(),
            link.name,
            link.opening,
            group.map(GroupId::as_str),
            &texts(tags),
            millis(link.created_at)
        )
        .execute(&mut *connection)
        .await
        .map_err(failed)
        .map(|_| Ok(()))
    }

    /// Changes a link.
    pub async fn change_inbound_link(
        &self,
        business: &BusinessId,
        id: InboundLinkId,
        change: &InboundLinkChange,
    ) -> Outcome {
        let failed = DatabaseError::of("change an inbound link");
        let mut connection = self.pool.acquire().await.map_err(&failed)?;
        let (group, tags) = (change.group.as_ref(), change.tags.as_deref().unwrap_or_default());
        if let Err(refused) = check(&mut connection, business, group, tags).await.map_err(&failed)? {
            return Ok(Err(refused));
        }
        let new_tags = change.tags.as_deref().map(texts);
        let changed = sqlx::query!(
            "update inbound_links set name = coalesce($2, name), opening = coalesce($3, opening),
                group_id = coalesce($4, group_id), tags = coalesce($5, tags)
             where id = $1",
            id.to_string(),
            change.name,
            change.opening,
            group.map(GroupId::as_str),
            new_tags.as_deref()
        );
        let changed = changed.execute(&mut *connection).await.map_err(failed)?;
        Ok(if changed.rows_affected() > 0 { Ok(()) } else { Err(InboundLinkRefused::Missing) })
    }

    /// Removes a link. Returns whether there was one.
    pub async fn remove_inbound_link(&self, id: InboundLinkId) -> Result<bool> {
        let removed = sqlx::query!("delete from inbound_links where id = $1", id.to_string());
        let removed = removed.execute(&self.pool).await.map_err(DatabaseError::of("remove an inbound link"))?;
        Ok(removed.rows_affected() > 0)
    }
}

/// What a link does with the chat that it opens.
pub(super) struct Opening {
    pub(super) id: InboundLinkId,
    pub(super) text: String,
    pub(super) group: Option<String>,
    pub(super) tags: Vec<TagId>,
}

/// The links of a line.
pub(super) async fn of_line(connection: &mut PgConnection, line: &LineId) -> sqlx::Result<Vec<Opening>> {
    let rows = sqlx::query!("select id, opening, group_id, tags from inbound_links where line = $1", line.as_str());
    let rows = rows.fetch_all(connection).await?;
    let openings = rows.into_iter().filter_map(|row| {
        let tags = row.tags.iter().map(|tag| tag.as_str().into()).collect();
        Some(Opening { id: row.id.parse().ok()?, text: row.opening, group: row.group_id, tags })
    });
    Ok(openings.collect())
}

/// Counts the chats that links have opened.
pub(super) async fn count(connection: &mut PgConnection, opened: &[InboundLinkId]) -> sqlx::Result<()> {
    if opened.is_empty() {
        return Ok(());
    }
    let ids: Vec<String> = opened.iter().map(ToString::to_string).collect();
    sqlx::query!(
        "update inbound_links set opened = opened + new.n
         from (select id, count(*) as n from unnest($1::text[]) as ids (id) group by id) as new
         where inbound_links.id = new.id",
        &ids
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Whether a business has a group and tags.
async fn check(
    connection: &mut PgConnection,
    business: &BusinessId,
    group: Option<&GroupId>,
    tags: &[TagId],
) -> sqlx::Result<std::result::Result<(), InboundLinkRefused>> {
    if let Some(group) = group
        && !has_group(&mut *connection, business.as_str(), group).await?
    {
        return Ok(Err(InboundLinkRefused::NoGroup(group.clone())));
    }
    let unknown = tags::unknown(connection, business.as_str(), tags).await?;
    Ok(unknown.map_or(Ok(()), |tag| Err(InboundLinkRefused::NoTag(tag))))
}

fn texts(tags: &[TagId]) -> Vec<String> {
    tags.iter().map(ToString::to_string).collect()
}
