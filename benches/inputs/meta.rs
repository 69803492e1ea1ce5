//! A fake Meta that answers every message at once, on its own thread of the measured process. The fake Meta of
//! `loadtest` is a separate process, and also records arrivals.

use std::{
    future::ready,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{Router, routing::post};
use tokio::{net::TcpListener, runtime, sync::oneshot};

/// The fake Meta. It runs on its own thread, so that its allocations and instructions are not counted as the sender's.
pub struct InstantMeta {
    pub url: String,
    /// Resolves when all expected messages are answered.
    pub answered: oneshot::Receiver<()>,
    _thread: runtime::Runtime,
}

impl InstantMeta {
    pub fn start(expected: u64) -> Self {
        let thread = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = thread.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (all, answered) = oneshot::channel();
        let waiting = Arc::new((AtomicU64::new(0), Mutex::new(Some(all))));
        let answer = move || {
            let (n, all) = &*waiting;
            if n.fetch_add(1, Ordering::Relaxed) + 1 == expected {
                let all = all.lock().expect("no panic").take().expect("no further message");
                all.send(()).expect("it is waited for");
            }
            ready(include_str!("../../tests/fixtures/answers/accepted.json"))
        };
        let router = Router::new().route("/{version}/{line}/messages", post(answer));
        thread.spawn(async move { axum::serve(listener, router).await });
        Self { url, answered, _thread: thread }
    }
}
