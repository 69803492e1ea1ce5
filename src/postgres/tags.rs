//! Tags of a business.

use serde_json::{Value, json};
use sqlx::{PgConnection, types::Json};

use super::{Database, DatabaseError, Result, millis, time};
use crate::{
    domain::{
        BusinessId, TagId, UnixMs,
        agent::Visibility,
        chat::Owner,
        tag::{DerivedTag, TAGS_MAX, closing},
    },
    rules::tagging::{TagRule, TagRules},
};

/// Maximum number of chats that a statement frees of a tag.
const CHATS_MAX: i64 = 1_000;

/// A tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The business.
    pub business: BusinessId,
    /// The id.
    pub id: TagId,
    /// The name.
    pub name: String,
    /// `#rrggbb`
    pub colour: String,
    /// When it is set and removed by itself.
    pub rules: Vec<TagRule>,
    /// How many open chats have it.
    pub chats: u64,
    /// When it was created.
    pub created_at: UnixMs,
}

/// What is changed of a tag; `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct TagChange {
    /// The name.
    pub name: Option<String>,
    /// `#rrggbb`
    pub colour: Option<String>,
    /// When it is set and removed by itself.
    pub rules: Option<Vec<TagRule>>,
}

/// Why a tag was not created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagRefused {
    /// The business has a tag with this id.
    Exists,
    /// The business has [`TAGS_MAX`] tags.
    TooMany,
}

impl Database {
    /// The ids of the tags of a business.
    pub async fn tag_ids(&self, business: &BusinessId) -> Result<Vec<String>> {
        let ids = sqlx::query_scalar!("select id from tags where business = $1", business.as_str());
        ids.fetch_all(&self.pool).await.map_err(DatabaseError::of("list the ids of tags"))
    }

