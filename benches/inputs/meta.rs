//! A fake Meta that answers every message at once, on a thread of the measured process. The fake Meta of `loadtest`
//! is a process of its own and also records arrivals.

use std::{
    future::ready,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{Router, routing::post};
use tokio::{net::TcpListener, runtime, sync::oneshot};

/// It works on a thread of its own, so that what it takes is not counted to whoever sends.
pub struct InstantMeta {
    pub url: String,
    /// Comes when all that were expected are answered.
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
