//! The chats in which people answered a campaign.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;
use ulid::Ulid;

use super::{Database, DatabaseError, Result};
use crate::domain::{BusinessId, CampaignId, GroupId, TagId, campaign::ReplyRoute};

/// What became of the chats in which people answered a campaign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CampaignChats {
    /// Chats with an answer.
    pub answered: u64,
    /// Those that the answer opened.
    pub opened: u64,
    /// Those that an agent has got since.
    pub assigned: u64,
    /// Those in which somebody has answered since.
    pub attended: u64,
}

/// An answer to a campaign, as its transaction leaves the chat.
pub(super) struct Answer {
    pub(super) campaign: CampaignId,
    pub(super) chat: i64,
    pub(super) is_opened: bool,
    pub(super) is_assigned: bool,
    pub(super) is_attended: bool,
}

impl Database {
    /// What became of the chats in which people answered a campaign.
    pub async fn campaign_chats(&self, campaign: CampaignId) -> Result<CampaignChats> {
        let row = sqlx::query!(
            r#"select count(*) as "answered!", count(*) filter (where opened) as "opened!",
                count(*) filter (where assigned) as "assigned!", count(*) filter (where attended) as "attended!"
             from campaign_chats where campaign = $1"#,
            &campaign.0.to_bytes()[..]
        );
        let row = row.fetch_one(&self.pool).await.map_err(DatabaseError::of("count the chats of a campaign"))?;
        Ok(CampaignChats {
            answered: row.answered.unsigned_abs(),
            opened: row.opened.unsigned_abs(),
            assigned: row.assigned.unsigned_abs(),
            attended: row.attended.unsigned_abs(),
        })
    }

    /// What a route names and the business does not have: a group or a tag.
    pub async fn missing_of_route(&self, business: &BusinessId, route: &ReplyRoute) -> Result<Option<String>> {
        let failed = DatabaseError::of("check what a reply does");
        let mut connection = self.pool.acquire().await.map_err(&failed)?;
        let known = KnownRoutes::read(&mut connection, business, [route].into_iter()).await.map_err(&failed)?;
        let group =
            route.group.iter().filter(|group| !known.groups.contains(group)).map(|group| format!("group {group}"));
        let tags = route.tags.iter().filter(|tag| !known.tags.contains(tag)).map(|tag| format!("tag {tag}"));
        Ok(group.chain(tags).next())
    }
}

/// The groups and tags of routes that the business has.
#[derive(Default)]
pub(super) struct KnownRoutes {
    pub(super) groups: Vec<GroupId>,
    pub(super) tags: Vec<TagId>,
}

impl KnownRoutes {
    pub(super) async fn read<'a>(
        connection: &mut PgConnection,
        business: &BusinessId,
        routes: impl Iterator<Item = &'a ReplyRoute> + Clone,
    ) -> sqlx::Result<Self> {
        let groups: Vec<String> = routes.clone().filter_map(|route| Some(route.group.as_ref()?.to_string())).collect();
        let tags: Vec<String> = routes.flat_map(|route| &route.tags).map(ToString::to_string).collect();
        if groups.is_empty() && tags.is_empty() {
            return Ok(Self::default());
        }
        let known = sqlx::query!(
            r#"select id as "id!", true as "is_group!" from agent_groups where business = $1 and id = any($2)
             union all select id, false from tags where business = $1 and id = any($3)"#,
            business.as_str(),
            &groups,
            &tags
        );
        let (groups, tags): (Vec<_>, Vec<_>) =
            known.fetch_all(connection).await?.into_iter().partition(|known| known.is_group);
        Ok(Self {
            groups: groups.iter().map(|known| known.id.as_str().into()).collect(),
            tags: tags.iter().map(|known| known.id.as_str().into()).collect(),
        })
    }
}

/// Which of some chats have an answer to which campaigns.
pub(super) async fn known(connection: &mut PgConnection, chats: &[i64]) -> sqlx::Result<BTreeSet<(CampaignId, i64)>> {
    if chats.is_empty() {
        return Ok(BTreeSet::new());
    }
    let rows = sqlx::query!("select campaign, chat from campaign_chats where chat = any($1)", chats);
    let rows = rows.fetch_all(connection).await?.into_iter();
    let campaign = |bytes: Vec<u8>| Some(CampaignId(Ulid::from_bytes(bytes.try_into().ok()?)));
    Ok(rows.filter_map(|row| Some((campaign(row.campaign)?, row.chat))).collect())
}

/// Stores the answers of a transaction, each chat of a campaign once.
pub(super) async fn store(
    connection: &mut PgConnection,
    business: &BusinessId,
    answers: Vec<Answer>,
) -> sqlx::Result<()> {
    let mut by_chat: BTreeMap<(CampaignId, i64), Answer> = BTreeMap::new();
    for answer in answers {
        let known = by_chat.entry((answer.campaign, answer.chat));
        known.and_modify(|known| known.is_opened |= answer.is_opened).or_insert(answer);
    }
    if by_chat.is_empty() {
        return Ok(());
    }
    let column = |of: fn(&Answer) -> bool| by_chat.values().map(of).collect::<Vec<bool>>();
    sqlx::query!(
        "insert into campaign_chats as known (campaign, chat, business, opened, assigned, attended)
         select campaign, chat, $6, opened, assigned, attended
         from unnest($1::bytea[], $2::bigint[], $3::bool[], $4::bool[], $5::bool[])
            as new (campaign, chat, opened, assigned, attended)
         on conflict (campaign, chat) do update set opened = known.opened or excluded.opened,
            assigned = known.assigned or excluded.assigned, attended = known.attended or excluded.attended",
        &by_chat.keys().map(|(campaign, _)| campaign.0.to_bytes().to_vec()).collect::<Vec<_>>(),
        &by_chat.keys().map(|(_, chat)| *chat).collect::<Vec<_>>(),
        &column(|answer| answer.is_opened),
        &column(|answer| answer.is_assigned),
        &column(|answer| answer.is_attended),
        business.as_str()
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Gives the answers in the chat `from` to the chat `to`.
pub(super) async fn merge(connection: &mut PgConnection, from: i64, to: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "with old as (delete from campaign_chats where chat = $1 returning *)
         insert into campaign_chats as known (campaign, chat, business, opened, assigned, attended)
         select campaign, $2, business, opened, assigned, attended from old
         on conflict (campaign, chat) do update set opened = known.opened or excluded.opened,
            assigned = known.assigned or excluded.assigned, attended = known.attended or excluded.attended",
        from,
        to
    )
    .execute(connection)
    .await
    .map(drop)
}
