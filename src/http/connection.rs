//! The byte stream of an accepted connection, before and after an upgrade.
//!
//! A connection counts as open until its stream is dropped, even after an upgrade has passed the stream to a handler.
//! It ends when the listener closes.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use ::metrics::Gauge;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Counts one open connection until it is dropped.
pub(super) struct OpenConnection {
    gauge: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl OpenConnection {
    pub(super) fn new(gauge: Gauge, permit: OwnedSemaphorePermit) -> Self {
        gauge.increment(1.0);
        Self { gauge, _permit: permit }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.gauge.decrement(1.0);
    }
}

/// When a connection last read or wrote. Clones share it.
#[derive(Clone)]
pub(super) struct Activity {
    began: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Activity {
    fn record(&self) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(ms, Ordering::Relaxed);
    }

    /// How long nothing was read or written.
    pub(super) fn idle(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.last_ms.load(Ordering::Relaxed)))
    }
}

/// The byte stream of an open connection.
pub(super) struct Connection<S> {
    stream: S,
    activity: Activity,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    _open: OpenConnection,
}

impl<S> Connection<S> {
    /// Reads and writes fail once `closing` is cancelled.
    pub(super) fn new(stream: S, open: OpenConnection, closing: &CancellationToken) -> Self {
        let activity = Activity { began: Instant::now(), last_ms: Arc::default() };
        // A child token for each connection: every read and write polls it, and with a shared token all connections
        // would contend for one lock.
        let closing = Box::pin(closing.child_token().cancelled_owned());
        Self { stream, activity, closing, _open: open }
    }

    pub(super) fn activity(&self) -> Activity {
        self.activity.clone()
    }

    /// Reads or writes, unless the listener has closed.
    fn exchange<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>>
    where
        S: Unpin,
    {
        if self.closing.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let polled = poll(Pin::new(&mut self.stream), cx);
        if polled.is_ready() {
            self.activity.record();
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.exchange(cx, |stream, cx| stream.poll_read(cx, buf))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.exchange(cx, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.exchange(cx, |stream, cx| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
