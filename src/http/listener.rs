//! Accepts HTTP connections and enforces limits on each.
//!
//! The numbers of connections and of requests in progress are limited. Each connection has limits in bytes and time:
//! for the TLS handshake, the head of a request, idling, and a client that stops reading. Limits on bodies belong to
//! the handlers. A connection that a handler has upgraded counts until the handler drops it.
//!
//! HTTP/2 is for browsers, which open few connections: a client chooses it in the TLS handshake. Without TLS there is
//! only HTTP/1.1.
//!
//! If the process dies: clients see their connections close.
//! Never: inspects a request; closes a connection while its client reads a response, except when stopping.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use ::metrics::Gauge;
use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
    response::Response,
};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
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

use super::{
    connection::{Activity, Connection, OpenConnection},
    streams::Streams,
    tls::Tls,
};

/// Maximum size of a connection's buffer in each direction, in bytes. A request's head must fit. A larger buffer does
/// not read bodies faster.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Maximum number of requests in progress on one HTTP/2 connection.
const STREAMS_MAX: u32 = 100;
/// How long to wait after `accept` failed, because the system has no file descriptors or memory left.
const ACCEPT_BACKOFF: Duration = Duration::from_secs(1);

/// The limits of a listener and its connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Maximum number of open connections, at least 1; further ones wait to be accepted. Also the maximum number of
    /// requests in progress over all HTTP/2 connections; further ones wait until another ends.
    pub connections_max: usize,
    /// The maximum size of a request's line and headers in bytes, at most 64 kB. A longer head is answered 431.
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
    let server = Arc::new(Server::new(router, limits, tls));
    let connections_max = limits.connections_max.min(Semaphore::MAX_PERMITS);
    let permits = Arc::new(Semaphore::new(connections_max));
    let closing = CancellationToken::new();
    let _close = closing.clone().drop_guard();
    // Dropping the set closes the connections that are still open.
    let mut connections = JoinSet::new();
    let accepting = async {
        while let Ok(permit) = permits.clone().acquire_owned().await {
            let (stream, client) = accept(&listener).await;
            let open = OpenConnection::new(open.clone(), permit);
            let (server, stop, closing) = (server.clone(), stop.clone(), closing.clone());
            connections.spawn(async move { server.connection(stream, client, open, stop, closing).await });
            while connections.try_join_next().is_some() {}
        }
    };
    stop.run_until_cancelled(accepting).await;
    drop(listener);
    // All permits are free once every connection, and every handler of an upgraded connection, has ended.
    let ended = permits.acquire_many(u32::try_from(connections_max).unwrap_or(u32::MAX));
    if timeout(limits.stop_timeout, ended).await.is_err() {
        info!("the stop timed out; closing the connections that are still open");
    }
    Ok(())
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
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    /// A permit for each request in progress on an HTTP/2 connection.
    requests: Arc<Semaphore>,
    router: TowerToHyperService<Router>,
    limits: ConnectionLimits,
    tls: Option<Tls>,
}

impl Server {
    fn new(router: Router, limits: ConnectionLimits, tls: Option<Tls>) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_header_size(limits.header_bytes_max)
            .max_buf_size(BUFFER_BYTES_MAX);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
            .max_concurrent_streams(STREAMS_MAX)
            .max_send_buf_size(BUFFER_BYTES_MAX);
        let requests = Arc::new(Semaphore::new(limits.connections_max.min(Semaphore::MAX_PERMITS)));
        Self { http1, http2, requests, router: TowerToHyperService::new(router), limits, tls }
    }

    async fn connection(
        &self,
        stream: TcpStream,
        client: SocketAddr,
        open: OpenConnection,
        stop: CancellationToken,
        closing: CancellationToken,
    ) {
        // A response is written in one piece. With Nagle's algorithm it could wait for the acknowledgement of the
        // previous response.
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.limits.stall_timeout));
        let stream = Connection::new(Box::pin(stream), open, &closing);
        let activity = stream.activity();
        let ended = match &self.tls {
            None => self.over_http1(stream, client, stop).await,
            Some(tls) => match timeout(self.limits.header_timeout, tls.handshake(stream)).await {
                Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                    self.over_http2(stream, &activity, client, stop).await
                }
                Ok(Ok(stream)) => self.over_http1(stream, client, stop).await,
                Ok(Err(error)) => return debug!(%client, %error, "tls handshake failed"),
                Err(_) => return debug!(%client, "tls handshake timed out"),
            },
        };
        // An error here is the client's: it breaks the protocol, stalls, or disconnects.
        if let Err(error) = ended {
            debug!(%client, %error, "connection ended");
        }
    }

    async fn over_http1<S>(&self, stream: S, client: SocketAddr, stop: CancellationToken) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|request| self.response(request, client));
        let mut connection = pin!(self.http1.serve_connection(TokioIo::new(stream), service).with_upgrades());
        tokio::select! {
            ended = &mut connection => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    }

    async fn over_http2<S>(
        &self,
        stream: S,
        activity: &Activity,
        client: SocketAddr,
        stop: CancellationToken,
    ) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let ConnectionLimits { stall_timeout, header_timeout, .. } = self.limits;
        let streams = Streams::default();
        let service = service_fn(|request| {
            let (requests, streams, response) =
                (self.requests.clone(), streams.clone(), self.response(request, client));
            async move {
                let request = streams.begin();
                let permit = requests.acquire_owned().await.expect("this semaphore is never closed");
                Ok::<_, Infallible>(response.await?.map(|body| request.response(body, permit)))
            }
        });
        let mut connection = pin!(self.http2.serve_connection(TokioIo::new(stream), service));
        let mut abandoned = pin!(streams.stalled_or_idle(activity, stall_timeout, header_timeout));
        tokio::select! {
            ended = &mut connection => return ended,
            () = &mut abandoned => return Ok(()),
            () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            ended = connection => ended,
            () = abandoned => Ok(()),
        }
    }

    fn response(
        &self,
        request: Request<Incoming>,
        client: SocketAddr,
    ) -> impl Future<Output = Result<Response, Infallible>> + use<> {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(client));
        self.router.call(request)
    }
}
