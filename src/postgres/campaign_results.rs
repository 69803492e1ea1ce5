//! What became of the messages of campaigns to contacts, as the event feed tells it.

use std::collections::{BTreeMap, HashMap};

use sqlx::PgConnection;

use super::{
    Database, DatabaseError, Result,
    inbound::{contacts_of_numbers, lock_line},
    millis,
    statistics::{self, Deed, What},
};
use crate::domain::{BusinessId, LineId, MessageFate, PartId, Phone, UnixMs};

/// The name under which the feed is read, and its row in `line_readers`.
const READER: &str = "feed:statistics";

/// What became of a message of a campaign.
#[derive(Clone, Debug)]
pub struct CampaignResult {
    /// The part of the campaign.
    pub part: PartId,
    /// The row of the recipient in its part.
    pub row: u32,
    /// Which message to the recipient it is, from 1; 0: none was sent.
    pub send: u8,
    /// The business.
    pub business: BusinessId,
    /// The line.
    pub line: LineId,
    /// The number of the recipient; `None`: nobody knows it any more.
    pub to: Option<Phone>,
    /// What became of it.
    pub fate: MessageFate,
    /// When.
    pub at: UnixMs,
}

/// The key of a result.
type Key = (Vec<u8>, i32, i32, i16);

/// How far the feed was read, and how often people were forgotten then.
#[derive(Clone, Debug)]
pub struct FeedPlace {
    /// The position, as text; `None`: nothing was read.
    pub position: Option<String>,
    forgettings: i64,
}

impl CampaignResult {
    fn key(&self) -> Key {
        let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let campaign = self.part.campaign.0.to_bytes().to_vec();
        (campaign, i32::from(self.part.number), number(self.row), i16::from(self.send))
    }
}

impl Database {
    /// How far the feed is read. To be read before the events that follow.
    pub async fn feed_place(&self) -> Result<FeedPlace> {
        let failed = DatabaseError::of("read the position in the feed");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let forgettings = lock_line(&mut transaction, &LineId::from(READER)).await.map_err(&failed)?;
        let position = sqlx::query_scalar!("select position from feed_readers where reader = $1", READER)
            .fetch_optional(&mut *transaction)
            .await
            .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(FeedPlace { position, forgettings })
    }

    /// Stores results that were read after `place`, each once, and the position behind them. Creates the contacts that are
    /// missing. Stores nothing if somebody else has read on, or people were forgotten, since then: the
    /// events have to be read again.
    pub async fn store_results(
        &self,
        place: &FeedPlace,
        results: &[CampaignResult],
        position: &str,
        now: UnixMs,
    ) -> Result<()> {
        let failed = DatabaseError::of("store the results of campaigns");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let forgettings = lock_line(&mut transaction, &LineId::from(READER)).await.map_err(&failed)?;
        let moved = sqlx::query!(
            "insert into feed_readers (reader, position) values ($1, $2)
             on conflict (reader) do update set position = excluded.position where feed_readers.position = $3",
            READER,
            position,
            place.position
        );
        let moved = moved.execute(&mut *transaction).await.map_err(&failed)?;
        if forgettings != place.forgettings || moved.rows_affected() == 0 {
            return transaction.rollback().await.map_err(&failed);
        }
        let mut by_business: BTreeMap<&str, Vec<&CampaignResult>> = BTreeMap::new();
        for result in results {
            by_business.entry(result.business.as_str()).or_default().push(result);
        }
        for (business, results) in by_business {
            store(&mut transaction, business, &results, now).await.map_err(&failed)?;
        }
        transaction.commit().await.map_err(&failed)
    }
}

async fn store(
    connection: &mut PgConnection,
    business: &str,
    results: &[&CampaignResult],
    now: UnixMs,
) -> sqlx::Result<()> {
    let mut newest: BTreeMap<Key, &CampaignResult> = BTreeMap::new();
    for result in results {
        let known = newest.entry(result.key()).or_insert(result);
        if result.fate > known.fate {
            *known = result;
        }
    }
    let known = known(connection, newest.keys()).await?;
    newest.retain(|key, result| known.get(key).map_or(result.to.is_some(), |(_, fate)| result.fate > *fate));
    let missing = newest.iter().filter(|(key, _)| !known.contains_key(*key));
    let (keys, numbers): (Vec<&Key>, Vec<Phone>) = missing.filter_map(|(key, result)| Some((key, result.to?))).unzip();
    let found = contacts_of_numbers(connection, &business.into(), &numbers, now).await?;
    let found: HashMap<&Key, i64> = keys.into_iter().zip(found).collect();
    let contact = |key: &Key| known.get(key).map(|(contact, _)| *contact).or_else(|| found.get(key).copied());
    let contacts: Vec<i64> = newest.keys().filter_map(contact).collect();
    let column = |of: fn(&CampaignResult) -> i64| newest.values().map(|result| of(result)).collect::<Vec<i64>>();
    sqlx::query!(
        "insert into campaign_results (campaign, part, row, send, business, contact, line, fate, at)
         select campaign, part, row, send, $9, contact, line, fate, at
         from unnest($1::bytea[], $2::int[], $3::int[], $4::smallint[], $5::bigint[], $6::text[], $7::smallint[],
            $8::bigint[]) as new (campaign, part, row, send, contact, line, fate, at)
         on conflict (campaign, part, row, send) do update set fate = excluded.fate, at = excluded.at",
        &newest.keys().map(|key| key.0.clone()).collect::<Vec<_>>(),
        &newest.keys().map(|key| key.1).collect::<Vec<_>>(),
        &newest.keys().map(|key| key.2).collect::<Vec<_>>(),
        &newest.keys().map(|key| key.3).collect::<Vec<_>>(),
        &contacts,
        &newest.values().map(|result| result.line.as_str().to_owned()).collect::<Vec<_>>(),
        &newest.values().map(|result| result.fate as i16).collect::<Vec<_>>(),
        &column(|result| millis(result.at)),
        business
    )
    .execute(&mut *connection)
    .await?;
    let deeds = newest.iter().zip(&contacts).map(|((key, result), contact)| {
        let before = known.get(key).map(|(_, fate)| *fate);
        let what = What::Became { before, now: Some(result.fate), is_template: true };
        Deed { contact: *contact, line: result.line.as_str(), at: millis(result.at), what }
    });
    statistics::count(connection, business, &deeds.collect::<Vec<_>>()).await
}

/// The contacts and fates that are stored.
async fn known(
    connection: &mut PgConnection,
    keys: impl Iterator<Item = &Key> + Clone,
) -> sqlx::Result<HashMap<Key, (i64, MessageFate)>> {
    let rows = sqlx::query!(
        r#"select known.campaign as "campaign!", known.part as "part!", known.row as "row!", known.send as "send!", contact, fate
         from unnest($1::bytea[], $2::int[], $3::int[], $4::smallint[]) as wanted (campaign, part, row, send)
         join campaign_results known using (campaign, part, row, send)"#,
        &keys.clone().map(|key| key.0.clone()).collect::<Vec<_>>(),
        &keys.clone().map(|key| key.1).collect::<Vec<_>>(),
        &keys.clone().map(|key| key.2).collect::<Vec<_>>(),
        &keys.map(|key| key.3).collect::<Vec<_>>()
    )
    .fetch_all(connection)
    .await?;
    let known = rows.into_iter().map(|row| {
        let fate = MessageFate::numbered(row.fate).unwrap_or(MessageFate::NotSent);
        ((row.campaign, row.part, row.row, row.send), (row.contact, fate))
    });
    Ok(known.collect())
}
