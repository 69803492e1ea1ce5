//! The partitions of `messages`: one for each month, by the time of storage.

use jiff::{ToSpan as _, Zoned, civil::Date, tz::TimeZone};

use super::{Database, DatabaseError, Result};
use crate::domain::UnixMs;

/// How many months exist ahead of the present one, so that a housekeeping that is late loses nothing.
const MONTHS_AHEAD: i32 = 2;

impl Database {
    /// Creates the partitions of the month of `now` and of the following ones, if they are missing.
    pub async fn create_partitions(&self, now: UnixMs) -> Result<()> {
        let failed = DatabaseError::of("create a partition");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        // `if not exists` alone fails if another process creates the same partition at the same time.
        sqlx::query!("select pg_advisory_xact_lock(hashtextextended('partitions of messages', 0))")
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
        for ahead in 0..=MONTHS_AHEAD {
            let statement = sqlx::AssertSqlSafe(partition(first_of_month(now), ahead));
            sqlx::raw_sql(statement).execute(&mut *transaction).await.map_err(&failed)?;
        }
        transaction.commit().await.map_err(&failed)
    }
}

/// The statement that creates the partition of the month that is `ahead` months after `first`.
fn partition(first: Date, ahead: i32) -> String {
    let (from, to) = (first.saturating_add(ahead.months()), first.saturating_add((ahead + 1).months()));
    format!(
        "create table if not exists messages_{:04}_{:02} partition of messages for values from ({}) to ({})",
        from.year(),
        from.month(),
        micros(from),
        micros(to)
    )
}

fn first_of_month(at: UnixMs) -> Date {
    Zoned::new(at.timestamp(), TimeZone::UTC).date().first_of_month()
}

fn micros(day: Date) -> i64 {
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
    }
}
