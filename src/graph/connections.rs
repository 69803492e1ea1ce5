//! The pool of connections to Meta. It grows with the number of messages in flight.
//!
//! Each connection has its own `reqwest::Client`, so that a message is sent only once it has a connection. A message
//! that waited for a connection would leave later than paced, in a burst with the messages paced after it.
//!
//! - A connection that has answered is *open*. It accepts messages at once: one at a time over HTTP/1.1, up to
//!   `streams_max` over HTTP/2, which limits how many messages a reset puts in doubt. Connections in use are filled
//!   first, because a few full connections cost less than many that are not full.
//! - A *new* connection carries a single message until it has answered. That message waits at the [`Gate`], with TCP
//!   and TLS done, until it may leave. At most as many connections are established at once as are open, or one if
//!   none is open. A connection counts as being established only until TCP and TLS are done: otherwise a response
//!   that never comes would block every other line of the shard.
//! - The server may close an open connection at any time. For the next message, reqwest would then connect again by
//!   itself. The gate refuses that, and the message is returned unsent.
//!
//! A connection on which a message got no response accepts no more messages. If its path is dead, every further
//! message would go unanswered too, until the connection is found to be dead.

use std::{
    error::Error,
    fmt,
    ops::Deref,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tower_layer::Layer;
use tower_service::Service;

type Make = Box<dyn Fn(Gate) -> reqwest::Result<reqwest::Client> + Send + Sync>;

/// The pool of connections to one Graph API.
pub(super) struct Connections {
    make: Make,
    /// The maximum number of concurrent messages on one connection.
    streams_max: usize,
    /// An open connection that was idle for longer than this is not used again.
    idle_max: Duration,
    pool: Mutex<Pool>,
}

#[derive(Default)]
struct Pool {
    /// Open connections with capacity for a message. The last one is used first.
    free: Vec<Arc<Connection>>,
    /// The number of open connections, with and without capacity.
    open: usize,
    /// The number of connections being established.
    n_connecting: usize,
    /// When and why the last attempt to connect failed. Cleared when a new connection answers.
    failure: Option<(Instant, String)>,
    /// When to look again for connections that were idle for too long.
    sweep_at: Option<Instant>,
}

struct Connection {
    /// Created when the first message is sent, because a permit may be dropped unused.
    http: OnceLock<reqwest::Client>,
    gate: Gate,
    usage: Mutex<Usage>,
}

struct Usage {
    stage: Stage,
    messages: usize,
    used_at: Instant,
    /// Whether the connection is in `Pool::free`.
    free: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    New,
    Open,
    /// Accepts no more messages.
    Retired,
}

/// The right to send one message on a connection, until dropped.
pub(super) struct StreamPermit {
    connections: Arc<Connections>,
    connection: Arc<Connection>,
    /// Whether this is the first message on the connection.
    is_first: bool,
}

impl Connections {
    pub(super) fn new(streams_max: usize, idle_max: Duration, make: Make) -> Arc<Self> {
        Arc::new(Self { make, streams_max, idle_max, pool: Mutex::default() })
    }

    /// A permit on a connection with capacity, or on a new one if one may be made.
    pub(super) fn take(self: &Arc<Self>, now: Instant) -> Option<(StreamPermit, Option<Connecting>)> {
        let mut pool = self.pool();
        if pool.sweep_at.is_none_or(|at| now >= at) {
            pool.sweep_at = Some(now + self.idle_max);
            let Pool { free, open, .. } = &mut *pool;
            free.retain(|connection| {
                let mut usage = connection.usage();
                if usage.messages == 0 && now.saturating_duration_since(usage.used_at) > self.idle_max {
                    usage.retire(open);
                }
                usage.free
            });
        }
        while let Some(connection) = pool.free.last().cloned() {
            let mut usage = connection.usage();
            if usage.messages == 0 && now.saturating_duration_since(usage.used_at) > self.idle_max {
                usage.retire(&mut pool.open);
                pool.free.pop();
                continue;
            }
            usage.messages += 1;
            usage.used_at = now;
            if usage.messages >= self.streams_max {
                usage.free = false;
                pool.free.pop();
            }
            drop(usage);
            return Some((StreamPermit { connections: self.clone(), connection, is_first: false }, None));
        }
        if pool.n_connecting >= pool.open.max(1) {
            return None;
        }
        pool.n_connecting += 1;
        let usage = Usage { stage: Stage::New, messages: 1, used_at: now, free: false };
        let connection =
            Arc::new(Connection { http: OnceLock::new(), gate: Gate::default(), usage: Mutex::new(usage) });
        Some((StreamPermit { connections: self.clone(), connection, is_first: true }, Some(Connecting(self.clone()))))
    }

    /// The error of the last attempt to connect, if it failed after `since` and no connection is open.
    pub(super) fn failed_since(&self, since: Instant) -> Option<String> {
        let pool = self.pool();
        let failure = pool.failure.as_ref().filter(|(at, _)| *at > since && pool.open == 0);
        failure.map(|(_, reason)| reason.clone())
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("streams_max", &self.streams_max).finish_non_exhaustive()
    }
}

impl Connection {
    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Usage {
    /// Marks the connection as retired. `open` is the number of open connections.
    fn retire(&mut self, open: &mut usize) {
        if self.stage == Stage::Open {
            *open -= 1;
        }
        (self.stage, self.free) = (Stage::Retired, false);
    }
}

impl StreamPermit {
    /// The gate at which the message waits.
    pub(super) fn gate(&self) -> Gate {
        self.connection.gate.clone()
    }

    /// Records that Meta has answered on the connection.
    pub(super) fn answered(&self) {
        if !self.is_first {
            return;
        }
        let mut usage = self.connection.usage();
        if usage.stage == Stage::New {
            usage.stage = Stage::Open;
            drop(usage);
            let mut pool = self.connections.pool();
            (pool.open, pool.failure) = (pool.open + 1, None);
        }
    }

    /// Records that the message was not written. If the connection is new, it could not be made.
    pub(super) fn failed(&self, reason: &str) {
        if self.connection.usage().stage == Stage::New {
            self.connections.pool().failure = Some((Instant::now(), reason.to_owned()));
        }
    }

    /// Retires the connection, because a message on it got no response or because it was closed.
    pub(super) fn retire(&self) {
        let mut pool = self.connections.pool();
        let mut usage = self.connection.usage();
        if usage.stage != Stage::Open {
            return; // A new connection is dropped with its only message.
        }
        if usage.free {
            pool.free.retain(|other| !Arc::ptr_eq(other, &self.connection));
        }
        usage.retire(&mut pool.open);
    }
}

impl Deref for StreamPermit {
    type Target = reqwest::Client;

    fn deref(&self) -> &reqwest::Client {
        let Connection { http, gate, .. } = &*self.connection;
        http.get_or_init(|| {
            (self.connections.make)(gate.clone()).expect("a client was made of the same configuration before")
        })
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut pool = self.connections.pool();
        let mut usage = self.connection.usage();
        usage.messages -= 1;
        match usage.stage {
            Stage::New => usage.stage = Stage::Retired,
            Stage::Open if !usage.free => {
                usage.free = true;
                pool.free.push(self.connection.clone());
            }
            Stage::Open | Stage::Retired => {}
        }
    }
}

/// Counts one connection as being established, until dropped.
pub(super) struct Connecting(Arc<Connections>);

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.pool().n_connecting -= 1;
    }
}

