//! Takes HTTP connections, and keeps each of them within limits that no stranger can widen.
//!
//! However many connect and whatever they send, the connections are bounded, and each of them has a bound in bytes and in
//! time: for its handshake, for the head of a request, for being idle, for taking nothing of an answer. What a body may
//! be is up to whoever reads it.
//!
//! If the process dies: callers see their connections end.
//! Never: looks into a request; ends a connection that moves.

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

/// What one connection buffers at most in each direction. A head has to fit in, and 64 kB read a body as fast as more do.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// How long nobody is let in after the system gave no connection: it has no files left, or no memory.
const ACCEPT_REST: Duration = Duration::from_secs(1);

/// What a connection may do.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Connections at once, at least 1. Further ones wait to be accepted.
    pub connections_max: usize,
    /// Bytes of a request's line and headers, at most 64 kB. What is longer is answered 431.
    pub header_bytes_max: usize,
    /// How long these may take, how long a TLS handshake may, and how long a connection may be idle. Then it is closed.
    pub header_timeout: Duration,
    /// How long a client may take nothing of what it is sent. Then it is closed.
    pub stall_timeout: Duration,
    /// How long a stop waits for requests that have begun. Then their connections are cut.
    pub stop_timeout: Duration,
}

/// Answers requests on `listener` until `stop`, and ends when those are answered that had begun, or dropped. Requests
/// have the address of their client as a [`ConnectInfo`]. `open` shows how many connections there are.
///
/// Errors: none. A connection that fails ends alone.
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
    let (places, graceful) = (Arc::new(Semaphore::new(limits.connections_max)), GracefulShutdown::new());
    // Those that are left are cut when it is dropped.
    let mut connections = JoinSet::new();
    let accepting = async {
        while let Ok(place) = places.clone().acquire_owned().await {
            let (stream, client) = accept(&listener).await;
            let (server, watcher, counted) = (server.clone(), graceful.watcher(), Counted::new(open.clone()));
            connections.spawn(async move {
                server.connection(stream, client, watcher).await;
                drop((counted, place));
            });
            while connections.try_join_next().is_some() {}
        }
    };
    stop.run_until_cancelled(accepting).await;
    drop(listener);
    if timeout(limits.stop_timeout, graceful.shutdown()).await.is_err() {
        info!("connections that were still open at the end of the stop are cut");
    }
    Ok(())
}

/// A connection is open as long as this is kept, also where it is cut.
struct Counted(Gauge);

impl Counted {
    fn new(open: Gauge) -> Self {
        open.increment(1.0);
        Self(open)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            // It was gone before it was taken.
            Err(error) if is_of_one(&error) => {}
            Err(error) => {
                error!(%error, "no connection can be accepted");
                sleep(ACCEPT_REST).await;
            }
        }
    }
}

fn is_of_one(error: &io::Error) -> bool {
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
        // An answer is written whole: it would only wait for the client to confirm the one before.
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.limits.stall_timeout));
        let stream = Box::pin(stream);
        match &self.tls {
            None => self.requests(stream, client, watcher).await,
            Some(tls) => match timeout(self.limits.header_timeout, tls.handshake(stream)).await {
                Ok(Ok(stream)) => self.requests(stream, client, watcher).await,
                Ok(Err(error)) => debug!(%client, %error, "no tls"),
                Err(_) => debug!(%client, "no tls in time"),
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
        // A client that does not do as it should is told by its end alone.
        if let Err(error) = watcher.watch(self.http.serve_connection(TokioIo::new(stream), service)).await {
            debug!(%client, %error, "connection ended");
        }
    }
}
