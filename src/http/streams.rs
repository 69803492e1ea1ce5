//! Tracks the requests of one HTTP/2 connection, to detect that its client has stalled or disconnected.
//!
//! Over HTTP/1.1 the socket shows both: it is idle, or it accepts no more bytes. Over HTTP/2 a client can stop reading
//! one response while it uses the connection for others.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::{sync::OwnedSemaphorePermit, time::sleep};

use super::connection::Activity;

/// The requests in progress. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Streams(Arc<Mutex<Requests>>);

#[derive(Default)]
struct Requests {
    last: u64,
    /// For each request in progress: since when a piece of its response has been waiting for the client to read it.
    unread_since: HashMap<u64, Option<Instant>>,
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, Requests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request as in progress until the result is dropped.
    pub(super) fn begin(&self) -> OpenRequest {
        let mut requests = self.lock();
        requests.last += 1;
        let id = requests.last;
        requests.unread_since.insert(id, None);
        OpenRequest { streams: self.clone(), id }
    }

    /// Completes when the client has read nothing of a response for `stall_timeout`, or the connection was idle for
    /// `idle_timeout`.
    pub(super) async fn stalled_or_idle(&self, activity: &Activity, stall_timeout: Duration, idle_timeout: Duration) {
        let check_every = stall_timeout.min(idle_timeout) / 4;
        loop {
            sleep(check_every).await;
            let requests = self.lock();
            let unread = requests.unread_since.values().flatten().map(Instant::elapsed).max().unwrap_or(Duration::ZERO);
            let is_idle = requests.unread_since.is_empty() && activity.idle() >= idle_timeout;
            if is_idle || unread >= stall_timeout {
                return;
            }
        }
    }
}

/// A request in progress.
pub(super) struct OpenRequest {
    streams: Streams,
    id: u64,
}

impl OpenRequest {
    /// A body with the same content. Dropping it ends the request and releases `permit`.
    pub(super) fn response(self, body: Body, permit: OwnedSemaphorePermit) -> Body {
        Body::new(Response { body, request: self, _permit: permit })
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.streams.lock().unread_since.remove(&self.id);
    }
}

/// The body of a response. hyper takes the next piece when the client has made room for it.
struct Response {
    body: Body,
    request: OpenRequest,
    _permit: OwnedSemaphorePermit,
}

impl hyper::body::Body for Response {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let unread_since = polled.is_ready().then(Instant::now);
        self.request.streams.lock().unread_since.insert(self.request.id, unread_since);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
