//! The two listeners: `ops` for probes and metrics, `http` for the API and the webhooks.

use std::{convert::Infallible, net::SocketAddr};

use axum::Router;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::info;

use super::ServeError;
use crate::{
    app::shutdown::Shutdown,
    config::Config,
    http::{
        listener::{self, ConnectionLimits},
        ops,
        tls::Tls,
    },
    telemetry::metrics::{self, MetricsPage},
};

/// The ops listener. It starts before Redis is reached and stops last. Dropping it stops it too.
pub(super) struct Ops {
    pub(super) address: SocketAddr,
    end: DropGuard,
    task: JoinHandle<Result<(), Infallible>>,
}

impl Ops {
    pub(super) async fn start(address: SocketAddr, metrics: MetricsPage) -> Result<Self, ServeError> {
        let listener = listen("ops.listen", address).await?;
        let address = bound("ops.listen", &listener, address)?;
        let end = CancellationToken::new();
        tokio::spawn(metrics::run_upkeep(metrics.recorder.clone()));
        let task = tokio::spawn(ops::serve(listener, metrics, end.clone()));
        info!(ops = %address, "serving health and metrics");
        Ok(Self { address, end: end.drop_guard(), task })
    }

    pub(super) async fn end(self) {
        drop(self.end);
        let _ = self.task.await;
    }
}

/// The listener of the API and the webhooks: bound, with its certificate loaded, not serving yet.
pub(super) struct Http {
    pub(super) address: SocketAddr,
    listener: TcpListener,
    pub(super) tls: Option<Tls>,
}

impl Http {
    /// Binds `http.listen`, unless the caller passes a bound `listener`.
    pub(super) async fn bind(config: &Config, listener: Option<TcpListener>) -> Result<Self, ServeError> {
        let key = "http.listen";
        let listener = match listener {
            Some(listener) => listener,
            None => listen(key, config.http.listen).await?,
        };
        let address = bound(key, &listener, config.http.listen)?;
        let tls = config.http.tls.as_ref().map(Tls::load).transpose()?;
        Ok(Self { address, listener, tls })
    }

    /// Serves `router` until the process stops.
    pub(super) fn serve(self, config: &Config, shutdown: &Shutdown, router: Router) {
        let open = metrics::http_connections();
        let stopping = shutdown.stopping();
        shutdown.core("http", listener::serve(self.listener, router, limits(config), self.tls, open, stopping));
    }
}

fn limits(config: &Config) -> ConnectionLimits {
    let http = &config.http;
    ConnectionLimits {
        connections_max: http.connections_max,
        header_bytes_max: http.header_bytes_max,
        header_timeout: http.header_timeout,
        stall_timeout: http.stall_timeout,
        // Shorter than the grace period, so that a slow caller cannot turn a clean stop into a late one.
        stop_timeout: config.shutdown.grace * 3 / 4,
    }
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { key, address, source })
}

/// The address that `listener` is bound to: `address`, with the assigned port in place of port 0.
fn bound(key: &'static str, listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, ServeError> {
    listener.local_addr().map_err(|source| ServeError::Listen { key, address, source })
}
