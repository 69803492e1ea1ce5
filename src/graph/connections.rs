//! The connections to Meta: as many as the messages on their way need.
//!
//! Each has a `reqwest::Client` of its own, so that it is known before a message goes whether it has a connection to go over. A
//! message that had to wait for one would leave later than its pace said, together with those that were paced after it.
//!
//! - A connection that has answered is *open*. It takes messages at once: over HTTP/1.1 one at a time, over HTTP/2 up to
//!   `streams_max`, which bounds what a reset puts in doubt. Those in use are filled first, for few connections that are full
//!   cost less than many that are not.
//! - A *new* one carries a single message until it has answered. That message waits at the [`Gate`], with TCP and TLS done, until
//!   it is told to leave. As many may be in the making at once as are open, and one in any case. One whose message has left is
//!   not counted any more: an answer that does not come would keep every other line of the thread waiting.
//! - The server may close an open connection at any time. reqwest would make another one on the way of the next message; the gate
//!   refuses that, and the message comes back unsent.
//!
//! A connection on which a message was left without an answer takes no more: a path that went dead would take down one message
//! after the other until its end is noticed.

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

/// The connections of one Graph API.
pub(super) struct Connections {
    make: Make,
    /// Messages on one connection at once at most.
    streams_max: usize,
    /// An open connection that was last used longer ago is not used again.
    kept: Duration,
    pool: Mutex<Pool>,
}

#[derive(Default)]
struct Pool {
    /// Open connections with room for a message. The last one is taken first.
    free: Vec<Arc<Connection>>,
    /// Open connections, with and without room.
    open: usize,
    /// Those in the making.
    in_making: usize,
    /// When the last new one could not be made, and why. Gone once one could.
    failure: Option<(Instant, String)>,
    /// Connections that were idle for too long are looked for at this time.
    sweep_at: Option<Instant>,
}

struct Connection {
    /// Made when it is first used: a permit may be dropped without that.
    http: OnceLock<reqwest::Client>,
    gate: Gate,
    usage: Mutex<Usage>,
}

struct Usage {
    stage: Stage,
    messages: usize,
    used_at: Instant,
    /// It is among those with room.
    free: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    New,
    Open,
    /// It takes no more messages.
    Retired,
}

/// The right to one message on a connection, until it is dropped.
pub(super) struct Taken {
    connections: Arc<Connections>,
    connection: Arc<Connection>,
    /// It is the first message on the connection.
    is_first: bool,
}

impl Connections {
    pub(super) fn new(streams_max: usize, kept: Duration, make: Make) -> Arc<Self> {
        Arc::new(Self { make, streams_max, kept, pool: Mutex::default() })
    }

    /// A connection for a message, if one has room or may be made.
    pub(super) fn take(self: &Arc<Self>, now: Instant) -> Option<(Taken, Option<InMaking>)> {
        let mut pool = self.pool();
        if pool.sweep_at.is_none_or(|at| now >= at) {
            pool.sweep_at = Some(now + self.kept);
            let Pool { free, open, .. } = &mut *pool;
            free.retain(|connection| {
                let mut usage = connection.usage();
                if usage.messages == 0 && now.saturating_duration_since(usage.used_at) > self.kept {
                    usage.retire(open);
                }
                usage.free
            });
        }
        while let Some(connection) = pool.free.last().cloned() {
            let mut usage = connection.usage();
            if usage.messages == 0 && now.saturating_duration_since(usage.used_at) > self.kept {
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
            return Some((Taken { connections: self.clone(), connection, is_first: false }, None));
        }
        if pool.in_making >= pool.open.max(1) {
            return None;
        }
        pool.in_making += 1;
        let usage = Usage { stage: Stage::New, messages: 1, used_at: now, free: false };
        let connection =
            Arc::new(Connection { http: OnceLock::new(), gate: Gate::default(), usage: Mutex::new(usage) });
        Some((Taken { connections: self.clone(), connection, is_first: true }, Some(InMaking(self.clone()))))
    }

    /// Why there is no connection, if none is open and the last that was tried, after `since`, could not be made.
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
    /// It takes no more messages; `open` counts the open ones.
    fn retire(&mut self, open: &mut usize) {
        if self.stage == Stage::Open {
            *open -= 1;
        }
        (self.stage, self.free) = (Stage::Retired, false);
    }
}

impl Taken {
    /// Where its message waits to leave.
    pub(super) fn gate(&self) -> Gate {
        self.connection.gate.clone()
    }

    /// Meta has answered on it.
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

    /// Its message did not leave: where it is a new one, it could not be made.
    pub(super) fn failed(&self, reason: &str) {
        if self.connection.usage().stage == Stage::New {
            self.connections.pool().failure = Some((Instant::now(), reason.to_owned()));
        }
    }

    /// It takes no more messages: one was left without an answer, or it was closed.
    pub(super) fn retire(&self) {
        let mut pool = self.connections.pool();
        let mut usage = self.connection.usage();
        if usage.stage != Stage::Open {
            return; // A new one goes with its only message.
        }
        if usage.free {
            pool.free.retain(|other| !Arc::ptr_eq(other, &self.connection));
        }
        usage.retire(&mut pool.open);
    }
}

impl Deref for Taken {
    type Target = reqwest::Client;

    fn deref(&self) -> &reqwest::Client {
        let Connection { http, gate, .. } = &*self.connection;
        http.get_or_init(|| {
            (self.connections.make)(gate.clone()).expect("a client was made of the same configuration before")
        })
    }
}

impl Drop for Taken {
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

/// A connection is in the making, as long as this is kept.
pub(super) struct InMaking(Arc<Connections>);

impl Drop for InMaking {
    fn drop(&mut self) {
        self.0.pool().in_making -= 1;
    }
}

/// What stands between a client and the making of its connection.
///
/// Closed, it refuses. Once, for the first message, it can be opened ([`hold`](Self::hold)): the connection is then made, and kept
/// back until the message may leave.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<Mutex<Option<ConnectionHold>>>);

/// The two ends of a wait at the gate.
#[derive(Clone, Default)]
pub(super) struct ConnectionHold {
    /// Cancelled by the gate when the connection is made.
    pub(super) connected: CancellationToken,
    /// Cancelled by the runner to let the message leave.
    pub(super) leave: CancellationToken,
}

impl Gate {
    /// Opens it for the one message of a new connection.
    pub(super) fn hold(&self) -> ConnectionHold {
        let hold = ConnectionHold::default();
        *self.held() = Some(hold.clone());
        hold
    }

    fn held(&self) -> MutexGuard<'_, Option<ConnectionHold>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, connector: S) -> Gated<S> {
        Gated { connector: Arc::new(Mutex::new(connector)), gate: self.clone() }
    }
}

/// What makes a connection, behind its gate.
pub(super) struct Gated<S> {
    /// Shared by the copy that hyper makes for each request: of the connector itself one would cost a dozen allocations.
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
        let Some(ConnectionHold { connected, leave }) = self.gate.held().take() else {
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

/// The gate is closed: the connection of a message was gone when it was to leave.
#[derive(Debug, thiserror::Error)]
#[error("the connection was closed before the message left")]
pub(super) struct Closed;
