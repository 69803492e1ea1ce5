//! The role `engage`, and the watch of the database that it and the API use.

use std::{convert::Infallible, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Context, ServeError};
use crate::{
    engage::{Engage, FileTransfers},
    graph::{GraphClient, GraphClientConfig},
    postgres::Database,
};

/// How often the state of the database is published.
const WATCH_EVERY: Duration = Duration::from_secs(5);

/// Publishes whether the database answers, until `stopping`.
pub(super) async fn watch(database: Database, stopping: CancellationToken) -> Result<(), Infallible> {
    let publish = async {
        loop {
            database.publish().await;
            sleep(WATCH_EVERY).await;
        }
    };
    stopping.run_until_cancelled(publish).await;
    Ok(())
}

/// Starts the readers of the lines.
pub(super) fn start(context: &Context<'_>, database: Database) -> Result<(), ServeError> {
    let graph = GraphClientConfig { http2: false, ..context.config.graph.client() };
    let files = match context.media.clone() {
        Some(media) => Some(FileTransfers { media, graph: GraphClient::new(graph)? }),
        None => None,
    };
    let engage = Engage {
        worker: context.worker.clone(),
        store: context.store.clone(),
        database,
        clock: context.clock.clone(),
        lines: context.configured.lines.clone(),
        lease: context.config.dispatch.lease,
        retention: context.config.retention,
        keep_messages: context.config.database.as_ref().and_then(|database| database.keep_messages),
        files,
        agents: context.config.agents.limits,
    };
    let stopping = context.shutdown.stopping();
    context.shutdown.core("engage", async move { engage.run(stopping).await });
    Ok(())
}