/// Controls whether the client of a connection may connect.
///
/// A closed gate refuses to connect. It can be opened once ([`Gate::open`]), for the first message: the connection is
/// then made, and the message is kept back until it may leave.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<Mutex<Option<GateWait>>>);

/// The signals between the gate and a message that waits at it.
#[derive(Clone, Default)]
pub(super) struct GateWait {
    /// Cancelled by the gate when the connection is made.
    pub(super) connected: CancellationToken,
    /// Cancelled by the runner to let the message leave.
    pub(super) leave: CancellationToken,
}

impl Gate {
    /// Opens the gate for the first message of a new connection.
    pub(super) fn open(&self) -> GateWait {
        let wait = GateWait::default();
        *self.pending() = Some(wait.clone());
        wait
    }

    fn pending(&self) -> MutexGuard<'_, Option<GateWait>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, connector: S) -> Gated<S> {
        Gated { connector: Arc::new(Mutex::new(connector)), gate: self.clone() }
    }
}

/// A connector behind a gate.
pub(super) struct Gated<S> {
    /// Shared by the clones that hyper makes for each request: cloning the connector itself costs a dozen
    /// allocations.
    connector: Arc<Mutex<S>>,
    gate: Gate,
}

type BoxError = Box<dyn Error + Send + Sync>;

impl<S> Gated<S> {
    fn connector(&self) -> MutexGuard<'_, S> {
        self.connector.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Clone for Gated<S> {
    fn clone(&self) -> Self {
        Self { connector: self.connector.clone(), gate: self.gate.clone() }
    }
}

impl<S, To> Service<To> for Gated<S>
where
    S: Service<To, Error = BoxError>,
    S::Response: Send,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector().poll_ready(cx)
    }

    fn call(&mut self, to: To) -> Self::Future {
        let Some(GateWait { connected, leave }) = self.gate.pending().take() else {
            return Box::pin(async { Err(Closed.into()) });
        };
        let connecting = self.connector().call(to);
        Box::pin(async move {
            let connection = connecting.await?;
            connected.cancel();
            leave.cancelled().await;
            Ok(connection)
        })
    }
}

/// The gate is closed: the connection was closed before the message was to leave.
#[derive(Debug, thiserror::Error)]
#[error("the connection was closed before the message left")]
pub(super) struct Closed;
