//! The partitions of `messages`: one for each month, by the time of storage. What is older than is kept goes by months.
//!
//! If the process dies: nothing is lost; the next one creates and drops what is missing.

use std::time::Duration;

use jiff::{ToSpan as _, Zoned, civil::Date, tz::TimeZone};
use sqlx::PgTransaction;

use super::{Database, DatabaseError, Result, inbound::micros, media::remove_received};
use crate::domain::UnixMs;

/// How many months exist ahead of the present one, so that a housekeeping that is late loses nothing.
const MONTHS_AHEAD: i32 = 2;

/// How long a request can be repeated by its `client_id`.
const REPEATED_FOR: Duration = Duration::from_hours(7 * 24);

impl Database {
    /// Creates the partitions of the month of `now` and of the following ones, if they are missing.
    pub async fn create_partitions(&self, now: UnixMs) -> Result<()> {
        let failed = DatabaseError::of("create a partition");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        lock(&mut transaction).await.map_err(&failed)?;
        for ahead in 0..=MONTHS_AHEAD {
            let statement = sqlx::AssertSqlSafe(partition(first_of_month(now), ahead));
            sqlx::raw_sql(statement).execute(&mut *transaction).await.map_err(&failed)?;
        }
        transaction.commit().await.map_err(&failed)
    }

    /// Drops the partitions whose last message is older than `keep`, and returns their names, the oldest first. The files
    /// that people sent go with them. Contacts, chats, the outbox and the files of agents stay.
    ///
    /// Errors: transient if a query of messages runs for long, which the drop would have to wait for.
    pub async fn drop_partitions(&self, now: UnixMs, keep: Duration) -> Result<Vec<String>> {
        let failed = DatabaseError::of("drop a partition");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        lock(&mut transaction).await.map_err(&failed)?;
        // While a drop waits for its lock, all queries of messages wait behind it.
        sqlx::query!("set local lock_timeout = '1s'").execute(&mut *transaction).await.map_err(&failed)?;
        let names = sqlx::query_scalar!(
            r#"select relname::text as "name!" from pg_inherits join pg_class on pg_class.oid = inhrelid
             where inhparent = 'messages'::regclass order by relname"#
        )
        .fetch_all(&mut *transaction)
        .await
        .map_err(&failed)?;
        let oldest = Zoned::new(now.before(keep).timestamp(), TimeZone::UTC).date();
        let is_old = |name: &String| month(name).is_some_and(|first| first.saturating_add(1.month()) <= oldest);
        let names: Vec<String> = names.into_iter().filter(is_old).collect();
        for name in &names {
            let statement = sqlx::AssertSqlSafe(format!("drop table {name}"));
            sqlx::raw_sql(statement).execute(&mut *transaction).await.map_err(&failed)?;
        }
        if let Some(last) = names.last().and_then(|name| month(name)) {
            let end = start(last.saturating_add(1.month()));
            let end = UnixMs(end.unsigned_abs() / 1_000);
            remove_received(&mut transaction, end).await.map_err(&failed)?;
        }
        transaction.commit().await.map_err(&failed)?;
        Ok(names)
    }

    /// Removes the ids of requests that nobody repeats any more. Returns their number.
    pub async fn forget_client_ids(&self, now: UnixMs) -> Result<u64> {
        // The id of a message is its time.
        let deleted = sqlx::query!("delete from client_ids where message < $1", micros(now.before(REPEATED_FOR)))
            .execute(&self.pool)
            .await
            .map_err(DatabaseError::of("delete old client ids"))?;
        Ok(deleted.rows_affected())
    }
}

/// Waits for other processes that create or drop partitions. `if not exists` alone fails if two create the same one at
/// the same time.
async fn lock(transaction: &mut PgTransaction<'_>) -> sqlx::Result<()> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('partitions of messages', 0))")
        .execute(&mut **transaction)
        .await
        .map(drop)
}

/// The first day of the month of a partition with this name; `None` if [`partition`] has not given it.
fn month(name: &str) -> Option<Date> {
    let (year, month) = name.strip_prefix("messages_")?.split_once('_')?;
    Date::new(year.parse().ok()?, month.parse().ok()?, 1).ok()
}

/// The statement that creates the partition of the month that is `ahead` months after `first`.
fn partition(first: Date, ahead: i32) -> String {
    let (from, to) = (first.saturating_add(ahead.months()), first.saturating_add((ahead + 1).months()));
    format!(
        "create table if not exists messages_{:04}_{:02} partition of messages for values from ({}) to ({})",
        from.year(),
        from.month(),
        start(from),
        start(to)
    )
}

fn first_of_month(at: UnixMs) -> Date {
    Zoned::new(at.timestamp(), TimeZone::UTC).date().first_of_month()
}

/// The smallest id of a message of `day`.
fn start(day: Date) -> i64 {
    day.to_zoned(TimeZone::UTC).map_or(i64::MAX, |start| start.timestamp().as_microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_has_the_messages_of_one_month() {
        let december = UnixMs::parse("2026-12-31T23:59:59Z").expect("a time");
        let expected = "create table if not exists messages_2026_12 partition of messages for values from \
            (1796083200000000) to (1798761600000000)";
        assert_eq!(partition(first_of_month(december), 0), expected);
        assert!(partition(first_of_month(december), 1).contains("messages_2027_01"));
        assert_eq!(month("messages_2026_12"), Some(first_of_month(december)));
        assert_eq!([month("messages_default"), month("messages_2026_13")], [None, None]);
    }
}
