//! The role `engage`, and the database that it and the API use.

use super::{Context, ServeError};
use crate::{
    config::{DatabaseConfig, DatabaseUrl},
    engage::Engage,
    postgres::{Database, DatabaseAddress, spawn::PrivatePostgres},
};

/// Starts the private server if `database.url` asks for one. Otherwise the server need not answer yet.
pub(super) async fn open(config: &DatabaseConfig) -> Result<(Database, Option<PrivatePostgres>), ServeError> {
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

/// Starts the readers of the lines.
pub(super) fn start(context: &Context<'_>, database: Database) {
    let engage = Engage {
        worker: context.worker.clone(),
        store: context.store.clone(),
        database,
        clock: context.clock.clone(),
        lines: context.configured.lines.clone(),
        lease: context.config.dispatch.lease,
    };
    let stopping = context.shutdown.stopping();
    context.shutdown.core("engage", async move { engage.run(stopping).await });
}
