//! Accepts HTTP connections and enforces limits on each.
//!
//! The number of connections is limited. Each connection has limits in bytes and time: for the TLS handshake, the
//! head of a request, idling, and a client that stops reading. Limits on bodies belong to the handlers.
//!
//! If the process dies: clients see their connections close.
//! Never: inspects a request; closes a connection while its client reads a response, except when stopping.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use ::metrics::Gauge;
use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::tls::Tls;

/// Maximum size of a connection's buffer in each direction, in bytes. A request's head must fit. A larger buffer does
/// not read bodies faster.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// How long to wait after `accept` failed, because the system has no file descriptors or memory left.
const ACCEPT_BACKOFF: Duration = Duration::from_secs(1);

/// The limits of a listener and its connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Connections at once, at least 1. Further ones wait to be accepted.
    pub connections_max: usize,
    /// Bytes of a request's line and headers, at most 64 kB. A longer head is answered 431.
    pub header_bytes_max: usize,
    /// How long a request's head or a TLS handshake may take, and how long a connection may be idle, before it is
    /// closed.
    pub header_timeout: Duration,
    /// How long a client may read nothing of its response before the connection is closed.
    pub stall_timeout: Duration,
    /// When stopping, how long to wait for requests in progress before their connections are closed.
    pub stop_timeout: Duration,
}

/// Serves `router` on `listener` until `stop`, then waits for requests in progress up to `limits.stop_timeout`.
/// Requests carry the address of their client as a [`ConnectInfo`]. `open` is a gauge of open connections.
///
/// Errors: none. A failure ends only its own connection.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    tls: Option<Tls>,
    open: Gauge,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_header_size(limits.header_bytes_max)
        .max_buf_size(BUFFER_BYTES_MAX);
    let server = Arc::new(Server { http, router: TowerToHyperService::new(router), limits, tls });
    let (permits, graceful) = (Arc::new(Semaphore::new(limits.connections_max)), GracefulShutdown::new());
    // Dropping the set closes the connections that are still open.
    let mut connections = JoinSet::new();
    let accepting = async {
        while let Ok(permit) = permits.clone().acquire_owned().await {
            let (stream, client) = accept(&listener).await;
            let (server, watcher, gauge) = (server.clone(), graceful.watcher(), GaugeGuard::new(open.clone()));
            connections.spawn(async move {
                server.connection(stream, client, watcher).await;
                drop((gauge, permit));
            });
            while connections.try_join_next().is_some() {}
        }
    };
    stop.run_until_cancelled(accepting).await;
    drop(listener);
    if timeout(limits.stop_timeout, graceful.shutdown()).await.is_err() {
        info!("the stop timed out; closing the connections that are still open");
    }
    Ok(())
}

/// Counts one open connection until it is dropped, also if the connection's task is aborted.
struct GaugeGuard(Gauge);

impl GaugeGuard {
    fn new(open: Gauge) -> Self {
        open.increment(1.0);
        Self(open)
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            // The client closed the connection before it was accepted.
            Err(error) if is_connection_error(&error) => {}
            Err(error) => {
                error!(%error, "accepting connections failed");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Whether the error concerns one connection only. Any other error concerns the listener.
fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

struct Server {
    http: http1::Builder,
    router: TowerToHyperService<Router>,
    limits: ConnectionLimits,
    tls: Option<Tls>,
}

impl Server {
    async fn connection(&self, stream: TcpStream, client: SocketAddr, watcher: Watcher) {
        // A response is written in one piece. With Nagle's algorithm it could wait for the acknowledgement of the
        // previous response.
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.limits.stall_timeout));
        let stream = Box::pin(stream);
        match &self.tls {
            None => self.requests(stream, client, watcher).await,
            Some(tls) => match timeout(self.limits.header_timeout, tls.handshake(stream)).await {
                Ok(Ok(stream)) => self.requests(stream, client, watcher).await,
                Ok(Err(error)) => debug!(%client, %error, "tls handshake failed"),
                Err(_) => debug!(%client, "tls handshake timed out"),
            },
        }
    }

    async fn requests<S>(&self, stream: S, client: SocketAddr, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(client));
            self.router.call(request)
        });
        // An error here is the client's: it breaks the protocol, stalls, or disconnects.
        if let Err(error) = watcher.watch(self.http.serve_connection(TokioIo::new(stream), service)).await {
            debug!(%client, %error, "connection ended");
        }
    }
}
