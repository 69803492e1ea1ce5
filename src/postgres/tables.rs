//! The tables: the files in `migrations`, each applied once, under a lock.
//!
//! If the process dies: a migration is one transaction, and the next process applies it.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::{
    migrate::{MigrateError, Migrator},
    postgres::PgPoolOptions,
};

use super::{Database, DatabaseError, Result};
use crate::domain::UnixMs;

/// The files in `migrations`. An older release runs on a database that a newer one has migrated, because migrations only
/// add what an older release does not need.
static MIGRATIONS: Migrator = {
    let mut migrator = sqlx::migrate!("src/postgres/migrations");
    migrator.ignore_missing = true;
    migrator
};

/// A change of the tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Migration {
    /// Its number; migrations are applied in this order.
    pub version: i64,
    /// What it is about.
    pub name: String,
    /// Whether the database has it.
    pub applied: bool,
    /// Whether this release knows it. Otherwise a newer release has applied it.
    pub known: bool,
}

impl Database {
    /// Creates and migrates the tables, under a lock, and creates the partitions that are needed from `now` on.
    ///
    /// Waits for another process that migrates, and as long as each migration takes.
    pub async fn migrate(&self, now: UnixMs) -> Result<()> {
        // The connections of the pool have a timeout for statements, and an index of a large table takes longer.
        let options = self.pool.connect_options().as_ref().clone().options([("statement_timeout", "0")]);
        let connection =
            PgPoolOptions::new().max_connections(1).acquire_timeout(self.pool.options().get_acquire_timeout());
        let connection = connection.connect_lazy_with(options);
        let migrated = MIGRATIONS.run(&connection).await.map_err(failed);
        connection.close().await;
        migrated?;
        self.create_partitions(now).await
    }

    /// The migrations of this release and those of newer ones that the database has, in their order.
    pub async fn migrations(&self) -> Result<Vec<Migration>> {
        let failed = DatabaseError::of("read the migrations");
        let exists: bool = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null")
            .fetch_one(&self.pool)
            .await
            .map_err(&failed)?;
        let applied: Vec<(i64, String)> = match exists {
            true => sqlx::query_as("select version, description from _sqlx_migrations where success")
                .fetch_all(&self.pool)
                .await
                .map_err(&failed)?,
            false => Vec::new(),
        };
        let known = MIGRATIONS.iter().map(|migration| {
            let (version, name) = (migration.version, migration.description.to_string());
            (version, Migration { version, name, applied: false, known: true })
        });
        let mut migrations: BTreeMap<i64, Migration> = known.collect();
        for (version, name) in applied {
            let unknown = || Migration { version, name, applied: false, known: false };
            migrations.entry(version).or_insert_with(unknown).applied = true;
        }
        Ok(migrations.into_values().collect())
    }
}

/// A migration that was interrupted may succeed later.
fn failed(error: MigrateError) -> DatabaseError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            match DatabaseError::of("migrate the tables")(error) {
                DatabaseError::Refused { message, .. } => DatabaseError::Migration(message),
                transient => transient,
            }
        }
        error => DatabaseError::Migration(error.to_string()),
    }
}