    /// The tags of businesses (`None`: of all), by business and id, and how many of the chats that an agent sees (`None`:
    /// of all) have each.
    pub async fn tags(&self, businesses: Option<&[String]>, visible: Option<&Visibility>) -> Result<Vec<Tag>> {
        let rows = sqlx::query!(
            r#"with counts as (
                select business, tag, count(*) as chats from chats, unnest(tags) as tag
                where owner > 0 and ($1::text[] is null or business = any($1))
                    and ($2::text is null or agent = $2 or group_id is null or group_id = any($3))
                group by business, tag
             )
             select tags.business, id, name, colour, rules as "rules: Json<Vec<TagRule>>", created_at,
                coalesce(chats, 0) as "chats!"
             from tags left join counts on counts.business = tags.business and counts.tag = tags.id
             where $1::text[] is null or tags.business = any($1) order by tags.business, id"#,
            businesses,
            visible.map(|all| all.agent.as_str()),
            visible.map(|all| all.groups.as_slice())
        )
        .fetch_all(&self.pool)
        .await
        .map_err(DatabaseError::of("list tags"))?;
        let tags = rows.into_iter().map(|row| Tag {
            business: row.business.as_str().into(),
            id: row.id.as_str().into(),
            name: row.name,
            colour: row.colour,
            rules: row.rules.0,
            chats: row.chats.unsigned_abs(),
            created_at: time(row.created_at),
        });
        Ok(tags.collect())
    }

    /// How many open chats of businesses (`None`: of all), which an agent sees (`None`: all), have each derived tag.
    pub async fn derived_tags(
        &self,
        businesses: Option<&[String]>,
        visible: Option<&Visibility>,
        now: UnixMs,
    ) -> Result<Vec<(DerivedTag, u64)>> {
        let [from, to] = closing(now);
        let row = sqlx::query!(
            r#"select count(*) filter (where waiting_since_at is not null) as "unanswered!",
                count(*) filter (where attended) as "attended!",
                count(*) filter (where last_inbound_at >= $4 and last_inbound_at < $5) as "window_closing!"
             from chats
             where owner > 0 and ($1::text[] is null or business = any($1))
                and ($2::text is null or agent = $2 or group_id is null or group_id = any($3))"#,
            businesses,
            visible.map(|all| all.agent.as_str()),
            visible.map(|all| all.groups.as_slice()),
            millis(from),
            millis(to)
        )
        .fetch_one(&self.pool)
        .await
        .map_err(DatabaseError::of("count derived tags"))?;
        let count = |tag| match tag {
            DerivedTag::Unanswered => row.unanswered,
            DerivedTag::Attended => row.attended,
            DerivedTag::WindowClosing => row.window_closing,
        };
        Ok(DerivedTag::ALL.map(|tag| (tag, count(tag).unsigned_abs())).to_vec())
    }

    /// Creates a tag.
    pub async fn create_tag(&self, tag: &Tag) -> Result<std::result::Result<(), TagRefused>> {
        let failed = DatabaseError::of("create a tag");
        let known =
            sqlx::query_scalar!(r#"select count(*) as "n!" from tags where business = $1"#, tag.business.as_str());
        if known.fetch_one(&self.pool).await.map_err(&failed)? >= TAGS_MAX as i64 {
            return Ok(Err(TagRefused::TooMany));
        }
        let created = sqlx::query!(
            "insert into tags (business, id, name, colour, rules, created_at) values ($1, $2, $3, $4, $5, $6)
             on conflict do nothing",
            tag.business.as_str(),
            tag.id.as_str(),
            tag.name,
            tag.colour,
            Json(&tag.rules) as Json<&Vec<TagRule>>,
            millis(tag.created_at)
        )
        .execute(&self.pool)
        .await
        .map_err(&failed)?;
        Ok(if created.rows_affected() > 0 { Ok(()) } else { Err(TagRefused::Exists) })
    }

    /// Changes a tag. Returns whether there is one.
    pub async fn change_tag(&self, business: &BusinessId, id: &TagId, change: &TagChange) -> Result<bool> {
        let changed = sqlx::query!(
            "update tags set name = coalesce($3, name), colour = coalesce($4, colour), rules = coalesce($5, rules)
             where business = $1 and id = $2",
            business.as_str(),
            id.as_str(),
            change.name,
            change.colour,
            change.rules.as_ref().map(Json) as Option<Json<&Vec<TagRule>>>
        )
        .execute(&self.pool)
        .await
        .map_err(DatabaseError::of("change a tag"))?;
        Ok(changed.rows_affected() > 0)
    }

    /// Removes a tag, and takes it from all chats. If the process dies in between, some chats keep it, which nobody sees;
    /// the call can be repeated. Returns whether there was one.
    pub async fn remove_tag(&self, business: &BusinessId, id: &TagId) -> Result<bool> {
        let failed = DatabaseError::of("remove a tag");
        let removed = sqlx::query!("delete from tags where business = $1 and id = $2", business.as_str(), id.as_str())
            .execute(&self.pool)
            .await
            .map_err(&failed)?;
        loop {
            let freed = sqlx::query!(
                "update chats set tags = array_remove(tags, $2), revision = revision + 1
                 where id in (select id from chats where business = $1 and tags <> '{}' and tags @> array[$2]
                    order by id limit $3 for update)",
                business.as_str(),
                id.as_str(),
                CHATS_MAX
            )
            .execute(&self.pool)
            .await
            .map_err(&failed)?;
            let contacts = sqlx::query!(
                "update contacts set tags = array_remove(tags, $2)
                 where id in (select id from contacts where business = $1 and tags <> '{}' and tags @> array[$2]
                    order by id limit $3 for update)",
                business.as_str(),
                id.as_str(),
                CHATS_MAX
            )
            .execute(&self.pool)
            .await
            .map_err(&failed)?;
            if freed.rows_affected() + contacts.rows_affected() == 0 {
                return Ok(removed.rows_affected() > 0);
            }
        }
    }
}

/// The rules of all tags of a business that have some.
pub(super) async fn rules_of(connection: &mut PgConnection, business: &str) -> sqlx::Result<TagRules> {
    let rows = sqlx::query!(
        r#"select id, rules as "rules: Json<Vec<TagRule>>" from tags where business = $1 and rules <> '[]' order by id"#,
        business
    );
    let rows = rows.fetch_all(connection).await?;
    Ok(rows.into_iter().map(|row| (row.id.as_str().into(), row.rules.0)).collect())
}

/// Those of `ids` that a business does not have.
pub(super) async fn unknown(
    connection: &mut PgConnection,
    business: &str,
    ids: &[TagId],
) -> sqlx::Result<Option<TagId>> {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let unknown = sqlx::query_scalar!(
        r#"select id as "id!" from unnest($2::text[]) as wanted (id)
         where not exists (select from tags where business = $1 and tags.id = wanted.id) limit 1"#,
        business,
        &ids
    );
    Ok(unknown.fetch_optional(connection).await?.map(|id| id.as_str().into()))
}

/// The activity of a chat whose tags change; `None` if they are the same.
pub(super) fn activity(before: &[TagId], after: &[TagId], owner: Owner, agent: Option<&str>) -> Option<Value> {
    let only_in = |of: &[TagId], others: &[TagId]| -> Vec<TagId> {
        of.iter().filter(|tag| !others.contains(tag)).cloned().collect()
    };
    let (added, removed) = (only_in(after, before), only_in(before, after));
    let activity = json!({ "owner": owner.name(), "agent": agent, "why": "tags", "added": added, "removed": removed });
    (!added.is_empty() || !removed.is_empty()).then_some(activity)
}
