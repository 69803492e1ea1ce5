//! `pregon database migrate|status`: the tables of the chats, without a running worker.

use serde::Serialize;

use crate::{
    config::{Config, DatabaseConfig, DatabaseUrl, Role},
    postgres::{
        Database, DatabaseAddress, DatabaseError,
        spawn::{DatabaseSpawnError, PrivatePostgres},
        tables::Migration,
    },
    telemetry::clock,
    terminal::{
        CommandError,
        arguments::{DatabaseCommand, DatabaseOptions},
        out, table, words,
    },
};

/// The output with `--json`.
#[derive(Serialize)]
struct Report<'a> {
    /// How many migrations the command has applied.
    applied: usize,
    migrations: &'a [Migration],
}

/// Starts the private server if `database.url` asks for one. Otherwise the server need not answer yet.
pub(super) async fn open(config: &DatabaseConfig) -> Result<(Database, Option<PrivatePostgres>), DatabaseSpawnError> {
    let (options, private) = match &config.url {
        DatabaseUrl::Server { options, .. } => ((**options).clone(), None),
        DatabaseUrl::Spawn(dir) => {
            let private = PrivatePostgres::start(dir).await?;
            (private.options().clone(), Some(private))
        }
    };
    let address = DatabaseAddress { options, connections: config.pool, timeout: config.timeout };
    Ok((Database::new(&address), private))
}

/// Runs the command.
///
/// Errors: the configuration is invalid or names no database; PostgreSQL does not answer or cannot be migrated.
pub async fn run(command: DatabaseCommand) -> Result<(), CommandError> {
    let (DatabaseCommand::Migrate(options) | DatabaseCommand::Status(options)) = &command;
    let DatabaseOptions { config, output } = options;
    let config = Config::load(config.as_deref())?;
    config.check_roles(&[Role::Engage])?;
    let Some(config) = &config.database else { return Ok(()) };
    let (database, private) = open(config).await.map_err(|error| CommandError::Failed(error.to_string()))?;
    let migrations = migrations(&database, matches!(command, DatabaseCommand::Migrate(_))).await;
    database.close().await;
    if let Some(private) = private {
        private.stop().await?;
    }
    let (before, now) = migrations.map_err(|error| CommandError::Failed(format!("{}: {error}", config.url)))?;
    let is_new =
        |migration: &&Migration| migration.applied && !before.iter().any(|old| old.applied && old == *migration);
    let new: Vec<&Migration> = now.iter().filter(is_new).collect();
    Ok(match command {
        _ if output.json => out::json(&Report { applied: new.len(), migrations: &now }),
        DatabaseCommand::Migrate(_) => out::line(&done(&new, now.len())),
        DatabaseCommand::Status(_) => out::line(&text(&now)),
    }?)
}

/// The migrations before and after the command.
async fn migrations(database: &Database, migrate: bool) -> Result<(Vec<Migration>, Vec<Migration>), DatabaseError> {
    let before = database.migrations().await?;
    if !migrate {
        return Ok((before.clone(), before));
    }
    database.migrate(clock::now()).await?;
    Ok((before, database.migrations().await?))
}

fn done(new: &[&Migration], n: usize) -> String {
    let applied = match new {
        [] => String::new(),
        new => {
            let names: Vec<String> = new.iter().map(|migration| name(migration)).collect();
            format!("applied {}; ", names.join(", "))
        }
    };
    format!("{applied}the tables are up to date ({})", words::counted(n as u64, "migration"))
}

fn text(migrations: &[Migration]) -> String {
    let state = |migration: &Migration| match (migration.applied, migration.known) {
        (true, true) => "applied",
        (true, false) => "applied by a newer release",
        (false, _) => "missing: `pregon database migrate` applies it",
    };
    table::table(["migration", ""], migrations.iter().map(|migration| [name(migration), state(migration).to_owned()]))
}

/// As its file is named.
fn name(Migration { version, name, .. }: &Migration) -> String {
    format!("{version:04}_{}", name.replace(' ', "_"))
}
